"""What it costs to keep every call: bytes on disk, speed, and the dashboard's questions.

An agent sends its whole history again with every call, so plain storage grows with the square of
a run. The same calls are written
  (a) through a running Tocsin, in front of an upstream that gives the recorded answers,
  (b) as plain JSON rows in SQLite, also with every row compressed by itself,
  (c) to Arize Phoenix as the spans that OpenInference's OpenAI instrumentation makes of them.
Disk is read after a clean stop. Two traces: tau-bench (real agent runs, real text) and Mooncake
(the prefix sharing of a real service with made-up text, scaled down).

  python bench/store.py --data DIR                        # about 2 minutes
  python bench/store.py --data DIR --peers phoenix        # about 3 minutes
  python bench/store.py --queries                         # about 10 minutes, 7 GB of disk

--queries asks the dashboard's questions at a million interactions instead: of a running Tocsin over
HTTP, and of one indexed row per call in SQLite in plain SQL.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from harness import options, queries, stores
from harness.procs import StartError
from harness.tables import Report, Table, ratio, shown, times
from harness.tools import Missing
from harness.traces import Call, mooncake, tau_bench

PEERS = ("phoenix",)
Writer = Callable[[Sequence[Call]], stores.Kept]

TITLES = {
    "tau-bench": "tau-bench airline runs of gpt-4o (sierra-research/tau-bench, MIT)",
    "mooncake": "Mooncake conversation trace, made-up text (kvcache-ai/Mooncake, Apache-2.0)",
}


def writers(trace: str, given: argparse.Namespace) -> dict[str, Writer]:
    """The stores that this trace is written to."""
    found: dict[str, Writer] = {
        "tocsin": stores.tocsin_gateway,
        "JSON rows": stores.json_rows,
        "JSON rows, zlib": stores.json_rows_zlib,
    }
    if "phoenix" in given.peers and trace == "tau-bench":
        found["phoenix"] = partial(stores.phoenix, install=True)
        found["phoenix, messages only"] = partial(stores.phoenix, lean=True)
    return {k: v for k, v in found.items() if k.split(",")[0].split()[0] in given.targets}


def calls_of(trace: str, given: argparse.Namespace) -> list[Call]:
    """The calls of a trace, fewer with --quick."""
    if trace == "tau-bench":
        return tau_bench(given.data, limit=20 if given.quick else None)
    return list(mooncake(given.data, scale=given.scale, limit=1000 if given.quick else None))


def measured(trace: str, given: argparse.Namespace, report: Report) -> Table:
    """Write one trace to every store; the rows go to the report."""
    calls = calls_of(trace, given)
    sent = stores.raw_bytes(calls)
    absent, rows = [], []
    for name, write in writers(trace, given).items():
        try:
            kept = write(calls)
        except (Missing, StartError) as problem:
            absent.append(f"{name}: {problem}")
            continue
        row = {
            "kind": "disk",
            "trace": trace,
            "store": name,
            "calls": kept.calls,
            "bytes": kept.bytes,
            "bytes_per_call": kept.bytes / max(1, kept.calls),
            "sent_bytes": sent,
            "seconds": kept.seconds,
            "by_suffix": kept.by_suffix,
            "complete": kept.calls == len(calls),
        }
        rows.append(row)
        print(row, flush=True)
    report.rows += rows
    return disk_table(trace, rows, absent)


def disk_table(trace: str, rows: Sequence[Mapping[str, Any]], absent: Sequence[str]) -> Table:
    """Bytes per call, as a multiple of the first store's."""
    base = rows[0] if rows else {}
    lines = tuple(
        (
            r["store"],
            times(ratio(r["bytes_per_call"], base["bytes_per_call"])),
            times(ratio(r["bytes_per_call"] * r["calls"], r["sent_bytes"])),
            shown(r["bytes_per_call"], 0),
            shown(r["calls"], 0),
            "-" if r["store"] == "tocsin" else shown(ratio(r["calls"], r["seconds"]), 0),
        )
        for r in rows
    )
    columns: tuple[str, ...] = ("store", f"disk / {base.get('store', '-')}", "disk / sent")
    columns += ("bytes on disk per call", "calls", "calls/s")
    sent = ratio(base.get("sent_bytes"), base.get("calls"))
    note = (
        f"{shown(sent, 0)} bytes per call were sent. Tocsin wrote them one by one, as calls came."
    )
    return Table(title=TITLES[trace], columns=columns, rows=lines, note=" ".join([note, *absent]))


def questions(given: argparse.Namespace, report: Report) -> Table:
    """Ask every store that was named the dashboard's questions."""
    now_us = int(time.time() * 1e6)
    asked = {"tocsin": queries.through_tocsin, "JSON": queries.plain}
    for name, ask in asked.items():
        if name in given.targets:
            row = ask(given.interactions, now_us)
            report.rows.append({"kind": "queries", **row})
            print(row, flush=True)
    return queries.table(given.interactions, report.rows)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = options.parser(__doc__ or "", PEERS, data=True)
    targets = ("tocsin", "JSON", "phoenix")
    parser.add_argument("--targets", type=options.names(targets), default=targets)
    parser.add_argument("--traces", type=options.names(tuple(TITLES)), default=tuple(TITLES))
    parser.add_argument("--scale", type=int, default=8, help="Mooncake: this much less text")
    parser.add_argument("--queries", action="store_true", help="the dashboard's questions")
    parser.add_argument("--interactions", type=int, help="for --queries, default 1000000")
    given = parser.parse_args()
    given.interactions = given.interactions or (20_000 if given.quick else 1_000_000)
    return given


def main() -> None:
    given = parsed()
    report = Report(bench="store", settings=options.plain(given))
    if given.queries:
        report.show(questions(given, report))
    for trace in () if given.queries else given.traces:
        try:
            report.show(measured(trace, given, report))
        except Missing as problem:
            print(f"{trace}: {problem}")
    report.save(given.json, given.markdown)


if __name__ == "__main__":
    main()
