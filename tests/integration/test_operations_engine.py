"""Operations from creation to end, on real stores: logs, followers, cancels, deadlines, turns."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from operations_kit import OWNER, SECOND, SETTINGS, World, all_of, kind, until
from store_world import StoppedClock
from tocsin.core.call import Principal
from tocsin.core.errors import (
    BadRequest,
    Denied,
    InputError,
    NotFound,
    StoreError,
    UpstreamFailed,
)
from tocsin.core.operations import Answered, Closing, Ending, Event, Operation, Work
from tocsin.operations import Settings
from tocsin.store import Store
from tocsin.store.operations_api import Delivery, OperationFilter

DONE = Ending(outcome="complete", result=b'{"answer":42}')


@pytest.fixture
async def world(store: Store, clock: StoppedClock) -> AsyncIterator[World]:
    world = World(store, clock)
    yield world
    await world.close()


async def counts(work: Work) -> Ending:
    """Emits as many events as its input says."""
    for number in range(int(work.input)):
        await work.emit("counted", {"n": number})
    return DONE


async def waits(work: Work) -> Ending:
    await work.emit("waits", {})
    await asyncio.sleep(3600)
    return DONE


def types(events: list[Event]) -> list[str]:
    return [event.type for event in events]


# -- logs --


async def test_an_operation_is_in_the_store_when_create_returns(world: World) -> None:
    engine = await world.engine(kind(waits))
    made = await engine.create(world.operation(), b'{"a":1}', principal=OWNER)
    kept = world.book.operation(made.id)
    assert kept is not None
    assert (kept.status, kept.owner) == ("running", engine.owner)
    assert world.book.body(made.id) == b'{"a":1}'
    assert types(world.book.events(made.id))[:2] == ["operation.created", "operation.started"]


async def test_creating_what_runs_already_changes_nothing(world: World) -> None:
    engine = await world.engine(kind(counts))
    wanted = world.operation()
    made = await engine.create(wanted, b"40", principal=OWNER)
    again = await engine.create(wanted, b"7", principal=OWNER)
    assert again.id == made.id
    assert engine.running == 1
    assert (await engine.ended(made.id, 10)).outcome == "complete"
    assert world.book.body(made.id) == b"40"


async def test_an_event_is_in_the_store_before_a_follower_sees_it(world: World) -> None:
    engine = await world.engine(kind(counts))
    made = await world.begin(engine, b"40")
    async for event in engine.follow(made):
        kept = world.book.events(made, after=event.number - 1, limit=1)
        assert kept == [event]


async def test_events_are_numbered_from_0_and_say_what_happens(world: World) -> None:
    async def works(work: Work) -> Ending:
        await work.progress(0.5, "half")
        await work.emit("found", {"what": "a pearl"})
        return DONE

    engine = await world.engine(kind(works))
    events = await all_of(engine.follow(await world.begin(engine)))
    assert types(events) == [
        "operation.created",
        "operation.started",
        "operation.progress",
        "found",
        "operation.ended",
    ]
    said = [json.loads(event.data) for event in events]
    assert [one["sequence_number"] for one in said] == [0, 1, 2, 3, 4]
    assert [event.number for event in events] == [0, 1, 2, 3, 4]
    assert [one["type"] for one in said] == types(events)
    assert (said[2]["progress"], said[3]["what"]) == (0.5, "a pearl")
    assert said[4]["outcome"] == "complete"
    assert not any(one.get("error") for one in said)


async def test_a_quiet_kind_has_only_its_own_events(world: World) -> None:
    engine = await world.engine(kind(counts, quiet=True))
    operation = world.operation()
    await engine.create(operation, b"2", principal=OWNER, events=[("first", b'{"n":-1}')])
    assert types(await all_of(engine.follow(operation.id))) == ["first", "counted", "counted"]


@pytest.mark.parametrize("after", [-1, 0, 17, 60, 61, 62, 99])
async def test_a_log_reads_the_same_from_any_point_live_later_and_elsewhere(
    world: World, after: int
) -> None:
    go = asyncio.Event()

    async def streams(work: Work) -> Ending:
        for number in range(60):
            data = b'{"delta":"%d","sequence_number":%d}' % (number, work.operation.events)
            await work.emit_raw([("delta", data)])
            if number == 30:
                await go.wait()
        return DONE

    engine, other = await world.engine(kind(streams)), await world.engine(kind(streams))
    made = await world.begin(engine)
    live = asyncio.create_task(all_of(engine.follow(made, after=after)))
    elsewhere = asyncio.create_task(all_of(other.follow(made, after=after)))
    await asyncio.sleep(0.1)
    go.set()
    seen = await live
    assert [event.number for event in seen] == list(range(after + 1, 63))
    assert await elsewhere == seen, "from another process, while it ran"
    assert await all_of(engine.follow(made, after=after)) == seen, "after its end"
    await engine.stop(1)
    again = await world.engine(kind(streams))
    assert await all_of(again.follow(made, after=after)) == seen, "after a restart"


async def test_a_follower_behind_what_memory_holds_reads_the_store(world: World) -> None:
    async def streams(work: Work) -> Ending:
        for _ in range(40):
            await work.emit_raw([("x", b"%d" % n) for n in range(50)])
            await work.emit("mark", {})
        await asyncio.sleep(0.2)
        return DONE

    engine = await world.engine(kind(streams, quiet=True))
    made = await world.begin(engine)
    slow = engine.follow(made)
    first = await anext(slow)
    assert first.number == 0
    await asyncio.sleep(0.3)
    rest = await all_of(slow)
    assert [event.number for event in rest] == list(range(1, 40 * 51))
    assert [e.data for e in rest] == [e.data for e in world.book.events(made, after=0, limit=9999)]
    await engine.ended(made, 5)
    other = await world.engine(kind(streams, quiet=True))
    assert await all_of(other.follow(made, after=0)) == rest, "page by page"


async def test_a_follower_may_leave_and_a_hundred_may_come(world: World) -> None:
    engine = await world.engine(kind(counts))
    made = await world.begin(engine, b"30")
    early = engine.follow(made)
    await anext(early)
    await early.aclose()
    logs = await asyncio.gather(*(all_of(engine.follow(made)) for _ in range(100)))
    assert all(log == logs[0] for log in logs)
    assert len(logs[0]) == 33


async def test_nothing_is_kept_in_memory_of_what_has_ended(world: World) -> None:
    engine = await world.engine(kind(counts))
    made = await world.begin(engine, b"3")
    await all_of(engine.follow(made))
    await until(lambda: not engine.running)
    assert engine._runner.log._topics == {}
    with pytest.raises(NotFound):
        await anext(engine.follow("op_nothing"))
    assert engine._runner.log._topics == {}


# -- what it is given and gives --


async def test_its_result_and_its_usage_are_kept(world: World) -> None:
    async def ask(
        operation: Operation, principal: Principal, path: str, body: bytes, context: object
    ) -> Answered:
        assert (principal, context) == (OWNER, "from the door")
        price = None if b"odd" in body else 7
        return Answered(
            call_id="call_1",
            status=200,
            body=b"{}",
            outcome="complete",
            input_tokens=10,
            output_tokens=2,
            cost_nano_usd=price,
        )

    async def asks(work: Work) -> Ending:
        for body in (b"even", b"odd", b"even"):
            await work.ask("/v1/chat/completions", body)
        return DONE

    engine = await world.engine(kind(asks), ask=ask)
    operation = world.operation()
    await engine.create(operation, b"{}", principal=OWNER, context="from the door")
    ended = await engine.ended(operation.id, 5)
    assert (ended.outcome, ended.calls, ended.unpriced) == ("complete", 3, 1)
    assert (ended.input_tokens, ended.output_tokens, ended.cost_nano_usd) == (30, 6, 14)
    assert await engine.result(operation.id) == DONE.result
    assert ended.expires_at == ended.ended_at + SETTINGS.keep_us


async def test_fields_of_an_operation_can_be_amended(world: World) -> None:
    async def amends(work: Work) -> Ending:
        await work.amend(upstream="main", upstream_ref="resp_there")
        kept = world.book.operation(work.operation.id)
        assert kept is not None
        assert kept.upstream_ref == "resp_there"
        await work.amend(soon=True, run_id="run_1")
        assert work.operation.run_id == "run_1"
        return DONE

    engine = await world.engine(kind(amends))
    ended = await engine.ended(await world.begin(engine), 5)
    assert (ended.outcome, ended.run_id, ended.upstream) == ("complete", "run_1", "main")


@pytest.mark.parametrize(
    ("error", "outcome", "error_type"),
    [
        (RuntimeError("the disk is gone"), "error", "internal_error"),
        (Denied("Not today."), "denied", "denied"),
        (UpstreamFailed("Slow.", sent=True, timeout=True), "timeout", "upstream_timeout"),
        (UpstreamFailed("Gone.", sent=True), "error", "upstream_failed"),
        (BadRequest("What?"), "error", "invalid_request"),
        (InputError("No such file."), "error", "failed"),
    ],
)
async def test_what_work_raises_is_how_it_ends(
    world: World, error: Exception, outcome: str, error_type: str
) -> None:
    async def fails(work: Work) -> Ending:
        raise error

    engine = await world.engine(kind(fails))
    made = await world.begin(engine)
    ended = await engine.ended(made, 5)
    assert (ended.outcome, ended.error_type) == (outcome, error_type)
    assert str(error) in str(ended.error_message)
    log = b"".join(event.data for event in world.book.events(made))
    assert b"Traceback" not in log
    assert b".py" not in log


async def test_a_kind_says_its_last_word_even_when_its_work_was_cut(world: World) -> None:
    def closing(operation: Operation, body: bytes) -> Closing:
        last = msgspec.json.encode({"outcome": operation.outcome, "at": operation.events})
        return Closing(events=(("last", last),), result=b'{"of":%s}' % body)

    engine = await world.engine(kind(waits, quiet=True, closing=closing))
    made = await world.begin(engine, b"7")
    await anext(engine.follow(made))
    await engine.cancel(made, "ann")
    assert [event.data for event in world.book.events(made, after=0)] == [
        b'{"outcome":"cancelled","at":1}'
    ]
    assert await engine.result(made) == b'{"of":7}'


async def test_the_end_and_the_deliveries_of_it_are_one_transaction(world: World) -> None:
    def told(operation: Operation, result: bytes) -> tuple[Delivery, ...]:
        assert operation.status == "ended"
        assert world.book.operation(operation.id).status == "running"  # type: ignore[union-attr]
        row = Delivery(
            id=f"whd_{operation.id}",
            endpoint="callback",
            url="https://a.example",
            type="operation.ended",
            payload=result,
            created_at=world.clock.now_us(),
            operation_id=operation.id,
        )
        return (row,)

    engine = await world.engine(kind(counts), told=told)
    made = await world.begin(engine, b"1")
    async for event in engine.follow(made):
        if event.type == "operation.ended":
            (delivery,) = world.book.deliveries(operation_id=made)
            assert delivery.payload == DONE.result


async def test_a_kind_that_nobody_knows_and_a_body_that_its_schema_refuses(world: World) -> None:
    schema = {"type": "object", "required": ["city"]}
    engine = await world.engine(kind(counts, schema=schema))
    with pytest.raises(BadRequest, match="'paint' is not one of work"):
        await engine.create(world.operation("paint"), b"{}", principal=OWNER)
    with pytest.raises(BadRequest, match="city"):
        await engine.create(world.operation(), b"{}", principal=OWNER)
    with pytest.raises(BadRequest, match="not valid JSON"):
        await engine.create(world.operation(), b"{", principal=OWNER)


async def test_nobody_elses_key_finds_it(world: World) -> None:
    engine = await world.engine(kind(waits))
    made = await world.begin(engine)
    assert (await engine.get(made, OWNER)).id == made
    assert (await engine.get(made)).id == made
    for stranger in (Principal(), Principal(key_id="key_2")):
        with pytest.raises(NotFound):
            await engine.get(made, stranger)


# -- what cannot be written --


async def test_one_that_cannot_be_written_ends_and_the_others_do_not_suffer(world: World) -> None:
    def told(operation: Operation, result: bytes) -> tuple[Delivery, ...]:
        if result != b'"bad"':
            return ()
        bad: Any = {"text": "no bytes"}
        return (
            Delivery(id="whd_1", endpoint="callback", url="", type="", payload=bad, created_at=0),
        )

    async def ends(work: Work) -> Ending:
        return Ending(outcome="complete", result=work.input)

    engine = await world.engine(kind(ends), told=told)
    made = [await world.begin(engine, body) for body in (b'"good"', b'"bad"', b'"good"')]
    ended = [await engine.ended(one, 8) for one in made]
    assert [one.outcome for one in ended] == ["complete", "error", "complete"]
    assert ended[1].error_type == "not_writable"


async def test_a_store_that_fails_for_a_while_loses_nothing(world: World) -> None:
    class Flaky:
        failures = 3

        def __getattr__(self, name: str) -> Any:
            return getattr(world.store.operations, name)

        def write(self, batch: Any) -> tuple[bool, ...]:
            if self.failures:
                self.failures -= 1
                raise StoreError("no room")
            return world.store.operations.write(batch)

        def beat(self, owner: str, at: int) -> None:
            if self.failures and at:
                raise StoreError("no room")
            world.store.operations.beat(owner, at)

    engine = await world.engine(kind(counts))
    engine._runner.log._book = Flaky()
    made = await world.begin(engine, b"5")
    assert [event.number for event in await all_of(engine.follow(made))] == list(range(8))
    assert (await engine.get(made)).outcome == "complete"


async def test_work_cannot_change_what_the_engine_says_of_it(world: World) -> None:
    async def amends(work: Work) -> Ending:
        for field in ("status", "owner", "id", "key_id"):
            with pytest.raises(ValueError, match=field):
                await work.amend(**{field: "x"})
        return DONE

    engine = await world.engine(kind(amends))
    assert (await engine.ended(await world.begin(engine), 5)).outcome == "complete"


# -- cutting --


async def test_a_cancelled_one_ends_and_names_what_it_did_to_the_world(world: World) -> None:
    async def charge(key: str) -> str:
        return "receipt"

    async def pays(work: Work) -> Ending:
        await work.effect("charge", {"cents": 5}, charge)
        return await waits(work)

    engine = await world.engine(kind(pays))
    made = await world.begin(engine)
    await until(lambda: "waits" in types(world.book.events(made)))
    ended = await engine.cancel(made, "ann")
    assert (ended.outcome, ended.cancel_by, ended.owner) == ("cancelled", "ann", None)
    (step,) = world.book.steps(made)
    named = [{"name": "charge", "key": step.key, "state": "done"}]
    assert json.loads(await engine.result(made) or b"")["effects"] == named
    last = (await all_of(engine.follow(made)))[-1]
    assert json.loads(last.data)["effects"] == named
    assert (await engine.cancel(made, "bob")).cancel_by == "ann", "an ended one stays as it is"


async def test_cancel_reaches_another_process_and_what_nobody_runs(world: World) -> None:
    few = msgspec.structs.replace(SETTINGS, concurrency=1)
    engine = await world.engine(kind(waits), settings=few)
    other = await world.engine(settings=msgspec.structs.replace(few, concurrency=0))
    runs, queued = await world.begin(engine), await world.begin(engine)
    assert (await other.get(queued)).status == "queued"
    assert (await other.cancel(queued, "bob")).outcome == "cancelled"
    assert (await other.cancel(runs, "bob")).outcome == "cancelled"
    assert not engine.running
    with pytest.raises(NotFound):
        await other.cancel("op_nothing", "bob")


async def test_a_deadline_cuts_what_runs_and_what_waits_its_turn(world: World) -> None:
    few = msgspec.structs.replace(SETTINGS, concurrency=1, deadline_us=60 * SECOND)
    engine = await world.engine(kind(waits), settings=few)
    runs, queued = await world.begin(engine), await world.begin(engine)
    own = await world.begin(engine, deadline_at=world.clock.now_us() + 3600 * SECOND)
    world.clock.now += 61 * SECOND
    assert (await engine.ended(runs, 5)).outcome == "timeout"
    assert (await engine.ended(queued, 5)).outcome == "timeout"
    assert (await engine.get(own)).outcome is None


async def test_work_that_ends_by_itself_when_cut_says_how(world: World) -> None:
    async def stubborn(work: Work) -> Ending:
        try:
            await work.emit("begun", {})
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await work.emit("last words", {})
        return Ending(outcome="cancelled", result=b'"half"')

    engine = await world.engine(kind(stubborn))
    made = await world.begin(engine)
    await until(lambda: "begun" in types(world.book.events(made)))
    assert (await engine.cancel(made, "ann")).outcome == "cancelled"
    assert await engine.result(made) == b'"half"'
    assert types(world.book.events(made))[-2:] == ["last words", "operation.ended"]


async def test_a_foreground_one_is_cut_when_the_last_who_waits_has_gone(world: World) -> None:
    engine = await world.engine(kind(waits))
    made = await world.begin(engine, background=False)
    with engine.attending(made):
        with engine.attending(made):
            pass
        await asyncio.sleep(0.1)
        assert (await engine.get(made)).status == "running"
    with engine.attending(made):
        await asyncio.sleep(0.1)
        assert (await engine.get(made)).status == "running", "somebody came in time"
    assert (await engine.ended(made, 5)).outcome == "cancelled"
    kept = await world.begin(engine)
    with engine.attending(kept):
        pass
    await asyncio.sleep(0.1)
    assert (await engine.get(kept)).status == "running", "background work needs nobody"


async def test_a_caller_who_leaves_while_it_is_created_is_one_who_left(world: World) -> None:
    engine = await world.engine(kind(waits))
    operation = world.operation(background=False)
    creating = asyncio.create_task(engine.create(operation, b"{}", principal=OWNER))
    await asyncio.sleep(0)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    await until(lambda: world.book.operation(operation.id) is not None)
    assert (await engine.ended(operation.id, 5)).outcome == "cancelled"


async def test_waiting_for_an_end_can_take_too_long(world: World) -> None:
    engine = await world.engine(kind(waits))
    with pytest.raises(TimeoutError):
        await engine.ended(await world.begin(engine), 0.05)


async def test_a_deleted_one_is_gone_whole(world: World) -> None:
    engine = await world.engine(kind(waits))
    made = await world.begin(engine)
    await engine.delete(made)
    assert not engine.running
    with pytest.raises(NotFound):
        await engine.get(made)
    assert world.book.events(made) == []


async def test_what_has_expired_is_forgotten(world: World) -> None:
    brief = msgspec.structs.replace(SETTINGS, keep_us=3600 * SECOND)
    engine = await world.engine(kind(counts), settings=brief)
    made = await world.begin(engine, b"1")
    await engine.ended(made, 5)
    await engine._watch._expire()
    assert world.book.operation(made) is not None
    world.clock.now += 3601 * SECOND
    await engine._watch._expire()
    assert world.book.operation(made) is None


# -- turns --


async def test_background_work_takes_turns_in_order_and_foreground_work_none(
    world: World,
) -> None:
    began: list[bytes] = []
    most = 0
    gate = asyncio.Event()

    async def counted(work: Work) -> Ending:
        nonlocal most
        began.append(work.input)
        most = max(most, len(world.engines[0]._runner._places))
        if work.operation.background:
            await gate.wait()
        return DONE

    few = msgspec.structs.replace(SETTINGS, concurrency=2)
    engine = await world.engine(kind(counted), settings=few)
    made = [await world.begin(engine, b"%d" % n) for n in range(7)]
    assert (await engine.get(made[2])).status == "queued"
    front = [await world.begin(engine, b"9", background=False) for _ in range(4)]
    for one in front:
        assert (await engine.ended(one, 5)).outcome == "complete"
    assert began == [b"0", b"1", b"9", b"9", b"9", b"9"]
    gate.set()
    for one in made:
        assert (await engine.ended(one, 5)).outcome == "complete"
    assert [n for n in began if n != b"9"] == [b"%d" % n for n in range(7)]
    assert most == 2


async def test_who_comes_as_a_place_is_free_waits_behind_those_who_wait(world: World) -> None:
    began: list[bytes] = []
    gate = asyncio.Event()

    async def works(work: Work) -> Ending:
        began.append(work.input)
        await gate.wait()
        return DONE

    few = msgspec.structs.replace(SETTINGS, concurrency=1)
    engine = await world.engine(kind(works), settings=few)
    made = [await world.begin(engine, b"%d" % n) for n in range(2)]
    gate.set()
    await until(lambda: not engine._runner._places)
    made.append(await world.begin(engine, b"2"))
    for one in made:
        await engine.ended(one, 5)
    assert began == [b"0", b"1", b"2"]


async def test_two_processes_share_what_is_queued(world: World) -> None:
    ran: list[tuple[str, str]] = []

    async def where(work: Work) -> Ending:
        ran.append((work.operation.id, str(work.operation.owner)))
        await asyncio.sleep(0.05)
        return DONE

    few = msgspec.structs.replace(SETTINGS, concurrency=1)
    engines = [await world.engine(kind(where), settings=few) for _ in range(2)]
    made = [await world.begin(engines[0]) for _ in range(8)]
    for one in made:
        await engines[0].ended(one, 5)
    assert sorted(key for key, _ in ran) == sorted(made), "each once"
    assert {owner for _, owner in ran} == {engine.owner for engine in engines}


# -- children --


async def test_a_child_is_started_once_for_each_name_and_waited_for(world: World) -> None:
    async def parent(work: Work) -> Ending:
        first = await work.child("work", b"2", name="left")
        again = await work.child("work", b"2", name="left")
        unnamed = [await work.child("work", b"1"), await work.child("work", b"1")]
        assert first.id == again.id
        assert len({first.id, *(one.id for one in unnamed)}) == 3
        return Ending(outcome=first.outcome or "error", result=first.id.encode())

    one_place = Settings(poll_s=0.02, concurrency=1)
    engine = await world.engine(kind(parent, "parent"), kind(counts), settings=one_place)
    made = await world.begin(engine, name="parent")
    ended = await engine.ended(made, 5)
    assert ended.outcome == "complete", ended.error_message
    child = await engine.get((await engine.result(made) or b"").decode(), OWNER)
    assert (child.parent_id, child.feature, child.outcome) == (made, "f", "complete")


async def test_cancelling_a_parent_cancels_its_children(world: World) -> None:
    async def parent(work: Work) -> Ending:
        await asyncio.gather(work.child("work", b"{}", name="a"), work.child("work", b"{}"))
        return DONE

    engine = await world.engine(kind(parent, "parent"), kind(waits))
    made = await world.begin(engine, name="parent")
    await until(lambda: engine.running == 3)
    assert (await engine.cancel(made, "ann")).outcome == "cancelled"
    await until(lambda: not engine.running)
    page = world.book.operations(OperationFilter(parent_id=made))
    assert [row.outcome for row in page.rows] == ["cancelled", "cancelled"]


# -- stopping --


async def test_an_orderly_stop_waits_then_leaves_the_rest_to_the_next(world: World) -> None:
    async def some(work: Work) -> Ending:
        if work.input == b"short":
            await asyncio.sleep(0.1)
        elif not work.restarted:
            await asyncio.sleep(3600)
        return DONE

    engine = await world.engine(kind(some))
    short, long = await world.begin(engine, b"short"), await world.begin(engine, b"long")
    following = asyncio.create_task(all_of(engine.follow(long)))
    await asyncio.sleep(0.02)
    await engine.stop(0.3)
    assert world.book.operation(short).outcome == "complete"  # type: ignore[union-attr]
    assert world.book.operation(long).status == "running"  # type: ignore[union-attr]
    with pytest.raises(Exception, match="stopping"):
        await following
    nxt = await world.engine(kind(some))
    assert (await nxt.ended(long, 5)).outcome == "complete"
    assert types(world.book.events(long))[2:] == ["operation.resumed", "operation.ended"]


async def test_five_hundred_at_once_each_with_a_follower(world: World, engine: str) -> None:
    if engine == "postgres":
        pytest.skip("one engine is enough")
    process = await world.engine(kind(counts), settings=Settings(concurrency=1000))

    async def one() -> int:
        made = await world.begin(process, b"5")
        return len(await all_of(process.follow(made)))

    async with asyncio.timeout(20):
        assert set(await asyncio.gather(*(one() for _ in range(500)))) == {8}
    await until(lambda: not process.running)
