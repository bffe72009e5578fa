"""The shapes of the admin API for signals, scores, feedback and baselines."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tocsin.core.score import FeedbackKind
from tocsin.core.signals import Axis, Better, Kind
from tocsin.gateway.admin_models import Args, FeatureName, Limit, Text, Time, View
from tocsin.gateway.admin_supervision_models import Note, Words, _integral
from tocsin.store.api import Grain

Dimension = Literal["release", "model", "upstream", "cohort", "language", "prompt", "tool", "hour"]


class _Body(BaseModel):
    # Strict: JSON has numbers of its own, so a number in quotes is a mistake.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


# -- what routes take --


class Span(Args):
    since: Time | None = Field(
        None, description="From then on, µs since the epoch; the day before `until` by default."
    )
    until: Time | None = Field(None, description="Up to then; now by default.")


class ListSignals(Span):
    feature: Text | None = Field(None, description="Feature, exact.")


class OneSignal(Span):
    feature: Text = Field(description="Feature, exact.", examples=["support"])
    signal: Text = Field(description="Name of the signal.", examples=["correct"])


class GetSignal(OneSignal):
    grain: Grain = Field(
        "hour", description="Size of the steps: `minutes` (five, of the last days), `hour`, `day`."
    )
    dimension: Dimension | None = Field(None, description="Slices instead of the whole feature.")
    value: Text | None = Field(None, description="One slice of the dimension.")


class GetSlices(OneSignal):
    dimension: Dimension = Field("release", description="By what to slice.")
    limit: Limit = Field(100, description="Most slices to give, most calls first.")


class _Given(_Body):
    interaction_id: Text = Field(
        description="Id of the call: the header `tocsin-call-id` of its answer.",
        examples=["call_0199c0ffee00c0ffee00c0ffee00"],
    )
    id: Text | None = Field(
        None,
        description="A name of your own for this feedback; what comes again under it is kept once.",
        examples=[None],
    )
    comment: Note = Field("", description="In words.", examples=["it named the wrong city"])


_YesNo = Annotated[int, Field(ge=0, le=1), BeforeValidator(_integral)]
_Share = Annotated[float, Field(ge=0, le=1)]


class GiveLabel(_Given):
    """A person, or a check that knows, calls the answer right or wrong."""

    kind: Literal["label"] = Field(description="Right or wrong.")
    value: _YesNo = Field(description="1: right. 0: wrong.")


class GiveRating(_Given):
    """What the answer's user thinks of it."""

    kind: Literal["rating"] = Field(description="What its user gave it.")
    value: _Share = Field(description="From 0 to 1; a thumb is 1 or 0.")


class GiveEdit(_Given):
    """How much of the answer its user changed."""

    kind: Literal["edit"] = Field(description="The answer was used, changed or not.")
    value: _Share = Field(description="Share of it that was changed, from 0 to 1.")


class GiveEscalation(_Given):
    """Whether a person had to take over."""

    kind: Literal["escalation"] = Field(description="Whether it was handed to a person.")
    value: _YesNo = Field(description="1: a person took over. 0: nobody had to.")


class GiveComment(_Given):
    """Words alone."""

    kind: Literal["comment"] = Field(description="Words alone.")
    comment: Words = Field(description="In words.")


class GiveFeedback(Args):
    body: Annotated[
        GiveLabel | GiveRating | GiveEdit | GiveEscalation | GiveComment,
        Field(discriminator="kind"),
    ]


class Accepting(_Body):
    """A person's word that a signal's level is normal."""

    feature: FeatureName = Field(description="The feature.", examples=["support"])
    signal: Text = Field(description="Name of the signal.", examples=["correct"])
    since: Annotated[int, Field(ge=0, le=2**53 - 1), BeforeValidator(_integral)] | None = Field(
        None, description="Since when, µs since the epoch; now by default.", examples=[None]
    )
    note: Note = Field("", description="Why, for the record.")


class AcceptBaseline(Args):
    body: Accepting


class NamedBaseline(Args):
    feature: Text = Field(description="Feature, exact.", examples=["support"])
    signal: Text = Field(description="Name of the signal.", examples=["correct"])


class OfCall(Args):
    id: Text = Field(description="Id of the call.", examples=["call_0199c0ffee00c0ffee00c0ffee00"])


# -- what routes give --


class SignalView(View):
    """A named measure over a feature's calls."""

    name: str
    title: str
    axis: Axis
    kind: Kind
    better: Better
    unit: str
    description: str


class SummaryView(View):
    """What a signal comes to over some calls. The interval holds the true value 95 times of 100."""

    value: float | None = Field(description="Mean; of signals on a log scale near the middle.")
    low: float | None
    high: float | None
    calls: int = Field(description="Calls that were judged.")
    unjudged: int = Field(description="Calls that could not be judged.")


class SignalTotalView(SummaryView):
    """One signal of one feature, now and over as long a time before."""

    feature: str
    signal: str
    before: SummaryView


class SignalList(View):
    since: int
    until: int
    signals: list[SignalView]
    rows: list[SignalTotalView]


class PointView(SummaryView):
    """One step of time."""

    at: int = Field(description="When the step begins.")
    slice: str = Field(description="Value of the dimension; empty for the whole feature.")


class SignalSeries(View):
    feature: str
    signal: SignalView
    grain: Grain
    since: int = Field(description="Where the series begins; a long one is cut at 2,000 steps.")
    until: int
    dimension: str
    points: list[PointView]
    accepted_since: int | None = Field(
        description="Since when a person has called its level normal."
    )


class SliceView(SummaryView):
    """A signal over the calls of one slice."""

    slice: str


class SliceList(View):
    feature: str
    signal: SignalView
    dimension: str
    since: int
    until: int
    rows: list[SliceView]


class ScoreView(View):
    """What an evaluator, people or a judge said of a call."""

    name: str
    version: str
    value: float | None = Field(description="null: it could not be judged.")
    label: str | None
    explanation: str


class ScoreList(View):
    rows: list[ScoreView]


class FeedbackView(View):
    """A later fact about a call."""

    id: str
    interaction_id: str
    kind: FeedbackKind
    value: float | None
    comment: str
    by: str
    at: int


class FeedbackGiven(View):
    """What became of a piece of feedback."""

    id: str
    new: bool = Field(description="false: feedback with this id is kept already.")


class FeedbackList(View):
    rows: list[FeedbackView]


class BaselineView(View):
    """A person's word that a signal's level is normal since then."""

    feature: str
    signal: str
    since: int
    by: str
    at: int
    note: str


class BaselineList(View):
    rows: list[BaselineView]


class BaselineForgotten(View):
    """A word that was taken back."""

    feature: str
    signal: str
