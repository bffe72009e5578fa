"""The interval of a share, for every page, report and alarm that shows one."""

import math
from typing import NamedTuple

Z95 = 1.959963984540054
"""The normal quantile of a two-sided 95 % interval."""


class Interval(NamedTuple):
    """A value and its interval."""

    value: float
    low: float
    high: float


def score_interval(share: float, n: float, z: float = Z95) -> Interval:
    """The score interval of a share of ``n`` (Wilson, 1927), which holds for small numbers too."""
    zz = z * z / n
    centre = (share + zz / 2.0) / (1.0 + zz)
    half = z * math.sqrt(share * (1.0 - share) / n + zz / (4.0 * n)) / (1.0 + zz)
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))
