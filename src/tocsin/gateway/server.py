"""The front door: raw ASGI on ``/v1``, where every path is a call; the rest goes to the pages.

There is no route round the policies: whatever stands under ``/v1/`` becomes a ``Call``, is
recorded, and passes the same onion, known to us or not.
"""

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tocsin.core.call import Call, Draft, Headers, Principal
from tocsin.core.clock import Clock
from tocsin.core.credentials import PREFIX
from tocsin.core.errors import BadRequest, CallError, Forbidden
from tocsin.core.ids import is_safe_id, new_id
from tocsin.core.interaction import Dialect, Operation
from tocsin.core.messages import chain
from tocsin.core.policy import Reply
from tocsin.core.wire import ParsedRequest, error_event, parse_request
from tocsin.gateway.auth import Keyring
from tocsin.gateway.hosts import HostCheck
from tocsin.gateway.wire import AsgiWire, Send, Wire
from tocsin.runtime.runtime import Runtime

log = logging.getLogger("tocsin.gateway")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

ROUTES: dict[str, tuple[Dialect, Operation]] = {
    "/v1/chat/completions": ("openai", "chat"),
    "/v1/completions": ("openai", "text_completion"),
    "/v1/embeddings": ("openai", "embeddings"),
    "/v1/responses": ("openai", "generate_content"),
    "/v1/models": ("openai", "models"),
    "/v1/messages": ("anthropic", "chat"),
    "/v1/messages/count_tokens": ("anthropic", "count_tokens"),
}
"""Paths whose bodies are read; any other under ``/v1/`` passes through, operation ``other``."""

TRACES = "/v1/traces"
"""OTLP ingest: the one path under ``/v1/`` that is no call."""

TASK = "tocsin.task"
GONE = "tocsin.gone"
"""Keys of the ASGI scope by which the server cancels a call whose client has left."""


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
    ) -> None:
        self._runtime = runtime
        self._keyring = keyring
        self._hosts = hosts
        self._pages = pages
        self._clock = clock
        self._max_body = max_body_bytes
        self._start = start
        self._stop = stop

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
            await self._stop()
        finally:
            await send({"type": "lifespan.shutdown.complete"})

    # -- calls --

    async def _call(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """A call that comes as ASGI: any server, any size."""
        scope[TASK] = asyncio.current_task()
        headers: Headers = scope["headers"]
        wire = AsgiWire(send)
        try:
            try:
                # The key first: whoever has none cannot make us read a body.
                principal = await self.admit(headers, scope.get("server"), scope.get("client"))
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
        dialect, operation = ROUTES.get(path) or (dialect_of(path, headers), "other")
        if operation == "models":
            dialect = dialect_of(path, headers)
        try:
            call, refused = self._parse(
                method, path, query, headers, dialect, operation, principal, body
            )
            if refused is not None:
                raise self._runtime.refuse(call, refused)
            async with self._runtime.call(call) as reply:
                await _send_reply(call, reply, wire)
        except CallError as error:
            await wire.error(dialect, error)

    def _parse(
        self,
        method: str,
        path: str,
        query: bytes,
        headers: Headers,
        dialect: Dialect,
        operation: Operation,
        principal: Principal,
        body: bytes,
    ) -> tuple[Call, CallError | None]:
        """The call, and what is wrong with it: a call that is refused is recorded all the same."""
        feature, user, agent = _said(headers)
        name_of = _feature(feature, principal)
        refused: CallError | None = None
        parsed = _NOTHING
        try:
            _check_feature(name_of, principal)
            if PREFIX in query:
                raise BadRequest(
                    "A Tocsin key stands in the URL, where logs of others would keep it. Send it "
                    "as a header, and revoke this one.",
                    code="key_in_url",
                )
            if body or method == "POST":
                parsed = parse_request(dialect, operation, body)
        except CallError as error:
            refused = error
        now = self._clock.now_us()
        call = Call(
            id=new_id("call", now),
            source="gateway",
            dialect=dialect,
            operation=operation,
            method=method,
            path=path,
            query=query,
            headers=headers,
            body=body,
            started_at=now,
            feature=name_of or "default",
            principal=principal,
            end_user=user or parsed.end_user,
            agent=agent,
            model=parsed.model,
            stream=parsed.stream,
            max_output_tokens=parsed.max_output_tokens,
            messages=parsed.messages,
            nodes=chain(parsed.messages),
            params=parsed.params,
            draft=Draft(response_ref=parsed.response_ref, conversation_ref=parsed.conversation_ref),
        )
        return call, refused


_NOTHING = ParsedRequest()


def dialect_of(path: str, headers: Headers) -> Dialect:
    """Of a path that both dialects may have: clients of Anthropic always send their version."""
    known = ROUTES.get(path)
    if known is not None and known[1] != "models":
        return known[0]
    for name, _ in headers:
        if name == b"anthropic-version":
            return "anthropic"
    return "openai"


def _said(headers: Headers) -> tuple[bytes | None, str | None, str | None]:
    """What the caller's ``tocsin-`` headers say: feature, end user, agent."""
    feature = user = agent = None
    for name, value in headers:
        if name[:7] == b"tocsin-":
            if name == b"tocsin-feature":
                feature = value
            elif name == b"tocsin-user":
                user = value.decode("latin-1")[:512]
            elif name == b"tocsin-agent":
                agent = value.decode("latin-1")[:200]
    return feature, user, agent


def _check_feature(feature: str | None, principal: Principal) -> None:
    """Raises ``BadRequest`` or ``Forbidden`` unless this is a feature that the key may call."""
    if feature is None:
        raise BadRequest("tocsin-feature: 1 to 128 letters, digits, '.', '_', ':' or '-'.")
    if not principal.may_call(feature):
        allowed = ", ".join(principal.features)
        raise Forbidden(f"this key may not call the feature '{feature}', only: {allowed}")


def _feature(said: bytes | None, principal: Principal) -> str | None:
    """The feature of a call; ``None`` when the header cannot be a feature's name."""
    if said is not None:
        text = said.decode("latin-1")
        return text if is_safe_id(text) else None
    return principal.features[0] if len(principal.features) == 1 else "default"


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
    identity = call.draft.identity
    headers = [*reply.headers, (b"tocsin-call-id", call.id.encode())]
    if identity is not None:
        headers.append((b"tocsin-run-id", identity.run_id.encode()))
    chunks = reply.chunks
    if chunks is None:
        await wire.whole(reply.status, headers, reply.body or b"")
        return
    await wire.start(reply.status, headers)
    try:
        async for data in chunks:
            await wire.piece(data)
    except CallError as error:
        # The head has gone out: the dialect's own error event is all that can still be said.
        if not (reply.header(b"content-type") or b"").startswith(b"text/event-stream"):
            await wire.cut()
            return
        await wire.piece(error_event(call.dialect, error))
    await wire.end()
