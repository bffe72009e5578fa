"""Gauges of signals and alerts: read from the store beside scrapes, never by one."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import msgspec

from tocsin.core.clock import Clock
from tocsin.core.errors import StoreError
from tocsin.core.signals import Signal, Sum
from tocsin.gateway.metrics import Labels, Metrics
from tocsin.store.api import Store

log = logging.getLogger("tocsin.metrics")

FRESH_US = 15_000_000
"""How old what a scrape tells may be before it is read again."""
_HOUR_US = 3_600_000_000
_ALERTS = 1_000

Series = Mapping[Labels, float]


class _Read(msgspec.Struct, frozen=True):
    means: Series
    judged: Series
    unjudged: Series
    alerts: Series


_NOTHING = _Read({}, {}, {}, {})


class SignalGauges:
    """The last hour of every signal, and the alerts that fire.

    A scrape tells what was read last and begins to read anew when that is old: a store that is slow
    or away holds no scrape up.
    """

    def __init__(
        self, store: Store, catalogue: Callable[[], Mapping[str, Signal]], clock: Clock
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._clock = clock
        self._lock = threading.Lock()
        self._reading: threading.Thread | None = None
        self._read_at: int | None = None
        self._last = _NOTHING

    def add_to(self, metrics: Metrics) -> None:
        """Make these part of every scrape."""
        signal = ("feature", "signal")
        for name, help_, labels, read in (
            (
                "tocsin_signal_mean",
                "Mean of a signal over the last hour; on a log scale near the middle.",
                signal,
                partial(self._told, "means"),
            ),
            (
                "tocsin_signal_judged",
                "Calls of the last hour that a signal was judged on.",
                signal,
                partial(self._told, "judged"),
            ),
            (
                "tocsin_signal_unjudged",
                "Calls of the last hour that a signal could not be judged on.",
                signal,
                partial(self._told, "unjudged"),
            ),
            (
                "tocsin_alerts_firing",
                "Alerts that fire.",
                ("detector", "severity", "feature"),
                partial(self._told, "alerts"),
            ),
        ):
            metrics.gauges(name, help_, labels, read)
        self._bound = metrics.bound_feature

    def refresh(self) -> None:
        """Read the store. Blocks; raises ``StoreError``."""
        now = self._clock.now_us()
        points = self._store.signal_points(grain="minutes", since=now - _HOUR_US, until=now)
        sums: dict[Labels, Sum] = {}
        for point in points:
            key: Labels = (self._bound(point.feature), point.signal)
            sums[key] = sums.get(key, Sum()) + point.sum
        alerts: dict[Labels, float] = {}
        for row in self._store.alerts(firing=True, limit=_ALERTS):
            one = row.alert
            labels = (one.detector, one.severity, self._bound(one.feature))
            alerts[labels] = alerts.get(labels, 0) + 1
        catalogue = self._catalogue()
        known = {key: values for key, values in sums.items() if key[1] in catalogue}
        self._last = _Read(
            means={
                key: catalogue[key[1]].outer(values.mean)
                for key, values in known.items()
                if values.mean is not None
            },
            judged={key: values.n for key, values in known.items()},
            unjudged={key: values.unjudged for key, values in known.items()},
            alerts=alerts,
        )

    def _told(self, which: str) -> Iterable[tuple[Labels, float]]:
        series: Series = getattr(self._now(), which)
        return series.items()

    def _now(self) -> _Read:
        now = self._clock.monotonic_us()
        with self._lock:
            old = self._read_at is None or now - self._read_at > FRESH_US
            if old and self._reading is None:
                self._read_at = now
                self._reading = threading.Thread(
                    target=self._try, name="tocsin-signal-metrics", daemon=True
                )
                self._reading.start()
        return self._last

    def _try(self) -> None:
        try:
            self.refresh()
        except StoreError as error:
            log.warning("signals are missing from the metrics: %s", error)
        except Exception:
            log.exception("signals are missing from the metrics")
        finally:
            with self._lock:
                self._reading = None
