"""``/v1/responses`` by the unmodified client, whatever the upstream speaks."""

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest

from responses_world import gateway, upstream, words
from tocsin.core.interaction import Usage
from tocsin.core.messages import ToolCall
from tocsin.core.wire.render import Answer
from tocsin.providers.playing import Step
from tocsin.providers.scripted_server import ScriptedServer, Seen
from tocsin.store import Filter

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


def hello(_: Seen) -> Step | str:
    return Step(
        answer=Answer(
            text="Hello there, friend",
            usage=Usage(input_tokens=10, output_tokens=3, source="reported"),
        )
    )


def claude(server: ScriptedServer) -> dict[str, Any]:
    return {"claude": upstream(server, kind="anthropic")}


@pytest.mark.parametrize("dialect", ["chat", "messages"])
@pytest.mark.parametrize("form", ["whole", "stream", "background"])
async def test_every_upstream_gives_a_response(tmp_path: Path, dialect: str, form: str) -> None:
    made = claude if dialect == "messages" else None
    async with gateway(tmp_path, hello, upstreams=made) as (world, server):
        client = world.client()
        if form == "stream":
            async with client.responses.stream(model="gpt-4o-mini", input="Hi") as stream:
                kinds = [event.type async for event in stream]
                found: Any = await stream.get_final_response()
            assert kinds[:2] == ["response.created", "response.in_progress"]
            assert kinds[-1] == "response.completed"
            assert kinds.count("response.output_text.delta") == 3
        else:
            found = await client.responses.create(
                model="gpt-4o-mini", input="Hi", background=form == "background"
            )
        if form == "background":
            assert (found.status, found.output) == ("queued", [])
            for _ in range(100):
                found = await client.responses.retrieve(found.id)
                if found.status == "completed":
                    break
                await asyncio.sleep(0.02)
        operation = world.app.store.operations.operation(found.id)
        (call,) = await recorded(world, 1)
    assert (found.status, found.output_text) == ("completed", "Hello there, friend")
    assert (found.usage.input_tokens, found.usage.output_tokens) == (10, 3)
    said = found.model_extra["tocsin"]
    assert (said["outcome"], said["operation"]) == ("complete", found.id)
    assert said["call_id"] == call.id
    assert server.seen[0].path == (
        "/v1/messages" if dialect == "messages" else "/v1/chat/completions"
    )
    assert operation is not None
    assert (operation.status, operation.outcome, operation.calls) == ("ended", "complete", 1)
    assert (operation.input_tokens, operation.output_tokens) == (10, 3)
    assert operation.cost_nano_usd == 10 * 150 + 3 * 600  # $0.15 and $0.60 a million
    assert (operation.run_id, operation.title) == (call.run_id, "Hi")
    assert call.attributes["operation"] == found.id


async def recorded(world: Any, count: int) -> Any:
    """The recorded calls, oldest first, once there are ``count``."""
    for _ in range(100):
        rows = list(world.app.store.interactions(Filter(), limit=100).rows)
        if len(rows) >= count:
            return sorted(rows, key=lambda row: row.started_at)
        await asyncio.sleep(0.02)
    raise AssertionError(f"{len(rows)} calls recorded instead of {count}")


async def test_the_sync_client_too(tmp_path: Path) -> None:
    def use(url: str) -> tuple[str, str]:
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        whole = client.responses.create(model="gpt-4o-mini", input="Hi")
        with client.responses.stream(model="gpt-4o-mini", input="Hi") as stream:
            return whole.output_text, stream.get_final_response().output_text

    async with gateway(tmp_path, hello) as (world, _):
        assert await asyncio.to_thread(use, world.url) == ("Hello there, friend",) * 2


