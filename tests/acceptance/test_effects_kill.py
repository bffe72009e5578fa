"""kill -9 in the middle of what changes the world: a tool that charges, a sender of webhooks.

The bank and the receiver are real HTTP servers that refuse nothing: what comes twice is done twice.
"""

import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from support import effects_tool, webhook_sender
from support.receiver import Receiver
from tocsin.config.model import Config, StoreSettings
from tocsin.core.clock import SystemClock
from tocsin.operations.sending import LEASE_S
from tocsin.operations.webhooks import Webhooks
from tocsin.store import open_store
from tocsin.testing import FakeClock
from tocsin.worker.deliveries import Deliveries

COUNT = 40
KILLS = 8


class Bank:
    """Charges whatever it is asked to, slowly, also when the one who asked is dead."""

    def __init__(self) -> None:
        self.charged: list[tuple[str, int]] = []
        self.lock = threading.Lock()
        bank = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if not body:
                    return  # killed between the head and the body
                number = json.loads(body)
                time.sleep(0.01)
                with bank.lock:
                    bank.charged.append((self.path[1:], number))
                    answer = {"charge": len(bank.charged)}
                time.sleep(0.01)
                self._say(answer)

            def do_GET(self) -> None:
                time.sleep(0.05)  # a request of a dead process may still be on its way
                with bank.lock:
                    keys = [key for key, _ in bank.charged]
                found = self.path[1:] in keys
                self._say({"charge": keys.index(self.path[1:]) + 1} if found else None)

            def _say(self, answer: Any) -> None:
                data = json.dumps(answer).encode()
                try:
                    self.send_response(200)
                    self.send_header("content-length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # killed meanwhile

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def numbers(self) -> Counter[int]:
        """How often each number was charged."""
        with self.lock:
            return Counter(number for _, number in self.charged)


@pytest.fixture
def bank() -> Iterator[Bank]:
    made = Bank()
    yield made
    made.server.shutdown()
    made.server.server_close()


class Tool:
    """``support.effects_tool`` over one data folder, started again and again."""

    def __init__(self, folder: Path, bank: Bank, *words: str) -> None:
        self.data = folder / "data"
        self.config = folder / "tocsin.toml"
        self.config.write_text(f'[server]\ndata_dir = "{self.data}"\n')
        program = str(Path(effects_tool.__file__))
        self._words = [sys.executable, program, str(self.config), bank.url, str(COUNT), *words]

    def start(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(self._words, stdout=subprocess.PIPE, text=True)

    def killed_after(self, lines: int, pause_s: float) -> bool:
        """Kill it somewhere in the middle of a charge; False when it was done before."""
        process = self.start()
        assert process.stdout is not None
        for _ in range(lines):
            process.stdout.readline()
        time.sleep(pause_s)
        process.kill()
        process.stdout.close()
        return process.wait() != 0

    def run(self) -> dict[int, Any]:
        """To its end: what became of each number."""
        said = subprocess.run(self._words, stdout=subprocess.PIPE, text=True, check=True).stdout
        return dict(json.loads(line) for line in said.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("finds", [True, False])
def test_a_tool_that_is_killed_charges_once(tmp_path: Path, bank: Bank, finds: bool) -> None:
    tool = Tool(tmp_path, bank, *(["find"] if finds else []))
    rng = random.Random(7)
    killed = 0
    for round_ in range(KILLS):
        # Within a charge: before it came to the bank, while it is made, on its way back.
        killed += tool.killed_after(round_ * 4 + 1, rng.uniform(0, 0.04))
    assert killed == KILLS
    results = tool.run()
    assert sorted(results) == list(range(COUNT))
    charged = bank.numbers
    assert max(charged.values()) == 1, "nothing is charged twice"
    unknown = {number for number, result in results.items() if result == "unknown"}
    if finds:
        assert sorted(charged) == list(range(COUNT)), "and nothing is lost"
        assert unknown == set()
        assert all(bank.charged[result["charge"] - 1][1] == n for n, result in results.items())
    else:
        assert 0 < len(unknown) <= KILLS
        assert set(range(COUNT)) - unknown <= set(charged)
        store = open_store(StoreSettings(), tool.data, SystemClock())
        assert len(store.operations.steps_in("unknown")) == len(unknown)
        store.close()
    assert tool.run() == results


async def test_a_sender_that_is_killed_sends_the_same_message_again(tmp_path: Path) -> None:
    async with Receiver() as receiver:
        receiver.hang = True
        program = str(Path(webhook_sender.__file__))
        process = await asyncio.create_subprocess_exec(
            sys.executable, program, str(tmp_path), receiver.url
        )
        for _ in range(600):
            if receiver.came:
                break
            await asyncio.sleep(0.05)
        process.kill()  # the message has come; that it has is not written down
        await process.wait()
        receiver.hang = False

        clock = FakeClock(time.time_ns() // 1000)
        store = open_store(StoreSettings(), tmp_path, clock)
        config = Config.model_validate(
            {"webhooks": {"app": {"url": receiver.url, "secret_env": "S"}}}
        )
        env = {"S": webhook_sender.SECRET}
        webhooks = Webhooks(store.operations, clock, lambda: config.webhooks, env, b"s" * 32)
        deliveries = Deliveries(
            store.operations, webhooks, clock, lambda: config, lambda _: None, owner="second"
        )
        assert await deliveries.sender.step() == 0, "still the dead one's"
        clock.advance(LEASE_S + 1)
        assert await deliveries.sender.step() == 1
        await deliveries.sender.settled()
        await deliveries.close()
        (row,) = store.operations.deliveries()
        store.close()
    assert row.state == "delivered"
    assert receiver.ids == [row.id, row.id], "by which the receiver knows it"
    assert receiver.came[0].body == receiver.came[1].body == row.payload
