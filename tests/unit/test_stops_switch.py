"""Orders: what they cover, how soon they are obeyed, and what callers are told."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
import pytest

from tocsin.core.call import Call, Identity
from tocsin.core.errors import InputError, NotFound, RunPaused, Stopped
from tocsin.core.policy import Reply
from tocsin.core.stops import Ending, Stop
from tocsin.core.supervision import Evidence, Supervision
from tocsin.runtime.runtime import Runtime
from tocsin.runtime.stops import StopsPolicy, Switch
from tocsin.store import Store
from tocsin.testing import FakeClock
from unit.calls import call, message

STEP = Evidence(call=7, tool="search", arguments='{"q": "oslo"}', outcome="ok")


class Table:
    """The store's methods for stops, in memory: several switches may share one."""

    def __init__(self) -> None:
        self.rows: dict[str, Stop] = {}
        self.version = 0
        self.reads = 0
        self.lock = threading.Lock()

    def add_stop(self, stop: Stop) -> Stop:
        with self.lock:
            for other in self.rows.values():
                same = (other.scope, other.value) == (stop.scope, stop.value)
                if same and other.standing and other.action in ("kill", stop.action):
                    return other
            self.rows[stop.id] = stop
            self.version += 1
            return stop

    def end_stop(self, stop_id: str, ending: Ending, *, by: str, at: int, note: str = "") -> Stop:
        with self.lock:
            if stop_id not in self.rows:
                raise NotFound(stop_id)
            if self.rows[stop_id].ended_at is not None:
                raise InputError("it has ended")
            ended = msgspec.structs.replace(
                self.rows[stop_id], ended_at=at, ended_by=by, ending=ending, note=note
            )
            self.rows[stop_id] = ended
            self.version += 1
            return ended

    def note_cut(self, stop_id: str, cut: int, took_us: int) -> None:
        with self.lock:
            row = self.rows[stop_id]
            self.rows[stop_id] = msgspec.structs.replace(row, cut=row.cut + cut, took_us=took_us)
            self.version += 1

    def stops_version(self) -> int:
        return self.version

    def stops(self, *, standing: bool = False, limit: int = 200) -> list[Stop]:
        self.reads += 1
        return [stop for stop in self.rows.values() if stop.standing or not standing][:limit]

    def stop(self, stop_id: str) -> Stop | None:
        return self.rows.get(stop_id)


