"""Cost per successful task: labels make it, of whole runs, in every store."""

from collections.abc import Callable

import pytest

from store_world import HOUR, SECOND, START, entry
from tocsin.core.interaction import Entry, Usage
from tocsin.core.ratios import COST_PER_SUCCESS, SUCCEEDED, TASK_COST, RatioSum
from tocsin.core.score import Feedback
from tocsin.core.signals import Objective
from tocsin.dashboard import behaviour, slices
from tocsin.domains.signals.service import ServiceEvaluator
from tocsin.store import Store
from tocsin.worker.evaluating import Evaluating, catalogue_of

EVALUATORS = (ServiceEvaluator(),)
CATALOGUE = catalogue_of(EVALUATORS)
CENT = 10_000_000
"""In nano US dollars."""
UNTIL = START + HOUR
Label = Callable[[Entry, float], None]


def call(number: int, run: str, cents: float | None = 1, **changes: object) -> Entry:
    cost = None if cents is None else round(cents * CENT)
    source = "listed" if cents is not None else "unknown"
    return entry(number, run=run, **{"cost_nano_usd": cost, "cost_source": source, **changes})


@pytest.fixture
def label(store: Store) -> Label:
    """What people say, one word after the other."""
    words = 0

    def said(of: Entry, value: float) -> None:
        nonlocal words
        words += 1
        store.add_feedback(
            Feedback(id=f"fb{words}", interaction_id=of.interaction.id, kind="label",
                     value=value, at=START + words)
        )  # fmt: skip

    return said


def scored(store: Store, *objectives: Objective) -> None:
    scoring = Evaluating(store, EVALUATORS, CATALOGUE, catch_up=True, objectives=lambda: objectives)
    while scoring.step():
        pass


def total(store: Store, *, dimension: str = "", value: str = "") -> RatioSum:
    """The one sum of the ratio over all time, whole or of a slice."""
    found = store.signal_totals(
        since=0, until=UNTIL, signal=COST_PER_SUCCESS.name, dimension=dimension
    )
    (point,) = [p for p in found if p.value == value]
    assert point.signal == COST_PER_SUCCESS.name
    assert isinstance(point.sum, RatioSum)
    return point.sum


def test_the_cost_of_all_labelled_runs_over_those_that_succeeded(
    store: Store, label: Label
) -> None:
    runs = [[call(10 * run + step, f"run_{run}", 1 + run) for step in range(3)] for run in range(4)]
    store.append([one for run in runs for one in run])
    for number, run in enumerate(runs[:3]):
        label(run[-1], float(number != 1))  # the fourth is not labelled
    scored(store)
    found = total(store)
    assert (found.n, found.tasks, found.unjudged) == (2, 3, 0)
    assert found.total == pytest.approx(0.03 + 0.06 + 0.09)
    assert found.mean == pytest.approx(0.09)


def test_the_last_label_of_a_run_counts_on_whichever_call_it_is(store: Store, label: Label) -> None:
    run = [call(step, "run_a") for step in range(3)]
    store.append(run)
    for of, value, wins in ((0, 1.0, 1), (2, 0.0, 0), (1, 0.0, 0), (1, 1.0, 1)):
        label(run[of], value)
        scored(store)
        assert (total(store).n, total(store).tasks) == (wins, 1)
    label(run[0], 0.0)
    label(run[2], 1.0)
    label(run[0], 0.0)
    scored(store)  # all three in one batch
    assert (total(store).n, total(store).tasks, total(store).total) == (0, 1, 0.03)


def test_a_run_that_costs_what_nobody_knows_is_left_out_and_counted_apart(
    store: Store, label: Label
) -> None:
    dear = [call(1, "run_a"), call(2, "run_a", None)]
    fine = call(3, "run_b", 2)
    store.append([*dear, fine])
    label(dear[0], 1.0)
    label(fine, 1.0)
    scored(store)
    found = total(store)
    assert (found.n, found.tasks, found.unjudged, found.total) == (1, 1, 1, 0.02)


def test_a_call_that_was_turned_away_cost_nothing(store: Store, label: Label) -> None:
    away = call(1, "run_a", None, outcome="error", usage=Usage(), status=429)
    store.append([away, call(2, "run_a", 2)])
    label(away, 1.0)
    only = call(3, "run_b", None, outcome="denied", usage=Usage())
    store.append([only])
    label(only, 0.0)
    scored(store)
    found = total(store)
    assert (found.n, found.tasks, found.total) == (1, 1, 0.02)
    assert found.unjudged == 1, "of a run that no provider worked on nothing is known"


