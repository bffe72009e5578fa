"""The off path: what happens to records after they are safe. Nothing here is on a call's way."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from tocsin.config.model import StoreSettings
from tocsin.core.clock import Clock
from tocsin.core.errors import StoreError
from tocsin.store.api import Store
from tocsin.worker.quiet import quiet_pool, quietly, use

log = logging.getLogger("tocsin.worker")

_DAY_US = 86_400 * 1_000_000


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Something done again and again. ``run`` returns whether there is more to do at once."""

    name: str
    every_s: float
    run: Callable[[], Awaitable[bool]]
    trouble: Callable[[], Mapping[str, str]] | None = None
    """What fails inside a job that goes on all the same: error by name."""
    stop: Callable[[], None] | None = None
    """Called in a thread after the last turn."""


class Worker:
    """Runs each job on its own schedule; one that fails is tried again at its next turn."""

    def __init__(self, jobs: tuple[Job, ...]) -> None:
        self._jobs = jobs
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self._pool = quiet_pool()
        self.trouble: dict[str, str] = {}
        """Last error by job, until it succeeds."""

    def start(self) -> None:
        """Begin on the running loop."""
        self._tasks = [
            asyncio.create_task(self._repeat(job), name=f"tocsin-{job.name}") for job in self._jobs
        ]

    async def stop(self) -> None:
        """Let the turn of each job that is under way end, then stop."""
        self._stop.set()
        if self._tasks:
            _, pending = await asyncio.wait(self._tasks, timeout=10)
            for task in pending:
                task.cancel()
        self._tasks = []
        self._pool.shutdown(wait=False)

    async def _repeat(self, job: Job) -> None:
        use(self._pool)
        while not self._stop.is_set():
            more = False
            try:
                more = await job.run()
                self._went_through(job)
            except StoreError as error:
                self.trouble[job.name] = str(error)
                log.warning("%s: %s; trying again in %g s", job.name, error, job.every_s)
            except Exception as error:
                self.trouble[job.name] = f"{type(error).__name__}: {error}"
                log.exception("%s failed; trying again in %g s", job.name, job.every_s)
            if not more:
                try:
                    async with asyncio.timeout(job.every_s):
                        await self._stop.wait()
                except TimeoutError:
                    continue
        if job.stop is not None:
            try:
                await quietly(job.stop)
            except Exception as error:
                log.warning("%s did not end well: %s", job.name, error)

    def _went_through(self, job: Job) -> None:
        inside = job.trouble() if job.trouble is not None else {}
        if inside:
            self.trouble[job.name] = "; ".join(f"{name}: {said}" for name, said in inside.items())
        else:
            self.trouble.pop(job.name, None)


def store_jobs(store: Store, settings: StoreSettings, clock: Clock) -> tuple[Job, ...]:
    """Searching, folding, retention: the care that a store needs while it is in use."""

    async def index() -> bool:
        return await quietly(store.index, limit=500) >= 500

    waiting_since: list[int] = []

    async def fold() -> bool:
        stats = await quietly(_backlog, store)
        now = clock.monotonic_us()
        if stats < 1000:
            waiting_since.clear()
            return False
        if not waiting_since:
            waiting_since.append(now)
        due = now - waiting_since[0] >= settings.fold_seconds * 1e6
        if stats < settings.fold_rows and not due:
            return False
        waiting_since.clear()
        await _in_own_thread(store.fold)
        return False

    async def sweep() -> bool:
        days, gib = settings.keep_days, settings.max_gib
        if days is None and gib is None:
            return False
        swept = await quietly(
            lambda: store.sweep(
                older_than=None if days is None else clock.now_us() - int(days * _DAY_US),
                max_bytes=None if gib is None else int(gib * 2**30),
            )
        )
        if swept.interactions or swept.operations:
            log.info(
                "retention: %d calls and %d operations deleted, %d bytes given back",
                swept.interactions,
                swept.operations,
                swept.freed_bytes,
            )
        return False

    return (
        Job(name="index", every_s=1.0, run=index),
        Job(name="fold", every_s=5.0, run=fold),
        Job(name="sweep", every_s=600.0, run=sweep),
    )


def _backlog(store: Store) -> int:
    """Rows that are in no segment yet."""
    stats = store.stats()
    return stats.last_seq - stats.folded_seq


async def _in_own_thread(work: Callable[[], object]) -> None:
    """Run something heavy in a thread that ends with it, so that its memory goes too."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            loop.call_soon_threadsafe(_fail, future, error)
        else:
            loop.call_soon_threadsafe(_succeed, future)

    threading.Thread(target=run, name="tocsin-fold", daemon=True).start()
    await future


def _fail(future: "asyncio.Future[None]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def _succeed(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
