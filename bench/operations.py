"""What it costs that a stream can be rejoined: per event, beside the same stream only proxied.

usage: python bench/operations.py [--streams 32] [--at-once 300,1000] [--seconds 8] [--json FILE]
       [--markdown FILE] [--quick]

One real Tocsin with its default settings stands before a scripted upstream that streams 50 events
of text and one of usage. The same load goes through it in two forms, by turns:

proxied   POST /v1/chat/completions, stream: the upstream's bytes pass through and are recorded
managed   POST /v1/responses, stream: each event is numbered, in the store before the client has
          it, and can be read again from any point

CPU         of Tocsin's process tree, per event of the upstream, work that was put off included
disk        what the data takes more, per event of the upstream, once everything is stored and
            packed; the database's free pages and its write-ahead log, which are used again, are
            not counted
memory      what the process tree has at the most beside what it had before, per open stream
first byte  from the request to the first event
at once     so many connections send their request at the same moment; one event each 100 ms

The load generator and the upstream have one core, Tocsin the other. Each form is warmed up first.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sqlite3
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tocsin
from harness import tocsin as served
from harness.load import CHUNKS, Address, Shape, Upstream, answers, loadgen
from harness.options import integers, plain
from harness.procs import Proc, cpu_seconds, memory_mb, settle, two_cores
from harness.tables import Report, Table, ratio, shown, times
from harness.tools import free_port, fresh

EVENTS = CHUNKS + 1
ROUNDS = 3
DATABASE = "tocsin.db"
STILL_S = 2.0
FAILED = ("err_status", "err_conn", "err_incomplete", "in_flight_at_end")
FORMS = {
    "proxied": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Say it."}]}),
    "managed": ("/v1/responses", {"input": "Say it."}),
}


def bodies(folder: Path) -> dict[str, Path]:
    """The request of each form, as a file for the load generator."""
    made = {}
    for name, (_, asked) in FORMS.items():
        file = folder / f"{name}.json"
        file.write_text(json.dumps({"model": "gpt-4o-mini", "stream": True, **asked}))
        made[name] = file
    return made


def reading(database: Path) -> sqlite3.Connection:
    """A connection that only looks."""
    return sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)


def disk_bytes(folder: Path) -> int:
    """Bytes of the data: the database's pages in use, and all other files."""
    total = 0
    for file in folder.rglob("*"):
        if file.is_file() and not file.name.startswith(DATABASE):
            total += file.stat().st_size
    with contextlib.closing(reading(folder / DATABASE)) as db:
        used, size = db.execute(
            "SELECT page_count - freelist_count, page_size FROM pragma_page_count, "
            "pragma_freelist_count, pragma_page_size"
        ).fetchone()
    return total + int(used) * int(size)


def packed(database: Path, limit: float = 60.0) -> None:
    """Wait until no events of operations are packed any more."""
    began, before, since = time.monotonic(), -1, time.monotonic()
    while time.monotonic() - began < limit and time.monotonic() - since < STILL_S:
        with contextlib.closing(reading(database)) as db:
            (rows,) = db.execute("SELECT count(*) FROM operation_events").fetchone()
        if rows != before:
            before, since = rows, time.monotonic()
        time.sleep(0.25)


class Peak:
    """The most memory that a process tree has while the block lasts, MiB."""

    def __init__(self, pid: int) -> None:
        self.most = 0.0
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.25):
            self.most = max(self.most, memory_mb(self._pid))


