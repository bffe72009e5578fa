"""The shapes of the admin API: what each route takes and gives. OpenAPI is made from them.

Times are microseconds since the epoch. Money comes twice: as an integer of nano US dollars, and as
a decimal string of US dollars, exact. ``null`` is unknown and never means zero.
"""

import re
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from tocsin.core.call import Role
from tocsin.core.interaction import (
    CostSource,
    Dialect,
    Mode,
    Operation,
    RunSource,
    Source,
    UsageSource,
)
from tocsin.core.meaning import Said, Verdict
from tocsin.core.outcome import Outcome
from tocsin.store.api import RunSort, SpendBy

MAX_TIME_US = 2**53 - 1
MAX_PAGE = 500
IssuableRole = Literal["caller", "viewer", "operator", "admin"]


def _whole(value: object) -> object:
    """Query text → int; only plain digits, since ``1_0`` and ``1.0`` are typing errors."""
    if isinstance(value, str):
        if re.fullmatch(r"-?[0-9]{1,19}", value) is None:
            raise ValueError("must be a whole number")
        return int(value)
    return value


def _integral(value: object) -> object:
    """JSON number → int: to JSON, 60.0 is the integer 60."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _yes_no(value: object) -> object:
    """Query text → bool; only ``true`` and ``false``."""
    if isinstance(value, str):
        if value not in ("true", "false"):
            raise ValueError("must be true or false")
        return value == "true"
    return value


Whole = BeforeValidator(_whole)
Flag = Annotated[bool, BeforeValidator(_yes_no)]
Time = Annotated[int, Field(ge=0, le=MAX_TIME_US), Whole]
Seconds = Annotated[int, Field(ge=1, le=10 * 366 * 86_400), BeforeValidator(_integral)]
Limit = Annotated[int, Field(ge=1, le=MAX_PAGE), Whole]
# PostgreSQL cannot hold U+0000 in a text, and no name needs it.
Text = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^[^\x00]*$")]
Cursor = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^[!-~]*$")]
FeatureName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:\-]{0,127}$")]
KeyName = Annotated[
    str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\W_][\w .:@/+\-]*$")
]


def usd(nano: int | None) -> str | None:
    """Nano US dollars as an exact decimal of US dollars: 4_200_000 → ``0.0042``."""
    if nano is None:
        return None
    text = f"{Decimal(nano).scaleb(-9):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


# -- what routes take --


class Args(BaseModel):
    """Arguments of one route: path and query parameters, and ``body`` where there is one."""

    # Built when first used: most processes never answer most of these routes.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class ById(Args):
    id: Text = Field(description="Its id.")


class Filters(Args):
    """Which interactions or runs to look at; what is left out does not restrict."""

    since: Time | None = Field(None, description="Started at this time or later, µs since epoch.")
    until: Time | None = Field(None, description="Started before this time, µs since the epoch.")
    feature: Text | None = Field(None, description="Feature, exact.")
    model: Text | None = Field(None, description="Model, exact.")
    release: Text | None = Field(None, description="Release, exact.")
    end_user: Text | None = Field(None, description="End user, exact.")
    key_id: Text | None = Field(None, description="Id of the key that called.")
    upstream: Text | None = Field(None, description="Upstream that answered.")
    outcome: Outcome | None = Field(None, description="How the call ended.")
    source: Source | None = Field(None, description="Where the record came from.")
    conversation_id: Text | None = Field(None, description="Conversation, exact.")


class ListInteractions(Filters):
    text: Text | None = Field(None, description="Full-text search in messages.")
    limit: Limit = Field(50, description="Most rows to give.")
    cursor: Cursor | None = Field(None, description="`next` of the page before.")


class GetInteraction(ById):
    content: Flag = Field(False, description="Also give the messages.")


class ListRuns(ListInteractions):
    sort: RunSort = Field("last_at", description="Order of the rows.")
    descending: Flag = Field(True, description="Largest or newest first.")


class ListSteps(ById):
    offset: Annotated[int, Field(ge=0, le=2**31), Whole] = Field(
        0, description="How many steps to skip."
    )
    limit: Limit = Field(100, description="Most steps to give.")


class GetOverview(Filters):
    buckets: Annotated[int, Field(ge=1, le=500), Whole] = Field(
        60, description="Points of the time series."
    )


class GetSpend(GetOverview):
    by: SpendBy = Field("feature", description="What to group by.")
    top: Limit = Field(50, description="Most rows to give, dearest first.")


class Limited(Args):
    limit: Limit = Field(100, description="Most rows to give, newest first.")


class NewKey(BaseModel):
    """A key to issue."""

    # Strict: JSON has numbers of its own, so a number in quotes is a mistake.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)
    name: KeyName = Field(description="Who or what will use it.")
    role: IssuableRole = Field("caller", description="What it may do.")
    features: Annotated[list[FeatureName], Field(max_length=100)] = Field(
        default=[], description="Features that it may call; empty: every one."
    )
    expires_in_s: Seconds | None = Field(None, description="Seconds until it ends; null: never.")


class IssueKey(Args):
    body: NewKey


# -- what routes give --


class View(BaseModel):
    """Base of every answer."""

    model_config = ConfigDict(
        from_attributes=True,
        json_schema_serialization_defaults_required=True,
        defer_build=True,
    )


class UsageView(View):
    """Tokens of one call. Input includes what was read from a cache."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    source: UsageSource = "unknown"


