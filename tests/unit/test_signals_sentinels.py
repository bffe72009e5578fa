"""Suites: which prompts are chosen, and when answers count as changed."""

import random
from collections.abc import Mapping

import pytest

from tocsin.core.sentinels import Asked, SuiteDiff
from tocsin.core.signals import Signal
from tocsin.domains.signals.sentinels import choose, diff, likeness, words_of

LENGTH = Signal(name="answer_words", title="Length", axis="consistent", kind="level", log=True)
FORMAT = Signal(name="has_list", title="List", axis="consistent", kind="rate")
REFUSED = Signal(name="refused", title="Refused", axis="appropriate", kind="rate", better="down")
SPEED = Signal(
    name="duration_s", title="Time", axis="service", kind="level", better="down", log=True
)
CATALOGUE = {signal.name: signal for signal in (LENGTH, FORMAT, REFUSED, SPEED)}


def run(name: str, values: Mapping[str, Mapping[str, float]], **more: object) -> Asked:
    calls = {prompt: f"call_{name}_{prompt}" for prompt in values}
    made = {prompt: dict(own) for prompt, own in values.items()}
    return Asked(run=name, at=0, values=made, calls=calls, **more)  # type: ignore[arg-type]


def answers(
    rng: random.Random, count: int, *, longer: float = 1.0, noise: float = 0.2, list_: float = 0.3
) -> dict[str, dict[str, float]]:
    """Answers of one run: prompts differ much, repeated answers to one prompt a little."""
    return {
        f"p{n}": {
            "answer_words": longer * (20 + 10 * n) * rng.lognormvariate(0, noise),
            "has_list": float(n % 3 == 0 if rng.random() > 0.1 else rng.random() < list_),
            "refused": 0.0,
        }
        for n in range(count)
    }


def compared(
    past: list[dict[str, dict[str, float]]], new: dict[str, dict[str, float]]
) -> SuiteDiff:
    runs = [run(f"r{n}", values) for n, values in enumerate(past)]
    return diff("s", "u", runs, run("new", new), CATALOGUE)


def test_a_suite_holds_each_prompt_once_and_the_rare_ones_too() -> None:
    common = [f"Please write a short reply to the customer about order {n}" for n in range(50)]
    rare = ["Translate this contract into Finnish", "def f(x): fix the bug in this code"]
    texts = [*common, common[0], *rare, rare[0]]
    chosen = [texts[i] for i in choose(texts, 10)]
    assert len(chosen) == len(set(chosen)) == 10
    assert set(rare) <= set(chosen)
    assert choose([], 5) == []
    assert choose(["same words"] * 9, 5) == [0]
    assert choose(texts, 10) == choose(texts, 10)


def test_likeness_is_the_share_of_words_in_common() -> None:
    assert likeness(words_of("A b c"), words_of("c B d")) == 0.5
    assert likeness(words_of(""), words_of("")) == 1.0


def test_a_15_percent_shift_of_length_shows_in_a_hundred_pairs_and_not_in_ten() -> None:
    seen = {10: 0, 100: 0}
    for seed in range(20):
        for count in seen:
            rng = random.Random(seed)
            past = answers(rng, count, noise=0.3)
            found = compared([past], answers(rng, count, longer=1.15, noise=0.3))
            seen[count] += "answer_words" in {c.signal for c in found.changes}
    assert seen[100] >= 14
    assert seen[10] <= 4


def test_what_changed_says_by_how_much_and_shows_the_prompts_that_moved_most() -> None:
    rng = random.Random(1)
    past, new = answers(rng, 60), answers(rng, 60, longer=2.0)
    new["p7"]["answer_words"] *= 30
    found = compared([past], new)
    (change,) = found.changes
    assert (change.signal, change.verdict, change.pairs) == ("answer_words", "different", 60)
    assert change.difference.low < 2.1 < change.difference.high
    assert change.difference.value == pytest.approx(change.after.value / change.before.value)
    first = change.examples[0]
    assert (first.prompt, first.call_before, first.call_after) == (
        "p7",
        "call_r0_p7",
        "call_new_p7",
    )
    assert first.after == pytest.approx(new["p7"]["answer_words"])


