"""What a run's page shows of its supervision: the stop that holds it, the strip, the evidence."""

from collections.abc import Mapping, Sequence

import msgspec
from markupsafe import Markup

from tocsin.core.supervision import Evidence, Finding
from tocsin.dashboard import attention, evidence, filters, lanes
from tocsin.dashboard.attention import StopView, Target
from tocsin.dashboard.evidence import Told
from tocsin.dashboard.filters import segment
from tocsin.dashboard.retrace import Retraced, retrace
from tocsin.dashboard.story import STEPS_PER_PAGE
from tocsin.store.api import RunRow, StepPoint, Store

_FEW = 3
"""Steps below which a run can hardly repeat itself."""
_LIVE = ("gateway", "sdk")
_TOLD = 8
"""Detectors whose findings are shown."""


class Supervised(msgspec.Struct, frozen=True, kw_only=True):
    """The supervision of one run."""

    target: Target
    stops: tuple[StopView, ...]
    """Those that its next call would fall under, its own first."""
    held: bool
    """Whether one of them is the run's own."""
    strip: Markup | None
    told: tuple[Told, ...]
    numbers: Mapping[str, int]
    """Anchor of a finding → the step at which it was found."""
    replayed: bool
    """Whether findings come from going through the records now, not from when it ran."""
    found_at: Mapping[int, str]
    """Step → what was done, for the waterfall."""


def supervised(
    store: Store, run: RunRow, points: Sequence[StepPoint], offset: int, shown: int
) -> Supervised:
    """All of it. ``offset`` and ``shown`` say which steps the page lists."""
    stops = attention.holding(store, run.id, run.feature, run.key_id)
    views = attention.views(store, stops)
    findings: Sequence[Finding] = store.findings(run_id=run.id)
    traced = retrace(store, run) if len(points) >= _FEW else Retraced()
    replayed = not findings and run.source not in _LIVE
    if replayed:
        findings = traced.findings
    numbered = _numbered(findings, points)
    told = evidence.tell(findings, _address(run.id, points))[:_TOLD]
    strip = None
    if findings or store.watch(run.id) is not None or any(w.repeats for w in traced.watches):
        window = (offset, offset + max(shown, 1) - 1) if len(points) > STEPS_PER_PAGE else None
        strip = lanes.strip(run.id, points, traced.watches, numbered, window)
    return Supervised(
        target=attention.target(store, "run", run.id, {}, run.feature),
        stops=tuple(views),
        held=any(stop.scope == "run" for stop in stops),
        strip=strip if len(points) > 1 else None,
        told=tuple(told),
        numbers={one.anchor: _number(one.finding, points) for one in told},
        replayed=replayed,
        found_at=_found_at(numbered),
    )


def _numbered(
    findings: Sequence[Finding], points: Sequence[StepPoint]
) -> list[tuple[int, Finding]]:
    """Findings with the number of their step, in order."""
    at = {point.id: i for i, point in enumerate(points, 1)}
    found = [(at.get(f.interaction_id, f.call), f) for f in findings]
    return sorted(found, key=lambda one: one[0])


def _number(finding: Finding, points: Sequence[StepPoint]) -> int:
    return _numbered([finding], points)[0][0]


def _address(run_id: str, points: Sequence[StepPoint]) -> "_Address":
    return _Address(run_id, {point.id: i for i, point in enumerate(points, 1)})


class _Address:
    """Where a step of evidence stands. The supervisor counts calls, a page counts steps: where a
    trace reports more than calls, only the id of the call tells which step it is."""

    def __init__(self, run_id: str, at: Mapping[str, int]) -> None:
        self._base = f"/runs/{segment(run_id)}"
        self._at = at

    def __call__(self, step: Evidence) -> tuple[int, str]:
        number = self._at.get(step.interaction_id, step.call)
        return number, filters.build(self._base, {"step": number})


def _found_at(numbered: Sequence[tuple[int, Finding]]) -> dict[int, str]:
    found: dict[int, Finding] = {}
    for number, finding in numbered:
        known = found.get(number)
        rank = evidence.STAGE_RANK
        if known is None or rank[finding.stage] > rank[known.stage]:
            found[number] = finding
    return {number: evidence.did(finding) for number, finding in found.items()}
