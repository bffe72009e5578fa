"""The kill switch and the pause, with real processes: what is cut, how soon, what is recorded."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.process import Tocsin
from support.upstream import Upstream
from tocsin.core.interaction import Interaction
from tocsin.core.stops import Stop
from tocsin.store import Filter

CONFIG = """
[upstreams.main]
base_url = "{url}"
retries = 0
cooldown_failures = 1000000

[features.patient.agents]
wait_s = 30
"""
STREAMS = 25
SOON_S = 2.0
"""From the order to the last byte, between processes."""


class World:
    """An upstream, a Tocsin in front of it, and clients that write raw HTTP."""

    def __init__(self, upstream: Upstream, tocsin: Tocsin) -> None:
        self.upstream = upstream
        self.tocsin = tocsin

    async def begin(
        self,
        user: str,
        do: str = "answer",
        *,
        path: str = "/v1/chat/completions",
        feature: str = "default",
        run: str | None = None,
        parent: str | None = None,
        chunked: bool = False,
        **more: Any,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.tocsin.port, limit=2**16)
        body = json.dumps(
            {
                "model": "m",
                "messages": [{"role": "user", "content": user}],
                "user": user,
                "metadata": {"do": do, **more.pop("options", {})},
                **more,
            }
        ).encode()
        head = [
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{self.tocsin.port}\r\nconnection: close",
            f"tocsin-feature: {feature}\r\ntocsin-user: {user}\r\ntocsin-run: {run or user}",
            *((f"tocsin-parent-run: {parent}",) if parent else ()),
        ]
        if chunked:
            head.append("transfer-encoding: chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            head.append(f"content-length: {len(body)}")
        writer.write("\r\n".join([*head, "", ""]).encode() + body)
        return reader, writer

    async def whole(self, user: str, **more: Any) -> bytes:
        reader, writer = await self.begin(user, **more)
        try:
            return await asyncio.wait_for(reader.read(), 30)
        finally:
            writer.close()

    async def streaming(self, user: str, **more: Any) -> "Streaming":
        """A stream that would go on for a minute, past its first pieces."""
        options = {"pieces": 3000, "pause_s": 0.02}
        reader, writer = await self.begin(user, stream=True, options=options, **more)
        await asyncio.wait_for(reader.readuntil(b"w1 "), 20)
        return Streaming(reader, writer)

    async def command(self, *words: str) -> Any:
        """A command of another process, with ``--json``."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tocsin", *words),
            *("--json", "--config", str(self.tocsin.config)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 0, (words, out, err)
        return json.loads(out)

    async def order(self, path: str, **body: object) -> Any:
        """An operator's request to the admin API of the serving process."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.tocsin.port)
        data = json.dumps(body).encode()
        writer.write(
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{self.tocsin.port}\r\nconnection: close\r\n"
            f"authorization: Bearer {self.tocsin.admin_key()}\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(data)}\r\n\r\n".encode()
            + data
        )
        answer = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        head, _, said = answer.partition(b"\r\n\r\n")
        assert head.split()[1].startswith(b"2"), answer
        return json.loads(said)

    def stop(self, stop_id: str) -> Stop:
        store = self.tocsin.store()
        try:
            found = store.stop(stop_id)
        finally:
            store.close()
        assert found is not None
        return found

    def recorded(self, count: int) -> list[Interaction]:
        """So many calls, once the store has them."""
        store = self.tocsin.store()
        try:
            for _ in range(100):
                rows = list(store.interactions(Filter(), limit=1000).rows)
                if len(rows) >= count:
                    break
                time.sleep(0.05)
        finally:
            store.close()
        assert len(rows) == count
        return rows


class Streaming:
    """A stream in flight: when its last byte came, and what came."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.rest = b""
        self.last_at = 0.0
        self.task = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(65536):
            self.rest += data
            self.last_at = time.time()
        self._writer.close()

    @property
    def error(self) -> dict[str, Any]:
        """The error event at its end."""
        event = self.rest.rpartition(b'data: {"error":')[2].partition(b"\n\n")[0]
        found: dict[str, Any] = json.loads(b'{"error":' + event)["error"]
        return found


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    async with Upstream() as upstream:
        with Tocsin(folder, CONFIG.format(url=upstream.url)) as tocsin:
            await tocsin.ready()
            yield World(upstream, tocsin)


async def all_gone(upstream: Upstream, users: set[str]) -> None:
    """Until the upstream has seen that nobody reads these any more."""
    for _ in range(200):
        if all(upstream.gone[user] for user in users):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"still served: {[u for u in users if not upstream.gone[u]]}")


