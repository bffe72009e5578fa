"""Whether a level's values are spread as they were: chi-square of counts in windows.

A mean that stays may hide answers that became both shorter and longer. Values are counted in bins
that the baseline filled evenly; every half window the last whole window is held against it.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence

import msgspec

WINDOW = 100
"""Judged values in a window; windows overlap by half."""
_BINS = 7
SHAPE = "chi-square of windows"
"""The method of an alarm on how values are spread."""


class Bins(msgspec.Struct):
    """Counts of values in bins, and where the windows stand."""

    edges: list[float]
    """Upper edges of all bins but the last, each inclusive."""
    expected: list[float]
    """The share of values in each bin while nothing had changed."""
    n: int
    """Values that ``expected`` rests on."""
    most: float
    """Chi-square at which a window stands out."""
    older: list[int]
    newer: list[int]
    seen: int = 0
    last: float = 0.0
    """Of the latest whole window."""

    def add(self, value: float) -> float | None:
        """Count a value. Returns how far a window stands out, where one ended and does."""
        self.newer[bisect_left(self.edges, value)] += 1
        self.seen += 1
        if self.seen % (WINDOW // 2):
            return None
        counts = [a + b for a, b in zip(self.older, self.newer, strict=True)]
        whole = self.seen >= WINDOW
        self.older, self.newer = self.newer, [0] * len(self.newer)
        self.last = chi_square(counts, self.expected, self.n) if whole else 0.0
        return self.last if self.last >= self.most else None

    @property
    def quiet(self) -> int:
        """1 where a whole window has just ended well within the bound, -1 where one has beyond."""
        if self.seen < WINDOW or self.seen % (WINDOW // 2):
            return 0
        return 1 if self.last < self.most / 2.0 else -1

    def restart(self) -> None:
        """Forget the counts."""
        self.older, self.newer, self.seen = [0] * len(self.older), [0] * len(self.newer), 0


def bins_of(points: Sequence[float], n: int, *, every: float, inflation: float) -> Bins | None:
    """Bins of a baseline's values (in order) of which there were ``n``.

    ``every``: values between false alarms. ``None`` where the values fall into fewer than three.
    """
    size = len(points)
    edges = sorted({points[min(size - 1, size * i // _BINS)] for i in range(1, _BINS)})
    counts = [0] * (len(edges) + 1)
    for point in points:
        counts[bisect_left(edges, point)] += 1
    if counts[-1] == 0:
        edges.pop()
        counts.pop()
    if len(counts) < 3:
        return None
    expected = [(c + 0.5) / (size + 0.5 * len(counts)) for c in counts]
    chance = min(0.01, WINDOW / 2 / every)
    most = inflation * chi_square_bound(chance, len(counts) - 1)
    return Bins(edges, expected, n, most, [0] * len(counts), [0] * len(counts))


def chi_square(counts: Sequence[int], expected: Sequence[float], n: int) -> float:
    """Pearson's statistic (1900) of ``counts`` against ``n`` values spread as expected."""
    total = sum(counts)
    if not total:
        return 0.0
    found = 0.0
    for count, share in zip(counts, expected, strict=True):
        pooled = (count + share * n) / (total + n)
        found += (count / total - share) ** 2 / pooled
    return found * total * n / (total + n)


def chi_square_bound(chance: float, freedom: int) -> float:
    """The value that chi-square passes with at most ``chance``.

    By the closed form for even degrees of freedom; an odd number is taken for the next even one.
    """
    half = (freedom + 1) // 2

    def beyond(x: float) -> float:
        term, total = 1.0, 1.0
        for i in range(1, half):
            term *= x / 2.0 / i
            total += term
        return math.exp(-x / 2.0) * total

    low, high = 0.0, 10.0
    while beyond(high) > chance:
        high *= 2.0
    for _ in range(40):
        middle = (low + high) / 2.0
        low, high = (middle, high) if beyond(middle) > chance else (low, middle)
    return high


__all__ = ["SHAPE", "WINDOW", "Bins", "bins_of", "chi_square", "chi_square_bound"]