async def test_a_response_goes_on_from_the_one_before(tmp_path: Path) -> None:
    async with gateway(tmp_path, lambda seen: f"answer {len(sent(seen))}") as (world, server):
        client = world.client()
        first = await client.responses.create(
            model="m", input="one", instructions="Be a pirate.", metadata={"turn": "1"}
        )
        second = await client.responses.create(
            model="m", input="two", previous_response_id=first.id
        )
        third = await client.responses.create(
            model="m", input="three", previous_response_id=second.id, instructions="Be short."
        )
        runs = {world.app.store.operations.operation(r.id).run_id for r in (first, second, third)}
    assert [role(message) for message in sent(server.seen[0])] == ["system", "user"]
    # Instructions are not inherited.
    assert texts(server.seen[1]) == ["one", "answer 2", "two"]
    assert texts(server.seen[2]) == ["Be short.", "one", "answer 2", "two", "answer 3", "three"]
    assert third.previous_response_id == second.id
    assert first.metadata == {"turn": "1"}
    assert len(runs) == 1


def sent(seen: Seen) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = json.loads(seen.body)["messages"]
    return messages


def role(message: dict[str, Any]) -> str:
    return "system" if message["role"] == "developer" else str(message["role"])


def texts(seen: Seen) -> list[str]:
    found = []
    for message in sent(seen):
        content = message["content"]
        if isinstance(content, list):
            content = "".join(part["text"] for part in content)
        found.append(content)
    return found


async def test_a_tool_is_called_and_its_result_goes_on(tmp_path: Path) -> None:
    def script(seen: Seen) -> Step | str:
        if sent(seen)[-1]["role"] == "tool":
            return f"It is {sent(seen)[-1]['content']}."
        call = ToolCall(id="call_9", name="weather", arguments='{"city":"Bonn"}')
        return Step(answer=Answer(tool_calls=(call,)))

    async with gateway(tmp_path, script) as (world, server):
        client = world.client()
        asked = await client.responses.create(model="m", input="Weather?", tools=[WEATHER])
        (call,) = asked.output
        assert call.type == "function_call"
        assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Bonn"})
        result: Any = {
            "type": "function_call_output",
            "call_id": call.call_id,
            "output": "sunny",
        }
        answer = await client.responses.create(
            model="m", input=[result], previous_response_id=asked.id, tools=[WEATHER]
        )
    assert answer.output_text == "It is sunny."
    assert sent(server.seen[1])[1]["tool_calls"][0]["id"] == sent(server.seen[1])[2]["tool_call_id"]


class Person(pydantic.BaseModel):
    name: str
    age: int


async def test_a_schema_is_kept_or_the_answer_is_not_complete(tmp_path: Path) -> None:
    answers = iter(['{"name":"Ada","age":36}', '{"name":"Ada"}'])
    async with gateway(tmp_path, lambda _: next(answers)) as (world, server):
        client = world.client()
        good = await client.responses.parse(model="m", input="Who?", text_format=Person)
        bad = await client.responses.create(model="m", input="Who?", text={"format": FORMAT})
    assert good.output_parsed == Person(name="Ada", age=36)
    schema = json.loads(server.seen[0].body)["response_format"]["json_schema"]["schema"]
    assert set(schema["properties"]) == {"name", "age"}
    assert bad.model_extra is not None
    assert bad.model_extra["tocsin"]["outcome"] == "invalid"
    assert bad.status == "incomplete"


FORMAT: Any = {"type": "json_schema", "name": "person", "schema": Person.model_json_schema()}


async def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    async with gateway(tmp_path, hello) as (world, server):
        client = world.client()
        made = await client.responses.create(model="m", input="Hi")
        for act in (
            client.responses.retrieve("resp_none"),
            client.responses.cancel("resp_none"),
            client.responses.delete("resp_none"),
            client.responses.input_items.list("resp_none"),
            client.responses.create(model="m", input="Hi", previous_response_id="resp_none"),
            client.responses.create(model="m", input="Hi", conversation="conv_none"),
        ):
            with pytest.raises(openai.NotFoundError) as caught:
                await act
            assert caught.value.body["type"] == "invalid_request_error"  # type: ignore[index]
        assert await client.responses.delete(made.id) is None
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(made.id)
        assert len(server.seen) == 1
        # What was refused is recorded as a call all the same.
        calls = await recorded(world, 3)
    assert [call.status for call in calls] == [200, 404, 404]


