"""``Score`` and ``Feedback``: what is said of an interaction after it was recorded."""

from typing import Literal

import msgspec


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """An evaluator's versioned verdict on one interaction.

    ``value`` is ``None`` when the evaluator could not judge: failing to judge is not a bad score.
    """

    interaction_id: str
    name: str
    version: str
    value: float | None
    label: str | None = None
    explanation: str = ""
    """Why, in a few words; given for what is bad."""


FeedbackKind = Literal["label", "rating", "edit", "escalation", "comment"]


class Feedback(msgspec.Struct, frozen=True, kw_only=True):
    """A later fact about an interaction. Append-only; the last of a kind by one author counts."""

    id: str
    interaction_id: str
    kind: FeedbackKind
    """``label``: right (1) or wrong (0), by a person who knows. ``rating``: 0 to 1 by its user.
    ``edit``: the share of the answer that its user changed. ``escalation``: 1 when a person had
    to take over. ``comment``: words alone."""
    value: float | None = None
    comment: str = ""
    """At most 2,000 characters."""
    by: str = ""
    """Key name, or ``user``."""
    at: int = 0
