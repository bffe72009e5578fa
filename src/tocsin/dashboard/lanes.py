"""The supervision strip: a run's lanes under one another, over the same calls.

Pure. How the run stood after each of its calls comes as ``RunWatch``; findings are marks above it.
"""

from collections.abc import Sequence

import msgspec
from markupsafe import Markup, escape

from tocsin.core.supervision import Finding, RunWatch, Stage
from tocsin.dashboard import charts, fmt, scales
from tocsin.dashboard.charts import TOP, num
from tocsin.dashboard.evidence import STAGE_RANK, did, title
from tocsin.dashboard.filters import segment
from tocsin.store.api import StepPoint

_NAME, _PLOT, _GAP = 16, 28, 8
_MARKS = 28
_LEGEND = "Marks: ▲ nudge, ❚❚ pause, ■ kill."
_SHAPES = {
    "nudge": '<path class="look" d="M0-5 5 4H-5z"/>',
    "pause": '<path class="act" d="M-4-5h3v9h-3zM1-5h3v9h-3z"/>',
    "kill": '<path class="act" d="M-4.5-4.5h9v9h-9z"/>',
}


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """One lane: a value for each step of the axis, ``None`` where nothing is known."""

    name: str
    values: tuple[float | None, ...]
    scale: scales.Scale
    css: str = "s1"
    now: str
    """The last value, at the right edge."""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """The findings of one step: the strongest gives the shape."""

    step: int
    """Step of the axis, from 0."""
    stage: Stage
    said: str


