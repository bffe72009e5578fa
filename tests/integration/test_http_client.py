"""The outbound HTTP client, against real sockets and real TLS on loopback, on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from tocsin.providers import http_wire
from tocsin.providers.guard import OutboundGuard, Url
from tocsin.providers.http import (
    BodyTooLarge,
    ClientClosed,
    ConnectFailed,
    ConnectTimeout,
    FirstByteTimeout,
    Header,
    HttpClient,
    HttpRequest,
    IdleTimeout,
    InvalidRequest,
    Limits,
    OutboundError,
    OutboundRefused,
    PoolTimeout,
    ProtocolViolation,
    ResolveFailed,
    Timeouts,
    TotalTimeout,
    UpstreamClosed,
)
from tocsin.providers.http_pool import Pool, Sweeper

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Handler = Callable[["Upstream", Reader, Writer], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
TICK = 0.02
SOON = 5.0  # seconds after which a test that hangs is a failure


pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy")


@pytest.fixture(
    params=[uvloop.EventLoopPolicy(), asyncio.DefaultEventLoopPolicy()], ids=["uvloop", "asyncio"]
)
def event_loop_policy(request: pytest.FixtureRequest) -> Any:
    return request.param


class Upstream:
    """A scripted upstream: what it saw, and where it is."""

    def __init__(self) -> None:
        self.port = 0
        self.scheme = "http"
        self.connections = 0
        self.open = 0
        self.most = 0
        self.requests: list[bytes] = []
        self.closed = asyncio.Event()  # set when a client's socket was seen closing
        self.errors: list[BaseException] = []

    def url(self, host: str = "127.0.0.1", path: str = "") -> Url:
        return Url.parse(f"{self.scheme}://{host}:{self.port}{path}")

    async def request(self, reader: Reader) -> bytes:
        """Read one request, head and body; b"" when the client has closed."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed.set()
            return b""
        length = re.search(rb"\r\ncontent-length: (\d+)\r\n", head)
        body = await reader.readexactly(int(length[1])) if length else b""
        self.requests.append(head + body)
        return head + body

    async def until_closed(self, reader: Reader) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass
        self.closed.set()


def always(*answers: bytes) -> Handler:
    """Answers each request with the next of `answers`, the last one for ever."""

    async def handle(up: Upstream, reader: Reader, writer: Writer) -> None:
        left = list(answers)
        while await up.request(reader):
            writer.write(left.pop(0) if len(left) > 1 else left[0])
            await writer.drain()

    return handle


def once(answer: bytes, *, hang: bool = False) -> Handler:
    """Answers one request, then closes the connection, or (`hang`) keeps silent."""

    async def handle(up: Upstream, reader: Reader, writer: Writer) -> None:
        if await up.request(reader):
            writer.write(answer)
            await writer.drain()
            if hang:
                await up.until_closed(reader)

    return handle


@contextlib.asynccontextmanager
async def serve(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
    up = Upstream()
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: Reader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        up.connections += 1
        up.open += 1
        up.most = max(up.most, up.open)
        try:
            await handler(up, reader, writer)
        except ConnectionError:
            up.closed.set()
        except asyncio.CancelledError:
            pass
        except RuntimeError as error:
            # How uvloop says that a write came after the client had gone.
            if "closed" not in str(error):
                up.errors.append(error)
            up.closed.set()
        except BaseException as error:
            up.errors.append(error)
        finally:
            up.open -= 1
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls, backlog=512)
    up.port = server.sockets[0].getsockname()[1]
    up.scheme = "https" if tls else "http"
    try:
        yield up
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.sleep(0)
    assert not up.errors


@contextlib.asynccontextmanager
async def client(
    *, guard: OutboundGuard | None = None, tls: ssl.SSLContext | None = None, **limits: Any
) -> AsyncIterator[HttpClient]:
    made = HttpClient(
        guard=guard or OutboundGuard(allow=["127.0.0.1"]),
        limits=Limits(**{"tick": TICK} | limits),
        ssl_context=tls,
    )
    try:
        async with asyncio.timeout(SOON):
            yield made
    finally:
        await made.aclose()
    assert open_connections(made) == 0


def open_connections(made: HttpClient) -> int:
    return len(sweeper(made).connections) if made._sweeper else 0


def sweeper(made: HttpClient) -> Sweeper:
    assert made._sweeper is not None
    return made._sweeper


def pool(made: HttpClient) -> Pool:
    (only,) = made._pools.values()
    return only


def post(
    url: Url,
    body: bytes = b"{}",
    *,
    method: str = "POST",
    target: str = "/x",
    headers: Sequence[Header] = (),
    **timeouts: float,
) -> HttpRequest:
    return HttpRequest(method, url, target, headers, body, Timeouts(**timeouts))


async def fetch(made: HttpClient, request: HttpRequest) -> bytes:
    async with await made.send(request) as response:
        return await response.read()


async def settle(condition: Callable[[], bool]) -> None:
    """Let the loop run until `condition` holds; the test's own time limit ends it."""
    async with asyncio.timeout(SOON):
        while not condition():  # noqa: ASYNC110  what is awaited has no event of its own
            await asyncio.sleep(0.002)


# Requests


async def test_a_request_goes_out_as_it_was_given() -> None:
    headers = ((b"Authorization", b"Bearer k"), (b"x-a", b"1"), (b"x-a", b"\xff 2"), (b"x-e", b""))
    async with serve(always(OK)) as up, client() as c:
        url = up.url(path="/v1")
        assert await fetch(c, post(url, b'{"a":1}', target="/chat?x=1", headers=headers)) == b"ok"
    assert up.requests == [
        b"POST /v1/chat?x=1 HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nAuthorization: Bearer k\r\n"
        b'x-a: 1\r\nx-a: \xff 2\r\nx-e: \r\ncontent-length: 7\r\n\r\n{"a":1}' % up.port
    ]


async def test_a_url_itself_is_requested_through_its_tail() -> None:
    async with serve(always(OK)) as up, client() as c:
        for path in ("", "/", "/hook", "/hook/", "/hook?a=1", "?a=1"):
            url = up.url(path=path)
            await fetch(c, post(url, b"", method="GET", target=url.tail))
    lines = [request.split(b" ")[1] for request in up.requests]
    assert lines == [b"/", b"/", b"/hook", b"/hook/", b"/hook?a=1", b"/?a=1"]
    assert not any(b"content-length" in request for request in up.requests)


