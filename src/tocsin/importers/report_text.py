"""The report for a terminal, as tables of rich."""

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tocsin.importers.report_format import (
    amount,
    clock,
    counted,
    duration,
    money,
    plural,
    share,
    size,
    spend,
    whole,
)
from tocsin.importers.report_result import ReportResult, RunLine

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_FEW = 5


def as_text(result: ReportResult, *, width: int = 100, color: bool = False) -> str:
    """The report as text of at most ``width`` columns; ``color`` adds terminal colours."""
    # Imported here because only a command that prints a report needs it.
    from rich.console import Console

    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=color,
        no_color=not color,
        color_system="truecolor" if color else None,
        legacy_windows=False,
    )
    for part in renderables(result):
        console.print(part)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def renderables(result: ReportResult) -> "Iterator[RenderableType]":
    """The report's parts for a console of rich, in order."""
    from rich.text import Text

    yield _summary(result)
    for title, table in _tables(result):
        yield Text(f"\n{title}", style="bold")
        yield table


def _tables(result: ReportResult) -> "Iterator[tuple[str, Table]]":
    if result.outcomes:
        yield "Outcomes", _outcomes(result)
    if result.tools:
        yield "Tools", _tools(result)
    if result.repeated_calls:
        yield "Identical tool calls inside one run", _repeated(result)
    if len(result.models) > 1:
        yield "Models", _models(result)
    if result.longest and result.longest[0].calls > 1:
        yield "Longest runs", _runs(result, result.longest)
    if result.dearest and result.cost_nano_usd:
        yield "Dearest runs", _runs(result, result.dearest)
    if len(result.growth.steps) > 1:
        yield f"Input size by step, in {result.growth.unit}", _growth(result)
    if result.bad:
        yield f"{plural(result.bad, 'record')} could not be read", _bad(result)


