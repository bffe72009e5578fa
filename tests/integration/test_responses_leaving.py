"""Clients of responses that leave and come back: how long their work goes on, and for what key."""

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from responses_world import World, gateway, words
from tocsin.providers.playing import Step
from tocsin.providers.scripted_server import ScriptedServer, Seen
from tocsin.store.operations_api import OperationFilter

LINGER_S = 1.5
HEADERS = {"x-stainless-retry-count": "0"}
SLOW = {"linger_s": LINGER_S}


async def leave(world: World, server: ScriptedServer, headers: dict[str, str]) -> float:
    """Ask, and leave once the upstream was asked; when that was."""
    async with world.http() as http:
        asking = asyncio.create_task(
            http.post("/responses", json={"model": "m", "input": "Hi"}, headers=headers)
        )
        await server.until(lambda: len(server.seen) == 1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    return time.monotonic()


@pytest.mark.parametrize("headers", [{}, HEADERS])
async def test_an_answer_lingers_once(tmp_path: Path, headers: dict[str, str]) -> None:
    """Whether the client is one that may come back with a retry, or not."""
    async with gateway(tmp_path, lambda _: words(1, hang=True), operations=SLOW) as (world, server):
        left_at = await leave(world, server, headers)
        await server.until(lambda: server.seen[0].left, 5)
        lingered = time.monotonic() - left_at
        (operation,) = world.app.store.operations.operations(OperationFilter()).rows
        operation = await world.app.operations.ended(operation.id, 5)
    assert 0.8 * LINGER_S < lingered < 1.8 * LINGER_S
    assert operation.outcome == "cancelled"


async def test_a_client_that_left_twice_has_its_answer_once(tmp_path: Path) -> None:
    async with gateway(tmp_path, lambda _: words(1, delay_s=1.0), operations=SLOW) as (
        world,
        server,
    ):
        await leave(world, server, HEADERS)
        async with world.http() as http:
            found: httpx2.Response = await http.post(
                "/responses",
                json={"model": "m", "input": "Hi"},
                headers={"x-stainless-retry-count": "1"},
            )
    assert found.json()["status"] == "completed"
    assert found.headers["tocsin-joined"] == found.json()["tocsin"]["call_id"]
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [401, 403])
async def test_an_upstream_that_does_not_let_us_in_frees_the_key(
    tmp_path: Path, status: int
) -> None:
    answers: list[Any] = [Step(status=status), words(1)]

    def script(_: Seen) -> Any:
        return answers.pop(0)

    async with gateway(tmp_path, script) as (world, server), world.http() as http:
        asked: Any = {"json": {"model": "m", "input": "Hi"}, "headers": {"idempotency-key": "k"}}
        first = await http.post("/responses", **asked)
        second = await http.post("/responses", **asked)
        third = await http.post("/responses", **asked)
    assert [answer.status_code for answer in (first, second, third)] == [status, 200, 200]
    assert "idempotency-replayed" not in second.headers
    assert third.headers["idempotency-replayed"] == "true"
    assert (third.content, len(server.seen)) == (second.content, 2)
