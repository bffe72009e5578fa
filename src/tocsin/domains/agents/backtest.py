"""What the supervisor would have done to recorded runs, and how that compares with their results.

Runs go through the same ``Tracker`` as live calls. Nothing is changed by what is found: a run goes
on to its recorded end, so that each stage can be told from the same run.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from tocsin.core.interaction import SPAN_OPERATIONS, Entry
from tocsin.core.intervals import score_interval
from tocsin.core.messages import Message, ToolCall
from tocsin.core.supervision import STAGES, Finding, Stage
from tocsin.domains.agents.engine import Tracker, exact_baseline
from tocsin.domains.agents.steps import plain_text, told_action
from tocsin.domains.agents.thresholds import DEFAULT, Thresholds

Result = Literal["success", "failure", "halted"]
RESULTS: tuple[Result, ...] = ("halted", "failure", "success")
RESULT = "result"
"""The attribute of a run's last interaction that says how the run came out."""
ENOUGH = 30
"""Runs below which a share says little: "underpowered"."""
MOST_OPEN = 2000
"""Runs that are followed at once; the longest silent one is taken for ended."""


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """``count`` of ``total``, with its 95 % Wilson score interval; ``None`` of nothing."""

    count: int
    total: int
    share: float | None = None
    low: float | None = None
    high: float | None = None
    underpowered: bool = False


def share(count: int, total: int) -> Share:
    """A share with its interval."""
    if not total:
        return Share(count=count, total=total, underpowered=True)
    found = score_interval(count / total, total)
    return Share(
        count=count,
        total=total,
        share=found.value,
        low=found.low if count else 0.0,
        high=found.high if count < total else 1.0,
        underpowered=total < ENOUGH,
    )


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """Where a stage would first have acted on a run. What the run did from that call on."""

    call: int
    detector: str
    evidence: str
    """One line."""
    calls_after: int = 0
    """This call and those after it: of a pause, they would not have been made."""
    tokens_after: int = 0
    nano_usd_after: int = 0
    unpriced_after: int = 0


class RunVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    run_id: str
    feature: str
    calls: int
    tokens: int
    nano_usd: int
    result: Result | None
    nudge: Act | None = None
    pause: Act | None = None
    kill: Act | None = None
    baseline_call: int | None = None
    """The call that asks for the third identical tool call."""


class StageTotal(msgspec.Struct, frozen=True, kw_only=True):
    """One stage, or the baseline, over all runs."""

    name: str
    runs: int
    median_call: float | None
    flagged: Mapping[str, Share]
    """Result → share of the runs with that result on which it acts."""
    precision: Share
    """Of the runs acted upon whose result is known: those that did not succeed."""
    recall: Share
    """Of the runs that were halted (where none was: that failed): those acted upon."""
    calls_saved: int = 0
    tokens_saved: int = 0
    nano_usd_saved: int = 0
    unpriced_saved: int = 0


