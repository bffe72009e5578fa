"""Runs and calls as lists: filter, search, sort and page in the URL; new rows wait."""

import base64
import heapq
from typing import Any

import msgspec
from starlette.responses import Response

from tocsin.core.errors import InputError
from tocsin.core.interaction import Interaction
from tocsin.dashboard import filters, render, timing
from tocsin.dashboard.filters import Query
from tocsin.dashboard.view import View, key_names
from tocsin.store.api import Filter, Page, Store

PAGE = 50
_MOST_NEW = 100


async def runs(view: View) -> Response:
    """The list of runs."""
    query = filters.parse(view.request.query_params, view.now, default_range="all")
    where = query.where
    page: Page = await view.read(
        view.deps.store.runs,
        where,
        sort=query.sort,
        descending=query.descending,
        limit=PAGE,
        cursor=query.cursor,
    )
    newest_first = query.sort == "last_at" and query.descending and query.cursor is None
    return await view.page(
        "runs.html",
        section="runs",
        query=query,
        page=page,
        times=await view.read(_times, view.deps.store, page),
        live=query.link("/live/runs", after=page.rows[0].last_at if page.rows else 0)
        if newest_first and query.range != "custom"
        else None,
        **await _menus(view, query, nothing=not page.rows),
    )


def _times(store: Store, page: Page) -> list[timing.RunTime]:
    return [timing.of_run(store, row) for row in page.rows]


async def new_runs(view: View) -> Response:
    """How many runs were added or went on since ``after``: ``{"count": 12, "more": false}``."""
    query = filters.parse(view.request.query_params, view.now, default_range="all")
    after = filters.number(view.request.query_params, "after", view.now, view.now)
    where = msgspec.structs.replace(query.where, since=max(after, query.since or 0), until=None)
    page: Page = await view.read(view.deps.store.runs, where, limit=_MOST_NEW)
    count = sum(row.last_at > after for row in page.rows)
    body = msgspec.json.encode({"count": count, "more": page.next is not None})
    return render.respond(body, "application/json")


async def calls(view: View) -> Response:
    """The list of calls."""
    query = filters.parse(view.request.query_params, view.now, default_range="all")
    if query.bad:
        page = await view.read(bad_page, view.deps.store, query.where, query.cursor)
    else:
        page = await view.read(
            view.deps.store.interactions, query.where, limit=PAGE, cursor=query.cursor
        )
    menus = await _menus(view, query, nothing=not page.rows)
    return await view.page("calls.html", section="runs", query=query, page=page, **menus)


async def _menus(view: View, query: Query, *, nothing: bool) -> dict[str, Any]:
    """Choices for the filters, from what the range holds."""
    span = Filter(since=query.since, until=query.until)
    found = await view.read(view.deps.store.facets, span)
    # An empty value stands for "unknown", which no filter can ask for; in a menu it would be "any".
    facets = {name: [one for one in values if one[0]] for name, values in found.items()}
    keys = await view.read(key_names, view.deps.store)
    stats = await view.read(view.deps.store.stats) if nothing else None
    return {"facets": facets, "keys": keys, "never": stats is not None and not stats.interactions}


# -- every bad outcome at once --


class _Place(msgspec.Struct, array_like=True):
    """How far one outcome's rows were read: a store page, and rows taken of it."""

    cursor: str | None = None
    taken: int = 0


def bad_page(store: Store, where: Filter, cursor: str | None) -> Page:
    """Calls that ended badly, newest first: the lists of each bad outcome, merged."""
    places = _decode(cursor) if cursor is not None else _start(store, where)
    following: dict[str, str | None] = {}
    lists: list[list[tuple[int, str, Interaction]]] = []
    for outcome, place in places.items():
        page = _outcome_page(store, where, outcome, place.cursor)
        rows = list(page.rows)
        following[outcome] = page.next
        if page.next is not None and place.taken:
            rows += _outcome_page(store, where, outcome, page.next).rows
        lists.append([(-row.started_at, outcome, row) for row in rows[place.taken :]])
    merged = list(heapq.merge(*lists, key=lambda found: found[0]))
    for _, outcome, _ in merged[:PAGE]:
        places[outcome].taken += 1
    left = len(merged) > PAGE or any(following.values())
    for outcome, place in places.items():
        if place.taken >= PAGE and following[outcome] is not None:
            places[outcome] = _Place(following[outcome], place.taken - PAGE)
    return Page(
        rows=tuple(row for _, _, row in merged[:PAGE]), next=_encode(places) if left else None
    )


def _outcome_page(store: Store, where: Filter, outcome: str, cursor: str | None) -> Page:
    narrowed = msgspec.structs.replace(where, outcome=outcome)
    return store.interactions(narrowed, limit=PAGE, cursor=cursor)


def _encode(places: dict[str, _Place]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(places)).decode()


def _start(store: Store, where: Filter) -> dict[str, _Place]:
    """The beginning of the list of each bad outcome that there is; most never happen."""
    there = {outcome for outcome, _ in store.facets(where).get("outcome", [])}
    return {outcome: _Place() for outcome in filters.BAD_OUTCOMES if outcome in there}


def _decode(cursor: str) -> dict[str, _Place]:
    try:
        data = base64.urlsafe_b64decode(cursor.encode())
        places = msgspec.json.decode(data, type=dict[str, _Place])
    except (ValueError, msgspec.DecodeError):
        places = {"": _Place()}
    if not set(places) <= set(filters.BAD_OUTCOMES):
        raise InputError("“cursor” is not one of ours. Remove it to start from the newest call.")
    return places
