"""Error budgets: the workbook's rules, windows in bounded memory, alerts that end, two tiers."""

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.core.domain import Alert, Remembering, Ticking
from tocsin.core.interaction import Interaction
from tocsin.core.score import Score
from tocsin.core.signals import Objective, Scored, Signal, Sum, objective_scores
from tocsin.domains.signals.burning import (
    FEWEST_BAD,
    HOUR_US,
    BurnState,
    Sliding,
    rules,
    span,
)
from tocsin.domains.signals.objectives import Objectives, objective_detector, standings
from tocsin.domains.signals.proof import ALPHA, Proofs, evidence, proof_detector, prove
from tocsin.testing import ScriptedServices

START = 1_700_000_000_000_000
SECOND = 1_000_000
VALID = Signal(name="schema_valid", title="Schema valid", axis="correct", kind="rate", better="up")
SLOW = Signal(
    name="duration_s", title="Duration", axis="service", kind="level", better="down", unit="s"
)
REFUSED = Signal(name="refused", title="Refused", axis="appropriate", kind="rate", better="down")
RIGHT = Signal(
    name="labelled_right", title="Labelled right", axis="correct", kind="rate", better="up"
)
CATALOGUE = {signal.name: signal for signal in (VALID, SLOW, REFUSED, RIGHT)}


def objective(**more: object) -> Objective:
    values: dict[str, object] = {
        "name": "answers",
        "feature": "support",
        "signal": "schema_valid",
        "target": 0.999,
    }
    return msgspec.convert(values | more, Objective)


def call(at_us: int, number: int = 0, feature: str = "support", **attributes: str) -> Interaction:
    return Interaction(
        id=f"call_{number}",
        source="gateway",
        dialect="openai",
        operation="chat",
        path="/v1/chat/completions",
        started_at=at_us,
        duration_us=0,
        outcome="complete",
        feature=feature,
        run_id="run_1",
        run_source="new",
        request_model="m",
        attributes=attributes,
    )


def scored(interaction: Interaction, *, first: bool = True, **values: float | None) -> Scored:
    made = tuple(
        Score(interaction_id=interaction.id, name=name, version="1", value=value)
        for name, value in values.items()
    )
    return Scored(interaction=interaction, scores=made, slices={}, first=first)


def services(*objectives: Objective) -> ScriptedServices:
    made = ScriptedServices()
    made.known_signals = dict(CATALOGUE)
    made.objective_list = objectives
    return made


def detector(*objectives: Objective) -> Objectives:
    return objective_detector(services(*objectives))


def feed(
    watching: Objectives, begin_s: float, seconds: float, *, every_s: float, bad: float
) -> list[Alert]:
    """Even traffic from ``begin_s``, with evenly spread bad calls."""
    alerts: list[Alert] = []
    owed = 0.0
    for number in range(int(seconds / every_s)):
        owed += bad
        value = 0.0 if owed >= 1.0 else 1.0
        owed -= 1.0 - value
        at = START + round((begin_s + number * every_s) * SECOND)
        alerts += watching.observe(scored(call(at, number), schema_valid=value))
    return alerts


# -- the rules --


def test_the_rules_of_a_month_are_the_workbooks_table() -> None:
    found = [
        (r.name, r.severity, r.burn, r.long_us / HOUR_US, r.short_us / HOUR_US, round(r.budget, 6))
        for r in rules(30)
    ]
    assert found == [
        ("page-1h", "critical", 14.4, 1, 1 / 12, 0.02),
        ("page-6h", "critical", 6.0, 6, 0.5, 0.05),
        ("ticket-3d", "warning", 1.0, 72, 6, 0.10),
    ]


@pytest.mark.parametrize("days", [0.5, 1, 7, 28, 90])
def test_other_windows_alert_at_the_same_shares_of_the_budget(days: float) -> None:
    for mine, monthly in zip(rules(days), rules(30), strict=True):
        spent = mine.burn * mine.long_us / (days * 24 * HOUR_US)
        assert spent == pytest.approx(monthly.budget, rel=1e-6)
        assert mine.budget == monthly.budget
        assert mine.long_us / mine.short_us == pytest.approx(12, rel=1e-6)


