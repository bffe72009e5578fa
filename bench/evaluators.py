"""What the cheap evaluators say of real answers, and how many calls a second they judge.

usage: python bench/evaluators.py [--data DIR] [--calls 1000] [--json FILE]

Throughput is that of the four evaluators and the slices together, on one core, on chats with a
system prompt, two turns and an answer of 2,000 characters. Calls are timed in batches of fifty,
each several times; the best time of a batch counts, so that what else the machine does does not.

With ``--data`` (the folder that holds ``drift/`` and, if at hand, ``agents/`` and
``conversations/``): the share of each signal for the same prompts put to two models in March and
June 2023 (LLMDrift, Chen et al. 2023, Apache-2.0), beside what its authors published; how often
answers that give an option are called refusals; and how many turns of different conversations
(tau-bench, MIT; LoCoMo, CC BY-NC) are taken for the same question.
"""

from __future__ import annotations

import argparse
import csv
import json
import pathlib
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from tocsin.core.domain import Evaluator
from tocsin.core.interaction import Entry, Usage
from tocsin.core.messages import parse_message
from tocsin.domains.signals.agents import AgentsEvaluator
from tocsin.domains.signals.form import FormEvaluator
from tocsin.domains.signals.service import ServiceEvaluator
from tocsin.domains.signals.users import UsersEvaluator, same_question
from tocsin.testing import sample_entries

PUBLISHED = {
    ("prime", "gpt-4-0314"): {"choice_followed": 0.996},
    ("prime", "gpt-4-0613"): {"choice_followed": 0.947},
    ("prime", "gpt-3.5-turbo-0301"): {"choice_followed": 0.98},
    ("prime", "gpt-3.5-turbo-0613"): {"choice_followed": 0.835},
    ("opinionqa", "gpt-4-0314"): {"choice_followed": 0.98},
    ("opinionqa", "gpt-4-0613"): {"choice_followed": 0.23},
}
"""One minus the format mismatch, and the share of answered opinions, as the authors give them."""
_PROMPT = "You help the customers of an airline. Be brief, friendly and exact."
_TEXT = (
    "The flight to Oslo leaves at 9:40 from gate B12, and there are three seats left in the second "
    "class. Your luggage may weigh 23 kg. If you change the date, the fare rises by 40 euros, "
    "which the airline keeps when you cancel later than a day before. Shall I hold a seat for you?"
)


def chat(number: int, said: Sequence[tuple[str, str]], answer: str) -> Entry:
    """A chat of (role, text) pairs and its answer, as an entry."""
    base = sample_entries()[0]
    messages = tuple(_message(role, text) for role, text in said)
    interaction = msgspec.structs.replace(
        base.interaction,
        id=f"{number:032x}",
        outcome="complete",
        tool_calls=0,
        input_messages=len(messages),
        new_messages=1,
        usage=Usage(input_tokens=200, output_tokens=400, source="reported"),
    )
    output = _message("assistant", answer)
    return Entry(interaction=interaction, input=messages, output=output)


def _message(role: str, text: str) -> Any:
    return parse_message(msgspec.json.encode({"role": role, "content": text}))


def evaluators() -> list[Evaluator]:
    return [FormEvaluator(), UsersEvaluator(), AgentsEvaluator(), ServiceEvaluator()]


def typical(count: int, seed: int = 7) -> list[Entry]:
    """Chats whose answers have about 2,000 characters."""
    rng, words = random.Random(seed), _TEXT.split()
    found = []
    for number in range(count):
        parts = [" ".join(rng.choices(words, k=18)) + "." for _ in range(21)]
        answer = "\n\n".join(parts)[:2000]
        turns = [("system", _PROMPT), ("user", _TEXT[:160]), ("assistant", _TEXT)]
        found.append(chat(number, [*turns, ("user", " ".join(parts[:2]))], answer))
    return found


def throughput(count: int) -> dict[str, float]:
    """Microseconds a call for each evaluator, and calls a second for all."""
    entries, found = typical(count), {}
    for evaluator in evaluators():
        evaluator.evaluate(entries[0])
        found[evaluator.name] = _best(_both(evaluator), entries)
    found["calls_a_second"] = 1e6 / sum(found.values())
    return found


