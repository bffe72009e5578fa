"""The real command: a long stream is cut everywhere, and the process is killed in the middle."""

import asyncio
import json
import urllib.request
from pathlib import Path
from typing import Any

import openai
import pytest

from responses_world import words
from support.process import Tocsin
from tocsin.providers.scripted_server import ScriptedServer

CONFIG = """
[upstreams.main]
base_url = "{url}"
api_key_env = "UPSTREAM_KEY"
"""
KEY = {"UPSTREAM_KEY": "sk-upstream"}
DONE = b"data: [DONE]\n\n"
WORDS = 500


def get(url: str, **headers: str) -> bytes:
    """The bytes of an answer."""
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        data: bytes = answer.read()
        return data


def blocks_of(whole: bytes) -> list[bytes]:
    """The events of a stream, each with its end."""
    assert whole.endswith(DONE)
    return [block + b"\n\n" for block in whole.removesuffix(DONE).split(b"\n\n") if block]


def cut_everywhere(url: str, whole: bytes, blocks: list[bytes]) -> None:
    """Go on from every event, through each of the three forms."""
    for number in range(len(blocks)):
        rest = b"".join(blocks[number + 1 :]) + DONE
        assert get(f"{url}?stream=true&starting_after={number}") == rest
        assert get(url, **{"last-event-id": str(number)}) == rest
        # The third form asks from the beginning and leaves out what it has.
        again = get(f"{url}?stream=true")
        assert again == whole
        assert again.endswith(rest)


@pytest.mark.slow
async def test_500_events_are_cut_at_every_number_before_and_after_kill_9(tmp_path: Path) -> None:
    async with ScriptedServer(lambda _: words(WORDS)) as server:
        tocsin = Tocsin(tmp_path, CONFIG.format(url=server.url), env=KEY)
        with tocsin:
            await tocsin.ready()
            made = await asyncio.to_thread(begin, tocsin.url)
            url = f"{tocsin.url}/v1/responses/{made}"
            whole = await asyncio.to_thread(get, f"{url}?stream=true")
            blocks = blocks_of(whole)
            assert len(blocks) >= 500
            numbers = [json.loads(b.split(b"data: ")[1])["sequence_number"] for b in blocks]
            assert numbers == list(range(len(blocks)))
            await asyncio.to_thread(cut_everywhere, url, whole, blocks)
            tocsin.kill()
            tocsin.start()
            await tocsin.ready()
            assert await asyncio.to_thread(get, f"{url}?stream=true") == whole
            for number in range(0, len(blocks), 25):
                rest = b"".join(blocks[number + 1 :]) + DONE
                again = await asyncio.to_thread(get, f"{url}?stream=true&starting_after={number}")
                assert again == rest
        assert len(server.seen) == 1


def begin(url: str) -> str:
    """Begin a response in the background; its id."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    return str(client.responses.create(model="m", input="Go on.", background=True).id)


async def test_killed_in_the_middle_it_says_what_it_knows(tmp_path: Path) -> None:
    async with ScriptedServer(lambda _: words(400, gap_s=0.02)) as server:
        with Tocsin(tmp_path, CONFIG.format(url=server.url), env=KEY) as tocsin:
            await tocsin.ready()
            name = await asyncio.to_thread(begin, tocsin.url)
            url = f"{tocsin.url}/v1/responses/{name}"
            seen = await asyncio.to_thread(some_of, f"{url}?stream=true", 20)
            tocsin.kill()
            tocsin.start()
            await tocsin.ready()
            whole = await asyncio.to_thread(get, f"{url}?stream=true")
            kept: Any = json.loads(await asyncio.to_thread(get, url))
        assert len(server.seen) == 1
    assert whole.startswith(seen)
    blocks = blocks_of(whole)
    assert [block.split(b"\n")[0] for block in blocks] == [
        b"id: %d" % number for number in range(len(blocks))
    ]
    assert b"event: response.failed" in blocks[-1]
    assert (kept["status"], kept["tocsin"]["outcome"]) == ("failed", "unknown")
    assert kept["output"][0]["content"][0]["text"].startswith("w0 w1")


def some_of(url: str, count: int) -> bytes:
    """The bytes of the first events of a stream, which is left then."""
    seen = b""
    with urllib.request.urlopen(url, timeout=30) as answer:
        while seen.count(b"\n\n") < count:
            seen += answer.readline()
    return seen
