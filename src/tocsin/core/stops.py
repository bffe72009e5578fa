"""Stops: standing orders that hold or end calls, each of them reversible and on record."""

from typing import Literal, Protocol

import msgspec

from tocsin.core.call import Call
from tocsin.core.supervision import Evidence

StopScope = Literal["all", "feature", "key", "run"]
StopAction = Literal["pause", "kill"]
Ending = Literal["resumed", "redirected", "ended"]


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """``pause``: new calls of the scope wait or are refused until somebody decides; calls in flight
    end. ``kill``: new calls are refused and those in flight are cut.
    """

    id: str
    """``stop_...``."""
    scope: StopScope
    value: str = ""
    """Feature name, key id or run id; empty for ``all``."""
    action: StopAction
    reason: str
    by: str
    """Who gave the order: a key's name, ``cli``, or ``policy:agents``."""
    at: int
    """Microseconds since the epoch: when the order was given."""
    feature: str = ""
    """Of a run: its feature, for pages."""
    evidence: tuple[Evidence, ...] = ()
    ended_at: int | None = None
    ended_by: str | None = None
    ending: Ending | None = None
    """``redirected``: the run goes on with ``note`` put before the model. ``ended``: it never does;
    a paused run that is ended stays refused for good."""
    note: str = ""
    cut: int = 0
    """Calls in flight that were cut."""
    took_us: int | None = None
    """From ``at`` to the last byte of the last call that was cut; ``None`` before anything was."""

    @property
    def standing(self) -> bool:
        """Whether calls are refused because of it."""
        return self.ended_at is None or self.ending == "ended"


class Switchboard(Protocol):
    """Where stops are given and lifted, and where the request path asks. One per process; what one
    process is told, the others of the store know within a second."""

    def standing(self, call: Call) -> Stop | None:
        """The stop that a call falls under: in memory, no I/O."""
        ...

    def lifted(self, run_id: str) -> bool:
        """Whether a stop of this very run was lifted in recent days: in memory, no I/O."""
        ...

    def redirect(self, run_id: str) -> str | None:
        """The note of a redirected run, once: whoever gets it puts it before the model."""
        ...

    async def give(
        self,
        scope: StopScope,
        value: str,
        action: StopAction,
        *,
        reason: str,
        by: str,
        feature: str = "",
        evidence: tuple[Evidence, ...] = (),
    ) -> Stop:
        """Durable and in force when this returns. A scope that has a standing stop of this or a
        stronger action keeps it, and that one is returned."""
        ...

    async def lift(self, stop_id: str, ending: Ending, *, by: str, note: str = "") -> Stop:
        """End a stop. Raises ``NotFound``; ``InputError`` when it has ended, or when a note is
        missing (``redirected`` needs one)."""
        ...
