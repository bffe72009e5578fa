"""Effects of tools: asked for often, done once. Real stores of both engines, threads and tasks."""

import asyncio
import inspect
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tocsin.config.model import Config
from tocsin.core.errors import InputError, NotFound
from tocsin.operations.effects import begin_effect, hold, look_again, mark_lost, settle_effect
from tocsin.sdk import EffectUnknown, NotDone, Tocsin
from tocsin.store import Store
from tocsin.testing import FakeClock

Make = Callable[[], Tocsin]


@pytest.fixture
def make(store_url: str, tmp_path: Path) -> Iterator[Make]:
    """Makes Tocsins on one store, each with an engine of its own."""
    made: list[Tocsin] = []

    def maker() -> Tocsin:
        hook = {"url": "https://example.com/hook", "secret_env": "HOOK_SECRET"}
        tables = {
            "server": {"data_dir": str(tmp_path / f"data{len(made) if store_url else ''}")},
            "store": {"url": store_url},
            "webhooks": {"shop": hook},
        }
        made.append(Tocsin(Config.model_validate(tables)))
        return made[-1]

    yield maker
    for tocsin in made:
        tocsin.close()


@pytest.fixture
def tocsin(make: Make) -> Tocsin:
    return make()


class Bank:
    """What is charged in the world; it knows nothing of keys that came twice."""

    def __init__(self) -> None:
        self.charged: list[tuple[str, int, str]] = []
        self.pause_s = 0.0

    def charge(self, customer: str, cents: int, key: str = "") -> dict[str, Any]:
        time.sleep(self.pause_s)
        self.charged.append((customer, cents, key))
        return {"charge": len(self.charged), "cents": cents}


# -- once --


def test_three_identical_asks_charge_once(tocsin: Tocsin) -> None:
    bank = Bank()

    @tocsin.once("charge_card")
    def charge(customer: str, cents: int = 500, *, key: str) -> dict[str, Any]:
        return bank.charge(customer, cents, key)

    with tocsin.operation("op_1"):
        results = [charge("ann"), charge(cents=500, customer="ann"), charge("ann", 500)]
    assert results == [{"charge": 1, "cents": 500}] * 3
    ((_, _, key),) = bank.charged
    assert key.startswith("step_")
    with tocsin._effects.keeper() as keeper:
        step = keeper.engine.app.store.operations.step(key)
    assert step is not None
    assert (step.state, step.asked, step.effect, step.scope) == ("done", 3, True, "op_1")
    assert json.loads(step.arguments) == {"customer": "ann", "cents": 500}


def test_other_arguments_scopes_and_names_are_other_intents(tocsin: Tocsin) -> None:
    bank = Bank()
    charge = tocsin.once("charge")(bank.charge)
    refund = tocsin.once("refund")(bank.charge)
    with tocsin.run("shop") as first:
        charge("ann", 1)
        charge("ann", 2)
        refund("ann", 1)
        with tocsin.operation("op_1"):
            charge("ann", 1)
        charge("ann", 1)
    with tocsin.run("shop"):
        charge("ann", 1)
    with tocsin.run("shop", run_id=first.id):
        charge("ann", 1)
    charge.within("order-17")("ann", 1)
    charge.within("order-17")("ann", 1)
    assert len(bank.charged) == 6


def test_outside_of_everything_an_effect_needs_a_scope(tocsin: Tocsin) -> None:
    bank = Bank()
    charge = tocsin.once()(bank.charge)
    with pytest.raises(InputError, match=r"charge.*within"):
        charge("ann", 1)
    assert bank.charged == []


def test_arguments_must_tell_intents_apart(tocsin: Tocsin) -> None:
    bank = Bank()
    charge = tocsin.once("charge")(bank.charge)
    with tocsin.operation("op_1"):
        with pytest.raises(InputError, match="plain JSON"):
            charge(object(), 1)
        with pytest.raises(TypeError, match="cents"):
            charge("ann")
    assert bank.charged == []


def test_the_key_is_no_parameter_for_callers(tocsin: Tocsin) -> None:
    @tocsin.once()
    async def pay(customer: str, *, key: str) -> None:
        """Pays."""

    assert list(inspect.signature(pay).parameters) == ["customer"]
    assert "key" not in pay.__annotations__
    assert inspect.iscoroutinefunction(pay)
    assert (pay.__doc__, pay.__name__) == ("Pays.", "pay")  # type: ignore[attr-defined]


def test_a_result_that_is_no_json_is_kept_all_the_same(tocsin: Tocsin) -> None:
    done: list[int] = []

    @tocsin.once()
    def write() -> Any:
        done.append(1)
        return {"path": Path("/tmp/x"), "parts": {1, 2}}

    with tocsin.operation("op_1"):
        first, second = write(), write()
    assert first == second
    assert first["path"] == "/tmp/x"
    assert done == [1]


