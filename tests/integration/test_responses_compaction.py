"""``context_management``: a history that has grown too long is compacted before its answer."""

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest

from responses_world import World, direct, events_of, gateway, response, upstream, words
from tocsin.core.interaction import Usage
from tocsin.core.wire.render import Answer
from tocsin.core.wire.responses import compaction_summary
from tocsin.providers.playing import Step
from tocsin.providers.scripted_server import ScriptedServer, Seen
from tocsin.store import Filter

LONG = "The quick brown fox jumps over the lazy dog. " * 60
MANAGED: Any = [{"type": "compaction", "compact_threshold": 500}]


def is_summing(seen: Seen) -> bool:
    return b"<transcript>" in seen.body


def said(text: str, asked: int, answered: int) -> Step:
    usage = Usage(input_tokens=asked, output_tokens=answered, source="reported")
    return Step(answer=Answer(text=text, usage=usage))


def script(seen: Seen) -> Step:
    if is_summing(seen):
        return said("They like foxes.", 700, 20)
    return said(LONG if shown(seen)[-1] == "Tell me." else "Noted.", 50, 5)


def shown(seen: Seen) -> list[str]:
    """The texts that a model was shown, in order."""
    body = json.loads(seen.body)
    found = []
    for message in body.get("messages") or body["input"]:
        content = message.get("content") or json.dumps(message.get("tool_calls"))
        texts = [content] if isinstance(content, str) else [part["text"] for part in content]
        found += texts
    return found


async def recorded(world: World, count: int) -> Any:
    """The recorded calls, once there are ``count``."""
    for _ in range(100):
        rows = list(world.app.store.interactions(Filter(), limit=100).rows)
        if len(rows) >= count:
            return rows
        await asyncio.sleep(0.02)
    raise AssertionError(f"{len(rows)} calls recorded instead of {count}")


SUMMARY = "Summary of the conversation so far:\n\nThey like foxes."


def claude(server: ScriptedServer) -> dict[str, Any]:
    return {"claude": upstream(server, kind="anthropic")}


@pytest.mark.parametrize("form", ["whole", "stream", "background"])
async def test_a_turn_whose_input_is_too_long_is_compacted(tmp_path: Path, form: str) -> None:
    async with gateway(tmp_path, script) as (world, server):
        client = world.client()
        first = await client.responses.create(model="gpt-4o-mini", input="Hello")
        second = await client.responses.create(
            model="gpt-4o-mini", input="Tell me.", previous_response_id=first.id
        )
        asked: Any = {
            "model": "gpt-4o-mini",
            "input": "And now?",
            "previous_response_id": second.id,
            "context_management": MANAGED,
        }
        made = await turn(world, form, asked)
        operation = world.app.store.operations.operation(made.id)
        rows = await recorded(world, 4)
        after = await client.responses.create(
            model="gpt-4o-mini", input="Thanks.", previous_response_id=made.id
        )
    assert [item.type for item in made.output] == ["compaction", "message"]
    assert compaction_summary(made.output[0].model_dump()) == "They like foxes."
    assert made.output_text == "Noted."
    summing, answering, going_on = server.seen[2:]
    assert LONG.strip() in shown(summing)[-1]
    window = ["Hello", "Tell me.", SUMMARY, "And now?"]
    assert shown(answering) == window
    assert shown(going_on) == [*window, "Noted.", "Thanks."]
    assert operation is not None
    assert (operation.calls, operation.input_tokens, operation.output_tokens) == (2, 750, 25)
    assert operation.cost_nano_usd == 750 * 150 + 25 * 600
    found = made.model_extra["tocsin"]["compaction"]
    by_id = {row.id: row for row in rows}
    assert by_id[found["call_id"]].attributes["compaction"] == made.id
    assert by_id[found["call_id"]].attributes["operation"] == made.id
    assert len({row.run_id for row in rows}) == 1
    assert found["error"] is None
    assert 500 < found["input_tokens"] < 1000
    assert after.status == "completed"


async def turn(world: World, form: str, asked: dict[str, Any]) -> Any:
    """The response of a request, in one of the forms that there are."""
    client = world.client()
    if form == "whole":
        return await client.responses.create(**asked)
    if form == "background":
        made = await client.responses.create(background=True, **asked)
        await world.app.operations.ended(made.id, 10)
        return await client.responses.retrieve(made.id)
    async with client.responses.stream(**asked) as stream:
        events = [event async for event in stream]
        made = await stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:5] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.output_item.done",
        "response.output_item.added",
    ]
    told: Any = events[3]
    assert (told.output_index, told.item) == (0, made.output[0])
    return made


