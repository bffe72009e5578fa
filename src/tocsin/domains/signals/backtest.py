"""What the detectors would have said of recorded calls, and when.

Calls go through the same detectors as live ones, in the order in which they ended. Detectors that
are asked every few seconds are asked as the recorded time passes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from tocsin.core.clock import Clock
from tocsin.core.domain import Alert, Detector, Severity, Ticking
from tocsin.core.interaction import Interaction
from tocsin.core.signals import Change, Objective, Scored, Signal, SignalSettings
from tocsin.core.stops import Switchboard
from tocsin.core.supervision import Burn, Finding, RunWatch, Supervision
from tocsin.domains.signals.drift import Drift
from tocsin.domains.signals.standing import Standing

TICK_US = 60_000_000
"""Recorded time between two questions to detectors that must be asked."""


class Rang(msgspec.Struct, frozen=True, kw_only=True):
    """An alert that would have fired or resolved."""

    at: int
    """Microseconds since the epoch."""
    call: int
    """Number of the call in the file, from 1, that brought it."""
    state: Literal["firing", "resolved"]
    detector: str
    severity: Severity
    feature: str
    signal: str
    summary: str
    change: Change | None = None
    fingerprint: str = ""


class FeatureSpan(msgspec.Struct, frozen=True, kw_only=True):
    """How much was seen of a feature."""

    feature: str
    calls: int
    since: int
    until: int


class SignalsReport(msgspec.Struct, frozen=True, kw_only=True):
    """What would have rung."""

    calls: int
    untimed: int
    """Calls whose time nobody knows: they are judged in the order of the file."""
    features: tuple[FeatureSpan, ...]
    rang: tuple[Rang, ...]
    standings: tuple[tuple[str, Standing], ...]
    """How each signal stands at the end: (feature, standing)."""


class Silent:
    """The services of a process that is not there: settings are as given, nothing is kept."""

    def __init__(
        self,
        *,
        clock: Clock,
        catalogue: Mapping[str, Signal],
        settings: Mapping[str, SignalSettings] | None = None,
        default: SignalSettings | None = None,
        objectives: Sequence[Objective] = (),
    ) -> None:
        self.clock = clock
        self.burn = Burn()
        self._catalogue = catalogue
        self._settings = settings or {}
        self._default = default or SignalSettings()
        self._objectives = tuple(objectives)

    @property
    def stops(self) -> Switchboard:
        """There is none: raises ``RuntimeError``."""
        raise RuntimeError("a backtest stops nothing")

    def supervision(self, feature: str) -> Supervision:
        return Supervision()

    def signals(self, feature: str) -> SignalSettings:
        return self._settings.get(feature, self._default)

    def objectives(self) -> tuple[Objective, ...]:
        return self._objectives

    def catalogue(self) -> Mapping[str, Signal]:
        return self._catalogue

    def accepted(self, feature: str, signal: str) -> int:
        return 0

    def price(self, interaction: Interaction) -> int | None:
        return interaction.cost_nano_usd

    def alert(self, alert: Alert) -> None:
        """Alerts come from ``observe`` and ``tick``; there is no desk to lay others on."""

    def found(self, finding: Finding) -> None:
        """Findings are for pages."""

    def watched(self, run: RunWatch) -> None:
        """Runs are for pages."""


class Backtest:
    """Detectors over recorded calls."""

    def __init__(self, detectors: Sequence[Detector]) -> None:
        self._detectors = tuple(detectors)
        self._ticking = tuple(d for d in self._detectors if isinstance(d, Ticking))
        self._rang: list[Rang] = []
        self._spans: dict[str, list[int]] = {}
        self._calls = self._untimed = 0
        self._ticked = 0

    def add(self, scored: Scored) -> None:
        """Show a scored call to every detector. Calls come in the order in which they ended."""
        call = scored.interaction
        at = call.started_at + call.duration_us
        if scored.first:
            self._calls += 1
            self._untimed += call.attributes.get("time") == "unknown"
            span = self._spans.setdefault(call.feature, [0, at, at])
            span[0] += 1
            span[1], span[2] = min(span[1], at), max(span[2], at)
        self._tick(at)
        for detector in self._detectors:
            self._keep(detector.observe(scored))

    def _tick(self, at: int) -> None:
        if at - self._ticked < TICK_US:
            return
        # After a pause one question is enough: nothing came in between.
        self._ticked = at
        for detector in self._ticking:
            self._keep(detector.tick(at))

    def _keep(self, alerts: Iterable[Alert]) -> None:
        for alert in alerts:
            self._rang.append(
                Rang(
                    at=alert.at,
                    call=self._calls,
                    state=alert.state,
                    detector=alert.detector,
                    severity=alert.severity,
                    feature=alert.feature,
                    signal=alert.signal,
                    summary=alert.summary,
                    change=alert.change,
                    fingerprint=alert.fingerprint,
                )
            )

    def report(self) -> SignalsReport:
        """All that would have rung, in order."""
        drifts = [d for d in self._detectors if isinstance(d, Drift)]
        return SignalsReport(
            calls=self._calls,
            untimed=self._untimed,
            features=tuple(
                FeatureSpan(feature=name, calls=calls, since=since, until=until)
                for name, (calls, since, until) in sorted(self._spans.items())
            ),
            rang=tuple(self._rang),
            standings=tuple(found for drift in drifts for found in drift.standings()),
        )


__all__ = ["Backtest", "FeatureSpan", "Rang", "SignalsReport", "Silent"]
