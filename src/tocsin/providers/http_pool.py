"""Connections of one origin: reuse, limits, dialling, and the sweeper that keeps their time."""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import Callable

from tocsin.providers.guard import OutboundGuard, Url
from tocsin.providers.http_errors import (
    ClientClosed,
    ConnectFailed,
    ConnectTimeout,
    OutboundError,
    PoolTimeout,
    TotalTimeout,
)
from tocsin.providers.http_types import Limits, Timeouts
from tocsin.providers.http_wire import Connection

# Seconds for one address while others are left to try and no connect timeout divides the time.
_ATTEMPT = 5.0
# A tick this much later than planned means that the loop stood still, not the upstream.
_STALL = 4
_SSL_SHUTDOWN = 2.0


class Sweeper:
    """The one timer of a client. Ticks while there is anything to watch, and only then."""

    __slots__ = ("_handle", "_lost", "_spared", "_tick", "_ticked", "connections", "loop", "pools")

    def __init__(self, loop: asyncio.AbstractEventLoop, tick: float) -> None:
        self.loop = loop
        self.pools: dict[str, Pool] = {}
        self.connections: set[Connection] = set()
        self._tick = tick
        self._ticked = 0.0
        self._spared = False
        self._handle: asyncio.TimerHandle | None = None
        self._lost: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Make sure that the timer runs."""
        if self._handle is None:
            self._ticked = self.loop.time()
            self._handle = self.loop.call_later(self._tick, self._sweep)

    def _sweep(self) -> None:
        now = self.loop.time()
        # After a stall the answers may lie unread in the sockets: give them one tick, once.
        self._spared = not self._spared and now - self._ticked > self._tick * _STALL
        self._ticked = now
        if not self._spared:
            for connection in tuple(self.connections):
                connection.sweep(now)
            for pool in tuple(self.pools.values()):
                pool.sweep(now)
        self._handle = None
        if self.connections or self.pools:
            self._handle = self.loop.call_later(self._tick, self._sweep)

    def opened(self, connection: Connection) -> None:
        """Watch a connection until `lost`."""
        self.connections.add(connection)

    def lost(self, connection: Connection) -> None:
        """The loop has closed the connection's socket."""
        self.connections.discard(connection)
        if not self.connections and self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    async def close(self) -> None:
        """End every exchange, close every socket, and wait until the loop has let go of them."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        for pool in self.pools.values():
            pool.close()
        self.pools.clear()
        for connection in tuple(self.connections):
            connection.close_client()
        if self.connections:
            self._lost = self.loop.create_future()
            await asyncio.wait([self._lost], timeout=_SSL_SHUTDOWN)


class Pool:
    """All connections to one origin (scheme, host, port).

    `count` is the number of places taken: connections that are busy, idle or being dialled. A
    place that falls free goes to the first waiter, as does a connection; so nobody can overtake.
    """

    __slots__ = (
        "_closed",
        "_guard",
        "_sweeper",
        "_tls",
        "_touched",
        "_waiters",
        "count",
        "heads",
        "idle",
        "limits",
        "loop",
        "url",
    )

    def __init__(
        self,
        url: Url,
        *,
        sweeper: Sweeper,
        limits: Limits,
        guard: OutboundGuard,
        tls: Callable[[], ssl.SSLContext],
    ) -> None:
        self.url = url
        self.loop = sweeper.loop
        self.limits = limits
        self.idle: list[Connection] = []
        self.count = 0
        self.heads: dict[tuple[str, str, str], bytes] = {}
        self._waiters: OrderedDict[asyncio.Future[Connection | None], float | None] = OrderedDict()
        self._sweeper = sweeper
        self._guard = guard
        self._tls = tls
        self._touched = 0.0
        self._closed = False

    # Taking a connection

    async def acquire(
        self, timeouts: Timeouts, started: float, *, fresh: bool = False
    ) -> Connection:
        """An idle connection of ours, or a new one (always, when `fresh`).

        Raises PoolTimeout, ConnectTimeout, TotalTimeout, ConnectFailed, OutboundRefused or
        ClientClosed.
        """
        if self._closed:
            raise ClientClosed(f"{self.url.origin}: the HTTP client is closed")
        self._touched = self.loop.time()
        connect_at = None if timeouts.connect is None else self._touched + timeouts.connect
        total_at = None if timeouts.total is None else started + timeouts.total
        by_total = total_at is not None and (connect_at is None or total_at < connect_at)
        deadline = total_at if by_total else connect_at
        self._sweeper.pools.setdefault(self.url.origin, self)
        self._sweeper.wake()
        try:
            return await self._acquire(deadline, fresh)
        except OutboundError as error:
            if by_total and isinstance(error, ConnectTimeout):
                message = f"{self.url.origin}: no connection in {timeouts.total} s (timeouts.total)"
                raise TotalTimeout(message) from error
            raise

    async def _acquire(self, deadline: float | None, fresh: bool) -> Connection:
        while True:
            if self._closed:
                raise ClientClosed(f"{self.url.origin}: the HTTP client is closed")
            if self.idle:
                if not fresh:
                    return self.idle.pop()
                if self.count >= self.limits.max_connections:
                    self.idle[0].retire(politely=True)
            if self.count < self.limits.max_connections:
                self.count += 1
                return await self._dial_or_free(deadline)
            connection = await self._wait(deadline)
            if connection is None:
                return await self._dial_or_free(deadline)
            if connection.gone:
                continue
            if not fresh:
                return connection
            connection.leave_place()
            return await self._dial_or_free(deadline)

    async def _wait(self, deadline: float | None) -> Connection | None:
        """Wait in line for a connection, or for a place (None)."""
        waiter: asyncio.Future[Connection | None] = self.loop.create_future()
        self._waiters[waiter] = deadline
        try:
            return await waiter
        except BaseException:
            if waiter in self._waiters:
                del self._waiters[waiter]
            elif not waiter.cancelled():
                self._return_grant(waiter)
            raise

    def _return_grant(self, waiter: asyncio.Future[Connection | None]) -> None:
        """Pass on what a cancelled waiter had already been given."""
        if waiter.exception() is not None:
            return
        connection = waiter.result()
        if connection is None:
            self._free_place()
        elif not connection.gone:
            self.give(connection)

    async def _dial_or_free(self, deadline: float | None) -> Connection:
        try:
            async with asyncio.timeout_at(deadline):
                connection = await self._dial(deadline)
        except BaseException as error:
            self._free_place()
            if isinstance(error, TimeoutError) and not isinstance(error, OutboundError):
                message = f"{self.url.origin}: no connection in time (timeouts.connect)"
                raise ConnectTimeout(message) from None
            raise
        if self._closed:
            connection.retire()
            raise ClientClosed(f"{self.url.origin}: the HTTP client was closed")
        return connection

    async def _dial(self, deadline: float | None) -> Connection:
        addresses = await self._guard.resolve(self.url)
        failure: OSError | None = None
        for index, address in enumerate(addresses):
            left = len(addresses) - index
            try:
                async with asyncio.timeout(self._share(deadline, left)):
                    return await self._connect(address)
            except OSError as error:
                # Also a timeout of this address alone; the caller's own arrives as cancellation.
                failure = error
        self._guard.forget(self.url.host)
        tried = ", ".join(addresses)
        why = str(failure) or type(failure).__name__
        raise ConnectFailed(f"{self.url.origin}: cannot connect ({tried}): {why}") from failure

    def _share(self, deadline: float | None, left: int) -> float | None:
        """Seconds that one address may take while `left` are untried; the last takes all."""
        if left == 1:
            return None
        return _ATTEMPT if deadline is None else max(0.0, deadline - self.loop.time()) / left

    async def _connect(self, address: str) -> Connection:
        secure = self.url.scheme == "https"
        _, connection = await self.loop.create_connection(
            lambda: Connection(self),
            address,
            self.url.port,
            ssl=self._tls() if secure else None,
            server_hostname=self.url.host if secure else None,
            ssl_shutdown_timeout=_SSL_SHUTDOWN if secure else None,
        )
        if not connection.adopt():
            raise ConnectionResetError("the upstream closed or spoke before it was asked")
        return connection

    # Giving one back

    def give(self, connection: Connection) -> None:
        """Take back an idle connection: the first waiter gets it, else it rests on the stack."""
        connection.rested(self.loop.time())
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():
                waiter.set_result(connection)
                return
        self.idle.append(connection)
        if len(self.idle) > self.limits.max_idle:
            self.idle[0].retire(politely=True)

    def forget(self, connection: Connection) -> None:
        """A connection of ours was closed."""
        if connection in self.idle:
            self.idle.remove(connection)
        self._free_place()

    def _free_place(self) -> None:
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():
                waiter.set_result(None)
                return
        self.count -= 1

    def opened(self, connection: Connection) -> None:
        """A connection of ours is in service."""
        self._sweeper.opened(connection)

    def lost(self, connection: Connection) -> None:
        """The socket of a connection of ours is closed."""
        self._sweeper.lost(connection)

    # Time

    def sweep(self, now: float) -> None:
        """Fail the waiters that have waited too long; leave when nobody needs this pool."""
        late = [w for w, at in self._waiters.items() if at is not None and now >= at]
        for waiter in late:
            del self._waiters[waiter]
            if not waiter.done():
                limit = self.limits.max_connections
                message = f"all {limit} connections stayed busy (max_connections, timeouts.connect)"
                waiter.set_exception(PoolTimeout(f"{self.url.origin}: {message}"))
        if not self.count and now - self._touched > self.limits.idle_expiry:
            self._sweeper.pools.pop(self.url.origin, None)

    def close(self) -> None:
        """Refuse everybody who waits, now and later."""
        self._closed = True
        while self._waiters:
            waiter, _ = self._waiters.popitem()
            if not waiter.done():
                error = ClientClosed(f"{self.url.origin}: the HTTP client was closed")
                waiter.set_exception(error)
