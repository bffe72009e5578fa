"""``Operations``: durable work, from its creation to its end.

Every operation is in the store before ``create`` returns. The process that runs one owns it and
beats; when it is dead, another claims what it owned and runs it again from its beginning, with all
steps remembered. Every write names its owner, so a process that was wrongly taken for dead writes
nothing more.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jsonschema_rs
import msgspec

from tocsin.core.call import Principal
from tocsin.core.clock import Clock
from tocsin.core.errors import BadRequest, InputError, NotFound, Unavailable
from tocsin.core.operations import Event, Kind, Operation
from tocsin.operations.births import Births
from tocsin.operations.endings import Told, nobody, payload
from tocsin.operations.live import Live
from tocsin.operations.owners import new_owner
from tocsin.operations.runner import Runner
from tocsin.operations.settings import Settings
from tocsin.operations.threads import Threads
from tocsin.operations.watch import Watch
from tocsin.operations.work import Ask
from tocsin.store.operations_api import OperationsBook

WAITED = "nobody came back for it"
"""Message of a cancellation after which ``attending`` does not linger: that was done already."""

_CANCEL_S = 10.0
"""How long ``cancel`` waits for an end that this process sees to."""
_ELSEWHERE_S = 5.0
"""The same for one that runs in another process."""
_SOON_S = 0.03
"""How soon a follower looks at the store again at first; each time after that later."""
_PAGE = 500


class Operations:
    """The engine of one process. Used on one event loop; the store is asked in threads."""

    def __init__(
        self,
        book: OperationsBook,
        clock: Clock,
        *,
        settings: Callable[[], Settings],
        kinds: Iterable[Kind],
        ask: Ask,
        told: Told = nobody,
        owner: str | None = None,
    ) -> None:
        self._book = book
        self._clock = clock
        self._threads = Threads()
        self._births = Births(book, self._threads)
        self._settings = settings
        self._runner = Runner(
            book,
            clock,
            self._threads,
            settings=settings,
            kinds=kinds,
            ask=ask,
            told=told,
            owner=owner or new_owner(),
        )
        self._runner.children = self._child
        self._watch = Watch(self._runner)
        self._schemas = {
            kind.name: jsonschema_rs.validator_for(dict(kind.schema))
            for kind in self._runner.kinds.values()
            if kind.schema is not None
        }
        self._attending: dict[str, int] = {}
        self._leaving: dict[str, asyncio.TimerHandle] = {}
        self._cutting: set[asyncio.Task[Any]] = set()

    @property
    def owner(self) -> str:
        """This process's name in the store."""
        return self._runner.owner

    @property
    def kinds(self) -> dict[str, Kind]:
        """What it works on, by name."""
        return dict(self._runner.kinds)

    @property
    def running(self) -> int:
        """How many operations this process runs now."""
        return len(self._runner.lives)

    # -- life --

    async def start(self) -> None:
        """Begin to work: take over what dead processes left, watch deadlines and cancels."""
        await self._watch.start()

    async def stop(self, grace_s: float) -> None:
        """Wait so long for what runs here, leave the rest to other processes, and close. Those who
        follow something unfinished get ``Unavailable``."""
        runner = self._runner
        if runner.stopping:
            return
        runner.stopping = True
        for timer in self._leaving.values():
            timer.cancel()
        await runner.settle(grace_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                await self._drained()
        await self._watch.stop()
        await self._threads.write(self._book.retire, self.owner)
        runner.log.wake_all()
        await asyncio.sleep(0)
        self._threads.close()

    async def _drained(self) -> None:
        await self._births.drained()
        await self._runner.log.drained()

    # -- creating --

    async def create(
        self,
        operation: Operation,
        body: bytes,
        *,
        principal: Principal,
        context: Any = None,
        events: Sequence[tuple[str, bytes]] = (),
    ) -> Operation:
        """Keep an operation and begin it; one whose id is known is returned as it stands.

        ``events`` are the first of its log, as they are. A background one waits its turn while
        ``settings.concurrency`` others run. Raises ``BadRequest`` for an unknown kind, or a body
        that its schema refuses.
        """
        if self._runner.stopping:
            raise Unavailable("Tocsin is stopping: try again.")
        self._check(operation.kind, body)
        if operation.id in self._runner.lives:
            return await self.get(operation.id, principal)
        operation, born = self._begin(operation, body, principal, context, events)
        try:
            new = await asyncio.shield(born)
        except asyncio.CancelledError:
            # It may be in the store already: then it runs, as for a caller who left.
            born.add_done_callback(lambda _: self._left(operation.id))
            raise
        return operation if new else await self.get(operation.id, principal)

    def _check(self, kind: str, body: bytes) -> None:
        if kind not in self._runner.kinds:
            known = ", ".join(sorted(self._runner.kinds)) or "none"
            raise BadRequest(f"kind: {kind!r} is not one of {known}.", param="kind")
        schema = self._schemas.get(kind)
        if schema is None:
            return
        try:
            schema.validate(msgspec.json.decode(body))
        except msgspec.DecodeError as error:
            raise BadRequest(f"input: it is not valid JSON: {error}.", param="input") from None
        except jsonschema_rs.ValidationError as error:
            raise BadRequest(f"input: {error.message}", param="input") from None

    def _begin(
        self,
        operation: Operation,
        body: bytes,
        principal: Principal,
        context: Any,
        events: Sequence[tuple[str, bytes]],
        *,
        child: bool = False,
    ) -> "tuple[Operation, asyncio.Future[bool]]":
        """Have it kept; it runs as soon as it is."""
        runner = self._runner
        background = operation.background and not child
        starts = not background or self._has_place()
        operation, log = self._made(operation, starts, events)
        live = None
        if starts:
            live = runner.hold(
                operation, principal, body, context, slot=background, restarted=False
            )
        else:
            self._watch.contexts[operation.id] = (principal, context)
            self._watch.backlog = True
        born = self._births.keep(operation, body, log)
        born.add_done_callback(partial(self._born, operation.id, live, log))
        return operation, born

    def _born(
        self, operation_id: str, live: Live | None, log: list[Event], born: "asyncio.Future[bool]"
    ) -> None:
        """It is in the store, or will not be."""
        if born.cancelled() or born.exception() is not None or not born.result():
            self._unmade(operation_id, live)
        elif live is not None:
            self._runner.begin(live)
            self._runner.log.topic(operation_id).publish(log)

    def _has_place(self) -> bool:
        """Whether background work may begin at once: not before what waits already."""
        return not self._watch.backlog and self._runner.busy < self._settings().concurrency

    def _unmade(self, operation_id: str, live: Live | None) -> None:
        self._watch.contexts.pop(operation_id, None)
        if live is not None:
            self._runner.release(live)

    def _made(
        self, operation: Operation, starts: bool, events: Sequence[tuple[str, bytes]]
    ) -> tuple[Operation, list[Event]]:
        """The operation as it is kept, and its first events."""
        kind = self._runner.kinds[operation.kind]
        now = self._clock.now_us()
        deadline_us = self._settings().deadline_us
        deadline_at = operation.deadline_at
        if deadline_at is None and deadline_us is not None:
            deadline_at = operation.created_at + deadline_us
        about = {"operation": operation.id, "kind": kind.name}
        first: list[tuple[str, bytes]] = list(events)
        if not kind.quiet:
            first.insert(0, ("operation.created", payload("operation.created", 0, about)))
            if starts:
                started = payload("operation.started", len(first), about)
                first.append(("operation.started", started))
        log = [Event(number, type_, now, data) for number, (type_, data) in enumerate(first)]
        made = msgspec.structs.replace(
            operation,
            status="running" if starts else "queued",
            owner=self.owner if starts else None,
            started_at=now if starts else None,
            deadline_at=deadline_at,
            events=len(log),
        )
        return made, log

    async def _child(self, live: Live, operation: Operation, body: bytes) -> Operation:
        """Start a child, or find it, and wait for its end."""
        self._check(operation.kind, body)
        made = None
        if live.restarted:
            made = await self._threads.read(self._book.operation, operation.id)
        if made is None:
            made, born = self._begin(operation, body, live.principal, live.context, (), child=True)
            if not await asyncio.shield(born):
                made = await self.get(operation.id, live.principal)
        if made.status == "ended":
            return made
        self._watch.stir()
        return await self.ended(made.id)

    # -- looking --

    async def get(self, operation_id: str, principal: Principal | None = None) -> Operation:
        """It as it stands in the store. Raises ``NotFound``, also for one that is not the
        principal's; ``None`` may see every one."""
        live = self._runner.lives.get(operation_id)
        found = live.stored if live is not None and live.task is not None else None
        if found is None:
            found = await self._threads.read(self._book.operation, operation_id)
        if found is None or (principal is not None and found.key_id != principal.key_id):
            raise NotFound(f"There is no operation {operation_id!r}.")
        return found

    async def body(self, operation_id: str) -> bytes:
        """What it was asked for. Raises ``NotFound``."""
        body = await self._threads.read(self._book.body, operation_id)
        if body is None:
            raise NotFound(f"There is no operation {operation_id!r}.")
        return body

    async def result(self, operation_id: str) -> bytes | None:
        """What came of it; ``None`` until it has ended."""
        return await self._threads.read(self._book.result, operation_id)

    async def follow(self, operation_id: str, *, after: int = -1) -> AsyncIterator[Event]:
        """Its events behind the number ``after``, as they come, until it has ended.

        The same bytes for everybody and at any time, wherever it runs. Raises ``NotFound``, and
        ``Unavailable`` when this process stops first.
        """
        async with contextlib.aclosing(self.groups(operation_id, after=after)) as groups:
            async for group in groups:
                for event in group:
                    yield event

    async def groups(
        self, operation_id: str, *, after: int = -1
    ) -> AsyncGenerator[Sequence[Event], None]:
        """As ``follow``, but together what there is at one moment: sent in one piece it costs a
        fraction."""
        topic = self._runner.log.topic(operation_id)
        topic.followers += 1
        try:
            wait = _SOON_S
            while True:
                if topic.live or topic.ended:
                    found = topic.since(after)
                    if found is None:
                        found = await self._stored(operation_id, after)
                    over = topic.ended and not found
                else:
                    operation = await self.get(operation_id)
                    found = await self._stored(operation_id, after)
                    over = operation.status == "ended" and not found
                if found:
                    after = found[-1].number
                    yield found
                if over:
                    return
                wait = _SOON_S if found else min(wait * 1.5, self._settings().poll_s)
                if not found:
                    self._check_open(operation_id)
                    await topic.changed(None if topic.live else wait)
        finally:
            topic.followers -= 1
            self._runner.log.drop(operation_id)

    async def _stored(self, operation_id: str, after: int) -> list[Event]:
        return await self._threads.read(self._book.events, operation_id, after=after, limit=_PAGE)

    def _check_open(self, operation_id: str) -> None:
        if self._runner.stopping and operation_id not in self._runner.lives:
            raise Unavailable(f"Tocsin is stopping: ask for {operation_id} again.")

    async def ended(self, operation_id: str, timeout_s: float | None = None) -> Operation:
        """Wait for its end. Raises ``TimeoutError`` when there is none in so many seconds."""
        async with asyncio.timeout(timeout_s):
            return await self._ended(operation_id)

    async def _ended(self, operation_id: str) -> Operation:
        topic = self._runner.log.topic(operation_id)
        topic.followers += 1
        wait = _SOON_S
        try:
            while True:
                if not topic.live or topic.ended:
                    operation = await self.get(operation_id)
                    if operation.status == "ended":
                        return operation
                    self._check_open(operation_id)
                await topic.changed(None if topic.live and not topic.ended else wait)
                wait = min(wait * 1.5, self._settings().poll_s)
        finally:
            topic.followers -= 1
            self._runner.log.drop(operation_id)

    @contextlib.contextmanager
    def attending(self, operation_id: str) -> Iterator[None]:
        """Somebody waits for a foreground operation. When the last one leaves it is cancelled,
        after ``settings.linger_s``, unless somebody comes for it meanwhile. One that is cancelled
        with the message ``WAITED`` has lingered elsewhere."""
        self._attending[operation_id] = self._attending.get(operation_id, 0) + 1
        timer = self._leaving.pop(operation_id, None)
        if timer is not None:
            timer.cancel()
        waited = False
        try:
            yield
        except asyncio.CancelledError as cancelled:
            waited = WAITED in cancelled.args
            raise
        finally:
            left = self._attending.pop(operation_id) - 1
            if left:
                self._attending[operation_id] = left
            else:
                self._left(operation_id, waited=waited)

    def _left(self, operation_id: str, *, waited: bool = False) -> None:
        live = self._runner.lives.get(operation_id)
        if live is None or live.operation.background or operation_id in self._attending:
            return
        loop = asyncio.get_running_loop()
        linger_s = 0.0 if waited else self._settings().linger_s
        self._leaving[operation_id] = loop.call_later(linger_s, self._cut_left, operation_id)

    def _cut_left(self, operation_id: str) -> None:
        self._leaving.pop(operation_id, None)
        if operation_id in self._runner.lives:
            task = asyncio.get_running_loop().create_task(
                self._runner.cancel(operation_id, "nobody who waits for it")
            )
            self._cutting.add(task)
            task.add_done_callback(self._cutting.discard)

    # -- what people do --

    async def cancel(self, operation_id: str, by: str) -> Operation:
        """End it and its children; returns it as it ended. One that another process runs may still
        be at it after some seconds: then as it stands. Raises ``NotFound``."""
        asked = await self._runner.cancel(operation_id, by)
        if asked is None:
            raise NotFound(f"There is no operation {operation_id!r}.")
        if asked.status == "ended":
            return asked
        here = operation_id in self._runner.lives
        with contextlib.suppress(TimeoutError):
            return await self.ended(operation_id, _CANCEL_S if here else _ELSEWHERE_S)
        return await self.get(operation_id)

    async def answer(self, operation_id: str, *, approved: bool, note: str, by: str) -> Operation:
        """A person's answer to what it waits for; it goes on at once. Raises ``NotFound``, and
        ``InputError`` when it waits for nothing, or has its answer already."""
        operation = await self.get(operation_id)
        key = operation.waiting_for
        if operation.status != "waiting" or key is None:
            raise InputError(f"{operation_id} waits for nobody's answer: it is {operation.status}.")
        step = await self._threads.read(self._book.step, key)
        now = self._clock.now_us()
        said = msgspec.json.encode({"approved": approved, "note": note, "by": by})
        settled = await self._threads.write(self._book.settle_step, key, "done", said, now)
        waited = now - step.begun_at if step is not None else 0
        await self._runner.requeue(operation, max(0, waited))
        self._watch.backlog = True
        self._watch.stir()
        if not settled:
            raise InputError(f"{operation_id} has had its answer already.")
        return await self.get(operation_id)

    async def delete(self, operation_id: str) -> None:
        """Forget it, its events and its steps; one that has not ended is cancelled first. Raises
        ``NotFound``."""
        operation = await self.get(operation_id)
        if operation.status != "ended":
            await self.cancel(operation_id, "its deletion")
        if not await self._threads.write(self._book.delete_operation, operation_id):
            raise NotFound(f"There is no operation {operation_id!r}.")
