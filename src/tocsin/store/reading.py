"""Reading records, histories and content back."""

from collections.abc import Iterable, Sequence
from typing import Any

from tocsin.core.errors import InputError, StoreError
from tocsin.core.interaction import Blob, Entry, Interaction
from tocsin.core.messages import ROOT, Hash, Message, Node, parse_message
from tocsin.store import records
from tocsin.store.api import Filter, Known, Page, RunRow, RunSort, StepPoint
from tocsin.store.database import Row, Session
from tocsin.store.packs import Place, read_items

_KNOWN = 64
_WHOLE = 1 << 30

_SORTS: dict[RunSort, str] = {
    "last_at": "last_at",
    "started_at": "started_at",
    "cost": "cost_nano_usd",
    "calls": "calls",
    "tokens": "(input_tokens + output_tokens)",
    "duration": "(last_at - started_at)",
    "errors": "errors",
}
_RUN_CONDITIONS = {
    "since": "last_at >= ?",
    "until": "started_at < ?",
    "feature": "feature = ?",
    "model": "model = ?",
    "release": "release = ?",
    "end_user": "end_user = ?",
    "key_id": "key_id = ?",
    "upstream": "upstream = ?",
    "outcome": "outcome = ?",
    "source": "source = ?",
    "conversation_id": "conversation_id = ?",
}


def read_cursor(cursor: str) -> tuple[int, int]:
    """The two numbers of a page's cursor. Raises ``InputError`` when it is none of ours."""
    try:
        value, key = cursor.split(".")
        return int(value), int(key)
    except ValueError:
        raise InputError(
            f"{cursor[:80]!r} is no cursor; use the `next` of the page before, unchanged."
        ) from None


def edge_of(cursor: str | None) -> tuple[int, int] | None:
    """Where a page begins; ``None`` for the first one."""
    return None if cursor is None else read_cursor(cursor)


def matching_runs(session: Session, query: str) -> list[int]:
    """Keys of runs with a message that a search query finds; none for the empty query."""
    if not query:
        return []
    matching = session.fragment("matching_contents")
    return [r[0] for r in session.composed("matching_runs", (query, query), matching=matching)]


def interactions_at(session: Session, places: Sequence[Place]) -> list[Interaction]:
    """The records at some places, in that order."""
    items = read_items(session, places)
    return [decode(items[place]) for place in places if place in items]


def decode(record: bytes) -> Interaction:
    """A record. Raises ``StoreError`` when its bytes are no record."""
    try:
        return records.decode(record)
    except (ValueError, UnicodeDecodeError) as error:
        raise StoreError(
            f"A stored record is damaged ({error}); run `tocsin verify` to see which."
        ) from error


def interaction(session: Session, interaction_id: str) -> Interaction | None:
    """One record by id."""
    row = session.one("interaction_place", (interaction_id,))
    if row is None:
        return None
    return next(iter(interactions_at(session, [_place(row)])), None)


def page_of(session: Session, rows: list[Row], limit: int) -> Page:
    """A page of interactions from (started_at, seq, place) rows, one more than asked for."""
    shown = rows[:limit]
    after = f"{shown[-1][0]}.{shown[-1][1]}" if len(rows) > limit else None
    return Page(rows=tuple(interactions_at(session, [_place(r[2:]) for r in shown])), next=after)


def newest(session: Session, where: Filter, limit: int, cursor: str | None) -> list[Row]:
    """(started_at, seq, place) rows by time range alone, newest first, one more than ``limit``."""
    conditions, params = ["1 = 1"], list[Any]()
    if where.since is not None:
        conditions.append("started_at >= ?")
        params.append(where.since)
    if where.until is not None:
        conditions.append("started_at < ?")
        params.append(where.until)
    if cursor is not None:
        conditions.append("(started_at, seq) < (?, ?)")
        params += read_cursor(cursor)
    return session.composed(
        "interactions_page", [*params, limit + 1], where=" AND ".join(conditions)
    )


def runs(
    session: Session,
    where: Filter,
    *,
    sort: RunSort,
    descending: bool,
    limit: int,
    cursor: str | None,
    matching: str | None = None,
) -> Page:
    """A page of runs; only those with a message that the search query ``matching`` finds."""
    conditions, params = ["1 = 1"], list[Any]()
    for field, condition in _RUN_CONDITIONS.items():
        value = getattr(where, field)
        if value is not None:
            conditions.append(condition)
            params.append(value)
    if matching is not None:
        matches = session.fragment("run_matches", matching="matching_contents")
        conditions.append(matches if matching else "1 = 0")
        params += [matching, matching] if matching else []
    order = _SORTS.get(sort)
    if order is None:
        raise InputError(f"Runs cannot be sorted by {sort!r}; use one of {', '.join(_SORTS)}.")
    if cursor is not None:
        conditions.append(f"({order}, key) {'<' if descending else '>'} (?, ?)")
        params += read_cursor(cursor)
    rows = session.composed(
        "runs_page",
        [*params, limit + 1],
        where=" AND ".join(conditions),
        order=order,
        direction="DESC" if descending else "ASC",
    )
    shown = rows[:limit]
    after = f"{shown[-1][-1]}.{shown[-1][0]}" if len(rows) > limit else None
    return Page(rows=tuple(records.run_row(row) for row in shown), next=after)


