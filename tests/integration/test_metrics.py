"""Metrics are right, bounded and quick."""

import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from adminkit import entry, running
from tocsin.core.interaction import Attempt, Decision, Interaction, Usage
from tocsin.gateway.metrics import MAX_VALUES, Metrics


def interaction(**changes: object) -> Interaction:
    return entry(1, started_at=1, **changes).interaction


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((name, tuple(sorted(labels.items()))))


def test_a_call_is_counted_with_its_tokens_cost_and_time() -> None:
    metrics = Metrics()
    usage = Usage(input_tokens=100, output_tokens=20, cache_read_tokens=60, reasoning_tokens=7)
    for _ in range(3):
        metrics.observe(interaction(usage=usage, duration_us=300_000, first_chunk_us=40_000))
    labels = {"feature": "support", "model": "gpt-4o-mini"}
    assert (
        value(
            metrics,
            "tocsin_calls_total",
            feature="support",
            upstream="openai",
            outcome="complete",
            operation="chat",
        )
        == 3
    )
    assert value(metrics, "tocsin_cost_usd_total", **labels) == pytest.approx(0.0126)
    for kind, count in (("input", 300), ("output", 60), ("cache_read", 180), ("reasoning", 21)):
        assert value(metrics, "tocsin_tokens_total", type=kind, **labels) == count
    histogram = "tocsin_call_duration_seconds"
    assert value(metrics, f"{histogram}_bucket", feature="support", le="0.25") == 0
    assert value(metrics, f"{histogram}_bucket", feature="support", le="0.5") == 3
    assert value(metrics, f"{histogram}_bucket", feature="support", le="+Inf") == 3
    assert value(metrics, f"{histogram}_sum", feature="support") == pytest.approx(0.9)
    assert value(metrics, "tocsin_first_chunk_seconds_bucket", feature="support", le="0.05") == 3


def test_an_unknown_price_is_counted_and_never_a_cost() -> None:
    metrics = Metrics()
    metrics.observe(interaction(cost_nano_usd=None))
    metrics.observe(interaction(cost_nano_usd=None, operation="models"))
    metrics.observe(interaction(cost_nano_usd=None, outcome="denied", attempts=()))
    labels = {"feature": "support", "model": "gpt-4o-mini"}
    assert value(metrics, "tocsin_unpriced_calls_total", **labels) == 1
    assert value(metrics, "tocsin_cost_usd_total", **labels) is None


def test_attempts_fallbacks_and_decisions_are_counted() -> None:
    metrics = Metrics()

    def attempt(number: int, upstream: str, reason: str, **more: object) -> Attempt:
        return Attempt(
            number=number,
            upstream=upstream,
            provider="openai",
            model="m",
            started_at=1,
            duration_us=1,
            reason=reason,
            **more,  # type: ignore[arg-type]
        )

    metrics.observe(
        interaction(
            attempts=(
                attempt(1, "a", "first", status=429, error="rate_limit: slow down"),
                attempt(2, "a", "retry", error="ConnectFailed: refused"),
                attempt(3, "b", "fallback", status=200),
            ),
            decisions=(Decision(policy="identity", mode="enforce", action="modify"),),
        )
    )
    count = "tocsin_attempts_total"
    assert value(metrics, count, upstream="a", result="http_429", reason="first") == 1
    assert value(metrics, count, upstream="a", result="failed", reason="retry") == 1
    assert value(metrics, count, upstream="b", result="ok", reason="fallback") == 1
    assert value(metrics, "tocsin_fallbacks_total", feature="support") == 1
    assert (
        value(
            metrics,
            "tocsin_policy_decisions_total",
            policy="identity",
            mode="enforce",
            action="modify",
        )
        == 1
    )


def test_callers_who_make_names_up_cannot_make_series_without_end() -> None:
    metrics = Metrics()
    for n in range(MAX_VALUES * 5):
        metrics.observe(interaction(feature=f"f{n}", request_model=f"m{n}", upstream=f"u{n}"))
    found = samples(metrics)
    calls = {
        labels: count for (name, labels), count in found.items() if name == "tocsin_calls_total"
    }
    assert len(calls) == MAX_VALUES + 1
    assert sum(calls.values()) == MAX_VALUES * 5
    other = dict(next(labels for labels in calls if ("feature", "other") in labels))
    assert (other["feature"], other["upstream"]) == ("other", "other")
    assert calls[tuple(sorted(other.items()))] == MAX_VALUES * 4


def test_hostile_names_stay_inside_their_quotes() -> None:
    metrics = Metrics()
    name = 'a"} 1\ntocsin_evil_total{x="\\'
    metrics.observe(interaction(feature=name))
    found = samples(metrics)
    assert "tocsin_evil_total" not in {name for name, _ in found}
    assert any(("feature", name) in labels for _, labels in found)


def test_a_gauge_that_fails_hides_no_other() -> None:
    metrics = Metrics()

    def broken() -> float:
        raise OSError("gone")

    metrics.gauge("tocsin_writer_queue_entries", "Waiting.", lambda: 7)
    metrics.gauge("tocsin_store_bytes", "Size.", broken)
    assert value(metrics, "tocsin_writer_queue_entries") == 7
    assert value(metrics, "tocsin_store_bytes") is None
    assert any(name == "tocsin_build_info" for name, _ in samples(metrics))
    assert any(name == "process_resident_memory_bytes" for name, _ in samples(metrics))


def test_counting_a_call_takes_a_few_microseconds() -> None:
    metrics = Metrics()
    usual = interaction(usage=Usage(input_tokens=1, output_tokens=1), first_chunk_us=1)
    best = 1.0
    for _ in range(5):
        started = time.process_time()
        for _ in range(2000):
            metrics.observe(usual)
        best = min(best, (time.process_time() - started) / 2000)
    # 3 µs on an idle core; the margin is for machines that are slower, not for the code.
    assert best < 20e-6


def test_the_exposition_is_served_as_prometheus_reads_it(tmp_path: Path) -> None:
    with running(tmp_path, open_metrics=True) as site:
        site.metrics.observe(interaction())
        reply = site.request("GET", "/metrics")
        assert reply.status == 200
        assert (reply.header("content-type") or "").startswith("text/plain; version=0.0.4")
        assert b'tocsin_calls_total{feature="support"' in reply.body
