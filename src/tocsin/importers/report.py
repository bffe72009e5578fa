"""The report of a replay, built as records stream by.

Memory grows with the number of runs and of distinct messages (16 bytes or so each, up to a cap),
not with content.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from tocsin.core.interaction import SPAN_OPERATIONS, Entry, Interaction
from tocsin.core.messages import Message, ToolCall
from tocsin.importers.files import BadRecord
from tocsin.importers.report_html import as_html
from tocsin.importers.report_result import (
    BadLine,
    Content,
    Growth,
    GrowthStep,
    ModelUse,
    RepeatedCall,
    ReportResult,
    RunLine,
    ToolUse,
    Unit,
)
from tocsin.importers.report_text import as_text, renderables
from tocsin.importers.results import failed_results, title_of

TOP = 10
_MAX_SEEN = 2_000_000
_MAX_STEPS = 1000
_MAX_DISTINCT_CALLS = 5000
_MAX_WAITING = 10_000
_MAX_BAD = 50
_PREVIEW = 160
_STEPS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000)

_decode = msgspec.json.Decoder().decode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class _Tool:
    """One tool in one run: asked for in answers, executed in spans, answered by results."""

    __slots__ = ("asked", "executed", "failed", "results", "span_failed")

    def __init__(self) -> None:
        self.asked = self.executed = self.results = self.failed = self.span_failed = 0


class _Run:
    """What is kept of one run."""

    __slots__ = (
        "bytes",
        "calls",
        "cost",
        "ended",
        "id",
        "input_bytes",
        "input_tokens",
        "last_at",
        "made",
        "outcome",
        "output_tokens",
        "priced",
        "repeated",
        "reward",
        "started",
        "success",
        "title",
        "tokens",
        "tools",
        "waiting",
    )

    def __init__(self, run_id: str) -> None:
        self.id = run_id
        self.title = ""
        self.calls = self.priced = 0
        self.input_tokens = self.output_tokens = self.input_bytes = self.cost = 0
        self.tokens = array("q")
        self.bytes = array("q")
        self.started: int | None = None
        self.ended: int | None = None
        self.last_at = -1
        self.outcome = ""
        self.success: bool | None = None
        self.reward: float | None = None
        self.tools: dict[str, _Tool] = {}
        self.waiting: dict[str, str] = {}
        self.made: dict[int, int] = {}
        self.repeated: dict[int, tuple[str, str]] = {}


class Report:
    """Builds a report. ``add`` every record in the order in which calls were made, then ask."""

    def __init__(self, sources: Iterable[str] = ()) -> None:
        self._sources = tuple(sources)
        self._runs: dict[str, _Run] = {}
        self._seen: set[int] = set()
        self._full = False
        self._sent = self._again = 0
        self._steps = self._untimed = self._uncounted = self._cached = self._estimated = 0
        self._outcomes: Counter[str] = Counter()
        self._models: dict[str, list[int]] = {}
        self._bad = 0
        self._bad_lines: list[BadLine] = []

    def add(self, record: Entry | BadRecord) -> None:
        """Take in one record."""
        if isinstance(record, BadRecord):
            self._bad += 1
            if len(self._bad_lines) < _MAX_BAD:
                self._bad_lines.append(BadLine(record.path, record.line, record.reason[:500]))
            return
        call = record.interaction
        run = self._runs.get(call.run_id)
        if run is None:
            run = self._runs[call.run_id] = _Run(call.run_id)
        if not run.title:
            run.title = title_of(record.input)
        self._when(run, call)
        self._verdict(run, call)
        if call.operation == "execute_tool":
            _executed(run, record)
        elif call.operation in SPAN_OPERATIONS:
            self._steps += 1
        else:
            self._call(run, record)

    def _call(self, run: _Run, record: Entry) -> None:
        call = record.interaction
        run.calls += 1
        self._outcomes[call.outcome] += 1
        if call.started_at >= run.last_at:
            run.last_at, run.outcome = call.started_at, call.outcome
        usage = call.usage
        given, told = usage.input_tokens, usage.output_tokens
        run.input_tokens += given or 0
        run.output_tokens += told or 0
        run.input_bytes += call.input_bytes
        self._cached += usage.cache_read_tokens or 0
        if given is None and told is None:
            self._uncounted += 1
        self._estimated += usage.source == "estimated"
        if len(run.bytes) < _MAX_STEPS:
            run.bytes.append(call.input_bytes)
            run.tokens.append(-1 if given is None else given)
        if call.cost_nano_usd is not None:
            run.cost += call.cost_nano_usd
            run.priced += 1
        name = call.response_model or call.request_model
        model = self._models.setdefault(name, [0, 0, 0, 0, 0, 0])
        cost, uncounted = call.cost_nano_usd, given is None and told is None
        facts = (1, given or 0, told or 0, uncounted, cost or 0, cost is None)
        for index, amount in enumerate(facts):
            model[index] += amount
        new = record.input[len(record.input) - call.new_messages :] if call.new_messages else ()
        self._content(record, new)
        for message in new:
            if message.answers:
                _results(run, message)
            for asked in message.calls:
                _asked(run, asked)
        for asked in record.output.calls if record.output is not None else ():
            _asked(run, asked)

    def _content(self, record: Entry, new: tuple[Message, ...]) -> None:
        """Count what is sent again: the known part of the history, and new messages seen before."""
        sent = sum([len(message.raw) for message in record.input])
        fresh = sum([len(m.raw) for m in new if self._first(m)])
        self._sent += sent
        self._again += sent - fresh
        if record.output is not None:
            self._first(record.output)

    def _first(self, message: Message) -> bool:
        """Whether this content comes for the first time."""
        key = int.from_bytes(message.hash[:8], "big")
        if key in self._seen:
            return False
        if len(self._seen) < _MAX_SEEN:
            self._seen.add(key)
        else:
            self._full = True
        return True

    def _when(self, run: _Run, call: Interaction) -> None:
        if "time" in call.attributes:
            self._untimed += call.operation not in SPAN_OPERATIONS
            return
        end = call.started_at + call.duration_us
        run.started = call.started_at if run.started is None else min(run.started, call.started_at)
        run.ended = end if run.ended is None else max(run.ended, end)

    @staticmethod
    def _verdict(run: _Run, call: Interaction) -> None:
        success, reward = call.attributes.get("success"), call.attributes.get("reward")
        if success is not None:
            run.success = success == "true"
        if reward is not None:
            try:
                run.reward = float(reward)
            except ValueError:
                return

    def result(self) -> ReportResult:
        """The report of everything added so far."""
        runs = list(self._runs.values())
        unit: Unit = "tokens" if _mostly_counted(runs) else "bytes"
        lines = {run.id: _line(run, unit) for run in runs if run.calls or run.tools}
        known = list(lines.values())
        started = [run.started for run in runs if run.started is not None]
        ended = [run.ended for run in runs if run.ended is not None]
        rewards = [run.reward for run in runs if run.reward is not None]
        verdicts = [run.success for run in runs if run.success is not None]
        tools = _tools(runs)
        priced = sum(run.priced for run in runs)
        calls = sum(run.calls for run in runs)
        return ReportResult(
            sources=self._sources,
            runs=len(runs),
            calls=calls,
            steps=self._steps,
            tool_calls=sum(tool.calls for tool in tools),
            started_at=min(started, default=None),
            ended_at=max(ended, default=None),
            untimed=self._untimed,
            input_tokens=sum(run.input_tokens for run in runs),
            output_tokens=sum(run.output_tokens for run in runs),
            cached_tokens=self._cached,
            uncounted=self._uncounted,
            estimated=self._estimated,
            cost_nano_usd=sum(run.cost for run in runs),
            unpriced=calls - priced,
            judged=len(verdicts),
            succeeded=sum(verdicts),
            mean_reward=sum(rewards) / len(rewards) if rewards else None,
            outcomes=tuple(self._outcomes.most_common()),
            models=self._model_lines(),
            tools=tools,
            content=Content(sent=self._sent, again=self._again, at_least=self._full),
            repeats=sum(line.repeats for line in known),
            repeated_calls=_repeated(runs),
            longest=tuple(sorted(known, key=lambda r: (-r.calls, -r.tools, r.id))[:TOP]),
            dearest=_dearest(runs, lines),
            growth=_growth(runs, known, unit),
            bad=self._bad,
            bad_lines=tuple(self._bad_lines),
        )

    def _model_lines(self) -> tuple[ModelUse, ...]:
        found = [
            ModelUse(
                name=name,
                calls=calls,
                input_tokens=given,
                output_tokens=told,
                uncounted=uncounted,
                cost_nano_usd=cost,
                unpriced=unpriced,
            )
            for name, (calls, given, told, uncounted, cost, unpriced) in self._models.items()
        ]
        return tuple(sorted(found, key=lambda m: (-m.calls, m.name)))


# -- tools --


def _tool(run: _Run, name: str) -> _Tool:
    name = name[:200]
    found = run.tools.get(name)
    if found is None:
        found = run.tools[name] = _Tool()
    return found


def _asked(run: _Run, call: ToolCall) -> None:
    """A tool call in an answer."""
    _tool(run, call.name).asked += 1
    if call.id and len(run.waiting) < _MAX_WAITING:
        run.waiting[call.id] = call.name
    _made(run, call.name, call.arguments)


def _made(run: _Run, name: str, arguments: str) -> None:
    """Count calls of one run that are the same in name and arguments."""
    try:
        plain = _encode_sorted(_decode(arguments))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError):
        plain = arguments.encode(errors="replace")
    key = hash((name, plain))
    count = run.made.get(key, 0)
    if count or len(run.made) < _MAX_DISTINCT_CALLS:
        run.made[key] = count + 1
    if count == 1:
        run.repeated[key] = (name[:200], arguments[:_PREVIEW])


def _results(run: _Run, message: Message) -> None:
    """A message with tool results: whose they are, and whether they failed."""
    bad = failed_results(message)
    for call_id in message.answers:
        name = run.waiting.pop(call_id, None)
        if name is not None:
            tool = _tool(run, name)
            tool.results += 1
            tool.failed += call_id in bad


def _executed(run: _Run, record: Entry) -> None:
    """A tool's own span."""
    call = record.interaction
    name = call.attributes.get("gen_ai.tool.name") or call.attributes.get("span_name", "tool")
    tool = _tool(run, name)
    tool.executed += 1
    tool.span_failed += call.outcome != "complete"
    if not tool.asked:
        arguments = next((b.data for b in record.blobs if b.hash == call.request_body), b"")
        _made(run, name, arguments.decode(errors="replace"))


