"""What a judge's word is worth: its agreement with people, without which no share is shown."""

from collections.abc import Iterator, Mapping

import msgspec

from tocsin.core.score import Feedback
from tocsin.dashboard import fmt, measures
from tocsin.domains.signals.agreement import JudgeStanding, judge_standing
from tocsin.store.api import Store

_PAGE = 5_000
_MOST = 100_000
"""Words of people that are looked through for labels."""
_LABELS = 2_000
"""Labelled calls, the latest, from which agreement is worked out."""


class Judge(msgspec.Struct, frozen=True, kw_only=True):
    """One judge on one feature."""

    standing: JudgeStanding
    said: str

    @property
    def shown(self) -> bool:
        """Whether its share may be shown as a measure, beside its agreement."""
        return self.standing.shown


def judges_of(store: Store, feature: str, wanted: Mapping[str, int]) -> dict[str, Judge]:
    """Judges by the name of their signal. ``wanted``: signal → labels that it needs."""
    if not wanted:
        return {}
    labels = _labels(store, feature)
    said = {call: {s.name: s.value for s in store.scores(call)} for call in labels}
    found = {}
    for name, least in wanted.items():
        scores = {call: by_name[name] for call, by_name in said.items() if name in by_name}
        standing = judge_standing(scores, labels, least)
        found[name] = Judge(standing=standing, said=_said(standing))
    return found


def _labels(store: Store, feature: str) -> dict[str, float]:
    """The latest labelled calls of a feature; of one call, the last word counts."""
    values: dict[str, float] = {}
    for one in _feedback(store):
        if one.kind == "label" and one.value is not None:
            values.pop(one.interaction_id, None)
            values[one.interaction_id] = one.value
    found: dict[str, float] = {}
    for call in reversed(values):
        interaction = store.interaction(call)
        if interaction is not None and interaction.feature == feature:
            found[call] = values[call]
        if len(found) >= _LABELS:
            break
    return found


def _feedback(store: Store) -> Iterator[Feedback]:
    number = 0
    for _ in range(_MOST // _PAGE):
        rows = store.feedback_after(number, limit=_PAGE)
        yield from (feedback for _, feedback in rows)
        if len(rows) < _PAGE:
            return
        number = rows[-1][0]


def _said(standing: JudgeStanding) -> str:
    if not standing.shown:
        return f"not shown as a measure: {fmt.plural(standing.needed, 'more label')} needed"
    agreement = standing.agreement
    assert agreement is not None
    said = (
        f"agrees with people on {measures.share(agreement.value)} "
        f"({measures.share(agreement.low)} to {measures.share(agreement.high)}) of "
        f"{fmt.plural(agreement.n, 'labelled call')}"
    )
    if standing.kappa is not None:
        said += f", kappa {standing.kappa.value:.2f}"
    return said
