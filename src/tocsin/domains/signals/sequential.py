"""Tests of before against after that stay valid however often, and whenever, one looks.

Each keeps an e-value: the capital of a gambler who bets, with odds fair under "nothing changed", on
what comes next. It is a nonnegative supermartingale that begins at 1, so with nothing changed it
ever passes ``1 / alpha`` with chance ``alpha`` at most (Ville, 1939), over all looks together. One
may stop, go on, or look again at any time.

Values come in blocks: one (or a fixed number) from before, one from after, in the order in which
they came. The blocks' order and size must not depend on the values in them.
"""

import math
from collections.abc import Callable

from tocsin.core.signals import Sum
from tocsin.domains.signals.intervals import Interval

_PRIOR = 0.18
"""Pseudo-counts of the plug-in estimates; Turner, Ly and Grünwald's choice of a Beta prior."""
_STEPS = (0.03, 0.1, 0.25, 0.5)
"""Sizes of bets that ``BoundedTest`` mixes: for small, medium and large differences."""
_CALIBRATION = 8
"""Blocks from which ``LevelTest`` learns the size of its values; they are not bet on."""
_TUNED = 150.0
"""Blocks around which the interval of ``LevelTest`` is at its narrowest."""
_MOST_LOG = 700.0
_FAR = 50.0
"""Units from the mean within which the interval of ``LevelTest`` looks for its bounds."""


class _Test:
    """What all tests share: the e-value, its highest point, and what follows from it."""

    def __init__(self) -> None:
        self.blocks = 0
        """Blocks seen."""
        self._highest = 0.0

    def _log(self) -> float:
        raise NotImplementedError

    def _moved(self) -> float:
        self.blocks += 1
        now = self._log()
        self._highest = max(self._highest, now)
        return math.exp(min(_MOST_LOG, now))

    @property
    def e_value(self) -> float:
        """The capital now; 20 is as strong as p = 0.05 and holds at any look."""
        return math.exp(min(_MOST_LOG, self._log()))

    @property
    def p_value(self) -> float:
        """An anytime-valid p-value: one over the highest capital so far."""
        return math.exp(-self._highest)

    def rejects(self, alpha: float = 0.05) -> bool:
        """Whether "nothing changed" has been refuted at this level, at this or an earlier look."""
        return self.p_value <= alpha


class RateTest(_Test):
    """Two rates, of 0/1 values: the safe test for 2x2 tables of Turner, Ly and Grünwald (2024).

    Null: the same rate on both sides, whatever it is. Each block holds ``per_before`` values from
    before and ``per_after`` from after; bets use the rates of the blocks before it.
    """

    def __init__(self, *, per_before: int = 1, per_after: int = 1) -> None:
        super().__init__()
        if per_before < 1 or per_after < 1:
            raise ValueError("a block needs values from both sides")
        self._sizes = per_before, per_after
        self._hits = [0.0, 0.0]
        self._capital = 0.0

    def _log(self) -> float:
        return self._capital

    def add(self, before: float, after: float) -> float:
        """One block: how many of its values were 1 on each side. Returns the e-value.

        Raises ``ValueError`` for counts that do not fit the block.
        """
        of_before, of_after = self._sizes
        if not 0 <= before <= of_before or not 0 <= after <= of_after:
            raise ValueError("a block holds no more hits than values, and no fewer than none")
        seen = self.blocks
        first = (self._hits[0] + _PRIOR) / (seen * of_before + 2.0 * _PRIOR)
        second = (self._hits[1] + _PRIOR) / (seen * of_after + 2.0 * _PRIOR)
        null = (of_before * first + of_after * second) / (of_before + of_after)
        self._capital += (
            before * math.log(first / null)
            + (of_before - before) * math.log((1.0 - first) / (1.0 - null))
            + after * math.log(second / null)
            + (of_after - after) * math.log((1.0 - second) / (1.0 - null))
        )
        self._hits[0] += before
        self._hits[1] += after
        return self._moved()