@pytest.mark.parametrize("size", [0, 10, 65_535, 65_536, 2_000_000])
async def test_head_and_body_leave_in_one_write(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Counting:
        def __init__(self, transport: Any) -> None:
            self.inner = transport

        def __getattr__(self, name: str) -> Any:
            if name.startswith("write"):
                calls.append(name)
            return getattr(self.inner, name)

    made = http_wire.Connection.connection_made

    def counted(self: http_wire.Connection, transport: Any) -> None:
        made(self, Counting(transport))

    monkeypatch.setattr(http_wire.Connection, "connection_made", counted)
    body = b"x" * size
    async with serve(always(OK)) as up, client() as c:
        assert await fetch(c, post(up.url(), body)) == b"ok"
    assert len(calls) == 1
    assert up.requests[0].endswith(b"content-length: %d\r\n\r\n" % size + body)


BAD_HEADERS: list[Header] = [
    (b"x", b"a\r\nb: c"),
    (b"x", b"a\nb: c"),
    (b"x", b"a\rb"),
    (b"x", b"a\x00"),
    (b"x\r\ny", b"1"),
    (b"x\n", b"1"),
    (b"x: y\r\nz", b"1"),
    (b"x:", b"1"),
    (b"x y", b"1"),
    (b"", b"1"),
    (b"x\x00", b"1"),
    (b"\xff", b"1"),
    (b"host", b"evil"),
    (b"Content-Length", b"0"),
    (b"Transfer-Encoding", b"chunked"),
    (b"connection", b"close"),
    (b"upgrade", b"websocket"),
]


@pytest.mark.parametrize("header", BAD_HEADERS)
async def test_a_header_cannot_carry_another(header: Header) -> None:
    async with serve(always(OK)) as up, client() as c:
        for _ in range(2):
            with pytest.raises(InvalidRequest) as caught:
                await c.send(post(up.url(), headers=[(b"a", b"b"), header]))
            assert not caught.value.sent
            assert not caught.value.retry_safe
        assert up.connections == 0


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/a b"),
        ("GET", "/a\r\nx: y"),
        ("GET", "/a\n"),
        ("GET", "/\x00"),
        ("GET", "/ü"),
        ("GET", "a"),
        ("GET", "@evil.test/"),
        ("GET", ""),
        ("get", "/"),
        ("GET /\r\n", "/"),
        ("", "/"),
    ],
)
async def test_method_and_target_cannot_carry_a_line(method: str, target: str) -> None:
    async with serve(always(OK)) as up, client() as c:
        with pytest.raises(InvalidRequest):
            await c.send(post(up.url(), method=method, target=target))
        assert up.connections == 0


# Responses


async def test_status_reason_and_headers_are_as_they_came() -> None:
    answer = (
        b"HTTP/1.1 429 Too Many  Requests\r\nRetry-After: 1\r\nset-cookie: a\r\nX-b: \r\n"
        b"set-cookie: b\r\nContent-Length: 0\r\n\r\n"
    )
    async with serve(always(answer)) as up, client() as c:
        response = await c.send(post(up.url()))
        assert (response.status, response.reason) == (429, b"Too Many  Requests")
        assert response.headers == [
            (b"Retry-After", b"1"),
            (b"set-cookie", b"a"),
            (b"X-b", b""),
            (b"set-cookie", b"b"),
            (b"Content-Length", b"0"),
        ]
        assert await response.read() == b""
        assert await response.read() == b""
        assert await response.next_chunk() == b""


