"""What ledger, stops and supervision cost per call, and whether that grows with the run.

usage: python bench/supervise.py [--steps 1,10,1000,30000] [--words N] [--json FILE]
       [--markdown FILE] [--quick]

Two Tocsins in this process, each with a store of its own, run the same agent side by side through
the real runtime; the model is scripted. In one, the policies `ledger`, `stops` and `agents` are on:
five limits that are far away (per run, feature, end user, and for all by day and month), and the
supervisor as it is set by default. In the other they are off. Each step is one call to either,
first to the one, at the next step to the other; what is shown are differences inside such a pair.

Every call is a real tool loop: an answer that asks for a tool, a result of `--words` words that
comes back, most of them new to the run: one that gets somewhere, as most do. A run of one step is a
call that stays alone. `window`: the app sends its last 20 steps, as apps with long runs must.
`whole`: it sends everything, so the calls themselves grow with the run.

latency     wall time of one call through the runtime, in the serving thread, from the parsed call
            to its record being handed over; nothing outside of this process is waited for
CPU         of the serving thread, the same stretch and the loop's next turn: what supervision puts
            off until the model is at work or the last byte was sent is in here, and not in latency
all threads CPU of the whole process over a block of calls until all is in the store, per call:
            with the policies on minus off, blocks alternating; writer and ledger threads included
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import tocsin
from harness.options import integers, plain
from harness.tables import Report, Table, shown
from tocsin.app import App, build
from tocsin.config.model import Config
from tocsin.core.call import Call, Headers, Principal
from tocsin.core.messages import Message, parse_message
from tocsin.core.policy import Reply
from tocsin.runtime.intake import take_in

LIMITS = {
    "run": {"scope": "run", "per": "run", "usd": 1e6, "calls": 10**9, "depth": 5},
    "feature": {"scope": "feature", "per": "day", "usd": 1e6, "tokens": 10**15},
    "user": {"scope": "end_user", "per": "hour", "rolling": True, "usd": 1e6},
    "day": {"per": "day", "usd": 1e6},
    "month": {"per": "month", "usd": 1e6, "tokens": 10**15},
}
OFF = {"ledger": "off", "stops": "off", "agents": "off"}
WINDOW = 20
"""Steps that an app with a window sends."""
SYSTEM = b'{"role":"system","content":"You are a careful research agent. Use the tools."}'
TASK = b'{"role":"user","content":"Find out where the orders of last week were delayed, and why."}'
WORDS = (
    *("warehouse", "carrier", "invoice", "customs", "label", "pallet", "route", "driver", "scan"),
    *("manifest", "depot", "return", "weight", "address", "region", "batch", "forecast", "shelf"),
    *("order", "refund", "delay", "weather", "strike", "bridge", "ferry", "rail", "truck"),
)
TARGET_US = 150.0


class Answers:
    """The model: every answer asks for the tool of the step that stands in the call's headers."""

    kind = "scripted"
    label = "openai"
    dialects = frozenset({"openai"})

    async def send(self, call: Call) -> Reply:
        step = int(call.header(b"x-step") or b"0")
        body = json.dumps(
            {
                "id": f"chatcmpl-{step}",
                "object": "chat.completion",
                "model": "gpt-4o-mini",
                "choices": [
                    {
                        "index": 0,
                        "message": json.loads(asked(step)),
                        "finish_reason": "tool_calls",
                    }
                ],
                "usage": {"prompt_tokens": 900, "completion_tokens": 40, "total_tokens": 940},
            }
        ).encode()
        return Reply(status=200, headers=((b"content-type", b"application/json"),), body=body)

    async def aclose(self) -> None:
        """Nothing to free."""


def asked(step: int) -> bytes:
    """The answer of a step: one tool call."""
    arguments = json.dumps({"topic": words(step, 3), "page": step % 7})
    return json.dumps(
        {
            "role": "assistant",
            "content": f"Next I look at {words(step, 2)}.",
            "tool_calls": [
                {
                    "id": f"call_{step}",
                    "type": "function",
                    "function": {"name": ("search", "read", "compare")[step % 3]}
                    | {"arguments": arguments},
                }
            ],
        }
    ).encode()


def came_back(step: int, length: int) -> bytes:
    """What the tool of a step brought, in so many words."""
    half = length // 2
    rows = step * 7919 % 100_003
    text = f"{words(step * 31 + 7, half)}; {rows} rows, {words(step * 17 + 3, half)}."
    return json.dumps({"role": "tool", "tool_call_id": f"call_{step}", "content": text}).encode()


