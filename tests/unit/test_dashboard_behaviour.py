"""Signals in words, on axes and in slices: what the pages compute, without a page."""

import math
import re

import pytest
from starlette.datastructures import QueryParams

from tocsin.core.interaction import Interaction
from tocsin.core.score import Score
from tocsin.core.signals import Estimate, Scored, Signal, Sum
from tocsin.dashboard import (
    behaviour,
    examples,
    filters,
    measures,
    places,
    scales,
    signal_charts,
    slices,
)
from tocsin.dashboard.signal_charts import Band, Mark
from tocsin.domains.signals.compare import compare
from tocsin.domains.signals.intervals import student_quantile

NOW = 1_773_324_000_000_000
HOUR = 3_600_000_000
DAY = 24 * HOUR
RATE = Signal(name="refused", title="Refused", axis="appropriate", kind="rate", better="down")
WORDS = Signal(
    name="answer_words", title="Answer length", axis="consistent", kind="level", unit="words",
    log=True,
)  # fmt: skip
SECONDS = Signal(
    name="took", title="Time to the end", axis="service", kind="level", better="down", unit="s"
)


def share(good: int, n: int) -> Sum:
    return Sum(n, good, good, 0)


def query(text: str) -> filters.Query:
    return filters.parse(QueryParams(text), NOW, default_range="24h")


# -- words --


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, "0 %"), (1.0, "100 %"), (0.84, "84 %"), (0.994, "99.4 %"), (0.9999, ">99.9 %"),
     (0.0003, "<0.1 %"), (0.004, "0.4 %"), (0.98, "98 %")],
)  # fmt: skip
def test_a_share_has_the_digits_that_matter_at_either_end(value: float, said: str) -> None:
    assert measures.share(value) == said


def test_levels_carry_their_units() -> None:
    assert measures.value(WORDS, 132.4) == "132 words"
    assert measures.value(WORDS, 1.0) == "1 word"
    assert measures.value(SECONDS, 1.24) == "1.24 s"
    usd = Signal(name="c", title="Cost", axis="service", kind="level", unit="usd")
    assert measures.value(usd, 0.0042) == "$0.0042"
    assert measures.value(SECONDS, None) == "unknown"


def test_intervals_name_their_unit_once() -> None:
    assert measures.interval(RATE, Estimate(0.84, 0.81, 0.87, 9)) == "81–87 %"
    assert measures.interval(WORDS, Estimate(21.5, 21.4, 21.6, 9)) == "21.4–21.6 words"
    assert measures.interval(RATE, None) == ""


def test_differences_have_a_sign_and_log_levels_a_factor() -> None:
    assert measures.change(RATE, -0.614) == "−61 points"
    assert measures.change(RATE, 0.01) == "+1 point"
    assert measures.change(WORDS, 1.42) == "×1.42"
    assert measures.change(SECONDS, -0.3) == "−300 ms"
    assert measures.part(1.22) == "122 %"
    assert measures.part(-0.03) == "−3 %"


def test_too_little_is_called_underpowered_with_what_is_missing() -> None:
    found = compare(RATE, share(1, 20), share(2, 20))
    assert re.fullmatch(r"underpowered: \d+ more needed", measures.verdict(found))


# -- time --


def test_ranges_are_read_in_steps_that_fit_them() -> None:
    assert behaviour.span_of(query("range=1h"), NOW, None).grain == "minutes"
    assert behaviour.span_of(query("range=24h"), NOW, None).grain == "hour"
    assert behaviour.span_of(query("range=30d"), NOW, None).grain == "day"
    whole = behaviour.span_of(query("range=all"), NOW, NOW - 5 * DAY)
    assert whole.since == NOW - 5 * DAY


def test_a_baseline_ends_before_the_hour_in_which_the_range_begins() -> None:
    span = behaviour.span_of(query("since=2026-03-11T10:25:00Z"), NOW, None)
    found = behaviour.with_baseline(span, span.since - 3 * DAY, 28)
    assert found.before is not None
    assert found.before[1] == span.since
    assert found.before[1] % HOUR == 0
    assert found.before[1] - found.before[0] == 28 * DAY
    assert found.said == "the 28 days before"
    assert not found.whole
    assert behaviour.with_baseline(span, None, 28).before is None


