"""Who works: processes that die, take over, wait for people, and come back with other code."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from operations_kit import OWNER, SETTINGS, World, all_of, kind, until
from store_world import DAY, START, StoppedClock
from tocsin.core.errors import InputError, NotFound
from tocsin.core.operations import Ending, Work
from tocsin.operations import Settings
from tocsin.operations.owners import is_gone, new_owner
from tocsin.store import Store
from tocsin.store.operations_api import OperationFilter

DONE = Ending(outcome="complete", result=b'"done"')
TESTS = str(Path(__file__).parent.parent)


@pytest.fixture
async def world(store: Store, clock: StoppedClock) -> AsyncIterator[World]:
    world = World(store, clock)
    yield world
    await world.close()


async def first_hangs(work: Work) -> Ending:
    await work.emit("begun", {"restarted": work.restarted})
    if not work.restarted:
        await asyncio.sleep(3600)
    return DONE


# -- death --


async def test_what_a_dead_process_ran_is_taken_over_after_its_time_out(
    world: World, clock: StoppedClock
) -> None:
    first = await world.engine(kind(first_hangs))
    made = [await world.begin(first, background=bool(n % 2)) for n in range(4)]
    await until(lambda: all(world.book.operation(m).events == 3 for m in made))  # type: ignore[union-attr]
    await world.die(first)
    second, third = [await world.engine(kind(first_hangs)) for _ in range(2)]
    await asyncio.sleep(0.1)
    assert {world.book.operation(m).status for m in made} == {"running"}  # type: ignore[union-attr]
    clock.now += 1_000_000
    for one in made:
        ended = await second.ended(one, 8)
        assert (ended.outcome, ended.restarts) == ("complete", 1)
        events = await all_of(third.follow(one))
        assert [e.type for e in events] == [
            "operation.created",
            "operation.started",
            "begun",
            "operation.resumed",
            "begun",
            "operation.ended",
        ]
        assert [e.number for e in events] == list(range(6))


async def test_a_live_process_keeps_what_is_its_own_when_time_jumps(
    world: World, clock: StoppedClock
) -> None:
    quick, slow = (Settings(poll_s=poll_s, owner_timeout_s=2) for poll_s in (0.02, 0.3))
    engines = [await world.engine(kind(first_hangs), settings=s) for s in (quick, slow)]
    made = [await world.begin(engine) for engine in engines]
    await asyncio.sleep(0.1)
    clock.now += 3600 * 1_000_000
    await asyncio.sleep(1.0)
    for engine, one in zip(engines, made, strict=True):
        kept = world.book.operation(one)
        assert kept is not None
        assert (kept.owner, kept.restarts) == (engine.owner, 0)


async def test_what_a_dead_process_of_this_machine_ran_is_taken_over_at_once(
    world: World,
) -> None:
    patient = Settings(poll_s=0.02, owner_timeout_s=3600)
    place = new_owner().split("_")[1]
    first = await world.engine(
        kind(first_hangs), settings=patient, owner=f"own_{place}_{os.getpid()}_1_dead"
    )
    made = await world.begin(first)
    await world.die(first)
    second = await world.engine(kind(first_hangs), settings=patient)
    assert (await second.ended(made, 5)).outcome == "complete"


@pytest.mark.parametrize("turns", range(5))
async def test_a_stop_is_heard_while_something_else_wakes_it(world: World, turns: int) -> None:
    engine = await world.engine(kind(first_hangs))
    watch = engine._watch
    looking = watch._tasks[0]
    await asyncio.sleep(0.1)
    watch.stir()
    for _ in range(turns):
        await asyncio.sleep(0)
    await asyncio.wait_for(watch.stop(), 5)
    assert looking.done()


async def test_a_parent_that_waits_leaves_its_place_to_its_child(world: World) -> None:
    async def parent(work: Work) -> Ending:
        child = await work.child("work", b"{}")
        return Ending(outcome=child.outcome or "error")

    both = (kind(parent, "parent"), kind(first_hangs))
    first = await world.engine(*both)
    made = await world.begin(first, name="parent")
    children = OperationFilter(parent_id=made)
    await until(lambda: [r for r in world.book.operations(children).rows if r.events > 2])
    await world.die(first)
    world.book.retire(first.owner)
    second = await world.engine(*both, settings=Settings(poll_s=0.02, concurrency=1))
    assert (await second.ended(made, 5)).outcome == "complete"


async def test_a_process_that_was_wrongly_taken_for_dead_writes_nothing_more(
    world: World, clock: StoppedClock
) -> None:
    go = asyncio.Event()

    async def works(work: Work) -> Ending:
        if not work.restarted:
            await go.wait()
            await work.emit("from the grave", {})
        return DONE

    still = world.unstarted(kind(works))
    made = (await still.create(world.operation(), b"{}", principal=OWNER)).id
    clock.now += 60_000_000
    other = await world.engine(kind(works))
    assert (await other.ended(made, 8)).outcome == "complete"
    before = world.book.events(made)
    go.set()
    await until(lambda: not still.running)
    assert world.book.events(made) == before


async def test_an_operation_of_a_kind_that_is_gone_ends_and_says_so(world: World) -> None:
    first = await world.engine(kind(first_hangs, "old"))
    made = await world.begin(first, name="old")
    await first.stop(0)
    second = await world.engine(kind(first_hangs, "new"))
    ended = await second.ended(made, 8)
    assert (ended.outcome, ended.error_type) == ("error", "unknown_kind")
    assert "'old'" in str(ended.error_message)


async def test_one_that_was_cancelled_while_its_process_was_dead_is_not_run_again(
    world: World,
) -> None:
    acts: list[str] = []

    async def charge(key: str) -> None:
        acts.append(key)
        await asyncio.sleep(3600)

    async def pays(work: Work) -> Ending:
        await work.effect("charge", 1, charge)
        return DONE

    first = await world.engine(kind(pays))
    made = await world.begin(first)
    await until(lambda: acts)
    await world.die(first)
    world.book.request_cancel(made, "ann", 1)
    world.book.retire(first.owner)
    second = await world.engine(kind(pays))
    assert (await second.ended(made, 8)).outcome == "cancelled"
    assert len(acts) == 1
    named = [{"name": "charge", "key": acts[0], "state": "unknown"}]
    assert json.loads(await second.result(made) or b"") == {"effects": named}
    assert world.book.steps(made)[0].state == "unknown"


async def test_what_this_process_dropped_is_run_again(world: World) -> None:
    engine = await world.engine(kind(first_hangs))
    made = await world.begin(engine)
    live = engine._runner.lives[made]
    engine._runner.cut(live, "lost")
    await until(lambda: not engine.running)
    await engine._watch._let_go()
    ended = await engine.ended(made, 8)
    assert (ended.outcome, ended.restarts) == ("complete", 1)


def test_a_name_tells_whether_its_process_is_gone() -> None:
    code = "from tocsin.operations.owners import new_owner; print(new_owner())"
    dead = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert is_gone(dead.strip())
    mine = new_owner()
    assert not is_gone(mine)
    assert mine != new_owner()
    place, pid = mine.split("_")[1], mine.split("_")[2]
    assert not is_gone(f"own_{'0' * len(place)}_{pid}_1_aa"), "of another machine nobody can tell"
    assert is_gone(f"own_{place}_{pid}_1_aa"), "another process had this number before"
    assert not is_gone("anything")


# -- waiting for people --


async def test_an_approval_frees_everything_and_goes_on_when_it_is_given(world: World) -> None:
    did: list[str] = []

    async def careful(work: Work) -> Ending:
        async def plan() -> str:
            did.append("plan")
            return "pay 5"

        await work.step("plan", plan)
        answer = await work.approve("Pay?", {"cents": 5})
        did.append("yes" if answer["approved"] else "no")
        return Ending(outcome="complete", result=json.dumps(answer).encode())

    engine = await world.engine(kind(careful))
    made = await world.begin(engine)
    log = asyncio.create_task(all_of(engine.follow(made)))
    await until(lambda: world.book.operation(made).status == "waiting")  # type: ignore[union-attr]
    await until(lambda: not engine.running)
    waiting = await engine.get(made)
    step = world.book.step(str(waiting.waiting_for))
    assert step is not None
    assert (waiting.owner, step.state) == (None, "asked")
    assert json.loads(step.arguments) == {"question": "Pay?", "details": {"cents": 5}}
    answered = await engine.answer(made, approved=True, note="fine", by="ann")
    assert answered.status in ("queued", "running", "ended")
    assert (await engine.ended(made, 5)).outcome == "complete"
    result = json.loads(await engine.result(made) or b"")
    assert result == {"approved": True, "note": "fine", "by": "ann"}
    assert did == ["plan", "yes"]
    events = await log
    assert json.loads(events[2].data)["question"] == "Pay?"
    assert [e.type for e in events] == [
        "operation.created",
        "operation.started",
        "operation.waiting",
        "operation.resumed",
        "operation.ended",
    ]
    with pytest.raises(InputError, match="it is ended"):
        await engine.answer(made, approved=True, note="", by="ann")
    with pytest.raises(NotFound):
        await engine.answer("op_nothing", approved=True, note="", by="ann")


async def test_of_two_answers_the_first_counts(world: World) -> None:
    async def careful(work: Work) -> Ending:
        answer = await work.approve("Pay?")
        return Ending(outcome="complete", result=json.dumps(answer["by"]).encode())

    engines = [await world.engine(kind(careful)) for _ in range(2)]
    made = await world.begin(engines[0])
    await until(lambda: world.book.operation(made).status == "waiting")  # type: ignore[union-attr]
    said = await asyncio.gather(
        *(
            e.answer(made, approved=True, note="", by=by)
            for e, by in zip(engines, "ab", strict=True)
        ),
        return_exceptions=True,
    )
    assert sorted(isinstance(one, InputError) for one in said) == [False, True]
    await engines[0].ended(made, 5)
    winner = "ab"[[isinstance(one, InputError) for one in said].index(False)]
    assert json.loads(await engines[0].result(made) or b"") == winner


async def test_an_answer_that_was_taken_by_a_process_which_died_is_not_lost(
    world: World, clock: StoppedClock
) -> None:
    async def careful(work: Work) -> Ending:
        answer = await work.approve("Pay?")
        return Ending(outcome="complete", result=json.dumps(answer).encode())

    engine = await world.engine(kind(careful))
    made = await world.begin(engine)
    await until(lambda: not engine.running)
    key = str((await engine.get(made)).waiting_for)
    assert world.book.settle_step(key, "done", b'{"approved":false}', clock.now)
    other = await world.engine(kind(careful))
    assert (await other.ended(made, 8)).outcome == "complete"
    assert await other.result(made) == b'{"approved": false}'


async def test_a_deadline_does_not_run_while_it_waits(world: World, clock: StoppedClock) -> None:
    async def careful(work: Work) -> Ending:
        await work.approve("Pay?")
        await asyncio.sleep(3600)
        return DONE

    engine = await world.engine(kind(careful))
    made = await world.begin(engine, deadline_at=clock.now + 60_000_000)
    await until(lambda: not engine.running)
    clock.now += 14 * DAY
    await asyncio.sleep(0.1)
    assert (await engine.get(made)).status == "waiting"
    await engine.answer(made, approved=True, note="", by="ann")
    await until(lambda: engine.running)
    clock.now += 59_000_000
    await asyncio.sleep(0.1)
    assert (await engine.get(made)).status == "running"
    clock.now += 2_000_000
    assert (await engine.ended(made, 5)).outcome == "timeout"


async def test_one_that_waits_can_be_cancelled(world: World) -> None:
    async def careful(work: Work) -> Ending:
        await work.approve("Pay?")
        return DONE

    engine = await world.engine(kind(careful))
    made = await world.begin(engine)
    await until(lambda: not engine.running)
    assert (await engine.cancel(made, "ann")).outcome == "cancelled"
    with pytest.raises(InputError):
        await engine.answer(made, approved=True, note="", by="ann")


CHILD = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from operations_kit import World, kind
from store_world import StoppedClock
from tocsin.config.model import StoreSettings
from tocsin.core.operations import Ending
from tocsin.store import open_store

async def careful(work):
    async def charge(key):
        Path(sys.argv[3], "charges").open("a").write(key + "\\n")
        return "receipt"
    async def plan():
        return {"version": 1}
    await work.step("plan", plan)
    await work.effect("charge", {"cents": 5}, charge)
    await work.approve("Send the goods?", {"to": "ann"})
    return Ending(outcome="complete", result=b'"version 1"')

async def main():
    clock = StoppedClock()
    store = open_store(StoreSettings(url=sys.argv[2]), Path(sys.argv[3]), clock)
    world = World(store, clock)
    engine = await world.engine(kind(careful, "order"))
    made = await world.begin(engine, name="order")
    while engine.running:
        await asyncio.sleep(0.01)
    print(made, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


def made_by_a_killed_process(url: str, folder: Path) -> str:
    """The id of an operation that a process left waiting."""
    words = [sys.executable, "-c", CHILD, TESTS, url, str(folder)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        made = child.stdout.readline().strip()
        child.kill()
    assert made.startswith("op_")
    return made


async def test_an_approval_waits_14_days_through_a_kill_and_new_code(
    world: World, clock: StoppedClock, store_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir(exist_ok=True)
    made = await asyncio.to_thread(made_by_a_killed_process, store_url, folder)
    clock.now = START + 14 * DAY
    did: list[str] = []

    async def newer(work: Work) -> Ending:
        async def act(key: str = "") -> str:
            did.append(key)
            return "?"

        plan = await work.step("plan", act)
        receipt = await work.effect("charge", {"cents": 5}, act)
        answer = await work.approve("Send the goods?", {"to": "ann"})
        await work.effect("send", {"to": "ann"}, act)
        return Ending(outcome="complete", result=json.dumps([plan, receipt, answer]).encode())

    engine = await world.engine(kind(newer, "order"))
    assert (await engine.get(made)).status == "waiting"
    began = time.monotonic()
    await engine.answer(made, approved=True, note="go", by="ann")
    ended = await engine.ended(made, 8)
    assert time.monotonic() - began < 1, "at once"
    assert ended.outcome == "complete", ended.error_message
    plan, receipt, answer = json.loads(await engine.result(made) or b"")
    assert (plan, receipt, answer["approved"]) == ({"version": 1}, "receipt", True)
    assert len(did) == 1, "nothing was repeated: only the last step is new"
    assert len((folder / "charges").read_text().splitlines()) == 1
    assert ended.restarts == 0


async def test_settings_are_read_anew(world: World) -> None:
    async def waits(work: Work) -> Ending:
        await asyncio.sleep(3600)
        return DONE

    places = [0]
    engine = await world.engine(kind(waits))
    engine._runner.settings = engine._settings = lambda: type(SETTINGS)(  # type: ignore[method-assign]
        poll_s=0.02, concurrency=places[0]
    )
    made = await world.begin(engine)
    await asyncio.sleep(0.1)
    assert (await engine.get(made)).status == "queued"
    places[0] = 1
    await until(lambda: engine.running == 1)
