"""Requests that their callers gave a name: ``Idempotency-Key``, exact across processes and crashes.

A key is claimed in the store before anything is asked of an upstream, and its answer is in the
store before any client learns that it is complete. So whoever finds a claim whose process is dead
knows that no client has seen the answer's end, and that nobody can tell more than that.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from tocsin.core.clock import Clock
from tocsin.core.errors import BadRequest, CallError, Conflict, StoreError, Unavailable
from tocsin.core.redact import Redactor
from tocsin.gateway.audience import Audience, Room
from tocsin.gateway.repeats_asked import Answer, Asked, Rules, frees, owner_of, payload_hash
from tocsin.gateway.wire import Wire
from tocsin.runtime.intake import ERROR_HEADER
from tocsin.store.operations_api import KeyRow, KeyState, OperationsBook

log = logging.getLogger("tocsin.gateway")

REPLAYED = (b"idempotency-replayed", b"true")
_NOT_KEPT = frozenset({b"connection", b"date", b"set-cookie", b"transfer-encoding"})
_FIRST_LOOK_S, _LAST_LOOK_S = 0.05, 0.5
"""How often a request looks for an answer that another process makes."""

T = TypeVar("T")
Found = KeyRow | CallError | None


class Work:
    """A request with a key as this process works on it."""

    __slots__ = ("audience", "claimed", "payload", "settled", "task")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.claimed: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        """``None``: the key is this request's. A row: it was another's. An error: no store."""
        self.audience: Audience
        self.settled = False
        """The store knows what became of it."""
        self.task: asyncio.Task[None] | None = None


class Keys:
    """The keyed requests of one process."""

    def __init__(
        self,
        rules: Callable[[], Rules],
        room: Room,
        clock: Clock,
        book: OperationsBook,
        owner: str,
        redactor: Callable[[], Redactor] = Redactor,
    ) -> None:
        self._rules = rules
        self._redactor = redactor
        self._room = room
        self._clock = clock
        self._book = book
        self._owner = owner
        self._works: dict[tuple[str, str], Work] = {}

    async def serve(self, asked: Asked, key: str, wire: Wire, answer: Answer) -> None:
        """Answer a request as the first one with its key was answered. Raises ``CallError``."""
        name = owner_of(asked), key
        payload = payload_hash(asked)
        pause = _FIRST_LOOK_S
        try:
            while True:
                work = self._works.get(name)
                if work is None:
                    found = await self._first(name, payload, asked, wire, answer)
                else:
                    found = await self._next(work, payload, wire)
                if found is None or await self._as_found(found, payload, wire):
                    return
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LAST_LOOK_S)
        except StoreError:
            log.exception("an idempotency key could not be looked up")
            raise _no_store() from None

    async def _first(
        self, name: tuple[str, str], payload: bytes, asked: Asked, wire: Wire, answer: Answer
    ) -> KeyRow | None:
        """Make the answer and send it; or the row of whoever had the key before."""
        work = self._works[name] = Work(payload)
        work.audience = self._audience(work, name)
        seat = work.audience.sit()
        work.task = asyncio.create_task(self._work(work, name, asked, answer))
        try:
            found = await _known(work)
        except BaseException:
            work.audience.leave(seat)
            raise
        if found is None:
            await work.audience.play(wire, joined=False, seat=seat)
        return found

    async def _next(self, work: Work, payload: bytes, wire: Wire) -> KeyRow | None:
        """Send the answer that this process is making; or the row of whoever had the key."""
        found = await _known(work)
        if found is None:
            if work.payload != payload:
                raise _reused()
            if self._rules().refuse or not work.audience.whole_kept:
                raise _in_flight()
            await work.audience.play(wire, joined=True)
        return found

    # -- the first one --

    def _audience(self, work: Work, name: tuple[str, str]) -> Audience:
        async def keep(audience: Audience) -> None:
            await self._settle(work, name, audience)

        most = self._rules().most
        return Audience(most=most, room=self._room, waits=False, ending=keep)

    async def _work(self, work: Work, name: tuple[str, str], asked: Asked, answer: Answer) -> None:
        """Claim the key, make the answer and keep it. In a task of its own: no client that leaves
        takes it with it."""
        try:
            found = await self._claim(name, work.payload)
            work.claimed.set_result(found)
            if found is None:
                await self._make(work, name, asked, answer)
        finally:
            if not work.claimed.done():
                work.claimed.set_result(_no_store())
            del self._works[name]

    async def _claim(self, name: tuple[str, str], payload: bytes) -> Found:
        now = self._clock.now_us()
        row = KeyRow(
            principal=name[0],
            key=name[1],
            request_hash=payload,
            state="open",
            owner=self._owner,
            created_at=now,
            expires_at=now + self._rules().keep_us,
        )
        try:
            found, new = await _in_thread(self._book.claim_key, row, now)
        except StoreError:
            log.exception("an idempotency key could not be claimed")
            return _no_store()
        return None if new else found

    async def _make(self, work: Work, name: tuple[str, str], asked: Asked, answer: Answer) -> None:
        audience = work.audience
        try:
            await answer(*asked, audience)
        except asyncio.CancelledError:
            await self._say(work, name, "unknown")  # cut in the middle: it may have been done
            raise
        except Exception:
            log.exception("call %s %s failed", asked.method, asked.path)
        finally:
            if not audience.ended:
                await self._say(work, name, None)
                audience.break_off()
            audience.forget()

    async def _settle(self, work: Work, name: tuple[str, str], audience: Audience) -> None:
        """Keep a complete answer, unless it asks for another try or says that nothing was done."""
        status = audience.status
        if frees(status) or audience.failed or audience.header(ERROR_HEADER):
            await self._say(work, name, None)
            return
        kept = audience.small
        headers = [(n, v) for n, v in audience.headers if n not in _NOT_KEPT] if kept else []
        body = audience.body if kept else b""
        if status is not None and status >= 400:
            # Providers repeat the credential that they refuse.
            clean = self._redactor().data(body)
            if clean != body:
                body, headers = clean, [pair for pair in headers if pair[0] != b"content-length"]
        await self._say(
            work,
            name,
            "answered",
            call_id=audience.call_id.decode("latin-1"),
            status=status if kept else None,
            headers=tuple(headers),
            body=body,
        )

    async def _say(
        self, work: Work, name: tuple[str, str], state: KeyState | None, **more: Any
    ) -> None:
        """Write once what became of a key; ``None`` frees it."""
        if work.settled:
            return
        work.settled = True
        try:
            if state is None:
                await _in_thread(self._book.release_key, *name, self._owner)
            else:
                await _in_thread(self._book.settle_key, *name, self._owner, state, **more)
        except StoreError:
            # The row stays open; who repeats the request is told that nobody knows.
            log.exception("what became of an idempotency key could not be kept")

    # -- the others --

    async def _as_found(self, row: KeyRow, payload: bytes, wire: Wire) -> bool:
        """Answer by what the store knows; ``False`` when another process is at work on it."""
        if row.request_hash != payload:
            raise _reused()
        if row.state == "answered":
            if row.status is None:
                raise _gone(row)
            await _in_thread(self._book.replayed, row.principal, row.key)
            await wire.whole(row.status, [*row.headers, REPLAYED], row.body)
            return True
        if row.state == "unknown":
            raise _unknown()
        rules = self._rules()
        since = self._clock.now_us() - rules.owner_timeout_us
        alive = row.owner != self._owner and await _in_thread(self._book.alive, row.owner, since)
        if not alive:
            await _in_thread(self._book.settle_key, row.principal, row.key, row.owner, "unknown")
            raise _unknown()
        if rules.refuse:
            raise _in_flight()
        return False

    async def stop(self, grace_s: float) -> None:
        """Let what is under way end for so long, then cut it."""
        tasks = [work.task for work in self._works.values() if work.task is not None]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=grace_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=5)


async def _known(work: Work) -> KeyRow | None:
    """Whose the key is: ``None`` where it is this work's. Raises ``CallError``."""
    found = await asyncio.shield(work.claimed)
    if isinstance(found, CallError):
        raise found
    return found


