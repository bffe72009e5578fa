"""The outbound HTTP/1.1 client of the request path: pooled, streaming, bounded, fast.

    client = HttpClient(guard=OutboundGuard(allow=["127.0.0.1:11434"]))
    async with await client.send(HttpRequest("POST", url, "/chat/completions", headers, body)) as r:
        while chunk := await r.next_chunk():
            ...

Rules a caller can rely on:

* Every new connection goes to an address that the guard has just checked; redirects are returned
  as they are and never followed.
* A request is written once. The one exception: a *reused* connection that dies within
  `Limits.stale_window` of the request and before one byte of the response was a connection the
  upstream had already given up; the request is then sent once more, on a fresh connection. A
  second failure, a fresh connection, a single response byte, or any timeout ends it.
* Cancelling `send` or a read closes the socket at once, which is what tells the upstream to stop.
* A response is finished (read to its end) or closed; only a finished one returns its connection
  to the pool.
* Nothing is buffered without a bound: see `Limits`.

Errors are the tree in the docstring of `http_errors`: ConnectFailed, ResolveFailed,
ConnectTimeout, PoolTimeout, FirstByteTimeout, IdleTimeout, TotalTimeout, ProtocolViolation,
UpstreamClosed, BodyTooLarge, OutboundRefused, InvalidUrl, InvalidRequest and ClientClosed. Each has
`.sent`, `.received` and `.retry_safe`.

A client belongs to the event loop of its first request. It is made for uvloop and works on any
asyncio loop.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from types import TracebackType
from typing import Final, Self

from tocsin.providers.guard import OutboundGuard, Url
from tocsin.providers.http_errors import (
    BodyTooLarge,
    ClientClosed,
    ConnectFailed,
    ConnectTimeout,
    FirstByteTimeout,
    IdleTimeout,
    InvalidRequest,
    InvalidUrl,
    OutboundError,
    OutboundRefused,
    OutboundTimeout,
    PoolTimeout,
    ProtocolViolation,
    ResolveFailed,
    TotalTimeout,
    UpstreamClosed,
)
from tocsin.providers.http_pool import Pool, Sweeper
from tocsin.providers.http_types import DEFAULT_LIMITS, Header, HttpRequest, Limits, Timeouts
from tocsin.providers.http_wire import BODY, DONE, Connection

__all__ = [
    "BodyTooLarge",
    "ClientClosed",
    "ConnectFailed",
    "ConnectTimeout",
    "FirstByteTimeout",
    "Header",
    "HttpClient",
    "HttpRequest",
    "HttpResponse",
    "IdleTimeout",
    "InvalidRequest",
    "InvalidUrl",
    "Limits",
    "OutboundError",
    "OutboundRefused",
    "OutboundTimeout",
    "PoolTimeout",
    "ProtocolViolation",
    "ResolveFailed",
    "Timeouts",
    "TotalTimeout",
    "UpstreamClosed",
    "Url",
]

# The connection's own headers: two voices about framing is how requests are smuggled.
_OURS: Final = frozenset(
    {
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"upgrade",
        b"te",
        b"trailer",
        b"expect",
    }
)
_BREAKS: Final = b"\r\n\0"
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_METHOD: Final = re.compile(r"[A-Z]{1,32}\Z")
_TARGET: Final = re.compile(r"[/?][!-~]*\Z")
_BODILESS: Final = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
_MAX_REMEMBERED: Final = 1024


class HttpResponse:
    """A response whose head is in. `headers` are as they came: order, repeats and case kept.

    Read it with `read`, `next_chunk` or `async for`, from one task at a time; then, or earlier,
    `aclose` it (`async with` does).
    """

    __slots__ = ("_conn", "_seen", "headers", "reason", "status")

    def __init__(self, conn: Connection) -> None:
        self.status = conn.status
        self.reason = conn.reason
        self.headers = conn.headers
        self._conn: Connection | None = conn

    async def read(self) -> bytes:
        """The rest of the body; b"" when it was all handed out before.

        Raises BodyTooLarge over `Limits.max_body` bytes (what `next_chunk` gave counts too), or
        UpstreamClosed, ProtocolViolation, IdleTimeout, TotalTimeout, ClientClosed.
        """
        conn = self._conn
        if conn is None:
            return b""
        limit = conn.pool.limits.max_body
        if conn.phase == BODY and max(conn.body_received, conn.announced()) > limit:
            conn.too_large("max_body", limit)
        if conn.phase == BODY:
            try:
                await conn.wait(whole=True)
            except BaseException:
                conn.abandon()
                raise
        if conn.phase == DONE and conn.body_received > limit:
            conn.too_large("max_body", limit)
        if conn.error is not None:
            raise conn.error
        self._conn = None
        body = conn.take()
        conn.release()
        return body

    async def next_chunk(self) -> bytes:
        """The body bytes that came since the last call, joined; b"" at the end of the body.

        Chunked framing is removed, content coding is not. What came before an error is handed
        out before the error is raised: UpstreamClosed, ProtocolViolation, IdleTimeout,
        TotalTimeout, ClientClosed, or BodyTooLarge over `Limits.max_stream` bytes.
        """
        conn = self._conn
        if conn is None:
            return b""
        if not conn.chunks and conn.phase == BODY:
            try:
                await conn.wait(whole=False)
            except BaseException:
                conn.abandon()
                raise
        if conn.chunks:
            if conn.body_received > conn.pool.limits.max_stream:
                conn.too_large("max_stream", conn.pool.limits.max_stream)
            else:
                data = conn.take()
                if conn.phase == DONE:
                    self._conn = None
                    conn.release()
                return data
        if conn.error is not None:
            raise conn.error
        self._conn = None
        conn.release()
        return b""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self.next_chunk()
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Let go of the connection: back to the pool when the whole body has come, else closed.

        After closing in mid-body, reads raise ClientClosed.
        """
        conn = self._conn
        if conn is None:
            return
        if conn.phase == DONE:
            self._conn = None
            conn.chunks.clear()
            conn.release()
        else:
            conn.abandon()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # A response that was dropped on the floor must not hold its place in the pool for ever.
        # The garbage collector may run in any thread, the transport belongs to the loop's.
        conn = self._conn
        if conn is not None and not conn.gone and not conn.pool.loop.is_closed():
            conn.pool.loop.call_soon_threadsafe(conn.abandon)


