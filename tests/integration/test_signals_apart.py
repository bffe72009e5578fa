"""The process that evaluates beside one that serves: it begins, ends, and comes back."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from signal_world import CATALOGUE, Judge
from store_world import StoppedClock, entry
from tocsin.config.model import Config, Server, StoreSettings
from tocsin.core.domain import Alert
from tocsin.core.errors import StoreError
from tocsin.core.score import Feedback
from tocsin.core.signals import Scored
from tocsin.store import Store
from tocsin.worker import apart
from tocsin.worker.apart import Apart, work_until
from tocsin.worker.detecting import SCORED, Detecting
from tocsin.worker.evaluating import CONSUMER, FEEDBACK, Evaluating

COMMAND = (sys.executable, "-m", "tocsin.cli.evaluator")


class Settings:
    """The configuration of a test's store, as the process is given it."""

    def __init__(self, url: str, data: Path) -> None:
        self.config = Config(server=Server(data_dir=str(data)), store=StoreSettings(url=url))

    def __call__(self) -> bytes:
        return self.config.model_dump_json().encode()


@pytest.fixture
def settings(store_url: str, tmp_path: Path) -> Settings:
    return Settings(store_url, tmp_path / "data")


@pytest.fixture
def beside(store: Store, settings: Settings) -> Iterator[Apart]:
    made = Apart(store, COMMAND, settings)
    yield made
    made.stop()


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it did not come to that"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return True
    return state == "Z"


def test_it_begins_when_there_is_something_and_ends_in_order(store: Store, beside: Apart) -> None:
    beside.step()
    assert beside.pid is None, "nothing to look at, no process"
    store.append([entry(n) for n in range(1, 151)])
    beside.step()
    pid = beside.pid
    assert pid is not None
    until(lambda: store.cursor(SCORED) == 150)
    assert store.cursor(CONSUMER) == 150
    assert len(store.scored_after(0, limit=500)) == 150
    store.add_feedback(
        Feedback(id="f", interaction_id=entry(1).interaction.id, kind="label", value=1.0)
    )
    until(lambda: store.cursor(FEEDBACK) == 1)
    assert {s.name for s in store.scores(entry(1).interaction.id)} >= {"labelled_right"}
    beside.step()
    assert beside.pid == pid
    assert beside.trouble == {}
    beside.stop()
    assert gone(pid)


def test_what_was_recorded_before_the_first_start_is_passed_over_and_nothing_after(
    store: Store, beside: Apart
) -> None:
    store.append([entry(1), entry(2)])
    beside.step()
    assert (beside.pid, store.cursor(CONSUMER)) == (None, 2)
    store.append([entry(3)])  # before the process is there
    beside.step()
    until(lambda: store.cursor(CONSUMER) == 3)
    assert [row.interaction.id for _, row in store.scored_after(0, limit=9)] == [
        entry(3).interaction.id
    ]


def test_it_ends_with_the_process_that_began_it(store: Store, beside: Apart) -> None:
    beside.step()
    store.append([entry(1)])
    beside.step()
    until(lambda: store.cursor(CONSUMER) == 1)
    process = beside._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()  # as when its parent is killed
    assert process.wait(10) == 0


def test_one_that_is_killed_is_named_and_followed_by_another(
    store: Store, beside: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "_AGAIN_S", 0.2)
    beside.step()
    store.append([entry(n) for n in range(1, 4)])
    beside.step()
    until(lambda: store.cursor(CONSUMER) == 3)
    first = beside.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)

    def noticed() -> bool:
        beside.step()
        return "process" in beside.trouble

    until(noticed)
    assert "-9" in beside.trouble["process"]
    store.append([entry(n) for n in range(4, 9)])
    until(lambda: (beside.step(), store.cursor(CONSUMER) == 8)[1])
    assert beside.pid != first
    assert len(store.scored_after(0, limit=50)) == 8


def test_other_settings_are_another_process(
    store: Store, beside: Apart, settings: Settings
) -> None:
    beside.step()
    store.append([entry(1)])
    beside.step()
    first = beside.pid
    settings.config = settings.config.model_copy(
        update={"signals": settings.config.signals.model_copy(update={"baseline_calls": 77})}
    )
    beside.step()
    until(lambda: beside.pid is None or beside.pid != first)
    assert first is not None
    assert gone(first)
    beside.step()
    until(lambda: store.cursor(CONSUMER) == 1)


def test_a_configuration_survives_the_way_to_the_process(settings: Settings) -> None:
    given = Config.model_validate(
        {
            "limits": {"daily": {"per": "day", "usd": 5}},
            "objectives": {"good": {"feature": "support", "signal": "appropriate", "target": 0.99}},
            "sentinels": {"s": {"feature": "support", "every_hours": None}},
            "judges": {"j": {"model": "gpt-4o"}},
        }
    )
    assert Config.model_validate_json(given.model_dump_json()) == given


class Watching:
    """A detector that fires at the first call and is asked whether it is over."""

    name = "watching"
    version = "1"

    def __init__(self) -> None:
        self.seen = 0

    def observe(self, scored: Scored) -> Iterable[Alert]:
        self.seen += 1
        return ()

    def save(self) -> bytes:
        return b"%d" % self.seen

    def load(self, data: bytes) -> None:
        self.seen = int(data)


def test_it_rests_when_nothing_comes_says_what_troubles_it_and_saves(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "_EVERY_S", 0.01)
    told: list[dict[str, str]] = []
    clock = StoppedClock()
    evaluating = Evaluating(store, [Judge()], CATALOGUE, catch_up=True)
    detecting = Detecting(store, [Watching()], clock)
    detecting.step()
    store.append([entry(n) for n in range(1, 5)])
    real, failures = store.recorded_after, [StoreError("away"), StoreError("away")]

    def sometimes(*args: object, **more: object) -> object:
        if failures:
            raise failures.pop()
        return real(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "recorded_after", sometimes)
    asked: list[bool] = [False, True, True]
    work_until(
        threading.Event(),
        evaluating,
        detecting,
        lambda: False,
        told.append,
        needed=asked.pop,
        idle_s=0.1,
    )
    assert asked == [], "it stays as long as an alert fires"
    assert store.cursor(CONSUMER) == 4
    assert store.cursor(SCORED) == 4
    assert store.load_state("watching", "1") == (4, b"4")
    assert told == [{"evaluating": "StoreError: away"}, {}]


def test_an_alert_that_fires_needs_somebody_who_may_say_that_it_is_over(
    store: Store, beside: Apart
) -> None:
    beside.step()
    assert beside.pid is None
    store.raise_alerts(
        [
            Alert(
                fingerprint="f",
                detector="objectives",
                feature="support",
                severity="warning",
                state="firing",
                at=1,
                summary="x",
            )
        ]
    )
    beside.step()
    assert beside.pid is not None