def _both(evaluator: Any) -> Callable[[Entry], Any]:
    if not hasattr(evaluator, "slices"):
        return evaluator.evaluate  # type: ignore[no-any-return]
    return lambda entry: (evaluator.evaluate(entry), evaluator.slices(entry))


def _best(judge: Callable[[Entry], Any], entries: list[Entry]) -> float:
    """Microseconds a call: the mean of each batch's best time."""
    total = 0
    for first in range(0, len(entries), 50):
        times = []
        for _ in range(5):
            began = time.process_time_ns()
            for entry in entries[first : first + 50]:
                judge(entry)
            times.append(time.process_time_ns() - began)
        total += min(times)
    return total / len(entries) / 1000


def drifted(data: pathlib.Path) -> Iterator[tuple[str, str, list[Entry]]]:
    """Data set, model and its answers, as chats of one turn."""
    csv.field_size_limit(2**31 - 1)
    for path in sorted((data / "drift").glob("*.csv")):
        by_model: dict[str, list[Entry]] = defaultdict(list)
        with path.open(newline="") as file:
            for number, row in enumerate(csv.DictReader(file)):
                entry = chat(number, [("user", row["query"])], row["answer"])
                by_model[row["model"].rsplit("/", 1)[-1]].append(entry)
        for model, entries in sorted(by_model.items()):
            yield path.stem.removeprefix("llmdrift-"), model, entries


def shares(entries: list[Entry]) -> tuple[dict[str, tuple[float, int]], int]:
    """Mean and judged calls by signal; and refusals among answers that give an option."""
    form, values, wrong = FormEvaluator(), defaultdict(list), 0
    for entry in entries:
        scores = {s.name: s.value for s in form.evaluate(entry)}
        wrong += bool(scores.get("choice_followed") and scores.get("refused"))
        for name, value in scores.items():
            if value is not None:
                values[name].append(value)
    return {n: (sum(v) / len(v), len(v)) for n, v in values.items()}, wrong


def unrelated(data: pathlib.Path, pairs: int = 50_000) -> tuple[int, int]:
    """Of pairs of turns from different conversations, how many are taken for one question."""
    groups: list[list[str]] = []
    path = data / "agents" / "tau-bench-airline-gpt-4o.json"
    if path.exists():
        tasks = {run["task_id"]: run for run in json.loads(path.read_text())}
        groups += [
            [m["content"] for m in run["traj"] if m["role"] == "user" and m["content"]]
            for run in tasks.values()
        ]
    path = data / "conversations" / "locomo-dev.json"
    if path.exists():
        for one in json.loads(path.read_text()):
            sessions = one["conversation"].values()
            groups += [[turn["text"] for turn in s] for s in sessions if isinstance(s, list)]
    groups = [[t for t in g if len(t.split()) >= 4] for g in groups]
    groups = [g for g in groups if g]
    if len(groups) < 2:
        return 0, 0
    rng, hits = random.Random(11), 0
    for _ in range(pairs):
        one, other = rng.sample(groups, 2)
        hits += same_question(rng.choice(one), rng.choice(other))
    return hits, pairs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    report: dict[str, Any] = {"throughput": throughput(args.calls)}
    for name, value in report["throughput"].items():
        print(f"{name:16} {value:10,.1f}{'' if name == 'calls_a_second' else ' µs'}")
    if args.data:
        report["drift"] = {}
        for data_set, model, entries in drifted(args.data):
            found, wrong = shares(entries)
            report["drift"][f"{data_set}/{model}"] = {**found, "refused_with_option": wrong}
            print(f"\n{data_set}, {model}: {len(entries)} answers")
            for name, (share, judged) in found.items():
                known = PUBLISHED.get((data_set, model), {}).get(name)
                beside = f"   published {known:.3f}" if known is not None else ""
                print(f"  {name:16} {share:8.4f}  of {judged:5}{beside}")
        hits, pairs = unrelated(args.data)
        report["unrelated"] = {"same_question": hits, "pairs": pairs}
        print(f"\nturns of different conversations taken for one question: {hits} of {pairs}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
