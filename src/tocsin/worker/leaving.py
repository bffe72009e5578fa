"""Conversations that their users gave up: told once the time to come back has passed.

A call is the end of its conversation when no other call of its run began within the time that is
set. It was given up when the user had asked again or said that the answer was wrong, or the call
failed, was refused or cut. What is scored is read in order and left until it is old enough, so a
process that dies in between goes on where it was, and each end is judged once.
"""

from collections.abc import Callable, Mapping

from tocsin.core.clock import Clock
from tocsin.core.interaction import Interaction
from tocsin.core.score import Score
from tocsin.core.signals import ABANDONED, OWN_FEATURES, Scored, Signal
from tocsin.store.api import Store
from tocsin.worker.jobs import Job
from tocsin.worker.quiet import quietly

CONSUMER = "leaving"
BEGUN = "leaving.begun"
"""1 once anybody has looked: from then on nothing is passed over."""
EVERY_S = 15.0
VERSION = "1"
_BATCH = 500
_US = 1_000_000
_BROKEN = frozenset(
    {"error", "timeout", "refused", "truncated", "invalid", "cancelled", "denied"}
)  # fmt: skip
_UNHAPPY = ("corrected", "reask", "refused", "empty")
"""Signals whose bad end says that a turn did not help."""

After = Callable[[str], float]
"""Seconds within which the user of a feature would have come back."""


class Leaving:
    """Judges the ends of conversations, in the order in which their calls were scored."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        after: After,
        catalogue: Mapping[str, Signal],
        meant: Callable[[Scored], Scored],
    ) -> None:
        """``meant`` adds what a score means for objectives."""
        self._store = store
        self._clock = clock
        self._after = after
        self._catalogue = catalogue
        self._meant = meant
        self._begun = False

    def job(self) -> Job:
        """The worker's job."""

        async def run() -> bool:
            return await quietly(self.step)

        return Job(name=CONSUMER, every_s=EVERY_S, run=run)

    def step(self) -> bool:
        """Judge one batch. Returns whether there is more. Blocks; raises ``StoreError``."""
        self._begin()
        number = self._store.cursor(CONSUMER)
        rows = self._store.scored_after(number, limit=_BATCH)
        now = self._clock.now_us()
        upto, found = number, []
        starts: dict[str, list[int]] = {}
        for at, row in rows:
            if row.first and self._young(row.interaction, now):
                break
            upto = at
            if row.first and is_turn(row):
                score = self._judged(row, starts)
                if score is not None:
                    found.append(self._meant(_later(row, score)))
        if upto == number:
            return False
        self._store.add_scores(
            found, self._catalogue, consumer=CONSUMER, after=number, upto=upto
        )  # fmt: skip
        return len(rows) >= _BATCH and upto == rows[-1][0]

    def _begin(self) -> None:
        """What was scored before anybody looked is not gone through."""
        if self._begun:
            return
        if not self._store.cursor(BEGUN):
            newest = self._store.scored_upto()
            if newest:
                self._store.set_cursor(CONSUMER, newest)
            self._store.set_cursor(BEGUN, 1)
        self._begun = True

    def _young(self, call: Interaction, now: int) -> bool:
        """Whether its user may still come back. What says to be from the future holds up nobody."""
        ended = call.started_at + call.duration_us
        return ended <= now < ended + self._wait_us(call.feature)

    def _wait_us(self, feature: str) -> int:
        return int(self._after(feature) * _US)

    def _judged(self, row: Scored, starts: dict[str, list[int]]) -> Score | None:
        """The score of a conversation's end; ``None`` where the call is none."""
        call = row.interaction
        ended = call.started_at + call.duration_us
        run = self._store.run(call.run_id)
        if run is None:
            return None
        if run.last_at > ended or run.calls > 1:
            known = starts.get(call.run_id)
            if known is None:
                points = self._store.step_points(call.run_id)
                known = starts[call.run_id] = [point.started_at for point in points]
            until = ended + self._wait_us(call.feature)
            if any(call.started_at < start < until for start in known):
                return None
        why = reason(row)
        return Score(
            interaction_id=call.id,
            name=ABANDONED.name,
            version=VERSION,
            value=None if call.outcome == "unknown" else float(bool(why)),
            label=why or None,
            explanation=f"the last turn: {why}" if why else "",
        )


def is_turn(row: Scored) -> bool:
    """Whether a call is a turn of a conversation: one with an answer before it, or a name."""
    call = row.interaction
    if call.feature.startswith(OWN_FEATURES) or not row.scores:
        return False
    if call.attributes.get("time") == "unknown":
        return False
    return call.conversation_id is not None or any(s.name == "corrected" for s in row.scores)


def reason(row: Scored) -> str:
    """What left the user without help at this turn; empty where nothing did."""
    if row.interaction.outcome in _BROKEN:
        return row.interaction.outcome
    bad = {score.name for score in row.scores if score.value is not None and score.value >= 0.5}
    return next((name for name in _UNHAPPY if name in bad), "")


def _later(row: Scored, score: Score) -> Scored:
    return Scored(interaction=row.interaction, scores=(score,), slices=row.slices, first=False)


__all__ = ["BEGUN", "CONSUMER", "Leaving", "is_turn", "reason"]
