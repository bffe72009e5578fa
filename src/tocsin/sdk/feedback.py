"""What an app says later about a call: right or wrong, a rating, an edit, an escalation."""

import asyncio
from typing import TYPE_CHECKING

from tocsin.core.errors import InputError, NotFound
from tocsin.core.ids import new_id
from tocsin.core.score import Feedback, FeedbackKind

if TYPE_CHECKING:
    from tocsin.app import App

_COMMENT = 2_000


def facts(
    *,
    right: bool | None,
    rating: float | None,
    edited: float | None,
    escalated: bool | None,
    comment: str,
) -> list[tuple[FeedbackKind, float | None]]:
    """What was said, by kind. Raises ``InputError`` when it was nothing, or is no share."""
    found: list[tuple[FeedbackKind, float | None]] = []
    if right is not None:
        found.append(("label", float(right)))
    for kind, name, value in (("rating", "rating", rating), ("edit", "edited", edited)):
        if value is not None:
            if not 0.0 <= value <= 1.0:
                raise InputError(f"{name}: found {value!r}; it is a number from 0 to 1")
            found.append((kind, float(value)))  # type: ignore[arg-type]
    if escalated is not None:
        found.append(("escalation", float(escalated)))
    if not found and comment.strip():
        found.append(("comment", None))
    if not found:
        raise InputError(
            "feedback needs something to say: right, rating, edited, escalated or comment"
        )
    if len(comment) > _COMMENT:
        raise InputError(f"comment: {len(comment)} characters; at most {_COMMENT}")
    return found


async def give(
    app: "App",
    said: list[tuple[FeedbackKind, float | None]],
    *,
    call_id: str = "",
    run_id: str = "",
    comment: str,
    by: str,
    name: str | None,
) -> None:
    """Keep it, on a call or on the last call of a run. Raises ``NotFound``."""
    await app.recorder.flush()
    now = app.clock.now_us()

    def keep() -> None:
        target = call_id or _last_call(app, run_id)
        for kind, value in said:
            given = name if name is None or len(said) == 1 else f"{name}:{kind}"
            app.store.add_feedback(
                Feedback(
                    id=given or new_id("req", now).replace("req_", "fb_"),
                    interaction_id=target,
                    kind=kind,
                    value=value,
                    comment=comment,
                    by=by,
                    at=now,
                )
            )

    await asyncio.to_thread(keep)


def _last_call(app: "App", run_id: str) -> str:
    points = app.store.step_points(run_id)
    if not points:
        raise NotFound(f"the run {run_id!r} has no call yet to say anything about")
    return points[-1].id
