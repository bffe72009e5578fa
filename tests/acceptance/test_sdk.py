"""The SDK: the official clients, unmodified but for ``tocsin.wrap``, without a gateway between."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import msgspec
import openai
import pytest
import pytest_asyncio

from support.process import Tocsin as Gateway
from support.upstream import Upstream
from tocsin.config.model import StoreSettings
from tocsin.core.clock import SystemClock
from tocsin.core.errors import ConfigError, InputError, NotFound
from tocsin.core.interaction import Interaction
from tocsin.providers.playing import Step
from tocsin.providers.scripted_server import ScriptedServer
from tocsin.sdk import Denial, Tocsin, denial
from tocsin.store import Filter, Store, open_store

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
KEY = "app-own-key-91c7"


class World:
    """An upstream, a Tocsin in this process, and the four clients."""

    def __init__(self, folder: Path, upstream: Upstream, settings: str = "") -> None:
        self.folder = folder
        self.upstream = upstream
        self.file = folder / "tocsin.toml"
        self.file.write_text(f'[server]\ndata_dir = "{folder / "data"}"\n{settings}')
        self.tocsin = Tocsin(path=self.file)
        url, root = upstream.url, upstream.url.removesuffix("/v1")
        self.openai = self.tocsin.wrap(openai.OpenAI(base_url=url, api_key=KEY, max_retries=0))
        self.aopenai = self.tocsin.wrap(
            openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0)
        )
        self.anthropic = self.tocsin.wrap(
            anthropic.Anthropic(base_url=root, api_key=KEY, max_retries=0)
        )
        self.aanthropic = self.tocsin.wrap(
            anthropic.AsyncAnthropic(base_url=root, api_key=KEY, max_retries=0)
        )

    def chat(self, **more: Any) -> Any:
        """One completion of the synchronous client."""
        return self.openai.chat.completions.create(
            **{"model": "gpt-4o-mini", "messages": HELLO, **more}
        )

    async def achat(self, **more: Any) -> Any:
        """One completion of the asynchronous client."""
        return await self.aopenai.chat.completions.create(
            **{"model": "gpt-4o-mini", "messages": HELLO, **more}
        )

    def store(self) -> Store:
        """The store, opened beside the Tocsin that uses it."""
        return open_store(StoreSettings(), self.folder / "data", SystemClock())

    def recorded(self, count: int) -> list[Interaction]:
        """The recorded calls, oldest first, once there are ``count``."""
        return recorded(self.folder / "data", count)


def recorded(data: Path, count: int) -> list[Interaction]:
    store = open_store(StoreSettings(), data, SystemClock())
    rows: list[Interaction] = []
    try:
        for _ in range(100):
            rows = list(store.interactions(Filter(), limit=500).rows)
            if len(rows) >= count:
                return sorted(rows, key=lambda row: row.started_at)
            time.sleep(0.05)
        raise AssertionError(f"{len(rows)} calls recorded instead of {count}")
    finally:
        store.close()


@pytest_asyncio.fixture(loop_scope="function")
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with Upstream() as upstream:
        world = World(tmp_path, upstream, getattr(request, "param", ""))
        yield world
        await world.tocsin.aclose()


def with_settings(text: str) -> Any:
    return pytest.mark.parametrize("world", [text], indirect=True)


# -- calls --


async def test_a_synchronous_call_is_answered_and_recorded(world: World) -> None:
    answer = await asyncio.to_thread(world.chat, user="ann")
    assert isinstance(world.openai, openai.OpenAI)
    assert answer.choices[0].message.content == "echo 1"
    (row,) = world.recorded(1)
    assert (row.source, row.outcome, row.status, row.end_user, row.path) == (
        "sdk",
        "complete",
        200,
        "ann",
        "/v1/chat/completions",
    )
    assert row.cost_nano_usd == 10 * 150 + 2 * 600  # gpt-4o-mini: $0.15 and $0.60 a million
    assert [attempt.reason for attempt in row.attempts] == ["first"]
    (first, headers, _) = world.upstream.requests[0]
    assert first == "POST /v1/chat/completions HTTP/1.1"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert not [name for name in headers if name.startswith("tocsin")]


async def test_an_asynchronous_call_is_answered_and_recorded(world: World) -> None:
    answer = await world.achat()
    assert isinstance(world.aopenai, openai.AsyncOpenAI)
    assert answer.choices[0].message.content == "echo 1"
    (row,) = world.recorded(1)
    assert (row.source, row.outcome, row.usage.source) == ("sdk", "complete", "reported")


async def test_the_answer_says_which_call_and_run_it_was(world: World) -> None:
    raw = await world.aopenai.chat.completions.with_raw_response.create(model="m", messages=HELLO)
    (row,) = world.recorded(1)
    assert raw.headers["tocsin-call-id"] == row.id
    assert raw.headers["tocsin-run-id"] == row.run_id


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_streams_arrive_whole_and_are_recorded(world: World, kind: str) -> None:
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}

    def read() -> str:
        return "".join(
            part.choices[0].delta.content or "" for part in world.chat(**options) if part.choices
        )

    if kind == "sync":
        words = await asyncio.to_thread(read)
    else:
        stream = await world.achat(**options)
        words = "".join([p.choices[0].delta.content or "" async for p in stream if p.choices])
    assert words == "w0 w1 w2 "
    (row,) = world.recorded(1)
    assert (row.outcome, row.stream, row.usage.output_tokens) == ("complete", True, 3)
    assert row.first_chunk_us is not None


async def test_a_long_stream_does_not_overrun_a_slow_reader(world: World) -> None:
    words = []
    async for part in await world.achat(stream=True, metadata={"pieces": "400"}):
        if len(words) < 5:
            await asyncio.sleep(0.01)
        words.append(part.choices[0].delta.content or "")
    assert "".join(words).split() == [f"w{number}" for number in range(400)]


async def left(world: World, user: str) -> None:
    """Wait until the upstream has seen this user's connection go."""
    for _ in range(250):
        if world.upstream.gone[user]:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"the upstream still serves {user}")


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_closing_a_stream_early_cancels_the_upstream_and_is_recorded(
    world: World, kind: str
) -> None:
    options: Any = {
        "stream": True,
        "user": "leaver",
        "metadata": {"pieces": "2000", "pause_s": "0.01"},
    }

    def leave() -> None:
        with world.chat(**options) as stream:
            next(iter(stream))

    if kind == "sync":
        await asyncio.to_thread(leave)
    else:
        async with await world.achat(**options) as stream:
            await anext(aiter(stream))
    (row,) = world.recorded(1)
    assert (row.outcome, row.error_type) == ("cancelled", "client_disconnected")
    await left(world, "leaver")