class Flight:
    """An exchange in flight, as the switch sees it."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.error: Exception | None = None

    def stop(self, error: Exception) -> "asyncio.Future[bool] | None":
        if self.error is not None:
            return None
        self.error = error
        over = asyncio.get_running_loop().create_future()
        over.set_result(True)
        return over


class Running:
    """What the switch needs of a runtime."""

    def __init__(self, *flights: Flight) -> None:
        self.in_flight = {flight.call.id: flight for flight in flights}
        self.observed: set[str] = set()

    def enforces(self, feature: str, policy: str) -> bool:
        return feature not in self.observed


@asynccontextmanager
async def following(table: Table, *flights: Flight) -> AsyncIterator[Switch]:
    switch = Switch(cast(Store, table), FakeClock())
    await switch.start(cast(Runtime, Running(*flights)))
    try:
        yield switch
    finally:
        await switch.stop()


def of_run(run_id: str, *, parent: str | None = None, feature: str = "default") -> Call:
    made = call([message("user", "hi")], feature=feature, key_id="key_1")
    made.draft.identity = Identity(run_id=run_id, run_source="header", parent_run_id=parent)
    return made


async def until(condition: Callable[[], object]) -> None:
    """Wait for what must come about well within a second, however busy the machine is."""
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it did not come about in a second")


async def kill(switch: Switch, scope: Any = "run", value: str = "r1") -> Stop:
    return await switch.give(scope, value, "kill", reason="it loops", by="ana")


async def pause(switch: Switch, value: str = "r1") -> Stop:
    return await switch.give(
        "run",
        value,
        "pause",
        reason="the same search 4 times",
        by="policy:agents",
        evidence=(STEP,),
    )


async def through(
    switch: Switch, asked: Call, *, wait_s: float = 0.0, role: Any = "system"
) -> tuple[Call, Reply]:
    """Send a call through the policy; what the rest of the path got, and the answer."""
    got: list[Call] = []

    async def rest(passed: Call) -> Reply:
        got.append(passed)
        return Reply(status=200, headers=(), body=b"{}")

    policy = StopsPolicy(switch, lambda feature: Supervision(wait_s=wait_s, role=role))
    reply = await policy(asked, rest)
    return got[0], reply


@pytest.mark.parametrize(
    ("scope", "value", "covers"),
    [("all", "", True), ("feature", "default", True), ("feature", "other", False),
     ("key", "key_1", True), ("key", "key_2", False), ("run", "r1", True), ("run", "r2", False)],
)  # fmt: skip
async def test_a_kill_covers_its_scope_and_nothing_else(
    scope: str, value: str, covers: bool
) -> None:
    flight = Flight(of_run("r1"))
    async with following(Table(), flight) as switch:
        stop = await kill(switch, scope, value)
        found = switch.standing(of_run("r1"))
        assert found == (stop if covers else None)
        assert isinstance(flight.error, Stopped) is covers


async def test_a_runs_kill_covers_its_child_runs_and_theirs() -> None:
    flight = Flight(of_run("grandchild", parent="child"))
    async with following(Table(), flight) as switch:
        await through(switch, of_run("child", parent="r1"))
        await kill(switch)
        assert flight.error is not None
        with pytest.raises(Stopped, match="The run r1, which started this one, is stopped"):
            await through(switch, of_run("child"))
        assert switch.standing(of_run("grandchild", parent="child")) is not None
        assert switch.standing(of_run("stranger")) is None


async def test_runs_that_claim_to_be_each_others_parents_do_not_hang_it() -> None:
    async with following(Table()) as switch:
        await through(switch, of_run("a", parent="b"))
        await through(switch, of_run("b", parent="a"))
        await kill(switch, value="c")
        assert switch.standing(of_run("a")) is None


async def test_the_strongest_stop_is_the_one_that_counts() -> None:
    async with following(Table()) as switch:
        held = await pause(switch)
        killed = await kill(switch, "feature", "default")
        assert switch.standing(of_run("r1")) == killed
        await switch.lift(killed.id, "resumed", by="ana")
        assert switch.standing(of_run("r1")) == held
        both = await kill(switch)
        assert switch.standing(of_run("r1")) == both
        await switch.lift(both.id, "resumed", by="ana")
        assert switch.standing(of_run("r1")) == held


async def test_what_is_cut_and_how_long_it_took_is_noted() -> None:
    table = Table()
    async with following(table, Flight(of_run("r1")), Flight(of_run("r1"))) as switch:
        stop = await kill(switch)
        await until(lambda: table.rows[stop.id].cut)
        assert (table.rows[stop.id].cut, table.rows[stop.id].took_us) == (2, 0)


async def test_a_pause_leaves_calls_in_flight_alone() -> None:
    flight = Flight(of_run("r1"))
    async with following(Table(), flight) as switch:
        await pause(switch)
        assert flight.error is None


async def test_where_stops_only_observe_nothing_is_cut() -> None:
    flight = Flight(of_run("r1"))
    running = Running(flight)
    running.observed.add("default")
    switch = Switch(cast(Store, Table()), FakeClock())
    await switch.start(cast(Runtime, running))
    await kill(switch)
    assert flight.error is None
    await switch.stop()


async def test_an_order_given_elsewhere_is_obeyed_within_a_second() -> None:
    table, flight = Table(), Flight(of_run("r1"))
    async with following(table, flight) as here, following(table) as there:
        stop = await kill(there)
        await until(lambda: flight.error)
        assert here.standing(of_run("r1")) is not None
        await there.lift(stop.id, "resumed", by="ana")
        await until(lambda: here.standing(of_run("r1")) is None)


async def test_that_a_run_was_let_go_on_is_known_everywhere_and_after_a_restart() -> None:
    table = Table()
    async with following(table) as here, following(table) as there:
        stop = await pause(here)
        assert not here.lifted("r1")
        await here.lift(stop.id, "resumed", by="ana")
        assert here.lifted("r1")
        await there.refresh()
        assert not there.lifted("r2")
    async with following(table) as later:
        assert later.lifted("r1")
        ended = await pause(later)
        await later.lift(ended.id, "ended", by="ana")
    async with following(table) as last:
        assert last.lifted("r1"), "the first pause was lifted; the second one stands"


async def test_a_quiet_store_is_only_asked_for_its_version() -> None:
    table = Table()
    async with following(table):
        await asyncio.sleep(0.5)
        assert table.reads == 2, "at the start: what stands, and what was lifted lately"


async def test_an_order_is_not_lost_to_a_reading_that_began_before_it() -> None:
    table = Table()
    reading, go_on = threading.Event(), threading.Event()
    async with following(table) as switch:
        read = table.stops

        def slowly(*, standing: bool = False, limit: int = 200) -> list[Stop]:
            rows = read(standing=standing, limit=limit)
            reading.set()
            go_on.wait(2)
            return rows

        table.stops = slowly  # type: ignore[method-assign]
        table.version += 1
        late = asyncio.create_task(switch.refresh())
        await asyncio.to_thread(reading.wait, 2)
        stop = await kill(switch)
        go_on.set()
        await late
        assert switch.standing(of_run("r1")) == stop


async def test_a_store_that_is_away_leaves_the_orders_in_force() -> None:
    table = Table()
    async with following(table) as switch:
        await kill(switch)

        def away() -> int:
            raise OSError("gone")

        table.stops_version = away  # type: ignore[method-assign]
        await asyncio.sleep(0.45)
        assert switch.standing(of_run("r1")) is not None


async def test_a_call_of_a_paused_run_is_told_why_and_where_to_wait() -> None:
    async with following(Table()) as switch:
        stop = await pause(switch)
        with pytest.raises(RunPaused) as caught:
            await through(switch, of_run("r1"))
    error = caught.value
    assert (error.status, error.code, error.retryable) == (409, "run_paused", False)
    assert error.details is not None
    assert error.details["stop_id"] == stop.id
    assert error.details["run_id"] == "r1"
    assert error.details["reason"] == "the same search 4 times"
    assert error.details["wait"] == f"/api/stops/{stop.id}?wait=30"
    (step,) = cast(list[dict[str, object]], error.details["evidence"])
    assert step["tool"] == "search"


async def test_a_paused_call_waits_and_goes_on_when_it_is_resumed() -> None:
    async with following(Table()) as switch:
        stop = await pause(switch)
        asked = of_run("r1")
        waiting = asyncio.create_task(through(switch, asked, wait_s=30))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        await switch.lift(stop.id, "resumed", by="ana")
        _, reply = await waiting
        assert reply.status == 200
        assert [d.action for d in asked.draft.decisions] == ["pause"]


async def test_a_paused_call_waits_no_longer_than_its_feature_allows() -> None:
    async with following(Table()) as switch:
        await pause(switch)
        with pytest.raises(RunPaused):
            await asyncio.wait_for(through(switch, of_run("r1"), wait_s=0.05), 1)


async def test_a_paused_run_that_is_ended_stays_refused() -> None:
    table = Table()
    async with following(table) as switch, following(table) as other:
        stop = await pause(switch)
        waiting = asyncio.create_task(through(switch, of_run("r1"), wait_s=30))
        await asyncio.sleep(0.02)
        await switch.lift(stop.id, "ended", by="ana")
        with pytest.raises(Stopped, match="The run r1 is ended"):
            await waiting
        await until(lambda: other.standing(of_run("r1")))
        await until(lambda: cast(Stop, other.standing(of_run("r1"))).ending == "ended")
        with pytest.raises(Stopped):
            await through(other, of_run("r1"))
        with pytest.raises(InputError):
            await switch.lift(stop.id, "resumed", by="ana")


async def test_a_kill_given_while_a_run_waits_ends_the_wait_elsewhere_too() -> None:
    table = Table()
    async with following(table) as switch, following(table) as other:
        stop = await pause(switch)
        await until(lambda: other.standing(of_run("r1")))
        waiting = asyncio.create_task(through(other, of_run("r1"), wait_s=30))
        await kill(switch)
        await switch.lift(stop.id, "resumed", by="ana")
        with pytest.raises(Stopped):
            await asyncio.wait_for(waiting, 1)


async def test_a_redirected_run_gets_its_note_once() -> None:
    async with following(Table()) as switch:
        stop = await pause(switch)
        with pytest.raises(InputError, match="note"):
            await switch.lift(stop.id, "redirected", by="ana")
        waiting = asyncio.create_task(through(switch, of_run("r1"), wait_s=30, role="developer"))
        await asyncio.sleep(0.02)
        await switch.lift(stop.id, "redirected", by="ana", note="Use the other index.")
        passed, _ = await waiting
        last = json.loads(passed.body)["messages"][-1]
        assert (last["role"], last["content"]) == ("developer", "Use the other index.")
        again, _ = await through(switch, of_run("r1"))
        assert b"other index" not in again.body
        assert switch.idle


async def test_a_note_waits_for_a_call_that_has_a_place_for_it() -> None:
    async with following(Table()) as switch:
        stop = await pause(switch)
        await switch.lift(stop.id, "redirected", by="ana", note="Use the other index.")
        vectors, _ = await through(switch, of_run("r1").evolve(operation="embeddings"))
        assert b"other index" not in vectors.body
        passed, _ = await through(switch, of_run("r1"))
        assert b"other index" in passed.body


async def test_a_run_redirected_from_elsewhere_gets_its_note() -> None:
    table = Table()
    async with following(table) as switch, following(table) as other:
        stop = await pause(switch)
        await until(lambda: other.standing(of_run("r1")))
        await switch.lift(stop.id, "redirected", by="ana", note="Use the other index.")
        await until(lambda: other.standing(of_run("r1")) is None)
        passed, _ = await through(other, of_run("r1"))
        assert b"other index" in passed.body


async def test_only_a_run_can_be_redirected() -> None:
    async with following(Table()) as switch:
        stop = await switch.give("feature", "default", "pause", reason="x", by="ana")
        with pytest.raises(InputError, match="no single run"):
            await switch.lift(stop.id, "redirected", by="ana", note="Stop it.")


async def test_a_stop_needs_the_value_of_its_scope() -> None:
    async with following(Table()) as switch:
        with pytest.raises(InputError):
            await switch.give("run", "", "kill", reason="x", by="ana")
        with pytest.raises(InputError):
            await switch.give("all", "r1", "kill", reason="x", by="ana")


async def test_a_stop_is_waited_for_and_one_that_is_none_is_not() -> None:
    async with following(Table()) as switch:
        assert await switch.wait("stop_unknown", 5)
        stop = await pause(switch)
        assert not await switch.wait(stop.id, 0.02)
        waits = [asyncio.create_task(switch.wait(stop.id, 5)) for _ in range(3)]
        await asyncio.sleep(0)
        await switch.lift(stop.id, "resumed", by="ana")
        assert await asyncio.gather(*waits) == [True, True, True]


async def test_without_orders_a_call_costs_next_to_nothing() -> None:
    async with following(Table()) as switch:
        assert switch.idle
        assert switch.standing(of_run("r1")) is None