def words(seed: int, count: int) -> str:
    """Words that differ from step to step: more than a run of any length is remembered by."""
    return " ".join(
        f"{WORDS[(seed * 7 + i * 13) % len(WORDS)]}{(seed * 89 + i * 31) % 9973}"
        for i in range(count)
    )


class History:
    """What a run has said so far, as its app sends it."""

    def __init__(self, length: int, *, whole: bool) -> None:
        self._length = length
        self._whole = whole
        self._head = (parse_message(SYSTEM), parse_message(TASK))
        self._steps: list[Message] = []

    def add(self, step: int) -> None:
        """The step's tool call and its result."""
        self._steps += [parse_message(asked(step)), parse_message(came_back(step, self._length))]
        if not self._whole:
            del self._steps[: -2 * WINDOW]

    def call(self, run_id: str, step: int, now: int) -> Call:
        """The next call of the run."""
        headers: Headers = (
            (b"content-type", b"application/json"),
            (b"tocsin-run", run_id.encode()),
            (b"tocsin-feature", b"bench"),
            (b"tocsin-user", b"ann"),
            (b"x-step", b"%d" % step),
        )
        messages = (*self._head, *self._steps)
        body = b'{"model":"gpt-4o-mini","max_tokens":256,"messages":[' + (
            b",".join(m.raw for m in messages) + b"]}"
        )
        call, refused = take_in(
            "gateway", "POST", "/v1/chat/completions", b"", headers, Principal(), body, now
        )
        assert refused is None
        return call


@dataclass
class Side:
    """One of the two Tocsins."""

    app: App
    latency_us: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    async def step(self, call: Call, *, note: bool) -> None:
        """One call to its end."""
        cpu, began = time.thread_time_ns(), time.perf_counter_ns()
        async with self.app.runtime.call(call) as reply:
            assert reply.status == 200
        took = time.perf_counter_ns() - began
        await asyncio.sleep(0)
        spent = time.thread_time_ns() - cpu
        if note:
            self.latency_us.append(took / 1000)
            self.cpu_us.append(spent / 1000)


async def sides(folder: pathlib.Path) -> tuple[Side, Side]:
    """The Tocsin with the policies, and the one without."""
    made = []
    for name, settings in (("on", {"limits": LIMITS}), ("off", {"policies": OFF})):
        server = {"data_dir": str(folder / name)}
        config = Config.model_validate({"server": server, **settings})
        app = build(config, env={}, providers={"script": Answers()})
        await app.start()
        made.append(Side(app))
    return made[0], made[1]


async def run(on: Side, off: Side, run_id: str, steps: int, noted: int, history: History) -> None:
    """One run on both, alternating; the last ``noted`` steps count."""
    for step in range(steps):
        note = step >= steps - noted
        now = on.app.clock.now_us()
        pair = [(on, history.call(run_id, step, now)), (off, history.call(run_id, step, now))]
        for side, call in pair if step % 2 else reversed(pair):
            await side.step(call, note=note)
        history.add(step)
        if step % 16 == 15:
            await asyncio.sleep(0)  # what was put off has its turn, for both
        if step % 500 == 499 or step == steps - noted - 1:
            await stored(on, off)  # nobody waits for a writer that is behind


async def stored(*all_sides: Side) -> None:
    """Wait until every record is in its store."""
    for side in all_sides:
        await side.app.recorder.flush(300)


async def block(side: Side, run_id: str, first: int, calls: int, length: int) -> float:
    """CPU of the whole process for a block of calls until they are stored, microseconds a call."""
    history = History(length, whole=False)
    for step in range(max(0, first - WINDOW), first):
        history.add(step)
    prepared = []
    for step in range(first, first + calls):
        prepared.append(history.call(run_id, step, side.app.clock.now_us()))
        history.add(step)
    await stored(side)
    began = time.process_time_ns()
    for call in prepared:
        await side.step(call, note=False)
    await stored(side)
    return (time.process_time_ns() - began) / 1000 / calls


