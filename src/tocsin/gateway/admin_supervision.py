"""The admin API of supervision: stops, alerts, limits, and how runs stand.

What changes something is an operator's, and is written to the audit log. Stops are given and lifted
on the event loop, where the switchboard lives; everything else runs in worker threads.
"""

from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool

from tocsin.core.call import Principal
from tocsin.core.errors import Forbidden, InputError, NotFound
from tocsin.core.ledger import Account, Amounts, Limit
from tocsin.core.stops import Ending, Stop, StopAction, StopScope
from tocsin.core.supervision import Finding, RunWatch
from tocsin.gateway import admin_supervision_models as m
from tocsin.gateway.admin_base import AdminDeps, actor_of, offer
from tocsin.gateway.admin_models import usd
from tocsin.gateway.auth import RANKS, is_live
from tocsin.gateway.openapi import Operation
from tocsin.store.api import AlertRow

_ACTIVE_US = 30 * 60 * 1_000_000
_STANDING = 10_000
_ACCOUNTS = 1000
_UNITS = Amounts.__struct_fields__


# -- stops --


def list_stops(deps: AdminDeps, args: m.ListStops, _principal: Principal) -> m.StopList:
    rows = deps.store.stops(standing=args.standing, limit=args.limit)
    return m.StopList(rows=[_stop(row) for row in rows])


async def give_stop(deps: AdminDeps, args: m.GiveStop, principal: Principal) -> m.StopView:
    new = args.body
    value = "" if isinstance(new, m.StopAll) else new.value
    return await _give(deps, principal, new.scope, value, new.action, new.reason)


async def lift_stop(deps: AdminDeps, args: m.LiftStop, principal: Principal) -> m.StopView:
    stop = await _known(deps, args.id)
    if stop.ended_at is not None:
        raise _conflict("has_ended", _ended_already(stop))
    if args.body.ending != "resumed" and stop.scope != "run":
        raise _conflict(
            "not_a_run",
            f"{stop.id} stops {stop.scope}; only a run can be {args.body.ending}. Resume this one "
            "and act on its runs: POST /api/runs/{id}/...",
        )
    return await _lift(deps, principal, stop, args.body.ending, args.body.note)


async def get_stop(deps: AdminDeps, args: m.GetStop, principal: Principal) -> m.StopState:
    stop = await _known(deps, args.id)
    if args.wait and stop.ended_at is None:
        await deps.switch.wait(stop.id, float(args.wait))
        stop = await _known(deps, args.id)
    shown = _stop(stop) if RANKS[principal.role] >= RANKS["viewer"] else None
    return m.StopState(
        id=stop.id, standing=stop.standing, ending=stop.ending, note=stop.note, stop=shown
    )


async def _known(deps: AdminDeps, stop_id: str) -> Stop:
    stop = await run_in_threadpool(deps.store.stop, stop_id)
    if stop is None:
        raise NotFound(f"no stop {stop_id!r}; GET /api/stops lists them")
    return stop


async def _give(
    deps: AdminDeps,
    principal: Principal,
    scope: StopScope,
    value: str,
    action: StopAction,
    reason: str,
) -> m.StopView:
    """Stop first, then write down who did: nothing may stand between an order and its effect."""
    feature = ""
    if scope == "key":
        value = await run_in_threadpool(_key_id, deps, value)
    elif scope == "run":
        run = await run_in_threadpool(deps.store.run, value)
        # A run whose first call is under way is not in the store yet, and must be stopped too.
        feature = run.feature if run is not None else ""
    actor = actor_of(principal)
    stop = await deps.switch.give(scope, value, action, reason=reason, by=actor, feature=feature)
    await _write_down(deps, actor, f"stop.{action}", stop, reason)
    return _stop(stop)


