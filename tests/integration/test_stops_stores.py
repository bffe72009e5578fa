"""Two processes' switchboards on one real store, on SQLite and on PostgreSQL."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tocsin.config.model import StoreSettings
from tocsin.core.call import Call, Draft, Identity, Principal
from tocsin.core.clock import SystemClock
from tocsin.core.errors import InputError
from tocsin.core.stops import Stop
from tocsin.runtime.stops import Switch
from tocsin.store import open_store


def of_run(run_id: str) -> Call:
    draft = Draft()
    draft.identity = Identity(run_id=run_id, run_source="header")
    return Call(
        id="call_1", source="gateway", dialect="openai", operation="chat", method="POST",
        path="/v1/chat/completions", started_at=1, feature="default", principal=Principal(),
        draft=draft,
    )  # fmt: skip


async def until(condition: Callable[[], object]) -> float:
    """Seconds until it comes about, at most two."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not condition():
        await asyncio.sleep(0.005)
        assert loop.time() - began < 2
    return loop.time() - began


class Idle:
    """A runtime with no call under way."""

    in_flight: dict[str, object] = {}  # noqa: RUF012 - never written

    def enforces(self, feature: str, policy: str) -> bool:
        return True


async def test_what_one_is_told_the_other_knows_within_a_second(
    tmp_path: Path, store_url: str
) -> None:
    clock = SystemClock()
    stores = [open_store(StoreSettings(url=store_url), tmp_path, clock) for _ in range(2)]
    here, there = (Switch(store, clock) for store in stores)
    for switch in (here, there):
        await switch.start(Idle())  # type: ignore[arg-type]
    asked = of_run("r1")
    stop = await here.give("run", "r1", "pause", reason="it repeats", by="ana")
    assert here.standing(asked) == stop
    assert await until(lambda: there.standing(asked)) < 1

    waiting = asyncio.create_task(there.wait(stop.id, 5))
    await here.lift(stop.id, "redirected", by="ana", note="Go on otherwise.")
    assert await waiting
    assert there.standing(asked) is None
    assert there.redirect("r1") == "Go on otherwise."
    with pytest.raises(InputError):
        await there.lift(stop.id, "resumed", by="ana")

    first, second = await asyncio.gather(
        here.give("all", "", "kill", reason="x", by="ana"),
        there.give("all", "", "kill", reason="x", by="bob"),
    )
    standing: list[Stop] = stores[0].stops(standing=True)
    assert {first.id, second.id} == {row.id for row in standing}, "what is said to stand does"
    for row in standing:
        await here.lift(row.id, "resumed", by="ana")
    await until(lambda: here.idle or here.standing(asked) is None)
    assert await until(lambda: there.standing(asked) is None) < 1
    for switch in (here, there):
        await switch.stop()
    for store in stores:
        store.close()
