"""Numbers, dates, times and units are read the same however they are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.domains.signals.values import Value, values_of


def one(text: str) -> Value:
    (value,) = values_of(text)
    return value


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1234", 1234),
        ("1,234", 1234),
        ("1.234,50", 1234.5),
        ("1,234.50", 1234.5),
        ("1 234 567", 1234567),
        ("1'234'567", 1234567),
        ("0.5", 0.5),
        ("3.5 million", 3_500_000),
        ("$3.5M", 3_500_000),
        ("10k", 10_000),
        ("£5bn", 5e9),
        ("three", 3),
        ("a dozen", 12),
        ("half a dozen", 6),
        ("twenty-five", 25),
        ("two hundred and six", 206),
        ("3 thousand", 3000),
        ("20th", 20),
    ],
)
def test_a_number_is_read_in_many_notations(text: str, number: float) -> None:
    assert number in one(text).numbers


def test_a_mark_that_may_be_either_gives_both_readings() -> None:
    assert set(one("1.234").numbers) == {1.234, 1234.0}


@pytest.mark.parametrize(
    "text",
    ["May 20th, 2024", "20 May 2024", "2024-05-20", "20.05.2024", "20 Mai 2024", "5/20/2024",
     "May 20, 2024", "2024/05/20", "20th of May 2024"],
)  # fmt: skip
def test_a_date_is_read_in_many_forms(text: str) -> None:
    assert (2024, 5, 20) in one(text).days


def test_a_date_without_a_year_leaves_it_open() -> None:
    assert one("May 20th").days == ((0, 5, 20),)


def test_a_day_that_no_month_has_is_no_date() -> None:
    assert one("on 0 August, 2023").days == ()


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("7 PM", 1140), ("07:00 PM", 1140), ("19:00:00", 1140), ("7 p.m.", 1140), ("12:30 am", 30)],
)
def test_a_time_is_read_in_many_forms(text: str, minutes: int) -> None:
    assert one(text).minutes == (minutes,)


def test_an_hour_without_am_or_pm_may_be_either() -> None:
    assert set(one("7:15").minutes) == {435, 1155}


@pytest.mark.parametrize(
    ("text", "dimension", "base"),
    [("150 minutes", "duration", 9000), ("2.5 h", "duration", 9000), ("$300", "money", 300),
     ("300 dollars", "money", 300), ("50%", "percent", 50), ("fifty percent", "percent", 50),
     ("3 km", "length", 3000), ("two weeks", "duration", 1_209_600)],
)  # fmt: skip
def test_units_are_told_with_their_size(text: str, dimension: str, base: float) -> None:
    value = one(text)
    assert value.unit is not None
    assert value.unit.dimension == dimension
    assert value.numbers[0] * value.unit.size == pytest.approx(base)


def test_currencies_differ_and_dollars_may_be_any() -> None:
    euro, yen, dollar = (one(t).unit for t in ("€300", "¥300", "$300"))
    assert euro is not None
    assert yen is not None
    assert dollar is not None
    assert not euro.agrees(yen)
    assert dollar.agrees(euro)


@pytest.mark.parametrize("text", ["HAT136", "OS940", "credit_card_x", "24/7", "e2e"])
def test_digits_inside_words_are_no_numbers(text: str) -> None:
    assert values_of(text) == []


@pytest.mark.parametrize("text", ["1.2.3", "555-123-4567", "12345678901234567890"])
def test_what_is_written_like_a_number_but_is_none_is_a_code(text: str) -> None:
    assert one(text).kind == "code"


def test_a_range_is_two_numbers() -> None:
    assert [value.numbers for value in values_of("3-5 days")] == [(3.0,), (5.0,)]


def test_a_modal_verb_is_no_month() -> None:
    assert values_of("You may go. It may rain in march.") == []


@given(st.text(max_size=300))
def test_no_text_makes_it_fail(text: str) -> None:
    for value in values_of(text):
        assert 0 <= value.start <= value.end <= len(text)


@given(st.text(alphabet="0123456789.,:/-' \u00a0TMaypmk$€%", max_size=120))
def test_no_heap_of_digits_and_marks_makes_it_fail(text: str) -> None:
    values_of(text)


@given(st.integers(0, 10**12))
def test_thousands_separators_change_nothing(number: int) -> None:
    written = f"{number:,}"
    assert float(number) in values_of(written)[0].numbers
    assert float(number) in values_of(written.replace(",", "."))[0].numbers
