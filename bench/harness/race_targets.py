"""The gateways of a race: how each is started, what budgets it is given, how a call names them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.procs import Proc, StartError, two_cores
from harness.race_plan import (
    CEILING,
    CHAT_MODEL,
    EMBED_MODEL,
    EMBED_NANO,
    INPUT_NANO,
    OUTPUT_NANO,
    ROUTES,
)
from harness.race_toys import KINDS as TOYS
from harness.tools import HARNESS, free_port, fresh, version

NANO = 1_000_000_000
PEERS = ("litellm",)


@dataclass(frozen=True, kw_only=True)
class Level:
    """One kind of budget. A level further in is used up several times within the one outside."""

    name: str
    budget: int
    """Nano US dollars of each account."""


@dataclass(frozen=True, kw_only=True)
class Addressed:
    """How one call names its accounts: headers, and the models that it asks for."""

    headers: Mapping[str, str]
    model: str = CHAT_MODEL
    embed_model: str = EMBED_MODEL


class Target:
    """A gateway under test. ``levels`` are its budgets, innermost first."""

    name = ""
    version = ""
    about = ""
    """Exactly what was configured."""
    routes: tuple[str, ...] = tuple(ROUTES)
    patience = 60.0
    path = "/healthz"

    def __init__(self, levels: Sequence[Level], processes: int) -> None:
        self.levels = tuple(levels)
        self.folder = fresh(f"race-{self.name}")
        self.ports = [free_port() for _ in range(processes)]
        self.procs: list[Proc | None] = [None] * processes

    def command(self, index: int) -> list[str]:
        """What starts process ``index``."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def prepare(self, lanes: int, seconds: float) -> None:
        """Called once it is up: make what calls need, such as keys."""

    def account(self, level: Level, lane: int, number: int) -> str | None:
        """The name of a lane's account; None when this target has no more of them."""
        return f"{level.name}-{lane}-{number}"

    def addressed(self, names: Mapping[str, str]) -> Addressed:
        """How a call names its accounts (by level)."""
        raise NotImplementedError

    @property
    def killable(self) -> bool:
        """Whether the process is ours to kill and start."""
        return True

    async def start(self, index: int) -> None:
        """Start process ``index`` and wait until it answers. Raises ``StartError``."""
        log = self.folder / f"server-{index}.log"
        core = two_cores()[0]
        proc = Proc(
            self.command(index), cores={core}, log=log, env=self.environment(), cwd=self.folder
        )
        self.procs[index] = proc
        while not await self._answers(self.ports[index]):
            if not _lives(proc.pid):
                last = log.read_text(errors="replace").strip()[-600:]
                raise StartError(f"{self.name} ended at its start: {last}")
            if time.monotonic() - proc.started > self.patience:
                raise StartError(f"{self.name} is not ready; see {log}")
            await asyncio.sleep(0.01)

    async def _answers(self, port: int) -> bool:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    host = f"127.0.0.1:{port}"
                    writer.write(f"GET {self.path} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
                    return b" 200 " in await reader.readuntil(b"\r\n")
                finally:
                    writer.transport.abort()
        return False

    def kill(self, index: int) -> None:
        """kill -9."""
        proc = self.procs[index]
        assert proc is not None
        proc.kill()

    def stop(self) -> None:
        """End what was started."""
        for proc in self.procs:
            if proc is not None:
                proc.stop(grace=5)


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


TOCSIN = """\
[server]
port = {port}
data_dir = "{data}"

[store]
url = "{store}"

[upstreams.main]
kind = "openai"
base_url = "http://127.0.0.1:{upstream}/v1"
retries = 1
backoff_s = 0.02
cooldown_failures = 1000000

[upstreams.backup]
kind = "openai"
base_url = "http://127.0.0.1:{upstream}/backup/v1"
retries = 1
backoff_s = 0.02
cooldown_failures = 1000000

[upstreams.claude]
kind = "anthropic"
base_url = "http://127.0.0.1:{upstream}/v1"
retries = 2
backoff_s = 0.02
cooldown_failures = 1000000

[features.race]
targets = [{{upstream = "main"}}, {{upstream = "backup", tier = 1}}, {{upstream = "claude"}}]

[prices.{chat}]
input = {input}
output = {output}

[prices.{embed}]
input = {embedding}
output = 0

[ledger]
max_output_tokens = {ceiling}
"""


class Tocsin(Target):
    """Budgets by run, end user and key, each inside the next; all else at its default."""

    name = "tocsin"
    scopes: Mapping[str, tuple[str, str]] = {
        "run": ("run", "run"),
        "user": ("end_user", "ever"),
        "key": ("key", "ever"),
    }
    """Level → scope and period of its limit."""

    def __init__(
        self, levels: Sequence[Level], processes: int, upstream: int, store: str = ""
    ) -> None:
        super().__init__(levels, processes)
        self.version = version(Path(sys.executable), "tocsin")
        self._keys: dict[str, str] = {}
        # Several machines know each other's keys by a secret that they share.
        self._shared = {"TOCSIN_SECRET": "race-" + "0123456789abcdef" * 4} if store else {}
        limits = "".join(
            f'\n[limits.{level.name}]\nscope = "{self.scopes[level.name][0]}"\n'
            f'per = "{self.scopes[level.name][1]}"\nusd = {level.budget / NANO:.9f}\n'
            for level in self.levels
        )
        for index, port in enumerate(self.ports):
            self._file(index).write_text(
                TOCSIN.format(
                    port=port,
                    # With a database server, each process is a machine with a disk of its own.
                    data=self.folder / (f"data-{index}" if store else "data"),
                    store=store,
                    upstream=upstream,
                    chat=CHAT_MODEL,
                    embed=EMBED_MODEL,
                    input=INPUT_NANO / 1000,
                    output=OUTPUT_NANO / 1000,
                    embedding=EMBED_NANO / 1000,
                    ceiling=CEILING,
                )
                + limits
            )
        amounts = ", ".join(f"{level.name} ${level.budget / NANO:.4f}" for level in self.levels)
        kind = "PostgreSQL, a data folder each" if store else "SQLite"
        self.about = f"{processes} process(es) on one store ({kind}); limits: {amounts}"

    def _file(self, index: int) -> Path:
        return self.folder / f"tocsin-{index}.toml"

    def command(self, index: int) -> list[str]:
        return [sys.executable, "-m", "tocsin", "up", "--config", str(self._file(index))]

    def environment(self) -> dict[str, str]:
        return self._shared

    def prepare(self, lanes: int, seconds: float) -> None:
        """Issue the keys, as many as the lanes may use up."""
        level = next((level for level in self.levels if level.name == "key"), None)
        if level is None:
            return
        # A lane of a busy race spends some 4 million nano US dollars a second.
        each = 2 + int(seconds * 4_000_000 / level.budget)
        admin = re.search(r"tk-[0-9A-Za-z]{40}", (self.folder / "server-0.log").read_text())
        if admin is None:
            raise StartError("tocsin printed no key of an administrator at its first start")
        for lane in range(lanes):
            for number in range(each):
                name = f"key-{lane}-{number}"
                self._keys[name] = self._issued(name, admin[0])

    def _issued(self, name: str, admin: str) -> str:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports[0]}/api/keys",
            json.dumps({"name": name}).encode(),
            {"content-type": "application/json", "authorization": f"Bearer {admin}"},
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            return str(json.load(reply)["secret"])

    def account(self, level: Level, lane: int, number: int) -> str | None:
        name = super().account(level, lane, number)
        return name if level.name != "key" or name in self._keys else None

    def addressed(self, names: Mapping[str, str]) -> Addressed:
        headers = {"tocsin-feature": "race"}
        if "run" in names:
            headers["tocsin-run"] = names["run"]
        if "user" in names:
            headers["tocsin-user"] = names["user"]
        if "key" in names:
            headers["tocsin-key"] = self._keys[names["key"]]
        return Addressed(headers=headers)


