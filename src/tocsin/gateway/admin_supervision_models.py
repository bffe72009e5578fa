"""The shapes of the admin API for stops, alerts, limits and the supervision of runs."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from tocsin.core.domain import Severity
from tocsin.core.interaction import Mode
from tocsin.core.ledger import Period, Scope
from tocsin.core.stops import Ending, StopAction, StopScope
from tocsin.core.supervision import Stage
from tocsin.gateway.admin_models import Args, ById, Flag, Limit, Text, Time, View, Whole

MAX_WAIT_S = 60
_MOST_USD = 1_000_000
_MOST_UNITS = 10**12


def _integral(value: object) -> object:
    """JSON number → int: to JSON, 60.0 is the integer 60."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Words = Annotated[
    str, StringConstraints(min_length=1, max_length=2000, pattern=r"^[^\x00]*\S[^\x00]*$")
]
"""Something that a person says: not empty, not only spaces."""
Note = Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00]*$")]
Usd = Annotated[float, Field(ge=0, le=_MOST_USD)]
Units = Annotated[int, Field(ge=0, le=_MOST_UNITS), BeforeValidator(_integral)]


class _Body(BaseModel):
    # Strict: JSON has numbers of its own, so a number in quotes is a mistake.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


# -- what routes take --


class ListStops(Args):
    standing: Flag = Field(False, description="Only those that stand.")
    limit: Limit = Field(100, description="Most rows to give, newest first.")


class StopSome(_Body):
    """A stop of one feature, key or run."""

    scope: Literal["feature", "key", "run"] = Field(description="What is stopped.")
    value: Text = Field(description="Feature name, run id, or a key's id or name.")
    action: StopAction = Field(description="`kill` also cuts the calls in flight.")
    reason: Words = Field(description="Why; callers are told.")


class StopAll(_Body):
    """A stop of everything."""

    scope: Literal["all"] = Field(description="Every call.")
    action: StopAction = Field(description="`kill` also cuts the calls in flight.")
    reason: Words = Field(description="Why; callers are told.")


class GiveStop(Args):
    body: Annotated[StopSome | StopAll, Field(discriminator="scope")]


class GoOn(_Body):
    """The calls may go on."""

    ending: Literal["resumed"] = Field(description="As if nothing had been.")
    note: Note = Field("", description="Why, for the record.")


class GoOnOtherwise(_Body):
    """The run may go on, with something that the model is told."""

    ending: Literal["redirected"] = Field(description="With the note before the model.")
    note: Words = Field(description="What the model is told with the run's next call.")


class NeverGoOn(_Body):
    """The run stays refused for good."""

    ending: Literal["ended"] = Field(description="A run only; it cannot be taken back.")
    note: Note = Field("", description="Why, for the record.")


class LiftStop(ById):
    body: Annotated[GoOn | GoOnOtherwise | NeverGoOn, Field(discriminator="ending")]


class GetStop(ById):
    wait: Annotated[int, Field(ge=0, le=MAX_WAIT_S), Whole] = Field(
        0, description="Answer once the stop has ended, after so many seconds at the latest."
    )


class Why(_Body):
    """The reason for holding or killing a run."""

    reason: Words = Field(description="Why; callers are told.")


class Remark(_Body):
    """What there is to say about a decision."""

    note: Note = Field("", description="Why, for the record.")


class Instruction(_Body):
    """What a redirected run is told."""

    note: Words = Field(description="What the model is told with the run's next call.")


class HoldRun(ById):
    body: Why


class DecideRun(ById):
    body: Remark


class RedirectRun(ById):
    body: Instruction


class ListAlerts(Args):
    firing: Flag = Field(False, description="Only those that fire now.")
    limit: Limit = Field(100, description="Most rows to give, last changed first.")


class ListLimits(Args):
    name: Text | None = Field(None, description="Name of one limit.")
    value: Text | None = Field(None, description="Feature, key id, end user or run, exact.")
    run: Text | None = Field(None, description="Run id of accounts that are per run.")
    limit: Limit = Field(100, description="Most rows to give, fullest first.")


class MoreRoom(_Body):
    """What is added to the limit of one account."""

    limit: Text = Field(description="Name of the limit.", examples=["daily"])
    value: Note = Field(
        "", description="The account's value; empty for the organisation.", examples=[""]
    )
    run: Text | None = Field(
        None, description="Run id, of a limit that is per run.", examples=[None]
    )
    usd: Usd | None = Field(None, description="US dollars to add.", examples=[5])
    tokens: Units | None = Field(None, description="Tokens to add.")
    calls: Units | None = Field(None, description="Calls to add.")
    tool_calls: Units | None = Field(None, description="Tool calls to add.")


class RaiseLimit(Args):
    body: MoreRoom


class ListWatches(Args):
    since: Time | None = Field(
        None, description="Runs with a call at this time or later; the last 30 minutes by default."
    )
    limit: Limit = Field(100, description="Most rows to give, most `tokens_since_new` first.")


