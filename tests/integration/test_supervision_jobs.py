"""The desk and the detectors' job, on real stores: nothing is lost, nothing is raised twice."""

import asyncio
import threading
from collections.abc import Iterable, Sequence

import msgspec
import pytest

from store_world import SECOND, START, StoppedClock, entry
from tocsin.core.domain import Alert, Detector
from tocsin.core.errors import StoreError
from tocsin.core.signals import Scored
from tocsin.core.supervision import Finding, RunWatch
from tocsin.runtime.desk import Desk
from tocsin.store import Store
from tocsin.worker.detecting import Detecting, flush_job
from tocsin.worker.jobs import Worker


def alert(name: str, at: int, **changes: object) -> Alert:
    made = Alert(
        fingerprint=name,
        detector="burn",
        feature="support",
        severity="warning",
        state="firing",
        at=START + at,
        summary=f"{name} at {at}",
    )
    return msgspec.structs.replace(made, **changes)


def finding(call: int, run: str = "run_a") -> Finding:
    return Finding(
        run_id=run,
        feature="support",
        call=call,
        at=START + call,
        stage="nudge",
        detector="identical",
        summary="the same call three times",
    )


def watch(run: str, calls: int) -> RunWatch:
    return RunWatch(
        run_id=run,
        feature="support",
        started_at=START,
        last_at=START + calls,
        calls=calls,
        steps=calls,
        repeats=0,
        novelty=1.0,
        tokens=10,
        tokens_since_new=0,
        cost_nano_usd=0,
    )


# -- the desk --


def test_what_is_put_on_the_desk_is_in_the_store_after_a_flush(store: Store) -> None:
    desk = Desk(store, StoppedClock())
    desk.alert(alert("burn", 1))
    desk.found(finding(1))
    desk.watched(watch("run_a", 1))
    assert (desk.waiting, store.findings()) == (3, [])
    assert desk.flush() is False
    assert desk.waiting == 0
    assert [row.alert for row in store.alerts(firing=True)] == [alert("burn", 1)]
    assert store.findings() == [finding(1)]
    assert store.watch("run_a") == watch("run_a", 1)


def test_the_last_word_on_a_run_wins_and_an_alert_that_fired_is_told_before_it_resolves(
    store: Store,
) -> None:
    desk = Desk(store, StoppedClock())
    for calls in range(1, 100):
        desk.watched(watch("run_a", calls))
    desk.alert(alert("short", 1))
    desk.alert(alert("short", 2, state="resolved"))
    assert desk.waiting == 3
    desk.flush()
    assert store.watch("run_a") == watch("run_a", 99)
    (row,) = store.alerts()
    assert (row.alert.state, row.first_at) == ("resolved", START + 1)


