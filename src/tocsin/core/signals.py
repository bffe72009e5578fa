"""Signals: named measures over a feature's interactions, what they sum to, and how they change."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from tocsin.core.interaction import Interaction
from tocsin.core.score import Feedback, Score

Axis = Literal["correct", "grounded", "appropriate", "consistent", "service"]
"""The four axes on which a feature's behaviour is judged, and how it is served."""
AXES: tuple[Axis, ...] = ("correct", "grounded", "appropriate", "consistent")
OWN_FEATURES = ("judge:", "sentinel:")
"""How the features begin under which Tocsin's own calls are recorded."""
JUDGED_AXES: tuple[Axis, ...] = ("correct", "grounded", "appropriate")
"""Axes that have a signal of their own name: the share of calls with nothing wrong found."""

Kind = Literal["rate", "level"]
Better = Literal["up", "down", "neither"]

DIMENSIONS: tuple[str, ...] = (
    "release",
    "model",
    "upstream",
    "cohort",
    "language",
    "prompt",
    "tool",
    "hour",
)
"""How a feature's calls are sliced. ``cohort`` and ``prompt`` come from the attributes of these
names (``prompt``: else from the system message); ``hour`` is the hour of day, UTC, as ``00``."""


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """A named measure that an evaluator gives each interaction that it can judge."""

    name: str
    """Lower case with underscores; the name of the scores that carry it."""
    title: str
    """What a page calls it: sentence case, short."""
    axis: Axis
    kind: Kind
    """``rate``: every value is 0 or 1, or a share between. ``level``: any number."""
    better: Better = "neither"
    unit: str = ""
    """Of a level: ``s``, ``words``, ``usd``, ``tokens/s``; empty for shares."""
    log: bool = False
    """A level whose ratios matter: sums, charts and detectors take ``log1p(value / scale)``."""
    scale: float = 1.0
    """The size of a small value, in ``unit``; only where ``log``."""
    description: str = ""
    """One sentence: what counts, and when a call is not judged."""

    def inner(self, value: float) -> float:
        """A value as it is summed."""
        return math.log1p(max(0.0, value) / self.scale) if self.log else value

    def outer(self, inner: float) -> float:
        """The value that an inner mean stands for: for ``log``, close to the geometric mean."""
        return math.expm1(inner) * self.scale if self.log else inner

    def bad(self, value: float) -> bool:
        """Whether a rate's value is the bad end. Levels have none."""
        if self.kind != "rate" or self.better == "neither":
            return False
        return value < 0.5 if self.better == "up" else value >= 0.5


UNJUDGED = "unjudged_"
"""How the name of a signal begins that says how many calls another one could not judge."""


def unjudged_signal(signal: Signal) -> Signal:
    """The share of calls that a signal could not judge, as a signal: what alarms on it are about.

    It has no scores of its own and stands in no catalogue.
    """
    return Signal(
        name=f"{UNJUDGED}{signal.name}",
        title=f"Not judged: {signal.title}",
        axis=signal.axis,
        kind="rate",
        better="down",
        description=f"Share of the calls for which `{signal.name}` has no verdict although it "
        "applies to them, or applied to all calls before.",
    )


def signal_named(catalogue: Mapping[str, Signal], name: str) -> Signal | None:
    """The signal that an alert is about: one of the catalogue, or what one could not judge."""
    found = catalogue.get(name)
    if found is None and name.startswith(UNJUDGED):
        of = catalogue.get(name.removeprefix(UNJUDGED))
        return None if of is None else unjudged_signal(of)
    return found


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """One interaction with what evaluators, people or a judge said of it."""

    interaction: Interaction
    scores: tuple[Score, ...]
    slices: dict[str, str]
    """Dimension → value, where known."""
    first: bool = True
    """False: later scores (feedback, a judge) of an interaction that was shown before."""


class Sum(msgspec.Struct, frozen=True):
    """Values of one signal, summed: enough for a mean and its interval.

    Sums are of inner values (``Signal.inner``).
    """

    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    unjudged: int = 0
    """Interactions whose evaluator looked and could not judge."""

    def __add__(self, other: "Sum") -> "Sum":
        return Sum(
            self.n + other.n,
            self.total + other.total,
            self.squares + other.squares,
            self.unjudged + other.unjudged,
        )

    def __sub__(self, other: "Sum") -> "Sum":
        """What is left without a part of it."""
        return Sum(
            self.n - other.n,
            self.total - other.total,
            self.squares - other.squares,
            self.unjudged - other.unjudged,
        )

    @property
    def looked(self) -> int:
        """Interactions that were looked at, judged or not."""
        return self.n + self.unjudged

    @property
    def mean(self) -> float | None:
        """``None`` without values."""
        return self.total / self.n if self.n else None

    @property
    def variance(self) -> float | None:
        """Unbiased; ``None`` with fewer than two values."""
        if self.n < 2:
            return None
        return max(0.0, (self.squares - self.total * self.total / self.n) / (self.n - 1))


