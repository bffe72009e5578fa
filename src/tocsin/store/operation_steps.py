"""Steps and idempotency keys as rows: what is done, or answered, at most once."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tocsin.core.operations import Step, StepState
from tocsin.store import blobs
from tocsin.store.database import Database, Row, Session
from tocsin.store.operations_api import KeyRow, KeyState

_EXPIRED_AT_ONCE = 20
_OPEN: frozenset[StepState] = frozenset({"begun", "asked"})

_encode_headers = msgspec.msgpack.Encoder().encode
_decode_headers = msgspec.msgpack.Decoder(tuple[tuple[bytes, bytes], ...]).decode


# -- steps --


def _step(row: Row) -> Step:
    return Step(
        key=row[0],
        scope=row[1],
        name=row[2],
        effect=bool(row[3]),
        state=row[4],
        arguments=blobs.loaded(row[5]),
        result=None if row[6] is None else blobs.loaded(row[6]),
        begun_at=row[7],
        ended_at=row[8],
        owner=row[9],
        asked=row[10],
    )


def begin(session: Session, step: Step) -> tuple[Step, bool]:
    """Keep it, or give the one that is there; the flag says whether this one is new."""
    row = session.one("step_ask_again", (blobs.clean(step.key),))
    if row is not None:
        return _step(row), False
    session.run(
        "step_add",
        (
            blobs.clean(step.key),
            blobs.clean(step.scope),
            blobs.clean(step.name),
            int(step.effect),
            step.state,
            blobs.stored(step.arguments),
            None if step.result is None else blobs.stored(step.result),
            step.begun_at,
            step.ended_at,
            blobs.clean(step.owner),
            step.asked,
        ),
    )
    return step, True


def settle(
    session: Session,
    key: str,
    state: StepState,
    result: bytes | None,
    at: int,
    *,
    owner: str | None,
) -> bool:
    """End a step that is not ended; with an owner, only one of its own."""
    held = None if result is None else blobs.stored(result)
    ended_at = None if state in _OPEN else at
    if owner is None:
        return session.run("step_settle", (state, held, ended_at, key)) == 1
    return session.run("step_settle_own", (state, held, ended_at, key, owner)) == 1


def take(session: Session, key: str, owner: str, before: StepState) -> bool:
    """Make a step this owner's; one caller wins.

    A ``begun`` one goes to the owner of its operation, or, outside of operations, to anybody when
    its own owner has retired.
    """
    if before == "begun":
        return session.run("step_take_begun", (owner, key, owner, owner)) == 1
    return session.run("step_take", (owner, key, before)) == 1


def one(session: Session, key: str) -> Step | None:
    """A step by its key."""
    row = session.one("step", (key,))
    return None if row is None else _step(row)


def of_scope(session: Session, scope: str) -> list[Step]:
    """In the order in which they began."""
    return [_step(row) for row in session.all("steps_of_scope", (scope,))]


def in_state(session: Session, state: StepState, limit: int) -> list[Step]:
    """Of every operation, oldest first."""
    return [_step(row) for row in session.all("steps_in_state", (state, limit))]


def mark_lost(database: Database, dead_before: int, limit: int) -> int:
    """Mark effects of dead processes, outside of operations, as ``unknown``; returns how many."""
    with database.read() as session:
        if not session.all("steps_lost", (dead_before, 1)):
            return 0
    with database.write() as session:
        lost = [row[0] for row in session.all("steps_lost", (dead_before, limit))]
        return session.run_listed("steps_mark_unknown", lost)


# -- idempotency keys --


def _key(row: Row) -> KeyRow:
    return KeyRow(
        principal=row[0],
        key=row[1],
        request_hash=bytes(row[2]),
        state=row[3],
        owner=row[4],
        created_at=row[5],
        expires_at=row[6],
        call_id=row[7],
        status=row[8],
        headers=_decode_headers(blobs.loaded(row[9])),
        body=blobs.loaded(row[10]),
        replays=row[11],
    )


def _headers(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    return blobs.stored(_encode_headers(headers))


def standing_key(session: Session, principal: str, key: str, now: int) -> KeyRow | None:
    """The one that is there and has not expired."""
    row = session.one("idempotency_key", (blobs.clean(principal), blobs.clean(key)))
    return None if row is None or row[6] <= now else _key(row)


def claim_key(session: Session, row: KeyRow, now: int) -> tuple[KeyRow, bool]:
    """Keep it, unless one stands; the flag says whether it is new. Forgets a few expired ones."""
    there = standing_key(session, row.principal, row.key, now)
    if there is not None:
        return there, False
    session.run("idempotency_forget_expired", (now, _EXPIRED_AT_ONCE))
    session.run(
        "idempotency_put",
        (
            blobs.clean(row.principal),
            blobs.clean(row.key),
            row.request_hash,
            row.state,
            row.owner,
            row.created_at,
            row.expires_at,
            row.call_id,
            row.status,
            _headers(row.headers),
            blobs.stored(row.body),
            row.replays,
        ),
    )
    return row, True


def settle_key(
    session: Session,
    principal: str,
    key: str,
    owner: str,
    state: KeyState,
    *,
    call_id: str,
    status: int | None,
    headers: Sequence[tuple[bytes, bytes]],
    body: bytes,
) -> None:
    """What became of the request under it."""
    values: tuple[Any, ...] = (state, call_id, status, _headers(headers), blobs.stored(body))
    session.run("idempotency_settle", (*values, blobs.clean(principal), blobs.clean(key), owner))
