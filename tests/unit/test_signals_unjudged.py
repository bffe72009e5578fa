"""Alarms where evaluators can no longer judge: what rings, what does not, how it ends."""

import random
import zlib

import msgspec
import pytest

from signal_streams import DAY, MONDAY, calls, made, ordinary, seen
from tocsin.core.domain import Alert
from tocsin.core.signals import signal_named
from tocsin.domains.signals.drift import Drift

Values = dict[str, float | None]


def blind(dice: random.Random, number: int) -> Values:
    """The evaluator of refusals can judge nothing any more."""
    return {**ordinary(dice, number), "refused": None}


def half(dice: random.Random, number: int) -> Values:
    return {**ordinary(dice, number), "refused": None if dice.random() < 0.3 else 0.0}


def rarely(dice: random.Random, number: int) -> Values:
    return {**ordinary(dice, number), "refused": None if dice.random() < 0.05 else 0.0}


def crashed(dice: random.Random, number: int) -> Values:
    return dict.fromkeys(ordinary(dice, number))


def vanished(dice: random.Random, number: int) -> Values:
    """There is no answer length any more: what it was told by is no longer there."""
    values = ordinary(dice, number)
    del values["answer_words"]
    return values


def unjudged(found: list[tuple[int, Alert]]) -> list[tuple[int, Alert]]:
    return [(at, alert) for at, alert in found if alert.signal.startswith("unjudged_")]


def test_an_evaluator_that_stops_judging_rings_and_says_what_since_when_and_how_much() -> None:
    detector, services = made()
    found = unjudged(seen(detector, calls((800, ordinary), (60, blind))))
    assert len(found) == 1, "it fires once"
    at, alert = found[0]
    assert 800 <= at <= 830
    assert (alert.signal, alert.state, alert.severity) == ("unjudged_refused", "firing", "warning")
    change = alert.change
    assert change is not None
    assert change.verdict == "worse"
    assert (change.before.value, change.after.value) == (
        pytest.approx(0.0, abs=0.01),
        pytest.approx(1.0, abs=0.3),
    )
    assert abs(change.since - (MONDAY + 800 * DAY // 150)) < DAY / 150 * 5
    assert "Not judged: Refusals of `support` rose from 0 % to " in alert.summary
    assert set(change.examples_after) <= {f"support-1-{i}" for i in range(800, 860)}
    assert change.examples_after
    assert change.examples_before
    assert not set(change.examples_before) & {f"support-1-{i}" for i in range(800, 860)}
    about = signal_named(services.catalogue(), alert.signal)
    assert about is not None
    assert about.kind == "rate"


def test_a_part_that_is_not_judged_rings_too() -> None:
    detector, _ = made()
    found = unjudged(seen(detector, calls((800, rarely), (200, half))))
    assert [alert.state for _, alert in found] == ["firing"]
    assert 800 < found[0][0] < 900


def test_an_evaluator_that_fails_altogether_rings_once_and_names_its_other_signals() -> None:
    detector, _ = made()
    found = unjudged(seen(detector, calls((800, ordinary), (150, crashed))))
    assert len(found) == 1
    assert "Not judged since then either: " in found[0][1].summary


def test_a_signal_of_every_call_that_is_gone_rings() -> None:
    detector, _ = made()
    found = unjudged(seen(detector, calls((800, ordinary), (100, vanished))))
    assert [alert.signal for _, alert in found] == ["unjudged_answer_words"]


def test_a_signal_of_some_calls_that_is_gone_is_no_alarm() -> None:
    def sometimes(dice: random.Random, number: int) -> Values:
        return ordinary(dice, number) if dice.random() < 0.9 else vanished(dice, number)

    detector, _ = made()
    assert unjudged(seen(detector, calls((800, sometimes), (300, vanished)))) == []


def test_it_resolves_when_calls_are_judged_again() -> None:
    detector, _ = made()
    found = unjudged(seen(detector, calls((800, ordinary), (60, blind), (200, ordinary))))
    assert [alert.state for _, alert in found] == ["firing", "resolved"]
    assert found[0][1].fingerprint == found[1][1].fingerprint


def test_what_a_person_accepts_is_normal_from_then_on() -> None:
    detector, services = made()
    stream = list(calls((800, ordinary), (60, blind), (600, blind)))
    found = seen(detector, iter(stream[:860]))
    services.accepted_since["support", "refused"] = stream[859].interaction.started_at
    found += seen(detector, iter(stream[860:]))
    assert [alert.state for _, alert in unjudged(found)] == ["firing", "resolved"]


def test_signals_that_are_off_do_not_ring() -> None:
    detector, _ = made(off=("refus*",))
    assert unjudged(seen(detector, calls((800, ordinary), (200, blind)))) == []


def test_it_outlives_the_process() -> None:
    stream = list(calls((800, ordinary), (60, blind), (200, ordinary)))
    detector, services = made()
    first = seen(detector, iter(stream[:850]))
    other = Drift(services)
    other.load(detector.save())
    second = seen(other, iter(stream[850:]))
    assert [alert.state for _, alert in unjudged(first + second)] == ["firing", "resolved"]


def test_the_joint_rate_of_false_alarms_holds_with_values_that_are_not_judged() -> None:
    def some(dice: random.Random, number: int) -> Values:
        return {n: None if dice.random() < 0.04 else v for n, v in ordinary(dice, number).items()}

    rang, every, count = 0, 1_000, 6
    for seed in range(count):
        detector, _ = made(false_alarm_calls=every, baseline_calls=300, false_alarm_days=0)
        found = seen(detector, calls((2_300, some), seed=seed))
        rang += sum(1 for at, alert in found if at >= 300 and alert.state == "firing")
    assert rang <= 1.5 * count * 2_000 / every, f"{rang} alarms"


def test_a_state_from_before_what_is_not_judged_was_watched_is_taken_over() -> None:
    stream = list(calls((800, ordinary), (60, blind)))
    detector, services = made()
    seen(detector, iter(stream[:800]))
    state = msgspec.msgpack.decode(zlib.decompress(detector.save()))
    for feature in state["features"]:
        del feature["blind"]
    other = Drift(services)
    other.load(zlib.compress(msgspec.msgpack.encode(state)))
    assert len(unjudged(seen(other, iter(stream[800:])))) == 1
