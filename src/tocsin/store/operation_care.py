"""Deletion, retention and proof of operations and of what belongs to them."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tocsin.core.errors import StoreError
from tocsin.store import blobs, conversations, operation_rows
from tocsin.store.api import Problem
from tocsin.store.conversations import MOST_ITEMS
from tocsin.store.database import Database, Row, Session
from tocsin.store.operation_rows import MOST_EVENTS

_AT_ONCE = 20
_ENDED_AT_ONCE = 50
_BATCH = 500
_ROWS = 200
_PAUSE_S = 0.005
_FOREVER = (1 << 63) - 1


# -- deletion --


def forget_end_user(database: Database, name: str) -> int:
    """Delete one end user's operations and what they started; returns how many.

    With them go their events, steps, bodies, results and deliveries, what they added to
    conversations, and the conversations that nobody else's operations have used.
    """
    name, deleted = blobs.clean(name), 0
    while True:
        with database.write() as session:
            rows = session.all("operations_of_user", (name, _AT_ONCE))
            if not rows:
                return deleted
            deleted += _forget(session, name, rows)
        time.sleep(_PAUSE_S)


def _forget(session: Session, name: str, rows: Sequence[Row]) -> int:
    found: dict[str, str | None] = dict(rows)
    below = list(rows)
    while below:
        below = [
            row
            for row in session.listed("operations_below", [row[0] for row in below])
            if row[0] not in found
        ]
        found.update(below)
    ids = list(found)
    used = {conversation for conversation in found.values() if conversation is not None}
    used.update(row[0] for row in session.listed("conversations_of_operations", ids))
    session.run_listed("items_delete_of_operations", ids)
    session.run_listed("deliveries_of_operations", ids)
    session.run_listed("idempotency_forget_calls", ids)
    for one in ids:
        operation_rows.delete(session, one)
    for conversation in sorted(used):
        row = session.one("conversation", (conversation,))
        shared = row and session.one("conversation_is_shared", (conversation, name, row[0], name))
        if not shared:
            conversations.delete(session, conversation)
    return len(ids)


def forget_calls(session: Session, call_ids: Sequence[str], run_ids: Sequence[str]) -> None:
    """Delete answers that are kept for repeats of deleted calls, and the steps of deleted runs."""
    session.run_listed("idempotency_forget_calls", call_ids)
    left = {row[0] for row in session.listed("runs_left", run_ids)}
    session.run_listed("steps_forget_scopes", [one for one in run_ids if one not in left])


# -- retention --


def forget_old(database: Database, older_than: int) -> None:
    """Delete, in short transactions, what is older and done with.

    Operations themselves go when they expire; this is about conversations, deliveries, steps of
    no operation, idempotency keys and the names of processes.
    """
    forget_conversations(database, older_than)
    for name in ("deliveries_forget_old", "steps_forget_old", "idempotency_forget_expired"):
        while True:
            with database.write() as session:
                deleted = session.run(name, (older_than, _BATCH))
            if deleted < _BATCH:
                break
            time.sleep(_PAUSE_S)
    with database.write() as session:
        session.run("owners_forget", (older_than,))


def forget_conversations(database: Database, before: int) -> None:
    """Delete conversations, with their items, to which nothing was added since then and of which
    no response is kept."""
    last = 0
    while True:
        with database.read() as session:
            numbers = conversations.idle(session, before, after=last, limit=_BATCH)
        if not numbers:
            return
        last = numbers[-1]
        while numbers:
            with database.write() as session:
                done = conversations.delete_idle(session, numbers, before, _BATCH)
            numbers = numbers[done:]
            time.sleep(_PAUSE_S)


def forget_ended(database: Database, before: int, needed: Callable[[], bool] = lambda: True) -> int:
    """Delete ended operations that were created before then, oldest first, while it is needed."""
    deleted = 0
    while needed():
        with database.read() as session:
            ids = [r[0] for r in session.all("operations_ended_before", (before, _ENDED_AT_ONCE))]
        if not ids:
            break
        with database.write() as session:
            session.run_listed("deliveries_of_operations", ids)
            deleted += sum(operation_rows.delete(session, one) for one in ids)
        time.sleep(_PAUSE_S)
    return deleted


# -- proof --


def problems(database: Database) -> Iterator[Problem]:
    """Operations, events, steps, conversations, keys and deliveries that are not whole."""
    yield from _operations(database)
    yield from _blobs_of(database, "operation_blobs", _body_fault)
    yield from _blobs_of(database, "step_blobs", _unreadable)
    yield from _blobs_of(database, "delivery_blobs", _unreadable)
    yield from _blobs_of(database, "item_blobs", _item_fault)
    yield from _keys(database)
    with database.read() as session:
        strays = session.all("operation_blobs_of_none")
    for (number,) in strays:
        message = "A body or result belongs to no operation."
        yield Problem(kind="operation", id=str(number), message=message)


def _problem(name: Any, message: str) -> Problem:
    return Problem(kind="operation", id=str(name), message=message)


def _operations(database: Database) -> Iterator[Problem]:
    """Rows against their records, and logs without gaps, in slices that each see a snapshot."""
    last = 0
    while True:
        with database.read() as session:
            rows = session.all("operation_columns", (last, _ROWS))
            end = rows[-1][0] + 1 if len(rows) == _ROWS else _FOREVER // MOST_EVENTS
            counts, found = _logs(session, last + 1, end, {row[0]: row[1] for row in rows})
        for row in rows:
            fault = _record_fault(row)
            if not fault and counts.get(row[0], 0) != row[15]:
                fault = f"It counts {row[15]} events, but has {counts.get(row[0], 0)}."
            if fault:
                found.append(_problem(row[1], fault))
        yield from found
        if len(rows) < _ROWS:
            return
        last = rows[-1][0]


def _logs(
    session: Session, first: int, end: int, names: dict[int, str]
) -> tuple[dict[int, int], list[Problem]]:
    """How far the log of each operation goes, and what is wrong with the rows of these logs."""
    counts: dict[int, int] = {}
    found: list[Problem] = []
    place = first * MOST_EVENTS
    while True:
        rows = session.all("operation_event_rows", (place, end * MOST_EVENTS, _ROWS))
        for row in rows:
            number, at = divmod(row[0], MOST_EVENTS)
            expected = counts.get(number, 0)
            counts[number] = at + row[1]
            if number not in names:
                found.append(_problem(number, "Events belong to no operation."))
            elif at != expected:
                message = f"Its log goes on with event {at} where {expected} is due."
                found.append(_problem(names[number], message))
            try:
                operation_rows.events_in(row)
            except StoreError as error:
                found.append(_problem(names.get(number, number), str(error)))
        if len(rows) < _ROWS:
            return counts, found
        place = rows[-1][0] + 1


def _record_fault(row: Row) -> str:
    try:
        one = operation_rows.operation_of((row[0], row[15], row[17]))
    except StoreError as error:
        return str(error)
    said = (one.id, one.kind, *operation_rows.columns_of(one))
    if said != (row[1], row[2], row[3], row[16], *row[4:15]):
        return "The record and its row say different things."
    return ""


def _blobs_of(database: Database, query: str, fault_of: Callable[[Row], str]) -> Iterator[Problem]:
    last = -1
    while True:
        with database.read() as session:
            rows = session.all(query, (last, _ROWS))
        for row in rows:
            fault = fault_of(row)
            if fault:
                yield _problem(row[1], fault)
        if len(rows) < _ROWS:
            return
        last = rows[-1][0]


def _unreadable(row: Row) -> str:
    """What is wrong with the bytes behind a row's number and id."""
    for data in row[2:]:
        if data is not None:
            try:
                blobs.loaded(data)
            except StoreError as error:
                return str(error)
    return ""


def _body_fault(row: Row) -> str:
    return "What it was asked for is missing." if row[2] is None else _unreadable(row)


def _item_fault(row: Row) -> str:
    number, position = divmod(row[0], MOST_ITEMS)
    if row[4] is None or number != row[3]:
        return "The item belongs to no conversation."
    if position >= row[4]:
        return f"The item is number {position} of a conversation that counts {row[4]}."
    return _unreadable(row[:3])


def _keys(database: Database) -> Iterator[Problem]:
    last = ("", "")
    while True:
        with database.read() as session:
            rows = session.all("idempotency_blobs", (*last, _ROWS))
        for row in rows:
            fault = _unreadable(row)
            if fault:
                yield _problem(row[1], fault)
        if len(rows) < _ROWS:
            return
        last = (rows[-1][0], rows[-1][1])