def _tools(runs: list[_Run]) -> tuple[ToolUse, ...]:
    """Every tool. Where a trace tells both the model's calls and the executions, once."""
    found: dict[str, list[int]] = {}
    for run in runs:
        for name, tool in run.tools.items():
            from_spans = tool.executed > tool.results
            sums = found.setdefault(name, [0, 0, 0, 0])
            sums[0] += max(tool.asked, tool.executed)
            sums[1] += 1
            sums[2] += tool.executed if from_spans else tool.results
            sums[3] += tool.span_failed if from_spans else tool.failed
    uses = [
        ToolUse(name=name, calls=calls, runs=in_runs, results=results, failed=failed)
        for name, (calls, in_runs, results, failed) in found.items()
    ]
    return tuple(sorted(uses, key=lambda tool: (-tool.calls, tool.name)))


def _repeated(runs: list[_Run]) -> tuple[RepeatedCall, ...]:
    found = [
        RepeatedCall(run_id=run.id, tool=name, arguments=arguments, count=run.made[key])
        for run in runs
        for key, (name, arguments) in run.repeated.items()
    ]
    return tuple(sorted(found, key=lambda call: (-call.count, call.run_id, call.tool))[:TOP])


# -- runs --


def _mostly_counted(runs: list[_Run]) -> bool:
    """Whether token counts are known for nine calls in ten."""
    known = sum(sum(1 for size in run.tokens if size >= 0) for run in runs)
    return known > 0 and known >= 0.9 * sum(len(run.tokens) for run in runs)


