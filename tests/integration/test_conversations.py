"""Conversations and their items as the routes keep them, on SQLite and on PostgreSQL."""

import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.conversations import (
    Conversation,
    ConversationDeletedResource,
    ConversationItem,
    ConversationItemList,
)
from pydantic import TypeAdapter

from store_world import StoppedClock
from tocsin.config.model import StoreSettings
from tocsin.core.call import Principal
from tocsin.core.errors import BadRequest
from tocsin.core.operations import Operation
from tocsin.responses import conversations, items
from tocsin.responses.deps import Answer, Deps, Request, query_of
from tocsin.store import Store, open_store
from tocsin.store.operations_api import Written

ANA = Principal(key_id="key_ana", name="ana", role="caller")
BEN = Principal(key_id="key_ben", name="ben", role="caller")
NOW = 1_700_000_000_000_000

Handler = Callable[[Deps, Request], Awaitable[Answer]]


class World:
    """The routes over a real store, asked as their callers ask."""

    def __init__(self, store: Store, clock: StoppedClock) -> None:
        self.store = store
        self._now = NOW
        self._deps = Deps(
            operations=cast(Any, None),
            store=store,
            runtime=cast(Any, None),
            clock=clock,
            config=cast(Any, None),
            place_of=cast(Any, None),
            price=cast(Any, None),
            enrich=cast(Any, None),
        )

    async def ask(
        self, handler: Handler, path: str, body: object = None, *, by: Principal = ANA
    ) -> Any:
        """The answer's JSON."""
        name, _, query = path.partition("?")
        self._now += 1000  # an id holds the time; hypothesis repeats what is random in it
        request = Request(
            method="POST",
            path=f"/v1/{name}",
            parts=tuple(name.split("/")),
            query=query_of(query.encode()),
            principal=by,
            body=b"" if body is None else json.dumps(body).encode(),
            now=self._now,
        )
        answer = await handler(self._deps, request)
        assert answer.status == 200
        return json.loads(answer.data())

    async def refused(
        self, handler: Handler, path: str, body: object = None, *, by: Principal = ANA
    ) -> BadRequest:
        """The error that it is refused with."""
        with pytest.raises(BadRequest) as caught:
            await self.ask(handler, path, body, by=by)
        return caught.value

    async def new(self, *texts: str, **more: object) -> str:
        """A conversation of Ana's with a message for each text."""
        body = {"items": [message(text) for text in texts], **more}
        found = await self.ask(conversations.create, "conversations", body)
        return str(found["id"])

    async def texts(self, name: str, query: str = "") -> list[str]:
        """What stands in it, as one page has it."""
        page = await self.ask(items.listed, f"conversations/{name}/items?{query}")
        return [text_of(item) for item in page["data"]]


def message(text: str, **more: object) -> dict[str, object]:
    return {"type": "message", "role": "user", "content": text, **more}


def text_of(item: Any) -> str:
    return str(item["content"][0]["text"])


@pytest.fixture
def world(store_url: str, tmp_path: Path, clock: StoppedClock) -> Iterator[World]:
    store = open_store(StoreSettings(url=store_url), tmp_path, clock)
    yield World(store, clock)
    store.close()


async def test_a_conversation_is_made_read_changed_and_deleted(world: World) -> None:
    made = await world.ask(
        conversations.create, "conversations", {"items": [message("Hi.")], "metadata": {"a": "1"}}
    )
    Conversation.model_validate(made, strict=True)
    assert made["created_at"] == NOW // 1_000_000
    path = f"conversations/{made['id']}"
    assert await world.ask(conversations.retrieve, path) == made

    changed = await world.ask(conversations.update, path, {"metadata": {"b": "2"}})
    assert changed == {**made, "metadata": {"b": "2"}}
    assert await world.ask(conversations.retrieve, path) == changed
    emptied = await world.ask(conversations.update, path, {"metadata": None})
    assert emptied["metadata"] == {}

    gone = await world.ask(conversations.delete, path)
    ConversationDeletedResource.model_validate(gone, strict=True)
    assert gone["id"] == made["id"]
    for handler in (conversations.retrieve, conversations.delete, items.listed):
        assert (await world.refused(handler, path)).status == 404


async def test_a_conversation_can_be_made_of_nothing(world: World) -> None:
    made = await world.ask(conversations.create, "conversations")
    assert made["metadata"] == {}
    assert await world.texts(made["id"]) == []


