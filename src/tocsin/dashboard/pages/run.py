"""One run: facts, how context and cost grow, the waterfall, and the conversation beside it."""

from collections.abc import Sequence
from typing import Any

import msgspec
from markupsafe import Markup
from starlette.responses import RedirectResponse, Response

from tocsin.core.errors import NotFound
from tocsin.core.interaction import Interaction
from tocsin.dashboard import (
    charts,
    exports,
    filters,
    fmt,
    render,
    scales,
    story,
    supervised,
    timing,
)
from tocsin.dashboard.filters import segment
from tocsin.dashboard.story import STEPS_PER_PAGE, StepMessages
from tocsin.dashboard.view import View, key_names
from tocsin.store.api import RunRow, StepPoint, Store

_MOST_STEPS = 10_000_000


class _Loaded(msgspec.Struct, frozen=True, kw_only=True):
    run: RunRow
    offset: int
    total: int
    """Steps of the whole run: calls, and what traces report beside them."""
    points: list[StepPoint]
    steps: list[Interaction]
    messages: list[StepMessages]
    following: tuple[Interaction, StepMessages] | None


async def run(view: View) -> Response:
    """A run's page: ``?offset=`` pages by 100 steps, ``?step=`` goes to one."""
    run_id = view.request.path_params["run_id"]
    step = filters.number(view.request.query_params, "step", 0, _MOST_STEPS)
    if step:
        offset = (step - 1) // STEPS_PER_PAGE * STEPS_PER_PAGE
        target = f"/runs/{segment(run_id)}?offset={offset}#step-{step}"
        return RedirectResponse(target, 303, dict(render.PAGE_HEADERS))
    context = await view.read(_context, view, run_id)
    return await view.page("run.html", section="runs", **context)


def _offset(view: View) -> int:
    offset = filters.number(view.request.query_params, "offset", 0, _MOST_STEPS)
    return offset // STEPS_PER_PAGE * STEPS_PER_PAGE


