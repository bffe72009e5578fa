"""Signals over time: a line with its interval, the baseline as a band, changes and releases marked.

Numbers in, markup out. A step's interval is Wilson's for rates and Student's t for levels.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import msgspec
from markupsafe import Markup, escape

from tocsin.core.ratios import RatioSum
from tocsin.core.signals import Signal, Sum
from tocsin.dashboard import charts, fmt, measures, scales
from tocsin.dashboard.charts import num
from tocsin.dashboard.scales import Axis, Scale
from tocsin.domains.signals.compare import estimate
from tocsin.domains.signals.intervals import normal_quantile, student_quantile, wilson

_HEIGHT = 168
_MOST_STEPS = 96
_FEWEST_STEPS = 15
_ENOUGH = 24
"""Judged calls that a step should have."""
_DAY = 86_400_000_000
_LABELLED = 6
_STEPS = tuple(
    minutes * 60_000_000 for minutes in (5, 10, 15, 30, 60, 120, 180, 240, 360, 720, 1440)
)
_Z = normal_quantile(0.975)


class Step(msgspec.Struct, frozen=True):
    """A signal in one step of the axis; outer values, ``None`` where nothing was judged."""

    value: float | None
    low: float
    high: float
    n: int
    unjudged: int = 0


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """A moment on the time axis."""

    at: int
    name: str
    css: str
    """``change`` or ``release``."""


class Band(msgspec.Struct, frozen=True, kw_only=True):
    """Where 19 of 20 steps would lie with nothing changed, and the baseline's own value."""

    low: float
    high: float
    value: float


