"""The table of ``Idempotency-Key``: what a second request with the same name gets."""

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest

from support.repeating import Answered, Running, answer_of, chat, running, world
from tocsin.core.clock import SystemClock
from tocsin.core.wire.render import Answer
from tocsin.providers.playing import Step
from tocsin.providers.scripted_server import ScriptedServer, Seen
from tocsin.store.operations_api import KeyRow

KEY = {"idempotency_key": "order-17"}
NAMES = ("content-type", "tocsin-call-id", "tocsin-run-id")


def kept(answer: Answered) -> tuple[Any, ...]:
    """What a replay has in common with the first answer."""
    return answer.status, answer.body, *(answer.headers.get(name) for name in NAMES)


def numbered(seen: Seen) -> Step:
    """Answers that differ, so that a second generation is seen."""
    return Step(answer=Answer(text=f"answer to {id(seen)}"))


async def test_a_missing_key_is_refused_where_the_feature_needs_one(tmp_path: Path) -> None:
    features = {"orders": {"require_idempotency_key": True}}
    async with world(tmp_path, [Step()], features=features) as (tocsin, upstream):
        refused = await tocsin.post(tocsin_feature="orders")
        assert (refused.status, refused.code) == (400, "idempotency_key_required")
        assert refused.headers["tocsin-error"] == "idempotency_key_required"
        assert refused.headers["x-should-retry"] == "false"
        assert upstream.seen == []
        assert (await tocsin.post(tocsin_feature="orders", **KEY)).status == 200
        assert (await tocsin.post(tocsin_feature="others")).status == 200


@pytest.mark.parametrize("key", ["", "x" * 256, "t\x01b", "caf\xe9"])
async def test_a_malformed_key_is_refused(tmp_path: Path, key: str) -> None:
    async with world(tmp_path, [Step()]) as (tocsin, upstream):
        body = json.dumps(chat()).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", tocsin.port)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nidempotency-key: "
            + key.encode("latin-1")
            + b"\r\ncontent-length: %d\r\n\r\n" % len(body)
            + body
        )
        refused = await answer_of(reader)
        writer.close()
        assert refused.status == 400
        if "\x01" not in key:  # that one is refused by the parser
            assert refused.code == "idempotency_key_malformed"
        assert upstream.seen == []


async def test_the_longest_key_is_taken(tmp_path: Path) -> None:
    async with world(tmp_path, [Step()]) as (tocsin, _):
        assert (await tocsin.post(idempotency_key="x" * 255)).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_repeat_after_the_end_gets_the_same_answer_and_no_new_call(
    tmp_path: Path, stream: bool
) -> None:
    async with world(tmp_path, numbered) as (tocsin, upstream):
        body = chat(stream=stream)
        first = await tocsin.post(body, **KEY)
        again = await tocsin.post(body, **KEY)
        assert first.status == 200
        assert kept(again) == kept(first)
        assert again.headers["idempotency-replayed"] == "true"
        assert "idempotency-replayed" not in first.headers
        assert len(upstream.seen) == 1
        assert len(await tocsin.rows(1)) == 1


async def test_an_answer_outlives_its_process(tmp_path: Path) -> None:
    async with ScriptedServer(numbered) as upstream:
        async with running(tmp_path, upstream, owner="proc_1") as tocsin:
            first = await tocsin.post(**KEY)
        async with running(tmp_path, upstream, owner="proc_2") as tocsin:
            again = await tocsin.post(**KEY)
        assert kept(again) == kept(first)
        assert len(upstream.seen) == 1


@pytest.mark.parametrize("other", [{"text": "y"}, {"path": "/v1/completions"}])
async def test_another_payload_is_refused(tmp_path: Path, other: dict[str, str]) -> None:
    async with world(tmp_path, [Step(delay_s=0.2)]) as (tocsin, upstream):
        first = asyncio.create_task(tocsin.post(**KEY))
        await upstream.until(lambda: len(upstream.seen) == 1)
        for _ in ("in flight", "ended"):
            refused = await tocsin.post(**KEY, **other)
            assert (refused.status, refused.code) == (422, "idempotency_key_reused")
            assert refused.headers["x-should-retry"] == "false"
            await first
        assert len(upstream.seen) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_repeat_in_flight_joins(tmp_path: Path, stream: bool) -> None:
    step = Step(answer=Answer(text="one two three four five six"), delay_s=0.1, gap_s=0.04)
    async with world(tmp_path, [step]) as (tocsin, upstream):
        body = chat(stream=stream)
        reader, writer = await tocsin.begin(body, connection="close", **KEY)
        await upstream.until(lambda: len(upstream.seen) == 1)
        early = asyncio.create_task(tocsin.post(body, **KEY))
        if stream:
            await reader.readuntil(b"two")  # in the middle: the joiner gets it from the start
        late = asyncio.create_task(tocsin.post(body, **KEY))
        await reader.read()
        writer.close()
        joined = [await early, await late]
        assert [a.status for a in joined] == [200, 200]
        assert joined[0].body == joined[1].body
        assert all(a.headers["tocsin-joined"] == a.headers["tocsin-call-id"] for a in joined)
        replayed = await tocsin.post(body, **KEY)
        assert replayed.body == joined[0].body
        assert len(upstream.seen) == 1
        assert len(await tocsin.rows(1)) == 1


