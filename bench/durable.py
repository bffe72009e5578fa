"""What a durable background operation costs: Tocsin's own engine, and DBOS on SQLite as a peer.

The same work on both, in a process each: a remembered step, a sleep of 50 ms, a second step. First
one start after the other (how long a caller waits until the work is durable), then fifty at a time
(CPU per operation, operations/s, memory), then nothing (what the idle engine uses).

  python bench/durable.py                       # about a minute
  python bench/durable.py --peers dbos          # about 5 minutes; pip installs DBOS at first use
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import options
from harness.tables import Report, Table, median, ratio, shown, times
from harness.tools import HARNESS, Missing, fresh, venv, version

PEERS = ("dbos",)
FIGURES = ("cpu_ms", "start_ms", "per_s", "ready_mb", "peak_mb", "idle_ms_per_s")


def measured(name: str, python: Path, given: argparse.Namespace, number: int) -> dict[str, Any]:
    """One round of one target, in a process of its own."""
    settings = {
        "folder": str(fresh(f"durable-{name}-{number}")),
        "operations": given.operations,
        "serial": given.serial,
        "at_once": given.at_once,
        "idle_s": given.idle,
    }
    done = subprocess.run(
        # -P: a module of the harness is named as the package that is measured.
        [str(python), "-P", str(HARNESS / "durable_targets.py"), name],
        input=json.dumps(settings),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"target": name, "round": number, **found}


def table(
    rows: Sequence[Mapping[str, Any]], absent: Sequence[str], operations: int, at_once: int
) -> Table:
    """Medians over rounds; ratios are taken inside each round."""
    names = list(dict.fromkeys(row["target"] for row in rows))
    ours = {row["round"]: row for row in rows if row["target"] == "tocsin"}
    lines = []
    for name in names:
        own = [row for row in rows if row["target"] == name]
        ratios = {
            figure: median(
                ratio(row[figure], ours[row["round"]][figure])
                for row in own
                if row["round"] in ours
            )
            for figure in FIGURES
        }
        figures = {figure: median(row[figure] for row in own) for figure in FIGURES}
        lines.append(
            (
                name,
                times(ratios["cpu_ms"]),
                times(ratios["start_ms"]),
                times(ratios["peak_mb"]),
                shown(figures["cpu_ms"]),
                shown(figures["start_ms"]),
                shown(figures["per_s"], 0),
                shown(figures["ready_mb"], 0),
                shown(figures["peak_mb"], 0),
                shown(figures["idle_ms_per_s"], 1),
            )
        )
    columns = (
        "engine",
        "CPU / tocsin",
        "start / tocsin",
        "memory / tocsin",
        "CPU ms per operation",
    )
    columns += ("start ms", "operations/s", "MiB ready", "MiB peak", "idle CPU ms per s")
    note = "Each with two remembered steps and a result; SQLite on both sides."
    return Table(
        title=f"{operations} durable background operations, {at_once} at a time",
        columns=columns,
        rows=tuple(lines),
        note=" ".join([note, *absent]),
    )


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = options.parser(__doc__ or "", PEERS)
    parser.add_argument("--operations", type=int, help="default 1000")
    parser.add_argument("--at-once", type=int, default=50, metavar="N")
    parser.add_argument("--serial", type=int, default=100, help="one after the other")
    parser.add_argument("--rounds", type=int, help="default 3")
    parser.add_argument("--idle", type=float, default=5.0, metavar="SECONDS")
    given = parser.parse_args()
    given.operations = given.operations or (100 if given.quick else 1000)
    given.rounds = given.rounds or (1 if given.quick else 3)
    return given


def main() -> None:
    given = parsed()
    report = Report(bench="durable", settings=options.plain(given))
    pythons, absent = {"tocsin": Path(sys.executable)}, []
    for name in given.peers:
        try:
            pythons[name] = venv(name, install=True) / "python"
        except (Missing, subprocess.CalledProcessError) as problem:
            absent.append(f"{name}: cannot be installed ({problem}).")
    report.versions = {name: version(python, name) for name, python in pythons.items()}
    for number in range(given.rounds):
        for name, python in pythons.items():
            report.rows.append(measured(name, python, given, number))
            print(report.rows[-1], flush=True)
    report.show(table(report.rows, absent, given.operations, given.at_once))
    report.save(given.json, given.markdown)


if __name__ == "__main__":
    main()
