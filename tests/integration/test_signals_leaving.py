"""Conversations that were given up: judged once the time has passed, each end once."""

from collections.abc import Callable
from typing import Any

import pytest

from store_world import SECOND, START, StoppedClock, entry, message
from tocsin.core.interaction import Entry
from tocsin.core.signals import ABANDONED, Scored, Sum
from tocsin.domains.signals.service import ServiceEvaluator
from tocsin.domains.signals.users import UsersEvaluator
from tocsin.store import Store
from tocsin.worker.evaluating import Evaluating, catalogue_of
from tocsin.worker.leaving import Leaving

EVALUATORS = (ServiceEvaluator(), UsersEvaluator())
CATALOGUE = catalogue_of(EVALUATORS)
WAIT_S = 600.0
MINUTE = 60 * SECOND
ASKED = message("user", "How do I reset the password of my account?")
ANSWERED = message("assistant", "Open the settings.")
AGAIN = message("user", "How do I reset the password of my account please?")
WRONG = message("user", "That is wrong, there is no such page.")
THANKS = message("user", "Thanks, and where do I change my address then?")


def turn(number: int, run: str, last: Any, at: int, **changes: Any) -> Entry:
    """A call that continues a conversation."""
    return entry(
        number, run=run, history=(ASKED, ANSWERED, last), started_at=START + at * MINUTE, **changes
    )


def leaving(store: Store, clock: StoppedClock) -> Leaving:
    return Leaving(store, clock, lambda feature: WAIT_S, CATALOGUE, lambda scored: scored)


@pytest.fixture
def look(store: Store) -> Callable[[int], Sum]:
    """Score what is there and look at ends, so many minutes after the start."""
    clock = StoppedClock()
    leaving(store, clock).step()

    def looked(minute: int) -> Sum:
        clock.now = START + minute * MINUTE
        scoring = Evaluating(store, EVALUATORS, CATALOGUE, catch_up=True)
        while scoring.step():
            pass
        job = leaving(store, clock)  # a new process each time: what it knows is in the store
        while job.step():
            pass
        points = store.signal_totals(since=0, until=START * 2, signal="abandoned")
        return sum((point.sum for point in points), Sum())

    return looked


def test_an_end_is_judged_only_once_the_time_has_passed(
    store: Store, look: Callable[[int], Sum]
) -> None:
    store.append([turn(1, "run_a", WRONG, 0), turn(2, "run_b", THANKS, 0)])
    assert look(9) == Sum()
    assert look(11) == Sum(2, 1.0, 1.0)
    assert look(60) == Sum(2, 1.0, 1.0), "each end is judged once"
    (score,) = [s for s in store.scores(turn(1, "run_a", WRONG, 0).interaction.id)
                if s.name == ABANDONED.name]  # fmt: skip
    assert (score.value, score.label) == (1.0, "corrected")


@pytest.mark.parametrize(
    ("last", "changes"),
    [
        (AGAIN, {}),
        (WRONG, {}),
        (THANKS, {"outcome": "error"}),
        (THANKS, {"outcome": "refused"}),
        (THANKS, {"outcome": "truncated"}),
    ],
)
def test_what_leaves_a_user_without_help(
    store: Store, look: Callable[[int], Sum], last: Any, changes: dict[str, Any]
) -> None:
    store.append([turn(1, "run_a", last, 0, **changes)])
    assert look(30) == Sum(1, 1.0, 1.0)


def test_who_comes_back_in_time_has_not_given_up(store: Store, look: Callable[[int], Sum]) -> None:
    store.append([turn(1, "run_a", WRONG, 0)])
    assert look(5) == Sum()
    store.append([turn(2, "run_a", THANKS, 5)])
    assert look(30) == Sum(1, 0.0, 0.0), "the conversation has one end, and that was well"


def test_who_comes_back_too_late_had_given_up(store: Store, look: Callable[[int], Sum]) -> None:
    store.append([turn(1, "run_a", WRONG, 0), turn(2, "run_a", THANKS, 25)])
    assert look(60) == Sum(2, 1.0, 1.0)


def test_a_single_question_is_no_conversation_unless_it_has_a_name(
    store: Store, look: Callable[[int], Sum]
) -> None:
    store.append([
        entry(1, run="run_a", history=(ASKED,), started_at=START, outcome="error"),
        entry(2, run="run_b", history=(ASKED,), started_at=START, outcome="error",
              conversation_id="conv_b"),
    ])  # fmt: skip
    assert look(30) == Sum(1, 1.0, 1.0)


def test_a_call_from_the_future_holds_nobody_up(store: Store, look: Callable[[int], Sum]) -> None:
    store.append([turn(1, "run_a", THANKS, 100_000), turn(2, "run_b", WRONG, 0)])
    assert look(30).n >= 1


def test_what_was_scored_before_anybody_looked_is_not_gone_through(store: Store) -> None:
    store.append([turn(1, "run_a", WRONG, 0)])
    scoring = Evaluating(store, EVALUATORS, CATALOGUE, catch_up=True)
    while scoring.step():
        pass
    job = leaving(store, StoppedClock(START + 60 * MINUTE))
    while job.step():
        pass
    assert store.signal_totals(since=0, until=START * 2, signal="abandoned") == []


def test_an_end_counts_for_the_slices_of_its_call(store: Store, look: Callable[[int], Sum]) -> None:
    store.append([turn(1, "run_a", WRONG, 0, release="r7")])
    look(30)
    (point,) = store.signal_totals(
        since=0, until=START * 2, signal="abandoned", dimension="release"
    )
    assert (point.value, point.sum) == ("r7", Sum(1, 1.0, 1.0))
    rows = [row for _, row in store.scored_after(0, limit=10) if not row.first]
    assert [isinstance(row, Scored) for row in rows] == [True]
