"""A judge's standing: its agreement with people, and what the true rate is."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.domains.signals.agreement import judge_standing


def table(a: int, b: int, c: int, d: int) -> tuple[dict[str, float | None], dict[str, float]]:
    """Yes/right, yes/wrong, no/right, no/wrong."""
    pairs = [(1.0, 1.0)] * a + [(1.0, 0.0)] * b + [(0.0, 1.0)] * c + [(0.0, 0.0)] * d
    judged: dict[str, float | None] = {str(i): judge for i, (judge, _) in enumerate(pairs)}
    return judged, {str(i): label for i, (_, label) in enumerate(pairs)}


def test_agreement_and_kappa_are_those_of_the_textbook() -> None:
    # Cohen's kappa of this table is 0.4 (agreement 0.7, by chance 0.5).
    standing = judge_standing(*table(20, 5, 10, 15), min_labels=30)
    assert standing.agreement is not None
    assert standing.kappa is not None
    assert standing.agreement.value == pytest.approx(0.7)
    assert standing.kappa.value == pytest.approx(0.4)
    # Standard error by the formula of Fleiss, Cohen and Everitt: 0.1272 for this table.
    assert (standing.kappa.high - standing.kappa.low) / 2 == pytest.approx(1.96 * 0.1272, rel=0.02)


def test_sensitivity_and_specificity_are_of_people_s_word() -> None:
    standing = judge_standing(*table(20, 5, 10, 15), min_labels=30)
    assert standing.sensitivity is not None
    assert standing.specificity is not None
    assert standing.sensitivity.value == pytest.approx(20 / 30)
    assert standing.specificity.value == pytest.approx(15 / 20)


def test_below_the_labels_that_it_needs_the_share_is_not_shown() -> None:
    judged, labels = table(10, 1, 1, 8)
    standing = judge_standing(judged, labels, min_labels=30)
    assert not standing.shown
    assert standing.needed == 10
    assert standing.corrected is None
    assert standing.words.startswith("10 more labels needed")


def test_the_true_rate_has_the_judge_s_errors_taken_out() -> None:
    judged, labels = table(45, 5, 5, 45)  # sensitivity and specificity 0.9
    for number in range(1000):
        judged[f"x{number}"] = float(number % 10 < 5)
    standing = judge_standing(judged, labels, min_labels=30)
    assert standing.said_yes is not None
    assert standing.corrected is not None
    assert standing.corrected.value == pytest.approx((0.5 + 0.9 - 1) / 0.8, abs=1e-9)
    assert standing.corrected.low < 0.5 < standing.corrected.high


def test_a_judge_that_only_guesses_gives_no_rate() -> None:
    standing = judge_standing(*table(15, 15, 15, 15), min_labels=30)
    assert standing.corrected is None
    assert "chance" in standing.words


def test_what_could_not_be_judged_is_counted_apart() -> None:
    standing = judge_standing({"a": None, "b": 1.0}, {"a": 1.0}, min_labels=1)
    assert (standing.judged, standing.unjudged, standing.labelled) == (1, 1, 0)


def test_the_interval_of_the_true_rate_covers_it() -> None:
    rng = random.Random(5)
    covered, streams = 0, 400
    for _ in range(streams):
        judged: dict[str, float | None] = {}
        labels: dict[str, float] = {}
        for number in range(600):
            right = rng.random() < 0.7
            yes = rng.random() < (0.85 if right else 0.25)
            judged[str(number)] = float(yes)
            if number < 80:
                labels[str(number)] = float(right)
        found = judge_standing(judged, labels, min_labels=30).corrected
        assert found is not None
        covered += found.low <= 0.7 <= found.high
    assert covered / streams >= 0.93


@given(*(st.integers(0, 40) for _ in range(4)), st.integers(1, 60))
def test_every_table_gives_a_standing(a: int, b: int, c: int, d: int, needed: int) -> None:
    standing = judge_standing(*table(a, b, c, d), min_labels=needed)
    assert standing.words
    for found in (standing.kappa, standing.corrected, standing.agreement):
        if found is not None:
            assert found.low <= found.value <= found.high
