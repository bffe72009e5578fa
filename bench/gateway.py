"""What a gateway costs: CPU per request, latency it adds, streaming, memory, time to start.

Every target stands in front of the same scripted upstream. The target is pinned to one core, the
upstream and the load generator to another, so "rps" means "requests per second on one core".
Every round visits every cell, and ratios are taken inside a round, so they come from the same
minutes of the same machine. CPU per request hardly depends on what else runs: trust it first.

  python bench/gateway.py                            # tocsin, its floors, nginx: about 8 minutes
  python bench/gateway.py --peers litellm            # about 10 minutes
  python bench/gateway.py --quick --targets direct,nginx,tocsin
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any

from harness import gateway_tables, options, tocsin
from harness.bodies import written
from harness.load import Shape, Upstream, cell, loadgen
from harness.procs import StartError, two_cores
from harness.tables import Report
from harness.targets import PEERS, TARGETS, Running
from harness.tools import Missing, fresh

MARKS = (20_000, 200_000)
"""After how many requests memory is read."""
SLOW_SECONDS = 8.0


def shapes(given: argparse.Namespace) -> list[Shape]:
    """The shapes of load that were asked for, in the order in which a round visits them."""
    seconds = given.seconds
    found: list[Shape] = []
    if "plain" in given.modes:
        found += [Shape(name=f"plain-{n}", conns=n, seconds=seconds) for n in given.conns]
    if "open" in given.modes:
        found += [
            Shape(name=f"open-{rate}", conns=64, seconds=seconds, rate=rate, latency_ms=50)
            for rate in given.rates
        ]
    if "stream" in given.modes:
        paced = functools.partial(Shape, stream=True, latency_ms=20, interval_ms=10)
        found += [paced(name=f"stream-{n}", conns=n, seconds=2 * seconds) for n in given.streams]
    return found


class Bench:
    """One run of this script: the folder, the cores, the upstream, and what was found."""

    def __init__(self, given: argparse.Namespace, report: Report) -> None:
        self.given, self.report = given, report
        self.target_core, self.load_core = two_cores()
        folder = fresh("gateway")
        self.plain, self.stream = written(folder)
        self.upstream = Upstream(folder, self.load_core)
        self.absent: dict[str, str] = {}
        self.ends = time.monotonic() + given.minutes * 60

    def start(self, name: str) -> Running | None:
        """A started target, or None with the reason kept for its row."""
        try:
            running = Running(
                name,
                upstream=self.upstream.port,
                core=self.target_core,
                install=name in self.given.peers,
            )
        except (Missing, StartError) as problem:
            self.absent[name] = str(problem)
            print(f"{name}: {problem}", flush=True)
            return None
        if running.version:
            self.report.versions[name] = running.version
        return running

    @contextlib.contextmanager
    def started(self, names: Sequence[str]) -> Iterator[list[Running]]:
        """Those targets that can run here, all at once."""
        with contextlib.ExitStack() as stack:
            running = []
            for name in names:
                if name not in self.absent and (one := self.start(name)):
                    stack.callback(one.stop)
                    running.append(one)
            yield running

    def memory(self, name: str) -> None:
        """One fresh target: time to its first 200, then memory at the marks."""
        self.upstream.become(Shape(name="memory", conns=64, seconds=1))
        with self.started([name]) as found:
            for target in found:
                row: dict[str, Any] = {
                    "kind": "memory",
                    "target": name,
                    "first_200_s": target.first_200_s,
                    "start_mb": target.memory(),
                }
                self._soak(target, row)
                self.report.rows.append(row)
                print(f"memory {name}: {row}", flush=True)

    def _soak(self, target: Running, row: dict[str, Any]) -> None:
        """Send requests up to each mark, within the time one target may take."""
        if target.proc is None:
            return
        share = 0.5 if target.slow else 1.0  # no time would take it to the second mark
        ends, done = time.monotonic() + share * self.given.soak_seconds, 0
        for mark in MARKS[:1] if self.given.quick else MARKS:
            left = ends - time.monotonic()
            if left < 1:
                break
            shape = Shape(name="memory", conns=64, seconds=left, warm=0)
            result = loadgen(target.address, self.plain, shape, self.load_core, mark - done)
            if "error" in result:
                row["error"] = result["error"]
                break
            done += result["started"] - result["in_flight_at_end"]
            row["requests"] = done
            row[f"after_{mark}_mb" if done >= mark else "end_mb"] = target.memory()

    def rounds(self, names: Sequence[str]) -> None:
        """All cells, round by round; no new round begins after the time allowed."""
        planned = shapes(self.given)
        if not planned:
            return
        with self.started(names) as running:
            for target in running:  # reach a steady state before anything counts
                self.one(target, Shape(name="warm", conns=8, seconds=self.given.seconds / 2), -1)
            for turn in range(self.given.rounds):
                if turn and time.monotonic() > self.ends:
                    print(f"stopped after {turn} rounds: {self.given.minutes} minutes are up")
                    break
                for shape in planned:
                    self.upstream.become(shape)
                    for target in running:
                        self.one(target, shape, turn)
            self._count_records(running)

    def one(self, target: Running, shape: Shape, turn: int) -> None:
        """Measure one cell and keep it; on a busy machine the cleaner of two tries counts."""
        if target.slow and shape.conns > 1 and not shape.rate:
            # Its latency is near the length of a cell: give it time to finish something.
            shape = dataclasses.replace(shape, seconds=max(shape.seconds, SLOW_SECONDS))
        best: dict[str, Any] | None = None
        for _ in range(1 + self.given.retries):
            body = self.stream if shape.stream else self.plain
            row = cell(target.address, body, shape, self.load_core, self.upstream)
            target.sent += row.get("started", 0)
            if best is None or row["foreign_cores"] < best["foreign_cores"]:
                best = row
            if row["foreign_cores"] <= 0.2:
                break
        assert best is not None
        best |= {"kind": "cell", "target": target.name, "shape": shape.name, "round": turn}
        if turn >= 0:
            self.report.rows.append(best)
        print(gateway_tables.line(best), flush=True)

    def _count_records(self, running: Sequence[Running]) -> None:
        """Tocsin claims to record every call exactly once: count them."""
        for target in running:
            if target.name.startswith("tocsin"):
                # One more than the load generator sent: the request that waited for the first 200.
                sent = target.sent + 1
                kept = tocsin.Api(target.folder, target.address.port).recorded()
                row = {"kind": "records", "target": target.name, "sent": sent, "recorded": kept}
                self.report.rows.append(row)


def parsed() -> argparse.Namespace:
    """The command line, with the smaller defaults of --quick filled in."""
    parser = options.parser(__doc__ or "", PEERS)
    light = tuple(name for name in TARGETS if name not in PEERS)
    parser.add_argument("--targets", type=options.names(tuple(TARGETS)), default=light)
    modes = ("memory", "plain", "open", "stream")
    parser.add_argument("--modes", type=options.names(modes), default=modes)
    parser.add_argument("--conns", type=options.integers, help="default 1,16,64,256")
    parser.add_argument("--rates", type=options.integers, help="open loop, requests/s: 100,600")
    parser.add_argument("--streams", type=options.integers, default=(64,), help="default 64")
    parser.add_argument("--rounds", type=int, help="default 3")
    parser.add_argument("--seconds", type=float, help="per cell, default 2.5")
    parser.add_argument("--soak-seconds", type=float, help="memory, per target, default 90")
    parser.add_argument("--retries", type=int, default=0, help="of a cell on a busy machine")
    parser.add_argument("--minutes", type=float, default=10, help="no new round begins later")
    parser.add_argument("--base", default="nginx", help="ratios are taken against this target")
    given = parser.parse_args()
    quick = given.quick
    given.conns = given.conns or ((1, 64) if quick else (1, 16, 64, 256))
    given.rates = given.rates or ((100,) if quick else (100, 600))
    given.rounds = given.rounds or (1 if quick else 3)
    given.seconds = given.seconds or (1.0 if quick else 2.5)
    given.soak_seconds = given.soak_seconds or (10 if quick else 90)
    given.targets += tuple(x for x in given.peers if x not in given.targets)
    return given


def main() -> None:
    given = parsed()
    report = Report(bench="gateway", settings=options.plain(given))
    bench = Bench(given, report)
    try:
        if "memory" in given.modes:
            for name in given.targets:
                bench.memory(name)
        bench.rounds(given.targets)
    finally:
        bench.upstream.proc.stop()
    for table in gateway_tables.tables(report.rows, bench.absent, given.base):
        report.show(table)
    report.save(given.json, given.markdown)


if __name__ == "__main__":
    main()
