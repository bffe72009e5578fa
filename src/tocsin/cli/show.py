"""``tocsin show``: a run or a call as a story, for a person at a terminal."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tocsin.cli import output
from tocsin.cli.context import opened, settings
from tocsin.cli.guard import OK
from tocsin.core.errors import NotFound
from tocsin.core.interaction import Interaction
from tocsin.dashboard import exports, fmt, story, timing
from tocsin.dashboard.conversation import SHOWN, SHOWN_WHOLE, Part, Turn
from tocsin.store.api import Filter, RunRow, Store

if TYPE_CHECKING:
    from rich.text import Text

_ROLE_STYLE = {"system": "magenta", "developer": "magenta", "user": "cyan", "assistant": "green"}
_VERDICT_STYLE = {"pass": "dim", "unsure": "yellow", "fail": "red"}
_INDENT = "    "


def show(config: Path | None, wanted: str, *, full: bool, limit: int, json: bool) -> int:
    """Print what is recorded under an id. Raises ``NotFound``."""
    with opened(settings(config).config) as store:
        run = store.run(wanted)
        if run is not None:
            _show_run(store, run, full=full, limit=limit, json=json)
            return OK
        call = store.interaction(wanted)
        if call is not None:
            _show_call(store, call, full=full, json=json)
            return OK
        found = _beginning_with(store, wanted)
        if len(found) == 1:
            return show(config, found[0], full=full, limit=limit, json=json)
    if found:
        raise NotFound(f"{wanted} begins {len(found)} ids: {', '.join(found[:5])}; give more of it")
    raise NotFound(f"there is no run or call {wanted!r}; find ids with `tocsin runs` or `tail`")


def _beginning_with(store: Store, beginning: str) -> list[str]:
    """Ids of recent runs and calls that begin so."""
    runs: list[str] = [row.id for row in store.runs(Filter(), limit=500).rows]
    calls: list[str] = [call.id for call in store.interactions(Filter(), limit=500).rows]
    return [found for found in (*runs, *calls) if beginning and found.startswith(beginning)]


def _show_run(store: Store, run: RunRow, *, full: bool, limit: int, json: bool) -> None:
    steps = store.steps(run.id, limit=limit)
    messages = story.load(store, steps)
    if json:
        _print_bytes(exports.run_json(run, 1, steps, messages))
        return
    told = story.tell(1, steps, messages, shown=SHOWN_WHOLE if full else SHOWN)
    _print(_run_head(store, run))
    waits = _tool_times(told.rows)
    for step in told.steps:
        _print(_step_lines(step, waits.get(step.number, ()), full=full))
    left = run.calls - len(steps)
    if left > 0:
        output.say(f"\n{fmt.plural(left, 'more call')}; see them with --limit.", output.QUIET)


def _show_call(store: Store, call: Interaction, *, full: bool, json: bool) -> None:
    if json:
        entry = store.entry(call.id)
        _print_bytes(exports.call_json(entry) if entry is not None else b"null")
        return
    messages = story.load(store, [call])
    told = story.tell(1, [call], messages, shown=SHOWN_WHOLE if full else SHOWN)
    _print(_call_head(call))
    for step in told.steps:
        _print(_step_lines(step, (), full=full))


def _print_bytes(data: bytes) -> None:
    sys.stdout.write(output.safe_json(data.decode()) + "\n")


def _print(lines: Iterator["Text"]) -> None:
    for line in lines:
        output.console().print(line, soft_wrap=True)


def _run_head(store: Store, run: RunRow) -> Iterator["Text"]:
    from rich.text import Text  # as in ``output.console``

    time = timing.of_run(store, run)
    yield Text(fmt.one_line(run.title, 120) or run.id, style="bold")
    facts = [
        f"run {fmt.one_line(run.id, 128)}",
        f"feature {fmt.one_line(run.feature, 64)}",
        f"{time.stand_in} {output.clock_time(run.started_at)}".lstrip(),
        f"took {time.took}",
    ]
    yield Text(" · ".join(facts), style="dim")
    yield Text.assemble(
        (run.outcome, output.outcome_style(run.outcome)),
        f" · {fmt.plural(run.calls, 'call')} · {fmt.plural(run.tool_calls, 'tool call')} · "
        f"{fmt.tokens(run.input_tokens or None)} tokens in, "
        f"{fmt.tokens(run.output_tokens or None)} out · "
        f"{fmt.spent(run.cost_nano_usd, run.calls, run.unpriced)}",
        (f" · {run.unpriced} without a known price" if run.unpriced else "", "yellow"),
    )


def _call_head(call: Interaction) -> Iterator["Text"]:
    from rich.text import Text  # as in ``output.console``

    yield Text(f"call {fmt.one_line(call.id, 128)}", style="bold")
    yield Text(
        f"run {fmt.one_line(call.run_id, 128)} (found by {call.run_source}) · "
        f"feature {fmt.one_line(call.feature, 64)} · "
        f"{timing.stand_in(call)} {output.clock_time(call.started_at)}".replace("  ", " "),
        style="dim",
    )
    for attempt in call.attempts:
        failed = f" · {fmt.one_line(attempt.error, 200)}" if attempt.error else ""
        yield Text(
            f"  attempt {attempt.number} ({attempt.reason}): {fmt.one_line(attempt.upstream, 64)} "
            f"· {fmt.one_line(attempt.model, 64)} · status {attempt.status or 'none'} · "
            f"{fmt.took(attempt.duration_us)}{failed}",
            style="red" if attempt.error else "dim",
        )
    for decision in call.decisions:
        yield Text(
            f"  policy {decision.policy} ({decision.mode}): {decision.action} "
            f"{fmt.one_line(decision.detail, 200)}",
            style="yellow",
        )


def _check_lines(call: Interaction, *, every: bool) -> Iterator["Text"]:
    """What the answer was checked for; without ``every`` only what did not pass."""
    from rich.text import Text  # as in ``output.console``

    for check in call.checks:
        if every or check.verdict != "pass":
            detail = f": {fmt.one_line(check.detail, 500)}" if check.detail else ""
            yield Text(
                f"{_INDENT}check {fmt.one_line(check.name, 64)} {story.found(check)}{detail}",
                style=_VERDICT_STYLE[check.verdict],
            )


def _tool_times(rows: Sequence[story.Row]) -> dict[int, list[story.Row]]:
    """The tool executions that follow each step, by the step's number."""
    found: dict[int, list[story.Row]] = {}
    number = 0
    for row in rows:
        if row.number is not None:
            number = row.number
        elif row.kind == "tool":
            found.setdefault(number, []).append(row)
    return found