def test_spans_are_named_as_people_write_them() -> None:
    shown = [span(int(s * SECOND)) for s in (300, 1800, 3600, 21_600, 259_200, 840, 70, 0.25)]
    assert shown == ["5m", "30m", "1h", "6h", "3d", "14m", "1.2m", "0.25s"]


# -- windows --


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 500), st.booleans()), max_size=200),
    st.integers(0, 2000),
)
def test_a_sliding_window_counts_what_is_in_it_to_a_step(
    events: list[tuple[int, bool]], later: int
) -> None:
    window, seen, now = Sliding(720 * 10), [], START
    for gap, bad in events:
        at = now - gap if bad else now + gap
        now = max(now, at)
        seen.append((at, bad))
        window.add(at, bad)
    now += later
    inside = [bad for at, bad in seen if now - 7200 < at <= now]
    surely = [bad for at, bad in seen if now - 7200 + 10 < at <= now]
    wider = [bad for at, bad in seen if now - 7200 - 10 < at <= now]
    total, bads = window.counts(now)
    assert len(surely) <= total + 1e-9 <= len(wider) + 2e-9
    assert sum(surely) <= bads + 1e-9 <= sum(wider) + 2e-9
    assert window.surely(now)[0] <= len(inside)
    assert window.surely(now)[1] <= sum(inside)


# -- alerts --


def test_a_total_outage_pages_when_the_workbook_says() -> None:
    watching = detector(objective())
    assert feed(watching, 0, 3600, every_s=1, bad=0.0) == []
    alerts = feed(watching, 3600, 300, every_s=1, bad=1.0)
    first = next(alert for alert in alerts if alert.fingerprint == "objective:answers:page-1h")
    # 0.1 % allowed, 14.4 times over one hour: 51.84 s of a total outage.
    assert first.severity == "critical"
    assert 51 <= (first.at - START) / SECOND - 3600 <= 53
    assert first.signal == "schema_valid"
    assert first.evidence[-1] == "call_51"
    assert "burns its budget 14.4 times too fast over 1h" in first.summary
    assert "52 of 3,601 calls are bad by schema_valid" in first.summary
    assert "2023-11-14 23:13 UTC" in first.summary
    # Of three days only one hour is known: a few bad calls weigh as much there.
    assert alerts[0].fingerprint == "objective:answers:ticket-3d"


def test_a_slow_burn_is_a_ticket_and_no_page() -> None:
    watching = detector(objective(target=0.99))
    alerts = feed(watching, 0, 4 * 86_400, every_s=60, bad=0.0)
    alerts = feed(watching, 4 * 86_400, 4 * 86_400, every_s=60, bad=0.012)
    assert [alert.fingerprint for alert in alerts] == ["objective:answers:ticket-3d"]
    assert alerts[0].severity == "warning"


def test_an_alert_resolves_once_the_short_window_is_quiet() -> None:
    watching = detector(objective())
    feed(watching, 0, 3600, every_s=1, bad=0.0)
    fired = feed(watching, 3600, 600, every_s=1, bad=1.0)
    ended = feed(watching, 4200, 3600, every_s=1, bad=0.0)
    pages = {f"objective:answers:page-{window}" for window in ("1h", "6h")}
    assert {a.fingerprint for a in ended} == pages
    assert pages < {a.fingerprint for a in fired}
    assert {a.state for a in ended} == {"resolved"}
    page = next(a for a in ended if a.fingerprint.endswith("page-1h"))
    assert 4200 + 290 <= (page.at - START) / SECOND <= 4200 + 302


