"""Intervals and quantiles: published values, coverage, and what must hold for any counts."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.core.signals import Signal, Sum
from tocsin.domains.signals.intervals import (
    RATIO_MOST,
    mean,
    newcombe,
    normal_quantile,
    ratio,
    student_quantile,
    student_two_sided,
    welch,
    wilson,
)

WORDS = Signal(name="answer_words", title="Words", axis="consistent", kind="level", log=True)


def sums(values: list[float]) -> Sum:
    return Sum(len(values), math.fsum(values), math.fsum(v * v for v in values))


@pytest.mark.parametrize(
    ("probability", "freedom", "value"),
    # Any printed table of Student's t; the last two to more digits than tables print.
    [
        (0.975, 1, 12.7062),
        (0.975, 10, 2.2281),
        (0.995, 30, 2.7500),
        (0.95, 5, 2.0150),
        (0.9999999, 2, 2236.067),
        (0.975, 1e9, 1.959964),
    ],
)
def test_quantiles_of_student_are_those_of_the_tables(
    probability: float, freedom: float, value: float
) -> None:
    assert student_quantile(probability, freedom) == pytest.approx(value, rel=3e-5)
    assert student_quantile(1 - probability, freedom) == pytest.approx(-value, rel=3e-5)


@given(st.floats(1e-9, 1 - 1e-9), st.floats(0.6, 5000))
def test_a_quantile_has_the_probability_that_it_is_for(probability: float, freedom: float) -> None:
    tail = student_two_sided(student_quantile(probability, freedom), freedom)
    assert tail == pytest.approx(2 * min(probability, 1 - probability), rel=1e-6)


def test_a_quantile_of_nonsense_is_refused() -> None:
    for probability, freedom in ((0.0, 3.0), (1.0, 3.0), (0.5, 0.0)):
        with pytest.raises(ValueError, match="between 0 and 1"):
            student_quantile(probability, freedom)
    assert normal_quantile(0.975) == pytest.approx(1.959963985)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17:857-872, table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(hits: int, n: int, low: float, high: float) -> None:
    found = wilson(hits, n)
    assert [found.low, found.high] == pytest.approx([low, high], abs=5e-5)


@pytest.mark.parametrize(
    ("after", "before", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17:873-890, table II, method 10.
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0000),
    ],
)
def test_newcombe_gives_the_published_intervals(
    after: tuple[int, int], before: tuple[int, int], low: float, high: float
) -> None:
    found = newcombe(*before, *after)
    assert found.low == pytest.approx(low, abs=5e-5)
    assert found.high == pytest.approx(high, abs=5e-5)


def test_welch_gives_what_is_known_of_students_sleep_data() -> None:
    # Student (1908), the ten patients; R's t.test(extra ~ group, data = sleep) prints these.
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = welch(sums(second), sums(first))
    assert found is not None
    assert found.p == pytest.approx(0.07939, abs=5e-6)
    assert [found.low, found.high] == pytest.approx([-3.3654832, 0.2054832], abs=1e-6)


sizes = st.integers(1, 400)


@given(sizes, sizes, st.data(), st.sampled_from([0.2, 0.05, 0.01, 0.0001]))
def test_an_interval_holds_no_change_exactly_when_its_chance_is_not_below_alpha(
    n: int, m: int, data: st.DataObject, alpha: float
) -> None:
    before, after = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    found = newcombe(before, n, after, m, alpha=alpha)
    assert -1 <= found.low <= found.value <= found.high <= 1
    if abs(found.p - alpha) > 1e-9:
        assert (found.low <= 0 <= found.high) == (found.p > alpha)
    turned = newcombe(after, m, before, n, alpha=alpha)
    assert turned.p == pytest.approx(found.p, abs=1e-12)
    assert [turned.low, turned.high] == pytest.approx([-found.high, -found.low])


values = st.lists(st.floats(0, 5000), min_size=2, max_size=40)


@given(values, values)
def test_a_ratio_says_no_change_exactly_when_the_difference_does(
    first: list[float], second: list[float]
) -> None:
    before, after = (sums([WORDS.inner(v) for v in side]) for side in (first, second))
    difference, factor = welch(before, after), ratio(WORDS, before, after)
    assert difference is not None
    assert factor is not None
    assert 1 / RATIO_MOST <= factor.low <= factor.value * (1 + 1e-9)
    assert factor.value <= factor.high * (1 + 1e-9) <= RATIO_MOST * (1 + 1e-9)
    if min(abs(difference.low), abs(difference.high)) > 1e-6:
        assert (factor.low <= 1 <= factor.high) == (difference.low <= 0 <= difference.high)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_shares_between_0_and_1_stay_inside_their_interval(shares: list[float]) -> None:
    found = wilson(math.fsum(shares), len(shares))
    assert 0 <= found.low <= found.value <= found.high <= 1


@settings(deadline=None, max_examples=8)
@given(st.sampled_from([0.5, 0.2, 0.05]), st.sampled_from([30, 100, 400]), st.integers(0, 9))
def test_intervals_hold_the_truth_as_often_as_they_say(p: float, n: int, seed: int) -> None:
    rng = random.Random(seed)
    draws, one, both = 400, 0, 0
    for _ in range(draws):
        first, second = (sum(rng.random() < p for _ in range(n)) for _ in range(2))
        share = wilson(first, n)
        one += share.low <= p <= share.high
        both += newcombe(first, n, second, n).p > 0.05
    # 0.95 less what 400 draws may miss it by (4 standard errors), and the score method's own dip.
    assert one / draws > 0.89
    assert both / draws > 0.89


def test_the_ratios_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    rng = random.Random(5)
    held = 0
    for _ in range(400):
        before, after = (
            sums([math.log1p(k * rng.lognormvariate(4, 1)) for _ in range(60)]) for k in (1, 1.5)
        )
        found = ratio(WORDS, before, after)
        assert found is not None
        held += found.low <= 1.5 <= found.high
    assert held / 400 > 0.91


def test_three_constants_are_not_certain() -> None:
    found = welch(Sum(3, 3.0, 3.0), Sum(3, 6.0, 12.0))
    assert found is not None
    assert found.p == pytest.approx(2 / 20)
    assert mean(Sum(1, 3.0, 9.0)) is None
    assert welch(Sum(1, 3.0, 9.0), Sum(5, 3.0, 9.0)) is None


def test_what_is_no_share_is_refused() -> None:
    with pytest.raises(ValueError, match="5 of 4 is no share"):
        wilson(5, 4)
    with pytest.raises(ValueError, match="both sides"):
        newcombe(0, 0, 1, 2)
    assert wilson(0, 0) == (0.5, 0.0, 1.0)
