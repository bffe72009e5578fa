"""Anytime-valid tests: looking after every value does not make false alarms."""

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.core.signals import Sum
from tocsin.domains.signals.sequential import (
    BoundedTest,
    LevelTest,
    RateTest,
    running_difference,
    running_mean,
)

Draw = Callable[[random.Random], float]


def ever(make: Callable[[], RateTest | BoundedTest | LevelTest], draw: Draw, streams: int) -> float:
    """Share of null streams that are refuted at any look."""
    false = 0
    for seed in range(streams):
        rng, test = random.Random(seed), make()
        for _ in range(400):
            test.add(draw(rng), draw(rng))
        false += test.rejects()
    return false / streams


@pytest.mark.parametrize(
    ("make", "draw"),
    [
        (RateTest, lambda rng: float(rng.random() < 0.5)),
        (RateTest, lambda rng: float(rng.random() < 0.05)),
        (BoundedTest, lambda rng: rng.betavariate(0.4, 0.4)),
        (LevelTest, lambda rng: rng.lognormvariate(0, 1)),
        (LevelTest, lambda rng: math.tan(math.pi * (rng.random() - 0.5))),
    ],
)
def test_looking_after_every_value_is_wrong_in_one_stream_of_twenty_at_most(
    make: Callable[[], RateTest | BoundedTest | LevelTest], draw: Draw
) -> None:
    assert ever(make, draw, 200) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def mean_e(before: int, after: int, p: float, blocks: int) -> float:
    """The expected e-value after so many blocks, counted out over every outcome."""

    def walk(test_path: tuple[tuple[int, int], ...]) -> float:
        if len(test_path) == blocks:
            test = RateTest(per_before=before, per_after=after)
            for one, other in test_path:
                test.add(one, other)
            return test.e_value
        total = 0.0
        for one in range(before + 1):
            for other in range(after + 1):
                weight = (
                    math.comb(before, one) * math.comb(after, other)
                    * p ** (one + other) * (1 - p) ** (before + after - one - other)
                )  # fmt: skip
                total += weight * walk((*test_path, (one, other)))
        return total

    return walk(())


@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 1), (1, 3)])
@pytest.mark.parametrize("p", [0.05, 0.5, 0.8])
def test_the_rate_tests_capital_does_not_grow_by_itself(before: int, after: int, p: float) -> None:
    assert mean_e(before, after, p, 3) <= 1 + 1e-9


@pytest.mark.parametrize(
    ("make", "draw", "moved", "most"),
    [
        (RateTest, lambda rng: rng.random() < 0.84, lambda rng: rng.random() < 0.5, 120),
        (RateTest, lambda rng: rng.random() < 0.004, lambda rng: rng.random() < 0.053, 500),
        (BoundedTest, lambda rng: rng.betavariate(2, 5), lambda rng: rng.betavariate(4, 5), 150),
        (LevelTest, lambda rng: rng.gauss(0, 1), lambda rng: rng.gauss(0.6, 1), 200),
    ],
)
def test_a_real_change_is_seen(
    make: Callable[[], RateTest | BoundedTest | LevelTest], draw: Draw, moved: Draw, most: int
) -> None:
    seen = 0
    for seed in range(20):
        rng, test = random.Random(seed), make()
        for _ in range(most):
            test.add(float(draw(rng)), float(moved(rng)))
        seen += test.rejects()
    assert seen >= 18


def test_an_interval_holds_the_difference_at_every_look() -> None:
    lost_bounded = lost_level = 0
    for seed in range(60):
        rng, bounded, level = random.Random(seed), BoundedTest(), LevelTest()
        out = [False, False]
        for n in range(1, 241):
            bounded.add(float(rng.random() < 0.3), float(rng.random() < 0.5))
            level.add(rng.gauss(10, 3), rng.gauss(11, 3))
            if n % 40 == 0:
                first, second = bounded.interval(), level.interval()
                assert second is not None
                out[0] |= not first.low <= 0.2 <= first.high
                out[1] |= not second.low <= 1.0 <= second.high
        lost_bounded += out[0]
        lost_level += out[1]
    assert lost_bounded <= 6
    assert lost_level <= 6


def test_an_interval_narrows_around_what_was_seen() -> None:
    rng, bounded, level = random.Random(1), BoundedTest(), LevelTest()
    assert bounded.interval() == (0.0, -1.0, 1.0)
    assert level.interval() is None
    widths = []
    for n in range(1, 1601):
        bounded.add(float(rng.random() < 0.3), float(rng.random() < 0.4))
        level.add(rng.gauss(0, 2), rng.gauss(1, 2))
        if n in (100, 400, 1600):
            first, second = bounded.interval(), level.interval()
            assert second is not None
            widths.append((first.high - first.low, second.high - second.low))
    assert widths[0][0] > widths[1][0] > widths[2][0]
    assert widths[0][1] > widths[1][1] > widths[2][1]


def test_p_only_falls_and_the_highest_point_counts() -> None:
    test = RateTest()
    for _ in range(40):
        test.add(0, 1)
    low = test.p_value
    assert test.rejects()
    assert test.e_value >= 20
    for _ in range(400):
        test.add(1, 0)
    assert test.p_value <= low
    assert test.rejects()


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), max_size=60))
def test_any_finite_values_leave_a_finite_capital(blocks: list[tuple[float, float]]) -> None:
    test = LevelTest()
    for before, after in blocks:
        assert math.isfinite(test.add(before, after))
    assert 0 <= test.p_value <= 1


def test_values_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="both sides"):
        RateTest(per_before=0)
    with pytest.raises(ValueError, match="no more hits than values"):
        RateTest().add(2, 0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        BoundedTest().add(0.5, 1.5)


def test_sums_alone_give_an_interval_for_every_look() -> None:
    rng = random.Random(4)
    lost = 0
    for _ in range(100):
        before = after = Sum()
        out = False
        for _ in range(300):
            one, other = rng.expovariate(1), rng.expovariate(1)
            before += Sum(1, one, one * one)
            after += Sum(1, other, other * other)
            found = running_difference(before, after, best_at=200)
            out |= found is not None and not found.low <= 0 <= found.high
        lost += out
    assert lost <= 5
    assert running_mean(Sum(29, 3.0, 3.0)) is None
    assert running_difference(Sum(), Sum(50, 3.0, 3.0)) is None
