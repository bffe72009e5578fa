"""Spend: where the money goes, by one dimension at a time."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from markupsafe import Markup
from starlette.responses import Response

from tocsin.core.ledger import Account
from tocsin.dashboard import charts, filters, fmt, scales, series
from tocsin.dashboard.budgets import Budget, budgets
from tocsin.dashboard.filters import Query, segment
from tocsin.dashboard.view import View, key_names
from tocsin.store.api import Spend, SpendBy, SpendRow, Store

_TOP = 5
_BUDGETS = 6
"""Accounts that are shown before "all"."""
_MOST_BUDGETS = 500
TABS: Mapping[SpendBy, str] = {
    "feature": "Feature",
    "model": "Model",
    "release": "Release",
    "end_user": "User",
    "run_id": "Run",
    "key_id": "Key",
}
_NOBODY: Mapping[SpendBy, str] = {
    "feature": "no feature",
    "model": "no model",
    "release": "no release named",
    "end_user": "no user named",
    "run_id": "no run",
    "key_id": "no key used",
}


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table."""

    row: SpendRow
    label: str
    href: str
    spark: Markup
    share: str


async def spend(view: View) -> Response:
    """Spend over a time range; ``?by=`` picks the dimension."""
    query = filters.parse(view.request.query_params, view.now, default_range="24h")
    data: Spend = await view.read(view.deps.store.spend, query.where, query.by)
    nothing = not data.total.calls
    context: dict[str, Any] = {"lines": [], "chart": None, "rest": None}
    if not nothing:
        context = await view.read(_context, view, data, query)
    rows, hidden = await view.read(_budgets, view)
    return await view.page(
        "spend.html",
        section="spend",
        query=query,
        data=data,
        tabs=TABS,
        nothing=nothing,
        budget_rows=rows,
        more_budgets=hidden,
        limits_set=len(view.deps.settings().limits) or len(rows),
        **context,
    )


def _budgets(view: View) -> tuple[list[Budget], int]:
    """The accounts that are nearest to their limits, and how many are left out."""
    accounts = [one for one in view.deps.limits() if _countable(one)]
    store = view.deps.store
    keys = key_names(store) if any(one.limit.scope == "key" for one in accounts) else {}
    everything = view.request.query_params.get("budgets") == "all"
    found = budgets(accounts, keys, {})[: _MOST_BUDGETS if everything else _BUDGETS]
    shown = [one.account for one in found]
    runs = {one.run_id or one.value for one in shown if one.run_id or one.limit.scope == "run"}
    known = (store.run(run_id) for run_id in runs)
    titles = {run.id: run.title for run in known if run is not None and run.title}
    return budgets(shown, keys, titles), len(accounts) - len(shown)


def _countable(account: Account) -> bool:
    """Whether a limit names an amount; depth and time alone leave nothing to draw."""
    limit = account.limit
    named = (limit.nano_usd, limit.tokens, limit.calls, limit.tool_calls)
    return any(most is not None for most in named)


def _context(view: View, data: Spend, query: Query) -> dict[str, Any]:
    names = _names(view.deps.store, data)
    lines = [_line(data, row, names, query) for row in data.rows]
    return {
        "lines": lines,
        "chart": _chart(data, lines, query),
        "rest": _rest(data),
    }


def _names(store: Store, data: Spend) -> dict[str, str]:
    """Readable names of ids."""
    if data.by == "key_id":
        return key_names(store)
    if data.by == "run_id":
        found = [store.run(row.value) for row in data.rows if row.value]
        return {run.id: run.title for run in found if run is not None}
    return {}


def _line(data: Spend, row: SpendRow, names: Mapping[str, str], query: Query) -> Line:
    if not row.value:
        label, href = _NOBODY[data.by], ""
    else:
        label = fmt.one_line(names.get(row.value) or row.value, 100)
        href = (
            f"/runs/{segment(row.value)}"
            if data.by == "run_id"
            else query.link("/runs", **{data.by: row.value, "sort": "cost"})
        )
    return Line(
        row=row,
        label=label,
        href=href,
        spark=charts.sparkline(row.series, f"Spend over time: {_said(row)}"),
        share=fmt.percent(row.cost_nano_usd, data.total.cost_nano_usd),
    )


def _said(row: SpendRow) -> str:
    return fmt.spent(row.cost_nano_usd, row.calls, row.unpriced)


def _rest(data: Spend) -> SpendRow | None:
    """What the rows leave out, when the store listed only the dearest."""
    calls = data.total.calls - sum(row.calls for row in data.rows)
    if calls <= 0:
        return None

    def left(field: str) -> int:
        whole: int = getattr(data.total, field)
        listed: int = sum(getattr(row, field) for row in data.rows)
        return whole - listed

    return SpendRow(
        value=None,
        calls=calls,
        runs=max(0, left("runs")),
        cost_nano_usd=left("cost_nano_usd"),
        unpriced=left("unpriced"),
        estimated=left("estimated"),
        input_tokens=left("input_tokens"),
        output_tokens=left("output_tokens"),
        cache_read_tokens=left("cache_read_tokens"),
        reasoning_tokens=left("reasoning_tokens"),
        series=(),
    )


def _chart(data: Spend, lines: Sequence[Line], query: Query) -> Markup | None:
    """Spend over time, the five dearest values and the rest."""
    if not data.total.cost_nano_usd:
        return None
    axis = scales.time_axis(data.since, data.until, data.bucket_us)
    steps = axis.steps
    total = _fit(data.total.series, steps)
    layers = [
        charts.Layer(name=line.label, values=_fit(line.row.series, steps), css=f"s{i}")
        for i, line in enumerate(lines[:_TOP], 1)
        if line.row.cost_nano_usd
    ]
    other = tuple(
        max(0.0, whole - sum(layer.values[i] for layer in layers)) for i, whole in enumerate(total)
    )
    if sum(other) > 0.001 * sum(total):
        layers.append(charts.Layer(name="other", values=other, css="s6"))
    figure = charts.Figure(
        id="spend",
        title=f"Spend per {series.step_name(axis)}",
        summary=f"{fmt.money(data.total.cost_nano_usd)} in all. Dearest: "
        + "; ".join(f"{x.label} {_said(x.row)}" for x in lines[:_TOP])
        + ".",
        axis=axis,
        scale=scales.nanos(max(total)),
        height=168,
        roomy=True,
        points=tuple(_point(layers, i, total[i]) + axis.so_far(i) for i in range(steps)),
        href=query.link("/calls"),
        note=_note(data.total),
    )
    return charts.stacked_bars(figure, layers)


def _fit(values: Sequence[int], steps: int) -> tuple[float, ...]:
    """A series with exactly as many steps as the axis."""
    return tuple(float(v) for v in (*values[:steps], *(0 for _ in range(steps - len(values)))))


def _point(layers: Sequence[charts.Layer], i: int, total: float) -> str:
    parts = sorted(layers, key=lambda layer: -layer.values[i])
    named = [
        f"{fmt.one_line(p.name, 24)} {fmt.money(round(p.values[i]))}" for p in parts if p.values[i]
    ]
    return fmt.money(round(total)) + (f": {', '.join(named[:3])}" if len(named) > 1 else "")


def _note(total: SpendRow) -> str:
    said = []
    if total.unpriced:
        said.append(f"{fmt.plural(total.unpriced, 'call')} without a known price left out.")
    if total.estimated:
        said.append(f"{fmt.plural(total.estimated, 'call')} counted by estimated tokens.")
    return " ".join(said)
