"""Evaluating and detecting off the path: everything once, whatever dies or comes second."""

import asyncio
import threading
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from signal_world import CATALOGUE, Judge, judging
from store_world import SECOND, START, StoppedClock, entry, problems
from tocsin.core.domain import Alert
from tocsin.core.errors import StoreError
from tocsin.core.interaction import Entry
from tocsin.core.score import Feedback, Score
from tocsin.core.signals import Scored, Sum, unscored
from tocsin.store import Store
from tocsin.worker.detecting import SAVE_US, TICK_US, Detecting
from tocsin.worker.evaluating import (
    CONSUMER,
    Evaluating,
    evaluate_all,
    evaluating_job,
)
from tocsin.worker.jobs import Worker
from tocsin.worker.parallel import evaluate_on_cores


def fill(store: Store, first: int, count: int, **changes: Any) -> None:
    store.append([entry(n, **changes) for n in range(first, first + count)])


def total(store: Store, signal: str = "good", **more: Any) -> Sum:
    (row,) = store.signal_totals(since=0, until=START * 2, signal=signal, **more)
    return row.sum


def evaluating(store: Store, **settings: Any) -> Evaluating:
    return Evaluating(store, [Judge()], CATALOGUE, **settings)


def all_of(job: Evaluating | Detecting) -> None:
    while job.step():
        pass


# -- evaluating --


def test_what_is_appended_is_scored_once_and_in_order(store: Store) -> None:
    job = evaluating(store, batch=7)
    all_of(job)
    fill(store, 1, 40)
    all_of(job)
    rows = [row for _, row in store.scored_after(0, limit=100)]
    assert [row.interaction.id for row in rows] == [entry(n).interaction.id for n in range(1, 41)]
    assert all(row.first for row in rows)
    assert total(store) == Sum(n=36, total=16.0, squares=16.0, unjudged=4)
    assert {score.name for score in rows[0].scores} == {"good", "length", "correct"}
    assert (store.cursor(CONSUMER), job.step()) == (40, 0)
    assert problems(store) == []


def test_what_was_recorded_before_the_first_start_is_evaluated_only_when_asked(
    store: Store,
) -> None:
    fill(store, 1, 5)
    job = evaluating(store)
    all_of(job)
    fill(store, 6, 2)
    all_of(job)
    assert len(store.scored_after(0, limit=10)) == 2
    assert evaluate_all(store, [Judge()], CATALOGUE) == 0


def test_a_file_that_was_read_in_can_be_evaluated_whole(store: Store) -> None:
    fill(store, 1, 1200)
    steps: list[tuple[int, int]] = []
    done = evaluate_all(store, [Judge()], CATALOGUE, lambda *step: steps.append(step))
    assert done == 1200
    assert steps[-1] == (1200, 1200)
    assert total(store, "length").n == 1200
    assert evaluate_all(store, [Judge()], CATALOGUE) == 0


def test_several_cores_score_in_order_and_once(store: Store) -> None:
    fill(store, 1, 1200)
    steps: list[tuple[int, int]] = []
    done = evaluate_on_cores(
        store, CATALOGUE, judging, b"settings", progress=lambda *step: steps.append(step)
    )
    assert (done, steps[-1]) == (1200, (1200, 1200))
    assert total(store) == Sum(n=1080, total=480.0, squares=480.0, unjudged=120)
    rows = [row.interaction.id for _, row in store.scored_after(0, limit=2000)]
    assert rows == [entry(n).interaction.id for n in range(1, 1201)]
    assert evaluate_on_cores(store, CATALOGUE, judging, b"settings") == 0


def test_cores_go_on_behind_another_process_that_was_faster(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 1, 900)
    real, calls = store.add_scores, [0]

    def beaten(*args: Any, **more: Any) -> bool:
        calls[0] += 1
        if calls[0] == 2:
            evaluating(store, catch_up=True, batch=40).step()
        return real(*args, **more)

    monkeypatch.setattr(store, "add_scores", beaten)
    done = evaluate_on_cores(store, CATALOGUE, judging, b"settings")
    assert done == 860
    assert total(store, "length").n == 900
    assert len(store.scored_after(0, limit=2000)) == 900


