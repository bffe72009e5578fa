"""Error budgets and how fast they burn: sliding windows, and the rules that alert on them.

The rules are those of Google's "The Site Reliability Workbook" (2018), chapter 5, "Alerting on
SLOs", section 6, "Multiwindow, multi-burn-rate alerts". A burn rate of 1 spends exactly the
budget over the objective's window. Times are microseconds since the epoch, the events' own.
"""

from array import array
from collections import deque
from typing import Literal

import msgspec

from tocsin.core.signals import Objective

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
STEPS = 720
"""Steps of a window. In a total outage at 99.9 % the fastest rule waits for 1.4 % of its window:
ten steps, of which the last may be partly over."""
FEWEST_BAD = 2
"""An alert never rests on a single bad call."""
_QUIET = 0.5
"""The share of a rule's burn rate below which a short window counts as quiet at once."""
_RECENT = 10
_ROUNDING = 1.0 + 1e-12
"""1 - 0.999 is a little more than 0.001: a rate that equals a rule's must not fall short of it."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A long window says that it matters, a short one that it still goes on."""

    name: str
    """``page-1h``: what it does, and its long window."""
    severity: Literal["critical", "warning"]
    burn: float
    """The burn rate that both windows must reach."""
    budget: float
    """The share of the whole budget that is gone when the long window burns so."""
    long_us: int
    short_us: int


_TABLE: tuple[tuple[str, Literal["critical", "warning"], float, int, int], ...] = (
    ("page", "critical", 14.4, 720, 8640),
    ("page", "critical", 6.0, 120, 1440),
    ("ticket", "warning", 1.0, 10, 120),
)
"""Severity, burn rate, and the two windows as fractions of the objective's window: of 30 days, one
hour and 5 minutes, 6 hours and 30 minutes, 3 days and 6 hours."""


