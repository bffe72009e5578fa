"""Trace servers that take OTLP/HTTP: start, ask how much is visible, stop, kill, measure."""

from __future__ import annotations

import collections
import contextlib
import json
import sqlite3
import sys
from pathlib import Path
from typing import Protocol

from harness import tocsin
from harness.load import answers, post
from harness.procs import Proc, two_cores
from harness.spans import PROJECT
from harness.tools import free_port, fresh, size, venv, version


class Server(Protocol):
    """One trace server with an empty folder of its own."""

    name: str
    version: str
    port: int
    folder: Path
    proc: Proc | None
    headers: dict[str, str]

    def start(self) -> float:
        """Start it on what its folder holds; returns seconds until it was ready."""
        ...

    def visible(self) -> int:
        """How many spans its own API shows."""
        ...

    def span_ids(self) -> collections.Counter[str]:
        """How often each span id (hex) is stored."""
        ...


class _Base:
    """What both servers have in common."""

    def __init__(self, name: str) -> None:
        self.name, self.folder, self.port = name, fresh(f"otlp-{name}"), free_port()
        self.headers = {"Content-Type": "application/x-protobuf"}
        self.proc: Proc | None = None

    def run(self, cmd: list[str], env: dict[str, str], ready: str, patience: float) -> float:
        log = self.folder / "server.log"
        core = two_cores()[0]
        self.proc = Proc(cmd, cores={core}, log=log, env=env, cwd=self.folder)
        try:
            return self.proc.wait_until(lambda: answers(self.port, ready), patience)
        except BaseException:
            self.proc.stop()
            raise


class Phoenix(_Base):
    """Arize Phoenix on its default SQLite."""

    def __init__(self, *, install: bool) -> None:
        home = venv("phoenix", install=install)
        super().__init__("phoenix")
        self.program = home / "phoenix"
        self.version = version(home / "python", "arize-phoenix")

    def start(self) -> float:
        env = {
            "PHOENIX_WORKING_DIR": str(self.folder),
            "PHOENIX_HOST": "127.0.0.1",
            "PHOENIX_PORT": str(self.port),
            "PHOENIX_GRPC_PORT": str(free_port()),
            "PHOENIX_TELEMETRY_ENABLED": "false",
        }
        return self.run([str(self.program), "serve"], env, "/healthz", 180)

    def visible(self) -> int:
        query = {"query": "{ projects { edges { node { name recordCount } } } }"}
        answer = json.loads(post(self.port, "/graphql", json.dumps(query).encode()))
        nodes = [edge["node"] for edge in answer["data"]["projects"]["edges"]]
        return sum(node["recordCount"] for node in nodes if node["name"] == PROJECT)

    def span_ids(self) -> collections.Counter[str]:
        # The database file is asked, not the API: it says what is kept, whoever serves it.
        with sqlite3.connect(f"file:{self.folder}/phoenix.db?mode=ro", uri=True) as db:
            return collections.Counter(row[0] for row in db.execute("SELECT span_id FROM spans"))


class Tocsin(_Base):
    """Tocsin's own OTLP ingest."""

    def __init__(self) -> None:
        super().__init__("tocsin")
        self.version = version(Path(sys.executable), "tocsin")
        self.api = tocsin.Api(self.folder, self.port)

    def start(self) -> float:
        cmd = tocsin.command(self.folder, port=self.port, upstream_port=1)
        return self.run(cmd, {}, tocsin.READY, 60)

    def visible(self) -> int:
        return self.api.recorded()

    def span_ids(self) -> collections.Counter[str]:
        return self.api.span_ids()


def server(name: str, *, install: bool) -> Server:
    """The server of that name with an empty folder; raises ``Missing`` when not installed."""
    return Phoenix(install=install) if name == "phoenix" else Tocsin()


def disk(one: Server) -> int:
    """Bytes that the server keeps, after SQLite's write-ahead logs were folded in.

    Not every server does that at its stop, and a log that is still to be folded in is no data.
    """
    for log in one.folder.rglob("*-wal"):
        with contextlib.closing(sqlite3.connect(str(log).removesuffix("-wal"))) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return size(one.folder)