# -- at the same time --


@pytest.mark.parametrize("engines", [1, 2])
def test_callers_at_the_same_time_wait_for_the_first(make: Make, engines: int) -> None:
    bank = Bank()
    bank.pause_s = 0.3
    owners = [make() for _ in range(engines)]
    together = threading.Barrier(8)

    def ask(number: int) -> Any:
        charge = owners[number % engines].once("charge")(bank.charge)
        together.wait()
        return charge.within("op_1")("ann", 5)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(ask, range(8)))
    assert len(bank.charged) == 1
    assert results == [{"charge": 1, "cents": 5}] * 8


async def test_tasks_at_the_same_time_wait_for_the_first(tocsin: Tocsin) -> None:
    done: list[str] = []

    @tocsin.once()
    async def pay(customer: str, *, key: str) -> str:
        await asyncio.sleep(0.2)
        done.append(key)
        return f"paid {len(done)}"

    async with tocsin.run("shop"), tocsin.operation("op_1"):
        results = await asyncio.gather(*(pay("ann") for _ in range(8)))
    assert results == ["paid 1"] * 8
    assert len(done) == 1


# -- errors --


class Declined(Exception):
    pass


@pytest.mark.parametrize("error", [Declined("no money"), NotDone("not now")])
def test_what_certainly_did_not_happen_may_be_tried_again(tocsin: Tocsin, error: Exception) -> None:
    tries: list[Exception | None] = [error, error, None]

    @tocsin.once(failed=(Declined,))
    def charge() -> str:
        if (wrong := tries.pop(0)) is not None:
            raise wrong
        return "charged"

    with tocsin.operation("op_1"):
        for _ in range(2):
            with pytest.raises(type(error)) as raised:
                charge()
            assert raised.value is error
        assert charge() == charge() == "charged"
    assert tries == []


@pytest.mark.parametrize("error", [TimeoutError("10 s"), ConnectionResetError(), KeyError("id")])
def test_any_other_error_leaves_it_unknown_until_settled(tocsin: Tocsin, error: Exception) -> None:
    done: list[str] = []

    @tocsin.once("charge")
    def charge(*, key: str) -> str:
        done.append(key)
        raise error

    with tocsin.operation("op_1"):
        for _ in range(3):
            with pytest.raises(EffectUnknown, match=r"tocsin\.settle") as raised:
                charge()
        assert len(done) == 1
        (step,) = tocsin.unknown()
        assert step.key == raised.value.key == done[0]
        tocsin.settle(step.key, {"charge": 9})
        tocsin.settle(step.key, {"charge": 9})
        with pytest.raises(InputError, match="done already"):
            tocsin.settle(step.key, happened=False)
        assert charge() == {"charge": 9}
    assert len(done) == 1
    assert tocsin.unknown() == []


def test_settled_as_not_happened_it_is_done_again(tocsin: Tocsin) -> None:
    wrong: list[Exception] = [TimeoutError()]

    @tocsin.once()
    def charge() -> str:
        if wrong:
            raise wrong.pop()
        return "charged"

    with tocsin.operation("op_1"):
        with pytest.raises(EffectUnknown) as raised:
            charge()
        assert isinstance(raised.value.__cause__, TimeoutError)
        tocsin.settle(raised.value.key, happened=False)
        assert charge() == "charged"


def test_settle_knows_what_it_settles(tocsin: Tocsin) -> None:
    with pytest.raises(NotFound):
        tocsin.settle("step_0")
    under_way, go_on = threading.Event(), threading.Event()
    keys: list[str] = []

    @tocsin.once()
    def charge(*, key: str) -> str:
        keys.append(key)
        under_way.set()
        go_on.wait(10)
        return "charged"

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(charge.within("op_1"))
        assert under_way.wait(10)
        with pytest.raises(InputError, match="under way"):
            tocsin.settle(keys[0], "charged twice")
        go_on.set()
        assert ended.result() == "charged"


# -- asking the world --


def test_a_finder_that_finds_it_gives_the_result(tocsin: Tocsin) -> None:
    bank = Bank()

    @tocsin.once()
    def charge(customer: str, *, key: str) -> dict[str, Any]:
        bank.charge(customer, 5, key)
        raise TimeoutError

    @charge.finder
    def find(key: str) -> dict[str, Any] | None:
        return {"found": [c for c, _, k in bank.charged if k == key]} if bank.charged else None

    with tocsin.operation("op_1"):
        assert charge("ann") == charge("ann") == {"found": ["ann"]}
    assert len(bank.charged) == 1


