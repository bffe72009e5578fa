"""How far a judge may be believed: its agreement with people, and what the true rate then is.

A model that judges is an instrument with errors of its own. Without labels its share says nothing
about answers; with them, its errors can be measured and taken out (Rogan and Gladen, 1978).
"""

import math
from collections.abc import Iterable, Mapping
from statistics import NormalDist

import msgspec

from tocsin.core.signals import Estimate, Scored
from tocsin.domains.signals.intervals import wilson

LABEL = "labelled_right"
_NO_BETTER = 0.05
"""Sensitivity plus specificity minus one from which a judge tells right from wrong at all."""


class JudgeStanding(msgspec.Struct, frozen=True, kw_only=True):
    """What a judge says, and what that is worth. Shares are of "yes" and of "right"."""

    judged: int
    """Calls to which it said yes or no."""
    unjudged: int
    """Calls of which it could not tell, or whose judgement failed."""
    said_yes: Estimate | None
    """The judge's own share: no measure of answers until ``shown``."""
    labelled: int
    """Calls that it judged and a person labelled."""
    needed: int
    """Labels that are missing before the share may be shown as a measure; 0: enough."""
    shown: bool
    """Whether the share may be shown as a measure, beside its agreement."""
    agreement: Estimate | None = None
    """Share of labelled calls on which both say the same."""
    kappa: Estimate | None = None
    """Agreement beyond chance (Cohen, 1960); ``None`` where one side only ever says one thing."""
    sensitivity: Estimate | None = None
    """Of answers that people call right, the share to which it says yes."""
    specificity: Estimate | None = None
    """Of answers that people call wrong, the share to which it says no."""
    corrected: Estimate | None = None
    """The share of right answers, with the judge's errors taken out."""
    words: str = ""
    """The standing in one sentence."""


def standing_of(
    scored: Iterable[Scored], judge: str, min_labels: int, *, version: str | None = None
) -> JudgeStanding:
    """The standing of the judge whose signal is ``judge``, from scored calls, newest first.

    Another model or question is another judge: verdicts of one version count, without
    ``version`` those of the newest verdict.
    """
    judged: dict[str, float | None] = {}
    labels: dict[str, float] = {}
    for one in scored:
        for score in one.scores:
            if score.name == judge:
                version = version or score.version
                if score.version == version:
                    judged[one.interaction.id] = score.value
            elif score.name == LABEL and score.value is not None:
                labels[one.interaction.id] = score.value
    return judge_standing(judged, labels, min_labels)


def judge_standing(
    judge_scores: Mapping[str, float | None],
    labels: Mapping[str, float],
    min_labels: int,
    *,
    alpha: float = 0.05,
) -> JudgeStanding:
    """The standing of a judge.

    ``judge_scores``: interaction → 1 (yes), 0 (no) or ``None``; ``labels``: interaction → 1
    (right) or 0 (wrong). Labels must be of a random sample of what was judged: labels of cases
    that were picked for their verdict bias sensitivity and specificity.
    """
    said = {key: value >= 0.5 for key, value in judge_scores.items() if value is not None}
    both = [(said[key], labels[key] >= 0.5) for key in said if key in labels]
    table = _Table(
        a=sum(judge and right for judge, right in both),
        b=sum(judge and not right for judge, right in both),
        c=sum(not judge and right for judge, right in both),
        d=sum(not judge and not right for judge, right in both),
    )
    yes = sum(said.values())
    needed = max(0, min_labels - table.n)
    standing = JudgeStanding(
        judged=len(said),
        unjudged=len(judge_scores) - len(said),
        said_yes=_share(yes, len(said), alpha),
        labelled=table.n,
        needed=needed,
        shown=not needed and bool(said),
        agreement=_share(table.a + table.d, table.n, alpha),
        kappa=table.kappa(alpha),
        sensitivity=_share(table.a, table.a + table.c, alpha),
        specificity=_share(table.d, table.b + table.d, alpha),
        corrected=None if needed else _corrected(yes, len(said), table, alpha),
    )
    return msgspec.structs.replace(standing, words=_words(standing))


