"""Effects of tools: what changes the world at most once, though a model asks for it three times.

An intent is a scope (an operation, a run, or a name of the author's own), a name, and arguments.
Whoever asks for it first does it. Others get its result, wait while it is done, or hear that nobody
can tell whether it happened. ``Work.effect`` keeps its steps in the same place and by the same
words, so an intent of an operation is one intent, whoever acts on it.

These functions are for whoever does the act elsewhere: the SDK, and tools that speak HTTP.
"""

from collections.abc import Collection
from typing import Any, Literal

import msgspec

from tocsin.core.clock import Clock
from tocsin.core.errors import InputError, NotFound
from tocsin.core.operations import Step, StepState, step_key
from tocsin.operations.owners import is_gone
from tocsin.store.operations_api import OperationsBook

Turn = Literal["act", "find", "done", "busy", "unknown"]
"""What whoever asks has to do: act; find out from the world and then maybe act; take the result;
ask again soon; or have somebody settle it."""

Settled = Literal["done", "failed", "unknown"]

OWNER_TIMEOUT_S = 15.0
_US = 1_000_000


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """An effect as it stands, and what the asker has to do."""

    step: Step
    turn: Turn


def begin_effect(
    book: OperationsBook,
    clock: Clock,
    scope: str,
    name: str,
    arguments: Any,
    owner: str,
    *,
    can_find: bool = False,
    ours: Collection[str] | None = None,
    timeout_s: float = OWNER_TIMEOUT_S,
    hold_s: float | None = None,
) -> Asked:
    """Ask for an effect. With the turn ``act`` or ``find`` it is this owner's until it settles it.

    The owner has to ``beat`` before and while it acts: one that is silent for ``timeout_s`` is
    dead, and what it had begun is ``unknown``. With ``hold_s`` it is held (see ``hold``).
    ``can_find``: the asker can learn from the world what became of it. ``ours`` are the keys that
    this owner is at work on, where it knows: what it began and is not at work on was lost. Raises
    ``InputError`` for arguments that are no JSON.
    """
    key = key_of(scope, name, arguments)
    if hold_s is not None:
        hold(book, clock, owner, hold_s, timeout_s=timeout_s)
    row, new = book.begin_step(
        Step(
            key=key,
            scope=scope,
            name=name,
            effect=True,
            state="begun",
            arguments=msgspec.json.encode(arguments),
            begun_at=clock.now_us(),
            owner=owner,
        )
    )
    if new:
        return Asked(step=row, turn="act")
    return _turn(book, clock, row, owner, can_find, ours, timeout_s)


def look_again(
    book: OperationsBook,
    clock: Clock,
    key: str,
    owner: str,
    *,
    can_find: bool = False,
    ours: Collection[str] | None = None,
    timeout_s: float = OWNER_TIMEOUT_S,
) -> Asked:
    """What is to be done now, for an asker who was told ``busy``. Raises ``NotFound``."""
    row = book.step(key)
    if row is None:
        raise NotFound(f"there is no step {key!r} any more")
    return _turn(book, clock, row, owner, can_find, ours, timeout_s)


def settle_effect(
    book: OperationsBook,
    clock: Clock,
    key: str,
    state: Settled,
    result: bytes | None = None,
    *,
    owner: str | None = None,
) -> Step:
    """Say what became of an effect. ``result`` is JSON; of a failed one, what went wrong.

    ``done`` and ``unknown`` keep it from being done again, ``failed`` says that it certainly did
    not happen: the next one who asks does it. ``owner``: only if it is still this one's; without,
    a person's word on one that is ``unknown``. The same word twice changes nothing. Raises
    ``NotFound``, and ``InputError`` when it stands otherwise already.
    """
    there = book.step(key)
    if there is None:
        raise NotFound(f"there is no step {key!r}")
    if not there.effect:
        raise InputError(f"step {key!r} ({there.name}) is no effect")
    if owner is None and there.state == "begun":
        raise InputError(
            f"step {key!r} ({there.name}) is under way; it can be settled when it has ended or its "
            "process is dead"
        )
    if book.settle_step(key, state, result, clock.now_us(), owner=owner):
        return book.step(key) or there
    now = book.step(key)
    if now is not None and now.state == state and (state != "done" or now.result == result):
        return now
    stands = now.state if now is not None else "forgotten"
    raise InputError(f"step {key!r} ({there.name}) is {stands} already")


def hold(
    book: OperationsBook,
    clock: Clock,
    owner: str,
    hold_s: float,
    *,
    timeout_s: float = OWNER_TIMEOUT_S,
) -> None:
    """Keep an owner that cannot beat by itself alive for ``hold_s``: one that speaks HTTP.

    It names an owner of its own for each effect, and has to settle or hold again before then.
    """
    book.beat(owner, clock.now_us() + round((hold_s - timeout_s) * _US))


def mark_lost(book: OperationsBook, clock: Clock, timeout_s: float = OWNER_TIMEOUT_S) -> int:
    """Mark effects that dead processes had begun as ``unknown``; returns how many.

    Nobody has to wait for this: whoever asks for one finds out by itself. It is for the lists that
    people look at.
    """
    return book.lost_steps(_dead_before(clock, timeout_s))


def key_of(scope: str, name: str, arguments: Any) -> str:
    """The key of an intent. Raises ``InputError`` for arguments that are no plain JSON."""
    try:
        return step_key(scope, name, arguments)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name}: its arguments are what tells one intent from another, so they must be plain "
            f"JSON ({error})"
        ) from None


def _turn(
    book: OperationsBook,
    clock: Clock,
    row: Step,
    owner: str,
    can_find: bool,
    ours: Collection[str] | None,
    timeout_s: float,
) -> Asked:
    state: StepState = row.state
    if state == "begun" and _is_lost(book, clock, row, owner, ours, timeout_s):
        # Under its owner's name: whoever has taken it meanwhile keeps it.
        if not book.settle_step(row.key, "unknown", None, clock.now_us(), owner=row.owner):
            return Asked(step=row, turn="busy")
        row = msgspec.structs.replace(row, state="unknown")
        state = row.state
    if state == "done":
        return Asked(step=row, turn="done")
    if state == "unknown" and not can_find:
        return Asked(step=row, turn="unknown")
    if state in ("failed", "unknown") and book.take_step(row.key, owner, state):
        taken = msgspec.structs.replace(row, state="begun", owner=owner)
        return Asked(step=taken, turn="act" if state == "failed" else "find")
    return Asked(step=row, turn="busy")


def _is_lost(
    book: OperationsBook,
    clock: Clock,
    row: Step,
    owner: str,
    ours: Collection[str] | None,
    timeout_s: float,
) -> bool:
    if row.owner == owner and ours is not None:
        return row.key not in ours
    return is_gone(row.owner) or not book.alive(row.owner, _dead_before(clock, timeout_s))


def _dead_before(clock: Clock, timeout_s: float) -> int:
    return clock.now_us() - round(timeout_s * _US)
