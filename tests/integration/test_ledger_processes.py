"""Several processes on one budget, and processes that are killed at any instant."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tocsin.config.model import LedgerSettings, StoreSettings
from tocsin.core.clock import SystemClock
from tocsin.core.ledger import Amounts, Limit
from tocsin.ledger import Ledger
from tocsin.providers.pricing import Pricer
from tocsin.store import open_store

LIMIT = Limit(name="all", tokens=40_000)
WORST = 97

WORKER = """
import asyncio, json, random, sys
from pathlib import Path
from tocsin.config.model import LedgerSettings, StoreSettings
from tocsin.core.clock import SystemClock
from tocsin.core.ledger import Limit
from tocsin.ledger import Ledger
from tocsin.providers.pricing import Pricer
from tocsin.store import open_store

url, data, home, seed, worst, cap = sys.argv[1:]
worst = int(worst)
whole = int(seed) >= 100
chance = random.Random(int(seed))

def say(*words):
    sys.stdout.write(json.dumps(words) + "\\n")
    sys.stdout.flush()

async def main():
    store = open_store(StoreSettings(url=url), Path(data), SystemClock())
    limit = Limit(name="all", tokens=int(cap))
    ledger = Ledger(store.ledger, Path(home), SystemClock(), limits=[limit],
                    settings=LedgerSettings(), pricer=Pricer({}), alert=lambda alert: None)
    await ledger.start()
    purse = ledger.till.purse(limit, "", "")
    say("ready")

    async def client(name):
        number = 0
        while True:
            number += 1
            ask = (0, worst if whole else chance.randint(1, worst), 1, 0)
            found = await ledger.acquire((purse,), ask)
            if not isinstance(found, int):
                say("refused", ask[1])
                return
            say("held", f"{name}/{number}", ask[1])
            await asyncio.sleep(chance.uniform(0, 0.004))
            used = ask[1] if whole else chance.randint(0, ask[1])
            say("used", f"{name}/{number}", used)
            ledger.settle(found, (0, used, 1, 0), 0)

    await asyncio.gather(*[client(n) for n in range(8)])
    await ledger.stop()
    store.close()
    say("done")

asyncio.run(main())
"""


def start(url: str, data: Path, home: Path, seed: int, cap: int) -> subprocess.Popen[str]:
    words = [url, str(data), str(home), str(seed), str(WORST), str(cap)]
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, *words], stdout=subprocess.PIPE, text=True
    )


def said(process: subprocess.Popen[str]) -> list[list[Any]]:
    """What a worker has said, its last line left out where it is cut."""
    assert process.stdout is not None
    found = []
    for line in process.stdout:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def books(url: str, data: Path, home: Path, limit: Limit) -> tuple[Amounts, Amounts, Amounts]:
    """Spent, uncertain and held, as the next process to start finds them."""

    async def look() -> tuple[Amounts, Amounts, Amounts]:
        store = open_store(StoreSettings(url=url), data, SystemClock())
        ledger = Ledger(
            store.ledger,
            home,
            SystemClock(),
            limits=[limit],
            settings=LedgerSettings(),
            pricer=Pricer({}),
            alert=lambda alert: None,
        )
        await ledger.start()
        [account] = await asyncio.to_thread(ledger.accounts)
        await ledger.stop()
        store.close()
        return account.spent, account.uncertain, account.held

    return asyncio.run(look())


@pytest.mark.parametrize(("homes", "first"), [(1, 0), (3, 0), (3, 100)])
def test_processes_that_race_use_a_budget_up_and_never_pass_it(
    store_url: str, tmp_path: Path, homes: int, first: int
) -> None:
    data, cap = tmp_path / "data", 20_000
    open_store(StoreSettings(url=store_url), data, SystemClock()).close()
    racing = [
        start(store_url, data, tmp_path / f"ledger{seed % homes}", first + seed, cap)
        for seed in range(3)
    ]
    spent = 0
    for process in racing:
        lines = said(process)
        assert process.wait(60) == 0
        assert lines[-1] == ["done"]
        spent += sum(line[2] for line in lines if line[0] == "used")
    limit = Limit(name="all", tokens=cap)
    booked, uncertain, held = books(store_url, data, tmp_path / "ledger0", limit)
    assert booked.tokens == spent
    assert (uncertain.tokens, held.tokens) == (0, 0)
    assert spent <= cap
    # Where calls use all that they hold, less than one call is left; else, what they gave back.
    assert cap - spent < (WORST if first else WORST * 24)


def test_a_process_that_is_killed_at_any_instant_leaves_exact_books(tmp_path: Path) -> None:
    chance = random.Random(7)
    cap = 10**9
    data, home = tmp_path / "data", tmp_path / "ledger"
    least = most = 0
    for round_ in range(12):
        process = start("", data, home, round_, cap)
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == ["ready"]
        signal_after = chance.uniform(0.0, 0.7)
        try:
            process.wait(signal_after)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
        lines = said(process)
        process.wait()
        held = {line[1]: line[2] for line in lines if line[0] == "held"}
        used = {line[1]: line[2] for line in lines if line[0] == "used"}
        # What it said it used may not have been settled any more: then it counts in full.
        least += sum(used.values())
        open_ = [amount for name, amount in held.items() if name not in used]
        least += sum(open_)
        # Between holding and saying so there may be one reservation for each client.
        last = sum(held[name] - used[name] for name in list(used)[-8:])
        most += sum(used.values()) + sum(open_) + last + 8 * WORST
        spent, _, now_held = books("", data, home, Limit(name="all", tokens=cap))
        assert now_held == Amounts()
        assert least <= spent.tokens <= most, f"round {round_}"
        least = most = spent.tokens
