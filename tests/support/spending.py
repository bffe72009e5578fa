"""Streams of calls with their cost: the published runaway, and ordinary weeks of a product."""

import math
import random
from collections.abc import Callable, Iterator

from tocsin.core.interaction import Interaction, Usage

DAY = 86_400
WEEK = 7 * DAY
START = 1_762_732_800
"""Monday, 10 November 2025, 00:00 UTC, in seconds."""

PUBLISHED = (127.0, 891.0, 6_240.0, 18_400.0)
"""US dollars that the runaway cost in its first, second, third and fourth week."""

Spent = tuple[int, float]
"""Second, and US dollars."""


def steps(call_usd: float, seed: int | None = None) -> Iterator[Spent]:
    """The published weeks, each at a constant rate; with a seed, calls come at random."""
    rng = random.Random(seed)
    for week, total in enumerate(PUBLISHED):
        gap = WEEK * call_usd / total
        at = gap
        while at < WEEK:
            yield START + week * WEEK + int(at), call_usd
            at += gap if seed is None else rng.expovariate(1 / gap)


def smooth(
    call_usd: float, seed: int | None = None, weekly: float | None = None
) -> Iterator[Spent]:
    """An exponential through the first two weekly sums; ``weekly``: another growth in a week."""
    rng = random.Random(seed)
    growth = weekly or PUBLISHED[1] / PUBLISHED[0]
    scale = PUBLISHED[0] / (growth - 1)
    at, total = 0.0, 0.0
    while at < 4 * WEEK and total < sum(PUBLISHED):
        total += call_usd if seed is None else call_usd * rng.expovariate(1.0)
        at = WEEK * math.log(1 + total / scale) / math.log(growth)
        yield START + int(at), call_usd


def ordinary(
    seed: int,
    *,
    weeks: int,
    usd_day: float,
    calls_day: float,
    begins_day: float = 0.0,
    office: bool = False,
    spread: float = 1.0,
) -> Iterator[Spent]:
    """A product's weeks: day and night, weaker weekends, and one Monday at twice the usual.

    ``office``: traffic from 8 to 18 o'clock alone. ``spread``: sigma of the calls' lognormal cost.
    """  # fmt: skip
    rng = random.Random(seed)
    mean = usd_day / calls_day
    mu = math.log(mean) - spread * spread / 2
    double = rng.randrange(1, max(2, weeks))
    phase = rng.uniform(0, 24)
    at = begins_day * DAY
    peak = 2 * (2.4 if office else 1.9) * calls_day / DAY
    while at < weeks * WEEK:
        at += rng.expovariate(peak)
        day, hour = int(at // DAY), (at % DAY) / 3600
        if office:
            rate = 2.4 if 8 <= hour < 18 else 0.0
        else:
            rate = 1 + 0.9 * math.cos((hour - phase) / 24 * 2 * math.pi)
        rate *= 0.3 if day % 7 >= 5 else 1.0
        rate *= 2.0 if day == 7 * double else 1.0
        if rng.random() < rate * calls_day / DAY / peak:
            yield START + int(at), rng.lognormvariate(mu, spread)


def interactions(
    spent: Iterator[Spent],
    *,
    feature: str = "support",
    key: str | None = "key_1",
    run: Callable[[int], str] = lambda number: "run_1",
    priced: bool = True,
) -> Iterator[Interaction]:
    """Records of these calls. ``run`` names the run of the n-th call."""  # fmt: skip
    for number, (at, usd) in enumerate(spent):
        yield Interaction(
            id=f"call_{feature}_{number}",
            source="gateway",
            dialect="openai",
            operation="chat",
            path="/v1/chat/completions",
            started_at=at * 1_000_000,
            duration_us=1_000_000,
            outcome="complete",
            feature=feature,
            key_id=key,
            run_id=run(number),
            run_source="header",
            request_model="m",
            usage=Usage(input_tokens=900, output_tokens=100, source="reported"),
            cost_nano_usd=round(usd * 1e9) if priced else None,
        )