BODIES = [
    pytest.param(OK, b"ok", True, id="content-length"),
    pytest.param(CHUNKED + b"2\r\nok\r\n3;a=b\r\n!!!\r\n0\r\n\r\n", b"ok!!!", True, id="chunked"),
    pytest.param(CHUNKED + b"2\r\nok\r\n0\r\nx-t: 1\r\n\r\n", b"ok", True, id="trailers"),
    pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", b"", True, id="204"),
    pytest.param(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", b"", True, id="304"),
    pytest.param(b"HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", b"", True, id="empty"),
    pytest.param(
        b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n",
        b"",
        True,
        id="a redirect is not followed",
    ),
    pytest.param(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" + OK,
        b"ok",
        True,
        id="interim",
    ),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"ok",
        False,
        id="connection close",
    ),
    pytest.param(b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", b"ok", False, id="http 1.0"),
]


@pytest.mark.parametrize(("answer", "body", "reusable"), BODIES)
async def test_a_body_is_read_and_its_connection_reused(
    answer: bytes, body: bytes, reusable: bool
) -> None:
    async with serve(always(answer)) as up, client() as c:
        for _ in range(3):
            response = await c.send(post(up.url()))
            assert response.status == int(answer.split(b"HTTP/1.")[-1][2:5])
            assert await response.read() == body
        for _ in range(3):
            async with await c.send(post(up.url())) as response:
                assert b"".join([chunk async for chunk in response]) == body
        assert up.connections == (1 if reusable else 6)
        assert len(up.requests) == 6


async def test_interim_headers_do_not_leak_into_the_response() -> None:
    answer = b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" + OK
    async with serve(always(answer)) as up, client() as c:
        response = await c.send(post(up.url()))
        assert response.headers == [(b"content-length", b"2")]
        assert response.reason == b"OK"
        await response.read()


async def test_trailers_do_not_become_headers() -> None:
    async with serve(always(CHUNKED + b"2\r\nok\r\n0\r\nx-t: 1\r\n\r\n")) as up, client() as c:
        for _ in range(2):
            response = await c.send(post(up.url()))
            assert await response.read() == b"ok"
            assert response.headers == [(b"transfer-encoding", b"chunked")]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\n\r\nok", b"HTTP/1.0 200 OK\r\n\r\nok"])
async def test_a_body_may_end_with_the_connection(answer: bytes) -> None:
    async with serve(once(answer)) as up, client() as c:
        assert await fetch(c, post(up.url())) == b"ok"
        response = await c.send(post(up.url()))
        assert b"".join([chunk async for chunk in response]) == b"ok"
        assert up.connections == 2
        assert pool(c).count == 0


async def test_head_has_no_body_whatever_it_announces() -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
    async with serve(always(answer, OK)) as up, client() as c:
        response = await c.send(post(up.url(), b"", method="HEAD"))
        assert (b"content-length", b"5") in response.headers
        assert await response.read() == b""
        assert await fetch(c, post(up.url())) == b"ok"
        assert up.connections == 1


async def test_a_large_body_arrives_whole_and_compressed_bytes_are_left_alone() -> None:
    body = bytes(range(256)) * 20_000
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with serve(always(head + body)) as up, client() as c:
        assert await fetch(c, post(up.url())) == body
        response = await c.send(post(up.url()))
        assert b"".join([chunk async for chunk in response]) == body
        assert up.connections == 1


async def test_chunks_are_handed_over_as_they_come_and_joined_when_they_wait() -> None:
    gate = asyncio.Event()

    async def handle(up: Upstream, reader: Reader, writer: Writer) -> None:
        await up.request(reader)
        writer.write(CHUNKED + b"1\r\na\r\n")
        await gate.wait()
        writer.write(b"1\r\nb\r\n1\r\nc\r\n0\r\n\r\n")
        await up.until_closed(reader)

    async with serve(handle) as up, client() as c:
        response = await c.send(post(up.url()))
        assert await response.next_chunk() == b"a"
        waiting = asyncio.ensure_future(response.next_chunk())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        gate.set()
        assert await waiting == b"bc"
        assert await response.next_chunk() == b""
        assert len(pool(c).idle) == 1


async def test_one_reader_at_a_time() -> None:
    async with serve(once(CHUNKED, hang=True)) as up, client() as c:
        response = await c.send(post(up.url()))
        waiting = asyncio.ensure_future(response.next_chunk())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task"):
            await response.next_chunk()
        with pytest.raises(ClientClosed):
            await waiting


async def test_closing_wakes_the_reader() -> None:
    async with serve(once(CHUNKED, hang=True)) as up, client() as c:
        response = await c.send(post(up.url()))
        waiting = asyncio.ensure_future(response.next_chunk())
        await asyncio.sleep(0)
        await response.aclose()
        with pytest.raises(ClientClosed):
            await waiting
        with pytest.raises(ClientClosed):
            await response.read()
        await asyncio.wait_for(up.closed.wait(), SOON)


# The pool


async def test_every_socket_has_nodelay() -> None:
    async with serve(always(OK)) as up, client() as c:
        await asyncio.gather(*(fetch(c, post(up.url())) for _ in range(5)))
        connections = sweeper(c).connections
        assert len(connections) == 5
        for connection in connections:
            sock = connection._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_the_connection_used_last_is_reused_first() -> None:
    async with serve(always(OK)) as up, client(max_idle=2) as c:
        responses = [await c.send(post(up.url())) for _ in range(3)]
        connections = [response._conn for response in responses]
        for response in responses:
            await response.read()
        assert pool(c).idle == connections[1:]
        assert pool(c).count == 2
        again = await c.send(post(up.url()))
        assert again._conn is connections[2]
        await again.read()


async def test_an_idle_connection_is_closed_after_its_time_and_the_timer_rests() -> None:
    async with serve(always(OK)) as up, client(idle_expiry=0.05) as c:
        await fetch(c, post(up.url()))
        await asyncio.wait_for(up.closed.wait(), SOON)
        await settle(lambda: not sweeper(c).pools and sweeper(c)._handle is None)
        assert open_connections(c) == 0
        assert await fetch(c, post(up.url())) == b"ok"
        assert up.connections == 2


async def test_200_requests_share_8_connections_first_come_first_served() -> None:
    async def handle(up: Upstream, reader: Reader, writer: Writer) -> None:
        while await up.request(reader):
            await asyncio.sleep(0.001)
            writer.write(OK)

    async with serve(handle) as up, client(max_connections=8) as c:
        requests = [post(up.url(), b"%d" % n) for n in range(200)]
        assert await asyncio.gather(*(fetch(c, r) for r in requests)) == [b"ok"] * 200
        assert up.most == up.connections == 8
        assert pool(c).count == 8
    order = [int(request.rpartition(b"\n")[2]) for request in up.requests]
    assert sorted(order) == list(range(200))
    assert all(abs(place - n) < 16 for place, n in enumerate(order))


async def test_200_requests_share_8_places_when_every_response_closes() -> None:
    answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"
    async with serve(always(answer)) as up, client(max_connections=8) as c:
        results = await asyncio.gather(*(fetch(c, post(up.url())) for _ in range(200)))
        assert results == [b"ok"] * 200
        assert up.connections == 200
        assert pool(c).count == 0


async def test_a_wait_for_a_connection_ends_with_the_connect_timeout() -> None:
    async with serve(once(CHUNKED, hang=True)) as up, client(max_connections=1) as c:
        held = await c.send(post(up.url()))
        with pytest.raises(PoolTimeout, match="max_connections") as caught:
            await c.send(post(up.url(), connect=0.05))
        assert caught.value.retry_safe
        with pytest.raises(TotalTimeout) as total:
            await c.send(post(up.url(), total=0.05))
        assert not total.value.sent
        await held.aclose()
        assert pool(c).count == 0


async def test_cancelled_waiters_leave_no_place_behind() -> None:
    async with serve(always(OK)) as up, client(max_connections=1) as c:
        held = await c.send(post(up.url()))
        waiting = [asyncio.ensure_future(fetch(c, post(up.url()))) for _ in range(10)]
        await asyncio.sleep(0.01)
        for task in waiting[:5]:
            task.cancel()
        await held.read()  # the grant goes past the cancelled ones
        waiting[5].cancel()  # and is passed on by one that was cancelled after it was granted
        assert await asyncio.gather(*waiting[6:]) == [b"ok"] * 4
        assert up.connections == pool(c).count == len(pool(c).idle) == 1


async def test_a_connection_that_dies_on_its_way_to_a_waiter_is_replaced() -> None:
    async with serve(always(OK)) as up, client(max_connections=1, stale_window=-1.0) as c:
        held = await c.send(post(up.url()))
        waiting = asyncio.ensure_future(fetch(c, post(up.url())))
        await asyncio.sleep(0.01)
        (connection,) = sweeper(c).connections
        await held.read()
        connection.eof_received()
        assert await waiting == b"ok"
        assert up.connections == 2
        assert pool(c).count == 1
        assert len(up.requests) == 2  # it was never written to the dead one


async def test_a_response_that_nobody_kept_gives_its_place_back() -> None:
    async with serve(always(CHUNKED, OK)) as up, client(max_connections=1) as c:
        await c.send(post(up.url()))
        gc.collect()
        await asyncio.wait_for(up.closed.wait(), SOON)
        assert pool(c).count == 0


async def test_origins_do_not_share_connections() -> None:
    async with serve(always(OK)) as a, serve(always(OK)) as b, client() as c:
        for up in (a, b, a, b):
            await fetch(c, post(up.url()))
        assert a.connections == b.connections == 1


# Stale connections


def dies(*, after: bytes = b"", answered: int = 1, delay: float = 0.0) -> Handler:
    """Serves `answered` requests per connection, then takes one more, says `after`, and dies."""

    async def handle(up: Upstream, reader: Reader, writer: Writer) -> None:
        for _ in range(answered):
            if not await up.request(reader):
                return
            writer.write(OK)
        if await up.request(reader):
            await asyncio.sleep(delay)
            writer.write(after)

    return handle


async def test_a_stale_connection_is_retried_once_on_a_fresh_one() -> None:
    async with serve(dies()) as up, client() as c:
        for n in range(4):
            assert await fetch(c, post(up.url(), b"%d" % n)) == b"ok"
        assert up.connections == 4
        assert len(up.requests) == 7


async def test_the_retry_does_not_trust_another_pooled_connection() -> None:
    async with serve(dies()) as up, client(max_connections=2) as c:
        await asyncio.gather(*(fetch(c, post(up.url())) for _ in range(2)))
        assert len(pool(c).idle) == 2
        assert await fetch(c, post(up.url())) == b"ok"
        assert up.connections == 3


async def test_a_retry_that_waits_in_line_takes_no_second_place() -> None:
    async def handle(up: Upstream, reader: Reader, writer: Writer) -> None:
        if up.connections == 1:
            await dies()(up, reader, writer)
            return
        while await up.request(reader):
            await asyncio.sleep(0.02)
            writer.write(OK)

    async with serve(handle) as up, client(max_connections=1) as c:
        await fetch(c, post(up.url()))
        tasks = [asyncio.ensure_future(fetch(c, post(up.url()))) for _ in range(3)]
        await settle(lambda: up.connections == 2)  # the first of them is last in line now
        tasks += [asyncio.ensure_future(fetch(c, post(up.url()))) for _ in range(2)]
        assert await asyncio.gather(*tasks) == [b"ok"] * 5
        assert up.connections == 3
        assert pool(c).count == len(pool(c).idle) == 1
        await settle(lambda: open_connections(c) == 1)


async def test_a_fresh_connection_that_dies_is_not_retried() -> None:
    async with serve(dies(answered=0)) as up, client() as c:
        with pytest.raises(UpstreamClosed) as caught:
            await c.send(post(up.url()))
        assert caught.value.sent
        assert caught.value.received == 0
        assert not caught.value.retry_safe
        assert up.connections == len(up.requests) == 1


async def test_a_retry_is_not_retried() -> None:
    seen = 0

    async def handle(up: Upstream, reader: Reader, writer: Writer) -> None:
        nonlocal seen
        seen += 1
        await dies(answered=1 if seen == 1 else 0)(up, reader, writer)

    async with serve(handle) as up, client() as c:
        await fetch(c, post(up.url()))
        with pytest.raises(UpstreamClosed):
            await c.send(post(up.url()))
        assert up.connections == 2
        assert len(up.requests) == 3


async def test_a_retry_that_cannot_connect_still_says_that_the_request_was_sent() -> None:
    calls = 0

    async def resolver(host: str, port: int) -> Sequence[str]:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError("gone")
        return ["127.0.0.1"]

    guard = OutboundGuard(allow=["up.test"], resolver=resolver, ttl=0.0)
    async with serve(dies()) as up, client(guard=guard) as c:
        await fetch(c, post(up.url("up.test")))
        with pytest.raises(ResolveFailed) as caught:
            await c.send(post(up.url("up.test")))
        assert caught.value.sent
        assert not caught.value.retry_safe
        assert pool(c).count == 0


@pytest.mark.parametrize("after", [b"H", b"HTTP/1.1 200 OK\r\n", CHUNKED])
async def test_one_byte_of_a_response_forbids_the_retry(after: bytes) -> None:
    async with serve(dies(after=after)) as up, client() as c:
        await fetch(c, post(up.url()))
        with pytest.raises(UpstreamClosed) as caught:
            await fetch(c, post(up.url()))
        assert caught.value.received == len(after)
        assert len(up.requests) == 2


async def test_an_upstream_that_had_time_to_work_is_not_asked_again() -> None:
    async with serve(dies(delay=0.1)) as up, client(stale_window=0.05) as c:
        await fetch(c, post(up.url()))
        with pytest.raises(UpstreamClosed):
            await c.send(post(up.url()))
        assert len(up.requests) == 2


async def test_a_connection_closed_while_idle_is_not_used() -> None:
    async with serve(once(OK)) as up, client() as c:
        for n in range(1, 4):
            assert await fetch(c, post(up.url())) == b"ok"
            await settle(lambda: pool(c).count == 0)
            assert up.connections == n
            assert len(up.requests) == n


async def test_bytes_nobody_asked_for_never_become_a_response() -> None:
    for extra in (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", b"HTTP/1.1 200 ", b"x"):
        async with serve(always(OK + extra, OK)) as up, client() as c:
            assert await fetch(c, post(up.url())) == b"ok"
            assert await fetch(c, post(up.url())) == b"ok"
            assert up.connections == 2


async def test_bytes_on_an_idle_connection_close_it() -> None:
    async def handle(up: Upstream, reader: Reader, writer: Writer) -> None:
        await up.request(reader)
        writer.write(OK)
        await asyncio.sleep(0.01)
        writer.write(OK)
        await up.until_closed(reader)

    async with serve(handle) as up, client() as c:
        assert await fetch(c, post(up.url())) == b"ok"
        await asyncio.wait_for(up.closed.wait(), SOON)
        assert pool(c).count == 0


# Broken upstreams


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", b"abc"),
        (CHUNKED + b"3\r\nabc\r\n", b"abc"),
        (CHUNKED + b"5\r\nabc", b"abc"),
        (CHUNKED + b"3\r\nabc\r\n0\r\n", b"abc"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", b""),
    ],
)
async def test_a_cut_body_is_an_error_that_counts_what_came(answer: bytes, body: bytes) -> None:
    async with serve(once(answer)) as up, client() as c:
        with pytest.raises(UpstreamClosed, match="in the middle") as whole:
            await fetch(c, post(up.url()))
        response = await c.send(post(up.url()))
        if body:
            assert await response.next_chunk() == body
        for _ in range(2):
            with pytest.raises(UpstreamClosed) as chunk:
                await response.next_chunk()
        for caught in (whole.value, chunk.value):
            assert caught.sent
            assert caught.received == len(answer)
            assert caught.body_received == len(body)
        assert pool(c).count == 0


async def test_a_reset_in_mid_body_is_an_error_even_without_a_length() -> None:
    async def handle(up: Upstream, reader: Reader, writer: Writer) -> None:
        await up.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nabc")
        await asyncio.sleep(0.02)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        writer.transport.abort()

    async with serve(handle) as up, client() as c:
        with pytest.raises(UpstreamClosed) as caught:
            await fetch(c, post(up.url()))
        assert caught.value.body_received == 3


MALFORMED = [
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"\x16\x03\x01\x02\x00\x01",
    b"HTTP/1.1 OK\r\n\r\n",
    b"HTTP/1.1 20x OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999999\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    CHUNKED + b"zz\r\n",
    CHUNKED + b"-1\r\n",
    CHUNKED + b"2\r\nokk\r\n",
    CHUNKED + b"fffffffffffffffff\r\n",
]


@pytest.mark.parametrize("answer", MALFORMED)
async def test_a_malformed_response_is_a_violation(answer: bytes) -> None:
    async with serve(once(answer, hang=True)) as up, client() as c:
        with pytest.raises(ProtocolViolation) as caught:
            await fetch(c, post(up.url(), first_byte=1.0))
        assert caught.value.sent
        assert caught.value.received == len(answer)
        await asyncio.wait_for(up.closed.wait(), SOON)
        assert pool(c).count == 0


LONG = b"a" * 5000


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 " + LONG, id="status line"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx: " + LONG, id="value"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + LONG, id="name"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx: " + LONG + b"\r\n\r\n", id="complete"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 900, id="many"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 300, id="interim for ever"),
        pytest.param(CHUNKED + b"1;" + LONG, id="chunk extension"),
        # Behind a body byte in the same burst, the burst itself comes on top of the cap.
        pytest.param(CHUNKED + b"1\r\na\r\n0\r\nx: " + LONG * 60, id="trailer"),
        pytest.param(CHUNKED + b"1\r\na\r\n0\r\n" + b"a: b\r\n" * 50_000, id="trailers"),
    ],
)
@pytest.mark.parametrize("burst", [700, 100_000])
async def test_a_head_over_its_cap_is_a_violation(answer: bytes, burst: int) -> None:
    async def handle(up: Upstream, reader: Reader, writer: Writer) -> None:
        await up.request(reader)
        for start in range(0, len(answer), burst):
            writer.write(answer[start : start + burst])
            await asyncio.sleep(0)
        await up.until_closed(reader)

    async with serve(handle) as up, client(max_head=4096) as c:
        with pytest.raises(ProtocolViolation, match="max_head"):
            await fetch(c, post(up.url()))
        await asyncio.wait_for(up.closed.wait(), SOON)


