"""Overview: how are the features doing?"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import anyio
import msgspec
from markupsafe import Markup
from starlette.responses import Response

from tocsin.core.outcome import OUTCOMES
from tocsin.core.signals import OWN_FEATURES, Signal
from tocsin.dashboard import (
    attention,
    charts,
    features,
    filters,
    fmt,
    objectives,
    render,
    scales,
    series,
)
from tocsin.dashboard.features import Behaviour
from tocsin.dashboard.filters import Query
from tocsin.dashboard.objectives import Budget
from tocsin.dashboard.view import View
from tocsin.store.api import FeatureSummary, Overview, SpendBy, SpendRow

_ROWS = 12
"""Features shown before "all"."""


class FeatureRow(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the table of features."""

    summary: FeatureSummary
    bad: int
    spark: Markup
    bar: Markup
    words: tuple[tuple[str, str, str], ...]
    """Outcomes that are worth a word: (tone, text, link)."""


async def overview(view: View) -> Response:
    """The features over a time range, or one of them with ``?feature=``."""
    query = filters.parse(view.request.query_params, view.now, default_range="24h")
    found = await _found(view, query)
    data: Overview = found["data"]
    if not data.total.calls:
        return await _empty(view, query)
    if "range" not in view.request.query_params and _all_new(data, query, view.now):
        query = filters.parse(view.request.query_params, view.now, default_range="1h")
        found = await _found(view, query)
        data = found["data"]
    everything = view.request.query_params.get("all") == "1"
    context = await view.read(_context, data, query, everything)
    behaviour = _shown(found["behaviour"], data, everything)
    if query.get("feature"):
        context["slices"] = await view.read(_slices, view, query)
    return await view.page(
        "overview.html",
        section="overview",
        query=query,
        **context,
        attention=found["attention"],
        behaviour=behaviour,
        judged=any(line.judged for line in behaviour.lines),
        budgets=_by_feature(found["budgets"]),
        summaries={f.feature: f for f in data.features},
    )


async def _found(view: View, query: Query) -> dict[str, Any]:
    """Everything that the page reads, at the same time: each part waits for a database."""
    deps = view.deps
    catalogue = deps.catalogue()
    work: dict[str, Callable[[], Any]] = {
        "data": partial(deps.store.overview, query.where),
        "behaviour": partial(features.behaviour_of, deps.store, query, view.now, catalogue),
        "attention": partial(attention.attention, deps.store),
        "budgets": partial(_budgets, view, query, catalogue),
    }
    found: dict[str, Any] = {}

    async def one(name: str, load: Callable[[], Any]) -> None:
        try:
            found[name] = await view.read(load)
        except Exception as error:
            found[name] = error

    async with anyio.create_task_group() as group:
        for name, load in work.items():
            group.start_soon(one, name, load)
    for value in found.values():
        if isinstance(value, Exception):
            raise value
    return found


def _budgets(view: View, query: Query, catalogue: Mapping[str, Signal]) -> list[Budget]:
    chosen = query.get("feature")
    wanted = [o for o in view.deps.objectives() if not chosen or o.feature == chosen]
    return objectives.budgets(view.deps.store, wanted, catalogue, view.now)


def _by_feature(budgets: Sequence[Budget]) -> dict[str, list[Budget]]:
    found: dict[str, list[Budget]] = {}
    for budget in budgets:
        found.setdefault(budget.standing.feature, []).append(budget)
    return found


def _shown(found: Behaviour, data: Overview, everything: bool) -> Behaviour:
    """A line for every feature with calls, the first dozen of them unless all are asked for."""
    known = {line.feature for line in found.lines}
    bare = [
        features.bare_line(f.feature, found)
        for f in sorted(data.features, key=lambda f: -f.calls)
        if f.feature not in known and not f.feature.startswith(OWN_FEATURES)
    ]
    lines = (*found.lines, *bare) if not found.dropped else ()
    return msgspec.structs.replace(found, lines=lines if everything else lines[:_ROWS])


def _all_new(data: Overview, query: Query, now: int) -> bool:
    """Whether nothing is older than an hour, so that a day would be drawn mostly empty."""
    first = next((bucket.at for bucket in data.total.series if bucket.calls), now)
    return query.range == "24h" and first > now - filters.HOUR


