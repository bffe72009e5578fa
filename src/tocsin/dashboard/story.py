"""A run as a story: what is new in each call, which tools ran, where time went.

Tool executions are not reported by plain API traffic; they are read from the messages. An assistant
asks for a tool in one call and the result stands among the new messages of a later one: the time
between the two is the tool's, as seen from here.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import msgspec

from tocsin.core.interaction import SPAN_OPERATIONS, Decision, Interaction
from tocsin.core.meaning import Check
from tocsin.core.messages import Hash, Message, ToolCall, link
from tocsin.dashboard import conversation, fmt, timing
from tocsin.store.api import Store

STEPS_PER_PAGE = 100
_PAUSE_SHARE = 0.04
_PAUSE_US = 500_000
_PAUSE_WIDTH = 0.012


class StepMessages(msgspec.Struct, frozen=True, kw_only=True):
    """The messages that one call adds to the run."""

    new: tuple[Message, ...] = ()
    output: Message | None = None
    missing: bool = False
    """Whether content was stored but is gone (retention) or was never kept."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the waterfall. ``start`` … ``end`` are fractions of its width."""

    kind: Literal["call", "span", "tool"]
    label: str
    number: int | None = None
    """The step's number in the run, from 1."""
    href: str = ""
    depth: int = 0
    start: float = 0.0
    end: float = 0.0
    split: float | None = None
    duration_us: int | None = None
    """``None`` when it is not known."""
    offset_us: int = 0
    """When it began, since the page's first step."""
    context: int | None = None
    output: int | None = None
    cost_nano_usd: int | None = None
    outcome: str = ""
    css: str = "s1"
    pause: tuple[float, str] | None = None
    """Since when nothing had run before this, and for how long, in words."""
    title: str = ""
    repeats: int | None = None
    """The earlier step with the same answer."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One call of the run with what it adds to the conversation."""

    number: int
    interaction: Interaction
    turns: tuple[conversation.Turn, ...]
    answer: conversation.Turn | None
    missing: bool
    depth: int
    resent: int
    """Messages of this call that earlier steps have shown and that are not shown again."""
    repeats: int | None = None
    """The earlier step whose answer this one's repeats word for word."""


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a run."""

    rows: tuple[Row, ...]
    steps: tuple[Step, ...]
    ticks: tuple[tuple[float, str], ...]
    untimed: str = ""
    """Why rows stand in their order instead of on a time axis; empty when they do not."""
    took: timing.Took = timing.UNKNOWN
    shares: tuple[tuple[str, int], ...]
    """Where the time went, in words and microseconds; calls at the same time count once."""


# -- messages --


def load(store: Store, steps: Sequence[Interaction]) -> list[StepMessages]:
    """What each step adds. Steps that continue each other are read from one history."""
    found: dict[str, StepMessages] = {}
    by_id = {step.id: step for step in steps}
    for step in reversed(steps):
        if step.id in found:
            continue
        line = [step]
        while (parent := by_id.get(line[-1].parent_id or "")) is not None and (
            parent.id not in found
            and parent not in line
            and parent.input_messages <= line[-1].input_messages
            and parent.input_node is not None
        ):
            line.append(parent)
        line.reverse()
        found.update(_load_line(store, line) if len(line) > 1 else {})
        for lone in line:
            if lone.id not in found:
                found[lone.id] = _load_one(store, lone)
    return [found[step.id] for step in steps]


def _load_line(store: Store, line: Sequence[Interaction]) -> dict[str, StepMessages]:
    """The messages of steps that each extend the one before; those that do not are left out."""
    last = line[-1]
    tip = last.output_node or last.input_node
    if tip is None:
        return {}
    total = last.input_messages + (last.output_node is not None)
    base = min(step.input_messages - step.new_messages for step in line)
    history = store.history(tip, last=total - base)
    if len(history) != total - base:
        return {}
    nodes = _nodes_from(line[0], history, base)
    found = {}
    for step in line:
        at = step.input_messages - base
        if nodes.get(at) != step.input_node:
            continue
        output = history[at] if at < len(history) else None
        if step.output_node is None or nodes.get(at + 1) != step.output_node:
            if step.output_node is not None:
                continue
            output = None
        new = tuple(history[max(at - step.new_messages, 0) : at])
        found[step.id] = StepMessages(new=new, output=output)
    return found


def _nodes_from(first: Interaction, history: Sequence[Message], base: int) -> dict[int, Hash]:
    """Node after the first ``n`` messages of ``history``, from the first step's input on."""
    at = first.input_messages - base
    node = first.input_node
    if node is None or at < 0:
        return {}
    nodes = {at: node}
    for i in range(at, len(history)):
        node = link(node, history[i].hash)
        nodes[i + 1] = node
    return nodes


