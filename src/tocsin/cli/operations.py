"""``tocsin operations`` and ``tocsin follow``: durable work, from any process on its store."""

import asyncio
import getpass
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from tocsin.cli import output
from tocsin.cli.context import one_of, opened, settings
from tocsin.cli.guard import FAILED, OK
from tocsin.config.model import Config
from tocsin.core.clock import SystemClock
from tocsin.core.errors import NotFound
from tocsin.core.operations import Answered, Event, Operation, Status, Step
from tocsin.core.outcome import Outcome
from tocsin.dashboard import fmt
from tocsin.operations import Operations, settings_of
from tocsin.store.api import Store
from tocsin.store.operations_api import OperationFilter

if TYPE_CHECKING:
    from rich.table import Table

T = TypeVar("T")

_PAGE = 200
_SHOWN = 600
"""Characters of a result or an event's data that a terminal is given."""
_END_S = 5.0
"""How long ``cancel`` waits for the end."""
_STATUS_STYLE = {"waiting": output.LOOK, "running": "", "queued": output.QUIET}


def listed(
    config: Path | None,
    *,
    status: str | None,
    outcome: str | None,
    kind: str | None,
    feature: str | None,
    limit: int,
    json: bool,
) -> int:
    """A table of operations, or JSON: ``{"operations": [...], "next": cursor or null}``."""
    where = OperationFilter(
        status=cast(Status, one_of("--status", status, Status)) if status else None,
        outcome=cast(Outcome, one_of("--outcome", outcome, Outcome)) if outcome else None,
        kind=kind,
        feature=feature,
    )
    rows: list[Operation] = []
    cursor: str | None = None
    with opened(settings(config).config) as store:
        while len(rows) < limit:
            size = min(_PAGE, limit - len(rows))
            page = store.operations.operations(where, limit=size, cursor=cursor)
            rows += page.rows
            cursor = page.next
            if cursor is None:
                break
    if json:
        output.print_json({"operations": [_whole(row) for row in rows], "next": cursor})
    elif rows:
        _print(rows, more=cursor is not None)
    else:
        output.say("No operation matches. POST /v1/responses makes one, background or not.")
    return OK


def _print(rows: list[Operation], *, more: bool) -> None:
    now = SystemClock().now_us()
    made = output.table(
        ("operation", "begun", "kind", "feature", "state", ">took", ">events", ">cost", "*about")
    )
    for row in rows:
        made.add_row(
            output.cell(row.id),
            fmt.ago(row.created_at, now),
            output.cell(row.kind),
            output.cell(row.feature),
            output.cell(*_state(row)),
            fmt.took(_lasted(row, now)),
            fmt.count(row.events),
            fmt.spent(row.cost_nano_usd, row.calls, row.unpriced),
            output.cell(row.note or row.title, output.QUIET),
        )
    output.show(made)
    if more:
        output.say(f"First {len(rows)}; more with --limit.", output.QUIET)


def _state(row: Operation) -> tuple[str, str]:
    """Word and colour: the outcome once there is one."""
    if row.outcome is not None:
        return row.outcome, output.outcome_style(row.outcome)
    word = row.status if row.cancel_at is None else f"{row.status}, to be cancelled"
    if row.progress is not None and row.status == "running":
        word = f"{word} {row.progress:.0%}"
    return word, _STATUS_STYLE.get(row.status, "")


def _lasted(row: Operation, now: int) -> int | None:
    return None if row.started_at is None else (row.ended_at or now) - row.started_at


# -- one operation --


def show(config: Path | None, operation_id: str, *, events: int, json: bool) -> int:
    """How it stands, its steps, its events, its result."""
    with opened(settings(config).config) as store:
        book = store.operations
        row = _known(store, operation_id)
        steps = book.steps(row.id)
        log = book.events(row.id, limit=events) if events else []
        result = book.result(row.id)
    if json:
        said = {"operation": _whole(row), "steps": [_step(step) for step in steps]}
        output.print_json(
            {**said, "events": [_event(e) for e in log], "result": _value(result or b"null")}
        )
        return OK
    _say(row)
    if steps:
        _print_steps(steps)
    if log:
        made = _log_table()
        for event in log:
            made.add_row(*_line(event))
        output.show(made)
    if row.events > len(log):
        output.say(f"… {row.events - len(log):,} more: tocsin follow {row.id}", output.QUIET)
    if result is not None:
        output.say(f"result  {fmt.one_line(result.decode(errors='replace'), _SHOWN)}")
    return OK


def _say(row: Operation) -> None:
    now = SystemClock().now_us()
    word, style = _state(row)
    output.say(f"{fmt.visible(row.id)}  {fmt.visible(row.kind)}  {word}", style or "bold")
    pairs = [
        ("about", row.title),
        ("feature", row.feature),
        ("run", row.run_id),
        ("parent", row.parent_id),
        ("continues", row.previous_id or row.conversation_id),
        ("begun", output.clock_time(row.created_at)),
        ("took", fmt.took(_lasted(row, now))),
        ("calls", f"{row.calls} ({fmt.spent(row.cost_nano_usd, row.calls, row.unpriced)})"),
        ("restarts", str(row.restarts) if row.restarts else None),
        ("waits for", row.waiting_for),
        ("error", row.error_message),
        ("note", row.note),
    ]
    for name, value in pairs:
        if value:
            output.say(f"  {name:9}  {fmt.one_line(value, _SHOWN)}")
    if row.status == "waiting":
        output.say(f"Answer with `tocsin operations answer {row.id} --yes` or `--no`.", output.LOOK)


