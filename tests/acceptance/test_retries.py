"""The real server and the official clients: a time-out, a retry and a crash cost one generation."""

from pathlib import Path
from typing import Any

import openai
import pytest

from support.process import Tocsin
from support.repeating import Answered, answer_of, begin, chat
from tocsin.core.interaction import Interaction, Usage
from tocsin.core.wire.render import Answer
from tocsin.providers.playing import Step
from tocsin.providers.scripted_server import ScriptedServer
from tocsin.store import Filter

CONFIG = """
[operations]
owner_timeout_s = 1

[upstreams.main]
base_url = "{url}"
retries = 0
"""
USAGE = Usage(input_tokens=1000, output_tokens=1000, source="reported")
SLOW = Step(answer=Answer(text="Done.", usage=USAGE), delay_s=1.5)
KEY = "order-17"


async def ask(tocsin: Tocsin, **headers: str) -> Answered:
    reader, writer = await begin(tocsin.port, chat(), **headers)
    try:
        return await answer_of(reader)
    finally:
        writer.close()


def recorded(tocsin: Tocsin) -> list[Interaction]:
    store = tocsin.store()
    rows = list(store.interactions(Filter()).rows)
    store.close()
    return rows


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_a_clients_time_out_costs_one_generation_and_one_bill(
    tmp_path: Path, api: str
) -> None:
    async with ScriptedServer([SLOW]) as upstream:
        with Tocsin(tmp_path, CONFIG.format(url=upstream.url)) as tocsin:
            await tocsin.ready()
            async with openai.AsyncOpenAI(
                base_url=tocsin.url + "/v1", api_key="sk-x", timeout=0.4, max_retries=2
            ) as client:
                assert await said(client, api) == "Done."
            assert len(upstream.seen) == 1
            tocsin.stop()
    (row,) = recorded(tocsin)
    assert row.outcome == "complete"
    # gpt-4o-mini: 0.15 and 0.60 dollars for a million tokens.
    assert row.cost_nano_usd == 1000 * 150 + 1000 * 600


async def said(client: openai.AsyncOpenAI, api: str) -> str | None:
    if api == "responses":
        return (await client.responses.create(model="gpt-4o-mini", input="x")).output_text
    messages: Any = [{"role": "user", "content": "x"}]
    done = await client.chat.completions.create(model="gpt-4o-mini", messages=messages)
    return done.choices[0].message.content


async def test_a_request_whose_process_was_killed_is_never_done_again_blindly(
    tmp_path: Path,
) -> None:
    """kill -9 between the claim and the answer: nobody knows. After the answer: it is replayed."""
    async with ScriptedServer([Step(), Step(hang=True), Step()]) as upstream:
        tocsin = Tocsin(tmp_path, CONFIG.format(url=upstream.url))
        with tocsin:
            await tocsin.ready()
            before = await ask(tocsin, idempotency_key="before")
            _, writer = await begin(tocsin.port, chat(), idempotency_key=KEY)
            await upstream.until(lambda: len(upstream.seen) == 2)
            tocsin.kill()
            writer.close()
        with tocsin:
            await tocsin.ready()
            replayed = await ask(tocsin, idempotency_key="before")
            assert replayed.body == before.body
            assert replayed.headers["idempotency-replayed"] == "true"
            # Asked again at once: it waits until it is certain that the other process is dead.
            for _ in range(2):
                unknown = await ask(tocsin, idempotency_key=KEY)
                assert (unknown.status, unknown.code) == (409, "idempotency_unknown")
                assert unknown.headers["x-should-retry"] == "false"
            assert len(upstream.seen) == 2
            assert (await ask(tocsin, idempotency_key="order-17, again")).status == 200


async def test_a_key_that_was_answered_just_before_a_kill_is_replayed(tmp_path: Path) -> None:
    """What a client saw complete is never unknown, however soon the process dies after it."""
    async with ScriptedServer() as upstream:
        tocsin = Tocsin(tmp_path, CONFIG.format(url=upstream.url))
        seen: list[tuple[str, bytes]] = []
        for number in range(2):
            with tocsin:
                await tocsin.ready()
                for key, body in seen:
                    assert (await ask(tocsin, idempotency_key=key)).body == body
                for of in range(5):
                    key = f"{number}-{of}"
                    seen.append((key, (await ask(tocsin, idempotency_key=key)).body))
                tocsin.kill()
        assert len(upstream.seen) == len(seen)
