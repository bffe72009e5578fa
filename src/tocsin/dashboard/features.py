"""Overview's table of behaviour: for each feature the four axes against their baseline."""

from collections.abc import Mapping, Sequence

import msgspec
from markupsafe import Markup

from tocsin.core.domain import Alert
from tocsin.core.signals import JUDGED_AXES, OWN_FEATURES, Signal
from tocsin.dashboard import behaviour, charts, fmt, measures, places, signal_charts
from tocsin.dashboard.behaviour import Measured, Span, Sums
from tocsin.dashboard.filters import Query
from tocsin.store.api import BaselineRow, SignalPoint, Store

_TONES = {"act": 0, "look": 1, "ok": 2, "quiet": 3}
_SPARK = 42
"""Steps of a small line at most."""
_SIDE = 2
"""Changed signals of the consistent axis that a row names."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One axis of one feature."""

    name: str
    title: str
    href: str
    value: str
    """Empty where nothing was judged."""
    interval: str = ""
    thin: bool = False
    """Whether there are too few calls to name a value: the interval stands in its place."""
    said: str = ""
    """The change and its verdict, or why there is none."""
    tone: str = "quiet"
    spark: Markup = Markup("")
    since: int | None = None
    """When the change began, where a detector says so."""
    changed: tuple[tuple[str, str], ...] = ()
    """Of the consistent axis: what changed most, as text and address."""
    more: int = 0


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One feature."""

    feature: str
    href: str
    cells: tuple[Cell, ...]
    judged: int
    """Calls that any axis could judge."""
    alerts: int
    tone: str
    """The gravest of its cells."""


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """What Overview knows of behaviour."""

    span: Span
    lines: tuple[Line, ...]
    answer: str
    """Which feature changed most, in a sentence; empty when none did."""
    titles: tuple[tuple[str, str], ...] = ()
    """The judged axes, name and title."""
    dropped: str = ""
    """Why there is nothing: filters that sums of signals cannot answer."""


def behaviour_of(
    store: Store,
    query: Query,
    now: int,
    catalogue: Mapping[str, Signal],
) -> Behaviour:
    """The table: every feature of which something was judged, what changed most first."""
    feature = query.get("feature") or None
    where, possible = behaviour.slice_filter(query)
    if not possible:
        span = behaviour.span_of(query, now, None)
        asked = ", ".join(name.replace("_", " ") for name, _ in query.fields if name != "feature")
        return Behaviour(span=span, lines=(), answer="", dropped=asked)
    span, after, before = behaviour.read(store, query, now, feature=feature, where=where)
    series = _series(store, span, feature, where)
    accepted = behaviour.accepted_rows(store)
    alerts = behaviour.alerts_of(store)
    made = [
        _line(store, span, query, catalogue, name, after, before, series, accepted, alerts, where)
        for name in after
        if name == feature or not name.startswith(OWN_FEATURES)
    ]
    made.sort(key=lambda one: (_TONES[one[0].tone], -one[0].alerts, -one[0].judged))
    lines = tuple(line for line, _ in made)
    return Behaviour(
        span=span,
        lines=lines,
        answer=_answer(span, query, made),
        titles=tuple((name, catalogue[name].title) for name in JUDGED_AXES if name in catalogue),
    )


def bare_line(feature: str, found: Behaviour) -> Line:
    """A feature with calls of which nothing was judged."""
    href = f"/signals/{places.named(feature)}"
    names = (*found.titles, ("consistent", "Consistent"))
    cells = tuple(
        Cell(name=name, title=title, href=href, value="", said="not judged")
        for name, title in names
    )
    return Line(feature=feature, href=href, cells=cells, judged=0, alerts=0, tone="quiet")


Series = dict[tuple[str, str], list[SignalPoint]]


def _series(store: Store, span: Span, feature: str | None, where: tuple[str, str] | None) -> Series:
    found: Series = {}
    for axis in JUDGED_AXES:
        for point in points(store, span, feature, axis, where):
            found.setdefault((point.feature, axis), []).append(point)
    return found


def points(
    store: Store,
    span: Span,
    feature: str | None,
    signal: str,
    where: tuple[str, str] | None,
) -> list[SignalPoint]:
    """The steps of a signal over a span; five minutes are kept of whole features alone."""
    grain = "hour" if where is not None and span.grain == "minutes" else span.grain
    return store.signal_points(
        grain=grain,
        since=span.since,
        until=span.until,
        feature=feature,
        signal=signal,
        dimension=where[0] if where else "",
        value=where[1] if where else None,
    )


def _line(
    store: Store,
    span: Span,
    query: Query,
    catalogue: Mapping[str, Signal],
    feature: str,
    after: Sums,
    before: Sums,
    series: Series,
    accepted: Mapping[tuple[str, str], BaselineRow],
    alerts: Mapping[str, Sequence[Alert]],
    where: tuple[str, str] | None,
) -> tuple[Line, list[Measured]]:
    now, old = after.get(feature, {}), before.get(feature, {})
    own = alerts.get(feature, ())

    def family(names: Sequence[str]) -> dict[str, Measured]:
        return behaviour.measured(store, span, feature, names, catalogue, now, old, accepted)

    axes = family(JUDGED_AXES)
    rest = family(_consistent(catalogue))
    cells = [
        _axis(span, query, feature, catalogue, name, axes.get(name), series, own)
        for name in JUDGED_AXES
        if name in catalogue
    ]
    cells.append(_consistency(store, span, query, feature, rest, own, where))
    tone = min((cell.tone for cell in cells), key=_TONES.__getitem__, default="quiet")
    line = Line(
        feature=feature,
        href=places.feature(query, feature),
        cells=tuple(cells),
        judged=max((m.now.n for m in axes.values()), default=0),
        alerts=len(own),
        tone="act" if own and tone != "act" and _grave(own) else tone,
    )
    return line, [*axes.values(), *rest.values()]


def _grave(alerts: Sequence[Alert]) -> bool:
    return any(alert.severity == "critical" for alert in alerts)


def _consistent(catalogue: Mapping[str, Signal]) -> tuple[str, ...]:
    return tuple(s.name for s in catalogue.values() if s.axis == "consistent")


def _axis(
    span: Span,
    query: Query,
    feature: str,
    catalogue: Mapping[str, Signal],
    name: str,
    found: Measured | None,
    series: Series,
    alerts: Sequence[Alert],
) -> Cell:
    signal = catalogue[name]
    since = since_of(alerts, _of_axis(catalogue, name))
    shown = places.covering(query, since, span.until)
    href = places.signal(query, feature, signal.name, **shown)
    if found is None or found.value is None:
        return Cell(name=signal.name, title=signal.title, href=href, value="", said="not judged")
    return Cell(
        name=signal.name,
        title=signal.title,
        href=href,
        value=measures.value(signal, found.value.value),
        interval=measures.interval(signal, found.value),
        thin=found.now.n < charts.THIN,
        said=said(found),
        tone=found.tone,
        spark=spark(span, signal, found, series.get((feature, signal.name), [])),
        since=since,
    )


def _of_axis(catalogue: Mapping[str, Signal], axis: str) -> set[str]:
    """An alert on any signal of an axis dates the axis."""
    return {s.name for s in catalogue.values() if s.axis == axis}


def said(found: Measured) -> str:
    """A change and its verdict in a cell: ``−61 points, worse``."""
    if found.comparison is None:
        return "normal since it was accepted" if found.accepted else "nothing to compare with"
    if found.changed:
        return f"{measures.difference(found.signal, found.comparison)}, {found.verdict}"
    return measures.verdict(found.comparison)


def spark(span: Span, signal: Signal, found: Measured, points: Sequence[SignalPoint]) -> Markup:
    axis = signal_charts.axis_for(span.since, span.until, span.grain, found.now.n, most=_SPARK)
    steps = signal_charts.steps_on(axis, signal, [(p.at, p.sum) for p in points])
    band = signal_charts.band_of(signal, found.before, steps)
    told = f"{signal.title} over time"
    if band is not None:
        told += f", baseline {measures.value(signal, band.value)}"
    return signal_charts.spark(signal, steps, band, told)


def _consistency(
    store: Store,
    span: Span,
    query: Query,
    feature: str,
    found: Mapping[str, Measured],
    alerts: Sequence[Alert],
    where: tuple[str, str] | None,
) -> Cell:
    """How many signals of the consistent axis differ from before, the largest named."""
    href = places.feature(query, feature) + "#consistent"
    compared = [m for m in found.values() if m.comparison is not None]
    if not compared:
        told = "nothing to compare with" if found else "not judged"
        return Cell(name="consistent", title="Consistent", href=href, value="", said=told)
    changed = sorted((m for m in compared if m.changed), key=lambda m: -m.size)
    thin = [m for m in compared if m.verdict == "underpowered"]
    value = f"{len(changed)} of {len(compared)} changed"
    cell = Cell(name="consistent", title="Consistent", href=href, value=value)
    if not changed:
        if len(thin) == len(compared):
            need = min(m.comparison.needed for m in thin if m.comparison is not None)
            told = f"underpowered: {fmt.count(need)} more needed"
            return msgspec.structs.replace(cell, value="", said=told)
        told = "no change seen" + (f", {len(thin)} underpowered" if thin else "")
        return msgspec.structs.replace(cell, said=told)
    first = changed[0]
    own = points(store, span, feature, first.signal.name, where)
    names = tuple(
        (
            f"{first_words(m.signal)} {measures.difference(m.signal, m.comparison)}",
            places.signal(query, feature, m.signal.name),
        )
        for m in changed[:_SIDE]
        if m.comparison is not None
    )
    return msgspec.structs.replace(
        cell,
        tone=_worst(changed),
        spark=spark(span, first.signal, first, own),
        changed=names,
        more=max(0, len(changed) - _SIDE),
        since=since_of(alerts, set(found)),
    )


def _worst(changed: Sequence[Measured]) -> str:
    return min((m.tone for m in changed), key=_TONES.__getitem__)


def first_words(signal: Signal) -> str:
    """A signal's title, short enough for a cell."""
    return fmt.one_line(signal.title, 26)


def since_of(alerts: Sequence[Alert], names: set[str]) -> int | None:
    found = [a.change.since for a in alerts if a.change is not None and a.signal in names]
    return min(found, default=None)


def _answer(span: Span, query: Query, made: Sequence[tuple[Line, list[Measured]]]) -> str:
    """Which feature got worse: the page's question in a sentence."""
    worse = [(line, m) for line, found in made for m in found if m.verdict == "worse"]
    if not worse:
        return ""
    features = dict.fromkeys(line.feature for line, _ in worse)
    line, worst = max(worse, key=lambda one: one[1].size)
    assert worst.comparison is not None
    before, after = worst.comparison.before, worst.comparison.after
    moved = (
        f"{measures.value(worst.signal, before.value)} → "
        f"{measures.value(worst.signal, after.value)}"
        if before is not None and after is not None
        else measures.difference(worst.signal, worst.comparison)
    )
    others = len(features) - 1
    more = f" and {fmt.plural(others, 'other feature')}" if others else ""
    return (
        f"{fmt.one_line(line.feature, 60)}{more} got worse: {measures.inside(worst.signal.title)} "
        f"{moved} in {query.spoken}, against {span.said}."
    )
