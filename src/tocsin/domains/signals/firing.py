"""``Firing``: a change that has rung, until it is over or goes further."""

import math

import msgspec

from tocsin.domains.signals.baseline import Baseline
from tocsin.domains.signals.charts import NO_MARK, Mark

_BACK = 12.0
"""Log likelihood ratio for being back: by chance once in some 100,000 values."""
_FEWEST_BACK = 20
_FURTHER = 12.0
"""The same for having gone further than where it went at first."""
_FEWEST_FURTHER = 20
_FURTHER_ODDS = 4.0
_FURTHER_SHIFT = 1.0
_LEAST_SHIFT = 0.4
_AFTER = 100
"""Values after an alarm by which is told where the level went: what rang was its most extreme."""


class Firing(msgspec.Struct, kw_only=True):
    """A change that has rung and goes on."""

    mark: Mark
    """The sums as they were when it began."""
    at: int
    """When it rang."""
    level: float
    """Mean of the scores since it began, told anew by those that come soon after."""
    method: str
    n: int = 1
    """Scores behind ``level``."""
    back: float = 0.0
    back_n: int = 0
    back_total: float = 0.0
    """Values since ``back`` last stood at zero, and the sum of their scores."""
    further: float = 0.0
    further_mark: Mark = NO_MARK

    def follow(self, x: float) -> None:
        """Tell the level anew with a score, while it is young and does not move on."""
        if self.n < _AFTER and self.further < _FURTHER / 4.0:
            self.level += (x - self.level) / (self.n + 1)
            self.n += 1

    def is_back(self, base: Baseline, x: float) -> bool:
        """Take in a score: whether the values are back at their baseline.

        A CUSUM of the baseline against the level that they went to, and then a look at where they
        are: what is on its way back is not there yet.
        """
        if base.kind == "ranks":
            usual, deviation = 0.0, 1.0
            sign = 1.0 if self.level >= 0.0 else -1.0
            gone = sign * max(_LEAST_SHIFT, abs(self.level))
            gain = gone * gone / 2.0 - gone * _within(x)
        else:
            usual = base.rate
            gone = _share(self.level)
            if abs(gone - usual) < 1e-3:
                gone = _share(usual * 2.0)
            gain = x * math.log(usual / gone) + (1.0 - x) * math.log((1 - usual) / (1 - gone))
            deviation = math.sqrt(usual * (1.0 - usual))
        self.back += gain / base.inflation
        self.back_n += 1
        self.back_total += x
        if self.back <= 0.0:
            self.back, self.back_n, self.back_total = 0.0, 0, 0.0
        if self.back < _BACK or self.back_n < _FEWEST_BACK:
            return False
        off = (self.back_total / self.back_n - usual) * (1.0 if gone > usual else -1.0)
        chance = deviation * math.sqrt(base.inflation * (1.0 / self.back_n + 1.0 / base.n))
        return off <= abs(gone - usual) / 4.0 + chance

    def goes_further(self, base: Baseline, x: float, mark: Mark) -> bool:
        """Take in a score: whether the values have left the level that they went to.

        Away from the baseline: the other way is ``is_back``. The level counts as one standard
        error further than it is told, since it is told by few values.
        """
        error = math.sqrt(base.inflation / max(1, self.n))
        if base.kind == "ranks":
            sign = 1.0 if self.level >= 0.0 else -1.0
            off = sign * _within(x - self.level) - error
            gain = _FURTHER_SHIFT * off - _FURTHER_SHIFT**2 / 2.0
        else:
            sign = 1.0 if self.level >= base.rate else -1.0
            now = _share(self.level)
            now = _share(now + sign * error * math.sqrt(now * (1.0 - now)))
            odds = now / (1.0 - now) * _FURTHER_ODDS**sign
            then = odds / (1.0 + odds)
            gain = x * math.log(then / now) + (1.0 - x) * math.log((1 - then) / (1 - now))
        self.further += gain / base.inflation
        if self.further <= 0.0:
            self.further, self.further_mark = 0.0, mark
        return self.further >= _FURTHER and self.n >= _FEWEST_FURTHER


def _share(rate: float) -> float:
    return min(0.995, max(0.005, rate))


def _within(x: float) -> float:
    return max(-3.0, min(3.0, x))


__all__ = ["Firing"]
