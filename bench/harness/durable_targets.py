"""The same work on two engines, each in a process of its own: ``python durable_targets.py NAME``.

Reads its settings as JSON from standard input and writes what it measured as one line of JSON. One
piece of work is: a step that is remembered, a short sleep, a second step, a result.
"""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

Start = Callable[[int], Awaitable[Any]]
Finish = Callable[[Any], Awaitable[Any]]

SLEEP_S = 0.05


def rss_mb() -> float:
    """Memory of this process now, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


async def measured(start: Start, finish: Finish, settings: dict[str, Any]) -> dict[str, float]:
    """One after the other for the time to start; many at a time for what each costs."""
    warm = [await start(n) for n in range(20)]
    await asyncio.gather(*map(finish, warm))
    took, begun = [], []
    for n in range(settings["serial"]):
        began = time.perf_counter()
        begun.append(await start(1000 + n))
        took.append(time.perf_counter() - began)
    await asyncio.gather(*map(finish, begun))
    before_mb = rss_mb()
    cpu, wall = time.process_time(), time.perf_counter()

    turns = asyncio.Semaphore(settings["at_once"])

    async def one(n: int) -> None:
        async with turns:
            await finish(await start(n))

    await asyncio.gather(*(one(10_000 + n) for n in range(settings["operations"])))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    await asyncio.sleep(2)
    idle = time.process_time()
    await asyncio.sleep(settings["idle_s"])
    idle = time.process_time() - idle
    return {
        "start_ms": statistics.median(took) * 1000,
        "cpu_ms": cpu / settings["operations"] * 1000,
        "per_s": settings["operations"] / wall,
        "ready_mb": before_mb,
        "peak_mb": peak,
        "idle_ms_per_s": idle / settings["idle_s"] * 1000,
    }


async def tocsin(settings: dict[str, Any]) -> dict[str, float]:
    """Tocsin's engine on its SQLite store."""
    from tocsin.config.model import StoreSettings
    from tocsin.core.call import Principal
    from tocsin.core.clock import SystemClock
    from tocsin.core.ids import new_id
    from tocsin.core.operations import Ending, Kind, Operation, Work
    from tocsin.operations import Operations, Settings
    from tocsin.store import open_store

    async def think() -> str:
        return "thought"

    async def run(work: Work) -> Ending:
        await work.step("first", think)
        await asyncio.sleep(SLEEP_S)
        await work.step("second", think)
        return Ending(outcome="complete", result=work.input)

    async def no_model(*args: Any) -> Any:
        raise AssertionError(args)

    clock = SystemClock()
    store = open_store(StoreSettings(), Path(settings["folder"]), clock)
    engine = Operations(
        store.operations,
        clock,
        settings=lambda: Settings(concurrency=100_000),
        kinds=[Kind(name="work", summary="", run=run)],
        ask=no_model,
    )
    await engine.start()

    async def start(n: int) -> str:
        now = clock.now_us()
        made = Operation(
            id=new_id("op", now), kind="work", feature="f", background=True, created_at=now
        )
        await engine.create(made, b"%d" % n, principal=Principal())
        return made.id

    async def finish(operation_id: str) -> None:
        ended = await engine.ended(operation_id)
        assert ended.outcome == "complete"

    found = await measured(start, finish, settings)
    await engine.stop(1)
    store.close()
    return found


async def dbos(settings: dict[str, Any]) -> dict[str, float]:
    """DBOS with its system database on SQLite."""
    from dbos import DBOS, SetWorkflowID

    @DBOS.step(name="think")
    async def think() -> str:
        return "thought"

    @DBOS.workflow(name="work")
    async def work(number: str) -> str:
        await think()
        await asyncio.sleep(SLEEP_S)
        await think()
        return number

    DBOS(
        config={
            "name": "bench",
            "system_database_url": f"sqlite:///{settings['folder']}/dbos.sqlite",
            "run_admin_server": False,
            "application_version": "1",
            "executor_id": "local",
            "log_level": "WARNING",
        }
    )
    DBOS.launch()

    async def start(n: int) -> Any:
        with SetWorkflowID(f"work-{n}"):
            return await DBOS.start_workflow_async(work, str(n))

    async def finish(handle: Any) -> None:
        await handle.get_result()

    found = await measured(start, finish, settings)
    DBOS.destroy()
    return found


def main() -> None:
    target = {"tocsin": tocsin, "dbos": dbos}[sys.argv[1]]
    settings = json.loads(sys.stdin.read())
    print(json.dumps(asyncio.run(target(settings))), flush=True)


if __name__ == "__main__":
    main()