def _load(store: Store, run_id: str, offset: int) -> _Loaded:
    """A page of the run with its messages. Raises ``NotFound``."""
    row = store.run(run_id)
    if row is None:
        raise NotFound(
            f"There is no run {fmt.one_line(run_id, 80)}. It may have been deleted by age or size, "
            "or not be written yet."
        )
    points = store.step_points(run_id)
    total = max(len(points), 1)
    offset = min(offset, (total - 1) // STEPS_PER_PAGE * STEPS_PER_PAGE)
    steps = store.steps(run_id, offset=offset, limit=STEPS_PER_PAGE + 1)
    messages = story.load(store, steps)
    following = None
    if len(steps) > STEPS_PER_PAGE:
        following = (steps.pop(), messages.pop())
    return _Loaded(
        run=row,
        offset=offset,
        total=total,
        points=points,
        steps=steps,
        messages=messages,
        following=following,
    )


def _context(view: View, run_id: str) -> dict[str, Any]:
    store = view.deps.store
    found = _load(store, run_id, _offset(view))
    row = found.run
    told = story.tell(found.offset + 1, found.steps, found.messages, found.following)
    points = found.points
    keys = key_names(store) if row.key_id else {}
    watched = supervised.supervised(store, row, points, found.offset, len(found.steps))
    return {
        "run": row,
        "key_name": keys.get(row.key_id or ""),
        "story": told,
        "charts": [] if watched.strip else run_charts(row, points, found.offset, len(found.steps)),
        **msgspec.structs.asdict(watched),
        "may_act": view.may("operator") and view.deps.switch is not None,
        "pager": _pager(row, found),
        "source": found.steps[0].run_source if found.steps else None,
        "took": timing.took(points),
        "stand_in_": timing.stand_in(found.steps[0]) if found.steps else "",
        "uncounted": max(0, row.calls - sum(p.input_tokens is not None for p in points)),
        "known_tokens": row.input_tokens > 0,
        "live": filters.build(f"/live/runs/{segment(run_id)}", {"calls": row.calls}),
    }


def _pager(row: RunRow, found: _Loaded) -> dict[str, Any]:
    base, here = f"/runs/{segment(row.id)}", found.offset
    last = (found.total - 1) // STEPS_PER_PAGE * STEPS_PER_PAGE

    def at(offset: int) -> str:
        return filters.build(base, {"offset": offset or None})

    return {
        "first": here + 1,
        "last": here + len(found.steps),
        "total": found.total,
        "start": at(0) if here else None,
        "previous": at(here - STEPS_PER_PAGE) if here else None,
        "next": at(here + STEPS_PER_PAGE) if here < last else None,
        "end": at(last) if here < last else None,
        "markdown": filters.build(f"{base}/markdown", {"offset": here or None}),
        "json": filters.build(f"{base}/json", {"offset": here or None}),
        "base": base,
    }


def run_charts(row: RunRow, points: Sequence[StepPoint], offset: int, shown: int) -> list[Markup]:
    """Context size and cost over the run's calls; nothing for a run of one call."""
    if len(points) < 2:
        return []
    axis = scales.step_axis(len(points))
    groups = [points[i : i + axis.step] for i in range(0, len(points), axis.step)]
    window = None
    if len(points) > STEPS_PER_PAGE:
        window = (offset // axis.step, (offset + max(shown, 1) - 1) // axis.step)
    found: list[Markup] = []
    if any(p.input_tokens is not None for p in points):
        found.append(_context_chart(row, axis, groups, window))
    if any(p.cost_nano_usd is not None for p in points):
        found.append(_cost_chart(row, axis, groups, window))
    return found


def _step_name(axis: scales.Axis, i: int) -> str:
    first = 1 + i * axis.step
    last = min(first + axis.step, axis.end) - 1
    return f"Step {first:,}" if first == last else f"Steps {first:,}–{last:,}"


def _context_chart(
    row: RunRow,
    axis: scales.Axis,
    groups: Sequence[Sequence[StepPoint]],
    window: tuple[int, int] | None,
) -> Markup:
    sizes: list[float | None] = [
        max((p.input_tokens for p in group if p.input_tokens is not None), default=None)
        for group in groups
    ]
    bad = [any(p.outcome not in ("complete", "truncated") for p in group) for group in groups]
    top = max((size for size in sizes if size is not None), default=0)
    figure = charts.Figure(
        id="context",
        title="Context, tokens sent per call",
        answer=f"{fmt.tokens(int(top))} at most" if top else "unknown",
        summary=f"Input tokens of {fmt.plural(row.calls, 'call')}; the largest has "
        f"{fmt.tokens(int(top))}. {fmt.plural(sum(bad), 'marked step')} ended badly.",
        axis=axis,
        scale=scales.counts(top),
        height=88,
        points=tuple(
            f"{_step_name(axis, i)}: {fmt.tokens(None if s is None else int(s))} tokens"
            + (", ended badly" if bad[i] else "")
            for i, s in enumerate(sizes)
        ),
        href=f"/runs/{segment(row.id)}",
        window=window,
    )
    return charts.area(figure, sizes, bad)


def _cost_chart(
    row: RunRow,
    axis: scales.Axis,
    groups: Sequence[Sequence[StepPoint]],
    window: tuple[int, int] | None,
) -> Markup:
    cost = [sum(p.cost_nano_usd or 0 for p in group) for group in groups]
    unpriced = [sum(p.cost_nano_usd is None for p in group) for group in groups]
    left_out = sum(unpriced)
    figure = charts.Figure(
        id="cost",
        title="Cost per call" if axis.step == 1 else f"Cost per {axis.step} calls",
        answer=fmt.spent(row.cost_nano_usd, row.calls, row.unpriced),
        summary=f"{fmt.money(sum(cost))} in all.",
        axis=axis,
        scale=scales.nanos(max(cost)),
        height=88,
        points=tuple(
            f"{_step_name(axis, i)}: {fmt.spent(c, len(groups[i]), unpriced[i])}"
            for i, c in enumerate(cost)
        ),
        href=f"/runs/{segment(row.id)}",
        note=f"{fmt.plural(left_out, 'call')} without a known price left out." if left_out else "",
        window=window,
    )
    layer = charts.Layer(name="", values=tuple(map(float, cost)), css="s1")
    return charts.stacked_bars(figure, [layer], label=False)


# -- copies --


async def run_markdown(view: View) -> Response:
    """The page's steps as Markdown."""
    text = await view.read(_markdown, view)
    return render.respond(text, "text/plain; charset=utf-8")


def _markdown(view: View) -> str:
    found = _load(view.deps.store, view.request.path_params["run_id"], _offset(view))
    return exports.markdown(found.run, found.offset + 1, found.steps, found.messages)


async def run_json(view: View) -> Response:
    """The page's steps as JSON."""
    body = await view.read(_json, view)
    return render.respond(body, "application/json")


def _json(view: View) -> bytes:
    found = _load(view.deps.store, view.request.path_params["run_id"], _offset(view))
    return exports.run_json(found.run, found.offset + 1, found.steps, found.messages)


async def new_steps(view: View) -> Response:
    """How many calls the run has beyond those that the page knows: ``{"count": 3}``."""
    row = await view.read(view.deps.store.run, view.request.path_params["run_id"])
    known = filters.number(view.request.query_params, "calls", 0, _MOST_STEPS)
    count = max(0, row.calls - known) if row is not None else 0
    return render.respond(msgspec.json.encode({"count": count, "more": False}), "application/json")
