"""What the Open Responses specification asks of a server, asked of a real Tocsin.

The cases are those of its compliance tests that are not about WebSockets or hosted search tools.
Each runs before an upstream of either dialect; bodies and events are read as raw JSON, so that no
client fills in what is missing.
"""

import asyncio
import copy
import json
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from support.process import Tocsin
from tocsin.core.interaction import Usage
from tocsin.core.messages import ToolCall
from tocsin.core.wire.render import Answer
from tocsin.providers.playing import Step
from tocsin.providers.scripted_server import ScriptedServer, Seen

MODEL = "some-model"
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGA"
    "hKmMIQAAAABJRU5ErkJggg=="
)
DOCUMENT = "data:application/pdf;base64,JVBERi0xLjEKJSVFT0Y="
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather at a place.",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string"}},
        "required": ["location"],
    },
}
ARGUMENTS = '{"location":"San Francisco, CA"}'
TEXT = "Why, hello there."
CONFIG = '[upstreams.main]\nkind = "{kind}"\nbase_url = "{url}"\nbackoff_s = 0.01\n'

ALWAYS: dict[str, Any] = {
    "id": str,
    "object": str,
    "created_at": int,
    "status": str,
    "model": str,
    "output": list,
    "tools": list,
    "tool_choice": (str, dict),
    "truncation": str,
    "parallel_tool_calls": bool,
    "text": dict,
    "top_p": (int, float),
    "presence_penalty": (int, float),
    "frequency_penalty": (int, float),
    "top_logprobs": int,
    "temperature": (int, float),
    "store": bool,
    "background": bool,
    "service_tier": str,
    "metadata": dict,
}
"""Fields of a response that are there and not null."""
SOMETIMES = {
    "completed_at": int,
    "incomplete_details": dict,
    "previous_response_id": str,
    "instructions": str,
    "error": dict,
    "reasoning": dict,
    "usage": dict,
    "max_output_tokens": int,
    "max_tool_calls": int,
    "safety_identifier": str,
    "prompt_cache_key": str,
}
"""Fields that are there, and may be null."""
EVENTS: dict[str, dict[str, type]] = {
    "response.created": {"response": dict},
    "response.queued": {"response": dict},
    "response.in_progress": {"response": dict},
    "response.completed": {"response": dict},
    "response.output_item.added": {"output_index": int, "item": dict},
    "response.output_item.done": {"output_index": int, "item": dict},
    "response.content_part.added": {
        "item_id": str, "output_index": int, "content_index": int, "part": dict,
    },
    "response.content_part.done": {
        "item_id": str, "output_index": int, "content_index": int, "part": dict,
    },
    "response.output_text.delta": {
        "item_id": str, "output_index": int, "content_index": int, "delta": str, "logprobs": list,
    },
    "response.output_text.done": {
        "item_id": str, "output_index": int, "content_index": int, "text": str, "logprobs": list,
    },
    "response.function_call_arguments.delta": {
        "item_id": str, "output_index": int, "delta": str,
    },
    "response.function_call_arguments.done": {
        "item_id": str, "output_index": int, "arguments": str,
    },
}  # fmt: skip
"""Every event that these cases may get, and what it has beside type and number."""


def script(seen: Seen) -> Step:
    """A model that calls the tool that it is given, once, and says one sentence."""
    body = json.loads(seen.body or b"{}")
    usage = Usage(source="reported", input_tokens=15, output_tokens=7)
    last = json.dumps(body.get("messages", [""])[-1])
    if body.get("tools") and "64 degrees" not in last:
        call = ToolCall(id="call_1", name="get_weather", arguments=ARGUMENTS)
        return Step(answer=Answer(tool_calls=(call,), usage=usage))
    return Step(answer=Answer(text=TEXT, usage=usage))


