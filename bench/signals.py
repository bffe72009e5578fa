"""Evaluating a million interactions off the path of calls, and what that costs the calls.

  python bench/signals.py                    # everything, about 50 minutes, 3 GB of disk
  python bench/signals.py --parts evaluate   # throughput, memory, growth of the store, questions
  python bench/signals.py --parts overhead   # a gateway that evaluates beside one that does not
  python bench/signals.py --quick            # 20,000 interactions: a smoke run, not a figure

The interactions are those of bench/store.py --queries: runs that send their history with each call.
They are evaluated by all of Tocsin's evaluators, the first 100,000 by one process, the others on
two cores; rates are those since the row before. The two gateways of the second part stand in front
of the same upstream; rounds alternate between them, so both see the same minutes of the same
machine. The evaluating process may use both cores, as a user's would.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from harness import options, tocsin, tocsin_entries
from harness.bodies import written
from harness.load import Address, Shape, Upstream, answers, loadgen
from harness.million import WEEK_US, Facts
from harness.procs import Proc, cpu_seconds, memory_mb, settle, two_cores
from harness.tables import Report, Table, ratio, shown
from harness.tools import BENCH, free_port, fresh
from tocsin.store import Store

PARTS = ("evaluate", "overhead")
RATES = (50, 200)
AGAIN = 7
_BATCH = 500
_DAY_US = WEEK_US // 7


# -- evaluating --


def filled(folder: Path, count: int, now_us: int) -> None:
    """Append the facts to the store of ``folder``."""
    with closing(tocsin_entries.opened_store(folder)) as store:
        waiting = []
        for fact in Facts(count, now_us):
            waiting.append(tocsin_entries.entry(fact))
            if len(waiting) == _BATCH:
                store.append(waiting)
                waiting.clear()
        store.append(waiting)


def evaluated(folder: Path, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Evaluate the store in a process of its own; its rows as they come."""
    cmd = [sys.executable, "-m", "harness.evaluated", str(folder)]
    cmd += [str(given.interactions), str(given.minutes)]
    with subprocess.Popen(cmd, stdout=subprocess.PIPE, text=True, cwd=BENCH) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)


def questions(store: Store, now_us: int) -> dict[str, Callable[[], object]]:
    """What the pages ask of the store, by name."""
    week, month = now_us - WEEK_US, now_us - 30 * _DAY_US
    signal = {"feature": "support", "signal": "appropriate"}
    return {
        "all signals, all features, last day": lambda: store.signal_totals(
            since=now_us - _DAY_US, until=now_us
        ),
        "all signals, all features, 30 days by day": lambda: store.signal_points(
            grain="day", since=month, until=now_us
        ),
        "one signal, 7 days by hour": lambda: store.signal_points(
            grain="hour", since=week, until=now_us, **signal
        ),
        "one signal, last hour by 5 minutes": lambda: store.signal_points(
            grain="minutes", since=now_us - _DAY_US // 24, until=now_us, **signal
        ),
        "one signal by release, 7 days": lambda: store.signal_totals(
            since=week, until=now_us, dimension="release", **signal
        ),
        "one signal by prompt, 7 days by day": lambda: store.signal_points(
            grain="day", since=week, until=now_us, dimension="prompt", **signal
        ),
        "2,000 newest calls with their scores": lambda: store.scored("support", limit=2000),
        "200 newest of a release": lambda: store.scored(
            "support", slice=("release", "2026-11-02"), limit=200
        ),
        "what is said of one call": lambda: store.scores("call_bench000000000001000"),
        "500 entries for evaluators": lambda: store.recorded_after(1000, limit=500),
    }


def asked(folder: Path, now_us: int) -> dict[str, list[float]]:
    """Milliseconds of every answer, the first one on cold caches of the process."""
    found: dict[str, list[float]] = {}
    with closing(tocsin_entries.opened_store(folder)) as store:
        for question, ask in questions(store, now_us).items():
            found[question] = []
            for _ in range(AGAIN):
                began = time.perf_counter()
                ask()
                found[question].append(1000 * (time.perf_counter() - began))
    return found


def evaluating(given: argparse.Namespace, report: Report) -> None:
    """Throughput, memory, growth, and the pages' questions."""
    folder, now_us = fresh("signals"), int(time.time() * 1e6)
    began = time.monotonic()
    filled(folder, given.interactions, now_us)
    print(f"{given.interactions} interactions written in {time.monotonic() - began:.0f} s")
    rows = []
    for row in evaluated(folder, given):
        rows.append(row)
        print(row, flush=True)
    report.rows += [{"kind": "evaluate", **row} for row in rows]
    lines = tuple(
        (
            f"{row['done']:,}",
            str(row["processes"]),
            shown(row["per_second"], 0),
            shown(row["cpu_ms"], 2),
            shown(row["memory_mb"], 0),
            shown(row["bytes_per_call"], 0),
        )
        for row in rows
    )
    columns = ("up to", "processes", "per second", "ms CPU each", "memory, MiB", "bytes each")
    report.show(Table(title="Evaluating off the path", columns=columns, rows=lines))
    times = asked(folder, now_us)
    report.rows.append({"kind": "questions", "ms": times})
    asked_lines = tuple(
        (question, shown(statistics.median(ms[1:]), 1), shown(ms[0], 1))
        for question, ms in times.items()
    )
    title = f"What pages ask, at {rows[-1]['done']:,} evaluated interactions"
    report.show(Table(title=title, columns=("question", "ms", "first, ms"), rows=asked_lines))


