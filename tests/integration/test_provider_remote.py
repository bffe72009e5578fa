"""The HTTP providers against a real server on loopback."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from provider_calls import make_call
from tocsin.config.model import Config
from tocsin.core.call import Call, Principal
from tocsin.core.errors import BadRequest, ConfigError, UpstreamFailed
from tocsin.core.interaction import Usage
from tocsin.core.messages import ToolCall
from tocsin.core.policy import Provider, Reply
from tocsin.core.wire import reader_for
from tocsin.core.wire.render import Answer
from tocsin.providers import (
    HttpClient,
    Limits,
    OutboundGuard,
    allowed_hosts,
    make_providers,
)
from tocsin.providers.playing import Step
from tocsin.providers.scripted_server import ScriptedServer, Seen

ENV = {"OPENAI_API_KEY": "sk-ours", "ANTHROPIC_API_KEY": "sk-ant-ours"}


@asynccontextmanager
async def upstream(
    script: Any = ("fine",), *, kind: str = "openai", suffix: str = "/v1", **settings: Any
) -> AsyncIterator[tuple[Provider, ScriptedServer]]:
    async with ScriptedServer(script) as server:
        base = server.url.removesuffix("/v1") + suffix
        config = Config.model_validate(
            {"upstreams": {"up": {"kind": kind, "base_url": base, **settings}}}
        )
        guard = OutboundGuard(allow=allowed_hosts(config))
        async with HttpClient(guard=guard) as client:
            yield make_providers(config, client, ENV)["up"], server


def headers(**pairs: str) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((k.replace("_", "-").encode(), v.encode()) for k, v in pairs.items())


async def collect(reply: Reply) -> bytes:
    if reply.chunks is None:
        return reply.body or b""
    return b"".join([chunk async for chunk in reply.chunks])


async def seen_of(call: Call, **settings: Any) -> Seen:
    async with upstream(**settings) as (provider, server):
        await collect(await provider.send(call))
        return server.seen[0]


async def test_a_call_goes_out_with_its_own_bytes_and_our_key() -> None:
    call = make_call(
        temperature=0.25,
        headers=headers(
            content_type="application/json",
            authorization="Bearer tocsin-key",
            cookie="session=1",
            connection="keep-alive, x-private",
            x_private="1",
            tocsin_run="r1",
            host="gateway",
            x_forwarded_for="10.0.0.1",
            user_agent="OpenAI/Python",
            x_stainless_retry_count="0",
        ),
    )
    seen = await seen_of(call, api_key_env="OPENAI_API_KEY")
    assert seen.body == call.body
    assert seen.path == "/v1/chat/completions"
    assert seen.headers["authorization"] == "Bearer sk-ours"
    assert seen.headers["user-agent"] == "OpenAI/Python"
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.headers["host"].startswith("127.0.0.1:")
    assert set(seen.headers) == {
        "accept-encoding",
        "authorization",
        "content-length",
        "content-type",
        "host",
        "user-agent",
        "x-stainless-retry-count",
    }


async def test_anthropic_gets_its_key_and_a_default_version() -> None:
    call = make_call(dialect="anthropic", headers=headers(x_api_key="tocsin-key"))
    seen = await seen_of(call, kind="anthropic", api_key_env="ANTHROPIC_API_KEY", suffix="")
    assert seen.path == "/v1/messages"
    assert seen.headers["x-api-key"] == "sk-ant-ours"
    assert seen.headers["anthropic-version"] == "2023-06-01"
    own = make_call(dialect="anthropic", headers=headers(anthropic_version="2099-01-01"))
    seen = await seen_of(own, kind="anthropic")
    assert seen.headers["anthropic-version"] == "2099-01-01"


async def test_without_a_key_of_ours_the_callers_own_is_forwarded() -> None:
    mine = headers(authorization="Bearer sk-caller", x_api_key="sk-too")
    seen = await seen_of(make_call(headers=mine))
    assert (seen.headers["authorization"], seen.headers["x-api-key"]) == (
        "Bearer sk-caller",
        "sk-too",
    )


@pytest.mark.parametrize(
    "principal",
    [Principal(key_id="key_1", role="caller"), Principal(name="admin", role="admin")],
)
async def test_a_credential_of_tocsin_never_leaves_it(principal: Principal) -> None:
    call = make_call(headers=headers(authorization="Bearer tk-secret"), principal=principal)
    seen = await seen_of(call)
    assert "authorization" not in seen.headers


@pytest.mark.parametrize(
    ("suffix", "query", "target"),
    [
        ("/v1", b"", ("/v1/models", "")),
        ("", b"limit=2", ("/v1/models", "limit=2")),
        ("/api/v3", b"", ("/api/v3/models", "")),
        ("/openai/v1?api-version=2025", b"a=b", ("/openai/v1/models", "a=b&api-version=2025")),
    ],
)
async def test_paths_go_below_the_base_url(
    suffix: str, query: bytes, target: tuple[str, str]
) -> None:
    seen = await seen_of(make_call(operation="models", query=query), suffix=suffix)
    assert (seen.path, seen.query) == target
    assert seen.method == "GET"


@pytest.mark.parametrize("path", ["/v1/../admin", "/v1/files/%2e%2E/x", "/v1/a b", "/v1/é"])
async def test_a_path_that_climbs_or_cannot_be_written_is_refused(path: str) -> None:
    async with upstream() as (provider, server):
        with pytest.raises(BadRequest):
            await provider.send(make_call(operation="other", path=path, method="GET"))
        assert server.seen == []


async def test_a_header_that_would_split_the_request_is_refused() -> None:
    async with upstream() as (provider, server):
        with pytest.raises(BadRequest, match="cannot be forwarded"):
            await provider.send(make_call(headers=((b"x-a", b"1\r\nx-b: 2"),)))
        assert server.seen == []


async def test_encodings_are_asked_for_as_far_as_they_can_be_read() -> None:
    call = make_call(headers=headers(accept_encoding="gzip, deflate, br, zstd;q=0.5"))
    assert (await seen_of(call)).headers["accept-encoding"] == "gzip, deflate"


async def test_a_whole_reply_keeps_its_bytes_and_the_headers_that_matter() -> None:
    answer = Step(
        body=b'{"id": "x" }',
        status=200,
        headers=(
            (b"X-Request-Id", b"req_1"),
            (b"x-ratelimit-remaining-tokens", b"5"),
            (b"retry-after", b"1"),
            (b"set-cookie", b"__cf=1"),
            (b"connection", b"keep-alive"),
        ),
    )
    async with upstream([answer]) as (provider, _):
        reply = await provider.send(make_call())
    assert reply.body == b'{"id": "x" }'
    assert reply.chunks is None
    assert sorted(name for name, _ in reply.headers) == [
        b"content-type",
        b"retry-after",
        b"x-ratelimit-remaining-tokens",
        b"x-request-id",
    ]


@pytest.mark.parametrize("status", [400, 401, 429, 500, 529])
async def test_an_error_of_the_upstream_is_a_reply(status: int) -> None:
    async with upstream([Step(status=status, answer=Answer(text="no"))]) as (provider, _):
        reply = await provider.send(make_call(stream=True))
    assert reply.status == status
    assert json.loads(reply.body or b"")["error"]["message"] == "no"


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_a_stream_arrives_event_by_event(kind: Any) -> None:
    answer = Answer(
        text="one two three",
        tool_calls=(ToolCall(id="t1", name="look", arguments='{"at":"Oslo"}'),),
        usage=Usage(input_tokens=50, output_tokens=9, cache_read_tokens=20, source="reported"),
    )
    async with upstream([Step(answer=answer, gap_s=0.005)], kind=kind) as (provider, server):
        reply = await provider.send(make_call(dialect=kind, stream=True))
        assert reply.chunks is not None
        reader = reader_for(kind, "chat", True)
        count = 0
        async for chunk in reply.chunks:
            count += 1
            reader.feed(chunk)
        assert count > 5
        assert reader.text == "one two three"
        assert [call.name for call in reader.tool_calls] == ["look"]
        assert reader.terminal
        assert reader.usage is not None
        assert (reader.usage.input_tokens, reader.usage.cache_read_tokens) == (50, 20)
        assert server.seen[0].answered


async def test_closing_a_stream_early_cancels_the_upstream() -> None:
    async with upstream([Step(answer=Answer(text="word " * 100), gap_s=0.02)]) as (
        provider,
        server,
    ):
        reply = await provider.send(make_call(stream=True))
        assert reply.chunks is not None
        await anext(reply.chunks)
        await reply.chunks.aclose()  # type: ignore[attr-defined]
        with pytest.raises(StopAsyncIteration):
            await anext(reply.chunks)
        await server.until(lambda: server.seen[0].left)
        assert not server.seen[0].answered


async def test_cancelling_the_wait_for_an_answer_cancels_the_upstream() -> None:
    async with upstream([Step(hang=True)]) as (provider, server):
        task = asyncio.create_task(provider.send(make_call()))
        await server.until(lambda: bool(server.seen))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.until(lambda: server.seen[0].left)


async def test_an_upstream_that_hangs_up_gives_no_answer_and_was_sent_to() -> None:
    async with upstream([Step(fail=True)]) as (provider, _):
        with pytest.raises(UpstreamFailed, match="'up'") as caught:
            await provider.send(make_call())
    assert caught.value.sent
    assert caught.value.status == 502


async def test_nobody_listening_means_nothing_was_sent() -> None:
    async with upstream() as (provider, server):
        await server.stop()
        with pytest.raises(UpstreamFailed) as caught:
            await provider.send(make_call())
    assert not caught.value.sent
    assert caught.value.retryable


async def test_a_slow_upstream_is_a_timeout() -> None:
    async with upstream([Step(hang=True)], first_byte_timeout_s=0.2) as (provider, _):
        with pytest.raises(UpstreamFailed) as caught:
            await provider.send(make_call())
    assert (caught.value.status, caught.value.timeout) == (504, True)


async def test_a_stream_or_body_that_is_cut_fails_and_says_so() -> None:
    cut = Step(answer=Answer(text="one two three"), cut_after=400)
    async with upstream([cut]) as (provider, _):
        reply = await provider.send(make_call(stream=True))
        with pytest.raises(UpstreamFailed, match="'up'"):
            await collect(reply)
    whole = Step(answer=Answer(text="one two three"), cut_after=20)
    async with upstream([whole]) as (provider, _):
        with pytest.raises(UpstreamFailed):
            await provider.send(make_call())


async def test_json_in_chunks_is_read_whole_and_other_content_is_streamed() -> None:
    chunked = Step(chunks=(b'{"a":', b"1}"), headers=())
    async with upstream([chunked]) as (provider, _):
        reply = await provider.send(make_call(stream=True))
        assert await collect(reply) == b'{"a":1}'
    large = Step(body=b"x" * (5 * 1024 * 1024))
    async with upstream([large]) as (provider, _):
        reply = await provider.send(make_call(operation="other", method="GET", path="/v1/files/f"))
        assert reply.chunks is not None
        assert len(await collect(reply)) == 5 * 1024 * 1024


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"base_url": "ftp://x"}, "upstreams.up.base_url"),
        ({"base_url": "http://user:pw@x/v1"}, "user information"),
        ({"api_key_env": "NOT_SET"}, "NOT_SET is not set"),
        ({"kind": "replay", "path": "/no/such.jsonl"}, "no file"),
    ],
)
async def test_a_setting_that_cannot_work_is_named_at_the_start(
    settings: dict[str, str], words: str
) -> None:
    config = Config.model_validate({"upstreams": {"up": settings}})
    async with HttpClient() as client:
        with pytest.raises(ConfigError, match=words) as caught:
            make_providers(config, client, ENV)
    assert "pw@" not in str(caught.value)


async def test_without_a_configuration_both_official_apis_are_there() -> None:
    async with HttpClient() as client:
        made = make_providers(Config(), client, {})
    assert {name: provider.kind for name, provider in made.items()} == {
        "anthropic": "anthropic",
        "openai": "openai",
    }


def test_loopback_that_the_configuration_names_is_allowed_and_nothing_else() -> None:
    config = Config.model_validate(
        {
            "upstreams": {
                "ollama": {"base_url": "http://localhost:11434/v1"},
                "inside": {"base_url": "http://10.0.0.7:8000/v1"},
                "six": {"base_url": "http://[::1]:8000"},
            },
            "otlp": {"endpoint": "http://127.0.0.1:4318"},
        }
    )
    assert allowed_hosts(config) == ("localhost:11434", "[::1]:8000", "127.0.0.1:4318")


async def test_an_upstreams_own_client_keeps_to_its_connections_and_is_closed_with_it() -> None:
    made = []

    async with ScriptedServer([Step(delay_s=0.05, answer=Answer(text="x"))]) as server:
        config = Config.model_validate(
            {"upstreams": {"up": {"base_url": server.url, "max_connections": 2}}}
        )
        guard = OutboundGuard(allow=allowed_hosts(config))

        def client(limits: Limits) -> HttpClient:
            made.append(HttpClient(guard=guard, limits=limits))
            return made[-1]

        provider = make_providers(config, client, ENV)["up"]
        await asyncio.gather(*[provider.send(make_call()) for _ in range(6)])
        assert server.connections == 2
        await provider.aclose()
        with pytest.raises(UpstreamFailed, match="closed") as caught:
            await provider.send(make_call())
        assert not caught.value.retryable


async def test_the_provider_of_known_hosts_has_its_common_name() -> None:
    config = Config.model_validate(
        {
            "upstreams": {
                "a": {},
                "b": {"kind": "anthropic"},
                "c": {"base_url": "https://me.openai.azure.com/openai/v1"},
                "d": {"base_url": "https://openrouter.ai/api/v1"},
                "e": {"base_url": "http://127.0.0.1:8000/v1"},
            }
        }
    )
    async with HttpClient() as client:
        labels = {n: getattr(p, "label", "") for n, p in make_providers(config, client, {}).items()}
    assert labels == {
        "a": "openai",
        "b": "anthropic",
        "c": "azure.ai.openai",
        "d": "openrouter",
        "e": "openai_compatible",
    }
