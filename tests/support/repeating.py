"""A Tocsin on a real port in the test's own loop, with the layer that finds repeats."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from tocsin.app import App, build
from tocsin.config.model import Config
from tocsin.core.interaction import Interaction
from tocsin.gateway.auth import Keyring
from tocsin.gateway.hosts import HostCheck
from tocsin.gateway.protocol import protocol_for
from tocsin.gateway.repeats import Repeats
from tocsin.gateway.server import Gateway
from tocsin.providers.scripted_server import ScriptedServer, ServerScript
from tocsin.store import Filter

BEAT_S = 0.1
_PLAIN = {"retries": 0, "cooldown_failures": 1_000_000}


@dataclass
class Answered:
    """An answer as a raw client got it; ``status`` 0 where the connection was broken off."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        code: str = self.json["error"]["code"]
        return code


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("no pages here")


class Running:
    """One gateway process, as far as a test can tell."""

    def __init__(self, app: App, repeats: Repeats, gateway: Gateway, owner: str) -> None:
        self.app = app
        self.repeats = repeats
        self.gateway = gateway
        self.keyring = gateway._keyring
        self.owner = owner
        self.port = 0
        self.stop: Callable[[], Awaitable[None]]
        """Stop the server, in good order."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def rows(self, number: int) -> list[Interaction]:
        """The records, once there are so many; waits a moment longer for one too many."""
        for _ in range(200):
            rows = self.app.store.interactions(Filter(), limit=1000).rows
            if len(rows) >= number:
                break
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)
        return list(self.app.store.interactions(Filter(), limit=1000).rows)

    async def post(
        self,
        body: Any = None,
        *,
        path: str = "/v1/chat/completions",
        text: str = "x",
        **headers: str,
    ) -> Answered:
        """POST as a client without an SDK; header names with ``_`` for ``-``."""
        reader, writer = await self.begin(body, path=path, text=text, **headers)
        try:
            return await answer_of(reader)
        finally:
            writer.close()

    async def begin(
        self,
        body: Any = None,
        *,
        path: str = "/v1/chat/completions",
        text: str = "x",
        **headers: str,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a request; the test reads, or leaves."""
        return await begin(self.port, body or chat(text), path=path, **headers)


async def begin(
    port: int, body: Any, *, path: str = "/v1/chat/completions", **headers: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """POST as a client without an SDK; header names with ``_`` for ``-``."""
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = [
        f"POST {path} HTTP/1.1",
        f"host: 127.0.0.1:{port}",
        f"content-length: {len(data)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + data)
    await writer.drain()
    return reader, writer


def chat(text: str = "x", **more: Any) -> dict[str, Any]:
    """The body of a chat completion."""
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], **more}


async def answer_of(reader: asyncio.StreamReader) -> Answered:
    """Read one answer; what came, where the connection breaks off."""
    answer = Answered()
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        answer.headers = {
            name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
        }
        if "content-length" in answer.headers:
            answer.body = await reader.readexactly(int(answer.headers["content-length"]))
        else:
            while size := int(await reader.readline(), 16):
                answer.body += await reader.readexactly(size)
                await reader.readexactly(2)
            await reader.readexactly(2)
        answer.status = int(first.split(" ")[1])
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    return answer


@asynccontextmanager
async def running(
    folder: Path,
    upstream: ScriptedServer | None,
    *,
    owner: str = "proc_a",
    grace_s: float = 5.0,
    **settings: Any,
) -> AsyncIterator[Running]:
    """A gateway over ``folder``; ``settings`` are tables of the configuration."""
    url = upstream.url if upstream is not None else "http://127.0.0.1:9/v1"
    config = Config.model_validate(
        {
            "server": {"data_dir": str(folder)},
            "upstreams": {
                "main": {"base_url": url, **_PLAIN},
                "claude": {"kind": "anthropic", "base_url": url, **_PLAIN},
            },
            **settings,
        }
    )
    app = build(config, env={})
    book = app.store.operations
    repeats = Repeats(
        config=lambda: app.config, clock=app.clock, book=book, owner=owner, grace_s=grace_s
    )
    gateway = Gateway(
        runtime=app.runtime,
        keyring=Keyring(app.store, b"s" * 32, app.clock, require_key=False),
        hosts=HostCheck.of(config),
        pages=_nothing,
        clock=app.clock,
        max_body_bytes=config.server.max_body_bytes,
        start=_started(app),
        stop=app.stop,
        repeats=repeats,
    )
    running = Running(app, repeats, gateway, owner)

    async def beat() -> None:
        while True:
            await asyncio.to_thread(book.beat, owner, app.clock.now_us())
            await asyncio.sleep(BEAT_S)

    async with _served(running):
        beating = asyncio.create_task(beat())
        try:
            yield running
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)


@asynccontextmanager
async def world(
    folder: Path, script: ServerScript, **settings: Any
) -> AsyncIterator[tuple[Running, ScriptedServer]]:
    """A gateway in front of an upstream that plays a script."""
    async with ScriptedServer(script) as upstream, running(folder, upstream, **settings) as tocsin:
        yield tocsin, upstream


def _started(app: App) -> Any:
    async def start() -> None:
        await app.start()

    return start


@asynccontextmanager
async def _served(running: Running) -> AsyncIterator[None]:
    bound = socket.create_server(("127.0.0.1", 0))
    running.port = bound.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(
            running.gateway,
            http=protocol_for(running.gateway),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=2,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    while not server.started:
        assert not serving.done(), "the server did not start"
        await asyncio.sleep(0.01)

    async def stop() -> None:
        server.should_exit = True
        await asyncio.shield(serving)

    running.stop = stop
    try:
        yield
    finally:
        await stop()
        bound.close()
