"""``tocsin runs``, ``tail`` and ``spend``: what was recorded, as tables and lines."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from tocsin.cli import output
from tocsin.cli.context import chosen, one_of, opened, settings
from tocsin.cli.guard import OK
from tocsin.core.clock import SystemClock
from tocsin.core.interaction import Interaction
from tocsin.dashboard import fmt
from tocsin.store.api import Filter, Page, RunRow, RunSort, SpendBy, SpendRow, Store

_PAGE = 200
_POLL_S = 0.25


def runs(
    config: Path | None,
    options: Mapping[str, str | None],
    *,
    sort: str,
    limit: int,
    json: bool,
) -> int:
    """List runs as a table, or as JSON: ``{"runs": [...], "next": cursor or null}``."""
    by = cast(RunSort, one_of("--sort", sort, RunSort))
    now = SystemClock().now_us()
    where = chosen(now, options)
    rows: list[RunRow] = []
    with opened(settings(config).config) as store:
        page = Page(rows=())
        while len(rows) < limit and (not rows or page.next):
            size = min(_PAGE, limit - len(rows))
            page = store.runs(where, sort=by, limit=size, cursor=page.next)
            rows += page.rows
            if not page.rows:
                break
    if json:
        output.print_json({"runs": rows, "next": page.next})
    elif rows:
        _print_runs(rows, now, more=page.next is not None)
    else:
        output.say("No run matches. Leave filters out, or send a call: see `tocsin up`.")
    return OK


def _print_runs(rows: list[RunRow], now: int, *, more: bool) -> None:
    made = output.table(
        ("run", "last call", "feature", ">calls", ">tools", ">tokens", ">cost", "ended", "*about")
    )
    for row in rows:
        made.add_row(
            output.cell(row.id),
            fmt.ago(row.last_at, now),
            output.cell(row.feature),
            fmt.count(row.calls),
            fmt.count(row.tool_calls),
            # A sum of zero tokens means that nobody counted them.
            fmt.tokens(row.input_tokens + row.output_tokens or None),
            fmt.spent(row.cost_nano_usd, row.calls, row.unpriced),
            output.cell(row.outcome, output.outcome_style(row.outcome)),
            output.cell(row.title, output.QUIET),
        )
    output.show(made)
    if more:
        output.say(f"First {len(rows)}; more with --limit.", output.QUIET)


# -- tail --


def tail(config: Path | None, options: Mapping[str, str | None], *, lines: int, json: bool) -> int:
    """Print each call as it is stored, until interrupted; JSON is one object a line."""
    where = chosen(SystemClock().now_us(), options)
    with opened(settings(config).config) as store:
        seq = store.stats().last_seq
        for interaction in reversed(store.interactions(where, limit=lines).rows if lines else ()):
            _print_call(interaction, json=json)
        output.console(stderr=True).print("waiting for calls; Ctrl-C ends", style="dim")
        while True:
            seq = _follow(store, seq, where, json=json)
            time.sleep(_POLL_S)


def _follow(store: Store, seq: int, where: Filter, *, json: bool) -> int:
    """Print what was appended after ``seq``; returns the last one seen."""
    while rows := store.after(seq, limit=_PAGE):
        seq = rows[-1][0]
        for _, interaction in rows:
            if matches(interaction, where):
                _print_call(interaction, json=json)
        if len(rows) < _PAGE:
            break
    return seq


def matches(interaction: Interaction, where: Filter) -> bool:
    """Whether a call passes a filter without text or time."""
    models = (interaction.response_model, interaction.request_model)
    return (
        where.model in (None, *models)
        and where.feature in (None, interaction.feature)
        and where.end_user in (None, interaction.end_user)
        and where.key_id in (None, interaction.key_id)
        and where.upstream in (None, interaction.upstream)
        and where.outcome in (None, interaction.outcome)
        and where.source in (None, interaction.source)
    )


def _print_call(call: Interaction, *, json: bool) -> None:
    if json:
        output.print_json(call)
        return
    from rich.text import Text  # with its only user

    usage = call.usage
    line = Text(output.clock_time(call.started_at + call.duration_us)[11:] + "  ", style="dim")
    line.append(f"{call.outcome:<10}", style=output.outcome_style(call.outcome))
    line.append(f" {fmt.one_line(call.feature, 24)}", style="bold")
    line.append(f"  {fmt.one_line(call.response_model or call.request_model or call.path, 40)}")
    facts = [
        *((fmt.duration(call.duration_us),) if call.duration_us else ()),
        f"{fmt.tokens(usage.input_tokens)} in, {fmt.tokens(usage.output_tokens)} out",
        fmt.money(call.cost_nano_usd),
    ]
    if len(call.attempts) > 1:
        facts.append(f"{len(call.attempts)} attempts")
    line.append("  " + "  ".join(facts))
    line.append(f"  {fmt.one_line(call.id, 128)}", style="dim")
    if call.error_message:
        line.append(f"  {fmt.one_line(call.error_message, 200)}", style="red")
    output.console().print(line, soft_wrap=True)


# -- spend --


def spend(
    config: Path | None, options: Mapping[str, str | None], *, by: str, top: int, json: bool
) -> int:
    """Spend by one dimension, dearest first; calls without a price are counted beside."""
    dimension = cast(SpendBy, one_of("--by", by, SpendBy))
    where = chosen(SystemClock().now_us(), options)
    with opened(settings(config).config) as store:
        found = store.spend(where, dimension, top=top)
    if json:
        output.print_json(found)
        return OK
    total = found.total
    if not total.calls:
        output.say("No call in this time. Widen it with --since 90d or --since all.")
        return OK
    made = output.table(
        (dimension.replace("_", " "), ">cost", ">share", ">calls", ">runs", ">input", ">cached",
         ">output", ">no price", ">estimated")
    )  # fmt: skip
    for row in found.rows:
        made.add_row(output.cell(_name(row)), *_figures(row, total))
    made.add_section()
    made.add_row(output.cell("total", "bold"), *_figures(total, total))
    output.show(made)
    if total.unpriced:
        output.say(
            f"{fmt.plural(total.unpriced, 'call')} of models without a known price "
            f"{'is' if total.unpriced == 1 else 'are'} in no sum: state it under "
            '[prices."MODEL"] in tocsin.toml.',
            output.LOOK,
        )
    return OK


def _name(row: SpendRow) -> str:
    return row.value if row.value else "(none)"


def _figures(row: SpendRow, total: SpendRow) -> tuple[Any, ...]:
    return (
        fmt.spent(row.cost_nano_usd, row.calls, row.unpriced),
        fmt.percent(row.cost_nano_usd, total.cost_nano_usd) if total.cost_nano_usd else "",
        fmt.count(row.calls),
        fmt.count(row.runs),
        fmt.tokens(row.input_tokens),
        fmt.tokens(row.cache_read_tokens),
        fmt.tokens(row.output_tokens),
        fmt.count(row.unpriced) if row.unpriced else "",
        fmt.count(row.estimated) if row.estimated else "",
    )
