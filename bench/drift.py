"""How soon real changes of a model's behaviour ring, and how often the detector rings for nothing.

DIR/drift/*.csv hold the same prompts put to snapshots of models (columns model, date, id, query,
ref_answer, answer, latency, cost; LLMDrift, Chen, Zaharia and Zou, 2023, Apache-2.0). Two
snapshots of one model are put through as two weeks of one feature's traffic, in random order, with
the real evaluators; right and wrong come as labels where the reference answers differ.

Delay: prompts from the change to the alarm. False alarms: one snapshot alone, shuffled, the first
half of it the baseline. Peers: river's ADWIN and Page-Hinkley with their defaults, one for each
signal, where river can be imported.

What is held out: limits of the charts come from theory and simulated streams. How signals are
named together with one that has rung (domains/signals/joint.py) was chosen among some five variants
while looking at GPT-4 on `prime`, so its rows for choice_followed, correct and has_list are no
held-out result; and all sets here were looked at throughout.
"""

import argparse
import csv
import json
import pathlib
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec

from tocsin.core.interaction import Entry, Interaction
from tocsin.core.messages import parse_message
from tocsin.core.score import Score
from tocsin.core.signals import Scored, Signal, SignalSettings, Sum
from tocsin.domains.signals import DOMAIN
from tocsin.domains.signals.compare import compare_many
from tocsin.domains.signals.drift import Drift
from tocsin.worker.evaluating import Scoring, catalogue_of

DAY_US = 86_400_000_000
WEEK_US = 7 * DAY_US
START_US = 1_677_628_800_000_000
"""1 March 2023."""
EVERY = (10_000, 3_000)
"""Calls between false alarms that the detector is set to; the first is the default."""
SOON = 100
SURE = 1e-6
"""A signal counts as changed where the two whole snapshots differ with so small a chance."""
NAMED = ("labelled_right", "choice_followed", "refused", "answer_words", "verbosity")
"""Signals of which a change must ring within ``SOON`` prompts."""


class Row(NamedTuple):
    """One prompt of a set, put to one snapshot."""

    dataset: str
    model: str
    snapshot: str
    id: str
    scored: Scored


class Services:
    """What the detector asks for."""

    def __init__(self, settings: SignalSettings, catalogue: Mapping[str, Signal]) -> None:
        self._settings, self._catalogue = settings, catalogue

    def signals(self, feature: str) -> SignalSettings:
        return self._settings

    def catalogue(self) -> Mapping[str, Signal]:
        return self._catalogue

    def accepted(self, feature: str, signal: str) -> int:
        return 0


# -- data --


def snapshot_of(model: str, date: str) -> tuple[str, str]:
    """A model's name without its date, and the date."""
    name = model.rpartition("/")[2]
    found = re.fullmatch(r"(.+?)[-@](\d{4}(?:-?\d{2}-?\d{2})?)", name)
    return (found[1], found[2]) if found else (name, date)


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9.+-]+", " ", text.lower()).strip(" .")


def right(query: str, answer: str, reference: str) -> bool:
    """Whether an answer gives the reference: the last option in brackets decides, else the words.

    Options are those that the query shows in brackets, and the reference itself.
    """
    wanted = _plain(reference)
    shown = re.findall(r"\[\s*([^\]\[\n]{1,40}?)\s*\]|\(\s*(\w{1,3})\s*\)", answer)
    given = [_plain(a or b) for a, b in shown]
    options = {
        _plain(a or b) for a, b in re.findall(r"\[\s*([^\]\[\n]{1,40}?)\s*\]|\((\w)\)", query)
    }
    listed = [option for option in given if option in options or option == wanted]
    if listed:
        return listed[-1] == wanted
    if len(wanted) <= 40 and wanted in ("yes", "no", "true", "false"):
        words = [
            w for w in re.findall(r"[a-z]+", answer.lower()) if w in ("yes", "no", "true", "false")
        ]
        return bool(words) and words[-1] == wanted
    return f" {wanted} " in f" {_plain(answer)} "


def read(path: pathlib.Path, scoring: Scoring) -> list[Row]:
    """A set's rows with their scores; labels only where the reference answers differ."""
    csv.field_size_limit(10**9)
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    labelled = len({line.get("ref_answer", "") for line in lines}) > 1
    rows = []
    for number, line in enumerate(lines):
        model, snapshot = snapshot_of(line["model"], line.get("date", ""))
        dataset = path.stem.removeprefix("llmdrift-")
        entry = entry_of(line, f"{dataset}-{number}", dataset, model)
        scored = scoring.score(entry)
        if labelled:
            value = float(right(line["query"], line["answer"], line["ref_answer"]))
            label = Score(interaction_id=entry.interaction.id, name="labelled_right", version="1",
                          value=value)  # fmt: skip
            scored = msgspec.structs.replace(scored, scores=(*scored.scores, label))
        rows.append(Row(dataset, model, snapshot, line.get("id", str(number)), scored))
    return rows


