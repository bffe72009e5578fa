"""One race: clients on shared budgets, and a hand that kills the gateway at random instants."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.procs import Proc, StartError, two_cores
from harness.race_books import Account
from harness.race_client import Made, make
from harness.race_plan import TEMPERS, Planned, Temper, planned
from harness.race_targets import Target
from harness.tools import HARNESS, free_port

POKES = 14
"""Refusals in a row after which a lane takes new accounts: until then, it tries the last cents."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How a race is run. ``seconds`` is traffic in all, while the gateway is up."""

    clients: int
    lanes: int
    kills: int
    seconds: float
    seed: int


@dataclass(kw_only=True)
class Finished:
    """What a race left behind; times are of the machine's monotonic clock."""

    accounts: dict[str, Account]
    calls: list[Made]
    attempts: list[dict[str, Any]]
    kills: list[float]
    starts_s: list[float]
    """How long each start took, the first included."""
    seconds: float


class Upstream:
    """The truth-telling upstream as a process of its own."""

    def __init__(self, folder: Path, *, bill_errors: bool) -> None:
        self.port = free_port()
        cmd = [sys.executable, str(HARNESS / "race_upstream.py"), "--port", str(self.port)]
        if bill_errors:
            cmd.append("--bill-errors")
        folder.mkdir(parents=True, exist_ok=True)
        self.proc = Proc(cmd, cores={two_cores()[1]}, log=folder / "upstream.log")

    async def ready(self) -> None:
        """Wait until it answers. Raises ``StartError``."""
        for _ in range(500):
            try:
                await self.attempts()
                return
            except OSError:
                await asyncio.sleep(0.02)
        raise StartError(f"the scripted upstream does not answer; see {self.proc.log}")

    async def attempts(self) -> list[dict[str, Any]]:
        """Every attempt so far."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(b"GET /race/attempts HTTP/1.1\r\nhost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            found: list[dict[str, Any]] = json.loads(await reader.readexactly(length))
            return found
        finally:
            writer.transport.abort()


@dataclass(kw_only=True)
class Lane:
    """Some clients that share one account of each level, and take new ones when it is used up."""

    number: int
    target: Target
    accounts: dict[str, Account]
    names: dict[str, str] = field(default_factory=dict)
    refused: int = 0
    allowed: dict[str, bool] = field(default_factory=dict)
    """Level → whether anything was allowed since its account was taken."""
    turns: dict[str, int] = field(default_factory=dict)

    @property
    def temper(self) -> Temper:
        """What its calls are like."""
        return TEMPERS[self.number % len(TEMPERS)]

    def __post_init__(self) -> None:
        for level in self.target.levels:
            self._take(level.name)

    def _take(self, name: str) -> None:
        level = next(level for level in self.target.levels if level.name == name)
        account = self.target.account(level, self.number, self.turns.get(name, 0))
        if account is None:  # no more of them: the last one goes on being refused
            return
        self.turns[name] = self.turns.get(name, 0) + 1
        self.names[name] = account
        self.allowed[name] = False
        self.accounts[account] = Account(name=account, level=name, budget=level.budget)

    def heard(self, made: Made) -> None:
        """Take new accounts after enough refusals: the innermost, and outer ones if that is no
        help."""
        if set(made.accounts) != set(self.names.values()):
            return
        if made.how in ("answered", "failed"):
            self.refused = 0
            self.allowed = dict.fromkeys(self.allowed, True)
        elif made.how == "denied":
            self.refused += 1
            if self.refused >= POKES:
                self.refused = 0
                self._turn()

    def _turn(self) -> None:
        for level in self.target.levels:
            fresh = self.allowed[level.name]
            self._take(level.name)
            if fresh:
                return


class Race:
    """Runs one target through one race."""

    def __init__(self, target: Target, upstream: Upstream, pace: Pace) -> None:
        self.target, self.upstream, self.pace = target, upstream, pace
        self.accounts: dict[str, Account] = {}
        self.calls: list[Made] = []
        self.kills: list[float] = []
        self.starts: list[float] = []
        self._stopped = False

    async def run(self) -> Finished:
        """Start, race, kill, wait for what is in flight. Ends the gateway."""
        began = time.monotonic()
        try:
            for index in range(len(self.target.ports)):
                await self._start(index)
            await asyncio.to_thread(self.target.prepare, self.pace.lanes, self.pace.seconds)
            await self._race()
        finally:
            self.target.stop()
        return Finished(
            accounts=self.accounts,
            calls=self.calls,
            attempts=await self.upstream.attempts(),
            kills=self.kills,
            starts_s=self.starts,
            seconds=time.monotonic() - began,
        )

    async def _start(self, index: int) -> None:
        began = time.monotonic()
        await self.target.start(index)
        self.starts.append(time.monotonic() - began)

    async def _race(self) -> None:
        pace = self.pace
        lanes = [
            Lane(number=number, target=self.target, accounts=self.accounts)
            for number in range(pace.lanes)
        ]
        clients = [
            asyncio.create_task(self._client(number, lanes[number % pace.lanes]))
            for number in range(pace.clients)
        ]
        try:
            await self._killing()
        finally:
            self._stopped = True
            await asyncio.gather(*clients)

    async def _killing(self) -> None:
        """Traffic for a random while, kill, start again: ``kills`` times, and traffic once more."""
        rng = random.Random(f"{self.pace.seed}:kills")
        pause = self.pace.seconds / (self.pace.kills + 1)
        for number in range(self.pace.kills):
            await asyncio.sleep(pause * rng.uniform(0.2, 1.8))
            index = rng.randrange(len(self.target.ports))
            self.kills.append(time.monotonic())
            self.target.kill(index)
            await self._start(index)
            if number % 10 == 9 or number + 1 == self.pace.kills:
                print(
                    f"{self.target.name}: {number + 1} of {self.pace.kills} kills, "
                    f"{len(self.calls)} calls, {len(self.accounts)} budgets",
                    file=sys.stderr,
                    flush=True,
                )
        await asyncio.sleep(pause)

    async def _client(self, number: int, lane: Lane) -> None:
        """Call after call, through kills and starts."""
        rng = random.Random(f"{self.pace.seed}:{number}")
        count = 0
        while not self._stopped:
            count += 1
            port = self.target.ports[rng.randrange(len(self.target.ports))]
            plan = planned(rng, f"{number}.{count}", self.target.routes, lane.temper)
            made = await self._call(plan, port, lane)
            tries = 0
            while made.how in ("lost", "unsent") and tries < plan.retries and not self._stopped:
                tries += 1
                await asyncio.sleep(0.05)
                made = await self._call(plan.again(tries), port, lane)
            if made.how in ("unsent", "denied"):
                await asyncio.sleep(0.06 if made.how == "unsent" else 0.005)

    async def _call(self, plan: Planned, port: int, lane: Lane) -> Made:
        names: Mapping[str, str] = dict(lane.names)
        addressed = self.target.addressed(names)
        plan = plan.asking(addressed.model, addressed.embed_model)
        made = await make(plan, port, dict(addressed.headers), tuple(names.values()))
        self.calls.append(made)
        lane.heard(made)
        return made
