"""Ways to keep calls on disk. Each writes all of them and says what that took."""

from __future__ import annotations

import hashlib
import http.client
import json
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from harness import tocsin
from harness.load import answers
from harness.otlp_client import Client, visible_after
from harness.procs import Proc, settle, two_cores
from harness.replay import Replay
from harness.servers import Phoenix, disk
from harness.spans import request
from harness.tools import free_port, fresh, size
from harness.traces import Call, openinference

COMMIT = 100
"""Calls per transaction of the plain tables."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What one store made of the calls."""

    calls: int
    bytes: int
    seconds: float
    by_suffix: dict[str, int]


def _kept(folder: Path, calls: int, seconds: float, before: int = 0) -> Kept:
    parts: dict[str, int] = {}
    for file in folder.rglob("*"):
        if file.is_file() and file.name != "server.log":
            suffix = file.suffix or file.name
            parts[suffix] = parts.get(suffix, 0) + file.stat().st_size
    return Kept(calls=calls, bytes=size(folder) - before, seconds=seconds, by_suffix=parts)


SCHEMA = """
CREATE TABLE calls (
  id TEXT PRIMARY KEY, started_at REAL, duration REAL, run TEXT, model TEXT, outcome TEXT,
  input_tokens INTEGER, output_tokens INTEGER, request, response
);
CREATE INDEX calls_started ON calls (started_at);
CREATE INDEX calls_run ON calls (run, started_at);
"""


def _row(call: Call, encode: Callable[[str], object]) -> tuple[object, ...]:
    response = call.response()
    usage = response["usage"]
    return (
        response["id"],
        call.started_s,
        call.seconds,
        f"run-{call.run}",
        call.model,
        "complete",
        usage["prompt_tokens"],
        usage["completion_tokens"],
        encode(json.dumps(call.request())),
        encode(json.dumps(response)),
    )


def _rows(name: str, calls: Iterable[Call], encode: Callable[[str], object]) -> Kept:
    folder = fresh(f"store-{name}")
    insert = f"INSERT INTO calls VALUES ({','.join('?' * 10)})"
    count, spent = 0, 0.0
    with closing(sqlite3.connect(folder / "calls.db")) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.executescript(SCHEMA)
        for group in grouped(calls, COMMIT):
            began = time.perf_counter()
            with db:
                db.executemany(insert, [_row(call, encode) for call in group])
            spent += time.perf_counter() - began
            count += len(group)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return _kept(folder, count, spent)


def grouped(calls: Iterable[Call], count: int) -> Iterable[list[Call]]:
    """Lists of ``count`` calls; the last may be shorter."""
    group: list[Call] = []
    for call in calls:
        group.append(call)
        if len(group) == count:
            yield group
            group = []
    if group:
        yield group


def json_rows(calls: Iterable[Call]) -> Kept:
    """One row per call in SQLite, request and response as JSON text."""
    return _rows("json", calls, lambda text: text)


def json_rows_zlib(calls: Iterable[Call]) -> Kept:
    """The same with request and response compressed, each by itself."""
    return _rows("json-zlib", calls, lambda text: zlib.compress(text.encode(), 6))


def _span(call: Call, *, lean: bool) -> dict[str, object]:
    def ident(text: str, length: int) -> bytes:
        return hashlib.blake2b(text.encode(), digest_size=length).digest()

    began = int(call.started_s * 1e9)
    return {
        "trace_id": ident(f"run {call.run}", 16),
        "span_id": ident(f"call {call.run} {call.number}", 8),
        "name": "ChatCompletion",
        "start": began,
        "end": began + int(call.seconds * 1e9),
        "ok": True,
        "attributes": openinference(call, lean=lean),
    }


def phoenix(calls: Iterable[Call], *, lean: bool = False, install: bool = False) -> Kept:
    """Spans in Arize Phoenix (its default SQLite), as OpenInference writes them."""
    load = [
        ([_id(call) for call in group], request([_span(call, lean=lean) for call in group]))
        for group in grouped(calls, 25)
    ]
    one = Phoenix(install=install)
    one.start()
    assert one.proc is not None
    try:
        settle(one.proc.pid, pause=1.2)
        before, began = disk(one), time.perf_counter()
        client = Client(one, load, threads=2)
        client.join(300)
        count = sum(len(ids) for ids in client.acked)
        visible_after(one, count, seconds=240, every=0.25)
        spent, count = time.perf_counter() - began, one.visible()
    finally:
        one.proc.stop(grace=60)
    disk(one)
    return _kept(one.folder, count, spent, before)


def _id(call: Call) -> str:
    return f"{call.run}-{call.number}"


def tocsin_gateway(calls: Iterable[Call]) -> Kept:
    """Every call made again through a running Tocsin, in front of its recorded answers.

    The seconds are those of the round trips, one at a time: a latency, not a speed of the store.
    """
    folder, port = fresh("store-tocsin"), free_port()
    with Replay() as upstream:
        cmd = tocsin.command(folder, port=port, upstream_port=upstream.port)
        log, cores = folder / "server.log", set(two_cores())
        with Proc(cmd, cores=cores, log=log, cwd=folder) as proc:
            proc.wait_until(lambda: answers(port, tocsin.READY), 60)
            count, spent = _sent(calls, upstream, port)
            settle(proc.pid, limit=90, pause=1.2)
            proc.stop(grace=60)
    return _kept(folder, count, spent)


def _sent(calls: Iterable[Call], upstream: Replay, port: int) -> tuple[int, float]:
    """Make the calls one after another; how many were answered, and in how many seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-bench"}
    count, spent = 0, 0.0
    for call in calls:
        upstream.expect(call)
        body = json.dumps(call.request()).encode()
        began = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", body=body, headers=headers)
        reply = connection.getresponse()
        reply.read()
        spent += time.perf_counter() - began
        if reply.status != 200:
            raise RuntimeError(f"tocsin answered {reply.status} to call {count}")
        count += 1
    connection.close()
    return count, spent


def raw_bytes(calls: Sequence[Call]) -> int:
    """Bytes of all requests and responses as JSON, as they go over the wire."""
    return sum(len(json.dumps(c.request())) + len(json.dumps(c.response())) for c in calls)