async def _lift(
    deps: AdminDeps, principal: Principal, stop: Stop, ending: Ending, note: str
) -> m.StopView:
    actor = actor_of(principal)
    try:
        ended = await deps.switch.lift(stop.id, ending, by=actor, note=note)
    except InputError as error:
        # Somebody else was faster, or the note says nothing.
        raise _conflict("cannot_be_lifted", str(error)) from error
    await _write_down(deps, actor, f"stop.{ending}", ended, note)
    return _stop(ended)


async def _write_down(deps: AdminDeps, actor: str, action: str, stop: Stop, said: str) -> None:
    about = stop.scope if stop.scope == "all" else f"{stop.scope} {stop.value}"
    await run_in_threadpool(deps.keyring.audit, actor, action, stop.id, f"{about}: {said}")


def _key_id(deps: AdminDeps, said: str) -> str:
    """A key by its id or by its name. Raises ``NotFound``, or a conflict for a name of several."""
    now = deps.clock.now_us()
    rows = deps.keyring.keys()
    if any(row.id == said for row in rows):
        return said
    named = [row.id for row in rows if row.name == said and is_live(row, now)]
    if not named:
        raise NotFound(f"no live key {said!r}; GET /api/keys lists their ids and names")
    if len(named) > 1:
        raise _conflict("ambiguous", f"{len(named)} keys are named {said!r}; say one's id")
    return named[0]


def _ended_already(stop: Stop) -> str:
    return (
        f"{stop.id} has ended already: {stop.ending} by {stop.ended_by}. "
        "Give a new stop if the calls shall be held again."
    )


def _conflict(code: str, message: str) -> Forbidden:
    return Forbidden(message, status=409, code=code)


def _stop(stop: Stop) -> m.StopView:
    return m.StopView.model_validate(stop)


# -- runs --


async def pause_run(deps: AdminDeps, args: m.HoldRun, principal: Principal) -> m.StopView:
    return await _give(deps, principal, "run", args.id, "pause", args.body.reason)


async def kill_run(deps: AdminDeps, args: m.HoldRun, principal: Principal) -> m.StopView:
    return await _give(deps, principal, "run", args.id, "kill", args.body.reason)


async def resume_run(deps: AdminDeps, args: m.DecideRun, principal: Principal) -> m.StopView:
    return await _decide(deps, principal, args.id, "resumed", args.body.note)


async def redirect_run(deps: AdminDeps, args: m.RedirectRun, principal: Principal) -> m.StopView:
    return await _decide(deps, principal, args.id, "redirected", args.body.note)


async def end_run(deps: AdminDeps, args: m.DecideRun, principal: Principal) -> m.StopView:
    open_stops, over = await _stops_of(deps, args.id)
    if not open_stops and over is None:
        # A run that nothing holds is held first: an end is the end of a pause.
        await _give(deps, principal, "run", args.id, "pause", args.body.note or "ended by hand")
    return await _decide(deps, principal, args.id, "ended", args.body.note)


async def _decide(
    deps: AdminDeps, principal: Principal, run_id: str, ending: Ending, note: str
) -> m.StopView:
    """End everything that holds this run itself; the answer is the stop that was given last."""
    open_stops, over = await _stops_of(deps, run_id)
    if over is not None:
        raise _conflict("run_ended", f"the run {run_id!r} was ended for good by {over.ended_by}")
    if not open_stops:
        raise _conflict(
            "not_held",
            f"nothing holds the run {run_id!r} itself; GET /api/stops?standing=true says what "
            "holds its feature, its key or everything",
        )
    newest, *others = open_stops
    for other in others:
        # The last word tells the model and says whether the run goes on; the others make room.
        await _lift(deps, principal, other, "resumed", note)
    return await _lift(deps, principal, newest, ending, note)


async def _stops_of(deps: AdminDeps, run_id: str) -> tuple[list[Stop], Stop | None]:
    """What holds a run itself and can be lifted, newest first; and the stop that ended it."""

    def read() -> list[Stop]:
        return deps.store.stops(standing=True, scope="run", value=run_id)

    found = await run_in_threadpool(read)
    held = [stop for stop in found if stop.ended_at is None]
    return held, next((stop for stop in found if stop.ended_at is not None), None)


