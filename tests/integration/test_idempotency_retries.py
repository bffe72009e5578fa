"""A client's own retry joins the call that its first try began: one generation, one bill."""

import asyncio
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from support.repeating import Running, answer_of, chat, world
from tocsin.core.interaction import Usage
from tocsin.core.wire.render import Answer
from tocsin.providers.playing import Step
from tocsin.providers.scripted_server import ScriptedServer, Seen

ANSWER = "The answer that took its time."
USAGE = Usage(input_tokens=5, output_tokens=7, source="reported")
SLOW = Step(answer=Answer(text=ANSWER, usage=USAGE), delay_s=1.5)
LEAVES_AFTER_S = 0.4


def of_openai(tocsin: Running) -> dict[str, Any]:
    return {
        "base_url": tocsin.url + "/v1",
        "api_key": "sk-own",
        "timeout": LEAVES_AFTER_S,
        "max_retries": 2,
    }


def of_anthropic(tocsin: Running) -> dict[str, Any]:
    return {**of_openai(tocsin), "base_url": tocsin.url}


def messages(text: str) -> Any:
    return [{"role": "user", "content": text}]


async def openai_async(tocsin: Running) -> str | None:
    async with openai.AsyncOpenAI(**of_openai(tocsin)) as client:
        done = await client.chat.completions.with_raw_response.create(
            model="gpt-4o-mini", messages=messages("openai, async")
        )
    assert done.headers["tocsin-joined"] == done.headers["tocsin-call-id"]
    return done.parse().choices[0].message.content


async def openai_sync(tocsin: Running) -> str | None:
    def ask() -> str | None:
        with openai.OpenAI(**of_openai(tocsin)) as client:
            done = client.chat.completions.create(model="gpt-4o-mini", messages=messages("openai"))
        return done.choices[0].message.content

    return await asyncio.to_thread(ask)


async def openai_stream(tocsin: Running) -> str:
    async with openai.AsyncOpenAI(**of_openai(tocsin)) as client:
        stream = await client.chat.completions.create(
            model="gpt-4o-mini", messages=messages("openai, streamed"), stream=True
        )
        return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])


async def anthropic_async(tocsin: Running) -> str:
    async with anthropic.AsyncAnthropic(**of_anthropic(tocsin)) as client:
        done = await client.messages.create(
            model="claude", max_tokens=100, messages=messages("anthropic, async")
        )
    text: str = done.content[0].model_dump()["text"]
    return text


async def anthropic_sync(tocsin: Running) -> str:
    def ask() -> str:
        with anthropic.Anthropic(**of_anthropic(tocsin)) as client:
            done = client.messages.create(
                model="claude", max_tokens=100, messages=messages("anthropic")
            )
        text: str = done.content[0].model_dump()["text"]
        return text

    return await asyncio.to_thread(ask)


async def anthropic_stream(tocsin: Running) -> str:
    async with (
        anthropic.AsyncAnthropic(**of_anthropic(tocsin)) as client,
        client.messages.stream(
            model="claude", max_tokens=100, messages=messages("anthropic, streamed")
        ) as stream,
    ):
        return await stream.get_final_text()


CLIENTS = (
    openai_async,
    openai_sync,
    openai_stream,
    anthropic_async,
    anthropic_sync,
    anthropic_stream,
)


async def test_official_clients_that_time_out_pay_once(tmp_path: Path) -> None:
    """A try and two retries, 0.4 s each with 0.4 to 1 s between them; the answer takes 1.5 s."""
    async with world(tmp_path, [SLOW]) as (tocsin, upstream):
        answers = await asyncio.gather(*(ask(tocsin) for ask in CLIENTS))
        assert answers == [ANSWER] * len(CLIENTS)
        assert len(upstream.seen) == len(CLIENTS), "a call was generated twice"
        rows = await tocsin.rows(len(CLIENTS))
        assert len(rows) == len(CLIENTS)
        assert {(row.outcome, len(row.attempts)) for row in rows} == {("complete", 1)}
        assert {row.usage.output_tokens or 7 for row in rows} == {7}


async def test_a_socket_that_breaks_before_the_answer_costs_nothing_more(tmp_path: Path) -> None:
    """Also through ASGI: a compressed body takes the long way."""
    async with world(tmp_path, [Step(delay_s=0.3)]) as (tocsin, upstream):
        for number, more in enumerate(({}, {"content_encoding": "identity"})):
            text = f"question {number}"
            _, writer = await tocsin.begin(text=text, x_stainless_retry_count="0", **more)
            await upstream.until(lambda: len(upstream.seen) == number + 1)  # noqa: B023
            writer.transport.abort()
            await asyncio.sleep(0.05)
            again = await tocsin.post(text=text, x_stainless_retry_count="1", **more)
            assert again.status == 200
            assert len(upstream.seen) == number + 1
        assert {row.outcome for row in await tocsin.rows(2)} == {"complete"}


