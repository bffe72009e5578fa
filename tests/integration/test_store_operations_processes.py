"""Operations among several threads and processes, and processes that die."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier
from typing import Any, TypeVar

import pytest

from operations_world import delivery, event, key_row, operation, step
from store_world import HOUR, START, StoppedClock, problems
from tocsin.config.model import StoreSettings
from tocsin.store import Store, open_store, operation_rows
from tocsin.store.database import Session
from tocsin.store.operations_api import ConversationRow, OperationsBook, Written

T = TypeVar("T")
TESTS = str(Path(__file__).parent.parent)
WORKERS = 8


def at_once(store: Store, other: Store, act: Callable[[OperationsBook, str], T]) -> list[T]:
    """What many threads get, through two stores on one database, all starting together."""
    barrier = Barrier(WORKERS)

    def work(number: int) -> T:
        book = (store if number % 2 else other).operations
        barrier.wait()
        return act(book, f"worker_{number}")

    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(work, range(WORKERS)))


@pytest.fixture
def other(open_it: Callable[..., Store], store: Store) -> Store:
    """The same database, opened once more."""
    return open_it()


def test_of_many_that_claim_each_operation_goes_to_one(store: Store, other: Store) -> None:
    for n in range(60):
        status = "running" if n % 3 == 0 else "queued"
        owner = "dead" if n % 3 == 0 else None
        store.operations.create(operation(f"op_{n}", status=status, owner=owner), b"")

    def claim(book: OperationsBook, worker: str) -> list[str]:
        mine: list[str] = []
        while taken := book.claim(worker, START, dead_before=START, limit=3):
            mine += [one.id for one in taken]
        return mine

    taken = [name for names in at_once(store, other, claim) for name in names]
    assert sorted(taken) == sorted(f"op_{n}" for n in range(60))
    assert all(
        (one := store.operations.operation(f"op_{n}")) and one.restarts == (n % 3 == 0)
        for n in range(60)
    )


def test_of_many_that_begin_a_step_one_does_it(store: Store, other: Store) -> None:
    def begin(book: OperationsBook, worker: str) -> bool:
        kept, new = book.begin_step(step(owner=worker))
        return new and kept.owner == worker

    assert sum(at_once(store, other, begin)) == 1
    kept = store.operations.step("step_1")
    assert kept is not None
    assert kept.asked == WORKERS


@pytest.mark.parametrize("before", ["unknown", "begun", "failed"])
def test_of_many_that_take_a_step_one_gets_it(store: Store, other: Store, before: str) -> None:
    store.operations.begin_step(step(scope="shop", state=before, owner="dead"))

    def take(book: OperationsBook, worker: str) -> bool:
        book.beat(worker, START)
        return book.take_step("step_1", worker, before)  # type: ignore[arg-type]

    assert sum(at_once(store, other, take)) == 1


def test_of_many_that_settle_a_step_one_does(store: Store, other: Store) -> None:
    store.operations.begin_step(step())
    settled = at_once(
        store, other, lambda book, who: book.settle_step("step_1", "done", who.encode(), START)
    )
    kept = store.operations.step("step_1")
    assert kept is not None
    assert [settled.index(True)] == [n for n, done in enumerate(settled) if done]
    assert kept.result == f"worker_{settled.index(True)}".encode()


def test_of_many_with_a_key_one_is_first(store: Store, other: Store) -> None:
    store.operations.claim_key(key_row(expires_at=START), START)

    def claim(book: OperationsBook, worker: str) -> tuple[str, bool]:
        row, new = book.claim_key(key_row(owner=worker), START)
        return row.owner, new

    said = at_once(store, other, claim)
    assert len({owner for owner, _ in said}) == 1
    assert sum(new for _, new in said) == 1


def test_of_many_operations_one_holds_each_conversation(store: Store, other: Store) -> None:
    for n in range(WORKERS):
        store.operations.create(operation(f"worker_{n}"), b"")
    names = [f"conv_{n}" for n in range(40)]
    for name in names:
        store.operations.create_conversation(ConversationRow(id=name, created_at=START), ())

    def hold(book: OperationsBook, worker: str) -> list[str]:
        return [name for name in names if book.hold_conversation(name, worker)]

    held = at_once(store, other, hold)
    assert sorted(name for own in held for name in own) == sorted(names)
    for n, own in enumerate(held):
        assert all(
            (row := store.operations.conversation(name)) and row.held_by == f"worker_{n}"
            for name in own
        )


def test_each_due_delivery_goes_to_one(store: Store, other: Store) -> None:
    store.operations.add_deliveries([delivery(f"whd_{n}") for n in range(40)])

    def due(book: OperationsBook, worker: str) -> list[str]:
        mine: list[str] = []
        while taken := book.due_deliveries(worker, START, until=START + HOUR, limit=3):
            mine += [one.id for one in taken]
        return mine

    taken = [name for names in at_once(store, other, due) for name in names]
    assert sorted(taken) == sorted(f"whd_{n}" for n in range(40))


TAKING: dict[str, Callable[[OperationsBook, str], object]] = {
    "claim": lambda book, who: [one.id for one in book.claim(who, START, dead_before=START)],
    "key": lambda book, who: book.claim_key(key_row(owner=who), START)[1],
    "conversation": lambda book, who: book.hold_conversation("conv_1", who),
    "delivery": lambda book, who: book.due_deliveries(who, START, until=START + HOUR),
}


@pytest.mark.parametrize("what", TAKING)
def test_who_comes_between_anothers_look_and_its_turn_gets_it(
    store: Store, other: Store, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.operations.create(operation("op_1"), b"")
    for name in ("late", "early"):
        store.operations.create(operation(name, status="waiting"), b"")
    store.operations.create_conversation(ConversationRow(id="conv_1", created_at=START), ())
    store.operations.add_deliveries([delivery()])
    take = TAKING[what]
    database = store._database  # type: ignore[attr-defined]
    read = database.read
    rivals: list[object] = []

    @contextmanager
    def read_then_wait() -> Iterator[Session]:
        with read() as session:
            yield session
        if not rivals:
            rivals.append(take(other.operations, "early"))

    monkeypatch.setattr(database, "read", read_then_wait)
    assert not take(store.operations, "late")
    assert len(rivals) == 1
    assert rivals[0]


def test_threads_that_write_pack_and_read_at_once_agree(store: Store, other: Store) -> None:
    def live(book: OperationsBook, worker: str) -> int:
        book.create(operation(worker, owner=worker, status="running"), b"{}")
        for n in range(0, 60, 3):
            part = tuple(event(n + i) for i in range(3))
            assert book.write([Written(operation_id=worker, events=part, owner=worker)]) == (True,)
        book.write([Written(operation_id=worker, changes={"status": "ended"}, owner=worker)])
        for name in ("worker_0", worker):
            other.operations.pack(name)
            seen = [one.number for one in store.operations.events(name)]
            assert seen == list(range(len(seen)))
        return len(book.events(worker))

    assert at_once(store, other, live) == [60] * WORKERS
    assert problems(store) == []


def test_two_that_pack_the_same_log_leave_it_whole(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = store.operations
    book.create(operation(status="running"), b"")
    for n in range(0, 40, 2):
        book.write([Written(operation_id="op_1", events=(event(n), event(n + 1)))])
    book.write([Written(operation_id="op_1", changes={"status": "ended"})])
    made = operation_rows.event_row
    calls = 0

    def meanwhile(*args: Any) -> list[Any]:
        nonlocal calls
        calls += 1
        if calls == 2:  # after the first swap, before the second, another one packs all of it
            monkeypatch.setattr(operation_rows, "PACK_BYTES", 1 << 20)
            book.pack("op_1")
        return made(*args)

    monkeypatch.setattr(operation_rows, "PACK_BYTES", 1000)
    monkeypatch.setattr(operation_rows, "event_row", meanwhile)
    book.pack("op_1")
    assert calls == 3
    assert [one.number for one in book.events("op_1")] == list(range(40))
    assert problems(store) == []


CLAIMER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from store_world import START, StoppedClock
from tocsin.config.model import StoreSettings
from tocsin.store import open_store

store = open_store(StoreSettings(url=sys.argv[1]), Path(sys.argv[2]), StoppedClock())
name = sys.argv[4]
print("ready", flush=True)
sys.stdin.readline()
while taken := store.operations.claim(name, START, dead_before=START, limit=2):
    for one in taken:
        print(one.id, flush=True)
"""