def follow(config: Path | None, operation_id: str, *, after: int, json: bool) -> int:
    """Print events as they come. Exit code 1 when it ended otherwise than complete."""
    found = settings(config).config

    async def run(operations: Operations) -> Operation:
        async for event in operations.follow(operation_id, after=after):
            if json:
                output.print_json(_event(event))
            else:
                number, at, kind, text = _line(event)
                output.say(f"{number:>5}  {at}  {kind}  {text}")
        return await operations.get(operation_id)

    with opened(found) as store:
        _known(store, operation_id)
        row = _through(store, found, run)
    if not json:
        word, style = _state(row)
        output.say(f"ended {word}", style)
    return OK if row.outcome == "complete" else FAILED


def cancel(config: Path | None, operation_id: str, *, json: bool) -> int:
    """Ask that it ends, wait for the Tocsin that sees to it, and name what it had changed."""
    found = settings(config).config

    async def end(operations: Operations) -> Operation:
        # Only a running Tocsin knows what to write of its end, and whom to tell.
        store.operations.request_cancel(operation_id, _actor(), SystemClock().now_us())
        try:
            return await operations.ended(operation_id, _END_S)
        except TimeoutError:
            return await operations.get(operation_id)

    with opened(found) as store:
        before = _known(store, operation_id)
        row = before if before.status == "ended" else _through(store, found, end)
        effects = [step for step in store.operations.steps(row.id) if step.effect]
    if json:
        output.print_json({"operation": _whole(row), "effects": [_step(step) for step in effects]})
    elif before.status == "ended":
        output.say(f"{row.id} had ended already: {row.outcome}.")
    elif row.status == "ended":
        output.say(f"{row.id} is {row.outcome}.")
    else:
        output.say(
            f"{row.id} is asked to end; no running Tocsin has done so yet. `tocsin up` will.",
            output.LOOK,
        )
    if not json and effects:
        output.say("What it had changed, or may have:")
        _print_steps(effects)
    return OK


def answer(
    config: Path | None, operation_id: str, *, approve: bool | None, note: str, json: bool
) -> int:
    """Give a person's answer, or print what is asked."""
    found = settings(config).config
    with opened(found) as store:
        row = _known(store, operation_id)
        if approve is None:
            asked = store.operations.step(row.waiting_for) if row.waiting_for else None
            question = _value(asked.arguments) if asked is not None else None
            if json:
                output.print_json({"operation": _whole(row), "question": question})
            elif asked is None:
                output.say(f"{row.id} waits for nobody: it is {row.outcome or row.status}.")
            else:
                output.say(fmt.visible(output.json_text(question)))
                output.say("Answer with --yes or --no, and --note for what it is told.")
            return OK
        by = _actor()
        row = _through(
            store,
            found,
            lambda engine: engine.answer(operation_id, approved=approve, note=note, by=by),
        )
    if json:
        output.print_json({"operation": _whole(row)})
    else:
        output.say(f"{row.id} goes on: {'approved' if approve else 'refused'} by {by}.")
    return OK


# -- parts --


def _known(store: Store, operation_id: str) -> Operation:
    row = store.operations.operation(operation_id)
    if row is None:
        raise NotFound(
            f"no operation {operation_id!r}; `tocsin operations list` has those there are"
        )
    return row


def _through(store: Store, config: Config, do: Callable[[Operations], Awaitable[T]]) -> T:
    """Ask an engine that runs nothing itself: what it writes is taken up by those that do."""

    async def nothing(*_: Any) -> Answered:
        raise NotFound("this process makes no calls")

    async def run() -> T:
        engine = Operations(
            store.operations,
            SystemClock(),
            settings=lambda: settings_of(config.operations),
            kinds=(),
            ask=nothing,
        )
        return await do(engine)

    return asyncio.run(run())


def _print_steps(steps: list[Step]) -> None:
    made = output.table(("what", "state", ">asked", "name", "key", "*arguments"))
    for step in steps:
        bad = step.state in ("unknown", "failed")
        made.add_row(
            "effect" if step.effect else "step",
            output.cell(step.state, output.BAD if bad else ""),
            f"{step.asked}×",
            output.cell(step.name),
            output.cell(step.key, output.QUIET),
            output.cell(step.arguments.decode(errors="replace"), output.QUIET),
        )
    output.show(made)


def _log_table() -> "Table":
    return output.table((">#", "at", "event", "*says"))


def _line(event: Event) -> tuple[str, str, str, str]:
    """An event in the columns of a log."""
    text = fmt.one_line(event.data.decode(errors="replace"), _SHOWN)
    return str(event.number), output.clock_time(event.at), fmt.visible(event.type), text


def _event(event: Event) -> dict[str, Any]:
    return {
        "number": event.number,
        "type": event.type,
        "at": event.at,
        "data": _value(event.data),
    }


def _whole(row: Operation) -> dict[str, Any]:
    """All of it: what is not known is ``null`` and not left out."""
    return msgspec.structs.asdict(row)


def _step(step: Step) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.structs.asdict(step)
    return {
        **fields,
        "arguments": _value(step.arguments or b"null"),
        "result": _value(step.result or b"null"),
    }


def _value(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return data.decode(errors="replace")


def _actor() -> str:
    try:
        return f"{getpass.getuser()} (command line)"
    except (OSError, KeyError):
        return "command line"