async def test_a_cancelled_task_is_a_cancelled_call(world: World) -> None:
    task = asyncio.create_task(world.achat(user="c", metadata={"do": "hang"}))
    await world.upstream.saw("c")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (row,) = world.recorded(1)
    assert row.outcome == "cancelled"
    await left(world, "c")


async def test_a_tool_loop_is_one_run_with_its_tools(world: World) -> None:
    messages: list[Any] = list(HELLO)
    for _ in range(2):
        reply = (await world.achat(messages=messages, tools=[TOOL])).choices[0].message
        messages.append(reply.model_dump(exclude_none=True))
        for tool in reply.tool_calls or []:
            messages.append({"role": "tool", "tool_call_id": tool.id, "content": "sunny"})
    first, second = world.recorded(2)
    assert first.run_id == second.run_id
    assert (first.tool_calls, second.tool_results) == (1, 1)


async def test_the_anthropic_clients_work_plain_and_streamed(world: World) -> None:
    def ask() -> Any:
        return world.anthropic.messages.create(
            model="claude-sonnet-5", max_tokens=64, messages=HELLO
        )

    answer = await asyncio.to_thread(ask)
    assert answer.content[0].text == "Hello there"
    async with world.aanthropic.messages.stream(
        model="claude-sonnet-5",
        max_tokens=64,
        messages=[
            *HELLO,
            {"role": "assistant", "content": [b.model_dump() for b in answer.content]},
            {"role": "user", "content": "And?"},
        ],
    ) as stream:
        assert await stream.get_final_text() == "Hello there"
    first, second = world.recorded(2)
    assert (first.dialect, first.path, second.stream) == ("anthropic", "/v1/messages", True)
    assert first.run_id == second.run_id