class Bench:
    """A running Tocsin before a running upstream."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.here, self.there = two_cores()
        self.upstream = Upstream(folder, self.there)
        self.port = free_port()
        command = served.command(folder, port=self.port, upstream_port=self.upstream.port)
        self.proc = Proc(command, cores={self.here}, log=folder / "tocsin.log")
        self.proc.wait_until(lambda: answers(self.port, served.READY), 30)
        self.bodies = bodies(folder)

    def stop(self) -> None:
        self.proc.stop()
        self.upstream.proc.stop()

    def run(self, form: str, shape: Shape, requests: int = 0) -> dict[str, Any]:
        """One measured load in one form."""
        data = self.folder / "data"
        self.upstream.become(shape)
        settle(self.proc.pid, pause=1.0)
        before, size = cpu_seconds(self.proc.pid), disk_bytes(data)
        idle = memory_mb(self.proc.pid)
        to = Address(
            port=self.port,
            headers=(),
            pid=self.proc.pid,
            path=FORMS[form][0],
            done=form == "proxied",
        )
        with Peak(self.proc.pid) as peak:
            row = loadgen(to, self.bodies[form], shape, self.there, requests)
        settle(self.proc.pid, pause=2.0)
        packed(data / DATABASE)
        row |= {"form": form, "idle_mb": idle, "peak_mb": peak.most}
        if "error" in row:
            return row
        events = (row["started"] - row["in_flight_at_end"]) * EVENTS
        row["cpu_us_per_event"] = 1e6 * (cpu_seconds(self.proc.pid) - before) / max(events, 1)
        row["disk_per_event"] = (disk_bytes(data) - size) / max(events, 1)
        row["kib_per_stream"] = 1024 * max(0.0, peak.most - idle) / shape.conns
        return row


Line = tuple[str, str, int]
"""Name in a row, label, digits."""
LINES: tuple[Line, ...] = (
    ("cpu_us_per_event", "CPU per event, µs", 1),
    ("disk_per_event", "disk per event, bytes", 1),
    ("first_p50", "first byte p50, ms", 0),
    ("first_p99", "first byte p99, ms", 0),
)


MEMORY = ("kib_per_stream", "memory per open stream, KiB", 0)
"""Of a crowd; in a long run the caches of the process grow too."""


def table(title: str, rows: list[dict[str, Any]], more: Sequence[Line] = ()) -> Table:
    """Each form's median, and managed over proxied."""

    def of(form: str, name: str) -> float | None:
        found = [row[name] for row in rows if row["form"] == form and name in row]
        return statistics.median(found) if found else None

    for row in rows:
        if "ttfc_ms" in row:
            row["first_p50"], row["first_p99"] = row["ttfc_ms"]["p50"], row["ttfc_ms"]["p99"]
    lines: list[tuple[str, ...]] = []
    for name, label, digits in (*LINES, *more):
        one, two = of("proxied", name), of("managed", name)
        lines.append((label, shown(one, digits), shown(two, digits), times(ratio(two, one))))
    for label, count in (("answered whole", _good), ("not answered whole", _bad)):
        sums = {form: sum(count(row) for row in rows if row["form"] == form) for form in FORMS}
        lines.append((label, str(sums["proxied"]), str(sums["managed"]), ""))
    return Table(
        title=title, columns=("", "proxied", "managed", "managed / proxied"), rows=tuple(lines)
    )


def _good(row: dict[str, Any]) -> int:
    return int(row.get("ok", 0))


def _bad(row: dict[str, Any]) -> int:
    """Requests that were sent and have no whole answer."""
    return 1 if "error" in row else sum(int(row[name]) for name in FAILED)


def measured(one: Bench, given: argparse.Namespace, report: Report) -> None:
    """All loads, and their tables."""
    rounds, seconds = (1, 2.0) if given.quick else (ROUNDS, given.seconds)
    fast = Shape(
        name="fast", conns=given.streams, seconds=seconds, stream=True, interval_ms=5, warm=0
    )
    for form in FORMS:
        one.run(form, fast, 4 * given.streams)
    rows = [one.run(form, fast) for _ in range(rounds) for form in FORMS]
    report.rows += rows
    report.show(table(f"{given.streams} streams side by side", rows))
    for crowd in (50,) if given.quick else given.at_once:
        # It ends as soon as all are answered.
        slow = Shape(name="crowd", conns=crowd, seconds=40, stream=True, interval_ms=100, warm=0)
        many = [one.run(form, slow, crowd) for form in FORMS]
        report.rows += many
        report.show(table(f"{crowd} streams opened at once", many, [MEMORY]))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=32, help="streams side by side (32)")
    parser.add_argument(
        "--at-once", type=integers, default=(300, 1000), help="streams open at once (300,1000)"
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="of each turn (8)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    given = parser.parse_args()
    one = Bench(fresh("operations"))
    report = Report(bench="operations", settings=plain(given))
    report.versions["tocsin"] = tocsin.__version__
    try:
        measured(one, given, report)
    finally:
        one.stop()
    report.save(given.json, given.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