async def test_a_repeat_in_flight_is_refused_where_that_is_chosen(tmp_path: Path) -> None:
    settings = {"idempotency": {"in_flight": "refuse"}}
    async with world(tmp_path, [Step(delay_s=0.3)], **settings) as (tocsin, upstream):
        first = asyncio.create_task(tocsin.post(**KEY))
        await upstream.until(lambda: len(upstream.seen) == 1)
        refused = await tocsin.post(**KEY)
        assert (refused.status, refused.code) == (409, "idempotency_key_in_flight")
        assert refused.headers["x-should-retry"] == "true"
        assert refused.headers["retry-after"] == "1"
        assert (await first).status == 200
        assert (await tocsin.post(**KEY)).status == 200
        assert len(upstream.seen) == 1


async def test_another_principals_key_never_matches(tmp_path: Path) -> None:
    async with world(tmp_path, numbered) as (tocsin, upstream):
        own, other = (tocsin.keyring.issue(name, "caller", actor="t").secret for name in "ab")
        whose: list[dict[str, str]] = [
            {"tocsin_key": own},
            {"tocsin_key": other},
            {"authorization": "Bearer sk-one"},
            {"authorization": "Bearer sk-two"},
            {"x_api_key": "sk-three"},
            {},
        ]
        bodies = {(await tocsin.post(**KEY, **who)).body for who in whose}
        assert len(bodies) == len(whose) == len(upstream.seen)
        assert {(await tocsin.post(**KEY, **who)).body for who in whose} == bodies
        assert len(upstream.seen) == len(whose)


async def test_what_was_denied_before_an_upstream_frees_the_key(tmp_path: Path) -> None:
    """Denied by a limit, refused for what it asks, refused for who asks, no upstream."""
    async with ScriptedServer() as upstream:
        limit = {"limits": {"none": {"per": "day", "calls": 1}}}
        async with running(tmp_path / "limit", upstream, **limit) as tocsin:
            await tocsin.post()
            denied = await tocsin.post(**KEY)
            assert (denied.status, denied.code) == (429, "budget_exceeded")
            await tocsin.app.reload(tocsin.app.config.model_copy(update={"limits": {}}))
            assert (await tocsin.post(**KEY)).status == 200
        async with running(tmp_path / "refused", upstream) as tocsin:
            refused = await tocsin.post(chat(messages="none"), **KEY)
            assert refused.status == 400
            assert (await tocsin.post(**KEY)).status == 200
            wrong = await tocsin.post(tocsin_key="tk-" + "0" * 40, idempotency_key="another")
            assert wrong.status == 401
        dead = {"upstreams": {"main": {"base_url": "http://127.0.0.1:9/v1", "retries": 0}}}
        async with running(tmp_path / "none", upstream, **dead) as tocsin:
            assert (await tocsin.post(**KEY)).status in (502, 503)
        seen = len(upstream.seen)
        async with running(tmp_path / "none", upstream, owner="proc_b") as tocsin:
            assert (await tocsin.post(**KEY)).status == 200
            assert len(upstream.seen) == seen + 1


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 503])
async def test_an_upstreams_answer_that_asks_for_another_try_frees_the_key(
    tmp_path: Path, status: int
) -> None:
    def script(_: Seen) -> Step:
        return Step(status=status) if len(upstream.seen) == 1 else Step()

    async with world(tmp_path, script) as (tocsin, upstream):
        assert (await tocsin.post(**KEY)).status == status
        again = await tocsin.post(**KEY)
        assert again.status == 200
        assert "idempotency-replayed" not in again.headers
        assert len(upstream.seen) == 2


