"""Sentinels: prompts that are asked again and again, and how their answers differ from before."""

from typing import Any, Literal

import msgspec

from tocsin.core.signals import Estimate

PREFIX = "sentinel:"
"""How the feature begins under which a suite's calls are recorded. They are nobody's traffic: no
signal of a real feature counts them, and no detector of live traffic watches them."""

SUITE, PROMPT, RUN, FINGERPRINT = "sentinel", "sentinel_id", "sentinel_run", "system_fingerprint"
"""Attributes of a suite's calls: the suite, the prompt, the run, what the upstream says it runs."""


def feature_of(suite: str, upstream: str) -> str:
    """The feature of a suite's calls to one upstream."""
    return f"{PREFIX}{suite}:{upstream}"


class Prompt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a suite's file: a request, without who sent it."""

    id: str
    """Derived from the content: a prompt that was edited is another prompt."""
    path: str
    messages: list[Any]
    params: dict[str, Any] = {}
    call: str = ""
    """The recorded call that it was made from."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a suite against one upstream, scored."""

    run: str
    at: int
    """When it began, microseconds since the epoch."""
    values: dict[str, dict[str, float]]
    """Prompt → signal → value, where it could be judged."""
    words: dict[str, frozenset[str]] = {}
    """Prompt → the words of its answer."""
    calls: dict[str, str] = {}
    """Prompt → the call's id."""
    models: tuple[str, ...] = ()
    """What the upstream called itself (``response_model``), sorted."""
    fingerprints: tuple[str, ...] = ()
    """Its ``system_fingerprint``, where it gave one."""


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt whose answer changed."""

    prompt: str
    call_before: str
    call_after: str
    before: float
    """The signal's value, the mean of several runs."""
    after: float


class SignalDiff(msgspec.Struct, frozen=True, kw_only=True):
    """One signal over the prompts that both sides answered. Outer values."""

    signal: str
    title: str
    before: Estimate
    after: Estimate
    difference: Estimate
    """After minus before; for a ``log`` signal after over before."""
    pairs: int
    changed: int
    """Prompts whose value is not the same."""
    p_value: float | None
    """Adjusted for all signals compared (Holm); ``None``: not tested."""
    verdict: Literal["worse", "better", "different", "same", "underpowered", "untested"]
    needed: int = 0
    """More prompts before a small change would show; 0 when there are enough."""
    method: str = ""
    note: str = ""
    """Why it was not tested."""
    examples: tuple[Example, ...] = ()
    """Those that changed most, where the signal did."""


class SuiteDiff(msgspec.Struct, frozen=True, kw_only=True):
    """A run of a suite against one upstream, beside its own past."""

    suite: str
    upstream: str
    past: tuple[str, ...]
    """The runs that it is compared with."""
    run: str
    at: int
    pairs: int
    lost: int
    """Prompts that were asked in the past and not in this run."""
    signals: tuple[SignalDiff, ...]
    models_before: tuple[str, ...] = ()
    models_after: tuple[str, ...] = ()
    fingerprints_before: tuple[str, ...] = ()
    fingerprints_after: tuple[str, ...] = ()
    alpha: float = 0.05

    @property
    def changes(self) -> tuple[SignalDiff, ...]:
        """The signals that changed, the clearest first."""
        found = [s for s in self.signals if s.verdict in ("worse", "better", "different")]
        return tuple(sorted(found, key=lambda s: s.p_value or 0.0))

    @property
    def moved(self) -> bool:
        """Whether the upstream calls itself by another model's name than before."""
        return bool(
            self.models_before and self.models_after and self.models_before != self.models_after
        )


__all__ = [
    "FINGERPRINT",
    "PREFIX",
    "PROMPT",
    "RUN",
    "SUITE",
    "Asked",
    "Example",
    "Prompt",
    "SignalDiff",
    "SuiteDiff",
    "feature_of",
]
