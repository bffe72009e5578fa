"""A real HTTP upstream whose every answer a test decides, byte for byte.

What a call gets is said in its body, ``{"metadata": {"do": ...}}``:

``answer`` (the default), ``error`` (500), ``limited`` (429 with retry-after-ms), ``refuse``
(content filter), ``truncate`` (length), ``hang`` (never), ``drop`` (closes before the head),
``cut`` (closes in the middle of the body or stream), ``flood`` (a stream of ``"megabytes"``).
Streams follow ``"stream": true``;
``"pieces"`` and ``"pause_s"`` shape them.
"""

import asyncio
import json
from collections import Counter
from typing import Any

Writer = asyncio.StreamWriter
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


class Upstream:
    """Listens on loopback. ``seen`` counts calls by their ``user``, ``gone`` those that left."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.gone: Counter[str] = Counter()
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.arrived = asyncio.Condition()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Upstream":
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def saw(self, user: str) -> None:
        """Return once a call of this user has come."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: self.seen[user] > 0)

    async def _connected(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        finally:
            self._clients.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: Writer) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (x.partition(":") for x in lines if x)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.requests.append((first, headers, body))
        call = json.loads(body) if body.startswith(b"{") else {}
        user = str(call.get("user", ""))
        self.seen[user] += 1
        async with self.arrived:
            self.arrived.notify_all()
        if " /v1/messages" in first:
            return await _anthropic(call, writer)
        return await self._openai(first, call, user, reader, writer)

    async def _openai(
        self,
        first: str,
        call: dict[str, Any],
        user: str,
        reader: asyncio.StreamReader,
        writer: Writer,
    ) -> bool:
        options = call.get("metadata") or {}
        do = options.get("do", "answer")
        if do == "drop":
            return False
        if do == "hang":
            if await reader.read(1) == b"":
                self.gone[user] += 1
            return False
        if do == "flood":
            return await _flood(int(options["megabytes"]), writer)
        if do == "error":
            return await _send(writer, 500, {"error": {"message": "boom", "type": "server_error"}})
        if do == "limited":
            error = {"error": {"message": "slow down", "type": "rate_limit", "code": "rpm"}}
            return await _send(writer, 429, error, "retry-after-ms: 20\r\nx-request-id: r1\r\n")
        if "/embeddings" in first:
            data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
            usage = {"prompt_tokens": 3, "total_tokens": 3}
            return await _send(
                writer, 200, {"object": "list", "model": "e", "data": data, "usage": usage}
            )
        if "/models" in first:
            return await _send(writer, 200, {"object": "list", "data": [{"id": "m"}]})
        if "/chat/completions" not in first:
            return await _send(writer, 200, {"echo": first, "size": len(json.dumps(call))})
        if call.get("stream"):
            return await self._stream(call, options, user, writer)
        return await _answer(call, do, writer)

    async def _stream(
        self, call: dict[str, Any], options: dict[str, Any], user: str, writer: Writer
    ) -> bool:
        do = options.get("do", "answer")
        pieces = int(options.get("pieces", 3))
        pause = float(options.get("pause_s", 0))
        writer.write(_STREAM_HEAD)
        events = [{"role": "assistant", "content": ""}] + [
            {"content": f"w{i} "} for i in range(pieces)
        ]
        for number, delta in enumerate(events):
            if do == "cut" and number == len(events) // 2:
                await writer.drain()
                return False
            _event(writer, {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            if pause:
                try:
                    await writer.drain()
                    await asyncio.sleep(pause)
                except ConnectionError:
                    pass
                if writer.is_closing():
                    self.gone[user] += 1
                    return False
        _event(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if (call.get("stream_options") or {}).get("include_usage"):
            _event(writer, {"choices": [], "usage": _usage(pieces)})
        _chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


async def _flood(megabytes: int, writer: Writer) -> bool:
    """A stream as fast as it is taken."""
    writer.write(_STREAM_HEAD)
    for _ in range(megabytes * 16):
        _chunk(writer, b": " + b"x" * 65_000 + b"\n\n")
        await writer.drain()
    _chunk(writer, b"data: [DONE]\n\n")
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


def _usage(words: int) -> dict[str, int]:
    return {"prompt_tokens": 10, "completion_tokens": words, "total_tokens": 10 + words}


async def _answer(call: dict[str, Any], do: str, writer: Writer) -> bool:
    message: dict[str, Any] = {"role": "assistant", "content": f"echo {len(call['messages'])}"}
    reason = {"refuse": "content_filter", "truncate": "length"}.get(do, "stop")
    if call.get("tools") and call["messages"][-1]["role"] != "tool":
        function = {"name": call["tools"][0]["function"]["name"], "arguments": "{}"}
        message["tool_calls"] = [{"id": "call_1", "type": "function", "function": function}]
        reason = "tool_calls"
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": call.get("model", "m"),
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": _usage(2),
    }
    if do == "cut":
        data = json.dumps(answer).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            % len(data)
            + data[: len(data) // 2]
        )
        await writer.drain()
        return False
    return await _send(writer, 200, answer)


async def _anthropic(call: dict[str, Any], writer: Writer) -> bool:
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": call.get("model", "m"),
        "content": [{"type": "text", "text": "Hello there"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 9, "output_tokens": 2, "cache_read_input_tokens": 5},
    }
    if "max_tokens" not in call:
        return await _send(writer, 200, {"input_tokens": 14})
    if not call.get("stream"):
        return await _send(writer, 200, message)
    writer.write(_STREAM_HEAD)
    block = {"type": "text", "text": ""}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": t}}
            for t in ("Hello", " there")
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 2},
        },
        {"type": "message_stop"},
    ]
    for event in events:
        data = json.dumps(event).encode()
        _chunk(writer, b"event: %b\ndata: %b\n\n" % (event["type"].encode(), data))
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


def _event(writer: Writer, payload: dict[str, Any]) -> None:
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    _chunk(writer, b"data: " + json.dumps({**base, **payload}).encode() + b"\n\n")


def _chunk(writer: Writer, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


async def _send(writer: Writer, status: int, payload: dict[str, Any], extra: str = "") -> bool:
    data = json.dumps(payload).encode()
    writer.write(
        f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{extra}"
        f"content-length: {len(data)}\r\n\r\n".encode()
        + data
    )
    await writer.drain()
    return True
