"""``Spend``: what one feature, key or run has spent of late, and whether that is usual for it.

Two questions are asked. Does it burn: is its rate over a long *and* a short window a multiple of
the usual one (multi-window burn rates, after the SRE workbook's chapter on alerting)? And does it
keep multiplying: spend that doubles every few days never outruns a baseline that follows it.

Time is the events' own; money is US dollars as a float, for rates need no exactness. Memory is
bounded: five-minute sums for six hours, hourly sums for four weeks.
"""

from array import array
from collections.abc import Iterator
from itertools import pairwise
from math import sqrt
from typing import Literal

import msgspec

FINE_S = 300
HOUR_S = 3600
DAY_S = 86_400
MEMORY_DAYS = 28
_FINE_KEPT = 72
_FINE_DROPPED = 96
"""Five-minute sums are thrown away once there are so many."""

Scope = Literal["feature", "key", "run"]


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """A long window says that it matters, a short one that it still goes on. Seconds."""

    long_s: int
    short_s: int
    times: float = 1.0
    """The factor of this pair, as a multiple of the configured one."""


class BurnRules(msgspec.Struct, frozen=True, kw_only=True):
    """Every number of the detector."""

    factor: float = 6.0
    """Spend at so many times the usual rate burns."""
    min_usd: float = 5.0
    """... when the long window holds at least this much."""
    pairs: tuple[Pair, ...] = (
        Pair(long_s=HOUR_S, short_s=FINE_S, times=2.0),
        Pair(long_s=3 * HOUR_S, short_s=900),
        Pair(long_s=6 * HOUR_S, short_s=1800),
    )
    busy: float = 0.5
    """The share of ``factor`` by which the long window must exceed even a busy six hours (their
    95th percentile): a working day is not compared with its night."""
    deviations: float = 8.0
    """... and by so many standard deviations of what is usual: three dear calls in an otherwise
    quiet week are chance."""
    dearest: float = 0.34
    """Most of the long window that a single call may be: one dear call is no rate."""
    history_days: float = 5.7
    """How long a feature or key must be known: a week has a weekend in it, and is known as one
    before the last six hours of it are over."""
    run_history_days: float = 1.0
    growth: float = 1.5
    """Spend multiplies when each of four windows in a row has so many times the one before ..."""
    growth_most: float = 6.0
    """... and at most so many: a launch is a step."""
    growth_total: float = 3.6
    """... and the last has so many times the first."""
    growth_deviations: float = 3.0
    growth_sure: float = 5.5
    """From so many standard deviations between the first and the last, a window between may fall
    one short of its step, as long as it has more than the one before: sums of few dear calls are
    rough. With fewer, chance would be taken for growth."""


class Excess(msgspec.Struct, frozen=True, kw_only=True):
    """Why spend is out of the ordinary."""

    kind: Literal["rate", "growth"]
    window_s: int
    short_s: int = 0
    usd: float
    """Spent in the window."""
    short_usd: float = 0.0
    usual: float
    """US dollars that such a window usually has; of growth, what the first of the four had."""
    steep: bool = False
    """At twice the factor."""

    @property
    def times(self) -> float:
        """By how much it is more than usual."""
        return self.usd / self.usual if self.usual > 0 else float("inf")


class _Usual(msgspec.Struct, frozen=True):
    """What is usual, in US dollars an hour; ``squares`` is the rate of summed squared costs."""

    mean: float
    busy: float
    squares: float