def list_watches(deps: AdminDeps, args: m.ListWatches, _principal: Principal) -> m.WatchList:
    since = args.since if args.since is not None else max(0, deps.clock.now_us() - _ACTIVE_US)
    rows = deps.store.watches(since=since, limit=args.limit)
    standing = deps.store.stops(standing=True, scope="run", limit=_STANDING)
    # Of several stops of a run a kill is shown, else the one that was given first.
    holding = {stop.value: stop for stop in sorted(standing, key=lambda one: one.action == "kill")}
    return m.WatchList(rows=[_watch(row, holding.get(row.run_id)) for row in rows])


def _watch(row: RunWatch, stop: Stop | None) -> m.WatchView:
    fields = msgspec.structs.asdict(row)
    return m.WatchView(
        **fields,
        cost_usd=usd(row.cost_nano_usd) or "0",
        stop=None if stop is None else _stop(stop),
    )


def list_findings(deps: AdminDeps, args: m.ListFindings, _principal: Principal) -> m.FindingList:
    rows = deps.store.findings(run_id=args.id, limit=args.limit)
    if not rows and deps.store.run(args.id) is None:
        raise NotFound(f"no run {args.id!r}; retention may have deleted it")
    return m.FindingList(rows=[_finding(row) for row in rows])


def _finding(row: Finding) -> m.FindingView:
    return m.FindingView.model_validate(row)


# -- alerts and limits --


def list_alerts(deps: AdminDeps, args: m.ListAlerts, _principal: Principal) -> m.AlertList:
    rows = deps.store.alerts(firing=args.firing, limit=args.limit)
    return m.AlertList(rows=[_alert(row) for row in rows])


def _alert(row: AlertRow) -> m.AlertView:
    fields = msgspec.structs.asdict(row.alert)
    return m.AlertView(**fields, first_at=row.first_at, count=row.count)


def list_limits(deps: AdminDeps, args: m.ListLimits, _principal: Principal) -> m.AccountList:
    found = deps.ledger.accounts(limit=args.name, value=args.value, run_id=args.run, most=_ACCOUNTS)
    # The organisation's accounts are told whether or not anything was drawn on them.
    asked = [account for account in found if args.value in (None, account.value)]
    fullest = sorted(asked, key=_used, reverse=True)
    return m.AccountList(rows=[_account(row) for row in fullest[: args.limit]])


def raise_limit(deps: AdminDeps, args: m.RaiseLimit, principal: Principal) -> m.AccountView:
    more = args.body
    extra = Amounts(
        nano_usd=round((more.usd or 0.0) * 1_000_000_000),
        tokens=more.tokens or 0,
        calls=more.calls or 0,
        tool_calls=more.tool_calls or 0,
    )
    try:
        # The ledger itself writes down who did, in the same transaction.
        account = deps.ledger.add(more.limit, more.value, more.run, extra, actor_of(principal))
    except InputError as error:
        raise _conflict("cannot_be_raised", str(error)) from error
    return _account(account)


def _used(account: Account) -> float:
    """The fraction of the limit that is spent or held, of the unit that is nearest to its end."""
    taken = account.spent + account.held
    return max((taken_of / most if most else 1.0) for taken_of, most in _bounded(account, taken))


def _bounded(account: Account, taken: Amounts) -> list[tuple[int, int]]:
    """(taken, most) of each unit that is limited; (0, 1) when none is."""
    pairs = [
        (getattr(taken, unit), getattr(account.limit, unit) + getattr(account.extra, unit))
        for unit in _UNITS
        if getattr(account.limit, unit) is not None
    ]
    return pairs or [(0, 1)]