def _table(*columns: tuple[str, str]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, kind in columns:
        if kind == "text":
            # It may shrink, and its cells never wrap: what does not fit ends in an ellipsis.
            table.add_column(name, overflow="ellipsis")
        else:
            table.add_column(name, justify="right" if kind == "number" else "left", no_wrap=True)
    return table


def _cell(text: str) -> Any:
    """Text from a file: never markup, nothing that acts in a terminal, on one line."""
    from rich.text import Text

    return Text(_plain(text), no_wrap=True, overflow="ellipsis")


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _summary(result: ReportResult) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, value in summary(result):
        table.add_row(name, Text(_plain(value)))
    return table


def summary(result: ReportResult) -> list[tuple[str, str]]:
    """The first facts, as name and value."""
    rows = [
        ("Read", ", ".join(result.sources) or "records"),
        ("Runs", _run_words(result)),
        ("Calls", f"{whole(result.calls)} of models, {whole(result.tool_calls)} of tools"),
        ("Tokens", _token_words(result)),
        ("Spend", spend(result.cost_nano_usd, result.unpriced, result.calls)),
        ("Sent again", _again_words(result)),
        ("Time", _time_words(result)),
    ]
    if result.repeats:
        words = "tool calls identical to an earlier one of their run"
        rows.insert(6, ("Repeats", f"{whole(result.repeats)} {words}"))
    return rows


def _run_words(result: ReportResult) -> str:
    words = whole(result.runs)
    if result.judged:
        words += f", {whole(result.succeeded)} of {whole(result.judged)} judged succeeded"
    return words


def _token_words(result: ReportResult) -> str:
    if result.uncounted == result.calls:
        return "unknown: the file tells none"
    words = f"{whole(result.input_tokens)} in, {whole(result.output_tokens)} out"
    if result.cached_tokens:
        words += f", {whole(result.cached_tokens)} of the input from a cache"
    if result.estimated:
        words += f"; estimated for {plural(result.estimated, 'call')}"
    if result.uncounted:
        words += f"; unknown for {plural(result.uncounted, 'call')}"
    return words


def _again_words(result: ReportResult) -> str:
    content = result.content
    if content.share is None:
        return "unknown: the file tells no messages"
    least = "at least " if content.at_least else ""
    return f"{least}{size(content.again)} of {size(content.sent)} sent ({share(content.share)})"


def _time_words(result: ReportResult) -> str:
    if result.started_at is None:
        return "unknown: the file tells none"
    if result.duration_us is None:
        return f"unknown, from {clock(result.started_at)} UTC"
    words = f"{duration(result.duration_us)} from {clock(result.started_at)} UTC"
    if result.untimed:
        words += f"; unknown for {plural(result.untimed, 'call')}"
    return words


def _outcomes(result: ReportResult) -> "Table":
    table = _table(("outcome", ""), ("calls", "number"), ("share", "number"))
    for name, count in result.outcomes:
        table.add_row(name, whole(count), share(count / result.calls))
    return table


def _tools(result: ReportResult) -> "Table":
    columns = (("tool", "text"), ("calls", "number"), ("runs", "number"), ("failed", "number"))
    table = _table(*columns)
    for tool in result.tools[:20]:
        failed = tool.failure_share
        told = "unknown" if failed is None else f"{whole(tool.failed)} ({share(failed)})"
        table.add_row(_cell(tool.name), whole(tool.calls), whole(tool.runs), told)
    if len(result.tools) > 20:
        rest = result.tools[20:]
        table.add_row(f"{len(rest)} more", whole(sum(tool.calls for tool in rest)), "", "")
    return table


def _repeated(result: ReportResult) -> "Table":
    columns = (("times", "number"), ("tool", ""), ("arguments", "text"), ("run", ""))
    table = _table(*columns)
    for call in result.repeated_calls[:_FEW]:
        cells = (_cell(call.tool), _cell(call.arguments), _cell(call.run_id))
        table.add_row(whole(call.count), *cells)
    return table


def _models(result: ReportResult) -> "Table":
    columns = (
        ("model", "text"),
        ("calls", "number"),
        ("tokens in", "number"),
        ("out", "number"),
        ("spend", "number"),
    )
    table = _table(*columns)
    for model in result.models[:20]:
        table.add_row(
            _cell(model.name or "unknown"),
            whole(model.calls),
            counted(model.input_tokens, model.uncounted, model.calls),
            counted(model.output_tokens, model.uncounted, model.calls),
            spend(model.cost_nano_usd, model.unpriced, model.calls),
        )
    return table


def _runs(result: ReportResult, runs: tuple[RunLine, ...]) -> "Table":
    columns = [
        ("run", ""),
        ("title", "text"),
        ("calls", "number"),
        ("tools", "number"),
        ("largest input", "number"),
    ]
    priced = bool(result.cost_nano_usd)
    if priced:
        columns.append(("spend", "number"))
    table = _table(*columns)
    for run in runs:
        cells = [whole(run.calls), whole(run.tools), amount(run.largest_input, result.growth.unit)]
        if priced:
            cells.append(money(run.cost_nano_usd) if run.unpriced < run.calls else "unknown")
        table.add_row(_cell(run.id), _cell(run.title), *cells)
    return table


def _growth(result: ReportResult) -> "Table":
    growth = result.growth
    columns = (("call", "number"), ("runs", "number"), ("median", "number"), ("p95", "number"))
    table = _table(*columns)
    for step in growth.steps:
        sizes = (amount(step.median, growth.unit), amount(step.p95, growth.unit))
        table.add_row(str(step.step), whole(step.runs), *sizes)
    return table


def _bad(result: ReportResult) -> "Table":
    columns = (("file", ""), ("line", "number"), ("reason", "text"))
    table = _table(*columns)
    for line in result.bad_lines[:_FEW]:
        table.add_row(_cell(line.path), str(line.line), _cell(line.reason))
    if result.bad > _FEW:
        table.add_row("", "", f"and {whole(result.bad - _FEW)} more")
    return table