def _step_lines(step: story.Step, tools: Sequence[story.Row], *, full: bool) -> Iterator["Text"]:
    from rich.text import Text  # as in ``output.console``

    call = step.interaction
    facts = [
        fmt.one_line(story.step_label(call), 60),
        *((fmt.duration(call.duration_us),) if call.duration_us else ()),
        f"{fmt.tokens(call.usage.input_tokens)} in, {fmt.tokens(call.usage.output_tokens)} out",
        fmt.money(call.cost_nano_usd),
    ]
    if call.first_chunk_us is not None:
        facts.insert(-2, f"first chunk {fmt.duration(call.first_chunk_us)}")
    yield Text("")
    yield Text.assemble(
        (f"{step.number}. ", "bold"),
        (" · ".join(facts), "bold"),
        " · ",
        (call.outcome, output.outcome_style(call.outcome)),
        (f" · same answer as step {step.repeats}" if step.repeats else "", "yellow"),
    )
    if call.error_message:
        yield Text(_INDENT + fmt.one_line(call.error_message, 500), style="red")
    yield from _check_lines(call, every=full)
    if step.resent:
        yield Text(f"{_INDENT}({fmt.plural(step.resent, 'earlier message')} sent again)", "dim")
    if step.missing:
        yield Text(f"{_INDENT}content is no longer stored", style="yellow")
    for turn in (*step.turns, *((step.answer,) if step.answer is not None else ())):
        yield from _turn_lines(turn, full=full)
    for tool in tools:
        spent = f" ran {fmt.duration(tool.duration_us)}" if tool.duration_us is not None else ""
        yield Text(f"{_INDENT}⧗ {tool.label}{' no result yet' if tool.outcome else spent}", "dim")


def _turn_lines(turn: Turn, *, full: bool) -> Iterator["Text"]:
    from rich.text import Text  # as in ``output.console``

    role = fmt.one_line(turn.role, 20)
    for part in turn.parts:
        line = Text(_INDENT)
        line.append(f"{role}", style=_ROLE_STYLE.get(role, "blue"))
        line.append(": ")
        if part.kind == "call":
            line.append(f"→ {part.name}", style="bold")
            line.append("(")
        elif part.kind == "result":
            line.append(f"← {part.name} ".replace("  ", " "), style="bold")
        elif part.kind not in ("text", "other"):
            line.append(f"[{part.kind}] ", style="dim")
        line.append(_part_text(part, full=full).replace("\n", "\n" + _INDENT + "  "))
        if part.kind == "call":
            line.append(")")
        if part.same_as is not None:
            line.append(f"  (as in step {part.same_as})", style="yellow")
        yield line


def _part_text(part: Part, *, full: bool) -> str:
    """The part's words; what is left out is counted."""
    text = part.head
    if full and part.rest:
        text += "\n" + part.rest
    left = part.omitted + (0 if full else len(part.rest))
    return f"{text} … {left:,} more characters (--full)" if left else text
