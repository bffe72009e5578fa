"""The upstream, the load generator, and one measured cell: a target under one shape of load."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.procs import Proc, busy_seconds, cpu_seconds, memory_mb, pinned, settle
from harness.tools import built, free_port

CHUNKS = 50
"""Content events in one streamed reply; one more event carries the usage."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One shape of load; ``rate`` (requests/s over all connections) makes it an open loop."""

    name: str
    conns: int
    seconds: float
    stream: bool = False
    rate: float = 0.0
    latency_ms: float = 0.0
    interval_ms: float = 0.0
    warm: float = 0.5


class Upstream:
    """The scripted provider all targets stand in front of; one start serves every shape."""

    def __init__(self, folder: Path, core: int) -> None:
        self.port = free_port()
        cmd: list[str | Path] = [
            built("mock_upstream"),
            "--port",
            str(self.port),
            "--chunks",
            str(CHUNKS),
        ]
        self.proc = Proc(cmd, cores={core}, log=folder / "server.log")
        self.proc.wait_until(lambda: answers(self.port, "/v1/models"), 5)

    def become(self, shape: Shape) -> None:
        """Answer from now on with the latency and event interval of ``shape``."""
        query = f"latency_ms={shape.latency_ms}&interval_ms={shape.interval_ms}"
        post(self.port, f"/control?{query}", b"{}")


def answers(port: int, path: str) -> bool:
    """True when a GET gets status 200 from 127.0.0.1."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def post(
    port: int, path: str, body: bytes, headers: dict[str, str] | None = None, timeout: float = 30
) -> bytes:
    """The body of a 200 reply to a POST on 127.0.0.1; OSError otherwise."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body, method="POST")
    for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
        request.add_header(name, value)
    with urllib.request.urlopen(request, timeout=timeout) as reply:
        return bytes(reply.read())


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where requests for a target go, and the process tree that serves them (None: none)."""

    port: int
    headers: tuple[str, ...]
    pid: int | None
    pause: float = 0.2
    """Seconds between two turns of its background work, at the most."""
    path: str = "/v1/chat/completions"
    done: bool = True
    """Whether a stream must say ``[DONE]``; that of a response does not."""


def loadgen(to: Address, body: Path, shape: Shape, core: int, requests: int = 0) -> dict[str, Any]:
    """Run the load generator once; what it printed, or ``{"error": ...}``."""
    cmd: list[object] = [built("loadgen"), "--port", to.port, "--path", to.path, "--body", body]
    cmd += ["--conns", shape.conns, "--secs", shape.seconds, "--warm", shape.warm]
    cmd += ["--rate", shape.rate, "--max-reqs", requests]
    if not to.done:
        cmd += ["--need-done", 0]
    for header in to.headers:
        cmd += ["-H", header]
    done = subprocess.run(
        pinned(cmd, [core]),
        capture_output=True,
        text=True,
        check=False,
        timeout=shape.seconds + 60,
    )
    if done.returncode:
        return {"error": done.stderr.strip()[:200] or f"load generator: {done.returncode}"}
    return dict(json.loads(done.stdout))


def cell(to: Address, body: Path, shape: Shape, core: int, upstream: Upstream) -> dict[str, Any]:
    """One measured cell: the load generator's figures with CPU and memory of the target.

    ``foreign_cores`` is what processes outside the benchmark used: where it is high, latency and
    rps are theirs as much as the target's.
    """
    at, busy = time.monotonic(), busy_seconds()
    target0 = cpu_seconds(to.pid) if to.pid else 0.0
    upstream0, own0 = cpu_seconds(upstream.proc.pid), os.times()
    result = loadgen(to, body, shape, core)
    if to.pid:
        result["settled_s"] = settle(to.pid, pause=to.pause)
    spent = (cpu_seconds(to.pid) if to.pid else 0.0) - target0
    wall, own1 = time.monotonic() - at, os.times()
    mine = sum(own1[:4]) - sum(own0[:4]) + cpu_seconds(upstream.proc.pid) - upstream0
    result["foreign_cores"] = max(0.0, busy_seconds() - busy - spent - mine) / wall
    if "error" in result:
        return result
    finished = result["started"] - result["in_flight_at_end"]
    if to.pid and finished:
        result["cpu_us_per_request"] = 1e6 * spent / finished
        result["memory_mb"] = memory_mb(to.pid)
        if shape.stream:
            result["cpu_us_per_event"] = 1e6 * spent / finished / (CHUNKS + 1)
    return result
