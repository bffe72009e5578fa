"""Daily and weekly rhythms: learned from two full cycles, believed when they repeat themselves.

A slot (an hour of the day, a day of the week) has an effect when it lies off the mean in the one
cycle as it does in the other. That the same slots repeat is what tells a rhythm from a level that
merely wanders: wandering differs between slots, too, but does not come back.
"""

import math
from typing import Literal

import msgspec

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
WEEK_US = 7 * DAY_US

DAILY, WEEKLY = 24, 7
_SURE = 3.5
"""Standard deviations by which a rhythm must stand out."""
_FEWEST = 5
"""Values that a slot needs in either cycle to say anything."""
_SMOOTH = {-2: 0.4, -1: 0.8, 0: 1.0, 1: 0.8, 2: 0.4}
"""What the hours around count for an hour."""


def slot_of(at: int) -> int:
    """The hour of the week of a time in microseconds, 0..167; Monday is the first day, UTC."""
    return (at // DAY_US + 3) % 7 * 24 + at // HOUR_US % 24


class Rhythm(msgspec.Struct):
    """Sums of a signal's inner values by slot, apart for even and odd cycles.

    A cycle begins where the first value came. Its own mean is taken off before it counts, so that
    a level that moves from one cycle to the next is no rhythm.
    """

    slots: Literal[24, 7]
    origin: int
    """When the first value came, microseconds."""
    sums: list[list[float]]
    """Two by ``slots``: totals of even and of odd cycles; then two of counts."""
    totals: list[float]
    counts: list[float]
    """Of the cycle that goes on, by slot."""
    squares: float = 0.0
    own_squares: float = 0.0
    cycle: int = 0
    whole: int = 0
    """Cycles that are over and counted."""

    @classmethod
    def empty(cls, slots: Literal[24, 7], origin: int) -> "Rhythm":
        """Nothing known yet."""
        return cls(slots, origin, [[0.0] * slots for _ in range(4)], [0.0] * slots, [0.0] * slots)

    def add(self, at: int, value: float) -> bool:
        """Take in an inner value. Returns whether a cycle has ended with it."""
        if self.slots == DAILY:
            cycle = (at - self.origin) // DAY_US
            slot = at // HOUR_US % 24
        else:
            cycle = (at - self.origin) // WEEK_US
            # The epoch began on a Thursday.
            slot = (at // DAY_US + 3) % 7
        ended = cycle > self.cycle
        if ended:
            self._close()
            self.cycle = cycle
        self.totals[slot] += value
        self.counts[slot] += 1.0
        self.own_squares += value * value
        return ended

    def _close(self) -> None:
        n, total = sum(self.counts), sum(self.totals)
        if n:
            mean, odd = total / n, self.cycle & 1
            for slot, (own, count) in enumerate(zip(self.totals, self.counts, strict=True)):
                self.sums[odd][slot] += own - mean * count
                self.sums[2 + odd][slot] += count
            self.squares += max(0.0, self.own_squares - total * mean)
            self.whole += 1
        self.totals, self.counts = [0.0] * self.slots, [0.0] * self.slots
        self.own_squares = 0.0

    def effects(self) -> list[float]:
        """What each slot adds to the mean, shrunk towards nothing; empty without a rhythm.

        Hours are smoothed with their neighbours: a rhythm is no comb, and a quiet feature has too
        few calls in an hour to tell one.
        """
        n = sum(self.sums[2]) + sum(self.sums[3])
        if self.whole < 2 or not n or self.squares <= 0.0:
            return []
        variance = self.squares / n
        weights = _SMOOTH if self.slots == DAILY else {0: 1.0}
        even, even_n = _smoothed(self.sums[0], weights), _smoothed(self.sums[2], weights)
        odd, odd_n = _smoothed(self.sums[1], weights), _smoothed(self.sums[3], weights)
        used = [i for i in range(self.slots) if even_n[i] >= _FEWEST and odd_n[i] >= _FEWEST]
        if len(used) < 3:
            return []
        a = [even[i] / even_n[i] for i in used]
        b = [odd[i] / odd_n[i] for i in used]
        agreed = sum(x * y for x, y in zip(a, b, strict=True)) / len(used)
        # A smoothed mean of neighbours varies less, and neighbours share what it rests on.
        alike = sum(w * w for w in weights.values()) / sum(weights.values())
        error = variance * alike
        each = [error / even_n[i] * error / odd_n[i] for i in used]
        chance = math.sqrt(sum(each) * _shared(weights)) / len(used)
        if agreed < _SURE * chance:
            return []
        found = [0.0] * self.slots
        # The product of two independent estimates of an effect is on average its square.
        for i, x, y in zip(used, a, b, strict=True):
            both = even_n[i] + odd_n[i]
            own = (x * even_n[i] + y * odd_n[i]) / both
            found[i] = own * agreed / (agreed + error / both)
        return found


def _smoothed(values: list[float], weights: dict[int, float]) -> list[float]:
    n = len(values)
    return [sum(w * values[(i + k) % n] for k, w in weights.items()) for i in range(n)]


def _shared(weights: dict[int, float]) -> float:
    """How many times as much a sum of products of two smoothed rows varies by their overlap.

    The sum, over all lags, of the squared correlation of two smoothed means.
    """
    reach = max(weights)
    whole = sum(w * w for w in weights.values())
    return sum(
        (sum(w * weights.get(k + lag, 0.0) for k, w in weights.items()) / whole) ** 2
        for lag in range(-2 * reach, 2 * reach + 1)
    )


def effect(slot: int, hours: list[float], days: list[float]) -> float:
    """What a rhythm adds to an inner value at an hour of the week; lists may be empty."""
    found = hours[slot % 24] if hours else 0.0
    return found + (days[slot // 24] if days else 0.0)


__all__ = ["DAILY", "DAY_US", "HOUR_US", "WEEKLY", "WEEK_US", "Rhythm", "effect", "slot_of"]