@pytest.mark.slow
async def test_a_command_stops_everything_in_flight_in_another_process(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        streams = [await here.streaming(f"s{n}", chunked=n % 2 == 0) for n in range(STREAMS)]
        waiting = asyncio.create_task(here.whole("waits", do="hang"))
        deaf, deaf_writer = await here.begin(
            "deaf", "flood", stream=True, options={"megabytes": 64}
        )
        await here.upstream.saw("waits")
        await here.upstream.saw("deaf")
        await asyncio.sleep(0.3)  # by now nothing more goes to the one that does not read

        said = await here.command("stop", "--all", "--reason", "it buys in a circle")

        await asyncio.wait_for(asyncio.gather(*(s.task for s in streams)), 5)
        late = max(s.last_at for s in streams) - said["at"] / 1e6
        assert late < SOON_S
        assert said["given"]
        assert said["cut"] == STREAMS + 2
        assert 0 < said["took_us"] < SOON_S * 1e6
        for stream in streams:
            assert stream.error["code"] == "stopped"
            assert stream.error["tocsin"]["stop_id"] == said["id"]
            assert "it buys in a circle" in stream.error["message"]
            assert stream.rest.count(b"HTTP/1.1") == 0, "one head"
            assert stream.rest.endswith(b"0\r\n\r\n"), "the stream is whole"
        answer = await waiting
        assert answer.startswith(b"HTTP/1.1 403")
        assert b'"code":"stopped"' in answer
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asyncio.wait_for(deaf.readexactly(128 * 2**20), 5)
        deaf_writer.close()
        await all_gone(here.upstream, {f"s{n}" for n in range(STREAMS)})

        for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/audio/unheard-of"):
            assert (await here.whole("later", path=path)).startswith(b"HTTP/1.1 403")
        lifted = await here.command("resume", "--all")
        assert [stop["ending"] for stop in lifted["stops"]] == ["resumed"]
        await asyncio.sleep(0.5)
        assert (await here.whole("after")).startswith(b"HTTP/1.1 200")

        rows = here.recorded(STREAMS + 2 + 3 + 1)
    cut = [row for row in rows if row.error_type == "stopped" and row.outcome == "cancelled"]
    assert len(cut) == STREAMS + 2
    assert {row.outcome for row in rows if row.end_user == "later"} == {"denied"}
    assert all(row.output_bytes > 0 for row in cut if row.end_user != "waits")
    assert len({row.id for row in rows}) == len(rows)


@pytest.mark.slow
async def test_an_order_to_the_serving_process_is_obeyed_within_a_second(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        mine = [await here.streaming(f"m{n}", run="run-1") for n in range(5)]
        child = await here.streaming("child", run="run-2", parent="run-1")
        other = await here.streaming("other", run="run-3")
        said = await here.order("/api/runs/run-1/kill", reason="loops")
        cut = [*mine, child]
        await asyncio.wait_for(asyncio.gather(*(s.task for s in cut)), 5)
        assert max(s.last_at for s in cut) - said["at"] / 1e6 < 1.0
        assert {s.error["code"] for s in cut} == {"stopped"}
        assert not other.task.done()
        assert (await here.whole("x", run="run-2")).startswith(b"HTTP/1.1 403"), "still its child"
        for _ in range(100):
            stop = here.stop(said["id"])
            if stop.cut:
                break
            await asyncio.sleep(0.02)
        assert stop.cut == 6
        assert stop.took_us is not None
        assert stop.took_us < 1_000_000
        other.task.cancel()


@pytest.mark.slow
async def test_a_paused_run_waits_for_a_decision_that_comes_from_a_command(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        await here.command("pause", "--run", "run-1", "--reason", "four times the same search")
        await asyncio.sleep(0.5)
        refused = await here.whole("impatient", run="run-1")
        assert refused.startswith(b"HTTP/1.1 409")
        assert b"x-should-retry: false" in refused
        error = json.loads(refused.partition(b"\r\n\r\n")[2])["error"]
        assert error["code"] == "run_paused"
        assert "four times the same search" in error["message"]
        assert error["tocsin"]["wait"].startswith("/api/stops/stop_")

        held = asyncio.create_task(here.whole("patient", run="run-1", feature="patient"))
        await asyncio.sleep(0.3)
        assert not here.upstream.seen["patient"]
        note = "Search the other index."
        await here.command("redirect", "--run", "run-1", "--note", note)
        assert (await asyncio.wait_for(held, 5)).startswith(b"HTTP/1.1 200")
        bodies = [body for _, _, body in here.upstream.requests if b'"patient"' in body]
        assert json.loads(bodies[-1])["messages"][-1]["content"] == note

        await here.command("pause", "--run", "run-1")
        await asyncio.sleep(0.5)
        held = asyncio.create_task(here.whole("again", run="run-1", feature="patient"))
        await asyncio.sleep(0.3)
        await here.command("end", "--run", "run-1")
        assert (await asyncio.wait_for(held, 5)).startswith(b"HTTP/1.1 403")
        assert not here.upstream.seen["again"]
        rows = {row.end_user: row for row in here.recorded(3)}
    assert rows["impatient"].outcome == "denied"
    assert [d.action for d in rows["patient"].decisions] == ["pause", "modify"]
    assert rows["again"].outcome == "denied"


@pytest.mark.slow
async def test_a_stop_holds_over_a_restart_and_over_kill_nine(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        stream = await here.streaming("s", feature="support")
        await here.order("/api/stops", scope="feature", value="support", action="kill", reason="x")
        here.tocsin.kill()
        await stream.task
        await here.tocsin.start().ready()
        assert (await here.whole("next", feature="support")).startswith(b"HTTP/1.1 403")
        assert (await here.whole("other")).startswith(b"HTTP/1.1 200")
        shown = await here.command("stops")
        assert [(s["scope"], s["value"], s["action"]) for s in shown["stops"]] == [
            ("feature", "support", "kill")
        ]
