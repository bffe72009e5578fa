"""How often tests that are looked at after every value say "changed" when nothing did.

usage: python bench/sequential.py [--streams 1000] [--blocks 2000] [--json FILE]

Null streams: both sides from the same distribution, several rates and shapes; a stream counts as
false when the test says "changed" at any of its looks. Beside it what a fixed-sample test does when
it is looked at as often: z and Welch's t at p < 0.05 after each block. Then power: how many blocks
(one value before, one after) until a shift of known size is seen, in half of the streams and in
nine of ten. Everything is drawn from fixed seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from tocsin.core.signals import Sum
from tocsin.domains.signals.intervals import normal_two_sided
from tocsin.domains.signals.sequential import (
    BoundedTest,
    LevelTest,
    RateTest,
    running_difference,
)

ALPHA = 0.05
FIRST_LOOK = 10
"""Blocks before the naive tests are looked at: earlier they would be worse still."""
Draw = Callable[[random.Random], float]
Test = Callable[[Iterator[tuple[float, float]]], Iterator[bool]]


def rate(p: float) -> Draw:
    return lambda rng: float(rng.random() < p)


def normal(mean: float = 0.0, sd: float = 1.0) -> Draw:
    return lambda rng: rng.gauss(mean, sd)


def student(freedom: int, shift: float = 0.0) -> Draw:
    def draw(rng: random.Random) -> float:
        chi = sum(rng.gauss(0.0, 1.0) ** 2 for _ in range(freedom))
        return shift + rng.gauss(0.0, 1.0) / math.sqrt(chi / freedom)

    return draw


def cauchy(rng: random.Random) -> float:
    return math.tan(math.pi * (rng.random() - 0.5))


def beta(a: float, b: float) -> Draw:
    return lambda rng: rng.betavariate(a, b)


def log_words(factor: float = 1.0) -> Draw:
    """Lengths as signals sum them: log1p of a lognormal number of words."""
    return lambda rng: math.log1p(factor * rng.lognormvariate(4.0, 1.0))


def exponential(scale: float = 1.0) -> Draw:
    return lambda rng: scale * rng.expovariate(1.0)


def e_test(make: Callable[[], Any]) -> Test:
    def looks(blocks: Iterator[tuple[float, float]]) -> Iterator[bool]:
        test = make()
        for before, after in blocks:
            yield test.add(before, after) >= 1.0 / ALPHA

    return looks


def asymptotic(blocks: Iterator[tuple[float, float]]) -> Iterator[bool]:
    """``running_difference`` from sums, from its first possible look at 30 values on."""
    before, after = Sum(), Sum()
    for one, other in blocks:
        before += Sum(1, one, one * one)
        after += Sum(1, other, other * other)
        found = running_difference(before, after, best_at=500)
        yield found is not None and not found.low <= 0.0 <= found.high


def naive(blocks: Iterator[tuple[float, float]]) -> Iterator[bool]:
    """The test of a fixed sample, looked at after each block: the bad example."""
    sums, squares = [0.0, 0.0], [0.0, 0.0]
    for n, block in enumerate(blocks, 1):
        for side, value in enumerate(block):
            sums[side] += value
            squares[side] += value * value
        spread = sum(max(0.0, q - s * s / n) for s, q in zip(sums, squares, strict=True))
        error = math.sqrt(spread / max(1, n - 1) / n)
        z = (sums[1] - sums[0]) / n / error if error > 0 else 0.0
        yield n >= FIRST_LOOK and normal_two_sided(z) < ALPHA


def first_look(test: Test, before: Draw, after: Draw, blocks: int, seed: int) -> int | None:
    """The block at which the test says "changed"; ``None`` if at none."""
    rng = random.Random(seed)
    pairs = ((before(rng), after(rng)) for _ in range(blocks))
    return next((n for n, said in enumerate(test(pairs), 1) if said), None)


RATES, BOUNDED, LEVELS = e_test(RateTest), e_test(BoundedTest), e_test(LevelTest)

NULLS: tuple[tuple[str, str, Test, Draw], ...] = (
    *(("RateTest", f"rate {p:g}", RATES, rate(p)) for p in (0.5, 0.2, 0.05, 0.01, 0.001)),
    ("BoundedTest", "rate 0.5", BOUNDED, rate(0.5)),
    ("BoundedTest", "rate 0.05", BOUNDED, rate(0.05)),
    ("BoundedTest", "share, beta(2, 5)", BOUNDED, beta(2, 5)),
    ("BoundedTest", "share, beta(0.3, 0.3)", BOUNDED, beta(0.3, 0.3)),
    ("LevelTest", "normal", LEVELS, normal()),
    ("LevelTest", "log words", LEVELS, log_words()),
    ("LevelTest", "exponential", LEVELS, exponential()),
    ("LevelTest", "Student's t, 3 degrees", LEVELS, student(3)),
    ("LevelTest", "Cauchy (no mean)", LEVELS, cauchy),
    ("running_difference", "rate 0.2", asymptotic, rate(0.2)),
    ("running_difference", "log words", asymptotic, log_words()),
    ("running_difference", "exponential", asymptotic, exponential()),
)
SHIFTS: tuple[tuple[str, str, Test, Draw, Draw], ...] = (
    *(
        ("RateTest", f"rate {p:g} to {q:g}", RATES, rate(p), rate(q))
        for p, q in ((0.5, 0.4), (0.84, 0.5), (0.05, 0.1), (0.004, 0.053), (0.02, 0.165))
    ),
    ("BoundedTest", "rate 0.5 to 0.4", BOUNDED, rate(0.5), rate(0.4)),
    ("BoundedTest", "share, mean 0.29 to 0.38", BOUNDED, beta(2, 5), beta(3, 5)),
    ("LevelTest", "normal, 0.2 sd", LEVELS, normal(), normal(0.2)),
    ("LevelTest", "normal, 0.5 sd", LEVELS, normal(), normal(0.5)),
    ("LevelTest", "log words, x 1.15", LEVELS, log_words(), log_words(1.15)),
    ("LevelTest", "log words, x 2", LEVELS, log_words(), log_words(2.0)),
    ("LevelTest", "Student's t, 3 degrees, 0.5", LEVELS, student(3), student(3, 0.5)),
    ("running_difference", "rate 0.5 to 0.4", asymptotic, rate(0.5), rate(0.4)),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--blocks", type=int, default=2000)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    started = time.process_time()
    rows: list[dict[str, Any]] = []
    print(f"{args.streams} null streams of {args.blocks} blocks, a look after each; "
          f"allowed: {ALPHA:.0%}")  # fmt: skip
    for name, what, test, draw in NULLS:
        found = [
            sum(first_look(one, draw, draw, args.blocks, seed) is not None
                for seed in range(args.streams)) / args.streams
            for one in (test, naive)
        ]  # fmt: skip
        rows.append({"test": name, "null": what, "ever_false": found[0], "naive": found[1]})
        print(f"  {name:20} {what:26} ever false {found[0]:6.1%}   naive {found[1]:6.1%}")
    few = max(20, args.streams // 5)
    print(f"\nblocks until a shift is seen, {few} streams of at most {5 * args.blocks}")
    for name, what, test, before, after in SHIFTS:
        looks = sorted(
            first_look(test, before, after, 5 * args.blocks, 10_000 + seed) or math.inf
            for seed in range(few)
        )
        half, most = looks[few // 2], looks[math.ceil(0.9 * few) - 1]
        rows.append({"test": name, "shift": what, "median": half, "nine_of_ten": most})
        print(f"  {name:20} {what:30} half {half:6g}   nine of ten {most:6g}")
    print(f"\n{time.process_time() - started:.0f} s of processor time")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    worst = max(row.get("ever_false", 0.0) for row in rows)
    return 0 if worst <= ALPHA else 1


if __name__ == "__main__":
    raise SystemExit(main())
