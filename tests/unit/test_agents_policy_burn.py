"""Burn-rate alerts: the published runaway is found early, ordinary weeks are left alone."""

import itertools
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from support.spending import DAY, START, WEEK, Spent, interactions, ordinary, smooth, steps
from tocsin.core.domain import Alert
from tocsin.core.interaction import Interaction
from tocsin.core.signals import unscored
from tocsin.core.supervision import Burn
from tocsin.domains.agents.burn import MEMORY_DAYS, BurnRules, Spend
from tocsin.domains.agents.detectors import MOST_SUBJECTS, BurnRate, burn_detector
from tocsin.testing import ScriptedServices


def watched(calls: Iterator[Interaction]) -> tuple[list[Alert], float]:
    """The alerts up to the first that fires, and the US dollars spent by then."""
    detector, total = BurnRate(), 0.0
    for call in calls:
        total += (call.cost_nano_usd or 0) / 1e9
        alerts = list(detector.observe(unscored(call)))
        if alerts:
            return alerts, total
    return [], total


@pytest.mark.parametrize("usd", [0.05, 0.5])
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_the_published_weeks_as_steps_alert_by_160_dollars(usd: float, seed: int | None) -> None:
    alerts, total = watched(interactions(steps(usd, seed)))
    names = {"burn_rate:feature:support", "burn_rate:key:key_1", "burn_rate:run:run_1"}
    assert alerts
    assert {a.fingerprint for a in alerts} <= names
    assert 115 < total <= 160, "not in the first week, which is usual for all that is known"


@pytest.mark.parametrize("usd", [0.05, 0.5])
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_a_smooth_exponential_through_them_alerts_by_410_dollars(
    usd: float, seed: int | None
) -> None:
    alerts, total = watched(interactions(smooth(usd, seed)))
    assert "keeps multiplying" in alerts[0].summary
    assert total <= 410


@pytest.mark.parametrize("seed", [9, 23, 38, 55, 69])
def test_dear_calls_in_a_rough_order_are_seen_to_multiply_by_410_dollars(seed: int) -> None:
    alerts, total = watched(interactions(smooth(1.0, seed)))
    assert "keeps multiplying" in alerts[0].summary
    assert total <= 410


DEAR_STEADY: dict[str, Any] = {"usd_day": 20.0, "calls_day": 20.0}
DEAR_NEW: dict[str, Any] = {
    "usd_day": 15.0,
    "calls_day": 15.0,
    "office": True,
    "begins_day": 8.2,
}


@pytest.mark.parametrize(
    ("shape", "seed"), [(DEAR_STEADY, 20), (DEAR_STEADY, 27), (DEAR_NEW, 4), (DEAR_NEW, 12)]
)
def test_chance_among_few_dear_calls_is_not_taken_for_growth(
    shape: dict[str, Any], seed: int
) -> None:
    def growing(rules: BurnRules) -> list[str]:
        detector = BurnRate(rules)
        calls = interactions(ordinary(seed, weeks=6, **shape))
        alerts = [alert for call in calls for alert in detector.observe(unscored(call))]
        return [alert.summary for alert in alerts if "multiplying" in alert.summary]

    assert growing(BurnRules()) == []
    assert growing(BurnRules(growth_sure=0.0)), "these weeks would be, without the margin"


SHAPES: tuple[dict[str, Any], ...] = (
    {"usd_day": 20.0, "calls_day": 80.0},
    {"usd_day": 50.0, "calls_day": 100.0, "office": True},
    {"usd_day": 60.0, "calls_day": 100.0, "begins_day": 9.4},
    {"usd_day": 60.0, "calls_day": 100.0, "begins_day": 11.7, "office": True},
)


@pytest.mark.parametrize("shape", SHAPES, ids="-".join)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ordinary_weeks_stay_silent(shape: dict[str, Any], seed: int) -> None:
    detector = BurnRate()
    calls = interactions(ordinary(seed, weeks=4, **shape), run=lambda n: f"run_{n // 8}")
    assert [a.summary for call in calls for a in detector.observe(unscored(call))] == []


