"""What a domain contributes: policies, evaluators, detectors, panels, commands. No sixth way."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from tocsin.core.clock import Clock
from tocsin.core.interaction import Entry, Interaction
from tocsin.core.policy import Policy
from tocsin.core.stops import Switchboard
from tocsin.core.supervision import Burn, Finding, RunWatch, Supervision

Severity = Literal["info", "warning", "critical"]


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
    """Interaction → scores. Pure: the same entry gives the same scores."""

    name: str
    version: str

    def evaluate(self, entry: Entry) -> Sequence[Score]: ...


class Detector(Protocol):
    """Ordered stream of interactions → alerts. Owns its state; ``observe`` is called in order."""

    name: str
    version: str

    def observe(self, interaction: Interaction) -> Iterable[Alert]: ...


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
