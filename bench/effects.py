"""What `@tocsin.once` costs, and what it holds: a tool that charges, killed at random instants.

The bank is a real HTTP server that charges whatever it is asked to. A process charges one number
after the other and is killed with kill -9 at a random instant, started again from the first number,
and so on; once with a function that asks the bank what became of a charge, once without.

  python bench/effects.py                 # 200 kills each way: about 6 minutes
  python bench/effects.py --kills 10      # a look
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tocsin.config.model import Config
from tocsin.sdk import EffectUnknown, Tocsin

MAKES_S = 0.01
"""How long the bank takes before it has charged, and again before it says so."""
WITHIN_S = 0.4
"""A process is killed within this time of its first line."""


class Bank:
    """Charges whatever it is asked to, also when the one who asked is dead."""

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
                time.sleep(MAKES_S)
                with bank.lock:
                    bank.charged.append((self.path[1:], number))
                time.sleep(MAKES_S)
                self.say({"charged": number})

            def do_GET(self) -> None:
                time.sleep(5 * MAKES_S)  # what a dead process sent may still be on its way
                with bank.lock:
                    found = [number for key, number in bank.charged if key == self.path[1:]]
                self.say({"charged": found[0]} if found else None)

            def say(self, answer: Any) -> None:
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
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def opened(folder: str) -> Tocsin:
    return Tocsin(Config.model_validate({"server": {"data_dir": folder}}))


def tool(folder: str, bank: str, count: int, finds: bool) -> None:
    """The process that is killed."""
    tocsin = opened(folder)

    def ask(key: str, data: bytes | None = None) -> Any:
        request = urllib.request.Request(f"{bank}/{key}", data=data)
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)

    @tocsin.once("charge")
    def charge(number: int, *, key: str) -> Any:
        return ask(key, json.dumps(number).encode())

    if finds:
        charge.finder(ask)
    with tocsin, tocsin.operation("op_bench"):
        for number in range(count):
            try:
                print(number, json.dumps(charge(number)), flush=True)
            except EffectUnknown:
                print(number, "unknown", flush=True)


def killed(kills: int, finds: bool, seed: int) -> dict[str, Any]:
    """Kill it so often, then let it end; what the bank has charged."""
    rng, bank = random.Random(seed), Bank()
    hit, count = 0, 8 * kills
    with tempfile.TemporaryDirectory(prefix="tocsin-effects-") as folder:
        url = f"http://127.0.0.1:{bank.server.server_port}"
        words = [sys.executable, __file__, "--tool", folder, url, str(count), str(finds)]
        for _ in range(kills):
            process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            # Known ones come at once; what follows is new.
            known = len(bank.charged)
            line = process.stdout.readline()
            while line and int(line.split()[0]) < known - 1:
                line = process.stdout.readline()
            time.sleep(rng.uniform(0, WITHIN_S))
            process.kill()
            process.stdout.close()
            hit += process.wait() != 0
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    bank.server.shutdown()
    times = Counter(number for _, number in bank.charged)
    lines = done.stdout.splitlines()
    unknown = {int(line.split()[0]) for line in lines if line.endswith("unknown")}
    return {
        "find": finds,
        "kills": hit,
        "intents": count,
        "charged_twice": sum(n > 1 for n in times.values()),
        "lost": len(set(range(count)) - set(times) - unknown),
        "unknown": len(unknown),
        "unknown_charged": len(unknown & set(times)),
    }


def cost(rounds: int) -> dict[str, float]:
    """Milliseconds: of an intent that is new, and of one that is done, and the CPU of each."""
    figures: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory(prefix="tocsin-effects-") as folder,
        opened(folder) as tocsin,
        tocsin.operation("op_bench"),
    ):
        nothing = tocsin.once("nothing")(lambda number: number)
        nothing(-1)
        for name in ("new", "done"):
            times, cpu = [], time.process_time()
            for number in range(rounds):
                start = time.perf_counter()
                nothing(number)
                times.append((time.perf_counter() - start) * 1000)
            figures[f"{name}_ms"] = round(statistics.median(times), 2)
            figures[f"{name}_p99_ms"] = round(sorted(times)[int(rounds * 0.99)], 2)
            used = (time.process_time() - cpu) * 1000
            figures[f"{name}_cpu_ms"] = round(used / rounds, 2)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="kills, with and without a finder")
    parser.add_argument("--rounds", type=int, default=1000, help="asks that are timed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tool", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.tool:
        folder, bank, count, finds = given.tool
        tool(folder, bank, int(count), finds == "True")
        return
    print(json.dumps(cost(given.rounds)), flush=True)
    for finds in (True, False):
        print(json.dumps(killed(given.kills, finds, given.seed)), flush=True)


if __name__ == "__main__":
    main()
