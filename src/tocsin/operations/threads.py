"""Where the store is asked, so that it never holds up the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from tocsin.core.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """One thread that writes, in the order in which it was asked; two that read."""

    def __init__(self) -> None:
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="tocsin-operations-write")
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="tocsin-operations-read")
        self._closed = False

    async def write(self, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do something that changes the store. It happens even if the caller is cancelled.

        This and ``read`` raise ``Unavailable`` after the end."""
        self._check()
        loop = asyncio.get_running_loop()
        call = partial(act, *args, **kwargs)
        return await asyncio.shield(loop.run_in_executor(self._writer, call))

    async def read(self, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Ask the store something."""
        self._check()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, partial(act, *args, **kwargs))

    def _check(self) -> None:
        if self._closed:
            raise Unavailable("Tocsin is stopping: ask again.")

    def close(self) -> None:
        """Wait for what is under way; nothing is taken after this."""
        self._closed = True
        self._writer.shutdown(wait=True)
        self._readers.shutdown(wait=True)
