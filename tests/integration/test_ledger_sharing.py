"""Two processes on one account: what one does not need, the other gets, before it is refused."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tocsin.config.model import LedgerSettings
from tocsin.core.clock import SystemClock
from tocsin.core.ledger import Amounts, Limit
from tocsin.ledger import Ledger
from tocsin.ledger.diary import PLAIN
from tocsin.ledger.settling import Settled
from tocsin.ledger.waiting import RECALL_S, Shortfall
from tocsin.providers.pricing import Pricer
from tocsin.store.ledger_api import LedgerBook, Turn, Turned

CAP = 1000


class Halting:
    """A book whose turns that answer a recall wait until they may go on, and that says when a
    recall was begun."""

    def __init__(self, book: LedgerBook) -> None:
        self._book = book
        self.recalled = threading.Event()
        self.halting = False
        self.halted = threading.Event()
        self.go_on = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._book, name)

    def turn(self, turn: Turn) -> Turned:
        if self.halting and any(lease.answers for lease in turn.leases):
            self.halting = False
            self.halted.set()
            assert self.go_on.wait(10)
        turned = self._book.turn(turn)
        if any(ask.recall for ask in turn.asks):
            self.recalled.set()
        return turned


class Process:
    """A ledger with one limit on a store that others use, too."""

    def __init__(self, book: Any, folder: Path) -> None:
        self.ledger = Ledger(
            book,
            folder,
            SystemClock(),
            limits=[Limit(name="all", tokens=CAP, warn_at=())],
            # A lease is what is asked for, no more: tests say who has what.
            settings=LedgerSettings(lease_fraction=0.001),
            pricer=Pricer({}),
            alert=lambda alert: None,
        )

    async def take(self, tokens: int) -> int | Shortfall:
        """Hold so many tokens."""
        ledger = self.ledger
        return await ledger.acquire(
            (ledger.till.purse(ledger.limits[0], "", ""),), (0, tokens, 1, 0)
        )

    async def keep(self, tokens: int) -> None:
        """Have so many tokens that no call holds."""
        self.give(await self.take(tokens), 0)

    def give(self, number: int | Shortfall, used: int) -> None:
        """Settle."""
        assert isinstance(number, int)
        self.ledger.settle(number, (0, used, 1, 0), PLAIN)


@asynccontextmanager
async def sharing(
    book: Any, folder: Path, other: Any = None
) -> AsyncIterator[tuple[Process, Process]]:
    """Two processes that know of each other."""
    one, two = Process(book, folder / "one"), Process(other or book, folder / "two")
    await one.ledger.start()
    await two.ledger.start()
    await one.keep(1)  # its first turn did not see the other
    await asyncio.sleep(0.6)
    assert one.ledger.till.company
    try:
        yield one, two
    finally:
        await one.ledger.stop()
        await two.ledger.stop()


async def test_pieces_that_both_have_serve_one_call_when_both_need_more(
    store: Any, tmp_path: Path
) -> None:
    async with sharing(store.ledger, tmp_path) as (one, two):
        await one.keep(300)
        await two.keep(300)
        # Of 1000 tokens each has 300 that nobody holds, and each now needs 800.
        found = await asyncio.gather(one.take(800), two.take(800))
        assert [isinstance(number, int) for number in found].count(True) == 1


async def test_a_refusal_rests_on_what_others_say_after_the_call_came(
    store: Any, tmp_path: Path
) -> None:
    asking, book = Halting(store.ledger), Halting(store.ledger)
    async with sharing(asking, tmp_path, book) as (one, two):
        long = await two.take(500)
        book.halting = True
        first = asyncio.create_task(one.take(900))
        assert await asyncio.to_thread(book.halted.wait, 10)
        # The other process is about to say what it held when the first call came. Before it is
        # heard, its call ends and a second call comes here.
        two.give(long, 0)
        asking.recalled.clear()
        second = asyncio.create_task(one.take(700))
        assert await asyncio.to_thread(asking.recalled.wait, 10)
        book.go_on.set()
        assert isinstance(await first, Shortfall | int)
        if isinstance(first.result(), int):
            one.give(first.result(), 0)
        assert isinstance(await second, int)


async def test_what_calls_took_that_have_just_ended_is_known_before_a_refusal(
    store: Any, tmp_path: Path
) -> None:
    async with sharing(store.ledger, tmp_path) as (one, two):
        ended = await two.take(900)
        assert isinstance(ended, int)
        counting = threading.Event()

        def estimate() -> Settled:
            assert counting.wait(10)
            return Settled((0, 100, 1, 0))

        two.ledger.settle_later(ended, estimate, lambda pools: None)
        waiting = asyncio.create_task(one.take(700))
        asyncio.get_running_loop().call_later(0.15, counting.set)
        assert isinstance(await waiting, int)


async def test_a_refusal_comes_soon_when_others_hold_what_is_missing(
    store: Any, tmp_path: Path
) -> None:
    async with sharing(store.ledger, tmp_path) as (one, two):
        held = await two.take(800)
        began = asyncio.get_running_loop().time()
        assert isinstance(await one.take(700), Shortfall)
        assert asyncio.get_running_loop().time() - began < RECALL_S / 2
        two.give(held, 0)
        assert isinstance(await one.take(700), int)


@pytest.mark.parametrize("engine", ["sqlite"])
async def test_alone_a_refusal_waits_for_nobody(store: Any, tmp_path: Path, engine: str) -> None:
    alone = Process(store.ledger, tmp_path / "alone")
    await alone.ledger.start()
    held = await alone.take(900)
    turns: list[Turn] = []
    original = alone.ledger._book.turn
    alone.ledger._book.turn = lambda turn: (turns.append(turn), original(turn))[1]  # type: ignore[method-assign]
    assert isinstance(await alone.take(700), Shortfall)
    assert len(turns) == 1
    alone.give(held, 100)
    assert isinstance(await alone.take(700), int)
    assert (await asyncio.to_thread(alone.ledger.accounts))[0].spent == Amounts(0, 100, 1, 0)
    await alone.ledger.stop()
