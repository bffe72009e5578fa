"""Evidence, budgets and the supervision strip, from plain values to what a page shows."""

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.core.errors import InputError
from tocsin.core.ledger import Account, Amounts, Limit
from tocsin.core.supervision import Evidence, Finding, RunWatch, Stage
from tocsin.dashboard import attention, budgets, evidence, fmt, lanes
from tocsin.store.api import StepPoint

USD = 1_000_000_000


def step(
    call: int, arguments: str, result: str = "ok", tool: str = "search", **more: str
) -> Evidence:
    return Evidence(call=call, tool=tool, arguments=arguments, result=result, **more)  # type: ignore[arg-type]


def finding(
    stage: Stage,
    call: int,
    *steps: Evidence,
    detector: str = "near_duplicate",
    enforce: bool = False,
) -> Finding:
    return Finding(
        run_id="run_1",
        feature="f",
        call=call,
        at=1,
        stage=stage,
        detector=detector,
        summary="It repeats.",
        evidence=steps,
        mode="enforce" if enforce else "observe",
    )


def address(one: Evidence) -> tuple[int, str]:
    return one.call, f"/runs/run_1?step={one.call}"


def marked(pieces: tuple[evidence.Piece, ...]) -> list[str]:
    return [piece.text.strip() for piece in pieces if piece.changed]


# -- differences --


def test_only_the_words_that_differ_are_marked() -> None:
    left, right = evidence.words(
        '{"q": "flights to Rome", "page": 1}', '{"q": "flights to Oslo", "page": 1}'
    )
    assert marked(left) == ["Rome"]
    assert marked(right) == ["Oslo"]


def test_changes_with_only_a_gap_between_them_are_one_mark() -> None:
    _, right = evidence.words("book the red car", "book one blue car")
    assert marked(right) == ["one blue"]


@given(st.text(max_size=200), st.text(max_size=200))
def test_the_pieces_of_a_side_are_its_whole_text(old: str, new: str) -> None:
    left, right = evidence.words(old, new)
    assert "".join(p.text for p in left) == fmt.visible(old)
    assert "".join(p.text for p in right) == fmt.visible(new)


def test_equal_texts_have_no_mark() -> None:
    left, right = evidence.words("ls -la src", "ls -la src")
    assert marked(left) == marked(right) == []


# -- pairs --


def test_the_first_and_the_last_of_a_tools_steps_stand_side_by_side() -> None:
    (pair,) = evidence.pairs([step(3, "a"), step(7, "b"), step(9, "c"), step(12, "d")], address)
    assert pair.left.call == 3
    assert pair.right is not None
    assert pair.right.call == 12
    assert [number for number, _ in pair.between] == [7, 9]


def test_two_agents_that_alternate_give_a_pair_for_each() -> None:
    steps = [
        step(1, "check 1", tool="verify", agent="analyzer"),
        step(2, "explain 1", tool="analyse", agent="verifier"),
        step(3, "check 2", tool="verify", agent="analyzer"),
        step(4, "explain 2", tool="analyse", agent="verifier"),
    ]
    pairs = evidence.pairs(steps, address)
    assert [(p.left.call, p.right.call if p.right else 0) for p in pairs] == [(1, 3), (2, 4)]


def test_what_has_no_match_is_shown_alone() -> None:
    pairs = evidence.pairs([step(1, "a", tool="x"), step(2, "b", tool="y")], address)
    assert [(p.left.tool, p.right) for p in pairs] == [("x", None), ("y", None)]


def test_it_is_said_what_is_the_same() -> None:
    (pair,) = evidence.pairs([step(1, "ls src", "a b"), step(2, "ls ./src", "a b")], address)
    assert pair.said == "arguments differ in part, same result"
    (pair,) = evidence.pairs([step(1, "alpha", "x"), step(2, "beta", "x")], address)
    assert pair.said == "different arguments, same result"


def test_of_a_detectors_findings_the_strongest_is_told_and_the_rest_counted() -> None:
    found = [finding("nudge", 4), finding("pause", 7, enforce=True), finding("nudge", 6)]
    (told,) = evidence.tell(found, address)
    assert (told.finding.call, told.did, len(told.earlier)) == (7, "paused", 2)


def test_what_was_only_observed_is_said_to_be_so() -> None:
    assert evidence.did(finding("kill", 3)) == "would kill"


def test_an_unknown_detector_names_itself() -> None:
    assert evidence.title("house_rule") == "House rule"


# -- budgets --


def account(limit: Limit, **amounts: Amounts) -> Account:
    return Account(limit=limit, value="", window_start=0, **amounts)


DAY = Limit(name="day", per="day", nano_usd=10 * USD, warn_at=(0.5, 0.8))


def lines(one: Account) -> tuple[budgets.Line, ...]:
    return budgets.budgets([one], {}, {})[0].lines


def test_held_money_is_not_left() -> None:
    (line,) = lines(account(DAY, spent=Amounts(nano_usd=3 * USD), held=Amounts(nano_usd=USD)))
    assert (line.spent, line.held, line.left, line.tone) == ("$3.00", "$1.00", "$6.00", "ok")