@pytest.mark.parametrize("pasts", [1, 2, 4])
def test_with_nothing_changed_one_suite_in_twenty_at_most_says_so(pasts: int) -> None:
    false = 0
    for seed in range(200):
        rng = random.Random(seed)
        false += bool(compared([answers(rng, 50) for _ in range(pasts)], answers(rng, 50)).changes)
    assert false / 200 <= 0.05 + 3 * 0.0154  # three standard errors


def test_a_rate_that_is_bad_when_high_is_worse_when_it_rises() -> None:
    rng = random.Random(2)
    new = answers(rng, 40)
    for n in range(12):
        new[f"p{n}"]["refused"] = 1.0
    found = compared([answers(rng, 40) for _ in range(3)], new)
    (change,) = [c for c in found.changes if c.signal == "refused"]
    assert change.verdict == "worse"
    assert change.changed == 12
    assert change.p_value is not None
    assert change.p_value < 0.001


def test_too_few_prompts_are_called_underpowered_with_the_number_that_lacks() -> None:
    rng = random.Random(3)
    found = compared([answers(rng, 8)], answers(rng, 8))
    row = next(s for s in found.signals if s.signal == "answer_words")
    assert row.verdict == "underpowered"
    assert 5 < row.needed < 60


def test_speed_is_not_judged_by_one_past_run_and_by_the_spread_of_several() -> None:
    def timed(seed: int, whole_run: float) -> dict[str, dict[str, float]]:
        rng = random.Random(seed)
        return {f"p{n}": {"duration_s": whole_run * rng.lognormvariate(0, 0.05)} for n in range(50)}

    slow = timed(9, 1.3)
    one = compared([timed(1, 1.0)], slow).signals[0]
    assert (one.verdict, one.p_value) == ("untested", None)
    assert "needs 3 past runs" in one.note
    uneven = [timed(n, speed) for n, speed in enumerate((0.8, 1.0, 1.25, 0.9))]
    assert compared(uneven, slow).changes == ()
    even = [timed(n, speed) for n, speed in enumerate((1.0, 1.01, 0.99, 1.0))]
    assert [c.signal for c in compared(even, slow).changes] == ["duration_s"]


def test_other_words_are_noticed_where_length_and_form_stay() -> None:
    def said(name: str, text: str) -> Asked:
        values = {f"p{n}": {"answer_words": 5.0} for n in range(30)}
        words = {f"p{n}": words_of(f"{text} {n} {name if n % 2 else ''}") for n in range(30)}
        return run(name, values, words=words)

    past = [said("a", "the cat sat there"), said("b", "the cat sat there")]
    assert not diff("s", "u", past, said("c", "the cat sat there"), CATALOGUE).changes
    found = diff("s", "u", past, said("c", "one dog lay down"), CATALOGUE)
    assert [c.signal for c in found.changes] == ["same_words"]


def test_a_model_that_calls_itself_otherwise_is_said_and_lost_prompts_are_counted() -> None:
    rng = random.Random(4)
    values = answers(rng, 20)
    fewer = {p: v for p, v in values.items() if p not in ("p3", "p4")}
    old, new = run("a", values, models=("m-1",)), run("b", fewer, models=("m-2",))
    found = diff("s", "u", [old], new, CATALOGUE)
    assert (found.moved, found.pairs, found.lost, found.changes) == (True, 18, 2, ())
    assert not diff("s", "u", [old], run("b", fewer), CATALOGUE).moved


def test_an_upstream_that_fails_more_often_is_worse_from_the_first_past_run() -> None:
    failed = Signal(name="failed", title="Failed", axis="service", kind="rate", better="down")
    past = run("a", {f"p{n}": {"failed": 0.0} for n in range(40)})
    new = run("b", {f"p{n}": {"failed": float(n < 12)} for n in range(40)})
    (change,) = diff("s", "u", [past], new, {"failed": failed}).changes
    assert (change.signal, change.verdict, change.changed) == ("failed", "worse", 12)
