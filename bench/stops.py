"""The kill switch: from the command to the last byte of every stream in flight.

usage: python bench/stops.py [--streams 200] [--rounds 20] [--json FILE] [--markdown FILE] [--quick]

One Tocsin streams from a scripted upstream to many clients. Then everything is stopped:

  api      by an operator's request to the admin API of the serving process
  command  by `tocsin stop --all`, a process of its own that only writes to the store; timed from
           the order (what the stop's row says) and from the start of the command, which includes
           starting Python

Each stream is one sample: the time from there until its client has its last byte. The upstream,
the clients and this script share one core, Tocsin has the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import options, tocsin
from harness.load import Shape, Upstream, answers, post
from harness.procs import Proc, two_cores
from harness.tables import Report, Table
from harness.tools import free_port, fresh, version

EVENT_MS = 150
"""Pause between two events of a stream: fifty of them take longer than a round."""
WAYS = ("api", "command")
BODY = json.dumps(
    {"model": "gpt-4o-mini", "stream": True, "messages": [{"role": "user", "content": "Go on."}]}
).encode()


class Stream:
    """One client that reads a stream: raw HTTP, so that the last byte is the last byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.tail = b""
        self.last_at = 0.0

    @classmethod
    async def open(cls, port: int) -> Stream:
        """A stream whose first event has come."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
            "content-type: application/json\r\nconnection: close\r\n"
            f"content-length: {len(BODY)}\r\n\r\n".encode()
            + BODY
        )
        await reader.readuntil(b"data: ")
        return cls(reader, writer)

    async def read(self) -> None:
        """Until the end; the time of the last byte is kept."""
        while data := await self._reader.read(65536):
            self.last_at = time.time()
            self.tail = (self.tail + data)[-4096:]
        self._writer.close()

    @property
    def stopped(self) -> bool:
        """Whether it ended with the error of the kill switch, and whole."""
        return b'"code":"stopped"' in self.tail and self.tail.endswith(b"0\r\n\r\n")


class Bench:
    """One Tocsin with its upstream, an operator's key, and what was found."""

    def __init__(self, given: argparse.Namespace, report: Report) -> None:
        self.given, self.report = given, report
        self.folder = fresh("stops")
        target_core, self.core = two_cores()
        self.upstream = Upstream(self.folder, self.core)
        self.upstream.become(Shape(name="stops", conns=1, seconds=1, interval_ms=EVENT_MS))
        self.port = free_port()
        cmd: Sequence[str | Path] = tocsin.command(
            self.folder, port=self.port, upstream_port=self.upstream.port
        )
        self.proc = Proc(cmd, cores={target_core}, log=self.folder / "tocsin.log")
        self.proc.wait_until(lambda: answers(self.port, tocsin.READY), 60)
        issued = self.command("keys", "issue", "bench", "--role", "operator")
        self.headers = {"Authorization": f"Bearer {issued['secret']}"}

    def command(self, *words: str) -> Any:
        """What a command of another process prints."""
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tocsin", *words),
                *("--json", "--config", str(self.folder / "tocsin.toml")),
            ],
            capture_output=True,
            text=True,
            check=True,
            cwd=self.folder,
        )
        return json.loads(done.stdout)

    def api(self, path: str, **body: str) -> Any:
        """What the serving process answers an operator."""
        return json.loads(post(self.port, path, json.dumps(body).encode(), self.headers))

    def order(self, way: str) -> Any:
        """Stop everything; the stop as the store has it."""
        if way == "command":
            return self.command("stop", "--all", "--yes", "--reason", "bench")
        return self.api("/api/stops", scope="all", action="kill", reason="bench")

    async def round(self, way: str) -> dict[str, Any]:
        """Open the streams, stop them, and see when each had its last byte."""
        streams = [await Stream.open(self.port) for _ in range(self.given.streams)]
        reading = [asyncio.create_task(stream.read()) for stream in streams]
        await asyncio.sleep(0.5)
        began = time.time()
        stop = await asyncio.to_thread(self.order, way)
        await asyncio.wait_for(asyncio.gather(*reading), 30)
        self.api(f"/api/stops/{stop['id']}/lift", ending="resumed")
        noted = json.loads(await asyncio.to_thread(self._noted, stop["id"]))
        return {
            "way": way,
            "from_command_s": [stream.last_at - began for stream in streams],
            "from_order_s": [stream.last_at - stop["at"] / 1e6 for stream in streams],
            "stopped": sum(stream.stopped for stream in streams),
            "cut": noted["cut"],
            "took_s": noted["took_us"] / 1e6,
        }

    def _noted(self, stop_id: str) -> str:
        """The stop's row once it says what was cut."""
        for _ in range(100):
            rows = self.command("stops", "--all", "-n", "1")["stops"]
            if rows and rows[0]["id"] == stop_id and rows[0]["cut"]:
                return json.dumps(rows[0])
            time.sleep(0.05)
        raise RuntimeError(f"{stop_id}: nothing was noted")

    async def run(self) -> None:
        """All rounds, each way in turn."""
        for _ in range(self.given.rounds):
            for way in WAYS:
                row = await self.round(way)
                self.report.rows.append(row)
                last = max(row["from_order_s"])
                print(f"{way}: {row['stopped']} stopped, the last {last:.3f} s after the order")

    def stop(self) -> None:
        self.proc.stop()
        self.upstream.proc.stop()


def quantile(values: Sequence[float], share: float) -> float:
    """A quantile by rank; the highest for 1."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Quantiles of each way over all streams of all rounds."""
    lines = []
    for way, since in (("api", "command"), ("command", "order"), ("command", "command")):
        mine = [row for row in rows if row["way"] == way]
        values = [value for row in mine for value in row[f"from_{since}_s"]]
        shown = [f"{1000 * quantile(values, q):,.0f} ms" for q in (0.5, 0.95, 0.99, 1.0)]
        whole = sum(row["stopped"] for row in mine)
        noted = f"{1000 * statistics.median(row['took_s'] for row in mine):,.0f} ms"
        name = {"api": "API of the serving process", "command": f"`tocsin stop`, from the {since}"}
        lines.append((name[way], *shown, f"{whole:,} of {len(values):,}", noted))
    return Table(
        title="From the command to the last byte of each stream in flight",
        columns=("stopped by", "median", "p95", "p99", "longest", "told so", "noted (median)"),
        rows=tuple(lines),
        note="told so: streams that ended with the error event `stopped`. noted: the time to stop "
        "that Tocsin itself records, from the order to the last call's last byte.",
    )


def main() -> int:
    parser = options.parser(__doc__ or "", ())
    parser.add_argument("--streams", type=int, default=200, help="in flight at each stop")
    parser.add_argument("--rounds", type=int, default=20, help="stops of each kind")
    given = parser.parse_args()
    if given.quick:
        given.streams, given.rounds = min(given.streams, 50), 2
    report = Report(bench="stops", settings=options.plain(given))
    report.versions["tocsin"] = version(Path(sys.executable), "tocsin")
    bench = Bench(given, report)
    try:
        asyncio.run(bench.run())
    finally:
        bench.stop()
    report.show(table(report.rows))
    report.save(given.json, given.markdown)
    told = sum(row["stopped"] for row in report.rows)
    return 0 if told == sum(len(row["from_order_s"]) for row in report.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
