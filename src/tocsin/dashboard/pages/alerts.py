"""Alerts: what fires, what did; and one alert: what changed, since when, for whom, examples."""

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from tocsin.core.domain import Alert
from tocsin.core.errors import NotFound
from tocsin.core.signals import UNJUDGED, Signal, signal_named
from tocsin.dashboard import (
    attention,
    behaviour,
    examples,
    filters,
    fmt,
    measures,
    places,
    render,
    signal_texts,
    slices,
)
from tocsin.dashboard.attention import AlertView
from tocsin.dashboard.examples import Pair
from tocsin.dashboard.view import View
from tocsin.store.api import AlertRow, Store

_LISTED = 200
_FOUND = 5000
_EVIDENCE = 12


async def alerts(view: View) -> Response:
    """Firing alerts, then those that are over."""
    query = filters.parse(view.request.query_params, view.now, default_range="all")
    context = await view.read(_list, view, query.get("feature"))
    return await view.page("alerts.html", section="alerts", query=query, **context)


def _list(view: View, feature: str) -> dict[str, Any]:
    store = view.deps.store
    rows = store.alerts(limit=_FOUND if feature else _LISTED)
    if feature:
        rows = [row for row in rows if row.alert.feature == feature][:_LISTED]
    shown = [attention.alert_view(row) for row in attention.by_weight(rows)]
    firing = [one for one in shown if one.alert.state == "firing"]
    return {
        "firing": firing,
        "resolved": sorted(
            (one for one in shown if one.alert.state != "firing"), key=lambda one: -one.alert.at
        ),
        "answer": _answer(len(firing), len(shown), feature),
        "titles": _titles(view, shown),
        "never": not shown and not store.stats().interactions,
    }


def _titles(view: View, shown: Sequence[AlertView]) -> dict[str, str]:
    """What a page calls the signals that alerts are about."""
    found = {one.alert.signal for one in shown}
    known = {name: signal_named(view.deps.catalogue(), name) for name in found}
    return {name: signal.title for name, signal in known.items() if signal is not None}


def _answer(firing: int, shown: int, feature: str) -> str:
    where = f" in {fmt.one_line(feature, 60)}" if feature else ""
    if firing:
        return f"{fmt.plural(firing, 'alert')} {'fires' if firing == 1 else 'fire'}{where}."
    return f"None{where}. The last ones stand below." if shown else f"None{where}."


async def alert(view: View) -> Response:
    """One alert."""
    context = await view.read(_context, view)
    return await view.page("alert.html", section="alerts", **context)


async def alert_markdown(view: View) -> Response:
    """One alert as Markdown, for a ticket or a channel."""
    context = await view.read(_context, view)
    text = signal_texts.alert_markdown(context["alert"], context["signal"], context["pairs"])
    return render.respond(text, "text/plain; charset=utf-8")


def _context(view: View) -> dict[str, Any]:
    store = view.deps.store
    fingerprint = places.read_name(view.request.path_params["fingerprint"])
    row = _row(store, fingerprint)
    found = row.alert
    signal = signal_named(view.deps.catalogue(), found.signal)
    change = found.change
    return {
        "row": row,
        "alert": found,
        "tone": attention.alert_view(row).tone,
        "signal": signal,
        "change": change,
        "facts": [] if change is None or signal is None else _facts(signal, found),
        "slices": [] if change is None or signal is None else _slices(signal, found),
        "pairs": _pairs(store, signal, found),
        "evidence": [
            one
            for one in (store.interaction(call) for call in found.evidence[:_EVIDENCE])
            if one is not None
        ],
        "base": places.alert(found),
        "links": _links(found),
    }


def _row(store: Store, fingerprint: str) -> AlertRow:
    for row in store.alerts(limit=_FOUND):
        if row.alert.fingerprint == fingerprint:
            return row
    raise NotFound(
        f"There is no alert {fmt.one_line(fingerprint, 80)}. It may have been over for so long "
        "that it was deleted."
    )


def _facts(signal: Signal, found: Alert) -> list[tuple[str, str]]:
    assert found.change is not None
    # The first two stand in the sentence on top.
    return [fact for fact in signal_texts.change_facts(signal, found.change) if fact[0] != "Since"]


def _slices(signal: Signal, found: Alert) -> list[tuple[str, str, str, str]]:
    """Who carries it: name, before and after, share of the change, and where that leads."""
    assert found.change is not None
    told = []
    for one in found.change.slices:
        code = f"{one.dimension}={one.value}"
        href = filters.build(
            places.signal_fixed(found.feature, signal.name.removeprefix(UNJUDGED)),
            {**_around(found), "slice": code},
        )
        told.append(
            (
                slices.of_alert(one),
                signal_texts.moved(signal, one.before, one.after),
                measures.part(one.share),
                href,
            )
        )
    return told


def _around(found: Alert) -> dict[str, str | int | None]:
    """A range that begins as long before the change as it has lasted, at least a day."""
    if found.change is None:
        return {}
    until = max(found.at, found.change.since) + filters.HOUR
    span = max(until - found.change.since, 12 * filters.HOUR)
    since = found.change.since - span
    return {"since": fmt.iso(since - since % filters.HOUR), "until": fmt.iso(until)}


def _pairs(store: Store, signal: Signal | None, found: Alert) -> list[Pair]:
    if signal is None or found.change is None:
        return []
    before, after = examples.of_alert(store, found)
    return examples.beside(store, signal, before, after)


def _links(found: Alert) -> list[tuple[str, str]]:
    """Onward: the signal, the comparison of before and after, the calls since."""
    if not found.feature:
        return [("All calls", "/calls")]
    links = []
    if found.signal:
        path = places.signal_fixed(found.feature, found.signal.removeprefix(UNJUDGED))
        links.append(("The signal over time", filters.build(path, _around(found))))
    if found.change is not None:
        since, until = found.change.since, max(found.at, found.change.since) + filters.HOUR
        back = since - behaviour.BASELINE_DAYS * behaviour.DAY
        periods = {
            "feature": found.feature,
            "a": f"{fmt.iso(back)}..{fmt.iso(since)}",
            "b": f"{fmt.iso(since)}..{fmt.iso(until)}",
        }
        links.append(("Compare before and after", filters.build("/compare", periods)))
        calls = {"feature": found.feature, "since": fmt.iso(since), "until": fmt.iso(until)}
        links.append(("Calls since the change", filters.build("/calls", calls)))
    links.append((f"All of {fmt.one_line(found.feature, 40)}", filters.build("/", {
        "feature": found.feature,
    })))  # fmt: skip
    return links