def test_processes_share_the_queue(store: Store, store_url: str, tmp_path: Path) -> None:
    for n in range(40):
        store.operations.create(operation(f"op_{n}"), b"")
    words = [sys.executable, "-c", CLAIMER, store_url, str(tmp_path / "data"), TESTS]
    claimers = [
        subprocess.Popen([*words, name], stdin=-1, stdout=-1, text=True) for name in ("a", "b")
    ]
    for one in claimers:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in claimers:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    taken = [name for one in claimers for name in one.communicate(timeout=60)[0].split()]
    assert [one.returncode for one in claimers] == [0, 0]
    assert sorted(taken) == sorted(f"op_{n}" for n in range(40))


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from operations_world import delivery, event, operation
from store_world import START, StoppedClock
from tocsin.config.model import StoreSettings
from tocsin.store import open_store
from tocsin.store.operations_api import Written

store = open_store(StoreSettings(url=sys.argv[1]), Path(sys.argv[2]), StoppedClock())
book, life = store.operations, sys.argv[4]
print("ready", flush=True)
for turn in range(100_000):
    names = [f"op_{life}_{turn}_{n}" for n in range(3)]
    for name in names:
        book.create(operation(name, owner=life, status="running"), b"{}")
        print(name, 0, "running", flush=True)
    for first in range(0, 30, 5):
        part = tuple(event(first + n) for n in range(5))
        book.write([Written(operation_id=name, events=part, owner=life) for name in names])
        for name in names:
            print(name, first + 5, "running", flush=True)
    for name in names:
        told = (delivery("whd_" + name, operation_id=name),)
        ended = {"status": "ended", "outcome": "complete"}
        book.write([
            Written(operation_id=name, changes=ended, result=b"1", deliveries=told, owner=life)
        ])
        print(name, 30, "ended", flush=True)
        book.pack(name)
