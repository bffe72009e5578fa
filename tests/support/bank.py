"""A bank as its own process: it charges whatever key comes, even twice, and sometimes dies.

``python bank.py SOCKET FILE SEED DEATHS`` serves one request after the other, in the order in which
they came: ``charge KEY`` adds a line to the file and answers with its number; ``find KEY`` answers
with the number, or 0. With the probability DEATHS it dies in the middle of a charge: before the
money is taken, or after it and before the answer. Whoever starts it starts it again.
"""

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

PAUSE_S = 0.003
"""Between taking the money and the answer: where whoever waits for it may be killed."""


def serve(place: str, file: Path, seed: int, deaths: float) -> None:
    """Answer until killed, or until chance has it."""
    chance = random.Random(seed)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(place)
    charges = file.read_text().split() if file.exists() else []
    with socket.socket(socket.AF_UNIX) as listener, file.open("a") as book:
        listener.bind(place)
        listener.listen(128)
        while True:
            caller, _ = listener.accept()
            with caller:
                verb, _, key = caller.recv(200).decode().strip().partition(" ")
                dies = verb == "charge" and chance.random() < deaths
                if dies and chance.random() < 0.5:
                    os._exit(1)
                if verb == "charge":
                    charges.append(key)
                    book.write(key + "\n")
                    book.flush()
                    time.sleep(PAUSE_S)
                if dies:
                    os._exit(1)
                number = charges.index(key) + 1 if key in charges else 0
                with contextlib.suppress(OSError):
                    caller.sendall(b"%d\n" % number)


class Bank:
    """The process, kept going until it is closed."""

    def __init__(self, folder: Path, *, seed: int, deaths: float) -> None:
        self.place = str(folder / "bank")
        self.file = folder / "charges"
        self.died = 0
        self._seed = seed
        self._deaths = deaths
        self._closed = False
        self._process = self._start()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def _start(self) -> "subprocess.Popen[bytes]":
        self._seed += 1
        words = [self.place, str(self.file), str(self._seed), str(self._deaths)]
        return subprocess.Popen([sys.executable, "-S", __file__, *words])

    def _keep(self) -> None:
        while not self._closed:
            if self._process.wait() != -signal.SIGKILL and not self._closed:
                self.died += 1
                self._process = self._start()

    def charges(self) -> Counter[str]:
        """How often each key was charged."""
        return Counter(self.file.read_text().split() if self.file.exists() else ())

    def close(self) -> None:
        """End it."""
        self._closed = True
        self._process.kill()
        self._keeper.join(timeout=10)


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