def strip(
    run_id: str,
    points: Sequence[StepPoint],
    watches: Sequence[RunWatch],
    findings: Sequence[tuple[int, Finding]],
    window: tuple[int, int] | None = None,
) -> Markup:
    """The strip of a run. ``watches`` has one entry for each of the first points, or none.

    ``findings`` come with the number of their step. ``window`` is the part that the page shows,
    in steps from 0.
    """
    axis = scales.step_axis(len(points))
    groups = [range(i, min(i + axis.step, len(points))) for i in range(0, len(points), axis.step)]
    lanes = [*_watched(watches, groups), *_measured(points, groups)]
    marks = _marks(findings, axis.step)
    shown = None
    if window is not None:
        shown = (window[0] // axis.step, window[1] // axis.step)
    height = _MARKS + len(lanes) * (_NAME + _PLOT + _GAP)
    figure = charts.Figure(
        id="supervision",
        title="Supervision, along the calls",
        answer=_answer(findings),
        summary=_summary(lanes, marks),
        axis=axis,
        scale=scales.counts(1),
        height=height,
        points=tuple(_point(i, g, lanes, marks) for i, g in enumerate(groups)),
        href=f"/runs/{segment(run_id)}",
        window=shown,
        note=_note(len(watches), len(points)),
    )
    body = [_shade(figure), _stages(findings, axis)]
    body.append(_drawn_marks(marks, axis))
    y = float(TOP + _MARKS)
    for lane in lanes:
        body.append(_drawn(lane, axis, y))
        y += _NAME + _PLOT + _GAP
    return charts.frame(figure, "".join(body), labelled=True)


def _watched(watches: Sequence[RunWatch], groups: Sequence[range]) -> list[Lane]:
    """What the engine said after each call."""
    if not watches:
        return []
    known = len(watches)

    def last(group: range, value: str) -> float | None:
        at = min(group.stop, known) - 1
        return float(getattr(watches[at], value)) if at >= group.start else None

    new = tuple(last(g, "novelty") for g in groups)
    repeats = tuple(last(g, "repeats") for g in groups)
    since = tuple(last(g, "tokens_since_new") for g in groups)
    end = watches[-1]
    return [
        Lane(
            name="Novelty: new in what came back, last 5 steps",
            values=new,
            scale=_to(1.0, "100 %"),
            now=fmt.percent(end.novelty, 1),
        ),
        Lane(
            name="Repeats among the last 20 steps",
            values=repeats,
            scale=_to(20.0, "20"),
            css="s4",
            now=fmt.count(end.repeats),
        ),
        Lane(
            name="Tokens since something new",
            values=since,
            scale=_upto(max(v or 0.0 for v in since), money=False),
            css="s2",
            now=fmt.tokens(end.tokens_since_new),
        ),
    ]


def _measured(points: Sequence[StepPoint], groups: Sequence[range]) -> list[Lane]:
    """What every record says: context, and spend from the first call on."""
    sizes = tuple(
        max(
            (float(v) for i in group if (v := points[i].input_tokens) is not None),
            default=None,
        )
        for group in groups
    )
    lanes = []
    known = [size for size in sizes if size is not None]
    if known:
        lanes.append(
            Lane(
                name="Context, tokens sent per call",
                values=sizes,
                scale=_upto(max(known), money=False),
                now=fmt.tokens(int(known[-1])),
            )
        )
    if any(point.cost_nano_usd is not None for point in points):
        total, sums = 0, []
        for group in groups:
            total += sum(points[i].cost_nano_usd or 0 for i in group)
            sums.append(float(total))
        lanes.append(
            Lane(
                name="Spend so far",
                values=tuple(sums),
                scale=_upto(float(total), money=True),
                css="s3",
                now=fmt.money(total),
            )
        )
    return lanes


def _upto(top: float, *, money: bool) -> scales.Scale:
    """From zero to the highest value; one label says how much that is."""
    label = fmt.money(round(top)) if money else fmt.tokens(round(top))
    return _to(max(top, 1.0), label if top else "0")


def _to(top: float, label: str) -> scales.Scale:
    return scales.Scale(top=top, ticks=(scales.Tick(0, 0.0, "0"), scales.Tick(top, 1.0, label)))


def _marks(findings: Sequence[tuple[int, Finding]], step: int) -> list[Mark]:
    by_step: dict[int, list[Finding]] = {}
    for number, finding in findings:
        by_step.setdefault((number - 1) // step, []).append(finding)
    found = []
    for at, here in sorted(by_step.items()):
        best = max(here, key=lambda f: STAGE_RANK[f.stage])
        found.append(
            Mark(step=at, stage=best.stage, said=f"{did(best)}: {title(best.detector).lower()}")
        )
    return found


# -- words --


def _answer(findings: Sequence[tuple[int, Finding]]) -> str:
    if not findings:
        return "nothing found"
    number, first = findings[0]
    worst_at, worst = max(findings, key=lambda f: (STAGE_RANK[f[1].stage], -f[0]))
    head = f"{did(worst)} at step {worst_at:,}"
    return head if worst_at == number else f"{did(first)} at step {number:,}, {head}"


def _summary(lanes: Sequence[Lane], marks: Sequence[Mark]) -> str:
    ends = "; ".join(f"{_short(lane)} {lane.now}" for lane in lanes)
    return f"{fmt.plural(len(marks), 'step')} with findings. At the end: {ends}."


def _note(watched: int, total: int) -> str:
    if not watched:
        return _LEGEND + " Novelty and repeats are drawn for runs whose messages are stored."
    if watched < total:
        return (
            f"{_LEGEND} Novelty and repeats are drawn for the first {watched:,} of {total:,} steps."
        )
    return _LEGEND


def _point(i: int, group: range, lanes: Sequence[Lane], marks: Sequence[Mark]) -> str:
    """The crosshair's text."""
    first, last = group.start + 1, group.stop
    head = f"Step {first:,}" if first == last else f"Steps {first:,}–{last:,}"
    said = [head]
    for lane in lanes:
        value = lane.values[i]
        if value is not None:
            said.append(f"{_short(lane)} {_value(lane, value)}")
    said += [mark.said for mark in marks if mark.step == i]
    return " · ".join(said)


def _short(lane: Lane) -> str:
    return {"Nov": "new", "Rep": "repeats", "Tok": "since new", "Con": "context"}.get(
        lane.name[:3], "spent"
    )


def _value(lane: Lane, value: float) -> str:
    name = lane.name[:3]
    if name == "Nov":
        return fmt.percent(value, 1)
    if name == "Spe":
        return fmt.money(round(value))
    return fmt.tokens(round(value))


# -- drawing --


def _shade(figure: charts.Figure) -> str:
    shade = charts.shade(figure)
    return charts.stretched(figure.axis, TOP, figure.height, shade) if shade else ""


def _stages(findings: Sequence[tuple[int, Finding]], axis: scales.Axis) -> str:
    """A line under the marks, from the first finding of each stage on."""
    width = (axis.end - axis.start) / axis.step
    parts = []
    for stage, css in (("nudge", "look"), ("pause", "act"), ("kill", "act")):
        first = next((n for n, f in findings if f.stage == stage), None)
        if first is not None:
            x = (first - 1) / axis.step
            parts.append(
                f'<rect class="{css}" x="{num(x)}" y="{_MARKS - 12}" '
                f'width="{num(width - x)}" height="2"/>'
            )
    return charts.stretched(axis, TOP, _MARKS, "".join(parts)) if parts else ""


def _drawn_marks(marks: Sequence[Mark], axis: scales.Axis) -> str:
    width = (axis.end - axis.start) / axis.step
    drawn = []
    for mark in marks:
        x = 100 * (mark.step + 0.5) / width
        drawn.append(
            f'<svg x="{num(x)}%" y="{TOP + 7}" class="stage-mark">{_SHAPES[mark.stage]}</svg>'
        )
    return "".join(drawn)


def _drawn(lane: Lane, axis: scales.Axis, y: float) -> str:
    top, floor = y + _NAME, y + _NAME + _PLOT
    marks = []
    start = None
    for i in range(len(lane.values) + 1):
        known = i < len(lane.values) and lane.values[i] is not None
        if known and start is None:
            start = i
        elif not known and start is not None:
            marks.append(_filled(lane, start, i))
            start = None
    highest = lane.scale.ticks[-1].label
    return (
        f'<g class="grid"><line x1="0" x2="100%" y1="{num(floor)}" y2="{num(floor)}"/>'
        f'<line class="faint" x1="0" x2="100%" y1="{num(top)}" y2="{num(top)}"/>'
        f'<text class="y" x="-8" y="{num(top)}" dy=".32em">{escape(highest)}</text></g>'
        f'<text class="lane-name" x="0" y="{num(y + 10)}">{escape(lane.name)}</text>'
        f"{charts.stretched(axis, top, _PLOT, ''.join(marks))}"
        f'<text class="direct" x="100%" dx="8" y="{num(floor - _PLOT / 2)}" dy=".32em">'
        f"{escape(lane.now)}</text>"
    )


def _filled(lane: Lane, start: int, end: int) -> str:
    tops = []
    for i in range(start, end):
        y = num(_PLOT - lane.scale.height(lane.values[i] or 0.0, _PLOT))
        tops.append(f"{i} {y}H{i + 1}")
    line = "L".join(tops)
    return (
        f'<path class="fill {lane.css}" d="M{start} {_PLOT}L{line}V{_PLOT}z"/>'
        f'<path class="line {lane.css}-line" d="M{line}"/>'
    )
