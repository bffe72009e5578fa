"""The admin API for signals: what they come to, what is said of calls, and what is normal."""

from typing import Any

from tocsin.core.call import Principal
from tocsin.core.errors import Forbidden, NotFound
from tocsin.core.ids import new_id
from tocsin.core.score import Feedback
from tocsin.core.signals import Signal, Sum
from tocsin.domains.signals.compare import estimate
from tocsin.gateway import admin_signals_models as m
from tocsin.gateway.admin_base import AdminDeps, actor_of, offer
from tocsin.gateway.admin_models import Args
from tocsin.gateway.openapi import Operation
from tocsin.store.api import BaselineRow, Grain

_DAY_US = 86_400_000_000
_STEPS = 2_000
_STEP_US: dict[Grain, int] = {"minutes": 300_000_000, "hour": 3_600_000_000, "day": _DAY_US}


# -- signals --


def list_signals(deps: AdminDeps, args: m.ListSignals, _principal: Principal) -> m.SignalList:
    catalogue = deps.catalogue()
    since, until = _span(deps, args)
    now = deps.store.signal_totals(since=since, until=until, feature=args.feature)
    # Sums are of whole hours: the hour that both would hold belongs to now.
    edge = since - since % _STEP_US["hour"]
    before = {
        (row.feature, row.signal): row.sum
        for row in deps.store.signal_totals(
            since=max(0, edge - (until - since)), until=edge, feature=args.feature
        )
    }
    rows = [
        m.SignalTotalView(
            feature=row.feature,
            signal=row.signal,
            before=_summary(catalogue[row.signal], before.get((row.feature, row.signal), Sum())),
            **_fields(catalogue[row.signal], row.sum),
        )
        for row in now
        if row.signal in catalogue
    ]
    rows.sort(key=lambda row: (row.feature, row.signal))
    return m.SignalList(
        since=since,
        until=until,
        signals=[m.SignalView.model_validate(signal) for signal in catalogue.values()],
        rows=rows,
    )


def get_signal(deps: AdminDeps, args: m.GetSignal, _principal: Principal) -> m.SignalSeries:
    signal = _known(deps, args.signal)
    since, until = _span(deps, args)
    since = max(since, until - _STEPS * _STEP_US[args.grain])
    points = deps.store.signal_points(
        grain=args.grain,
        since=since,
        until=until,
        feature=args.feature,
        signal=args.signal,
        dimension=args.dimension or "",
        value=args.value,
    )
    accepted = [
        row.since
        for row in deps.store.baselines()
        if (row.feature, row.signal) == (args.feature, args.signal)
    ]
    return m.SignalSeries(
        feature=args.feature,
        signal=m.SignalView.model_validate(signal),
        grain=args.grain,
        since=since,
        until=until,
        dimension=args.dimension or "",
        points=[
            m.PointView(at=point.at, slice=point.value, **_fields(signal, point.sum))
            for point in points
        ],
        accepted_since=accepted[0] if accepted else None,
    )


def get_slices(deps: AdminDeps, args: m.GetSlices, _principal: Principal) -> m.SliceList:
    signal = _known(deps, args.signal)
    since, until = _span(deps, args)
    found = deps.store.signal_totals(
        since=since,
        until=until,
        feature=args.feature,
        signal=args.signal,
        dimension=args.dimension,
    )
    found.sort(key=lambda row: (-row.sum.n, row.value))
    return m.SliceList(
        feature=args.feature,
        signal=m.SignalView.model_validate(signal),
        dimension=args.dimension,
        since=since,
        until=until,
        rows=[
            m.SliceView(slice=row.value, **_fields(signal, row.sum)) for row in found[: args.limit]
        ],
    )


def _span(deps: AdminDeps, args: m.Span) -> tuple[int, int]:
    """Both ends of the time; the last day by default. Never empty."""
    until = args.until if args.until is not None else deps.clock.now_us()
    since = args.since if args.since is not None else max(0, until - _DAY_US)
    return since, max(until, since + 1)


def _known(deps: AdminDeps, name: str) -> Signal:
    signal = deps.catalogue().get(name)
    if signal is None:
        raise NotFound(f"no signal {name!r}; GET /api/signals lists them")
    return signal


def _fields(signal: Signal, values: Sum) -> dict[str, Any]:
    found = estimate(signal, values)
    mean = values.mean
    return {
        "value": None if mean is None else signal.outer(mean),
        "low": None if found is None else found.low,
        "high": None if found is None else found.high,
        "calls": values.n,
        "unjudged": values.unjudged,
    }


def _summary(signal: Signal, values: Sum) -> m.SummaryView:
    return m.SummaryView(**_fields(signal, values))


# -- scores and feedback --


def list_scores(deps: AdminDeps, args: m.OfCall, _principal: Principal) -> m.ScoreList:
    _recorded(deps, args.id)
    return m.ScoreList(
        rows=[m.ScoreView.model_validate(score) for score in deps.store.scores(args.id)]
    )