def test_one_dear_call_and_a_slow_ramp_are_no_burn() -> None:
    def calls() -> Iterator[Spent]:
        for hour in range(24 * 28):
            yield START + hour * 3600, 0.02 * (1 + hour / 200)
            if hour == 400:
                yield START + hour * 3600 + 60, 40.0

    assert watched(interactions(calls()))[0] == []


def burst(hours: int = 8) -> Iterator[Spent]:
    """Two quiet weeks, some hours at forty times the rate, and quiet again."""
    for minute in range(0, 15 * 24 * 60, 10):
        at = START + minute * 60
        hot = 2 * WEEK <= minute * 60 < 2 * WEEK + hours * 3600
        yield at, 2.0 if hot else 0.05


def test_an_alert_fires_once_and_resolves_once_with_the_traffic_of_anybody() -> None:
    detector = BurnRate()
    states: list[tuple[str, str]] = []
    for call in interactions(burst()):
        states += [(a.fingerprint, a.state) for a in detector.observe(unscored(call))]
    feature = [state for name, state in states if name == "burn_rate:feature:support"]
    assert feature == ["firing", "resolved"]

    silent = BurnRate()
    calls = list(itertools.takewhile(lambda c: c.started_at < (START + 2 * WEEK + 7200) * 10**6,
                                     interactions(burst())))  # fmt: skip
    for call in calls:
        list(silent.observe(unscored(call)))
    others = interactions(iter([(START + 3 * WEEK, 0.01)]), feature="other", key="key_2")
    ended = [a.fingerprint for call in others for a in silent.observe(unscored(call))]
    assert "burn_rate:feature:support" in ended


def test_alerts_say_what_is_usual_and_show_calls() -> None:
    alerts, _ = watched(interactions(burst()))
    assert "times the usual $" in alerts[0].summary
    assert alerts[0].severity == "critical"
    assert len(alerts[0].evidence) == 5


def test_calls_without_a_price_are_told_beside() -> None:
    paid = interactions(burst())
    free = (
        msgspec.structs.replace(call, id=f"free_{call.id}")
        for call in interactions(burst(), priced=False)
    )
    mixed = (call for pair in zip(paid, free, strict=True) for call in reversed(pair))
    alerts, _ = watched(mixed)
    assert "Not counted: " in alerts[0].summary
    assert "calls without a price" in alerts[0].summary


def test_settings_move_the_line() -> None:
    def firing(detector: BurnRate) -> int:
        return sum(1 for call in interactions(burst()) for _ in detector.observe(unscored(call)))

    def made(burn: Burn) -> BurnRate:
        services = ScriptedServices()
        services.burn = burn
        return burn_detector(services)

    assert firing(made(Burn(factor=100.0))) == 0
    assert firing(made(Burn(min_usd=1000.0))) == 0
    assert firing(made(Burn(factor=2.0, min_usd=1.0))) > 0


def test_times_that_nobody_knows_do_not_count() -> None:
    unknown = (
        msgspec.structs.replace(call, attributes={"time": "unknown"})
        for call in interactions(burst())
    )
    assert watched(unknown)[0] == []


def test_memory_is_bounded_by_time_and_by_number() -> None:
    spend = Spend("run", "r", "f", START)
    for hour in range(24 * 100):
        spend.add(START + hour * 3600, 0.1, 0, "c")
    assert len(spend._days) <= MEMORY_DAYS
    assert len(spend._fine) < 200
    detector = BurnRate()
    for number, call in enumerate(interactions(iter([(START, 1.0)] * (MOST_SUBJECTS + 50)))):
        list(detector.observe(unscored(msgspec.structs.replace(call, run_id=f"run_{number}"))))
    assert len(detector._subjects) <= MOST_SUBJECTS
    assert len(detector._looked) <= MOST_SUBJECTS


def test_late_and_distant_calls_do_no_harm() -> None:
    spend = Spend("feature", "f", "f", START)
    spend.add(START + 400 * DAY, 1.0, 0, "a")
    spend.add(START, 1.0, 0, "b")
    assert spend.spent(START + 400 * DAY, 3600) == 1.0