class Estimate(msgspec.Struct, frozen=True):
    """A value with its interval and how many interactions it rests on. Outer values."""

    value: float
    low: float
    high: float
    n: int


class SliceChange(msgspec.Struct, frozen=True, kw_only=True):
    """How one slice moved while its feature did."""

    dimension: str
    value: str
    before: Estimate
    after: Estimate
    share: float
    """Share of the feature's whole change that this slice carries; may pass 1 or fall below 0."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What an alarm on a signal says."""

    signal: str
    since: int
    """The change point: when it most likely began, microseconds since the epoch."""
    before: Estimate
    after: Estimate
    difference: Estimate
    """After minus before, with its 95 % interval; for ``log`` signals the ratio after / before."""
    verdict: Literal["worse", "better", "different"]
    slices: tuple[SliceChange, ...] = ()
    """Those that carry most of it, first; empty when no slice stands out."""
    examples_before: tuple[str, ...] = ()
    examples_after: tuple[str, ...] = ()
    """Ids of interactions."""
    false_alarm_every: float = 0.0
    """How sure: with nothing changed, an alarm as strong comes once in so many calls."""
    delay: int = 0
    """Judged calls from the change point to the alarm."""
    method: str = ""


class SignalSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the signals of one feature are watched."""

    false_alarm_calls: int = 10_000
    """Calls between false alarms, on average, over all signals of the feature together ..."""
    false_alarm_days: float = 14.0
    """... or this many days at the feature's traffic, whichever is more calls."""
    baseline_calls: int = 1_000
    """Judged calls that make up a full baseline."""
    off: tuple[str, ...] = ()
    """Signals (globs) that never alarm."""
    share: float = 1.0
    """Share of the calls that are scored, by run."""
    abandoned_after_s: float = 1_800.0
    """Seconds without another call after which a conversation is over."""


class Objective(msgspec.Struct, frozen=True, kw_only=True):
    """A service level objective on a signal."""

    name: str
    feature: str
    signal: str
    target: float
    """Share of calls that must be good, such as 0.99."""
    at_most: float | None = None
    at_least: float | None = None
    """What makes a level's value good; a rate is good at its better end."""
    window_days: float = 30.0
    min_events: int = 10
    """Fewest calls in a long window before it may alarm: one bad call at night is no outage."""
    proof: str = ""
    """A graded signal (labels, a judge) that the fast one is held against."""

    def good(self, signal: Signal, value: float | None) -> bool | None:
        """Whether a value of its signal is good; ``None`` when not judged, or nothing says so."""
        if value is None:
            return None
        if self.at_most is None and self.at_least is None:
            judged = signal.kind == "rate" and signal.better != "neither"
            return not signal.bad(value) if judged else None
        return (self.at_most is None or value <= self.at_most) and (
            self.at_least is None or value >= self.at_least
        )

    def score_name(self, part: Literal["objective", "proof", "proxy"] = "objective") -> str:
        """The name of the scores (1 good, 0 bad) by which its calls are summed.

        ``proof`` and ``proxy``: what the graded and the fast signal say of those calls that both
        have judged.
        """
        return f"{part}_{re.sub('[^a-z0-9]', '_', self.name.lower())}"


def unscored(interaction: Interaction) -> Scored:
    """An interaction of which nothing is said but what the record tells."""
    return Scored(interaction=interaction, scores=(), slices=slices_of(interaction))


def slices_of(interaction: Interaction) -> dict[str, str]:
    """The slices that the record alone tells."""
    found = {
        "release": interaction.release,
        "model": interaction.response_model or interaction.request_model,
        "upstream": interaction.upstream,
        "cohort": interaction.attributes.get("cohort"),
        "prompt": interaction.attributes.get("prompt"),
        "hour": f"{interaction.started_at // 3_600_000_000 % 24:02d}",
    }
    return {name: value[:120] for name, value in found.items() if value}


def axis_scores(
    interaction_id: str, scores: Iterable[Score], catalogue: Mapping[str, Signal]
) -> list[Score]:
    """For each judged axis: 1 when no rate signal of it is at its bad end, else 0.

    An axis none of whose signals could be judged has no score.
    """
    worst: dict[str, tuple[float, str]] = {}
    for score in scores:
        signal = catalogue.get(score.name)
        if signal is None or score.value is None or signal.name in JUDGED_AXES:
            continue
        if signal.kind != "rate" or signal.better == "neither":
            continue
        if signal.bad(score.value):
            worst[signal.axis] = (0.0, signal.name)
        else:
            worst.setdefault(signal.axis, (1.0, ""))
    return [
        Score(
            interaction_id=interaction_id, name=axis, version="1", value=value, label=name or None
        )
        for axis, (value, name) in worst.items()
        if axis in JUDGED_AXES
    ]


