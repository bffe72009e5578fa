"""Ratios made of sums: they add up, their intervals cover, and few successes are no value."""

import math
import random
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.core.ratios import COST_PER_SUCCESS, SUCCEEDED, TASK_COST, RatioSum, with_ratios
from tocsin.core.signals import Sum
from tocsin.domains.signals.compare import compare, estimate

Task = tuple[float, bool]
TASKS = st.lists(st.tuples(st.floats(0.0, 10.0), st.booleans()), max_size=30)


def plain(values: list[float]) -> Sum:
    return Sum(len(values), sum(values), sum(v * v for v in values))


def ratio(tasks: list[Task]) -> RatioSum:
    """As the store makes it, of the sums of the two kinds of scores."""
    sums = {
        TASK_COST.name: plain([cost for cost, _ in tasks]),
        SUCCEEDED: plain([cost for cost, won in tasks if won]),
    }
    found = with_ratios(sums)[COST_PER_SUCCESS.name]
    assert isinstance(found, RatioSum)
    return found


def traffic(rng: random.Random, n: int, wins: float, failed_cost: float = 2.0) -> list[Task]:
    found = []
    for _ in range(n):
        won = rng.random() < wins
        found.append((math.exp(rng.gauss(0.0, 0.5)) * (1.0 if won else failed_cost), won))
    return found


def test_failed_tasks_count_in_what_a_successful_one_costs() -> None:
    found = ratio([(1.0, True), (2.0, False), (3.0, True), (6.0, False)])
    assert (found.n, found.tasks, found.mean) == (2, 4, 6.0)


def test_the_spread_is_that_of_the_delta_method_worked_out_task_by_task() -> None:
    tasks = traffic(random.Random(1), 40, 0.6)
    found = ratio(tasks)
    assert found.mean is not None
    assert found.variance is not None
    residuals = [(cost - found.mean * won) ** 2 for cost, won in tasks]
    error = sum(residuals) / found.n**2 * len(tasks) / (len(tasks) - 1)
    assert found.variance / found.n == pytest.approx(error)


@given(TASKS, TASKS)
def test_parts_add_up_to_the_whole_and_come_off_again(one: list[Task], two: list[Task]) -> None:
    whole, added = ratio(one + two), ratio(one) + ratio(two)
    for name in ("n", "total", "squares", "unjudged", "tasks", "cross"):
        assert getattr(added, name) == pytest.approx(getattr(whole, name))
    assert sum([ratio(one), ratio(two)], Sum()) == added
    assert (added - ratio(two)).total == pytest.approx(ratio(one).total)
    assert (added - ratio(two)).n == ratio(one).n


def test_sums_of_other_signals_are_not_added_to_a_ratio() -> None:
    with pytest.raises(TypeError, match="same ratio"):
        ratio([(1.0, True)]) + Sum(1, 1.0, 1.0)


def test_below_five_successes_there_is_no_value_and_the_verdict_is_underpowered() -> None:
    none = ratio([(1.0, False)] * 30)
    four = ratio([*[(1.0, False)] * 30, *[(1.0, True)] * 4])
    five = ratio([*[(1.0, False)] * 30, *[(1.0, True)] * 5])
    assert none.mean is None
    assert estimate(COST_PER_SUCCESS, none) is None
    assert estimate(COST_PER_SUCCESS, four) is None
    assert estimate(COST_PER_SUCCESS, five) is not None
    found = compare(COST_PER_SUCCESS, four, ratio(traffic(random.Random(2), 900, 0.9, 1.0)))
    assert (found.difference, found.p_value, found.effect_size) == (None, None, None)
    assert found.verdict == "underpowered"
    assert found.needed > 200, "of successful tasks, on each side"


def test_the_interval_stays_above_zero() -> None:
    found = estimate(COST_PER_SUCCESS, ratio([*[(0.1, True)] * 5, *[(9.0, False)] * 9]))
    assert found is not None
    assert 0.0 < found.low < found.value < found.high


def test_what_costs_nothing_has_no_spread() -> None:
    found = estimate(COST_PER_SUCCESS, ratio([(0.0, True)] * 5))
    assert found is not None
    assert (found.low, found.value, found.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("wins", "failed_cost"), [(0.2, 3.0), (0.5, 1.0), (0.8, 3.0)])
def test_intervals_hold_the_true_ratio_as_often_as_they_say(
    wins: float, failed_cost: float
) -> None:
    rng = random.Random(7)
    true = (wins + (1.0 - wins) * failed_cost) * math.exp(0.125) / wins
    held = 0
    for _ in range(400):
        found = estimate(COST_PER_SUCCESS, ratio(traffic(rng, 100, wins, failed_cost)))
        assert found is not None
        held += found.low <= true <= found.high
    # 95 % less what 400 draws of it may fall short by, and the little that few successes do.
    assert held / 400 > 0.94 - NormalDist().inv_cdf(0.995) * math.sqrt(0.95 * 0.05 / 400)


def test_a_change_of_the_success_rate_alone_is_seen_and_none_is_not() -> None:
    rng = random.Random(3)
    before, same = ratio(traffic(rng, 600, 0.8, 1.0)), ratio(traffic(rng, 600, 0.8, 1.0))
    after = ratio(traffic(rng, 1200, 0.4, 1.0))
    assert compare(COST_PER_SUCCESS, before, after).verdict == "worse"
    assert compare(COST_PER_SUCCESS, after, before).verdict == "better"
    assert compare(COST_PER_SUCCESS, before, same).verdict == "same"


def test_differences_where_nothing_changed_are_rare() -> None:
    rng = random.Random(11)
    wrong = sum(
        compare(
            COST_PER_SUCCESS, ratio(traffic(rng, 80, 0.6)), ratio(traffic(rng, 80, 0.6))
        ).verdict
        in ("worse", "better")
        for _ in range(400)
    )
    assert wrong / 400 < 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 400)
