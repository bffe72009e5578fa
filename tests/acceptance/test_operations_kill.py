"""kill -9 at random instants in work that charges: all of it ends, nothing is charged twice."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

import support.workers
from support.bank import Bank
from tocsin.config.model import StoreSettings
from tocsin.core.clock import SystemClock
from tocsin.core.operations import Operation
from tocsin.store import Store, open_store
from tocsin.store.operations_api import OperationFilter

KILLS = int(os.environ.get("TOCSIN_TEST_OPERATION_KILLS", "30"))


class Workers:
    """The processes, one at a time, and what they said."""

    def __init__(self, folder: Path, bank: Bank) -> None:
        words = [sys.executable, support.workers.__file__, str(folder), bank.place]
        self.made: list[str] = []
        self.pids: list[int] = []
        self.finished = threading.Event()
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._said = threading.Thread(target=self._hear, daemon=True)
        self._said.start()

    def _hear(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            verb, _, what = line.strip().partition(" ")
            if verb == "pid":
                self.pids.append(int(what))
            elif verb == "made":
                self.made.append(what)
            elif verb == "finished":
                self.finished.set()

    def tell(self, line: str) -> int:
        """Give an order; the pid of the process that was made."""
        known = len(self.pids)
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        while len(self.pids) == known:
            time.sleep(0.001)
        return self.pids[-1]

    def close(self) -> None:
        """End the one that forks; the others have ended."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)


def all_operations(store: Store) -> list[Operation]:
    rows: list[Operation] = []
    cursor: str | None = None
    while True:
        page = store.operations.operations(OperationFilter(), limit=500, cursor=cursor)
        rows += page.rows
        if page.next is None:
            return rows
        cursor = page.next


@pytest.mark.slow
def test_killed_at_random_instants_every_operation_ends_and_charges_at_most_once(
    tmp_path: Path,
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    bank = Bank(tmp_path, seed=seed, deaths=0.03)
    workers = Workers(tmp_path / "data", bank)
    try:
        for number in range(KILLS):
            pid = workers.tell(f"start {number}")
            time.sleep(chance.uniform(0.03, 0.35))
            os.kill(pid, signal.SIGKILL)
        workers.tell("finish")
        assert workers.finished.wait(60), "not every operation ended"
    finally:
        bank.close()
        workers.close()
    store = open_store(StoreSettings(), tmp_path / "data", SystemClock())
    operations = all_operations(store)
    charges = bank.charges()
    judge(store, operations, charges, set(workers.made))
    restarts = sum(operation.restarts for operation in operations)
    outcomes = Counter((o.kind, o.outcome) for o in operations)
    print(f"{len(operations)} operations, {restarts} restarts, bank died {bank.died} times")
    print(dict(outcomes))
    assert restarts > KILLS / 3, "the kills met work under way"
    assert outcomes["pays", "unknown"], "some charges were cut in the middle"
    assert bank.died
    store.close()


def judge(
    store: Store, operations: list[Operation], charges: Counter[str], acknowledged: set[str]
) -> None:
    """What must hold however the kills fell."""
    assert acknowledged <= {operation.id for operation in operations}, "none is lost"
    assert [key for key, times in charges.items() if times > 1] == [], "none is charged twice"
    known = set()
    for operation in operations:
        assert operation.status == "ended"
        events = store.operations.events(operation.id)
        assert [event.number for event in events] == list(range(operation.events))
        assert events[-1].type == "operation.ended"
        (step,) = [s for s in store.operations.steps(operation.id) if s.effect]
        known.add(step.key)
        if operation.outcome == "complete":
            assert (step.state, charges[step.key]) == ("done", 1)
        else:
            assert (operation.kind, operation.outcome) == ("pays", "unknown")
            assert (step.state, operation.error_type) == ("unknown", "effect_unknown")
    assert set(charges) <= known, "every charge belongs to an intent that is on record"
