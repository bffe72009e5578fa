"""The evaluator of how calls are served: told by their records alone."""

from tocsin.core.interaction import SPAN_OPERATIONS, Entry, Interaction
from tocsin.core.score import Score
from tocsin.core.signals import Signal
from tocsin.domains.signals.form import ANSWERING, Scores

_FAILED = frozenset({"error", "timeout"})
_REACHED = frozenset(
    {"complete", "truncated", "refused", "invalid", "unverified", "error", "timeout", "cancelled"}
)
"""Outcomes of calls that were sent to an upstream; denied ones never were."""
_US = 1_000_000.0
_NANO = 1_000_000_000.0
_FEWEST = 8
"""Output tokens from which a rate of them says something."""

SERVICE_SIGNALS: tuple[Signal, ...] = (
    Signal(
        name="failed",
        title="Failed",
        axis="service",
        kind="rate",
        better="down",
        description="The call ended with an error or a timeout; calls that were denied or left by "
        "their caller are not judged.",
    ),
    Signal(
        name="cancelled",
        title="Caller left",
        axis="appropriate",
        kind="rate",
        better="down",
        description="The caller left before the answer was complete.",
    ),
    Signal(
        name="retried",
        title="Retried",
        axis="service",
        kind="rate",
        better="down",
        description="The call took more than one attempt at one upstream.",
    ),
    Signal(
        name="fell_back",
        title="Fell back",
        axis="service",
        kind="rate",
        better="down",
        description="The call was sent to another upstream after the first one failed.",
    ),
    Signal(
        name="first_chunk_s",
        title="Time to first chunk",
        axis="service",
        kind="level",
        better="down",
        unit="s",
        log=True,
        scale=0.1,
        description="Seconds until the first chunk of a streamed answer.",
    ),
    Signal(
        name="duration_s",
        title="Duration",
        axis="service",
        kind="level",
        better="down",
        unit="s",
        log=True,
        scale=0.1,
        description="Seconds that a call took; failed and left calls are not judged.",
    ),
    Signal(
        name="output_rate",
        title="Output rate",
        axis="service",
        kind="level",
        better="up",
        unit="tokens/s",
        description="Output tokens a second, from the first chunk on where it is known; only for "
        "complete answers of 8 tokens or more.",
    ),
    Signal(
        name="cost_usd",
        title="Cost",
        axis="service",
        kind="level",
        better="down",
        unit="usd",
        log=True,
        scale=0.0001,
        description="What a call cost; calls of unknown price are not judged.",
    ),
    Signal(
        name="cached_share",
        title="Cached input",
        axis="service",
        kind="level",
        better="up",
        description="Share of the input tokens that the upstream read from its cache; only where "
        "it reports them.",
    ),
)


class ServiceEvaluator:
    """Reads the record; the content says nothing of service."""

    name = "service"
    version = "1"
    signals = SERVICE_SIGNALS

    def evaluate(self, entry: Entry) -> list[Score]:
        """Scores of a call to a model; steps that traces report have none."""
        call = entry.interaction
        if call.operation in SPAN_OPERATIONS or call.outcome not in _REACHED:
            return []
        out = Scores(call.id, self.version)
        out.add("cancelled", float(call.outcome == "cancelled"))
        if call.outcome != "cancelled":
            failed = call.outcome in _FAILED
            why = call.error_type or call.outcome if failed else ""
            out.add("failed", float(failed), label=why[:80] or None)
        if call.attempts:
            reasons = {attempt.reason for attempt in call.attempts}
            out.add("retried", float("retry" in reasons))
            out.add("fell_back", float("fallback" in reasons))
        if call.outcome not in _FAILED and call.outcome != "cancelled":
            _speed(out, call)
        if call.cost_nano_usd is not None:
            out.add("cost_usd", max(0, call.cost_nano_usd) / _NANO)
        usage = call.usage
        if (
            usage.cache_read_tokens is not None
            and usage.input_tokens
            and usage.source == "reported"
        ):
            share = usage.cache_read_tokens / usage.input_tokens
            out.add("cached_share", min(1.0, max(0.0, share)))
        return out.found


def _speed(out: Scores, call: Interaction) -> None:
    first = call.first_chunk_us
    if first is not None and first > 0 and call.stream:
        out.add("first_chunk_s", first / _US)
    if call.duration_us <= 0:
        return
    out.add("duration_s", call.duration_us / _US)
    tokens = call.usage.output_tokens
    if call.operation not in ANSWERING or tokens is None or tokens < _FEWEST:
        return
    began = first if call.stream and first is not None and 0 < first < call.duration_us else 0
    took = call.duration_us - began
    # An answer that came in one piece has no rate after its first chunk.
    if took * 20 < call.duration_us:
        took = call.duration_us
    out.add("output_rate", tokens / (took / _US))
