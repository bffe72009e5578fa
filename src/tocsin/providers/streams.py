"""``Chunks``: an answer's bytes on their way, the one shape that every provider's stream has."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

from tocsin.core.errors import UpstreamFailed
from tocsin.providers.http_errors import OutboundError, OutboundTimeout

Ended = Callable[[str | None], None]
"""Told once how a stream ended: ``None`` at its end, else ``type: message``."""

LEFT = "cancelled: the caller left before the end"


class Chunks:
    """An asynchronous iterator over wire bytes that can be closed early.

    ``next_chunk`` gives the next bytes and ``b""`` at the end, ``close`` lets go of the upstream.
    A class and not a generator, because a generator that was never started cannot be closed: its
    upstream would run on.

    Iterating raises ``UpstreamFailed`` when the upstream breaks off. Use from one task at a time.
    """

    __slots__ = ("_close", "_done", "_first", "_next", "_upstream", "ended")

    def __init__(
        self,
        next_chunk: Callable[[], Awaitable[bytes]],
        close: Callable[[], Awaitable[None]],
        *,
        upstream: str,
        first: bytes = b"",
    ) -> None:
        self._next = next_chunk
        self._close = close
        self._upstream = upstream
        self._first = first
        self._done = False
        self.ended: Ended | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        if self._done:
            raise StopAsyncIteration
        chunk = await self._read()
        if not chunk:
            self._end(None)
            raise StopAsyncIteration
        return chunk

    async def prime(self) -> bytes:
        """Wait for the first bytes without taking them; ``b""`` when the stream is empty.

        Raises what iterating raises: up to here nothing was promised to anybody.
        """
        if not self._first and not self._done:
            self._first = await self._read()
            if not self._first:
                self._end(None)
        return self._first

    async def aclose(self) -> None:
        """Cancel what is left. Does nothing after the end; may be called again."""
        self._first = b""
        if not self._done:
            self._end(LEFT)
            await self._close()

    async def _read(self) -> bytes:
        try:
            return await self._next()
        except OutboundError as error:
            failure = upstream_failed(self._upstream, error)
            self._end(f"{type(error).__name__}: {error}")
            raise failure from error
        except UpstreamFailed as error:
            self._end(f"{type(error).__name__}: {error}")
            raise
        except BaseException:
            # A read that was cancelled has let go of the upstream; there is nothing to go on with.
            self._end(LEFT)
            await self._close()
            raise

    def _end(self, error: str | None) -> None:
        self._done = True
        ended, self.ended = self.ended, None
        if ended is not None:
            ended(error)


def upstream_failed(upstream: str, error: OutboundError) -> UpstreamFailed:
    """What the client's error means for the call."""
    failure = UpstreamFailed(
        f"Upstream {upstream!r} gave no answer: {error}",
        sent=error.sent,
        timeout=isinstance(error, OutboundTimeout),
    )
    failure.retryable = error.transient
    return failure


def as_chunks(source: AsyncIterator[bytes], upstream: str) -> Chunks:
    """Any stream as ``Chunks``, so that it can be waited for and closed."""
    if isinstance(source, Chunks):
        return source
    iterator = aiter(source)

    async def next_chunk() -> bytes:
        async for chunk in iterator:
            if chunk:
                return chunk
        return b""

    async def close() -> None:
        end = getattr(iterator, "aclose", None)
        if end is not None:
            await end()

    return Chunks(next_chunk, close, upstream=upstream)