def rules(window_days: float) -> tuple[Rule, ...]:
    """The workbook's rules for an objective over so many days.

    For 30 days they are its table. Any other window has the same burn rates and the same shares of
    the budget (2 %, 5 %, 10 %), so that its alert windows are as much shorter or longer as it is.
    """
    whole = round(window_days * DAY_US)
    return tuple(
        Rule(
            name=f"{word}-{span(whole // long)}",
            severity=severity,
            burn=burn,
            budget=burn / long,
            long_us=max(1, whole // long),
            short_us=max(1, whole // short),
        )
        for word, severity, burn, long, short in _TABLE
    )


def span(us: int) -> str:
    """A length of time as names of rules have it: ``5m``, ``6h``, ``3d``, ``14m``."""
    seconds = us / 1_000_000
    for size, unit, least in ((86_400, "d", 172_800), (3600, "h", 3600), (60, "m", 60)):
        if seconds >= least - 0.5:
            return f"{round(seconds / size, 1):g}{unit}"
    return f"{seconds:.3g}s"


class Sliding:
    """How many calls, and how many bad ones, in a window that ends now.

    Memory is that of ``STEPS`` + 1 pairs of counts, whatever the traffic. Calls may come out of
    order; those older than the window do not count.
    """

    __slots__ = ("_all", "_bad", "_last", "_step", "_sum_all", "_sum_bad")

    def __init__(self, window_us: int, steps: int = STEPS) -> None:
        self._step = max(1, window_us // steps)
        self._all = array("Q", bytes(8 * (steps + 1)))
        self._bad = array("Q", bytes(8 * (steps + 1)))
        self._last = 0
        """The newest step, counted from the epoch."""
        self._sum_all = 0
        self._sum_bad = 0

    def add(self, at_us: int, bad: bool) -> None:
        """Take in one call."""
        step, size = at_us // self._step, len(self._all)
        if step > self._last:
            self._advance(step)
        elif step <= self._last - size:
            return
        place = step % size
        self._all[place] += 1
        self._sum_all += 1
        if bad:
            self._bad[place] += 1
            self._sum_bad += 1

    def _advance(self, step: int) -> None:
        size = len(self._all)
        if step - self._last >= size:
            self._all = array("Q", bytes(8 * size))
            self._bad = array("Q", bytes(8 * size))
            self._sum_all = self._sum_bad = 0
        else:
            for passed in range(self._last + 1, step + 1):
                place = passed % size
                self._sum_all -= self._all[place]
                self._sum_bad -= self._bad[place]
                self._all[place] = self._bad[place] = 0
        self._last = step

    def counts(self, now_us: int) -> tuple[float, float]:
        """Calls and bad calls of the window that ends at ``now_us``.

        Of the oldest step, which lies half outside, the share of its time that is inside.
        """
        outside = self._outside(now_us)
        oldest = (self._last + 1) % len(self._all)
        return (
            self._sum_all - outside * self._all[oldest],
            self._sum_bad - outside * self._bad[oldest],
        )

    def surely(self, now_us: int) -> tuple[int, int]:
        """The same without the oldest step: never more than were in the window."""
        self._outside(now_us)
        oldest = (self._last + 1) % len(self._all)
        return self._sum_all - self._all[oldest], self._sum_bad - self._bad[oldest]

    def _outside(self, now_us: int) -> float:
        if now_us // self._step > self._last:
            self._advance(now_us // self._step)
        return max(0.0, now_us - self._last * self._step) / self._step

    def since(self, share: float) -> int:
        """When a share of bad calls above ``share`` most likely began.

        The start of the stretch up to now in which bad calls exceed it most: the change point of a
        CUSUM chart (Page, 1954), to a step.
        """
        size = len(self._all)
        best, excess, found = 0.0, 0.0, self._last
        for step in range(self._last, self._last - size, -1):
            place = step % size
            excess += self._bad[place] - share * self._all[place]
            if excess > best:
                best, found = excess, step
        return found * self._step

    def dump(self) -> tuple[int, bytes, bytes]:
        """Its state."""
        return self._last, self._all.tobytes(), self._bad.tobytes()

    def restore(self, state: tuple[int, bytes, bytes]) -> None:
        """Take a state over. Raises ``ValueError`` when it is of another size."""
        last, every, bad = state
        if len(every) != 8 * len(self._all) or len(bad) != len(every):
            raise ValueError("the saved windows have another size")
        self._all, self._bad = array("Q", every), array("Q", bad)
        self._last, self._sum_all, self._sum_bad = last, sum(self._all), sum(self._bad)


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """How an objective stands at a rule's turning point."""

    rule: Rule
    firing: bool
    at: int
    since: int
    """When it most likely began to burn."""
    long: float
    """Burn rate over the long window."""
    short: float
    events: int
    """Calls in the long window, and the bad ones among them."""
    bad: int
    left: float
    """Share of the whole budget that is left; below 0 when more than all is spent."""


class BurnState:
    """One objective's windows, and which of its rules fire."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.rules = rules(objective.window_days)
        self.recent: deque[str] = deque(maxlen=_RECENT)
        """Ids of the latest bad interactions."""
        self.firing: dict[str, int] = {}
        """Rule → since when it burns."""
        lengths = {us for rule in self.rules for us in (rule.long_us, rule.short_us)}
        self._whole_us = round(objective.window_days * DAY_US)
        self._windows = {us: Sliding(us) for us in sorted({*lengths, self._whole_us})}
        self._fine_us = max(1, min(lengths) // STEPS)
        self._looked = 0

    @property
    def allowed(self) -> float:
        """The share of calls that may be bad."""
        return 1.0 - self.objective.target

    def add(self, at_us: int, bad: bool, interaction_id: str = "") -> None:
        """Take in one call."""
        for window in self._windows.values():
            window.add(at_us, bad)
        if bad and interaction_id:
            self.recent.append(interaction_id)

    def burn(self, window_us: int, now_us: int) -> float:
        """The burn rate over one of its windows; 0 without calls."""
        events, bad = self._windows[window_us].counts(now_us)
        return bad / events / self.allowed * _ROUNDING if events > 0 else 0.0

    def left(self, now_us: int) -> float:
        """The share of the budget that is left over the objective's window."""
        return 1.0 - self.burn(self._whole_us, now_us)

    def look(self, now_us: int, *, bad: bool) -> list[Reading]:
        """Which rules begin or end to fire. ``bad``: a bad call has just come.

        Only a bad call makes a rule fire, so that the figures in its alert are those that made it;
        what ends is looked at as often as the shortest window can tell.
        """
        if not bad and (not self.firing or now_us - self._looked < self._fine_us):
            return []
        self._looked = now_us
        found = []
        for rule in self.rules:
            reading = self._judge(rule, now_us, bad)
            if reading is not None:
                found.append(reading)
        return found

    def _judge(self, rule: Rule, now_us: int, bad: bool) -> Reading | None:
        short = self.burn(rule.short_us, now_us)
        if rule.name in self.firing:
            quiet = short < _QUIET * rule.burn
            long = self.burn(rule.long_us, now_us)
            if not quiet and (short >= rule.burn or long >= rule.burn):
                return None
            return self._reading(rule, now_us, self.firing.pop(rule.name), long, short, False)
        if not bad or short < rule.burn:
            return None
        long = self.burn(rule.long_us, now_us)
        window = self._windows[rule.long_us]
        events, bads = window.surely(now_us)
        if long < rule.burn or events < self.objective.min_events or bads < FEWEST_BAD:
            return None
        since = self.firing[rule.name] = window.since(_QUIET * rule.burn * self.allowed)
        return self._reading(rule, now_us, since, long, short, True)

    def _reading(
        self, rule: Rule, now_us: int, since: int, long: float, short: float, firing: bool
    ) -> Reading:
        events, bad = self._windows[rule.long_us].counts(now_us)
        return Reading(
            rule=rule,
            firing=firing,
            at=now_us,
            since=since,
            long=long,
            short=short,
            events=round(events),
            bad=round(bad),
            left=self.left(now_us),
        )

    def dump(self) -> dict[int, tuple[int, bytes, bytes]]:
        """Its windows, by length."""
        return {us: window.dump() for us, window in self._windows.items()}

    def restore(self, state: dict[int, tuple[int, bytes, bytes]]) -> None:
        """Take windows over. Raises ``ValueError`` when they are others."""
        if set(state) != set(self._windows):
            raise ValueError("the saved windows have other lengths")
        for us, window in self._windows.items():
            window.restore(state[us])


__all__ = [
    "DAY_US",
    "FEWEST_BAD",
    "HOUR_US",
    "STEPS",
    "BurnState",
    "Reading",
    "Rule",
    "Sliding",
    "rules",
    "span",
]
