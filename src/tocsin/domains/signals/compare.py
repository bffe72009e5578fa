"""Two periods, releases or slices of a signal against each other."""

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from tocsin.core.ratios import RatioSum
from tocsin.core.signals import Estimate, Signal, Sum
from tocsin.domains.signals.intervals import (
    Difference,
    Interval,
    mean,
    newcombe,
    ratio,
    welch,
    wilson,
)
from tocsin.domains.signals.power import cohens_h, more_per_side
from tocsin.domains.signals.sequential import running_difference

Verdict = Literal["worse", "better", "different", "same", "underpowered"]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One signal, before and after. Outer values."""

    signal: str
    before: Estimate | None
    after: Estimate | None
    """``None`` without values; a level with one value has no interval and is ``None`` too."""
    difference: Estimate | None
    """After minus before; for a ``log`` signal after over before. ``n`` is the smaller side's."""
    effect_size: float | None
    """Cohen's h of rates, Hedges' g of levels; above 0 where the value went up."""
    p_value: float | None
    """Chance of as much with nothing changed; where many were compared, adjusted for it (Holm)."""
    verdict: Verdict
    """``same``: no difference seen by calls enough to see a small one (Cohen's 0.2)."""
    needed: int
    """More calls on each side before ``same`` could be said; 0 when there are enough."""
    method: str = ""
    lasting: bool | None = None
    """Whether it is a difference to whoever looks again and again while calls come: a confidence
    sequence, adjusted as ``p_value`` is (Bonferroni). ``None`` below 30 values on a side."""


def estimate(signal: Signal, values: Sum, *, alpha: float = 0.05) -> Estimate | None:
    """A signal's value with its interval: Wilson for rates, Student's t for levels, for ratios
    Student's t on their logarithm.

    ``None`` without values, and for a level with a single one.
    """
    if values.n < 1:
        return None
    if signal.kind == "rate" and _binary(values):
        found = wilson(values.total, values.n, alpha=alpha)
    else:
        maybe = mean(values, alpha=alpha)
        if maybe is None:
            return None
        found = maybe
    if isinstance(values, RatioSum):
        found = _on_log_scale(found)
    low, high = signal.outer(found.low), signal.outer(found.high)
    if signal.kind == "rate":
        low, high = max(0.0, low), min(1.0, high)
    return Estimate(signal.outer(found.value), low, high, values.n)


def _on_log_scale(found: Interval) -> Interval:
    """The same interval about a ratio's logarithm: it stays above 0, and leans as costs do."""
    if found.value <= 0.0:
        return found
    factor = math.exp(min(700.0, (found.high - found.value) / found.value))
    return Interval(found.value, found.value / factor, found.value * factor)


def compare(signal: Signal, before: Sum, after: Sum, *, alpha: float = 0.05) -> Comparison:
    """What changed in one signal. For several at once use ``compare_many``.

    Rates: Newcombe's interval, levels: Welch's. Verdicts follow from ``p_value < alpha``, which is
    the same as an interval without "no change" in it.
    """
    return _verdict(signal, before, after, _difference(signal, before, after, alpha), alpha, alpha)


def compare_many(
    pairs: Sequence[tuple[Signal, Sum, Sum]], *, alpha: float = 0.05
) -> list[Comparison]:
    """Several signals at once: the chance of any wrong verdict among them is at most ``alpha``.

    By Holm (1979), which holds however the signals hang together. The intervals stay those of
    each signal alone.
    """
    found = [_difference(signal, before, after, alpha) for signal, before, after in pairs]
    known = [difference.p for difference in found if difference is not None]
    adjusted = iter(holm(known))
    each = alpha / max(1, len(known))
    return [
        _verdict(
            signal,
            before,
            after,
            None if difference is None else difference._replace(p=next(adjusted)),
            alpha,
            each,
        )
        for (signal, before, after), difference in zip(pairs, found, strict=True)
    ]


def holm(chances: Sequence[float]) -> list[float]:
    """P-values adjusted so that any below ``alpha`` is wrong with chance ``alpha`` (Holm, 1979)."""
    adjusted = [1.0] * len(chances)
    so_far = 0.0
    for rank, index in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        so_far = max(so_far, min(1.0, (len(chances) - rank) * chances[index]))
        adjusted[index] = so_far
    return adjusted


def _binary(values: Sum) -> bool:
    return abs(values.squares - values.total) <= 1e-9 * max(1, values.n)


def _difference(signal: Signal, before: Sum, after: Sum, alpha: float) -> Difference | None:
    if signal.log:
        return ratio(signal, before, after, alpha=alpha)
    if signal.kind == "level":
        return welch(before, after, alpha=alpha)
    if before.n < 1 or after.n < 1:
        return None
    if not (_binary(before) and _binary(after)):
        found = welch(before, after, alpha=alpha)
        if found is not None and before.variance and after.variance:
            return found
    return newcombe(before.total, before.n, after.total, after.n, alpha=alpha)


def _verdict(
    signal: Signal,
    before: Sum,
    after: Sum,
    difference: Difference | None,
    alpha: float,
    each: float,
) -> Comparison:
    needed = more_per_side(before.n, after.n, alpha=each)
    size = effect_size(signal, before, after)
    verdict: Verdict = "same" if needed == 0 else "underpowered"
    if difference is not None and difference.p < alpha:
        verdict = direction(signal, (after.mean or 0.0) - (before.mean or 0.0))
    return Comparison(
        signal=signal.name,
        before=estimate(signal, before, alpha=alpha),
        after=estimate(signal, after, alpha=alpha),
        difference=None
        if difference is None
        else Estimate(difference.value, difference.low, difference.high, min(before.n, after.n)),
        effect_size=size,
        p_value=None if difference is None else difference.p,
        verdict=verdict,
        needed=needed,
        method="" if difference is None else difference.method,
        lasting=_lasting(before, after, each),
    )


def _lasting(before: Sum, after: Sum, alpha: float) -> bool | None:
    found = running_difference(before, after, alpha=alpha)
    if found is None:
        return None
    return found.low > 0.0 or found.high < 0.0


def direction(signal: Signal, rise: float) -> Literal["worse", "better", "different"]:
    """What a change of that sign means for a signal."""
    if signal.better == "neither" or rise == 0.0:
        return "different"
    return "better" if (rise > 0.0) == (signal.better == "up") else "worse"


def effect_size(signal: Signal, before: Sum, after: Sum) -> float | None:
    """Cohen's h of rates; Hedges' g (1981) of levels, on inner values.

    ``None`` without values, for levels that do not vary, and for ratios of too few successes.
    """
    if before.mean is None or after.mean is None:
        return None
    if signal.kind == "rate":
        return cohens_h(before.mean, after.mean)
    freedom = before.n + after.n - 2
    if freedom < 1:
        return None
    if any(one.n > 1 and one.variance is None for one in (before, after)):
        return None
    pooled = (
        (before.variance or 0.0) * (before.n - 1) + (after.variance or 0.0) * (after.n - 1)
    ) / freedom
    if pooled <= 0.0:
        return None
    corrected = 1.0 - 3.0 / (4.0 * freedom - 1.0)
    return (after.mean - before.mean) / math.sqrt(pooled) * corrected


__all__ = [
    "Comparison",
    "Verdict",
    "compare",
    "compare_many",
    "direction",
    "effect_size",
    "estimate",
    "holm",
]