class Died(Exception):
    """The process was killed here."""


@pytest.mark.parametrize("dies_at", ["recorded_after", "add_scores", "add_scores and kept"])
def test_a_process_that_dies_in_between_leaves_exact_sums(
    store: Store, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    all_of(evaluating(store))
    fill(store, 1, 30)
    for lives in range(1, 4):
        name = dies_at.split()[0]
        real, calls = getattr(store, name), [0]

        def dying(
            *args: Any, real: Any = real, calls: Any = calls, n: int = lives, **more: Any
        ) -> Any:
            calls[0] += 1
            if calls[0] == n:
                if dies_at.endswith("kept"):
                    real(*args, **more)
                raise Died
            return real(*args, **more)

        with monkeypatch.context() as patched:
            patched.setattr(store, name, dying)
            with pytest.raises(Died):
                all_of(evaluating(store, batch=5))
    all_of(evaluating(store, batch=5))
    assert total(store) == Sum(n=27, total=12.0, squares=12.0, unjudged=3)
    assert len(store.scored_after(0, limit=100)) == 30


def test_two_processes_share_the_work_and_the_sums_are_exact(open_it: Any) -> None:
    stores = [open_it(), open_it()]
    all_of(evaluating(stores[0]))
    fill(stores[0], 1, 200)
    jobs = [evaluating(store, batch=9) for store in stores]
    threads = [threading.Thread(target=all_of, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert total(stores[0]) == Sum(n=180, total=80.0, squares=80.0, unjudged=20)
    numbers = [row.interaction.id for _, row in stores[1].scored_after(0, limit=500)]
    assert numbers == [entry(n).interaction.id for n in range(1, 201)]


class Faulty(Judge):
    """Fails on odd calls."""

    name = "faulty"

    def evaluate(self, entry: Entry) -> list[Score]:
        if int(entry.interaction.id[5:]) % 2:
            raise ValueError("odd")
        return super().evaluate(entry)


def test_what_an_evaluator_fails_on_counts_as_unjudged_and_is_named(store: Store) -> None:
    job = Evaluating(store, [Faulty()], CATALOGUE, catch_up=True)
    fill(store, 1, 3)
    all_of(job)
    assert total(store) == Sum(n=1, total=1.0, squares=1.0, unjudged=2)
    assert job.trouble == {"faulty": "ValueError: odd"}


def test_routes_without_an_answer_are_shown_to_detectors_but_judged_by_nobody(
    store: Store,
) -> None:
    job = evaluating(store, catch_up=True)
    fill(store, 1, 1, operation="models")
    fill(store, 2, 1)
    all_of(job)
    assert [len(row.scores) for _, row in store.scored_after(0, limit=9)] == [0, 3]


def test_feedback_becomes_a_score_of_its_call_once(store: Store) -> None:
    job = evaluating(store)
    all_of(job)
    fill(store, 1, 3, release="v7")
    for number, (kind, value) in enumerate(
        [("label", 0.0), ("rating", 0.5), ("comment", None), ("label", 1.0)]
    ):
        store.add_feedback(
            Feedback(
                id=f"fb{number}",
                interaction_id=entry(1).interaction.id,
                kind=kind,  # type: ignore[arg-type]
                value=value,
                comment="hm",
                by="ann",
            )
        )
    all_of(job)
    all_of(evaluating(store))
    assert total(store, "labelled_right") == Sum(n=1, total=1.0, squares=1.0)
    assert total(store, "labelled_right", dimension="release").n == 1
    rows = [row for _, row in store.scored_after(0, limit=99)]
    assert [row.first for row in rows] == [True] * 3 + [False] * 3
    assert rows[0].interaction == rows[3].interaction
    names = {s.name: s.value for s in store.scores(entry(1).interaction.id)}
    assert (names["labelled_right"], names["rating"]) == (1.0, 0.5)


def test_feedback_on_a_call_that_was_deleted_is_passed_over(store: Store) -> None:
    fill(store, 1, 2, end_user="eve")
    for n in (1, 2):
        store.add_feedback(
            Feedback(id=f"fb{n}", interaction_id=entry(n).interaction.id, kind="label", value=1.0)
        )
    store.delete_end_user("eve")
    all_of(evaluating(store))
    assert store.scored_after(0, limit=9) == []


async def test_the_job_works_in_a_thread_of_its_own(store: Store) -> None:
    job = evaluating_job(store, [Judge()], CATALOGUE, catch_up=True)
    fill(store, 1, 150)
    before = {thread.name for thread in threading.enumerate()}
    worker = Worker((msgspec.structs.replace(job, every_s=0.01),))
    worker.start()
    for _ in range(1000):
        if store.cursor(CONSUMER) == 150:
            break
        await asyncio.sleep(0.01)
    started = {thread.name for thread in threading.enumerate()} - before
    await worker.stop()
    assert total(store, "length").n == 150
    assert any(name.startswith("tocsin-evaluate") for name in started)


# -- detecting --


class Runs:
    """Fires at every third bad call in a row; remembers how many there were."""

    name = "runs"
    version = "1"

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.bad = 0
        self.asked_at: list[int] = []

    def observe(self, scored: Scored) -> Iterable[Alert]:
        self.seen.append(scored.interaction.id)
        self.bad += 1
        if self.bad % 3 == 0:
            yield self.alert(f"three at {self.bad}", scored.interaction.started_at)

    def tick(self, now_us: int) -> Iterable[Alert]:
        self.asked_at.append(now_us)
        yield self.alert("silence", now_us)

    def save(self) -> bytes:
        return str(self.bad).encode()

    def load(self, data: bytes) -> None:
        self.bad = int(data)

    def alert(self, name: str, at: int) -> Alert:
        return Alert(
            fingerprint=name,
            detector=self.name,
            feature="support",
            severity="warning",
            state="firing",
            at=at,
            summary=name,
        )


class Forgetful:
    """The same, without a memory that outlives it."""

    name = "forgetful"
    version = "1"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def observe(self, scored: Scored) -> Iterable[Alert]:
        self.seen.append(scored.interaction.id)
        return ()


def add(store: Store, first: int, count: int) -> None:
    """Append calls and score them."""
    fill(store, first, count)
    rows = [unscored(entry(n).interaction) for n in range(first, first + count)]
    store.add_scores(rows, CATALOGUE)


def names(numbers: Iterable[int]) -> list[str]:
    return [entry(n).interaction.id for n in numbers]


def fired(store: Store) -> list[str]:
    return sorted(row.alert.summary for row in store.alerts())


def test_detectors_are_shown_scored_rows_in_order_and_later_words_too(store: Store) -> None:
    clock = StoppedClock()
    seen: list[tuple[str, bool]] = []

    class Watching(Forgetful):
        def observe(self, scored: Scored) -> Iterable[Alert]:
            seen.append((scored.interaction.id, scored.first))
            return ()

    detecting = Detecting(store, [Watching()], clock)
    all_of(detecting)
    fill(store, 1, 2)
    all_of(detecting)
    assert seen == [], "what is not scored yet is not shown"
    job = Evaluating(store, [Judge()], CATALOGUE, catch_up=True)
    store.add_feedback(
        Feedback(id="f", interaction_id=entry(1).interaction.id, kind="label", value=0.0)
    )
    all_of(job)
    all_of(detecting)
    assert seen == [(n, True) for n in names((1, 2))] + [(names((1,))[0], False)]


def test_what_a_detector_remembers_is_saved_every_minute_and_at_the_end(store: Store) -> None:
    clock = StoppedClock()
    detecting = Detecting(store, [Runs()], clock)
    all_of(detecting)
    add(store, 1, 2)
    all_of(detecting)
    assert store.load_state("runs", "1") is None
    clock.now += SAVE_US
    all_of(detecting)
    assert store.load_state("runs", "1") == (2, b"2")
    add(store, 3, 2)
    all_of(detecting)
    detecting.save()
    assert store.load_state("runs", "1") == (4, b"4")


def test_a_restart_goes_on_where_the_state_was_saved_and_shows_no_row_twice(store: Store) -> None:
    clock = StoppedClock()
    first = Detecting(store, [Runs(), Forgetful()], clock)
    all_of(first)
    add(store, 1, 4)
    all_of(first)
    first.save()
    add(store, 5, 1)
    all_of(first)  # and it is killed before it saves again
    before = [(row.alert, row.count) for row in store.alerts()]
    runs, forgetful = Runs(), Forgetful()
    second = Detecting(store, [runs, forgetful], clock)
    all_of(second)
    assert runs.seen == names([5])
    assert forgetful.seen == names([1, 2, 3, 4, 5]), "shown again, silently"
    assert [(row.alert, row.count) for row in store.alerts()] == before
    add(store, 6, 1)
    all_of(second)
    assert runs.bad == 6
    assert fired(store) == ["three at 3", "three at 6"]


def test_a_state_of_another_version_or_a_broken_one_means_a_new_start(store: Store) -> None:
    add(store, 1, 3)
    store.save_state("runs", "0", 2, b"2")
    runs = Runs()
    all_of(Detecting(store, [runs], StoppedClock()))
    assert runs.seen == names([1, 2, 3])
    store.save_state("runs", "1", 2, b"broken")
    runs = Runs()
    all_of(Detecting(store, [runs], StoppedClock()))
    assert runs.seen == names([1, 2, 3])


def test_nothing_is_saved_while_an_alert_waits_for_the_store(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = StoppedClock()
    detecting = Detecting(store, [Runs()], clock)
    all_of(detecting)
    add(store, 1, 3)

    def refuse(_alerts: object) -> None:
        raise StoreError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(store, "raise_alerts", refuse)
        with pytest.raises(StoreError):
            detecting.step()
        detecting.save()
    assert store.load_state("runs", "1") is None
    again = Detecting(store, [Runs()], clock)
    store.set_cursor("detectors.scored", 0)
    all_of(detecting)
    detecting.save()
    assert fired(store) == ["three at 3"]
    all_of(again)
    assert [row.count for row in store.alerts()] == [1]


def test_detectors_are_asked_when_nothing_comes_but_not_before_they_know_the_past(
    store: Store,
) -> None:
    clock = StoppedClock()
    all_of(Detecting(store, [Runs()], clock))
    add(store, 1, 600)
    runs = Runs()
    detecting = Detecting(store, [runs], clock)
    clock.now += TICK_US
    assert detecting.step() is True
    assert runs.asked_at == []
    assert detecting.step() is False
    assert runs.asked_at == [clock.now]
    assert "silence" in fired(store)
    detecting.step()
    assert len(runs.asked_at) == 1
    clock.now += TICK_US
    detecting.step()
    assert len(runs.asked_at) == 2


async def test_a_worker_that_stops_lets_detectors_save(store: Store) -> None:
    clock = StoppedClock()
    detecting = Detecting(store, [Runs()], clock)
    all_of(detecting)
    add(store, 1, 2)
    worker = Worker((msgspec.structs.replace(detecting.job(), every_s=0.01),))
    worker.start()
    for _ in range(500):
        if store.cursor("detectors.scored") == 2:
            break
        await asyncio.sleep(0.01)
    await worker.stop()
    assert store.load_state("runs", "1") == (2, b"2")


def test_without_evaluating_detectors_are_shown_the_bare_records(store: Store) -> None:
    forgetful = Forgetful()
    detecting = Detecting(store, [forgetful], StoppedClock(), scored=False)
    all_of(detecting)
    fill(store, 1, 3)
    all_of(detecting)
    assert forgetful.seen == names([1, 2, 3])
    assert (store.cursor("detectors"), store.cursor("detectors.scored")) == (3, 0)
    assert entry(1).interaction.started_at == START + SECOND