@pytest.mark.parametrize("status", [401, 403])
async def test_an_upstream_that_does_not_let_us_in_frees_the_key(
    tmp_path: Path, status: int
) -> None:
    """Our credentials were wrong and nothing was done: once they are right, it is done."""

    def script(_: Seen) -> Step:
        return Step(status=status) if len(upstream.seen) == 1 else Step()

    async with world(tmp_path, script) as (tocsin, upstream):
        assert (await tocsin.post(**KEY)).status == status
        again = await tocsin.post(**KEY)
        assert (again.status, len(upstream.seen)) == (200, 2)
        assert "idempotency-replayed" not in again.headers
        repeated = await tocsin.post(**KEY)
        assert (repeated.status, repeated.body) == (200, again.body)
        assert repeated.headers["idempotency-replayed"] == "true"
        assert len(upstream.seen) == 2


async def test_an_upstreams_final_refusal_is_replayed(tmp_path: Path) -> None:
    async with world(tmp_path, [Step(status=404)]) as (tocsin, upstream):
        first = await tocsin.post(**KEY)
        again = await tocsin.post(**KEY)
        assert kept(again) == kept(first)
        assert (again.status, len(upstream.seen)) == (404, 1)


async def test_a_stream_that_broke_in_the_middle_frees_the_key(tmp_path: Path) -> None:
    def script(_: Seen) -> Step:
        return Step(cut_after=200) if len(upstream.seen) == 1 else Step()

    async with world(tmp_path, script) as (tocsin, upstream):
        broken = await tocsin.post(chat(stream=True), **KEY)
        assert b"[DONE]" not in broken.body
        again = await tocsin.post(chat(stream=True), **KEY)
        assert again.body.endswith(b"data: [DONE]\n\n")
        assert len(upstream.seen) == 2


async def test_nobody_knows_of_a_request_whose_process_died(tmp_path: Path) -> None:
    async with world(tmp_path, [Step()], operations={"owner_timeout_s": 1}) as (tocsin, upstream):
        first = await tocsin.post(idempotency_key="like it")
        leave_open(tocsin, "proc_dead", first)
        for _ in range(2):
            unknown = await tocsin.post(**KEY)
            assert (unknown.status, unknown.code) == (409, "idempotency_unknown")
            assert unknown.headers["x-should-retry"] == "false"
            assert "new Idempotency-Key" in unknown.json["error"]["message"]
        assert len(upstream.seen) == 1


def leave_open(tocsin: Running, owner: str, like: Answered) -> None:
    """What a process leaves behind that dies between the claim and the answer."""
    assert like.status == 200
    book = tocsin.app.store.operations
    now = SystemClock().now_us()
    probe = KeyRow(
        principal="anonymous",
        key="like it",
        request_hash=b"",
        state="open",
        owner=owner,
        created_at=now,
        expires_at=now + 3_600_000_000,
    )
    row, new = book.claim_key(probe, now)
    assert not new
    _, new = book.claim_key(
        KeyRow(
            principal="anonymous",
            key="order-17",
            request_hash=row.request_hash,
            state="open",
            owner=owner,
            created_at=now,
            expires_at=now + 3_600_000_000,
        ),
        now,
    )
    assert new


async def test_an_answer_too_large_to_keep_is_remembered(tmp_path: Path) -> None:
    many = Step(answer=Answer(text="word " * 400))
    settings = {"idempotency": {"max_answer_bytes": 1000}}
    async with world(tmp_path, [many], **settings) as (tocsin, upstream):
        for number, stream in enumerate((False, True), 1):
            key = f"key-{number}"
            first = await tocsin.post(chat(stream=stream), idempotency_key=key)
            assert first.body.count(b"word") == 400
            again = await tocsin.post(chat(stream=stream), idempotency_key=key)
            assert (again.status, again.code) == (409, "idempotency_answer_gone")
            assert first.headers["tocsin-call-id"] in again.json["error"]["message"]
            assert again.headers["x-should-retry"] == "false"
            assert len(upstream.seen) == number


async def test_a_key_is_forgotten_after_its_time(tmp_path: Path) -> None:
    settings = {"idempotency": {"keep_hours": 0.6 / 3600}}
    async with world(tmp_path, numbered, **settings) as (tocsin, upstream):
        first = await tocsin.post(**KEY)
        assert (await tocsin.post(**KEY)).body == first.body
        await asyncio.sleep(0.7)
        assert (await tocsin.post(**KEY)).body != first.body
        assert len(upstream.seen) == 2


