"""Every method of the official client's resources for responses and conversations, both clients.

What the client has is found by looking at it, so a method that a new release adds and nobody tries
here is a failed test. Answers are validated strictly: the client raises on a type that is off.
"""

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai.types.conversations import Conversation, ConversationDeletedResource
from openai.types.responses import CompactedResponse, Response
from pydantic import BaseModel

from support.process import Tocsin
from tocsin.core.interaction import Usage
from tocsin.core.wire.render import Answer
from tocsin.providers.playing import Step
from tocsin.providers.scripted_server import ScriptedServer, Seen
from tocsin.store import Filter

MODEL = "gpt-4o-mini"
TEXT = "Paris, of course."
CONFIG = '[upstreams.main]\nbase_url = "{url}"\nbackoff_s = 0.01\n'
WEBSOCKET = {"responses.connect"}
"""What is no HTTP: a session over a WebSocket."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Place(BaseModel):
    """What a parsed answer is."""

    city: str


def script(seen: Seen) -> Step:
    """A model that says one sentence, or the JSON that it is asked for."""
    wants_json = b"json_schema" in seen.body
    text = json.dumps({"city": "Paris"}) if wants_json else TEXT
    if b"too many calls" in seen.body:
        return Step(status=429, answer=Answer(text="Slow down."))
    if b"word-for-word" in seen.body:
        return Step(answer=Answer(text="Half a summ", finish_reason="length"))
    usage = Usage(source="reported", input_tokens=11, output_tokens=4)
    return Step(answer=Answer(text=text, usage=usage), gap_s=0.002)


class World:
    """A Tocsin before a scripted upstream, and its clients."""

    def __init__(self, tocsin: Tocsin, upstream: ScriptedServer) -> None:
        self.tocsin = tocsin
        self.upstream = upstream
        options: dict[str, Any] = {
            "base_url": f"{tocsin.url}/v1",
            "api_key": "sk-test",
            "max_retries": 0,
            "_strict_response_validation": True,
        }
        self.client = openai.OpenAI(**options)
        self.aclient = openai.AsyncOpenAI(**options)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with ScriptedServer(script) as upstream:
        folder = tmp_path_factory.mktemp("suite")
        with Tocsin(folder, CONFIG.format(url=upstream.url)) as tocsin:
            await tocsin.ready()
            yield World(tocsin, upstream)


def methods(resource: object, name: str) -> set[str]:
    """The names of a resource's methods and of those of the resources in it."""
    found: set[str] = set()
    for attribute in dir(type(resource)):
        if attribute.startswith(("_", "with_")):
            continue
        value = inspect.getattr_static(type(resource), attribute)
        if inspect.isfunction(value):
            found.add(f"{name}.{attribute}")
        else:
            found |= methods(getattr(resource, attribute), f"{name}.{attribute}")
    return found


def loose(client: Any) -> Any:
    """A client that takes an answer as it is: the type of a compacted history has no messages of
    users, although the API's documentation puts them there."""
    return client.copy(_extra_kwargs={"_strict_response_validation": False})


async def now(value: Any) -> Any:
    """What either client returns: at once, or when awaited."""
    return await value if inspect.isawaitable(value) else value


async def gathered(values: Any) -> list[Any]:
    """Everything that either client iterates over."""
    if hasattr(values, "__aiter__"):
        return [value async for value in values]
    return await asyncio.to_thread(list, values)


async def tried(client: Any) -> set[str]:
    """Use every method once, and look at what comes of it; the names of those that were used."""
    done: set[str] = set()
    for part in (_create, _streams, _kept, _compact, _conversations, _items):
        done |= await part(client)
    return done


async def _create(client: Any) -> set[str]:
    response: Response = await now(client.responses.create(model=MODEL, input="The capital?"))
    assert (response.status, response.output_text) == ("completed", TEXT)
    parsed = await now(client.responses.parse(model=MODEL, input="The city?", text_format=Place))
    assert parsed.output_parsed == Place(city="Paris")
    counted = await now(client.responses.input_tokens.count(model=MODEL, input="one two three"))
    assert (counted.object, 3 <= counted.input_tokens <= 12) == ("response.input_tokens", True)
    return {"responses.create", "responses.parse", "responses.input_tokens.count"}


