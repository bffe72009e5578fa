"""Several processes at one store, and processes that die."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from store_world import StoppedClock, problems
from tocsin.config.model import StoreSettings
from tocsin.store import Store, open_store

WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from store_world import Conversation, StoppedClock, entry
from tocsin.config.model import StoreSettings
from tocsin.store import open_store

store = open_store(StoreSettings(url=sys.argv[1]), Path(sys.argv[2]), StoppedClock())
number = int(sys.argv[3])
limit = int(sys.argv[5])
talk = Conversation(f"run_{number}")
print("ready", flush=True)
for step in range(limit):
    batch = [talk.call(number + step * 3), entry(number + step * 3 + 1, end_user="ann")]
    store.append(batch)
    print(batch[-1].interaction.id, flush=True)
    if step % 7 == 3:
        store.index()
        store.fold()
    if step % 11 == 10:
        store.delete_end_user("ann")
print("done", flush=True)
"""

TESTS = str(Path(__file__).parent.parent)


def start(url: str, folder: Path, number: int, limit: int = 10_000) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", WRITER, url, str(folder), str(number), TESTS, str(limit)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_a_writer_that_is_killed_at_any_instant_leaves_a_whole_store(tmp_path: Path) -> None:
    chance = random.Random(5)
    known = 0
    for round_ in range(30):
        writer = start("", tmp_path, 1 + round_ * 100_000)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.001, 0.12))
        os.kill(writer.pid, signal.SIGKILL)
        said = [line.strip() for line in writer.stdout if line.startswith("call_")]
        writer.wait()
        store = open_store(StoreSettings(), tmp_path, StoppedClock())
        assert problems(store) == [], f"round {round_}"
        run = store.run(f"run_{1 + round_ * 100_000}")
        if said:
            assert run is not None
            assert run.calls >= len(said), "every acknowledged append is there"
        known += len(said)
        store.close()
    assert known > 30


def test_two_processes_append_at_once(store_url: str, tmp_path: Path) -> None:
    writers = [start(store_url, tmp_path / "data", n, limit=20) for n in (1, 1_000_000)]
    for writer in writers:
        output, _ = writer.communicate(timeout=120)
        assert writer.returncode == 0
        assert output.endswith("done\n")
    store: Store = open_store(StoreSettings(url=store_url), tmp_path / "data", StoppedClock())
    for number in (1, 1_000_000):
        run = store.run(f"run_{number}")
        assert run is not None
        assert run.calls == 20
    seqs = [seq for seq, _ in store.after(0, limit=1000)]
    assert seqs == sorted(set(seqs))
    assert problems(store) == []
    store.close()
