"""One HTTP/1.1 connection: writes a request, parses the response, buffers within bounds.

The hot path is this file. It holds one parser for the life of the connection, wakes its reader at
most once per burst of data, and keeps no timer: the sweeper looks at it every tick.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from tocsin.providers.http_errors import (
    BodyTooLarge,
    ClientClosed,
    FirstByteTimeout,
    IdleTimeout,
    OutboundError,
    ProtocolViolation,
    TotalTimeout,
    UpstreamClosed,
)
from tocsin.providers.http_types import NO_TIMEOUTS, Header, Timeouts

if TYPE_CHECKING:
    from tocsin.providers.http_pool import Pool

# In order: a reader that waits for phase N is woken at N or later.
IDLE: Final = 0
HEAD: Final = 1
BODY: Final = 2
DONE: Final = 3  # the response is complete, though perhaps not yet handed to its reader
DEAD: Final = 4  # failed; `error` says why

# Above this, copying the body behind the head costs more than a second buffer in the same write.
JOIN_BELOW: Final = 65_536


class Connection(asyncio.Protocol):
    """One socket to one origin, serving one request at a time."""

    __slots__ = (
        "_backlog_limit",
        "_body",
        "_bulky",
        "_headers",
        "_mark",
        "_method",
        "_parser",
        "_paused",
        "_seen",
        "_since",
        "_taken",
        "_timeouts",
        "_total_at",
        "_transport",
        "_waiter",
        "_wake",
        "_whole",
        "body_received",
        "chunks",
        "error",
        "gone",
        "headers",
        "phase",
        "pool",
        "reason",
        "received",
        "reusable",
        "reused",
        "started",
        "status",
    )
    _transport: asyncio.Transport

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.phase = IDLE
        self.gone = True  # the pool does not count this connection (yet, or any more)
        self.reused = False
        self.reusable = False
        self.error: OutboundError | None = None
        self.started = 0.0
        self.status = 0
        self.reason = b""
        self.headers: list[Header] = []
        self.chunks: list[bytes] = []
        self.received = 0
        self.body_received = 0
        self._headers: list[Header] = []
        self._parser = HttpResponseParser(self)
        self._mark = 0  # `received` at the last body byte: what came since is head or framing
        self._taken = 0
        self._seen = 0
        self._since = 0.0
        self._backlog_limit = pool.limits.buffer
        self._method = ""
        self._timeouts = NO_TIMEOUTS
        self._total_at: float | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._wake = DONE
        self._whole = False
        self._paused = False
        self._bulky = False

    # The life of the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop. Small writes must leave at once, whatever the loop's default is."""
        # A cast, because uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def eof_received(self) -> None:
        """Called by the loop when the upstream will send nothing more; closes our side too."""
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop when the socket is closed."""
        self._ended(exc)
        self.pool.lost(self)

    def _ended(self, exc: Exception | None) -> None:
        if self.phase == HEAD or (
            self.phase == BODY and (exc is not None or not self._ends_with_close())
        ):
            what = "before the response" if not self.received else "in the middle of the response"
            self.fail(UpstreamClosed, f"the upstream closed the connection {what}", exc)
            return
        if self.phase == BODY:
            self.phase = DONE
        self.retire()
        self._notify()

    def _ends_with_close(self) -> bool:
        """Whether this response has no length of its own (RFC 9112, 6.3)."""
        coding = b""
        for name, value in self.headers:
            lower = name.lower()
            if lower == b"content-length":
                return False
            if lower == b"transfer-encoding":
                coding = value.lower()
        return coding.rpartition(b",")[2].strip() != b"chunked"

    def announced(self) -> int:
        """The body length that the head announces in bytes; 0 when it announces none."""
        for name, value in self.headers:
            if name.lower() == b"content-length":
                return int(value)
        return 0

    def retire(self, *, politely: bool = False) -> None:
        """Close the socket and give its place in the pool back. May be called again."""
        self.reusable = False
        if self.phase == IDLE:
            self.phase = DEAD
        if not self.gone:
            self.gone = True
            self.pool.forget(self)
            if politely:
                self._transport.close()
            else:
                self._transport.abort()

    def adopt(self) -> bool:
        """Enter service: from now on this connection holds a place in its pool.

        False, and the socket closed, when the upstream hung up or spoke before it was asked.
        Not done in `connection_made`, because uvloop does not call `connection_lost` when
        `create_connection` is cancelled between the two.
        """
        if self.phase == IDLE and not self._transport.is_closing():
            self.gone = False
            self.pool.opened(self)
            return True
        self._transport.abort()
        return False

    def leave_place(self) -> None:
        """Close the socket, but leave the place in the pool to the caller."""
        self.phase = DEAD
        self.gone = True
        self._transport.close()

    def fail(
        self, kind: type[OutboundError], what: str, cause: BaseException | None = None
    ) -> None:
        """End the exchange with an error that its reader will raise, and close the socket."""
        if self.phase not in (HEAD, BODY):
            return
        self.phase = DEAD
        error = kind(
            f"{self.pool.url.origin}: {what}",
            sent=True,
            received=self.received,
            body_received=self.body_received,
        )
        error.__cause__ = cause
        self.error = error
        self.retire()
        self._notify()

    # One exchange

    def start(
        self, head: bytes, body: bytes, method: str, timeouts: Timeouts, started: float, now: float
    ) -> asyncio.Future[None]:
        """Write the request; the future is done when the head is in or `error` is set."""
        self.phase = HEAD
        self.started = now
        self._since = now
        self._method = method
        self._timeouts = timeouts
        total = timeouts.total
        self._total_at = None if total is None else started + total
        self.received = 0
        self.body_received = 0
        self._mark = 0
        self._taken = 0
        self._seen = -1
        if not body:
            self._transport.write(head)
        elif len(body) < JOIN_BELOW:
            self._transport.write(head + body)
        else:
            self._bulky = True
            self._transport.writelines((head, body))
        self._wake = BODY
        self._waiter = waiter = self.pool.loop.create_future()
        return waiter

    def wait(self, *, whole: bool) -> asyncio.Future[None]:
        """A future that is done when there is something to take (`whole`: everything)."""
        if self._waiter is not None:
            raise RuntimeError("this response is already being read by another task")
        self._wake = DONE
        self._whole = whole
        if whole:
            self._backlog_limit = self.pool.limits.max_body
            self._resume()
        self._waiter = waiter = self.pool.loop.create_future()
        return waiter

    def take(self) -> bytes:
        """What came since the last take, in one piece."""
        chunks = self.chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._taken = self.body_received
        if self._paused:
            self._resume()
        return data

    def release(self) -> None:
        """The reader has everything: the connection goes back to the pool or is closed."""
        if not self.reusable or (self._bulky and self._transport.get_write_buffer_size()):
            self.retire(politely=True)
            return
        self.phase = IDLE
        self.reused = True
        self._bulky = False
        if self._whole:
            self._whole = False
            self._backlog_limit = self.pool.limits.buffer
        self.pool.give(self)

    def abandon(self) -> None:
        """The reader left early: closing the socket is what tells the upstream to stop."""
        if self.phase in (IDLE, DEAD):
            return
        self.phase = DEAD
        self.chunks.clear()
        self.error = ClientClosed(
            f"{self.pool.url.origin}: the response was closed while it was being read",
            sent=True,
            received=self.received,
            body_received=self.body_received,
        )
        self.retire()
        self._notify()

    def _notify(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    # What the loop and the parser call

    def data_received(self, data: bytes) -> None:
        """Called by the loop with each burst of bytes."""
        if not HEAD <= self.phase <= BODY:
            # Bytes that nobody asked for: whatever they are, they must not become the head of
            # the next response.
            self.retire()
            return
        self.received += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._unreadable(error)
            return
        phase = self.phase
        if phase < DONE and self.received - self._mark > self.pool.limits.max_head:
            self.fail(ProtocolViolation, self._too_long())
            return
        if self.body_received - self._taken > self._backlog_limit and phase <= DONE:
            self._overflow()
        waiter = self._waiter
        if waiter is not None and (self.phase >= self._wake or (self.chunks and not self._whole)):
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def on_message_begin(self) -> None:
        """Called by the parser at the first byte of a message."""
        if self.phase != HEAD:
            self.reusable = False
        self.reason = b""
        self._headers = []

    def on_status(self, reason: bytes) -> None:
        """Called by the parser, with the reason phrase or the next part of it."""
        if self.phase == HEAD:
            self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser for each field of a head, an interim head or a trailer."""
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Called by the parser at the end of a head."""
        if self.phase != HEAD:
            return
        status = self._parser.get_status_code()
        headers = self._headers
        self._headers = []  # what comes now are trailers, or the next head
        limits = self.pool.limits
        if len(headers) > limits.max_headers:
            raise _Violation(f"the head has more than {limits.max_headers} headers (max_headers)")
        if self.received > limits.max_head and _size(headers) > limits.max_head:
            raise _Violation(self._too_long())
        if status < 200:
            if status == 101:
                raise _Violation("the upstream switched protocols, which was not asked for")
            return
        self.status = status
        self.headers = headers
        self.reusable = self._parser.should_keep_alive()
        if status == 204 or status == 304 or self._method == "HEAD":
            # These never have a body, but the parser would wait for the length they announce.
            self.phase = DONE
            self._parser = HttpResponseParser(self)
        else:
            self.phase = BODY

    def on_body(self, body: bytes) -> None:
        """Called by the parser with each piece of the body, framing removed."""
        if self.phase != BODY:
            if self.phase == HEAD:
                raise _Violation("an interim response came with a body")
            self.reusable = False
            return
        self.chunks.append(body)
        self.body_received += len(body)
        self._mark = self.received

    def on_message_complete(self) -> None:
        """Called by the parser at the end of each response, interim ones included."""
        if self.phase == BODY:
            self.phase = DONE

    # What is rare

    def _too_long(self) -> str:
        return f"more than {self.pool.limits.max_head} bytes of head or framing (max_head)"

    def _unreadable(self, error: Exception) -> None:
        if self.phase == DONE:
            # The response was complete and right; only what followed it was not.
            self.retire()
            self._notify()
            return
        inner = error.__context__
        if isinstance(inner, _Violation):
            self.fail(ProtocolViolation, str(inner))
            return
        self.fail(ProtocolViolation, "the upstream's response is not valid HTTP/1.1", error)

    def too_large(self, setting: str, limit: int) -> None:
        """End the exchange because its body is over a cap, even when all of it has come."""
        self.phase = BODY
        self.chunks.clear()
        self.fail(BodyTooLarge, f"the response body is longer than {limit} bytes ({setting})")

    def _overflow(self) -> None:
        if self._whole:
            self.too_large("max_body", self.pool.limits.max_body)
        elif self.phase == BODY and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    # What the sweeper calls

    def sweep(self, now: float) -> None:
        """Fail or retire what has waited too long. `now` in loop time."""
        phase = self.phase
        if phase == IDLE:
            if not self.gone and now - self._since >= self.pool.limits.idle_expiry:
                self.retire(politely=True)
            return
        if phase not in (HEAD, BODY):
            return
        timeouts = self._timeouts
        if self._total_at is not None and now >= self._total_at:
            self.fail(TotalTimeout, f"not finished after {timeouts.total} s (timeouts.total)")
        elif phase == HEAD:
            limit = timeouts.first_byte
            if limit is not None and now - self.started >= limit:
                self.fail(FirstByteTimeout, f"no response after {limit} s (timeouts.first_byte)")
        elif self._paused or self.body_received != self._seen:
            self._seen = self.body_received
            self._since = now
        elif timeouts.idle is not None and now - self._since >= timeouts.idle:
            self.fail(IdleTimeout, f"no data for {timeouts.idle} s (timeouts.idle)")

    def rested(self, now: float) -> None:
        """The connection became idle at `now`."""
        self._since = now

    def close_client(self) -> None:
        """The client closes: end whatever this connection does."""
        self.fail(ClientClosed, "the HTTP client was closed during the exchange")
        self.retire()


class _Violation(Exception):
    """Raised inside a parser callback, to leave the parser."""


def _size(headers: list[Header]) -> int:
    """Bytes of a head on the wire, status line aside."""
    return sum(len(name) + len(value) + 4 for name, value in headers)
