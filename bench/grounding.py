"""Whether answers that say something else than their context are caught, and others left alone.

usage: python bench/grounding.py --data DIR [--half report|developed|both] [--seeds N] [--json FILE]
       [--markdown FILE] [--misses N] [--speed]

Real answers with the context that they were given; one mistake is planted at a time:

changed number   one digit of a number, amount, time or date becomes another digit
other number     a number becomes one of its shape from another task, question or conversation
                 (which the context may have by chance)
moved number     a number becomes one that the same context says of something else
other name       a name or code of the context becomes one of its kind from another task ...
negation         a "not" is put in or taken out

A planted number may stand in the context by chance, for something else; the second table leaves
those out.

`caught` is over answers that were not flagged before the mistake was planted, several draws each;
`false alarms` is over answers as they were, of which some are wrong: agents make mistakes too.
Rules and thresholds were made on the half `developed` (even task numbers of tau-bench; a hash of
the question for HotpotQA; conversations 1 and 3 of LoCoMo); figures are of the other half.

DIR holds agents/tau-bench-airline-gpt-4o.json (sierra-research/tau-bench, MIT), agents/hotpotqa-
react.txt (noahshinn/reflexion, MIT) and conversations/locomo-dev.json (snap-research/LoCoMo, CC
BY-NC 4.0: measured with, not shipped). What is missing is left out, and said.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import tocsin
from harness.grounded import Answer, Planter, absent, airline, conversations, hotpot
from harness.tables import Report, Table
from tocsin.domains.signals.grounding import GroundingEvaluator
from tocsin.domains.signals.intervals import wilson

NUMBERS, NAMES, NEGATION = "numbers_supported", "names_supported", "negation_kept"
PLANTS = (
    ("changed number", NUMBERS),
    ("other number", NUMBERS),
    ("moved number", NUMBERS),
    ("other name", NAMES),
    ("negation", NEGATION),
)
ABSENT = tuple(plant for plant in PLANTS if plant[0] not in ("moved number", "negation"))
SETS: tuple[Callable[[Path], Iterator[Answer]], ...] = (airline, hotpot, conversations)


def answers_of(folder: Path, half: str) -> list[Answer]:
    found: list[Answer] = []
    for read in SETS:
        try:
            found += read(folder)
        except FileNotFoundError as error:
            print(f"left out: {error.filename} is not there")
    if half == "both":
        return found
    return [answer for answer in found if answer.developed == (half == "developed")]


class Judged:
    """The evaluator's word on answers, each asked once."""

    def __init__(self) -> None:
        self._evaluator = GroundingEvaluator()

    def __call__(self, answer: Answer) -> dict[str, tuple[float | None, str]]:
        scores = self._evaluator.evaluate(answer.entry())
        return {score.name: (score.value, score.explanation) for score in scores}


def shown(hits: int, n: int) -> str:
    if not n:
        return "-"
    found = wilson(hits, n)
    return f"{found.value:.1%} ({found.low:.1%}-{found.high:.1%}), {n}"


def measure(answers: Sequence[Answer], seeds: int, misses: int, report: Report) -> None:
    judge, planter = Judged(), Planter(answers)
    before = [judge(answer) for answer in answers]
    rows, unseen, alarms = [], [], []
    for data in dict.fromkeys(answer.data for answer in answers):
        mine = [(a, b) for a, b in zip(answers, before, strict=True) if a.data == data]
        alarms.append([data, *(_alarms(mine, signal) for signal in (NUMBERS, NAMES, NEGATION))])
        cells = [_caught(mine, plant, signal, judge, planter, seeds, misses, report)
                 for plant, signal in PLANTS]  # fmt: skip
        rows.append([data, *(all_ for all_, _ in cells)])
        unseen.append([data, *(cells[PLANTS.index(p)][1] for p in ABSENT)])
        for signal in (NUMBERS, NAMES, NEGATION):
            wrong = [(a.text, b[signal][1]) for a, b in mine if b.get(signal, (1, ""))[0] == 0]
            for text, said in wrong[:misses]:
                print(f"ALARM {data} {signal}: {said}\n    {text[:300]!r}")
    report.show(Table(
        title="Planted mistakes caught (95 % Wilson interval), mistakes planted",
        columns=("answers of", *(plant for plant, _ in PLANTS)),
        rows=tuple(map(tuple, rows)),
    ))  # fmt: skip
    report.show(Table(
        title="... of those whose number or name stands nowhere in the context",
        columns=("answers of", *(plant for plant, _ in ABSENT)),
        rows=tuple(map(tuple, unseen)),
    ))  # fmt: skip
    report.show(Table(
        title="False alarms on answers as they were, answers judged",
        columns=("answers of", "numbers", "names", "negation"),
        rows=tuple(map(tuple, alarms)),
    ))  # fmt: skip