class AttemptView(View):
    """One provider round trip."""

    number: int
    upstream: str
    provider: str
    model: str
    started_at: int
    duration_us: int
    first_chunk_us: int | None = None
    status: int | None = None
    error: str | None = None
    reason: Literal["first", "retry", "fallback"] = "first"
    request_id: str | None = None
    usage: UsageView | None = None
    cost_nano_usd: int | None = None
    cost_usd: str | None = None


class DecisionView(View):
    """What one policy did, or would have done."""

    policy: str
    mode: Mode
    action: Literal["modify", "deny", "pause", "warn", "crashed", "timed_out"]
    detail: str = ""
    duration_us: int = 0


class CheckView(View):
    """One thing that was looked at in an answer."""

    name: str
    verdict: Verdict
    said: Said
    detail: str = ""


class InteractionView(View):
    """The record of one call."""

    id: str
    source: Source
    dialect: Dialect
    operation: Operation
    path: str
    started_at: int
    duration_us: int
    outcome: Outcome
    feature: str
    key_id: str | None = None
    end_user: str | None = None
    release: str | None = None
    run_id: str
    run_source: RunSource
    conversation_id: str | None = None
    parent_id: str | None = None
    agent: str | None = None
    request_model: str
    response_model: str | None = None
    response_id: str | None = None
    provider: str | None = None
    upstream: str | None = None
    stream: bool = False
    status: int | None = None
    finish_reason: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    usage: UsageView
    cost_nano_usd: int | None = None
    cost_usd: str | None = None
    cost_source: CostSource = "unknown"
    first_chunk_us: int | None = None
    attempts: list[AttemptView] = []
    decisions: list[DecisionView] = []
    checks: list[CheckView] = Field(
        [], description="What the answer was checked for, and what came of it."
    )
    input_messages: int = 0
    new_messages: int = 0
    tool_calls: int = 0
    tool_results: int = 0
    input_bytes: int = 0
    output_bytes: int = 0
    attributes: dict[str, str] = {}


class MessageView(View):
    """One message as it came on the wire."""

    role: str
    message: Any = Field(None, description="The message; its JSON as a string if unreadable.")


class ContentView(View):
    """What was asked and answered. ``null`` where nothing is stored (any more)."""

    messages: list[MessageView] = Field(description="The whole input history.")
    output: MessageView | None = None
    params: Any = Field(None, description="The request without its messages.")
    request_body: Any = None
    response_body: Any = None


class InteractionDetail(InteractionView):
    """One record, with its content when that was asked for."""

    content: ContentView | None = None


class InteractionPage(View):
    rows: list[InteractionView]
    next: str | None = Field(None, description="`cursor` of the next page; null at the end.")