def test_filters_are_slices_where_signals_have_them() -> None:
    assert behaviour.slice_filter(query("feature=a")) == (None, True)
    assert behaviour.slice_filter(query("release=2")) == (("release", "2"), True)
    assert behaviour.slice_filter(query("end_user=x")) == (None, False)
    assert behaviour.slice_filter(query("release=2&model=m")) == (None, False)


def test_a_range_is_widened_until_it_shows_when_a_change_began() -> None:
    day = query("range=24h")
    assert places.covering(day, None, NOW) == {}
    assert places.covering(day, NOW - 5 * HOUR, NOW) == {}
    assert places.covering(day, NOW - 3 * DAY, NOW)["range"] == "7d"
    assert places.covering(day, NOW - 60 * DAY, NOW)["range"] == "all"


@pytest.mark.parametrize("name", ["plain", "a/b", "50%", "a%2Fb", "..", ".", "x y", "é/<&>"])
def test_any_name_survives_as_a_segment_of_a_path(name: str) -> None:
    from urllib.parse import unquote

    path = places.named(name)
    assert "/" not in path
    routed = unquote(path)
    assert "/" not in routed
    assert routed not in (".", "..")
    assert places.read_name(routed) == name


# -- slices --


def test_shares_of_a_change_add_up_to_one() -> None:
    before = {"a": share(10, 100), "b": share(20, 300)}
    now = {"a": share(70, 100), "b": share(22, 300), "c": share(5, 40)}
    found = slices.share_of_change(now, before)
    assert math.isclose(sum(found.values()), 1.0)
    assert found["a"] > 0.8


def test_a_slice_that_grows_carries_what_its_growth_did() -> None:
    before = {"good": share(0, 90), "bad": share(10, 10)}
    now = {"good": share(0, 50), "bad": share(50, 50)}
    found = slices.share_of_change(now, before)
    assert math.isclose(sum(found.values()), 1.0)
    assert found["bad"] > found["good"]


def test_nothing_is_shared_out_when_nothing_moved() -> None:
    same = {"a": share(10, 100), "b": share(20, 200)}
    assert slices.share_of_change(same, same) == {}


# -- charts --


def test_steps_have_wilsons_or_students_interval() -> None:
    axis = signal_charts.axis_for(NOW - DAY, NOW, "hour", 10_000)
    (first, *_) = signal_charts.steps_on(axis, RATE, [(NOW - DAY, share(3, 40))])
    assert first.value == pytest.approx(0.075)
    assert (first.low, first.high) == pytest.approx((0.0258, 0.1986), abs=1e-3)
    values = [math.log1p(v) for v in (9.0, 12.0, 10.0, 11.0)]
    total = Sum(4, sum(values), sum(v * v for v in values))
    (level, *_) = signal_charts.steps_on(axis, WORDS, [(NOW - DAY, total)])
    mean, spread = sum(values) / 4, math.sqrt((total.variance or 0) / 4)
    assert level.high == pytest.approx(math.expm1(mean + student_quantile(0.975, 3) * spread))


def test_a_step_without_judged_calls_has_no_value() -> None:
    axis = signal_charts.axis_for(NOW - DAY, NOW, "hour", 10_000)
    found = signal_charts.steps_on(axis, RATE, [(NOW - DAY, Sum(0, 0, 0, 7))])
    assert found[0].value is None
    assert found[0].unjudged == 7
    assert signal_charts.spark(RATE, found, None, "nothing") == ""


def test_few_calls_are_drawn_in_fewer_steps() -> None:
    week = NOW - 7 * DAY
    many = signal_charts.axis_for(week, NOW, "hour", 1_000_000)
    few = signal_charts.axis_for(week, NOW, "hour", 60)
    assert many.steps > 80
    assert 10 <= few.steps <= 16
    assert signal_charts.axis_for(NOW - 30 * DAY, NOW, "day", 10**6).step == DAY