async def test_a_long_body_in_the_same_burst_as_the_head_is_no_violation() -> None:
    body = b"b" * 50_000
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    async with serve(always(answer)) as up, client(max_head=1024) as c:
        assert await fetch(c, post(up.url())) == body


async def test_too_many_headers_are_a_violation() -> None:
    head = b"HTTP/1.1 200 OK\r\n" + b"".join(b"h%d: 1\r\n" % n for n in range(101))
    async with (
        serve(once(head + b"content-length: 0\r\n\r\n")) as up,
        client(max_headers=100) as c,
    ):
        with pytest.raises(ProtocolViolation, match="max_headers"):
            await c.send(post(up.url()))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n", id="announced"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n" + b"x" * 1001, id="at once"
        ),
        pytest.param(CHUNKED + b"400\r\n" + b"x" * 1024 + b"\r\n", id="chunked"),
        pytest.param(CHUNKED + b"400\r\n" + b"x" * 1024 + b"\r\n0\r\n\r\n", id="chunked whole"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001, id="without length"),
    ],
)
async def test_a_body_over_its_cap_is_an_error(answer: bytes) -> None:
    async with serve(once(answer, hang=True)) as up, client(max_body=1000) as c:
        response = await c.send(post(up.url()))
        await asyncio.sleep(0.01)
        for _ in range(2):
            with pytest.raises(BodyTooLarge, match="max_body"):
                await response.read()
        await asyncio.wait_for(up.closed.wait(), SOON)
        assert pool(c).count == 0


