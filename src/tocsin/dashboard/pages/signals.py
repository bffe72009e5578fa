"""Signals of a feature, and one signal: its value now and before, for whom, and examples."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from markupsafe import Markup
from starlette.responses import RedirectResponse, Response

from tocsin.core.domain import Alert
from tocsin.core.errors import InputError, NotFound
from tocsin.core.ratios import FEWEST_SUCCESSES, RatioSum, read_for
from tocsin.core.signals import DIMENSIONS, JUDGED_AXES, UNJUDGED, Axis, Signal, Sum
from tocsin.dashboard import (
    attention,
    behaviour,
    examples,
    features,
    filters,
    fmt,
    judges,
    measures,
    places,
    render,
    signal_charts,
    signal_texts,
    slices,
)
from tocsin.dashboard.behaviour import Measured, Span
from tocsin.dashboard.filters import Query
from tocsin.dashboard.judges import Judge
from tocsin.dashboard.signal_charts import Mark
from tocsin.dashboard.slices import Dimension
from tocsin.dashboard.view import View
from tocsin.store.api import AuditRow, BaselineRow, SignalPoint, Store

_AXES: tuple[Axis, ...] = ("correct", "grounded", "appropriate", "consistent", "service")
_RANGE = "7d"
_LONGEST_NOTE = 500
_ALERTS = 1000


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One signal in the table of a feature."""

    measured: Measured
    href: str
    spark: Markup
    since: int | None


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The signals of one axis: the axis itself first, then what changed most."""

    axis: str
    title: str
    rows: tuple[Row, ...]


async def feature(view: View) -> Response:
    """All signals of a feature, by axis."""
    query = filters.parse(view.request.query_params, view.now, default_range=_RANGE)
    name = places.read_name(view.request.path_params["feature"])
    context = await view.read(_feature, view, query, name)
    return await view.page("signals.html", section="overview", query=query, **context)


def _feature(view: View, query: Query, name: str) -> dict[str, Any]:
    store, catalogue = view.deps.store, view.deps.catalogue()
    span, after, before = behaviour.read(store, query, view.now, feature=name)
    now, old = after.get(name, {}), before.get(name, {})
    alerts = behaviour.alerts_of(store).get(name, [])
    series = _series(store, span, name)
    accepted = behaviour.accepted_rows(store)
    groups = []

    def told(names: Sequence[str]) -> dict[str, Measured]:
        return behaviour.measured(store, span, name, names, catalogue, now, old, accepted)

    axes = told(JUDGED_AXES)
    for axis in _AXES:
        own = told([s.name for s in catalogue.values() if s.axis == axis and s.name not in axes])
        found = [*(m for m in axes.values() if m.signal.axis == axis), *own.values()]
        if found:
            rows = [_row(span, query, name, m, series, alerts) for m in found]
            ordered = tuple(sorted(rows, key=_telling))
            groups.append(Group(axis=axis, title=measures.AXIS_TITLES[axis], rows=ordered))
    seen = {row.measured.signal.name for group in groups for row in group.rows}
    return {
        "feature": name,
        "span": span,
        "groups": groups,
        "silent": [s for s in catalogue.values() if s.name not in seen],
        "attention": attention.about(store, name),
        "answer": _feature_answer(groups, span, query),
        "path": f"/signals/{places.named(name)}",
        "elsewhere": None if groups else _elsewhere(store, view.now, name),
        "judges": judges.judges_of(store, name, _judging(view, now)),
        "known": bool(groups) or _known(store, name),
    }


def _judging(view: View, values: Mapping[str, Sum]) -> dict[str, int]:
    """The judges that have said anything."""
    return {name: least for name, least in view.deps.judges().items() if name in values}


def _series(store: Store, span: Span, name: str) -> dict[str, list[SignalPoint]]:
    found: dict[str, list[SignalPoint]] = {}
    for point in store.signal_points(
        grain=span.grain, since=span.since, until=span.until, feature=name
    ):
        found.setdefault(point.signal, []).append(point)
    return found


def _row(
    span: Span,
    query: Query,
    name: str,
    found: Measured,
    series: Mapping[str, Sequence[SignalPoint]],
    alerts: Sequence[Alert],
) -> Row:
    return Row(
        measured=found,
        href=places.signal(query, name, found.signal.name),
        spark=features.spark(span, found.signal, found, series.get(found.signal.name, [])),
        since=features.since_of(alerts, {found.signal.name}),
    )


def _telling(row: Row) -> tuple[bool, bool, float, str]:
    found = row.measured
    axis = found.signal.name in JUDGED_AXES
    return (not axis, not found.changed, -found.size, found.signal.title)


def _feature_answer(groups: Sequence[Group], span: Span, query: Query) -> str:
    rows = [row.measured for group in groups for row in group.rows]
    if not rows:
        return f"Nothing was judged in {query.spoken}."
    head = f"{fmt.plural(len(rows), 'signal')} in {query.spoken}"
    if span.before is None:
        return f"{head}. Nothing was judged before it, so there is no baseline yet."
    worse = sorted((m for m in rows if m.verdict == "worse"), key=lambda m: -m.size)
    counts = [
        f"{sum(m.verdict == word for m in rows)} {word}"
        for word in ("worse", "better", "different")
        if any(m.verdict == word for m in rows)
    ]
    said = ", ".join(counts) if counts else "none differs"
    tail = f" Most of all {measures.inside(worst_name(worse))}." if worse else ""
    return f"{head}: {said} against {span.said}.{tail}"


def worst_name(worse: Sequence[Measured]) -> str:
    """The title of what got worse most."""
    return worse[0].signal.title


def _known(store: Store, name: str) -> bool:
    return bool(store.interactions(filters.feature_filter(name), limit=1).rows)


def _elsewhere(store: Store, now: int, name: str) -> bool:
    """Whether it was judged at another time."""
    return bool(store.signal_totals(since=0, until=now + filters.HOUR, feature=name))


# -- one signal --


async def signal(view: View) -> Response:
    """One signal of a feature, whole or in one slice."""
    query, context = await _read_signal(view)
    return await view.page("signal.html", section="overview", query=query, **context)


async def signal_json(view: View) -> Response:
    """The same as JSON."""
    _, context = await _read_signal(view)
    return render.respond(await view.read(signal_texts.as_json, context), "application/json")


async def signal_markdown(view: View) -> Response:
    """The same as Markdown."""
    _, context = await _read_signal(view)
    text = await view.read(signal_texts.as_markdown, context)
    return render.respond(text, "text/plain; charset=utf-8")


async def _read_signal(view: View) -> tuple[Query, dict[str, Any]]:
    params = view.request.query_params
    query = filters.parse(params, view.now, default_range=_RANGE)
    where = read_slice(params.get("slice") or "")
    name, found = _named(view)
    return query, await view.read(_signal, view, query, name, found, where)


def _named(view: View) -> tuple[str, Signal]:
    """The feature and the signal of the address. Raises ``NotFound``."""
    params = view.request.path_params
    name, asked = places.read_name(params["feature"]), places.read_name(params["signal"])
    found = view.deps.catalogue().get(asked)
    if found is None:
        raise NotFound(
            f"There is no signal {fmt.one_line(asked, 60)}. The feature's page lists those that "
            "were judged; `tocsin signals --list` names all."
        )
    return name, found


def read_slice(text: str) -> tuple[str, str] | None:
    """``release=2026-03`` → dimension and value; ``None`` for nothing. Raises ``InputError``."""
    if not text:
        return None
    dimension, _, value = text.partition("=")
    if dimension not in DIMENSIONS or not value:
        raise InputError(f"“slice” must be DIMENSION=VALUE, with one of {', '.join(DIMENSIONS)}.")
    return dimension, value[:120]


def _signal(
    view: View, query: Query, name: str, wanted: Signal, where: tuple[str, str] | None
) -> dict[str, Any]:
    store, catalogue = view.deps.store, view.deps.catalogue()
    accepted = behaviour.accepted_rows(store)
    span, after, before = behaviour.read(store, query, view.now, feature=name, where=where)
    family, now, old = (
        behaviour.family(catalogue, wanted.name),
        after.get(name, {}),
        before.get(name, {}),
    )
    told = behaviour.measured(store, span, name, family, catalogue, now, old, accepted)
    judge = judges.judges_of(store, name, _only(view, wanted.name)).get(wanted.name)
    measure = judge is None or judge.shown
    found = told.get(wanted.name) if measure else None
    found = found or _nothing(wanted)
    alert = alert_on(store, name, wanted.name)
    dimensions = _dimensions(store, span, name, found) if where is None else []
    single = catalogue.get(read_for(wanted.name)[0], wanted)
    return {
        "feature": name,
        "signal": wanted,
        "m": found,
        "span": span,
        "where": where,
        "slice_code": "" if where is None else f"{where[0]}={where[1]}",
        "alert": alert,
        "earlier": _earlier(view, query, name, wanted, alert),
        "charts": _charts(store, span, query, name, found, where, alert) if measure else [],
        "dimensions": dimensions,
        "carriers": slices.carriers(dimensions),
        "shown": examples.show(
            store,
            single,
            name,
            span,
            where,
            alert if where is None else None,
        ),
        "single": single,
        "path": places.signal_fixed(name, wanted.name),
        "accepted": accepted.get((name, wanted.name)),
        "accept_since": _accept_since(span, alert),
        "answer": signal_answer(found, span, query) if measure else _capital(judge),
        "judge": judge,
    }


def _dimensions(store: Store, span: Span, name: str, found: Measured) -> list[Dimension]:
    if not found.now.n:
        return []
    return slices.dimensions(store, span, name, found.signal, changed=found.changed)


def _only(view: View, name: str) -> dict[str, int]:
    least = view.deps.judges().get(name)
    return {} if least is None else {name: least}


def _earlier(view: View, query: Query, name: str, wanted: Signal, alert: Alert | None) -> str:
    """Where a change that began before the range is seen; empty when it is seen here."""
    if alert is None or alert.change is None:
        return ""
    changes = places.covering(query, alert.change.since, view.now)
    return places.signal(query, name, wanted.name, **changes) if changes else ""


def _capital(judge: Judge | None) -> str:
    said = judge.said if judge is not None else ""
    return f"{said[:1].upper()}{said[1:]}."


def _nothing(wanted: Signal) -> Measured:
    return Measured(signal=wanted, now=Sum(), before=Sum(), value=None, comparison=None)


def alert_on(store: Store, feature: str, signal: str) -> Alert | None:
    """The alert on a signal that says most now: a firing one, else the last one.

    One on how much of it cannot be judged counts where there is none on the signal itself.
    """
    names = (signal, f"{UNJUDGED}{signal}")
    found = [
        row.alert
        for row in store.alerts(limit=_ALERTS)
        if row.alert.feature == feature and row.alert.signal in names
    ]
    found.sort(key=lambda a: (a.state != "firing", a.signal != signal, a.change is None, -a.at))
    return found[0] if found else None


def signal_answer(found: Measured, span: Span, query: Query) -> str:
    """What the signal says, in a sentence or two."""
    if found.value is None:
        if isinstance(found.now, RatioSum) and found.now.tasks:
            return _no_ratio(found.now, query)
        told = f"Nothing was judged in {query.spoken}."
        if found.now.unjudged:
            told += f" {fmt.plural(found.now.unjudged, 'call')} could not be."
        return told
    head = (
        f"{measures.value(found.signal, found.value.value)} "
        f"(95 % interval {measures.interval(found.signal, found.value)}) of "
        f"{fmt.plural(found.now.n, measures.counted(found.signal))} in {query.spoken}"
    )
    comparison = found.comparison
    if comparison is None:
        return head + "."
    if comparison.before is None:
        return f"{head}; too few in {span.said}: {measures.verdict(comparison)}."
    return (
        f"{head}; {measures.value(found.signal, comparison.before.value)} in {span.said}: "
        f"{measures.difference(found.signal, comparison)}, {measures.verdict(comparison)}."
    )


def _no_ratio(values: RatioSum, query: Query) -> str:
    """Why labelled tasks have no cost for each success that could be named."""
    told = f"Unknown in {query.spoken}: {fmt.plural(values.tasks, 'labelled task')}, of which "
    return f"{told}{values.n or 'none'} succeeded; {FEWEST_SUCCESSES} are needed."


def _charts(
    store: Store,
    span: Span,
    query: Query,
    name: str,
    found: Measured,
    where: tuple[str, str] | None,
    alert: Alert | None,
) -> list[Markup]:
    points = features.points(store, span, name, found.signal.name, where)
    if not points:
        return []
    axis = signal_charts.axis_for(span.since, span.until, span.grain, found.now.n)
    steps = signal_charts.steps_on(axis, found.signal, [(p.at, p.sum) for p in points])
    if not any(step.n or step.unjudged for step in steps):
        return []  # tasks, of which none succeeded: nothing could be drawn
    marks = _releases(store, span, name, found.signal.name)
    if alert is not None and alert.change is not None and where is None:
        marks.append(Mark(at=alert.change.since, name="change began", css="change"))
    code = "" if where is None else f"{where[0]}={where[1]}"
    href = places.signal(query, name, found.signal.name, code)
    band = signal_charts.band_of(found.signal, found.before, steps)
    title = found.signal.title + (f", {found.signal.unit}" if found.signal.unit else "")
    return [
        signal_charts.series("series", title, found.signal, axis, steps, band, marks, href),
        signal_charts.judged(found.signal, axis, steps, href),
    ]


def _releases(store: Store, span: Span, feature: str, signal: str) -> list[Mark]:
    """When each release was first seen, of those that were not there before the range."""
    since = span.before[0] if span.before is not None else span.since
    first: dict[str, int] = {}
    for point in store.signal_points(
        grain="hour", since=since, until=span.until, feature=feature, signal=signal,
        dimension="release",
    ):  # fmt: skip
        first.setdefault(point.value, point.at)
    return [
        Mark(at=at, name=f"release {value}", css="release")
        for value, at in first.items()
        if span.since < at <= span.until and len(first) > 1
    ]


def _accept_since(span: Span, alert: Alert | None) -> int:
    """From when a level would be called normal: where it began to change, else the range."""
    if alert is not None and alert.change is not None:
        return alert.change.since
    return span.since


# -- a person's word --


async def accept(view: View) -> Response:
    """Call the level since a moment normal: what came before no longer counts."""
    form = await view.form()
    name, wanted = _named(view)
    since = _moment(form.get("since", ""), view.now)
    row = BaselineRow(
        feature=name,
        signal=wanted.name,
        since=since,
        by=view.principal.name or view.principal.key_id or "dashboard",
        at=view.now,
        note=form.get("note", "").strip()[:_LONGEST_NOTE],
    )
    await view.read(view.deps.store.accept_baseline, row)
    said = f"{name}: {wanted.name} normal since {fmt.iso(since)}"
    await _write_down(view, "baseline.accept", wanted.name, f"{said} {row.note}".strip())
    return _back(view, name, wanted)


async def forget(view: View) -> Response:
    """Take that word back."""
    await view.form()
    name, wanted = _named(view)
    gone = await view.read(view.deps.store.forget_baseline, name, wanted.name)
    if gone:
        await _write_down(view, "baseline.forget", wanted.name, f"{name}: {wanted.name}")
    return _back(view, name, wanted)


def _moment(text: str, now: int) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 < int(text[:18]) <= now:
        raise InputError("“since” must be a moment in the past. Open the signal's page again.")
    return int(text[:18])


async def _write_down(view: View, action: str, target: str, detail: str) -> None:
    row = AuditRow(
        at=view.now,
        actor=view.principal.key_id or view.principal.name,
        action=action,
        target=target,
        detail=detail,
    )
    await view.read(view.deps.store.record_audit, row)


def _back(view: View, name: str, wanted: Signal) -> Response:
    where = places.signal_fixed(name, wanted.name)
    return RedirectResponse(where, 303, dict(render.PAGE_HEADERS))
