"""An error that comes when an answer has begun: it never writes a second head, and never waits."""

import asyncio
from collections.abc import MutableMapping
from typing import Any, cast

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from tocsin.core.errors import Stopped
from tocsin.gateway.wire import AsgiWire, Cut, DirectWire

ERROR = Stopped("The run is stopped.", details={"stop_id": "stop_1"})
SSE = [(b"content-type", b"text/event-stream; charset=utf-8")]
AUDIO = [(b"content-type", b"audio/mpeg")]
PACKED = [*SSE, (b"content-encoding", b"gzip")]


class Transport:
    """What was written, and how the connection ended."""

    def __init__(self) -> None:
        self.sent = b""
        self.end = ""

    def write(self, data: bytes) -> None:
        self.sent += data

    def close(self) -> None:
        self.end = "closed"

    def abort(self) -> None:
        self.end = "aborted"


def direct() -> tuple[DirectWire, Transport, FlowControl]:
    transport = Transport()
    flow = FlowControl(cast(asyncio.Transport, transport))
    wire = DirectWire(
        cast(asyncio.Transport, transport),
        flow,
        keep_alive=True,
        head_only=False,
        done=lambda: None,
    )
    return wire, transport, flow


async def test_before_anything_was_said_it_is_a_whole_answer() -> None:
    wire, transport, _ = direct()
    await wire.error("openai", ERROR, [(b"tocsin-call-id", b"call_1")])
    assert transport.sent.startswith(b"HTTP/1.1 403")
    assert b"tocsin-call-id: call_1\r\n" in transport.sent
    assert b"x-should-retry: false\r\n" in transport.sent
    assert wire.complete


@pytest.mark.parametrize(
    ("dialect", "event"), [("openai", b'data: {"error":'), ("anthropic", b"event: error\ndata: ")]
)
async def test_in_a_stream_it_is_the_dialects_error_event_and_the_end(
    dialect: Any, event: bytes
) -> None:
    wire, transport, _ = direct()
    await wire.start(200, SSE)
    await wire.piece(b"data: {}\n\n")
    await wire.error(dialect, ERROR)
    assert transport.sent.count(b"HTTP/1.1") == 1
    assert event in transport.sent
    assert b'"stop_id":"stop_1"' in transport.sent
    assert transport.sent.endswith(b"0\r\n\r\n")
    assert (wire.complete, transport.end) == (True, "")


@pytest.mark.parametrize("headers", [AUDIO, PACKED])
async def test_where_no_event_can_be_said_the_connection_is_broken_off(headers: Any) -> None:
    wire, transport, _ = direct()
    await wire.start(200, headers)
    await wire.error("openai", ERROR)
    assert transport.end == "aborted"
    assert b"error" not in transport.sent


async def test_a_client_that_does_not_read_is_not_waited_for() -> None:
    wire, transport, flow = direct()
    await wire.start(200, SSE)
    flow.pause_writing()
    writing = asyncio.create_task(wire.piece(b"data: {}\n\n"))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait([writing])
    await asyncio.wait_for(wire.error("openai", ERROR), 1)
    assert transport.end == "aborted"


async def test_after_the_end_there_is_nothing_to_say() -> None:
    wire, transport, _ = direct()
    await wire.start(200, SSE)
    await wire.end()
    said = transport.sent
    await wire.error("openai", ERROR)
    assert (transport.sent, transport.end) == (said, "")


class Server:
    """An ASGI server that keeps what it is sent, and can stop taking it."""

    def __init__(self) -> None:
        self.messages: list[MutableMapping[str, Any]] = []
        self.taking = asyncio.Event()
        self.taking.set()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        await self.taking.wait()
        self.messages.append(message)


async def test_through_asgi_it_is_the_same() -> None:
    server = Server()
    wire = AsgiWire(server.send)
    await wire.start(200, SSE)
    await wire.error("openai", ERROR)
    assert [m["type"] for m in server.messages].count("http.response.start") == 1
    assert server.messages[-2]["body"].startswith(b'data: {"error":')
    assert server.messages[-1] == {"type": "http.response.body", "body": b""}
    said = len(server.messages)
    await wire.error("openai", ERROR)
    assert len(server.messages) == said

    whole = Server()
    await AsgiWire(whole.send).error("openai", ERROR)
    assert whole.messages[0]["status"] == 403


async def test_through_asgi_a_client_that_does_not_read_is_not_waited_for() -> None:
    server = Server()
    wire = AsgiWire(server.send)
    await wire.start(200, SSE)
    server.taking.clear()
    writing = asyncio.create_task(wire.piece(b"data: {}\n\n"))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait([writing])
    with pytest.raises(Cut):
        await asyncio.wait_for(wire.error("openai", ERROR), 1)


async def test_through_asgi_a_binary_answer_is_broken_off() -> None:
    server = Server()
    wire = AsgiWire(server.send)
    await wire.start(200, AUDIO)
    with pytest.raises(Cut):
        await wire.error("openai", ERROR)