def _context(data: Overview, query: Query, everything: bool) -> dict[str, Any]:
    axis = scales.time_axis(data.since, data.until, data.bucket_us)
    buckets = series.on(axis, data.total.series)
    drawn = [
        series.calls_chart(axis, buckets, query),
        series.latency_chart(axis, buckets, query, first_chunk=True),
        series.latency_chart(axis, buckets, query, first_chunk=False),
        series.spend_chart(axis, buckets, query),
    ]
    features = sorted(data.features, key=lambda f: -f.calls)
    shown = features if everything else features[:_ROWS]
    return {
        "data": data,
        "bad": bad_calls(data.total),
        "answer": _answer(data, features),
        "charts": [chart for chart in drawn if chart is not None],
        "rows": [_row(axis, feature, query) for feature in shown],
        "first_chunks": sum(f.calls for f in features if f.first_chunk_p50_us is not None),
        "timed": sum(f.calls for f in features if f.duration_p50_us is not None),
        "hidden": len(features) - len(shown),
        "slices": [],
    }


def bad_calls(feature: FeatureSummary) -> int:
    """Calls that ended neither complete nor truncated."""
    return sum(feature.outcomes.get(outcome, 0) for outcome in filters.BAD_OUTCOMES)


def _answer(data: Overview, features: list[FeatureSummary]) -> str:
    """The page's question answered in a sentence, from counts alone."""
    total, bad = data.total, bad_calls(data.total)
    calls = fmt.plural(total.calls, "call")
    if not bad:
        return f"All {calls} ended well." if total.calls > 1 else "The one call ended well."
    share = fmt.percent(bad, total.calls)
    head = f"{fmt.count(bad)} of {calls} ended badly ({share})."
    if len(features) < 2:
        return head
    worst = max(features, key=bad_calls)
    return (
        f"{head} Most of them in {fmt.one_line(worst.feature, 60)}: "
        f"{fmt.count(bad_calls(worst))} of {fmt.count(worst.calls)}."
    )


def _row(axis: scales.Axis, feature: FeatureSummary, query: Query) -> FeatureRow:
    counts = [(o, feature.outcomes.get(o, 0)) for o in OUTCOMES if feature.outcomes.get(o)]
    words = [
        (
            render.tone(outcome),
            f"{fmt.count(number)} {outcome}",
            query.link("/calls", feature=feature.feature, outcome=outcome),
        )
        for outcome, number in counts
        if outcome != "complete"
    ]
    parts = [(outcome, float(number), render.tone(outcome)) for outcome, number in counts]
    said = ", ".join(f"{outcome} {fmt.percent(n, feature.calls)}" for outcome, n, _ in parts)
    return FeatureRow(
        summary=feature,
        bad=bad_calls(feature),
        spark=series.feature_spark(axis, feature),
        bar=charts.share_bar(parts, said),
        words=tuple(sorted(words, key=lambda w: w[0])),
    )


def _slices(view: View, query: Query) -> list[tuple[SpendBy, str, tuple[SpendRow, ...]]]:
    """One feature's calls by model and by release; a slice that all calls share says nothing."""
    wanted: tuple[tuple[SpendBy, str], ...] = (("release", "Release"), ("model", "Model"))
    found = [
        (by, title, view.deps.store.spend(query.where, by, buckets=1, top=12).rows)
        for by, title in wanted
    ]
    return [(by, title, rows) for by, title, rows in found if len(rows) > 1 or by == "model"]


async def _empty(view: View, query: Query) -> Response:
    """No calls in the range: say where there are some, or how to make the first."""
    stats = await view.read(view.deps.store.stats)
    newest = stats.newest_at
    elsewhere = None
    if newest is not None:
        span = (query.until or view.now) - (query.since or 0)
        span = min(span, 30 * 24 * filters.HOUR)
        elsewhere = filters.build(
            "/",
            {
                **dict(query.fields),
                "since": fmt.iso(newest - span),
                "until": fmt.iso(newest + 1_000_000),
            },
        )
    return await view.page(
        "overview_empty.html",
        section="overview",
        query=query,
        attention=await view.read(attention.attention, view.deps.store),
        newest=newest,
        elsewhere=elsewhere,
    )
