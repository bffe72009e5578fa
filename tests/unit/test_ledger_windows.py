"""Windows: where days and hours begin, also on the days on which clocks change."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.core.ledger import Limit
from tocsin.ledger.windows import EVER, retry_after_s, window_at

SECOND = 1_000_000
HOUR = 3600 * SECOND
ZONES = ["UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kolkata", "Australia/Lord_Howe"]
TIMES = st.integers(0, 4_000_000_000_000_000)


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp()) * SECOND


def test_a_day_begins_at_midnight_of_the_limits_zone() -> None:
    limit = Limit(name="l", per="day", timezone="Europe/Berlin")
    window = window_at(limit, at("2026-07-01T23:30:00+00:00"))
    assert window.start == at("2026-07-02T00:00:00+02:00")
    assert window.resets_at == window.end == at("2026-07-03T00:00:00+02:00")


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25)])
def test_days_on_which_clocks_change_are_as_long_as_they_are(day: str, hours: int) -> None:
    limit = Limit(name="l", per="day", timezone="Europe/Berlin")
    window = window_at(limit, at(f"{day}T12:00:00+00:00"))
    assert window.end - window.start == hours * HOUR


def test_a_day_whose_midnight_is_skipped_begins_with_the_change() -> None:
    limit = Limit(name="l", per="day", timezone="America/Sao_Paulo")
    window = window_at(limit, at("2018-11-04T12:00:00+00:00"))
    assert window.start == at("2018-11-04T03:00:00+00:00")
    assert window.end - window.start == 23 * HOUR


def test_a_month_ends_where_the_next_begins() -> None:
    limit = Limit(name="l", per="month", timezone="Europe/Berlin")
    window = window_at(limit, at("2026-12-31T22:59:59+00:00"))
    assert window.start == at("2026-12-01T00:00:00+01:00")
    assert window.end == at("2027-01-01T00:00:00+01:00")
    assert window_at(limit, window.end).start == window.end


def test_an_hour_follows_the_clock_on_the_wall() -> None:
    limit = Limit(name="l", per="hour", timezone="Asia/Kolkata")
    window = window_at(limit, at("2026-06-01T10:45:00+00:00"))
    assert window.start == at("2026-06-01T10:30:00+00:00")


@given(now=TIMES, zone=st.sampled_from(ZONES), per=st.sampled_from(["hour", "day", "month"]))
def test_calendar_windows_hold_the_instant_and_leave_no_gap(now: int, zone: str, per: str) -> None:
    limit = Limit(name="l", per=per, timezone=zone)  # type: ignore[arg-type]
    window = window_at(limit, now)
    assert window.start <= now < window.end
    if per != "hour":
        assert window_at(limit, window.end).start == window.end
        assert window_at(limit, window.end - 1).start == window.start
        local = datetime.fromtimestamp(window.start / SECOND, UTC).astimezone(ZoneInfo(zone))
        assert local.day == 1 or per == "day"


@given(now=TIMES, back=st.integers(0, HOUR))
def test_a_rolling_window_counts_whatever_is_not_older_than_itself(now: int, back: int) -> None:
    limit = Limit(name="l", per="hour", rolling=True)
    spent_in = window_at(limit, now - back).start
    window = window_at(limit, now)
    assert window.since <= spent_in <= window.start
    assert window_at(limit, now - 2 * HOUR).start < window.since
    assert window.resets_at is None


def test_runs_and_ever_have_one_window() -> None:
    assert window_at(Limit(name="l"), 5) == EVER
    assert window_at(Limit(name="l", per="run"), 5) == EVER


def test_a_caller_is_told_to_wait_only_where_that_is_soon_over() -> None:
    limit = Limit(name="l", per="hour")
    window = window_at(limit, at("2026-06-01T10:59:30+00:00"))
    assert retry_after_s(limit, window, at("2026-06-01T10:59:30+00:00"), soon_s=60) == 30
    assert retry_after_s(limit, window, at("2026-06-01T10:30:00+00:00"), soon_s=60) is None
    assert retry_after_s(limit, EVER, 5, soon_s=60) is None