class ListFindings(ById):
    limit: Limit = Field(500, description="Most rows to give, in order.")


# -- what routes give --


class EvidenceView(View):
    """One step of a run, cut to what can be read at a glance."""

    call: int = Field(description="Number of the call in its run, from 1.")
    tool: str
    arguments: str
    result: str
    outcome: str
    at: int
    agent: str
    interaction_id: str


class StopView(View):
    """A stop, standing or ended."""

    id: str
    scope: StopScope
    value: str
    action: StopAction
    reason: str
    by: str
    at: int
    feature: str
    evidence: list[EvidenceView]
    standing: bool = Field(description="Whether calls are refused because of it.")
    ended_at: int | None
    ended_by: str | None
    ending: Ending | None
    note: str
    cut: int = Field(description="Calls in flight that were cut.")
    took_us: int | None = Field(description="From the order to the last byte of what it cut.")


class StopList(View):
    rows: list[StopView]


class StopState(View):
    """How a stop stands: what the app that it holds needs to know."""

    id: str
    standing: bool = Field(description="Whether calls are refused because of it.")
    ending: Ending | None
    note: str
    stop: StopView | None = Field(description="All of it; null for the role caller.")


class EstimateView(View):
    """A value with its 95 % interval and how many calls it rests on."""

    value: float
    low: float
    high: float
    n: int


class SliceChangeView(View):
    """How one slice moved while its feature did."""

    dimension: str
    value: str
    before: EstimateView
    after: EstimateView
    share: float = Field(description="Share of the whole change that this slice carries.")


class ChangeView(View):
    """What changed in a signal."""

    signal: str
    since: int = Field(description="When it most likely began.")
    before: EstimateView
    after: EstimateView
    difference: EstimateView = Field(description="After - before; on a log scale after / before.")
    verdict: Literal["worse", "better", "different"]
    slices: list[SliceChangeView]
    examples_before: list[str]
    examples_after: list[str]
    false_alarm_every: float = Field(
        description="Nothing changed: an alarm as strong comes once in so many calls."
    )
    delay: int = Field(description="Judged calls from the change to the alarm.")
    method: str


class AlertView(View):
    """An alert as it stands."""

    fingerprint: str
    detector: str
    feature: str
    severity: Severity
    state: Literal["firing", "resolved"]
    at: int
    summary: str
    evidence: list[str] = Field(description="Ids of the interactions that show it.")
    first_at: int = Field(description="When it began to fire (this time).")
    count: int = Field(description="How often it was raised since.")
    signal: str = Field(description="The signal that it is about; empty for any other alert.")
    change: ChangeView | None = Field(description="What changed, since when, and for whom.")


class AlertList(View):
    rows: list[AlertView]


class AmountsView(View):
    """What was taken from an account."""

    nano_usd: int
    usd: str
    tokens: int
    calls: int
    tool_calls: int


class BoundsView(View):
    """Amounts of which some are not limited: those are null."""

    nano_usd: int | None
    usd: str | None
    tokens: int | None
    calls: int | None
    tool_calls: int | None


class LimitView(View):
    """One limit of the configuration."""

    name: str
    scope: Scope
    match: list[str]
    per: Period
    rolling: bool
    timezone: str
    most: BoundsView = Field(description="As configured, without what was added by hand.")
    depth: int | None
    wall_us: int | None
    warn_at: list[float]


class AccountView(View):
    """What one limit has seen of one value."""

    limit: LimitView
    value: str
    run_id: str | None
    window_start: int
    resets_at: int | None
    spent: AmountsView
    held: AmountsView = Field(description="Reserved by calls that are under way.")
    left: BoundsView = Field(description="Limit and what was added, less spent and held.")
    uncertain: AmountsView = Field(description="Part of spent: counted in full, nobody knows.")
    estimated: AmountsView = Field(description="Part of spent: no usage was reported.")
    extra: AmountsView = Field(description="Added by hand.")


class AccountList(View):
    rows: list[AccountView]


class WatchView(View):
    """How a run stands now."""

    run_id: str
    feature: str
    agent: str
    started_at: int
    last_at: int
    calls: int
    steps: int
    repeats: int
    novelty: float
    tokens: int
    tokens_since_new: int
    cost_nano_usd: int
    cost_usd: str
    stage: Stage | None
    detector: str
    summary: str
    parent_run_id: str | None
    stop: StopView | None = Field(description="The stop that holds this run itself, if any.")


class WatchList(View):
    rows: list[WatchView]


class FindingView(View):
    """What a detector found in a run at one call."""

    run_id: str
    feature: str
    call: int
    at: int
    stage: Stage
    detector: str
    summary: str
    evidence: list[EvidenceView]
    mode: Mode
    interaction_id: str


class FindingList(View):
    rows: list[FindingView]