async def test_embeddings_models_and_other_routes_are_calls_too(world: World) -> None:
    await world.aopenai.embeddings.create(model="e", input="text", encoding_format="float")
    await world.aopenai.models.list()
    await world.aopenai.post("/fine_tuning/anything", body={"model": "m"}, cast_to=object)
    rows = world.recorded(3)
    assert [row.operation for row in rows] == ["embeddings", "models", "other"]
    assert rows[2].path == "/v1/fine_tuning/anything"


async def test_many_threads_call_at_once(world: World) -> None:
    def work() -> list[str]:
        with ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(lambda _: world.chat(), range(96)))
        return [answer.choices[0].message.content for answer in answers]

    assert await asyncio.to_thread(work) == ["echo 1"] * 96
    assert len(world.recorded(96)) == 96


# -- the same record --


async def test_the_record_is_the_one_that_the_gateway_would_have_made(world: World) -> None:
    settings = f'[upstreams.main]\nbase_url = "{world.upstream.url}"\nretries = 0\n'
    folder = world.folder / "gateway"
    folder.mkdir()
    with Gateway(folder, settings) as gateway:
        await gateway.ready()
        client = openai.AsyncOpenAI(
            base_url=f"{gateway.url}/v1",
            api_key=KEY,
            max_retries=0,
            default_headers={
                "tocsin-run": "run-1",
                "tocsin-feature": "support",
                "tocsin-agent": "planner",
                "tocsin-user": "ann",
            },
        )
        await several(client)
        through = recorded(gateway.data, 5)
    (world.folder / "direct").mkdir()
    inside = World(world.folder / "direct", world.upstream, settings)
    with inside.tocsin.run("support", agent="planner", end_user="ann", run_id="run-1"):
        await several(inside.aopenai)
    direct = inside.recorded(5)
    await inside.tocsin.aclose()
    assert [what(row) for row in direct] == [what(row) for row in through]


async def several(client: openai.AsyncOpenAI) -> None:
    """A plain call, a stream, an error, a filtered answer and embeddings."""
    create: Any = client.chat.completions.create
    await create(model="gpt-4o-mini", messages=HELLO, temperature=0.5)
    async for _ in await create(
        model="gpt-4o-mini", messages=HELLO, stream=True, stream_options={"include_usage": True}
    ):
        pass
    with pytest.raises(openai.InternalServerError):
        await create(model="gpt-4o-mini", messages=HELLO, metadata={"do": "error"})
    await create(model="gpt-4o-mini", messages=HELLO, metadata={"do": "refuse"})
    await client.embeddings.create(model="e", input="text", encoding_format="float")


_OF_THE_DOOR = {"id", "source", "started_at", "duration_us", "first_chunk_us", "parent_id"}


def what(row: Interaction) -> dict[str, Any]:
    """A record without times, ids and the door that it came through."""
    fields = json.loads(msgspec.json.encode(row))
    for name in _OF_THE_DOOR:
        fields.pop(name, None)
    fields["attempts"] = [
        (a["upstream"], a["provider"], a["model"], a.get("status"), a.get("reason"))
        for a in fields["attempts"]
    ]
    fields["decisions"] = [(d["policy"], d["action"]) for d in fields.get("decisions", ())]
    return fields


# -- errors --


async def test_errors_of_the_upstream_are_the_clients_own_exceptions(world: World) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        await asyncio.to_thread(world.chat, metadata={"do": "limited"})
    assert caught.value.response.headers["retry-after-ms"] == "20"
    assert caught.value.code == "rpm"
    assert denial(caught.value) is None, "it is the upstream's, not Tocsin's"
    (row,) = world.recorded(1)
    assert (row.outcome, row.status) == ("error", 429)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_connection_that_breaks_is_the_clients_connection_error(
    world: World, kind: str
) -> None:
    options: Any = {"metadata": {"do": "drop"}}
    call = asyncio.to_thread(world.chat, **options) if kind == "sync" else world.achat(**options)
    with pytest.raises(openai.APIConnectionError):
        await call
    (row,) = world.recorded(1)
    assert (row.outcome, row.error_type) == ("error", "upstream_failed")


