"""The process as a server: slow readers, an orderly stop, connections and their options."""

import asyncio
import json
import logging
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from support.process import Tocsin
from support.upstream import Upstream
from tocsin.gateway.protocol import TocsinProtocol
from tocsin.store import Filter


@pytest_asyncio.fixture(loop_scope="function")
async def world(tmp_path: Path) -> AsyncIterator[tuple[Tocsin, Upstream]]:
    async with Upstream() as upstream:
        config = f'[upstreams.main]\nbase_url = "{upstream.url}"\nretries = 0\n'
        with Tocsin(tmp_path, config) as tocsin:
            await tocsin.ready()
            yield tocsin, upstream


async def send(port: int, **body: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=65_536)
    data = json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "x"}], **body}
    ).encode()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(data), data)
    )
    return reader, writer


def resident_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


async def test_a_client_that_does_not_read_holds_the_upstream_back(
    world: tuple[Tocsin, Upstream],
) -> None:
    tocsin, _ = world
    assert tocsin.process is not None
    reader, writer = await send(
        tocsin.port, stream=True, metadata={"do": "flood", "megabytes": 200}
    )
    await reader.readexactly(100_000)
    before = resident_mb(tocsin.process.pid)
    await asyncio.sleep(1.0)
    assert resident_mb(tocsin.process.pid) - before < 20
    total = 100_000
    while data := await reader.read(1 << 20):
        total += len(data)
    writer.close()
    assert total > 200_000_000
    assert data == b""


async def test_an_orderly_stop_lets_calls_finish_and_records_them(
    world: tuple[Tocsin, Upstream],
) -> None:
    tocsin, _ = world
    assert tocsin.process is not None
    reader, writer = await send(
        tocsin.port, stream=True, user="last", metadata={"pieces": 20, "pause_s": 0.05}
    )
    await reader.readuntil(b"w0 ")
    tocsin.process.send_signal(signal.SIGTERM)
    rest = await reader.read()
    writer.close()
    assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert await asyncio.to_thread(tocsin.process.wait, 10) == 0
    store = tocsin.store()
    (row,) = store.interactions(Filter()).rows
    store.close()
    assert (row.end_user, row.outcome) == ("last", "complete")
    assert list((tocsin.data / "journal").glob("*.journal")) == []


async def test_a_call_that_does_not_end_in_time_is_cut_and_recorded(
    world: tuple[Tocsin, Upstream],
) -> None:
    tocsin, upstream = world
    assert tocsin.process is not None
    reader, writer = await send(tocsin.port, user="stuck", metadata={"do": "hang"})
    await upstream.saw("stuck")
    tocsin.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(tocsin.process.wait, 20) == 0
    await reader.read()
    writer.close()
    store = tocsin.store()
    (row,) = store.interactions(Filter()).rows
    store.close()
    assert (row.end_user, row.outcome) == ("stuck", "cancelled")


async def test_small_writes_are_not_held_back_on_either_side(
    world: tuple[Tocsin, Upstream],
) -> None:
    """With Nagle's algorithm on, an event that follows another waits for a delayed ACK, 40 ms."""
    tocsin, _ = world
    loop = asyncio.get_running_loop()
    reader, writer = await send(tocsin.port, stream=True, metadata={"pieces": 40, "pause_s": 0.01})
    await reader.readuntil(b"w0 ")
    stalls = 0
    last = loop.time()
    for number in range(1, 40):
        await reader.readuntil(b"w%d " % number)
        now = loop.time()
        stalls += now - last > 0.035
        last = now
    writer.close()
    assert stalls < 10, "most events came a delayed ACK late"


async def test_every_accepted_connection_has_nodelay_set() -> None:
    found: list[int] = []

    class Probe(TocsinProtocol):
        def __init__(self) -> None:
            pass

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
            self.connections: set[Any] = set()
            self.logger = logging.getLogger("probe")
            TocsinProtocol.connection_made(self, transport)
            found.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

        def connection_lost(self, exc: Exception | None) -> None:
            pass

    server = await asyncio.get_running_loop().create_server(Probe, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await asyncio.sleep(0.05)
    writer.close()
    server.close()
    assert found == [1]


async def test_a_second_process_on_the_same_store_records_beside_the_first(
    world: tuple[Tocsin, Upstream], tmp_path: Path
) -> None:
    tocsin, upstream = world
    (tmp_path / "other").mkdir()
    other = Tocsin(tmp_path / "other", f'[upstreams.main]\nbase_url = "{upstream.url}"\n')
    text = other.config.read_text().replace(str(other.data), str(tocsin.data))
    other.config.write_text(text)
    with other:
        await other.ready()
        for number in range(20):
            for port in (tocsin.port, other.port):
                reader, writer = await send(port, user=f"{port}-{number}")
                assert b" 200 " in await reader.readline()
                await reader.read()
                writer.close()
    tocsin.stop()
    store = tocsin.store()
    rows = store.interactions(Filter(), limit=100).rows
    problems = list(store.verify())
    store.close()
    assert len({row.end_user for row in rows}) == 40
    assert problems == []