def _account(account: Account) -> m.AccountView:
    return m.AccountView(
        limit=_limit(account.limit),
        value=account.value,
        run_id=account.run_id,
        window_start=account.window_start,
        resets_at=account.resets_at,
        spent=_amounts(account.spent),
        held=_amounts(account.held),
        left=_left(account),
        uncertain=_amounts(account.uncertain),
        estimated=_amounts(account.estimated),
        extra=_amounts(account.extra),
    )


def _limit(limit: Limit) -> m.LimitView:
    fields: dict[str, Any] = {
        name: getattr(limit, name) for name in m.LimitView.model_fields if name != "most"
    }
    most = m.BoundsView(
        nano_usd=limit.nano_usd,
        usd=usd(limit.nano_usd),
        tokens=limit.tokens,
        calls=limit.calls,
        tool_calls=limit.tool_calls,
    )
    return m.LimitView.model_validate({**fields, "most": most})


def _amounts(amounts: Amounts) -> m.AmountsView:
    fields = {unit: getattr(amounts, unit) for unit in _UNITS}
    return m.AmountsView(**fields, usd=usd(amounts.nano_usd) or "0")


def _left(account: Account) -> m.BoundsView:
    room = account.extra - account.spent - account.held
    left = {
        unit: None if most is None else most + getattr(room, unit)
        for unit in _UNITS
        for most in (getattr(account.limit, unit),)
    }
    return m.BoundsView(**left, usd=usd(left["nano_usd"]))


SUPERVISION: tuple[Operation, ...] = (
    offer("/api/stops", "listStops", "Stops, newest first.", m.ListStops, list_stops),
    offer(
        "/api/stops",
        "giveStop",
        "Stop a run, a feature, a key or everything. What stands already is kept.",
        m.GiveStop,
        give_stop,
        role="operator",
        method="POST",
        status=201,
        missing=True,
        conflict=True,
    ),
    offer(
        "/api/stops/{id}",
        "getStop",
        "How a stop stands; with `wait`, as soon as it has ended.",
        m.GetStop,
        get_stop,
        role="caller",
        missing=True,
    ),
    offer(
        "/api/stops/{id}/lift",
        "liftStop",
        "Let calls go on, or end a run for good.",
        m.LiftStop,
        lift_stop,
        role="operator",
        method="POST",
        missing=True,
        conflict=True,
    ),
    *(
        offer(
            f"/api/runs/{{id}}/{word}",
            f"{word}Run",
            summary,
            args,
            run,
            role="operator",
            method="POST",
            conflict=True,
        )
        for word, summary, args, run in (
            ("pause", "Hold a run until somebody decides.", m.HoldRun, pause_run),
            ("resume", "Let a held run go on.", m.DecideRun, resume_run),
            ("redirect", "Let it go on with a note before the model.", m.RedirectRun, redirect_run),
            ("end", "Refuse a run for good.", m.DecideRun, end_run),
            ("kill", "Refuse a run and cut its calls in flight.", m.HoldRun, kill_run),
        )
    ),
    offer(
        "/api/runs/{id}/findings",
        "listFindings",
        "What supervision found in a run, in order.",
        m.ListFindings,
        list_findings,
        missing=True,
    ),
    offer(
        "/api/supervisor",
        "listActiveRuns",
        "Runs now active, most tokens since something new first.",
        m.ListWatches,
        list_watches,
    ),
    offer("/api/alerts", "listAlerts", "Alerts, last changed first.", m.ListAlerts, list_alerts),
    offer(
        "/api/limits",
        "listLimits",
        "The ledger's accounts: spent, held and left, fullest first.",
        m.ListLimits,
        list_limits,
    ),
    offer(
        "/api/limits/raise",
        "raiseLimit",
        "Add to the limit of one account.",
        m.RaiseLimit,
        raise_limit,
        role="operator",
        method="POST",
        missing=True,
        conflict=True,
    ),
)
