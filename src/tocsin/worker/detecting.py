"""Detectors off the path: they read the log in order, and what they raise becomes alerts."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from tocsin.core.domain import Alert, Detector
from tocsin.core.interaction import Interaction
from tocsin.store.api import Store
from tocsin.worker.jobs import Job

log = logging.getLogger("tocsin.detecting")

CONSUMER = "detectors"
REMEMBERED = 5_000
"""Records before the cursor from which detectors make their state again at a start."""
_BATCH = 500


class Detecting:
    """Feeds every appended interaction to detectors, in order, and raises their alerts once.

    Detectors keep their state in memory, so a start shows them the last ``remembered`` records
    again without raising anything. A store that no detector has read before is not gone through
    from its beginning: alerts about old times help nobody. Several processes on one store each
    feed detectors of their own; the shared cursor says up to where alerts are raised already.
    """

    def __init__(
        self,
        store: Store,
        detectors: Sequence[Detector],
        *,
        consumer: str = CONSUMER,
        remembered: int = REMEMBERED,
    ) -> None:
        self._store = store
        self._detectors = tuple(detectors)
        self._consumer = consumer
        self._remembered = remembered
        self._seen: int | None = None
        self._waiting: list[Alert] = []
        self.trouble: dict[str, str] = {}
        """Last error by detector, until it takes a record again."""

    def job(self) -> Job:
        """The worker's job of looking at what is new."""
        return Job(
            name=self._consumer, every_s=1.0, run=self._run, trouble=lambda: dict(self.trouble)
        )

    async def _run(self) -> bool:
        return await asyncio.to_thread(self.step)

    def step(self) -> bool:
        """Feed one batch. Returns whether there is more. Blocks; raises ``StoreError``."""
        if not self._detectors:
            return False
        raised_to = self._store.cursor(self._consumer)
        if self._seen is None:
            raised_to, self._seen = self._begin(raised_to)
        self._settle(raised_to)
        rows = self._store.after(self._seen, limit=_BATCH)
        for seq, interaction in rows:
            # Before anything can fail: a detector must not be shown the same record twice.
            self._seen = seq
            raised = self._observe(interaction)
            if seq > raised_to:
                self._waiting += raised
        self._settle(raised_to)
        return len(rows) >= _BATCH

    def _begin(self, raised_to: int) -> tuple[int, int]:
        """Up to where alerts count as raised, and after what to start reading."""
        if not raised_to:
            raised_to = self._store.stats().last_seq
            if raised_to:
                self._store.set_cursor(self._consumer, raised_to)
        return raised_to, max(0, raised_to - self._remembered)

    def _settle(self, raised_to: int) -> None:
        """Raise what waits, then say so: a process that dies between the two raises it again, and
        the store counts the same alert once."""
        if self._waiting:
            self._store.raise_alerts(self._waiting)
            self._waiting = []
        if self._seen is not None and self._seen > raised_to:
            self._store.set_cursor(self._consumer, self._seen)

    def _observe(self, interaction: Interaction) -> list[Alert]:
        alerts: list[Alert] = []
        for detector in self._detectors:
            try:
                alerts += detector.observe(interaction)
                self.trouble.pop(detector.name, None)
            except Exception as error:
                if detector.name not in self.trouble:
                    log.exception("detector %s failed on %s", detector.name, interaction.id)
                self.trouble[detector.name] = f"{type(error).__name__}: {error}"
        return alerts


def detecting_job(store: Store, detectors: Sequence[Detector]) -> Job:
    """A job that feeds what is appended to ``detectors`` and raises their alerts."""
    return Detecting(store, detectors).job()


def flush_job(flush: Callable[[], bool], *, name: str = "desk", every_s: float = 0.5) -> Job:
    """A job that calls a blocking ``flush`` again and again; it says whether there is more."""

    async def run() -> bool:
        return await asyncio.to_thread(flush)

    return Job(name=name, every_s=every_s, run=run)
