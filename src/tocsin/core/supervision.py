"""What the supervision of runs finds, and how it is set."""

from typing import Literal

import msgspec

from tocsin.core.interaction import Mode

Stage = Literal["nudge", "pause", "kill"]
STAGES: tuple[Stage, ...] = ("nudge", "pause", "kill")


class Supervision(msgspec.Struct, frozen=True, kw_only=True):
    """How the runs of one feature are supervised."""

    nudge: Mode = "observe"
    pause: Mode = "observe"
    kill: Mode = "observe"
    stream: Mode = "observe"
    """Cutting an answer that repeats itself."""
    role: Literal["system", "developer", "user"] = "system"
    """Role of the message that nudges (dialect OpenAI)."""
    expected_calls: int | None = None
    """Calls that a run of this feature usually needs; ``None``: learned from finished runs."""
    wait_s: float = 0.0
    """How long a call of a paused run waits for a decision before it is answered with an error."""


class Burn(msgspec.Struct, frozen=True, kw_only=True):
    """When spend alone is an alarm, for what no limit covers."""

    factor: float = 6.0
    """Times the usual rate, over a long and a short window."""
    min_usd: float = 5.0
    """... and at least this much in the long window."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a run, short enough to be read at a glance."""

    call: int
    """Number of the call in its run, from 1, that brought the step."""
    tool: str
    """Empty for plain text."""
    arguments: str = ""
    """At most 400 characters."""
    result: str = ""
    """At most 400 characters of what came back."""
    outcome: str = ""
    """Class of the result: ``ok``, ``empty``, ``error:...``."""
    at: int = 0
    agent: str = ""
    interaction_id: str = ""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A detector's verdict on a run at one call."""

    run_id: str
    feature: str
    call: int
    """Number of the call, from 1, at which it was found."""
    at: int
    stage: Stage
    """The strongest stage that the evidence carries."""
    detector: str
    """Such as ``identical``, ``near_duplicate``, ``same_failure``, ``alternation``,
    ``nothing_new``, ``monologue``, ``stream_repeats``, ``no_progress``, ``growing_context``,
    ``rising_cost``, ``no_end``."""
    summary: str
    """One sentence, with the numbers in it."""
    evidence: tuple[Evidence, ...] = ()
    mode: Mode = "observe"
    """What was done about it: ``enforce`` when the stage acted."""
    interaction_id: str = ""


class RunWatch(msgspec.Struct, frozen=True, kw_only=True):
    """How a run stands now: a row of the Supervisor page."""

    run_id: str
    feature: str
    agent: str = ""
    started_at: int
    last_at: int
    calls: int
    steps: int
    """Tool executions (and plain answers) seen."""
    repeats: int
    """Of the last 20 steps: those that are near-duplicates of an earlier one."""
    novelty: float
    """0..1: share of what came back in the last 5 steps that the run had not seen before."""
    tokens: int
    tokens_since_new: int
    """Tokens spent since a step last brought something new."""
    cost_nano_usd: int
    stage: Stage | None = None
    """The strongest stage reached."""
    detector: str = ""
    summary: str = ""
    parent_run_id: str | None = None
