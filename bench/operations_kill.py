"""kill -9 of the real server at random instants while it runs operations that charge a card.

Clients start operations of a kind that an installed package brings. Each asks a model and charges a
bank twice, and asks for each charge three times. The bank is a process too, and dies in the middle
of some charges. One kind of operation can ask the bank what became of a charge, the other cannot.
Beside them clients start background responses. At the end every operation must have ended, every
intent be charged at most once and none lost; a charge that the bank died on is of unknown fate
where the bank cannot be asked. What does not hold is printed, and the exit status is 1.

  python bench/operations_kill.py                   # 200 kills, 6 to 8 minutes
  python bench/operations_kill.py --quick           # 10 kills, half a minute
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from harness import options
from harness.kill_bank import Bank
from harness.kill_judge import Books, judged, operations_of
from harness.kill_shop import ASKS, install
from harness.tables import Report, Table
from harness.tools import WORK, free_port, fresh
from tocsin.config.model import StoreSettings
from tocsin.core.clock import SystemClock
from tocsin.core.wire.render import Answer
from tocsin.providers.playing import Step
from tocsin.providers.scripted_server import ScriptedServer
from tocsin.store import open_store

CONFIG = """\
[server]
port = {port}
data_dir = "{data}"

[operations]
owner_timeout_s = 3

[upstreams.model]
base_url = "{upstream}"
api_key_env = "SHOP_MODEL_KEY"
retries = 0
cooldown_failures = 1000000
"""
WORDS = Step(answer=Answer(text=" ".join(f"w{n}" for n in range(15))), gap_s=0.01)
ENDED_S = 120.0
"""How long the last process may take to end what the others have left."""


class Upstream:
    """A scripted model in a thread of its own."""

    def __init__(self) -> None:
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._up.wait()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        async with ScriptedServer([WORDS]) as server:
            self.url = server.url
            self._up.set()
            await self._end.wait()
            self.calls = len(server.seen)

    def close(self) -> int:
        """End it; how many calls it saw."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        return self.calls


class Server:
    """``tocsin up`` over one folder, killed and started again."""

    def __init__(
        self, folder: Path, upstream: Upstream, bank: Bank, *, careless: bool = False
    ) -> None:
        self.port = free_port()
        self.data = folder / "data"
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        file = folder / "tocsin.toml"
        file.write_text(CONFIG.format(port=self.port, data=self.data, upstream=upstream.url))
        self._command = [sys.executable, "-m", "tocsin", "up", "--config", str(file)]
        more = {"SHOP_BANK": str(bank.port), "SHOP_MODEL_KEY": "sk-model"}
        more |= {"SHOP_CARELESS": "1"} if careless else {}
        paths = [str(install(folder / "site")), os.environ.get("PYTHONPATH", "")]
        more["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        self._env = {**os.environ, **more}
        self._env.pop("PYTHONDONTWRITEBYTECODE", None)
        self._process: subprocess.Popen[bytes]

    def start(self) -> None:
        """Start it; it takes a second."""
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, env=self._env
            )

    def wait(self) -> None:
        """Return when it answers."""
        end = time.monotonic() + 30
        while time.monotonic() < end and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/healthz", timeout=1):
                    return
            except OSError:
                time.sleep(0.01)
        raise SystemExit(f"Tocsin does not start: see {self._folder / 'server.log'}")

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it in good order."""
        self._process.terminate()
        self._process.wait(60)

    def key(self) -> str:
        """A key of the callers', issued as a person would do it."""
        words = [*self._command[:3], "keys", "issue", "shop", "--json", *self._command[-2:]]
        done = subprocess.run(words, capture_output=True, text=True, check=True, env=self._env)
        secret: str = json.loads(done.stdout)["secret"]
        return secret


