"""A domain with two kinds of operations that ask a model and charge a card, and its package.

``shop`` cannot ask the bank what became of a charge, ``shop_that_asks`` can. The bank listens on
the port in the environment's SHOP_BANK.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import shutil
from pathlib import Path
from typing import Any

from tocsin.core.domain import Domain
from tocsin.core.operations import Ending, Kind, Work, step_key

ASKS = "shop_that_asks"
INTENTS = (500, 700)
"""Cents that each order is charged, each asked for three times."""
_BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Is it fair?"}]})


async def call(verb: str, key: str) -> int:
    """Ask the bank. Whoever cannot be reached has not been asked."""
    while True:
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", int(os.environ["SHOP_BANK"])
            )
            break
        except ConnectionRefusedError:
            await asyncio.sleep(0.005)
    try:
        writer.write(f"{verb} {key}\n".encode())
        line = await reader.readline()
    finally:
        writer.close()
    if not line:
        raise ConnectionResetError("the bank is gone")
    return int(line)


async def charge(key: str) -> dict[str, int]:
    """Take the money."""
    return {"number": await call("charge", key)}


async def find(key: str) -> Any:
    """What became of a charge."""
    while True:
        try:
            number = await call("find", key)
        except OSError:
            continue
        return {"number": number} if number else None


async def run(work: Work) -> Ending:
    """Ask the model, then charge as often as a model asks for that."""
    plan = await work.ask("/v1/chat/completions", _BODY.encode(), step="plan")
    if plan.outcome != "complete":
        return Ending(outcome=plan.outcome, error_type="no_plan")
    if os.environ.get("SHOP_CARELESS"):
        return await _carelessly(work)
    asks = find if work.operation.kind == ASKS else None
    for cents in INTENTS:
        for _ in range(3):
            order = {"order": work.operation.id, "cents": cents}
            paid = await work.effect("charge", order, charge, find=asks)
        await work.emit("paid", paid)
    return Ending(outcome="complete", result=json.dumps(plan.output_tokens).encode())


async def _carelessly(work: Work) -> Ending:
    """The same, wrong on purpose: charges are steps that may be done again."""
    for cents in INTENTS:
        order = {"order": work.operation.id, "cents": cents}
        key = step_key(work.operation.id, "charge", order)
        await work.step("charge", functools.partial(charge, key), order)
    return Ending(outcome="complete")


DOMAIN = Domain(
    name="shop",
    summary="Sells.",
    kinds=tuple(Kind(name=name, summary="Sells.", run=run) for name in ("shop", ASKS)),
)


def install(folder: Path) -> Path:
    """Make a package of this file in ``folder``, as pip leaves it behind; returns the folder."""
    about = folder / "kill_shop-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: kill-shop\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[tocsin.domains]\nshop = kill_shop:DOMAIN\n")
    shutil.copy(__file__, folder / "kill_shop.py")
    return folder
