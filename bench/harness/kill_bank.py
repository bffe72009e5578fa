"""A bank as its own process: it charges whatever key comes, also twice, and sometimes dies.

  python kill_bank.py PORT FOLDER SEED DEATHS

serves one request after the other, in the order in which they came: ``charge KEY`` writes a line to
``FOLDER/charges`` and answers with its number; ``find KEY`` answers with the number, or 0. With the
probability DEATHS it dies in the middle of a charge, before the money is taken or after it, and
notes the key in ``FOLDER/deaths``. Whoever starts it starts it again.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

PAUSE_S = 0.004
"""Between taking the money and the answer: where whoever waits for it may be killed."""


def serve(port: int, folder: Path, seed: int, deaths: float) -> None:
    """Answer until killed, or until chance has it."""
    chance = random.Random(seed)
    file = folder / "charges"
    charges = file.read_text().split() if file.exists() else []
    with socket.create_server(("127.0.0.1", port), backlog=128) as listener, file.open("a") as book:
        while True:
            caller, _ = listener.accept()
            with caller, contextlib.suppress(OSError):
                verb, _, key = caller.recv(200).decode().strip().partition(" ")
                dies = verb == "charge" and chance.random() < deaths
                if dies:
                    with (folder / "deaths").open("a") as died:
                        died.write(key + "\n")
                if dies and chance.random() < 0.5:
                    os._exit(1)
                if verb == "charge":
                    charges.append(key)
                    book.write(key + "\n")
                    book.flush()
                    time.sleep(PAUSE_S)
                if dies:
                    os._exit(1)
                caller.sendall(b"%d\n" % (charges.index(key) + 1 if key in charges else 0))


class Bank:
    """The process, kept going until it is closed."""

    def __init__(self, folder: Path, port: int, *, seed: int, deaths: float) -> None:
        self.port = port
        self._folder, self._seed, self._deaths = folder, seed, deaths
        self._closed = False
        self._process = self._start()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def _start(self) -> subprocess.Popen[bytes]:
        self._seed += 1
        words = [str(self.port), str(self._folder), str(self._seed), str(self._deaths)]
        return subprocess.Popen([sys.executable, "-S", __file__, *words])

    def _keep(self) -> None:
        while not self._closed:
            if self._process.wait() != -signal.SIGKILL and not self._closed:
                self._process = self._start()

    def charges(self) -> Counter[str]:
        """How often each key was charged."""
        return Counter(self._lines("charges"))

    def deaths(self) -> set[str]:
        """The keys that it died on."""
        return set(self._lines("deaths"))

    def _lines(self, name: str) -> list[str]:
        file = self._folder / name
        return file.read_text().split() if file.exists() else []

    def close(self) -> None:
        """End it."""
        self._closed = True
        self._process.kill()
        self._keeper.join(timeout=10)


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
