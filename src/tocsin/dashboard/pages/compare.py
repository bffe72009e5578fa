"""Compare: two periods, releases or slices of a feature, all signals at once."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from starlette.responses import Response

from tocsin.core.errors import InputError
from tocsin.core.signals import DIMENSIONS, JUDGED_AXES, Signal, Sum
from tocsin.dashboard import (
    behaviour,
    filters,
    fmt,
    judges,
    measures,
    places,
    render,
    signal_texts,
    slices,
)
from tocsin.dashboard.behaviour import Span
from tocsin.dashboard.filters import Query
from tocsin.dashboard.pages.signals import read_slice
from tocsin.dashboard.view import View
from tocsin.domains.signals.compare import Comparison, compare_many
from tocsin.store.api import Store

_RANGE = "7d"
_MOST = 30
"""Values of one dimension that the menus offer."""
_WORDS = ("before", "now", "first", "second")


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a comparison."""

    code: str
    """As the address says it: ``before``, ``now``, ``release=…``, ``2026-03-01..2026-03-08``."""
    said: str
    since: int
    until: int
    where: tuple[str, str] | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One signal on both sides."""

    signal: Signal
    comparison: Comparison
    href: str

    @property
    def tone(self) -> str:
        """The colour and shape of its verdict."""
        return measures.TONES[self.comparison.verdict]


async def compare(view: View) -> Response:
    """The page."""
    query, context = await _read(view)
    return await view.page("compare.html", section="overview", query=query, **context)


async def compare_json(view: View) -> Response:
    """The same as JSON."""
    _, context = await _read(view)
    return render.respond(await view.read(_text, context, True), "application/json")


async def compare_markdown(view: View) -> Response:
    """The same as Markdown."""
    _, context = await _read(view)
    return render.respond(await view.read(_text, context, False), "text/plain; charset=utf-8")


def _text(context: Mapping[str, Any], json: bool) -> str | bytes:
    if not context["feature"] or context["a"] is None:
        raise InputError("Say which feature to compare: `feature=NAME`.")
    make = signal_texts.comparison_json if json else signal_texts.comparison_markdown
    return make(context)


async def _read(view: View) -> tuple[Query, dict[str, Any]]:
    params = view.request.query_params
    query = filters.parse(params, view.now, default_range=_RANGE)
    a, b = params.get("a") or "before", params.get("b") or "now"
    return query, await view.read(_context, view, query, a, b)


def _context(view: View, query: Query, a: str, b: str) -> dict[str, Any]:
    store, catalogue = view.deps.store, view.deps.catalogue()
    name = query.get("feature")
    base: dict[str, Any] = {"feature": name, "a": None, "b": None, "rows": [], "options": {}}
    base |= {"path": "/compare", "a_code": a, "b_code": b, "answer": "", "features": []}
    if not name:
        totals = store.signal_totals(since=0, until=view.now + filters.HOUR, signal="appropriate")
        every = {p.feature for p in totals} or {
            p.feature for p in store.signal_totals(since=0, until=view.now + filters.HOUR)
        }
        return {**base, "features": sorted(every)}
    oldest = None if query.since is not None else _first(store, view.now, name)
    span = behaviour.span_of(query, view.now, oldest)
    left, right = _side(a, span), _side(b, span)
    rows = _rows(store, _shown(view, name), query, name, left, right)
    return {
        **base,
        "a": left,
        "b": right,
        "rows": rows,
        "answer": _answer(rows, left, right),
        "options": _options(store, catalogue, span, name),
        "links": _links(query, name, left, right),
    }


def _shown(view: View, name: str) -> dict[str, Signal]:
    """The catalogue without judges whose share may not be shown."""
    told = judges.judges_of(view.deps.store, name, view.deps.judges())
    hidden = {signal for signal, judge in told.items() if not judge.shown}
    return {n: signal for n, signal in view.deps.catalogue().items() if n not in hidden}


def _first(store: Store, now: int, name: str) -> int | None:
    found = store.signal_totals(since=0, until=now, feature=name)
    return min((point.at for point in found), default=None)


def _side(code: str, span: Span) -> Side:
    """One side as the address says it. Raises ``InputError``."""
    middle = span.since + (span.until - span.since) // 2
    middle -= middle % filters.HOUR
    start = span.since - span.since % filters.HOUR
    days = behaviour.BASELINE_DAYS
    named = {
        "now": (f"since {_day(span.since)}", span.since, span.until),
        "before": (f"the {days} days before", max(0, start - days * behaviour.DAY), start),
        "first": ("first half", start, middle),
        "second": ("second half", middle, span.until),
    }
    if code in named:
        said, since, until = named[code]
        return Side(code=code, said=said, since=since, until=until)
    if ".." in code and "=" not in code:
        since, until = _period(code)
        said = f"{_day(since)} to {_day(until)}"
        return Side(code=code, said=said, since=since, until=until)
    try:
        where = read_slice(code)
    except InputError:
        where = None
    if where is None:
        raise InputError(
            f"“a” and “b” are each one of {', '.join(_WORDS)}, DIMENSION=VALUE, or two times with "
            "`..` between them, such as 2026-03-01..2026-03-08."
        )
    said = slices.spoken(*where)
    return Side(code=code, said=said, since=span.since, until=span.until, where=where)


def _day(at: int) -> str:
    return fmt.exact(at)[:16] + " UTC"


def _period(code: str) -> tuple[int, int]:
    first, _, last = code.partition("..")
    since, until = filters.instant(first, "a and b"), filters.instant(last, "a and b")
    if since >= until:
        raise InputError("A period begins before it ends: 2026-03-01..2026-03-08.")
    return since, until


def _rows(
    store: Store,
    catalogue: Mapping[str, Signal],
    query: Query,
    name: str,
    left: Side,
    right: Side,
) -> list[Row]:
    """Every signal that both sides have, jointly corrected, the best evidence first."""
    a, b = _sums(store, name, left), _sums(store, name, right)
    both = [s for s in catalogue.values() if a.get(s.name, Sum()).n and b.get(s.name, Sum()).n]
    told = compare_many([(s, a[s.name], b[s.name]) for s in both])
    code = f"{right.where[0]}={right.where[1]}" if right.where is not None else ""
    rows = [
        Row(signal=s, comparison=c, href=places.signal(query, name, s.name, code))
        for s, c in zip(both, told, strict=True)
    ]
    return sorted(rows, key=_evidence)


def _evidence(row: Row) -> tuple[float, float, bool, str]:
    told = row.comparison
    p = 1.0 if told.p_value is None else told.p_value
    return (p, -abs(told.effect_size or 0.0), row.signal.name not in JUDGED_AXES, row.signal.title)


def _sums(store: Store, name: str, side: Side) -> dict[str, Sum]:
    found = store.signal_totals(
        since=side.since,
        until=side.until,
        feature=name,
        dimension=side.where[0] if side.where is not None else "",
    )
    return behaviour.sums(found, side.where).get(name, {})


def _answer(rows: Sequence[Row], left: Side, right: Side) -> str:
    if not rows:
        return "No signal has values on both sides."
    changed = [row for row in rows if row.comparison.verdict in ("worse", "better", "different")]
    thin = sum(row.comparison.verdict == "underpowered" for row in rows)
    head = f"{len(changed)} of {fmt.plural(len(rows), 'signal')}"
    head += " differ" if len(changed) != 1 else " differs"
    if changed:
        first = changed[0]
        size = measures.difference(first.signal, first.comparison)
        head += f", {measures.inside(first.signal.title)} most surely ({size})"
    return head + (f"; {fmt.count(thin)} underpowered." if thin else ".")


def _options(
    store: Store, catalogue: Mapping[str, Signal], span: Span, name: str
) -> dict[str, list[tuple[str, str]]]:
    """What the menus offer: periods, and every value of every dimension with several."""
    found: dict[str, list[tuple[str, str]]] = {
        "Periods": [
            ("now", "The chosen time"),
            ("before", "The 28 days before it"),
            ("first", "Its first half"),
            ("second", "Its second half"),
        ]
    }
    totals = store.signal_totals(since=span.since, until=span.until, feature=name)
    counts = {p.signal: p.sum.n for p in totals if p.signal in catalogue}
    if not counts:
        return found
    # The signal that most calls have tells the values of all.
    most = max(counts, key=lambda one: counts[one])
    for dimension in DIMENSIONS:
        values = slices.by_value(
            store.signal_totals(
                since=span.since,
                until=span.until,
                feature=name,
                signal=most,
                dimension=dimension,
            )
        )
        if len(values) > 1:
            ordered = sorted(values, key=lambda v: (-values[v].n, v))[:_MOST]
            found[slices.TITLES[dimension]] = [
                (f"{dimension}={value}", fmt.one_line(value, 60)) for value in ordered
            ]
    return found


def _links(query: Query, name: str, left: Side, right: Side) -> dict[str, str]:
    """Permalinks: the same with the times written out, and as text."""
    fixed = {
        "feature": name,
        "since": fmt.iso(query.since) if query.since is not None else None,
        "until": fmt.iso(query.until) if query.until is not None else None,
        "a": left.code,
        "b": right.code,
    }
    asked = {**query.params(), "a": left.code, "b": right.code}
    swapped = {**query.params(), "a": right.code, "b": left.code}
    return {
        "fixed": filters.build("/compare", fixed),
        "swap": filters.build("/compare", swapped),
        "json": filters.build("/compare/json", asked),
        "markdown": filters.build("/compare/markdown", asked),
    }
