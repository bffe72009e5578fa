"""Limits are computed, not hoped for: mean runs, baselines with their error, rhythms, shapes."""

import math
import random

import pytest

from tocsin.core.signals import Sum
from tocsin.domains.signals.baseline import inflation, learn, scorer, thinned
from tocsin.domains.signals.charts import (
    Budget,
    _turn,
    coin_run,
    falling_runs,
    gaussian_run,
    level_charts,
    rate_charts,
    rising_runs,
)
from tocsin.domains.signals.distributions import bins_of, chi_square_bound
from tocsin.domains.signals.joint import Joint, changed_too, coin_evidence, score_evidence
from tocsin.domains.signals.seasons import DAY_US, HOUR_US, Rhythm, slot_of

MONDAY = 1_699_833_600_000_000


def walked(p: float, up: int, down: int, limit: int, *, runs: int, seed: int = 1) -> float:
    """Mean steps of the walk, by walking."""
    dice, steps = random.Random(seed), 0
    for _ in range(runs):
        at = 0
        while at < limit:
            steps += 1
            at = max(0, at + (up if dice.random() < p else -down))
    return steps / runs


@pytest.mark.parametrize(("p", "jump", "limit"), [(0.1, 5, 18), (0.2, 3, 20), (0.3, 1, 5)])
def test_mean_runs_of_rises_are_exact(p: float, jump: int, limit: int) -> None:
    expected = rising_runs(p, jump, limit + 5)(limit)
    assert walked(p, jump, 1, limit, runs=600) == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize(("p", "drop", "limit"), [(0.1, 14, 12), (0.2, 6, 14)])
def test_mean_runs_of_falls_are_exact(p: float, drop: int, limit: int) -> None:
    expected = falling_runs(p, drop, limit)(limit)
    assert walked(1.0 - p, 1, drop, limit, runs=1500) == pytest.approx(expected, rel=0.1)


def test_a_walk_that_climbs_reaches_its_limit_by_its_drift() -> None:
    assert rising_runs(0.5, 4, 100)(90) == pytest.approx(90 / 1.5)


def test_mean_runs_of_levels_are_those_of_the_literature() -> None:
    # Two-sided CUSUMs with k = 0.5 run 168 values for h = 4 and 465 for h = 5 (Montgomery, 2013);
    # one side alone runs twice as long.
    assert gaussian_run(4.0, -0.5) == pytest.approx(2 * 168, rel=0.02)
    assert gaussian_run(5.0, -0.5) == pytest.approx(2 * 465, rel=0.02)


def test_mean_runs_of_even_coins_are_close() -> None:
    dice, steps, p, reference, limit = random.Random(3), 0, 0.5, 0.62, 3.0
    for _ in range(800):
        s = 0.0
        while s < limit:
            steps += 1
            s = max(0.0, s + (dice.random() < p) - reference)
    found = coin_run(limit, p, reference, _turn(p, reference))
    assert found == pytest.approx(steps / 800, rel=0.25)


def test_a_short_baseline_has_wider_limits_than_a_long_one() -> None:
    short, long = (level_charts(n, Budget(100_000.0, 100.0)) for n in (50, 1000))
    assert min(c.delay(c.sign) for c in short) > 1.3 * min(c.delay(c.sign) for c in long)
    few, many = (rate_charts(0.1 * n, n, Budget(100_000.0, 100.0)) for n in (50, 1000))
    assert min(c.delay(0.4) for c in few) > 1.3 * min(c.delay(0.4) for c in many)


def test_a_rate_near_zero_is_not_watched_for_falling() -> None:
    assert {c.sign for c in rate_charts(4, 1000, Budget(100_000.0, 25_000.0))} == {1.0}
    assert {c.sign for c in rate_charts(1000, 1000, Budget(100_000.0, 25_000.0))} == {-1.0}
    assert {c.sign for c in rate_charts(300, 1000, Budget(100_000.0, 25_000.0))} == {1.0, -1.0}


def test_what_was_never_seen_rings_after_a_few_times_not_at_the_first() -> None:
    charts = rate_charts(0, 500, Budget(100_000.0, 25_000.0))
    assert all(chart.limit > 1.0 - chart.reference for chart in charts)
    assert min(chart.delay(0.2) for chart in charts) < 30


@pytest.mark.parametrize("p", [0.003, 0.02, 0.2, 0.5])
def test_estimated_baselines_keep_the_promised_rate_of_false_alarms(p: float) -> None:
    every, horizon, n, repeats = 400.0, 100, 200, 1200
    dice, rang = random.Random(5), 0
    for _ in range(repeats):
        hits = sum(dice.random() < p for _ in range(n))
        charts = rate_charts(hits, n, Budget(every, float(horizon)))
        for _ in range(horizon):
            x = dice.random() < p
            for chart in charts:
                chart.s = max(0.0, chart.s + chart.sign * (x - chart.reference))
            if any(chart.s >= chart.limit for chart in charts):
                rang += 1
                break
    promised = -math.expm1(-horizon / every) * repeats
    assert rang < 1.25 * promised