def axis_for(since: int, until: int, grain: str, judged: int, *, most: int = _MOST_STEPS) -> Axis:
    """An axis for so many judged calls: of at most ``most`` steps, none finer than the sums are,
    and with enough calls in the usual one, as long as a dozen steps are left."""
    least = {"minutes": 300_000_000, "hour": 3_600_000_000, "day": _DAY}[grain]
    steps = min(most, max(_FEWEST_STEPS, judged // _ENOUGH))
    wide = (until - since) / steps
    step = next((s for s in _STEPS if s >= least and s >= wide), None)
    return scales.time_axis(since, until, step or math.ceil(wide / _DAY) * _DAY)


def steps_on(axis: Axis, signal: Signal, points: Sequence[tuple[int, Sum]]) -> list[Step]:
    """Sums at moments as one step for each step of the axis."""
    found = [Sum()] * axis.steps
    for at, values in points:
        # A sum whose step of time began before the range belongs to the range's first step.
        i = min(max(axis.index(at), 0), axis.steps - 1)
        found[i] += values
    return [_step(signal, values) for values in found]


def _step(signal: Signal, values: Sum) -> Step:
    mean = values.mean
    if mean is None:
        return Step(None, 0.0, 0.0, 0, values.unjudged)
    if signal.kind == "rate":
        share = wilson(min(max(values.total, 0.0), values.n), values.n)
        return Step(share.value, share.low, share.high, values.n, values.unjudged)
    variance = values.variance
    if variance is None:
        outer = signal.outer(mean)
        return Step(outer, outer, outer, values.n, values.unjudged)
    if isinstance(values, RatioSum):
        ratio = estimate(signal, values)
        assert ratio is not None
        return Step(ratio.value, ratio.low, ratio.high, values.n, values.unjudged)
    half = _t(values.n - 1) * math.sqrt(variance / values.n)
    low, high = signal.outer(mean - half), signal.outer(mean + half)
    return Step(signal.outer(mean), low, high, values.n, values.unjudged)


def _t(freedom: int) -> float:
    """Student's 97.5 % quantile; from 30 degrees by the expansion of Fisher and Cornish (1960)."""
    if freedom < 30:
        return student_quantile(0.975, freedom)
    z = _Z
    first = (z**3 + z) / (4 * freedom)
    return z + first + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def band_of(signal: Signal, before: Sum, steps: Sequence[Step]) -> Band | None:
    """The baseline as a band for steps of the usual size; ``None`` without a baseline."""
    usual = median([step.n for step in steps if step.n] or [0])
    mean = before.mean
    if mean is None or before.n < 2 or usual < 1:
        return None
    # The baseline is itself known only so well: its own uncertainty widens the band.
    size = 1 / (1 / usual + 1 / before.n)
    value = signal.outer(mean)
    if signal.kind == "rate":
        share = min(max(mean, 0.0), 1.0)
        found = wilson(share * size, size)
        return Band(low=found.low, high=found.high, value=value)
    variance = before.variance
    if variance is None:
        return None
    half = _Z * math.sqrt(variance / size)
    low = max(0.0, mean - half) if isinstance(before, RatioSum) else mean - half
    return Band(low=signal.outer(low), high=signal.outer(mean + half), value=value)


def scale_for(signal: Signal, steps: Sequence[Step], band: Band | None) -> Scale:
    """A scale around what is drawn."""
    values = [v for s in steps if s.value is not None for v in _reach(s)]
    if band is not None:
        values += [band.low, band.high]
    low, high = min(values, default=0.0), max(values, default=1.0)
    rate = signal.kind == "rate"
    least = 0.0 if rate or low >= 0 else -math.inf
    return scales.between(
        low,
        high,
        lambda v: measures.value(signal, v),
        least=least,
        most=1.0 if rate else math.inf,
    )


def _reach(step: Step) -> tuple[float, float]:
    # An interval over two or three calls would press the rest of the chart flat.
    value = step.value or 0.0
    return (step.low, step.high) if step.n >= charts.THIN else (value, value)


def series(
    figure_id: str,
    title: str,
    signal: Signal,
    axis: Axis,
    steps: Sequence[Step],
    band: Band | None,
    marks: Sequence[Mark],
    href: str,
) -> Markup:
    """The chart of a signal's page."""
    scale = scale_for(signal, steps, band)
    known = [s for s in steps if s.value is not None]
    figure = charts.Figure(
        id=figure_id,
        title=title,
        summary=_summary(signal, known, band, marks),
        axis=axis,
        scale=scale,
        height=_HEIGHT,
        points=tuple(_point(signal, s) + axis.so_far(i) for i, s in enumerate(steps)),
        href=href,
        note=_note(signal, known, band),
    )
    return charts.frame(figure, _body(figure, steps, band, marks), labelled=True)


def _summary(
    signal: Signal, known: Sequence[Step], band: Band | None, marks: Sequence[Mark]
) -> str:
    if not known:
        return "Nothing was judged in this time."
    low = min(s.value or 0.0 for s in known)
    high = max(s.value or 0.0 for s in known)
    said = f"Between {measures.value(signal, low)} and {measures.value(signal, high)}"
    if band is not None:
        said += f"; before, {measures.value(signal, band.value)}"
    changes = [mark.name for mark in marks if mark.css == "change"]
    return f"{said}.{' Marked: ' + ', '.join(changes) + '.' if changes else ''}"


def _note(signal: Signal, known: Sequence[Step], band: Band | None) -> str:
    said = []
    if band is not None:
        said.append("Grey: where 19 of 20 steps would lie with nothing changed since the baseline.")
    if known:
        said.append("Shade: 95 % interval.")
    if any(s.n < charts.THIN for s in known):
        said.append(f"Dashed: fewer than {fmt.plural(charts.THIN, measures.counted(signal))}.")
    return " ".join(said)


def _point(signal: Signal, step: Step) -> str:
    if step.value is None:
        return "nothing judged" + (f", {fmt.count(step.unjudged)} not" if step.unjudged else "")
    low, high = measures.value(signal, step.low), measures.value(signal, step.high)
    return (
        f"{measures.value(signal, step.value)} ({low} to {high}), "
        f"{fmt.plural(step.n, 'call')} judged"
    )


def _body(
    figure: charts.Figure, steps: Sequence[Step], band: Band | None, marks: Sequence[Mark]
) -> str:
    inner, scale = figure.height, figure.scale
    grid = []
    for tick in scale.ticks:
        y = num(charts.TOP + inner - tick.pos * inner)
        grid.append(f'<line x1="0" x2="100%" y1="{y}" y2="{y}"/>')
        grid.append(f'<text class="y" x="-8" y="{y}" dy=".32em">{escape(tick.label)}</text>')
    drawn = _baseline(figure, band) + "".join(_line(figure, run) for run in _runs(steps))
    lines, names = _marks(figure, marks)
    return (
        f'<g class="grid">{"".join(grid)}</g>'
        f"{charts.stretched(figure.axis, charts.TOP, inner, drawn)}{lines}{names}"
        f"{_edge_labels(figure, steps, band)}"
    )


def _y(figure: charts.Figure, value: float) -> float:
    return figure.height - figure.scale.height(value, figure.height)


def _baseline(figure: charts.Figure, band: Band | None) -> str:
    if band is None:
        return ""
    top, bottom = _y(figure, band.high), _y(figure, band.low)
    wide = num((figure.axis.end - figure.axis.start) / figure.axis.step)
    tall = num(max(bottom - top, 1.0))
    middle = num(_y(figure, band.value))
    return (
        f'<rect class="baseline" x="0" y="{num(top)}" width="{wide}" height="{tall}"/>'
        f'<path class="baseline-line" d="M0 {middle}H{wide}"/>'
    )


def _runs(steps: Sequence[Step]) -> list[list[tuple[int, Step]]]:
    """Steps with values, split where there were none."""
    found: list[list[tuple[int, Step]]] = []
    last = -2
    for i, step in enumerate(steps):
        if step.value is None:
            continue
        if i != last + 1:
            found.append([])
        found[-1].append((i, step))
        last = i
    return found


def _line(figure: charts.Figure, run: Sequence[tuple[int, Step]]) -> str:
    def at(i: int, value: float) -> str:
        return f"{num(i + 0.5)} {num(_y(figure, value))}"

    if len(run) == 1:
        i, step = run[0]
        edge = f"M{at(i, step.low)}L{at(i, step.high)}"
        return (
            f'<path class="band-edge" d="{edge}"/>'
            f'<path class="dot s1" d="M{at(i, step.value or 0.0)}h0"/>'
        )
    there = "L".join(at(i, s.high) for i, s in run)
    back = "L".join(at(i, s.low) for i, s in reversed(run))
    parts = [f'<path class="band" d="M{there}L{back}z"/>']
    for (i, a), (j, b) in pairwise(run):
        thin = " thin" if min(a.n, b.n) < charts.THIN else ""
        d = f"M{at(i, a.value or 0.0)}L{at(j, b.value or 0.0)}"
        parts.append(f'<path class="line s1{thin}" d="{d}"/>')
    return "".join(parts)


def _marks(figure: charts.Figure, marks: Sequence[Mark]) -> tuple[str, str]:
    """Upright lines, and their names at the top where there is room for them."""
    axis = figure.axis
    lines, names, taken = [], [], -1.0
    few = len(marks) <= _LABELLED
    for mark in sorted(marks, key=lambda m: m.at):
        x = (mark.at - axis.start) / (axis.end - axis.start)
        if not 0 <= x <= 1:
            continue
        place = f"{num(100 * x)}%"
        lines.append(
            f'<line class="at-{mark.css}" x1="{place}" x2="{place}" y1="{charts.TOP}" '
            f'y2="{charts.TOP + figure.height}"><title>{escape(mark.name)}</title></line>'
        )
        if few or mark.css == "change":
            row = 1 if x - taken < 0.16 else 0
            taken = x if row == 0 else taken
            end = " end" if x > 0.7 else ""
            y = charts.TOP + 10 + 14 * row
            names.append(
                f'<text class="mark-name {mark.css}{end}" x="{place}" dx="{-5 if end else 5}" '
                f'y="{y}">{escape(fmt.one_line(mark.name, 32))}</text>'
            )
    return "".join(lines), "".join(names)


def _edge_labels(figure: charts.Figure, steps: Sequence[Step], band: Band | None) -> str:
    known = [s for s in steps if s.value is not None]
    found: list[tuple[str, float]] = []
    if known:
        found.append(("now", _y(figure, known[-1].value or 0.0)))
    if band is not None:
        found.append(("baseline", _y(figure, band.value)))
    found.sort(key=lambda one: one[1])
    if len(found) == 2 and found[1][1] - found[0][1] < 14:
        found[1] = (found[1][0], found[0][1] + 14)
    return "".join(
        f'<text class="direct" x="100%" dx="6" y="{num(charts.TOP + y)}" dy=".32em">{name}</text>'
        for name, y in found
    )


def judged(signal: Signal, axis: Axis, steps: Sequence[Step], href: str) -> Markup:
    """How many calls (or tasks) count in each step, those that could not be judged on top."""
    done = tuple(float(s.n) for s in steps)
    not_done = tuple(float(s.unjudged) for s in steps)
    most = max((a + b for a, b in zip(done, not_done, strict=True)), default=0.0)
    figure = charts.Figure(
        id="judged",
        title=f"{measures.counted(signal)}s".capitalize(),
        summary=f"{fmt.count(int(sum(done)))} judged, {fmt.count(int(sum(not_done)))} not.",
        axis=axis,
        scale=scales.counts(most),
        height=44,
        points=tuple(
            f"{fmt.count(s.n)} judged, {fmt.count(s.unjudged)} could not be{axis.so_far(i)}"
            for i, s in enumerate(steps)
        ),
        href=href,
    )
    layers = [
        charts.Layer(name="judged", values=done, css="s6"),
        charts.Layer(name="not judged", values=not_done, css="look"),
    ]
    return charts.stacked_bars(figure, layers)


def spark(signal: Signal, steps: Sequence[Step], band: Band | None, label: str) -> Markup:
    """A cell's small line with the baseline as a band; steps of few calls are thin."""
    known = [s.value for s in steps if s.value is not None]
    if not known:
        return Markup("")
    values = [*known, *((band.low, band.high) if band is not None else ())]
    low, high = min(values), max(values)
    # What hardly moves must not look as if it leapt.
    room = max(high - low, 0.04 if signal.kind == "rate" else abs(high) * 0.1, 1e-9)
    low, high = (low + high - room) / 2, (low + high + room) / 2

    def y(value: float) -> str:
        return num(22 - 20 * (value - low) / (high - low))

    marks = ""
    if band is not None:
        tall = num(max(float(y(band.low)) - float(y(band.high)), 1.0))
        marks = (
            f'<rect class="baseline" x="0" y="{y(band.high)}" width="{len(steps)}" '
            f'height="{tall}"/>'
        )
    for run in _runs(steps):
        if len(run) == 1:
            i, step = run[0]
            marks += f'<path class="dot s1" d="M{num(i + 0.5)} {y(step.value or 0.0)}h0"/>'
            continue
        d = "L".join(f"{num(i + 0.5)} {y(step.value or 0.0)}" for i, step in run)
        marks += f'<path class="line s1" d="M{d}"/>'
    return Markup(  # noqa: S704 - numbers, and a label that went through escape
        f'<svg class="spark line-spark" role="img" aria-label="{escape(label)}" '
        f'viewBox="0 0 {len(steps)} 24" preserveAspectRatio="none">{marks}</svg>'
    )
