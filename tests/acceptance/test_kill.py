"""kill -9 at random instants: nothing that a client saw completed is lost, nothing comes twice."""

import asyncio
import contextlib
import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from support.process import Tocsin
from support.upstream import Upstream
from tocsin.core.interaction import Interaction
from tocsin.store import Filter, Store

PARTS = 4
"""Each with a store of its own, so that they can run beside each other."""
KILLS = int(os.environ.get("TOCSIN_TEST_KILLS", "200")) // PARTS
CLIENTS = 8


async def one_call(port: int, user: str, stream: bool) -> bool:
    """Make a call; whether its answer came to its very end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        body = json.dumps(
            {
                "model": "m",
                "messages": [{"role": "user", "content": user}],
                "user": user,
                "stream": stream,
                "metadata": {"pause_s": 0.002},
            }
        ).encode()
        writer.write(
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        answer = await reader.read()
        if stream:
            return answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        head, _, rest = answer.partition(b"\r\n\r\n")
        length = [x for x in head.split(b"\r\n") if x.startswith(b"content-length: ")]
        return bool(length) and len(rest) == int(length[0][16:])
    finally:
        writer.transport.abort()


async def hammer(port: int, number: int, completed: set[str], stop: asyncio.Event) -> None:
    """Call after call, through kills and starts."""
    count = 0
    while not stop.is_set():
        count += 1
        user = f"c{number}-{count}"
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if await one_call(port, user, stream=bool(count % 2)):
                completed.add(user)
                continue
        await asyncio.sleep(0.01)


def all_interactions(store: Store) -> list[Interaction]:
    rows: list[Interaction] = []
    cursor: str | None = None
    while True:
        page = store.interactions(Filter(), limit=1000, cursor=cursor)
        rows += page.rows
        if page.next is None:
            return rows
        cursor = page.next


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
async def test_killed_at_random_instants_it_loses_nothing_that_was_completed(
    tmp_path: Path, part: int
) -> None:
    seed = random.randrange(2**32)
    print(f"part {part}, seed {seed}")
    rng = random.Random(seed)
    completed: set[str] = set()
    async with Upstream() as upstream:
        tocsin = Tocsin(tmp_path, f'[upstreams.main]\nbase_url = "{upstream.url}"\nretries = 0\n')
        stop = asyncio.Event()
        await tocsin.start().ready()
        hammers = [
            asyncio.create_task(hammer(tocsin.port, n, completed, stop)) for n in range(CLIENTS)
        ]
        try:
            for _ in range(KILLS):
                await asyncio.sleep(rng.uniform(0, 0.25))
                tocsin.kill()
                await tocsin.start().ready()
            await asyncio.sleep(0.2)
        finally:
            stop.set()
            await asyncio.gather(*hammers)
            assert tocsin.stop() == 0
        seen = set(upstream.seen)
    store = tocsin.store()
    recorded = Counter(row.end_user for row in all_interactions(store))
    outcomes = Counter(row.outcome for row in all_interactions(store))
    print(f"completed {len(completed)}, seen upstream {len(seen)}, outcomes {dict(outcomes)}")
    assert len(completed) > KILLS
    assert completed - set(recorded) == set(), "completed calls that are not recorded"
    assert seen - set(recorded) == set(), "calls that the upstream saw and nobody recorded"
    assert [user for user, count in recorded.items() if count > 1] == []
    assert list(store.verify()) == []
    store.close()
    journals = list((tocsin.data / "journal").glob("*.journal"))
    assert journals == [], "an orderly stop leaves no journal behind"
