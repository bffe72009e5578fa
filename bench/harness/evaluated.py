"""Evaluates a bench's store in a process of its own and prints, at marks, what that takes.

The first hundred thousand interactions by one process, the others on both cores.

  python -m harness.evaluated FOLDER COUNT MINUTES     (from the folder of the benchmarks)
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from harness.procs import cpu_seconds, memory_mb
from harness.tocsin_entries import opened_store
from tocsin.app import all_domains
from tocsin.store import Store
from tocsin.worker.evaluating import Evaluating, Scoring, catalogue_of
from tocsin.worker.parallel import evaluate_on_cores

MARKS = (10_000, 50_000, 100_000, 250_000, 500_000, 750_000)
ALONE = 100_000
CORES = 2


class OutOfTime(Exception):
    """The minutes that were given are over."""


class Marks:
    """Prints a row whenever a mark is passed."""

    def __init__(self, store: Store, count: int, minutes: float) -> None:
        self._store, self._count = store, count
        self._left = [mark for mark in MARKS if mark < count] + [count]
        self._ends = time.monotonic() + minutes * 60
        self._before = store.stats().disk_bytes
        self.processes = 1
        self.begin()

    def begin(self) -> None:
        """Count time and CPU of the next row from now."""
        self._at, self._cpu = time.monotonic(), cpu_seconds(os.getpid())

    def passed(self, done: int, last: int) -> int:
        """Note how far it is; returns the ``last`` mark. Raises ``OutOfTime``."""
        over = time.monotonic() > self._ends
        if done < self._left[0] and not over:
            return last
        seconds, cpu = time.monotonic() - self._at, cpu_seconds(os.getpid()) - self._cpu
        row = {
            "processes": self.processes,
            "done": done,
            "per_second": (done - last) / seconds,
            "cpu_ms": 1000 * cpu / (done - last),
            "memory_mb": memory_mb(os.getpid()),
            "bytes_per_call": (self._store.stats().disk_bytes - self._before) / done,
        }
        print(json.dumps(row), flush=True)
        self._left = [mark for mark in self._left if mark > done] or [self._count]
        if over:
            raise OutOfTime
        self.begin()
        return done


def scoring(_settings: bytes) -> Scoring:
    """What each process scores with."""
    evaluators = tuple(make() for domain in all_domains() for make in domain.evaluators)
    return Scoring(evaluators, catalogue_of(evaluators))


def main() -> None:
    folder, count, minutes = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    store = opened_store(folder)
    evaluators = tuple(make() for domain in all_domains() for make in domain.evaluators)
    catalogue = catalogue_of(evaluators)
    marks = Marks(store, count, minutes)
    done = last = 0
    try:
        alone = Evaluating(store, evaluators, catalogue, catch_up=True)
        while done < min(count, ALONE):
            done += alone.step()
            last = marks.passed(done, last)
        marks.processes = CORES
        marks.begin()

        def progress(more: int, _: int) -> None:
            nonlocal last
            last = marks.passed(done + more, last)

        evaluate_on_cores(store, catalogue, scoring, processes=CORES, progress=progress)
    except OutOfTime:
        pass
    store.close()


if __name__ == "__main__":
    main()