def run(session: Session, run_id: str) -> RunRow | None:
    """One run by id."""
    row = session.one("run", (run_id,))
    return None if row is None else records.run_row(row)


def steps(session: Session, run_id: str, offset: int, limit: int) -> list[Interaction]:
    """Some of a run's records in the order in which they started."""
    rows = session.all("steps", (run_id, limit, offset))
    return interactions_at(session, [_place(row) for row in rows])


def step_points(session: Session, run_id: str) -> list[StepPoint]:
    """Every step of a run, without reading its records."""
    return [StepPoint(*row) for row in session.all("step_points", (run_id,))]


def history(session: Session, node: Hash, last: int | None) -> tuple[list[Node], list[Message]]:
    """The links and messages that a node names, oldest first.

    Messages whose bytes were never kept are left out of the second list.
    """
    most = _WHOLE if last is None else max(1, last)
    rows = session.all("chain", (node, most))
    if not rows:
        rows = _answered(session, node, most)
    nodes = [Node(bytes(r[0]), bytes(r[1]), bytes(r[2])) for r in rows]
    places = [_place(r[3:]) if r[3] is not None else None for r in rows]
    items = read_items(session, list({p for p in places if p is not None}))
    messages = [parse_message(items[p]) for p in places if p is not None and p in items]
    return nodes, messages


def _answered(session: Session, tip: Hash, most: int) -> list[Row]:
    """The chain of a history whose last message is an answer that nobody has sent back yet."""
    leaf = session.one("leaf", (tip,))
    if leaf is None:
        return []
    asked, *answer = leaf
    before = session.all("chain", (asked, most - 1)) if asked is not None and most > 1 else []
    return [*before, (tip, ROOT if asked is None else asked, *answer)]


def content(session: Session, hashes: Iterable[Hash]) -> dict[Hash, bytes]:
    """Stored bytes by hash."""
    rows = session.listed("content_places", list(dict.fromkeys(hashes)))
    items = read_items(session, [_place(row[1:]) for row in rows])
    return {bytes(r[0]): items[_place(r[1:])] for r in rows if _place(r[1:]) in items}


def known(session: Session, nodes: Sequence[Hash], call_ids: Sequence[str]) -> list[Known]:
    """Recorded calls by their answer's node or a tool call that they asked for, newest first."""
    rows = session.listed("known_nodes", list(nodes), (_KNOWN,))
    numbers = [records.call_number(call_id) for call_id in call_ids]
    rows += session.listed("known_calls", numbers, (_KNOWN,))
    found: dict[str, Known] = {}
    for one in interactions_at(session, [_place(row[1:]) for row in rows]):
        found[one.id] = Known(
            node=one.output_node or one.input_node or b"",
            interaction_id=one.id,
            run_id=one.run_id,
            conversation_id=one.conversation_id,
            feature=one.feature,
            key_id=one.key_id,
            end_user=one.end_user,
            started_at=one.started_at,
        )
    return list(found.values())


def after(session: Session, seq: int, limit: int) -> list[tuple[int, Interaction]]:
    """Records after ``seq`` in the order of their append."""
    rows = session.all("places_after", (seq, (1 << 62), limit))
    items = read_items(session, [_place(row[2:]) for row in rows])
    return [(r[0], decode(items[_place(r[2:])])) for r in rows if _place(r[2:]) in items]


def entry(session: Session, interaction_id: str) -> Entry | None:
    """A record with all content that is still there."""
    one = interaction(session, interaction_id)
    if one is None:
        return None
    tip = one.output_node or one.input_node
    nodes, messages = history(session, tip, None) if tip else ([], [])
    by_hash = {message.hash: message for message in messages}
    answered = one.output_node is not None and bool(nodes)
    asked = nodes[:-1] if answered else nodes
    hashes = [h for h in (one.params, one.request_body, one.response_body) if h]
    blobs = content(session, hashes)
    return Entry(
        interaction=one,
        input=tuple(by_hash[n.content] for n in asked if n.content in by_hash),
        nodes=tuple(nodes),
        output=by_hash.get(nodes[-1].content) if answered else None,
        blobs=tuple(Blob(hash=h, data=blobs[h]) for h in dict.fromkeys(hashes) if h in blobs),
    )


def _place(row: Sequence[Any]) -> Place:
    return row[0], row[1], row[2]