class HttpClient:
    """Sends requests over pooled connections; see the module's docstring for its rules.

    `guard` checks every new connection; without one a guard that allows nothing private is used.
    `ssl_context` replaces the default context (system trust store, host name checked).
    """

    __slots__ = ("_closed", "_guard", "_known", "_limits", "_pools", "_ssl", "_sweeper")

    def __init__(
        self,
        *,
        guard: OutboundGuard | None = None,
        limits: Limits = DEFAULT_LIMITS,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._guard = OutboundGuard() if guard is None else guard
        self._limits = limits
        self._ssl = ssl_context
        self._sweeper: Sweeper | None = None
        self._pools: dict[str, Pool] = {}
        self._known: set[bytes] = set()
        self._closed = False

    async def send(self, request: HttpRequest) -> HttpResponse:
        """Send `request`; return when the response head is in.

        Raises InvalidRequest, OutboundRefused, ClientClosed, ConnectFailed, the timeouts,
        UpstreamClosed and ProtocolViolation.
        """
        url = request.url
        pool = self._pools.get(url.origin) or self._open_pool(url)
        head = self._encode(pool, request)
        timeouts = request.timeouts
        started = now = pool.loop.time()
        if pool.idle:
            conn = pool.idle.pop()
        else:
            conn = await pool.acquire(timeouts, started)
            now = pool.loop.time()
        try:
            await conn.start(head, request.body, request.method, timeouts, started, now)
        except BaseException:
            conn.abandon()
            raise
        if conn.error is not None:
            conn = await self._again(conn, pool, head, request, started)
        return HttpResponse(conn)

    async def _again(
        self, dead: Connection, pool: Pool, head: bytes, request: HttpRequest, started: float
    ) -> Connection:
        """The one retry, for a stale connection; raises the first error for any other."""
        error = dead.error
        assert error is not None
        age = pool.loop.time() - dead.started
        stale = isinstance(error, UpstreamClosed) and dead.reused and not dead.received
        if not stale or age > self._limits.stale_window:
            raise error
        if request.before_again is not None:
            await request.before_again()
        timeouts = request.timeouts
        try:
            conn = await pool.acquire(timeouts, started, fresh=True)
        except OutboundError as again:
            # The dead connection had been written to: the request as a whole was sent.
            again.sent = True
            raise
        now = pool.loop.time()
        try:
            await conn.start(head, request.body, request.method, timeouts, started, now)
        except BaseException:
            conn.abandon()
            raise
        if conn.error is not None:
            raise conn.error
        return conn

    async def aclose(self) -> None:
        """End every exchange with ClientClosed, close every socket. May be called again."""
        self._closed = True
        if self._sweeper is not None:
            await self._sweeper.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    # What a request looks like on the wire

    def _encode(self, pool: Pool, request: HttpRequest) -> bytes:
        """The request's head. Each distinct first line and header name is vetted once."""
        key = (request.method, request.url.prefix, request.target)
        head = pool.heads.get(key) or _first_lines(pool, request)
        lines = 3
        known = self._known
        for name, value in request.headers:
            if name not in known:
                self._vet(name)
            head += b"%b: %b\r\n" % (name, value)
            lines += 1
        body = request.body
        if body or request.method not in _BODILESS:
            head += b"content-length: %d\r\n\r\n" % len(body)
            lines += 1
        else:
            head += b"\r\n"
        # Counting once is cheaper than looking at each value, and nothing can hide from it: our
        # own lines have two such bytes each, so any more of them came with a value.
        if len(head) - len(head.translate(None, _BREAKS)) != 2 * lines:
            raise InvalidRequest("a header value has a line break or a NUL; nothing was sent")
        return head

    def _vet(self, name: bytes) -> None:
        if not _TOKEN.match(name):
            raise InvalidRequest("a header name has characters that no header may have")
        if name.lower() in _OURS:
            shown = name.decode("ascii")
            raise InvalidRequest(f"the client itself writes {shown!r}; leave it out of `headers`")
        if len(self._known) >= _MAX_REMEMBERED:
            self._known.clear()
        self._known.add(name)

    def _open_pool(self, url: Url) -> Pool:
        if self._closed:
            raise ClientClosed(f"{url.origin}: the HTTP client is closed")
        if self._sweeper is None:
            self._sweeper = Sweeper(asyncio.get_running_loop(), self._limits.tick)
            self._pools = self._sweeper.pools
        pool = Pool(
            url,
            sweeper=self._sweeper,
            limits=self._limits,
            guard=self._guard,
            tls=self._tls,
        )
        self._pools[url.origin] = pool
        return pool

    def _tls(self) -> ssl.SSLContext:
        if self._ssl is None:
            self._ssl = ssl.create_default_context()
            self._ssl.set_alpn_protocols(["http/1.1"])
        return self._ssl


def _first_lines(pool: Pool, request: HttpRequest) -> bytes:
    """Request line and host header, checked and remembered."""
    target = request.url.prefix + request.target
    if not _METHOD.match(request.method):
        raise InvalidRequest("the method is not one to 32 capital letters")
    if (request.target and request.target[0] not in "/?") or not _TARGET.match(target):
        raise InvalidRequest("the target does not begin with / or ?, or has a forbidden character")
    line = f"{request.method} {target} HTTP/1.1\r\nhost: {request.url.authority}\r\n"
    if not line.isascii() or line.count("\r") != 2 or line.count("\n") != 2:
        raise InvalidRequest("the URL's host has a forbidden character; build it with Url.parse")
    if len(pool.heads) >= _MAX_REMEMBERED:
        pool.heads.clear()
    first = line.encode("ascii")
    pool.heads[request.method, request.url.prefix, request.target] = first
    return first
