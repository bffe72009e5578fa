"""Intervals for rates, means, their differences and their ratios, from counts and sums alone.

All are two-sided with coverage ``1 - alpha``. Nothing here needs the single values, so a page can
give an interval for a month as for five minutes.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

from tocsin.core.intervals import Interval, score_interval
from tocsin.core.signals import Signal, Sum

_NORMAL = NormalDist()
RATIO_MOST = 1e6
"""Largest ratio that is told; its inverse is the smallest. Nearly nothing has no better ratio."""
_LEAST = 1e-12
_EXPANDED = 100.0
"""Degrees of freedom from which Student's quantile is taken from its expansion."""


class Difference(NamedTuple):
    """After minus before (or after over before), its interval, and the test that it inverts.

    ``p`` is the largest ``alpha`` at which the interval of the same method still holds "no
    change", so the two never contradict each other.
    """

    value: float
    low: float
    high: float
    p: float
    method: str


def normal_quantile(probability: float) -> float:
    """The standard normal value below which lies ``probability`` (0 < probability < 1).

    Raises ``statistics.StatisticsError`` outside of that.
    """
    return _NORMAL.inv_cdf(probability)


def normal_two_sided(z: float) -> float:
    """Chance that a standard normal value lies at least as far from 0 as ``z``."""
    return math.erfc(abs(z) / math.sqrt(2.0))


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), for ``a``, ``b`` > 0.

    By the continued fraction DLMF 8.17.22, evaluated as Lentz (1976) does; to about 1e-14.
    """
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    if x < (a + 1.0) / (a + b + 2.0):
        return front * _beta_fraction(x, a, b) / a
    return 1.0 - front * _beta_fraction(1.0 - x, b, a) / b


def _beta_fraction(x: float, a: float, b: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    value = d
    for m in range(1, 1000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0)),
        ):
            d = 1.0 + term * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + term / c
            c = c if abs(c) > tiny else tiny
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return value


def student_two_sided(t: float, freedom: float) -> float:
    """Chance that Student's t with ``freedom`` > 0 degrees lies at least as far from 0 as ``t``."""
    if math.isinf(t):
        return 0.0
    return beta_cdf(freedom / (freedom + t * t), freedom / 2.0, 0.5)


def student_quantile(probability: float, freedom: float) -> float:
    """The value of Student's t below which lies ``probability``, to about 1e-10.

    Raises ``ValueError`` unless 0 < probability < 1 and ``freedom`` > 0.
    """
    if not 0.0 < probability < 1.0 or freedom <= 0.0:
        raise ValueError("a quantile needs a probability between 0 and 1 and freedom above 0")
    tail = 2.0 * min(probability, 1.0 - probability)
    if tail >= 1.0:
        return 0.0
    low, high = 0.0, max(1.0, -normal_quantile(tail / 2.0))
    while student_two_sided(high, freedom) > tail:
        low, high = high, high * 2.0
    for _ in range(200):
        middle = (low + high) / 2.0
        if student_two_sided(middle, freedom) > tail:
            low = middle
        else:
            high = middle
        if high - low <= 1e-13 * high:
            break
    found = (low + high) / 2.0
    return found if probability > 0.5 else -found


def _t(alpha: float, freedom: float) -> float:
    # A page asks for hundreds of these; where the expansion is as good, it costs next to nothing.
    if freedom >= _EXPANDED:
        return _student_expanded(normal_quantile(1.0 - alpha / 2.0), freedom)
    return student_quantile(1.0 - alpha / 2.0, freedom)


def _student_expanded(z: float, freedom: float) -> float:
    """Student's quantile from the normal one ``z``: Fisher and Cornish (1960), to the fourth term.

    From 100 degrees of freedom on, and for ``z`` up to 4.5, to about 1e-7.
    """
    zz = z * z
    return z * (
        1.0
        + (zz + 1.0) / (4.0 * freedom)
        + ((5.0 * zz + 16.0) * zz + 3.0) / (96.0 * freedom**2)
        + (((3.0 * zz + 19.0) * zz + 17.0) * zz - 15.0) / (384.0 * freedom**3)
        + ((((79.0 * zz + 776.0) * zz + 1482.0) * zz - 1920.0) * zz - 945.0)
        / (92160.0 * freedom**4)
    )


def wilson(hits: float, n: float, *, alpha: float = 0.05) -> Interval:
    """A share with its score interval (Wilson, 1927).

    ``hits`` may be a sum of shares between 0 and 1: the interval is then too wide, never too
    narrow. Without values it is 0 to 1. Raises ``ValueError`` when ``hits`` is not within
    0 to ``n``.
    """
    if not -1e-9 <= hits <= n * (1 + 1e-9) + 1e-9:
        raise ValueError(f"{hits} of {n} is no share")
    if n <= 0:
        return Interval(0.5, 0.0, 1.0)
    return score_interval(min(1.0, max(0.0, hits / n)), n, normal_quantile(1.0 - alpha / 2.0))


