"""Streams of scored calls for tests of the drift detector."""

import math
import random
from collections.abc import Callable, Iterator

from tocsin.core.domain import Alert
from tocsin.core.interaction import Interaction
from tocsin.core.score import Score
from tocsin.core.signals import Scored, Signal, SignalSettings
from tocsin.domains.signals.drift import Drift
from tocsin.testing import ScriptedServices

MONDAY = 1_699_833_600_000_000
DAY = 86_400_000_000
REFUSED = Signal(name="refused", title="Refusals", axis="appropriate", kind="rate", better="down")
RIGHT = Signal(name="labelled_right", title="Right", axis="correct", kind="rate", better="up")
WORDS = Signal(
    name="answer_words", title="Answer length", axis="consistent", kind="level", unit="words",
    log=True,
)  # fmt: skip
NEVER = Signal(name="empty", title="Empty answers", axis="appropriate", kind="rate", better="down")

Make = Callable[[random.Random, int], dict[str, float | None]]


def ordinary(dice: random.Random, number: int) -> dict[str, float | None]:
    """A call as they usually are."""
    return {
        "refused": float(dice.random() < 0.02),
        "labelled_right": float(dice.random() < 0.84),
        "answer_words": math.exp(dice.gauss(4.0, 0.6)),
        "empty": 0.0,
    }


def calls(
    *parts: tuple[int, Make], seed: int = 1, per_day: float = 150.0, feature: str = "support",
    slices: Callable[[int], dict[str, str]] = lambda number: {}, start: int = MONDAY,
) -> Iterator[Scored]:  # fmt: skip
    """Scored calls: so many of each kind, one after another."""
    dice, number = random.Random(seed), 0
    for count, make in parts:
        for _ in range(count):
            id_ = f"{feature}-{seed}-{number}"
            values = make(dice, number)
            yield Scored(
                interaction=Interaction(
                    id=id_, source="gateway", dialect="openai", operation="chat", path="/",
                    started_at=start + int(number * DAY / per_day), duration_us=0,
                    outcome="complete", feature=feature, run_id=id_, run_source="new",
                    request_model="m",
                ),
                scores=tuple(
                    Score(interaction_id=id_, name=name, version="1", value=value)
                    for name, value in values.items()
                ),
                slices=slices(number),
            )  # fmt: skip
            number += 1


def made(**settings: object) -> tuple[Drift, ScriptedServices]:
    services = ScriptedServices()
    services.known_signals = {s.name: s for s in (REFUSED, RIGHT, WORDS, NEVER)}
    services.watching = SignalSettings(**settings)  # type: ignore[arg-type]
    return Drift(services), services


def seen(detector: Drift, stream: Iterator[Scored]) -> list[tuple[int, Alert]]:
    return [(i, alert) for i, scored in enumerate(stream) for alert in detector.observe(scored)]