def _load_one(store: Store, step: Interaction) -> StepMessages:
    tip = step.output_node or step.input_node
    if tip is None:
        return StepMessages()
    answered = step.output_node is not None
    wanted = step.new_messages + answered
    history = store.history(tip, last=wanted) if wanted else []
    if len(history) < wanted:
        return StepMessages(missing=True)
    return StepMessages(
        new=tuple(history[: step.new_messages]), output=history[-1] if answered else None
    )


# -- the story --


class _Tool(msgspec.Struct, kw_only=True):
    """A tool execution: asked for by one step, answered by another."""

    asked: int
    call: ToolCall
    start: int
    end: int | None = None
    timed: bool = True
    """Whether it is known when it began and ended."""


def tell(
    first_number: int,
    steps: Sequence[Interaction],
    messages: Sequence[StepMessages],
    following: tuple[Interaction, StepMessages] | None = None,
    *,
    shown: int = conversation.SHOWN,
) -> Story:
    """A page of the run. ``following`` is the first step of the next page, which brings results."""
    depths = _depths(steps)
    tools = _tools(steps, messages, following)
    told = _steps(first_number, steps, messages, depths, shown)
    if not any(step.duration_us for step in steps):
        return _ordered(steps, told, tools)
    origin = min(step.started_at for step in steps)
    spans = [(step.started_at, step.started_at + step.duration_us) for step in steps]
    waits = [(tool.start, tool.end) for tool in tools if tool.end is not None and tool.timed]
    clock = Timeline(spans + waits)
    rows: list[Row] = []
    busy_until = origin
    for i, step in enumerate(steps):
        pause = None
        if step.started_at - busy_until > clock.pause:
            waited = fmt.duration(step.started_at - busy_until)
            pause = (clock.at(busy_until), waited)
        row = _call_row(told[i], clock, origin)
        rows.append(msgspec.structs.replace(row, pause=pause))
        mine = [tool for tool in tools if tool.asked == i]
        rows += [_tool_row(tool, depths[i] + 1, clock, origin) for tool in mine]
        ends = [t.end for t in mine if t.end is not None]
        ends.append(step.started_at + step.duration_us)
        busy_until = max(busy_until, *ends)
    return Story(
        rows=tuple(rows),
        steps=tuple(told),
        ticks=clock.ticks(),
        took=_took(steps, clock.end - origin),
        shares=_shares(steps, spans, waits),
    )


def _took(steps: Sequence[Interaction], span_us: int) -> timing.Took:
    """The page's time; tools may go on after its last call."""
    return msgspec.structs.replace(timing.took(steps), us=span_us)


def _ordered(steps: Sequence[Interaction], told: Sequence[Step], tools: Sequence[_Tool]) -> Story:
    """A page of a run none of whose calls has a known duration: rows one after another."""
    rows: list[Row] = []
    for i, one in enumerate(told):
        rows.append(_call_row(one, None, 0))
        rows += [_tool_row(tool, one.depth + 1, None, 0) for tool in tools if tool.asked == i]
    wide = 1 / max(len(rows), 1)
    placed = [
        msgspec.structs.replace(row, start=i * wide, end=(i + 1) * wide)
        for i, row in enumerate(rows)
    ]
    return Story(
        rows=tuple(placed),
        steps=tuple(told),
        ticks=(),
        untimed=timing.why_untimed(steps),
        shares=(),
    )


def _shares(
    steps: Sequence[Interaction], spans: Sequence[tuple[int, int]], waits: Sequence[tuple[int, int]]
) -> tuple[tuple[str, int], ...]:
    """Time with a model at work, with tools alone at work, and with nothing running."""
    if any(step.operation in SPAN_OPERATIONS or not step.duration_us for step in steps):
        return ()
    model, all_busy = _length(spans), _length([*spans, *waits])
    first, last = min(a for a, _ in spans), max(b for _, b in [*spans, *waits])
    found = (
        ("model", model),
        ("tools", all_busy - model),
        ("nothing ran", last - first - all_busy),
    )
    return tuple((name, us) for name, us in found if us > 0)


def _length(spans: Sequence[tuple[int, int]]) -> int:
    return sum(b - a for a, b in _merged(spans))