def test_the_baseline_band_narrows_with_the_calls_of_a_step() -> None:
    axis = signal_charts.axis_for(NOW - DAY, NOW, "hour", 10**6)
    small = signal_charts.steps_on(axis, RATE, [(NOW - DAY, share(1, 10))])
    large = signal_charts.steps_on(axis, RATE, [(NOW - DAY, share(100, 1000))])
    wide = signal_charts.band_of(RATE, share(300, 3000), small)
    tight = signal_charts.band_of(RATE, share(300, 3000), large)
    assert wide is not None
    assert tight is not None
    assert wide.low < tight.low < 0.1 < tight.high < wide.high
    assert signal_charts.band_of(RATE, Sum(), large) is None


def test_a_chart_marks_changes_and_releases_and_says_itself_in_words() -> None:
    axis = signal_charts.axis_for(NOW - DAY, NOW, "hour", 10**6)
    steps = signal_charts.steps_on(
        axis, RATE, [(NOW - DAY + i * HOUR, share(i, 50)) for i in range(24)]
    )
    marks = [
        Mark(at=NOW - 6 * HOUR, name="change began", css="change"),
        Mark(at=NOW - 7 * HOUR, name="release <b>", css="release"),
        Mark(at=NOW - 3 * DAY, name="long ago", css="release"),
    ]
    band = Band(low=0.0, high=0.2, value=0.1)
    svg = str(signal_charts.series("s", "Refused", RATE, axis, steps, band, marks, "/x"))
    assert svg.count('class="at-change"') == 1
    assert svg.count('class="at-release"') == 1
    assert "release &lt;b&gt;" in svg
    assert "long ago" not in svg
    assert "Marked: change began." in svg
    assert "style=" not in svg


def test_a_scale_of_shares_stays_within_what_is_possible() -> None:
    scale = scales.between(0.965, 0.998, measures.share, least=0.0, most=1.0)
    assert 0 < scale.bottom < 0.965
    assert scale.top == pytest.approx(1.0)
    assert scale.height(scale.bottom, 100) == 0
    assert scale.height(scale.top, 100) == pytest.approx(100)
    flat = scales.between(0.0, 0.0, measures.share, least=0.0, most=1.0)
    assert flat.bottom == 0
    assert flat.top > 0


# -- examples --


def scored(number: int, value: float, node: bytes | None = None, run: str = "") -> Scored:
    call = Interaction(
        id=f"call_{number}",
        source="gateway",
        dialect="openai",
        operation="chat",
        path="/v1/chat/completions",
        started_at=NOW,
        duration_us=1,
        outcome="complete",
        feature="f",
        run_id=run or f"run_{number}",
        run_source="new",
        request_model="m",
        input_node=node,
    )
    score = Score(interaction_id=call.id, name="refused", version="1", value=value)
    return Scored(interaction=call, scores=(score,), slices={})


def ids(pairs: list[tuple[Scored | None, Scored | None]]) -> list[tuple[str, str]]:
    return [(a.interaction.id if a else "", b.interaction.id if b else "") for a, b in pairs]


def test_examples_that_were_asked_the_same_stand_beside_each_other() -> None:
    before = [scored(1, 0, b"a"), scored(2, 0, b"b"), scored(3, 0, b"c")]
    after = [scored(11, 1, b"x"), scored(12, 1, b"c"), scored(13, 1, b"b")]
    assert ids(examples.matched(before, after)) == [
        ("call_3", "call_12"),
        ("call_2", "call_13"),
        ("call_1", "call_11"),
    ]


def test_examples_are_of_different_requests_and_runs_first() -> None:
    after = [scored(1, 1, b"a"), scored(2, 1, b"a"), scored(3, 1, b"b"), scored(4, 1, b"c")]
    assert [b for _, b in ids(examples.matched([], after))] == ["call_1", "call_3", "call_4"]


def test_a_side_that_is_missing_stays_empty() -> None:
    assert ids(examples.matched([scored(1, 0)], [])) == [("call_1", "")]
    assert ids(examples.matched([], [scored(2, 1)])) == [("", "call_2")]
