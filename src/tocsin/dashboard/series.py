"""Store series → charts: fills the steps without calls and says each chart in a sentence."""

from collections.abc import Sequence

from markupsafe import Markup

from tocsin.dashboard import charts, fmt, scales
from tocsin.dashboard.filters import Query
from tocsin.store.api import Bucket, FeatureSummary

_NO_CALLS = Bucket(
    at=0,
    calls=0,
    bad=0,
    cost_nano_usd=0,
    unpriced=0,
    input_tokens=0,
    output_tokens=0,
    first_chunk_p50_us=None,
    first_chunk_p95_us=None,
    duration_p50_us=None,
    duration_p95_us=None,
    duration_p99_us=None,
)


def on(axis: scales.Axis, series: Sequence[Bucket]) -> list[Bucket]:
    """One bucket for each step of the axis; a step that the store left out had no calls."""
    found = [_NO_CALLS] * axis.steps
    for bucket in series:
        i = min(axis.index(bucket.at), axis.steps - 1)
        if i >= 0:
            found[i] = bucket
    return found


def calls_chart(axis: scales.Axis, buckets: Sequence[Bucket], query: Query) -> Markup:
    """Calls over time, those that ended badly on top."""
    calls = [b.calls for b in buckets]
    bad = [b.bad for b in buckets]
    points = tuple(
        f"{fmt.plural(b.calls, 'call')}, {fmt.count(b.bad)} ended badly{axis.so_far(i)}"
        for i, b in enumerate(buckets)
    )
    figure = charts.Figure(
        id="calls",
        title=f"Calls per {step_name(axis)}",
        summary=f"{fmt.plural(sum(calls), 'call')}, {fmt.count(sum(bad))} ended badly; "
        f"at most {fmt.count(max(calls, default=0))} in one step.",
        axis=axis,
        scale=scales.counts(max(calls, default=0)),
        points=points,
        href=query.link("/calls"),
    )
    layers = [
        charts.Layer(
            name="ended well",
            values=tuple(c - b for c, b in zip(calls, bad, strict=True)),
            css="ok",
        ),
        charts.Layer(name="ended badly", values=tuple(map(float, bad)), css="act"),
    ]
    return charts.stacked_bars(figure, layers)


def latency_chart(
    axis: scales.Axis, buckets: Sequence[Bucket], query: Query, *, first_chunk: bool
) -> Markup | None:
    """p50 as a line, the room up to p95 as a band; ``None`` when nothing was measured."""
    if first_chunk:
        low = tuple(b.first_chunk_p50_us for b in buckets)
        high = tuple(b.first_chunk_p95_us for b in buckets)
    else:
        low = tuple(b.duration_p50_us for b in buckets)
        high = tuple(b.duration_p95_us for b in buckets)
    tops = [v for v in high if v is not None]
    if not tops:
        return None
    weights = tuple(b.calls for b in buckets)
    title = "Time to first chunk" if first_chunk else "Time to the end"
    thin = any(0 < w < charts.THIN for w in weights)
    figure = charts.Figure(
        id="first-chunk" if first_chunk else "duration",
        title=title,
        summary=f"{title}: the 95th percentile of a step lies between {fmt.duration(min(tops))} "
        f"and {fmt.duration(max(tops))}.",
        axis=axis,
        scale=scales.durations(max(tops)),
        points=tuple(
            f"p50 {fmt.duration(a)}, p95 {fmt.duration(b)}" if a is not None else "not measured"
            for a, b in zip(low, high, strict=True)
        ),
        href=query.link("/calls"),
        note=f"Dashed: fewer than {charts.THIN} calls in the step, too few for a p95."
        if thin
        else "",
    )
    return charts.line_with_band(figure, charts.Band(low=low, high=high, weights=weights))


def spend_chart(axis: scales.Axis, buckets: Sequence[Bucket], query: Query) -> Markup:
    """Spend over time."""
    cost = [b.cost_nano_usd for b in buckets]
    unpriced = sum(b.unpriced for b in buckets)
    left_out = f"{fmt.plural(unpriced, 'call')} without a known price left out" if unpriced else ""
    figure = charts.Figure(
        id="spend",
        title=f"Spend per {step_name(axis)}",
        summary=f"{fmt.money(sum(cost))} in all. {left_out}",
        axis=axis,
        scale=scales.nanos(max(cost, default=0)),
        points=tuple(
            fmt.spent(b.cost_nano_usd, b.calls, b.unpriced) + _unpriced(b.unpriced) + axis.so_far(i)
            for i, b in enumerate(buckets)
        ),
        href=query.link("/calls"),
        note=left_out + "." if left_out else "",
    )
    layers = [charts.Layer(name="spend", values=tuple(map(float, cost)), css="s1")]
    return charts.stacked_bars(figure, layers, label=False)


def _unpriced(calls: int) -> str:
    return f", {fmt.plural(calls, 'call')} unpriced" if calls else ""


def step_name(axis: scales.Axis) -> str:
    """The width of a step in words: ``24 min``."""
    text = fmt.duration(axis.step)
    return text.removeprefix("1 ")


def feature_spark(axis: scales.Axis, feature: FeatureSummary) -> Markup:
    """A feature's calls as a small chart."""
    buckets = on(axis, feature.series)
    calls = [b.calls for b in buckets]
    label = f"Calls over time, at most {fmt.count(max(calls, default=0))} in one step"
    return charts.sparkline(calls, label, [b.bad for b in buckets])