def _sizes(run: _Run, unit: Unit) -> Iterator[int]:
    return (size for size in (run.tokens if unit == "tokens" else run.bytes) if size >= 0)


def _line(run: _Run, unit: Unit) -> RunLine:
    sizes = list(_sizes(run, unit))
    # One instant alone tells no duration: the file says when, not how long.
    known = (run.ended or 0) > (run.started or 0)
    return RunLine(
        id=run.id,
        title=run.title,
        calls=run.calls,
        tools=sum(max(tool.asked, tool.executed) for tool in run.tools.values()),
        input_tokens=run.input_tokens,
        output_tokens=run.output_tokens,
        cost_nano_usd=run.cost,
        unpriced=run.calls - run.priced,
        duration_us=(run.ended or 0) - (run.started or 0) if known else None,
        first_input=sizes[0] if sizes else 0,
        largest_input=max(sizes, default=0),
        repeats=sum(count - 1 for count in run.made.values()),
        outcome=run.outcome,
        success=run.success,
    )


def _dearest(runs: list[_Run], lines: dict[str, RunLine]) -> tuple[RunLine, ...]:
    def weight(run: _Run) -> tuple[int, int, int]:
        return run.cost, run.input_tokens + run.output_tokens, run.input_bytes

    ranked = sorted((run for run in runs if run.id in lines), key=lambda r: r.id)
    ranked.sort(key=weight, reverse=True)
    return tuple(lines[run.id] for run in ranked[:TOP])


def _growth(runs: list[_Run], lines: list[RunLine], unit: Unit) -> Growth:
    steps: list[GrowthStep] = []
    columns = [list(_sizes(run, unit)) for run in runs]
    for step in _STEPS:
        sizes = sorted(column[step - 1] for column in columns if len(column) >= step)
        if not sizes:
            break
        steps.append(
            GrowthStep(
                step=step, runs=len(sizes), median=_quantile(sizes, 0.5), p95=_quantile(sizes, 0.95)
            )
        )
    grown = [line for line in lines if line.largest_input > line.first_input]
    grown.sort(key=lambda line: (line.first_input - line.largest_input, line.id))
    return Growth(unit=unit, steps=tuple(steps), biggest=tuple(grown[:TOP]))


def _quantile(ordered: list[int], share: float) -> float:
    """The quantile with linear interpolation; ``ordered`` is sorted and not empty."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def as_json(result: ReportResult) -> str:
    """The report as one JSON document, indented."""
    return msgspec.json.format(msgspec.json.encode(_with_shares(result)), indent=2).decode()


def _with_shares(result: ReportResult) -> dict[str, Any]:
    """The result's fields, and what follows from them, which readers of JSON cannot compute."""
    fields: dict[str, Any] = msgspec.to_builtins(result)
    fields["duration_us"] = result.duration_us
    fields["content"]["share"] = result.content.share
    fields["content"]["distinct"] = result.content.distinct
    for told, tool in zip(fields["tools"], result.tools, strict=True):
        told["failure_share"] = tool.failure_share
    return fields


__all__ = ["TOP", "Report", "ReportResult", "as_html", "as_json", "as_text", "renderables"]
