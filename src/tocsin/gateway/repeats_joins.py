"""A client's own retry joins the call that its first try began, without a key.

A first try whose client has left is an *orphan*: its answer is made all the same and kept for a
while. A retry takes an orphan that nobody listens to; so of two identical calls that were both
meant, each finds one. A retry of a try that failed in front of its client is a real new try.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from tocsin.gateway.audience import Audience, Room
from tocsin.gateway.repeats_asked import Answer, Asked, Rules, count_of, repeatable, request_hash
from tocsin.gateway.wire import ClientWire, Wire
from tocsin.operations.engine import WAITED

log = logging.getLogger("tocsin.gateway")

MOST = 1000
"""Orphans that there may be at once, and failures that are remembered."""


class Try:
    """A call whose answer is kept, since its client has left or a retry has joined it."""

    __slots__ = ("audience", "count", "hash", "pump", "task", "timer")

    def __init__(self, asked: bytes, count: int, task: "asyncio.Task[None] | None") -> None:
        self.hash = asked
        self.count = count
        """The highest retry count that has come for it."""
        self.task = task
        """Makes the answer; ``None`` once it has ended."""
        self.audience: Audience
        self.pump: asyncio.Task[None] | None = None
        """Sends the answer to a first client that is still there."""
        self.timer: asyncio.TimerHandle | None = None

    def wait(self, seconds: float, then: Callable[["Try"], None]) -> None:
        """Do something when nobody has come in so long."""
        self.rest()
        self.timer = asyncio.get_running_loop().call_later(seconds, then, self)

    def rest(self) -> None:
        """Somebody came, or it is over."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Joins:
    """The tries of one process that retries may join."""

    def __init__(self, rules: Callable[[], Rules], room: Room) -> None:
        self._rules = rules
        self._room = room
        self._open: dict[ClientWire, float] = {}
        """Calls whose client is there, as far as we know, by when they began, oldest first."""
        self._kept: dict[bytes, list[Try]] = {}
        """By what they ask."""
        self._number = 0
        self._failed: dict[bytes, deque[float]] = {}
        """When tries failed in front of their clients, by what they asked."""

    async def serve(self, asked: Asked, count: int, wire: ClientWire, answer: Answer) -> None:
        """Answer a request: as the try that it repeats, or as a first one."""
        if count > 0:
            before = self._find(asked, count, wire)
            if before is not None:
                before.count = count
                before.rest()
                await self._listen(before, wire, joined=True)
                return
        wire.asked = asked
        self._open[wire] = time.monotonic()
        try:
            await answer(*asked, wire)
        except Exception:
            if wire.asked is asked:
                raise
            log.exception("call %s %s failed", asked.method, asked.path)
        finally:
            if wire.asked is asked:
                del self._open[wire]
                if repeatable(wire.status):
                    self._note_failure(request_hash(asked, wire.peer))
            else:
                self._ended(wire.asked)
        kept: object = wire.asked
        if isinstance(kept, Try) and kept.pump is not None:
            await kept.pump

    # -- finding --

    def _find(self, asked: Asked, count: int, wire: ClientWire) -> Try | None:
        """The try that this request repeats."""
        name = request_hash(asked, wire.peer)
        found = [kept for kept in self._kept.get(name, ()) if _fits(kept, count)]
        for kept in found:
            if not kept.audience.seats:
                return kept
        if self._take_failure(name):
            return None
        if found:
            return found[0]
        attended = self._attended(asked, name, count)
        if attended is None:
            return None
        line, before = self._turn(attended, name)
        before.pump = asyncio.create_task(self._listen(before, line, joined=False))
        return before

    def _attended(self, asked: Asked, name: bytes, count: int) -> ClientWire | None:
        """A try with no byte of an answer yet, whose client may have left without our knowing, as
        it looks behind a proxy."""
        since = time.monotonic() - self._rules().window_s
        for wire, begun_at in self._open.items():
            theirs = wire.asked
            if (
                isinstance(theirs, Asked)
                and len(theirs.body) == len(asked.body)
                and theirs.path == asked.path
                and count_of(theirs) < count
                and begun_at >= since
                and not wire.begun
                and request_hash(theirs, wire.peer) == name
            ):
                return wire
        return None

    # -- joining --

    async def _listen(self, before: Try, wire: Wire, *, joined: bool) -> None:
        await before.audience.play(wire, joined=joined)
        if before.audience.delivered:
            self._remove(before)

    def _turn(self, wire: ClientWire, name: bytes) -> tuple[Wire, Try]:
        """Keep the answer from now on. Returns a wire to the first client, too."""
        asked = wire.asked
        assert isinstance(asked, Asked)
        wire.asked = this = Try(name, count_of(asked), wire.task)

        def emptied(*, begun: bool) -> None:
            self._emptied(this, begun=begun)

        most = self._rules().most
        this.audience = Audience(most=most, room=self._room, waits=True, emptied=emptied)
        del self._open[wire]
        self._kept.setdefault(name, []).append(this)
        self._number += 1
        return wire.turn(this.audience), this

    # -- leaving and ending --

    def left(self, wire: ClientWire) -> bool:
        """A client is gone. Whether its call goes on for a retry to find."""
        this = wire.asked
        if isinstance(this, Try):
            if this.pump is not None:
                this.pump.cancel()
            return True
        if not isinstance(this, Asked) or wire not in self._open or wire.begun:
            return False
        if self._rules().linger_s <= 0 or not self._has_room():
            return False
        _, kept = self._turn(wire, request_hash(this, wire.peer))
        self._emptied(kept, begun=False)
        return True

    def _emptied(self, this: Try, *, begun: bool) -> None:
        """Nobody listens to it now. Who has seen a part of an answer does not come back."""
        rules = self._rules()
        if this.task is None:
            if this.audience.ended:
                this.wait(rules.window_s, self._remove)
        elif begun or rules.linger_s <= 0:
            self._cut(this)
        else:
            this.wait(rules.linger_s, self._cut_late)

    def _cut(self, this: Try) -> None:
        self._remove(this)
        if this.task is not None:
            this.task.cancel()

    def _cut_late(self, this: Try) -> None:
        """Nobody has come for it: whoever makes the answer need not wait once more."""
        self._remove(this)
        if this.task is not None:
            this.task.cancel(WAITED)

    def _ended(self, this: object) -> None:
        """Its answer is made, or never will be."""
        assert isinstance(this, Try)
        audience, this.task = this.audience, None
        audience.break_off()
        failed = repeatable(audience.status) or audience.failed or audience.broken
        if failed or not (audience.seats or audience.small):
            self._remove(this)
        elif not audience.seats:
            this.wait(self._rules().window_s, self._remove)
        if failed and audience.seats:
            self._note_failure(this.hash)

    def _remove(self, this: Try) -> None:
        this.rest()
        tries = self._kept.get(this.hash)
        if tries is None or this not in tries:
            return
        tries.remove(this)
        if not tries:
            del self._kept[this.hash]
        self._number -= 1
        this.audience.forget()

    def _has_room(self) -> bool:
        """Whether one more may be kept; the oldest answer that is complete goes for it."""
        if self._number < MOST:
            return True
        for tries in self._kept.values():
            for kept in tries:
                if kept.task is None:
                    self._remove(kept)
                    return True
        return False

    # -- failures --

    def _note_failure(self, asked: bytes) -> None:
        times = self._failed.pop(asked, None)
        if times is None:
            times = deque(maxlen=MOST)
        times.append(time.monotonic())
        self._failed[asked] = times
        if len(self._failed) > MOST:
            del self._failed[next(iter(self._failed))]

    def _take_failure(self, asked: bytes) -> bool:
        """Whether a try has failed whose retry this is."""
        times = self._failed.get(asked)
        since = time.monotonic() - self._rules().window_s
        while times:
            at = times.popleft()
            if not times:
                del self._failed[asked]
            if at >= since:
                return True
        return False

    async def stop(self) -> None:
        """Cut what goes on for nobody: no retry can come any more."""
        tasks = []
        for tries in list(self._kept.values()):
            for this in list(tries):
                if this.task is not None:
                    tasks.append(this.task)
                self._cut(this)
        if tasks:
            await asyncio.wait(tasks, timeout=5)


def _fits(kept: Try, count: int) -> bool:
    """Whether a request with this retry count can be a retry of it, and get it from the start."""
    return kept.count < count and kept.audience.whole_kept and not kept.audience.broken
