"""``Line``: what goes from Tocsin's loop to the app that waits for an answer, piece by piece.

Tocsin's loop runs in a thread of its own. The app waits in another thread (``ThreadLine``) or on
another loop (``LoopLine``). A line holds few pieces at once: whoever reads slowly is not overrun.
"""

import asyncio
import contextlib
import queue
import threading
from typing import TYPE_CHECKING

from tocsin.core.call import Headers

if TYPE_CHECKING:
    from concurrent.futures import Future

WINDOW = 16
"""Pieces that may wait unread; enough to hide the way between two threads."""


class Head:
    """The beginning of an answer; ``body`` is ``None`` when pieces follow."""

    __slots__ = ("body", "headers", "status")

    def __init__(
        self, status: int, headers: Headers | list[tuple[bytes, bytes]], body: bytes | None
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class Failure:
    """There is no (more) answer; ``error`` is what the client would have met."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class End:
    """Nothing more comes."""


END = End()
Item = Head | Failure | End | bytes


class Line:
    """Both ends of one call's answer. ``put`` and ``piece`` belong to Tocsin's loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._unread = 0
        self._room: asyncio.Future[None] | None = None
        self.call: Future[None] | None = None
        """The work on Tocsin's loop; cancelled when the app leaves."""
        self.head: Head | None = None
        """The head that has gone out."""

    def put(self, item: Item) -> None:
        """Hand something over; never waits."""
        raise NotImplementedError

    def begin(self, head: Head) -> None:
        """Hand the head over."""
        self.head = head
        self.put(head)

    async def piece(self, data: bytes) -> None:
        """Hand over the next bytes; waits while the app does not read."""
        with self._lock:
            self._unread += 1
            full = self._unread >= WINDOW
            room = self._room = self._loop.create_future() if full else None
        self.put(data)
        if room is not None:
            await room

    def _taken(self) -> None:
        """The app has read a piece."""
        with self._lock:
            self._unread -= 1
            if self._room is None or self._unread > WINDOW // 2:
                return
            room, self._room = self._room, None
        with contextlib.suppress(RuntimeError):  # Tocsin was closed meanwhile
            self._loop.call_soon_threadsafe(_open, room)

    def leave(self) -> None:
        """The app wants no more: cancel the call. What becomes of it is recorded."""
        if self.call is not None:
            self.call.cancel()


class ThreadLine(Line):
    """To a thread that waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._items: queue.SimpleQueue[Item] = queue.SimpleQueue()

    def put(self, item: Item) -> None:
        self._items.put(item)

    def get(self, timeout: float | None = None) -> Item:
        """The next item. Raises ``queue.Empty`` after ``timeout`` seconds."""
        item = self._items.get(timeout=timeout)
        if type(item) is bytes:
            self._taken()
        return item


class LoopLine(Line):
    """To a task on the app's own loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._here = asyncio.get_running_loop()
        self._items: asyncio.Queue[Item] = asyncio.Queue()

    def put(self, item: Item) -> None:
        with contextlib.suppress(RuntimeError):  # the app's loop has ended: nobody waits
            self._here.call_soon_threadsafe(self._items.put_nowait, item)

    async def get(self) -> Item:
        """The next item."""
        item = await self._items.get()
        if type(item) is bytes:
            self._taken()
        return item


def _open(room: asyncio.Future[None]) -> None:
    if not room.done():
        room.set_result(None)