class _Table(msgspec.Struct, frozen=True):
    """Judge by person: ``a`` yes/right, ``b`` yes/wrong, ``c`` no/right, ``d`` no/wrong."""

    a: int
    b: int
    c: int
    d: int

    @property
    def n(self) -> int:
        return self.a + self.b + self.c + self.d

    def kappa(self, alpha: float) -> Estimate | None:
        """Cohen's kappa with the large-sample interval of Fleiss, Cohen and Everitt (1969)."""
        n = self.n
        if not n:
            return None
        cells = ((self.a / n, self.b / n), (self.c / n, self.d / n))
        rows = (cells[0][0] + cells[0][1], cells[1][0] + cells[1][1])
        columns = (cells[0][0] + cells[1][0], cells[0][1] + cells[1][1])
        agreed = cells[0][0] + cells[1][1]
        chance = rows[0] * columns[0] + rows[1] * columns[1]
        if chance >= 1.0 - 1e-12:
            return None
        kappa = (agreed - chance) / (1.0 - chance)
        same = sum(
            cells[i][i] * (1.0 - (rows[i] + columns[i]) * (1.0 - kappa)) ** 2 for i in (0, 1)
        )
        other = (1.0 - kappa) ** 2 * sum(
            cells[i][j] * (columns[i] + rows[j]) ** 2 for i, j in ((0, 1), (1, 0))
        )
        last = (kappa - chance * (1.0 - kappa)) ** 2
        variance = max(0.0, same + other - last) / (n * (1.0 - chance) ** 2)
        half = _z(alpha) * math.sqrt(variance)
        return Estimate(kappa, max(-1.0, kappa - half), min(1.0, kappa + half), n)


def _z(alpha: float) -> float:
    return NormalDist().inv_cdf(1.0 - alpha / 2.0)


def _share(hits: int, n: int, alpha: float) -> Estimate | None:
    if not n:
        return None
    found = wilson(hits, n, alpha=alpha)
    return Estimate(found.value, found.low, found.high, n)


def _corrected(yes: int, judged: int, table: _Table, alpha: float) -> Estimate | None:
    """The true share by Rogan and Gladen (1978), its interval with the added observations that
    Lang and Reiczigel (2014) propose, by the delta method."""
    right, wrong = table.a + table.c, table.b + table.d
    if not judged or not right or not wrong:
        return None
    power = table.a / right + table.d / wrong - 1.0
    if power <= _NO_BETTER:
        return None
    value = (yes / judged + table.d / wrong - 1.0) / power
    z = _z(alpha)
    share = (yes + z * z / 2.0) / (judged + z * z)
    sensitivity = (table.a + 1.0) / (right + 2.0)
    specificity = (table.d + 1.0) / (wrong + 2.0)
    power = sensitivity + specificity - 1.0
    if power <= 0.0:
        return None
    middle = min(1.0, max(0.0, (share + specificity - 1.0) / power))
    variance = (
        share * (1.0 - share) / (judged + z * z)
        + middle**2 * sensitivity * (1.0 - sensitivity) / (right + 2.0)
        + (1.0 - middle) ** 2 * specificity * (1.0 - specificity) / (wrong + 2.0)
    )
    half = z * math.sqrt(variance) / power
    value = min(1.0, max(0.0, value))
    low, high = max(0.0, min(value, middle - half)), min(1.0, max(value, middle + half))
    return Estimate(value, low, high, judged)


def _words(standing: JudgeStanding) -> str:
    if not standing.judged:
        return "It has judged nothing yet."
    if standing.needed:
        more = f"{standing.needed} more label{'s' if standing.needed > 1 else ''} needed"
        return f"{more} before its share says anything about answers."
    if standing.corrected is None:
        if standing.sensitivity is None or standing.specificity is None:
            missing = "right" if standing.sensitivity is None else "wrong"
            return f"People called no answer {missing} yet, so its errors cannot be taken out."
        return "It tells right from wrong no better than chance: do not use its share."
    agreement = standing.agreement
    assert agreement is not None
    return (
        f"It agrees with people on {agreement.value:.0%} of {standing.labelled} labelled calls; "
        f"with its errors taken out, {standing.corrected.value:.0%} of answers are right "
        f"({standing.corrected.low:.0%} to {standing.corrected.high:.0%})."
    )


__all__ = ["JudgeStanding", "judge_standing", "standing_of"]