def test_slices_are_those_of_the_first_call(store: Store, label: Label) -> None:
    runs = [
        [
            call(10 * run, f"run_{run}", release=f"r{run % 2}"),
            call(10 * run + 1, f"run_{run}", release="later"),
        ]
        for run in range(4)
    ]
    store.append([one for run in runs for one in run])
    for number, run in enumerate(runs):
        label(run[1], float(number != 0))
    scored(store)
    assert total(store, dimension="release", value="r0").mean == pytest.approx(0.04)
    assert total(store, dimension="release", value="r1").mean == pytest.approx(0.02)
    found = store.signal_totals(
        since=0, until=UNTIL, signal=COST_PER_SUCCESS.name, dimension="release"
    )
    assert {point.value for point in found} == {"r0", "r1"}


def test_steps_add_up_to_the_total_whatever_their_length(store: Store, label: Label) -> None:
    runs = [call(n, f"run_{n}", 1 + n % 3, started_at=START + n * 300 * SECOND) for n in range(10)]
    store.append(runs)
    for number, one in enumerate(runs):
        label(one, float(number % 4 != 0))
    scored(store)
    for grain in ("minutes", "hour", "day"):
        points = store.signal_points(
            grain=grain, since=0, until=UNTIL, signal=COST_PER_SUCCESS.name
        )
        added = behaviour.sums(points)["support"][COST_PER_SUCCESS.name]
        assert isinstance(added, RatioSum)
        assert (added.n, added.tasks) == (7, 10)
        assert added.total == pytest.approx(total(store).total)
        assert added.variance == pytest.approx(total(store).variance)
    assert len({p.at for p in store.signal_points(
        grain="minutes", since=0, until=UNTIL, signal=COST_PER_SUCCESS.name
    )}) == 10  # fmt: skip


def test_sums_that_are_made_again_are_the_same(store: Store, label: Label) -> None:
    runs = [call(n, f"run_{n}", n + 1) for n in range(6)]
    store.append(runs)
    for number, one in enumerate(runs):
        label(one, float(number > 1))
    label(runs[5], 0.0)
    scored(store)
    before = total(store)
    store.rebuild()
    after = total(store)
    assert (after.n, after.tasks, after.unjudged) == (before.n, before.tasks, before.unjudged)
    assert (after.total, after.squares, after.cross) == pytest.approx(
        (before.total, before.squares, before.cross)
    )


def test_a_slice_is_held_against_the_rest_of_its_feature(store: Store, label: Label) -> None:
    runs = [call(n, f"run_{n}", 1 + n % 2 / 10, release="dear" if n % 2 else "cheap")
            for n in range(200)]  # fmt: skip
    store.append(runs)
    for number, one in enumerate(runs):
        label(one, float(number % 2 == 0 or number % 5 == 0))
    scored(store)
    span = behaviour.Span(since=START, until=UNTIL)
    found = slices.dimensions(store, span, "support", CATALOGUE[COST_PER_SUCCESS.name],
                              changed=False)  # fmt: skip
    (release,) = [d for d in found if d.name == "release"]
    told = {s.value: s.against_rest for s in release.slices}
    assert told["dear"] is not None
    assert told["dear"].verdict == "worse"
    assert told["cheap"] is not None
    assert told["cheap"].verdict == "better"


def test_what_a_task_may_cost_is_an_objective(store: Store, label: Label) -> None:
    runs = [call(n, f"run_{n}", 1 + n) for n in range(4)]
    store.append(runs)
    for one in runs:
        label(one, 1.0)
    limit = Objective(
        name="dear", feature="support", signal=TASK_COST.name, target=0.9, at_most=0.025
    )
    scored(store, limit)
    (point,) = store.signal_totals(since=0, until=UNTIL, signal=limit.score_name())
    assert (point.sum.n, point.sum.total) == (4, 2.0)


def test_the_same_word_again_is_not_scored_again(store: Store, label: Label) -> None:
    one = call(1, "run_a")
    store.append([one])
    label(one, 1.0)
    scored(store)
    rows = store.scored_upto()
    label(one, 1.0)
    scored(store)
    assert store.scored_upto() == rows + 1
    label(one, 0.0)
    scored(store)
    label(one, 1.0)
    scored(store)
    said = [[s.name for s in row.scores] for _, row in store.scored_after(rows - 1, limit=9)]
    assert said == [
        ["labelled_right", TASK_COST.name, SUCCEEDED],
        ["labelled_right"],
        ["labelled_right", SUCCEEDED],
        ["labelled_right", SUCCEEDED],
    ], "detectors are shown what a task cost once"
    assert (total(store).n, total(store).total) == (1, 0.01)
