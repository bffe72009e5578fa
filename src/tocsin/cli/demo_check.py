"""The demo checks itself: what was sent is what was recorded, found, shown and whole."""

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

from tocsin.cli.demo_traffic import Traffic
from tocsin.cli.frontdoor import FrontDoor
from tocsin.store.api import Filter

PAGES = ("/", "/runs", "/calls", "/supervisor", "/operations", "/spend", "/settings")


class Finding(NamedTuple):
    """One thing that was checked, in words."""

    ok: bool
    text: str


async def check(door: FrontDoor, traffic: Traffic) -> list[Finding]:
    """Look at everything from outside (HTTP) and inside (the store)."""
    found = [
        Finding(
            not traffic.failed,
            f"every one of {traffic.sent} calls was answered"
            if not traffic.failed
            else f"{len(traffic.failed)} calls failed, the first: {traffic.failed[0]}",
        ),
        *(await asyncio.to_thread(lambda: list(_stored(door, traffic)))),
        *_stitched(traffic),
        _rejoined(traffic),
        *(await _pages(door, traffic)),
    ]
    await traffic.aclose()
    return found


def _stored(door: FrontDoor, traffic: Traffic) -> Iterator[Finding]:
    store = door.app.store
    stats = store.stats()
    yield Finding(
        stats.interactions == traffic.sent,
        f"{stats.interactions} calls recorded of {traffic.sent} sent",
    )
    problems = list(store.verify())
    yield Finding(
        not problems,
        "verify: every record, message and link is whole"
        if not problems
        else f"verify: {len(problems)} problems, the first: {problems[0].message}",
    )


def _stitched(traffic: Traffic) -> Iterator[Finding]:
    """Each session in one run of its own, though no call said which it belongs to."""
    torn = [name for name, runs in traffic.runs.items() if len(runs) != 1]
    yield Finding(
        not torn,
        f"each of {len(traffic.runs)} sessions is one run"
        if not torn
        else f"{len(torn)} sessions are torn over several runs, such as {torn[0]}",
    )
    distinct = {run for runs in traffic.runs.values() for run in runs}
    yield Finding(
        len(distinct) == len(traffic.runs),
        f"{len(traffic.runs)} sessions are {len(distinct)} runs: no two were mixed up",
    )


def _rejoined(traffic: Traffic) -> Finding:
    """What its reader had before it left and after it came back is the stream."""
    before, events, same = traffic.rejoined
    return Finding(
        same,
        f"a background stream left after event {before - 1} and rejoined is the same {events} "
        "events, byte for byte"
        if same
        else f"a background stream left after {before} events came back otherwise",
    )


async def _pages(door: FrontDoor, traffic: Traffic) -> list[Finding]:
    made = await asyncio.to_thread(door.keyring.issue, "demo check", "viewer", actor="tocsin demo")
    run = (await asyncio.to_thread(door.app.store.runs, Filter(), limit=1)).rows[0]
    paths = (*PAGES, f"/runs/{run.id}", "/readyz", "/api/runs", "/metrics")
    found = []
    for path in paths:
        answer = await traffic.get(path, made.secret)
        shown = "/runs/{id}" if path.endswith(run.id) else path
        found.append(Finding(answer.status == 200, f"GET {shown} answers {answer.status}"))
    await asyncio.to_thread(door.keyring.revoke, made.row.id, actor="tocsin demo")
    return found
