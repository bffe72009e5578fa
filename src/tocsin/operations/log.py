"""The event logs of operations: many writers, one transaction at a time, any number of followers.

An event is shown to followers when it is in the store, never before. While one transaction is under
way the next one gathers, so that the cost of a commit is shared by whatever comes meanwhile.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from tocsin.core.clock import Clock
from tocsin.core.errors import StoreError
from tocsin.operations.live import Live, Topic
from tocsin.operations.threads import Threads
from tocsin.store.operations_api import OperationsBook, Written

log = logging.getLogger("tocsin.operations")

_GAP_S = 0.003, 0.05
"""Time from one transaction's end to the next one's start: what comes meanwhile goes together. As
long as the last one took, from the least to the most."""
_STREAM_S = 0.02, 0.1
"""The same while nobody waits for what is to be written, as in a stream of tokens; four times as
long as the last one took: after a pause the first one still goes at once."""
_STREAM_SHARE = 4
_RETRY_S = (0.1, 0.3, 1.0, 2.0, 5.0)
_DOUBTS = 3
"""After so many failures it is asked whether the store is at fault, or what is to be written."""
_MUCH_BYTES = 1024 * 1024
"""So much on its way from one operation makes its work wait."""


class Log:
    """Writes what operations say, in groups, and publishes it."""

    def __init__(
        self,
        book: OperationsBook,
        threads: Threads,
        clock: Clock,
        owner: str,
        lost: Callable[[Live], None],
    ) -> None:
        self._book = book
        self._clock = clock
        self._threads = threads
        self._owner = owner
        self._lost = lost
        self._topics: dict[str, Topic] = {}
        self._dirty: dict[str, Live] = {}
        self._round: asyncio.Future[None] | None = None
        """Done when what is dirty now has been written."""
        self._task: asyncio.Task[None] | None = None
        self._ended_at = 0.0
        self._took_s = 0.0
        """How long the last transaction took, the wait for its thread included."""
        self._urgent = asyncio.Event()
        """Somebody waits for what is dirty now."""

    # -- topics --

    def topic(self, operation_id: str) -> Topic:
        """The operation's, made now when nobody has it yet."""
        found = self._topics.get(operation_id)
        if found is None:
            found = self._topics[operation_id] = Topic()
        return found

    def drop(self, operation_id: str) -> None:
        """Forget a topic that nobody follows and nobody writes."""
        found = self._topics.get(operation_id)
        if found is not None and not found.followers and not found.live:
            del self._topics[operation_id]

    def close(self, operation_id: str, *, ended: bool) -> None:
        """This process writes no more of it."""
        found = self._topics.get(operation_id)
        if found is not None:
            found.live, found.ended = False, ended
            found.wake()
            self.drop(operation_id)

    def wake_all(self) -> None:
        """Let every follower look again."""
        for topic in self._topics.values():
            topic.wake()

    # -- writing --

    def write(self, live: Live, *, urgent: bool = True) -> "asyncio.Future[None]":
        """Have written what was noted in ``live``. The future is done when it is in the store."""
        if urgent:
            self._urgent.set()
        self._dirty[live.operation.id] = live
        if self._round is None:
            self._round = asyncio.get_running_loop().create_future()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._flush())
        return self._round

    async def flushed(self, live: Live) -> None:
        """Wait until all that was noted is in the store. Raises ``CancelledError`` when the
        operation is not this process's any more."""
        await asyncio.shield(self.write(live))
        if live.cut == "lost":
            raise asyncio.CancelledError

    async def eased(self, live: Live) -> None:
        """Wait only while too much is on its way."""
        much = live.bytes > _MUCH_BYTES
        future = self.write(live, urgent=much)
        if much:
            await asyncio.shield(future)

    async def drained(self) -> None:
        """Wait until nothing is on its way."""
        while self._task is not None:
            await asyncio.wait((self._task,))

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._dirty:
                await self._gather(loop.time() - self._ended_at)
                self._urgent.clear()
                lives, self._dirty = list(self._dirty.values()), {}
                done, self._round = self._round, None
                batch = [live.take(self._owner) for live in lives]
                began = loop.time()
                kept = await self._kept(batch)
                self._took_s = loop.time() - began
                for live, written, is_kept in zip(lives, batch, kept, strict=True):
                    self._publish(live, written, is_kept)
                self._ended_at = loop.time()
                if done is not None and not done.done():
                    done.set_result(None)
        finally:
            self._task = None

    async def _gather(self, since_s: float) -> None:
        """Let more come, so long after the last transaction."""
        if not self._urgent.is_set():
            pause = _between(_STREAM_SHARE * self._took_s, _STREAM_S) - since_s
            if pause > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._urgent.wait()
        else:
            pause = _between(self._took_s, _GAP_S) - since_s
            if pause > 0:
                await asyncio.sleep(pause)

    def _publish(self, live: Live, written: Written, is_kept: bool) -> None:
        if not is_kept:
            self._lost(live)
            return
        live.wrote(written)
        topic = self._topics.get(written.operation_id)
        if topic is None or not topic.live:
            return
        topic.ended = live.stored.status == "ended"
        if written.events or topic.ended:
            topic.publish(written.events)

    async def _kept(self, batch: list[Written]) -> tuple[bool, ...]:
        """Write all of it; a store that is down is waited for, for as long as it takes."""
        tries = 0
        while True:
            try:
                return await self._threads.write(self._book.write, batch)
            except StoreError as error:
                log.error("events of operations wait for the store (%s)", error)
                await asyncio.sleep(_RETRY_S[min(tries, len(_RETRY_S) - 1)])
                tries += 1
                if tries >= _DOUBTS and await self._works():
                    return await self._apart(batch)
            except Exception:
                log.exception("events of operations cannot be written")
                return await self._apart(batch)

    async def _works(self) -> bool:
        """Whether the store takes other things."""
        try:
            await self._threads.write(self._book.beat, self._owner, self._clock.now_us())
        except Exception:
            return False
        return True

    async def _apart(self, batch: list[Written]) -> tuple[bool, ...]:
        """One of them is at fault: the others must not suffer for it."""
        return tuple([await self._alone(one) for one in batch])

    async def _alone(self, one: Written) -> bool:
        while True:
            try:
                kept = await self._threads.write(self._book.write, [one])
                return kept[0]
            except Exception as error:
                if isinstance(error, StoreError) and not await self._works():
                    await asyncio.sleep(_RETRY_S[-1])
                    continue
                log.error("operation %s cannot be written (%s)", one.operation_id, error)
                await self._give_up(one.operation_id)
                return False

    async def _give_up(self, operation_id: str) -> None:
        """End an operation of which nothing more can be written: it must not run for ever."""
        ending = {
            "status": "ended",
            "outcome": "error",
            "error_type": "not_writable",
            "error_message": "What it gave could not be kept; the log says why.",
            "ended_at": self._clock.now_us(),
            "owner": None,
        }
        with contextlib.suppress(Exception):
            await self._threads.write(
                self._book.write,
                [Written(operation_id=operation_id, changes=ending, owner=self._owner)],
            )


def _between(value: float, bounds: tuple[float, float]) -> float:
    least, most = bounds
    return min(most, max(least, value))