class RunView(View):
    """One run."""

    id: str
    feature: str
    source: str
    title: str
    started_at: int
    last_at: int
    calls: int
    tool_calls: int
    errors: int
    input_tokens: int
    output_tokens: int
    max_input_tokens: int
    cost_nano_usd: int = Field(description="Sum over the calls whose price is known.")
    cost_usd: str
    unpriced: int = Field(description="Calls that the cost leaves out.")
    outcome: Outcome
    model: str
    end_user: str | None = None
    key_id: str | None = None
    release: str | None = None
    conversation_id: str | None = None
    agent: str | None = None


class RunPage(View):
    rows: list[RunView]
    next: str | None = Field(None, description="`cursor` of the next page; null at the end.")


class StepPage(View):
    rows: list[InteractionView]
    next_offset: int | None = Field(None, description="`offset` of the next page.")


class BucketView(View):
    """One step of a time series."""

    at: int
    calls: int
    bad: int
    cost_nano_usd: int
    cost_usd: str
    unpriced: int
    input_tokens: int
    output_tokens: int
    first_chunk_p50_us: float | None
    first_chunk_p95_us: float | None
    duration_p50_us: float | None
    duration_p95_us: float | None
    duration_p99_us: float | None


class FeatureView(View):
    """One feature over a time range."""

    feature: str
    calls: int
    runs: int
    outcomes: dict[str, int]
    cost_nano_usd: int
    cost_usd: str
    unpriced: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    first_chunk_p50_us: float | None
    first_chunk_p95_us: float | None
    duration_p50_us: float | None
    duration_p95_us: float | None
    fallbacks: int
    retries: int
    series: list[BucketView]


class OverviewView(View):
    since: int
    until: int
    bucket_us: int
    total: FeatureView
    features: list[FeatureView]


class SpendRowView(View):
    value: str | None
    calls: int
    runs: int
    cost_nano_usd: int
    cost_usd: str
    unpriced: int
    estimated: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    reasoning_tokens: int
    series: list[int] = Field(description="Nano US dollars per bucket.")


class SpendView(View):
    since: int
    until: int
    bucket_us: int
    by: SpendBy
    total: SpendRowView
    rows: list[SpendRowView]


class FacetView(View):
    value: str
    calls: int


class FacetsView(View):
    facets: dict[str, list[FacetView]] = Field(description="Dimension → its values, most first.")


class KeyView(View):
    """A key, without its secret: that is nowhere."""

    id: str
    name: str
    role: Role
    features: list[str]
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    hint: str = Field(description="The secret's last four characters.")


class KeyList(View):
    rows: list[KeyView]


class IssuedKeyView(KeyView):
    """A new key with its secret, shown this once."""

    secret: str = Field(description="The key itself. It cannot be shown again.")


class UpstreamView(View):
    """One upstream as the process sees it now."""

    name: str
    kind: str
    base_url: str
    models: list[str] = []
    state: str = "unknown"
    detail: str = ""
    healthy: bool = True


class UpstreamList(View):
    rows: list[UpstreamView]


class ConfigView(View):
    config: dict[str, Any] = Field(description="The running configuration, secrets redacted.")


class StatsView(View):
    """What the store holds."""

    interactions: int
    runs: int
    contents: int
    disk_bytes: int
    segment_bytes: int
    segments: int
    folded_seq: int
    last_seq: int
    oldest_at: int | None
    newest_at: int | None


class AuditView(View):
    at: int
    actor: str
    action: str
    target: str
    detail: str


class AuditList(View):
    rows: list[AuditView]


class SweptView(View):
    """What a deletion removed."""

    interactions: int
    runs: int
    contents: int
    freed_bytes: int
    operations: int = Field(description="Durable work, with its events, steps and results.")


class ReloadedView(View):
    """What reading the configuration again changed."""

    changed: list[str] = Field(description="Settings that now hold a new value.")
    needs_restart: list[str] = Field(description="Changed settings that wait for a restart.")


class RevokedView(View):
    id: str
    revoked: bool = Field(description="False when it had ended before.")