async def test_a_time_limit_of_the_client_is_its_timeout_error(world: World) -> None:
    with pytest.raises(openai.APITimeoutError):
        await world.aopenai.with_options(timeout=0.2).chat.completions.create(
            model="m", messages=HELLO, metadata={"do": "hang"}
        )
    (row,) = world.recorded(1)
    assert row.outcome == "timeout"


async def test_the_client_retries_by_itself_and_stays_in_one_run(world: World) -> None:
    client = world.openai.with_options(max_retries=2)
    with pytest.raises(openai.InternalServerError):
        await asyncio.to_thread(
            lambda: client.chat.completions.create(
                model="m", messages=HELLO, metadata={"do": "error"}
            )
        )
    rows = world.recorded(3)
    assert len({row.run_id for row in rows}) == 1
    assert [row.run_source for row in rows] == ["new", "retry", "retry"]


async def test_a_stream_that_breaks_off_breaks_off_for_the_app(world: World) -> None:
    def read() -> None:
        for _ in world.chat(stream=True, metadata={"do": "cut"}):
            pass

    with pytest.raises(Exception, match=r"(?i)peer|closed|incomplete|connection"):
        await asyncio.to_thread(read)
    (row,) = world.recorded(1)
    assert row.outcome == "error"


async def test_a_bad_request_never_leaves_the_process(world: World) -> None:
    with pytest.raises(openai.BadRequestError, match=r"messages\[0\]\.role") as caught:
        await world.achat(messages=[{"content": "x"}])
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert denial(caught.value) is None
    assert world.upstream.requests == []
    assert len(world.recorded(1)) == 1


async def test_the_key_of_the_app_is_nowhere_in_the_store(world: World) -> None:
    await world.achat()
    await asyncio.to_thread(world.chat)
    await world.tocsin.aclose()
    for file in (world.folder / "data").rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes(), file


async def test_a_key_that_the_provider_repeats_is_not_recorded(tmp_path: Path) -> None:
    said = json.dumps({"error": {"message": f"bad key {KEY}", "type": "auth"}}).encode()
    tocsin = Tocsin(path=settings_in(tmp_path))
    async with ScriptedServer([Step(status=401, body=said)]) as server, tocsin:
        client = openai.AsyncOpenAI(base_url=server.url, api_key=KEY, max_retries=0)
        with pytest.raises(openai.AuthenticationError, match=KEY):
            await tocsin.wrap(client).embeddings.create(model="e", input="text")
    (row,) = recorded(tmp_path / "data", 1)
    assert row.error_message == "bad key [redacted]"


def settings_in(folder: Path, text: str = "") -> Path:
    file = folder / "tocsin.toml"
    file.write_text(f'[server]\ndata_dir = "{folder / "data"}"\n{text}')
    return file


# -- runs --


async def test_calls_inside_a_run_belong_to_it(world: World) -> None:
    async with world.tocsin.run("support", agent="planner", end_user="Zoë Ж") as run:
        await world.achat()
        # A thread of its own gets the run as well: to_thread copies the context.
        await asyncio.to_thread(world.chat)
    await world.achat()
    first, second, outside = world.recorded(3)
    assert {first.run_id, second.run_id} == {run.id}
    assert (first.feature, first.agent, first.end_user) == ("support", "planner", "Zoë Ж")
    assert first.run_source == "header"
    assert (outside.feature, outside.run_id == run.id) == ("default", False)


async def test_a_run_inside_a_run_is_its_child(world: World) -> None:
    tocsin = world.tocsin
    with tocsin.run("support", agent="boss") as outer:
        with tocsin.run(agent="worker") as inner:
            await world.achat()
        await world.achat()
    child, parent = world.recorded(2)
    assert (child.run_id, child.attributes) == (inner.id, {"parent_run": outer.id})
    assert (child.feature, child.agent) == ("support", "worker")
    assert (parent.run_id, parent.attributes, parent.agent) == (outer.id, {}, "boss")


async def test_what_a_request_says_itself_wins_over_the_run(world: World) -> None:
    with world.tocsin.run("support", agent="planner"):
        await world.achat(
            extra_headers={"tocsin-feature": "other", "tocsin-agent": "x", "tocsin-run": "run-9"}
        )
    (row,) = world.recorded(1)
    assert (row.feature, row.agent, row.run_id) == ("other", "x", "run-9")


