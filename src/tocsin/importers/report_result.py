"""What a replay's report says, in plain values. Money is nano US dollars, times microseconds."""

from typing import Literal

import msgspec

Unit = Literal["tokens", "bytes"]


class ToolUse(msgspec.Struct, frozen=True, kw_only=True):
    """One tool over all runs. ``failed`` counts the ``results`` that say that they failed."""

    name: str
    calls: int
    runs: int
    results: int
    failed: int

    @property
    def failure_share(self) -> float | None:
        """Failed results among those seen; ``None`` when no result was seen."""
        return self.failed / self.results if self.results else None


class ModelUse(msgspec.Struct, frozen=True, kw_only=True):
    """One model over all runs. ``name`` is empty where the file does not say it."""

    name: str
    calls: int
    input_tokens: int
    output_tokens: int
    uncounted: int
    """Calls whose tokens the file does not tell."""
    cost_nano_usd: int
    unpriced: int


class RunLine(msgspec.Struct, frozen=True, kw_only=True):
    """One run in a list."""

    id: str
    title: str
    calls: int
    tools: int
    input_tokens: int
    output_tokens: int
    cost_nano_usd: int
    unpriced: int
    duration_us: int | None
    """``None`` when the file does not tell times."""
    first_input: int
    largest_input: int
    """Size of the first and the largest input, in the report's ``growth.unit``."""
    repeats: int
    """Tool calls identical to an earlier one of the run, in name and arguments."""
    outcome: str
    success: bool | None


class RepeatedCall(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call that one run made more than once."""

    run_id: str
    tool: str
    arguments: str
    """At most 160 characters."""
    count: int


class GrowthStep(msgspec.Struct, frozen=True, kw_only=True):
    """Input sizes at one step (1 is a run's first call), over the runs that got so far."""

    step: int
    runs: int
    median: float
    p95: float


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """How inputs grow along runs."""

    unit: Unit
    steps: tuple[GrowthStep, ...]
    biggest: tuple[RunLine, ...]
    """The runs whose largest input is furthest above their first."""


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """What was sent to models, in bytes of messages."""

    sent: int
    again: int
    """Of messages that had been sent or answered before."""
    at_least: bool = False
    """There were too many messages to remember all: ``again`` is a lower bound."""

    @property
    def distinct(self) -> int:
        return self.sent - self.again

    @property
    def share(self) -> float | None:
        """What was sent again among all that was sent; ``None`` when nothing was sent."""
        return self.again / self.sent if self.sent else None


class BadLine(msgspec.Struct, frozen=True):
    """A record that could not be read."""

    path: str
    line: int
    reason: str


class ReportResult(msgspec.Struct, frozen=True, kw_only=True):
    """The whole report. Lists are ordered, most important first."""

    sources: tuple[str, ...]
    runs: int
    calls: int
    """Model calls."""
    steps: int
    """Agents, workflows and retrievals that traces tell."""
    tool_calls: int
    started_at: int | None
    ended_at: int | None
    untimed: int
    """Calls whose time the file does not tell."""
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    uncounted: int
    """Calls whose tokens the file does not tell."""
    estimated: int
    """Calls whose tokens are an estimate from their text."""
    cost_nano_usd: int
    unpriced: int
    judged: int
    """Runs of which the file says whether they succeeded."""
    succeeded: int
    mean_reward: float | None
    outcomes: tuple[tuple[str, int], ...]
    models: tuple[ModelUse, ...]
    tools: tuple[ToolUse, ...]
    content: Content
    repeats: int
    repeated_calls: tuple[RepeatedCall, ...]
    longest: tuple[RunLine, ...]
    dearest: tuple[RunLine, ...]
    """By cost; by tokens, or else by bytes, where no price is known."""
    growth: Growth
    bad: int
    bad_lines: tuple[BadLine, ...]
    """The first ones."""

    @property
    def duration_us(self) -> int | None:
        """From the first start to the last end; ``None`` when no time is told."""
        if self.started_at is None or self.ended_at is None:
            return None
        return self.ended_at - self.started_at or None