async def test_a_finder_that_finds_nothing_lets_it_be_done_again(tocsin: Tocsin) -> None:
    wrong: list[Exception] = [TimeoutError("no route")]
    done: list[str] = []

    @tocsin.once()
    async def charge(*, key: str) -> str:
        if wrong:
            raise wrong.pop()
        done.append(key)
        return "charged"

    @charge.finder
    async def find(key: str) -> str | None:
        return "charged" if key in done else None

    with tocsin.operation("op_1"):
        with pytest.raises(TimeoutError, match="no route"):
            await charge()
        assert await charge() == await charge() == "charged"
    assert len(done) == 1


def test_a_finder_that_fails_leaves_it_unknown(tocsin: Tocsin) -> None:
    answers: list[Any] = [OSError("the bank is away"), OSError("still"), "found"]
    done: list[int] = []

    @tocsin.once()
    def charge() -> str:
        done.append(1)
        raise TimeoutError

    @charge.finder
    def find(key: str) -> Any:
        if isinstance(answers[0], Exception):
            raise answers.pop(0)
        return answers[0]

    with tocsin.operation("op_1"):
        for _ in range(2):
            with pytest.raises(EffectUnknown) as raised:
                charge()
            assert isinstance(raised.value.__cause__, OSError)
        assert charge() == "found"
    assert done == [1]


# -- cancelled --


async def test_a_task_that_is_cancelled_in_mid_effect_leaves_it_unknown(tocsin: Tocsin) -> None:
    begun = asyncio.Event()
    done: list[int] = []

    @tocsin.once()
    async def charge() -> None:
        done.append(1)
        begun.set()
        await asyncio.sleep(60)

    with tocsin.operation("op_1"):
        task = asyncio.create_task(charge())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(EffectUnknown):
            await charge()
    assert done == [1]


async def test_a_task_that_is_cancelled_while_it_asks_leaves_nothing_begun(
    tocsin: Tocsin,
) -> None:
    done: list[int] = []

    @tocsin.once()
    async def charge(number: int) -> str:
        done.append(number)
        return "charged"

    with tocsin.operation("op_1"):
        assert await charge(-1) == "charged"
        for number in range(20):
            task = asyncio.create_task(charge(number))
            for _ in range(number % 4 + 1):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert number not in done
            assert await charge(number) == "charged"
    assert sorted(done) == list(range(-1, 20))


async def test_a_waiter_that_is_cancelled_disturbs_nobody(tocsin: Tocsin) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    done: list[int] = []

    @tocsin.once()
    async def charge() -> str:
        done.append(1)
        begun.set()
        await go_on.wait()
        return "charged"

    with tocsin.operation("op_1"):
        first = asyncio.create_task(charge())
        await begun.wait()
        second = asyncio.create_task(charge())
        await asyncio.sleep(0.1)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        go_on.set()
        assert await first == await charge() == "charged"
    assert done == [1]


# -- processes --


def test_what_a_closed_tocsin_left_is_unknown_at_once(make: Make) -> None:
    """A thread in mid-effect, and its Tocsin is closed under it."""
    first, second = make(), make()
    under_way, go_on = threading.Event(), threading.Event()
    done: list[int] = []

    def act() -> str:
        done.append(1)
        under_way.set()
        go_on.wait(10)
        return "charged"

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(first.once("charge")(act).within("op_1"))
        assert under_way.wait(10)
        first.close()
        with pytest.raises(EffectUnknown):
            second.once("charge")(act).within("op_1")()
        go_on.set()
        assert ended.exception() is not None, "it cannot say that it is done any more"
    assert done == [1]


def test_a_forked_child_has_effects_of_its_own(tocsin: Tocsin, tmp_path: Path) -> None:
    bank = tmp_path / "bank"

    @tocsin.once()
    def charge(number: int) -> int:
        with bank.open("a") as file:
            file.write(f"{number}\n")
        return number

    assert charge.within("op_1")(1) == 1
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert charge.within("op_1")(1) == 1
            assert charge.within("op_1")(2) == 2
            tocsin.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert charge.within("op_1")(2) == 2
    assert bank.read_text() == "1\n2\n"


def test_a_long_effect_keeps_beating(make: Make) -> None:
    first, second = make(), make()
    for one in (first, second):
        settings = one.config.operations.model_copy(update={"owner_timeout_s": 2.0})
        one.config = one.config.model_copy(update={"operations": settings})
    bank = Bank()
    bank.pause_s = 4.0

    def ask(tocsin: Tocsin) -> Any:
        return tocsin.once("charge")(bank.charge).within("op_1")("ann", 5)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(ask, (first, second)))
    assert results[0] == results[1]
    assert len(bank.charged) == 1


