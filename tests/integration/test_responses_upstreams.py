"""An upstream with a responses API of its own; work in batches; conversations in use."""

import asyncio
import json
from pathlib import Path

import openai
import pytest

from responses_world import World, direct, events_of, gateway, response, words
from tocsin.core.call import Principal
from tocsin.core.ids import new_id
from tocsin.core.operations import Operation
from tocsin.providers.playing import Step
from tocsin.providers.scripted_server import Seen


async def test_a_responses_upstream_is_spoken_to_in_its_own_words(tmp_path: Path) -> None:
    def script(seen: Seen) -> Step:
        if json.loads(seen.body).get("stream"):
            return Step(chunks=tuple(events_of("one two three")))
        return Step(body=json.dumps(response("completed", "one two three")).encode())

    async with gateway(tmp_path, script, upstreams=direct) as (world, server):
        client = world.client()
        whole = await client.responses.create(model="m", input="Hi")
        async with client.responses.stream(
            model="m", input="And?", previous_response_id=whole.id
        ) as stream:
            numbers = [event.sequence_number async for event in stream]
            streamed = await stream.get_final_response()
    assert whole.output_text == streamed.output_text == "one two three"
    assert whole.id.startswith("resp_0")
    assert whole.output[0].id != "msg_theirs"
    assert numbers == list(range(len(numbers)))
    assert {seen.path for seen in server.seen} == {"/v1/responses"}
    # The upstream keeps no state for us: it is sent the whole history.
    asked = json.loads(server.seen[1].body)
    assert asked.get("previous_response_id") is None
    assert [item.get("role") for item in asked["input"]] == ["user", "assistant", "user"]


async def test_what_ran_is_reconciled_by_the_upstreams_own_name_for_it(tmp_path: Path) -> None:
    text = " ".join(f"w{n}" for n in range(30))
    looks = 0

    def script(seen: Seen) -> Step:
        nonlocal looks
        if seen.method == "GET":
            looks += 1
            found = response("in_progress") if looks == 1 else response("completed", text)
            return Step(body=json.dumps(found).encode())
        return Step(chunks=tuple(events_of(text)), gap_s=0.1)

    async with gateway(tmp_path, script, upstreams=direct) as (world, server):
        made = await world.client().responses.create(model="m", input="Go", background=True)
        await until(world, made.id, 8)
        before = await stored(world, made.id)
        await world.stop()
        await world.start()
        operation = await world.app.operations.ended(made.id, 20)
        after = await stored(world, made.id)
        done = await world.client().responses.retrieve(made.id)
    assert (operation.outcome, operation.upstream_ref) == ("complete", "resp_theirs")
    assert (operation.input_tokens, operation.output_tokens) == (7, 4)
    assert done.output_text == text
    assert after[: len(before)] == before
    deltas = [json.loads(data)["delta"] for kind, data in after if kind.endswith("text.delta")]
    assert "".join(deltas) == text
    assert [json.loads(data)["sequence_number"] for _, data in after] == list(range(len(after)))
    assert [seen.method for seen in server.seen] == ["POST", "GET", "GET"]
    assert server.seen[1].path == "/v1/responses/resp_theirs"


async def until(world: World, name: str, count: int) -> None:
    """Wait until the log has so many events."""
    for _ in range(500):
        if len(await stored(world, name)) >= count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the log does not grow")


async def stored(world: World, name: str) -> list[tuple[str, bytes]]:
    book = world.app.store.operations
    return [(event.type, event.data) for event in await asyncio.to_thread(book.events, name)]


async def test_an_upstream_that_knows_nothing_of_it_leaves_it_unknown(tmp_path: Path) -> None:
    def script(seen: Seen) -> Step:
        if seen.method == "GET":
            return Step(status=404, body=b'{"error":{"message":"no such response"}}')
        return Step(chunks=tuple(events_of("a b c d e f g h")), gap_s=0.2)

    async with gateway(tmp_path, script, upstreams=direct) as (world, _):
        made = await world.client().responses.create(model="m", input="Go", background=True)
        await until(world, made.id, 6)
        await world.stop()
        await world.start()
        operation = await world.app.operations.ended(made.id, 20)
    assert (operation.outcome, operation.error_type) == ("unknown", "process_died")