def newcombe(
    hits_before: float, n_before: int, hits_after: float, n_after: int, *, alpha: float = 0.05
) -> Difference:
    """Share after minus share before: the hybrid score interval (Newcombe, 1998, method 10).

    Raises ``ValueError`` where a side has no values or no share.
    """
    if n_before < 1 or n_after < 1:
        raise ValueError("a difference of rates needs values on both sides")
    before = wilson(hits_before, n_before, alpha=alpha)
    after = wilson(hits_after, n_after, alpha=alpha)
    found = _newcombe(before, after)
    return Difference(
        *found, _newcombe_p(before.value, n_before, after.value, n_after), "Newcombe score interval"
    )


def _newcombe(before: Interval, after: Interval) -> Interval:
    value = after.value - before.value
    return Interval(
        value,
        value - math.hypot(after.value - after.low, before.high - before.value),
        value + math.hypot(after.high - after.value, before.value - before.low),
    )


def _newcombe_p(before: float, n_before: int, after: float, n_after: int) -> float:
    if before == after:
        return 1.0
    low, high = 0.0, 1.0

    def holds_nothing(z: float) -> bool:
        found = _newcombe(score_interval(before, n_before, z), score_interval(after, n_after, z))
        return found.low <= 0.0 <= found.high

    while not holds_nothing(high):
        low, high = high, high * 2.0
        if high > 60.0:
            return 0.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (low, middle) if holds_nothing(middle) else (middle, high)
    return normal_two_sided(high)


def mean(values: Sum, *, alpha: float = 0.05) -> Interval | None:
    """A mean with Student's t interval, in inner units; ``None`` with fewer than two values."""
    variance = values.variance
    if variance is None:
        return None
    centre = values.total / values.n
    half = _t(alpha, values.n - 1) * math.sqrt(variance / values.n)
    return Interval(centre, centre - half, centre + half)


def welch(before: Sum, after: Sum, *, alpha: float = 0.05) -> Difference | None:
    """Mean after minus mean before in inner units, by Welch's t (1947).

    ``None`` where a side has too few values for a variance. The chance is never told smaller than a
    permutation of so many values could show, so constants do not make three values certain.
    """
    spread_before, spread_after = before.variance, after.variance
    if spread_before is None or spread_after is None:
        return None
    of_before, of_after = spread_before / before.n, spread_after / after.n
    value = after.total / after.n - before.total / before.n
    squared = of_before + of_after
    least = 2.0 * math.exp(-_log_choose(before.n + after.n, before.n))
    if squared <= _LEAST * max(1.0, abs(value)) ** 2 * _LEAST:
        return Difference(value, value, value, max(least, 1.0 if value == 0.0 else 0.0), "constant")
    freedom = squared**2 / (of_before**2 / (before.n - 1) + of_after**2 / (after.n - 1))
    error = math.sqrt(squared)
    half = _t(alpha, freedom) * error
    p = max(least, student_two_sided(value / error, freedom))
    return Difference(value, value - half, value + half, min(1.0, p), "Welch's t")


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def ratio(signal: Signal, before: Sum, after: Sum, *, alpha: float = 0.05) -> Difference | None:
    """For a ``log`` signal: what it is after over what it was before, as a factor.

    The bounds are those of Welch's difference of inner means, carried over by moving both means
    towards each other in proportion to their own uncertainty: "no difference" is exactly the
    factor 1, so the interval holds 1 when Welch's holds 0. ``None`` with fewer than two values on
    a side; factors stay within ``RATIO_MOST``.
    """
    found = welch(before, after, alpha=alpha)
    if found is None:
        return None
    of_before, of_after = (before.variance or 0.0) / before.n, (after.variance or 0.0) / after.n
    total = of_before + of_after
    own = of_before / total if total > 0.0 else 0.5
    low, high = before.total / before.n, after.total / after.n

    def factor(difference: float) -> float:
        excess = found.value - difference
        return _quotient(
            signal.outer(high - excess * (1.0 - own)), signal.outer(low + excess * own)
        )

    return Difference(
        factor(found.value), factor(found.low), factor(found.high), found.p, found.method
    )


def _quotient(after: float, before: float) -> float:
    if after <= _LEAST and before <= _LEAST:
        return 1.0
    if before <= after / RATIO_MOST:
        return RATIO_MOST
    return max(1.0 / RATIO_MOST, after / before)


__all__ = [
    "RATIO_MOST",
    "Difference",
    "Interval",
    "beta_cdf",
    "mean",
    "newcombe",
    "normal_quantile",
    "normal_two_sided",
    "ratio",
    "student_quantile",
    "student_two_sided",
    "welch",
    "wilson",
]
