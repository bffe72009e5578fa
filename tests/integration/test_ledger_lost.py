"""Processes that nobody hears of any more, and accounts that are looked for or forgotten."""

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

from store_world import StoppedClock, entry
from tocsin.config.model import LedgerSettings
from tocsin.core.ledger import Amounts, Limit
from tocsin.ledger import Ledger
from tocsin.ledger.diary import PLAIN
from tocsin.ledger.waiting import Shortfall
from tocsin.providers.pricing import Pricer
from tocsin.store.ledger import LOST_US
from tocsin.testing import FakeClock

LOST_S = LOST_US / 1_000_000
ALL = Limit(name="all", tokens=1000)


def ledger(store: Any, folder: Path, clock: Any, *limits: Limit) -> Ledger:
    return Ledger(
        store.ledger,
        folder,
        clock,
        limits=limits or (ALL,),
        settings=LedgerSettings(lease_fraction=0.001),
        pricer=Pricer({}),
        alert=lambda alert: None,
    )


async def take(one: Ledger, tokens: int) -> int | Shortfall:
    return await one.acquire((one.till.purse(one.limits[0], "", ""),), (0, tokens, 1, 0))


async def held(one: Ledger, tokens: int) -> int:
    number = await take(one, tokens)
    assert isinstance(number, int)
    return number


async def silence(one: Ledger) -> None:
    """Let a process do nothing any more, as if its machine were suspended."""
    assert one._task is not None
    one._task.cancel()
    await asyncio.wait([one._task])


def kill(one: Ledger) -> None:
    """What the kernel does at ``kill -9``: locks go, mapped pages stay."""
    journal = one.till._diary._journal
    for segment in [*journal._old, *journal._spare, journal._current]:
        segment.map.close()
        os.close(segment.fd)
    for thread in (one._thread, one._counting):
        assert thread is not None
        thread.shutdown()


async def only(one: Ledger, **where: Any) -> Any:
    [account] = await asyncio.to_thread(lambda: one.accounts(**where))
    return account


async def test_what_a_lost_machine_had_is_held_then_uncertain_then_reconciled(
    store: Any, tmp_path: Path
) -> None:
    clock = FakeClock()
    lost, here = ledger(store, tmp_path / "there", clock), ledger(store, tmp_path / "here", clock)
    await lost.start()
    lost.settle(await held(lost, 100), (0, 60, 1, 0), PLAIN)
    await held(lost, 300)
    lost.settle(await held(lost, 40), (0, 0, 0, 0), PLAIN)
    await lost._turn({})
    await silence(lost)
    kill(lost)
    shutil.rmtree(tmp_path / "there")
    await here.start()
    account = await only(here)
    assert (account.spent.tokens, account.held.tokens, account.uncertain.tokens) == (60, 300, 0)
    clock.advance(LOST_S + 1)
    account = await only(here)
    # Of the lease of 340 nobody knows more than that it may all be spent.
    assert (account.spent.tokens, account.held.tokens, account.uncertain.tokens) == (400, 0, 340)
    assert isinstance(await take(here, 601), Shortfall)
    account = await asyncio.to_thread(
        lambda: here.reconcile("all", "", None, Amounts(tokens=200, calls=1), "ann")
    )
    assert (account.spent.tokens, account.uncertain.tokens) == (260, 0)
    assert isinstance(await take(here, 740), int)
    await here.stop()


async def test_a_folder_that_was_deleted_counts_in_full_at_the_next_start(
    store: Any, tmp_path: Path
) -> None:
    clock = FakeClock()
    lost = ledger(store, tmp_path / "ledger", clock)
    await lost.start()
    await held(lost, 300)
    await lost._turn({})
    await silence(lost)
    kill(lost)
    for journal in (tmp_path / "ledger").glob("*.journal"):
        journal.unlink()
    clock.advance(11)
    again = ledger(store, tmp_path / "ledger", clock)
    await again.start()
    account = await only(again)
    assert (account.spent.tokens, account.uncertain.tokens) == (300, 300)
    await again.stop()


