"""Numbers and times as a reader sees them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.dashboard import fmt

SECOND = 1_000_000


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (None, "unknown"),
        (0, "$0"),
        (1, "$0.000000001"),
        (4_217_300, "$0.0042"),
        (9_960_000, "$0.01"),
        (42_000_000, "$0.042"),
        (99_400_000, "$0.099"),
        (99_600_000, "$0.10"),
        (420_000_000, "$0.42"),
        (17_456_000_000, "$17.46"),
        (999_990_000_000, "$999.99"),
        (1_239_600_000_000, "$1,240"),
        (-2_500_000_000, "-$2.50"),
    ],
)
def test_money_shows_the_digits_that_matter(nano: int | None, text: str) -> None:
    assert fmt.money(nano) == text


@given(st.integers(min_value=1, max_value=10**16))
def test_money_is_never_rounded_to_nothing_and_stays_within_five_percent(nano: int) -> None:
    shown = float(fmt.money(nano).removeprefix("$").replace(",", ""))
    assert shown > 0
    assert abs(shown - nano / 1e9) <= 0.051 * nano / 1e9


def test_a_sum_without_any_price_is_unknown_and_not_zero() -> None:
    assert fmt.spent(0, 3, 3) == "unknown"
    assert fmt.spent(0, 3, 2) == "$0"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "unknown"),
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (12_345, "12.3k"),
        (999_400, "999k"),
        (999_600, "1M"),
        (1_240_000, "1.24M"),
        (3_000_000_000, "3B"),
    ],
)
def test_tokens_have_three_digits_that_matter(value: int | None, text: str) -> None:
    assert fmt.tokens(value) == text


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (None, "unknown"),
        (400, "0.4 ms"),
        (340_000, "340 ms"),
        (999_600, "1 s"),
        (1_240_000, "1.24 s"),
        (59_960_000, "1 min"),
        (252 * SECOND, "4 min 12 s"),
        (11_520 * SECOND, "3 h 12 min"),
        (187_200 * SECOND, "2 d 4 h"),
    ],
)
def test_durations_change_unit_where_a_reader_would(us: float | None, text: str) -> None:
    assert fmt.duration(us) == text


@pytest.mark.parametrize(
    ("us", "text"), [(0, "0"), (450_000, "450 ms"), (12 * SECOND, "12 s"), (125 * SECOND, "2:05")]
)
def test_an_axis_says_time_as_short_as_it_can(us: int, text: str) -> None:
    assert fmt.clock(us) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 0, "unknown"), (0, 9, "0 %"), (1, 5000, "<0.1 %"), (35, 1000, "3.5 %"), (49, 50, "98 %"),
     (4999, 5000, ">99.9 %"), (5, 5, "100 %")],
)  # fmt: skip
def test_a_share_is_never_rounded_to_none_or_all(part: int, whole: int, text: str) -> None:
    assert fmt.percent(part, whole) == text


def test_a_relative_time_carries_the_exact_one() -> None:
    now = 1_773_324_000 * SECOND
    made = fmt.when(now - 200 * SECOND, now)
    assert ">3 min ago<" in made
    assert 'datetime="2026-03-12T13:56:40Z"' in made
    assert 'title="2026-03-12 13:56:40.000 UTC"' in made
    assert fmt.ago(now - 40 * 86_400 * SECOND, now) == "31 Jan 2026"


def test_a_clock_that_was_wrong_by_millennia_still_gives_a_page() -> None:
    assert fmt.exact(10**20).startswith("9987-") or fmt.exact(10**20)
    assert fmt.iso(-(10**20))


def test_what_would_act_is_made_visible() -> None:
    assert fmt.visible("a\x00b\x1b[31m") == "a␀b␛[31m"
    assert fmt.visible("\u202egnp.exe") == "⟦U+202E⟧gnp.exe"
    assert fmt.visible("line\r\nline\ttab") == "line\nline\ttab"
    assert fmt.visible("\ud83dx").encode()  # a lone surrogate no longer breaks encoding


@given(st.text())
def test_visible_text_never_holds_controls_or_direction_overrides(text: str) -> None:
    shown = fmt.visible(text)
    shown.encode()
    assert not any(ord(c) < 32 and c not in "\n\t" for c in shown)
    assert not any(0x202A <= ord(c) <= 0x202E or 0x2066 <= ord(c) <= 0x2069 for c in shown)


def test_one_line_cuts_and_says_so() -> None:
    assert fmt.one_line("a\n b\t c") == "a b c"
    assert fmt.one_line("word " * 100, 20) == "word word word word…"
