"""``Engine``: a working Tocsin on a loop of its own, in a thread of its own.

Whatever the app is (threads, one loop, several loops one after the other), the journal, the ledger
and the policies run in one place. The thread is a daemon; ``close`` ends it in order, at the latest
when the interpreter ends.
"""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from tocsin.app import App, build, secrets_of
from tocsin.config.model import Config
from tocsin.core.call import Call, Headers
from tocsin.core.errors import CallError, UpstreamFailed
from tocsin.core.redact import SECRET_HEADERS, Redactor
from tocsin.core.wire import error_body, error_event
from tocsin.runtime.intake import ERROR_HEADER, answer_headers
from tocsin.runtime.policies import close_chunks
from tocsin.sdk.hands import Hands
from tocsin.sdk.line import END, Failure, Head, Line
from tocsin.sdk.sending import ERRAND, Errand, dispatch

log = logging.getLogger("tocsin.sdk")

Result = TypeVar("Result")

_STOP_S = 35.0
_SECRETS = 256
"""Keys of the app that are told to the redactor; the latest ones."""


class Closed(Exception):
    """Tocsin was closed while the call was under way, or a policy's time limit cut it."""


class Engine:
    """Starts on ``start``; ``submit`` runs coroutines on its loop."""

    app: App

    def __init__(self, config: Config) -> None:
        self._config = config
        self._loop = _Loop()
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="tocsin-sdk", daemon=True)
        self._secrets: dict[bytes, str] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._users = 0
        self._unused = threading.Condition()
        self.hands = Hands()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that everything of Tocsin runs on."""
        return self._loop

    def start(self) -> None:
        """Open the store and begin. Raises ``ConfigError`` or ``StoreError``."""
        self._thread.start()
        self._ready.result()

    def enter(self) -> "Engine":
        """Count a user in: while there is one, the engine is not put to rest for a fork."""
        with self._unused:
            self._users += 1
        return self

    def leave(self) -> None:
        """Count a user out; from any thread."""
        with self._unused:
            self._users -= 1
            if not self._users:
                self._unused.notify_all()

    def rest(self, timeout_s: float) -> bool:
        """Stop, unless somebody still uses it after ``timeout_s``. Whether it has stopped."""
        if threading.current_thread() is self._thread:
            return False
        with self._unused:
            if not self._unused.wait_for(lambda: not self._users, timeout_s):
                return False
        self.stop()
        return True

    def submit(self, work: Coroutine[Any, Any, Result]) -> "Future[Result]":
        """Run a coroutine on the engine's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def stop(self) -> None:
        """End the calls under way, write every record, close the store."""
        if not self._thread.is_alive():
            return
        with contextlib.suppress(RuntimeError):  # it is ending already
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_S)
        self.hands.stop()

    def _run(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        try:
            self.app = build(self._config, providers={}, dispatch=dispatch)
            loop.run_until_complete(self.app.start())
        except BaseException as error:
            self._ready.set_exception(error)
            loop.close()
            return
        self._ready.set_result(None)
        try:
            loop.run_forever()
            loop.run_until_complete(self._finish())
        except Exception:
            log.exception("Tocsin did not end in order; the journal keeps what was not stored")
        finally:
            loop.close()

    async def _finish(self) -> None:
        calls = list(self._calls)
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self.app.stop()

    # -- calls --

    async def serve(
        self, call: Call, refused: CallError | None, errand: Errand, line: Line
    ) -> None:
        """One call, from its taking in to the last word on its line. Never raises."""
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        ERRAND.set(errand)
        try:
            await self._answer(call, refused, line)
        except CallError as error:
            line.put(_last_word(call, error, line.head))
        except asyncio.CancelledError:
            line.put(Failure(Closed("the call was cut off")))
        except BaseException as error:
            line.put(Failure(error))
        finally:
            self._calls.discard(task)
            self.leave()
            line.put(END)

    async def _answer(self, call: Call, refused: CallError | None, line: Line) -> None:
        runtime = self.app.runtime
        if refused is not None:
            raise runtime.refuse(call, refused)
        async with runtime.call(call) as reply:
            headers = [*reply.headers, *answer_headers(call)]
            whole = None if reply.chunks is not None else reply.body or b""
            line.begin(Head(reply.status, headers, whole))
            if reply.chunks is None:
                return
            try:
                async for data in reply.chunks:
                    await line.piece(data)
            finally:
                await close_chunks(reply)

    def keep_secret(self, headers: Headers) -> None:
        """Tell the redactor the app's own keys: providers repeat what they refuse."""
        for name, value in headers:
            if name in SECRET_HEADERS and value not in self._secrets:
                if len(self._secrets) >= _SECRETS:
                    self._secrets.pop(next(iter(self._secrets)))
                self._secrets[value] = value.decode("latin-1").rpartition(" ")[2]
                known = secrets_of(self._config, os.environ)
                self.app.runtime.redactor = Redactor([*known, *self._secrets.values()])


def _last_word(call: Call, error: CallError, begun: Head | None) -> Head | Failure | bytes:
    """How an error reaches the app: as an answer that its client knows how to raise."""
    if isinstance(error, UpstreamFailed) and isinstance(error.__cause__, Exception):
        return Failure(error.__cause__)  # what the client's own transport met, the client meets
    if begun is None:
        return _error_head(call, error)
    if _takes_events(begun):
        return error_event(call.dialect, error)
    return Failure(Closed(error.message))


def _takes_events(head: Head) -> bool:
    """Whether an answer that has begun so can end with an event that is written in plain."""
    events = any(
        n == b"content-type" and v.startswith(b"text/event-stream") for n, v in head.headers
    )
    return events and not any(name == b"content-encoding" for name, _ in head.headers)


def _error_head(call: Call, error: CallError) -> Head:
    headers = [
        (b"content-type", b"application/json"),
        (b"x-should-retry", b"true" if error.retryable else b"false"),
        (ERROR_HEADER, error.code.encode("latin-1", "replace")),
    ]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after_s))))
    return Head(error.status, [*headers, *answer_headers(call)], error_body(call.dialect, error))


class _Loop(asyncio.SelectorEventLoop):
    """A loop that works until the very end of the interpreter.

    When the main thread has ended, no pool of threads takes work any more, while other threads of
    the app may still call, and what is to be written must be written: it is done on the spot then.
    """

    def run_in_executor(  # type: ignore[override]  # as the base class has it, generics aside
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        try:
            return super().run_in_executor(executor, func, *args)
        except RuntimeError:
            if self.is_closed():
                raise
        future: asyncio.Future[Any] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future