async def test_a_process_that_was_given_up_spends_nothing_from_its_old_leases(
    store: Any, tmp_path: Path
) -> None:
    clock = FakeClock()
    asleep = ledger(store, tmp_path / "there", clock)
    here = ledger(store, tmp_path / "here", clock)
    await asleep.start()
    under_way = await held(asleep, 300)
    asleep.settle(await held(asleep, 200), (0, 0, 0, 0), PLAIN)
    await asleep._turn({})
    await silence(asleep)
    clock.advance(LOST_S + 1)
    await here.start()
    # Somebody says that what it had was not spent: all of it can be spent here.
    await asyncio.to_thread(lambda: here.reconcile("all", "", None, Amounts(), "ann"))
    await held(here, 1000)
    # Now it wakes. What it had free is gone; what its call took counts all the same.
    asleep._task = asyncio.create_task(asleep._keep())
    assert isinstance(await take(asleep, 100), Shortfall)
    asleep.settle(under_way, (0, 250, 1, 0), PLAIN)
    await asleep.stop()
    account = await only(here)
    assert (account.spent.tokens, account.held.tokens) == (250, 1000)
    await here.stop()


async def test_an_old_run_is_found_and_a_value_that_nobody_has_is_not(
    store: Any, tmp_path: Path
) -> None:
    clock = FakeClock()
    runs = Limit(name="runs", per="run", scope="feature", tokens=1000)
    one = ledger(store, tmp_path / "ledger", clock, ALL, runs)
    await one.start()
    for number in range(20):
        number_ = await one.acquire((one.till.purse(runs, "f", f"r{number}"),), (0, 1, 1, 0))
        assert isinstance(number_, int)
        one.settle(number_, (0, number, 1, 0), PLAIN)
        clock.advance(1)
    await asyncio.sleep(0.6)
    assert (await only(one, run_id="r3", most=2)).spent.tokens == 3
    assert (await only(one, value="f", run_id="r4", most=2)).spent.tokens == 4
    found = await asyncio.to_thread(lambda: one.accounts(value="f", most=2))
    assert [account.run_id for account in found] == ["r19", "r18"]
    assert await asyncio.to_thread(lambda: one.accounts(value="nobody")) == []
    assert (await only(one, value="")).limit.name == "all"
    await one.stop()


async def test_an_end_user_that_is_deleted_has_no_account_and_no_name_anywhere(
    store: Any, tmp_path: Path
) -> None:
    clock = StoppedClock()
    users = Limit(name="users", scope="end_user", tokens=1000)
    keys = Limit(name="keys", scope="key", tokens=1000)
    one = ledger(store, tmp_path / "ledger", clock, users, keys, ALL)
    await one.start()
    for user in ("ann", "bob"):
        purses = [one.till.purse(users, user, ""), one.till.purse(keys, "ann", "")]
        number = await one.acquire((*purses, one.till.purse(ALL, "", "")), (0, 10, 1, 0))
        assert isinstance(number, int)
        one.settle(number, (0, 10, 1, 0), PLAIN)
    for user in ("ann", "bob"):
        await asyncio.to_thread(one.add, "users", user, None, Amounts(tokens=5), "eve")
    await one.stop()
    store.append([entry(1, end_user="ann")])
    store.delete_end_user("ann")
    assert [row.value for row in store.ledger.accounts("users", most=10)] == ["bob"]
    await one.start()
    assert (await only(one, limit="users")).spent.tokens == 10
    assert (await only(one, limit="keys")).spent.tokens == 20
    assert (await only(one, limit="all")).spent.tokens == 20
    await one.stop()
    targets = [row.target for row in store.audit(limit=10) if row.action == "limit.raise"]
    assert sorted(targets) == ["users/(forgotten)", "users/bob"]
