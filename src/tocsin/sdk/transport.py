"""The transports that a wrapped client sends through: ``httpx2`` or ``httpx``, sync and async.

Neither library is imported here: a client that is to be wrapped has loaded its own.
"""

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

from tocsin.core.call import Call
from tocsin.core.errors import CallError
from tocsin.providers.remote import WHOLE_BODY
from tocsin.sdk.engine import Closed, Engine
from tocsin.sdk.hands import Hands
from tocsin.sdk.line import END, Failure, Head, Item, Line, LoopLine, ThreadLine
from tocsin.sdk.sending import Answer, Errand, Route, cut, is_streamed

if TYPE_CHECKING:
    from concurrent.futures import Future

_LEAVE_S = 5.0
"""How long closing a stream waits for its record."""

TakeIn = Callable[[Engine, Any, bytes], tuple[Call, CallError | None]]
"""The call of a request."""
Running = Callable[[], Engine]
"""The engine, which counts one user more."""


class Wrapped:
    """What both transports share. ``client`` is the HTTP client that the app's client came with."""

    def __init__(
        self,
        client: Any,
        library: Any,
        route: Route,
        take_in: TakeIn,
        engine: Running,
        *,
        pieces: type[Any],
        base: type[Any],
    ) -> None:
        self.client = client
        self.library = library
        self.route = route
        self.take_in = take_in
        self.engine = engine
        # Of the library's own kind: it looks whether it is one.
        self._pieces = type("Pieces", (pieces, base), {})

    def begin(self, engine: Engine, errand: Errand, line: Line, body: bytes) -> None:
        """Give the call to Tocsin's loop, which counts this user out at its end."""
        try:
            call, refused = self.take_in(engine, errand.request, body)
            line.call = engine.submit(engine.serve(call, refused, errand, line))
        except BaseException:
            engine.leave()
            raise

    def failure(self, error: BaseException) -> BaseException:
        """The error that the app meets."""
        if isinstance(error, Closed):
            return self.library.RemoteProtocolError(str(error))  # type: ignore[no-any-return]
        return error

    def response(self, head: Head, line: Line) -> Any:
        """The client library's response."""
        if head.body is None:
            stream = self._pieces()
            stream.wrapped = self
            stream.line = line
        else:
            stream = self.library.ByteStream(head.body)
        return self.library.Response(
            head.status,
            headers=list(head.headers),
            stream=stream,
            extensions={"http_version": b"HTTP/1.1"},
        )


# -- from a thread --


class SyncTransport(Wrapped):
    """``handle_request`` as the library calls it, in the app's thread."""

    def __init__(
        self, client: Any, library: Any, route: Route, take_in: TakeIn, engine: Running
    ) -> None:
        super().__init__(
            client,
            library,
            route,
            take_in,
            engine,
            pieces=_SyncPieces,
            base=library.SyncByteStream,
        )

    def handle_request(self, request: Any) -> Any:
        """One request. Raises what the client's own transport would raise."""
        body = request.read()
        engine = self.engine()
        line = ThreadLine(engine.loop)
        self.begin(engine, _ThreadErrand(self, request, engine), line, body)
        try:
            item = line.get()
        except BaseException:  # Ctrl-C while it waits
            line.leave()
            raise
        if isinstance(item, Head):
            return self.response(item, line)
        raise self.failure(_error(item))

    def close(self) -> None:
        """Close the client's own connections."""
        self.client.close()


class _ThreadErrand:
    """One call of a synchronous client: its transport works in a thread that may block."""

    def __init__(self, wrapped: Wrapped, request: Any, engine: Engine) -> None:
        self.route = wrapped.route
        self.library = wrapped.library
        self.request = request
        self._client = wrapped.client
        self._hands = engine.hands
        self._context = contextvars.copy_context()

    async def send(self, request: Any) -> Answer:
        """See ``Errand``."""
        opening = _Opening(self._client, request)
        try:
            response, first, pieces = await self._hands.do(opening.run, self._context)
        except asyncio.CancelledError:
            opening.leave()
            raise
        rest = None
        if pieces is not None:
            rest = _ThreadBody(response, pieces, self._hands, self._context)
        return Answer(response.status_code, _lower(response), first, rest)


class _Opening:
    """A request on its way to its head. No thread can be called back: it is told to drop it."""

    def __init__(self, client: Any, request: Any) -> None:
        self._client = client
        self._request = request
        self._lock = threading.Lock()
        self._left = False
        self._response: Any = None

    def run(self) -> tuple[Any, bytes, Iterator[bytes] | None]:
        """In a thread: the response, what was read of its body, and what is still to come."""
        transport = self._client._transport_for_url(self._request.url)
        response = transport.handle_request(self._request)
        with self._lock:
            self._response = response
            left = self._left
        try:
            if left:
                raise ConnectionAbortedError("the call was given up")
            pieces = iter(response.stream)
            if is_streamed(_lower(response)):
                return response, b"", pieces
            read: list[bytes] = []
            size = 0
            for data in pieces:
                read.append(data)
                size += len(data)
                if size > WHOLE_BODY:
                    return response, b"".join(read), pieces
        except BaseException:
            response.close()
            raise
        response.close()
        return response, b"".join(read), None

    def leave(self) -> None:
        """Nobody wants the answer any more."""
        with self._lock:
            self._left = True
            response = self._response
        if response is not None:
            cut(response)  # the thread that reads it closes it