def told_nowhere(answer: Answer, said: str) -> bool:
    """Whether all that an alarm names stands nowhere in what was given, by plain text search.

    The answer then says more than its context: it may be right, but it is no false alarm.
    """
    names = said.partition(": ")[2].partition(" and ")[0].split(", ")
    low = " ".join(answer.context.split()).casefold()
    return all(word.casefold()[:5] not in low for name in names for word in name.split())


def _alarms(mine: Sequence[tuple[Answer, dict[str, tuple[float | None, str]]]], signal: str) -> str:
    judged = [said[signal][0] for _, said in mine if signal in said]
    text = shown(sum(value == 0 for value in judged), len(judged))
    if signal != NAMES:
        return text
    rang = [(a, said[signal][1]) for a, said in mine if said.get(signal, (1, ""))[0] == 0]
    nowhere = [a for a, said in rang if told_nowhere(a, said)]
    groups = len({a.group for a in nowhere})
    return f"{text}; {len(nowhere)} in {groups} groups name what stands nowhere"


def _caught(
    mine: Sequence[tuple[Answer, dict[str, tuple[float | None, str]]]],
    plant: str,
    signal: str,
    judge: Judged,
    planter: Planter,
    seeds: int,
    misses: int,
    report: Report,
) -> tuple[str, str]:
    put = getattr(planter, plant.replace(" ", "_"))
    hits = n = told = absent_hits = absent_n = 0
    for number, (answer, said) in enumerate(mine):
        if said.get(signal, (1.0, ""))[0] == 0:
            continue
        for seed in range(seeds):
            wrong = put(answer, random.Random(f"{plant} {seed} {number}"))
            if wrong is None:
                continue
            n += 1
            found = judge(wrong).get(signal, (None, ""))[0] == 0
            hits += found
            if absent(answer, wrong):
                absent_hits, absent_n = absent_hits + found, absent_n + 1
            if not found and told < misses:
                told += 1
                at = next(i for i, (a, b) in enumerate(zip(answer.text, wrong.text, strict=False))
                          if a != b)  # fmt: skip
                print(f"MISS {answer.data} {plant}: {answer.text[max(0, at - 50):at + 30]!r}"
                      f"\n    {wrong.text[max(0, at - 50):at + 30]!r}")  # fmt: skip
    report.rows.append(
        {"set": mine[0][0].data, "plant": plant, "caught": hits, "planted": n,
         "absent_caught": absent_hits, "absent_planted": absent_n}
    )  # fmt: skip
    return shown(hits, n), shown(absent_hits, absent_n)


def speed(answers: Sequence[Answer], report: Report) -> None:
    """Calls a second on one core, contexts cut to 4 KB, nothing kept between calls."""
    rows = []
    for data in dict.fromkeys(answer.data for answer in answers):
        entries = []
        for answer in [a for a in answers if a.data == data][:300]:
            context = ("Context:\n" + answer.context)[-4096:]
            given = ({"role": "tool", "tool_call_id": "c", "content": context},)
            entries.append(Answer(data, "", given, answer.text[:800], True).entry(len(entries)))
        best = 1e9
        for _ in range(3):
            began = time.process_time()
            for entry in entries:
                GroundingEvaluator().evaluate(entry)
            best = min(best, time.process_time() - began)
        rows.append((data, f"{len(entries) / best:,.0f}", f"{best / len(entries) * 1e6:,.0f}"))
    report.show(
        Table(
            title="Speed, contexts of 4 KB never seen before",
            columns=("answers of", "calls/s", "CPU us/call"),
            rows=tuple(rows),
        )
    )


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data", type=Path, required=True, metavar="DIR")
    options.add_argument("--half", choices=("report", "developed", "both"), default="report")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--misses", type=int, default=0, help="print so many of each kind")
    options.add_argument("--speed", action="store_true", help="also calls a second")
    options.add_argument("--json", type=Path, metavar="FILE")
    options.add_argument("--markdown", type=Path, metavar="FILE")
    given = options.parse_args()
    report = Report(bench="grounding", settings={"half": given.half, "seeds": given.seeds},
                    versions={"tocsin": tocsin.__version__})  # fmt: skip
    answers = answers_of(given.data, given.half)
    measure(answers, given.seeds, given.misses, report)
    if given.speed:
        speed(answers, report)
    if given.json:
        given.json.write_text(json.dumps({"settings": report.settings, "rows": report.rows}))
    if given.markdown:
        given.markdown.write_text("\n\n".join(table.markdown() for table in report.tables) + "\n")


if __name__ == "__main__":
    main()
