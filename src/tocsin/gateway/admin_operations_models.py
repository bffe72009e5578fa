"""The shapes of the admin API for operations, effects and webhooks."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from tocsin.core.operations import Status, StepState
from tocsin.core.outcome import Outcome
from tocsin.gateway.admin_models import (
    Args,
    Cursor,
    FeatureName,
    Limit,
    Text,
    Time,
    View,
    Whole,
)
from tocsin.gateway.admin_supervision_models import Note
from tocsin.store.operations_api import DeliveryState

Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:\-]{0,127}$")]
Callback = Annotated[str, StringConstraints(max_length=2048, pattern=r"^https?://[^\s\x00-\x1f]+$")]
Number = Annotated[int, Field(ge=-1, le=2**31 - 1), Whole]


def _float(value: object) -> object:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


class _Body(BaseModel):
    # Strict: JSON has numbers of its own, so a number in quotes is a mistake.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


# -- what routes take --


class OperationId(Args):
    id: Text = Field(
        description="Id of the operation: `op_…`, of a response `resp_…`.",
        examples=["op_0199c0ffee00c0ffee00c0ffee00"],
    )


class DeleteOperation(Args):
    id: Text = Field(
        description="Id of the operation.", examples=["op_0199c0ffee01c0ffee01c0ffee01"]
    )


class DeliveryId(Args):
    id: Text = Field(
        description="Id of the message, its `webhook-id`.",
        examples=["whd_0199c0ffee00c0ffee00c0ffee00"],
    )


class ListOperations(Args):
    kind: Text | None = Field(None, description="Kind, exact.")
    feature: Text | None = Field(None, description="Feature, exact.")
    status: Status | None = Field(None, description="How it stands.")
    outcome: Outcome | None = Field(None, description="How it ended.")
    run_id: Text | None = Field(None, description="Run that its calls belong to.")
    parent_id: Text | None = Field(None, description="Operation that started it.")
    conversation_id: Text | None = Field(None, description="Conversation that it adds to.")
    since: Time | None = Field(None, description="Created from then on, µs since the epoch.")
    until: Time | None = Field(None, description="Created up to then.")
    limit: Limit = Field(50, description="Most rows to give.")
    cursor: Cursor | None = Field(None, description="`next` of the page before.")


class _Start(_Body):
    kind: Word = Field(
        description="What kind of work: `batch`, or what a domain offers.", examples=["batch"]
    )
    input: dict[str, Any] = Field(
        description="What it works on; its kind says of what shape.",
        examples=[{"requests": [{"model": "gpt-4o-mini", "input": "Hello."}]}],
    )
    feature: FeatureName | None = Field(None, description="Feature that it belongs to.")
    end_user: Text | None = Field(None, description="Whom it serves.")
    title: Note = Field("", description="One line for people.")
    callback: Callback | None = Field(
        None,
        description="URL that is told of its end, signed; no private address.",
        examples=["https://example.com/hook"],
    )
    deadline_s: Annotated[float, Field(gt=0, le=31_622_400), BeforeValidator(_float)] | None = (
        Field(None, description="Cut it after so many seconds.")
    )


class StartOperation(Args):
    body: _Start


class GetEvents(OperationId):
    after: Number = Field(-1, description="Behind the event of this number.")
    limit: Limit = Field(200, description="Most events to give.")


class StreamEvents(OperationId):
    after: Number = Field(-1, description="Behind the event of this number.")
    last_event_id: Number | None = Field(
        None,
        description="the same as `after`, as browsers say it when they reconnect; goes before it.",
    )


class _Answer(_Body):
    approved: bool = Field(description="Yes or no.")
    note: Note = Field("", description="What the work is told with it.")


class AnswerOperation(OperationId):
    body: _Answer


class _Begin(_Body):
    scope: Word = Field(
        description="Within what it happens once: an operation's id, a run's, a name of your own."
    )
    name: Word = Field(description="What it does: `charge_card`.")
    arguments: Any = Field(None, description="What tells one intent from another; plain JSON.")
    hold_s: Annotated[float, Field(ge=1, le=3600), BeforeValidator(_float)] = Field(
        60.0, description="How long you may take; silent for longer, it counts as `unknown`."
    )
    can_find: bool = Field(
        False, description="Whether you can ask the world what became of an earlier try."
    )


class BeginEffect(Args):
    body: _Begin


class _Settle(_Body):
    state: Literal["done", "failed", "unknown"] = Field(
        description="`failed`: it certainly did not happen, so the next one who asks does it."
    )
    result: Any = Field(None, description="What whoever asks again is given; plain JSON.")
    owner: Text | None = Field(
        None,
        description="The `owner` that you were given; operators may do without.",
        examples=[None],
    )


class SettleEffect(Args):
    key: Text = Field(
        description="The effect's key.", examples=["step_0199c0ffee00c0ffee00c0ffee00c0ff"]
    )
    body: _Settle


class ListEffects(Args):
    scope: Text | None = Field(None, description="Only of this operation, run or name.")
    state: StepState = Field("unknown", description="Without a scope: in this state.")
    limit: Limit = Field(100, description="Most rows to give.")


class ListDeliveries(Args):
    state: DeliveryState | None = Field(None, description="How it stands.")
    operation_id: Text | None = Field(None, description="Of this operation.")
    limit: Limit = Field(100, description="Most rows to give.")


class _Endpoint(_Body):
    url: Text = Field(
        description="The URL that answered 410.", examples=["https://example.com/gone"]
    )


class EnableEndpoint(Args):
    body: _Endpoint


class GetResult(OperationId):
    wait: Annotated[int, Field(ge=0, le=30), Whole] = Field(
        0, description="Wait so many seconds for the end."
    )


# -- what routes give --


class OperationView(View):
    id: str
    kind: str
    feature: str
    status: Status
    outcome: Outcome | None
    title: str
    key_id: str | None
    end_user: str | None
    run_id: str | None
    parent_id: str | None
    previous_id: str | None
    conversation_id: str | None
    background: bool
    created_at: int
    started_at: int | None
    ended_at: int | None
    deadline_at: int | None
    expires_at: int | None
    events: int
    progress: float | None
    note: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost_nano_usd: int
    cost_usd: str | None
    unpriced: int
    error_type: str | None
    error_message: str | None
    cancel_at: int | None
    cancel_by: str
    waiting_for: str | None
    restarts: int


class OperationPage(View):
    rows: list[OperationView]
    next: str | None


class StepView(View):
    key: str
    scope: str
    name: str
    effect: bool
    state: StepState
    arguments: Any
    result: Any
    begun_at: int
    ended_at: int | None
    asked: int


class OperationDetail(OperationView):
    steps: list[StepView]


class EventView(View):
    number: int
    type: str
    at: int
    data: Any


class EventList(View):
    rows: list[EventView]
    ended: bool = Field(description="Whether no further one will come.")


class ResultView(View):
    id: str
    status: Status
    outcome: Outcome | None
    result: Any


class EffectView(View):
    key: str
    turn: Literal["act", "find", "done", "busy", "unknown"]
    state: StepState
    owner: str | None = Field(description="To settle it with, where it is yours to do.")
    result: Any
    asked: int


class EffectList(View):
    rows: list[StepView]


class DeliveryView(View):
    id: str
    endpoint: str
    url: str
    type: str
    payload: Any
    operation_id: str | None
    state: DeliveryState
    attempts: int
    created_at: int
    next_at: int
    last_at: int | None
    last_status: int | None
    last_error: str
    ended_at: int | None


class EndpointView(View):
    url: str
    disabled_at: int
    reason: str


class DeliveryList(View):
    rows: list[DeliveryView]
    disabled: list[EndpointView]


class EnabledView(View):
    url: str


class SecretView(View):
    secret: str = Field(description="`whsec_` and base64, as Standard Webhooks' libraries take it.")
