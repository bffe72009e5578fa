"""The front door: raw ASGI on ``/v1``, where every path is a call; the rest goes to the pages.

There is no route round the policies: whatever stands under ``/v1/`` becomes a ``Call``, is
recorded, and passes the same onion, known to us or not.
"""

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from tocsin.core.call import Call, Headers, Principal
from tocsin.core.clock import Clock
from tocsin.core.errors import BadRequest, CallError
from tocsin.core.policy import Reply
from tocsin.gateway.auth import Keyring
from tocsin.gateway.hosts import HostCheck
from tocsin.gateway.repeats import Asked, Repeats
from tocsin.gateway.wire import AsgiWire, Send, Wire
from tocsin.runtime.intake import ERROR_HEADER, answer_headers, dialect_of, take_in
from tocsin.runtime.runtime import Runtime

log = logging.getLogger("tocsin.gateway")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

TRACES = "/v1/traces"
"""OTLP ingest: the one path under ``/v1/`` that is no call."""

TASK = "tocsin.task"
WIRE = "tocsin.wire"
GONE = "tocsin.gone"
"""Keys of the ASGI scope by which the server cancels a call whose client has left."""


class Managed(Protocol):
    """Paths under ``/v1/`` whose state Tocsin keeps itself: responses and conversations."""

    def takes(self, path: str) -> bool: ...
    async def serve(
        self,
        method: str,
        path: str,
        query: bytes,
        headers: Headers,
        principal: Principal,
        body: bytes,
        wire: Wire,
    ) -> None:
        """Answer one request, errors included."""
        ...


class Gateway:
    """The whole ASGI application: ``/v1`` here, everything else in ``pages``."""

    def __init__(
        self,
        *,
        runtime: Runtime,
        keyring: Keyring,
        hosts: HostCheck,
        pages: ASGIApp,
        clock: Clock,
        max_body_bytes: int,
        start: Callable[[], Awaitable[None]],
        stop: Callable[[], Awaitable[None]],
        managed: Managed | None = None,
        repeats: Repeats | None = None,
    ) -> None:
        self._runtime = runtime
        self._keyring = keyring
        self._hosts = hosts
        self._pages = pages
        self._clock = clock
        self._max_body = max_body_bytes
        self._start = start
        self._stop = stop
        self._managed = managed
        self._repeats = repeats

    @property
    def max_body_bytes(self) -> int:
        """Largest request body that is taken, after decompression."""
        return self._max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            if path.startswith("/v1/") and path != TRACES:
                await self._call(path, scope, receive, send)
            else:
                await self._pages(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            raise RuntimeError(f"Tocsin speaks HTTP, not {scope['type']}")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._start()
        except Exception as error:
            log.exception("start failed")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            if self._repeats is not None:
                await self._repeats.stop()
            await self._stop()
        finally:
            await send({"type": "lifespan.shutdown.complete"})

    # -- calls --

    async def _call(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """A call that comes as ASGI: any server, any size."""
        scope[TASK] = asyncio.current_task()
        headers: Headers = scope["headers"]
        client = scope.get("client")
        wire = scope[WIRE] = AsgiWire(send, client[0] if client else "")
        wire.task = scope[TASK]
        try:
            try:
                # The key first: whoever has none cannot make us read a body.
                principal = await self.admit(headers, scope.get("server"), client)
                body = await _read_body(headers, receive, self._max_body)
            except CallError as error:
                await wire.error(dialect_of(path, headers), error)
                return
            await self.serve(
                scope["method"], path, scope["query_string"], headers, principal, body, wire
            )
        except asyncio.CancelledError:
            if GONE not in scope:
                raise

    async def admit(
        self,
        headers: Headers,
        server: tuple[str, int | None] | None,
        client: tuple[str, int] | None,
    ) -> Principal:
        """Who calls. Raises ``CallError`` for whoever may not."""
        self._hosts.check(headers, server)
        return await self._keyring.authenticate(headers, peer=client[0] if client else "")

    async def serve(
        self,
        method: str,
        path: str,
        query: bytes,
        headers: Headers,
        principal: Principal,
        body: bytes,
        wire: Wire,
    ) -> None:
        """One call from its parsed head and whole body to the last byte of its answer."""
        repeats = self._repeats
        if repeats is None or method != "POST":
            await self._answer(method, path, query, headers, principal, body, wire)
            return
        asked = Asked(method, path, query, headers, principal, body)
        try:
            await repeats.serve(asked, wire, self._answer)
        except CallError as error:
            code = error.code.encode("latin-1")
            await wire.error(dialect_of(path, headers), error, [(ERROR_HEADER, code)])

    def left(self, wire: Wire | None) -> bool:
        """The client behind ``wire`` is gone. Whether its call goes on all the same."""
        return wire is not None and self._repeats is not None and self._repeats.left(wire)

    async def _answer(
        self,
        method: str,
        path: str,
        query: bytes,
        headers: Headers,
        principal: Principal,
        body: bytes,
        wire: Wire,
    ) -> None:
        """Make the answer: Tocsin's own, or the upstream's through the onion."""
        managed = self._managed
        if managed is not None and managed.takes(path):
            await managed.serve(method, path, query, headers, principal, body, wire)
            return
        call, refused = take_in(
            "gateway", method, path, query, headers, principal, body, self._clock.now_us()
        )
        try:
            if refused is not None:
                raise self._runtime.refuse(call, refused)
            async with self._runtime.call(call) as reply:
                await _send_reply(call, reply, wire)
        except CallError as error:
            more = [(ERROR_HEADER, error.code.encode("latin-1")), *answer_headers(call)]
            await wire.error(call.dialect, error, more)


async def _read_body(headers: Headers, receive: Receive, most: int) -> bytes:
    """The whole body, decompressed. Raises ``BadRequest`` when it is larger than allowed."""
    encoding = None
    for name, value in headers:
        if name == b"content-length":
            if value.isdigit() and int(value[:18]) > most:
                raise _too_large(most)
        elif name == b"content-encoding":
            encoding = value
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        parts = [body]
        size = len(body)
        while message.get("more_body"):
            message = await receive()
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                raise _too_large(most)
        body = b"".join(parts)
    if encoding is not None and encoding.lower() != b"identity":
        return _decompressed(body, encoding, most)
    return body


def _too_large(most: int) -> BadRequest:
    return BadRequest(
        f"The request body is larger than {most} bytes (`server.max_body_bytes`).",
        status=413,
        code="body_too_large",
    )


def _decompressed(body: bytes, encoding: bytes, most: int) -> bytes:
    if encoding.lower() not in (b"gzip", b"deflate"):
        raise BadRequest(
            "content-encoding: gzip, deflate or none.", status=415, code="unsupported_encoding"
        )
    decoder = zlib.decompressobj(47)
    try:
        plain = decoder.decompress(body, most + 1)
    except zlib.error:
        raise BadRequest("The request body is not the gzip that its header says.") from None
    if len(plain) > most:
        raise _too_large(most)
    if not decoder.eof:
        raise BadRequest("The compressed request body breaks off.")
    return plain


# -- answers --


async def _send_reply(call: Call, reply: Reply, wire: Wire) -> None:
    headers = [*reply.headers, *answer_headers(call)]
    chunks = reply.chunks
    if chunks is None:
        await wire.whole(reply.status, headers, reply.body or b"")
        return
    await wire.start(reply.status, headers)
    # An error from here on is said by ``wire.error``, as far as it can still be said.
    async for data in chunks:
        await wire.piece(data)
    await wire.end()