async def _in_thread(call: Callable[..., T], *args: Any, **more: Any) -> T:
    """Ask the store, to the end also when the task is cancelled meanwhile."""
    asking = asyncio.ensure_future(asyncio.to_thread(call, *args, **more))
    try:
        return await asyncio.shield(asking)
    except asyncio.CancelledError:
        await asyncio.wait([asking])
        raise


# -- what a repeat is told --


def _reused() -> CallError:
    return BadRequest(
        "This Idempotency-Key was used for another request. Send the same request again, or give "
        "this one a key of its own.",
        status=422,
        code="idempotency_key_reused",
    )


def _in_flight() -> CallError:
    return Conflict(
        "The first request with this Idempotency-Key is still under way. Try again in a moment.",
        code="idempotency_key_in_flight",
        retryable=True,
        retry_after_s=1,
    )


def _gone(row: KeyRow) -> CallError:
    named = f" (call {row.call_id})" if row.call_id else ""
    return Conflict(
        f"This request was done{named}, and its answer was too large to keep "
        "(`idempotency.max_answer_bytes`). Use a new Idempotency-Key to have it done again.",
        code="idempotency_answer_gone",
    )


def _unknown() -> CallError:
    return Conflict(
        "The first request with this Idempotency-Key was cut off in the middle, and nobody can "
        "tell whether it was done: the upstream may have answered and billed it. Look there if it "
        "matters; use a new Idempotency-Key to have it done (maybe again).",
        code="idempotency_unknown",
    )


def _no_store() -> CallError:
    return Unavailable(
        "Whether this Idempotency-Key was used cannot be looked up now, so nothing was done. Try "
        "again.",
        code="idempotency_unavailable",
    )
