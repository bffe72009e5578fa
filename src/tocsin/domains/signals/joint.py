"""Once one signal of a feature has rung: which others changed with it?

With an alarm standing, "nothing has changed" is no longer what a second signal is held against, so
it need not wait for the evidence that a first alarm needs. The values since the change point are
explained by the baseline (whose own error counts) and by a level of their own; the ratio of the two
is an e-value at every moment, averaged over the prior of the baseline, and e-BH (Wang and Ramdas,
2022) over all signals aims at a share of wrong ones of ``FALSE_SHARE`` at most, however they hang
together. What has rung is taken for changed; after a false alarm the share does not hold.
"""

import math
from collections.abc import Mapping

import msgspec

FALSE_SHARE = 0.05
"""Most of the signals named as changed with another that did not change, on average."""
_ODDS = (1.7, 3.0, 6.0, 12.0, 30.0)
JOINED = 500
"""Judged values for which a signal is asked."""


class Joint(msgspec.Struct):
    """Scores of a signal since another one's change point, summed."""

    since: int = 0
    """The change point, microseconds."""
    n: int = 0
    total: float = 0.0
    inner: float = 0.0
    squares: float = 0.0
    """Of the inner values themselves."""
    choice: float = 0.0
    """What having chosen this moment among several costs, in log evidence."""

    def add(self, score: float, value: float) -> None:
        """Take in a value and its score."""
        self.n += 1
        self.total += score
        self.inner += value
        self.squares += value * value


def score_evidence(joint: Joint, n: int, inflation: float) -> float:
    """Log Bayes factor of a shift of normal scores against a baseline of ``n`` values.

    The shift is normal around 0 with one standard deviation, before the data are seen.
    """
    usual = inflation * (1.0 / joint.n + 1.0 / n)
    mean = joint.total / joint.n
    wide = usual + 1.0
    return 0.5 * (math.log(usual / wide) + mean * mean * (1.0 / usual - 1.0 / wide))


def coin_evidence(joint: Joint, hits: float, n: int, inflation: float) -> float:
    """Log Bayes factor of a rate of its own against the rate that saw ``hits`` of ``n``.

    The rate of its own is one of ``_ODDS`` times the baseline's, on either side that it could be
    seen to move to; the baseline's has Jeffreys' prior. Values that clump count as fewer.
    """
    of_baseline, m = n / inflation, joint.n / inflation
    known = hits / inflation
    seen = min(m, max(0.0, joint.total / inflation))
    missed = m - seen
    same = _log_beta(known + seen + 0.5, of_baseline - known + missed + 0.5) - _log_beta(
        known + 0.5, of_baseline - known + 0.5
    )
    usual = (known + 0.5) / (of_baseline + 1.0)
    odds = usual / (1.0 - usual)
    sides = [1.0] * (usual < 0.97) + [-1.0] * (usual > 0.03)
    logs = []
    for side in sides:
        for times in _ODDS:
            own = odds * times**side
            logs.append(seen * math.log(own) - m * math.log1p(own))
    top = max(logs)
    return top + math.log(sum(math.exp(x - top) for x in logs) / len(logs)) - same


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def changed_too(evidence: Mapping[str, float], *, firing: int, signals: int) -> list[str]:
    """Which of the joined signals are told to have changed, by the logs of their e-values.

    ``firing``: how many have rung already; ``signals``: all that are watched, these included. Those
    that have rung count as changed: wrong ones can only be among the others.
    """
    ordered = sorted(evidence, key=evidence.__getitem__, reverse=True)
    named, others = 0, max(1, signals - firing)
    for rank, name in enumerate(ordered, 1):
        if evidence[name] >= math.log(others / (FALSE_SHARE * (firing + rank))):
            named = rank
    return ordered[:named]


__all__ = ["FALSE_SHARE", "JOINED", "Joint", "changed_too", "coin_evidence", "score_evidence"]