def objective_scores(
    interaction: Interaction,
    scores: Iterable[Score],
    objectives: Iterable[Objective],
    catalogue: Mapping[str, Signal],
    *,
    known: Iterable[Score] = (),
) -> list[Score]:
    """What new scores of an interaction mean for the objectives of its feature, as scores.

    ``known`` is what was said of it before: a late label is held against the earlier verdict.
    """
    new = {score.name: score.value for score in scores}
    every = {score.name: score.value for score in known} | new
    found: list[Score] = []
    for objective in objectives:
        signal, proof = catalogue.get(objective.signal), catalogue.get(objective.proof)
        if objective.feature != interaction.feature or signal is None:
            continue
        fast = objective.good(signal, every.get(signal.name))
        if signal.name in new:
            found.append(_verdict(interaction.id, objective.score_name(), fast))
        graded = None if proof is None else every.get(proof.name)
        if proof is None or graded is None or fast is None:
            continue
        if signal.name in new or proof.name in new:
            good = not proof.bad(graded)
            found.append(_verdict(interaction.id, objective.score_name("proof"), good))
            found.append(_verdict(interaction.id, objective.score_name("proxy"), fast))
    return found


def _verdict(interaction_id: str, name: str, good: bool | None) -> Score:
    value = None if good is None else float(good)
    return Score(interaction_id=interaction_id, name=name, version="1", value=value)


AXIS_SIGNALS: tuple[Signal, ...] = (
    Signal(
        name="correct",
        title="Correct",
        axis="correct",
        kind="rate",
        better="up",
        description="Share of judged calls with nothing wrong found: valid form, tools that "
        "worked, no re-ask, no correction, no bad label.",
    ),
    Signal(
        name="grounded",
        title="Grounded",
        axis="grounded",
        kind="rate",
        better="up",
        description="Share of judged calls whose answer is borne out by the context it was given.",
    ),
    Signal(
        name="appropriate",
        title="Appropriate",
        axis="appropriate",
        kind="rate",
        better="up",
        description="Share of judged calls that were answered in the form and language asked for, "
        "and not refused, empty or cut short.",
    ),
)
"""Signals that the evaluating itself adds."""

FEEDBACK_SIGNALS: tuple[Signal, ...] = (
    Signal(
        name="labelled_right",
        title="Labelled right",
        axis="correct",
        kind="rate",
        better="up",
        description="Share of labelled calls that a person, or a check that knows, called right.",
    ),
    Signal(
        name="rating",
        title="Rating",
        axis="correct",
        kind="level",
        better="up",
        description="What users gave the answer, 0 to 1; calls without a rating are not judged.",
    ),
    Signal(
        name="edited",
        title="Edited",
        axis="correct",
        kind="level",
        better="down",
        description="Share of the answer that its user changed before using it.",
    ),
    Signal(
        name="escalated",
        title="Escalated",
        axis="correct",
        kind="rate",
        better="down",
        description="Share of calls of which it is known whether a person had to take over.",
    ),
)
"""Signals made of what people say later, by ``Feedback.kind``: see ``feedback_score``."""

ABANDONED = Signal(
    name="abandoned",
    title="Given up",
    axis="correct",
    kind="rate",
    better="down",
    description="Share of ended conversations whose user asked again, corrected the answer, or got "
    "an error, a refusal or a cut or empty answer, and did not come back in time; only for runs "
    "with an answer before, or with a conversation's id.",
)
"""Told of the last call of a conversation, once the time to come back has passed."""

_BY_KIND = {
    "label": "labelled_right",
    "rating": "rating",
    "edit": "edited",
    "escalation": "escalated",
}


def feedback_score(feedback: Feedback) -> Score | None:
    """Feedback as a score of its signal; ``None`` for words alone."""
    name = _BY_KIND.get(feedback.kind)
    if name is None or feedback.value is None:
        return None
    return Score(
        interaction_id=feedback.interaction_id,
        name=name,
        version="1",
        value=feedback.value,
        explanation=feedback.comment[:200],
    )


def judge_signal(name: str, question: str) -> Signal:
    """The signal of a configured judge."""
    return Signal(
        name=f"judge_{name.lower().replace('-', '_')}",
        title=f"Judge: {name}",
        axis="correct",
        kind="rate",
        better="up",
        description=f"Share of sampled calls to which a model said yes: {question}",
    )
