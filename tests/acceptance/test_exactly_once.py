"""Each call is recorded exactly once, however it ends. 1,000 calls for each ending, under load."""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from support.process import Tocsin
from support.upstream import Upstream
from tocsin.store import Filter

COUNT = int(os.environ.get("TOCSIN_TEST_CALLS", "1000"))
AT_ONCE = 64

CONFIG = """
[upstreams.main]
base_url = "{url}"
retries = 0
cooldown_failures = 1000000
max_connections = 4096

[upstreams.hasty]
base_url = "{url}"
retries = 0
first_byte_timeout_s = 0.3
cooldown_failures = 1000000

[upstreams.down]
base_url = "http://127.0.0.1:9/v1"
retries = 0
cooldown_failures = 1000000

[features.hasty]
targets = [{{ upstream = "hasty" }}]

[features.fallback]
targets = [{{ upstream = "down" }}, {{ upstream = "main", tier = 1 }}]

[features.default]
targets = [{{ upstream = "main" }}]
"""

Ending = Callable[["Client", str], Awaitable[None]]


class Client:
    """Raw HTTP, so that a test can leave whenever it wants."""

    def __init__(self, tocsin: Tocsin, upstream: Upstream, key: str) -> None:
        self.port = tocsin.port
        self.upstream = upstream
        self.scoped_key = key

    async def begin(
        self,
        user: str,
        do: str = "answer",
        *,
        feature: str = "default",
        key: str = "sk-x",
        **more: Any,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        body = json.dumps(
            {
                "model": "m",
                "messages": [{"role": "user", "content": user}],
                "user": user,
                "metadata": {"do": do, **more.pop("options", {})},
                **more,
            }
        ).encode()
        writer.write(
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\n"
            f"authorization: Bearer {key}\r\ntocsin-feature: {feature}\r\ntocsin-user: {user}\r\n"
            "connection: close\r\n"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        return reader, writer

    async def whole(self, user: str, do: str = "answer", **more: Any) -> bytes:
        reader, writer = await self.begin(user, do, **more)
        try:
            return await reader.read()
        finally:
            writer.close()


async def leaves_before_the_first_byte(client: Client, user: str) -> None:
    _, writer = await client.begin(user, "hang")
    await client.upstream.saw(user)
    writer.close()


async def leaves_in_mid_stream(client: Client, user: str) -> None:
    options = {"pieces": 200, "pause_s": 0.02}
    reader, writer = await client.begin(user, stream=True, options=options)
    await reader.readuntil(b"w1 ")
    writer.close()


def expects(status: bytes, do: str = "answer", **more: Any) -> Ending:
    async def ending(client: Client, user: str) -> None:
        answer = await client.whole(user, do, **more)
        assert answer.startswith(b"HTTP/1.1 " + status), answer[:300]

    return ending


async def denied(client: Client, user: str) -> None:
    answer = await client.whole(user, key=client.scoped_key)
    assert answer.startswith(b"HTTP/1.1 403"), answer[:300]


async def cut_in_mid_stream(client: Client, user: str) -> None:
    answer = await client.whole(user, "cut", stream=True)
    assert b'"error"' in answer
    assert b"[DONE]" not in answer


ENDINGS: dict[str, tuple[Ending, str]] = {
    "complete": (expects(b"200"), "complete"),
    "streamed": (expects(b"200", stream=True), "complete"),
    "truncated": (expects(b"200", "truncate"), "truncated"),
    "refused": (expects(b"200", "refuse"), "refused"),
    "fallback": (expects(b"200", feature="fallback"), "complete"),
    "upstream-error": (expects(b"500", "error"), "error"),
    "upstream-gone": (expects(b"502", "drop"), "error"),
    "upstream-slow": (expects(b"504", "hang", feature="hasty"), "timeout"),
    "cut-in-body": (expects(b"502", "cut"), "error"),
    "cut-in-stream": (cut_in_mid_stream, "error"),
    "denied": (denied, "denied"),
    "bad-request": (expects(b"400", messages="none"), "error"),
    "left-before-first-byte": (leaves_before_the_first_byte, "cancelled"),
    "left-in-mid-stream": (leaves_in_mid_stream, "cancelled"),
}


async def run_all(client: Client) -> None:
    """Every ending ``COUNT`` times, interleaved, ``AT_ONCE`` calls at a time."""
    work = iter([(name, n) for n in range(COUNT) for name in ENDINGS])

    async def worker() -> None:
        for name, number in work:
            await asyncio.wait_for(ENDINGS[name][0](client, f"{name}-{number}"), 60)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


@pytest.mark.slow
async def test_every_ending_is_recorded_exactly_once_under_load(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        with Tocsin(tmp_path, CONFIG.format(url=upstream.url)) as tocsin:
            await tocsin.ready()
            key = await issue_scoped_key(tocsin)
            await run_all(Client(tocsin, upstream, key))
            await asyncio.sleep(0.3)
            tocsin.stop()
        left_open = [u for u in upstream.seen if u.startswith("left-") and not upstream.gone[u]]
    recorded: Counter[str] = Counter()
    wrong: list[tuple[str, str]] = []
    store = tocsin.store()
    cursor: str | None = None
    while True:
        page = store.interactions(Filter(), limit=1000, cursor=cursor)
        for row in page.rows:
            recorded[row.end_user] += 1
            name = row.end_user.rpartition("-")[0]
            if row.outcome != ENDINGS[name][1]:
                wrong.append((row.end_user, row.outcome))
        if page.next is None:
            break
        cursor = page.next
    expected = {f"{name}-{n}" for name in ENDINGS for n in range(COUNT)}
    assert set(recorded) == expected
    assert set(recorded.values()) == {1}
    assert wrong == []
    assert left_open == [], "a client that left did not cancel its upstream"
    assert list(store.verify()) == []
    store.close()


async def issue_scoped_key(tocsin: Tocsin) -> str:
    """A key that may call the feature ``other`` alone."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tocsin", "keys", "issue", "scoped", "--feature", "other"),
        *("--json", "--config", str(tocsin.config)),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    secret: str = json.loads(out)["secret"]
    return secret
