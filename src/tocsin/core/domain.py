"""What a domain contributes: policies, evaluators, detectors, panels, commands. No sixth way."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

from tocsin.core.clock import Clock
from tocsin.core.interaction import Entry, Interaction
from tocsin.core.operations import Kind
from tocsin.core.policy import Policy
from tocsin.core.score import Score
from tocsin.core.signals import Change, Objective, Scored, Signal, SignalSettings
from tocsin.core.stops import Switchboard
from tocsin.core.supervision import Burn, Finding, RunWatch, Supervision

Severity = Literal["info", "warning", "critical"]


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """A detector's verdict. The same ``fingerprint`` is the same alert, firing or resolved."""

    fingerprint: str
    detector: str
    feature: str
    severity: Severity
    state: Literal["firing", "resolved"]
    at: int
    summary: str
    evidence: tuple[str, ...] = ()
    """Ids of the interactions that show it."""
    signal: str = ""
    """The signal that it is about, if it is about one."""
    change: Change | None = None
    """What changed, since when, by how much, for whom."""


class Services(Protocol):
    """What the process offers to the policies of domains."""

    @property
    def clock(self) -> Clock: ...
    @property
    def stops(self) -> Switchboard: ...
    def supervision(self, feature: str) -> Supervision:
        """The settings of a feature, as they are now."""
        ...

    @property
    def burn(self) -> Burn: ...
    def signals(self, feature: str) -> SignalSettings:
        """How the signals of a feature are watched, as it is set now."""
        ...

    def objectives(self) -> tuple[Objective, ...]:
        """All objectives, as they are set now."""
        ...

    def catalogue(self) -> Mapping[str, Signal]:
        """Every signal that there is, by name."""
        ...

    def accepted(self, feature: str, signal: str) -> int:
        """Since when a person has called the level of a signal normal; 0: nobody has.

        Microseconds since the epoch. From memory, a few seconds old at most.
        """
        ...

    def price(self, interaction: Interaction) -> int | None:
        """What a call cost, nano US dollars, if its usage and price are known at this moment."""
        ...

    def alert(self, alert: Alert) -> None:
        """Raise or resolve an alert. Returns at once, from any thread."""
        ...

    def found(self, finding: Finding) -> None:
        """Keep a finding for the pages. Returns at once, from any thread."""
        ...

    def watched(self, run: RunWatch) -> None:
        """Keep how a run stands; the last word counts. Returns at once, from any thread."""
        ...


class Evaluator(Protocol):
    """Interaction → scores. Pure: the same entry gives the same scores.

    Off the path the entry's ``input`` holds the last messages of the history (at most 64), its
    system messages in front. A signal that does not apply to a call gets no score; one that
    applies and could not be judged gets ``None``.
    """

    name: str
    version: str
    signals: tuple[Signal, ...]

    def evaluate(self, entry: Entry) -> Sequence[Score]: ...


@runtime_checkable
class Slicer(Protocol):
    """An evaluator that also tells which slices an interaction belongs to."""

    def slices(self, entry: Entry) -> Mapping[str, str]:
        """Dimension (``core.signals.DIMENSIONS``) → value, where the content tells."""
        ...


class Detector(Protocol):
    """Ordered stream of scored interactions → alerts. Owns its state; called in order."""

    name: str
    version: str

    def observe(self, scored: Scored) -> Iterable[Alert]: ...


@runtime_checkable
class Ticking(Protocol):
    """A detector that must also be asked when nothing comes."""

    def tick(self, now_us: int) -> Iterable[Alert]:
        """Called every few seconds between ``observe`` calls."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A detector whose state outlives the process. Others are shown the latest records again."""

    def save(self) -> bytes:
        """The state, after the last ``observe``. A few MB at most."""
        ...

    def load(self, data: bytes) -> None:
        """Take over a state saved by the same version. Raises ``ValueError`` when it cannot."""
        ...


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """Data for a page, never HTML. ``load`` gets the page's filters and returns plain values."""

    name: str
    title: str
    load: Callable[[Mapping[str, str]], Any]


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A CLI command of a domain; ``run`` gets the words after its name, returns an exit code."""

    name: str
    help: str
    run: Callable[[Sequence[str]], int]


class Domain(msgspec.Struct, frozen=True, kw_only=True):
    """The frozen value that a domain's ``__init__`` exports as ``DOMAIN``."""

    name: str
    summary: str
    policies: tuple[Callable[[Services], Policy], ...] = ()
    """A policy that has a method ``learn(call, interaction)`` is told of every call's end."""
    evaluators: tuple[Callable[[], Evaluator], ...] = ()
    detectors: tuple[Callable[[Services], Detector], ...] = ()
    panels: tuple[Panel, ...] = ()
    commands: tuple[Command, ...] = ()
    kinds: tuple[Kind, ...] = ()
    """Kinds of operation, for ``POST /api/operations``."""


__all__ = [
    "Alert",
    "Command",
    "Detector",
    "Domain",
    "Evaluator",
    "Panel",
    "Remembering",
    "Score",
    "Services",
    "Severity",
    "Slicer",
    "Ticking",
]