def test_an_alert_resolves_when_no_more_calls_come() -> None:
    watching = detector(objective())
    feed(watching, 0, 3600, every_s=1, bad=0.0)
    assert feed(watching, 3600, 60, every_s=1, bad=1.0)
    assert isinstance(watching, Ticking)
    assert list(watching.tick(START + 3700 * SECOND)) == []
    ended = list(watching.tick(START + 3700 * SECOND + 6 * HOUR_US))
    assert {alert.state for alert in ended} == {"resolved"}
    assert list(watching.tick(START + 8 * HOUR_US)) == []


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(1, 4000), st.booleans()), max_size=60),
)
def test_no_alert_comes_of_fewer_calls_than_the_minimum(
    least: int, events: list[tuple[int, bool]]
) -> None:
    state = BurnState(objective(target=0.9, min_events=least))
    seen: list[tuple[int, bool]] = []
    now = START
    for gap, bad in events:
        now += gap * SECOND
        seen.append((now, bad))
        state.add(now, bad)
        for reading in state.look(now, bad=bad):
            if reading.firing:
                inside = [b for at, b in seen if at > now - reading.rule.long_us]
                assert len(inside) >= least
                assert sum(inside) >= FEWEST_BAD


def test_one_bad_call_at_night_is_no_outage() -> None:
    watching = detector(objective(target=0.99, min_events=1))
    assert feed(watching, 0, 7200, every_s=900, bad=0.0) == []
    assert list(watching.observe(scored(call(START + 8000 * SECOND), schema_valid=0.0))) == []


def test_a_level_is_good_by_its_limit_and_what_is_not_judged_does_not_count() -> None:
    watching = detector(objective(signal="duration_s", target=0.9, at_most=2.0, min_events=3))
    alerts: list[Alert] = []
    for number in range(40):
        at = START + number * SECOND
        alerts += watching.observe(scored(call(at, number), duration_s=None))
    for number, value in enumerate((1.0, 2.0, 2.0, 2.1, 3.0, 9.0, 9.0)):
        at = START + (100 + number) * SECOND
        alerts += watching.observe(scored(call(at, number), duration_s=value))
    assert {alert.at for alert in alerts} == {START + 104 * SECOND}, "the second bad call"
    assert "2 of 5 calls are bad by duration_s" in alerts[0].summary


def test_a_rate_is_bad_at_its_worse_end() -> None:
    assert objective(signal="refused").good(REFUSED, 1.0) is False
    assert objective(signal="refused").good(REFUSED, 0.0) is True
    assert objective().good(VALID, 0.0) is False
    assert objective().good(VALID, None) is None
    assert objective().good(SLOW, 1.0) is None, "nothing says what is good"


def test_calls_of_other_features_and_of_unknown_times_do_not_count() -> None:
    watching = detector(objective(target=0.9, min_events=1))
    for number in range(50):
        other = call(START + number, number, feature="search")
        odd = call(START + number, number, time="unknown")
        assert list(watching.observe(scored(other, schema_valid=0.0))) == []
        assert list(watching.observe(scored(odd, schema_valid=0.0))) == []


def test_objectives_that_change_are_taken_over_and_what_they_fired_ends() -> None:
    given_services = services(objective())
    watching = objective_detector(given_services)
    feed(watching, 0, 3600, every_s=1, bad=0.0)
    fired = [a for a in feed(watching, 3600, 100, every_s=1, bad=1.0) if a.state == "firing"]
    given_services.objective_list = (objective(signal="refused"),)
    ended = list(watching.tick(START + 3701 * SECOND))
    assert {a.fingerprint for a in ended} == {a.fingerprint for a in fired}
    assert {a.state for a in ended} == {"resolved"}
    given_services.objective_list = ()
    assert list(watching.tick(START + 3702 * SECOND)) == []


def test_a_clock_that_runs_ahead_does_not_end_the_counting() -> None:
    watching = detector(objective(target=0.9, min_events=2))
    watching.tick(START)
    far = START + 400 * 86_400 * SECOND
    list(watching.observe(scored(call(far), schema_valid=1.0)))
    alerts = feed(watching, 600, 60, every_s=1, bad=1.0)
    assert alerts


