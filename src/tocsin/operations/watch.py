"""``Watch``: what a process does beside its work: it shows that it lives, takes over what others
left, cuts what is due, and forgets what has expired."""

import asyncio
import contextlib
import logging

import msgspec

from tocsin.core.call import Principal
from tocsin.core.errors import StoreError
from tocsin.core.operations import Operation
from tocsin.operations.endings import cut_ending
from tocsin.operations.owners import is_gone
from tocsin.operations.runner import Runner
from tocsin.store.operations_api import OperationFilter, Written

log = logging.getLogger("tocsin.operations")

_CARE_EVERY = 60
"""Looks from one search for what has expired, or was dropped, to the next."""
_LIMIT = 100
_PACK_AT_ONCE = 32
_PACK_S = 0.25
"""Packing waits so long for more of the same."""
_PACK_SOON = 1000
"""Where so many wait, it does not."""


class _Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at the store found."""

    claimed: tuple[Operation, ...] = ()
    cancels: tuple[str, ...] = ()
    due: tuple[Operation, ...] = ()


class Watch:
    """The background tasks of one engine."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._stir = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._trust_at = 0.0
        self.backlog = False
        """Whether operations may be queued that nobody has claimed."""
        self.contexts: dict[str, tuple[Principal, object]] = {}
        """What came with operations that this process has queued."""
        runner.freed = self.freed

    async def start(self) -> None:
        """Take over from dead processes of this machine, then look on."""
        await self._runner.beat()
        await self._retire_dead()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._look_on()), loop.create_task(self._pack())]

    async def stop(self) -> None:
        """Look no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def stir(self) -> None:
        """Look at once."""
        self._stir.set()

    def freed(self) -> None:
        """A place for background work is free."""
        if self.backlog:
            self._stir.set()

    async def _retire_dead(self) -> None:
        """What a killed process of this machine owned is anybody's without waiting."""
        runner = self._runner
        page = await runner.threads.read(
            runner.book.operations, OperationFilter(status="running"), limit=1000
        )
        for owner in {row.owner for row in page.rows if row.owner is not None}:
            if owner != runner.owner and is_gone(owner):
                await runner.threads.write(runner.book.retire, owner)

    # -- looking --

    async def _look_on(self) -> None:
        looks = 0
        while True:
            try:
                await self._look()
                if looks % _CARE_EVERY == 0:
                    await self._expire()
                    await self._let_go()
                    await self._resume()
            except StoreError as error:
                log.error("operations cannot be looked after (%s)", error)
            except Exception:
                log.exception("operations cannot be looked after")
            looks += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s()):
                    await self._stir.wait()
            self._stir.clear()

    def _pause_s(self) -> float:
        """How long until the next look: a deadline may be sooner than the next poll."""
        runner = self._runner
        now = runner.clock.now_us()
        pause = runner.settings().poll_s
        for live in runner.lives.values():
            deadline = live.operation.deadline_at
            if deadline is not None and live.cut is None:
                pause = min(pause, (deadline - now) / 1_000_000)
        return max(0.002, pause)

    async def _look(self) -> None:
        runner = self._runner
        settings = runner.settings()
        timeout_s = settings.owner_timeout_s
        await self._beat(timeout_s)
        self._cut_due()
        places = 0 if runner.stopping else max(0, settings.concurrency - runner.busy)
        seen = await runner.threads.write(
            self._see,
            runner.clock.now_us(),
            places,
            bool(runner.lives),
            self._dead_before(timeout_s),
        )
        if places:
            self.backlog = len(seen.claimed) >= places
            if not self.backlog:
                self._forget_contexts(seen)
        for operation in seen.claimed:
            await self._adopt(operation)
        for operation_id in seen.cancels:
            await runner.cancel(operation_id, "")
        for operation in seen.due:
            await self._end_due(operation)

    async def _beat(self, timeout_s: float) -> None:
        """Show that this process lives, if it is time."""
        runner = self._runner
        every_s = min(5.0, timeout_s / 4)
        silent_s = runner.silent_s()
        if silent_s < every_s:
            return
        if silent_s > timeout_s:
            self._trust_at = asyncio.get_running_loop().time() + 1.5 * every_s
        await runner.beat()

    def _dead_before(self, timeout_s: float) -> int:
        """Whoever has not beaten since then is dead. When time has jumped (the machine was
        suspended), the others get time to beat before they are taken for dead."""
        if asyncio.get_running_loop().time() < self._trust_at:
            return 0
        return self._runner.clock.now_us() - round(timeout_s * 1_000_000)

    def _see(self, now: int, places: int, runs: bool, dead_before: int) -> _Seen:
        """All that a look asks the store, in its thread."""
        book, owner = self._runner.book, self._runner.owner
        claimed = []
        if places:
            claimed = book.claim(owner, now, dead_before=dead_before, limit=places)
        cancels = book.cancels(owner) if runs else []
        due = [] if self._runner.stopping else book.due(now, _LIMIT)
        return _Seen(claimed=tuple(claimed), cancels=tuple(cancels), due=tuple(due))

    def _cut_due(self) -> None:
        """Cut what runs here past its deadline, and again what did not listen."""
        runner = self._runner
        now = runner.clock.now_us()
        for live in list(runner.lives.values()):
            deadline = live.operation.deadline_at
            if live.cut is not None:
                runner.cut(live, live.cut)
            elif deadline is not None and deadline <= now:
                runner.cut(live, "timeout")

    async def _adopt(self, operation: Operation) -> None:
        if operation.id in self._runner.lives:
            return
        principal, context = self.contexts.pop(operation.id, (None, None))
        try:
            await self._runner.adopt(operation, context, principal or principal_of(operation))
        except Exception:
            log.exception("operation %s was claimed and cannot be run", operation.id)

    def _forget_contexts(self, seen: _Seen) -> None:
        """Nothing is queued any more: what other processes took needs no context here."""
        claimed = {operation.id for operation in seen.claimed}
        self.contexts = {key: one for key, one in self.contexts.items() if key in claimed}

    async def _end_due(self, operation: Operation) -> None:
        """End what nobody runs and is past its deadline, or was asked to end."""
        runner = self._runner
        if operation.id in runner.lives or operation.status not in ("queued", "waiting"):
            return
        timeout = operation.cancel_at is None
        await runner.end_idle(operation, cut_ending(operation, timeout=timeout))

    # -- forgetting --

    async def _expire(self) -> None:
        runner = self._runner
        while True:
            ids = await runner.threads.read(runner.book.expired, runner.clock.now_us(), _LIMIT)
            for operation_id in ids:
                await runner.threads.write(runner.book.delete_operation, operation_id)
            if len(ids) < _LIMIT:
                return

    async def _let_go(self) -> None:
        """Give back what is this process's in the store, and runs nowhere: it was dropped when the
        store could not be written."""
        runner = self._runner
        where = OperationFilter(status="running")
        page = await runner.threads.read(runner.book.operations, where, limit=1000)
        mine = [row.id for row in page.rows if row.owner == runner.owner]
        left = [
            Written(operation_id=key, changes={"owner": None}, owner=runner.owner)
            for key in mine
            if key not in runner.lives
        ]
        if left:
            await runner.threads.write(runner.book.write, left)

    async def _resume(self) -> None:
        """Let go on what has its answer and waits all the same: whoever took the answer died."""
        runner = self._runner
        where = OperationFilter(status="waiting")
        page = await runner.threads.read(runner.book.operations, where, limit=1000)
        for row in page.rows:
            if row.waiting_for is None:
                continue
            step = await runner.threads.read(runner.book.step, row.waiting_for)
            if step is not None and step.state != "asked" and step.ended_at is not None:
                await runner.requeue(row, max(0, step.ended_at - step.begun_at))

    async def _pack(self) -> None:
        """Pack the events of what has ended, a few operations at a time: calls come first."""
        runner = self._runner
        while True:
            ids = [await runner.packing.get()]
            if runner.packing.qsize() < _PACK_SOON:
                await asyncio.sleep(_PACK_S)
            while len(ids) < _PACK_AT_ONCE and not runner.packing.empty():
                ids.append(runner.packing.get_nowait())
            try:
                await runner.threads.read(runner.book.pack, *ids)
            except StoreError as error:
                log.warning("events of operations stay unpacked: %s (%s)", ", ".join(ids), error)
            except Exception:
                log.exception("events of operations cannot be packed: %s", ", ".join(ids))


def principal_of(operation: Operation) -> Principal:
    """Whom an operation belongs to, after a restart: it may do what the operation needs."""
    return Principal(
        key_id=operation.key_id,
        name=operation.key_name,
        role="anonymous" if operation.key_id is None else "caller",
        features=(operation.feature,) if operation.key_id is not None else (),
    )
