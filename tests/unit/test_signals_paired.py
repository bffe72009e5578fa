"""Paired tests: published values, and what must hold for any pairs."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.domains.signals.paired import (
    level_difference,
    mcnemar,
    rate_difference,
    stratified,
)

DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
"""Cross- less self-fertilised maize, eighths of an inch: Darwin (1876), Fisher (1935)."""


def test_darwins_maize_gives_fishers_t() -> None:
    found = level_difference([d / 8 for d in DARWIN])
    assert found is not None
    assert found.value == pytest.approx(2.6167, abs=5e-5)
    assert found.p == pytest.approx(0.0497, abs=5e-5)
    assert [found.low, found.high] == pytest.approx([0.0039, 5.2294], abs=5e-5)


def test_mcnemar_is_the_sign_test_of_the_pairs_that_changed() -> None:
    # Two-sided binomial tails: 6 of 22, 0 of 5, 900 of 1,900.
    assert mcnemar(6, 16) == pytest.approx(0.0524788)
    assert mcnemar(5, 0) == pytest.approx(2 / 32)
    assert mcnemar(1000, 900) == pytest.approx(0.0231088, rel=1e-5)
    assert mcnemar(0, 0) == 1.0
    assert 0.0 <= mcnemar(40_000, 30_000) < 1e-300
    with pytest.raises(ValueError, match="negative"):
        mcnemar(-1, 2)


counts = st.integers(0, 12)


@given(counts, counts, counts)
def test_one_answer_on_each_side_makes_the_stratified_test_mcnemars(
    worse: int, better: int, same: int
) -> None:
    strata = [(1, 1, 0, 1)] * worse + [(0, 1, 1, 1)] * better + [(1, 1, 1, 1)] * same
    assert stratified(strata) == pytest.approx(mcnemar(worse, better))


def test_one_prompt_makes_the_stratified_test_fishers() -> None:
    # Fisher's tea: 3 of 4 against 1 of 4; the smaller tail is 17/70.
    assert stratified([(1, 4, 3, 4)]) == pytest.approx(2 * 17 / 70)


@st.composite
def prompts(draw: st.DrawFn) -> list[tuple[int, int, int, int]]:
    found = []
    for _ in range(draw(st.integers(1, 12))):
        before, after = draw(st.integers(1, 5)), draw(st.integers(1, 3))
        found.append((draw(st.integers(0, before)), before, draw(st.integers(0, after)), after))
    return found


@given(prompts())
def test_sides_and_ends_may_be_turned_round(strata: list[tuple[int, int, int, int]]) -> None:
    found = stratified(strata)
    assert 0 <= found <= 1
    assert stratified([(c, d, a, b) for a, b, c, d in strata]) == pytest.approx(found)
    assert stratified([(b - a, b, d - c, d) for a, b, c, d in strata]) == pytest.approx(found)


def test_several_past_answers_that_waver_do_not_make_a_new_one_suspect() -> None:
    """With nothing changed, at most one suite in twenty is called changed."""
    rng = random.Random(7)
    false = 0
    for _ in range(400):
        rates = [rng.random() for _ in range(60)]
        strata = [(sum(rng.random() < p for _ in range(3)), 3, int(rng.random() < p), 1)
                  for p in rates]  # fmt: skip
        false += stratified(strata) < 0.05
    assert false / 400 <= 0.05


def test_a_difference_of_paired_rates_has_an_interval_around_it() -> None:
    found = rate_difference(3, 20, 100)
    assert found.value == pytest.approx(0.17)
    assert found.low > 0
    assert found.p < 0.001
    assert rate_difference(0, 0, 50).low < 0 < rate_difference(0, 0, 50).high
    with pytest.raises(ValueError, match="more pairs changed"):
        rate_difference(3, 3, 5)


def test_the_interval_of_paired_rates_holds_the_truth_as_often_as_it_says() -> None:
    rng = random.Random(9)
    held = 0
    for _ in range(500):
        moves = rng.choices((-1, 0, 1), (0.05, 0.8, 0.15), k=80)
        found = rate_difference(moves.count(-1), moves.count(1), 80)
        held += found.low <= 0.1 <= found.high
    assert held / 500 > 0.92


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40))
def test_no_chance_is_smaller_than_flipping_signs_could_show(differences: list[float]) -> None:
    found = level_difference(differences)
    assert found is not None
    moved = sum(1 for d in differences if d != 0)
    assert 2.0 ** (1 - moved) <= found.p * (1 + 1e-9) or found.p == 1.0
    assert found.low <= found.value <= found.high


def test_noise_between_whole_runs_widens_the_interval() -> None:
    rng = random.Random(3)
    differences = [rng.gauss(0.25, 0.4) for _ in range(80)]
    alone = level_difference(differences)
    shared = level_difference(differences, extra=0.02, runs=3)
    assert alone is not None
    assert shared is not None
    assert alone.p < 0.001 < shared.p
    assert shared.high - shared.low > alone.high - alone.low
    assert level_difference([1.0]) is None
    assert math.isclose(shared.value, alone.value)