async def test_nobody_finds_what_another_key_made(tmp_path: Path) -> None:
    async with gateway(tmp_path, hello) as (world, _):
        keyring = world.door.keyring
        ann = keyring.issue("ann", "caller", features=(), expires_at=None, actor="test").secret
        bob = keyring.issue("bob", "caller", features=(), expires_at=None, actor="test").secret
        made = await world.client(ann).responses.create(model="m", input="Hi")
        for other in (bob, "none"):
            client = world.client(other)
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(made.id)
            with pytest.raises(openai.NotFoundError):
                await client.responses.create(model="m", input="x", previous_response_id=made.id)
        assert (await world.client(ann).responses.retrieve(made.id)).id == made.id


async def test_input_items_are_listed_in_pages(tmp_path: Path) -> None:
    async with gateway(tmp_path, hello) as (world, _):
        client = world.client()
        said: Any = [{"role": "user", "content": f"line {n}"} for n in range(5)]
        made = await client.responses.create(model="m", input=said)
        page = await client.responses.input_items.list(made.id, limit=2)
        everything = [item async for item in page]
        upward = await client.responses.input_items.list(made.id, order="asc", limit=100)
        for limit in (0, 101):
            with pytest.raises(openai.BadRequestError):
                await client.responses.input_items.list(made.id, limit=limit)
    assert len(page.data) == 2
    assert page.has_more
    shown = [item.content[0].text for item in everything]  # type: ignore[union-attr]
    assert shown == [f"line {n}" for n in (4, 3, 2, 1, 0)]
    assert [item.id for item in upward.data] == [item.id for item in reversed(everything)]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_upstreams_error_is_the_callers(tmp_path: Path, stream: bool) -> None:
    headers = ((b"retry-after-ms", b"20"), (b"x-request-id", b"r1"))
    error = json.dumps({"error": {"message": "slow down", "type": "rate_limit", "code": "rpm"}})

    def script(_: Seen) -> Step:
        return Step(status=429, headers=headers, body=error.encode())

    async with gateway(tmp_path, script) as (world, _):
        with pytest.raises(openai.RateLimitError) as caught:
            await world.client().responses.create(model="m", input="Hi", stream=stream)
        answer = caught.value.response
        operation = world.app.store.operations.operation(answer.headers["tocsin-operation-id"])
        for _ in range(50):
            if operation.status == "ended":
                break
            await asyncio.sleep(0.02)
            operation = world.app.store.operations.operation(operation.id)
        kept = await world.client().responses.retrieve(operation.id)
    assert answer.headers["retry-after-ms"] == "20"
    assert answer.json()["error"]["code"] == "rpm"
    assert (operation.status, operation.outcome) == ("ended", "error")
    assert (kept.status, kept.error.code) == ("failed", "rate_limit_exceeded")  # type: ignore[union-attr]
    assert kept.error.message == "slow down"  # type: ignore[union-attr]


async def test_a_silent_stream_says_that_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tocsin.responses.create.SILENT_S", 0.05)
    slow = Step(answer=Answer(text="At last."), delay_s=0.4)
    body = {"model": "m", "input": "Hi", "stream": True}
    async with gateway(tmp_path, lambda _: slow) as (world, _):
        async with world.http() as http:
            text = (await http.post("/responses", json=body)).text
        async with world.client().responses.stream(model="m", input="Hi") as stream:
            final = await stream.get_final_response()
    assert text.count(": at work\n") >= 3
    assert text.rindex(": at work") < text.index("response.output_text.delta")
    assert final.output_text == "At last."


