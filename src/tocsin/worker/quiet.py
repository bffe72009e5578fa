"""Work of jobs in threads that give way to calls."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from tocsin.core.threads import give_way

_P = ParamSpec("_P")
_T = TypeVar("_T")
_THREADS = 3

_pool: contextvars.ContextVar[ThreadPoolExecutor | None] = contextvars.ContextVar(
    "quiet", default=None
)


def quiet_pool() -> ThreadPoolExecutor:
    """Threads for the jobs of one worker, to be shut down by it."""
    return ThreadPoolExecutor(_THREADS, "tocsin-quiet", initializer=give_way)


def use(pool: ThreadPoolExecutor) -> None:
    """``quietly`` uses this pool in the current task and what it starts."""
    _pool.set(pool)


async def quietly(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """As ``asyncio.to_thread``, in a thread that gives way to calls; outside of a worker in an
    ordinary one."""
    pool = _pool.get()
    if pool is None:
        return await asyncio.to_thread(work, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(pool, partial(work, *args, **kwargs))


__all__ = ["quiet_pool", "quietly", "use"]
