"""What a trace server does with OTLP/HTTP: spans/s, time until visible, disk, and kill -9.

Protobuf batches of realistic chat spans (about 5.5 kB each, serialised beforehand) are posted by
a few threads; a 429 or 503 is retried after 50 ms and counted. The server is pinned to one core,
the client to another. "Visible" means that the server's own API counts the span.

--kill ends the server with kill -9 while it takes spans in, starts it again on the same folder and
counts which acknowledged spans are gone, and which are there twice: once at a trickle that every
server keeps up with, and once as fast as it acknowledges.

  python bench/otlp.py                              # tocsin: about 2 minutes
  python bench/otlp.py --peers phoenix              # about 5 minutes
  python bench/otlp.py --peers phoenix --kill       # about 5 minutes
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

from harness import options
from harness.otlp_client import Batch, Client, visible_after
from harness.procs import StartError, cpu_seconds, memory_mb, settle, two_cores
from harness.servers import Server, disk, server
from harness.spans import batches
from harness.tables import Report, Table, median, ratio, shown, times
from harness.tools import Missing

PEERS = ("phoenix",)
TRICKLE = 50
"""Spans per second, in batches of 10, that every server here keeps up with on one core."""

Load = Sequence[Batch]
Loads = Mapping[int, Load]
"""Pace in spans/s (0: flood) → batches."""


def warmed(one: Server, given: argparse.Namespace) -> float | None:
    """Send a few batches to an idle server; milliseconds until a batch is visible, the median."""
    seen, found = one.visible(), []
    for sent in batches(8, given.batch, given.flavour, seed=98):
        began = time.perf_counter()
        Client(one, [sent], threads=1).join()
        seen += given.batch
        if visible_after(one, seen, seconds=30):
            found.append(1000 * (time.perf_counter() - began))
    return median(found[3:])


def ingest(one: Server, given: argparse.Namespace, load: Load) -> dict[str, Any]:
    """Take all batches in as fast as the server acknowledges them."""
    row: dict[str, Any] = {"kind": "ingest", "server": one.name, "started_s": one.start()}
    assert one.proc is not None
    one.proc.stop(grace=60)
    empty = disk(one)
    one.start()
    row["idle_batch_visible_ms"] = warmed(one, given)
    before, cpu0 = one.visible(), cpu_seconds(one.proc.pid)
    began = time.perf_counter()
    client = Client(one, load, threads=given.threads)
    client.join(given.max_seconds)
    acked_s = time.perf_counter() - began
    client.stop()
    acked = len(client.acked) * given.batch
    backlog = acked - (one.visible() - before)
    left = max(1.0, given.max_seconds - acked_s)
    complete = visible_after(one, before + acked, seconds=left, every=0.25)
    visible_s = time.perf_counter() - began
    settle(one.proc.pid, pause=1.2)  # work that the server put off is its own all the same
    stored = one.visible()
    spans = stored - before
    cpu = cpu_seconds(one.proc.pid) - cpu0
    row |= {
        "spans": spans,
        "acknowledged": acked,
        "acknowledged_per_s": acked / acked_s,
        "visible_per_s": spans / visible_s,
        "all_visible": complete,
        "backlog_at_last_acknowledgement": backlog,
        "bytes_sent_per_span": sum(len(b) for _, b in load) / len(load) / given.batch,
        "cpu_us_per_span": ratio(1e6 * cpu, spans),
        "memory_mb": memory_mb(one.proc.pid),
        "acknowledged_p50_ms": client.percentile(0.5),
        "acknowledged_p99_ms": client.percentile(0.99),
        "retries": client.retries,
        "errors": client.errors,
    }
    one.proc.stop(grace=60)
    row["disk_bytes_per_span"] = ratio(disk(one) - empty, stored)
    return row


def killed(one: Server, given: argparse.Namespace, load: Load, pace: int) -> dict[str, Any]:
    """kill -9 at a random moment of the ingest, a restart, and what is left.

    ``pace`` is in spans/s; 0 sends as fast as the server acknowledges.
    """
    one.start()
    size = len(load[0][0])
    client = Client(one, load, threads=given.threads, per_second=pace / size)
    time.sleep(random.uniform(0.3, 1.0) * given.kill_seconds)
    running = client.running()
    client.stop()  # no retry may repair what the kill breaks
    assert one.proc is not None
    one.proc.kill()
    client.join(10)
    restart_s = one.start()
    time.sleep(3)
    kept = one.span_ids()
    acked = [span for ids in client.acked for span in ids]
    return {
        "kind": "kill",
        "server": one.name,
        "pace": pace,
        "while_ingesting": running,
        "acknowledged": len(acked),
        "lost": sum(1 for span in acked if not kept[span]),
        "stored": sum(kept.values()),
        "twice": sum(1 for n in kept.values() if n > 1),
        "restart_s": restart_s,
    }


def ingest_table(rows: Sequence[Mapping[str, Any]], base: str) -> Table:
    """One line per server, ratios against ``base`` first."""
    known = {r["server"]: r for r in rows if r["kind"] == "ingest"}
    reference = known.get(base, {})

    def over(row: Mapping[str, Any], key: str) -> str:
        return times(ratio(row[key], reference.get(key)))

    lines = tuple(
        (
            name,
            over(r, "visible_per_s"),
            over(r, "cpu_us_per_span"),
            over(r, "disk_bytes_per_span"),
            shown(r["acknowledged_per_s"], 0),
            shown(r["visible_per_s"], 0),
            shown(r["backlog_at_last_acknowledgement"], 0),
            shown(r["idle_batch_visible_ms"], 0),
            shown(r["cpu_us_per_span"], 0),
            shown(r["disk_bytes_per_span"], 0),
            shown(r["memory_mb"], 0),
            f"{r['retries']} / {sum(r['errors'].values())}",
        )
        for name, r in known.items()
    )
    columns: tuple[str, ...] = ("server", f"visible/s / {base}", f"CPU / {base}", f"disk / {base}")
    columns += ("acknowledged/s", "visible/s", "behind at last ack", "idle batch visible ms")
    columns += ("CPU us/span", "disk bytes/span", "MiB", "retries / errors")
    sent = median(r["bytes_sent_per_span"] for r in known.values())
    note = f"{shown(sent, 0)} bytes per span were sent."
    return Table(title="OTLP ingest on one core", columns=columns, rows=lines, note=note)


def kill_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line per server over all its kills."""
    lines = []
    for pace, name in dict.fromkeys((r["pace"], r["server"]) for r in rows):
        own = [r for r in rows if (r["pace"], r["server"]) == (pace, name)]
        lost, acked = sum(r["lost"] for r in own), sum(r["acknowledged"] for r in own)
        lines.append(
            (
                name,
                f"{pace} spans/s" if pace else "flood",
                shown(100 * lost / acked if acked else None, 2, " %"),
                f"{lost:,}",
                f"{acked:,}",
                f"{sum(r['twice'] for r in own):,}",
                f"{sum(r['while_ingesting'] for r in own)} of {len(own)}",
                shown(median(r["restart_s"] for r in own), 1),
            )
        )
    columns: tuple[str, ...] = ("server", "sent at", "lost", "spans lost", "acknowledged")
    columns += ("stored twice", "kills that met it at work", "restart s")
    return Table(title="kill -9 while spans come in", columns=columns, rows=tuple(lines))