async def test_an_answer_that_came_while_nobody_listened_is_kept_for_the_retry(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, [Step(delay_s=0.2)]) as (tocsin, upstream):
        await leave(tocsin, upstream)
        await tocsin.rows(1)
        again = await tocsin.post(x_stainless_retry_count="1")
        assert (again.status, len(upstream.seen)) == (200, 1)
        # It was delivered. Another retry is another client's, or of a call of its own.
        more = await tocsin.post(x_stainless_retry_count="1")
        assert (more.status, len(upstream.seen)) == (200, 2)
        assert "tocsin-joined" not in more.headers


async def leave(tocsin: Running, upstream: ScriptedServer, **more: Any) -> None:
    """Make a first try, and leave once the upstream has it."""
    before = len(upstream.seen)
    headers = {"x_stainless_retry_count": "0", **more}
    _, writer = await tocsin.begin(**headers)
    await upstream.until(lambda: len(upstream.seen) > before)
    writer.transport.abort()
    await asyncio.sleep(0.05)


async def test_a_retry_joins_a_try_whose_client_seems_to_be_there(tmp_path: Path) -> None:
    """Behind a proxy the first connection stays: both get the answer."""
    async with world(tmp_path, [Step(delay_s=0.3)]) as (tocsin, upstream):
        for number, more in enumerate(({}, {"content_encoding": "identity"})):
            text = f"question {number}"
            reader, writer = await tocsin.begin(text=text, x_stainless_retry_count="0", **more)
            await upstream.until(lambda: len(upstream.seen) == number + 1)  # noqa: B023
            again = await tocsin.post(text=text, x_stainless_retry_count="1")
            first = await answer_of(reader)
            writer.close()
            assert first.body == again.body
            assert first.status == again.status == 200
            assert again.headers["tocsin-joined"] == first.headers["tocsin-call-id"]
            assert "tocsin-joined" not in first.headers
            assert len(upstream.seen) == number + 1
        assert len(await tocsin.rows(2)) == 2


async def test_two_identical_calls_that_were_both_meant_stay_two(tmp_path: Path) -> None:
    """Each retry finds a try that nobody else has taken."""
    said = iter("ab")

    def script(_: Seen) -> Step:
        return Step(answer=Answer(text=next(said)), delay_s=0.5)

    async with world(tmp_path, script) as (tocsin, upstream):
        await leave(tocsin, upstream)
        await leave(tocsin, upstream)
        again = await asyncio.gather(
            tocsin.post(x_stainless_retry_count="1"), tocsin.post(x_stainless_retry_count="1")
        )
        assert {a.json["choices"][0]["message"]["content"] for a in again} == {"a", "b"}
        assert len(await tocsin.rows(2)) == 2
        assert len(upstream.seen) == 2


async def test_a_first_try_never_joins(tmp_path: Path) -> None:
    async with world(tmp_path, [Step(delay_s=0.3)]) as (tocsin, upstream):
        await leave(tocsin, upstream)
        await tocsin.post(x_stainless_retry_count="0")
        await tocsin.post()
        assert len(upstream.seen) == 3


async def test_the_retry_of_a_try_that_failed_in_front_of_its_client_is_a_new_try(
    tmp_path: Path,
) -> None:
    """Although an identical call is under way beside it."""

    def script(seen: Seen) -> Step:
        return Step(status=429) if len(upstream.seen) == 1 else Step(delay_s=0.4)

    async with world(tmp_path, script) as (tocsin, upstream):
        failed = await tocsin.post(x_stainless_retry_count="0")
        assert failed.status == 429
        beside = asyncio.create_task(tocsin.post(x_stainless_retry_count="0"))
        await upstream.until(lambda: len(upstream.seen) == 2)
        again = await tocsin.post(x_stainless_retry_count="1")
        assert again.status == (await beside).status == 200
        assert "tocsin-joined" not in again.headers
        assert len(upstream.seen) == 3


async def test_a_failure_that_nobody_saw_is_not_replayed(tmp_path: Path) -> None:
    def script(seen: Seen) -> Step:
        return Step(status=500, delay_s=0.2) if len(upstream.seen) == 1 else Step()

    async with world(tmp_path, script) as (tocsin, upstream):
        await leave(tocsin, upstream)
        await tocsin.rows(1)
        again = await tocsin.post(x_stainless_retry_count="1")
        assert (again.status, len(upstream.seen)) == (200, 2)


