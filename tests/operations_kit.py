"""Engines on a real store, for tests of operations."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from tocsin.core.call import Principal
from tocsin.core.ids import new_id
from tocsin.core.operations import Answered, Ending, Event, Kind, Operation, Work
from tocsin.operations import Operations, Settings
from tocsin.store import Store

OWNER = Principal(key_id="key_1", name="ann", role="caller")
SECOND = 1_000_000

Run = Callable[[Work], Awaitable[Ending]]

SETTINGS = Settings(poll_s=0.02, owner_timeout_s=0.4, linger_s=0.05)


async def no_model(*args: Any) -> Answered:
    """For kinds that ask no model."""
    raise AssertionError("no model is asked here")


def kind(run: Run, name: str = "work", **fields: Any) -> Kind:
    """A kind that runs so."""
    return Kind(name=name, summary="for a test", run=run, **fields)


class World:
    """One store, one clock, and engines that stand for processes."""

    def __init__(self, store: Store, clock: Any) -> None:
        self.store = store
        self.book = store.operations
        self.clock = clock
        self.engines: list[Operations] = []

    async def engine(self, *kinds: Kind, settings: Settings = SETTINGS, **more: Any) -> Operations:
        """A process that has started."""
        engine = self.unstarted(*kinds, settings=settings, **more)
        await engine.start()
        return engine

    def unstarted(self, *kinds: Kind, settings: Settings = SETTINGS, **more: Any) -> Operations:
        """A process that takes nothing over and beats only as it creates."""
        engine = Operations(
            self.book,
            self.clock,
            settings=lambda: settings,
            kinds=kinds,
            ask=more.pop("ask", no_model),
            **more,
        )
        self.engines.append(engine)
        return engine

    def operation(self, name: str = "work", **fields: Any) -> Operation:
        """One to be created."""
        now = self.clock.now_us()
        base = {"id": new_id("op", now), "kind": name, "feature": "f", "created_at": now}
        return Operation(**{**base, "key_id": OWNER.key_id, "background": True, **fields})

    async def begin(
        self, engine: Operations, body: bytes = b"{}", name: str = "work", **fields: Any
    ) -> str:
        """Create one; its id."""
        made = await engine.create(self.operation(name, **fields), body, principal=OWNER)
        return made.id

    async def die(self, engine: Operations) -> None:
        """As after kill -9: it writes nothing more, and says goodbye to nobody."""
        runner = engine._runner
        for live in list(runner.lives.values()):
            live.cut = "lost"
            if live.task is not None:
                live.task.cancel()
        await engine._watch.stop()
        await asyncio.sleep(0)

    async def close(self) -> None:
        """Stop whatever runs."""
        for engine in self.engines:
            with contextlib.suppress(Exception):
                await engine.stop(0)


async def all_of(events: AsyncIterator[Event]) -> list[Event]:
    """Every event until the end."""
    return [event async for event in events]


async def until(true: Callable[[], Any], timeout_s: float = 5.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(timeout_s):
        while not true():  # noqa: ASYNC110  what is awaited has no event of its own
            await asyncio.sleep(0.005)
