"""An approval waits through kill -9, new code, a deadline and two weeks, and then goes on at once.

The real command, with a kind that an installed package brings. Its second version would leave a
mark if an earlier step were done again. Two weeks are by the clock, in a process that has one.
"""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from responses_world import World, upstream
from support.packages import importable, offer
from support.process import Tocsin
from support.talking import ask, until
from tocsin.core.call import Principal
from tocsin.core.operations import Operation
from tocsin.providers.scripted_server import ScriptedServer
from tocsin.testing import FakeClock

CONFIG = """
[operations]
owner_timeout_s = 2

[upstreams.main]
base_url = "{url}"
api_key_env = "UPSTREAM_KEY"
"""
SHOP = """
import json
from pathlib import Path
from tocsin.core.domain import Domain
from tocsin.core.operations import Ending, Kind

VERSION = %d
MARKS = Path(%r)

def mark(what):
    with MARKS.open("a") as file:
        file.write(f"{what} {VERSION}\\n")

async def run(work):
    async def plan():
        mark("plan")
        return {"planned by": VERSION}

    async def charge(key):
        mark("charge")
        return {"charged by": VERSION, "key": key}

    async def send(key):
        mark("send")
        return {"sent by": VERSION}

    plan_ = await work.step("plan", plan)
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Is it fair?"}]})
    said = await work.ask("/v1/chat/completions", body.encode(), step="judge")
    receipt = await work.effect("charge", {"cents": 500}, charge)
    answer = await work.approve("Send the goods?", {"to": "ann"})
    sent = await work.effect("send", {"to": "ann"}, send) if answer["approved"] else None
    result = {"plan": plan_, "said": said.status, "receipt": receipt, "answer": answer}
    result |= {"sent": sent, "by": VERSION}
    return Ending(outcome="complete", result=json.dumps(result).encode())

ORDER = Kind(name="order", summary="Sells.", run=run)
DOMAIN = Domain(name="shop", summary="Sells.", kinds=(ORDER,))
"""
DAY = 86_400


def version(number: int, folder: Path) -> Path:
    """Install a version of the package."""
    return offer(folder / "site", SHOP % (number, str(folder / "marks")))


def marks(folder: Path) -> list[str]:
    return (folder / "marks").read_text().splitlines()


def check(result: dict[str, Any], folder: Path) -> None:
    """What was done before is as the first version did it, the rest is the second's."""
    assert result["plan"] == {"planned by": 1}
    assert result["said"] == 200
    assert result["receipt"]["charged by"] == 1
    assert result["answer"] == {"approved": True, "note": "checked", "by": result["answer"]["by"]}
    assert (result["sent"], result["by"]) == ({"sent by": 2}, 2)
    assert marks(folder) == ["plan 1", "charge 1", "send 2"]


@pytest.mark.slow
async def test_kill_9_and_new_code_while_it_waits(tmp_path: Path) -> None:
    site = version(1, tmp_path)
    env = {"UPSTREAM_KEY": "sk-upstream", "PYTHONPATH": str(site)}
    async with ScriptedServer() as server:
        tocsin = Tocsin(tmp_path, CONFIG.format(url=server.url), env=env)
        with tocsin:
            await tocsin.ready()
            key = tocsin.admin_key()
            url = f"{tocsin.url}/api/operations"
            body = {"kind": "order", "input": {}, "deadline_s": 3.0}
            status, made = await asyncio.to_thread(ask, url, key, body)
            assert status == 202, made
            mine = f"{url}/{made['id']}"
            await asyncio.to_thread(waits, mine, key)
            tocsin.kill()
            version(2, tmp_path)
            tocsin.start()
            await tocsin.ready()
            # Its deadline passes while it waits, and does not count.
            await asyncio.sleep(3.2)
            assert (await asyncio.to_thread(ask, mine, key))[1]["status"] == "waiting"
            tocsin.kill()
            tocsin.start()
            await tocsin.ready()
            result, took_s = await asyncio.to_thread(answered, mine, key)
            ended = (await asyncio.to_thread(ask, mine, key))[1]
            events = (await asyncio.to_thread(ask, f"{mine}/events", key))[1]["rows"]
    check(result, tmp_path)
    assert took_s < 1.0, "at once"
    assert (ended["outcome"], ended["restarts"], ended["calls"]) == ("complete", 0, 1)
    assert len(server.seen) == 1, "the model was asked once"
    assert [event["number"] for event in events] == list(range(len(events)))


def waits(url: str, key: str) -> None:
    """Return once it waits for a person."""
    until(lambda: ask(url, key)[1]["status"] == "waiting")


def answered(url: str, key: str) -> tuple[dict[str, Any], float]:
    """Answer it; its result, and how long that took."""
    began = time.monotonic()
    status, said = ask(f"{url}/answer", key, {"approved": True, "note": "checked"})
    assert status == 200, said
    _, ended = ask(f"{url}/result?wait=10", key)
    assert ended["outcome"] == "complete", ended
    return ended["result"], time.monotonic() - began


async def test_14_days_by_the_clock_and_new_code(tmp_path: Path) -> None:
    clock = FakeClock()
    async with ScriptedServer() as server:
        world = World(tmp_path / "data", {"upstreams": {"main": upstream(server)}}, clock)
        with importable(version(1, tmp_path)):
            await world.start()
        made = await begun(world, clock)
        await world.stop()
        clock.advance(14 * DAY)
        with importable(version(2, tmp_path)):
            await world.start()
        try:
            operations = world.app.operations
            assert (await operations.get(made)).status == "waiting"
            began = time.monotonic()
            await operations.answer(made, approved=True, note="checked", by="ann")
            ended = await operations.ended(made, 5)
            took_s = time.monotonic() - began
            result = json.loads(await operations.result(made) or b"")
        finally:
            await world.close()
    check(result, tmp_path)
    assert took_s < 1.0, "at once"
    assert ended.outcome == "complete"
    assert len(server.seen) == 1
    # The 60 s that it had are moved by the 14 days.
    assert ended.deadline_at is not None
    assert 0 < ended.deadline_at - clock.now_us() <= 60 * 1_000_000


async def begun(world: World, clock: FakeClock) -> str:
    """An operation with a deadline in a minute that waits for a person."""
    operation = Operation(
        id="op_" + "0" * 25 + "7",
        kind="order",
        feature="default",
        background=True,
        created_at=clock.now_us(),
        deadline_at=clock.now_us() + 60 * 1_000_000,
    )
    await world.app.operations.create(operation, b"{}", principal=Principal())
    async with asyncio.timeout(10):
        while operation.status != "waiting":
            await asyncio.sleep(0.01)
            operation = await world.app.operations.get(operation.id)
    return operation.id
