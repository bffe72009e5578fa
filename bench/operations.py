"""What it costs that a stream can be rejoined: per event, beside the same stream only proxied.

usage: python bench/operations.py [--streams 32] [--at-once 1000] [--seconds 8] [--json FILE]
       [--markdown FILE] [--quick]

One real Tocsin with its default settings stands before a scripted upstream that streams 50 events
of text and one of usage. The same load goes through it in two forms, by turns:

proxied   POST /v1/chat/completions, stream: the upstream's bytes pass through and are recorded
managed   POST /v1/responses, stream: each event is numbered, in the store before the client has
          it, and can be read again from any point

CPU         of Tocsin's process tree, per event of the upstream, work that was put off included
disk        what the data folder grew by, per event, once everything is stored and packed
at once     so many streams open at the same time, one event each 100 ms: whether all end whole, the
            memory of the process tree beside the idle one, per stream, and CPU per event

The load generator and the upstream have one core, Tocsin the other.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import tocsin
from harness import tocsin as served
from harness.load import CHUNKS, Address, Shape, Upstream, answers, loadgen
from harness.options import plain
from harness.procs import Proc, cpu_seconds, memory_mb, settle, two_cores
from harness.tables import Report, Table, ratio, shown, times
from harness.tools import BENCH, free_port, fresh

EVENTS = CHUNKS + 1
ROUNDS = 3
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


def disk_bytes(folder: Path) -> int:
    """Bytes of all files below, as the file system counts them."""
    done = subprocess.run(
        ["du", "-s", "--block-size=1", str(folder)], capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[0])


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
        self.upstream.become(shape)
        time.sleep(1.0)
        settle(self.proc.pid, pause=0.5)
        before, size = cpu_seconds(self.proc.pid), disk_bytes(self.folder / "data")
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
        row |= {"form": form, "idle_mb": idle, "peak_mb": peak.most}
        if "error" in row:
            return row
        events = (row["started"] - row["in_flight_at_end"]) * EVENTS
        row["cpu_us_per_event"] = 1e6 * (cpu_seconds(self.proc.pid) - before) / max(events, 1)
        row["disk_per_event"] = (disk_bytes(self.folder / "data") - size) / max(events, 1)
        return row


def table(title: str, rows: list[dict[str, Any]], streams: int) -> Table:
    """Each form's median, and managed over proxied."""

    def of(form: str, name: str) -> float | None:
        found = [row[name] for row in rows if row["form"] == form and name in row]
        return statistics.median(found) if found else None

    lines: list[tuple[str, ...]] = []
    for name, label, digits in (
        ("cpu_us_per_event", "CPU per event, µs", 1),
        ("disk_per_event", "disk per event, bytes", 1),
    ):
        one, two = of("proxied", name), of("managed", name)
        lines.append((label, shown(one, digits), shown(two, digits), times(ratio(two, one))))
    for row in rows:
        row["kib_per_stream"] = 1024 * max(0.0, row["peak_mb"] - row["idle_mb"]) / streams
    one, two = of("proxied", "kib_per_stream"), of("managed", "kib_per_stream")
    lines.append(
        ("memory per open stream, KiB", shown(one, 1), shown(two, 1), times(ratio(two, one)))
    )
    errors = {form: sum(_bad(row) for row in rows if row["form"] == form) for form in FORMS}
    lines.append(("not answered whole", str(errors["proxied"]), str(errors["managed"]), ""))
    return Table(
        title=title, columns=("", "proxied", "managed", "managed / proxied"), rows=tuple(lines)
    )


def _bad(row: dict[str, Any]) -> int:
    if "error" in row:
        return 1
    return sum(int(row.get(name, 0)) for name in ("err_status", "err_conn", "err_incomplete"))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=32, help="streams side by side (32)")
    parser.add_argument("--at-once", type=int, default=1000, help="streams open at once (1000)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each turn (8)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    given = parser.parse_args()
    rounds, seconds = (1, 2.0) if given.quick else (ROUNDS, given.seconds)
    crowd = 50 if given.quick else given.at_once
    one = Bench(fresh(BENCH / ".work" / "operations"))
    report = Report(bench="operations", settings=plain(given))
    report.versions["tocsin"] = tocsin.__version__
    try:
        fast = Shape(name="fast", conns=given.streams, seconds=seconds, stream=True, interval_ms=5)
        slow = Shape(name="crowd", conns=crowd, seconds=10, stream=True, interval_ms=100, warm=0)
        rows = [one.run(form, fast) for _ in range(rounds) for form in FORMS]
        many = [one.run(form, slow, crowd) for form in FORMS]
    finally:
        one.stop()
    report.rows = [*rows, *many]
    report.show(table(f"{given.streams} streams side by side", rows, given.streams))
    report.show(table(f"{crowd} streams open at once", many, crowd))
    report.save(given.json, given.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