@pytest.mark.parametrize(
    "other",
    [
        {"text": "another question"},
        {"path": "/v1/completions"},
        {"path": "/v1/chat/completions?x=1"},
        {"authorization": "Bearer sk-another"},
        {"x_api_key": "another"},
        {"tocsin_user": "another"},
        {"anthropic_beta": "another"},
    ],
)
async def test_what_differs_is_never_joined(tmp_path: Path, other: dict[str, str]) -> None:
    async with world(tmp_path, [Step(delay_s=0.3)]) as (tocsin, upstream):
        first = asyncio.create_task(
            tocsin.post(authorization="Bearer sk-own", x_stainless_retry_count="0")
        )
        await upstream.until(lambda: len(upstream.seen) == 1)
        again = {"authorization": "Bearer sk-own", "x_stainless_retry_count": "1", **other}
        assert (await tocsin.post(**again)).status == 200
        assert (await first).status == 200
        assert len(upstream.seen) == 2


async def test_another_keys_call_is_never_joined(tmp_path: Path) -> None:
    async with world(tmp_path, [Step(delay_s=0.3)]) as (tocsin, upstream):
        own, other = (tocsin.keyring.issue(name, "caller", actor="test").secret for name in "ab")
        await leave(tocsin, upstream, tocsin_key=own)
        await tocsin.post(tocsin_key=other, x_stainless_retry_count="1")
        assert len(upstream.seen) == 2


async def test_nobody_who_comes_back_is_cut_after_the_linger_time(tmp_path: Path) -> None:
    async with world(tmp_path, [Step(hang=True)], operations={"linger_s": 0.3}) as (
        tocsin,
        upstream,
    ):
        await leave(tocsin, upstream)
        assert not upstream.seen[0].left
        await upstream.until(lambda: upstream.seen[0].left, 2)
        (row,) = await tocsin.rows(1)
        assert (row.outcome, row.error_type) == ("cancelled", "client_disconnected")


@pytest.mark.parametrize(
    ("settings", "headers"),
    [
        ({"operations": {"linger_s": 0}}, {}),
        ({"idempotency": {"retries": False}}, {}),
        ({}, {"x_stainless_retry_count": None}),
    ],
)
async def test_a_call_that_nobody_will_come_back_for_is_cut_at_once(
    tmp_path: Path, settings: dict[str, Any], headers: dict[str, Any]
) -> None:
    """By the settings; or because its client is not one that says when it tries again."""
    async with world(tmp_path, [Step(hang=True)], **settings) as (tocsin, upstream):
        said = {"x_stainless_retry_count": "0", **headers}
        _, writer = await tocsin.begin(**{k: v for k, v in said.items() if v is not None})
        await upstream.until(lambda: len(upstream.seen) == 1)
        writer.transport.abort()
        await upstream.until(lambda: upstream.seen[0].left, 2)
        (row,) = await tocsin.rows(1)
        assert row.outcome == "cancelled"


async def test_a_stream_that_has_begun_is_cut_at_once(tmp_path: Path) -> None:
    many = Step(answer=Answer(text="word " * 400), gap_s=0.02, delay_s=0.2)
    async with world(tmp_path, [many]) as (tocsin, upstream):
        reader, writer = await tocsin.begin(chat(stream=True), x_stainless_retry_count="0")
        await reader.readuntil(b"data: ")
        writer.transport.abort()
        await upstream.until(lambda: upstream.seen[0].left, 2)
        # Also for a client that joined and has seen a part.
        await leave(tocsin, upstream, body=chat("y", stream=True))
        reader, writer = await tocsin.begin(chat("y", stream=True), x_stainless_retry_count="1")
        await reader.readuntil(b"data: ")
        writer.transport.abort()
        await upstream.until(lambda: upstream.seen[1].left, 2)
        assert [row.outcome for row in await tocsin.rows(2)] == ["cancelled"] * 2


async def test_an_answer_too_large_to_keep_waits_for_the_retry(tmp_path: Path) -> None:
    long = Step(answer=Answer(text="word " * 400), delay_s=0.1)
    async with world(tmp_path, [long], idempotency={"max_answer_bytes": 2000}) as (
        tocsin,
        upstream,
    ):
        await leave(tocsin, upstream, body=chat(stream=True))
        await asyncio.sleep(0.4)
        again = await tocsin.post(chat(stream=True), x_stainless_retry_count="1")
        assert again.body.count(b"word") == 400
        assert again.body.endswith(b"data: [DONE]\n\n")
        assert len(upstream.seen) == 1
        assert [row.outcome for row in await tocsin.rows(1)] == ["complete"]


async def test_a_stop_of_the_server_waits_for_nobody_who_left(tmp_path: Path) -> None:
    async with world(tmp_path, [Step(hang=True)]) as (tocsin, upstream):
        await leave(tocsin, upstream)
        began = asyncio.get_running_loop().time()
        await tocsin.stop()
        assert asyncio.get_running_loop().time() - began < 2
        assert upstream.seen[0].left