async def test_a_body_that_grows_over_its_cap_while_it_is_read_is_an_error() -> None:
    async def handle(up: Upstream, reader: Reader, writer: Writer) -> None:
        await up.request(reader)
        writer.write(CHUNKED)
        while True:
            writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0)

    async with serve(handle) as up, client(max_body=300_000, buffer=1000) as c:
        response = await c.send(post(up.url()))
        with pytest.raises(BodyTooLarge) as caught:
            await response.read()
        assert 300_000 < caught.value.body_received < 300_000 + 262_144 + 1024
        response = await c.send(post(up.url()))
        async with asyncio.timeout(SOON):
            for _ in range(3):
                assert await response.next_chunk()
        await response.aclose()


async def test_a_stream_over_its_cap_is_an_error() -> None:
    async def handle(up: Upstream, reader: Reader, writer: Writer) -> None:
        await up.request(reader)
        writer.write(CHUNKED)
        while True:
            writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0)

    async with serve(handle) as up, client(max_stream=100_000) as c:
        response = await c.send(post(up.url()))
        got: list[int] = []

        async def drain() -> None:
            while chunk := await response.next_chunk():
                got.append(len(chunk))

        with pytest.raises(BodyTooLarge, match="max_stream"):
            await drain()
        assert sum(got) <= 100_000