async def test_a_limit_refuses_with_its_own_status(tmp_path: Path) -> None:
    limits = {"all": {"scope": "organisation", "usd": 0.0}}
    async with gateway(tmp_path, hello, limits=limits) as (world, server):
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError) as caught:
                await world.client().responses.create(
                    model="gpt-4o-mini", input="Hi", stream=stream
                )
            assert caught.value.code == "budget_exceeded"
            name = caught.value.response.headers["tocsin-operation-id"]
        kept = await world.client().responses.retrieve(name)
        assert not server.seen
    assert kept.model_extra["tocsin"]["outcome"] == "denied"  # type: ignore[index]


async def test_a_stream_that_breaks_off_ends_failed(tmp_path: Path) -> None:
    async with gateway(tmp_path, lambda _: words(20, cut_after=900)) as (world, _):
        stream = await world.client().responses.create(model="m", input="Hi", stream=True)
        events = [event async for event in stream]
    assert events[-1].type == "response.failed"
    assert events[-1].response.output_text.startswith("w0 w1")
    assert events[-1].response.model_extra["tocsin"]["outcome"] == "error"


async def test_what_does_not_fit_is_refused_or_loses_its_oldest(tmp_path: Path) -> None:
    async with gateway(tmp_path, hello) as (world, server):
        client = world.client()
        turns: Any = [
            {"role": "developer", "content": "Be kind."},
            *({"role": "user", "content": f"{n} " + "word " * 3000} for n in range(4)),
            {"role": "user", "content": "last"},
        ]
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model="gpt-4", input=turns)
        assert caught.value.code == "context_length_exceeded"
        assert not server.seen
        made = await client.responses.create(
            model="gpt-4", input=turns, truncation="auto", max_output_tokens=100
        )
    assert made.status == "completed"
    kept = texts(server.seen[0])
    assert kept[0] == "Be kind."
    assert kept[-1] == "last"
    assert [text[0] for text in kept[1:-1]] == ["2", "3"]


async def test_a_response_that_is_not_stored_is_soon_gone(tmp_path: Path) -> None:
    settings = {"linger_s": 0}
    async with gateway(tmp_path, hello, operations=settings) as (world, _):
        client = world.client()
        made = await client.responses.create(model="m", input="Hi", store=False)
        assert made.output_text == "Hello there, friend"
        for _ in range(200):
            try:
                await client.responses.retrieve(made.id)
            except openai.NotFoundError:
                return
            await asyncio.sleep(0.05)
    raise AssertionError("it is still there")


async def test_with_forward_the_upstream_keeps_the_state(tmp_path: Path) -> None:
    def script(seen: Seen) -> Step:
        return Step(body=json.dumps({"echo": f"{seen.method} {seen.path}"}).encode())

    async with gateway(tmp_path, script, operations={"responses": "forward"}) as (world, server):
        async with world.http() as http:
            answer = await http.get("/responses/resp_1")
        assert answer.json() == {"echo": "GET /v1/responses/resp_1"}
        # A reload changes who keeps it.
        managed = world.app.config.operations.model_copy(update={"responses": "managed"})
        await world.app.reload(world.app.config.model_copy(update={"operations": managed}))
        async with world.http() as http:
            assert (await http.get("/responses/resp_1")).status_code == 404
        assert len(server.seen) == 1
        assert server.seen[0].path == "/v1/responses/resp_1"


async def test_an_item_is_referred_to_by_its_id(tmp_path: Path) -> None:
    async with gateway(tmp_path, hello) as (world, server):
        client = world.client()
        first = await client.responses.create(model="m", input="Hi")
        reference: Any = {"type": "item_reference", "id": first.output[0].id}
        last: Any = {"role": "user", "content": "And?"}
        await client.responses.create(model="m", input=[reference, last])
        missing: Any = {"type": "item_reference", "id": "msg_none"}
        with pytest.raises(openai.NotFoundError):
            await client.responses.create(model="m", input=[missing])
    assert texts(server.seen[1]) == ["Hello there, friend", "And?"]