async def _streams(client: Any) -> set[str]:
    manager = client.responses.stream(model=MODEL, input="The capital?")
    if hasattr(manager, "__aenter__"):
        async with manager as stream:
            events = await gathered(stream)
            final = await stream.get_final_response()
    else:
        with manager as stream:
            events = await gathered(stream)
            final = stream.get_final_response()
    assert events[0].type == "response.created"
    assert final.output_text == TEXT
    return {"responses.stream"}


async def _kept(client: Any) -> set[str]:
    made: Response = await now(
        client.responses.create(model=MODEL, input="The capital?", background=True)
    )
    while made.status in ("queued", "in_progress"):
        await asyncio.sleep(0.02)
        made = await now(client.responses.retrieve(made.id))
    assert (made.status, made.output_text) == ("completed", TEXT)
    page = await now(client.responses.input_items.list(made.id))
    assert [item.role for item in page.data] == ["user"]
    assert (await now(client.responses.cancel(made.id))).id == made.id
    await now(client.responses.delete(made.id))
    with pytest.raises(openai.NotFoundError):
        await now(client.responses.retrieve(made.id))
    names = ("retrieve", "input_items.list", "cancel", "delete")
    return {f"responses.{name}" for name in names}


async def _compact(client: Any) -> set[str]:
    first: Response = await now(client.responses.create(model=MODEL, input="My name is Ana."))
    found: CompactedResponse = await now(
        loose(client).responses.compact(
            model=MODEL, previous_response_id=first.id, input="Remember."
        )
    )
    assert [item.type for item in found.output] == ["message", "message", "compaction"]
    assert found.usage.input_tokens == 11
    return {"responses.compact"}


async def _conversations(client: Any) -> set[str]:
    made: Conversation = await now(client.conversations.create(metadata={"a": "1"}))
    assert await now(client.conversations.retrieve(made.id)) == made
    changed = await now(client.conversations.update(made.id, metadata={"b": "2"}))
    assert changed.metadata == {"b": "2"}
    gone: ConversationDeletedResource = await now(client.conversations.delete(made.id))
    assert gone.deleted
    with pytest.raises(openai.NotFoundError):
        await now(client.conversations.retrieve(made.id))
    return {f"conversations.{name}" for name in ("create", "retrieve", "update", "delete")}


async def _items(client: Any) -> set[str]:
    made = await now(client.conversations.create())
    given = [{"type": "message", "role": "user", "content": f"m{n}"} for n in range(5)]
    added = await now(client.conversations.items.create(made.id, items=given))
    listed = await gathered(await now(client.conversations.items.list(made.id, limit=2)))
    assert [item.id for item in listed] == [item.id for item in added.data][::-1], "all pages"
    first = added.data[0]
    got = await now(client.conversations.items.retrieve(first.id, conversation_id=made.id))
    assert got == first
    left = await now(client.conversations.items.delete(first.id, conversation_id=made.id))
    assert left == made
    names = ("create", "list", "retrieve", "delete")
    return {f"conversations.items.{name}" for name in names}


@pytest.mark.parametrize("kind", ["client", "aclient"])
async def test_every_method_of_the_client_works(world: World, kind: str) -> None:
    client = getattr(world, kind)
    known = methods(client.responses, "responses") | methods(client.conversations, "conversations")
    if kind == "client":
        used = await asyncio.to_thread(lambda: asyncio.run(tried(client)))  # it blocks
    else:
        used = await tried(client)
    assert used == known - WEBSOCKET


