"""Objectives as a page shows them: how much of the error budget is left, and what burns."""

from collections.abc import Mapping, Sequence

import msgspec
from markupsafe import Markup

from tocsin.core.signals import Objective, Signal
from tocsin.dashboard import charts, fmt, measures, places
from tocsin.domains.signals.objectives import ObjectiveStanding, standings
from tocsin.store.api import Store

_TONES = {"burning": "act", "spent": "act", "ok": "ok", "too few events": "quiet"}
_RANK = {"burning": 0, "spent": 1, "ok": 2, "too few events": 3}


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """One objective."""

    standing: ObjectiveStanding
    tone: str
    said: str
    """``62 % left``, ``overspent``, ``too few calls``."""
    detail: str
    bar: Markup
    href: str
    proof: str
    """What the graded signal says, where it says that the fast one lies."""


def budgets(
    store: Store, objectives: Sequence[Objective], catalogue: Mapping[str, Signal], now: int
) -> list[Budget]:
    """Every objective, what burns first."""
    found = [_budget(one) for one in standings(store, objectives, catalogue, now)]
    return sorted(found, key=lambda b: (_RANK[b.standing.state], b.standing.left, b.standing.name))


def _budget(one: ObjectiveStanding) -> Budget:
    tone = _TONES[one.state]
    used = min(max(one.used, 0.0), 1.0)
    bar = charts.level_bar(
        [(tone if tone in ("act", "look") else "s1", 1.0 - used)],
        1.0,
        f"{measures.share(1.0 - used)} of the error budget is left",
    )
    return Budget(
        standing=one,
        tone=tone,
        said=_said(one),
        detail=_detail(one),
        bar=bar if one.events else Markup(""),
        href=places.signal_fixed(one.feature, one.signal),
        proof=_proof(one),
    )


def _said(one: ObjectiveStanding) -> str:
    if not one.events:
        return "no calls judged"
    if one.state == "too few events":
        return "too few calls"
    if one.left < 0:
        return f"spent {measures.digits(one.used)} times over"
    return f"{measures.share(one.left)} left"


def _detail(one: ObjectiveStanding) -> str:
    days = f"{one.window_days:g} days"
    if one.good is None:
        return f"Target {measures.share(one.target)} over {days}."
    burning = [rule for rule in one.rules if rule.burning and rule.long is not None]
    told = (
        f"{measures.share(one.good.value)} good of {fmt.plural(one.events, 'call')} over {days}, "
        f"target {measures.share(one.target)}."
    )
    if burning:
        rule = burning[0]
        told += f" Burns {rule.long:.3g} times too fast over {rule.long_window}."
    return told


def _proof(one: ObjectiveStanding) -> str:
    proof = one.proof
    if proof is None or proof.graded is None or proof.verdict != "contradicts":
        return ""
    fast = "" if proof.proxy is None else f", where this says {measures.share(proof.proxy.value)}"
    return (
        f"{proof.signal.replace('_', ' ')} contradicts it: {measures.share(proof.graded.value)} "
        f"of {fmt.plural(proof.graded.n, 'graded call')} good{fast}."
    )