async def test_a_run_may_be_entered_in_another_thread(world: World) -> None:
    run = world.tocsin.run("batch")

    def work() -> None:
        with run:
            world.chat()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    await asyncio.to_thread(lambda: [thread.join() for thread in threads])
    assert {row.run_id for row in world.recorded(4)} == {run.id}


async def test_a_run_knows_what_it_has_spent_with_its_children(world: World) -> None:
    with world.tocsin.run("support") as run:
        await world.achat()
        with world.tocsin.run() as child:
            await world.achat()
    spent = await run.aspent()
    one = 10 * 150 + 2 * 600
    assert (spent.calls, spent.nano_usd, spent.unpriced) == (2, 2 * one, 0)
    assert (spent.input_tokens, spent.output_tokens) == (20, 4)
    assert (await asyncio.to_thread(child.spent)).nano_usd == one
    assert (await world.tocsin.run().aspent()).calls == 0


async def test_an_app_says_later_how_a_call_turned_out(world: World) -> None:
    with world.tocsin.run("support") as run:
        await world.achat()
        await world.achat()
    await world.tocsin.afeedback(run, right=False, rating=0.25, comment="wrong city", id="mine")
    await asyncio.to_thread(world.tocsin.feedback, run, right=False, rating=0.25, id="mine")
    first, last = sorted(world.recorded(2), key=lambda one: one.started_at)
    await world.tocsin.afeedback(first.id, comment="so so", by="ann")
    store = world.store()
    try:
        said = [(one.id, one.kind, one.value, one.by) for one in store.feedback(last.id)]
        assert said == [
            ("mine:label", "label", 0.0, "user"),
            ("mine:rating", "rating", 0.25, "user"),
        ]
        (other,) = store.feedback(first.id)
        assert (other.kind, other.value, other.comment, other.by) == (
            "comment",
            None,
            "so so",
            "ann",
        )
    finally:
        store.close()
    with pytest.raises(NotFound, match="call_none"):
        await world.tocsin.afeedback("call_none", right=True)
    with pytest.raises(NotFound, match="no call yet"):
        await world.tocsin.afeedback(world.tocsin.run(), right=True)


def test_feedback_that_says_nothing_or_no_share_is_refused(tmp_path: Path) -> None:
    tocsin = Tocsin(path=settings_in(tmp_path))
    with pytest.raises(InputError, match="something to say"):
        tocsin.feedback("call_1")
    with pytest.raises(InputError, match="rating"):
        tocsin.feedback("call_1", rating=7)
    with pytest.raises(InputError, match="comment"):
        tocsin.feedback("call_1", comment="x" * 3000)
    assert not (tmp_path / "data").exists(), "nothing is opened before there is something to keep"


def test_a_run_needs_names_that_can_be_names(tmp_path: Path) -> None:
    tocsin = Tocsin(path=settings_in(tmp_path))
    with pytest.raises(InputError, match="feature"):
        tocsin.run("no spaces, please")
    with pytest.raises(InputError, match="run_id"):
        tocsin.run(run_id="")
    assert not (tmp_path / "data").exists(), "nothing is opened before the first call"


# -- limits and stops --

LIMIT = '[limits.few]\nscope = "run"\nper = "run"\ncalls = 2\nwarn_at = [0.5]\n'


@with_settings(LIMIT)
async def test_a_limit_denies_as_the_clients_own_exception(world: World) -> None:
    with world.tocsin.run("support"):
        await world.achat()
        raw = await world.aopenai.chat.completions.with_raw_response.create(
            model="gpt-4o-mini", messages=HELLO
        )
        assert "few" in raw.headers["tocsin-budget-warning"]
        with pytest.raises(openai.RateLimitError) as caught:
            await world.achat()
        with pytest.raises(anthropic.RateLimitError) as other:
            await world.aanthropic.messages.create(
                model="claude-sonnet-5", max_tokens=5, messages=HELLO
            )
    assert caught.value.response.headers["x-should-retry"] == "false"
    for error in (caught.value, other.value):
        said = denial(error)
        assert said is not None
        assert said.code == "budget_exceeded"
        assert said.details["limit"] == "few"
    with world.tocsin.run("support"):
        await world.achat()
    assert len(world.upstream.requests) == 3
    rows = world.recorded(5)
    assert [row.outcome for row in rows] == ["complete"] * 2 + ["denied"] * 2 + ["complete"]


