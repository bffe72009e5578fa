"""What is known of times: files may tell none, and an invented one must never be shown.

``Interaction.duration_us`` of 0 means "not known"; the attribute ``time`` says when ``started_at``
is a stand-in.
"""

from collections.abc import Sequence

import msgspec

from tocsin.core.interaction import Interaction
from tocsin.dashboard import fmt
from tocsin.store.api import RunRow, StepPoint, Store

_MOST_READ = 2_000
"""Calls of one run that are looked at for a line of a list."""


class Took(msgspec.Struct, frozen=True, kw_only=True):
    """How long a run or a part of it lasted. ``us`` is ``None`` when that is not known."""

    us: int | None
    at_least: bool = False
    """Whether it is not known how long what ended last took."""

    def __str__(self) -> str:
        """As on a page: ``2.4 s``, ``at least 2.4 s``, ``unknown``."""
        least = "at least " if self.at_least and self.us is not None else ""
        return least + fmt.duration(self.us)


UNKNOWN = Took(us=None)


class RunTime(msgspec.Struct, frozen=True, kw_only=True):
    """What a list says of a run's time."""

    took: Took
    stand_in: str = ""


def took(steps: Sequence[Interaction] | Sequence[StepPoint]) -> Took:
    """From the first start to the last end; unknown when no call's duration is."""
    if not any(step.duration_us for step in steps):
        return UNKNOWN
    ends = [(step.started_at + step.duration_us, step.duration_us) for step in steps]
    last, lasted = max(ends)
    return Took(us=last - min(step.started_at for step in steps), at_least=lasted == 0)


def stand_in(step: Interaction) -> str:
    """Whose time ``started_at`` is when it is not the call's own, in words; else empty."""
    if step.attributes.get("time") != "unknown":
        return ""
    return "file saved" if step.source == "import" else "received"


def why_untimed(steps: Sequence[Interaction]) -> str:
    """A sentence about steps without a known duration."""
    if any(step.attributes.get("time") for step in steps):
        return "This file says no times; steps are in their order."
    return "How long these calls took is not known; steps are in their order."


def of_run(store: Store, run: RunRow) -> RunTime:
    """A run's time for a list. What this process measured itself needs no second look."""
    us = run.last_at - run.started_at
    known = Took(us=us or None)
    if run.source not in ("import", "otlp"):
        return RunTime(took=known)
    first = store.steps(run.id, limit=1)
    if not first or first[0].duration_us:
        return RunTime(took=known)
    if run.calls <= _MOST_READ:
        known = took(store.step_points(run.id))
    return RunTime(took=known, stand_in=stand_in(first[0]))
