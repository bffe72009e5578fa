"""What is said of one call: evaluators' scores, people's feedback, and the form to add to it."""

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import RedirectResponse, Response

from tocsin.core.errors import InputError, NotFound
from tocsin.core.ids import new_id
from tocsin.core.score import Feedback, Score
from tocsin.core.signals import JUDGED_AXES, Signal
from tocsin.dashboard import examples, fmt, measures, places, render
from tocsin.dashboard.filters import segment
from tocsin.dashboard.view import View
from tocsin.store.api import Store

_LONGEST = 2_000
_LABELS = {"right": 1.0, "wrong": 0.0}
_ORDER = {axis: i for i, axis in enumerate(measures.AXIS_TITLES)}


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One score as a line of the call's page."""

    score: Score
    title: str
    value: str
    tone: str
    why: str
    href: str


def said_of(
    store: Store, catalogue: Mapping[str, Signal], call_id: str, feature: str
) -> dict[str, Any]:
    """Scores, what is bad first, and feedback, the last word of each author and kind."""
    found: dict[str, Score] = {}
    for score in store.scores(call_id):
        found[score.name] = score
    told = (_verdict(score, catalogue.get(score.name), feature) for score in found.values())
    last: dict[tuple[str, str], Feedback] = {}
    for one in store.feedback(call_id):
        last[one.kind, one.by] = one
    return {
        "verdicts": sorted((v for v in told if v), key=lambda v: _rank(v, catalogue)),
        "feedback": sorted(last.values(), key=lambda f: -f.at),
    }


def _verdict(score: Score, signal: Signal | None, feature: str) -> Verdict | None:
    if signal is None:
        return None
    if score.value is None:
        value, tone = "not judged", "quiet"
    else:
        value = examples.one_value(signal, score.value)
        bad, judged = signal.bad(score.value), signal.kind == "rate" and signal.better != "neither"
        tone = "look" if bad else "ok" if judged else "quiet"
    label = score.label or ""
    if signal.name in JUDGED_AXES and label:
        label = label.replace("_", " ")
    return Verdict(
        score=score,
        title=signal.title,
        value=value,
        tone=tone,
        why=fmt.one_line(" · ".join(part for part in (label, score.explanation) if part), 240),
        href=places.signal_fixed(feature, signal.name),
    )


def _rank(one: Verdict, catalogue: Mapping[str, Signal]) -> tuple[bool, int, bool, str]:
    axis = catalogue[one.score.name].axis
    return (one.tone != "look", _ORDER[axis], one.score.name not in JUDGED_AXES, one.title)


async def feedback(view: View) -> Response:
    """Keep a label or a comment of whoever is signed in, then back to the call."""
    form = await view.form()
    call_id = view.request.path_params["call_id"]
    label, comment = form.get("label", ""), form.get("comment", "").strip()[:_LONGEST]
    if label and label not in _LABELS:
        raise InputError("“label” must be right or wrong.")
    if not label and not comment:
        raise InputError("Say whether the answer was right or wrong, or write a comment.")
    if await view.read(view.deps.store.interaction, call_id) is None:
        raise NotFound(f"There is no call {fmt.one_line(call_id, 80)}.")
    row = Feedback(
        id=new_id("req", view.deps.clock.now_us()).replace("req_", "fb_"),
        interaction_id=call_id,
        kind="label" if label else "comment",
        value=_LABELS.get(label),
        comment=comment,
        by=view.principal.name or view.principal.key_id or "dashboard",
        at=view.deps.clock.now_us(),
    )
    await view.read(view.deps.store.add_feedback, row)
    where = f"/calls/{segment(call_id)}#people"
    return RedirectResponse(where, 303, dict(render.PAGE_HEADERS))