def list_feedback(deps: AdminDeps, args: m.OfCall, _principal: Principal) -> m.FeedbackList:
    _recorded(deps, args.id)
    return m.FeedbackList(
        rows=[m.FeedbackView.model_validate(row) for row in deps.store.feedback(args.id)]
    )


def give_feedback(deps: AdminDeps, args: m.GiveFeedback, principal: Principal) -> m.FeedbackGiven:
    given = args.body
    feature = _recorded(deps, given.interaction_id)
    if not principal.may_call(feature):
        raise Forbidden(
            f"the key {principal.name!r} may not speak for the feature {feature!r}; use a key of "
            "that feature",
            code="feature_not_allowed",
        )
    now = deps.clock.now_us()
    feedback = Feedback(
        id=given.id or new_id("req", now).replace("req_", "fb_"),
        interaction_id=given.interaction_id,
        kind=given.kind,
        value=None if isinstance(given, m.GiveComment) else float(given.value),
        comment=given.comment,
        by=principal.name if principal.key_id else "user",
        at=now,
    )
    return m.FeedbackGiven(id=feedback.id, new=deps.store.add_feedback(feedback))


def _recorded(deps: AdminDeps, interaction_id: str) -> str:
    """The feature of a call. Raises ``NotFound``."""
    one = deps.store.interaction(interaction_id)
    if one is None:
        raise NotFound(
            f"no interaction {interaction_id!r}; a call is recorded some 50 ms after it ended, and "
            "retention may have deleted it"
        )
    return one.feature


# -- baselines --


def list_baselines(deps: AdminDeps, _args: Args, _principal: Principal) -> m.BaselineList:
    return m.BaselineList(
        rows=[m.BaselineView.model_validate(row) for row in deps.store.baselines()]
    )


def accept_baseline(
    deps: AdminDeps, args: m.AcceptBaseline, principal: Principal
) -> m.BaselineView:
    said = args.body
    _known(deps, said.signal)
    now = deps.clock.now_us()
    actor = actor_of(principal)
    row = BaselineRow(
        feature=said.feature,
        signal=said.signal,
        since=now if said.since is None else said.since,
        by=actor,
        at=now,
        note=said.note,
    )
    deps.store.accept_baseline(row)
    deps.keyring.audit(
        actor, "baseline.accept", f"{row.feature}/{row.signal}", f"since {row.since}: {row.note}"
    )
    return m.BaselineView.model_validate(row)


def forget_baseline(
    deps: AdminDeps, args: m.NamedBaseline, principal: Principal
) -> m.BaselineForgotten:
    if not deps.store.forget_baseline(args.feature, args.signal):
        raise NotFound(
            f"nobody has accepted a baseline of {args.signal!r} for {args.feature!r}; "
            "GET /api/baselines lists those there are"
        )
    deps.keyring.audit(actor_of(principal), "baseline.forget", f"{args.feature}/{args.signal}", "")
    return m.BaselineForgotten(feature=args.feature, signal=args.signal)


SIGNALS: tuple[Operation, ...] = (
    offer(
        "/api/signals",
        "listSignals",
        "Every signal, and what each comes to now and before; the last day by default.",
        m.ListSignals,
        list_signals,
    ),
    offer(
        "/api/signals/{feature}/{signal}",
        "getSignal",
        "One signal of a feature over time.",
        m.GetSignal,
        get_signal,
        missing=True,
    ),
    offer(
        "/api/slices/{feature}/{signal}",
        "getSlices",
        "One signal of a feature by release, model, language and the like.",
        m.GetSlices,
        get_slices,
        missing=True,
    ),
    offer(
        "/api/interactions/{id}/scores",
        "listScores",
        "What is said of one call.",
        m.OfCall,
        list_scores,
        missing=True,
    ),
    offer(
        "/api/interactions/{id}/feedback",
        "listFeedback",
        "Feedback on one call, in the order in which it came.",
        m.OfCall,
        list_feedback,
        missing=True,
    ),
    offer(
        "/api/feedback",
        "giveFeedback",
        "Say how a call turned out. What comes again under its own id is kept once.",
        m.GiveFeedback,
        give_feedback,
        role="caller",
        method="POST",
        status=201,
        missing=True,
    ),
    offer(
        "/api/baselines",
        "listBaselines",
        "Levels of signals that people have called normal.",
        Args,
        list_baselines,
    ),
    offer(
        "/api/baselines",
        "acceptBaseline",
        "Call the level of a signal normal since then: alarms on it are measured from there.",
        m.AcceptBaseline,
        accept_baseline,
        role="operator",
        method="POST",
        status=201,
        missing=True,
    ),
    offer(
        "/api/baselines/{feature}/{signal}",
        "forgetBaseline",
        "Take that word back.",
        m.NamedBaseline,
        forget_baseline,
        role="operator",
        method="DELETE",
        missing=True,
    ),
)
