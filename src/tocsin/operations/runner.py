"""``Runner``: runs the work of operations and writes how it ends."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from tocsin.core.call import Principal
from tocsin.core.clock import Clock
from tocsin.core.errors import Unavailable
from tocsin.core.operations import Ending, Kind, Operation, Parked
from tocsin.operations.endings import (
    End,
    Told,
    cut_ending,
    effects_of,
    end_of,
    ending_of,
    payload,
)
from tocsin.operations.live import Cut, Live
from tocsin.operations.log import Log
from tocsin.operations.settings import Settings
from tocsin.operations.threads import Threads
from tocsin.operations.work import Ask, Job
from tocsin.store.operations_api import OperationFilter, OperationsBook, Written

log = logging.getLogger("tocsin.operations")

_AT_A_TURN = 4
"""So many operations begin to work at one turn of the loop."""
_AGAIN_S = 5.0
"""Work that is cut and goes on all the same is cut again after this long."""
MOST_RESTARTS = 100
"""An operation whose process died so often is not tried again: it may be what kills it."""


class Runner:
    """The operations that this process runs."""

    def __init__(
        self,
        book: OperationsBook,
        clock: Clock,
        threads: Threads,
        *,
        settings: Callable[[], Settings],
        kinds: Iterable[Kind],
        ask: Ask,
        told: Told,
        owner: str,
    ) -> None:
        self.book = book
        self.clock = clock
        self.threads = threads
        self.settings = settings
        self.kinds = {kind.name: kind for kind in kinds}
        self.ask = ask
        self.owner = owner
        self.lives: dict[str, Live] = {}
        self.log = Log(book, threads, clock, owner, self._lose)
        self.stopping = False
        self.beaten_at = 0.0
        self.beaten_us = 0
        """By the loop's clock, and by the wall's: when this process last showed that it lives."""
        self.freed: Callable[[], None] = lambda: None
        """Called when a place for background work is free."""
        self.packing: asyncio.Queue[str] = asyncio.Queue()
        self.children: Callable[[Live, Operation, bytes], Awaitable[Operation]]
        """Starts a child and waits for its end."""
        self._told = told
        self._finishing: set[asyncio.Task[None]] = set()
        self._begun: deque[Live] = deque()
        """In the store, and about to run."""
        self._places: set[str] = set()
        """Operations that take a place for background work."""

    @property
    def busy(self) -> int:
        """How many places for background work are taken."""
        return len(self._places)

    # -- starting --

    def hold(
        self,
        operation: Operation,
        principal: Principal,
        body: bytes,
        context: Any,
        *,
        slot: bool,
        restarted: bool,
    ) -> Live:
        """Take an operation into memory."""
        live = Live(
            operation,
            self.kinds[operation.kind],
            principal,
            body,
            context,
            slot=slot,
            restarted=restarted,
        )
        self.lives[operation.id] = live
        if slot:
            self._places.add(operation.id)
        return live

    def release(self, live: Live) -> None:
        """Take it out of memory."""
        operation_id = live.operation.id
        if self.lives.get(operation_id) is live:
            del self.lives[operation_id]
            self._places.discard(operation_id)
            if live.slot:
                self.freed()

    def begin(self, live: Live) -> None:
        """Begin the work of a new operation soon. A few begin at each turn of the loop: in a crowd
        those who follow have their first events before all that work is under way."""
        self.log.topic(live.operation.id).begin(0)
        self._begun.append(live)
        if len(self._begun) == 1:
            asyncio.get_running_loop().call_soon(self._run_some)

    def _run_some(self) -> None:
        for _ in range(min(_AT_A_TURN, len(self._begun))):
            self._run(self._begun.popleft())
        if self._begun:
            asyncio.get_running_loop().call_soon(self._run_some)

    def run(self, live: Live, first: int) -> None:
        """Begin its work. Events from ``first`` on are shown here."""
        self.log.topic(live.operation.id).begin(first)
        self._run(live)

    def _run(self, live: Live) -> None:
        if live.cut is not None:
            self._finish_soon(live, None)
            return
        live.task = asyncio.get_running_loop().create_task(_worked(live.kind, Job(self, live)))
        live.task.add_done_callback(lambda task: self._finish_soon(live, task))

    async def adopt(self, operation: Operation, context: Any, principal: Principal) -> None:
        """Run an operation that was claimed from its beginning, or write its end if it has none
        before it."""
        verdict = self._verdict(operation)
        if verdict is not None:
            await self.end_idle(operation, verdict)
            return
        restarted = operation.started_at is not None
        live = self.hold(operation, principal, b"", context, slot=True, restarted=restarted)
        try:
            # Looked at again: it may have been ended before it was in memory here.
            body = await self.threads.read(self.book.body, operation.id)
            live.body = body or b""
            now = await self.threads.read(self.book.operation, operation.id)
        except BaseException:
            self.release(live)
            raise
        if now is None or now.owner != self.owner:
            self.release(live)
            return
        started_at = operation.started_at or self.clock.now_us()
        live.change({"status": "running", "started_at": started_at})
        if not live.kind.quiet and live.cut is None:
            self.say(live, "operation.resumed" if restarted else "operation.started", {})
        self.run(live, operation.events)
        self.log.write(live)

    def _verdict(self, operation: Operation) -> Ending | None:
        """How an operation ends that was claimed and is not to be run."""
        deadline = operation.deadline_at
        if operation.cancel_at is not None:
            return cut_ending(operation, timeout=False)
        if deadline is not None and deadline <= self.clock.now_us():
            return cut_ending(operation, timeout=True)
        if operation.kind not in self.kinds:
            return Ending(
                outcome="error",
                error_type="unknown_kind",
                error_message=f"Nothing that is installed works on the kind {operation.kind!r}.",
            )
        if operation.restarts > MOST_RESTARTS:
            return Ending(
                outcome="error",
                error_type="restarted_too_often",
                error_message=f"Its process died {operation.restarts} times.",
            )
        return None

    def say(self, live: Live, type: str, data: dict[str, Any]) -> None:  # noqa: A002 - wire's word
        """Note an event of the engine's own."""
        about = {"operation": live.operation.id, "restarts": live.operation.restarts, **data}
        number = live.operation.events
        live.add(type, payload(type, number, about), self.clock.now_us())

    # -- cutting --

    def cut(self, live: Live, why: Cut) -> None:
        """End its work, for the first reason that is given."""
        now = asyncio.get_running_loop().time()
        if live.cut is None or (why in ("stopped", "lost") and not live.gone):
            live.cut = why
        elif now - live.cut_at < _AGAIN_S:
            return
        live.cut_at = now
        if live.task is not None and not live.finishing:
            live.task.cancel()

    def _lose(self, live: Live) -> None:
        if not live.finishing:
            log.warning("operation %s is not this process's any more", live.operation.id)
        self.cut(live, "lost")

    # -- ending --

    def _finish_soon(self, live: Live, task: "asyncio.Task[Ending] | None") -> None:
        live.finishing = True
        finishing = asyncio.get_running_loop().create_task(self._finish(live, task))
        self._finishing.add(finishing)
        finishing.add_done_callback(self._finishing.discard)

    async def _finish(self, live: Live, task: "asyncio.Task[Ending] | None") -> None:
        """Write what the end of its work means."""
        ended = False
        try:
            ending, error = _of(task)
            if self.stopping and isinstance(error, Unavailable):
                live.cut = "stopped"  # This process was of no more use to it: the next one is.
            if live.gone:
                return
            if isinstance(error, Parked) and live.cut is None:
                await self._park(live)
                return
            ended = await self._end(live, ending, error)
        except Exception:
            log.exception("the end of operation %s cannot be written", live.operation.id)
        finally:
            self._drop(live, ended=ended)

    def _drop(self, live: Live, *, ended: bool) -> None:
        self.log.close(live.operation.id, ended=ended)
        if ended:
            self.packing.put_nowait(live.operation.id)
        self.release(live)

    async def _end(self, live: Live, ending: Ending | None, error: BaseException | None) -> bool:
        given = ending is not None
        if ending is None:
            ending = self._meant(live, error)
        elif live.cut == "timeout" and ending.outcome == "cancelled":
            ending = msgspec.structs.replace(ending, outcome="timeout")
        if live.parents:
            await self.cancel_children(live.operation.id)
        effects = await self._effects(live.operation.id) if live.effects else []
        end = self.ended(live.operation, live.body, ending, given=given, effects=effects)
        live.end(end.operation, end.changes, end.events)
        live.result, live.deliveries = end.result, end.deliveries
        await asyncio.shield(self.log.write(live))
        return live.stored.status == "ended"

    def _meant(self, live: Live, error: BaseException | None) -> Ending:
        """The end that work has which gave none."""
        if live.cut in ("cancelled", "timeout"):
            return cut_ending(live.operation, timeout=live.cut == "timeout")
        if error is None or isinstance(error, asyncio.CancelledError):
            message = "Its work was cut from inside."
            return Ending(outcome="error", error_type="internal_error", error_message=message)
        ending = ending_of(error)
        if ending.error_type == "internal_error":
            log.error("operation %s failed", live.operation.id, exc_info=error)
        return ending

    def ended(
        self,
        operation: Operation,
        body: bytes,
        ending: Ending,
        *,
        given: bool,
        effects: list[dict[str, str]],
    ) -> End:
        """All that is to be written of an end."""
        return end_of(
            operation,
            self.kinds.get(operation.kind),
            body,
            ending,
            given=given,
            effects=effects,
            now=self.clock.now_us(),
            keep_us=self.settings().keep_us,
            told=self._told,
        )

    async def end_idle(self, operation: Operation, ending: Ending) -> bool:
        """End an operation that nobody runs. ``False``: somebody was quicker."""
        body = await self.threads.read(self.book.body, operation.id) or b""
        effects = await self._effects(operation.id)
        await self.cancel_children(operation.id)
        end = self.ended(operation, body, ending, given=False, effects=effects)
        expect = operation.status
        written = end.written(owner=operation.owner, expect=expect)
        kept = await self.threads.write(self.book.write, [written])
        if kept[0]:
            self.log.topic(operation.id).wake()
            self.log.drop(operation.id)
            self.packing.put_nowait(operation.id)
        return kept[0]

    async def _effects(self, operation_id: str) -> list[dict[str, str]]:
        """What an operation did to the world. Nobody goes on with it: what was only begun is
        unknown."""
        steps = await self.threads.read(self.book.steps, operation_id)
        begun = [step for step in steps if step.effect and step.state == "begun"]
        for step in begun:
            now = self.clock.now_us()
            await self.threads.write(self.book.settle_step, step.key, "unknown", None, now)
        if begun:
            steps = await self.threads.read(self.book.steps, operation_id)
        return effects_of(steps)

    # -- waiting for a person --

    async def _park(self, live: Live) -> None:
        key = live.waiting_for
        live.change({"status": "waiting", "waiting_for": key, "owner": None})
        if not live.kind.quiet:
            self.say(live, "operation.waiting", {"step": key, "question": live.question})
        await asyncio.shield(self.log.write(live))
        if live.gone:
            return
        operation = live.stored
        if live.cut is not None:
            await self.end_idle(operation, cut_ending(operation, timeout=live.cut == "timeout"))

    async def requeue(self, operation: Operation, waited_us: int) -> bool:
        """Let an operation that waited go on, here or elsewhere. Its deadline moves by the time
        in which it did not run."""
        changes: dict[str, Any] = {"status": "queued", "waiting_for": None}
        if operation.deadline_at is not None:
            changes["deadline_at"] = operation.deadline_at + waited_us
        written = Written(operation_id=operation.id, changes=changes, expect="waiting")
        kept = await self.threads.write(self.book.write, [written])
        return kept[0]

    # -- children --

    async def cancel_children(self, operation_id: str) -> None:
        """Cancel the children that have not ended, and theirs."""
        cursor: str | None = None
        while True:
            page = await self.threads.read(
                self.book.operations,
                OperationFilter(parent_id=operation_id),
                limit=100,
                cursor=cursor,
            )
            open_ = [row for row in page.rows if row.status != "ended"]
            await asyncio.gather(*(self.cancel(row.id, "its parent") for row in open_))
            cursor = page.next
            if cursor is None:
                return

    async def cancel(self, operation_id: str, by: str) -> Operation | None:
        """Ask that it ends, and see to it as far as this process can. The operation as it stands
        then; ``None``: there is none."""
        now = self.clock.now_us()
        operation = await self.threads.write(self.book.request_cancel, operation_id, by, now)
        for _ in range(3):
            if operation is None or operation.status == "ended":
                return operation
            live = self.lives.get(operation_id)
            if live is not None:
                asked = {"cancel_at": operation.cancel_at, "cancel_by": operation.cancel_by}
                live.operation = msgspec.structs.replace(live.operation, **asked)
                live.stored = msgspec.structs.replace(live.stored, **asked)
                self.cut(live, "cancelled")
                return operation
            if operation.status == "running":
                return operation  # Its own process sees to it, or whoever takes it over.
            if await self.end_idle(operation, cut_ending(operation, timeout=False)):
                break
            operation = await self.threads.read(self.book.operation, operation_id)
        return await self.threads.read(self.book.operation, operation_id)

    # -- stopping --

    async def settle(self, grace_s: float) -> None:
        """Wait so long for what runs, then let go of it: another process goes on with it."""
        while self._begun:
            self._run(self._begun.popleft())
        tasks = self._tasks()
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        for live in list(self.lives.values()):
            self.cut(live, "stopped")
        if tasks := self._tasks():
            await asyncio.wait(tasks, timeout=_AGAIN_S)

    def _tasks(self) -> list["asyncio.Task[Any]"]:
        running = [live.task for live in self.lives.values() if live.task is not None]
        return [*running, *self._finishing]

    # -- being the owner --

    async def beat(self) -> None:
        """Show that this process lives."""
        began, now = asyncio.get_running_loop().time(), self.clock.now_us()
        await self.threads.write(self.book.beat, self.owner, now)
        self.beaten_at, self.beaten_us = began, now

    def silent_s(self) -> float:
        """How long ago that was, by the clock that says more: one stands still while the machine
        is suspended, the other may be set."""
        wall = (self.clock.now_us() - self.beaten_us) / 1_000_000
        return max(wall, asyncio.get_running_loop().time() - self.beaten_at)

    async def sure(self, live: Live) -> None:
        """Raises ``CancelledError`` unless the operation is certainly still this process's.

        A process that stood still for long (a suspended machine) may have been taken for dead, and
        must not act on the world before it has looked.
        """
        if live.gone:
            raise asyncio.CancelledError
        if self.silent_s() > self.settings().owner_timeout_s / 2:
            await self.beat()
            found = await self.threads.read(self.book.operation, live.operation.id)
            if found is None or found.owner != self.owner:
                self._lose(live)
                raise asyncio.CancelledError

    async def child_of(self, live: Live, operation: Operation, body: bytes) -> Operation:
        """Start a child, or find it, and wait for its end. Meanwhile the parent takes no place for
        background work: its child may need one."""
        live.parents = True
        live.lent += 1
        if live.slot and live.lent == 1:
            self._places.discard(live.operation.id)
            self.freed()
        try:
            return await self.children(live, operation, body)
        except Unavailable:
            if self.stopping:
                await asyncio.get_running_loop().create_future()  # It is cut in a moment.
            raise
        finally:
            live.lent -= 1
            if live.slot and not live.lent and self.lives.get(live.operation.id) is live:
                self._places.add(live.operation.id)


async def _worked(kind: Kind, job: Job) -> Ending:
    return await kind.run(job)


def _of(task: "asyncio.Task[Ending] | None") -> tuple[Ending | None, BaseException | None]:
    """What work gave: an end, or an error."""
    if task is None or task.cancelled():
        return None, asyncio.CancelledError()
    error = task.exception()
    if error is not None:
        return None, error
    ending: object = task.result()
    if not isinstance(ending, Ending):
        return None, TypeError(f"its work returned {type(ending).__name__}, no Ending")
    return ending, None