@with_settings(LIMIT)
async def test_a_gateway_and_the_sdk_share_the_accounts_of_one_store(world: World) -> None:
    config = f'{LIMIT}[upstreams.main]\nbase_url = "{world.upstream.url}"\n'
    with Gateway(world.folder, config) as gateway:
        await gateway.ready()
        client = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0)
        headers = {"tocsin-run": "shared", "tocsin-feature": "support"}
        await client.chat.completions.create(model="m", messages=HELLO, extra_headers=headers)
        with world.tocsin.run("support", run_id="shared"):
            await world.achat()
            with pytest.raises(openai.RateLimitError) as here:
                await world.achat()
        with pytest.raises(openai.RateLimitError) as there:
            await client.chat.completions.create(model="m", messages=HELLO, extra_headers=headers)
    assert [code_of(e.value) for e in (here, there)] == ["budget_exceeded"] * 2
    for error in (here.value, there.value):
        assert error.response.headers["tocsin-error"] == "budget_exceeded"
        assert error.response.headers["tocsin-run-id"] == "shared"
        assert error.response.headers["tocsin-call-id"].startswith("call_")


def code_of(error: BaseException) -> str | None:
    said = denial(error)
    return said.code if said is not None else None


async def test_a_stopped_run_is_refused(world: World) -> None:
    with world.tocsin.run("support") as run:
        await world.achat()
        stop = await run.astop("enough of it")
        with pytest.raises(openai.PermissionDeniedError) as caught:
            await world.achat()
        with pytest.raises(openai.PermissionDeniedError):
            await asyncio.to_thread(world.chat)
    said = denial(caught.value)
    assert said is not None
    assert (said.code, said.stop_id) == ("stopped", stop.id)
    assert "enough of it" in said.message
    assert len(world.upstream.requests) == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_another_process_stops_a_run_in_the_middle_of_its_stream(
    world: World, kind: str
) -> None:
    options: Any = {
        "stream": True,
        "user": "long",
        "metadata": {"pieces": "3000", "pause_s": "0.02"},
    }

    def read() -> None:
        for _ in world.chat(**options):
            pass

    async def aread() -> None:
        async for _ in await world.achat(**options):
            pass

    with world.tocsin.run("support", run_id="doomed") as run:
        task = asyncio.create_task(asyncio.to_thread(read) if kind == "sync" else aread())
        await world.upstream.saw("long")
        await asyncio.sleep(0.2)
        await stop_elsewhere(world, run.id)
        async with asyncio.timeout(5):
            with pytest.raises(openai.APIError) as caught:
                await task
    assert code_of(caught.value) == "stopped"
    (row,) = world.recorded(1)
    assert row.outcome == "cancelled"
    await left(world, "long")


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_another_process_stops_a_call_that_waits_for_its_answer(
    world: World, kind: str
) -> None:
    options: Any = {"user": "silent", "metadata": {"do": "hang"}}
    with world.tocsin.run("support", run_id="doomed") as run:
        work = asyncio.to_thread(world.chat, **options) if kind == "sync" else None
        task = asyncio.create_task(work or world.achat(**options))
        await world.upstream.saw("silent")
        await stop_elsewhere(world, run.id)
        async with asyncio.timeout(5):
            with pytest.raises(openai.PermissionDeniedError) as caught:
                await task
    assert code_of(caught.value) == "stopped"


_STOPPER = """
import sys
from tocsin.sdk import Tocsin
with Tocsin(path=sys.argv[1]) as tocsin:
    tocsin.stop(sys.argv[2], "told from elsewhere")
"""


async def stop_elsewhere(world: World, run_id: str) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _STOPPER, str(world.file), run_id],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr


async def test_a_paused_run_can_be_waited_for(world: World) -> None:
    tocsin = world.tocsin
    async with tocsin.run("support") as run:
        await world.achat()
        stop = await tocsin._await(
            lambda app: app.switch.give("run", run.id, "pause", reason="look at this", by="test")
        )
        with pytest.raises(openai.ConflictError) as caught:
            await world.achat()
        said = denial(caught.value)
        assert said is not None
        assert (said.code, said.stop_id) == ("run_paused", stop.id)
        with pytest.raises(TimeoutError):
            await tocsin.await_(said, timeout=0.05)
        waiting = asyncio.create_task(asyncio.to_thread(tocsin.wait, said, 10))
        await tocsin._await(lambda app: app.switch.lift(stop.id, "resumed", by="test"))
        assert await waiting == "resumed"
        await world.achat()


