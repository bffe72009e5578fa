"""``Births``: new operations go into the store together.

One that comes alone is written at once. What comes while a transaction is under way shares the
next one, so that a crowd that asks at the same moment costs few of them.
"""

import asyncio
from collections.abc import Sequence

from tocsin.core.errors import StoreError
from tocsin.core.operations import Event, Operation
from tocsin.operations.threads import Threads
from tocsin.store.operations_api import New, OperationsBook

_AT_ONCE = 256
"""So many in one transaction: those who ask first must not wait for all."""
_FAILURES = 3
"""So many that fail one after the other, alone, and the store is at fault."""

Waiting = tuple[New, "asyncio.Future[bool]"]


class Births:
    """Keeps new operations. Used on one event loop."""

    def __init__(self, book: OperationsBook, threads: Threads) -> None:
        self._book = book
        self._threads = threads
        self._waiting: list[Waiting] = []
        self._task: asyncio.Task[None] | None = None

    def keep(
        self, operation: Operation, body: bytes, events: Sequence[Event]
    ) -> "asyncio.Future[bool]":
        """Done when it is in the store; ``False``: its id was known. It is kept even if the
        future is cancelled."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        self._waiting.append((New(operation, body, events), future))
        if self._task is None:
            self._task = loop.create_task(self._write())
        return future

    async def drained(self) -> None:
        """Wait until nothing is on its way."""
        while self._task is not None:
            await asyncio.wait((self._task,))

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch = self._waiting[:_AT_ONCE]
                del self._waiting[:_AT_ONCE]
                await self._together(batch)
        finally:
            self._task = None
            left, self._waiting = self._waiting, []
            for _, future in left:
                future.cancel()

    async def _together(self, batch: list[Waiting]) -> None:
        try:
            made = await self._kept([new for new, _ in batch])
        except Exception as error:
            if len(batch) == 1:
                _fail(batch[0][1], error)
            else:
                await self._apart(batch)
            return
        for (_, future), new in zip(batch, made, strict=True):
            if not future.done():
                future.set_result(new)

    async def _apart(self, batch: list[Waiting]) -> None:
        """One of them is at fault, or the store is."""
        failures = 0
        error: Exception = StoreError("The store failed.")
        for new, future in batch:
            if failures >= _FAILURES:
                _fail(future, error)
                continue
            try:
                made = await self._kept([new])
            except Exception as failed:
                error = failed
                failures += 1
                _fail(future, error)
            else:
                failures = 0
                if not future.done():
                    future.set_result(made[0])

    async def _kept(self, batch: list[New]) -> tuple[bool, ...]:
        newest = max(new.operation.created_at for new in batch)
        return await self._threads.write(self._book.create_many, batch, beat_at=newest)


def _fail(future: "asyncio.Future[bool]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


__all__ = ["Births"]