async def test_items_are_kept_in_their_full_form_and_in_order(world: World) -> None:
    name = await world.new()
    several: list[dict[str, object]] = [
        message("Weather?", phase="commentary"),
        {"role": "assistant", "content": "I shall look."},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "Rain."},
        {"type": "reasoning", "id": "rs_1", "summary": []},
    ]
    added = await world.ask(items.add, f"conversations/{name}/items", {"items": several})
    ConversationItemList.model_validate(added)
    assert [item["type"] for item in added["data"]] == [
        "message", "message", "function_call", "function_call_output", "reasoning",
    ]  # fmt: skip
    assert (added["first_id"], added["last_id"]) == (added["data"][0]["id"], "rs_1")
    question, answer = added["data"][:2]
    assert question["content"] == [{"type": "input_text", "text": "Weather?"}]
    assert (question["status"], question["phase"]) == ("completed", "commentary")
    assert answer["content"][0]["type"] == "output_text"
    adapter: TypeAdapter[Any] = TypeAdapter(ConversationItem)
    for item in added["data"]:
        adapter.validate_python(item)
        path = f"conversations/{name}/items/{item['id']}"
        assert await world.ask(items.retrieve, path) == item
    page = await world.ask(items.listed, f"conversations/{name}/items?order=asc")
    assert page["data"] == added["data"]


async def test_lists_are_newest_first_and_pages_join_to_the_whole(world: World) -> None:
    name = await world.new(*[f"m{n}" for n in range(20)])
    await world.ask(
        items.add,
        f"conversations/{name}/items",
        {"items": [message(f"m{n}") for n in range(20, 25)]},
    )
    whole = [f"m{n}" for n in range(25)]
    assert await world.texts(name) == whole[::-1][:20], "20 is what nobody asked for"
    for order, expected in (("desc", whole[::-1]), ("asc", whole)):
        found: list[str] = []
        query = f"order={order}&limit=7"
        while True:
            page = await world.ask(items.listed, f"conversations/{name}/items?{query}")
            found += [text_of(item) for item in page["data"]]
            assert page["first_id"] == page["data"][0]["id"]
            assert page["last_id"] == page["data"][-1]["id"]
            if not page["has_more"]:
                break
            query = f"order={order}&limit=7&after={page['last_id']}"
        assert found == expected
    assert len(await world.texts(name, "limit=100")) == 25


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"),
        ("order=up", "order"), ("after=msg_nobody", "after"),
    ],
)  # fmt: skip
async def test_a_list_request_that_cannot_be_answered_names_its_parameter(
    world: World, query: str, param: str
) -> None:
    name = await world.new("Hi.")
    error = await world.refused(items.listed, f"conversations/{name}/items?{query}")
    assert (error.param, error.status) == (param, 404 if param == "after" else 400)


async def test_anothers_conversation_is_as_if_it_did_not_exist(world: World) -> None:
    made = await world.ask(
        conversations.create, "conversations", {"items": [message("Secret.", id="msg_1")]}
    )
    name = made["id"]
    routes: list[tuple[Handler, str, object]] = [
        (conversations.retrieve, f"conversations/{name}", None),
        (conversations.update, f"conversations/{name}", {"metadata": {}}),
        (conversations.delete, f"conversations/{name}", None),
        (items.listed, f"conversations/{name}/items", None),
        (items.add, f"conversations/{name}/items", {"items": [message("x")]}),
        (items.retrieve, f"conversations/{name}/items/msg_1", None),
        (items.delete, f"conversations/{name}/items/msg_1", None),
    ]
    for stranger in (BEN, Principal()):
        for handler, path, body in routes:
            theirs = await world.refused(handler, path, body, by=stranger)
            nobodys = await world.refused(handler, path.replace(name, "conv_none"), body)
            assert theirs.status == nobodys.status == 404
            assert str(theirs).replace(name, "conv_none") == str(nobodys)
    assert await world.texts(name) == ["Secret."], "none of it changed anything"


async def test_at_most_twenty_items_are_added_at_a_time(world: World) -> None:
    name = await world.new()
    path = f"conversations/{name}/items"
    for many in ([], [message("x")] * 21):
        error = await world.refused(items.add, path, {"items": many})
        assert (error.status, error.param) == (400, "items")
    assert (await world.refused(items.add, path, {})).param == "items"
    assert (await world.refused(items.add, path, {"items": "x"})).param == "items"
    error = await world.refused(
        conversations.create, "conversations", {"items": [message("x")] * 21}
    )
    assert error.code == "array_above_max_length"
    assert await world.texts(name) == []