# -- the functions, for tools that act elsewhere --


def test_an_owner_over_http_holds_and_settles(store: Store) -> None:
    book, clock = store.operations, FakeClock()
    asked = begin_effect(book, clock, "op_1", "charge", {"cents": 5}, "http:key_1:a", hold_s=30)
    assert asked.turn == "act"
    clock.advance(29)
    hold(book, clock, "http:key_1:a", 60)
    key = asked.step.key
    clock.advance(59)
    assert look_again(book, clock, key, "http:key_1:b").turn == "busy"
    assert begin_effect(book, clock, "op_1", "charge", {"cents": 5}, "x").turn == "busy"
    done = settle_effect(book, clock, key, "done", b'{"charge":1}', owner="http:key_1:a")
    assert done.state == "done"
    again = begin_effect(book, clock, "op_1", "charge", {"cents": 5}, "http:key_1:c")
    assert (again.turn, again.step.result, again.step.asked) == ("done", b'{"charge":1}', 3)


def test_an_owner_over_http_that_is_silent_is_dead(store: Store) -> None:
    book, clock = store.operations, FakeClock()
    key = begin_effect(book, clock, "op_1", "charge", {}, "http:a", hold_s=60).step.key
    clock.advance(61)
    assert look_again(book, clock, key, "http:b").turn == "unknown"
    found = look_again(book, clock, key, "http:b", can_find=True)
    assert (found.turn, look_again(book, clock, key, "http:c").turn) == ("find", "unknown")
    # One that was only late says what it knows.
    with pytest.raises(InputError):
        settle_effect(book, clock, key, "done", b"1", owner="http:a")
    assert settle_effect(book, clock, key, "done", b"2").result == b"2"


def test_of_many_who_may_find_out_one_does(store: Store) -> None:
    book, clock = store.operations, FakeClock()
    key = begin_effect(book, clock, "op_1", "charge", {}, "dead").step.key
    for owner in range(4):
        book.beat(f"live{owner}", clock.now_us())

    def look(number: int) -> str:
        return look_again(book, clock, key, f"live{number}", can_find=True).turn

    with ThreadPoolExecutor(4) as pool:
        turns = list(pool.map(look, range(4)))
    assert sorted(turns) == ["busy", "busy", "busy", "find"]


def test_what_an_owner_began_and_is_not_at_is_lost(store: Store) -> None:
    book, clock = store.operations, FakeClock()
    book.beat("own", clock.now_us())
    key = begin_effect(book, clock, "op_1", "charge", {}, "own", ours={}).step.key
    assert look_again(book, clock, key, "own", ours={key}).turn == "busy"
    assert look_again(book, clock, key, "own", ours=()).turn == "unknown"


def test_lost_effects_are_marked_for_the_lists(store: Store) -> None:
    book, clock = store.operations, FakeClock()
    begin_effect(book, clock, "run_1", "charge", {}, "dead")
    begin_effect(book, clock, "run_1", "charge", {"n": 2}, "live")
    clock.advance(20)
    book.beat("live", clock.now_us())
    assert mark_lost(book, clock) == 1
    assert [step.owner for step in book.steps_in("unknown")] == ["dead"]


# -- the outbox --


def test_the_outbox_keeps_a_message_until_it_is_sent(tocsin: Tocsin) -> None:
    with tocsin.operation("op_1"):
        first = tocsin.outbox("shop", "order.paid", {"order": 17}, key="order-17")
        again = tocsin.outbox("shop", "order.paid", {"order": 17}, key="order-17")
    other = tocsin.outbox("https://93.184.215.14/hook", "order.paid", {"order": 18})
    assert first == again != other
    with tocsin._effects.keeper() as keeper:
        rows = {row.id: row for row in keeper.engine.app.store.operations.deliveries()}
    assert set(rows) == {first, other}
    assert (rows[first].endpoint, rows[other].endpoint) == ("shop", "outbox")
    assert (rows[first].operation_id, rows[other].operation_id) == ("op_1", None)
    assert rows[first].state == "pending"
    said = json.loads(rows[first].payload)
    assert (said["type"], said["data"], said["object"]) == ("order.paid", {"order": 17}, "event")


@pytest.mark.parametrize(
    ("to", "wrong"),
    [("http://10.0.0.1/", "outbound.allow"), ("nobody", "shop"), ("ftp://x/", "http")],
)
async def test_the_outbox_refuses_what_cannot_be_reached(
    tocsin: Tocsin, to: str, wrong: str
) -> None:
    with pytest.raises(InputError, match=wrong):
        await tocsin.aoutbox(to, "x", {})
    with pytest.raises(InputError, match="JSON"):
        await tocsin.aoutbox("shop", "x", object())
