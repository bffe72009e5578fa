"""Tests of the same prompts, asked before and after."""

import math
from collections.abc import Sequence

from tocsin.domains.signals.intervals import (
    Difference,
    beta_cdf,
    normal_quantile,
    student_quantile,
    student_two_sided,
)

_EXACT_RANKS = 60


def mcnemar(worse: int, better: int) -> float:
    """Two-sided exact chance of such a split of the pairs that changed (McNemar, 1947).

    ``worse`` and ``better`` are pairs that went one way and the other; pairs that agree say
    nothing. 1 without any. Raises ``ValueError`` for negative counts.
    """
    if worse < 0 or better < 0:
        raise ValueError("counts cannot be negative")
    n, least = worse + better, min(worse, better)
    if worse == better:
        return 1.0
    # The binomial tail as a beta function: exact to 14 digits, and quick for any count.
    return min(1.0, 2.0 * beta_cdf(0.5, n - least, least + 1))


def rate_difference(worse: int, better: int, n: int, *, alpha: float = 0.05) -> Difference:
    """Share after minus share before over ``n`` pairs, with the exact McNemar chance.

    ``worse`` pairs went from 1 to 0, ``better`` from 0 to 1. The interval is the adjusted Wald one
    of Bonett and Price (2012). Raises ``ValueError`` unless both fit into ``n``.
    """
    if n < 1 or worse + better > n:
        raise ValueError("more pairs changed than there are")
    chance = mcnemar(worse, better)
    up, down = (better + 1.0) / (n + 2.0), (worse + 1.0) / (n + 2.0)
    half = normal_quantile(1.0 - alpha / 2.0) * math.sqrt(
        (up + down - (up - down) ** 2) / (n + 2.0)
    )
    centre = up - down
    value = (better - worse) / n
    return Difference(
        value,
        max(-1.0, min(value, centre - half)),
        min(1.0, max(value, centre + half)),
        chance,
        "McNemar's exact test",
    )


def stratified(strata: Sequence[tuple[int, int, int, int]]) -> float:
    """Two-sided exact chance that the same prompts, asked several times, answer so differently.

    Each stratum is one prompt: (ones before, asked before, ones after, asked after). Given how
    often a prompt came out 1 in all, nothing changed means that any of its answers may as well
    have been after: the exact conditional test of Cochran, Mantel and Haenszel (1954, 1959). With
    one answer on each side it is McNemar's. Doubled smaller tail.
    """
    chances, seen = [1.0], 0
    for ones_before, before, ones_after, after in strata:
        if not (0 <= ones_before <= before and 0 <= ones_after <= after):
            raise ValueError("a prompt has more ones than answers")
        ones = ones_before + ones_after
        low, high = max(0, ones - before), min(ones, after)
        if low == high:
            continue
        whole = math.comb(before + after, ones)
        one = [math.comb(after, k) * math.comb(before, ones - k) / whole
               for k in range(low, high + 1)]  # fmt: skip
        chances = _convolved(chances, one)
        seen += ones_after - low
    lower, upper = math.fsum(chances[: seen + 1]), math.fsum(chances[seen:])
    return min(1.0, 2.0 * min(lower, upper))


def _convolved(first: list[float], second: list[float]) -> list[float]:
    out = [0.0] * (len(first) + len(second) - 1)
    for at, weight in enumerate(second):
        for index, value in enumerate(first):
            out[at + index] += weight * value
    return out


def level_difference(
    differences: Sequence[float], *, alpha: float = 0.05, extra: float = 0.0, runs: int = 0
) -> Difference | None:
    """The mean of differences between pairs, by Student's t.

    ``extra`` is a variance that all pairs share, such as that between whole runs, estimated with
    ``runs`` degrees of freedom; freedom is then Satterthwaite's (1946). ``None`` with fewer than
    two pairs. The chance is never told smaller than flipping signs could show.
    """
    n = len(differences)
    if n < 2:
        return None
    centre = math.fsum(differences) / n
    own = math.fsum((d - centre) ** 2 for d in differences) / (n - 1) / n
    least = 2.0 ** (1 - sum(1 for d in differences if d != 0.0)) if any(differences) else 1.0
    if own + extra <= 1e-24 * centre * centre:
        return Difference(centre, centre, centre, min(1.0, least), "constant")
    # In shares of the whole: squares of tiny variances would be 0.
    mine = own / (own + extra)
    others = (1.0 - mine) ** 2 / runs if extra > 0.0 and runs > 0 else 0.0
    freedom = 1.0 / (mine**2 / (n - 1) + others)
    error = math.sqrt(own + extra)
    reach = student_quantile(1.0 - alpha / 2.0, freedom) * error
    p = min(1.0, max(least, student_two_sided(centre / error, freedom)))
    return Difference(centre, centre - reach, centre + reach, p, "paired t")


__all__ = ["level_difference", "mcnemar", "rate_difference", "stratified"]
