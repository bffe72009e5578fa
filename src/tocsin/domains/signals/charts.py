"""One-sided CUSUM charts (Page, 1954) whose thresholds are computed from a rate of false alarms.

A chart adds ``sign * (x - reference)`` and never falls below zero; it rings at ``limit``. The mean
number of values between false alarms follows exactly from a Markov chain for rates that are not
near one half, and from Siegmund's approximation (1985) elsewhere. That the baseline is itself an
estimate is part of the computation: the chance of a false alarm is averaged over what the true
level may be, given so many values. A threshold that takes the estimate for the truth rings
several times too often on short baselines.
"""

import bisect
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import msgspec

Mark = tuple[int, float, float, int]
"""Values, their inner sum, their squares, and the time, as they stood at some moment."""

NO_MARK: Mark = (0, 0.0, 0.0, 0)

_OVERSHOOT = 1.166
"""Siegmund's correction for both ends of a walk with normal steps, in their deviations."""
_OVERSHOOT_COINS = 1.0
"""The same for a walk with two kinds of steps of about equal weight."""
_FEWEST_WALKS = 1e-12
_LONGEST = 400
"""Steps of an exact chart beyond which no change could be seen in time to matter."""
_FINEST = 40
"""Steps down that are worth one step up, at most: the grid of an exact chart of a rare event."""
_MIDDLE = 0.25
"""Rates from here to one minus it are treated as levels: the walk's steps are near even there."""

_NODES = tuple(-3.5 + 0.5 * i for i in range(15))
_WEIGHTS = tuple(
    w / sum(math.exp(-x * x / 2.0) for x in _NODES)
    for w in (math.exp(-x * x / 2.0) for x in _NODES)
)
_SPREADS = ((-math.sqrt(1.5), 1 / 3), (0.0, 1 / 3), (math.sqrt(1.5), 1 / 3))