def entry_of(line: Mapping[str, str], id: str, feature: str, model: str) -> Entry:  # noqa: A002
    """A line as a recorded call."""
    asked = parse_message(msgspec.json.encode({"role": "user", "content": line["query"]}))
    said = parse_message(msgspec.json.encode({"role": "assistant", "content": line["answer"]}))
    cost = float(line.get("cost") or 0.0)
    return Entry(
        interaction=Interaction(
            id=id, source="import", dialect="openai", operation="chat", path="/v1/chat/completions",
            started_at=START_US, duration_us=int(float(line.get("latency") or 0.0) * 1e6),
            outcome="complete", feature=feature, run_id=id, run_source="new", request_model=model,
            response_model=model, finish_reason="stop",
            cost_nano_usd=int(cost * 1e9) if cost else None, input_messages=1, new_messages=1,
        ),
        input=(asked,),
        output=said,
    )  # fmt: skip


def at(scored: Scored, started_at: int) -> Scored:
    """The same at another time."""
    call = msgspec.structs.replace(scored.interaction, started_at=started_at)
    return msgspec.structs.replace(scored, interaction=call)


# -- detectors --

Values = dict[str, float]


class Ours:
    """The product's detector."""

    name = "tocsin"

    def __init__(self, services: Services) -> None:
        self._drift = Drift(services)  # type: ignore[arg-type]

    def see(self, scored: Scored, values: Values) -> Iterator[tuple[str, str]]:
        for alert in self._drift.observe(scored):
            if alert.state == "firing" and alert.change is not None:
                yield alert.signal, alert.change.method


class River:
    """One of river's detectors for each signal, with its defaults."""

    def __init__(self, name: str, make: Callable[[], Any]) -> None:
        self.name, self._make = name, make
        self._made: dict[str, Any] = {}

    def see(self, scored: Scored, values: Values) -> Iterator[tuple[str, str]]:
        for name, value in values.items():
            detector = self._made.get(name)
            if detector is None:
                detector = self._made[name] = self._make()
            detector.update(value)
            if detector.drift_detected:
                yield name, self.name


def makers(services: Services) -> dict[str, Callable[[], Any]]:
    """All detectors that can be had here."""
    found: dict[str, Callable[[], Any]] = {"tocsin": lambda: Ours(services)}
    try:
        from river import drift as river_drift  # type: ignore[import-not-found]
    except ImportError:
        print("river is not installed: no peers (pip install river)", file=sys.stderr)
        return found
    found["river ADWIN"] = lambda: River("ADWIN", river_drift.ADWIN)
    found["river Page-Hinkley"] = lambda: River("Page-Hinkley", river_drift.PageHinkley)
    return found


def values_of(scored: Scored, catalogue: Mapping[str, Signal]) -> Values:
    """Inner values by signal."""
    return {
        s.name: catalogue[s.name].inner(s.value) for s in scored.scores
        if s.value is not None and s.name in catalogue
    }  # fmt: skip


# -- what is measured --


def stream(parts: Sequence[Sequence[Row]], seed: int) -> Iterator[tuple[int, Scored]]:
    """(part, scored) of every row: each part shuffled, over a week of its own."""
    shuffler = random.Random(seed)
    for number, part in enumerate(parts):
        order = list(part)
        shuffler.shuffle(order)
        step = WEEK_US // max(1, len(order))
        for index, row in enumerate(order):
            yield number, at(row.scored, START_US + number * WEEK_US + index * step)


def delays(
    make: Callable[[], Any], before: Sequence[Row], after: Sequence[Row], seed: int,
    catalogue: Mapping[str, Signal],
) -> tuple[dict[str, tuple[int, str]], int]:  # fmt: skip
    """Signal → (prompts from the change to its first alarm, method); and alarms before it."""
    detector = make()
    found: dict[str, tuple[int, str]] = {}
    early, seen = 0, 0
    for part, scored in stream((before, after), seed):
        seen += part
        for signal, method in detector.see(scored, values_of(scored, catalogue)):
            if part:
                found.setdefault(signal, (seen, method))
            else:
                early += 1
    return found, early


def false_alarms(
    make: Callable[[], Any], rows: Sequence[Row], seed: int, catalogue: Mapping[str, Signal]
) -> tuple[int, int, int]:
    """(alarms in the second half, alarms in the first, prompts of the second half)."""
    detector = make()
    late, early, half = 0, 0, len(rows) // 2
    for index, (_, scored) in enumerate(stream((rows,), seed)):
        rang = len(list(detector.see(scored, values_of(scored, catalogue))))
        if index >= half:
            late += rang
        else:
            early += rang
    return late, early, len(rows) - half


