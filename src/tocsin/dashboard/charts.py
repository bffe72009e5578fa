"""Charts as SVG: data in, markup out. Right with no script; the script adds the crosshair.

Widths are fractions of the figure, so a chart fits any screen while its text keeps its size: bars
and lines live in a nested ``<svg>`` that is stretched, labels stand beside it in percent. Colours
are classes (``s1`` … ``s6``, ``ok``, ``look``, ``act``) of the stylesheet; no style attribute is
written, a strict Content-Security-Policy would drop it.
"""

from collections.abc import Sequence

import msgspec
from markupsafe import Markup, escape

from tocsin.dashboard.scales import Axis, Scale

THIN = 20
"""Calls below which a step's p95 is no more than its slowest call."""
_LABEL_GAP = 14
TOP, _BOTTOM = 8, 20


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One stacked part of a bar chart; ``values`` has one number for each step of the axis."""

    name: str
    values: tuple[float, ...]
    css: str


class Band(msgspec.Struct, frozen=True, kw_only=True):
    """A line with the band above it; ``None`` where nothing was measured."""

    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    weights: tuple[int, ...]
    """Calls behind each step: below ``THIN`` it is drawn dashed, as too little data."""
    names: tuple[str, str] = ("p50", "p95")


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """What every chart has besides its marks."""

    id: str
    title: str
    answer: str = ""
    """The figure's one number, beside its title."""
    summary: str
    """The chart in one or two sentences, for who cannot see it."""
    axis: Axis
    scale: Scale
    height: int = 112
    points: tuple[str, ...] = ()
    """The crosshair's text for each step."""
    href: str = ""
    """Where a click on a step leads: ``since`` and ``until`` (or ``offset``) are added."""
    note: str = ""
    roomy: bool = False
    """Whether names at the right edge need more room than words of ours."""
    window: tuple[int, int] | None = None
    """First and last step (from 0) of the part that the page shows."""


def num(value: float) -> str:
    """A coordinate, two decimals at most."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def stacked_bars(figure: Figure, layers: Sequence[Layer], *, label: bool = True) -> Markup:
    """Bars over the axis, layers stacked from the first up; ``label`` names them at the right."""
    inner = figure.height
    base = [0.0] * figure.axis.steps
    # Thin bars with gaps between them would flicker: many stand side by side.
    gap = 0.08 if figure.axis.steps <= 120 else 0.0
    wide = num(1 - 2 * gap)
    paths: list[str] = []
    drawn: list[Layer] = []
    for layer in layers:
        path = []
        for i, value in enumerate(layer.values):
            if value > 0:
                low = figure.scale.height(base[i], inner)
                tall = max(figure.scale.height(base[i] + value, inner) - low, 0.75)
                y = inner - low - tall
                path.append(f"M{num(i + gap)} {num(y)}h{wide}v{num(tall)}h-{wide}z")
                base[i] += value
        if path:
            paths.append(f'<path class="{layer.css}" d="{"".join(path)}"/>')
            drawn.append(layer)
    labels = _labels(_named(drawn, figure), inner) if label else ""
    return _figure(figure, "".join(paths), labels)


def _named(layers: Sequence[Layer], figure: Figure) -> list[tuple[str, str, float]]:
    """Each layer's name beside its mark in the last bar, in the order in which they are stacked."""
    last = max((i for x in layers for i, value in enumerate(x.values) if value > 0), default=0)
    below, found = 0.0, []
    for layer in layers:
        middle = below + layer.values[last] / 2
        below += layer.values[last]
        y = figure.height - figure.scale.height(middle, figure.height)
        found.append((layer.name, layer.css, y))
    return found[::-1]


