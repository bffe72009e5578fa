"""The desk: where alerts, findings and watches are put down at once and stored soon after."""

import logging
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from tocsin.core.clock import Clock
from tocsin.core.domain import Alert
from tocsin.core.errors import StoreError
from tocsin.core.supervision import Finding, RunWatch
from tocsin.store.api import Store

log = logging.getLogger("tocsin.desk")

MOST = 10_000
"""Most things of a kind that wait for the store; past it the oldest make room."""
_AT_ONCE = 1000
_COMPLAIN_US = 60_000_000

T = TypeVar("T")


class Desk:
    """Takes what policies say from any thread without I/O; ``flush`` writes it.

    The last word on a run, on a finding and on an alert's state replaces those before it. What the
    store cannot take now waits; only when it is away for long are the oldest words given up, which
    is counted and logged.
    """

    def __init__(self, store: Store, clock: Clock, *, most: int = MOST) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._most = most
        self._complained_at: int | None = None
        self.dropped = 0
        """Words given up because too many waited."""
        self._alerts = _Tray[Alert](lambda one: (one.fingerprint, one.state), store.raise_alerts)
        self._findings = _Tray[Finding](
            lambda one: (one.run_id, one.call, one.detector, one.stage), store.add_findings
        )
        self._watches = _Tray[RunWatch](lambda one: one.run_id, store.save_watches)

    def alert(self, alert: Alert) -> None:
        """Raise or resolve an alert. Returns at once, from any thread."""
        self._put(self._alerts, alert)

    def found(self, finding: Finding) -> None:
        """Keep a finding. Returns at once, from any thread."""
        self._put(self._findings, finding)

    def watched(self, run: RunWatch) -> None:
        """Keep how a run stands. Returns at once, from any thread."""
        self._put(self._watches, run)

    @property
    def waiting(self) -> int:
        """Words that are not in the store yet."""
        return len(self._alerts.words) + len(self._findings.words) + len(self._watches.words)

    def flush(self) -> bool:
        """Write what waits; for a worker thread. Returns whether more waits already.

        Raises ``StoreError`` when the store cannot take it; then it goes on waiting.
        """
        with self._flushing:
            self._write(self._alerts)
            self._write(self._findings)
            self._write(self._watches)
        return self.waiting >= _AT_ONCE

    def close(self) -> None:
        """Write all that waits, at an orderly stop. What the store refuses then is lost: logged."""
        try:
            while self.waiting:
                self.flush()
        except StoreError as error:
            log.error("%d alerts and findings are lost: %s", self.waiting, error)

    def _put(self, tray: "_Tray[T]", word: T) -> None:
        key = tray.key(word)
        with self._lock:
            # A new word goes to the end: alerts are told in the order of their last changes.
            tray.words.pop(key, None)
            tray.words[key] = word
            full = len(tray.words) > self._most
            if full:
                self._drop(tray)
        if full:
            self._complain()

    def _drop(self, tray: "_Tray[T]") -> None:
        del tray.words[next(iter(tray.words))]
        self.dropped += 1

    def _complain(self) -> None:
        now = self._clock.monotonic_us()
        if self._complained_at is None or now - self._complained_at > _COMPLAIN_US:
            self._complained_at = now
            log.error(
                "the store does not take alerts and findings; %d were given up so far", self.dropped
            )

    def _write(self, tray: "_Tray[T]") -> None:
        with self._lock:
            keys = list(tray.words)[:_AT_ONCE]
            taken = {key: tray.words.pop(key) for key in keys}
        if not taken:
            return
        try:
            tray.write(list(taken.values()))
        except StoreError:
            self._put_back(tray, taken)
            raise
        except Exception:
            # What cannot be written now never can; going on is better than standing still.
            log.exception("%d alerts or findings cannot be stored", len(taken))
            self.dropped += len(taken)

    def _put_back(self, tray: "_Tray[T]", taken: "dict[Hashable, T]") -> None:
        with self._lock:
            newer = tray.words
            tray.words = {**{k: word for k, word in taken.items() if k not in newer}, **newer}
            while len(tray.words) > self._most:
                self._drop(tray)


class _Tray(Generic[T]):
    """Words of one kind by what they are about, oldest first, and how they are written."""

    __slots__ = ("key", "words", "write")

    def __init__(self, key: Callable[[T], Hashable], write: Callable[[list[T]], None]) -> None:
        self.key = key
        self.write = write
        self.words: dict[Hashable, T] = {}