async def test_a_response_in_a_conversation_adds_both_sides_to_it(world: World) -> None:
    client = world.aclient
    made = await client.conversations.create()
    for text in ("The capital?", "And before?"):
        response = await client.responses.create(model=MODEL, input=text, conversation=made.id)
        assert response.conversation is not None
        assert response.conversation.id == made.id
    items = [item async for item in await client.conversations.items.list(made.id, order="asc")]
    told = [item.to_dict() for item in items]
    said = [(item["role"], item["content"][0]["text"]) for item in told]
    assert said == [
        ("user", "The capital?"), ("assistant", TEXT), ("user", "And before?"), ("assistant", TEXT),
    ]  # fmt: skip
    sent = json.loads(world.upstream.seen[-1].body)["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    compacted = await loose(client).responses.compact(
        model=MODEL, input=[], extra_body={"conversation": made.id}
    )
    assert len(compacted.output) == 3
    counted = await client.responses.input_tokens.count(model=MODEL, conversation=made.id)
    assert counted.input_tokens > 12, "what is in the conversation counts"


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # the same wrong type
async def test_a_compacted_history_is_recorded_and_can_be_sent_back(world: World) -> None:
    client = world.aclient
    before = len(world.upstream.seen)
    call = {"type": "function_call", "call_id": "c1", "name": "lookup", "arguments": '{"q":"x"}'}
    result = {"type": "function_call_output", "call_id": "c1", "output": "Order 4711."}
    history: list[Any] = [{"role": "user", "content": "My order?"}, call, result]
    found = await loose(client).responses.compact(
        model=MODEL, input=history, instructions="Be kind."
    )
    (asked,) = [seen.body.decode() for seen in world.upstream.seen[before:]]
    for known in ("My order?", "lookup", "Order 4711.", "Be kind."):
        assert known in asked
    assert b'"tools"' not in world.upstream.seen[-1].body, "the transcript is text"
    sent_back: list[Any] = [item.to_dict() for item in found.output]
    again = await client.responses.create(model=MODEL, input=[*sent_back, *history[:1]])
    assert again.output_text == TEXT
    body = world.upstream.seen[-1].body.decode()
    assert TEXT in body, "the summary is shown to the model"
    assert "Order 4711." not in body
    store = world.tocsin.store()
    try:
        for _ in range(100):
            rows = store.interactions(Filter(), limit=50).rows
            made = [row for row in rows if "compaction" in (row.attributes or {})]
            if any(row.attributes["compaction"] == found.id for row in made):
                return
            await asyncio.sleep(0.05)
        raise AssertionError("the call that wrote the summary is not recorded")
    finally:
        store.close()


async def test_a_summary_that_was_cut_compacts_nothing(world: World) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        await world.aclient.responses.compact(model=MODEL, input="Keep this word-for-word.")
    assert caught.value.code == "compaction_failed"


async def test_an_upstreams_refusal_to_compact_is_passed_on(world: World) -> None:
    with pytest.raises(openai.RateLimitError, match="Slow down"):
        await world.aclient.responses.compact(model=MODEL, input="These are too many calls.")


async def test_nothing_is_asked_where_there_is_nothing_to_compact(world: World) -> None:
    before = len(world.upstream.seen)
    found = await world.aclient.responses.compact(model=MODEL)
    assert [item.type for item in found.output] == ["compaction"]
    assert found.usage.total_tokens == 0
    assert len(world.upstream.seen) == before


Trial = Callable[[Any], Awaitable[object]]


@pytest.mark.parametrize(
    ("trial", "param"),
    [
        (lambda c: c.responses.compact(model=MODEL, previous_response_id="resp_none"),
         "previous_response_id"),
        (lambda c: c.responses.compact(
            model=MODEL, input=[{"type": "compaction", "encrypted_content": "gAAAAA=="}]), "input"),
        (lambda c: c.responses.compact(model=MODEL, input="word " * 140_000), "input"),
        (lambda c: c.responses.input_tokens.count(conversation="conv_none"), "conversation"),
        (lambda c: c.responses.input_tokens.count(
            conversation="conv_x", previous_response_id="resp_x"), "conversation"),
    ],
)  # fmt: skip
async def test_what_cannot_be_read_is_refused_by_name(
    world: World, trial: Trial, param: str
) -> None:
    before = len(world.upstream.seen)
    with pytest.raises(openai.APIStatusError) as caught:
        await trial(world.aclient)
    assert caught.value.status_code in (400, 404)
    assert caught.value.param == param
    assert len(world.upstream.seen) == before, "nobody was asked for it"