def line_with_band(figure: Figure, band: Band) -> Markup:
    """The lower series as a line, the room up to the higher one as a shade."""
    marks: list[str] = []
    for start, end, thin in _pieces(band):
        low = [_point(figure, i, band.low[i]) for i in range(start, end)]
        high = [_point(figure, i, band.high[i]) for i in range(start, end)]
        css = " thin" if thin else ""
        if end - start == 1:
            x = start + 0.5
            marks.append(f'<path class="band-edge{css}" d="M{num(x)} {low[0][1]}V{high[0][1]}"/>')
            marks.append(f'<path class="dot s1" d="M{low[0][0]} {low[0][1]}h0"/>')
            continue
        there = "L".join(f"{x} {y}" for x, y in high)
        back = "L".join(f"{x} {y}" for x, y in reversed(low))
        line = "L".join(f"{x} {y}" for x, y in low)
        marks.append(f'<path class="band{css}" d="M{there}L{back}z"/>')
        marks.append(f'<path class="band-edge{css}" d="M{there}"/>')
        marks.append(f'<path class="line s1{css}" d="M{line}"/>')
    labels: list[tuple[str, str, float]] = []
    known = [i for i, value in enumerate(band.low) if value is not None]
    if known:
        for name, series in zip(band.names, (band.low, band.high), strict=True):
            value = series[known[-1]] or 0.0
            labels.insert(0, (name, "", figure.height - figure.scale.height(value, figure.height)))
    return _figure(figure, "".join(marks), _labels(labels, figure.height))


def _point(figure: Figure, i: int, value: float | None) -> tuple[str, str]:
    y = figure.height - figure.scale.height(value or 0.0, figure.height)
    return num(i + 0.5), num(y)


def _pieces(band: Band) -> list[tuple[int, int, bool]]:
    """Stretches ``(start, end, thin)`` to draw at once; neighbours share the step they meet at."""
    found: list[tuple[int, int, bool]] = []
    known = [
        low is not None and high is not None for low, high in zip(band.low, band.high, strict=True)
    ]
    for i, here in enumerate(known):
        if not here:
            continue
        thin = band.weights[i] < THIN
        joined = i + 1 < len(known) and known[i + 1]
        if not joined:
            if i == 0 or not known[i - 1]:
                found.append((i, i + 1, thin))
            continue
        thin = thin or band.weights[i + 1] < THIN
        if found and found[-1][1] == i + 1 and found[-1][2] == thin:
            found[-1] = (found[-1][0], i + 2, thin)
        else:
            found.append((i, i + 2, thin))
    return found


def area(figure: Figure, values: Sequence[float | None], bad: Sequence[bool] = ()) -> Markup:
    """One series as a filled line over a run's steps; steps that went badly marked below."""
    marks, start = [], None
    for i in range(len(values) + 1):
        known = i < len(values) and values[i] is not None
        if known and start is None:
            start = i
        elif not known and start is not None:
            marks.append(_filled(figure, values, start, i))
            start = None
    ticks = "".join(f"M{num(i + 0.5)} {figure.height - 6}v6" for i, b in enumerate(bad) if b)
    if ticks:
        marks.append(f'<path class="bad-mark" d="{ticks}"/>')
    return _figure(figure, "".join(marks), "")


def _filled(figure: Figure, values: Sequence[float | None], start: int, end: int) -> str:
    tops = []
    for i in range(start, end):
        y = num(figure.height - figure.scale.height(values[i] or 0.0, figure.height))
        tops.append(f"{i} {y}H{i + 1}")
    line = "L".join(tops)
    fill = f'<path class="fill s1" d="M{start} {figure.height}L{line}V{figure.height}z"/>'
    return f'{fill}<path class="line s1" d="M{line}"/>'


def _figure(figure: Figure, marks: str, labels: str) -> Markup:
    """The usual frame: a grid of the figure's scale, and the stretched part with ``marks``."""
    axis, inner = figure.axis, figure.height
    grid = []
    for tick in figure.scale.ticks:
        y = num(TOP + inner - tick.pos * inner)
        grid.append(f'<line x1="0" x2="100%" y1="{y}" y2="{y}"/>')
        grid.append(f'<text class="y" x="-8" y="{y}" dy=".32em">{escape(tick.label)}</text>')
    body = (
        f'<g class="grid">{"".join(grid)}</g>'
        f"{stretched(axis, TOP, inner, shade(figure) + marks)}{labels}"
    )
    return frame(figure, body, labelled=bool(labels))