def native(seen: Seen) -> Step:
    """As ``script``, by an upstream with a responses API of its own."""
    text = "They like foxes." if is_summing(seen) else "Noted."
    if json.loads(seen.body).get("stream"):
        return Step(chunks=tuple(events_of(text)))
    return Step(body=json.dumps(response("completed", text)).encode())


@pytest.mark.parametrize(("made", "plays"), [(direct, native), (claude, script)])
async def test_whatever_the_upstream_speaks(tmp_path: Path, made: Any, plays: Any) -> None:
    async with gateway(tmp_path, plays, upstreams=made) as (world, server):
        client = world.client()
        history: Any = [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": LONG},
            {"role": "user", "content": "And now?"},
        ]
        for stream in (False, True):
            asked = {"model": "m", "input": history, "context_management": MANAGED}
            found = await turn(world, "stream" if stream else "whole", asked)
            assert [item.type for item in found.output] == ["compaction", "message"]
            assert found.output_text == "Noted."
            # Stateless: what stands before the compaction item may be sent along, or not.
            output: list[Any] = [item.model_dump(exclude_none=True) for item in found.output]
            more: Any = [{"role": "user", "content": "Thanks."}]
            before: list[Any]
            for before in (history, []):
                await client.responses.create(model="m", input=[*before, *output, *more])
                shown_then = shown(server.seen[-1])
                assert shown_then[-2:] == ["Noted.", "Thanks."]
                assert "".join(shown_then[:-2]) == "".join(["Hello", SUMMARY, "And now?"])
    assert sum(map(is_summing, server.seen)) == 2


async def test_a_conversation_goes_on_from_its_compaction(tmp_path: Path) -> None:
    async with gateway(tmp_path, script) as (world, server):
        client = world.client()
        conversation = await client.conversations.create()
        asked: Any = {"model": "m", "conversation": conversation.id, "context_management": MANAGED}
        await client.responses.create(input=LONG, **asked)
        await client.responses.create(input="And now?", **asked)
        await client.responses.create(input="Thanks.", **asked)
        items = await client.conversations.items.list(conversation.id, order="asc")
    assert [item.type for item in items.data] == [
        *("message", "message", "message"),
        *("compaction", "message", "message", "message"),
    ]
    assert shown(server.seen[-1]) == [SUMMARY, "And now?", "Noted.", "Thanks."]
    assert sum(map(is_summing, server.seen)) == 1


async def test_what_comes_into_a_conversation_meanwhile_is_not_lost(tmp_path: Path) -> None:
    def slow(seen: Seen) -> Step:
        return words(2, delay_s=0.3) if is_summing(seen) else said("Noted.", 50, 5)

    async with gateway(tmp_path, slow) as (world, server):
        client = world.client()
        conversation = await client.conversations.create()
        asked: Any = {"model": "m", "conversation": conversation.id, "context_management": MANAGED}
        await client.responses.create(input=LONG, **asked)
        made = await client.responses.create(input="And now?", background=True, **asked)
        await server.until(lambda: any(map(is_summing, server.seen)))
        item: Any = {"type": "message", "role": "user", "content": "By the way."}
        await client.conversations.items.create(conversation.id, items=[item])
        await world.app.operations.ended(made.id, 10)
        await client.responses.create(input="Thanks.", **asked)
    assert [text for text in shown(server.seen[-1]) if not text.startswith("Summary")] == [
        *("By the way.", "And now?", "Noted.", "Thanks."),
    ]