async def test_an_id_stands_once_in_a_conversation(world: World) -> None:
    name = await world.new()
    path = f"conversations/{name}/items"
    await world.ask(items.add, path, {"items": [message("a", id="msg_a")]})
    for several in (
        [message("b"), message("c", id="msg_a")],
        [message("b", id="msg_b"), message("c", id="msg_b")],
    ):
        error = await world.refused(items.add, path, {"items": several})
        assert (error.code, error.param) == ("duplicate_item_id", "items[1].id")
    error = await world.refused(items.add, path, {"items": [message("b", id="../x y")]})
    assert error.param == "items[0].id"
    assert await world.texts(name) == ["a"], "a refused request adds nothing"
    other = await world.new()
    await world.ask(
        items.add, f"conversations/{other}/items", {"items": [message("z", id="msg_a")]}
    )
    assert await world.texts(other) == ["z"], "the same id may stand in another one"


async def test_an_item_is_deleted_and_the_others_stay(world: World) -> None:
    name = await world.new("a", "b", "c")
    page = await world.ask(items.listed, f"conversations/{name}/items?order=asc")
    path = f"conversations/{name}/items/{page['data'][1]['id']}"
    left = await world.ask(items.delete, path)
    assert left == await world.ask(conversations.retrieve, f"conversations/{name}")
    assert await world.texts(name, "order=asc") == ["a", "c"]
    for handler in (items.delete, items.retrieve):
        assert (await world.refused(handler, path)).status == 404
    await world.ask(items.add, f"conversations/{name}/items", {"items": [message("d")]})
    assert await world.texts(name, "order=asc") == ["a", "c", "d"]


@pytest.mark.parametrize(
    "metadata",
    [{str(n): "x" for n in range(17)}, {"k" * 65: "x"}, {"k": "v" * 513}, {"k": 1}, ["k"]],
    ids=["pairs", "key", "value", "number", "list"],
)
async def test_metadata_beyond_its_limits_is_refused(world: World, metadata: object) -> None:
    name = await world.new(metadata={"kept": "yes"})
    path = f"conversations/{name}"
    for handler, where in ((conversations.create, "conversations"), (conversations.update, path)):
        error = await world.refused(handler, where, {"metadata": metadata})
        assert error.status == 400
        assert str(error.param).startswith("metadata")
    assert (await world.refused(conversations.update, path, {})).param == "metadata"
    assert (await world.ask(conversations.retrieve, path))["metadata"] == {"kept": "yes"}


async def test_a_reference_becomes_the_item_that_it_names(world: World) -> None:
    stem = "0" * 28
    item = message("Said before.", id=f"msg_{stem}0000000", status="completed")
    item["content"] = [{"type": "input_text", "text": "Said before."}]
    response = Operation(
        id=f"resp_{stem}", kind="response", feature="default", key_id=ANA.key_id, created_at=NOW
    )
    body = json.dumps({"request": {}, "items": [item]}).encode()
    world.store.operations.create(response, body)
    world.store.operations.write(
        [Written(operation_id=response.id, changes={"status": "ended"}, result=b'{"output": []}')]
    )
    asked = {"items": [{"type": "item_reference", "id": item["id"]}]}
    made = await world.ask(conversations.create, "conversations", asked)
    page = await world.ask(items.listed, f"conversations/{made['id']}/items")
    assert page["data"] == [item]
    stranger = await world.refused(conversations.create, "conversations", asked, by=BEN)
    assert stranger.status == 404


Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "delete"]), st.integers(min_value=0, max_value=20)),
    max_size=12,
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS, limit=st.integers(min_value=1, max_value=9))
async def test_pages_always_join_to_what_was_added_and_not_deleted(
    world: World, steps: list[Step], limit: int
) -> None:
    name = await world.new()
    model: list[str] = []
    for number, (what, size) in enumerate(steps):
        path = f"conversations/{name}/items"
        if what == "add" and size:
            ids = [f"msg_{number}_{n}" for n in range(size)]
            await world.ask(items.add, path, {"items": [message("x", id=i) for i in ids]})
            model += ids
        elif what == "delete" and model:
            gone = model.pop(size % len(model))
            await world.ask(items.delete, f"{path}/{gone}")
    for order, expected in (("asc", model), ("desc", model[::-1])):
        found: list[str] = []
        query = f"order={order}&limit={limit}"
        while True:
            page = await world.ask(items.listed, f"conversations/{name}/items?{query}")
            found += [item["id"] for item in page["data"]]
            if not page["has_more"]:
                break
            query = f"order={order}&limit={limit}&after={page['last_id']}"
        assert found == expected
