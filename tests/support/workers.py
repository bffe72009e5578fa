"""Processes that run operations, made to be killed; forked, so that each starts in no time.

``python workers.py FOLDER BANK`` reads lines: ``start NUMBER`` forks a process that takes over what
it finds and begins new operations named after NUMBER until it is killed; ``finish`` forks one that
begins none and ends when all have ended. Written are: ``pid PID``, ``made ID`` for every operation
whose creation was acknowledged, and ``finished``.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tocsin.config.model import StoreSettings
from tocsin.core.call import Principal
from tocsin.core.clock import SystemClock
from tocsin.core.operations import Ending, Kind, Operation, Work
from tocsin.operations import Operations, Settings
from tocsin.store import open_store
from tocsin.store.operations_api import OperationFilter


def say(*words: object) -> None:
    """One line, at once."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def call(bank: str, verb: str, key: str) -> int:
    """Ask the bank. Whoever cannot be reached has not been asked."""
    while True:
        try:
            reader, writer = await asyncio.open_unix_connection(bank)
            break
        except OSError:
            await asyncio.sleep(0.005)
    try:
        writer.write(f"{verb} {key}\n".encode())
        line = await reader.readline()
    finally:
        writer.close()
    if not line:
        raise ConnectionResetError("the bank is gone")
    return int(line)


def kinds(bank: str) -> list[Kind]:
    """``pays`` cannot ask the bank what became of a charge; ``pays_and_asks`` can."""

    async def charge(key: str) -> dict[str, int]:
        return {"number": await call(bank, "charge", key)}

    async def find(key: str) -> Any:
        while True:
            try:
                number = await call(bank, "find", key)
            except OSError:
                continue
            return {"number": number} if number else None

    async def think() -> str:
        await asyncio.sleep(0.01)
        return "pay"

    async def pays(work: Work) -> Ending:
        asks = work.operation.kind == "pays_and_asks"
        await work.step("think", think)
        await work.emit_raw([("said", b"{}")] * 3)
        for _ in range(3):
            order = {"of": work.operation.id, "cents": 5}
            paid = await work.effect("charge", order, charge, find=find if asks else None)
        await work.emit("paid", paid)
        await work.step("think again", think)
        return Ending(outcome="complete")

    return [Kind(name=name, summary="pays", run=pays) for name in ("pays", "pays_and_asks")]


async def no_model(*args: Any) -> Any:
    """These kinds ask no model."""
    raise AssertionError(args)


async def work(folder: Path, bank: str, number: int | None) -> None:
    """The life of one process."""
    clock = SystemClock()
    store = open_store(StoreSettings(), folder, clock)
    settings = Settings(poll_s=0.02, owner_timeout_s=2.0)
    engine = Operations(
        store.operations, clock, settings=lambda: settings, kinds=kinds(bank), ask=no_model
    )
    await engine.start()
    if number is None:
        while not all_ended(store.operations):  # noqa: ASYNC110  other processes end them
            await asyncio.sleep(0.02)
        await engine.stop(1)
        say("finished")
        return
    for count in range(1_000_000):
        operation = Operation(
            id=f"op_{number:08}{count:020}",
            kind="pays_and_asks" if count % 2 else "pays",
            feature="f",
            background=bool(count % 3),
            created_at=clock.now_us(),
        )
        await engine.create(operation, b"{}", principal=Principal())
        say("made", operation.id)
        await asyncio.sleep(0.015)


def all_ended(book: Any) -> bool:
    """Whether nothing is left to do."""
    return not any(
        book.operations(OperationFilter(status=status), limit=1).rows
        for status in ("queued", "running", "waiting")
    )


def main() -> None:
    folder, bank = Path(sys.argv[1]), sys.argv[2]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        verb, _, number = line.strip().partition(" ")
        pid = os.fork()
        if not pid:
            asyncio.run(work(folder, bank, int(number) if verb == "start" else None))
            os._exit(0)
        say("pid", pid)


if __name__ == "__main__":
    main()