def _depths(steps: Sequence[Interaction]) -> list[int]:
    """How deep each step is nested: below a span of an agent or workflow that contains it."""
    by_id = {step.id: i for i, step in enumerate(steps)}
    depths: list[int] = []
    for i, step in enumerate(steps):
        at = by_id.get(step.parent_id or "")
        if at is None or at >= i:
            depths.append(0)
        else:
            depths.append(min(depths[at] + (steps[at].operation in SPAN_OPERATIONS), 8))
    return depths


def _tools(
    steps: Sequence[Interaction],
    messages: Sequence[StepMessages],
    following: tuple[Interaction, StepMessages] | None,
) -> list[_Tool]:
    """Tool executions read from messages; none where a trace reports them itself."""
    if any(step.operation == "execute_tool" for step in steps):
        return []
    open_calls: dict[str, _Tool] = {}
    found: list[_Tool] = []
    for i, (step, said) in enumerate(zip(steps, messages, strict=True)):
        _answer(open_calls, step, said)
        for asked in said.output.calls if said.output is not None else ():
            end = step.started_at + step.duration_us
            tool = _Tool(asked=i, call=asked, start=end, timed=step.duration_us > 0)
            found.append(tool)
            open_calls[asked.id] = tool
    if following is not None:
        _answer(open_calls, *following)
    return found


def _answer(open_calls: dict[str, _Tool], step: Interaction, said: StepMessages) -> None:
    for message in said.new:
        for answered in message.answers:
            tool = open_calls.pop(answered, None)
            if tool is not None:
                tool.end = max(step.started_at, tool.start)
                tool.timed = tool.timed and not timing.stand_in(step)


def _steps(
    first_number: int,
    steps: Sequence[Interaction],
    messages: Sequence[StepMessages],
    depths: Sequence[int],
    shown: int,
) -> list[Step]:
    seen: dict[Hash, int] = {}
    said: dict[str, int] = {}
    told = []
    for i, (step, found) in enumerate(zip(steps, messages, strict=True)):
        number = first_number + i
        fresh = [m for m in found.new if m.hash not in seen]
        turns = [_mark(conversation.read(m, shown=shown), said, number) for m in fresh]
        answer = None
        if found.output is not None:
            answer = _mark(conversation.read(found.output, shown=shown), said, number)
        for message in (*found.new, *((found.output,) if found.output else ())):
            seen.setdefault(message.hash, number)
        told.append(
            Step(
                number=number,
                interaction=step,
                turns=tuple(turns),
                answer=answer,
                missing=found.missing,
                depth=depths[i],
                resent=max(0, step.input_messages - len(turns)) if not found.missing else 0,
                repeats=_whole_repeat(answer),
            )
        )
    return told


def _mark(turn: conversation.Turn, said: dict[str, int], number: int) -> conversation.Turn:
    """The turn with parts that an earlier step said in the same words marked so."""
    parts = []
    for part in turn.parts:
        before = said.setdefault(part.key, number) if part.key else number
        changed = before != number
        parts.append(msgspec.structs.replace(part, same_as=before) if changed else part)
    return conversation.Turn(role=turn.role, parts=tuple(parts))


def _whole_repeat(answer: conversation.Turn | None) -> int | None:
    if answer is None or not answer.parts:
        return None
    before = {part.same_as for part in answer.parts}
    return before.pop() if len(before) == 1 else None


# -- the waterfall --


