"""What ``tocsin replay --policy agents`` prints."""

from collections.abc import Sequence
from typing import Any

from tocsin.cli import output
from tocsin.dashboard import fmt
from tocsin.domains.agents.backtest import (
    ENOUGH,
    RESULTS,
    Act,
    BacktestReport,
    RunVerdict,
    Share,
    StageTotal,
)
from tocsin.importers import BadRecord

_SHOWN = 20
"""Runs in the table; --json has them all."""
_NAMED = 5
_BASELINE = "3 identical"
_RIGHT = {
    "halted": "halted runs",
    "failure": "failed runs",
    "success": "successful runs",
}


def show(report: BacktestReport, bad: Sequence[BadRecord], *, json: bool) -> None:
    """Print a backtest: JSON for programs, or a summary and tables."""
    if json:
        faults = [{"path": b.path, "line": b.line, "reason": b.reason} for b in bad]
        output.print_json({**output.plain(report), "bad": faults})
        return
    spent = fmt.spent(report.nano_usd, report.calls, report.unpriced)
    output.say(
        f"{fmt.plural(report.runs, 'run')}, {fmt.plural(report.calls, 'call')}, "
        f"{fmt.tokens(report.tokens)} tokens, {spent}"
    )
    known = sum(report.results.values())
    if known:
        told = [f"{count} {result}" for result, count in report.results.items() if count]
        output.say(f"Results: {output.listing(told)}; {report.runs - known} unknown")
    _stages(report, known=bool(known))
    _runs(report)
    for one in bad[:_NAMED]:
        output.complain(f"{one.path}, line {one.line}: {one.reason}")
    if len(bad) > _NAMED:
        output.complain(f"... and {len(bad) - _NAMED} more records that cannot be read")


def _stages(report: BacktestReport, *, known: bool) -> None:
    output.say("")
    present = [result for result in RESULTS if report.results.get(result)]
    columns = ["Stage", ">Runs", ">Median call", *(f">Of {_RIGHT[r]}" for r in present)]
    if known:
        columns += [">Precision", f">Recall ({report.recall_of})"]
    table = output.table([*columns, ">Saves calls", ">Tokens", ">Cost"])
    for total in (*report.stages, report.baseline):
        row = [_BASELINE if total.name == "baseline" else total.name, str(total.runs)]
        row.append("-" if total.median_call is None else f"{total.median_call:g}")
        row += [_share(total.flagged[result]) for result in present]
        if known:
            row += [_share(total.precision), _share(total.recall)]
        table.add_row(*(output.cell(text) for text in (*row, *_saved(total))))
    output.show(table)
    notes = ["Shares with their 95 % Wilson intervals."] if known else []
    if known and any(share.underpowered for share in _shares(report, present)):
        notes.append(f"* underpowered: fewer than {ENOUGH} runs.")
    notes.append("Saves: what the runs did from that call on.")
    if not known:
        notes.append(
            "The files do not tell success from failure, so nothing is said of being right."
        )
    output.say(" ".join(notes), output.QUIET)


def _shares(report: BacktestReport, present: Sequence[str]) -> list[Share]:
    totals = (*report.stages, report.baseline)
    found = [total.flagged[result] for total in totals for result in present]
    return [*found, *(s for t in totals for s in (t.precision, t.recall))]


def _share(share: Share) -> str:
    if share.share is None or share.low is None or share.high is None:
        return "-"
    mark = "*" if share.underpowered else ""
    return f"{share.share:.1%} ({share.low:.0%}-{share.high:.0%}) {share.count}/{share.total}{mark}"


def _saved(total: StageTotal) -> tuple[str, str, str]:
    if total.name in ("nudge", "baseline"):
        return "-", "-", "-"  # a nudged run goes on; the rule of others has no run to end
    cost = fmt.spent(total.nano_usd_saved, total.calls_saved, total.unpriced_saved)
    return str(total.calls_saved), fmt.tokens(total.tokens_saved), cost


def _runs(report: BacktestReport) -> None:
    acted = [v for v in report.verdicts if v.nudge or v.baseline_call]
    if not acted:
        output.say("\nNothing would have been done to any run.")
        return
    acted.sort(key=_weight)
    output.say("")
    table = output.table(
        ["Run", ">Calls", "Result", "Nudge", "Pause", "Kill", _BASELINE, "*Evidence"]
    )
    for verdict in acted[:_SHOWN]:
        strongest = verdict.kill or verdict.pause or verdict.nudge
        row: list[Any] = [
            verdict.run_id,
            str(verdict.calls),
            verdict.result or "-",
            _act(verdict.nudge),
            _act(verdict.pause),
            _act(verdict.kill),
            f"call {verdict.baseline_call}" if verdict.baseline_call else "-",
            strongest.evidence if strongest else "",
        ]
        table.add_row(*(output.cell(text) for text in row))
    output.show(table)
    if len(acted) > _SHOWN:
        output.say(f"... and {len(acted) - _SHOWN} more runs; --json has them all.", output.QUIET)


def _weight(verdict: RunVerdict) -> tuple[int, int]:
    """The strongest stage first, then what it would have saved."""
    rank = 0 if verdict.kill else 1 if verdict.pause else 2 if verdict.nudge else 3
    act = verdict.pause or verdict.nudge
    return rank, -(act.tokens_after or act.calls_after) if act else 0


def _act(act: Act | None) -> str:
    return "-" if act is None else f"call {act.call} {act.detector}"