async def test_calls_keep_their_results(tmp_path: Path) -> None:
    """An agent in a long loop: what it works on now is never summed up."""
    items: Any = [
        {"role": "user", "content": "Find it."},
        {"type": "function_call", "call_id": "c1", "name": "find", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": LONG},
        {"type": "function_call", "call_id": "c2", "name": "find", "arguments": "{}"},
        {"type": "function_call", "call_id": "c3", "name": "find", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c2", "output": "here"},
        {"type": "function_call_output", "call_id": "c3", "output": "there"},
    ]
    async with gateway(tmp_path, script) as (world, server):
        asked = {"model": "m", "input": items, "context_management": MANAGED}
        await turn(world, "whole", asked)
    sent = json.loads(server.seen[1].body)["messages"]
    assert [message["role"] for message in sent] == ["user", "user", "assistant", "tool", "tool"]
    assert [call["id"] for call in sent[2]["tool_calls"]] == ["c2", "c3"]
    assert [message["content"] for message in sent[3:]] == ["here", "there"]


async def test_nothing_is_compacted_that_is_short_or_would_not_get_shorter(tmp_path: Path) -> None:
    async with gateway(tmp_path, script) as (world, server):
        client = world.client()
        first = await client.responses.create(model="m", input="Hi", context_management=MANAGED)
        second = await client.responses.create(model="m", input=LONG, context_management=MANAGED)
        third = await client.responses.create(
            model="m", input="Hi", previous_response_id=first.id, context_management=MANAGED
        )
    made: Any
    for made in (first, second, third):
        assert [item.type for item in made.output] == ["message"]
        assert "compaction" not in made.model_extra["tocsin"]
    assert len(server.seen) == 3


@pytest.mark.parametrize("failure", ["status", "cut off", "empty"])
async def test_without_a_summary_the_turn_goes_on_as_it_is(tmp_path: Path, failure: str) -> None:
    fails = {
        "status": Step(status=429, body=b'{"error":{"message":"slow down","code":"busy"}}'),
        "cut off": Step(answer=Answer(text="They like", finish_reason="length")),
        "empty": Step(answer=Answer(text=" ")),
    }

    def failing(seen: Seen) -> Step:
        return fails[failure] if is_summing(seen) else said("Noted.", 50, 5)

    async with gateway(tmp_path, failing) as (world, server):
        client = world.client()
        first = await client.responses.create(model="m", input=LONG)
        made: Any = await client.responses.create(
            model="m", input="Hi", previous_response_id=first.id, context_management=MANAGED
        )
        operation = world.app.store.operations.operation(made.id)
    assert (made.status, made.output_text) == ("completed", "Noted.")
    assert shown(server.seen[-1]) == [LONG, "Noted.", "Hi"]
    code = made.model_extra["tocsin"]["compaction"]["error"]
    assert code == ("busy" if failure == "status" else "compaction_failed")
    assert operation is not None
    assert operation.calls == 2


async def test_what_does_not_fit_and_cannot_be_compacted_is_refused(tmp_path: Path) -> None:
    """The context of gpt-4 is 8,192 tokens."""

    def failing(seen: Seen) -> Step:
        return Step(status=500, body=b'{"error":{"message":"boom"}}')

    items = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": LONG * 15},
        {"role": "user", "content": "And now?"},
    ]
    asked: Any = {"model": "gpt-4", "input": items, "context_management": MANAGED}
    async with gateway(tmp_path, failing) as (world, _):
        client = world.client()
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(**asked)
        made = await client.responses.create(background=True, **asked)
        await world.app.operations.ended(made.id, 10)
        made = await client.responses.retrieve(made.id)
    assert caught.value.code == "context_length_exceeded"
    assert made.status == "failed"
    assert made.model_extra is not None
    assert made.model_extra["tocsin"]["error_code"] == "context_length_exceeded"
    assert made.model_extra["tocsin"]["compaction"]["error"] is not None


async def test_a_compaction_that_was_made_is_not_made_again(tmp_path: Path) -> None:
    """The process dies behind the compaction, before a word of the answer."""
    answers = iter([said("Noted.", 50, 5), words(3, delay_s=30), said("Again.", 50, 5)])

    def dies(seen: Seen) -> Step:
        return script(seen) if is_summing(seen) else next(answers)

    settings = {"on_unknown": "retry"}
    async with gateway(tmp_path, dies, operations=settings) as (world, server):
        client = world.client()
        first = await client.responses.create(model="m", input=LONG)
        made = await client.responses.create(
            model="m",
            input="And now?",
            previous_response_id=first.id,
            context_management=MANAGED,
            background=True,
        )
        await server.until(lambda: len(server.seen) == 3)
        before = world.app.store.operations.events(made.id)
        await world.stop()
        await world.start()
        operation = await world.app.operations.ended(made.id, 10)
        again = await world.client().responses.retrieve(made.id)
        after = world.app.store.operations.events(made.id)
    assert after[: len(before)] == before
    assert before[-1].type == "response.output_item.done"
    assert (operation.outcome, operation.restarts) == ("complete", 1)
    assert [item.type for item in again.output] == ["compaction", "message"]
    assert again.output_text == "Again."
    assert sum(map(is_summing, server.seen)) == 1
    assert shown(server.seen[-1]) == [SUMMARY, "And now?"]


async def test_a_cancel_in_the_middle_of_it_is_booked(tmp_path: Path) -> None:
    def hangs(seen: Seen) -> Step:
        return words(3, hang=True) if is_summing(seen) else said("Noted.", 50, 5)

    async with gateway(tmp_path, hangs) as (world, server):
        client = world.client()
        first = await client.responses.create(model="m", input=LONG)
        made = await client.responses.create(
            model="m",
            input="Hi",
            previous_response_id=first.id,
            context_management=MANAGED,
            background=True,
        )
        await server.until(lambda: len(server.seen) == 2)
        cancelled = await client.responses.cancel(made.id)
        operation = world.app.store.operations.operation(made.id)
        rows = list(world.app.store.interactions(Filter(), limit=10).rows)
    assert cancelled.status == "cancelled"
    assert operation is not None
    assert (operation.outcome, operation.calls) == ("cancelled", 1)
    assert len(rows) <= 2
