"""Objectives over a real store: what calls mean for them, and labels that come later."""

from collections.abc import Iterator, Sequence

import pytest

from store_world import HOUR, SECOND, START, StoppedClock, entry
from tocsin.core.interaction import Entry
from tocsin.core.score import Feedback, Score
from tocsin.core.signals import Objective, Signal
from tocsin.domains.signals.objectives import standings
from tocsin.store import Store
from tocsin.testing import StoreKind, temporary_store
from tocsin.worker.evaluating import Evaluating, catalogue_of

VALID = Signal(name="valid", title="Valid", axis="correct", kind="rate", better="up")
TOOK = Signal(name="took_s", title="Took", axis="service", kind="level", better="down", unit="s")


class Evaluator:
    """Says that all is valid, and how long it took."""

    name = "test"
    version = "1"
    signals = (VALID, TOOK)

    def evaluate(self, entry: Entry) -> Sequence[Score]:
        one = entry.interaction
        return [
            Score(interaction_id=one.id, name=name, version="1", value=value)
            for name, value in (("valid", 1.0), ("took_s", one.duration_us / SECOND))
        ]


CATALOGUE = catalogue_of((Evaluator(),))
AIMS = (
    Objective(name="right", feature="support", signal="valid", target=0.9, proof="labelled_right"),
    Objective(name="quick", feature="support", signal="took_s", target=0.9, at_most=0.26),
    Objective(name="other", feature="search", signal="valid", target=0.9),
)


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    kind: StoreKind = request.param
    with temporary_store(kind, clock=StoppedClock()) as opened:
        yield opened


def evaluating(store: Store, aims: Sequence[Objective] = AIMS) -> Evaluating:
    return Evaluating(store, (Evaluator(),), CATALOGUE, catch_up=True, objectives=lambda: aims)


def label(store: Store, number: int, call: int, value: float) -> None:
    store.add_feedback(
        Feedback(
            id=f"feedback_{number}",
            interaction_id=entry(call).interaction.id,
            kind="label",
            value=value,
            by="ana",
            at=START + number,
        )
    )


def test_calls_count_for_the_objectives_of_their_feature(store: Store) -> None:
    store.append([entry(number) for number in range(40)])
    assert evaluating(store).step() == 40
    right, quick, other = standings(store, AIMS, CATALOGUE, START + HOUR)
    assert (right.events, right.bad) == (40, 0)
    assert (quick.events, quick.bad) == (40, 29), "250 ms and one more for each"
    assert other.events == 0


def test_a_late_label_is_held_against_the_earlier_verdict_and_the_last_word_counts(
    store: Store,
) -> None:
    store.append([entry(number) for number in range(40)])
    work = evaluating(store)
    work.step()
    for number in range(20):
        label(store, number, number, float(number % 2))
    work.step()
    right = standings(store, AIMS[:1], CATALOGUE, START + HOUR)[0]
    assert right.proof is not None
    assert right.proof.graded is not None
    assert right.proof.proxy is not None
    assert (right.proof.graded.n, right.proof.graded.value) == (20, 0.5)
    assert right.proof.proxy.value == 1.0
    assert right.proof.verdict == "contradicts"
    for number in range(0, 20, 2):
        label(store, 100 + number, number, 1.0)
    work.step()
    right = standings(store, AIMS[:1], CATALOGUE, START + HOUR)[0]
    assert right.proof is not None
    assert right.proof.graded is not None
    assert (right.proof.graded.n, right.proof.graded.value) == (20, 1.0)


def test_an_objective_on_a_share_knows_the_calls_from_before_it_was_written(store: Store) -> None:
    store.append([entry(number) for number in range(40)])
    evaluating(store, ()).step()
    right, quick = standings(store, AIMS[:2], CATALOGUE, START + HOUR)
    assert right.events == 40
    assert quick.events == 0, "of a level the sums do not tell good from bad"
