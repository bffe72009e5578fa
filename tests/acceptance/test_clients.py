"""The official clients, unmodified: only their base URL is Tocsin's."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import anthropic
import openai
import pytest
import pytest_asyncio

from support.process import Tocsin
from support.upstream import Upstream
from tocsin.core.interaction import Interaction
from tocsin.store import Filter

CONFIG = """
[upstreams.main]
base_url = "{url}"
retries = {retries}
backoff_s = 0.01
cooldown_failures = 1000

[upstreams.claude]
kind = "anthropic"
base_url = "{root}"
models = ["claude-*"]
"""
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


class World:
    """An upstream and a Tocsin before it."""

    def __init__(self, tocsin: Tocsin, upstream: Upstream) -> None:
        self.tocsin = tocsin
        self.upstream = upstream
        self.openai = openai.OpenAI(base_url=f"{tocsin.url}/v1", api_key="sk-test", max_retries=2)
        self.aopenai = openai.AsyncOpenAI(base_url=f"{tocsin.url}/v1", api_key="sk-test")
        self.anthropic = anthropic.Anthropic(base_url=tocsin.url, api_key="sk-ant-test")
        self.aanthropic = anthropic.AsyncAnthropic(base_url=tocsin.url, api_key="sk-ant-test")

    def recorded(self, count: int) -> list[Interaction]:
        """The recorded calls, oldest first, once there are ``count``."""
        import time

        store = self.tocsin.store()
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
    retries = getattr(request, "param", 0)
    async with Upstream() as upstream:
        config = CONFIG.format(url=upstream.url, root=upstream.url, retries=retries)
        with Tocsin(tmp_path, config) as tocsin:
            await tocsin.ready()
            yield World(tocsin, upstream)


async def test_a_chat_completion_is_answered_and_recorded(world: World) -> None:
    answer = await asyncio.to_thread(
        lambda: world.openai.chat.completions.create(
            model="gpt-4o-mini", messages=HELLO, user="ann"
        )
    )
    assert answer.choices[0].message.content == "echo 1"
    (row,) = world.recorded(1)
    assert (row.outcome, row.status, row.end_user, row.request_model) == (
        "complete",
        200,
        "ann",
        "gpt-4o-mini",
    )
    assert (row.usage.input_tokens, row.usage.output_tokens, row.usage.source) == (
        10,
        2,
        "reported",
    )
    assert row.cost_nano_usd == 10 * 150 + 2 * 600  # gpt-4o-mini: $0.15 and $0.60 a million
    (first, headers, _) = world.upstream.requests[0]
    assert first == "POST /v1/chat/completions HTTP/1.1"
    assert headers["authorization"] == "Bearer sk-test"


async def test_the_request_reaches_the_upstream_byte_for_byte(world: World) -> None:
    body = b'{ "model":"m",\n"messages":[{"role":"user","content":"h\\u00e9"}] , "x-new": [1e2] }'
    reader, writer = await asyncio.open_connection("127.0.0.1", world.tocsin.port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    assert world.upstream.requests[0][2] == body


async def test_a_stream_arrives_piece_by_piece_and_its_usage_is_counted(world: World) -> None:
    stream = await world.aopenai.chat.completions.create(
        model="gpt-4o-mini",
        messages=HELLO,
        stream=True,
        stream_options={"include_usage": True},
    )
    words = [c.choices[0].delta.content or "" async for c in stream if c.choices]
    assert "".join(words) == "w0 w1 w2 "
    (row,) = world.recorded(1)
    assert (row.outcome, row.stream, row.usage.output_tokens) == ("complete", True, 3)
    assert row.first_chunk_us is not None
    assert row.first_chunk_us <= row.duration_us


async def test_usage_that_the_upstream_leaves_out_is_estimated_and_marked(world: World) -> None:
    stream = await world.aopenai.chat.completions.create(
        model="gpt-4o-mini", messages=HELLO, stream=True
    )
    async for _ in stream:
        pass
    (row,) = world.recorded(1)
    assert row.usage.source == "estimated"
    assert (row.usage.input_tokens or 0) > 0
    assert (row.usage.output_tokens or 0) > 0
    assert row.cost_nano_usd is not None


async def test_a_tool_loop_is_one_run_with_its_tools(world: World) -> None:
    def loop() -> None:
        messages: list[dict[str, object]] = list(HELLO)
        for _ in range(2):
            reply = (
                world.openai.chat.completions.create(model="m", messages=messages, tools=[TOOL])
                .choices[0]
                .message
            )
            messages.append(reply.model_dump(exclude_none=True))
            for tool in reply.tool_calls or []:
                messages.append({"role": "tool", "tool_call_id": tool.id, "content": "sunny"})

    await asyncio.to_thread(loop)
    first, second = world.recorded(2)
    assert first.run_id == second.run_id
    assert (first.tool_calls, second.tool_results) == (1, 1)
    assert second.new_messages == 1
    assert first.cost_nano_usd is None, "the price of 'm' is unknown, which is not zero"


async def test_images_pass_and_are_recorded(world: World) -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 2_000_000}},
    ]
    answer = await world.aopenai.chat.completions.create(
        model="m", messages=[{"role": "user", "content": parts}]
    )
    assert answer.choices[0].message.content == "echo 1"
    (row,) = world.recorded(1)
    assert row.input_bytes > 2_000_000


async def test_embeddings_models_and_unknown_routes_are_calls_too(world: World) -> None:
    def use() -> None:
        world.openai.embeddings.create(model="e", input="text", encoding_format="float")
        world.openai.models.list()
        world.openai.post("/fine_tuning/anything", body={"model": "m"}, cast_to=object)

    await asyncio.to_thread(use)
    rows = world.recorded(3)
    assert [row.operation for row in rows] == ["embeddings", "models", "other"]
    assert [row.path for row in rows][2] == "/v1/fine_tuning/anything"
    assert {row.outcome for row in rows} == {"complete"}
    assert rows[0].usage.input_tokens == 3


async def test_errors_of_the_upstream_keep_status_body_and_retry_headers(world: World) -> None:
    client = world.openai.with_options(max_retries=0)
    with pytest.raises(openai.RateLimitError) as caught:
        await asyncio.to_thread(
            lambda: client.chat.completions.create(
                model="m", messages=HELLO, metadata={"do": "limited"}
            )
        )
    assert caught.value.response.headers["retry-after-ms"] == "20"
    assert caught.value.response.headers["x-request-id"] == "r1"
    assert caught.value.code == "rpm"
    (row,) = world.recorded(1)
    assert (row.outcome, row.status) == ("error", 429)


async def test_a_client_that_retries_by_itself_stays_in_one_run(world: World) -> None:
    with pytest.raises(openai.InternalServerError):
        await asyncio.to_thread(
            lambda: world.openai.chat.completions.create(
                model="m", messages=HELLO, metadata={"do": "error"}
            )
        )
    rows = world.recorded(3)
    assert len({row.run_id for row in rows}) == 1
    assert [row.run_source for row in rows] == ["new", "retry", "retry"]


@pytest.mark.parametrize("world", [2], indirect=True)
async def test_our_own_retries_are_attempts_of_one_call(world: World) -> None:
    client = world.openai.with_options(max_retries=0)
    with pytest.raises(openai.InternalServerError):
        await asyncio.to_thread(
            lambda: client.chat.completions.create(
                model="m", messages=HELLO, metadata={"do": "error"}
            )
        )
    (row,) = world.recorded(1)
    assert [attempt.reason for attempt in row.attempts] == ["first", "retry", "retry"]


async def test_a_bad_request_names_the_field_and_is_not_retried(world: World) -> None:
    with pytest.raises(openai.BadRequestError, match=r"messages\[0\]\.role"):
        await asyncio.to_thread(
            lambda: world.openai.chat.completions.create(model="m", messages=[{"content": "x"}])
        )
    assert len(world.recorded(1)) == 1
    assert world.upstream.requests == []


async def test_the_anthropic_client_works_plain_and_streamed(world: World) -> None:
    answer = await world.aanthropic.messages.create(
        model="claude-sonnet-5", max_tokens=64, system="Be kind.", messages=HELLO
    )
    assert answer.content[0].text == "Hello there"
    async with world.aanthropic.messages.stream(
        model="claude-sonnet-5",
        max_tokens=64,
        system="Be kind.",
        messages=[
            *HELLO,
            {"role": "assistant", "content": [b.model_dump() for b in answer.content]},
            {"role": "user", "content": "And?"},
        ],
    ) as stream:
        assert await stream.get_final_text() == "Hello there"
    first, second = world.recorded(2)
    assert first.run_id == second.run_id
    assert (second.outcome, second.stream, second.dialect) == ("complete", True, "anthropic")
    assert first.usage.input_tokens == 9 + 5, "input includes what was read from the cache"
    assert first.usage.cache_read_tokens == 5
    assert first.cost_nano_usd is not None


async def test_the_anthropic_client_counts_tokens(world: World) -> None:
    count = await asyncio.to_thread(
        lambda: world.anthropic.messages.count_tokens(model="claude-sonnet-5", messages=HELLO)
    )
    assert count.input_tokens == 14
    (row,) = world.recorded(1)
    assert (row.operation, row.outcome) == ("count_tokens", "complete")


async def test_errors_of_ours_speak_the_callers_dialect(world: World) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        await asyncio.to_thread(
            lambda: world.anthropic.messages.create(
                model="claude-x", max_tokens=5, messages=[{"content": "no role"}]
            )
        )
    body = caught.value.response.json()
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert caught.value.response.headers["x-should-retry"] == "false"


async def test_a_tocsin_key_never_reaches_an_upstream(world: World) -> None:
    key = world.tocsin.admin_key()
    client = openai.AsyncOpenAI(
        base_url=f"{world.tocsin.url}/v1", api_key=key, default_headers={"tocsin-feature": "x"}
    )
    await client.chat.completions.create(model="m", messages=HELLO)
    (_, headers, body) = world.upstream.requests[0]
    assert key not in json.dumps(headers)
    assert key.encode() not in body
    assert not [name for name in headers if name.startswith("tocsin")]


async def test_pipelined_requests_are_answered_in_order(world: World) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.tocsin.port)
    for number in range(1, 4):
        messages = [{"role": "user", "content": "x"}] * number
        body = json.dumps({"model": "m", "messages": messages}).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            b"content-length: %d\r\n%b\r\n%b"
            % (len(body), b"connection: close\r\n" if number == 3 else b"", body)
        )
    answers = await reader.read()
    writer.close()
    assert [answers.find(b"echo %d" % n) > 0 for n in (1, 2, 3)] == [True] * 3
    assert answers.find(b"echo 1") < answers.find(b"echo 2") < answers.find(b"echo 3")
    assert len(world.recorded(3)) == 3


@pytest.mark.parametrize("form", ["chunked", "gzip", "large"])
async def test_every_form_of_body_takes_the_same_path(world: World, form: str) -> None:
    import gzip

    text = "x" * (2_000_000 if form == "large" else 10)
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    extra = b""
    if form == "gzip":
        body, extra = gzip.compress(body), b"content-encoding: gzip\r\n"
    framing = b"content-length: %d\r\n\r\n%b" % (len(body), body)
    if form == "chunked":
        framing = b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    reader, writer = await asyncio.open_connection("127.0.0.1", world.tocsin.port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
        + extra
        + framing
    )
    answer = await reader.read()
    writer.close()
    assert b"echo 1" in answer, answer[:500]
    (row,) = world.recorded(1)
    assert (row.outcome, row.input_messages) == ("complete", 1)
