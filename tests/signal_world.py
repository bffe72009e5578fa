"""Scored interactions, for tests of signals."""

from typing import Any

from store_world import entry
from tocsin.core.interaction import Entry
from tocsin.core.score import Score
from tocsin.core.signals import AXIS_SIGNALS, FEEDBACK_SIGNALS, Scored, Signal, slices_of
from tocsin.worker.evaluating import Scoring

LENGTH = Signal(
    name="length",
    title="Length",
    axis="consistent",
    kind="level",
    unit="words",
    log=True,
    scale=10.0,
    description="Words.",
)
GOOD = Signal(
    name="good", title="Good", axis="correct", kind="rate", better="up", description="Good."
)
CATALOGUE = {s.name: s for s in (*AXIS_SIGNALS, *FEEDBACK_SIGNALS, LENGTH, GOOD)}


class Judge:
    """An evaluator: good are even numbers, the length is the number, every tenth is unjudged."""

    name = "judge"
    version = "1"
    signals = (GOOD, LENGTH)

    def evaluate(self, entry: Entry) -> list[Score]:
        """Scores that the interaction's id tells."""
        name = entry.interaction.id
        number = int(name.removeprefix("call_"))
        good = None if number % 10 == 0 else float(number % 2 == 0)
        return [
            Score(interaction_id=name, name="good", version="1", value=good),
            Score(interaction_id=name, name="length", version="1", value=float(number)),
        ]


def judging(settings: bytes) -> Scoring:
    """What a process of a test scores with."""
    assert settings == b"settings"
    return Scoring([Judge()], CATALOGUE)


def scored(number: int, *, value: float | None = 1.0, name: str = "good", **changes: Any) -> Scored:
    """A call with one score; ``slices`` and ``first`` are its own, the rest is of the record."""
    slices = changes.pop("slices", None)
    first = changes.pop("first", True)
    explanation = changes.pop("explanation", "")
    version = changes.pop("version", "1")
    one = entry(number, **changes).interaction
    score = Score(
        interaction_id=one.id, name=name, version=version, value=value, explanation=explanation
    )
    return Scored(
        interaction=one,
        scores=(score,),
        slices=slices_of(one) if slices is None else slices,
        first=first,
    )
