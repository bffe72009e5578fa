"""``Audience``: one answer for several clients, kept from its first byte while it is being made.

Whoever makes the answer writes it here as onto any wire. Each client reads it in the task of its
own connection, from the start, at its own pace.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from tocsin.core.errors import CallError
from tocsin.core.interaction import Dialect
from tocsin.core.wire import error_event
from tocsin.gateway.wire import Headers, Wire, error_answer, takes_events

JOINED = b"tocsin-joined"
"""Header of an answer whose call another request began: that call's (or operation's) id."""
_IDS = (b"tocsin-call-id", b"tocsin-operation-id")

_LAST = (b"[DONE]", b"message_stop", b"response.completed", b"response.incomplete")
"""What stands in the last piece of a stream. Such a piece waits for the answer to be kept, so that
no client has seen the end of an answer that a crash could still lose."""

Ending = Callable[["Audience"], Awaitable[None]]


class Room:
    """Bytes that all kept answers may take together."""

    def __init__(self, most: int) -> None:
        self.left = most

    def take(self, size: int) -> bool:
        """Whether there was room for so many more."""
        if size > self.left:
            return False
        self.left -= size
        return True

    def give(self, size: int) -> None:
        """They are free again."""
        self.left += size


class Seat:
    """One client that listens, and how far it has come."""

    __slots__ = ("at", "begun")

    def __init__(self) -> None:
        self.at = 0
        self.begun = False
        """Whether it was sent anything."""


class Emptied(Protocol):
    """Told when the last client has left an answer that is not delivered."""

    def __call__(self, *, begun: bool) -> None:
        """``begun``: the one that left had seen a part of it."""
        ...


class Audience:
    """A ``Wire`` that keeps what is said and plays it to any number of others.

    ``waits``: an answer that has grown larger than ``most`` waits for a listener; otherwise it
    goes on and is not kept. ``ending`` runs before anybody learns that the answer is complete.
    """

    def __init__(
        self,
        *,
        most: int,
        room: Room,
        waits: bool,
        ending: Ending | None = None,
        emptied: Emptied | None = None,
    ) -> None:
        self.status: int | None = None
        self.headers: Headers = ()
        self.ended = False
        """The answer is complete."""
        self.broken = False
        """It broke off; nothing more comes."""
        self.failed = False
        """It ended with an error of ours in the middle."""
        self.delivered = False
        """A client was sent all of it."""
        self.seats: set[Seat] = set()
        self._most = most
        self._room = room
        self._waits = waits
        self._ending = ending
        self._emptied = emptied
        self._pieces: list[bytes] = []
        self._base = 0
        """Pieces that are not kept any more: nobody can be played this from the start."""
        self._size = 0
        self._granted = 0
        self._over = False
        self._last: bytes | None = None
        """What nobody is shown before the answer is kept."""
        self._shown = False
        """Whether clients may be sent what there is."""
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def whole_kept(self) -> bool:
        """Whether it can still be played from its first byte."""
        return self._base == 0

    @property
    def small(self) -> bool:
        """Whether it is no larger than what is kept."""
        size = self._size + len(self._last or b"")
        return self._base == 0 and not self._over and size <= self._most

    @property
    def body(self) -> bytes:
        """What has been said."""
        return b"".join(self._pieces) + (self._last or b"")

    def header(self, name: bytes) -> bytes:
        """A header of the answer; empty without one."""
        return next((value for key, value in self.headers if key == name), b"")

    @property
    def call_id(self) -> bytes:
        """The call or operation that the answer says it is of; empty where it says nothing."""
        return next((found for name in _IDS if (found := self.header(name))), b"")

    # -- the wire: whoever makes the answer --

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        self.status, self.headers = status, headers
        self._last = body
        await self._complete()

    async def start(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers
        self._shown = True
        self._notify()

    async def piece(self, data: bytes) -> None:
        if self._last is not None:
            self._add(self._last)
            self._last = None
        if self._ending is not None and any(word in data for word in _LAST):
            self._last = data
            return
        self._add(data)
        self._notify()
        if self._over:
            await self._shrink()

    async def end(self) -> None:
        await self._complete()

    async def cut(self) -> None:
        self.break_off()

    async def error(self, dialect: Dialect, error: CallError, more: Headers = ()) -> None:
        if self.status is None:
            headers, body = error_answer(dialect, error)
            await self.whole(error.status, [*headers, *more], body)
        elif self.ended:
            return
        elif not takes_events(self.headers):
            self.break_off()
        else:
            self.failed = True
            await self.piece(error_event(dialect, error))
            await self.end()

    def break_off(self) -> None:
        """Nothing more comes: whoever listens must not take the part for the whole."""
        if not self.ended:
            self.broken = True
            self._notify()

    async def _complete(self) -> None:
        if self._ending is not None:
            await self._ending(self)
        if self._last is not None:
            self._add(self._last)
            self._last = None
        self._shown = self.ended = True
        self._notify()

    def _add(self, data: bytes) -> None:
        if not data:
            return
        self._pieces.append(data)
        self._size += len(data)
        if self._over:
            return
        if self._size <= self._most and self._room.take(len(data)):
            self._granted += len(data)
        else:
            self._over = True
            self._most = self._granted

    async def _shrink(self) -> None:
        """Let go of what every listener has; wait while they are too far behind."""
        while True:
            if self.seats or not self._waits:
                self._drop(min((seat.at for seat in self.seats), default=self._base + len(self)))
            if self._size <= self._most:
                return
            await self._change()

    def __len__(self) -> int:
        return len(self._pieces)

    def _drop(self, until: int) -> None:
        gone = self._pieces[: until - self._base]
        if gone:
            del self._pieces[: len(gone)]
            self._base += len(gone)
            self._size -= sum(map(len, gone))
            self._settle()

    def _settle(self) -> None:
        """Give the room back: what is left is on its way out."""
        self._room.give(self._granted)
        self._granted = 0

    def forget(self) -> None:
        """Nobody will ask for it any more."""
        self._settle()

    # -- the listeners --

    def sit(self) -> Seat:
        """A place for a client: what it has not been sent is kept. Given back by ``leave``, or
        used by ``play``."""
        seat = Seat()
        self.seats.add(seat)
        self._notify()
        return seat

    def leave(self, seat: Seat) -> None:
        """This client is not here any more."""
        self.seats.discard(seat)
        self._notify()
        if not self.seats and not self.delivered and self._emptied is not None:
            self._emptied(begun=seat.begun)

    async def play(self, wire: Wire, *, joined: bool, seat: Seat | None = None) -> None:
        """Send all of it to a client, from the start, as it comes. Only while ``whole_kept``, or
        with a seat that was taken then."""
        seat = seat or self.sit()
        try:
            while not self._shown and not self.broken:
                await self._change()
            seat.begun = True
            await self._play(wire, seat, joined)
            self.delivered = self.ended
        finally:
            self.leave(seat)

    async def _play(self, wire: Wire, seat: Seat, joined: bool) -> None:
        if not self._shown or self.status is None:
            await wire.cut()
            return
        headers = self.headers
        if joined:
            headers = [*headers, (JOINED, self.call_id or b"true")]
        if self.ended and self._base == 0:
            await wire.whole(self.status, headers, self.body)
            return
        await wire.start(self.status, headers)
        while True:
            while seat.at < self._base + len(self._pieces):
                data = self._pieces[seat.at - self._base]
                await wire.piece(data)
                seat.at += 1
                if self._over:
                    self._notify()
            if self.ended:
                await wire.end()
                return
            if self.broken:
                await wire.cut()
                return
            await self._change()

    async def _change(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _notify(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