def stretched(axis: Axis, top: float, height: float, marks: str) -> str:
    """A part of a figure that is as wide as it is, one unit for each step of the axis."""
    return (
        f'<svg class="marks" x="0" y="{num(top)}" width="100%" height="{num(height)}" '
        f'viewBox="0 0 {num((axis.end - axis.start) / axis.step)} {num(height)}" '
        f'preserveAspectRatio="none">{marks}</svg>'
    )


def shade(figure: Figure) -> str:
    """The part of the axis that the page shows, over the figure's whole height."""
    if figure.window is None:
        return ""
    first, last = figure.window
    wide = last - first + 1
    return f'<rect class="window" x="{first}" y="0" width="{wide}" height="{figure.height}"/>'


def frame(figure: Figure, body: str, *, labelled: bool) -> Markup:
    """A figure around ``body``: caption, axis, and what the script needs for the crosshair."""
    axis, inner = figure.axis, figure.height
    total = inner + TOP + _BOTTOM
    body = f'{body}<g class="x">{_ticks(axis, total)}</g>'
    data = (
        f'data-axis="{axis.kind}" data-start="{axis.start}" data-end="{axis.end}" '
        f'data-step="{axis.step}" data-top="{TOP}" data-inner="{inner}" '
        f'data-href="{escape(figure.href)}" '
        f'data-points="{escape(msgspec.json.encode(figure.points).decode())}"'
    )
    note = f'<p class="chart-note">{escape(figure.note)}</p>' if figure.note else ""
    name = escape(figure.id)
    css = "chart roomy" if figure.roomy else "chart"
    return Markup(  # noqa: S704 - every text above went through escape
        f'<figure class="{css}" {data}><figcaption><span class="chart-title">'
        f"{escape(figure.title)}</span> <b>{escape(figure.answer)}</b> "
        f'<output class="readout" aria-live="off"></output></figcaption>'
        f'<svg class="plot{" labelled" if labelled else ""}" role="img" height="{total}" '
        f'aria-labelledby="{name}-t {name}-d"><title id="{name}-t">{escape(figure.title)}</title>'
        f'<desc id="{name}-d">{escape(figure.summary)}</desc>{body}</svg>{note}</figure>'
    )


def _ticks(axis: Axis, total: int) -> str:
    found = []
    for i, tick in enumerate(axis.ticks):
        odd = " odd" if i % 2 else ""
        edge = " last" if tick.pos > 0.97 else ""
        at = f' data-at="{int(tick.at)}"' if axis.kind == "time" else ""
        found.append(
            f'<text class="tick{odd}{edge}" x="{num(100 * tick.pos)}%" y="{total - 4}"{at}>'
            f"{escape(tick.label)}</text>"
        )
    return "".join(found)


def _labels(labels: Sequence[tuple[str, str, float]], inner: int) -> str:
    """Names at the right edge, topmost first, beside what they name and never on each other."""
    placed: list[tuple[str, str, float]] = []
    for name, css, y in labels:
        low = placed[-1][2] + _LABEL_GAP if placed else 4.0
        placed.append((name, css, max(y, low)))
    floor = float(inner - 2)
    for i in range(len(placed) - 1, -1, -1):
        name, css, y = placed[i]
        placed[i] = (name, css, min(y, floor))
        floor = placed[i][2] - _LABEL_GAP
    texts = []
    for name, css, y in placed:
        mark = (
            f'<svg x="100%" y="{num(TOP + y - 4)}" width="16" height="8" class="key-mark">'
            f'<rect class="{css}" x="6" width="8" height="8"/></svg>'
            if css
            else ""
        )
        place = f'x="100%" dx="{18 if css else 6}" y="{num(TOP + y)}" dy=".32em"'
        texts.append(f'{mark}<text class="direct long" {place}>{escape(_middle(name, 24))}</text>')
        texts.append(f'<text class="direct short" {place}>{escape(_middle(name, 11))}</text>')
    return "".join(texts)


def _middle(name: str, most: int) -> str:
    """A name cut in its middle: names of models and runs differ at either end."""
    if len(name) <= most:
        return name
    return f"{name[: most // 2]}…{name[-(most - most // 2 - 1) :]}"