def test_only_a_stop_can_be_waited_for(tmp_path: Path) -> None:
    tocsin = Tocsin(path=settings_in(tmp_path))
    with pytest.raises(InputError, match="no stop to wait for"):
        tocsin.wait(Denial(code="budget_exceeded", message="no"))


def test_an_exception_that_no_client_raised_is_no_denial() -> None:
    assert denial(ValueError("x")) is None


# -- life --


def test_only_the_official_clients_are_wrapped(tmp_path: Path) -> None:
    tocsin = Tocsin(path=settings_in(tmp_path))
    with pytest.raises(TypeError, match=r"openai\.AsyncOpenAI"):
        tocsin.wrap(object())
    client = tocsin.wrap(openai.OpenAI(api_key="x"))
    assert tocsin.wrap(client) is client


def test_a_wrong_setting_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        Tocsin(path=settings_in(tmp_path, "nonsense = 1\n"))


def test_a_closed_tocsin_takes_no_calls(tmp_path: Path) -> None:
    tocsin = Tocsin(path=settings_in(tmp_path))
    client = tocsin.wrap(openai.OpenAI(api_key="x", base_url="http://127.0.0.1:9/v1"))
    tocsin.close()
    tocsin.close()
    with pytest.raises((RuntimeError, openai.APIConnectionError)):
        client.with_options(max_retries=0).models.list()


_PROGRAM = """
import os, sys, openai
from tocsin.sdk import Tocsin

tocsin = Tocsin(path=sys.argv[1])
client = tocsin.wrap(openai.OpenAI(base_url=sys.argv[2], api_key="k", max_retries=0))

def ask():
    client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])

BODY
"""


def program(world: World, body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM.replace("BODY", body), str(world.file), world.upstream.url],
        capture_output=True,
        text=True,
        timeout=60,
        env={k: v for k, v in os.environ.items() if not k.startswith("TOCSIN_")},
    )


async def test_a_program_that_just_ends_has_its_calls_on_record(world: World) -> None:
    done = await asyncio.to_thread(program, world, "ask()")
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = recorded(world.folder / "data", 1)
    assert row.outcome == "complete"
    assert not list((world.folder / "data" / "journal").glob("*.journal")), "all of it was stored"


async def test_a_forked_process_has_a_tocsin_of_its_own(world: World) -> None:
    body = """
ask()
child = os.fork()
if child == 0:
    ask()
    tocsin.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
ask()
"""
    done = await asyncio.to_thread(program, world, body)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(recorded(world.folder / "data", 3)) == 3


async def test_a_process_forked_in_the_middle_of_a_call_says_why_it_cannot(world: World) -> None:
    body = """
import threading
started = threading.Event()

def stream():
    answer = client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "Hi"}], stream=True,
        metadata={"pieces": "200", "pause_s": "0.02"},
    )
    for number, _ in enumerate(answer):
        started.set()
    assert number >= 200

thread = threading.Thread(target=stream)
thread.start()
started.wait()
child = os.fork()
if child == 0:
    try:
        ask()
    except Exception as error:
        os._exit("forked" in str(error) + str(error.__cause__))
    os._exit(9)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
thread.join()
"""
    done = await asyncio.to_thread(program, world, body)
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = recorded(world.folder / "data", 1)
    assert row.outcome == "complete"


async def test_loops_that_come_and_go_can_all_use_it(world: World) -> None:
    body = """
import asyncio

async def main():
    async with tocsin.wrap(openai.AsyncOpenAI(base_url=sys.argv[2], api_key="k")) as made:
        await made.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])

for _ in range(3):
    asyncio.run(main())
"""
    done = await asyncio.to_thread(program, world, body)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(recorded(world.folder / "data", 3)) == 3


def test_importing_the_sdk_loads_no_client_library() -> None:
    code = (
        "import sys, tocsin.sdk; "
        "print([n for n in ('openai', 'anthropic', 'httpx', 'httpx2') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
