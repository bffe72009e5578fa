"""Floor: the least a Python gateway can do. uvloop + httptools, a relay of raw bytes.

Parses the request just enough to find its end, writes the same bytes to a pooled upstream
connection, and copies the reply back, parsing it only to know where it ends.

With --work it also does what a gateway must: decode the request JSON, rewrite `model`, encode it
again under its own head, decode the reply (or every SSE event) for usage, and keep one trace
record per request in a bounded list.

usage: python relay_uvloop.py --port 9201 --upstream 9100 [--work]
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import time
from dataclasses import dataclass, field
from typing import Any

import httptools
import orjson
import uvloop

HEAD = (
    "POST %s HTTP/1.1\r\nhost: upstream\r\ncontent-type: application/json\r\n"
    "authorization: Bearer sk-upstream\r\ncontent-length: %d\r\n\r\n"
)


@dataclass
class Relay:
    """What all connections share: the pool of idle upstream connections and the records."""

    upstream: int
    work: bool
    pool: list[Up] = field(default_factory=list)
    records: collections.deque[tuple[Any, ...]] = field(
        default_factory=lambda: collections.deque(maxlen=1000)
    )
    dialling: set[asyncio.Task[None]] = field(default_factory=set)


class Up(asyncio.Protocol):
    """One keep-alive connection to the upstream."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.down: Down | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def start(self, down: Down, raw: bytes) -> None:
        self.down, self.tail, self.usage = down, b"", None
        self.sse, self.began = down.sse, time.time_ns()
        self.parser = httptools.HttpResponseParser(self)
        self.transport.write(raw)

    def data_received(self, data: bytes) -> None:
        if self.down is not None:
            self.down.transport.write(data)
            self.parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        if not self.relay.work:
            return
        self.tail += part
        if self.sse:  # decode every complete event, keep what is cut
            *events, self.tail = self.tail.split(b"\n\n")
            for event in events:
                if event.startswith(b"data: {"):
                    self.usage = orjson.loads(event[6:]).get("usage") or self.usage

    def on_message_complete(self) -> None:
        down, self.down = self.down, None
        assert down is not None
        if self.relay.work:
            if not self.sse:
                self.usage = orjson.loads(self.tail).get("usage")
            record = (self.began, time.time_ns(), down.model, self.usage, down.request, self.tail)
            self.relay.records.append(record)
        self.relay.pool.append(self)
        down.reply_done()

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.relay.pool:
            self.relay.pool.remove(self)
        if self.down is not None:
            self.down.transport.close()


class Down(asyncio.Protocol):
    """One client connection."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.raw: list[bytes] = []
        self.body: list[bytes] = []
        self.sse, self.model, self.request, self.url = False, "", b"", b""
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.raw.append(data)
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_body(self, part: bytes) -> None:
        if self.relay.work:
            self.body.append(part)

    def on_message_complete(self) -> None:
        raw, self.raw = b"".join(self.raw), []
        if self.relay.work:
            raw = self.rewritten()
        if self.relay.pool:
            self.relay.pool.pop().start(self, raw)
        else:
            task = asyncio.ensure_future(self.dial(raw))
            self.relay.dialling.add(task)
            task.add_done_callback(self.relay.dialling.discard)

    def rewritten(self) -> bytes:
        """The request decoded, with another model, under a head of our own."""
        self.request, self.body = b"".join(self.body), []
        call = orjson.loads(self.request)
        self.model, self.sse = call["model"], bool(call.get("stream"))
        call["model"] = "gpt-4o-mini"
        body: bytes = orjson.dumps(call)
        return (HEAD % (self.url.decode(), len(body))).encode() + body

    async def dial(self, raw: bytes) -> None:
        loop = asyncio.get_running_loop()
        port = self.relay.upstream
        _, up = await loop.create_connection(lambda: Up(self.relay), "127.0.0.1", port)
        up.start(self, raw)

    def reply_done(self) -> None:
        self.parser = httptools.HttpRequestParser(self)


async def serve(port: int, relay: Relay) -> None:
    """Relay until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Down(relay), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=9201)
    parser.add_argument("--upstream", type=int, default=9100, help="port on 127.0.0.1")
    parser.add_argument("--work", action="store_true")
    given = parser.parse_args()
    uvloop.run(serve(given.port, Relay(upstream=given.upstream, work=given.work)))


if __name__ == "__main__":
    main()
