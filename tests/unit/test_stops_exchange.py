"""A call that is stopped ends at once, wherever it is, and nothing of that is left over."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import pytest

from tocsin.core.call import Call
from tocsin.core.errors import CallError, Denied, Stopped, UpstreamFailed
from tocsin.core.interaction import Interaction
from tocsin.core.policy import FailureMode, Next, Policy, Reply
from tocsin.runtime.exchange import Exchange
from tocsin.runtime.recorder import Recorder
from tocsin.runtime.runtime import Runtime
from tocsin.testing import FakeClock
from unit.calls import call, message

SSE = ((b"content-type", b"text/event-stream"),)
DELTA = b'data: {"choices":[{"index":0,"delta":{"content":"w "},"finish_reason":null}]}\n\n'


class Kept:
    """Stands in for the recorder: keeps how calls ended."""

    def __init__(self) -> None:
        self.ended: list[Interaction] = []

    def open(self, call: Call) -> None:
        pass

    def finish(self, call: Call, interaction: Interaction, **_: object) -> None:
        self.ended.append(interaction)

    async def durable(self) -> None:
        pass


class Forever:
    """A stream that sends one piece and then nothing until it is closed."""

    def __init__(self) -> None:
        self.pieces = [DELTA]
        self.closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self.pieces:
            return self.pieces.pop()
        try:
            await asyncio.sleep(60)
        finally:
            self.closed = True
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed = True


def runtime_of(dispatch: Next, *policies: Policy) -> tuple[Runtime, list[Interaction]]:
    kept = Kept()
    made = Runtime(
        policies=policies,
        modes=lambda feature, policy: "enforce",
        dispatch=dispatch,
        recorder=cast(Recorder, kept),
        clock=FakeClock(),
    )
    return made, kept.ended


def asked(source: str = "gateway") -> Call:
    return call([message("user", "hi")]).evolve(stream=True, source=source)


async def hang(_: Call) -> Reply:
    await asyncio.sleep(60)
    return Reply(status=200, headers=(), body=b"{}")


ERROR = Stopped("The run is stopped.")


async def until(condition: Callable[[], object]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not come about in 2 s")


async def stop_soon(runtime: Runtime) -> None:
    await asyncio.sleep(0.02)
    (exchange,) = runtime.in_flight.values()
    over = exchange.stop(ERROR)
    assert over is not None
    assert exchange.stop(ERROR) is None, "it is stopped once"
    await asyncio.wait_for(over, 2)


async def serve(runtime: Runtime, asked: Call, write: Callable[[bytes], Awaitable[None]]) -> None:
    async with runtime.call(asked) as reply:
        assert reply.chunks is not None
        async for piece in reply.chunks:
            await write(piece)


async def served(
    runtime: Runtime, asked: Call, write: Callable[[bytes], Awaitable[None]]
) -> CallError:
    """The error that a front door gets; the task must be as if nothing had cancelled it."""
    stopping = asyncio.create_task(stop_soon(runtime))
    with pytest.raises(CallError) as caught:
        await serve(runtime, asked, write)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0.15)  # a cancellation that leaked would come now
    async with asyncio.timeout(1):
        await asyncio.sleep(0)
    await stopping
    assert runtime.in_flight == {}
    return caught.value


async def ignore(_: bytes) -> None:
    pass


def of_stream(stream: Forever) -> Next:
    async def dispatch(_: Call) -> Reply:
        return Reply(status=200, headers=SSE, chunks=stream)

    return dispatch


@pytest.mark.parametrize("source", ["gateway", "sdk"])
async def test_a_call_that_waits_for_its_upstream_is_stopped(source: str) -> None:
    runtime, ended = runtime_of(hang)
    assert await served(runtime, asked(source), ignore) is ERROR
    assert [(i.outcome, i.error_type, i.status) for i in ended] == [("cancelled", "stopped", 403)]


@pytest.mark.parametrize("source", ["gateway", "sdk"])
async def test_a_stream_that_waits_for_its_next_piece_is_stopped(source: str) -> None:
    stream = Forever()
    runtime, ended = runtime_of(of_stream(stream))
    assert await served(runtime, asked(source), ignore) is ERROR
    assert stream.closed
    assert [(i.outcome, i.error_type, i.status) for i in ended] == [("cancelled", "stopped", 200)]
    assert ended[0].output_bytes == len(DELTA), "what came is counted"


async def test_a_gateways_call_whose_client_does_not_read_is_stopped() -> None:
    async def blocked(_: bytes) -> None:
        await asyncio.sleep(60)

    stream = Forever()
    runtime, ended = runtime_of(of_stream(stream))
    assert await served(runtime, asked(), blocked) is ERROR
    assert stream.closed
    assert [i.error_type for i in ended] == ["stopped"]


async def test_a_program_that_does_other_things_is_not_cancelled_and_told_when_it_reads() -> None:
    stream = Forever()
    runtime, ended = runtime_of(of_stream(stream))
    did: list[str] = []

    async def works(_: bytes) -> None:
        await asyncio.sleep(0.1)
        assert stream.closed, "the upstream is let go of meanwhile"
        assert [i.error_type for i in ended] == ["stopped"]
        did.append("its own work")

    assert await served(runtime, asked("sdk"), works) is ERROR
    assert did == ["its own work"]


async def test_a_stream_read_by_another_task_is_stopped_there() -> None:
    runtime, ended = runtime_of(of_stream(Forever()))
    exchange = runtime.call(asked("sdk"))
    reply = await exchange.__aenter__()
    assert reply.chunks is not None
    chunks = reply.chunks

    async def read() -> None:
        async for _ in chunks:
            pass

    reader = asyncio.create_task(read())
    await stop_soon(runtime)
    with pytest.raises(Stopped):
        await reader
    assert not reader.cancelled()
    await exchange.__aexit__(None, None, None)
    assert [i.error_type for i in ended] == ["stopped"]


async def test_what_is_swallowed_is_said_again() -> None:
    tries: list[int] = []

    async def stubborn(_: Call) -> Reply:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                tries.append(1)
                if len(tries) == 3:
                    return Reply(status=200, headers=(), body=b"{}")

    runtime, ended = runtime_of(stubborn)
    assert await served(runtime, asked(), ignore) is ERROR
    assert len(tries) == 3
    assert [i.error_type for i in ended] == ["stopped"]


async def test_a_wrapper_that_swallows_it_in_mid_stream_changes_nothing() -> None:
    async def wrapped(stream: Forever) -> AsyncIterator[bytes]:
        async for piece in stream:
            try:
                yield piece
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                yield DELTA

    async def dispatch(_: Call) -> Reply:
        return Reply(status=200, headers=SSE, chunks=wrapped(Forever()))

    runtime, ended = runtime_of(dispatch)
    assert await served(runtime, asked(), ignore) is ERROR
    assert [i.error_type for i in ended] == ["stopped"]


async def test_a_client_that_leaves_at_the_same_moment_is_still_a_cancellation() -> None:
    runtime, ended = runtime_of(hang)
    task = asyncio.create_task(serve(runtime, asked(), ignore))
    await until(lambda: runtime.in_flight)
    (exchange,) = runtime.in_flight.values()
    exchange.stop(ERROR)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [i.error_type for i in ended] == ["stopped"]


async def test_a_time_limit_of_the_upstream_at_the_same_moment_does_not_hide_it() -> None:
    async def limited(_: Call) -> Reply:
        try:
            async with asyncio.timeout(0.02):
                await asyncio.sleep(60)
        except TimeoutError:
            raise UpstreamFailed("slow", sent=True, timeout=True) from None
        raise AssertionError

    for _ in range(20):
        runtime, ended = runtime_of(limited)
        task = asyncio.create_task(serve(runtime, asked(), ignore))
        await until(lambda runtime=runtime: runtime.in_flight)  # type: ignore[misc]
        (exchange,) = runtime.in_flight.values()
        asyncio.get_running_loop().call_later(0.02, exchange.stop, ERROR)
        with pytest.raises(CallError):
            await task
        assert len(ended) == 1
        assert task.cancelling() == 0


class Kills:
    """A policy that stops the very call that it looks at."""

    name = "kills"
    failure: FailureMode = "open"
    timeout_s = 5.0

    def __init__(self, *, raises: bool) -> None:
        self.runtime: Runtime | None = None
        self._raises = raises
        self.over: asyncio.Future[bool] | None = None

    async def __call__(self, call: Call, next: Next) -> Reply:
        assert self.runtime is not None
        self.over = self.runtime.in_flight[call.id].stop(ERROR)
        if self._raises:
            raise Denied("by this policy", code="own_words")
        return await next(call)


@pytest.mark.parametrize(("raises", "outcome"), [(True, "denied"), (False, "cancelled")])
async def test_a_policy_may_stop_its_own_call(raises: bool, outcome: str) -> None:
    policy = Kills(raises=raises)
    runtime, ended = runtime_of(hang, policy)
    policy.runtime = runtime
    with pytest.raises(Denied) as caught:
        await serve(runtime, asked(), ignore)
    await asyncio.sleep(0.15)
    assert caught.value.code == ("own_words" if raises else "stopped")
    assert [i.outcome for i in ended] == [outcome]
    assert policy.over is not None
    assert policy.over.result() is (outcome == "cancelled"), "what is refused was not cut"


async def test_a_call_that_has_ended_cannot_be_stopped() -> None:
    async def answers(_: Call) -> Reply:
        return Reply(status=200, headers=(), body=b"{}")

    runtime, ended = runtime_of(answers)
    kept: list[Exchange] = []
    exchange = runtime.call(asked())
    async with exchange as reply:
        kept.append(exchange)
        assert reply.status == 200
        assert exchange.stop(ERROR) is None
    assert [i.error_type for i in ended] == [None]