def test_nothing_that_many_threads_say_is_lost(store: Store) -> None:
    desk = Desk(store, StoppedClock())

    def say(thread: int) -> None:
        for call in range(50):
            desk.found(finding(call, f"run_{thread}"))
            desk.watched(watch(f"run_{thread}", call))

    threads = [threading.Thread(target=say, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        desk.flush()
    desk.close()
    assert len(store.findings(limit=1000)) == 300
    assert {row.calls for row in store.watches(since=0)} == {49}
    assert desk.dropped == 0


def test_what_the_store_cannot_take_waits_and_a_newer_word_is_not_overwritten(open_it) -> None:
    away: Store = open_it()
    desk = Desk(away, StoppedClock())
    desk.watched(watch("run_a", 1))
    desk.found(finding(1))
    away.close()
    with pytest.raises(StoreError, match="closed"):
        desk.flush()
    assert desk.waiting == 2
    desk.watched(watch("run_a", 2))
    back: Store = open_it()
    again = Desk(back, StoppedClock())
    again._findings.words, again._watches.words = desk._findings.words, desk._watches.words
    again.close()
    assert back.watch("run_a") == watch("run_a", 2)
    assert back.findings() == [finding(1)]


def test_a_desk_that_is_full_gives_up_the_oldest_and_says_so(
    open_it, caplog: pytest.LogCaptureFixture
) -> None:
    away: Store = open_it()
    desk = Desk(away, StoppedClock(), most=10)
    away.close()
    for call in range(25):
        desk.found(finding(call))
    with pytest.raises(StoreError):
        desk.flush()
    assert (desk.waiting, desk.dropped) == (10, 15)
    assert "given up" in caplog.text
    assert len(caplog.records) == 1, "once a minute is often enough"


def test_a_word_that_can_never_be_written_does_not_hold_up_the_others(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(store, StoppedClock())
    desk.found(msgspec.structs.replace(finding(1), evidence=(object(),)))  # a mistake of ours
    desk.watched(watch("run_a", 1))
    desk.flush()
    assert desk.waiting == 0
    assert store.watch("run_a") is not None
    assert "cannot be stored" in caplog.text


def test_a_stop_goes_on_when_the_store_is_away(open_it, caplog: pytest.LogCaptureFixture) -> None:
    away: Store = open_it()
    desk = Desk(away, StoppedClock())
    desk.found(finding(1))
    away.close()
    desk.close()
    assert "1 alerts and findings are lost" in caplog.text


async def test_the_worker_flushes_the_desk(store: Store) -> None:
    desk = Desk(store, StoppedClock())
    worker = Worker((flush_job(desk.flush, every_s=0.01),))
    worker.start()
    desk.found(finding(1))
    for _ in range(500):
        if not desk.waiting:
            break
        await asyncio.sleep(0.01)
    await worker.stop()
    desk.found(finding(2))
    desk.close()
    assert store.findings() == [finding(2), finding(1)]


# -- detectors --


class Errors:
    """Fires at every third failed call, resolves at the next good one."""

    name = "errors"
    version = "1"

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.errors = 0

    def observe(self, scored: Scored) -> Iterable[Alert]:
        interaction = scored.interaction
        self.seen.append(interaction.id)
        bad = interaction.outcome == "error"
        self.errors = self.errors + 1 if bad else 0
        if self.errors >= 3:
            yield alert("errors", interaction.started_at - START, evidence=(interaction.id,))
        elif not bad:
            yield alert("errors", interaction.started_at - START, state="resolved")


class Broken:
    """Fails on some records."""

    name = "broken"
    version = "1"

    def observe(self, scored: Scored) -> Iterable[Alert]:
        if scored.interaction.outcome == "error":
            raise ValueError("I cannot read this")
        return ()


def records_to(store: Store, detectors: Sequence[Detector], **settings: int) -> Detecting:
    """Detectors on the bare records, as where nothing is evaluated."""
    return Detecting(store, detectors, StoppedClock(), scored=False, **settings)


def fill(store: Store, first: int, count: int, outcome: str = "error") -> None:
    store.append([entry(n, outcome=outcome) for n in range(first, first + count)])


def all_of(detecting: Detecting) -> None:
    while detecting.step():
        pass


def test_alerts_come_from_what_is_appended_in_order(store: Store) -> None:
    detecting = records_to(store, [Errors()])
    all_of(detecting)
    fill(store, 1, 4)
    all_of(detecting)
    (row,) = store.alerts(firing=True)
    assert (row.count, row.first_at) == (2, START + 3 * SECOND)
    fill(store, 5, 1, "complete")
    all_of(detecting)
    assert store.alerts(firing=True) == []
    assert store.cursor("detectors") == 5


def test_a_restart_knows_what_was_before_and_raises_nothing_twice(store: Store) -> None:
    first = records_to(store, [Errors()])
    all_of(first)
    fill(store, 1, 4)
    all_of(first)
    before = store.alerts()
    second = records_to(store, [Errors()])
    all_of(second)
    assert store.alerts() == before
    fill(store, 5, 1)
    all_of(second)
    (row,) = store.alerts(firing=True)
    assert row.count == 3, "its third error in a row was before the restart"


def test_a_process_that_died_before_the_cursor_moved_counts_no_alert_twice(store: Store) -> None:
    fill(store, 1, 1)
    all_of(records_to(store, [Errors()]))
    fill(store, 2, 4)
    all_of(records_to(store, [Errors()]))
    before = store.alerts()
    store.set_cursor("detectors", 1)
    all_of(records_to(store, [Errors()]))
    assert store.alerts() == before


def test_what_was_recorded_before_the_first_start_raises_nothing(store: Store) -> None:
    fill(store, 1, 10)
    errors = Errors()
    detecting = records_to(store, [errors])
    all_of(detecting)
    assert store.alerts() == []
    assert len(errors.seen) == 10, "but it is known"
    fill(store, 11, 1)
    all_of(detecting)
    assert [row.count for row in store.alerts(firing=True)] == [1]


def test_only_the_last_records_are_read_again(store: Store) -> None:
    fill(store, 1, 30)
    errors = Errors()
    all_of(records_to(store, [errors], remembered=7))
    assert errors.seen == [entry(n).interaction.id for n in range(24, 31)]


def test_more_than_one_batch_is_read_in_turns(store: Store) -> None:
    detecting = records_to(store, [Errors()])
    detecting.step()
    fill(store, 1, 600)
    assert detecting.step() is True
    assert store.cursor("detectors") == 500
    assert detecting.step() is False
    assert store.cursor("detectors") == 600


def test_two_processes_on_one_store_raise_each_alert_once(open_it) -> None:
    here: Store = open_it()
    there: Store = open_it()
    one, two = records_to(here, [Errors()]), records_to(there, [Errors()])
    one.step(), two.step()
    for first in (1, 4, 7):
        fill(here, first, 3)
        one.step(), two.step()
    (row,) = here.alerts(firing=True)
    assert row.count == 7
    assert there.cursor("detectors") == 9


async def test_a_detector_that_fails_is_named_and_stops_no_other(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    detecting = records_to(store, [Broken(), Errors()])
    detecting.step()
    worker = Worker((msgspec.structs.replace(detecting.job(), every_s=0.01),))
    worker.start()

    async def until(cursor: int) -> None:
        for _ in range(500):
            if store.cursor("detectors") == cursor:
                break
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)

    fill(store, 1, 3)
    await until(3)
    assert worker.trouble == {"detectors": "broken: ValueError: I cannot read this"}
    assert len(store.alerts(firing=True)) == 1
    assert sum("detector broken failed" in record.message for record in caplog.records) == 1
    fill(store, 4, 1, "complete")
    await until(4)
    assert worker.trouble == {}
    await worker.stop()


def test_alerts_that_the_store_could_not_take_are_raised_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    detecting = records_to(store, [Errors()])
    detecting.step()
    fill(store, 1, 3)

    def refuse(_alerts: object) -> None:
        raise StoreError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(store, "raise_alerts", refuse)
        with pytest.raises(StoreError):
            detecting.step()
        assert store.cursor("detectors") == 0
    detecting.step()
    assert [row.count for row in store.alerts(firing=True)] == [1]
    assert store.cursor("detectors") == 3
