"""``Hands``: threads for the blocking work of clients that are not asynchronous."""

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")
_Job = Callable[[], None]

_IDLE_S = 30.0


class Hands:
    """As many threads as there is work at once; idle ones end after a while.

    Not ``ThreadPoolExecutor``: the interpreter waits for its threads when it ends, and one that
    reads from a silent upstream would hold the process up for minutes.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0

    async def do(self, work: Callable[[], Result], context: contextvars.Context) -> Result:
        """Run ``work`` in a thread, in a copy of ``context``. Cancelling only stops the waiting."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        inside = context.copy()

        def job() -> None:
            result: Result | None = None
            error: BaseException | None = None
            try:
                result = inside.run(work)
            except BaseException as failure:
                error = failure
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(_settle, future, result, error)

        self._give(job)
        return await future

    def stop(self) -> None:
        """Let the idle threads end; those at work end as their work does."""
        with self._lock:
            idle, self._idle = self._idle, 0
        for _ in range(idle):
            self._jobs.put(None)

    def _give(self, job: _Job) -> None:
        with self._lock:
            start = self._idle == 0
            if not start:
                self._idle -= 1
        self._jobs.put(job)
        if start:
            threading.Thread(target=self._work, name="tocsin-sdk-call", daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._idle > 0:
                        self._idle -= 1
                        return
                continue  # a job was promised to this thread between the two
            if job is None:
                return
            job()
            del job
            with self._lock:
                self._idle += 1


def _settle(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration):  # no future can carry it
        future.set_exception(RuntimeError("the client's transport raised StopIteration"))
    else:
        future.set_exception(error)
