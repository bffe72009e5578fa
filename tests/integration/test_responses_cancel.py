"""A cancel is passed on to an upstream that would work on by itself."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from responses_world import World, events_of, gateway, response, upstream
from tocsin.providers.playing import Step
from tocsin.providers.scripted_server import ScriptedServer, Seen
from tocsin.store import Filter

CANCEL = "/v1/responses/resp_theirs/cancel"
LONG = " ".join(f"w{n}" for n in range(200))


def keeps(server: ScriptedServer) -> dict[str, Any]:
    """An upstream that makes background responses itself."""
    return {"main": upstream(server, api="responses", background=True)}


class Plays:
    """The upstream's part; ``cancel`` is what it says to a cancel."""

    def __init__(self, cancel: Step) -> None:
        self.cancel = cancel

    def __call__(self, seen: Seen) -> Step:
        if seen.path == CANCEL:
            return self.cancel
        if seen.method == "GET":
            return Step(body=json.dumps(response("in_progress")).encode())
        return Step(chunks=tuple(events_of(LONG)), gap_s=0.05)


def said(status: str) -> Step:
    return Step(body=json.dumps(response(status)).encode())


async def begun(world: World, server: ScriptedServer) -> str:
    """A response in the background whose upstream has told its own name for it; its id."""
    made = await world.client().responses.create(model="m", input="Go", background=True)
    book = world.app.store.operations
    for _ in range(300):
        if (await asyncio.to_thread(book.operation, made.id)).upstream_ref:  # type: ignore[union-attr]
            return str(made.id)
        await asyncio.sleep(0.01)
    raise AssertionError("the upstream has no name for it")


def cancels(server: ScriptedServer) -> int:
    return sum((seen.method, seen.path) == ("POST", CANCEL) for seen in server.seen)


async def test_a_cancel_reaches_the_upstream(tmp_path: Path) -> None:
    async with gateway(tmp_path, Plays(said("cancelled")), upstreams=keeps) as (world, server):
        name = await begun(world, server)
        cancelled: Any = await world.client().responses.cancel(name)
        await world.client().responses.cancel(name)
        operation = world.app.store.operations.operation(name)
        last = world.app.store.operations.events(name)[-1]
        for _ in range(100):
            rows = list(world.app.store.interactions(Filter(), limit=10).rows)
            if len(rows) == 2:
                break
            await asyncio.sleep(0.02)
    asked = json.loads(server.seen[0].body)
    assert (asked["background"], asked["store"]) == (True, True)
    assert cancels(server) == 1
    assert server.seen[1].headers["authorization"] == "Bearer sk-upstream"
    assert cancelled.status == "cancelled"
    assert cancelled.model_extra["tocsin"]["upstream_cancel"] == "cancelled"
    assert json.loads(last.data)["response"]["tocsin"]["upstream_cancel"] == "cancelled"
    assert operation is not None
    assert operation.outcome == "cancelled"
    assert operation.note == "cancel at the upstream: cancelled"
    assert [row.attributes["operation"] for row in rows] == [name, name]


@pytest.mark.parametrize(
    ("answer", "means"),
    [
        (Step(status=404, body=b'{"error":{"message":"no","code":"gone"}}'), "failed: gone"),
        (Step(status=500), "failed: "),
        (Step(fail=True), "failed: "),
        (Step(hang=True, chunks=()), "failed: "),
        (Step(delay_s=30), "failed: no answer in 3 seconds"),
        (Step(body=b"[]"), "accepted"),
        (said("completed"), "completed"),
    ],
    ids=["404", "500", "broken", "hangs", "silent", "strange", "was done"],
)
async def test_ours_is_cancelled_whatever_the_upstream_says(
    tmp_path: Path, answer: Step, means: str
) -> None:
    async with gateway(tmp_path, Plays(answer), upstreams=keeps) as (world, server):
        name = await begun(world, server)
        began = time.monotonic()
        cancelled: Any = await world.client().responses.cancel(name)
        took = time.monotonic() - began
    assert cancelled.status == "cancelled"
    assert cancelled.model_extra["tocsin"]["upstream_cancel"].startswith(means)
    assert cancels(server) >= 1
    assert took < 5


async def test_a_deadline_cancels_there_too(tmp_path: Path) -> None:
    settings = {"deadline_s": 0.8}
    async with gateway(
        tmp_path, Plays(said("cancelled")), upstreams=keeps, operations=settings
    ) as (world, server):
        name = await begun(world, server)
        operation = await world.app.operations.ended(name, 10)
    assert (operation.outcome, cancels(server)) == ("timeout", 1)


async def test_what_a_dead_process_began_is_cancelled_by_its_name(tmp_path: Path) -> None:
    async with gateway(tmp_path, Plays(said("cancelled")), upstreams=keeps) as (world, server):
        name = await begun(world, server)
        await world.stop()
        assert cancels(server) == 0, "a process that stops cancels nothing"
        await world.start()
        await server.until(lambda: any(seen.method == "GET" for seen in server.seen))
        cancelled = await world.client().responses.cancel(name)
    assert (cancelled.status, cancels(server)) == ("cancelled", 1)


async def test_nothing_is_passed_on_where_there_is_nothing_to_cancel(tmp_path: Path) -> None:
    """In the foreground, and at an upstream that is only asked for a stream."""

    def plain(server: ScriptedServer) -> dict[str, Any]:
        return {"main": upstream(server)}

    slow = Step(gap_s=0.05, chunks=tuple(b"data: {}\n\n" for _ in range(100)))
    async with gateway(tmp_path, lambda _: slow, upstreams=plain) as (world, server):
        made = await world.client().responses.create(model="m", input="Go", background=True)
        await server.until(lambda: len(server.seen) == 1)
        cancelled: Any = await world.client().responses.cancel(made.id)
    assert cancelled.status == "cancelled"
    assert "upstream_cancel" not in cancelled.model_extra["tocsin"]
    assert len(server.seen) == 1
