"""What a signal's values were like when nothing had changed, and how a new value is scored.

Rates keep their counts. Levels keep their order: a new value becomes the normal score of its rank
among them (van der Waerden, 1952), so limits do not depend on the shape of the distribution and no
outlier counts more than the rarest value seen.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import Literal

import msgspec

from tocsin.core.signals import Sum

FEWEST = 50
"""Judged values before a baseline can be used."""
POINTS = 256
"""Values of a level that are kept once its baseline is full."""
_COMMON = 0.8
"""A level that shows one value so often is watched for how often it shows another."""
_BATCHES = (10, 30)
_MOST_INFLATION = 20.0
_ODD = 1.645

_quantile = NormalDist().inv_cdf

Scorer = Callable[[float], float]


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """A signal's past, as much of it as charts need. Inner values, less their rhythm."""

    kind: Literal["coin", "unlike", "ranks"]
    """``coin``: a rate. ``unlike``: how often a level is not at its usual value. ``ranks``: normal
    scores of a level's ranks."""
    n: int
    hits: float = 0.0
    """Of a coin: the sum of its values."""
    usual: float = 0.0
    points: tuple[float, ...] = ()
    """Of ranks: the values in order, at most ``POINTS`` evenly taken once it is full."""
    deviation: float = 1.0
    """Of ranks: standard deviation of the scores; below 1 where values repeat."""
    inflation: float = 1.0
    """How many times as much a mean varies as that of independent values."""
    before: Sum = Sum()
    """Inner values as they were, rhythm included."""

    @property
    def rate(self) -> float:
        """Of a coin: the best guess at its share; never quite 0 or 1."""
        return (self.hits + 0.5) / (self.n + 1.0)


def scorer(baseline: Baseline) -> Scorer:
    """How a value is scored against a baseline: rates stay, ranks have mean 0 and deviation 1."""
    if baseline.kind == "coin":
        return _same
    if baseline.kind == "unlike":
        usual = baseline.usual
        return lambda value: float(value != usual)
    points = baseline.points
    scores = [z / baseline.deviation for z in _scores(len(points))]

    def score(value: float) -> float:
        return scores[bisect_left(points, value) + bisect_right(points, value)]

    return score


def _same(value: float) -> float:
    return value


def _scores(n: int) -> list[float]:
    """Normal scores by the sum of the ranks left and right of a value, 0..2n."""
    return [_quantile((i / 2.0 + 0.5) / (n + 1.0)) for i in range(2 * n + 1)]


def learn(values: Sequence[float], before: Sum, *, rate: bool) -> Baseline:
    """A baseline of values in their order, at least ``FEWEST`` of them."""
    n = len(values)
    if rate:
        hits = min(float(n), max(0.0, sum(values)))
        return Baseline(kind="coin", n=n, hits=hits, inflation=inflation(values), before=before)
    ordered = sorted(values)
    usual, count = _most_common(ordered)
    if count >= _COMMON * n:
        unlike = [float(value != usual) for value in values]
        return Baseline(
            kind="unlike", n=n, hits=float(n - count), usual=usual,
            inflation=inflation(unlike), before=before,
        )  # fmt: skip
    ranks = Baseline(kind="ranks", n=n, points=tuple(ordered), before=before)
    score = scorer(ranks)
    found = [score(value) for value in values]
    deviation = math.sqrt(sum(z * z for z in found) / n) or 1.0
    # Scores of all different values fall a little short of 1 by the ends that no rank reaches;
    # those of new values do not, so only repeated values count as less.
    whole = math.sqrt(sum(z * z for z in _scores(n)[1::2]) / n) or 1.0
    return msgspec.structs.replace(
        ranks, deviation=min(1.0, deviation / whole), inflation=inflation(found)
    )


def thinned(baseline: Baseline) -> Baseline:
    """The same with at most ``POINTS`` of its values, which stand evenly for all."""
    n = len(baseline.points)
    if n <= POINTS:
        return baseline
    taken = tuple(baseline.points[int((i + 0.5) * n / POINTS)] for i in range(POINTS))
    return msgspec.structs.replace(baseline, points=taken)


def _most_common(ordered: Sequence[float]) -> tuple[float, int]:
    best, most, start = ordered[0], 0, 0
    for i in range(1, len(ordered) + 1):
        if i == len(ordered) or ordered[i] != ordered[start]:
            if i - start > most:
                best, most = ordered[start], i - start
            start = i
    return best, most


def inflation(values: Sequence[float]) -> float:
    """How many times as much means vary as those of independent values with the same spread.

    The largest of what the correlation of neighbours says, and means of ten and of thirty in a row,
    each only where it is beyond chance. How far the correlation reaches is told by the value after
    next, as for an autoregression with noise on top (ARMA(1, 1)). Values that clump over much more
    than thirty calls are not seen by it.
    """
    n = len(values)
    mean = sum(values) / n
    spread = sum((v - mean) ** 2 for v in values)
    if spread <= 0.0:
        return 1.0
    centred = [v - mean for v in values]
    near = sum(a * b for a, b in pairwise(centred)) / spread
    found = 1.0
    if near > _ODD / math.sqrt(n):
        after_next = sum(a * b for a, b in zip(centred, centred[2:], strict=False)) / spread
        lasting = min(0.9, max(near, after_next / near))
        found = 1.0 + 2.0 * near / (1.0 - lasting)
    for size in _BATCHES:
        batches = n // size
        if batches < 8:
            break
        means = [sum(centred[i * size : (i + 1) * size]) / size for i in range(batches)]
        batched = size * sum(m * m for m in means) / batches / (spread / n)
        if batched > 1.0 + _ODD * math.sqrt(2.0 / batches):
            found = max(found, batched)
    return min(_MOST_INFLATION, found)


__all__ = ["FEWEST", "POINTS", "Baseline", "Scorer", "inflation", "learn", "scorer", "thinned"]