async def all_threads(
    on: Side, off: Side, run_id: str, first: int, rounds: int, length: int
) -> list[float]:
    """CPU of all threads, on minus off, for each round of two blocks."""
    found = []
    for number in range(rounds):
        at = first + number * 200
        order = (on, off) if number % 2 else (off, on)
        cost = {id(side): await block(side, run_id, at, 200, length) for side in order}
        found.append(cost[id(on)] - cost[id(off)])
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and the 99th percentile."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p25": cuts[24], "p50": cuts[49], "p75": cuts[74], "p99": cuts[98]}


async def measure(
    steps: int, *, length: int, whole: bool, noted: int, rounds: int
) -> dict[str, Any]:
    """One row: a run of ``steps`` steps (short ones many times over)."""
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as name:
        on, off = await sides(pathlib.Path(name))
        try:
            # Once for the interpreter: what is compiled and cached on first use counts nowhere.
            await run(on, off, "warm-up", 30, 0, History(length, whole=whole))
            gc.collect()
            gc.freeze()
            gc.disable()
            begun = 0
            while len(on.latency_us) < noted:
                history = History(length, whole=whole)
                await run(on, off, f"run-{begun}", steps, min(steps, noted), history)
                begun += 1
                await asyncio.sleep(0)
                if begun % 16 == 0:
                    await stored(on, off)
            gc.enable()
            last = f"run-{begun - 1}"
            threads = await all_threads(on, off, last, steps, rounds, length) if rounds else []
        finally:
            gc.unfreeze()
            for side in (on, off):
                await side.app.stop()
    return {
        "steps": steps,
        "history": "whole" if whole else "window",
        "calls": len(on.latency_us),
        "off_us": statistics.median(off.latency_us),
        "on_us": statistics.median(on.latency_us),
        "latency_us": spread([a - b for a, b in zip(on.latency_us, off.latency_us, strict=True)]),
        "cpu_us": spread([a - b for a, b in zip(on.cpu_us, off.cpu_us, strict=True)]),
        "all_threads_us": statistics.median(threads) if threads else None,
    }


def tables(rows: Sequence[dict[str, Any]]) -> Iterator[Table]:
    """What the rows say."""
    lines = []
    for row in rows:
        latency, cpu = row["latency_us"], row["cpu_us"]
        lines.append(
            (
                f"{row['steps']:,} ({row['history']})",
                f"{row['calls']:,}",
                shown(row["off_us"], 0),
                shown(latency["p50"], 0),
                f"{latency['p25']:.0f} to {latency['p75']:.0f}",
                shown(latency["p99"], 0),
                shown(cpu["p50"], 0),
                shown(row["all_threads_us"], 0),
            )
        )
    met = all(row["latency_us"]["p50"] < TARGET_US for row in rows if row["history"] == "window")
    yield Table(
        title="Ledger, stops and supervision: microseconds a call, policies on minus off",
        columns=(
            "steps of the run",
            "calls",
            "without, p50",
            "added, p50",
            "quartiles",
            "added, p99",
            "CPU, p50",
            "all threads",
        ),
        rows=tuple(lines),
        note=f"Asked: under {TARGET_US:.0f} us at the median, flat: {'met' if met else 'MISSED'}.",
    )


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--json", type=pathlib.Path, metavar="FILE")
    options.add_argument("--markdown", type=pathlib.Path, metavar="FILE")
    options.add_argument("--quick", action="store_true", help="a smoke run, not a figure")
    options.add_argument("--steps", type=integers, default=(1, 10, 1000, 30_000), metavar="N,N,N")
    options.add_argument("--words", type=int, default=60, metavar="N", help="of each result")
    given: argparse.Namespace = options.parse_args()
    logging.basicConfig(level=logging.ERROR)
    noted, rounds = (200, 3) if given.quick else (600, 10)
    steps = tuple(min(n, 2000) for n in given.steps) if given.quick else given.steps
    report = Report(bench="supervise", settings=plain(given))
    report.versions["tocsin"] = tocsin.__version__
    for count in steps:
        alone = 0 if count == 1 else rounds
        report.rows.append(
            asyncio.run(measure(count, length=given.words, whole=False, noted=noted, rounds=alone))
        )
        print(f"  {count:,} steps, window: done", file=sys.stderr, flush=True)
    for count in [n for n in steps if 1 < n <= 1000]:
        found = asyncio.run(
            measure(count, length=given.words, whole=True, noted=min(noted, 200), rounds=0)
        )
        report.rows.append(found)
    for table in tables(report.rows):
        report.show(table)
    report.save(given.json, given.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