class Toy(Target):
    """One of the toy gateways, to show what the race finds."""

    def __init__(self, kind: str, levels: Sequence[Level], upstream: int) -> None:
        self.name = f"toy-{kind}"
        self.kind = kind
        self.upstream = upstream
        super().__init__(levels, 1)
        self.about = "a toy, see harness/race_toys.py"
        self.path = "/"

    def command(self, index: int) -> list[str]:
        return [
            sys.executable,
            str(HARNESS / "race_toys.py"),
            *("--port", str(self.ports[index]), "--upstream", str(self.upstream)),
            *("--book", str(self.folder / "book"), "--kind", self.kind),
        ]

    async def _answers(self, port: int) -> bool:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.transport.abort()
            return True
        return False

    def addressed(self, names: Mapping[str, str]) -> Addressed:
        parts = [f"{names[level.name]}={level.budget}" for level in self.levels]
        return Addressed(headers={"x-accounts": ",".join(parts)})


class Remote(Target):
    """Any gateway that already runs: it is configured by hand, and not killed.

    Headers may hold ``{run}``, ``{user}`` and ``{key}``, the names of the accounts that the call
    is to fall under; a header without any is sent as it is.
    """

    name = "url"

    def __init__(
        self, url: str, levels: Sequence[Level], headers: Sequence[str], model: str
    ) -> None:
        super().__init__(levels, 1)
        found = re.fullmatch(r"http://(?:127\.0\.0\.1|localhost):(\d+)/?", url)
        if found is None:
            raise StartError(f"{url}: a race is run against http://127.0.0.1:PORT alone")
        self.ports = [int(found[1])]
        self.about = f"{url}, configured by hand"
        self._headers = [tuple(part.strip() for part in h.split(":", 1)) for h in headers]
        self._model = model

    @property
    def killable(self) -> bool:
        return False

    async def start(self, index: int) -> None:
        """Nothing to start."""

    def addressed(self, names: Mapping[str, str]) -> Addressed:
        headers = {name: value.format_map(names) for name, value in self._headers}
        return Addressed(headers=headers, model=self._model.format_map(names))


__all__ = ["PEERS", "TOYS", "Addressed", "Level", "Remote", "Target", "Tocsin", "Toy"]
