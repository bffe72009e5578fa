"""``ScriptedServer``: a provider's API on loopback that plays a script, for tests and benchmarks.

Speaks OpenAI's and Anthropic's wire over plain HTTP/1.1, whole and streamed, with keep-alive, and
notes what it saw, also whether a client went away before its answer was complete.
"""

import asyncio
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Self

import msgspec

from tocsin.core.interaction import Dialect, Operation
from tocsin.core.wire.render import Answer
from tocsin.core.wire.requests import parse_request
from tocsin.providers.playing import DEFAULT, Step, render

_OPERATIONS: dict[str, tuple[Dialect, Operation]] = {
    "/v1/messages": ("anthropic", "chat"),
    "/v1/messages/count_tokens": ("anthropic", "count_tokens"),
    "/v1/chat/completions": ("openai", "chat"),
    "/v1/completions": ("openai", "text_completion"),
    "/v1/embeddings": ("openai", "embeddings"),
    "/v1/models": ("openai", "models"),
}


class Seen(msgspec.Struct, kw_only=True):
    """One request as the server saw it; ``left`` and ``answered`` change as it is served."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    """By name in lower case; the last of several."""
    body: bytes
    connection: int
    """Which connection it came on, counted from 1."""
    left: bool = False
    """The client went away before the answer was complete."""
    answered: bool = False
    """The whole answer was written."""

    @property
    def dialect(self) -> Dialect:
        """The dialect of the path."""
        return _OPERATIONS.get(self.path, ("openai", "other"))[0]

    @property
    def operation(self) -> Operation:
        """The operation of the path."""
        return _OPERATIONS.get(self.path, ("openai", "other"))[1]


ServerScript = Callable[[Seen], Step | str] | Sequence[Step | str]


class ScriptedServer:
    """``async with ScriptedServer(script) as server:`` serves at ``server.url`` (with ``/v1``).

    The script is a function of the request, or a sequence of which the last step repeats; text
    stands for an answer with that text. ``seen`` lists the requests in the order of their arrival.
    ``fail`` closes the connection without an answer, ``cut_after`` in the middle of one.
    """

    def __init__(self, script: ServerScript = (DEFAULT,)) -> None:
        self.seen: list[Seen] = []
        self.connections = 0
        self._script = script
        self._server: asyncio.Server | None = None
        self._open: set[_Connection] = set()
        self._changed = asyncio.Event()

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._server is not None, "the server is not running"
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Base URL for clients and ``base_url`` settings."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self, port: int = 0) -> None:
        """Listen on loopback; port 0 picks a free one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", port)

    async def stop(self) -> None:
        """Close every connection, also those in the middle of an answer."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._open):
            await connection.stop()

    async def until(self, holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Wait until ``holds()``, looking again whenever something is seen, answered or left.

        Raises ``TimeoutError``.
        """
        async with asyncio.timeout(timeout_s):
            while not holds():
                await self._changed.wait()

    def _noticed(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _step(self, seen: Seen) -> Step:
        if callable(self._script):
            step = self._script(seen)
        else:
            step = self._script[min(len(self.seen), len(self._script)) - 1]
        return Step(answer=Answer(text=step)) if isinstance(step, str) else step


class _Connection(asyncio.Protocol):
    """One client: its requests, one after the other, and the answer that is being written."""

    def __init__(self, server: ScriptedServer) -> None:
        self._server = server
        server.connections += 1
        self._number = server.connections
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._seen: Seen | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server._open.add(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def eof_received(self) -> None:
        self.connection_lost(None)

    def connection_lost(self, _: Exception | None) -> None:
        self._server._open.discard(self)
        self._writable.set()
        if self._task is not None and not self._task.done():
            if self._seen is not None and not self._seen.answered:
                self._seen.left = True
                self._server._noticed()
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def stop(self) -> None:
        """Break the connection off."""
        assert self._transport is not None
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._transport.abort()

    def _next(self) -> None:
        """Begin with the next whole request, once the one before is answered."""
        if self._task is not None and not self._task.done():
            return
        seen = _take_request(self._buffer, self._number)
        if seen is not None:
            self._seen = seen
            self._server.seen.append(seen)
            self._server._noticed()
            self._task = asyncio.get_running_loop().create_task(self._serve(seen))

    async def _serve(self, seen: Seen) -> None:
        assert self._transport is not None
        seen.answered = await self._answer(seen)
        self._server._noticed()
        if not seen.answered:
            self._transport.close()
            return
        self._task = None
        self._next()

    async def _answer(self, seen: Seen) -> bool:
        """Write the answer; whether it was written whole."""
        step = self._server._step(seen)
        if step.delay_s:
            await asyncio.sleep(step.delay_s)
        if step.hang:
            await asyncio.Event().wait()
        if step.fail:
            return False
        wants = parse_request(seen.dialect, "other", seen.body).stream
        headers, body, events = render(step, seen.dialect, seen.operation, seen.body, wants)
        if events is None:
            await self._write(_head(step.status, headers, b"content-length: %d" % len(body)))
            await self._write(body if step.cut_after is None else body[: step.cut_after])
            return step.cut_after is None
        await self._write(_head(step.status, headers, b"transfer-encoding: chunked"))
        return await self._write_events(step, events)

    async def _write_events(self, step: Step, events: Sequence[bytes]) -> bool:
        sent = 0
        for number, event in enumerate(events):
            if number and step.gap_s:
                await asyncio.sleep(step.gap_s)
            piece = event if step.cut_after is None else event[: step.cut_after - sent]
            if piece:
                await self._write(b"%x\r\n%b\r\n" % (len(piece), piece))
                sent += len(piece)
            if step.cut_after is not None and sent >= step.cut_after:
                return False
        await self._write(b"0\r\n\r\n")
        return True

    async def _write(self, data: bytes) -> None:
        assert self._transport is not None
        await self._writable.wait()
        self._transport.write(data)


def _take_request(buffer: bytearray, connection: int) -> Seen | None:
    """Cut the first whole request off ``buffer``; ``None`` while there is none."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    request, *lines = buffer[:end].decode("latin-1").split("\r\n")
    method, target, _ = request.split(" ", 2)
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    whole = end + 4 + int(headers.get("content-length", "0"))
    if len(buffer) < whole:
        return None
    body = bytes(buffer[end + 4 : whole])
    del buffer[:whole]
    path, _, query = target.partition("?")
    return Seen(
        method=method, path=path, query=query, headers=headers, body=body, connection=connection
    )


def _head(status: int, headers: Sequence[tuple[bytes, bytes]], framing: bytes) -> bytes:
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Scripted"
    lines = [b"HTTP/1.1 %d %b" % (status, reason.encode()), framing]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"