class BacktestReport(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. ``recall_of`` says which result counts as what should be found."""

    runs: int
    calls: int
    tokens: int
    nano_usd: int
    unpriced: int
    results: Mapping[str, int]
    recall_of: str
    stages: tuple[StageTotal, ...]
    baseline: StageTotal
    verdicts: tuple[RunVerdict, ...]


class Backtest:
    """Feed it entries in the order of their file; ask for the ``report`` at the end."""

    def __init__(
        self,
        *,
        thresholds: Thresholds = DEFAULT,
        expected_calls: Callable[[str], int | None] = lambda feature: None,
    ) -> None:
        """``expected_calls``: the setting of a feature, where there is one."""
        self._thresholds = thresholds
        self._expected = expected_calls
        self._open: dict[str, _Run] = {}
        self._verdicts: list[RunVerdict] = []
        self._unpriced = 0

    def add(self, entry: Entry) -> None:
        """Take in one call; steps of a trace that are no model calls tell nothing new."""
        call = entry.interaction
        if call.operation in SPAN_OPERATIONS:
            result = _result(call.attributes)
            if result and call.run_id in self._open:
                self._open[call.run_id].result = result
            return
        run = self._open.pop(call.run_id, None)
        if run is None:
            tracker = Tracker(
                call.run_id,
                call.feature,
                thresholds=self._thresholds,
                expected_calls=self._expected(call.feature),
            )
            run = _Run(tracker)
        self._open[call.run_id] = run
        run.add(entry)
        self._unpriced += call.cost_nano_usd is None
        if len(self._open) > MOST_OPEN:
            self._close(next(iter(self._open)))

    def _close(self, run_id: str) -> None:
        self._verdicts.append(self._open.pop(run_id).verdict())

    def report(self) -> BacktestReport:
        """The verdict on each run, in the order of their ends, and the sums."""
        for run_id in list(self._open):
            self._close(run_id)
        verdicts = self._verdicts
        results: dict[str, int] = {r: sum(v.result == r for v in verdicts) for r in RESULTS}
        wanted: Result = "halted" if results["halted"] else "failure"
        return BacktestReport(
            runs=len(verdicts),
            calls=sum(v.calls for v in verdicts),
            tokens=sum(v.tokens for v in verdicts),
            nano_usd=sum(v.nano_usd for v in verdicts),
            unpriced=self._unpriced,
            results=results,
            recall_of=wanted,
            stages=tuple(_total(stage, verdicts, wanted) for stage in STAGES),
            baseline=_total("baseline", verdicts, wanted),
            verdicts=tuple(verdicts),
        )


class _Run:
    """One run while its calls come."""

    def __init__(self, tracker: Tracker) -> None:
        self.result: Result | None = None
        self._tracker = tracker
        self._calls = self._tokens = self._cost = self._unpriced = 0
        self._acts: dict[Stage, tuple[Act, tuple[int, int, int, int]]] = {}
        self._asked: list[ToolCall] = []
        self._asked_at: list[int] = []
        self._pending: tuple[Finding, ...] = ()

    def add(self, entry: Entry) -> None:
        call = entry.interaction
        found = self._tracker.ask(
            entry.input,
            at_us=call.started_at,
            agent=call.agent or "",
            interaction_id=call.id,
        )
        # What an answer shows is acted upon at the next call, as it is live.
        for finding in (*self._pending, *found):
            self._act(finding, self._calls + 1)
        self._calls += 1
        usage = call.usage
        self._tokens += (usage.input_tokens or 0) + (usage.output_tokens or 0)
        self._cost += call.cost_nano_usd or 0
        self._unpriced += call.cost_nano_usd is None
        self._pending = self._tracker.answered(
            entry.output,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            nano_usd=call.cost_nano_usd,
            at_us=call.started_at + call.duration_us,
        )
        for tool in _tools(entry.output):
            self._asked.append(tool)
            self._asked_at.append(self._calls)
        self.result = _result(call.attributes) or self.result

    def _act(self, finding: Finding, call: int) -> None:
        """A finding acts at its own stage; the weaker ones have acted by then."""
        before = (self._calls, self._tokens, self._cost, self._unpriced)
        act = Act(call=call, detector=finding.detector, evidence=finding.summary)
        for stage in STAGES[: STAGES.index(finding.stage) + 1]:
            self._acts.setdefault(stage, (act, before))

    def verdict(self) -> RunVerdict:
        number = exact_baseline(self._asked)
        watch = self._tracker.watch()
        return RunVerdict(
            run_id=watch.run_id,
            feature=watch.feature,
            calls=self._calls,
            tokens=self._tokens,
            nano_usd=self._cost,
            result=self.result,
            nudge=self._acted("nudge"),
            pause=self._acted("pause"),
            kill=self._acted("kill"),
            baseline_call=self._asked_at[number - 1] if number is not None else None,
        )

    def _acted(self, stage: Stage) -> Act | None:
        if stage not in self._acts:
            return None
        act, (calls, tokens, cost, unpriced) = self._acts[stage]
        return msgspec.structs.replace(
            act,
            calls_after=self._calls - calls,
            tokens_after=self._tokens - tokens,
            nano_usd_after=self._cost - cost,
            unpriced_after=self._unpriced - unpriced,
        )


def _result(attributes: Mapping[str, str]) -> Result | None:
    said = attributes.get(RESULT)
    if said is None and (solved := attributes.get("success")) is not None:
        return "success" if solved == "true" else "failure"
    return next((result for result in RESULTS if result == said), None)


def _tools(output: Message | None) -> tuple[ToolCall, ...]:
    """The tools that an answer asks for, also where it does so by text."""
    if output is None or output.calls:
        return output.calls if output is not None else ()
    action = told_action(plain_text(output))
    return (action,) if action is not None else ()


def _acted_at(name: str, verdict: RunVerdict) -> int | None:
    if name == "baseline":
        return verdict.baseline_call
    act: Act | None = getattr(verdict, name)
    return act.call if act is not None else None


def _total(name: str, verdicts: list[RunVerdict], wanted: Result) -> StageTotal:
    at = [(verdict, _acted_at(name, verdict)) for verdict in verdicts]
    flagged = [verdict for verdict, call in at if call is not None]
    calls = sorted(call for _, call in at if call is not None)
    known = [verdict for verdict in flagged if verdict.result is not None]
    found = sum(verdict.result == wanted for verdict in flagged)
    acts = [act for v in flagged if (act := getattr(v, name, None)) is not None]
    return StageTotal(
        name=name,
        runs=len(flagged),
        median_call=_median(calls),
        flagged={
            result: share(
                sum(v.result == result for v in flagged), sum(v.result == result for v in verdicts)
            )
            for result in RESULTS
        },
        precision=share(sum(v.result != "success" for v in known), len(known)),
        recall=share(found, sum(v.result == wanted for v in verdicts)),
        calls_saved=sum(act.calls_after for act in acts),
        tokens_saved=sum(act.tokens_after for act in acts),
        nano_usd_saved=sum(act.nano_usd_after for act in acts),
        unpriced_saved=sum(act.unpriced_after for act in acts),
    )


def _median(values: list[int]) -> float | None:
    if not values:
        return None
    middle = len(values) // 2
    return float(values[middle]) if len(values) % 2 else (values[middle - 1] + values[middle]) / 2
