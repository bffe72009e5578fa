"""``Watch``: one signal of one feature, from its first value to an alarm and back.

A watch learns a baseline, holds every further value against it with a few charts, and says when
one rings. While it learns, new values wait until they are known to be quiet: what a chart has
doubts about does not become part of what is normal.
"""

import math
from collections.abc import Callable

import msgspec

from tocsin.core.signals import Sum
from tocsin.domains.signals.baseline import (
    FEWEST,
    Baseline,
    Scorer,
    learn,
    scorer,
    thinned,
)
from tocsin.domains.signals.charts import Budget, Chart, Mark, level_charts, rate_charts
from tocsin.domains.signals.distributions import SHAPE, WINDOW, Bins, bins_of
from tocsin.domains.signals.firing import Firing
from tocsin.domains.signals.joint import Joint, coin_evidence, score_evidence
from tocsin.domains.signals.seasons import DAY_US, Rhythm, effect, slot_of

_GROWS = 1.4
_MINUTE_US = 60_000_000
_ROLLS = 250
"""Values after which a full baseline is taken anew while its daily rhythm is not yet known."""
_DOUBT = 0.5
"""Share of a limit from which a chart has doubts."""
_RHYTHM = 1.5
"""How far a daily rhythm that is not known yet may reach: standard deviations, or log odds."""
_SHAPES = 0.15
"""The part of a level's false alarms that the shape of its distribution gets."""
_QUIET_WINDOWS = 4


class Rang(msgspec.Struct, frozen=True):
    """What ``Watch.add`` found."""

    firing: Firing
    over: bool = False
    """It is back to its baseline."""


