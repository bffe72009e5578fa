"""Steps and effects: what is done once stays done, and what nobody can tell is said so."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from operations_kit import OWNER, SETTINGS, World, kind, until
from store_world import StoppedClock
from tocsin.core.call import Principal
from tocsin.core.errors import UpstreamFailed
from tocsin.core.operations import (
    Answered,
    EffectUnknown,
    Ending,
    NotDone,
    Operation,
    Work,
    step_key,
)
from tocsin.operations import steps
from tocsin.store import Store

DONE = Ending(outcome="complete")


@pytest.fixture
async def world(store: Store, clock: StoppedClock) -> AsyncIterator[World]:
    world = World(store, clock)
    yield world
    await world.close()


class Bank:
    """What effects act on. ``plan`` is what each charge does: take the money (or not), then
    answer, or raise."""

    def __init__(self, *plan: str) -> None:
        self.plan = list(plan)
        self.charges: list[str] = []
        self.gate = asyncio.Event()

    async def charge(self, key: str) -> dict[str, int]:
        now = self.plan.pop(0) if self.plan else "ok"
        if now == "refuse":
            raise NotDone("no such card")
        if now == "hang before":
            await self.gate.wait()
        self.charges.append(key)
        if now == "hang after":
            await self.gate.wait()
        if now == "slow":
            await asyncio.sleep(0.05)
        if now == "break":
            raise ConnectionResetError("in the middle of it")
        if now == "stumble":
            raise KeyError("a bug behind the charge")
        if now == "say unknown":
            raise EffectUnknown(key, "charge")
        return {"number": len(self.charges)}

    async def find(self, key: str) -> dict[str, int] | None:
        return {"number": self.charges.index(key) + 1} if key in self.charges else None


async def finished(world: World, run: Any) -> Operation:
    engine = world.engines[0] if world.engines else await world.engine(kind(run))
    return await engine.ended(await world.begin(engine), 8)


# -- once --


async def test_an_effect_that_is_asked_three_times_happens_once(world: World) -> None:
    bank, seen = Bank(), []

    async def pays(work: Work) -> Ending:
        seen.append(await work.effect("charge", {"to": "ann", "cents": 5}, bank.charge))
        seen.append(await work.effect("charge", {"cents": 5, "to": "ann"}, bank.charge))
        seen.append(await work.effect("charge", {"to": "ann", "cents": 5}, bank.charge))
        seen.append(await work.effect("charge", {"to": "ann", "cents": 6}, bank.charge))
        return DONE

    ended = await finished(world, pays)
    assert ended.outcome == "complete", ended.error_message
    assert seen == [{"number": 1}, {"number": 1}, {"number": 1}, {"number": 2}]
    first, second = world.book.steps(ended.id)
    assert (first.state, first.asked, second.asked) == ("done", 3, 1)
    assert first.key == step_key(ended.id, "charge", {"cents": 5, "to": "ann"}) == bank.charges[0]


async def test_those_who_ask_at_once_wait_for_the_first(world: World) -> None:
    bank = Bank("slow")

    async def pays(work: Work) -> Ending:
        asked = (work.effect("charge", 1, bank.charge) for _ in range(5))
        assert await asyncio.gather(*asked) == [{"number": 1}] * 5
        return DONE

    ended = await finished(world, pays)
    assert ended.outcome == "complete", ended.error_message
    (step,) = world.book.steps(ended.id)
    assert (len(bank.charges), step.asked) == (1, 5)


async def test_two_operations_each_have_their_own(world: World) -> None:
    bank = Bank()

    async def pays(work: Work) -> Ending:
        await work.effect("charge", 1, bank.charge)
        return DONE

    for _ in range(2):
        assert (await finished(world, pays)).outcome == "complete"
    assert len(set(bank.charges)) == 2


async def test_a_result_is_the_same_the_first_time_as_later(world: World) -> None:
    async def odd() -> Any:
        return {"pair": (1, 2), "set": {3}, "odd": object}

    async def works(work: Work) -> Ending:
        first, again = await work.step("odd", odd), await work.step("odd", odd)
        assert first == again
        assert first["pair"] == [1, 2]
        return DONE

    ended = await finished(world, works)
    assert ended.outcome == "complete", ended.error_message


# -- what fails, and what nobody can tell --


async def test_an_effect_that_certainly_did_not_happen_may_be_tried_again(world: World) -> None:
    bank = Bank("refuse", "ok")
    states = []

    async def pays(work: Work) -> Ending:
        with pytest.raises(NotDone, match="no such card"):
            await work.effect("charge", 1, bank.charge)
        states.append(world.book.steps(work.operation.id)[0].state)
        assert await work.effect("charge", 1, bank.charge) == {"number": 1}
        return DONE

    ended = await finished(world, pays)
    assert ended.outcome == "complete", ended.error_message
    assert [*states, world.book.steps(ended.id)[0].state] == ["failed", "done"]


@pytest.mark.parametrize("how", ["break", "stumble", "say unknown"])
async def test_an_effect_that_broke_off_ends_unknown_and_is_never_tried_again(
    world: World, how: str
) -> None:
    bank = Bank(how)

    async def pays(work: Work) -> Ending:
        with pytest.raises(EffectUnknown):
            await work.effect("charge", 1, bank.charge)
        await work.effect("charge", 1, bank.charge)
        return DONE

    ended = await finished(world, pays)
    assert (ended.outcome, ended.error_type) == ("unknown", "effect_unknown")
    assert "charge" in str(ended.error_message)
    assert len(bank.charges) == 1
    assert world.book.steps(ended.id)[0].state == "unknown"


@pytest.mark.parametrize("how", ["break", "stumble", "say unknown"])
async def test_where_the_world_can_tell_it_is_asked(world: World, how: str) -> None:
    bank = Bank(how)

    async def pays(work: Work) -> Ending:
        assert await work.effect("charge", 1, bank.charge, find=bank.find) == {"number": 1}
        return DONE

    ended = await finished(world, pays)
    assert ended.outcome == "complete", ended.error_message
    assert len(bank.charges) == 1


@pytest.mark.parametrize(("breaks", "outcome", "tried"), [(4, "complete", 5), (9, "error", 5)])
async def test_what_the_world_says_did_not_happen_is_done(
    world: World, monkeypatch: pytest.MonkeyPatch, breaks: int, outcome: str, tried: int
) -> None:
    monkeypatch.setattr(steps, "_AGAIN_S", (0.01, 0.01, 0.01, 0.01))
    tries: list[str] = []

    async def charge(key: str) -> str:
        tries.append(key)
        if len(tries) <= breaks:
            raise UpstreamFailed("gone", sent=True)
        return "done"

    async def find(key: str) -> None:
        return None

    async def pays(work: Work) -> Ending:
        assert await work.effect("charge", 1, charge, find=find) == "done"
        return DONE

    ended = await finished(world, pays)
    assert ended.outcome == outcome, ended.error_message
    assert len(tries) == tried


@pytest.mark.parametrize(("pause_s", "state"), [(0.05, "done"), (3600, "unknown")])
async def test_a_cancel_in_the_middle_of_an_effect(
    world: World, monkeypatch: pytest.MonkeyPatch, pause_s: float, state: str
) -> None:
    monkeypatch.setattr("tocsin.operations.steps.BRIEFLY_S", 0.2)
    begun = asyncio.Event()

    async def charge(key: str) -> str:
        begun.set()
        await asyncio.sleep(pause_s)
        return "receipt"

    async def pays(work: Work) -> Ending:
        await work.effect("charge", 1, charge)
        return DONE

    engine = await world.engine(kind(pays))
    made = await world.begin(engine)
    await begun.wait()
    ended = await engine.cancel(made, "ann")
    assert ended.outcome == "cancelled"
    assert [step.state for step in world.book.steps(made)] == [state]
    assert f'"state":"{state}"'.encode() in (await engine.result(made) or b"")


# -- after a death --


async def after_a_death(world: World, run: Any, dies: Any) -> Operation:
    """Run it in a process that dies when ``dies`` says so, then in another."""
    first = await world.engine(kind(run))
    made = await world.begin(first)
    await until(lambda: dies(made))
    await world.die(first)
    world.book.retire(first.owner)
    second = await world.engine(kind(run))
    return await second.ended(made, 8)


@pytest.mark.parametrize(
    ("plan", "finds", "outcome", "charges"),
    [
        ("hang after", False, "unknown", 1),
        ("hang before", False, "unknown", 0),
        ("hang after", True, "complete", 1),
        ("hang before", True, "complete", 1),
    ],
)
async def test_an_effect_that_a_dead_process_began(
    world: World, plan: str, finds: bool, outcome: str, charges: int
) -> None:
    bank = Bank(plan)

    async def pays(work: Work) -> Ending:
        await work.effect("charge", 1, bank.charge, find=bank.find if finds else None)
        return DONE

    def began(made: str) -> bool:
        return not bank.plan and bool(world.book.steps(made))

    ended = await after_a_death(world, pays, began)
    assert ended.outcome == outcome, ended.error_message
    assert len(bank.charges) == charges
    (step,) = world.book.steps(ended.id)
    assert step.state == ("done" if finds else "unknown")
    assert (ended.restarts, ended.error_type) == (1, None if finds else "effect_unknown")


async def test_steps_are_remembered_and_only_the_broken_one_is_redone(world: World) -> None:
    did: list[str] = []
    gate = asyncio.Event()

    async def works(work: Work) -> Ending:
        async def act(name: str) -> str:
            did.append(name)
            if name == "second" and not work.restarted:
                await gate.wait()
            return name.upper()

        got = [await work.step(n, lambda n=n: act(n)) for n in ("first", "second", "third")]
        assert got == ["FIRST", "SECOND", "THIRD"]
        return DONE

    ended = await after_a_death(world, works, lambda made: did == ["first", "second"])
    assert ended.outcome == "complete", ended.error_message
    assert did == ["first", "second", "second", "third"]
    assert [s.state for s in world.book.steps(ended.id)] == ["done"] * 3


async def test_an_answer_of_a_model_is_remembered_under_its_step(world: World) -> None:
    asked: list[bytes] = []
    gate = asyncio.Event()

    async def ask(
        operation: Operation, principal: Principal, path: str, body: bytes, context: object
    ) -> Answered:
        asked.append(body)
        return Answered(
            call_id="call_1", status=200, body=b"\xff" + body, outcome="complete", cost_nano_usd=5
        )

    async def works(work: Work) -> Ending:
        plan = await work.ask("/v1/chat/completions", b"plan", step="plan")
        assert plan.body == b"\xffplan"
        if not work.restarted:
            await gate.wait()
        await work.ask("/v1/chat/completions", b"do", step="plan")
        return DONE

    first = await world.engine(kind(works), ask=ask)
    made = await world.begin(first)
    await until(lambda: any(s.state == "done" for s in world.book.steps(made)))
    await asyncio.sleep(0.05)
    await world.die(first)
    world.book.retire(first.owner)
    second = await world.engine(kind(works), ask=ask)
    ended = await second.ended(made, 8)
    assert ended.outcome == "complete", ended.error_message
    assert asked == [b"plan", b"do"], "the same question once, another one asked"
    assert (ended.calls, ended.cost_nano_usd) == (2, 10)


async def test_a_process_that_stood_still_does_not_act_when_another_has_taken_over(
    world: World, clock: StoppedClock
) -> None:
    bank = Bank()
    go, other_goes = asyncio.Event(), asyncio.Event()

    async def pays(work: Work) -> Ending:
        await work.emit("ready", {})
        await (other_goes if work.restarted else go).wait()
        await work.effect("charge", 1, bank.charge)
        return DONE

    still = world.unstarted(kind(pays))
    made = await still.create(world.operation(), b"{}", principal=OWNER)
    await until(lambda: world.book.operation(made.id).events > 2)  # type: ignore[union-attr]
    clock.now += 60_000_000
    other = await world.engine(kind(pays), settings=SETTINGS)
    await until(lambda: other.running)
    go.set()
    await until(lambda: not still.running)
    assert bank.charges == []
    other_goes.set()
    assert (await other.ended(made.id, 8)).outcome == "complete"
    assert len(bank.charges) == 1
    assert world.book.operation(made.id).outcome == "complete"  # type: ignore[union-attr]