def sparkline(values: Sequence[float], label: str, bad: Sequence[float] = ()) -> Markup:
    """A row's small bar chart from zero, with its bad part on top of each bar."""
    top = max(values, default=0.0) or 1.0
    good, ill = [], []
    for i, value in enumerate(values):
        tall = max(20 * value / top, 1.0 if value else 0.0)
        part = min(20 * bad[i] / top, tall) if i < len(bad) else 0.0
        if part and part < 2:
            part = min(2.0, tall)
        if tall - part > 0:
            good.append(f"M{num(i + 0.1)} 20v-{num(tall - part)}h.8v{num(tall - part)}z")
        if part:
            ill.append(f"M{num(i + 0.1)} {num(20 - tall)}h.8v{num(part)}h-.8z")
    red = f'<path class="act" d="{"".join(ill)}"/>' if ill else ""
    return Markup(  # noqa: S704 - numbers, and a label that went through escape
        f'<svg class="spark" role="img" aria-label="{escape(label)}" viewBox="0 0 '
        f'{max(len(values), 1)} 20" preserveAspectRatio="none">'
        f'<path class="s1" d="{"".join(good)}"/>{red}</svg>'
    )


def share_bar(parts: Sequence[tuple[str, float, str]], label: str) -> Markup:
    """A thin bar split by share; what is there but tiny still gets a visible part."""
    total = sum(value for _, value, _ in parts)
    if total <= 0:
        return Markup("")
    wide = [(css, max(100 * value / total, 1.5)) for _, value, css in parts if value > 0]
    scale = 100 / sum(share for _, share in wide)
    x, rects = 0.0, []
    for css, share in wide:
        rects.append(
            f'<rect class="{css}" x="{num(x)}%" width="{num(share * scale)}%" height="100%"/>'
        )
        x += share * scale
    return Markup(  # noqa: S704 - numbers, and a label that went through escape
        f'<svg class="share" role="img" aria-label="{escape(label)}">{"".join(rects)}</svg>'
    )


def level_bar(parts: Sequence[tuple[str, float]], whole: float, label: str) -> Markup:
    """A bar filled to a part of ``whole``, from the left; the rest of it stays empty."""
    x, rects = 0.0, []
    for css, value in parts:
        wide = 100 * value / whole
        if value > 0:
            # Thinner than this nobody sees it, and what is there must be seen.
            shown = min(max(wide, 1.0), 100 - min(x, 99.0))
            rects.append(
                f'<rect class="{css}" x="{num(min(x, 99.0))}%" width="{num(shown)}%" '
                'height="100%"/>'
            )
        x += wide
    return Markup(  # noqa: S704 - numbers, and a label that went through escape
        f'<svg class="level" role="img" aria-label="{escape(label)}">{"".join(rects)}</svg>'
    )


def span_bar(
    start: float,
    end: float,
    css: str,
    split: float | None = None,
    pause: tuple[float, str] | None = None,
) -> Markup:
    """One row of a waterfall: a bar from ``start`` to ``end`` (fractions of the row's width).

    ``split`` divides waiting for the first chunk (pale) from the answer arriving (full). ``pause``
    is when nothing ran before the bar: where that began, and how long it was, in words.
    """
    # Thinner than this nobody sees it, and what is there must be seen.
    x, wide = 100 * min(start, 0.994), max(100 * (end - start), 0.6)
    wait = ""
    if split is not None and start < split < end:
        wait = f'<rect class="wait" x="{num(x)}%" width="{num(100 * (split - start))}%"/>'
    before = ""
    if pause is not None:
        at, said = pause
        left = start > 0.25
        before = (
            f'<line class="pause" x1="{num(100 * at)}%" x2="{num(x)}%" y1="6" y2="6"/>'
            f'<text x="{num(100 * at if left else x + wide)}%" dx="{-4 if left else 4}" y="10" '
            f'class="{"before" if left else "after"}">{escape(said)}</text>'
        )
    return Markup(  # noqa: S704 - numbers, class names of our own, and a text that was escaped
        f'<svg class="bar" aria-hidden="true">{before}<rect class="{css}" x="{num(x)}%" '
        f'width="{num(wide)}%"/>{wait}</svg>'
    )
