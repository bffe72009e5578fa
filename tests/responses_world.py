"""A real gateway in a test's own loop, before upstreams that play a script."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import uvicorn

from tocsin.app import App, build
from tocsin.cli.context import Settings
from tocsin.cli.frontdoor import FrontDoor
from tocsin.config.model import Config
from tocsin.core.clock import Clock
from tocsin.core.wire.render import Answer
from tocsin.gateway.protocol import protocol_for
from tocsin.providers.playing import Step
from tocsin.providers.scripted_server import ScriptedServer, Seen

KEY = "sk-upstream"


class World:
    """One Tocsin over a data folder; it can be stopped and started again."""

    def __init__(self, folder: Path, settings: dict[str, Any], clock: Clock | None = None) -> None:
        self.settings = settings
        self.folder = folder
        self.clock = clock
        self.port = 0
        self.app: App
        self.door: FrontDoor
        self._clients: list[openai.AsyncOpenAI] = []
        self._server: uvicorn.Server
        self._serving: asyncio.Task[None]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def client(self, key: str = "none", **more: Any) -> openai.AsyncOpenAI:
        made = openai.AsyncOpenAI(base_url=self.url, api_key=key, max_retries=0, **more)
        self._clients.append(made)
        return made

    def http(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=self.url, timeout=30, verify=False)

    async def start(self) -> "World":
        server = {"data_dir": str(self.folder), "shutdown_grace_s": 1}
        config = Config.model_validate({"server": server, **self.settings})
        env = {"UPSTREAM_KEY": KEY}
        self.app = build(config, env=env, clock=self.clock)
        self.door = FrontDoor(self.app, Settings(config, None, env))
        bound = socket.create_server(("127.0.0.1", self.port))
        self.port = bound.getsockname()[1]
        self._server = uvicorn.Server(
            uvicorn.Config(
                self.door.gateway,
                http=protocol_for(self.door.gateway),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=1,
            )
        )
        self._server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
        self._serving = asyncio.create_task(self._server.serve(sockets=[bound]))
        while not self._server.started:
            await asyncio.sleep(0.005)
            if self._serving.done():
                self._serving.result()
                raise AssertionError("the server ended at its start")
        return self

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        await self.stop()

    async def stop(self) -> None:
        self._server.should_exit = True
        await self._serving


def upstream(server: ScriptedServer, **more: Any) -> dict[str, Any]:
    """An upstream's settings with a key of its own."""
    return {
        "base_url": server.url,
        "api_key_env": "UPSTREAM_KEY",
        "retries": 0,
        "cooldown_failures": 1000,
        **more,
    }


@contextlib.asynccontextmanager
async def gateway(
    folder: Path,
    script: Callable[[Seen], Step | str],
    *,
    clock: Clock | None = None,
    upstreams: Callable[[ScriptedServer], dict[str, Any]] | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[World, ScriptedServer]]:
    """A running Tocsin and its upstream."""
    async with ScriptedServer(script) as server:
        named = {"main": upstream(server)} if upstreams is None else upstreams(server)
        world = World(folder, {"upstreams": named, **settings}, clock)
        await world.start()
        try:
            yield world, server
        finally:
            await world.close()


def words(count: int, **more: Any) -> Step:
    """An answer of so many words, each a piece of its own in a stream."""
    return Step(answer=Answer(text=" ".join(f"w{n}" for n in range(count))), **more)


# -- an upstream with a responses API of its own --


def direct(server: ScriptedServer) -> dict[str, Any]:
    """It as the only upstream."""
    return {"main": upstream(server, api="responses")}


def response(status: str, text: str = "") -> dict[str, Any]:
    """A response as an upstream has it."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    message = {
        "type": "message",
        "id": "msg_theirs",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }
    return {
        "id": "resp_theirs",
        "object": "response",
        "created_at": 1,
        "status": status,
        "model": "m-2026",
        "output": [message] if status == "completed" else [],
        "error": None,
        "incomplete_details": None,
        "usage": {"input_tokens": 7, "output_tokens": 4, "total_tokens": 11},
    }


def events_of(text: str) -> list[bytes]:
    """The stream of an upstream that says ``text`` word by word."""
    pieces = text.split(" ")
    pieces = [piece if not at else f" {piece}" for at, piece in enumerate(pieces)]
    place = {"output_index": 0, "item_id": "msg_theirs", "content_index": 0}
    item = {**response("completed", text)["output"][0]}
    part = item["content"][0]
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": response("in_progress")},
        {"type": "response.in_progress", "response": response("in_progress")},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**item, "content": [], "status": "in_progress"},
        },
        {"type": "response.content_part.added", **place, "part": {**part, "text": ""}},
        *(
            {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
            for piece in pieces
        ),
        {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": response("completed", text)},
    ]
    return [
        b"event: %b\ndata: %b\n\n"
        % (event["type"].encode(), json.dumps({**event, "sequence_number": at}).encode())
        for at, event in enumerate(events)
    ]
