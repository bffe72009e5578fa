"""``Step``: an answer as a script or a recording has it, and how it is played as a reply."""

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from tocsin.core.call import Call
from tocsin.core.errors import UpstreamFailed
from tocsin.core.interaction import Dialect
from tocsin.core.policy import Reply
from tocsin.core.wire import parse_request
from tocsin.core.wire.render import Answer, json_body, sse_events
from tocsin.providers.streams import Chunks

DEFAULT = "This is a scripted answer."


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What the script does with one call. Times are seconds.

    ``answer`` is rendered in the call's dialect, streamed when the call asks for a stream.
    ``status`` other than 200 answers with an error; ``body`` or ``chunks`` are sent as they are
    instead of an answer. ``cut_after`` breaks a stream (or body) off after so many bytes;
    ``fail`` gives no answer at all; ``hang`` waits until the caller leaves.
    """

    answer: Answer | None = None
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes | None = None
    chunks: tuple[bytes, ...] | None = None
    delay_s: float = 0.0
    """Before the reply's head."""
    gap_s: float = 0.0
    """Between the events of a stream."""
    cut_after: int | None = None
    fail: bool = False
    sent: bool = True
    """Whether a call that fails had reached the provider."""
    hang: bool = False


def play(step: Step, call: Call, upstream: str, left: Callable[[], None] | None = None) -> Reply:
    """The reply that a step gives, its head at once; ``left`` is told when the caller leaves.

    Raises ``UpstreamFailed`` for a whole body that is cut.
    """
    headers, body, events = render(step, call.dialect, call.operation, call.body, call.stream)
    if events is None:
        if step.cut_after is not None:
            raise UpstreamFailed(f"Upstream {upstream!r} broke off.", sent=True)
        return Reply(status=step.status, headers=headers, body=body)
    playing = _Playing(upstream, step, events, left)
    chunks = Chunks(playing.next_chunk, playing.close, upstream=upstream)
    return Reply(status=step.status, headers=headers, chunks=chunks)


class _Playing:
    """A stream that is being played."""

    __slots__ = ("_events", "_left", "_sent", "_step", "_upstream")

    def __init__(
        self,
        upstream: str,
        step: Step,
        events: Sequence[bytes],
        left: Callable[[], None] | None,
    ) -> None:
        self._upstream = upstream
        self._step = step
        self._events = list(reversed(events))
        self._left = left
        self._sent = 0

    async def next_chunk(self) -> bytes:
        step = self._step
        if step.cut_after is not None and self._sent >= step.cut_after:
            raise UpstreamFailed(f"Upstream {self._upstream!r} broke off.", sent=True)
        if not self._events:
            return b""
        if step.gap_s and self._sent:
            await asyncio.sleep(step.gap_s)
        chunk = self._events.pop()
        if step.cut_after is not None:
            chunk = chunk[: step.cut_after - self._sent]
        self._sent += len(chunk)
        return chunk

    async def close(self) -> None:
        if self._left is not None:
            self._left()


def render(
    step: Step, dialect: Dialect, operation: str, body: bytes, stream: bool
) -> tuple[tuple[tuple[bytes, bytes], ...], bytes, tuple[bytes, ...] | None]:
    """A step on the wire: headers, a whole body, and the events where it is a stream."""
    model = _model(dialect, body)
    if step.chunks is not None:
        return ((b"content-type", b"text/event-stream"), *step.headers), b"", step.chunks
    streamed = stream and step.status < 400 and step.body is None
    kind = b"text/event-stream" if streamed else b"application/json"
    headers = ((b"content-type", kind), *step.headers)
    if step.body is not None:
        return headers, step.body, None
    answer = step.answer or Answer(text=DEFAULT)
    if streamed:
        return headers, b"", tuple(sse_events(dialect, answer, model, operation=operation))
    return headers, json_body(dialect, answer, model, status=step.status, operation=operation), None


def _model(dialect: Dialect, body: bytes) -> str:
    return parse_request(dialect, "other", body).model or "scripted-model"
