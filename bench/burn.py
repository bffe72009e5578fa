"""How soon the burn-rate alert comes in the published runaway, and how often it cries wolf.

usage: python bench/burn.py [--seeds 20] [--weeks 6] [--runaway-only] [--json FILE]

The runaway is rebuilt from its published weekly spend ($127, $891, $6,240, $18,400), in weekly
steps and as a smooth exponential, with calls of several sizes, evenly and at random. Ordinary
traffic has day and night, weak weekends, one Monday at twice the usual, and new features that start
from nothing; every alert on it counts as false.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests"))

from support.spending import Spent, interactions, ordinary, smooth, steps
from tocsin.core.signals import unscored
from tocsin.domains.agents.detectors import BurnRate

SHAPES: tuple[dict[str, Any], ...] = (
    {"usd_day": 2.0, "calls_day": 60.0},
    {"usd_day": 20.0, "calls_day": 20.0, "spread": 1.5},
    {"usd_day": 50.0, "calls_day": 300.0, "office": True},
    {"usd_day": 400.0, "calls_day": 300.0},
    {"usd_day": 30.0, "calls_day": 100.0, "begins_day": 9.4},
    {"usd_day": 60.0, "calls_day": 100.0, "begins_day": 11.7, "office": True},
)


ASKED = {"weekly steps": 160.0, "smooth": 410.0}
"""US dollars by which the alert is to come."""


def spent_until_alert(calls: Iterator[Spent]) -> float:
    """US dollars spent when the first alert fires; infinite when none does."""
    detector, total = BurnRate(), 0.0
    for call in interactions(calls):
        total += (call.cost_nano_usd or 0) / 1e9
        if any(alert.state == "firing" for alert in detector.observe(unscored(call))):
            return total
    return float("inf")


def false_alarms(shape: dict[str, Any], seed: int, weeks: int) -> list[str]:
    """What fires on ordinary traffic, as summaries."""
    detector = BurnRate()
    calls = interactions(ordinary(seed, weeks=weeks, **shape), run=lambda n: f"run_{n // 8}")
    return [
        a.summary for call in calls for a in detector.observe(unscored(call)) if a.state == "firing"
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--weeks", type=int, default=6)
    parser.add_argument("--runaway-only", action="store_true", help="no ordinary traffic")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, make in (("weekly steps", steps), ("smooth", smooth)):
        for usd in (0.01, 0.05, 0.25, 1.0):
            even = spent_until_alert(make(usd))
            random = [spent_until_alert(make(usd, seed)) for seed in range(args.seeds)]
            by = sum(total <= ASKED[name] for total in random)
            rows.append({"case": name, "usd_a_call": usd, "even": even, "random": random})
            print(f"{name}, ${usd:.2f} a call: alert at ${even:.2f}; worst of {args.seeds} "
                  f"random orders ${max(random):.2f}; by ${ASKED[name]:.0f}: {by}")  # fmt: skip
    for weekly in (5.25, 10.0):
        even = spent_until_alert(smooth(0.05, weekly=weekly))
        print(f"smooth, x{weekly:g} a week: alert at ${even:.2f}")
    found, calls, started = 0, 0, time.process_time()
    for shape in () if args.runaway_only else SHAPES:
        alarms = [
            text for seed in range(args.seeds) for text in false_alarms(shape, seed, args.weeks)
        ]
        months = args.seeds * args.weeks * 7 / 30.4
        found += len(alarms)
        print(f"ordinary {shape}: {len(alarms)} false in {months:.0f} months"
              f" = {len(alarms) / months:.3f} a month {alarms[:2]}")  # fmt: skip
        rows.append({"case": "ordinary", **shape, "false": len(alarms), "months": months})
    detector = BurnRate()
    made = list(interactions(ordinary(1, weeks=4, usd_day=100.0, calls_day=1500.0)))
    started = time.process_time()
    for call in made:
        calls += 1
        detector.observe(unscored(call))
    print(f"{(time.process_time() - started) / calls * 1e6:.1f} us of CPU a call")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    return 0 if not found else 1


if __name__ == "__main__":
    sys.exit(main())
