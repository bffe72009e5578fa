"""How an answer leaves: through ASGI, or straight onto the connection."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Protocol

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from tocsin.core.errors import CallError
from tocsin.core.interaction import Dialect
from tocsin.core.wire import error_body, error_event

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

_JSON = (b"content-type", b"application/json")
_NO_RETRY = (b"x-should-retry", b"false")
_RETRY = (b"x-should-retry", b"true")


class Wire(Protocol):
    """Where one answer goes."""

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer. ``headers`` have no content-length."""
        ...

    async def start(self, status: int, headers: Headers) -> None:
        """The head of an answer whose length is not known."""
        ...

    async def piece(self, data: bytes) -> None:
        """The next bytes; waits while the client does not read."""
        ...

    async def end(self) -> None:
        """The answer is complete."""
        ...

    async def cut(self) -> None:
        """Break the connection off: the client must not take a part for the whole."""
        ...

    async def error(self, dialect: Dialect, error: CallError, more: Headers = ()) -> None:
        """An answer that is an error of ours; ``more`` headers go with it.

        Once an answer has begun, the dialect's error event is its end where that can be said (in a
        stream of events, to a client that reads); else the connection is broken off.
        """
        ...


def error_answer(dialect: Dialect, error: CallError) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body of an error, in the caller's dialect."""
    headers = [_JSON, _RETRY if error.retryable else _NO_RETRY]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after_s))))
    if error.status in (413, 421):
        headers.append((b"connection", b"close"))
    return headers, error_body(dialect, error)


def takes_events(headers: Headers) -> bool:
    """Whether an answer that has begun so can end with an event that is written in plain."""
    events = False
    for name, value in headers:
        if name == b"content-type":
            events = value.startswith(b"text/event-stream")
        elif name == b"content-encoding":
            return False
    return events


class Cut(Exception):
    """Makes an ASGI server break the connection off."""


class _Connection:
    """A client, from whom an answer that has not begun can be turned elsewhere."""

    __slots__ = ("_to", "asked", "status", "task")

    def __init__(self) -> None:
        self.asked: object | None = None
        """The call that is answered here, where a retry of it may join it."""
        self.status: int | None = None
        """Of the answer that this client was sent; ``None`` while there is none."""
        self.task: asyncio.Task[None] | None = None
        """What makes the answer."""
        self._to: Wire | None = None


class AsgiWire(_Connection):
    """Through any ASGI server."""

    __slots__ = ("_begun", "_blocked", "_complete", "_peer", "_raw")

    def __init__(self, send: Send, peer: str = "") -> None:
        super().__init__()
        self._raw = send
        self._peer = peer
        self._begun: Headers | None = None
        """The headers that went out."""
        self._blocked = False
        """Whether the last thing said is still waiting for the client, or was interrupted so."""
        self._complete = False

    @property
    def begun(self) -> bool:
        """Whether something of an answer went out, or may have."""
        return self._blocked or self._begun is not None

    @property
    def peer(self) -> str:
        """The client's address; empty where it has none."""
        return self._peer

    def turn(self, to: Wire) -> Wire:
        """From now on the answer goes to ``to``. Returns a wire to the client as it stands, for
        whoever wants to go on sending there. Only while nothing has ``begun``."""
        self._to = to
        return AsgiWire(self._raw, self._peer)

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        self._blocked = True
        await self._raw(message)
        self._blocked = False

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        if self._to is not None:
            await self._to.whole(status, headers, body)
            return
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self._send({"type": "http.response.body", "body": body})
        self._complete = True

    async def start(self, status: int, headers: Headers) -> None:
        if self._to is not None:
            await self._to.start(status, headers)
            return
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        self._begun = headers

    async def piece(self, data: bytes) -> None:
        if self._to is not None:
            await self._to.piece(data)
            return
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        if self._to is not None:
            await self._to.end()
            return
        await self._send({"type": "http.response.body", "body": b""})
        self._complete = True

    async def cut(self) -> None:
        if self._to is not None:
            await self._to.cut()
            return
        raise Cut("the answer was broken off in the middle")

    async def error(self, dialect: Dialect, error: CallError, more: Headers = ()) -> None:
        if self._to is not None:
            await self._to.error(dialect, error, more)
        elif self._begun is None and not self._blocked:
            headers, body = error_answer(dialect, error)
            await self.whole(error.status, [*headers, *more], body)
        elif self._complete:
            return
        elif self._blocked or not takes_events(self._begun or ()):
            await self.cut()
        else:
            await self.piece(error_event(dialect, error))
            await self.end()


