"""How many calls an effect needs, and the smallest effect that so many calls show.

Normal approximations throughout (Cohen, 1988), two-sided; good to a few per cent at the sample
sizes that matter here.
"""

import math

from tocsin.domains.signals.intervals import normal_quantile

SMALL = 0.2
"""Cohen's small effect (1988): the least that a comparison must be able to see before it may say
that it saw no difference. In a rate near one half it is 10 points, near 2 % it is 3.5."""
POWER = 0.8
"""The chance with which that effect must be seen."""


def cohens_h(before: float, after: float) -> float:
    """Effect size of two shares (Cohen, 1988): the difference of their arcsine transforms."""
    return 2.0 * (math.asin(math.sqrt(_share(after))) - math.asin(math.sqrt(_share(before))))


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))


def _reach(alpha: float, power: float) -> float:
    if not 0.0 < alpha < 1.0 or not 0.0 < power < 1.0:
        raise ValueError("alpha and power lie between 0 and 1")
    return max(1e-9, normal_quantile(1.0 - alpha / 2.0) + normal_quantile(power))


def per_side(effect: float, *, alpha: float = 0.05, power: float = POWER) -> int:
    """Calls on each side to see a standardised effect (Cohen's h or d).

    Raises ``ValueError`` for no effect at all: no number of calls shows it.
    """
    if effect == 0.0:
        raise ValueError("no number of calls shows an effect of zero")
    return max(2, math.ceil(2.0 * (_reach(alpha, power) / effect) ** 2))


def pairs(effect: float, *, alpha: float = 0.05, power: float = POWER) -> int:
    """Pairs to see a mean change of ``effect`` standard deviations of the single differences.

    With the correction of Guenther (1981) for Student's t. Raises ``ValueError`` for no effect.
    """
    if effect == 0.0:
        raise ValueError("no number of pairs shows an effect of zero")
    wide = normal_quantile(1.0 - alpha / 2.0)
    return max(2, math.ceil((_reach(alpha, power) / effect) ** 2 + wide * wide / 2.0))


def smallest_effect(n: int, *, alpha: float = 0.05, power: float = POWER) -> float:
    """The smallest standardised effect that ``n`` calls on each side show."""
    return _reach(alpha, power) * math.sqrt(2.0 / n) if n > 0 else math.inf


def more_per_side(
    n_before: int,
    n_after: int,
    *,
    effect: float = SMALL,
    alpha: float = 0.05,
    power: float = POWER,
) -> int:
    """Calls to add to each side until an effect of that size shows; 0 when there are enough."""
    wanted = per_side(effect, alpha=alpha, power=power)
    few, many = sorted((n_before, n_after))
    # 2 / wanted = 1 / (few + k) + 1 / (many + k), solved for k.
    gap = many - few
    least = (wanted - gap + math.sqrt(wanted * wanted + gap * gap)) / 2.0
    return max(0, math.ceil(least - 1e-9) - few)


__all__ = [
    "POWER",
    "SMALL",
    "cohens_h",
    "more_per_side",
    "pairs",
    "per_side",
    "smallest_effect",
]
