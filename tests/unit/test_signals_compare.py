"""Comparing two periods: verdicts, joint correction, and how many calls are lacking."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.core.signals import Signal, Sum
from tocsin.domains.signals.compare import (
    compare,
    compare_many,
    effect_size,
    estimate,
    holm,
)
from tocsin.domains.signals.power import (
    cohens_h,
    more_per_side,
    pairs,
    per_side,
    smallest_effect,
)


def rate(better: str = "up", name: str = "correct") -> Signal:
    return Signal(name=name, title="T", axis="correct", kind="rate", better=better)  # type: ignore[arg-type]


WORDS = Signal(
    name="answer_words", title="Words", axis="consistent", kind="level", log=True, unit="words"
)
COST = Signal(name="cost", title="Cost", axis="service", kind="level", better="down", unit="usd")


def hits(ones: int, n: int) -> Sum:
    return Sum(n, float(ones), float(ones))


def sums(values: list[float]) -> Sum:
    return Sum(len(values), math.fsum(values), math.fsum(v * v for v in values))


@pytest.mark.parametrize(
    ("better", "before", "after", "verdict"),
    [
        ("up", (840, 1000), (500, 1000), "worse"),
        ("up", (500, 1000), (840, 1000), "better"),
        ("down", (4, 1000), (53, 1000), "worse"),
        ("neither", (4, 1000), (53, 1000), "different"),
        ("up", (500, 1000), (505, 1000), "same"),
        ("up", (10, 20), (12, 20), "underpowered"),
    ],
)
def test_a_verdict_follows_the_better_end_and_the_evidence(
    better: str, before: tuple[int, int], after: tuple[int, int], verdict: str
) -> None:
    found = compare(rate(better), hits(*before), hits(*after))
    assert found.verdict == verdict
    assert found.difference is not None
    assert found.p_value is not None
    assert found.difference.value == pytest.approx(after[0] / after[1] - before[0] / before[1])
    assert (found.p_value < 0.05) == (verdict in ("worse", "better", "different"))
    assert (found.needed > 0) == (verdict == "underpowered")


def test_what_is_lacking_is_said_in_calls_and_is_enough() -> None:
    found = compare(rate(), hits(10, 20), hits(30, 60))
    few, many = 20 + found.needed, 60 + found.needed
    assert 2 / (1 / few + 1 / many) >= per_side(0.2) > 2 / (1 / (few - 1) + 1 / (many - 1))


def test_nothing_on_a_side_is_underpowered_and_no_error() -> None:
    found = compare(rate(), Sum(), hits(3, 9))
    assert (found.verdict, found.before, found.difference, found.p_value) == (
        "underpowered", None, None, None,
    )  # fmt: skip
    assert found.needed == 389  # with the 9 of the other side as good as 393 each
    assert estimate(COST, Sum(1, 2.0, 4.0)) is None
    assert effect_size(COST, Sum(1, 2.0, 4.0), Sum()) is None


def test_lengths_are_compared_as_ratios() -> None:
    rng = random.Random(1)
    before, after = (
        sums([WORDS.inner(k * rng.lognormvariate(4, 0.5)) for _ in range(300)]) for k in (1, 1.3)
    )
    found = compare(WORDS, before, after)
    assert found.verdict == "different"
    assert found.difference is not None
    assert found.before is not None
    assert found.after is not None
    assert found.difference.low < 1.3 < found.difference.high
    assert found.difference.value == pytest.approx(found.after.value / found.before.value)
    assert found.before.value == pytest.approx(math.exp(4), rel=0.1)
    assert found.effect_size == pytest.approx(math.log(1.3) / 0.5, abs=0.2)


def test_shares_between_0_and_1_use_their_own_spread() -> None:
    rng = random.Random(2)
    before, after = (sums([rng.betavariate(a, 8) for _ in range(200)]) for a in (2, 3))
    found = compare(rate(), before, after)
    assert found.method == "Welch's t"
    assert found.verdict == "better"
    assert compare(rate(), hits(0, 30), sums([0.5] * 30)).method == "Newcombe score interval"


def test_of_many_comparisons_with_nothing_changed_one_in_twenty_sets_says_otherwise() -> None:
    rng = random.Random(3)
    wrong = 0
    for _ in range(300):
        many = [
            (
                rate(name=f"s{n}"),
                hits(sum(rng.random() < 0.3 for _ in range(60)), 60),
                hits(sum(rng.random() < 0.3 for _ in range(60)), 60),
            )
            for n in range(12)
        ]
        wrong += any(c.verdict not in ("same", "underpowered") for c in compare_many(many))
    assert wrong / 300 <= 0.09  # 0.05 and 3 standard errors


def test_joint_correction_keeps_what_is_clear_and_passes_over_what_is_empty() -> None:
    clear, chance = (hits(840, 1000), hits(500, 1000)), (hits(50, 100), hits(65, 100))
    assert compare(rate(), *chance).verdict == "better"
    many = [(rate(), *clear), *[(rate(), *chance)] * 9, (rate(), Sum(), Sum())]
    found = compare_many(many)
    assert [c.verdict for c in found] == ["worse", *["underpowered"] * 10]
    assert found[1].p_value == pytest.approx(9 * (compare(rate(), *chance).p_value or 0))


chances = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(chances)
def test_adjusted_chances_are_never_smaller_and_keep_their_order(found: list[float]) -> None:
    adjusted = holm(found)
    assert all(a >= p - 1e-12 and a <= 1 for a, p in zip(adjusted, found, strict=True))
    ranked = [a for _, a in sorted(zip(found, adjusted, strict=True))]
    assert ranked == sorted(ranked)


def test_adjusting_gives_the_known_values() -> None:
    # R: p.adjust(c(0.01, 0.02, 0.03, 0.04), "holm").
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])


def test_sample_sizes_are_those_of_cohens_tables() -> None:
    # Cohen (1988): h = 0.2 needs 392 on each side by his rounding, h = 0.5 63, h = 0.8 25.
    assert [per_side(h) for h in (0.2, 0.5, 0.8)] == [393, 63, 25]
    # G*Power, matched pairs, two-sided, power 0.8: dz = 0.5 needs 34, dz = 0.2 needs 199.
    assert [pairs(0.5), pairs(0.2)] == [34, 199]
    assert per_side(cohens_h(0.5, 0.6)) == 388
    assert smallest_effect(393) == pytest.approx(0.2, abs=1e-3)


def test_no_effect_and_no_chance_are_refused() -> None:
    for work in (per_side, pairs):
        with pytest.raises(ValueError, match="effect of zero"):
            work(0.0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        per_side(0.2, alpha=0.0)
    assert more_per_side(0, 0) == 393
    assert more_per_side(400, 400) == 0


def test_a_difference_lasts_only_where_looking_again_and_again_would_show_it_too() -> None:
    signal = Signal(name="refused", title="T", axis="appropriate", kind="rate", better="down")

    def share(hits: int, n: int) -> Sum:
        return Sum(n, hits, hits)

    once = compare(signal, share(100, 1_000), share(132, 1_000))
    assert (once.verdict, once.lasting) == ("worse", False)
    clear = compare(signal, share(100, 1_000), share(250, 1_000))
    assert (clear.verdict, clear.lasting) == ("worse", True)
    assert compare(signal, share(1, 20), share(15, 20)).lasting is None
    many = compare_many([(signal, share(100, 1_000), share(190, 1_000))] * 40)
    assert compare(signal, share(100, 1_000), share(190, 1_000)).lasting is True
    assert not any(one.lasting for one in many), "adjusted for how many are compared"