class World:
    """A Tocsin before a scripted upstream."""

    def __init__(self, tocsin: Tocsin, upstream: ScriptedServer, kind: str) -> None:
        self.kind = kind
        self._url = f"{tocsin.url}/v1/responses"
        self._upstream = upstream

    @property
    def asked(self) -> str:
        """The body of the last request that the upstream saw."""
        return self._upstream.seen[-1].body.decode()

    async def post(self, body: dict[str, Any]) -> Any:
        """The response, its fields checked."""
        response = json.loads(await asyncio.to_thread(self._sent, body))
        check_response(response)
        return response

    async def compact(self, body: dict[str, Any]) -> Any:
        """What a history is compacted to."""
        return json.loads(await asyncio.to_thread(self._sent, body, "/compact"))

    async def count(self, body: dict[str, Any]) -> Any:
        """How many tokens a request is said to have."""
        return json.loads(await asyncio.to_thread(self._sent, body, "/input_tokens"))

    async def stream(self, body: dict[str, Any]) -> list[Any]:
        """The events of a streamed response, each checked, in their order."""
        text = (await asyncio.to_thread(self._sent, {**body, "stream": True})).decode()
        events = []
        for block in text.split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
            if "data" in lines and lines["data"] != "[DONE]":
                event = json.loads(lines["data"])
                assert lines["event"] == event["type"]
                events.append(event)
        check_events(events)
        return events

    def _sent(self, body: dict[str, Any], below: str = "") -> bytes:
        request = urllib.request.Request(
            self._url + below,
            json.dumps({"model": MODEL, **body}).encode(),
            {"content-type": "application/json", "authorization": "Bearer sk-test"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200
            return bytes(answer.read())


@pytest_asyncio.fixture(
    loop_scope="module", scope="module", params=["openai", "anthropic", "responses"]
)
async def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    kind = "anthropic" if request.param == "anthropic" else "openai"
    folder = tmp_path_factory.mktemp
    async with ScriptedServer(script) as upstream:
        url = upstream.url if kind == "openai" else upstream.url.removesuffix("/v1")
        with Tocsin(folder("open"), CONFIG.format(kind=kind, url=url)) as tocsin:
            await tocsin.ready()
            if request.param != "responses":
                yield World(tocsin, upstream, request.param)
                return
            # An upstream that speaks the responses API: another Tocsin.
            config = CONFIG.format(kind="openai", url=f"{tocsin.url}/v1") + 'api = "responses"\n'
            with Tocsin(folder("front"), config) as front:
                await front.ready()
                yield World(front, upstream, request.param)


pytestmark = pytest.mark.asyncio(loop_scope="module")


# -- what every answer must be --


def check_response(response: Any, *, ended: bool = True) -> None:
    """Every field that the specification wants, of its type."""
    for name, kind in ALWAYS.items():
        assert isinstance(response[name], kind), (name, response[name])
    for name, kind in SOMETIMES.items():
        assert response[name] is None or isinstance(response[name], kind), name
    assert response["object"] == "response"
    assert response["text"]["format"]["type"] == "text"
    for tool in response["tools"]:
        assert {"type", "name", "description", "parameters", "strict"} <= tool.keys()
    if ended:
        check_usage(response["usage"])
        assert response["status"] == "completed"
        assert response["completed_at"] >= response["created_at"]
        assert response["error"] is None
        assert response["output"]
    for item in response["output"]:
        check_item(item)


def check_usage(usage: Any) -> None:
    """Counts that are there and agree."""
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0
    assert isinstance(usage["input_tokens_details"]["cached_tokens"], int)
    assert isinstance(usage["output_tokens_details"]["reasoning_tokens"], int)


def check_item(item: Any) -> None:
    """An output item has what its type has."""
    assert item["id"]
    assert item["status"] in ("in_progress", "completed", "incomplete")
    if item["type"] == "function_call":
        for name in ("call_id", "name", "arguments"):
            assert isinstance(item[name], str), name
        return
    assert (item["type"], item["role"]) == ("message", "assistant")
    for part in item["content"]:
        check_part(part)


def check_part(part: Any) -> None:
    """A part of a message's content."""
    assert part["type"] == "output_text"
    assert isinstance(part["text"], str)
    assert isinstance(part["annotations"], list)
    assert isinstance(part["logprobs"], list)


def check_events(events: list[Any]) -> None:
    """Each event has its fields; together they are numbered, open and close in order, and build
    exactly the response that the last one has."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        for name, kind in EVENTS[event["type"]].items():
            assert isinstance(event[name], kind), (event["type"], name)
        if "item" in event:
            check_item(event["item"])
        if "part" in event:
            check_part(event["part"])
    kinds = [event["type"] for event in events]
    assert kinds[0] == "response.created"
    assert kinds.index("response.in_progress") < kinds.index("response.output_item.added")
    assert kinds[-1] == "response.completed"
    for event in events[:-1]:
        if "response" in event:
            check_response(event["response"], ended=False)
            assert event["response"]["status"] in ("queued", "in_progress")
    final = events[-1]["response"]
    check_response(final)
    assert replayed(copy.deepcopy(events)) == final["output"]


def replayed(events: list[Any]) -> list[Any]:
    """The output that a client has who believes only the events between the first and the last."""
    output: list[Any] = []
    closed: set[int] = set()
    for event in events:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(output)
            assert event["item"]["status"] == "in_progress"
            output.append(event["item"])
            continue
        if "output_index" not in event:
            continue
        index = event["output_index"]
        assert index not in closed, "nothing comes after an item is done"
        item = output[index]
        if kind == "output_item.done":
            told = event["item"]
            assert {**item, "status": told["status"]} == told
            output[index] = told
            closed.add(index)
            continue
        assert event["item_id"] == item["id"]
        _apply(kind, event, item)
    assert len(closed) == len(output), "every item is done"
    return output


def _apply(kind: str, event: Any, item: Any) -> None:
    if kind == "content_part.added":
        assert event["content_index"] == len(item["content"])
        item["content"].append(event["part"])
    elif kind == "output_text.delta":
        item["content"][event["content_index"]]["text"] += event["delta"]
    elif kind == "output_text.done":
        assert item["content"][event["content_index"]]["text"] == event["text"]
    elif kind == "content_part.done":
        assert item["content"][event["content_index"]]["text"] == event["part"]["text"]
        item["content"][event["content_index"]] = event["part"]
    elif kind == "function_call_arguments.delta":
        item["arguments"] += event["delta"]
    else:
        assert kind == "function_call_arguments.done"
        assert item["arguments"] == event["arguments"]


# -- the cases --


def said(response: Any) -> str:
    return "".join(
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
    )


def user(content: object) -> dict[str, object]:
    return {"type": "message", "role": "user", "content": content}


async def test_a_message_is_answered_with_a_message(world: World) -> None:
    response = await world.post({"input": [user("Say hello in exactly 3 words.")]})
    assert said(response) == TEXT
    assert "exactly 3 words" in world.asked


async def test_a_plain_string_is_a_users_message(world: World) -> None:
    assert said(await world.post({"input": "Say hello."})) == TEXT
    assert json.loads(world.asked)["messages"][-1]["role"] == "user"


async def test_a_stream_builds_the_response_piece_by_piece(world: World) -> None:
    events = await world.stream({"input": [user("Count from 1 to 5.")]})
    deltas = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
    assert len(deltas) > 1
    assert "".join(deltas) == said(events[-1]["response"]) == TEXT


async def test_a_system_message_reaches_the_model_as_such(world: World) -> None:
    system = {"type": "message", "role": "system", "content": "You are a pirate."}
    response = await world.post({"input": [system, user("Say hello.")]})
    assert said(response) == TEXT
    body = json.loads(world.asked)
    spoken = [m["content"] for m in body["messages"] if m["role"] == "user"]
    assert "pirate" in world.asked
    assert "pirate" not in json.dumps(spoken)


async def test_a_tool_is_called_with_its_arguments(world: World) -> None:
    question = [user("What's the weather like in San Francisco?")]
    response = await world.post({"input": question, "tools": [WEATHER]})
    calls = [item for item in response["output"] if item["type"] == "function_call"]
    assert [call["name"] for call in calls] == ["get_weather"]
    assert json.loads(calls[0]["arguments"]) == json.loads(ARGUMENTS)
    assert response["tools"][0]["name"] == "get_weather"


async def test_a_streamed_tool_call_tells_its_arguments_as_they_come(world: World) -> None:
    events = await world.stream({"input": "The weather?", "tools": [WEATHER]})
    opened = [e for e in events if e["type"] == "response.output_item.added"]
    done = [e for e in events if e["type"] == "response.output_item.done"]
    assert "function_call" in [e["item"]["type"] for e in opened]
    assert "function_call" in [e["item"]["type"] for e in done]
    kinds = [e["type"] for e in events]
    first = kinds.index("response.function_call_arguments.delta")
    assert first < kinds.index("response.function_call_arguments.done")
    deltas = [e["delta"] for e in events if e["type"].endswith("call_arguments.delta")]
    assert json.loads("".join(deltas)) == json.loads(ARGUMENTS)


async def test_a_tools_result_continues_the_response_that_called_it(world: World) -> None:
    forced = {"type": "function", "name": "get_weather"}
    first = await world.post({"input": "The weather?", "tools": [WEATHER], "tool_choice": forced})
    call = next(item for item in first["output"] if item["type"] == "function_call")
    output = {"type": "function_call_output", "call_id": call["call_id"]}
    second = await world.post(
        {"previous_response_id": first["id"], "input": [{**output, "output": "64 degrees."}]}
    )
    assert said(second) == TEXT
    assert second["previous_response_id"] == first["id"]
    for known in ("The weather?", call["call_id"], "64 degrees"):
        assert known in world.asked


async def test_an_image_reaches_the_model(world: World) -> None:
    parts = [
        {"type": "input_text", "text": "What do you see?"},
        {"type": "input_image", "image_url": PIXEL},
    ]
    assert said(await world.post({"input": [user(parts)]})) == TEXT
    assert PIXEL.partition(",")[2] in world.asked


async def test_a_file_reaches_the_model(world: World) -> None:
    parts = [
        {"type": "input_text", "text": "The title of this file?"},
        {"type": "input_file", "filename": "fixture.pdf", "file_data": DOCUMENT},
    ]
    assert said(await world.post({"input": [user(parts)]})) == TEXT
    assert DOCUMENT.partition(",")[2] in world.asked


async def test_a_history_that_is_sent_along_reaches_the_model_in_order(world: World) -> None:
    answer = {"type": "message", "role": "assistant", "content": "Hello Alice!"}
    turns = [user("My name is Alice."), answer, user("What is my name?")]
    assert said(await world.post({"input": turns})) == TEXT
    messages = json.loads(world.asked)["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    for message, text in zip(messages, ("is Alice", "Hello Alice", "What is"), strict=True):
        assert text in json.dumps(message)


async def test_a_response_continues_the_one_before_it(world: World) -> None:
    first = await world.post({"input": "The code word is papaya.", "instructions": "Be terse."})
    assert first["instructions"] == "Be terse."
    second = await world.post({"previous_response_id": first["id"], "input": "Which word?"})
    assert said(second) == TEXT
    assert second["instructions"] is None
    for known in ("papaya", TEXT, "Which word?"):
        assert known in world.asked
    assert "terse" not in world.asked, "instructions are not inherited"


async def test_a_history_is_compacted_and_the_compaction_continues_it(world: World) -> None:
    first = await world.post({"input": "The code word is papaya."})
    compacted = await world.compact({"previous_response_id": first["id"], "input": "Remember it."})
    assert compacted["object"] == "response.compaction"
    assert compacted["id"]
    assert isinstance(compacted["created_at"], int)
    check_usage(compacted["usage"])
    *kept, summary = compacted["output"]
    assert [item["role"] for item in kept] == ["user", "user"]
    assert summary["type"] == "compaction"
    assert summary["id"]
    again = await world.post({"input": [*compacted["output"], user("Which word?")]})
    assert said(again) == TEXT
    for known in ("papaya", TEXT, "Which word?"):
        assert known in world.asked


async def test_the_length_of_a_request_is_told_before_it_is_made(world: World) -> None:
    first = await world.post({"input": "The code word is papaya. " * 40})
    asked = {"input": "Which word?", "instructions": "Be terse.", "tools": [WEATHER]}
    short = await world.count(asked)
    long = await world.count({**asked, "previous_response_id": first["id"]})
    assert short["object"] == "response.input_tokens"
    assert short["tocsin"]["estimated"] is (world.kind == "openai")
    if world.kind == "anthropic":
        assert (short["input_tokens"], long["input_tokens"]) == (15, 15), "the upstream's numbers"
        sent = json.loads(world.asked)
        assert sent.keys() == {"model", "messages", "system", "tools"}
        assert "papaya" in json.dumps(sent["messages"])
    else:
        assert 20 < short["input_tokens"] < 100
        assert short["input_tokens"] + 200 < long["input_tokens"]