class BoundedTest(_Test):
    """Two means of values between 0 and 1: betting (Waudby-Smith and Ramdas, 2024).

    Null: the mean of what comes is the same on both sides; nothing else about the values is
    assumed. A mixture of bets of fixed sizes on either direction.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bets = [step * sign for step in _STEPS for sign in (1.0, -1.0)]
        self._capitals = [0.0] * len(self._bets)
        self._differences: list[float] = []

    def _log(self) -> float:
        return _log_mean(self._capitals)

    def add(self, before: float, after: float) -> float:
        """One value of each side. Returns the e-value. Raises ``ValueError`` outside of 0 to 1."""
        if not (0.0 <= before <= 1.0 and 0.0 <= after <= 1.0):
            raise ValueError("values lie between 0 and 1")
        difference = after - before
        self._differences.append(difference)
        for index, bet in enumerate(self._bets):
            self._capitals[index] += math.log1p(bet * difference)
        return self._moved()

    def interval(self, alpha: float = 0.05) -> Interval:
        """Mean after minus mean before, valid at every look: all that the bets do not refute.

        Takes time in proportion to the blocks. -1 to 1 before the first.
        """
        n = len(self._differences)
        if not n:
            return Interval(0.0, -1.0, 1.0)
        centre = math.fsum(self._differences) / n
        limit = -math.log(alpha)

        def refuted(mean: float) -> bool:
            # Differences from any mean between -1 and 1 lie between -2 and 2: half of each bet.
            return (
                _log_mean(
                    [
                        math.fsum(math.log1p(bet / 2.0 * (d - mean)) for d in self._differences)
                        for bet in self._bets
                    ]
                )
                > limit
            )

        return Interval(centre, _edge(centre, -1.0, refuted), _edge(centre, 1.0, refuted))


class LevelTest(_Test):
    """Two levels of any size and spread: the difference within a block lies evenly about 0.

    Null: both sides come from the same distribution, whatever it is; no moment needs to exist.
    Then the difference of two values is symmetric, and exp(s d - s² d² / 2) has a mean of at most
    1 for every s (de la Peña, 1999); mixed over s ~ N(0, 1 / r) as by Robbins (1970). The first
    blocks set the unit in which differences are counted and are not bet on.
    """

    def __init__(self) -> None:
        super().__init__()
        self._learned = 0
        self._size = 0.0
        self._unit = 0.0
        self._n = 0
        self._total = 0.0
        self._squares = 0.0
        self._rest = _mixing(_TUNED, 0.05)

    def _log(self) -> float:
        return _mixture(self._total, self._squares, self._rest)

    def add(self, before: float, after: float) -> float:
        """One value of each side, inner values for a ``log`` signal. Returns the e-value."""
        difference = after - before
        if not self._unit or self._learned < _CALIBRATION:
            self._learned += 1
            self._size += difference * difference
            self._unit = math.sqrt(self._size / self._learned)
        else:
            scaled = difference / self._unit
            self._n += 1
            self._total += scaled
            self._squares += scaled * scaled
        return self._moved()

    def interval(self, alpha: float = 0.05) -> Interval | None:
        """By how much after lies above before, valid at every look, in the values' own unit.

        For values that moved without a change of shape. ``None`` during the first blocks, and
        bounds are infinite while nothing can be told.
        """
        if self._n < 2:
            return None
        centre = self._total / self._n
        limit = -math.log(alpha)

        def refuted(shift: float) -> bool:
            total = self._total - self._n * shift
            squares = self._squares - 2.0 * shift * self._total + self._n * shift * shift
            return _mixture(total, max(0.0, squares), self._rest) > limit

        low, high = _edge(centre, centre - _FAR, refuted), _edge(centre, centre + _FAR, refuted)
        return Interval(
            centre * self._unit,
            low * self._unit if low > centre - _FAR else -math.inf,
            high * self._unit if high < centre + _FAR else math.inf,
        )


def running_mean(values: Sum, *, alpha: float = 0.05, best_at: int = 1000) -> Interval | None:
    """A mean with an interval that stays valid while values are added, from sums alone.

    The asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024):
    inner units, at its narrowest near ``best_at`` values. Its guarantee needs a first look that is
    not too early; ``None`` before 30 values.
    """
    variance = values.variance
    if variance is None or values.n < 30:
        return None
    squared = _mixing(float(best_at), alpha)
    share = values.n + squared
    half = math.sqrt(variance * share) / values.n * math.sqrt(math.log(share / squared / alpha**2))
    centre = values.total / values.n
    return Interval(centre, centre - half, centre + half)


def running_difference(
    before: Sum, after: Sum, *, alpha: float = 0.05, best_at: int = 1000
) -> Interval | None:
    """Mean after minus mean before, valid at every look while both sides grow, from sums alone.

    Half of ``alpha`` goes to each side, so it is wider than it might be. ``None`` before there are
    30 values on each.
    """
    first = running_mean(before, alpha=alpha / 2.0, best_at=best_at)
    second = running_mean(after, alpha=alpha / 2.0, best_at=best_at)
    if first is None or second is None:
        return None
    return Interval(second.value - first.value, second.low - first.high, second.high - first.low)


def _mixing(best_at: float, alpha: float) -> float:
    """The variance in the mixture that is narrowest after ``best_at`` unit-variance values.

    The approximation of Howard, Ramdas, McAuliffe and Sekhon (2021, section 3.5).
    """
    wide = -2.0 * math.log(alpha)
    return best_at / (wide + math.log(1.0 + wide))


def _mixture(total: float, squares: float, rest: float) -> float:
    """The logarithm of the capital, bets mixed over a normal distribution of variance 1/rest."""
    return 0.5 * (math.log(rest / (rest + squares)) + total * total / (rest + squares))


def _log_mean(logs: list[float]) -> float:
    top = max(logs)
    return top + math.log(math.fsum(math.exp(one - top) for one in logs) / len(logs))


def _edge(inside: float, far: float, refuted: Callable[[float], bool]) -> float:
    """Where between a value that is not refuted and a far one refuting begins; ``far`` if never."""
    if not refuted(far):
        return far
    outside = far
    for _ in range(80):
        middle = (inside + outside) / 2.0
        if refuted(middle):
            outside = middle
        else:
            inside = middle
        if abs(outside - inside) <= 1e-9 * max(1.0, abs(inside)):
            break
    return outside


__all__ = ["BoundedTest", "LevelTest", "RateTest", "running_difference", "running_mean"]
