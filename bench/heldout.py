"""What the supervisor finds in runs that nobody looked at while its rules were written.

usage: python bench/heldout.py --data DIR [--also DIR] [--json FILE]

DIR holds conversations/locomo-dev.json (snap-research/LoCoMo, CC BY-NC 4.0: measured with, never
shipped): long chats of two people. Each session is one run, in which one of the two speaks as the
model; nothing in them loops, so that whatever is found is a false alarm.

--also DIR holds a checkout of Agents_Failure_Attribution (ag2ai/Agents_Failure_Attribution, MIT):
"Who&When", 184 runs of groups of agents that all came to a wrong answer. Each message of an agent
is one call by it: its own earlier messages are the model's, all others come from outside, as group
chats call their models. Nobody labelled which of them go in circles, so the rate says how often a
failed run is noticed, and not how well. `repeating`: an agent said the same three times, to the
letter.

The engine runs with the settings that Tocsin ships. No earlier run of it over either is recorded,
nothing was changed afterwards, and the conversion above was settled before the first run.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from agents import Run, Seen, rate, table
from tocsin.core.messages import Message, parse_message
from tocsin.core.supervision import STAGES, Finding
from tocsin.domains.agents.engine import Tracker

NO_MODEL = ("human", "user", "computer_terminal", "computerterminal")
"""Speakers that are no model: people, and what runs code."""


@dataclass(frozen=True)
class Talk:
    """A run told as who said what; ``models`` are the speakers whose messages are calls."""

    group: str
    result: str
    turns: tuple[tuple[str, str], ...]
    models: frozenset[str]

    def repeats(self) -> bool:
        """Whether a model said the same three times, to the letter: told without the engine."""
        said = Counter((who, text) for who, text in self.turns if who in self.models)
        return max(said.values(), default=0) >= 3


def locomo(path: pathlib.Path) -> Iterator[Talk]:
    """Every session, as a run of its second speaker."""
    for number, sample in enumerate(json.loads(path.read_text())):
        told = sample["conversation"]
        for name, turns in told.items():
            if not (name.startswith("session_") and isinstance(turns, list) and turns):
                continue
            said = tuple((turn["speaker"], turn["text"]) for turn in turns)
            other = next((who for who, _ in said if who != said[0][0]), said[0][0])
            yield Talk(f"conversation {number}", "success", said, frozenset({other}))


def who_and_when(root: pathlib.Path) -> Iterator[Talk]:
    """Every failed run of a group of agents."""
    for path in sorted(root.glob("Who&When/*/*.json")):
        row = json.loads(path.read_text())
        said = []
        for turn in row["history"]:
            who = str(turn.get("name") or turn.get("role") or "").partition(" (")[0].strip()
            said.append((who, str(turn.get("content") or "")))
        models = frozenset(who for who, _ in said if who.lower() not in NO_MODEL)
        group = str(row.get("question_ID") or row.get("question") or path.stem)
        yield Talk(group, "failure", tuple(said), models)


def replayed(talk: Talk) -> Seen:
    """A run through the engine: each message of a model is a call with all before it."""
    tracker = Tracker("run", "bench")
    seen = Seen(Run(talk.group, talk.result), {}, [], None)
    by = {
        who: [_message("assistant" if name == who else "user", text) for name, text in talk.turns]
        for who in talk.models
    }
    calls = [index for index, (who, _) in enumerate(talk.turns) if who in talk.models and index]
    for number, index in enumerate(calls, 1):
        who = talk.turns[index][0]
        told = by[who]
        found: list[Finding] = list(tracker.ask(told[:index], at_us=0, agent=who))
        later = tracker.answered(
            told[index], input_tokens=None, output_tokens=None, nano_usd=None, at_us=0
        )
        for finding in (*found, *(later if number < len(calls) else ())):
            seen.findings.append(finding)
            for stage in STAGES[: STAGES.index(finding.stage) + 1]:
                seen.first.setdefault(stage, number)
    return seen


def _message(role: str, text: str) -> Message:
    return parse_message(json.dumps({"role": role, "content": text}).encode())


def shown(title: str, talks: list[Talk]) -> dict[str, Any]:
    """Print the rates of one source, and which detectors spoke; returns the rates."""
    seen = [(talk, replayed(talk)) for talk in talks]
    rows = [(stage, rate([s for _, s in seen], stage)) for stage in STAGES]
    loops = [s for talk, s in seen if talk.repeats()]
    if loops:
        rows += [(f"repeating: {stage}", rate(loops, stage)) for stage in STAGES]
    table(title, rows)
    spoke = Counter(name for _, s in seen for name in {f.detector for f in s.findings})
    print("  " + (", ".join(f"{name} in {n}" for name, n in spoke.most_common()) or "no finding"))
    return dict(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--also", type=pathlib.Path, help="checkouts of other repositories")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    chats = list(locomo(options.data / "conversations" / "locomo-dev.json"))
    report = {"LoCoMo": shown("LoCoMo, one session a run: held out", chats)}
    root = (options.also or pathlib.Path()) / "Agents_Failure_Attribution"
    if options.also is not None and root.is_dir():
        runs = list(who_and_when(root))
        report["Who&When"] = shown("Who&When, failed groups of agents: held out", runs)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
