"""Whether answers that are 200 and wrong are called so, and right ones left alone.

usage: python bench/meaning.py --data DIR [--seeds N] [--speed] [--misses N] [--json FILE]
       [--markdown FILE]

Refusals in words. `labelled` are answers that a person labelled as not answering (LLMDrift's
sensitive questions, GPT-3.5 and GPT-4 of March and June 2023: nothing was made with them), or, of
LLMDrift's opinions, answers that give none of the options that they were asked to pick from; those
that pick an option called "Refused" are left out (the recogniser was developed beside these
answers, so that row is no test). Of LLMDrift's programming tasks and
arithmetic (unseen) nobody's label is known: what is flagged there can be read with --misses.

Schemas. Real JSON of an agent at work (tau-bench airline, gpt-4o): arguments of its tool calls and
what the tools answered, each kind under the narrowest schema that all of its documents fit. One
fault at a time is planted; `named` is how often the check's detail names the value that was meant.
Below, the same documents without a fault in other bytes.

DIR holds drift/llmdrift-{sensitiveq,opinionqa,leetcode,happynumber}.csv (lchen001/LLMDrift,
generation/*_EVAL.csv, Apache-2.0) and agents/tau-bench-airline-gpt-4o.json (sierra-research/
tau-bench, MIT). What is missing is left out, and said.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tocsin
from harness.planted import PLANTS, Document, documents, untouched
from harness.tables import Report, Table
from tocsin.core.call import Call, Draft, Principal
from tocsin.core.meaning import Meaning
from tocsin.core.messages import Message, chain, content_hash, parse_message
from tocsin.domains.signals.intervals import wilson
from tocsin.runtime.meaning import Judge

_OPTION = re.compile(r"\W{0,3}(?:\([A-Z]\)|[A-Z][.):]|[A-Z]$)\W*(Refused)?")
"""How an answer that picks an option begins; whether ``(E) Refused`` refuses is left open."""


@dataclass(frozen=True)
class Said:
    """An answer in words. ``refuses``: what is known of it; ``None``: nothing."""

    text: str
    refuses: bool | None


def _rows(path: Path) -> Iterator[dict[str, str]]:
    csv.field_size_limit(2**30)
    with path.open(newline="") as file:
        yield from csv.DictReader(file)


def sensitive(folder: Path) -> list[Said]:
    rows = _rows(folder / "drift/llmdrift-sensitiveq.csv")
    return [Said(row["answer"], float(row["Response Rate"]) == 0) for row in rows]


def opinions(folder: Path) -> list[Said]:
    found = []
    for row in _rows(folder / "drift/llmdrift-opinionqa.csv"):
        option = _OPTION.match(row["answer"])
        found.append(Said(row["answer"], None if option and option[1] else option is None))
    return found


def of_unknown(name: str) -> Callable[[Path], list[Said]]:
    return lambda folder: [
        Said(row["answer"], None) for row in _rows(folder / f"drift/llmdrift-{name}.csv")
    ]


SETS: dict[str, tuple[str, Callable[[Path], list[Said]]]] = {
    "sensitive questions": ("unseen, labelled by people", sensitive),
    "opinions": ("developed beside, labelled by form", opinions),
    "programming tasks": ("unseen, no labels", of_unknown("leetcode")),
    "arithmetic": ("unseen, no labels", of_unknown("happynumber")),
}


def called(params: dict[str, Any]) -> Call:
    """A call with these parameters."""
    messages = (parse_message(b'{"role":"user","content":"Go on."}'),)
    return Call(
        id="call_1", source="gateway", dialect="openai", operation="chat", method="POST",
        path="/v1/chat/completions", started_at=0, feature="default", principal=Principal(),
        model="m", messages=messages, nodes=chain(messages),
        params=json.dumps({"model": "m", **params}).encode(), draft=Draft(),
    )  # fmt: skip


def judged(judge: Judge, call: Call, output: Message) -> Meaning:
    return judge.of(call, "complete", reason="stop", output=output)


def said(text: str) -> Message:
    return parse_message(json.dumps({"role": "assistant", "content": text}).encode())


def share(hits: int, n: int) -> str:
    if not n:
        return "-"
    found = wilson(hits, n)
    return f"{found.value:.1%} ({found.low:.1%} to {found.high:.1%})"


# -- refusals --


def refusals(folder: Path, misses: int, report: Report) -> None:
    judge, call = Judge(), called({})
    rows = []
    for name, (split, read) in SETS.items():
        try:
            answers = read(folder)
        except FileNotFoundError as error:
            print(f"left out: {error.filename} is not there")
            continue
        flags = [judged(judge, call, said(a.text)).outcome == "refused" for a in answers]
        both = sum(f and a.refuses is True for f, a in zip(flags, answers, strict=True))
        known = [a for a in answers if a.refuses is not None]
        flagged, labelled = sum(flags), sum(a.refuses is True for a in known)
        judged_too = sum(f and a.refuses is not None for f, a in zip(flags, answers, strict=True))
        for wrong, answer in zip(flags, answers, strict=True):
            if misses and wrong is not (answer.refuses or False):
                misses -= 1
                print(f"{'FLAGGED' if wrong else 'MISSED'} {name}: {answer.text[:160]!r}")
        precision = share(both, judged_too) if known else "-"
        recall = share(both, labelled) if known else "-"
        rows.append((name, split, f"{len(answers):,}", f"{labelled:,}" if known else "-",
                     f"{flagged:,}", precision, recall))  # fmt: skip
        report.rows.append(
            {"set": name, "split": split, "answers": len(answers), "labelled": labelled,
             "flagged": flagged, "both": both}
        )  # fmt: skip
    report.show(
        Table(
            title="Refusals in words",
            columns=("answers", "split", "n", "refuse", "flagged", "precision", "recall"),
            rows=tuple(rows),
            note="95 % intervals (Wilson).",
        )
    )


# -- schemas --


class Schemas:
    """Judges documents as answers to a ``response_format``, or as arguments of a tool."""

    def __init__(self) -> None:
        self._judge = Judge()
        self._calls: dict[str, Call] = {}

    def __call__(self, document: Document, text: str, *, as_tool: bool) -> Meaning:
        call = self._call(document, as_tool)
        if not as_tool:
            return judged(self._judge, call, said(text))
        function = {"name": document.tool, "arguments": text}
        asked = {"id": "c", "type": "function", "function": function}
        message = {"role": "assistant", "content": None, "tool_calls": [asked]}
        return judged(self._judge, call, parse_message(json.dumps(message).encode()))

    def _call(self, document: Document, as_tool: bool) -> Call:
        key = f"{document.kind} {as_tool}"
        if key not in self._calls:
            if as_tool:
                tool = {"name": document.tool, "parameters": document.schema}
                params: dict[str, Any] = {"tools": [{"type": "function", "function": tool}]}
            else:
                form = {"name": "document", "schema": document.schema}
                params = {"response_format": {"type": "json_schema", "json_schema": form}}
            self._calls[key] = called(params)
        return self._calls[key]


def schemas(found: list[Document], seeds: int, report: Report) -> None:
    judge = Schemas()
    rows = []
    for name, plant in PLANTS.items():
        caught = planted = named = meant = 0
        for seed in range(seeds):
            rng = random.Random(seed)
            for document in found:
                fault = plant(document, rng)
                if fault is None:
                    continue
                meaning = judge(document, fault.text, as_tool=bool(document.tool))
                planted += 1
                caught += meaning.outcome == "invalid"
                if fault.meant:
                    meant += 1
                    near = f"nearest is {json.dumps(fault.meant)}"
                    named += any(near in check.detail for check in meaning.checks)
        rows.append((name, f"{planted:,}", share(caught, planted), share(named, meant)))
        report.rows.append({"plant": name, "planted": planted, "caught": caught,
                            "named": named, "meant": meant})  # fmt: skip
    kinds = len({document.kind for document in found})
    report.show(
        Table(
            title=f"Planted faults in {len(found):,} real documents of {kinds} kinds",
            columns=("fault", "planted", "called invalid", "right value named"),
            rows=tuple(rows),
        )
    )
    alarms: dict[str, list[bool]] = {}
    for document in found:
        for name, text in untouched(document).items():
            meaning = judge(document, text, as_tool=bool(document.tool))
            alarms.setdefault(name, []).append(meaning.outcome != "complete")
    report.show(
        Table(
            title="The same documents without a fault",
            columns=("written", "documents", "not complete"),
            rows=tuple((n, f"{len(f):,}", share(sum(f), len(f))) for n, f in alarms.items()),
        )
    )


# -- cost --

_SENTENCE = "You can reset your password in the settings, under Security. "


def speed(found: list[Document], report: Report) -> None:
    """CPU that a verdict takes, the best of several rounds."""
    judge = Judge()
    plain = called({})
    document = max(found, key=lambda d: (not d.tool, len(json.dumps(d.value)))) if found else None
    cases = [(f"no schema, {n:,} characters", plain, said(_SENTENCE * (n // len(_SENTENCE) + 1)))
             for n in (60, 600, 6_000)]  # fmt: skip
    cases.append(("a refusal", plain, said("I'm sorry, but I can't help with that.")))
    if document is not None:
        form = {"name": "d", "schema": document.schema}
        asked = called({"response_format": {"type": "json_schema", "json_schema": form}})
        text = json.dumps(document.value)
        cases.append((f"a schema, {len(text):,} characters", asked, said(text)))
        cases.append(("the same, a field missing", asked, said("{}")))
    rows = []
    for name, call, output in cases:
        key = content_hash(call.params)
        best = 1e9
        for _ in range(15):
            began = time.process_time()
            for _ in range(300):
                judge.of(call, "complete", reason="stop", output=output, params=key)
            best = min(best, (time.process_time() - began) / 300)
        rows.append((name, f"{best * 1e6:.1f}"))
        report.rows.append({"case": name, "us": best * 1e6})
    report.show(Table(title="Cost", columns=("answer", "CPU us"), rows=tuple(rows)))


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data", type=Path, required=True, metavar="DIR")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--misses", type=int, default=0, help="print so many wrong verdicts")
    options.add_argument("--speed", action="store_true", help="also what a verdict costs")
    options.add_argument("--json", type=Path, metavar="FILE")
    options.add_argument("--markdown", type=Path, metavar="FILE")
    given = options.parse_args()
    report = Report(bench="meaning", settings={"seeds": given.seeds},
                    versions={"tocsin": tocsin.__version__})  # fmt: skip
    refusals(given.data, given.misses, report)
    found: list[Document] = []
    try:
        found = documents(given.data)
    except FileNotFoundError as error:
        print(f"left out: {error.filename} is not there")
    if found:
        schemas(found, given.seeds, report)
    if given.speed:
        speed(found, report)
    if given.json:
        given.json.write_text(json.dumps({"settings": report.settings, "rows": report.rows}))
    if given.markdown:
        given.markdown.write_text("\n\n".join(table.markdown() for table in report.tables) + "\n")


if __name__ == "__main__":
    main()