class Timeline:
    """Time → fraction of the width, with long pauses shortened so that work stays visible."""

    def __init__(self, spans: Sequence[tuple[int, int]]) -> None:
        busy = _merged(spans)
        self.start, self.end = busy[0][0], busy[-1][1]
        worked = sum(b - a for a, b in busy)
        self.pause = max(int(worked * _PAUSE_SHARE), _PAUSE_US)
        gaps = [b[0] - a[1] for a, b in pairwise(busy)]
        long = sum(gap > self.pause for gap in gaps)
        kept = worked + sum(gap for gap in gaps if gap <= self.pause)
        narrow = min(_PAUSE_WIDTH, 0.25 / long) if long else 0.0
        scale = (1 - narrow * long) / max(kept, 1)
        self._pieces: list[tuple[int, int, float, float]] = []
        x = 0.0
        for i, (a, b) in enumerate(busy):
            self._pieces.append((a, b, x, scale))
            x += (b - a) * scale
            if i < len(gaps):
                wide = narrow if gaps[i] > self.pause else gaps[i] * scale
                self._pieces.append((b, busy[i + 1][0], x, wide / max(gaps[i], 1)))
                x += wide

    def at(self, us: int) -> float:
        """Where an instant stands, from 0 to 1."""
        place = 0.0
        for a, b, x, scale in self._pieces:
            if us < a:
                break
            place = x + (min(us, b) - a) * scale
        return min(max(place, 0.0), 1.0)

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """A few places with the time since the start; after a pause the clock has jumped on."""
        found: list[tuple[float, str]] = []
        spots = [self.start + (self.end - self.start) * i // 4 for i in range(5)]
        jumps = [a for a, _, _, _ in self._pieces[::2]]
        for us in sorted({*spots, *jumps} if len(self._pieces) > 1 else set(spots)):
            x = self.at(us)
            if not found or x - found[-1][0] > 0.22:
                found.append((x, fmt.clock(us - self.start)))
        return tuple(t for t in found if t[0] <= 0.88)


def _merged(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for a, b in sorted(spans):
        if found and a <= found[-1][1]:
            found[-1] = (found[-1][0], max(b, found[-1][1]))
        else:
            found.append((a, b))
    return found


def _call_row(told: Step, clock: Timeline | None, origin: int) -> Row:
    """A call's or span's row; without a clock it stands nowhere yet."""
    step = told.interaction
    is_span = step.operation in SPAN_OPERATIONS
    known = "s1" if step.duration_us or clock is None else "open"
    row = Row(
        kind="span" if is_span else "call",
        label=fmt.one_line(step_label(step), 60) if is_span else _did(told),
        title=fmt.one_line(step_label(step), 80),
        number=told.number,
        repeats=told.repeats,
        href=f"#step-{told.number}",
        depth=told.depth,
        duration_us=step.duration_us or None,
        offset_us=step.started_at - origin,
        context=step.usage.input_tokens,
        output=step.usage.output_tokens,
        cost_nano_usd=step.cost_nano_usd,
        outcome=step.outcome,
        css=known if step.outcome == "complete" else "bad",
    )
    if clock is None:
        return row
    first = step.first_chunk_us
    return msgspec.structs.replace(
        row,
        start=clock.at(step.started_at),
        end=clock.at(step.started_at + step.duration_us),
        split=clock.at(step.started_at + first) if first is not None else None,
    )


def _did(told: Step) -> str:
    """What a call did, in a few words: the beginning of what it said, or what it asked for."""
    parts = told.answer.parts if told.answer is not None else ()
    for part in parts:
        if part.kind in ("text", "refusal") and part.head.strip():
            return fmt.one_line(part.head[:400], 80)
    asked = sum(part.kind == "call" for part in parts)
    if asked:
        return "asks for a tool" if asked == 1 else f"asks for {asked} tools"
    return fmt.one_line(step_label(told.interaction), 60)


def step_label(step: Interaction) -> str:
    """What a step is called: its model, or the tool or agent that a trace names."""
    if step.operation in SPAN_OPERATIONS:
        named = step.attributes.get("gen_ai.tool.name") or step.agent or ""
        return f"{step.operation.replace('_', ' ')} {named}".strip()
    return step.response_model or step.request_model or step.operation


_DONE = {
    "modify": "changed the request",
    "deny": "refused the call",
    "pause": "paused the run",
    "warn": "warned",
    "crashed": "crashed",
    "timed_out": "took too long",
}
_WOULD = {"modify": "change the request", "deny": "refuse the call", "pause": "pause the run"}


def did(decision: Decision) -> str:
    """What a policy did with a call, or would have done."""
    if decision.mode == "observe" and decision.action in _WOULD:
        return f"would {_WOULD[decision.action]}"
    return _DONE[decision.action]


_VERDICTS = {"pass": "passed", "fail": "failed", "unsure": "could not be told"}
_SAID = {
    "wire": "the upstream",
    "validator": "a rule",
    "heuristic": "a guess",
}


def found(check: Check) -> str:
    """What came of a check, in words."""
    return _VERDICTS[check.verdict]


def said_by(check: Check) -> str:
    """Who says what a check says."""
    return _SAID[check.said]


def _tool_row(tool: _Tool, depth: int, clock: Timeline | None, origin: int) -> Row:
    row = Row(
        kind="tool",
        label=fmt.one_line(tool.call.name, 60) or "tool",
        depth=depth,
        start=clock.at(tool.start) if clock is not None else 0.0,
        end=clock.at(tool.start) if clock is not None else 0.0,
        offset_us=tool.start - origin,
        outcome="no result" if tool.end is None else "",
        css="tool" if clock is None and tool.end is not None else "open",
    )
    if tool.end is None or clock is None or not tool.timed:
        return row
    return msgspec.structs.replace(
        row, end=clock.at(tool.end), duration_us=tool.end - tool.start, css="tool"
    )
