"""uvicorn's HTTP protocol with a short way for calls.

ASGI describes each request in a dictionary, each answer in several more, and reports a lost client
only to an app that waits for it, which costs a task per call. A call whose length is known and
small goes past all that: from the parser to ``Gateway.serve``, from there onto the transport.
Everything else (pages, uploads, bodies of unknown length) stays ASGI. Either way the connection
itself cancels the task that serves a client which has left, unless a retry may come for the answer.
"""

import asyncio
import logging
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tocsin.core.errors import CallError
from tocsin.gateway.server import GONE, TASK, TRACES, WIRE, Gateway
from tocsin.gateway.wire import DirectWire
from tocsin.runtime.intake import dialect_of

log = logging.getLogger("tocsin.gateway")

SMALL = 1024 * 1024
"""Largest body, in bytes, that is collected before its sender is authenticated."""


class _NoEvent:
    """Stands in for the event by which an ASGI app is woken: nobody waits for it."""

    __slots__ = ()

    def set(self) -> None:
        pass


_NO_EVENT = _NoEvent()


class _Call:
    """A call on its short way. Has what uvicorn looks at in the cycle of a connection."""

    __slots__ = (
        "body",
        "gone",
        "keep_alive",
        "message_event",
        "method",
        "more_body",
        "path",
        "pipelined",
        "query",
        "request_headers",
        "scope",
        "task",
        "wire",
    )

    def __init__(self, method: str, path: str, query: bytes, headers: list[Any]) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.request_headers = headers
        self.body = bytearray()
        self.more_body = True
        self.message_event = _NO_EVENT
        self.keep_alive = True
        self.pipelined = False
        self.gone = False
        self.scope: dict[str, Any] = {}
        self.task: asyncio.Task[None] | None = None
        self.wire: DirectWire | None = None

    @property
    def response_complete(self) -> bool:
        return self.wire is not None and self.wire.complete

    @property
    def disconnected(self) -> bool:
        return self.gone

    @disconnected.setter
    def disconnected(self, value: bool) -> None:
        self.gone = value


class TocsinProtocol(HttpToolsProtocol):
    """One client connection."""

    gateway: Gateway
    """Set by ``protocol_for``."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Events of a stream are small writes: held back by Nagle's algorithm they come 40 ms late.
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def on_headers_complete(self) -> None:
        call = self._short_call()
        if call is None:
            super().on_headers_complete()
            return
        before = self.cycle
        self.cycle = call  # type: ignore[assignment]  # it has what uvicorn looks at
        if before is not None and not before.response_complete:
            call.pipelined = True
            self.flow.pause_reading()
            self.pipeline.appendleft((call, self.app))  # type: ignore[arg-type]  # as above

    def _short_call(self) -> _Call | None:
        """The request as a call, when it may go the short way."""
        url = self.url
        if not url.startswith(b"/v1/") or b"%" in url or self.expect_100_continue:
            return None
        parser = self.parser
        if parser.get_http_version() != "1.1" or parser.should_upgrade():
            return None
        path, _, query = url.decode("latin-1").partition("?")
        if path == TRACES:
            return None
        length = b"0"
        for name, value in self.headers:
            if name == b"content-length":
                length = value
            elif name in (b"transfer-encoding", b"content-encoding"):
                return None
        if not length.isdigit() or int(length) > SMALL:
            return None
        if self.limit_concurrency is not None and len(self.tasks) >= self.limit_concurrency:
            return None
        method = parser.get_method().decode("latin-1")
        call = _Call(method, path, query.encode("latin-1"), self.headers)
        call.keep_alive = parser.should_keep_alive()
        return call

    def on_message_complete(self) -> None:
        call: Any = self.cycle
        if type(call) is not _Call:
            super().on_message_complete()
            return
        call.more_body = False
        if not call.pipelined:
            self._serve(call)

    def on_body(self, body: bytes) -> None:
        call: Any = self.cycle
        if type(call) is _Call:
            call.body += body
        else:
            super().on_body(body)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if type(cycle) is not _Call:
            super()._start_asgi_task(cycle, app)
            return
        cycle.pipelined = False
        if not cycle.more_body:
            self._serve(cycle)

    def _serve(self, call: _Call) -> None:
        call.wire = DirectWire(
            self.transport,
            self.flow,
            keep_alive=call.keep_alive,
            head_only=call.method == "HEAD",
            done=self.on_response_complete,
            client=self.client,
        )
        task = self.loop.create_task(self._run(call, call.wire))
        call.task = call.wire.task = task
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _run(self, call: _Call, wire: DirectWire) -> None:
        gateway = self.gateway
        headers = tuple(call.request_headers)
        try:
            try:
                principal = await gateway.admit(headers, self.server, self.client)
            except CallError as error:
                await wire.error(dialect_of(call.path, headers), error)
                return
            await gateway.serve(
                call.method, call.path, call.query, headers, principal, bytes(call.body), wire
            )
        except asyncio.CancelledError:
            if not call.gone:  # the server is stopping
                wire.broken()
        except Exception:
            log.exception("call %s %s failed", call.method, call.path)
            wire.broken()

    def shutdown(self) -> None:
        call: Any = self.cycle
        if type(call) is _Call and not call.response_complete and call.wire is not None:
            call.wire.close_after()
            return
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        cycle: Any = self.cycle
        super().connection_lost(exc)
        if cycle is None or cycle.response_complete:
            return
        if type(cycle) is _Call:
            cycle.gone = True
            task, wire = cycle.task, cycle.wire
        else:
            task, wire = cycle.scope.get(TASK), cycle.scope.get(WIRE)
            cycle.scope[GONE] = True
        if task is None:
            return
        if self.gateway.left(wire):
            self.tasks.discard(task)  # no stop of the server waits for what nobody waits for
        else:
            task.cancel()


def protocol_for(gateway: Gateway) -> type[TocsinProtocol]:
    """The protocol class of one gateway, for uvicorn's ``http`` setting."""
    return type("GatewayProtocol", (TocsinProtocol,), {"gateway": gateway})
