"""Operations and their events as rows.

Every write is a group commit: what many operations have to say goes into one transaction with few
statements. Events that are written together lie in one row.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from tocsin.core.errors import StoreError
from tocsin.core.operations import Event, Operation
from tocsin.store import blobs, deliveries
from tocsin.store.database import Database, Row, Session
from tocsin.store.operations_api import (
    Delivery,
    New,
    OperationFilter,
    OperationPage,
    Written,
)
from tocsin.store.reading import read_cursor

MOST_EVENTS = 1 << 24
"""Of one operation."""
PACK_BYTES = 128 * 1024
_ROWS_AT_ONCE = 64
_LIVE_BYTES = 4096
"""Fewer are compressed only when the events of an ended operation are packed."""
_FIXED = frozenset({"id", "kind", "events"})
_FIELDS = frozenset(Operation.__struct_fields__)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Operation).decode
_decode_events = msgspec.msgpack.Decoder(list[tuple[str, int, bytes]]).decode


class _Held(msgspec.Struct):
    """An operation as it stands inside a transaction."""

    number: int
    before: Operation
    now: Operation
    record: bytes
    touched: bool = False
    changed: bool = False
    """Whether the record is another one."""


# -- records --


def operation_of(row: Row) -> Operation:
    """From (number, events, record). Raises ``StoreError`` when it is damaged."""
    try:
        found = _decode(row[2])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreError(
            f"A stored operation is damaged ({error}); run `tocsin verify` to see which."
        ) from error
    return msgspec.structs.replace(found, events=row[1])


def record_of(operation: Operation) -> bytes:
    """The record as it is stored; the number of events has a column of its own.

    Raises ``StoreError`` for a value that could not be read back.
    """
    try:
        record = _encode(msgspec.structs.replace(operation, events=0))
        _decode(record)
    except (msgspec.MsgspecError, TypeError, OverflowError) as error:
        raise StoreError(f"The operation {operation.id} cannot be kept: {error}.") from error
    return record


def columns_of(operation: Operation) -> tuple[Any, ...]:
    """What is looked up without reading records, beside number, id, kind, events and record."""
    return (
        operation.feature,
        operation.created_at,
        operation.status,
        operation.outcome,
        operation.key_id,
        operation.end_user,
        operation.run_id,
        operation.parent_id,
        operation.conversation_id,
        operation.deadline_at,
        operation.expires_at,
        operation.cancel_at,
        operation.owner,
    )


def written(operation: Operation) -> Operation:
    """The same with text that every engine can hold."""
    dirty = {
        name: blobs.clean(value)
        for name in Operation.__struct_fields__
        if isinstance(value := getattr(operation, name), str) and not value.isascii()
    }
    return msgspec.structs.replace(operation, **dirty) if dirty else operation


# -- writing --


class Prepared(msgspec.Struct, frozen=True):
    """A new operation as rows, but for its number."""

    columns: tuple[Any, ...]
    """From its id to its record."""
    body: bytes
    events: bytes | None
    """All of them, in one row."""
    count: int


def prepared(batch: Sequence[New]) -> list[Prepared]:
    """What can be done for new operations before the transaction. Raises ``StoreError`` for what
    could not be read back."""
    return [_prepared(one.operation, one.body, one.events) for one in batch]


def _prepared(operation: Operation, body: bytes, events: Sequence[Event]) -> Prepared:
    count = len(events)
    operation = msgspec.structs.replace(written(operation), events=count)
    _check_numbers(operation.id, 0, events)
    log = _event_row(0, events)[2] if events else None
    record = record_of(operation)
    columns = (operation.id, operation.kind, *columns_of(operation), count, record)
    return Prepared(columns, blobs.stored(body), log, count)


def create(session: Session, batch: Sequence[Prepared]) -> tuple[bool, ...]:
    """Keep new ones; ``False`` for each whose id is known."""
    last = session.one("operations_last")
    first = 1 + (int(last[0]) if last else 0)
    flat = [value for at, one in enumerate(batch, first) for value in (at, *one.columns)]
    made = {int(row[0]) for row in session.write_rows("operation_add", flat)}
    bodies: list[Any] = []
    events: list[Any] = []
    for at, one in enumerate(batch, first):
        if at in made:
            bodies += (at, one.body)
            if one.events is not None:
                events += (at * MOST_EVENTS, one.count, one.events)
    session.write_rows("operation_add_body", bodies)
    session.write_rows("operation_add_events", events)
    return tuple(at in made for at, _ in enumerate(batch, first))


def write(session: Session, batch: Sequence[Written]) -> tuple[bool, ...]:
    """Group commit. For each: whether it was written (still the owner's, and there)."""
    held = _held(session, {blobs.clean(one.operation_id) for one in batch})
    done: list[bool] = []
    events: list[list[Any]] = []
    results: dict[int, bytes] = {}
    messages: list[Delivery] = []
    for one in batch:
        state = held.get(blobs.clean(one.operation_id))
        done.append(state is not None and _may_write(state.now, one))
        if state is None or not done[-1]:
            continue
        _check_numbers(one.operation_id, state.now.events, one.events)
        if one.events:
            events.append(_event_row(state.number, one.events))
        _change(state, one)
        if one.result is not None:
            results[state.number] = blobs.stored(one.result)
        messages += one.deliveries
    # Neighbours lie on one page: each page is changed once.
    session.write_rows("operation_add_events", _by_place(events))
    _save(session, held.values())
    session.write_rows("operation_put_results", [v for pair in results.items() for v in pair])
    deliveries.add(session, messages)
    return tuple(done)


def _by_place(rows: list[list[Any]]) -> list[Any]:
    rows.sort(key=_place)
    return [value for row in rows for value in row]


def _place(row: list[Any]) -> int:
    place: int = row[0]
    return place


def _held(session: Session, ids: Iterable[str]) -> dict[str, _Held]:
    held = {}
    for row in session.listed("operations_by_id", list(ids)):
        found = operation_of(row)
        held[found.id] = _Held(row[0], found, found, row[2])
    return held


def _may_write(operation: Operation, one: Written) -> bool:
    """Whether the operation is as its writer believes. Whoever names no owner may write always;
    what has ended is nobody's."""
    if one.expect is not None and operation.status != one.expect:
        return False
    return one.owner is None or (operation.owner == one.owner and operation.status != "ended")


def _check_numbers(operation_id: str, first: int, events: Sequence[Event]) -> None:
    """Raise ``StoreError`` unless the events continue the log."""
    for expected, event in enumerate(events, first):
        if event.number != expected:
            raise StoreError(
                f"Event {event.number} of {operation_id} does not continue its log: the next "
                f"one is {expected}. Nothing of this batch was written."
            )
    if first + len(events) > MOST_EVENTS:
        raise StoreError(
            f"{operation_id} has {first} events, and an operation has at most {MOST_EVENTS}."
        )


def _change(state: _Held, one: Written) -> None:
    now = state.now
    state.touched = state.touched or bool(one.events or one.changes)
    if one.changes:
        unknown = sorted(name for name in one.changes if name in _FIXED or name not in _FIELDS)
        if unknown:
            raise StoreError(f"{', '.join(unknown)} of an operation cannot be changed.")
        now = written(msgspec.structs.replace(now, **one.changes))
        state.record = record_of(now)
        state.changed = True
    if one.events:
        now = msgspec.structs.replace(now, events=now.events + len(one.events))
    state.now = now


def _save(session: Session, states: Iterable[_Held]) -> None:
    """Most changes leave the columns as they are, and no index has to follow."""
    counts: list[Any] = []
    records: list[Any] = []
    columns: list[Any] = []
    for state in sorted(states, key=lambda state: state.number):
        if not state.touched:
            continue
        if not state.changed:
            counts += (state.number, state.now.events)
            continue
        now = columns_of(state.now)
        if now == columns_of(state.before):
            records += (state.number, state.now.events, state.record)
        else:
            columns += (state.number, *now, state.now.events, state.record)
    session.write_rows("operation_set_events", counts)
    session.write_rows("operation_set_records", records)
    session.write_rows("operation_set_columns", columns)


def changed(session: Session, row: Row, **changes: Any) -> Operation:
    """Change the operation of a (number, events, record) row; as it stands then."""
    before = operation_of(row)
    now = written(msgspec.structs.replace(before, **changes))
    _save(session, [_Held(row[0], before, now, record_of(now), touched=True, changed=True)])
    return now


def delete(session: Session, operation_id: str) -> bool:
    """With its events, steps, body and result. What it held is free."""
    row = session.one("operation_by_id", (operation_id,))
    if row is None:
        return False
    number = int(row[0])
    session.run("operation_delete_events", _span(number))
    session.run("operation_delete_body", (number,))
    session.run("operation_delete_result", (number,))
    session.run("steps_delete_scope", (operation_id,))
    session.run("operation_free_held", (operation_id,))
    session.run("operation_delete", (number,))
    return True


# -- reading --


def operation(session: Session, operation_id: str) -> Operation | None:
    """One by its id."""
    row = session.one("operation_by_id", (operation_id,))
    return None if row is None else operation_of(row)


def blob(session: Session, query: str, operation_id: str) -> bytes | None:
    """An operation's body or result, whichever the query finds."""
    row = session.one(query, (operation_id,))
    return None if row is None else blobs.loaded(row[0])


def page(
    session: Session, where: OperationFilter, *, limit: int, cursor: str | None
) -> OperationPage:
    """Newest first. Raises ``InputError`` for a cursor that is none of ours."""
    conditions, params = ["1 = 1"], list[Any]()
    for name in OperationFilter.__struct_fields__:
        value = getattr(where, name)
        if value is None:
            continue
        if name == "since":
            conditions.append("created_at >= ?")
        elif name == "until":
            conditions.append("created_at < ?")
        else:
            conditions.append(f"{name} = ?")
        params.append(blobs.clean(value) if isinstance(value, str) else value)
    if where.status is not None and where.status != "ended":
        # In these words there is an index on the few that have not ended.
        conditions.append("status <> 'ended'")
    if cursor is not None:
        conditions.append("(created_at, number) < (?, ?)")
        params += read_cursor(cursor)
    found = session.composed("operation_page", [*params, limit + 1], where=" AND ".join(conditions))
    rows = [operation_of(row) for row in found[:limit]]
    more = len(found) > limit and bool(rows)
    return OperationPage(
        rows=tuple(rows), next=f"{rows[-1].created_at}.{found[limit - 1][0]}" if more else None
    )


# -- events --


def _span(number: int) -> tuple[int, int]:
    """From the place of an operation's first event up to the first of the next operation."""
    return number * MOST_EVENTS, (number + 1) * MOST_EVENTS


def _event_row(number: int, events: Sequence[Event]) -> list[Any]:
    given = [(e.type, e.at, e.data) for e in events]
    return event_row(number, events[0].number, given, worth=_LIVE_BYTES)


def event_row(
    number: int, first: int, events: Sequence[tuple[str, int, bytes]], *, worth: int = 160
) -> list[Any]:
    """(place, events, data) of consecutive events; compressed from ``worth`` bytes on."""
    cleaned = [(blobs.clean(kind), at, data) for kind, at, data in events]
    return [number * MOST_EVENTS + first, len(events), blobs.stored(_encode(cleaned), worth)]


def events_in(row: Row) -> list[tuple[str, int, bytes]]:
    """(type, time, data) of a row's events. Raises ``StoreError`` when it is damaged."""
    try:
        found = _decode_events(blobs.loaded(row[2]))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreError(
            f"Stored events are damaged ({error}); run `tocsin verify` to see which."
        ) from error
    if len(found) != row[1]:
        raise StoreError("Stored events are damaged; run `tocsin verify` to see which.")
    return found


def events(session: Session, operation_id: str, *, after: int, limit: int) -> list[Event]:
    """In order, from the one after ``after``; none of an operation that is not there."""
    row = session.one("operation_by_id", (operation_id,))
    if row is None or limit <= 0 or after + 1 >= row[1]:
        return []
    base, end = _span(row[0])
    place = base + max(0, after + 1)
    found: list[Event] = []
    rows: list[Row] = []
    while len(found) < limit:
        start = (base, place, place) if not rows else (place, place, place)
        rows = session.all("operation_events", (*start, end, _ROWS_AT_ONCE))
        for one in rows:
            first = one[0] - base
            for number, (kind, at, data) in enumerate(events_in(one), first):
                if number > after and len(found) < limit:
                    found.append(Event(number, kind, at, data))
        if len(rows) < _ROWS_AT_ONCE:
            break
        place = rows[-1][0] + rows[-1][1]
    return found


def pack(database: Database, ids: Sequence[str]) -> None:
    """Put the events of ended operations into few rows. Those of many small ones are swapped in
    one short transaction, those of a big one part by part."""
    swaps: list[tuple[str, int, list[Row], list[Any]]] = []
    big: list[str] = []
    with database.read() as session:
        for operation_id in ids:
            row = session.one("operation_by_id", (operation_id,))
            if row is None or operation_of(row).status != "ended":
                continue
            number = int(row[0])
            rows = _next_rows(session, *_span(number))
            if rows and _behind(rows) < _span(number)[0] + row[1]:
                big.append(operation_id)
            elif _worth_it(rows):
                swaps.append((operation_id, number, rows, _together(number, rows)))
    if swaps:
        with database.write() as session:
            for swap in swaps:
                _swap(session, *swap)
    for operation_id in big:
        _pack_big(database, operation_id)


def _pack_big(database: Database, operation_id: str) -> None:
    with database.read() as session:
        row = session.one("operation_by_id", (operation_id,))
    if row is None:
        return
    number = int(row[0])
    place, end = _span(number)
    while place < end:
        with database.read() as session:
            rows = _next_rows(session, place, end)
        if not rows:
            return
        place = _behind(rows)
        if _worth_it(rows):
            new = _together(number, rows)
            with database.write() as session:
                if not _swap(session, operation_id, number, rows, new):
                    return


def _behind(rows: Sequence[Row]) -> int:
    """The place behind consecutive rows."""
    place: int = rows[-1][0] + rows[-1][1]
    return place


def _worth_it(rows: Sequence[Row]) -> bool:
    return len(rows) > 1 or (len(rows) == 1 and blobs.is_plain(bytes(rows[0][2])))


def _together(number: int, rows: Sequence[Row]) -> list[Any]:
    """One row in place of consecutive ones."""
    events = [event for one in rows for event in events_in(one)]
    return event_row(number, rows[0][0] - number * MOST_EVENTS, events)


def _swap(
    session: Session, operation_id: str, number: int, rows: Sequence[Row], new: list[Any]
) -> bool:
    """Put a row in place of others. ``False``: another process has packed the operation, or
    deleted it, meanwhile."""
    if session.one("operation_is_ended", (operation_id, number)) is None:
        return False
    first, behind = rows[0][0], _behind(rows)
    there = session.all("operation_event_rows", (first, behind, len(rows) + 1))
    if [(r[0], r[1]) for r in there] != [(r[0], r[1]) for r in rows]:
        return False
    session.run("operation_delete_events", (first, behind))
    session.write_rows("operation_add_events", new)
    return True


def _next_rows(session: Session, place: int, end: int) -> list[Row]:
    """Rows from a place on that belong together in one; a big one stands alone."""
    taken: list[Row] = []
    size = 0
    while True:
        rows = session.all("operation_event_rows", (place, end, _ROWS_AT_ONCE))
        for row in rows:
            size += len(blobs.loaded(row[2]))
            if taken and size > PACK_BYTES:
                return taken
            taken.append(row)
        if len(rows) < _ROWS_AT_ONCE:
            return taken
        place = rows[-1][0] + rows[-1][1]


def cancel(session: Session, operation_id: str, by: str, at: int) -> Operation | None:
    """Ask that it ends; the first word counts. ``None``: there is none."""
    row = session.one("operation_by_id", (operation_id,))
    if row is None:
        return None
    found = operation_of(row)
    if found.status == "ended" or found.cancel_at is not None:
        return found
    return changed(session, row, cancel_at=at, cancel_by=by)