class _ThreadBody:
    """See ``Body``."""

    def __init__(
        self, response: Any, pieces: Iterator[bytes], hands: Hands, context: contextvars.Context
    ) -> None:
        self._response = response
        self._pieces = pieces
        self._hands = hands
        self._context = context
        self._reading = False

    async def next(self) -> bytes:
        self._reading = True
        data: bytes = await self._hands.do(self._read, self._context)
        self._reading = False
        return data

    def _read(self) -> bytes:
        for data in self._pieces:
            if data:
                return data
        self._response.close()
        return b""

    async def close(self) -> None:
        if self._reading:
            cut(self._response)
        await self._hands.do(self._close, self._context)

    def _close(self) -> None:
        with contextlib.suppress(Exception):  # it is broken off: whatever that is called
            self._response.close()


class _SyncPieces:
    """The body of an answer, as the client library iterates it."""

    wrapped: Wrapped
    line: ThreadLine

    def __iter__(self) -> Iterator[bytes]:
        while True:
            item = self.line.get()
            if type(item) is bytes:
                yield item
                continue
            self.line.call = None
            if item is END:
                return
            raise self.wrapped.failure(_error(item))

    def close(self) -> None:
        """Leave; returns when the call is on record."""
        if self.line.call is None:
            return
        self.line.leave()
        with contextlib.suppress(queue.Empty):
            while self.line.get(_LEAVE_S) is not END:
                pass
        self.line.call = None

    def __del__(self) -> None:
        self.line.leave()


# -- from a loop --


class AsyncTransport(Wrapped):
    """``handle_async_request`` as the library calls it, on the app's loop."""

    def __init__(
        self, client: Any, library: Any, route: Route, take_in: TakeIn, engine: Running
    ) -> None:
        super().__init__(
            client,
            library,
            route,
            take_in,
            engine,
            pieces=_AsyncPieces,
            base=library.AsyncByteStream,
        )

    async def handle_async_request(self, request: Any) -> Any:
        """One request. Raises what the client's own transport would raise."""
        body = await request.aread()
        here = _running_loop()
        engine = self.engine()
        line = LoopLine(engine.loop)
        self.begin(engine, _LoopErrand(self, request, here), line, body)
        try:
            item = await line.get()
        except BaseException:  # the task was cancelled while it waited
            line.leave()
            raise
        if isinstance(item, Head):
            return self.response(item, line)
        raise self.failure(_error(item))

    async def aclose(self) -> None:
        """Close the client's own connections."""
        await self.client.aclose()


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "A wrapped client runs on asyncio; under trio use the gateway, or the synchronous "
            "client in a thread."
        ) from None


class _LoopErrand:
    """One call of an asynchronous client: its transport works on the loop that it belongs to."""

    def __init__(self, wrapped: Wrapped, request: Any, here: asyncio.AbstractEventLoop) -> None:
        self.route = wrapped.route
        self.library = wrapped.library
        self.request = request
        self._client = wrapped.client
        self._here = here

    async def send(self, request: Any) -> Answer:
        """See ``Errand``."""
        answer: Answer = await _on(self._here, self._open(request))
        return answer

    async def _open(self, request: Any) -> Answer:
        """On the app's loop."""
        transport = self._client._transport_for_url(request.url)
        response = await transport.handle_async_request(request)
        status, headers = response.status_code, _lower(response)
        try:
            pieces = aiter(response.stream)
            rest = _LoopBody(response, pieces, self._here)
            if is_streamed(headers):
                return Answer(status, headers, b"", rest)
            read: list[bytes] = []
            size = 0
            async for data in pieces:
                read.append(data)
                size += len(data)
                if size > WHOLE_BODY:
                    return Answer(status, headers, b"".join(read), rest)
        except BaseException:
            await response.aclose()
            raise
        await response.aclose()
        return Answer(status, headers, b"".join(read), None)


class _LoopBody:
    """See ``Body``."""

    def __init__(
        self, response: Any, pieces: AsyncIterator[bytes], here: asyncio.AbstractEventLoop
    ) -> None:
        self._response = response
        self._pieces = pieces
        self._here = here

    async def next(self) -> bytes:
        data: bytes = await _on(self._here, self._read())
        return data

    async def _read(self) -> bytes:
        async for data in self._pieces:
            if data:
                return data
        await self._response.aclose()
        return b""

    async def close(self) -> None:
        # Not waited for: the app's loop may be about to end.
        work = self._close()
        try:
            asyncio.run_coroutine_threadsafe(work, self._here)
        except RuntimeError:  # it has ended, and its connections with it
            work.close()

    async def _close(self) -> None:
        with contextlib.suppress(Exception):  # it is broken off: whatever that is called
            await self._response.aclose()


async def _on(here: asyncio.AbstractEventLoop, work: Any) -> Any:
    """Run a coroutine on the app's loop and wait for it on this one."""
    try:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, here)
    except RuntimeError as error:
        work.close()
        raise ConnectionAbortedError("the app's event loop has ended") from error
    return await asyncio.wrap_future(future)


class _AsyncPieces:
    """The body of an answer, as the client library iterates it."""

    wrapped: Wrapped
    line: LoopLine

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            item = await self.line.get()
            if type(item) is bytes:
                yield item
                continue
            self.line.call = None
            if item is END:
                return
            raise self.wrapped.failure(_error(item))

    async def aclose(self) -> None:
        """Leave; returns when the call is on record."""
        if self.line.call is None:
            return
        self.line.leave()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                while await self.line.get() is not END:
                    pass
        self.line.call = None

    def __del__(self) -> None:
        self.line.leave()


# -- both --


def _error(item: Item) -> BaseException:
    return item.error if isinstance(item, Failure) else Closed("there was no answer")


def _lower(response: Any) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value) for name, value in response.headers.raw]