@pytest.mark.parametrize(
    ("spent", "tone"), [(4, "ok"), (5, "look"), (9, "look"), (10, "act"), (11, "act")]
)
def test_a_bar_turns_amber_at_the_first_warning_and_red_when_nothing_is_left(
    spent: int, tone: str
) -> None:
    (line,) = lines(account(DAY, spent=Amounts(nano_usd=spent * USD)))
    assert line.tone == tone
    assert f'class="{tone if tone != "ok" else "s1"}"' in line.bar


def test_what_was_spent_past_a_limit_is_said() -> None:
    (line,) = lines(account(DAY, spent=Amounts(nano_usd=12 * USD)))
    assert line.left == "$2.00 over"


def test_money_added_by_hand_widens_the_limit() -> None:
    (line,) = lines(
        account(DAY, spent=Amounts(nano_usd=12 * USD), extra=Amounts(nano_usd=10 * USD))
    )
    assert (line.most, line.left, line.raised) == ("$20.00", "$8.00", "$10.00")


def test_a_limit_of_nothing_is_reached_at_once() -> None:
    (line,) = lines(account(Limit(name="none", calls=0)))
    assert (line.tone, line.left) == ("act", "0")


def test_accounts_stand_nearest_to_their_limit_first() -> None:
    tokens = Limit(name="tokens", nano_usd=100 * USD, tokens=1_000)
    found = budgets.budgets(
        [
            account(DAY, spent=Amounts(nano_usd=5 * USD)),
            account(tokens, spent=Amounts(nano_usd=USD, tokens=900)),
        ],
        {},
        {},
    )
    assert [one.account.limit.name for one in found] == ["tokens", "day"]


amount = st.integers(0, 10**13)


@given(amount, amount, amount, st.integers(0, 10**13))
def test_no_bar_is_wider_than_its_place(spent: int, held: int, unsure: int, most: int) -> None:
    limit = Limit(name="x", nano_usd=most)
    (line,) = lines(
        account(
            limit,
            spent=Amounts(nano_usd=spent),
            held=Amounts(nano_usd=held),
            uncertain=Amounts(nano_usd=min(unsure, spent)),
        )
    )
    ends = [
        float(x) + float(wide)
        for x, wide in re.findall(r'x="([\d.]+)%" width="([\d.]+)%"', line.bar)
    ]
    assert all(end <= 100.01 for end in ends)


def test_limits_are_said_in_words() -> None:
    limit = Limit(
        name="run", per="run", nano_usd=5 * USD, calls=200, depth=0, wall_us=3_600_000_000
    )
    assert (
        budgets.amounts(limit) == "$5.00, 200 calls, no child runs, at most 1 h from the first call"
    )
    assert budgets.window(limit) == "each run"
    assert (
        budgets.window(Limit(name="d", per="day", timezone="Europe/Berlin"))
        == "per day, Europe/Berlin"
    )
    assert budgets.window(Limit(name="d", per="hour", rolling=True)) == "rolling hour"


# -- the strip --


def points(number: int, cost: int | None = 1_000_000) -> list[StepPoint]:
    return [StepPoint(f"call_{i}", i, 10, "complete", 100 + i, 10, cost, 1) for i in range(number)]


def watches(number: int) -> list[RunWatch]:
    return [
        RunWatch(
            run_id="run_1",
            feature="f",
            started_at=0,
            last_at=i,
            calls=i + 1,
            steps=i,
            repeats=min(i, 20),
            novelty=1 / (i + 1),
            tokens=100 * i,
            tokens_since_new=100 * i,
            cost_nano_usd=i,
        )
        for i in range(number)
    ]


def test_a_strip_has_a_lane_for_each_measure_and_a_mark_for_each_finding() -> None:
    found = [(4, finding("nudge", 4)), (7, finding("pause", 7))]
    strip = lanes.strip("run_1", points(8), watches(8), found)
    assert strip.count('class="lane-name"') == 5
    assert strip.count('class="stage-mark"') == 2
    assert "would pause at step 7" in strip


def test_a_runs_content_that_is_gone_leaves_the_lanes_that_records_fill() -> None:
    strip = lanes.strip("run_1", points(8), [], [])
    assert strip.count('class="lane-name"') == 2
    assert "whose messages are stored" in strip


def test_a_price_that_is_unknown_draws_no_spend() -> None:
    assert "Spend so far" not in lanes.strip("run_1", points(4, None), watches(4), [])


@pytest.mark.parametrize("number", [2, 499, 501, 1_730])
def test_a_long_run_is_drawn_in_at_most_five_hundred_steps(number: int) -> None:
    strip = lanes.strip("run_1", points(number), watches(min(number, 400)), [])
    told = msgspec.json.decode(re.search(r'data-points="([^"]*)"', strip)[1].replace("&#34;", '"'))  # type: ignore[index]
    assert 2 <= len(told) <= 500
    assert told[0].startswith("Step")


# -- targets --


@pytest.mark.parametrize("code", ["", "all:x", "feature:", "everything:", "run", "x:y"])
def test_a_target_that_names_nothing_is_refused(code: str) -> None:
    with pytest.raises(InputError):
        attention.read_target(code)


@pytest.mark.parametrize(
    ("code", "target"), [("all:", ("all", "")), ("feature:a:b", ("feature", "a:b"))]
)
def test_a_target_is_read_from_one_field(code: str, target: tuple[str, str]) -> None:
    assert attention.read_target(code) == target
