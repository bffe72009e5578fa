"""Feedback, accepted baselines, and what detectors remember, as tables."""

from tocsin.core.errors import NotFound
from tocsin.core.score import Feedback
from tocsin.store.api import BaselineRow
from tocsin.store.database import Row, Session

_COMMENT = 2_000


def add(session: Session, feedback: Feedback) -> bool:
    """Keep a fact about an interaction; ``False`` when its id is known.

    Raises ``NotFound`` when there is no such interaction.
    """
    if session.one("feedback_known", (feedback.id,)):
        return False
    row = session.one("interaction_seq", (feedback.interaction_id,))
    if row is None:
        raise NotFound(
            f"no interaction {feedback.interaction_id!r}; feedback names the id that the answer "
            "carried in its header tocsin-call-id"
        )
    head = session.one("signals_head")
    number = (head[1] if head else 0) + 1
    session.run(
        "add_feedback",
        (
            number,
            feedback.id,
            row[0],
            feedback.interaction_id,
            feedback.kind,
            feedback.value,
            _written(feedback.comment[:_COMMENT]),
            _written(feedback.by),
            feedback.at,
        ),
    )
    session.run("set_feedback_head", (number,))
    return True


def of(session: Session, interaction_id: str) -> list[Feedback]:
    """All of one interaction, in the order of arrival."""
    return [_feedback(row) for row in session.all("feedback_of", (interaction_id,))]


def after(session: Session, number: int, limit: int) -> list[tuple[int, Feedback]]:
    """What came after that number, in order."""
    rows = session.all("feedback_after", (number, limit))
    return [(int(row[0]), _feedback(row)) for row in rows]


def _feedback(row: Row) -> Feedback:
    return Feedback(
        id=row[1],
        interaction_id=row[2],
        kind=row[3],
        value=row[4],
        comment=row[5],
        by=row[6],
        at=row[7],
    )


def _written(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


# -- baselines --


def accept(session: Session, row: BaselineRow) -> None:
    """Keep a person's word; the last one on a feature's signal counts."""
    session.run(
        "set_baseline",
        (row.feature, row.signal, row.since, _written(row.by), row.at, _written(row.note)),
    )


def take_back(session: Session, feature: str, signal: str) -> bool:
    """Forget it; ``False`` when there was none."""
    return session.run("delete_baseline", (feature, signal)) > 0


def baselines(session: Session) -> list[BaselineRow]:
    """All, by feature and signal."""
    return [
        BaselineRow(feature=r[0], signal=r[1], since=r[2], by=r[3], at=r[4], note=r[5])
        for r in session.all("baselines")
    ]


# -- detectors --


def save_state(session: Session, name: str, version: str, number: int, data: bytes) -> None:
    """Keep what a detector remembers; one state for each name."""
    session.run("set_detector_state", (name, version, number, data))


def load_state(session: Session, name: str, version: str) -> tuple[int, bytes] | None:
    """The state that this version saved last, and as of which row."""
    row = session.one("detector_state", (name, version))
    return None if row is None else (int(row[0]), bytes(row[1]))
