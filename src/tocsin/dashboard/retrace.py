"""How a run stood after each of its calls: its records go through the supervisor's engine again."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from tocsin.core.interaction import SPAN_OPERATIONS, Interaction
from tocsin.core.messages import Message
from tocsin.core.supervision import Finding, RunWatch
from tocsin.dashboard import story
from tocsin.store.api import RunRow, Store

if TYPE_CHECKING:
    from tocsin.domains.agents.engine import Tracker

MOST_STEPS = 250
"""Steps that a page retraces; a longer run's strip shows the rest from its records alone."""


class Retraced(msgspec.Struct, frozen=True, kw_only=True):
    """One ``RunWatch`` for each retraced step, and what the engine found on the way."""

    watches: tuple[RunWatch, ...] = ()
    findings: tuple[Finding, ...] = ()


def retrace(store: Store, run: RunRow, expected_calls: int | None = None) -> Retraced:
    """The first steps of a run through the engine; nothing when their content is gone."""
    # The engine compares texts with a library of its own: only a run's page needs it.
    from tocsin.domains.agents.engine import Tracker

    steps = store.steps(run.id, limit=MOST_STEPS)
    messages = story.load(store, steps)
    if any(said.missing for said in messages) or not any(said.output for said in messages):
        return Retraced()
    tracker = Tracker(run.id, run.feature, expected_calls=expected_calls)
    watches: list[RunWatch] = []
    findings: list[Finding] = []
    history: list[Message] = []
    for step, said in zip(steps, messages, strict=True):
        if step.operation not in SPAN_OPERATIONS:
            history = _asked(history, step, said.new)
            findings += tracker.ask(
                history, at_us=step.started_at, agent=step.agent or "", interaction_id=step.id
            )
            findings += _answered(tracker, step, said.output)
            history = [*history, said.output] if said.output is not None else history
        watches.append(tracker.watch())
    return Retraced(watches=tuple(watches), findings=tuple(findings))


def _asked(history: Sequence[Message], step: Interaction, new: Sequence[Message]) -> list[Message]:
    """What the call sent, as far as it is known here: the engine skips what it has seen."""
    kept = step.input_messages - len(new)
    known = list(history[:kept]) if kept <= len(history) else list(history)
    return [*known, *new]


def _answered(tracker: "Tracker", step: Interaction, output: Message | None) -> tuple[Finding, ...]:
    return tracker.answered(
        output,
        input_tokens=step.usage.input_tokens,
        output_tokens=step.usage.output_tokens,
        nano_usd=step.cost_nano_usd,
        at_us=step.started_at + step.duration_us,
    )