@pytest.mark.parametrize("more", [{}, {"content_encoding": "identity"}])
async def test_a_request_with_a_key_goes_on_without_its_client(
    tmp_path: Path, more: dict[str, str]
) -> None:
    """However long it takes, and also when a part of the answer had gone out."""
    settings = {"operations": {"linger_s": 0}}
    step = Step(answer=Answer(text="one two three four"), delay_s=0.2, gap_s=0.05)
    async with world(tmp_path, [step], **settings) as (tocsin, upstream):
        _, writer = await tocsin.begin(**KEY, **more)
        await upstream.until(lambda: len(upstream.seen) == 1)
        writer.transport.abort()
        reader, writer = await tocsin.begin(chat(stream=True), idempotency_key="streamed", **more)
        await reader.readuntil(b"one")
        writer.transport.abort()
        rows = await tocsin.rows(2)
        assert [row.outcome for row in rows] == ["complete"] * 2
        again = await tocsin.post(**KEY)
        assert again.headers["idempotency-replayed"] == "true"
        streamed = await tocsin.post(chat(stream=True), idempotency_key="streamed")
        assert streamed.body.endswith(b"data: [DONE]\n\n")
        assert len(upstream.seen) == 2


async def test_an_explicit_key_wins_over_a_clients_retry(tmp_path: Path) -> None:
    """Two pieces of work with the same words stay two, whatever the client's machinery sends."""
    async with world(tmp_path, [Step(delay_s=0.3)]) as (tocsin, upstream):
        _, writer = await tocsin.begin(x_stainless_retry_count="0")
        await upstream.until(lambda: len(upstream.seen) == 1)
        writer.transport.abort()
        keyed = await tocsin.post(x_stainless_retry_count="1", **KEY)
        assert "tocsin-joined" not in keyed.headers
        assert len(upstream.seen) == 2


async def test_the_official_client_retries_with_a_key_of_its_caller(tmp_path: Path) -> None:
    async with world(tmp_path, [Step(delay_s=0.8)]) as (tocsin, upstream):
        async with openai.AsyncOpenAI(
            base_url=tocsin.url + "/v1", api_key="sk-x", timeout=0.4, max_retries=3
        ) as client:
            messages: Any = [{"role": "user", "content": "x"}]
            done = await client.chat.completions.create(
                model="m", messages=messages, extra_headers={"Idempotency-Key": "order-17"}
            )
        assert done.choices[0].message.content == "This is a scripted answer."
        assert len(upstream.seen) == 1


async def test_of_several_gateways_on_one_store_one_dispatches(
    tmp_path: Path, store_url: str
) -> None:
    """One asks the upstream; the others wait for its answer and replay it."""
    store = {"store": {"url": store_url}} if store_url else {}
    async with (
        ScriptedServer([Step(delay_s=0.4)]) as upstream,
        running(tmp_path, upstream, owner="proc_a", **store) as one,
        running(tmp_path, upstream, owner="proc_b", **store) as two,
    ):
        answers = await asyncio.gather(*(t.post(**KEY) for t in (one, two) for _ in range(4)))
        assert {a.status for a in answers} == {200}
        assert len({a.body for a in answers}) == 1
        assert len(upstream.seen) == 1
        refused = await two.post(text="y", **KEY)
        assert refused.code == "idempotency_key_reused"


async def test_another_process_that_is_at_work_is_told_by_its_beats(tmp_path: Path) -> None:
    """Refused while it lives; unknown once it is dead, which is found out without being asked."""
    settings = {
        "idempotency": {"in_flight": "refuse"},
        "operations": {"owner_timeout_s": 1},
    }
    async with world(tmp_path, [Step()], **settings) as (tocsin, upstream):
        first = await tocsin.post(idempotency_key="like it")
        book = tocsin.app.store.operations
        book.beat("proc_other", SystemClock().now_us())
        leave_open(tocsin, "proc_other", first)
        assert (await tocsin.post(**KEY)).code == "idempotency_key_in_flight"
        await asyncio.sleep(1.1)
        assert (await tocsin.post(**KEY)).code == "idempotency_unknown"
        # It was only slow: the answer that it gives after all is the answer.
        book.settle_key(
            "anonymous", "order-17", "proc_other", "answered", status=200, body=b'{"a":1}'
        )
        assert (await tocsin.post(**KEY)).body == b'{"a":1}'
        assert len(upstream.seen) == 1


async def test_a_stop_in_the_middle_leaves_the_truth(tmp_path: Path) -> None:
    async with ScriptedServer([Step(hang=True)]) as upstream:
        async with running(tmp_path, upstream, grace_s=0.2) as tocsin:
            _, writer = await tocsin.begin(**KEY)
            await upstream.until(lambda: len(upstream.seen) == 1)
            writer.transport.abort()
        async with running(tmp_path, upstream, owner="proc_b") as tocsin:
            assert (await tocsin.post(**KEY)).code == "idempotency_unknown"
        assert len(upstream.seen) == 1