def changed(
    before: Sequence[Row], after: Sequence[Row], catalogue: Mapping[str, Signal]
) -> list[Any]:
    """The signals in which two whole snapshots differ."""
    sums: tuple[dict[str, Sum], dict[str, Sum]] = ({}, {})
    for side, rows in zip(sums, (before, after), strict=True):
        for row in rows:
            for name, value in values_of(row.scored, catalogue).items():
                side[name] = side.get(name, Sum()) + Sum(1, value, value * value)
    names = [name for name in sums[0] if name in sums[1]]
    found = compare_many([(catalogue[n], sums[0][n], sums[1][n]) for n in names], alpha=SURE)
    return [c for c in found if c.verdict not in ("same", "underpowered")]


def pairs_of(rows: Sequence[Row]) -> Iterator[tuple[str, str, list[Row], list[Row]]]:
    """(set, model, earlier rows, later rows) of all consecutive snapshots."""
    groups: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        groups.setdefault((row.dataset, row.model), {}).setdefault(row.snapshot, []).append(row)
    for (dataset, model), snapshots in sorted(groups.items()):
        order = sorted(snapshots)
        for one, two in pairwise(order):
            yield dataset, model, snapshots[one], snapshots[two]


def measure_changes(
    rows: Sequence[Row], detectors: Mapping[str, Callable[[], Any]],
    catalogue: Mapping[str, Signal], seeds: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """The delays of every real change, over so many orders of the prompts."""
    table = []
    for dataset, model, before, after in pairs_of(rows):
        truth = changed(before, after, catalogue)
        runs = {name: [delays(make, before, after, seed, catalogue) for seed in range(seeds)]
                for name, make in detectors.items()}  # fmt: skip
        for change in [*truth, None]:
            line: dict[str, Any] = {
                "set": dataset, "model": model,
                "signal": change.signal if change else "any",
                "before": change.before.value if change else None,
                "after": change.after.value if change else None,
            }  # fmt: skip
            for name, found in runs.items():
                line[name] = _delays([_first(f, line["signal"]) for f, _ in found])
            table.append(line)
        for name, found in runs.items():
            table[-1][name]["alarms_before_the_change"] = sum(early for _, early in found)
            extra = {s for f, _ in found for s in f} - {c.signal for c in truth}
            table[-1][name]["other_signals"] = sorted(extra)
        print(f"  {dataset}, {model}: {len(truth)} signals changed", file=sys.stderr)
    return table


def _first(found: Mapping[str, tuple[int, str]], signal: str) -> int | None:
    if signal == "any":
        return min((delay for delay, _ in found.values()), default=None)
    return found[signal][0] if signal in found else None


def _delays(found: Sequence[int | None]) -> dict[str, Any]:
    known = sorted(d for d in found if d is not None)
    last = float("inf")
    ranked = [*map(float, known), *[last] * (len(found) - len(known))]
    return {
        "median": statistics.median_low(ranked),
        "p90": ranked[min(len(ranked) - 1, int(0.9 * len(ranked)))],
        "within_100": sum(1 for d in ranked if d <= SOON) / len(ranked),
        "runs": len(found),
    }


def measure_false(
    rows: Sequence[Row],
    catalogue: Mapping[str, Signal],
    every: int,
    seeds: int,
    short: int,
    *,
    peers: bool,
) -> list[dict[str, Any]]:
    """False alarms of every snapshot alone. ``short``: only so many prompts of it; 0: all."""
    table = []
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.dataset, row.model, row.snapshot), []).append(row)
    for key, part in sorted(groups.items()):
        totals: dict[str, list[int]] = {}
        for seed in range(seeds):
            chosen = random.Random(seed).sample(part, short) if short else part
            settings = SignalSettings(false_alarm_calls=every,
                                      baseline_calls=max(50, len(chosen) // 2))  # fmt: skip
            services = Services(settings, catalogue)
            tried = makers(services) if peers else {"tocsin": lambda s=services: Ours(s)}
            for name, make in tried.items():
                total = totals.setdefault(name, [0, 0, 0])
                for i, value in enumerate(false_alarms(make, chosen, seed, catalogue)):
                    total[i] += value
        for name, (late, early, prompts) in totals.items():
            table.append({"set": key[0], "model": f"{key[1]}-{key[2]}", "detector": name,
                          "setting": every, "seeds": seeds, "prompts": prompts, "alarms": late,
                          "alarms_while_learning": early,
                          "per_3000": 3000 * late / prompts})  # fmt: skip
    return table


# -- output --


def show_changes(table: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    print("\nPrompts from the change to the alarm: median, 90 % of runs, runs within 100")
    head = f"{'set':<12}{'model':<15}{'signal':<17}{'before':>9}{'after':>9}"
    print(head + "".join(f"{name:>26}" for name in names))
    for line in table:
        shown = [
            f"{line[k]:>9.3g}" if line[k] is not None else " " * 9 for k in ("before", "after")
        ]
        cells = [_cell(line[name]) for name in names]
        print(f"{line['set']:<12.11}{line['model']:<15.14}{line['signal']:<17.16}{''.join(shown)}"
              + "".join(f"{cell:>26}" for cell in cells))  # fmt: skip


def _cell(found: Mapping[str, Any]) -> str:
    one, two = (f"{found[k]:.0f}" if found[k] < 1e9 else "-" for k in ("median", "p90"))
    return f"{one}, {two}, {found['within_100']:.0%}"


def show_false(table: Sequence[Mapping[str, Any]]) -> None:
    sums: dict[tuple[str, int, str], list[float]] = {}
    for line in table:
        total = sums.setdefault((line["detector"], line["setting"], line["short"]), [0, 0, 0, 0, 0])
        total[0] += line["alarms"]
        total[1] += line["prompts"]
        total[2] = line["seeds"]
        total[3] += line["alarms_while_learning"]
        total[4] = max(total[4], line["per_3000"])
    print("\nFalse alarms, all signals together, per 3,000 null prompts")
    for (name, every, short), (alarms, prompts, seeds, early, worst) in sums.items():
        print(f"{name:<20} set to one in {every:>6,}, {short:<22}: {3000 * alarms / prompts:.2f} "
              f"({alarms:.0f} in {prompts:,.0f}, {seeds:.0f} seeds; worst snapshot {worst:.2f}; "
              f"{early:.0f} in as many while learning)")  # fmt: skip


def missed(changes: Sequence[Mapping[str, Any]], nulls: Sequence[Mapping[str, Any]]) -> list[str]:
    """Targets that were not met in every order, in words."""
    found = [
        f"{line['set']}, {line['model']}: {line['signal']} rang within {SOON} prompts in "
        f"{line['tocsin']['within_100']:.0%} of orders only"
        for line in changes
        if line["signal"] in NAMED and line["tocsin"]["within_100"] < 1.0
    ]
    own = [line for line in nulls if line["detector"] == "tocsin" and line["setting"] == EVERY[0]]
    for short in sorted({line["short"] for line in own}):
        lines = [line for line in own if line["short"] == short]
        rate = 3000 * sum(x["alarms"] for x in lines) / max(1, sum(x["prompts"] for x in lines))
        if rate > 1.0:
            found.append(f"{rate:.2f} false alarms in 3,000 null prompts ({short})")
    return found


def main() -> int:
    """Print both tables and which targets were missed. Exit code 1 when one was."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--null-seeds", type=int, default=20)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--no-peers", action="store_true")
    args = parser.parse_args()
    evaluators = [make() for make in DOMAIN.evaluators]
    catalogue = catalogue_of(evaluators)
    scoring = Scoring(evaluators, catalogue)
    started = time.perf_counter()
    files = sorted((args.data / "drift").glob("*.csv"))
    rows = [row for path in files for row in read(path, scoring)]
    print(f"{len(rows):,} answers of {len(files)} sets scored in "
          f"{time.perf_counter() - started:.0f} s", file=sys.stderr)  # fmt: skip
    services = Services(SignalSettings(), catalogue)
    detectors = makers(services) if not args.no_peers else {"tocsin": lambda: Ours(services)}
    changes = measure_changes(rows, detectors, catalogue, args.seeds)
    show_changes(changes, list(detectors))
    nulls: list[dict[str, Any]] = []
    for every in EVERY:
        for short in (0, 100):
            print(f"  null streams, one in {every:,}", file=sys.stderr)
            found = measure_false(
                rows, catalogue, every, args.null_seeds * (4 if short else 1), short,
                peers=len(detectors) > 1 and every == EVERY[0],
            )  # fmt: skip
            nulls += [{**line, "short": f"{short} prompts a month" if short else "whole months"}
                      for line in found]  # fmt: skip
    show_false(nulls)
    print(f"{time.perf_counter() - started:.0f} s in all", file=sys.stderr)
    if args.json:
        args.json.write_text(json.dumps({"changes": changes, "false_alarms": nulls}, indent=1))
    wrong = missed(changes, nulls)
    for line in wrong:
        print(f"MISSED: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
