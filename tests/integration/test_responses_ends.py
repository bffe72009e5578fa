"""How responses end that do not simply end: stopped, out of time, their process dead."""

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest

from responses_world import World, gateway, words
from tocsin.core.operations import Event
from tocsin.providers.playing import Step
from tocsin.providers.scripted_server import Seen
from tocsin.store.operations_api import Written

SLOW = words(200, gap_s=0.05)


async def test_a_stop_cuts_it_and_says_so(tmp_path: Path) -> None:
    async with gateway(tmp_path, lambda _: SLOW) as (world, server):
        client = world.client(default_headers={"tocsin-feature": "chat"})
        stream = await client.responses.create(model="m", input="Go", background=True, stream=True)
        events = [await anext(aiter(stream)) for _ in range(8)]
        name = events[0].response.id  # type: ignore[union-attr]
        await world.app.switch.give("feature", "chat", "kill", by="ann", reason="It rambles.")
        events += [event async for event in stream]
        operation = await world.app.operations.ended(name, 5)
        with pytest.raises(openai.PermissionDeniedError) as caught:
            await client.responses.create(model="m", input="Again")
        await server.until(lambda: server.seen[0].left)
    assert operation.outcome == "cancelled"
    assert operation.error_type == "stopped"
    assert events[-1].response.status == "cancelled"  # type: ignore[union-attr]
    assert events[-1].response.output_text.startswith("w0")  # type: ignore[union-attr]
    assert caught.value.code == "stopped"


async def test_its_time_is_over(tmp_path: Path) -> None:
    settings = {"deadline_s": 0.5}

    def script(seen: Seen) -> Step:
        return SLOW if json.loads(seen.body).get("stream") else words(1, hang=True)

    async with gateway(tmp_path, script, operations=settings) as (world, server):
        client = world.client()
        made = await client.responses.create(model="m", input="Go", background=True)
        with pytest.raises(openai.APIStatusError) as caught:
            await client.responses.create(model="m", input="Go")
        operation = await world.app.operations.ended(made.id, 10)
        kept = await client.responses.retrieve(made.id)
        await server.until(lambda: all(seen.left for seen in server.seen))
    assert (operation.outcome, operation.error_type) == ("timeout", "deadline")
    assert kept.status == "failed"
    assert kept.output_text.startswith("w0")
    assert (caught.value.status_code, caught.value.code) == (504, "deadline")


async def test_a_foreground_answer_whose_process_died_is_unknown(tmp_path: Path) -> None:
    async with gateway(tmp_path, lambda _: SLOW) as (world, server):
        stream = await world.client().responses.create(model="m", input="Go", stream=True)
        name = (await anext(aiter(stream))).response.id  # type: ignore[union-attr]
        await server.until(lambda: len(server.seen) == 1)
        await world.stop()
        await world.start()
        operation = await world.app.operations.ended(name, 10)
    assert (operation.outcome, operation.error_type) == ("unknown", "process_died")
    assert len(server.seen) == 1


async def test_its_end_is_written_when_only_that_was_missing(tmp_path: Path) -> None:
    async with gateway(tmp_path, lambda _: words(3)) as (world, server):
        client = world.client()
        conversation = await client.conversations.create()
        made = await client.responses.create(model="m", input="q", conversation=conversation.id)
        items = await client.conversations.items.list(conversation.id)
        answer = items.data[0]
        events = world.app.store.operations.events(made.id)
        await world.stop()
        for gone in (False, True):
            await world.start()
            client = world.client()
            if gone:
                # The process died before it had added the answer.
                await client.conversations.items.delete(answer.id, conversation_id=conversation.id)
            await die(world, made.id)
            await world.app.operations.ended(made.id, 10)
            again = await client.conversations.items.list(conversation.id)
            assert [item.id for item in again.data] == [item.id for item in items.data]
            assert (await client.responses.retrieve(made.id)).output_text == "w0 w1 w2"
            assert world.app.store.operations.events(made.id) == events
            await world.stop()
        await world.start()
        assert len(server.seen) == 1


async def die(world: World, name: str) -> None:
    """Make the store look as if the process had died before it wrote the end, and start anew."""
    await world.stop()
    await world.start()
    changes: dict[str, Any] = {
        "status": "running",
        "outcome": None,
        "ended_at": None,
        "owner": "own_nobody_0_0_0",
    }
    world.app.store.operations.write([Written(operation_id=name, changes=changes)])


async def test_an_answer_without_an_end_is_no_good_one(tmp_path: Path) -> None:
    body = {
        "id": "x",
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "so"}}],
    }
    async with gateway(tmp_path, lambda _: Step(body=json.dumps(body).encode())) as (world, _):
        made = await world.client().responses.create(model="m", input="Go")
    assert made.model_extra is not None
    assert made.model_extra["tocsin"]["outcome"] == "unknown"
    assert made.output_text == "so"


async def test_what_was_given_out_is_never_taken_back(tmp_path: Path) -> None:
    """Many at once, each cut at another moment: every log is a whole one, without a gap."""
    async with gateway(tmp_path, lambda _: words(30, gap_s=0.01)) as (world, _):
        client = world.client()
        made = await asyncio.gather(
            *(client.responses.create(model="m", input="Go", background=True) for _ in range(12))
        )
        for at, one in enumerate(made):
            await asyncio.sleep(0.02)
            if at % 2:
                await client.responses.cancel(one.id)
        logs: list[list[Event]] = []
        for one in made:
            await world.app.operations.ended(one.id, 10)
            logs.append(await asyncio.to_thread(world.app.store.operations.events, one.id))
    for log in logs:
        assert [event.number for event in log] == list(range(len(log)))
        said = [json.loads(event.data) for event in log]
        assert [event["sequence_number"] for event in said] == list(range(len(log)))
        assert log[-1].type in ("response.completed", "response.incomplete")
        deltas = [e["delta"] for e in said if e["type"] == "response.output_text.delta"]
        output = said[-1]["response"]["output"]
        text = output[0]["content"][0]["text"] if output else ""
        assert "".join(deltas) == text