class Learning(msgspec.Struct):
    """Values on their way into a baseline, oldest first, and the minutes in which they came."""

    values: list[float] = []
    minutes: list[int] = []

    def add(self, value: float, at: int) -> None:
        """Take in a value that came at that time in microseconds."""
        self.values.append(value)
        self.minutes.append(at // _MINUTE_US)

    def extend(self, other: "Learning") -> None:
        """Take the other's values over and leave it empty."""
        self.values += other.values
        self.minutes += other.minutes
        other.values, other.minutes = [], []

    def keep(self, most: int) -> None:
        """Forget the oldest beyond so many."""
        if len(self.values) > most:
            del self.values[:-most], self.minutes[:-most]

    @property
    def at(self) -> int:
        """When they came, on average; microseconds."""
        return sum(self.minutes) * _MINUTE_US // max(1, len(self.minutes))

    def without(self, hours: list[float], days: list[float]) -> list[float]:
        """The values less what a rhythm adds to them."""
        return [
            value - effect(slot_of(minute * _MINUTE_US), hours, days)
            for value, minute in zip(self.values, self.minutes, strict=True)
        ]


class WatchState(msgspec.Struct, kw_only=True):
    """All that a watch remembers."""

    rate: bool
    judged: int = 0
    unjudged: int = 0
    first_at: int = 0
    total: float = 0.0
    squares: float = 0.0
    sample: Learning = msgspec.field(default_factory=Learning)
    pending: Learning = msgspec.field(default_factory=Learning)
    next_at: int = FEWEST
    """Judged values at which the baseline is learned anew."""
    baseline: Baseline | None = None
    charts: list[Chart] = []
    bins: Bins | None = None
    every: float = 0.0
    """Values between false alarms that the limits were made for."""
    settled: bool = False
    hours: list[float] = []
    days: list[float] = []
    """What the rhythm adds by hour and by weekday; empty where there is none or none known."""
    daily: Rhythm | None = None
    weekly: Rhythm | None = None
    sample_at: int = 0
    """When the values of the sample came, on average."""
    firing: Firing | None = None
    joint: Joint | None = None


class Watch:
    """See the module. ``every`` tells how many judged values may pass between false alarms."""

    __slots__ = ("_every", "_full", "_score", "state")

    def __init__(self, state: WatchState, *, full: int, every: Callable[["Watch"], float]) -> None:
        self.state = state
        self._full = max(FEWEST, full)
        self._every = every
        self._score: Scorer | None = scorer(state.baseline) if state.baseline is not None else None

    # -- values --

    def add(self, value: float, at: int, *, timed: bool = True) -> Rang | None:
        """Take in an inner value. Returns what began or ended with it, if anything did."""
        state = self.state
        slot = slot_of(at)
        mark = (state.judged, state.total, state.squares, at)
        state.judged += 1
        state.total += value
        state.squares += value * value
        if not state.first_at:
            state.first_at = at
            if timed:
                state.daily, state.weekly = Rhythm.empty(24, at), Rhythm.empty(7, at)
        found = self._judge(value, slot, mark) if self._score is not None else None
        if state.daily is not None and state.weekly is not None:
            state.weekly.add(at, value)
            if state.daily.add(at, value):
                self._new_day()
        if state.firing is None and not state.settled:
            state.pending.add(value, at)
            if state.judged >= state.next_at:
                self._learn()
        return found

    def _judge(self, value: float, slot: int, mark: Mark) -> Rang | None:
        state, score = self.state, self._score
        assert score is not None
        own = value - effect(slot, state.hours, state.days) if state.hours or state.days else value
        x = score(own)
        if state.joint is not None:
            state.joint.add(x, value)
        if state.firing is not None:
            if state.firing.method == SHAPE:
                return self._reshaping(own, mark[3])
            return self._standing(x, mark)
        rang: Chart | None = None
        for chart in state.charts:
            s = chart.s + chart.sign * (x - chart.reference)
            if s <= 0.0:
                chart.s = 0.0
                chart.mark = mark
            else:
                chart.s = s
                if s >= chart.limit and (rang is None or s / chart.limit > rang.s / rang.limit):
                    rang = chart
        if rang is not None:
            if self._known or not self._may_be_rhythm(rang, mark[3]):
                return self._rings(rang, mark[3])
            self._restart(mark)
        if state.bins is not None and state.bins.add(own) is not None:
            back = min(WINDOW, state.judged)
            return self.fire(self.mark_back(back), mark[3], SHAPE)
        return None

    @property
    def _known(self) -> bool:
        """Whether two days have been seen, so that a daily rhythm would be known."""
        daily = self.state.daily
        return daily is None or daily.whole >= 2

    def _may_be_rhythm(self, chart: Chart, at: int) -> bool:
        """Whether a change is no larger than what a day does to many signals in that time."""
        state, base = self.state, self.state.baseline
        assert base is not None
        passed = min(0.5, max(0, at - state.sample_at) / DAY_US)
        most = 2.0 * math.sin(math.pi * passed)
        mean = self._level(chart)
        if base.kind == "ranks":
            return abs(mean) < most * _RHYTHM
        odds = math.log(max(1e-9, mean) / max(1e-9, 1.0 - mean))
        return abs(odds - math.log(base.rate / (1.0 - base.rate))) < most * _RHYTHM

    def _level(self, chart: Chart) -> float:
        """Mean score since a chart last stood at zero."""
        return chart.reference + chart.sign * chart.s / max(1, self.state.judged - chart.mark[0])

    def _rings(self, chart: Chart, at: int) -> Rang:
        level = self._level(chart)
        found = self.fire(chart.mark, at, "CUSUM")
        found.firing.level, found.firing.n = level, self.state.judged - chart.mark[0]
        return found

    def mark_back(self, count: int) -> Mark:
        """About where the sums stood so many values ago, by the charts that have been restless."""
        marks = [chart.mark for chart in self.state.charts]
        wanted = self.state.judged - count
        return min(marks, key=lambda mark: abs(mark[0] - wanted))

    def fire(self, mark: Mark, at: int, method: str) -> Rang:
        """Begin to fire; charts stand still until it is over."""
        state = self.state
        after = self.since(mark)
        base = state.baseline
        level = (after.mean or 0.0) if base is not None and base.kind == "coin" else 0.0
        state.firing = Firing(mark=mark, at=at, level=level, method=method)
        state.joint = None
        state.pending = Learning()
        return Rang(state.firing)

    def since(self, mark: Mark) -> Sum:
        """What came after a mark, summed; inner values."""
        state = self.state
        return Sum(
            state.judged - mark[0],
            state.total - mark[1],
            max(0.0, state.squares - mark[2]),
        )

    # -- back to normal --

    def _reshaping(self, own: float, at: int) -> Rang | None:
        """Whether values are spread as they were again, window after window."""
        firing, bins = self.state.firing, self.state.bins
        assert firing is not None
        if bins is None:
            return None
        bins.add(own)
        firing.back = max(0.0, firing.back + bins.quiet) if bins.quiet >= 0 else 0.0
        if firing.back < _QUIET_WINDOWS:
            return None
        self.state.firing = None
        self._restart(self._here(at))
        return Rang(firing, over=True)

    def _standing(self, x: float, mark: Mark) -> Rang | None:
        """Whether a change that has rung is over, or has gone further."""
        firing, base = self.state.firing, self.state.baseline
        assert firing is not None
        assert base is not None
        firing.follow(x)
        if firing.is_back(base, x):
            self.state.firing = None
            self._restart(self._here(mark[3]))
            return Rang(firing, over=True)
        if firing.goes_further(base, x, mark):
            found = self.fire(firing.further_mark, mark[3], "CUSUM, further")
            count = max(1, self.state.judged - firing.further_mark[0])
            found.firing.n = count
            if base.kind == "ranks":
                sign = 1.0 if firing.level >= 0.0 else -1.0
                found.firing.level = firing.level + sign * firing.further / count
            return found
        return None

    def _here(self, at: int) -> Mark:
        return (self.state.judged, self.state.total, self.state.squares, at)

    def _restart(self, mark: Mark) -> None:
        for chart in self.state.charts:
            chart.s, chart.mark = 0.0, mark
        if self.state.bins is not None:
            self.state.bins.restart()

    # -- learning --

    def _learn(self) -> None:
        """Learn the baseline anew from what has waited, unless a chart has doubts about it."""
        state = self.state
        if any(chart.s > _DOUBT * chart.limit for chart in state.charts):
            state.pending.keep(2 * self._full)
            state.next_at = state.judged + max(10, len(state.sample.values) // 8)
            return
        state.sample.extend(state.pending)
        state.sample.keep(self._full)
        state.sample_at = state.sample.at
        n = len(state.sample.values)
        state.settled = n >= self._full and self._known
        self.learn_sample()
        if n >= self._full:
            state.next_at = state.judged + _ROLLS
        else:
            state.next_at = state.judged + min(self._full - n, max(10, int(n * (_GROWS - 1.0))))
        if state.settled:
            state.pending = Learning()
            if state.daily is None:
                self._freeze()

    def learn_sample(self) -> None:
        """Make baseline and limits from the sample, with the rhythm as far as it is known."""
        state = self.state
        raw = state.sample.values
        own = raw
        if state.hours or state.days:
            own = state.sample.without(state.hours, state.days)
        before = Sum(len(raw), sum(raw), sum(v * v for v in raw))
        state.baseline = learn(own, before, rate=state.rate)
        self._score = scorer(state.baseline)
        self.limit()

    def _new_day(self) -> None:
        """A day is over: look at the rhythm again; after two weeks for the last time."""
        state = self.state
        assert state.daily is not None
        assert state.weekly is not None
        hours, days = state.daily.effects(), state.weekly.effects()
        changed = hours != state.hours or days != state.days
        state.hours, state.days = hours, days
        if state.baseline is not None and changed and state.sample.values:
            self.learn_sample()
        if state.weekly.whole >= 2 and state.settled:
            self._freeze()

    def _freeze(self) -> None:
        """Keep of the baseline what charts need, and no single values."""
        state = self.state
        assert state.baseline is not None
        state.baseline = thinned(state.baseline)
        self._score = scorer(state.baseline)
        state.sample = Learning()
        state.daily = state.weekly = None

    def limit(self) -> None:
        """Make the limits anew, for the baseline and the share of false alarms as they are."""
        state, base = self.state, self.state.baseline
        if base is None:
            return
        every = state.every = self._every(self)
        horizon = every / 4.0 if base.n >= self._full else 2.0 * base.n
        old = state.charts
        if base.kind == "ranks":
            state.charts = level_charts(
                base.n, Budget(every / (1.0 - _SHAPES), horizon), inflation=base.inflation
            )
            made = bins_of(base.points, base.n, every=every / _SHAPES, inflation=base.inflation)
            state.bins = made
        else:
            budget = Budget(every, horizon)
            state.charts = rate_charts(base.hits, base.n, budget, inflation=base.inflation)
            state.bins = None
        self._carry(old)

    def _carry(self, old: list[Chart]) -> None:
        """Charts that are made anew go on from where the old ones stood."""
        state = self.state
        here = (state.judged, state.total, state.squares, 0)
        for chart in state.charts:
            same = [c for c in old if c.sign == chart.sign and c.s > 0.0]
            near = min(same, key=lambda c: abs(c.reference - chart.reference), default=None)
            if near is None:
                chart.mark = max((c.mark for c in old), default=here)
            else:
                chart.s = min(0.99, near.s / near.limit) * chart.limit
                chart.mark = near.mark

    # -- with others --

    def join(self, since: int) -> None:
        """Begin to ask whether this signal changed together with one that has rung."""
        self.state.joint = Joint(since=since)

    def keep(self, before: Joint | None, evidence: float) -> None:
        """Of two moments to be asked about keep the better; that there was a choice counts."""
        if before is None or self.state.joint is None:
            return
        chosen = before if evidence > self.evidence() else self.state.joint
        chosen.choice = before.choice + math.log(2.0)
        self.state.joint = chosen

    def joined(self, at: int) -> Rang:
        """Begin to fire: it changed together with another."""
        state, joint = self.state, self.state.joint
        assert joint is not None
        mark = (
            state.judged - joint.n,
            state.total - joint.inner,
            state.squares - joint.squares,
            joint.since,
        )
        found = self.fire(mark, at, "changed with others, e-BH")
        found.firing.level, found.firing.n = joint.total / joint.n, joint.n
        return found

    def evidence(self) -> float:
        """Log of how much better "it changed as well" explains the values since it was joined."""
        state, base = self.state, self.state.baseline
        if state.joint is None or base is None or state.joint.n < 3:
            return -math.inf
        if base.kind == "ranks":
            found = score_evidence(state.joint, base.n, base.inflation)
        else:
            found = coin_evidence(state.joint, base.hits, base.n, base.inflation)
        return found - state.joint.choice

    def rescore(self, value: float, at: int) -> None:
        """Add a value that came before ``join`` to what is asked there."""
        state = self.state
        if state.joint is not None and self._score is not None:
            slot = slot_of(at)
            state.joint.add(self._score(value - effect(slot, state.hours, state.days)), value)


__all__ = ["Learning", "Rang", "Watch", "WatchState"]
