"""What a process holds in memory of operations: those it runs, and the ends of their logs."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from tocsin.core.call import Principal
from tocsin.core.operations import Event, Kind, Operation
from tocsin.store.operations_api import Delivery, Written

Cut = Literal["cancelled", "timeout", "stopped", "lost"]
"""Why work is cut. ``stopped``: this process ends, another goes on. ``lost``: another already has
it."""

_TAIL_EVENTS = 512
_TAIL_BYTES = 256 * 1024


class Topic:
    """The newest events of one operation, and who waits for more."""

    __slots__ = ("_bytes", "_tail", "_waiting", "ended", "first", "followers", "live")

    def __init__(self) -> None:
        self.first = 0
        """Number of the oldest event that is here."""
        self.live = False
        """Whether this process runs it: then all that comes is published here."""
        self.ended = False
        self.followers = 0
        self._tail: deque[Event] = deque()
        self._bytes = 0
        self._waiting: list[asyncio.Future[None]] = []

    def begin(self, first: int) -> None:
        """This process runs it now; its next event is ``first``."""
        self.first, self.live, self.ended = first, True, False
        self._tail.clear()
        self._bytes = 0
        self.wake()

    def publish(self, events: Sequence[Event]) -> None:
        """Show events that are in the store."""
        self._tail.extend(events)
        self._bytes += sum(len(event.data) for event in events)
        while len(self._tail) > _TAIL_EVENTS or self._bytes > _TAIL_BYTES:
            self._bytes -= len(self._tail.popleft().data)
            self.first += 1
        self.wake()

    def since(self, after: int) -> list[Event] | None:
        """The events behind ``after``; ``None`` when some of them are only in the store."""
        skip = after + 1 - self.first
        if skip < 0:
            return None
        have = len(self._tail)
        if skip >= have:
            return []
        if have - skip <= 4:
            return [self._tail[at] for at in range(skip, have)]
        return list(self._tail)[skip:]

    def wake(self) -> None:
        """Let everybody look again."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def changed(self, timeout_s: float | None = None) -> None:
        """Wait until there may be something new, at most so long."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        if timeout_s is None:
            await future
        else:
            await asyncio.wait((future,), timeout=timeout_s)
            future.cancel()
            self._waiting = [one for one in self._waiting if not one.done()]


class Live:
    """One operation that this process runs."""

    __slots__ = (
        "_taken",
        "body",
        "bytes",
        "changes",
        "context",
        "cut",
        "cut_at",
        "deliveries",
        "effects",
        "events",
        "finishing",
        "inflight",
        "kind",
        "lent",
        "operation",
        "parents",
        "principal",
        "question",
        "restarted",
        "result",
        "slot",
        "stored",
        "task",
        "unnamed",
        "waiting_for",
    )

    def __init__(
        self,
        operation: Operation,
        kind: Kind,
        principal: Principal,
        body: bytes,
        context: Any,
        *,
        slot: bool,
        restarted: bool,
    ) -> None:
        self.operation = operation
        """As it stands, with what is still on its way to the store."""
        self.stored = operation
        self.kind = kind
        self.principal = principal
        self.body = body
        self.context = context
        self.slot = slot
        """Whether it is one of those that ``settings.concurrency`` counts."""
        self.lent = 0
        """How often it waits for children at this moment: it counts for nothing meanwhile."""
        self.restarted = restarted
        self.task: asyncio.Task[Any] | None = None
        self.finishing = False
        self.cut: Cut | None = None
        self.cut_at = 0.0
        self.effects = restarted
        """Whether there may be steps that changed the world."""
        self.parents = restarted
        """Whether it may have children."""
        self.inflight: dict[str, asyncio.Future[Any]] = {}
        self.unnamed: dict[str, int] = {}
        self.waiting_for: str | None = None
        self.question = ""
        self._taken: Operation | None = None
        """As it was when the last was taken to be written."""
        # On its way to the store:
        self.events: list[Event] = []
        self.bytes = 0
        self.changes: dict[str, Any] = {}
        self.result: bytes | None = None
        self.deliveries: tuple[Delivery, ...] = ()

    @property
    def gone(self) -> bool:
        """Whether this process has let it go, and may write nothing more of it."""
        return self.cut in ("stopped", "lost")

    def change(self, changes: Mapping[str, Any]) -> None:
        """Note fields that are to be written."""
        self.changes.update(changes)
        self.operation = msgspec.structs.replace(self.operation, **changes)

    def add(self, type: str, data: bytes, at: int) -> int:  # noqa: A002 - the wire's word
        """Note an event that is to be written; returns its number."""
        number = self.operation.events
        self.events.append(Event(number, type, at, data))
        self.bytes += len(data)
        self.operation = msgspec.structs.replace(self.operation, events=number + 1)
        return number

    def say(self, events: Sequence[tuple[str, bytes]], at: int) -> None:
        """Note (type, JSON) events that are to be written."""
        number = self.operation.events
        for type_, data in events:
            self.events.append(Event(number, type_, at, data))
            self.bytes += len(data)
            number += 1
        self.operation = msgspec.structs.replace(self.operation, events=number)

    def end(self, ended: Operation, changes: Mapping[str, Any], events: Sequence[Event]) -> None:
        """Note all that is written with the end."""
        self.changes.update(changes)
        self.events.extend(events)
        self.operation = ended

    def take(self, owner: str) -> Written:
        """What is to be written, at once."""
        written = Written(
            operation_id=self.operation.id,
            events=tuple(self.events),
            changes=self.changes,
            result=self.result,
            deliveries=self.deliveries,
            owner=owner,
        )
        self.events, self.changes, self.bytes = [], {}, 0
        self._taken = self.operation
        return written

    def wrote(self, written: Written) -> None:
        """It is in the store."""
        if self._taken is self.operation:
            self.stored = self.operation  # Nothing was noted since.
            return
        events = written.events
        changes = dict(written.changes)
        if events:
            changes["events"] = events[-1].number + 1
        self.stored = msgspec.structs.replace(self.stored, **changes)