# -- baselines --


def test_scores_do_not_depend_on_the_shape_of_the_distribution() -> None:
    dice = random.Random(1)
    values = [math.exp(3.0 * dice.gauss(0, 1)) for _ in range(500)]
    score = scorer(learn(values, Sum(), rate=False))
    fresh = [score(math.exp(3.0 * dice.gauss(0, 1))) for _ in range(4000)]
    mean = sum(fresh) / len(fresh)
    assert abs(mean) < 0.1
    assert sum((z - mean) ** 2 for z in fresh) / len(fresh) == pytest.approx(1.0, abs=0.12)
    assert score(1e30) == max(score(x) for x in (1e9, 1e30))


def test_a_level_that_is_nearly_always_the_same_is_watched_for_being_another() -> None:
    baseline = learn([0.0] * 95 + [0.3] * 5, Sum(), rate=False)
    assert (baseline.kind, baseline.hits) == ("unlike", 5.0)
    assert scorer(baseline)(0.7) == 1.0


def test_a_thinned_baseline_scores_as_the_whole_one_does() -> None:
    dice = random.Random(2)
    baseline = learn([dice.gauss(0, 1) for _ in range(1000)], Sum(), rate=False)
    whole, thin = scorer(baseline), scorer(thinned(baseline))
    assert all(abs(whole(x) - thin(x)) < 0.08 for x in (-1.5, -0.5, 0.0, 0.7, 1.5))


def test_values_that_clump_count_for_less() -> None:
    dice, last, clumped = random.Random(4), 0.0, []
    for _ in range(1000):
        last = 0.7 * last + dice.gauss(0, 1)
        clumped.append(last)
    assert 3.0 < inflation(clumped) < 12.0
    assert inflation([dice.gauss(0, 1) for _ in range(1000)]) < 1.5


# -- rhythms --


def rhythm(amplitude: float, days: int, per_day: int, *, wander: float = 0.0) -> list[float]:
    dice, found, level = random.Random(6), Rhythm.empty(24, MONDAY), 0.0
    for i in range(days * per_day + 1):
        at = MONDAY + i * DAY_US // per_day
        level += dice.gauss(0, wander)
        wave = amplitude * math.sin(2 * math.pi * (at % DAY_US) / DAY_US)
        found.add(at, wave + level + dice.gauss(0, 1))
    return found.effects()


def test_a_daily_rhythm_is_known_after_two_days() -> None:
    effects = rhythm(1.0, 2, 300)
    assert effects[6] == pytest.approx(1.0, abs=0.35)
    assert effects[18] == pytest.approx(-1.0, abs=0.35)
    assert rhythm(1.0, 1, 300) == []


def test_what_merely_wanders_is_no_rhythm() -> None:
    assert rhythm(0.0, 8, 300) == []
    assert sum(map(abs, rhythm(0.0, 8, 300, wander=0.05))) < 24 * 0.3


def test_slots_are_hours_of_the_week_from_monday() -> None:
    assert slot_of(MONDAY) == 0
    assert slot_of(MONDAY + 6 * DAY_US + 23 * HOUR_US) == 167


# -- shapes, and signals that change together --


def test_a_level_that_splits_in_two_with_the_same_mean_is_seen() -> None:
    dice = random.Random(7)
    points = sorted(dice.gauss(0, 1) for _ in range(500))
    bins = bins_of(points, 500, every=50_000.0, inflation=1.0)
    assert bins is not None
    assert not any(bins.add(dice.gauss(0, 1)) for _ in range(2000))
    assert any(bins.add(dice.choice((-1.3, 1.3)) + dice.gauss(0, 0.3)) for _ in range(200))


def test_bounds_of_chi_square_are_those_of_the_tables() -> None:
    assert chi_square_bound(0.05, 6) == pytest.approx(12.592, abs=0.01)
    assert chi_square_bound(0.001, 2) == pytest.approx(13.816, abs=0.01)


def test_evidence_is_for_what_moved_and_against_what_did_not() -> None:
    moved, still = Joint(n=60, total=6.0), Joint(n=60, total=0.0)
    assert coin_evidence(moved, 4, 1000, 1.0) > 5.0
    assert coin_evidence(still, 4, 1000, 1.0) < 0.0
    assert coin_evidence(moved, 4, 1000, 4.0) < coin_evidence(moved, 4, 1000, 1.0)
    assert score_evidence(Joint(n=30, total=30.0), 500, 1.0) > 8.0
    assert score_evidence(Joint(n=30, total=1.0), 500, 1.0) < 0.0


def test_the_more_signals_changed_the_less_evidence_one_more_needs() -> None:
    evidence = {"a": math.log(130.0), "b": math.log(60.0), "c": 0.0}
    assert changed_too(evidence, firing=5, signals=20) == ["a", "b"]
    assert changed_too(evidence, firing=1, signals=20) == []