def test_what_was_counted_outlives_the_process() -> None:
    watching = detector(objective())
    feed(watching, 0, 3600, every_s=1, bad=0.0)
    early = feed(watching, 3600, 40, every_s=1, bad=1.0)
    assert isinstance(watching, Remembering)
    saved = watching.save()
    assert len(saved) < 60_000
    again = detector(objective())
    again.load(saved)
    on = feed(watching, 3640, 60, every_s=1, bad=1.0)
    assert feed(again, 3640, 60, every_s=1, bad=1.0) == on
    assert any(a.fingerprint.endswith("page-1h") for a in early + on)
    with pytest.raises(ValueError, match="no state of objectives"):
        again.load(b"nonsense")


# -- how they stand --


class Point:
    def __init__(self, at: int, values: Sum) -> None:
        self.at = at
        self.sum = values


class Table:
    """Sums as a store gives them, made of single values."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, str, float]] = []

    def add(self, at: int, name: str, value: float) -> None:
        self.rows.append((at, name, value))

    def signal_points(
        self,
        *,
        grain: str,
        since: int,
        until: int,
        feature: str | None = None,
        signal: str | None = None,
        dimension: str = "",
        value: str | None = None,
    ) -> list[Point]:
        step = {"minutes": 300, "hour": 3600, "day": 86_400}[grain] * SECOND
        sums: dict[int, Sum] = {}
        for at, name, number in self.rows:
            begin = at // step * step
            if name == signal and since <= begin < until:
                sums[begin] = sums.get(begin, Sum()) + Sum(1, number, number * number)
        return [Point(at, found) for at, found in sorted(sums.items())]


NOON = START // (86_400 * SECOND) * 86_400 * SECOND + 12 * HOUR_US


def test_a_standing_tells_budget_burn_rates_and_interval() -> None:
    table = Table()
    for minute in range(10 * 1440):
        bad = minute < 60 and minute % 10 == 0
        table.add(NOON - minute * 60 * SECOND - 1, "objective_answers", 0.0 if bad else 1.0)
    (found,) = standings(table, (objective(target=0.99),), CATALOGUE, NOON)
    assert (found.events, found.bad) == (14_400, 6)
    assert found.budget == pytest.approx(144)
    assert found.left == pytest.approx(1 - 6 / 144)
    assert found.good is not None
    assert found.good.low < 1 - 6 / 14_400 < found.good.high
    assert found.burn_rates["1h"] == pytest.approx(10)
    assert found.state == "ok", "10 is below 14.4, and six hours burn at 1.7"
    assert list(found.burn_rates) == ["1h", "5m", "6h", "30m", "3d"]


def test_a_standing_burns_when_a_rule_does_and_is_spent_when_nothing_is_left() -> None:
    table = Table()
    for minute in range(6 * 1440):
        table.add(NOON - minute * 60 * SECOND - 1, "objective_answers", float(minute > 60))
    (found,) = standings(table, (objective(target=0.99),), CATALOGUE, NOON)
    assert found.state == "burning"
    assert [rule.name for rule in found.rules if rule.burning][:2] == ["page-1h", "page-6h"]
    later = NOON + 7 * 86_400 * SECOND
    (found,) = standings(table, (objective(target=0.999),), CATALOGUE, later)
    assert found.state == "spent"
    assert found.left < 0


def test_a_standing_without_enough_calls_says_so() -> None:
    table = Table()
    assert standings(table, (objective(),), CATALOGUE, NOON)[0].good is None
    for minute in range(60):
        table.add(NOON - minute * 60 * SECOND - 1, "objective_answers", 1.0)
    assert standings(table, (objective(),), CATALOGUE, NOON)[0].state == "too few events"


def test_before_an_objective_was_written_its_rates_own_sums_stand_in() -> None:
    table = Table()
    for minute in range(3 * 1440):
        table.add(NOON - minute * 60 * SECOND - 1, "refused", float(minute % 100 == 0))
    (found,) = standings(table, (objective(signal="refused", target=0.9),), CATALOGUE, NOON)
    assert (found.events, found.bad) == (3 * 1440, 44)


# -- the proof --


def test_scores_for_objectives_hold_late_grades_against_earlier_verdicts() -> None:
    aim = objective(proof="labelled_right")
    interaction = call(START)
    first = scored(interaction, schema_valid=1.0).scores
    late = scored(interaction, labelled_right=0.0).scores
    made = objective_scores(interaction, first, (aim,), CATALOGUE)
    assert [(s.name, s.value) for s in made] == [("objective_answers", 1.0)]
    made = objective_scores(interaction, late, (aim,), CATALOGUE, known=first)
    assert [(s.name, s.value) for s in made] == [("proof_answers", 0.0), ("proxy_answers", 1.0)]
    assert objective_scores(interaction, late, (aim,), CATALOGUE) == []


def test_a_proxy_that_lies_is_found_out() -> None:
    found = prove("labelled_right", 0.99, holds=True, graded=120, graded_bad=11, proxy_bad=0)
    assert found.verdict == "contradicts"
    assert found.graded is not None
    assert found.graded.value == pytest.approx(109 / 120)
    assert found.graded.low < 0.91 < found.graded.high < 0.99


def test_too_few_grades_say_how_many_more_are_needed() -> None:
    few = prove("labelled_right", 0.99, holds=True, graded=20, graded_bad=1, proxy_bad=0)
    assert few.verdict == "underpowered"
    more = 20 + few.needed
    assert evidence(more, round(0.05 * more), 0.01) >= 1 / ALPHA
    none = prove("labelled_right", 0.99, holds=True, graded=0, graded_bad=0, proxy_bad=0)
    assert none.verdict == "underpowered"
    assert (
        prove(
            "labelled_right", 0.99, holds=True, graded=none.needed, graded_bad=0, proxy_bad=0
        ).verdict
        == "agrees"
    )


@pytest.mark.parametrize("allowed", [0.01, 0.1])
def test_looking_after_every_grade_rarely_contradicts_what_is_met(allowed: float) -> None:
    chance, wrong = random.Random(7), 0
    for _ in range(400):
        bad = 0
        for events in range(1, 401):
            if chance.random() < allowed:
                bad += 1
                if evidence(events, bad, allowed) >= 1 / ALPHA:
                    wrong += 1
                    break
    # At most 1 % by theory; 10 of 400 has a chance of one in a hundred there.
    assert wrong <= 10


def proofs(*objectives: Objective) -> Proofs:
    return proof_detector(services(*objectives))


def test_the_proof_alerts_once_and_resolves_when_the_proxy_sees_it_too() -> None:
    watching = proofs(objective(target=0.95, proof="labelled_right"))
    alerts: list[Alert] = []
    for number in range(400):
        at = START + number * 60 * SECOND
        alerts += watching.observe(scored(call(at, number), schema_valid=1.0))
        if number % 4 == 0:
            wrong = number % 20 == 0
            made = objective_scores(
                call(at, number),
                scored(call(at, number), labelled_right=float(not wrong)).scores,
                (objective(target=0.95, proof="labelled_right"),),
                CATALOGUE,
                known=scored(call(at, number), schema_valid=1.0).scores,
            )
            late = Scored(interaction=call(at, number), scores=tuple(made), slices={}, first=False)
            alerts += watching.observe(late)
    (fired,) = alerts
    assert fired.fingerprint == "objective:answers:proof"
    assert "the proxy lies. schema_valid says 100 % of" in fired.summary
    assert "labelled_right says" in fired.summary
    assert fired.evidence
    for number in range(400, 700):
        at = START + number * 60 * SECOND
        list(watching.observe(scored(call(at, number), schema_valid=0.0)))
    (ended,) = watching.tick(START + 701 * 60 * SECOND)
    assert ended.state == "resolved"


def test_the_proof_remembers() -> None:
    aim = objective(target=0.95, proof="labelled_right")
    watching = proofs(aim)
    for number in range(60):
        both = scored(
            call(START + number * SECOND, number),
            schema_valid=1.0,
            labelled_right=float(number % 5 > 0),
        )
        list(watching.observe(both))
    again = proofs(aim)
    again.load(watching.save())
    assert again.save() == b"\x80"
    list(again.tick(START + 100 * SECOND))
    watching.tick(START + 100 * SECOND)
    assert again.save() == watching.save()
