"""How often the interval of a ratio holds the truth, and how often nothing is called a change.

Tasks are made up: their costs are log-normal, a failed one costs so many times as much. Each row is
one number of labelled tasks at one rate of success, by the code that pages and commands use.
"""

import argparse
import math
import random

from tocsin.core.ratios import COST_PER_SUCCESS, RatioSum
from tocsin.domains.signals.compare import compare, estimate


def drawn(rng: random.Random, tasks: int, wins: float, failed: float, spread: float) -> RatioSum:
    """The sums of so many tasks."""
    found = RatioSum()
    for _ in range(tasks):
        won = rng.random() < wins
        cost = math.exp(rng.gauss(0.0, spread)) * (1.0 if won else failed)
        found += RatioSum(int(won), cost, cost * cost, 0, 1, cost if won else 0.0)
    return found


def measured(
    rng: random.Random, rounds: int, tasks: int, wins: float, failed: float, spread: float
) -> tuple[float, float, float]:
    """Share of draws with a value, of those that hold the truth, of pairs called different."""
    true = (wins + (1.0 - wins) * failed) * math.exp(spread * spread / 2.0) / wins
    known = held = changed = 0
    for _ in range(rounds):
        one, two = (drawn(rng, tasks, wins, failed, spread) for _ in range(2))
        found = estimate(COST_PER_SUCCESS, one)
        if found is not None:
            known += 1
            held += found.low <= true <= found.high
        told = compare(COST_PER_SUCCESS, one, two)
        changed += told.p_value is not None and told.p_value < 0.05
    return known / rounds, held / max(1, known), changed / rounds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    print("spread  failed costs  succeed  tasks  with a value  interval holds  false change")
    for spread in (0.5, 1.0):
        for failed in (1.0, 3.0):
            for wins in (0.2, 0.5, 0.9):
                for tasks in (20, 50, 200):
                    known, held, changed = measured(rng, args.rounds, tasks, wins, failed, spread)
                    print(
                        f"{spread:6g}  {failed:11g}x  {wins:6.0%}  {tasks:5}  {known:12.1%}  "
                        f"{held:14.1%}  {changed:12.1%}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
