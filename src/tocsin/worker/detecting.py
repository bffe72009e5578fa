"""Detectors off the path: they are shown what was scored, in order; what they raise is an alert."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from tocsin.core.clock import Clock
from tocsin.core.domain import Alert, Detector, Remembering, Ticking
from tocsin.core.signals import Scored, unscored
from tocsin.store.api import Store
from tocsin.worker.jobs import Job
from tocsin.worker.quiet import quietly

log = logging.getLogger("tocsin.detecting")

CONSUMER = "detectors"
"""Whose cursor says up to where alerts are raised, in records ..."""
SCORED = "detectors.scored"
"""... and in scored rows: the two are numbered apart."""
REMEMBERED = 5_000
"""Rows before the cursor from which detectors make their state again at a start."""
TICK_US = 5_000_000
SAVE_US = 60_000_000
_BATCH = 500

T = TypeVar("T")


class Detecting:
    """Shows every row to detectors, in order, and raises their alerts once.

    Rows are what evaluators scored, or with ``scored=False`` the bare records. A detector that is
    ``Remembering`` goes on where it saved its state. Others keep theirs in memory, so a start shows
    them the last ``remembered`` rows again without raising anything. A store that no detector has
    read before is not gone through from its beginning: alerts about old times help nobody. Several
    processes on one store each feed detectors of their own; the shared cursor says up to where
    alerts are raised already.
    """

    def __init__(
        self,
        store: Store,
        detectors: Sequence[Detector],
        clock: Clock,
        *,
        scored: bool = True,
        remembered: int = REMEMBERED,
    ) -> None:
        self._store = store
        self._clock = clock
        self._scored = scored
        self._consumer = SCORED if scored else CONSUMER
        self._remembered = remembered
        self._detectors = tuple(detectors)
        self._from: dict[int, int] = {}
        """By place of a detector: the last row that it knows from before this process."""
        self._seen: int | None = None
        self._settled = 0
        self._waiting: list[Alert] = []
        self._ticked_us = self._saved_us = clock.monotonic_us()
        self._saved = 0
        self.trouble: dict[str, str] = {}
        """Last error by detector, until it takes a row again."""

    def job(self) -> Job:
        """The worker's job of looking at what is new."""
        return Job(
            name=CONSUMER,
            every_s=1.0,
            run=self._run,
            trouble=lambda: dict(self.trouble),
            stop=self.save,
        )

    async def _run(self) -> bool:
        return await quietly(self.step)

    def step(self) -> bool:
        """Feed one batch. Returns whether there is more. Blocks; raises ``StoreError``."""
        if not self._detectors:
            return False
        raised_to = self._store.cursor(self._consumer)
        if self._seen is None:
            raised_to, self._seen = self._begin(raised_to)
        self._settle(raised_to)
        rows = self._rows(self._seen)
        for number, row in rows:
            # Before anything can fail: a detector must not be shown the same row twice.
            self._seen = number
            raised = self._observe(number, row)
            if number > raised_to:
                self._waiting += raised
        if len(rows) < _BATCH:
            self._tick()
        self._settle(raised_to)
        if self._clock.monotonic_us() - self._saved_us >= SAVE_US:
            self.save()
        return len(rows) >= _BATCH

    def save(self) -> None:
        """Keep what detectors remember. Blocks; raises ``StoreError``."""
        self._saved_us = self._clock.monotonic_us()
        # Not past what is raised: what a detector has taken in, it never raises again.
        if self._waiting or not self._seen or self._seen == self._saved:
            return
        for detector in self._detectors:
            if isinstance(detector, Remembering):
                try:
                    data = detector.save()
                except Exception as error:
                    self._failed(detector, "could not save what it remembers", error)
                else:
                    name = self._state(detector)
                    self._store.save_state(name, detector.version, self._seen, data)
        self._saved = self._seen

    def _rows(self, number: int) -> list[tuple[int, Scored]]:
        if self._scored:
            return self._store.scored_after(number, limit=_BATCH)
        return [(seq, unscored(one)) for seq, one in self._store.after(number, limit=_BATCH)]

    def _begin(self, raised_to: int) -> tuple[int, int]:
        """Up to where alerts count as raised, and after what to start reading."""
        if not raised_to:
            raised_to = self._store.scored_upto() if self._scored else self._store.stats().last_seq
            if raised_to:
                self._store.set_cursor(self._consumer, raised_to)
        again = max(0, raised_to - self._remembered)
        for place, detector in enumerate(self._detectors):
            self._from[place] = again
            if isinstance(detector, Remembering):
                self._from[place] = self._remember(detector, again)
        return raised_to, min(self._from.values())

    def _remember(self, detector: Detector, otherwise: int) -> int:
        """The row as of which the detector's state is now."""
        found = self._store.load_state(self._state(detector), detector.version)
        if found is None or not isinstance(detector, Remembering):
            return otherwise
        number, data = found
        try:
            detector.load(data)
        except Exception as error:
            log.warning("detector %s starts anew: %s", detector.name, error)
            return otherwise
        return number

    def _state(self, detector: Detector) -> str:
        return detector.name if self._scored else f"{detector.name} (records)"

    def _settle(self, raised_to: int) -> None:
        """Raise what waits, then say so: a process that dies between the two raises it again, and
        the store counts the same alert once."""
        if self._waiting:
            self._store.raise_alerts(self._waiting)
            self._waiting = []
        if self._seen is not None and self._seen > raised_to:
            self._store.set_cursor(self._consumer, self._seen)

    def _observe(self, number: int, row: Scored) -> list[Alert]:
        alerts: list[Alert] = []
        for place, detector in enumerate(self._detectors):
            if number > self._from[place]:
                self._ask(detector, detector.observe, row, alerts)
        return alerts

    def _tick(self) -> None:
        """Ask those who want to be asked when nothing comes, every few seconds."""
        now = self._clock.monotonic_us()
        if now - self._ticked_us < TICK_US:
            return
        self._ticked_us = now
        at = self._clock.now_us()
        for detector in self._detectors:
            if isinstance(detector, Ticking):
                self._ask(detector, detector.tick, at, self._waiting)

    def _ask(
        self, detector: Detector, ask: Callable[[T], Iterable[Alert]], of: T, into: list[Alert]
    ) -> None:
        try:
            into += ask(of)
            self.trouble.pop(detector.name, None)
        except Exception as error:
            self._failed(detector, "failed", error)

    def _failed(self, detector: Detector, what: str, error: Exception) -> None:
        if detector.name not in self.trouble:
            log.exception("detector %s %s", detector.name, what)
        self.trouble[detector.name] = f"{type(error).__name__}: {error}"


def detecting_job(
    store: Store, detectors: Sequence[Detector], clock: Clock, *, scored: bool = True
) -> Job:
    """A job that shows ``detectors`` what is scored (or recorded) and raises their alerts."""
    return Detecting(store, detectors, clock, scored=scored).job()


def flush_job(flush: Callable[[], bool], *, name: str = "desk", every_s: float = 0.5) -> Job:
    """A job that calls a blocking ``flush`` again and again; it says whether there is more."""

    async def run() -> bool:
        return await quietly(flush)

    return Job(name=name, every_s=every_s, run=run)
