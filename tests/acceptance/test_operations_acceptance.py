"""Long runs through the front door: twenty minutes with a client that comes and goes, a day later,
and the sums of what operations, records and the upstream say was used."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai

from responses_world import World, gateway, upstream, words
from tocsin.core.interaction import Interaction, Usage
from tocsin.core.messages import ToolCall
from tocsin.core.operations import Operation
from tocsin.core.wire.render import Answer
from tocsin.providers.playing import Step
from tocsin.providers.scripted_server import ScriptedServer, Seen
from tocsin.store import Filter
from tocsin.store.operations_api import OperationFilter
from tocsin.testing import FakeClock

DONE = b"data: [DONE]\n\n"
MINUTE = 60
DAY = 24 * 60 * MINUTE
DISCONNECTS = 5


# -- a run that outlasts its clients --


async def blocks_until(stream: Any, count: int | None) -> list[bytes]:
    """The bytes of the next events of a stream; all of them without a ``count``."""
    seen = b""
    async for piece in stream.iter_bytes():
        seen += piece
        found = [block + b"\n\n" for block in seen.split(b"\n\n")[:-1]]
        if count is not None and len(found) >= count:
            return found[:count]
    return [block + b"\n\n" for block in seen.split(b"\n\n")[:-1]]


@contextlib.asynccontextmanager
async def passing(clock: FakeClock) -> AsyncIterator[None]:
    """Time passes meanwhile: half a minute every 20 ms."""

    async def pass_on() -> None:
        while True:
            await asyncio.sleep(0.02)
            clock.advance(30)

    task = asyncio.create_task(pass_on())
    try:
        yield
    finally:
        task.cancel()


async def test_twenty_minutes_and_five_disconnects_join_byte_for_byte(tmp_path: Path) -> None:
    clock = FakeClock()
    async with (
        gateway(tmp_path, lambda _: words(90, gap_s=0.02), clock=clock) as (world, server),
        passing(clock),
    ):
        responses = world.client().responses.with_streaming_response
        began = clock.now_us()
        async with responses.create(
            model="m", input="Think.", background=True, stream=True
        ) as stream:
            parts = await blocks_until(stream, 12)
        name = json.loads(parts[0].split(b"data: ")[1])["response"]["id"]
        left = 1
        while left < DISCONNECTS:
            async with responses.retrieve(
                name, stream=True, starting_after=len(parts) - 1
            ) as stream:
                parts += await blocks_until(stream, 10)
            left += 1
            assert (await world.app.operations.get(name)).status == "running"
        async with responses.retrieve(name, stream=True, starting_after=len(parts) - 1) as stream:
            parts += await blocks_until(stream, None)
        operation = await world.app.operations.get(name)
        async with responses.retrieve(name, stream=True) as stream:
            whole = b"".join(await blocks_until(stream, None))
    assert b"".join(parts) == whole
    assert whole.endswith(DONE)
    assert (operation.outcome, operation.restarts) == ("complete", 0)
    assert operation.ended_at is not None
    assert operation.ended_at - began >= 20 * MINUTE * 1_000_000
    assert len(server.seen) == 1


async def test_a_day_later_by_the_clock_it_goes_on_from_anywhere(tmp_path: Path) -> None:
    clock = FakeClock()
    async with gateway(tmp_path, lambda _: words(60), clock=clock) as (world, _):
        made = await world.client().responses.create(model="m", input="Go.", background=True)
        path = f"/responses/{made.id}"
        whole = await bytes_of(world, f"{path}?stream=true")
        clock.advance(DAY)
        await asyncio.sleep(0.1)
        for restarted in (False, True):
            if restarted:
                await world.stop()
                await world.start()
            await every_form(world, path, whole)
        clock.advance(30 * DAY)
        await world.stop()
        await world.start()
        async with world.http() as http:
            async with asyncio.timeout(5):
                while (await http.get(path)).status_code != 404:  # noqa: ASYNC110  it is forgotten
                    await asyncio.sleep(0.02)


async def every_form(world: World, path: str, whole: bytes) -> None:
    """Go on from many events through each of the three forms."""
    blocks = [block + b"\n\n" for block in whole.removesuffix(DONE).split(b"\n\n") if block]
    client = world.client()
    for number in range(0, len(blocks), 7):
        rest = b"".join(blocks[number + 1 :]) + DONE
        assert await bytes_of(world, f"{path}?stream=true&starting_after={number}") == rest
        assert await bytes_of(world, path, **{"last-event-id": str(number)}) == rest
        name = path.rpartition("/")[2]
        async with client.responses.stream(response_id=name, starting_after=number) as stream:
            seen = [event.sequence_number async for event in stream]
        assert seen == list(range(number + 1, len(blocks)))


async def bytes_of(world: World, path: str, **headers: str) -> bytes:
    async with world.http() as http:
        answer = await http.get(path, headers=headers)
    assert answer.status_code == 200, answer.text
    return bytes(answer.content)


# -- what was used --

TOOL: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
CALLED = ToolCall(id="call_1", name="weather", arguments='{"city": "Rome"}')
WAYS = ("plain", "stream", "background", "both", "truncated", "tool", "denied", "cancelled")


def script(seen: Seen) -> Step:
    """What is asked for in words, with a usage that differs from call to call."""
    text = seen.body.decode()
    number = int(text.split("call number ")[1].split(" ")[0])
    usage = Usage(input_tokens=1000 + number, output_tokens=10 + number, source="reported")
    if "denied" in text:
        return Step(status=500, answer=Answer(text="no"))
    if "cancelled" in text:
        return words(400, gap_s=0.02)
    answer = Answer(text="It is so. " * 5, usage=usage)
    if "truncated" in text:
        answer = Answer(text="It is", usage=usage, finish_reason="length")
    if "tool" in text:
        answer = Answer(tool_calls=(CALLED,), usage=usage)
    return Step(answer=answer)


async def one(client: openai.AsyncOpenAI, way: str, number: int) -> None:
    """One response of a kind, to its end."""
    model = "claude-x" if number % 3 == 0 else "gpt-4o-mini"
    asked: dict[str, Any] = {"model": model, "input": f"{way}: call number {number} of many"}
    if way == "tool":
        asked["tools"] = [TOOL]
    if way == "denied":
        with contextlib.suppress(openai.APIStatusError):
            await client.responses.create(**asked)
        return
    if way == "cancelled":
        stream = await client.responses.create(**asked, background=True, stream=True)
        name = (await anext(aiter(stream))).response.id
        async for event in stream:
            if event.type == "response.output_text.delta":
                break
        await stream.close()
        await client.responses.cancel(name)
        return
    if way in ("stream", "both") or number % 2:
        stream = await client.responses.create(**asked, stream=True, background=way == "both")
        async for _ in stream:
            pass
        return
    made = await client.responses.create(**asked, background=way == "background")
    while made.status in ("queued", "in_progress"):
        await asyncio.sleep(0.02)
        made = await client.responses.retrieve(made.id)


def two_upstreams(server: ScriptedServer) -> dict[str, Any]:
    claude = upstream(server, kind="anthropic", models=["claude-*"])
    claude["base_url"] = server.url.removesuffix("/v1")
    return {"claude": claude, "main": upstream(server)}


async def test_tokens_on_operations_are_those_on_record_and_those_the_upstream_billed(
    tmp_path: Path,
) -> None:
    async with gateway(tmp_path, script, upstreams=two_upstreams) as (world, server):
        client = world.client()
        calls = [(WAYS[number % len(WAYS)], number) for number in range(50)]
        await asyncio.gather(*(one(client, *call) for call in calls))
        await world.app.recorder.flush()
        rows = {row.attributes["operation"]: row for row in records(world)}
        operations = world.app.store.operations.operations(OperationFilter(), limit=100).rows
        assert len(operations) == len(server.seen) == len(rows) == 50
        for operation in operations:
            assert operation.status == "ended"
            same(operation, rows[operation.id])
        # Of an answer that was cut its upstream never says what it used: that is an estimate.
        cut = [o for o in operations if o.outcome == "cancelled"]
        assert len(cut) == 6
        assert any(o.input_tokens and rows[o.id].usage.source == "estimated" for o in cut)
        reported = [o for o in operations if o.outcome in ("complete", "truncated")]
        billed = [number for way, number in calls if way not in ("denied", "cancelled")]
        assert len(reported) == len(billed)
        assert sum(o.input_tokens for o in reported) == sum(1000 + n for n in billed)
        assert sum(o.output_tokens for o in reported) == sum(10 + n for n in billed)
        outcomes = {o.outcome for o in operations}
        assert outcomes == {"complete", "truncated", "error", "cancelled"}


def records(world: World) -> list[Interaction]:
    return list(world.app.store.interactions(Filter(), limit=1000).rows)


def same(operation: Operation, row: Interaction) -> None:
    """An operation and the record of its one call say the same."""
    assert operation.calls == 1
    used = (operation.input_tokens, operation.output_tokens)
    recorded = (row.usage.input_tokens or 0, row.usage.output_tokens or 0)
    assert used == recorded, (operation.title, operation.outcome, row.usage)
    assert operation.outcome == row.outcome
    assert operation.cost_nano_usd == (row.cost_nano_usd or 0)
