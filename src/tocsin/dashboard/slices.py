"""For whom a signal changed: its value in each slice, against the rest and against before."""

from collections.abc import Mapping, Sequence

import msgspec

from tocsin.core.signals import DIMENSIONS, Estimate, Signal, SliceChange, Sum
from tocsin.dashboard import fmt
from tocsin.dashboard.behaviour import Span
from tocsin.domains.signals.compare import Comparison, compare_many, estimate
from tocsin.store.api import SignalPoint, Store

TITLES = {
    "release": "Release",
    "model": "Model",
    "upstream": "Upstream",
    "cohort": "Cohort",
    "language": "Language",
    "prompt": "Prompt version",
    "tool": "Tool",
    "hour": "Hour of day, UTC",
}
_MOST = 12
_STANDS_OUT = 0.5
"""Share of a change from which on one slice is named as what carries it."""


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """One value of one dimension."""

    value: str
    now: Estimate | None
    before: Estimate | None
    n: int
    against_rest: Comparison | None
    """The rest of the feature first, this slice second."""
    share: float | None
    """Share of the feature's whole change that it carries; ``None`` when nothing changed."""


class Dimension(msgspec.Struct, frozen=True, kw_only=True):
    """A dimension with several values."""

    name: str
    title: str
    slices: tuple[Slice, ...]
    more: int
    """Values that are not shown."""


def dimensions(
    store: Store, span: Span, feature: str, signal: Signal, *, changed: bool
) -> list[Dimension]:
    """Every dimension of which a signal has several values; ``changed`` asks who carries it."""
    read = {name: _sums(store, span, feature, signal, name) for name in DIMENSIONS}
    several = {
        name: (now, before) for name, (now, before) in read.items() if len({*now, *before}) > 1
    }
    told = _against_rest(signal, {name: now for name, (now, _) in several.items()})
    found = []
    for name, (now, before) in several.items():
        shares = share_of_change(now, before) if changed else {}
        slices = [
            Slice(
                value=value,
                now=estimate(signal, now[value]) if value in now and now[value].n else None,
                before=estimate(signal, before[value])
                if value in before and before[value].n
                else None,
                n=now[value].n if value in now else 0,
                against_rest=told.get((name, value)),
                share=shares.get(value),
            )
            for value in {**now, **before}
        ]
        ordered = _ordered(name, slices)
        found.append(
            Dimension(
                name=name,
                title=TITLES[name],
                slices=tuple(ordered[:_MOST] if name != "hour" else ordered),
                more=max(0, len(ordered) - _MOST) if name != "hour" else 0,
            )
        )
    return sorted(found, key=_telling)


def _sums(
    store: Store, span: Span, feature: str, signal: Signal, dimension: str
) -> tuple[dict[str, Sum], dict[str, Sum]]:
    def of(since: int, until: int) -> dict[str, Sum]:
        found = store.signal_totals(
            since=since, until=until, feature=feature, signal=signal.name, dimension=dimension
        )
        return by_value(found)

    before = of(*span.before) if span.before is not None else {}
    return of(span.since, span.until), before


def by_value(points: Sequence[SignalPoint]) -> dict[str, Sum]:
    """Points summed by the slice's value."""
    found: dict[str, Sum] = {}
    for point in points:
        found[point.value] = found.get(point.value, Sum()) + point.sum
    return found


def _against_rest(
    signal: Signal, several: Mapping[str, Mapping[str, Sum]]
) -> dict[tuple[str, str], Comparison]:
    """Each slice against all others of its dimension, corrected jointly over the page."""
    keys, pairs = [], []
    for name, values in several.items():
        whole = sum(values.values(), Sum())
        for value, own in values.items():
            rest = whole - own
            if own.n and rest.n:
                keys.append((name, value))
                pairs.append((signal, rest, own))
    return dict(zip(keys, compare_many(pairs), strict=True))


def share_of_change(now: Mapping[str, Sum], before: Mapping[str, Sum]) -> dict[str, float]:
    """How much of a mean's change each slice carries; the shares add up to 1.

    A slice carries its own weight now times how far it is from the old mean, less the same of
    before: slices that grew or shrank count with what that did to the mean. Empty when the mean
    did not move.
    """
    after, old = sum(now.values(), Sum()), sum(before.values(), Sum())
    if after.mean is None or old.mean is None or abs(after.mean - old.mean) < 1e-12:
        return {}
    moved, base = after.mean - old.mean, old.mean

    def carries(value: str) -> float:
        own, was = now.get(value, Sum()), before.get(value, Sum())
        return (own.total - own.n * base) / after.n - (was.total - was.n * base) / old.n

    return {value: carries(value) / moved for value in {**now, **before}}


def _ordered(name: str, slices: Sequence[Slice]) -> list[Slice]:
    if name == "hour":
        return sorted(slices, key=lambda s: s.value)
    return sorted(slices, key=lambda s: (-(s.share or 0.0), -s.n, s.value))


def _telling(dimension: Dimension) -> tuple[float, int]:
    """Dimensions in which the change has an address come first."""
    best = max((_excess(dimension, s) for s in dimension.slices), default=0.0)
    return (-round(best, 3), DIMENSIONS.index(dimension.name))


def _excess(dimension: Dimension, one: Slice) -> float:
    """The share of the change that a slice carries beyond its share of the calls."""
    whole = sum(s.n for s in dimension.slices)
    if one.share is None or not whole:
        return 0.0
    return one.share - one.n / whole


def carriers(found: Sequence[Dimension], most: int = 2) -> list[tuple[str, Slice]]:
    """Slices that carry most of a change while they are not most of the calls."""
    told = [
        (d.name, s, _excess(d, s))
        for d in found
        if d.name != "hour"
        for s in d.slices
        if s.share is not None
        and s.share >= _STANDS_OUT
        and _excess(d, s) > 0.15
        and s.against_rest is not None
        and s.against_rest.verdict in ("worse", "better", "different")
    ]
    return [(name, s) for name, s, _ in sorted(told, key=lambda one: -one[2])[:most]]


def spoken(name: str, value: str) -> str:
    """A slice inside of a sentence: ``release 2026-03-10``."""
    if name == "hour":
        return f"{value}:00 to {value}:59 UTC"
    return f"{fmt.one_line(name, 20)} {fmt.one_line(value, 60)}"


def of_alert(change: SliceChange) -> str:
    """The same of a slice that an alert names."""
    return spoken(change.dimension, change.value)