_WIDER = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Times as far a chart looks where its target could not be told from an error of the baseline."""
_LATE = 250.0
"""Values after which a chart would be too late to be worth its share of false alarms."""

RATE_TARGETS = (3.0, 10.0)
"""Odds ratios that the two charts of a side are best for."""
LEVEL_TARGETS = (0.6, 1.5)
"""Shifts in standard deviations that the two charts of a side are best for."""


class Chart(msgspec.Struct, kw_only=True):
    """One side of a chart, with what it remembers."""

    sign: float
    """1.0 watches for a rise, -1.0 for a fall."""
    reference: float
    """Half way between the level now and the level looked for, in likelihood."""
    limit: float
    s: float = 0.0
    mark: Mark = NO_MARK
    """As it was when the chart last stood at zero: the change, if there is one, began after."""

    def delay(self, level: float) -> float:
        """Values until it rings once the mean of ``x`` is ``level``; infinite where it drifts back.

        Wald's approximation without the overshoot.
        """
        drift = self.sign * (level - self.reference)
        return self.limit / drift if drift > 0.0 else math.inf


class Budget(msgspec.Struct, frozen=True):
    """How often a chart may ring with nothing changed."""

    every: float
    """Values between false alarms, on average."""
    horizon: float
    """Values for which this baseline is used: an alarm of a baseline that is off rings once."""

    def share(self, part: float) -> "Budget":
        """The budget of a chart that gets ``part`` (0..1) of it."""
        return Budget(self.every / part, self.horizon)

    def allows(self, runs: Sequence[tuple[float, float]]) -> bool:
        """Whether charts with these (weight, mean run) ring seldom enough, all in all."""
        horizon = min(self.horizon, self.every)
        # A run's length is close to exponential; over the horizon so many ring.
        rings = sum(w * -math.expm1(-horizon / max(1.0, run)) for w, run in runs)
        return rings <= -math.expm1(-horizon / self.every)


# -- mean runs --


def gaussian_run(limit: float, drift: float, *, overshoot: float = _OVERSHOOT) -> float:
    """Mean run of a CUSUM of unit-variance steps with mean ``drift`` (Siegmund, 1985, 2.56)."""
    high = limit + overshoot
    turn = -2.0 * drift * high
    if abs(turn) < 1e-4:
        return high * high
    if turn > 600.0:
        return math.inf
    return 2.0 * (math.expm1(turn) - turn) / (4.0 * drift * drift)


def rising_runs(p: float, jump: int, limits: int) -> Callable[[int], float]:
    """Exact mean runs of the walk +``jump`` with chance ``p``, else -1, held at 0.

    Returns the function from a limit (1..``limits``) to the mean number of steps until the walk is
    there or above. By the difference equation of the distance to the limit, whose two solutions are
    built upwards: all limits at the cost of one (the scale functions of a skip-free walk).
    """
    q = 1.0 - p
    if p * jump >= 1.05 * q:
        # It climbs: the level is already past what the chart looks for.
        return lambda limit: limit / (p * jump - q)
    w, v = [0.0, 1.0], [0.0, 0.0]
    one, two = 1.0, 0.0
    for _ in range(min(jump, limits)):
        one, two = one / q, (two + 1.0) / q
        w.append(one)
        v.append(two)
    for back in range(1, limits - jump + 1):
        one = (one - p * w[back]) / q
        two = (two + 1.0 - p * v[back]) / q
        w.append(one)
        v.append(two)

    def run(limit: int) -> float:
        rise = w[limit + 1] - w[limit]
        if rise <= _FEWEST_WALKS * w[limit]:
            return math.inf
        return (v[limit + 1] - v[limit]) / rise * w[limit] - v[limit]

    return run


def falling_runs(p: float, drop: int, limits: int) -> Callable[[int], float]:
    """The same for the walk -``drop`` with chance ``p``, else +1, held at 0."""
    q = 1.0 - p
    v = [0.0]
    for s in range(limits):
        v.append((v[s] + 1.0 - p * v[max(0, s - drop)]) / q)
    return v.__getitem__


# -- levels --


def level_limit(reference: float, n: int, budget: Budget, *, inflation: float = 1.0) -> float:
    """The limit for normal scores against a baseline of ``n`` values; infinite if there is none.

    ``inflation``: how many times as much a mean of many values varies as independent ones would.
    """
    scale = math.sqrt(1.0 / n)

    def runs(limit: float) -> list[tuple[float, float]]:
        found = []
        for node, weight in zip(_NODES, _WEIGHTS, strict=True):
            for spread, part in _SPREADS:
                deviation = math.sqrt(max(0.3, 1.0 + spread * math.sqrt(1.5) * scale))
                drift = (node * scale * math.sqrt(inflation) - reference) / deviation
                found.append((weight * part, gaussian_run(limit / deviation, drift)))
        return found

    return inflation * _smallest(lambda limit: budget.allows(runs(limit)), most=80.0)


def _smallest(enough: Callable[[float], bool], *, most: float) -> float:
    low, high = 0.0, 4.0
    while not enough(high):
        low, high = high, high * 1.5
        if high > most:
            return math.inf
    for _ in range(9):
        middle = (low + high) / 2.0
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def level_charts(n: int, budget: Budget, *, inflation: float = 1.0) -> list[Chart]:
    """Both sides, each with the charts that see ``LEVEL_TARGETS`` soonest within ``budget``."""
    found: list[tuple[float, float]] = []
    each = budget.share(1.0 / (2 * len(LEVEL_TARGETS)))
    made: dict[float, float] = {}
    for target in LEVEL_TARGETS:
        best = (math.inf, 0.0, 0.0)
        for part in (0.35, 0.5, 0.65, 0.8):
            reference = round(part * target, 3)
            if reference not in made:
                made[reference] = level_limit(reference, n, each, inflation=inflation)
            limit = made[reference]
            best = min(best, (limit / (target - reference), reference, limit))
        if math.isfinite(best[0]) and best[1:] not in found:
            found.append(best[1:])
    return [
        Chart(sign=sign, reference=sign * reference, limit=limit)
        for reference, limit in found
        for sign in (1.0, -1.0)
    ]


# -- rates --


def rate_beliefs(hits: float, n: float) -> list[tuple[float, float]]:
    """(rate, weight) pairs that stand for what a rate may be after ``hits`` of ``n``.

    Laplace's posterior (1774) on a grid in log odds: of a rate that was never seen it believes a
    little more than others do, and so keeps what it promises for small rates, too.
    """
    a, b = hits + 1.0, max(0.0, n - hits) + 1.0
    centre, deviation = math.log(a / b), math.sqrt(1.0 / a + 1.0 / b)
    grid = [centre + deviation * (-3.5 + 0.875 * i) for i in range(9)]
    logs = [a * t - (a + b) * math.log1p(math.exp(t)) for t in grid]
    top = max(logs)
    weights = [math.exp(x - top) for x in logs]
    total = sum(weights)
    return [(1.0 / (1.0 + math.exp(-t)), w / total) for t, w in zip(grid, weights, strict=True)]


@lru_cache(maxsize=4096)
def rate_sides(
    hits: float, n: float, budget: Budget, inflation: float
) -> tuple[tuple[float, float, float], ...]:
    """(sign, reference, limit) of the charts of a rate that was ``hits`` of ``n``.

    A side on which no change could be seen in time has none, and the other gets the whole budget:
    a share near zero cannot fall by much.
    """
    p = (hits + 0.5) / (n + 1.0)
    independent = max(1.0, n / inflation)
    beliefs = rate_beliefs(hits / n * independent, independent)
    mirrored = [(1.0 - rate, weight) for rate, weight in beliefs]
    sides = [
        (sign, level, known)
        for sign, level, known in ((1.0, p, beliefs), (-1.0, 1.0 - p, mirrored))
        if _visible(level)
    ]
    found = []
    for sign, level, known in sides:
        of_side = budget.share(1.0 / len(sides))
        made = _rises(level, known, of_side.share(1.0 / len(RATE_TARGETS)), inflation, RATE_TARGETS)
        if len(made) > 1 and _alike(level, made[0][0], made[1][0]):
            # Two charts for much the same change: one with both shares is better.
            made = _rises(level, known, of_side, inflation, RATE_TARGETS[:1])
        for reference, limit in made:
            found.append((sign, reference if sign > 0 else 1.0 - reference, limit))
    return tuple(found)


def _alike(level: float, one: float, two: float) -> bool:
    return abs(two - level) < 1.5 * abs(one - level)


def rate_charts(hits: float, n: float, budget: Budget, *, inflation: float = 1.0) -> list[Chart]:
    """The charts of a rate of which the baseline saw ``hits`` in ``n``: see ``rate_sides``."""
    rounded = Budget(_round(budget.every), _round(budget.horizon))
    return [
        Chart(sign=sign, reference=reference, limit=limit)
        for sign, reference, limit in rate_sides(hits, n, rounded, inflation)
    ]


def _round(value: float) -> float:
    """To two figures: thresholds hardly move, and are often the same as before."""
    return float(f"{value:.2g}")


def _visible(level: float) -> bool:
    """Whether a rise from ``level`` could be seen: from 0.97 there is hardly any way up."""
    return level <= 0.97


def _rises(
    p: float,
    beliefs: Sequence[tuple[float, float]],
    budget: Budget,
    inflation: float,
    targets: Sequence[float],
) -> list[tuple[float, float]]:
    """(reference, limit) of the charts that see a rise of a rate from ``p``, one a target."""
    found: list[tuple[float, float]] = []
    made: dict[float, float] = {}
    for target in targets:
        for wider in _WIDER:
            odds = p / (1.0 - p) * target * wider
            aim = odds / (1.0 + odds)
            best = (math.inf, 0.0, 0.0)
            for reference in _references(p, aim):
                if reference not in made:
                    made[reference] = inflation * _rate_limit(p, reference, beliefs, budget)
                limit = made[reference]
                best = min(best, (limit / (aim - reference), reference, limit))
            if best[0] < _LATE:
                if best[1:] not in found:
                    found.append(best[1:])
                break
    return found


def _references(p: float, aim: float) -> list[float]:
    """Candidates between the two rates; away from the middle, such that the walk is on a grid."""
    best = math.log((1 - p) / (1 - aim)) / (math.log(aim / p) + math.log((1 - p) / (1 - aim)))
    wanted = [p + (best - p) * part for part in (0.85, 1.15, 1.6)]
    if p < _MIDDLE:
        wanted = [1.0 / (1.0 + max(1.0, round(1.0 / r - 1.0))) for r in wanted]
    elif p > 1.0 - _MIDDLE:
        wanted = [d / (d + 1.0) for d in (max(1.0, round(r / (1.0 - r))) for r in wanted)]
    return [r for r in wanted if p * 1.05 < r < aim * 0.95]


def _rate_limit(
    p: float, reference: float, beliefs: Sequence[tuple[float, float]], budget: Budget
) -> float:
    if _MIDDLE <= p <= 1.0 - _MIDDLE:
        walks = [(w, _turn(rate, reference), rate) for rate, w in beliefs]

        def runs(limit: float) -> list[tuple[float, float]]:
            return [(w, coin_run(limit, rate, reference, turn)) for w, turn, rate in walks]

        return _smallest(lambda limit: budget.allows(runs(limit)), most=60.0)
    rare = p < _MIDDLE
    ratio = round(1.0 / reference - 1.0) if rare else round(reference / (1.0 - reference))
    # Rare events are a Poisson process: at half the rate and twice the time they are the same.
    slow = max(1.0, ratio / _FINEST)
    if rare:
        ratio = min(ratio, _FINEST)
    limits = 8 * ratio + 60 if rare else _LONGEST
    budget = Budget(budget.every / slow, budget.horizon / slow)
    if rare:
        tables = [(weight, rising_runs(rate * slow, ratio, limits)) for rate, weight in beliefs]
    else:
        tables = [(weight, falling_runs(1.0 - rate, ratio, limits)) for rate, weight in beliefs]
    steps = range(1, limits + 1)
    index = bisect.bisect_left(
        steps, True, key=lambda h: budget.allows([(weight, run(h)) for weight, run in tables])
    )
    return steps[index] / (ratio + 1) if index < limits else math.inf


def _turn(p: float, reference: float) -> float:
    """The non-zero root of E exp(t (x - reference)) = 1 for x a coin of ``p`` (Wald, 1947)."""
    if abs(p - reference) < 1e-9:
        return 0.0

    def excess(t: float) -> float:
        return (1.0 - p) * math.exp(-t * reference) + p * math.exp(t * (1.0 - reference)) - 1.0

    side = 1.0 if p < reference else -1.0
    near, far = side * 1e-6, side
    while excess(far) < 0.0:
        near, far = far, far * 2.0
    for _ in range(40):
        middle = (near + far) / 2.0
        near, far = (middle, far) if excess(middle) < 0.0 else (near, middle)
    return far


def coin_run(limit: float, p: float, reference: float, turn: float) -> float:
    """Mean run of the chart that adds a coin of ``p`` minus ``reference``.

    ``turn``: see ``_turn``. Wald's identity, with both ends of the walk corrected as Siegmund does.
    """
    high = limit + _OVERSHOOT_COINS * math.sqrt(p * (1.0 - p))
    exponent = turn * high
    if abs(exponent) < 1e-4:
        return high * high / (p * (1.0 - p))
    if exponent > 600.0:
        return math.inf
    return (math.expm1(exponent) - exponent) / (turn * (reference - p))