class Clients:
    """Threads that start operations, whatever becomes of the server."""

    def __init__(self, url: str, key: str, pause_s: float) -> None:
        self.made: set[str] = set()
        self._url, self._key, self._pause_s = url, key, pause_s
        self._closed = threading.Event()
        orders = [("/api/operations", {"kind": kind, "input": {}}) for kind in ("shop", ASKS)]
        talk = {"model": "m", "input": "Hello", "background": True}
        wanted: list[tuple[str, dict[str, Any]]] = [*orders, ("/v1/responses", talk)]
        self._threads = [threading.Thread(target=self._go, args=one) for one in wanted]
        for thread in self._threads:
            thread.start()

    def _go(self, path: str, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        headers = {"content-type": "application/json", "authorization": f"Bearer {self._key}"}
        while not self._closed.wait(self._pause_s):
            request = urllib.request.Request(self._url + path, data, headers)
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    self.made.add(json.loads(answer.read())["id"])
            except urllib.error.HTTPError as error:
                print(f"{path}: {error.code} {error.read()[:200]!r}", file=sys.stderr)
            except (OSError, ValueError):
                pass  # The server is dead, or died in the middle of its answer.
            except Exception as error:  # http.client's errors: an answer that broke off.
                if type(error).__module__ != "http.client":
                    raise

    def close(self) -> None:
        """Start no more."""
        self._closed.set()
        for thread in self._threads:
            thread.join()


def killed(server: Server, kills: int, up_s: float, chance: random.Random) -> int:
    """Kill the server so often, one time in five while it starts; how often it had come up."""
    up = 0
    for number in range(kills):
        server.start()
        if chance.random() < 0.2:
            time.sleep(chance.uniform(0.2, 1.5))
        else:
            server.wait()
            up += 1
            time.sleep(chance.uniform(0.0, up_s))
        server.kill()
        if number % 20 == 19:
            print(f"{number + 1} kills", file=sys.stderr, flush=True)
    return up


def ended(server: Server) -> float:
    """Wait until every operation has ended; seconds from the last start."""
    server.start()
    began = time.monotonic()
    server.wait()
    store = open_store(StoreSettings(), server.data, SystemClock())
    try:
        while any(row.status != "ended" for row in operations_of(store)):
            if time.monotonic() - began > ENDED_S:
                break
            time.sleep(0.2)
    finally:
        store.close()
    return time.monotonic() - began


def race(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything from the first start to the verdict."""
    chance = random.Random(given.seed)
    upstream = Upstream()
    bank = Bank(folder, free_port(), seed=given.seed, deaths=given.deaths)
    server = Server(folder, upstream, bank, careless=given.careless)
    try:
        clients = Clients(server.url, server.key(), given.pause)
        try:
            up = killed(server, given.kills, given.up, chance)
        finally:
            clients.close()
        last_s = ended(server)
        server.stop()
    finally:
        calls = upstream.close()
        bank.close()
    store = open_store(StoreSettings(), server.data, SystemClock())
    books = Books(clients.made, bank.charges(), bank.deaths())
    rows, wrong = judged(store, books)
    store.close()
    return {
        "kinds": rows,
        "wrong": wrong,
        "kills_while_up": up,
        "acknowledged": len(books.made),
        "charges": sum(books.charges.values()),
        "charged_twice": sum(times > 1 for times in books.charges.values()),
        "bank_died": len(books.deaths),
        "model_calls": calls,
        "last_process_s": round(last_s, 1),
    }


def table(row: dict[str, Any], kills: int) -> Table:
    """How each kind ended."""
    lines = []
    for kind in row["kinds"]:
        outcomes = dict(kind["outcomes"])
        counts = [outcomes.pop(name, 0) for name in ("complete", "unknown")]
        other = ", ".join(f"{n} {name}" for name, n in outcomes.items()) or "0"
        figures = (kind["operations"], *counts, other, kind["taken_over"], kind["most_restarts"])
        lines.append((kind["kind"], *map(str, figures)))
    note = (
        f"{kills} kills, {row['kills_while_up']} of a server that was up; the bank died in the "
        f"middle of {row['bank_died']} charges; {row['charges']} charges, "
        f"{row['charged_twice']} intents charged twice; "
        f"{row['acknowledged']} operations were acknowledged; violations: {len(row['wrong'])}."
    )
    columns = ("kind", "operations", "complete", "unknown", "other", "taken over", "most restarts")
    title = "kill -9 in operations that charge"
    return Table(title=title, columns=columns, rows=tuple(lines), note=note)


def main() -> None:
    parser = options.parser(__doc__ or "", ())
    parser.add_argument("--kills", type=int, help="default 200")
    parser.add_argument("--deaths", type=float, default=0.02, help="of the bank, for each charge")
    parser.add_argument("--pause", type=float, default=0.05, help="of a client between two starts")
    parser.add_argument("--up", type=float, default=0.8, help="most seconds up before a kill")
    parser.add_argument(
        "--careless", action="store_true", help="charge wrongly on purpose: it must be noticed"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--folder", type=Path, help="where its files go; must be empty")
    given = parser.parse_args()
    given.kills = given.kills or (10 if given.quick else 200)
    print(f"seed {given.seed}", file=sys.stderr)
    WORK.mkdir(exist_ok=True)
    folder = given.folder or fresh("operations-kill")
    report = Report(bench="operations_kill", settings=options.plain(given))
    report.rows.append(race(given, folder))
    report.show(table(report.rows[0], given.kills))
    report.save(given.json, given.markdown)
    for line in report.rows[0]["wrong"][:40]:
        print(line)
    if report.rows[0]["wrong"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