class Spend:
    """One feature's, key's or run's spend."""

    __slots__ = (
        "_days",
        "_fine",
        "_newest",
        "_usual",
        "_usual_hour",
        "feature",
        "first_s",
        "recent",
        "scope",
        "value",
    )

    def __init__(self, scope: Scope, value: str, feature: str, at_s: int) -> None:
        self.scope = scope
        self.value = value
        self.feature = feature
        self.first_s = at_s
        self.recent: list[str] = []
        """Ids of the latest interactions, at most five."""
        self._newest = at_s
        self._days: dict[int, array[float]] = {}
        """Day → 24 sums of US dollars, then 24 of their squares."""
        self._fine: dict[int, list[float]] = {}
        """Five minutes → US dollars, squares, calls without a price, their tokens, the dearest."""
        self._usual: _Usual | None = None
        self._usual_hour = -1

    def add(self, at_s: int, usd: float | None, tokens: int, interaction_id: str) -> None:
        """Take in one call. ``usd`` is ``None`` without a price; calls may come out of order."""
        newest = max(self._newest, at_s)
        if at_s < newest - MEMORY_DAYS * DAY_S:
            return
        if newest - self._newest > MEMORY_DAYS * DAY_S:
            self.first_s = at_s  # after such a gap nothing is known of what is usual
        self._newest = newest
        self.first_s = min(self.first_s, at_s)
        self.recent = [*self.recent[-4:], interaction_id]
        slot = self._fine.get(at_s // FINE_S)
        if slot is None:
            slot = self._fine[at_s // FINE_S] = [0.0, 0.0, 0.0, 0.0, 0.0]
            if len(self._fine) > _FINE_DROPPED:
                oldest = newest // FINE_S - _FINE_KEPT
                self._fine = {at: sums for at, sums in self._fine.items() if at > oldest}
        if usd is None:
            slot[2] += 1
            slot[3] += tokens
            return
        slot[0] += usd
        slot[1] += usd * usd
        slot[4] = max(slot[4], usd)
        day = self._days.get(at_s // DAY_S)
        if day is None:
            day = self._days[at_s // DAY_S] = array("d", bytes(8 * 48))
            for old in [d for d in self._days if d <= newest // DAY_S - MEMORY_DAYS]:
                del self._days[old]
        hour = at_s % DAY_S // HOUR_S
        day[hour] += usd
        day[24 + hour] += usd * usd

    # -- looking back --

    def spent(self, now_s: int, window_s: int) -> float:
        """US dollars in a window of at most six hours that ends now."""
        return self._fine_sum(now_s // FINE_S, window_s // FINE_S, 0)

    def dearest(self, now_s: int, window_s: int) -> float:
        """The dearest call of such a window."""
        fine, last = self._fine, now_s // FINE_S
        slots = range(last - window_s // FINE_S + 1, last + 1)
        return max([fine[at][4] for at in slots if at in fine], default=0.0)

    def unpriced(self, now_s: int, window_s: int) -> tuple[int, int]:
        """Calls without a price in such a window, and their tokens."""
        last, count = now_s // FINE_S, window_s // FINE_S
        return int(self._fine_sum(last, count, 2)), int(self._fine_sum(last, count, 3))

    def _fine_sum(self, last: int, count: int, column: int) -> float:
        fine = self._fine
        return sum([fine[at][column] for at in range(last - count + 1, last + 1) if at in fine])

    def _hour_sum(self, last: int, count: int, column: int) -> float:
        total = 0.0
        for hour in range(last - count + 1, last + 1):
            day = self._days.get(hour // 24)
            if day is not None:
                total += day[24 * column + hour % 24]
        return total

    # -- judging --

    def excess(self, now_s: int, rules: BurnRules) -> Excess | None:
        """What is out of the ordinary now, if anything is."""
        return self._burning(now_s, rules) or self._growing(now_s, rules)

    def _burning(self, now_s: int, rules: BurnRules) -> Excess | None:
        needed = rules.run_history_days if self.scope == "run" else rules.history_days
        if now_s - self.first_s < needed * DAY_S + 6 * HOUR_S:
            return None
        usual: _Usual | None = None
        for pair in rules.pairs:
            long = self.spent(now_s, pair.long_s)
            if long < rules.min_usd:
                continue
            usual = usual or self._usual_at(now_s)
            hours, factor = pair.long_s / HOUR_S, rules.factor * pair.times
            mean = usual.mean * hours
            if (
                mean <= 0.0
                or long < factor * mean
                or long < factor * rules.busy * usual.busy * hours
                or long < mean + rules.deviations * sqrt(usual.squares * hours)
                or self.dearest(now_s, pair.long_s) > rules.dearest * long
            ):
                continue
            short = self.spent(now_s, pair.short_s)
            if short >= factor * usual.mean * pair.short_s / HOUR_S:
                return Excess(
                    kind="rate",
                    window_s=pair.long_s,
                    short_s=pair.short_s,
                    usd=long,
                    short_usd=short,
                    usual=mean,
                    steep=long >= 2 * rules.factor * mean,
                )
        return None

    def _usual_at(self, now_s: int) -> _Usual:
        """What was usual before the longest window; worked out once an hour."""
        hour = now_s // HOUR_S
        if self._usual is None or self._usual_hour != hour:
            self._usual, self._usual_hour = self._work_out_usual(hour - 6), hour
        return self._usual

    def _work_out_usual(self, until: int) -> _Usual:
        """Over the hours before ``until``. Days without any spend (gaps, holidays) do not count."""
        first = self.first_s // HOUR_S
        dollars = squares = 0.0
        hours = 0
        blocks: list[float] = []
        for number, day in self._days.items():
            begin, end = max(number * 24, first), min(number * 24 + 24, until)
            if begin >= end:
                continue
            low, high = begin - number * 24, end - number * 24
            spent = sum(day[low:high])
            if spent <= 0.0:
                continue
            dollars += spent
            squares += sum(day[24 + low : 24 + high])
            hours += end - begin
            blocks += [sum(day[at : at + 6]) / 6 for at in range(0, 24, 6) if low <= at <= high - 6]
        if not hours:
            return _Usual(0.0, 0.0, 0.0)
        blocks.sort()
        busy = blocks[min(len(blocks) - 1, int(0.95 * len(blocks)))] if blocks else dollars / hours
        return _Usual(dollars / hours, busy, squares / hours)

    def _growing(self, now_s: int, rules: BurnRules) -> Excess | None:
        for window_s, windows in self._windows(now_s):
            sums, squares = [dollars for dollars, _ in windows], windows[3][1] + windows[0][1]
            last, first = sums[0], sums[3]
            if last < rules.min_usd or first <= 0.0 or last < rules.growth_total * first:
                continue
            apart = (last - first) / sqrt(squares)
            if apart < rules.growth_deviations:
                continue
            slack = 1.0 if apart >= rules.growth_sure else 0.0
            if all(_multiplies(newer, older, rules, slack) for newer, older in pairwise(windows)):
                return Excess(kind="growth", window_s=window_s, usd=last, usual=first)
        return None

    def _windows(self, now_s: int) -> Iterator[tuple[int, list[tuple[float, float]]]]:
        """Four windows in a row, the latest first: dollars and their squares.

        Two days each: longer than a night, and four of them longer than a week, so that no weekly
        rhythm multiplies through all of them. A run has no such rhythm: one hour each as well.
        """
        age = now_s - self.first_s
        if self.scope == "run" and age >= 4 * HOUR_S:
            last, count = now_s // FINE_S, HOUR_S // FINE_S
            yield (
                HOUR_S,
                [
                    (
                        self._fine_sum(last - count * i, count, 0),
                        self._fine_sum(last - count * i, count, 1),
                    )
                    for i in range(4)
                ],
            )
        if age >= 8 * DAY_S:
            last = now_s // HOUR_S
            yield (
                2 * DAY_S,
                [
                    (self._hour_sum(last - 48 * i, 48, 0), self._hour_sum(last - 48 * i, 48, 1))
                    for i in range(4)
                ],
            )


def _multiplies(
    newer: tuple[float, float], older: tuple[float, float], rules: BurnRules, slack: float
) -> bool:
    """Whether a window has so many times what the one before it had, ``slack`` standard deviations
    aside. Of each window: dollars, and their squares, whose sum is the variance."""
    (dollars, squares), (before, before_squares) = newer, older
    if before <= 0.0 or not before <= dollars <= rules.growth_most * before:
        return False
    rough = slack * sqrt(squares + rules.growth**2 * before_squares)
    return dollars >= rules.growth * before - rough
