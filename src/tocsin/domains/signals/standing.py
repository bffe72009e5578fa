"""How a signal stands: learning, steady or changed; and the smallest change that it would show."""

import math
from typing import Literal

import msgspec

from tocsin.core.domain import Alert
from tocsin.core.signals import Estimate, Signal
from tocsin.domains.signals.baseline import FEWEST
from tocsin.domains.signals.compare import estimate
from tocsin.domains.signals.watch import WatchState

SOON = 100
"""Judged calls within which the changes that ``Standing`` names are seen."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One signal of a feature, as the detector has it."""

    signal: str
    state: Literal["learning", "steady", "changed"]
    judged: int
    unjudged: int
    needed: int = 0
    """Judged calls until it can be watched at all; 0 once it is."""
    baseline: Estimate | None = None
    settled: bool = False
    """The baseline is full and stands."""
    sees_above: float | None = None
    sees_below: float | None = None
    """The nearest values on either side that would ring within ``SOON`` judged calls, on average;
    ``None`` where no change would."""
    rhythm: bool = False
    """Values are judged against their own hour, or weekday."""
    inflation: float = 1.0
    """How many times as much means vary as those of independent values."""
    since: int = 0
    alert: str = ""
    """The fingerprint of the alarm that stands."""

    @property
    def words(self) -> str:
        """For a page or a terminal."""
        if self.state == "learning":
            return f"underpowered: {self.needed} more needed"
        return self.state


def standing_of(signal: Signal, state: WatchState, alert: Alert | None) -> Standing:
    """How a watch of that signal stands."""
    base = state.baseline
    change = alert.change if alert is not None else None
    above, below = _sees(signal, state)
    return Standing(
        signal=signal.name,
        state="changed" if state.firing else "steady" if base is not None else "learning",
        judged=state.judged,
        unjudged=state.unjudged,
        needed=max(0, FEWEST - state.judged) if base is None else 0,
        baseline=estimate(signal, base.before) if base is not None else None,
        settled=state.settled,
        sees_above=above,
        sees_below=below,
        rhythm=bool(state.hours or state.days),
        inflation=base.inflation if base is not None else 1.0,
        since=change.since if change is not None else 0,
        alert=alert.fingerprint if alert is not None else "",
    )


def _sees(signal: Signal, state: WatchState) -> tuple[float | None, float | None]:
    base = state.baseline
    if base is None or base.kind == "unlike":
        return None, None
    found: list[float | None] = []
    for sign in (1.0, -1.0):
        levels = [c.reference + sign * c.limit / SOON for c in state.charts if c.sign == sign]
        level = min(levels, key=lambda x: sign * x, default=None)
        if level is None:
            found.append(None)
        elif base.kind == "coin":
            found.append(level if 0.0 <= level <= 1.0 else None)
        else:
            spread = math.sqrt(base.before.variance or 0.0)
            value = signal.outer((base.before.mean or 0.0) + level * spread)
            found.append(max(0.0, value) if signal.log else value)
    return found[0], found[1]


__all__ = ["SOON", "Standing", "standing_of"]