# -- overhead --


@contextlib.contextmanager
def gateway(name: str, upstream: Upstream, *, evaluate: bool) -> Iterator[Address]:
    """A running Tocsin; ``evaluate`` is the one setting that differs."""
    folder, port = fresh(f"signals-{name}"), free_port()
    cmd = tocsin.command(folder, port=port, upstream_port=upstream.port)
    file = folder / "tocsin.toml"
    file.write_text(file.read_text() + f"\n[signals]\nevaluate = {str(evaluate).lower()}\n")
    cores = set(two_cores())
    with Proc(cmd, cores=cores, log=folder / "server.log", cwd=folder) as proc:
        proc.wait_until(lambda: answers(port, tocsin.READY), 60)
        yield Address(
            port=port, headers=("Authorization: Bearer sk-bench",), pid=proc.pid, pause=1.2
        )


def own_cpu(pid: int) -> float:
    """Seconds of CPU of the serving process alone, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(x) for x in fields[11:13]) / 100


def overhead(given: argparse.Namespace, report: Report) -> None:
    """Latency and CPU of calls with evaluating off and on, in turns."""
    core = two_cores()[1]
    folder = fresh("signals-load")
    body, _ = written(folder)
    upstream = Upstream(folder, core)
    rows: list[dict[str, Any]] = []
    try:
        with (
            gateway("off", upstream, evaluate=False) as off,
            gateway("on", upstream, evaluate=True) as on,
        ):
            for rate in RATES[:1] if given.quick else RATES:
                shape = Shape(
                    name="open", conns=64, seconds=given.seconds, rate=rate, latency_ms=50
                )
                upstream.become(shape)
                for _ in range(given.rounds):
                    for name, to in (("off", off), ("on", on)):
                        rows.append({"rate": rate, "evaluate": name, **_one(to, body, shape, core)})
                        print(rows[-1], flush=True)
    finally:
        upstream.proc.stop()
    report.rows += [{"kind": "overhead", **row} for row in rows]
    report.show(_overhead_table(rows))


def _one(to: Address, body: Path, shape: Shape, core: int) -> dict[str, Any]:
    assert to.pid is not None
    own, tree = own_cpu(to.pid), cpu_seconds(to.pid)
    result = loadgen(to, body, shape, core)
    serving = own_cpu(to.pid) - own
    settle(to.pid, limit=60, pause=to.pause)
    calls = max(1, result.get("started", 0))
    latency = result.get("lat_ms", {})
    return {
        "p50_ms": latency.get("p50"),
        "p99_ms": latency.get("p99"),
        "serving_us": 1e6 * serving / calls,
        "all_us": 1e6 * (cpu_seconds(to.pid) - tree) / calls,
        "memory_mb": memory_mb(to.pid),
    }


def _overhead_table(rows: list[dict[str, Any]]) -> Table:
    lines = []
    for rate in dict.fromkeys(row["rate"] for row in rows):
        by = {
            name: [row for row in rows if (row["rate"], row["evaluate"]) == (rate, name)]
            for name in ("off", "on")
        }

        def middle(name: str, what: str, by: dict[str, list[dict[str, Any]]] = by) -> float:
            return statistics.median(row[what] for row in by[name])

        for name in ("off", "on"):
            lines.append(
                (
                    f"{rate}/s, evaluating {name}",
                    shown(middle(name, "p50_ms") - 50, 2),
                    shown(middle(name, "p99_ms") - 50, 2),
                    shown(middle(name, "serving_us"), 0),
                    shown(middle(name, "all_us"), 0),
                    shown(middle(name, "memory_mb"), 0),
                    shown(ratio(middle(name, "serving_us"), middle("off", "serving_us")), 2),
                )
            )
    columns = ("load", "added p50, ms", "added p99, ms", "serving, us CPU", "all, us CPU")
    columns += ("all, MiB", "serving / off")
    note = "Medians of rounds. The upstream takes 50 ms; what is above is the gateway's."
    return Table(title="What calls notice", columns=columns, rows=tuple(lines), note=note)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = options.parser(__doc__ or "", ())
    parser.add_argument("--parts", type=options.names(PARTS), default=PARTS)
    parser.add_argument("--interactions", type=int, help="default 1000000")
    parser.add_argument("--minutes", type=float, default=60, help="longest time to evaluate")
    parser.add_argument("--rounds", type=int, default=5, help="of each gateway at each rate")
    parser.add_argument("--seconds", type=float, default=10, help="of each round")
    given = parser.parse_args()
    given.interactions = given.interactions or (20_000 if given.quick else 1_000_000)
    if given.quick:
        given.rounds, given.seconds = 2, 4
    return given


def main() -> None:
    given = parsed()
    report = Report(bench="signals", settings=options.plain(given))
    if "evaluate" in given.parts:
        evaluating(given, report)
    if "overhead" in given.parts:
        overhead(given, report)
    report.save(given.json, given.markdown)


if __name__ == "__main__":
    main()