class DirectWire(_Connection):
    """Onto the transport, one write for each thing said."""

    __slots__ = (
        "_client",
        "_complete",
        "_done",
        "_flow",
        "_head_only",
        "_headers",
        "_keep_alive",
        "_started",
        "_transport",
        "_twin",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        flow: FlowControl,
        *,
        keep_alive: bool,
        head_only: bool,
        done: Callable[[], None],
        client: tuple[str, int] | None = None,
    ) -> None:
        super().__init__()
        self._twin: DirectWire | None = None
        self._transport = transport
        self._flow = flow
        self._keep_alive = keep_alive
        self._head_only = head_only
        self._done = done
        self._client = client
        self._started = False
        self._headers: Headers = ()
        self._complete = False

    @property
    def complete(self) -> bool:
        """Whether the client was sent its whole answer."""
        return self._complete or (self._twin is not None and self._twin.complete)

    @property
    def begun(self) -> bool:
        """Whether something of an answer went out, or may have."""
        return self._started

    @property
    def peer(self) -> str:
        """The client's address; empty where it has none."""
        return self._client[0] if self._client else ""

    def turn(self, to: Wire) -> Wire:
        """From now on the answer goes to ``to``. Returns a wire to the client as it stands, for
        whoever wants to go on sending there. Only while nothing has ``begun``."""
        self._to = to
        self._twin = twin = DirectWire(
            self._transport,
            self._flow,
            keep_alive=self._keep_alive,
            head_only=self._head_only,
            done=self._done,
            client=self._client,
        )
        return twin

    def _head(self, status: int, headers: Headers, last: bytes) -> bytes:
        """The head, ending with the line ``last``. Raises ``ValueError`` on a line break inside."""
        parts = [STATUS_LINE[status]]
        for name, value in headers:
            if name == b"connection" and value == b"close":
                self._keep_alive = False
            else:
                parts += (name, b": ", value, b"\r\n")
        if not self._keep_alive:
            parts.append(b"connection: close\r\n")
        parts.append(last)
        head = b"".join(parts)
        # Status line, one line a header, ``last`` and its empty line; "connection" replaces one.
        if head.count(b"\n") > len(headers) + 3 + (not self._keep_alive):
            raise ValueError("a header value contains a line break")
        self._started = True
        self.status = status
        return head

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        if self._to is not None:
            await self._to.whole(status, headers, body)
            return
        head = self._head(status, headers, b"content-length: %d\r\n\r\n" % len(body))
        self._transport.write(head if self._head_only else head + body)
        self._finish()

    async def start(self, status: int, headers: Headers) -> None:
        if self._to is not None:
            await self._to.start(status, headers)
            return
        self._headers = headers
        self._transport.write(self._head(status, headers, b"transfer-encoding: chunked\r\n\r\n"))

    async def piece(self, data: bytes) -> None:
        if self._to is not None:
            await self._to.piece(data)
            return
        if self._flow.write_paused:
            await self._flow.drain()
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        if self._to is not None:
            await self._to.end()
            return
        self._transport.write(b"0\r\n\r\n")
        self._finish()

    async def cut(self) -> None:
        if self._to is not None:
            await self._to.cut()
            return
        self._transport.abort()

    async def error(self, dialect: Dialect, error: CallError, more: Headers = ()) -> None:
        if self._to is not None:
            await self._to.error(dialect, error, more)
        elif not self._started:
            headers, body = error_answer(dialect, error)
            await self.whole(error.status, [*headers, *more], body)
        elif self._complete:
            return
        elif self._flow.write_paused or not takes_events(self._headers):
            await self.cut()
        else:
            await self.piece(error_event(dialect, error))
            await self.end()

    def close_after(self) -> None:
        """Close the connection once this answer is complete."""
        self._keep_alive = False
        if self._twin is not None:
            self._twin.close_after()

    def broken(self) -> None:
        """Our own fault: a bare 500, or a broken connection once an answer has begun."""
        if self._started or self._to is not None:
            self._transport.abort()
            return
        self._keep_alive = False
        head = self._head(500, [(b"content-type", b"text/plain")], b"content-length: 21\r\n\r\n")
        self._transport.write(head + b"Internal Server Error")
        self._finish()

    def _finish(self) -> None:
        self._complete = True
        if not self._keep_alive:
            self._transport.close()
        self._done()


ClientWire = AsgiWire | DirectWire
"""What ends at a client's connection."""
