"""Prometheus metrics: counted in plain dictionaries while calls end, rendered when scraped.

``prometheus_client`` takes several microseconds for each labelled increment, so it only renders.
Labels are bounded: past ``MAX_VALUES`` distinct values of a label, and past ``MAX_SERIES`` series
of a family, the rest is counted as ``other``. Nothing is lost from the sums.
"""

import platform
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

import tocsin
from tocsin.core.interaction import SPAN_OPERATIONS, Attempt, Interaction

MAX_VALUES = 200
MAX_SERIES = 5_000
OTHER = "other"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BUCKETS_S = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
    *(5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
_BUCKETS_US = tuple(int(seconds * 1_000_000) for seconds in _BUCKETS_S)
_FREE = SPAN_OPERATIONS | {"models", "count_tokens", "other"}

Labels = tuple[str, ...]
Gauge = Callable[[], float]
Gauges = Callable[[], Iterable[tuple[Labels, float]]]


class _Names:
    """The distinct values of one label, bounded."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}

    def bound(self, value: str | None) -> str:
        """The value, or ``other`` once there are too many; an absent one is empty."""
        if not value:
            return ""
        known = self._seen.get(value)
        if known is not None:
            return known
        if len(self._seen) >= MAX_VALUES:
            return OTHER
        shown = value[:200]
        self._seen[value] = shown
        return shown


class _Counter:
    """A family of counters."""

    __slots__ = ("help", "labels", "name", "series")

    def __init__(self, name: str, help_: str, *labels: str) -> None:
        self.name = name
        self.help = help_
        self.labels = labels
        self.series: dict[Labels, int] = {}

    def add(self, labels: Labels, amount: int = 1) -> None:
        series = self.series
        if labels in series:
            series[labels] += amount
            return
        if len(series) >= MAX_SERIES:
            labels = (OTHER,) * len(labels)
        series[labels] = series.get(labels, 0) + amount


class _Histogram:
    """A family of histograms of durations in microseconds."""

    __slots__ = ("help", "labels", "name", "series")

    def __init__(self, name: str, help_: str, *labels: str) -> None:
        self.name = name
        self.help = help_
        self.labels = labels
        self.series: dict[Labels, list[int]] = {}
        """Labels → counts per bucket, then the count above all buckets, then the sum."""

    def observe(self, labels: Labels, value: int) -> None:
        counts = self.series.get(labels)
        if counts is None:
            if len(self.series) >= MAX_SERIES:
                labels = (OTHER,) * len(labels)
            counts = self.series.setdefault(labels, [0] * (len(_BUCKETS_US) + 2))
        counts[bisect_left(_BUCKETS_US, value)] += 1
        counts[-1] += value


class Metrics:
    """Counts every interaction that ends in this process. ``observe`` runs on one thread."""

    def __init__(self) -> None:
        self._features = _Names()
        self._upstreams = _Names()
        self._models = _Names()
        self._policies = _Names()
        self._gauges: list[tuple[str, str, Gauge]] = []
        self._families: list[tuple[str, str, Labels, Gauges]] = []
        self._calls = _Counter(
            "tocsin_calls",
            "Calls that ended, by how they ended.",
            *("feature", "upstream", "outcome", "operation"),
        )
        self._tokens = _Counter("tocsin_tokens", "Tokens used.", "feature", "model", "type")
        self._cost = _Counter("tocsin_cost_usd", "Known cost in US dollars.", "feature", "model")
        self._unpriced = _Counter(
            "tocsin_unpriced_calls", "Calls whose cost is unknown.", "feature", "model"
        )
        self._attempts = _Counter(
            "tocsin_attempts", "Round trips to upstreams.", "upstream", "result", "reason"
        )
        self._fallbacks = _Counter(
            "tocsin_fallbacks", "Calls answered by a fallback upstream.", "feature"
        )
        self._decisions = _Counter(
            "tocsin_policy_decisions", "What policies did.", "policy", "mode", "action"
        )
        self._duration = _Histogram(
            "tocsin_call_duration_seconds", "From request to last byte.", "feature"
        )
        self._first_chunk = _Histogram(
            "tocsin_first_chunk_seconds", "From request to first output.", "feature"
        )

    def gauge(self, name: str, help_: str, read: Gauge) -> None:
        """Add a gauge that is read when scraped; one that raises is left out of that scrape."""
        self._gauges.append((name, help_, read))

    def gauges(self, name: str, help_: str, labels: Labels, read: Gauges) -> None:
        """Add a family of gauges that is read when scraped, in a thread: it may ask the store."""
        self._families.append((name, help_, labels, read))

    def bound_feature(self, feature: str) -> str:
        """A feature's name as a label: ``other`` once there are too many."""
        return self._features.bound(feature)

    def observe(self, interaction: Interaction) -> None:
        """Count one finished call."""
        feature = self._features.bound(interaction.feature)
        model = self._models.bound(interaction.response_model or interaction.request_model)
        upstream = self._upstreams.bound(interaction.upstream)
        self._calls.add((feature, upstream, interaction.outcome, interaction.operation))
        self._duration.observe((feature,), interaction.duration_us)
        if interaction.first_chunk_us is not None:
            self._first_chunk.observe((feature,), interaction.first_chunk_us)
        self._count_usage(interaction, feature, model)
        attempts = interaction.attempts
        for attempt in attempts:
            name = self._upstreams.bound(attempt.upstream)
            self._attempts.add((name, _result(attempt), attempt.reason))
        if len(attempts) > 1 and attempts[-1].reason == "fallback" and not attempts[-1].error:
            self._fallbacks.add((feature,))
        for decision in interaction.decisions:
            policy = self._policies.bound(decision.policy)
            self._decisions.add((policy, decision.mode, decision.action))

    def _count_usage(self, interaction: Interaction, feature: str, model: str) -> None:
        usage = interaction.usage
        add = self._tokens.add
        if usage.input_tokens:
            add((feature, model, "input"), usage.input_tokens)
        if usage.output_tokens:
            add((feature, model, "output"), usage.output_tokens)
        if usage.cache_read_tokens:
            add((feature, model, "cache_read"), usage.cache_read_tokens)
        if usage.cache_write_tokens:
            add((feature, model, "cache_write"), usage.cache_write_tokens)
        if usage.reasoning_tokens:
            add((feature, model, "reasoning"), usage.reasoning_tokens)
        if interaction.cost_nano_usd is not None:
            self._cost.add((feature, model), interaction.cost_nano_usd)
        elif interaction.operation not in _FREE and (interaction.attempts or _told(interaction)):
            self._unpriced.add((feature, model))

    def render(self) -> bytes:
        """The Prometheus text exposition of everything counted so far."""
        # Imported here because it takes 40 ms and most processes are not scraped at start.
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

        registry = CollectorRegistry()
        registry.register(self)
        ProcessCollector(registry=registry)
        return bytes(generate_latest(registry))

    def collect(self) -> Iterator[Any]:
        """What ``prometheus_client`` asks of a collector."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for counter in (
            *(self._calls, self._tokens, self._unpriced),
            *(self._attempts, self._fallbacks, self._decisions),
        ):
            family = CounterMetricFamily(counter.name, counter.help, labels=counter.labels)
            for labels, value in list(counter.series.items()):
                family.add_metric(labels, value)
            yield family
        cost = CounterMetricFamily(self._cost.name, self._cost.help, labels=self._cost.labels)
        for labels, nano in list(self._cost.series.items()):
            cost.add_metric(labels, nano / 1_000_000_000)
        yield cost
        yield from self._histograms()
        for name, help_, read in self._gauges:
            try:
                reading = float(read())
            except Exception:  # noqa: S112 - one gauge that fails must not hide all the others
                continue
            yield GaugeMetricFamily(name, help_, value=reading)
        yield from self._labelled()
        build = GaugeMetricFamily(
            "tocsin_build_info", "Always 1.", labels=("version", "python_version")
        )
        build.add_metric((tocsin.__version__, platform.python_version()), 1)
        yield build

    def describe(self) -> Iterable[Any]:
        """Nothing: names are known at scrape time, and registering must not collect."""
        return ()

    def _labelled(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily

        for name, help_, labels, read in self._families:
            try:
                readings = list(islice(read(), MAX_SERIES))
            except Exception:  # noqa: S112 - as for the gauges without labels
                continue
            family = GaugeMetricFamily(name, help_, labels=labels)
            for values, reading in readings:
                family.add_metric([value[:200] for value in values], reading)
            yield family

    def _histograms(self) -> Iterator[Any]:
        from prometheus_client.core import HistogramMetricFamily

        for histogram in (self._duration, self._first_chunk):
            family = HistogramMetricFamily(histogram.name, histogram.help, labels=histogram.labels)
            for labels, counts in list(histogram.series.items()):
                total = 0
                buckets = []
                for edge, count in zip(_BUCKETS_S, counts, strict=False):
                    total += count
                    buckets.append((str(edge), total))
                buckets.append(("+Inf", total + counts[len(_BUCKETS_S)]))
                family.add_metric(labels, buckets, counts[-1] / 1_000_000)
            yield family


def _told(interaction: Interaction) -> bool:
    """Whether a trace told of this call: then its attempts are unknown, not absent."""
    return interaction.source in ("otlp", "import")


def _result(attempt: Attempt) -> str:
    """``ok``, ``http_4xx`` and the like, or ``failed`` where there was no answer."""
    status = attempt.status
    if status is None:
        return "failed" if attempt.error else "ok"
    if status < 400:
        return "failed" if attempt.error else "ok"
    return "http_429" if status == 429 else f"http_{status // 100}xx"


def routes(metrics: Metrics) -> list[BaseRoute]:
    """``/metrics``, to be put behind ``Access.guard``."""

    async def scrape(_request: Request) -> Response:
        body = await run_in_threadpool(metrics.render)
        return Response(body, media_type=CONTENT_TYPE, headers={"cache-control": "no-store"})

    return [Route("/metrics", scrape, methods=["GET"])]