def measure(name: str, given: argparse.Namespace, report: Report, loads: Loads) -> None:
    """All runs of one server, each on an empty folder."""
    plan = [pace for pace in loads for _ in range(given.tries)] if given.kill else [0]
    for pace in plan:
        one = server(name, install=name in given.peers)
        report.versions[name] = one.version
        try:
            load = loads[pace]
            row = killed(one, given, load, pace) if given.kill else ingest(one, given, load)
            report.rows.append(row)
            print(f"{name}: {row}", flush=True)
        finally:
            if one.proc is not None:
                one.proc.stop()


def parsed() -> argparse.Namespace:
    """The command line, with the smaller defaults of --quick filled in."""
    parser = options.parser(__doc__ or "", PEERS)
    parser.add_argument("--targets", type=options.names(("tocsin", *PEERS)), default=("tocsin",))
    parser.add_argument("--spans", type=int, help="default 10000")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--threads", type=int, default=4)
    flavours = ("openinference", "genai")
    parser.add_argument("--flavour", choices=flavours, default="openinference")
    parser.add_argument("--max-seconds", type=float, default=120, help="of one ingest")
    parser.add_argument("--kill", action="store_true", help="kill -9 instead of measuring speed")
    parser.add_argument("--tries", type=int, help="kills per server and pace, default 3")
    parser.add_argument("--kill-seconds", type=float, default=4, help="latest moment of the kill")
    given = parser.parse_args()
    given.spans = given.spans or (2000 if given.quick else 10_000)
    given.tries = given.tries or (1 if given.quick else 3)
    given.targets += tuple(x for x in given.peers if x not in given.targets)
    return given


def main() -> None:
    given = parsed()
    report = Report(bench="otlp", settings=options.plain(given))
    os.sched_setaffinity(0, {two_cores()[1]})
    # A kill must meet a server at work, so that run has more to send than it can get through.
    count = given.spans // given.batch * (5 if given.kill else 1)
    loads: dict[int, Load] = {0: batches(count, given.batch, given.flavour, seed=97)}
    if given.kill:
        trickle = int(TRICKLE * given.kill_seconds / 10) + given.threads
        loads[TRICKLE] = batches(trickle, 10, given.flavour, seed=96)
    absent = []
    for name in given.targets:
        try:
            measure(name, given, report, loads)
        except (Missing, StartError) as problem:
            absent.append((name, str(problem)))
    if report.rows:
        base = (
            given.targets[0] if given.targets[0] not in dict(absent) else report.rows[0]["server"]
        )
        report.show(kill_table(report.rows) if given.kill else ingest_table(report.rows, base))
    if absent:
        report.show(Table(title="Not measured", columns=("server", "why"), rows=tuple(absent)))
    report.save(given.json, given.markdown)


if __name__ == "__main__":
    main()