"""


def killed(url: str, folder: Path, life: str, after_s: float) -> dict[str, tuple[int, str]]:
    """What a writer had acknowledged of each operation when it was killed."""
    words = [sys.executable, "-c", WRITER, url, str(folder), TESTS, life]
    writer = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    time.sleep(after_s)
    os.kill(writer.pid, signal.SIGKILL)
    said: dict[str, tuple[int, str]] = {}
    for line in writer.stdout:
        if line.endswith("\n"):
            name, events, status = line.split()
            said[name] = (int(events), status)
    writer.wait()
    return said


def check_whole(store: Store, said: dict[str, tuple[int, str]]) -> None:
    """Everything acknowledged is there, numbered without gaps."""
    book = store.operations
    for name, (events, status) in said.items():
        one = book.operation(name)
        assert one is not None
        numbers = [e.number for e in book.events(name)]
        assert numbers == list(range(one.events))
        assert one.events >= events
        assert all(json.loads(e.data)["sequence_number"] == e.number for e in book.events(name))
        if status == "ended":
            assert one.status == "ended"
        if one.status == "ended":
            assert book.result(name) == b"1"
            assert [d.id for d in book.deliveries(operation_id=name)] == ["whd_" + name]
        else:
            assert book.deliveries(operation_id=name) == [], "the end is one transaction"


@pytest.mark.slow
def test_a_writer_that_is_killed_at_any_instant_loses_nothing(
    store_url: str, tmp_path: Path, engine: str
) -> None:
    chance = random.Random(11)
    events = 0
    folder = tmp_path / "data"
    for life in range(20 if engine == "sqlite" else 8):
        said = killed(store_url, folder, str(life), chance.uniform(0.001, 0.15))
        store = open_store(StoreSettings(url=store_url), folder, StoppedClock())
        check_whole(store, said)
        assert problems(store) == [], f"life {life}"
        taken = store.operations.claim("heir", START, dead_before=START, limit=100)
        unfinished = {name for name, (_, status) in said.items() if status == "running"}
        ended = {name for name in unfinished if name not in {one.id for one in taken}}
        assert all(
            (one := store.operations.operation(name)) and one.status == "ended" for name in ended
        )
        events += sum(count for count, _ in said.values())
        store.close()
    assert events > 100