async def test_a_slow_consumer_pauses_the_upstream() -> None:
    total = 64 * 1024 * 1024
    sent = 0

    async def handle(up: Upstream, reader: Reader, writer: Writer) -> None:
        nonlocal sent
        await up.request(reader)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total)
        piece = b"x" * 65536
        while sent < total:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)
        await up.until_closed(reader)

    async with serve(handle) as up, client(buffer=65536) as c:
        response = await c.send(post(up.url(), idle=0.1))
        before = -1
        while sent != before:  # until the upstream stands still
            before = sent
            await asyncio.sleep(0.15)  # longer than `idle`: a consumer's pause is not its fault
        connection = response._conn
        assert connection is not None
        assert sum(map(len, connection.chunks)) <= 65536 + 262_144
        assert sent < total / 2  # the rest is what the kernel keeps for both sockets
        got = 0
        while chunk := await response.next_chunk():
            got += len(chunk)
        assert got == total
        assert len(pool(c).idle) == 1


async def test_an_early_answer_to_a_large_request_is_read_and_the_connection_dropped() -> None:
    gate = asyncio.Event()

    async def handle(up: Upstream, reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        await gate.wait()

    async with serve(handle) as up, client() as c:
        response = await c.send(post(up.url(), b"x" * 30_000_000))
        assert response.status == 413
        await response.read()
        assert not pool(c).idle
        assert pool(c).count == 0
        gate.set()
        for connection in tuple(sweeper(c).connections):
            connection._transport.abort()


# Time


async def test_a_silent_upstream_is_a_first_byte_timeout() -> None:
    async with serve(once(b"", hang=True)) as up, client() as c:
        with pytest.raises(FirstByteTimeout, match="first_byte") as caught:
            await c.send(post(up.url(), first_byte=0.05))
        assert (caught.value.sent, caught.value.received) == (True, 0)
        assert not caught.value.retry_safe
        await asyncio.wait_for(up.closed.wait(), SOON)
        assert pool(c).count == 0


async def test_a_head_that_dribbles_is_a_first_byte_timeout() -> None:
    async def handle(up: Upstream, reader: Reader, writer: Writer) -> None:
        await up.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"a: b\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with serve(handle) as up, client() as c:
        with pytest.raises(FirstByteTimeout) as caught:
            await c.send(post(up.url(), first_byte=0.1))
        assert caught.value.received > 0


@pytest.mark.parametrize("read", ["read", "next_chunk"])
async def test_a_silent_body_is_an_idle_timeout(read: str) -> None:
    async with serve(once(CHUNKED, hang=True)) as up, client() as c:
        response = await c.send(post(up.url(), idle=0.05))
        with pytest.raises(IdleTimeout, match=r"timeouts\.idle"):
            await getattr(response, read)()
        await asyncio.wait_for(up.closed.wait(), SOON)


async def test_framing_without_a_body_byte_is_still_silence() -> None:
    async def handle(up: Upstream, reader: Reader, writer: Writer) -> None:
        await up.request(reader)
        writer.write(CHUNKED + b"1\r\na\r\n1;")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with serve(handle) as up, client() as c:
        response = await c.send(post(up.url(), idle=0.1))
        assert await response.next_chunk() == b"a"
        with pytest.raises(IdleTimeout):
            await response.next_chunk()


async def test_a_body_that_keeps_coming_is_not_idle_but_has_a_total_time() -> None:
    async def handle(up: Upstream, reader: Reader, writer: Writer) -> None:
        await up.request(reader)
        writer.write(CHUNKED)
        while True:
            writer.write(b"1\r\na\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with serve(handle) as up, client() as c:
        response = await c.send(post(up.url(), idle=0.2, total=0.5))
        with pytest.raises(TotalTimeout, match=r"timeouts\.total") as caught:
            await response.read()
        assert caught.value.body_received > 5


async def test_time_spent_on_the_head_does_not_count_as_idle() -> None:
    async def handle(up: Upstream, reader: Reader, writer: Writer) -> None:
        while await up.request(reader):
            await asyncio.sleep(0.15)
            writer.write(CHUNKED)
            await asyncio.sleep(0.04)
            writer.write(b"1\r\na\r\n0\r\n\r\n")

    async with serve(handle) as up, client() as c:
        for _ in range(3):
            assert await fetch(c, post(up.url(), idle=0.1)) == b"a"


async def test_a_loop_that_stood_still_does_not_blame_the_upstream_at_once() -> None:
    async with serve(once(b"", hang=True)) as up, client() as c:
        sending = asyncio.ensure_future(c.send(post(up.url(), first_byte=60.0)))
        await settle(lambda: bool(up.requests))
        (connection,) = sweeper(c).connections
        connection.started -= 100.0
        sweeper(c)._ticked -= 100.0
        sweeper(c)._sweep()  # the answer may lie unread in the socket
        assert connection.error is None
        sweeper(c)._ticked -= 100.0
        sweeper(c)._sweep()
        with pytest.raises(FirstByteTimeout):
            await sending


async def test_a_handshake_that_never_ends_is_a_connect_timeout() -> None:
    async with serve(once(b"", hang=True)) as up, client() as c:
        url = Url.parse(f"https://127.0.0.1:{up.port}")
        with pytest.raises(ConnectTimeout) as caught:
            await c.send(post(url, connect=0.05))
        assert caught.value.retry_safe
        with pytest.raises(TotalTimeout):
            await c.send(post(url, total=0.05))
        assert pool(c).count == 0
        await asyncio.wait_for(up.closed.wait(), SOON)


async def test_nobody_listening_is_a_failed_connection() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = Url.parse(f"http://127.0.0.1:{sock.getsockname()[1]}/s3cret")
        async with client() as c:
            with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1") as caught:
                await c.send(post(url, target="/?key=s3cret"))
            assert caught.value.retry_safe
            assert "s3cret" not in str(caught.value)
            assert pool(c).count == 0


# Leaving


async def cancel(task: asyncio.Future[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancelling_while_connecting_leaks_nothing() -> None:
    async with serve(once(b"", hang=True)) as up, client() as c:
        url = Url.parse(f"https://127.0.0.1:{up.port}")
        task = asyncio.ensure_future(c.send(post(url)))
        await settle(lambda: up.connections == 1)
        await cancel(task)
        await asyncio.wait_for(up.closed.wait(), SOON)
        assert pool(c).count == 0
        assert open_connections(c) == 0


async def test_cancelling_while_the_head_is_awaited_closes_the_socket() -> None:
    async with serve(once(b"", hang=True)) as up, client() as c:
        task = asyncio.ensure_future(c.send(post(up.url())))
        await settle(lambda: bool(up.requests))
        await cancel(task)
        await asyncio.wait_for(up.closed.wait(), SOON)
        assert pool(c).count == 0
        await settle(lambda: open_connections(c) == 0)


@pytest.mark.parametrize("read", ["read", "next_chunk"])
async def test_cancelling_a_read_closes_the_socket(read: str) -> None:
    async with serve(once(CHUNKED + b"1\r\na", hang=True)) as up, client() as c:
        response = await c.send(post(up.url()))
        if read == "next_chunk":
            assert await response.next_chunk() == b"a"
        task = asyncio.ensure_future(getattr(response, read)())
        await asyncio.sleep(0)
        await cancel(task)
        await asyncio.wait_for(up.closed.wait(), SOON)
        assert pool(c).count == 0
        with pytest.raises(OutboundError):
            await response.read()
        await response.aclose()


async def test_cancelling_at_any_step_leaks_nothing() -> None:
    async def handle(up: Upstream, reader: Reader, writer: Writer) -> None:
        while await up.request(reader):
            for piece in (CHUNKED[:20], CHUNKED[20:], b"1\r\n", b"a\r\n", b"0\r\n\r\n"):
                writer.write(piece)
                await asyncio.sleep(0)

    async with serve(handle) as up, client(max_connections=3) as c:
        for steps in range(1, 60):
            tasks = [asyncio.ensure_future(fetch(c, post(up.url()))) for _ in range(5)]
            for _ in range(steps):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(r == b"a" or isinstance(r, asyncio.CancelledError) for r in results)
            assert pool(c).count == len(pool(c).idle) <= 3
        assert await fetch(c, post(up.url())) == b"a"
        await settle(lambda: open_connections(c) == up.open == pool(c).count)


async def test_closing_an_unfinished_response_closes_its_connection() -> None:
    async with serve(once(CHUNKED + b"1\r\na\r\n", hang=True)) as up, client() as c:
        async with await c.send(post(up.url())) as response:
            assert await response.next_chunk() == b"a"
        await asyncio.wait_for(up.closed.wait(), SOON)
        assert pool(c).count == 0
        with pytest.raises(ClientClosed):
            await response.next_chunk()


async def test_closing_a_response_that_is_all_here_keeps_its_connection() -> None:
    async with serve(always(OK)) as up, client() as c:
        for _ in range(3):
            await (await c.send(post(up.url()))).aclose()
        assert up.connections == 1


async def test_closing_the_client_ends_everything() -> None:
    async with serve(once(CHUNKED, hang=True)) as up, client(max_connections=2) as c:
        response = await c.send(post(up.url()))
        reading = asyncio.ensure_future(response.read())
        await c.send(post(up.url()))
        waiting = asyncio.ensure_future(c.send(post(up.url())))
        await asyncio.sleep(0)
        await c.aclose()
        for task in (reading, waiting):
            with pytest.raises(ClientClosed):
                await task
        with pytest.raises(ClientClosed) as caught:
            await c.send(post(up.url()))
        assert not caught.value.sent
        await c.aclose()


async def test_closing_the_client_while_it_connects_ends_the_request() -> None:
    gate = asyncio.Event()

    async def resolver(host: str, port: int) -> Sequence[str]:
        await gate.wait()
        return ["127.0.0.1"]

    guard = OutboundGuard(allow=["up.test"], resolver=resolver)
    async with serve(always(OK)) as up, client(guard=guard) as c:
        task = asyncio.ensure_future(c.send(post(up.url("up.test"))))
        await asyncio.sleep(0)
        await c.aclose()
        gate.set()
        with pytest.raises(ClientClosed):
            await task
        await settle(lambda: open_connections(c) == 0)


# The guard at the socket


async def test_a_client_without_a_guard_reaches_nothing_private() -> None:
    async with serve(always(OK)) as up, HttpClient() as c:
        with pytest.raises(OutboundRefused, match=r"outbound\.allow") as caught:
            await c.send(post(up.url()))
        assert not caught.value.retry_safe
        assert up.connections == 0


async def test_the_connection_goes_to_the_checked_address_and_the_name_stays() -> None:
    asked: list[str] = []

    async def resolver(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"]

    guard = OutboundGuard(allow=["up.test"], resolver=resolver)
    async with serve(always(OK)) as up, client(guard=guard) as c:
        assert await fetch(c, post(up.url("up.test"))) == b"ok"
        assert b"\r\nhost: up.test:%d\r\n" % up.port in up.requests[0]
    assert asked == ["up.test"]


async def test_a_rebound_name_is_refused_at_the_next_connection() -> None:
    answers = [["127.0.0.1"], ["169.254.169.254"]]

    async def resolver(host: str, port: int) -> Sequence[str]:
        return answers.pop(0)

    guard = OutboundGuard(allow=["up.test"], resolver=resolver, ttl=0.0)
    async with serve(once(OK)) as up, client(guard=guard) as c:
        assert await fetch(c, post(up.url("up.test"))) == b"ok"
        await settle(lambda: pool(c).count == 0)
        with pytest.raises(OutboundRefused, match=r"169\.254\.169\.254"):
            await c.send(post(up.url("up.test")))
        assert up.connections == 1
        assert pool(c).count == 0


async def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    async def resolver(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.2", "127.0.0.1"]

    guard = OutboundGuard(allow=["up.test"], resolver=resolver)
    async with serve(always(OK)) as up, client(guard=guard) as c:
        assert await fetch(c, post(up.url("up.test"))) == b"ok"
        assert pool(c).count == 1


async def test_a_redirect_answer_is_returned_not_followed() -> None:
    answer = b"HTTP/1.1 307 Temporary\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n"
    async with serve(always(answer)) as up, client() as c:
        response = await c.send(post(up.url()))
        assert response.status == 307
        await response.read()
        assert len(up.requests) == 1


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for up.test, with its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-subj /CN=up.test -addext subjectAltName=DNS:up.test -keyout key.pem -out cert.pem"
    )
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return both


@pytest.fixture
def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def client_tls(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


async def to_loopback(host: str, port: int) -> Sequence[str]:
    return ["127.0.0.1"]


TLS_GUARD = OutboundGuard(allow=["up.test", "other.test"], resolver=to_loopback)


async def test_tls_verifies_sends_the_name_and_reuses(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    names: list[str | None] = []

    def named(_: object, name: str | None, __: object) -> None:
        names.append(name)

    server_tls.sni_callback = named
    big = b"x" * 1_000_000
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(big) + big
    async with (
        serve(always(OK, answer), server_tls) as up,
        client(guard=TLS_GUARD, tls=client_tls) as c,
    ):
        assert await fetch(c, post(up.url("up.test"))) == b"ok"
        assert await fetch(c, post(up.url("up.test"), big)) == big
        response = await c.send(post(up.url("up.test")))
        assert b"".join([chunk async for chunk in response]) == big
        (connection,) = sweeper(c).connections
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert up.connections == 1
    assert names == ["up.test"]


async def test_tls_refuses_an_unknown_authority(server_tls: ssl.SSLContext) -> None:
    async with serve(always(OK), server_tls) as up, client(guard=TLS_GUARD) as c:
        with pytest.raises(ConnectFailed, match="certificate") as caught:
            await c.send(post(up.url("up.test")))
        assert not caught.value.sent
        assert not up.requests
        assert pool(c).count == 0


async def test_tls_refuses_another_name(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with (
        serve(always(OK), server_tls) as up,
        client(guard=TLS_GUARD, tls=client_tls) as c,
    ):
        with pytest.raises(ConnectFailed, match="certificate"):
            await c.send(post(up.url("other.test")))
        assert not up.requests


async def test_tls_stale_connection_cut_and_backpressure(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with (
        serve(dies(), server_tls) as up,
        client(guard=TLS_GUARD, tls=client_tls) as c,
    ):
        for _ in range(3):
            assert await fetch(c, post(up.url("up.test"))) == b"ok"
        assert up.connections == 3
    async with (
        serve(once(CHUNKED + b"3\r\nabc\r\n"), server_tls) as up,
        client(guard=TLS_GUARD, tls=client_tls) as c,
    ):
        with pytest.raises(UpstreamClosed) as caught:
            await fetch(c, post(up.url("up.test")))
        assert caught.value.body_received == 3


async def test_tls_pauses_for_a_slow_consumer(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    total = 32 * 1024 * 1024
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total
    async with (
        serve(always(head + bytes(total)), server_tls) as up,
        client(guard=TLS_GUARD, tls=client_tls, buffer=65536) as c,
    ):
        response = await c.send(post(up.url("up.test")))
        await asyncio.sleep(0.2)
        connection = response._conn
        assert connection is not None
        assert connection.body_received <= 65536 + 4 * 262_144
        got = 0
        while chunk := await response.next_chunk():
            got += len(chunk)
        assert got == total


# The parser's seams


class Wire:
    """A transport that only remembers; for feeding a connection by hand."""

    closed = False

    def get_extra_info(self, name: str) -> Wire:
        return self

    def setsockopt(self, *args: object) -> None: ...

    def write(self, data: bytes) -> None: ...

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


def feed(pieces: Sequence[bytes], end: bool) -> tuple[int, list[Header], bytes, str, bool]:
    """What a connection makes of bytes that arrive in these pieces."""
    loop = asyncio.new_event_loop()
    made = Pool(
        Url.parse("http://a.test"),
        sweeper=Sweeper(loop, 1.0),
        limits=Limits(),
        guard=OutboundGuard(),
        tls=ssl.create_default_context,
    )
    connection = http_wire.Connection(made)
    wire: Any = Wire()
    connection.connection_made(wire)
    connection.adopt()
    made.count = 1
    connection.start(b"", b"", "POST", Timeouts(), 0.0, 0.0)
    for piece in pieces:
        connection.data_received(piece)
    if end:
        connection.eof_received()
    kind = type(connection.error).__name__
    result = connection.status, connection.headers, connection.take(), kind, connection.reusable
    loop.close()
    return result


ANSWERS = [value for param in BODIES for value in param.values[:1] if isinstance(value, bytes)]


@given(st.data(), st.sampled_from(ANSWERS + MALFORMED), st.booleans())
def test_where_the_network_cuts_the_bytes_makes_no_difference(
    data: st.DataObject, answer: bytes, end: bool
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(answer) - 1)), max_size=8)))
    edges = [0, *cuts, len(answer)]
    pieces = [answer[a:b] for a, b in itertools.pairwise(edges) if a < b]
    assert feed(pieces, end)[3:4] == feed([answer], end)[3:4]
    if answer in ANSWERS:
        assert feed(pieces, end) == feed([answer], end)


@given(st.binary(max_size=300), st.sampled_from([b"", CHUNKED, OK[:-2], OK]))
def test_no_bytes_raise_out_of_the_protocol(noise: bytes, before: bytes) -> None:
    for pieces in ([before + noise], [before, noise]):
        kind = feed(pieces, end=True)[3]
        assert kind in ("NoneType", "ProtocolViolation", "UpstreamClosed", "BodyTooLarge")