async def test_a_batch_asks_each_request_once(tmp_path: Path) -> None:
    def script(seen: Seen) -> Step | str:
        text = json.loads(seen.body)["messages"][-1]["content"]
        text = text if isinstance(text, str) else text[0]["text"]
        return Step(status=400, body=b'{"error":{"message":"no"}}') if text == "3" else f"<{text}>"

    async with gateway(tmp_path, script) as (world, server):
        requests = [{"model": "m", "input": str(n)} for n in range(6)]
        now = world.app.clock.now_us()
        operation = Operation(
            id=new_id("op", now), kind="batch", feature="f", background=True, created_at=now
        )
        body = json.dumps({"requests": requests, "concurrency": 3}).encode()
        operation = await world.app.operations.create(operation, body, principal=Principal())
        ended = await world.app.operations.ended(operation.id, 10)
        result = json.loads(await world.app.operations.result(operation.id) or b"")
    data = result["data"]
    assert [row["index"] for row in data] == list(range(6))
    texts = [
        row["response"]["output"][0]["content"][0]["text"] for row in data if row["index"] != 3
    ]
    assert texts == [f"<{n}>" for n in (0, 1, 2, 4, 5)]
    assert (data[3]["outcome"], data[3]["error"]["message"]) == ("error", "no")
    assert (ended.outcome, ended.error_type, ended.calls) == ("error", "partly_failed", 6)
    assert ended.progress == 1.0
    assert len(server.seen) == 6


async def test_requests_on_one_conversation_take_turns(tmp_path: Path) -> None:
    at_once: list[int] = []

    def script(seen: Seen) -> Step:
        at_once.append(len([other for other in server.seen if not other.answered]))
        messages = json.loads(seen.body)["messages"]
        return words(len(messages), delay_s=0.05)

    async with gateway(tmp_path, script) as (world, server):
        client = world.client()
        conversation = await client.conversations.create()
        made = await asyncio.gather(
            *(
                client.responses.create(model="m", input=f"q{n}", conversation=conversation.id)
                for n in range(4)
            )
        )
        items = await client.conversations.items.list(conversation.id, order="asc", limit=100)
        runs = {world.app.store.operations.operation(one.id).run_id for one in made}
    assert at_once == [1, 1, 1, 1]
    # Each saw what the ones before had added: 1, 3, 5 and 7 messages.
    assert sorted(len(one.output_text.split()) for one in made) == [1, 3, 5, 7]
    roles = [item.role for item in items.data if item.type == "message"]
    assert roles == ["user", "assistant"] * 4
    assert len(runs) == 1
    assert {one.conversation.id for one in made if one.conversation} == {conversation.id}


async def test_a_conversation_in_use_may_be_refused_instead(tmp_path: Path) -> None:
    settings = {"busy_conversation": "refuse"}
    async with gateway(tmp_path, lambda _: words(3, delay_s=0.5), operations=settings) as (
        world,
        server,
    ):
        client = world.client()
        conversation = await client.conversations.create()
        make = client.responses.create
        first = asyncio.create_task(make(model="m", input="a", conversation=conversation.id))
        await server.until(lambda: len(server.seen) == 1)
        with pytest.raises(openai.ConflictError) as caught:
            await make(model="m", input="b", conversation=conversation.id)
        assert (await first).status == "completed"
        assert (await make(model="m", input="c", conversation=conversation.id)).output_text
    assert caught.value.code == "conversation_locked"
    assert caught.value.response.headers["x-should-retry"] == "true"


async def test_an_answer_that_failed_adds_nothing_to_the_conversation(tmp_path: Path) -> None:
    answers = iter([Step(status=500, body=b'{"error":{"message":"boom"}}'), words(2)])
    async with gateway(tmp_path, lambda _: next(answers)) as (world, _):
        client = world.client()
        conversation = await client.conversations.create(
            items=[{"type": "message", "role": "user", "content": "before"}]
        )
        with pytest.raises(openai.InternalServerError):
            await client.responses.create(model="m", input="q", conversation=conversation.id)
        await client.responses.create(model="m", input="q", conversation=conversation.id)
        items = await client.conversations.items.list(conversation.id, order="asc")
    assert len(items.data) == 3


async def test_work_of_another_kind_may_have_a_response_made(tmp_path: Path) -> None:
    async with gateway(tmp_path, lambda _: words(2)) as (world, server):
        now = world.app.clock.now_us()
        operation = Operation(
            id=new_id("resp", now), kind="response", feature="f", background=True, created_at=now
        )
        body = b'{"model":"m","input":"Hi"}'
        made = await world.app.operations.create(operation, body, principal=Principal())
        ended = await world.app.operations.ended(made.id, 10)
        client = world.client()
        found = await client.responses.retrieve(made.id)
        items = await client.responses.input_items.list(made.id)
        follow_up = await client.responses.create(
            model="m", input="And?", previous_response_id=made.id
        )
    assert (ended.outcome, found.output_text) == ("complete", "w0 w1")
    assert items.data[0].content[0].text == "Hi"  # type: ignore[union-attr]
    assert follow_up.status == "completed"
    assert len(json.loads(server.seen[1].body)["messages"]) == 3
