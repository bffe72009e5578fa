"""The drift detector: what it rings for, what it leaves alone, and the life of an alarm."""

import math
import random
from collections.abc import Callable

import pytest

from signal_streams import (
    DAY,
    MONDAY,
    Make,
    calls,
    made,
    ordinary,
    seen,
)
from tocsin.core.domain import Alert
from tocsin.core.score import Score
from tocsin.core.signals import Scored
from tocsin.domains.signals.backtest import Backtest
from tocsin.domains.signals.drift import MOST_FEATURES, Drift


def refusing(dice: random.Random, number: int) -> dict[str, float | None]:
    return {**ordinary(dice, number), "refused": float(dice.random() < 0.25)}


# -- what rings --


def test_a_rise_of_refusals_rings_soon_and_says_what_when_and_how_much() -> None:
    detector, _ = made()
    found = seen(detector, calls((800, ordinary), (150, refusing)))
    at, alert = found[0]
    assert 800 < at <= 860
    assert (alert.signal, alert.state, alert.feature) == ("refused", "firing", "support")
    change = alert.change
    assert change is not None
    assert change.verdict == "worse"
    assert abs(change.since - (MONDAY + 800 * DAY // 150)) < DAY / 150 * 15
    assert change.before.value == pytest.approx(0.02, abs=0.015)
    assert change.difference.low > 0.0
    assert change.delay < 70
    assert "Refusals of `support` rose from" in alert.summary
    assert "95 % interval" in alert.summary
    after = {f"support-1-{i}" for i in range(780, 870)}
    assert set(change.examples_after) <= after
    assert change.examples_before
    assert not set(change.examples_before) & {f"support-1-{i}" for i in range(800, 870)}
    assert change.false_alarm_every >= 10_000
    assert [a.signal for _, a in found] == ["refused"], "it fires once, and nothing else does"


@pytest.mark.parametrize(
    ("signal", "value"),
    [
        ("labelled_right", lambda dice: float(dice.random() < 0.5)),
        ("answer_words", lambda dice: math.exp(dice.gauss(4.7, 0.6))),
        ("empty", lambda dice: float(dice.random() < 0.2)),
    ],
)  # fmt: skip
def test_changes_of_every_kind_ring_within_a_hundred_calls(
    signal: str, value: Callable[[random.Random], float]
) -> None:
    def make(dice: random.Random, number: int) -> dict[str, float | None]:
        return {**ordinary(dice, number), signal: value(dice)}

    for seed in range(3):
        detector, _ = made()
        found = [(i, a) for i, a in seen(detector, calls((700, ordinary), (100, make), seed=seed))]
        assert signal in {a.signal for i, a in found if i >= 700}


def test_improvements_ring_too_and_are_called_so() -> None:
    detector, _ = made()
    better: Make = lambda d, i: {**ordinary(d, i), "labelled_right": 1.0}  # noqa: E731
    found = seen(detector, calls((800, ordinary), (200, better)))
    _, alert = next((i, a) for i, a in found if a.signal == "labelled_right")
    assert alert.change is not None
    assert (alert.change.verdict, alert.severity) == ("better", "info")


def test_ordinary_traffic_rings_about_as_seldom_as_it_is_set() -> None:
    rang, every = 0, 1_000
    for seed in range(12):
        detector, _ = made(false_alarm_calls=every, baseline_calls=300, false_alarm_days=0)
        rang += sum(
            a.state == "firing" for _, a in seen(detector, calls((1_000, ordinary), seed=seed))
        )
    assert rang <= 2 * 12


def test_a_signal_that_is_off_never_rings() -> None:
    detector, _ = made(off=("ref*",))
    assert seen(detector, calls((800, ordinary), (150, refusing))) == []


def test_what_could_not_be_judged_is_no_value() -> None:
    detector, _ = made()
    unjudged: Make = lambda d, i: {**ordinary(d, i), "refused": None}  # noqa: E731
    found = seen(detector, calls((800, ordinary), (300, unjudged)))
    assert {alert.signal for _, alert in found} == {"unjudged_refused"}, "no change of the signal"
    standing = detector.standing("support", "refused")
    assert standing is not None
    assert (standing.judged, standing.unjudged) == (800, 300)


def test_other_signals_that_changed_with_it_are_named_from_the_same_moment() -> None:
    def both(dice: random.Random, number: int) -> dict[str, float | None]:
        shorter, emptier = math.exp(dice.gauss(1.0, 0.6)), float(dice.random() < 0.08)
        return {**refusing(dice, number), "answer_words": shorter, "empty": emptier}

    detector, _ = made()
    found = {a.signal: a for _, a in seen(detector, calls((900, ordinary), (120, both)))}
    assert {"refused", "answer_words"} <= set(found)
    assert found["answer_words"].change is not None
    assert "labelled_right" not in found


# -- for whom --


def test_the_slice_that_carries_the_change_is_named_and_no_other() -> None:
    language = lambda number: {"language": "de" if number % 3 == 0 else "en", "model": "m"}  # noqa: E731
    partly: Make = lambda d, i: {  # noqa: E731
        **ordinary(d, i), "refused": float(d.random() < (0.75 if i % 3 == 0 else 0.02)),
    }  # fmt: skip
    detector, _ = made()
    found = seen(detector, calls((800, ordinary), (200, partly), slices=language))
    change = found[0][1].change
    assert change is not None
    assert [(s.dimension, s.value) for s in change.slices] == [("language", "de")]
    assert "mostly language=de" in found[0][1].summary


def test_a_release_that_came_with_the_change_is_named_as_new() -> None:
    release = lambda number: {"release": "2" if number >= 800 else "1"}  # noqa: E731
    detector, _ = made()
    found = seen(detector, calls((800, ordinary), (200, refusing), slices=release))
    assert "mostly release=2 (new)" in found[0][1].summary


def test_no_slice_is_named_where_none_stands_out() -> None:
    language = lambda number: {"language": "de" if number % 3 == 0 else "en"}  # noqa: E731
    detector, _ = made()
    found = seen(detector, calls((800, ordinary), (200, refusing), slices=language))
    assert found[0][1].change is not None
    assert found[0][1].change.slices == ()


# -- rhythms --


def waving(dice: random.Random, number: int) -> dict[str, float | None]:
    wave = math.sin(2 * math.pi * number / 400)
    return {"answer_words": math.exp(4.0 + 0.6 * (wave + dice.gauss(0, 1)))}


def test_a_daily_rhythm_does_not_ring_and_a_change_inside_it_does() -> None:
    jump: Make = lambda d, i: {"answer_words": (waving(d, i)["answer_words"] or 0.0) * 2.2}  # noqa: E731
    detector, _ = made()
    found = seen(detector, calls((400 * 8, waving), (150, jump), per_day=400))
    assert found, "the change inside the rhythm rings"
    assert found[0][0] >= 400 * 8
    standing = detector.standing("support", "answer_words")
    assert standing is not None
    assert standing.rhythm


# -- the life of an alarm --


def test_it_fires_once_and_resolves_when_the_signal_is_back() -> None:
    detector, _ = made()
    found = seen(detector, calls((800, ordinary), (300, refusing), (400, ordinary)))
    assert [(a.signal, a.state) for _, a in found] == [
        ("refused", "firing"),
        ("refused", "resolved"),
    ]
    (_, fired), (back, over) = found
    assert fired.fingerprint == over.fingerprint
    assert 1100 < back <= 1250
    standing = detector.standing("support", "refused")
    assert standing is not None
    assert standing.state == "steady"


def test_it_stays_while_the_level_stays_changed() -> None:
    detector, _ = made()
    found = seen(detector, calls((800, ordinary), (1_000, refusing)))
    assert [(a.signal, a.state) for _, a in found] == [("refused", "firing")]
    standing = detector.standing("support", "refused")
    assert standing is not None
    assert standing.state == "changed"
    assert standing.alert == found[0][1].fingerprint


def test_a_change_that_goes_further_rings_anew_and_the_old_alarm_ends() -> None:
    def worse(dice: random.Random, number: int) -> dict[str, float | None]:
        return {**ordinary(dice, number), "refused": float(dice.random() < 0.75)}

    detector, _ = made()
    found = seen(detector, calls((800, ordinary), (200, refusing), (200, worse)))
    own = [(i, alert) for i, alert in found if alert.signal == "refused"]
    assert [alert.state for _, alert in own] == ["firing", "resolved", "firing"]
    assert 1000 < own[2][0] <= 1060
    assert "further" in own[1][1].summary
    assert own[2][1].fingerprint != own[0][1].fingerprint
    assert own[2][1].change is not None
    assert own[2][1].change.after.value > 0.6


def test_a_person_who_accepts_the_new_level_ends_the_alarm_and_it_is_learned_anew() -> None:
    detector, services = made()
    stream = calls((800, ordinary), (300, refusing), (300, refusing))
    found = seen(detector, (next(stream) for _ in range(1000)))
    change = found[0][1].change
    assert change is not None
    services.accepted_since[("support", "refused")] = change.since + 1
    later = seen(detector, stream)
    assert [a.state for _, a in later] == ["resolved"]
    assert "a person said" in later[0][1].summary
    standing = detector.standing("support", "refused")
    assert standing is not None
    assert standing.baseline is not None
    assert standing.baseline.value == pytest.approx(0.25, abs=0.08)


def test_an_accepted_level_takes_effect_where_no_calls_come() -> None:
    detector, services = made()
    found = seen(detector, calls((800, ordinary), (200, refusing)))
    change = found[0][1].change
    assert change is not None
    services.accepted_since[("support", "refused")] = change.since
    assert [a.state for a in detector.tick(0)] == ["resolved"]
    assert list(detector.tick(0)) == []


def test_a_change_that_has_stood_for_two_weeks_is_what_is_normal() -> None:
    detector, _ = made()
    found = seen(detector, calls((800, ordinary), (150 * 16, refusing)))
    own = [alert for _, alert in found if alert.signal == "refused"]
    assert [alert.state for alert in own] == ["firing", "resolved"]
    assert "14 days" in own[1].summary


# -- state --


def test_below_the_sample_that_it_needs_it_says_how_many_more() -> None:
    detector, _ = made()
    seen(detector, calls((20, ordinary)))
    standing = detector.standing("support", "refused")
    assert standing is not None
    assert (standing.state, standing.words) == ("learning", "underpowered: 30 more needed")
    seen(detector, calls((800, ordinary), seed=2))
    standing = detector.standing("support", "refused")
    assert standing is not None
    assert standing.state == "steady"
    assert standing.sees_above is not None
    assert 0.03 < standing.sees_above < 0.3
    assert standing.sees_below is None


def test_a_saved_state_goes_on_as_if_nothing_had_happened() -> None:
    whole, _ = made()
    parted, services = made()
    stream = list(calls((800, ordinary), (120, refusing), (200, ordinary)))
    expected = seen(whole, iter(stream))
    found = []
    for start in range(0, len(stream), 230):
        data = parted.save()
        parted = Drift(services)
        parted.load(data)
        found += [a for _, a in seen(parted, iter(stream[start : start + 230]))]
    assert found == [a for _, a in expected]
    assert len(parted.save()) < 200_000


class Older(Drift):
    version = "0"


def test_a_state_of_another_version_or_a_damaged_one_is_refused() -> None:
    detector, services = made()
    with pytest.raises(ValueError, match="version"):
        detector.load(Older(services).save())
    for damaged in (b"", b"\xff\x00nonsense", detector.save()[:-4]):
        with pytest.raises(ValueError):  # noqa: PT011 - whatever the decoder says
            detector.load(damaged)


def test_only_so_many_features_are_watched_and_the_silent_one_goes_with_its_alarm() -> None:
    detector, _ = made()
    seen(detector, calls((800, ordinary), (100, refusing)))
    found: list[Alert] = []
    for i in range(MOST_FEATURES):
        found += [a for _, a in seen(detector, calls((1, ordinary), feature=f"f{i}"))]
    assert [(a.feature, a.state) for a in found] == [("support", "resolved")]
    assert len({name for name, _ in detector.standings()}) == MOST_FEATURES


def test_labels_that_come_later_count_for_the_call_that_they_are_about() -> None:
    detector, _ = made()
    for scored in calls((60, ordinary)):
        label = Scored(
            interaction=scored.interaction,
            scores=(Score(interaction_id=scored.interaction.id, name="labelled_right",
                          version="1", value=1.0),),
            slices={}, first=False,
        )  # fmt: skip
        list(detector.observe(scored))
        list(detector.observe(label))
    standing = detector.standing("support", "labelled_right")
    assert standing is not None
    assert standing.judged == 120


def test_a_backtest_tells_what_would_have_rung() -> None:
    detector, _ = made()
    backtest = Backtest([detector])
    for scored in calls((800, ordinary), (100, refusing)):
        backtest.add(scored)
    report = backtest.report()
    assert (report.calls, report.untimed) == (900, 0)
    assert [(r.signal, r.state) for r in report.rang] == [("refused", "firing")]
    assert 800 < report.rang[0].call <= 870
    assert {s.state for _, s in report.standings} == {"steady", "changed"}
