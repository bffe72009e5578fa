"""Supervisor: which runs move without getting on, and the means to hold or end them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import msgspec
from markupsafe import Markup
from starlette.responses import RedirectResponse, Response

from tocsin.core.errors import InputError, NotFound
from tocsin.core.stops import Ending, Stop, StopAction, StopScope, Switchboard
from tocsin.core.supervision import Evidence, Finding, RunWatch, Supervision
from tocsin.dashboard import attention, charts, evidence, filters, fmt, render
from tocsin.dashboard.attention import StopView, Target
from tocsin.dashboard.filters import segment
from tocsin.dashboard.view import View, key_names
from tocsin.store.api import AuditRow, Filter, Store

Do = Literal["pause", "kill", "resume", "redirect", "end"]
DOS: tuple[Do, ...] = get_args(Do)
_MINUTE = 60_000_000
SPANS: Mapping[str, tuple[str, int, str]] = {
    "30m": ("30 min", 30 * _MINUTE, "the last 30 minutes"),
    "6h": ("6 h", 360 * _MINUTE, "the last 6 hours"),
    "24h": ("24 h", 1440 * _MINUTE, "the last 24 hours"),
}
_RUNS = 100
_STOPS = 100
_ENDED = 20
_ALERTS = 20
_FINDINGS = 500
_LONGEST_NOTE = 2_000


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A run that is active."""

    watch: RunWatch
    target: Target
    stop: StopView | None
    """The run's own stop, while it stands."""
    held_by: StopView | None
    """A stop of its feature or of everything."""
    stage: str
    tone: str
    novelty: Markup


async def supervisor(view: View) -> Response:
    """The runs now active, most tokens since something new first; stops and alerts beside them."""
    span = view.request.query_params.get("span") or "30m"
    if span not in SPANS:
        raise InputError(f"“span” must be one of {', '.join(SPANS)}.")
    context = await view.read(_context, view, span)
    settings = view.deps.settings()
    return await view.page(
        "supervisor.html",
        section="supervisor",
        span=span,
        spans=SPANS,
        may_act=_may_act(view),
        supervision=settings.supervision,
        modes=_modes(settings.supervision),
        **context,
    )


def _context(view: View, span: str) -> dict[str, Any]:
    store = view.deps.store
    standing = attention.standing(store)
    watches = store.watches(since=view.now - SPANS[span][1], limit=_RUNS)
    rows = _rows(store, watches, standing)
    ended = [stop for stop in store.stops(limit=_STOPS) if stop.ended_at is not None]
    alerts = [attention.alert_view(row) for row in store.alerts(limit=_ALERTS)]
    return {
        "rows": rows,
        "capped": len(watches) == _RUNS,
        "standing": attention.views(store, standing),
        "ended": attention.views(store, ended[:_ENDED]),
        "alerts": sorted(alerts, key=lambda a: a.alert.state != "firing"),
        "answer": _answer(rows, span),
        "targets": _targets(store) if _may_act(view) else {},
        "named": any(row.watch.agent for row in rows),
        "never": not watches and not store.stats().interactions,
    }


def _may_act(view: View) -> bool:
    return view.may("operator") and view.deps.switch is not None


def _modes(supervision: Sequence[tuple[str, Supervision]]) -> list[tuple[str, str]]:
    """What the stages do for all features: stage and mode."""
    general = next((one for name, one in supervision if not name), None)
    if general is None:
        return []
    return [("nudge", general.nudge), ("pause", general.pause), ("kill", general.kill)]


def _rows(store: Store, watches: Sequence[RunWatch], standing: Sequence[Stop]) -> list[Row]:
    latest: dict[str, Finding] = {}
    for finding in store.findings(limit=_FINDINGS):
        known = latest.get(finding.run_id)
        rank = evidence.STAGE_RANK
        if known is None or rank[finding.stage] > rank[known.stage]:
            latest[finding.run_id] = finding
    by_run = {stop.value: stop for stop in standing if stop.scope == "run"}
    rows = []
    for watch in watches:
        own = by_run.get(watch.run_id)
        wider = [s for s in standing if _wider(s, watch)]
        held = attention.views(store, [stop for stop in (own, *wider[:1]) if stop is not None])
        rows.append(_row(store, watch, held, latest.get(watch.run_id)))
    return rows


def _wider(stop: Stop, watch: RunWatch) -> bool:
    """Whether a stop of more than one run holds this one. Its key is not known here."""
    return stop.scope == "all" or (stop.scope == "feature" and stop.value == watch.feature)


def _row(store: Store, watch: RunWatch, held: Sequence[StopView], finding: Finding | None) -> Row:
    own = next((one for one in held if one.stop.scope == "run"), None)
    wider = next((one for one in held if one.stop.scope != "run"), None)
    if held:
        stage, tone = held[0].state, "act"
    elif watch.stage is not None:
        matches = finding is not None and finding.stage == watch.stage
        stage = evidence.did(finding) if finding is not None and matches else watch.stage
        tone = "look" if watch.stage == "nudge" or stage.startswith("would") else "act"
    else:
        stage, tone = "", ""
    return Row(
        watch=watch,
        target=attention.target(store, "run", watch.run_id, {}, watch.feature),
        stop=own,
        held_by=wider,
        stage=stage,
        tone=tone,
        novelty=charts.level_bar(
            [("s1", watch.novelty)], 1.0, f"{fmt.percent(watch.novelty, 1)} new"
        ),
    )


def _answer(rows: Sequence[Row], span: str) -> str:
    """The page's question in a sentence."""
    if not rows:
        return f"No run made a call in {SPANS[span][2]}."
    found = [row for row in rows if row.watch.stage is not None]
    held = [row for row in rows if row.stop is not None]
    head = f"{fmt.plural(len(rows), 'run')} active in {SPANS[span][2]}"
    if not found:
        return f"{head}; none flagged."
    spent = sum(row.watch.tokens_since_new for row in found)
    tail = f", {fmt.count(len(held))} held" if held else ""
    return (
        f"{head}; {fmt.count(len(found))} flagged, with {fmt.tokens(spent)} tokens since "
        f"something new{tail}."
    )


def _targets(store: Store) -> dict[str, list[tuple[str, str]]]:
    """What the stop panel offers: features and keys, as code and name."""
    features = [name for name, _ in store.facets(Filter()).get("feature", []) if name]
    # A store is no dict.
    keys = [key for key in store.keys() if key.revoked_at is None]  # noqa: SIM118
    return {
        "Features": [(f"feature:{name}", fmt.one_line(name, 60)) for name in sorted(features)],
        "Keys": [(f"key:{key.id}", fmt.one_line(key.name, 60)) for key in keys],
    }


# -- acting --


async def confirm(view: View) -> Response:
    """The page before an order that cannot be taken back lightly: what it would touch."""
    params = view.request.query_params
    do, scope, value = _wanted(params.get("do") or "", params.get("target") or "")
    return await _confirm(view, do, scope, value, back=params.get("back") or "")


async def act(view: View) -> Response:
    """Give or lift a stop, then back to the page that asked."""
    form = await view.form()
    do, scope, value = _wanted(form.get("do", ""), form.get("target", ""))
    note = form.get("note", "").strip()[:_LONGEST_NOTE]
    back = form.get("back", "")
    missing = _MISSING.get(do, "") if not note else ""
    if missing:
        return await _confirm(view, do, scope, value, back=back, note_error=missing)
    about = await view.read(_about, view.deps.store, scope, value)
    try:
        if do in ("pause", "kill"):
            await _give(view, about, do, note)
        else:
            await _lift(view, about, _ENDINGS[do], note)
    except (InputError, NotFound) as error:
        return await _changed(view, str(error))
    where = about.href if back == "run" and scope == "run" else "/supervisor"
    return RedirectResponse(where, 303, dict(render.PAGE_HEADERS))


_ENDINGS: Mapping[str, Ending] = {"resume": "resumed", "redirect": "redirected", "end": "ended"}
_MISSING: Mapping[str, str] = {
    "redirect": "Note: say what the model should do instead.",
    "kill": "Reason: say why, for whoever finds this stop.",
}


async def _give(view: View, about: Target, action: StopAction, note: str) -> Stop:
    """Stop first, then write down who did: nothing may stand between an order and its effect."""
    why, steps = await view.read(_why, view.deps.store, about)
    stop = await _switch(view).give(
        about.scope,
        about.value,
        action,
        reason=note or why,
        by=_actor(view),
        feature=about.feature,
        evidence=steps,
    )
    await _write_down(view, action, stop, note or why)
    return stop


async def _lift(view: View, about: Target, ending: Ending, note: str) -> None:
    """End all that holds the target itself; the stop that was given last gets the ending.

    A run that nothing holds is held first: a redirect and an end are ends of a pause. Raises
    ``InputError``.
    """
    switch, store = _switch(view), view.deps.store
    stops = await view.read(store.stops, standing=True, scope=about.scope, value=about.value)
    held = [stop for stop in stops if stop.ended_at is None]
    if ending == "resumed" and not held:
        raise InputError(f"Nothing holds {about.spoken} any more.")
    if not held:
        held = [await _give(view, about, "pause", note)]
    newest, *others = held
    for other in others:
        ended = await switch.lift(other.id, "resumed", by=_actor(view), note=note)
        await _write_down(view, "resumed", ended, note)
    ended = await switch.lift(newest.id, ending, by=_actor(view), note=note)
    await _write_down(view, ending, ended, note)


async def _write_down(view: View, what: str, stop: Stop, said: str) -> None:
    about = stop.scope if stop.scope == "all" else f"{stop.scope} {stop.value}"
    row = AuditRow(
        at=view.deps.clock.now_us(),
        actor=view.principal.key_id or view.principal.name,
        action=f"stop.{what}",
        target=stop.id,
        detail=f"{about}: {said}",
    )
    await view.read(view.deps.store.record_audit, row)


def _why(store: Store, about: Target) -> tuple[str, tuple[Evidence, ...]]:
    """A reason for an order that came without one, and the evidence for it."""
    findings = store.findings(run_id=about.value) if about.scope == "run" else []
    if not findings:
        return "stopped from the pages", ()
    best = max(findings, key=lambda f: (evidence.STAGE_RANK[f.stage], f.call))
    return best.summary, best.evidence


def _wanted(do: str, target: str) -> tuple[Do, StopScope, str]:
    """What is to be done to what. Raises ``InputError``."""
    found = next((known for known in DOS if known == do), None)
    if found is None:
        raise InputError(f"“do” must be one of {', '.join(DOS)}.")
    scope, value = attention.read_target(target)
    if found in ("redirect", "end") and scope != "run":
        raise InputError("Only a run can be redirected or ended. Choose pause or kill.")
    return found, scope, value


def _actor(view: View) -> str:
    return view.principal.name or view.principal.key_id or "dashboard"


def _switch(view: View) -> Switchboard:
    if view.deps.switch is None:
        raise InputError("This process cannot give stops. Use `tocsin stop` on its machine.")
    return view.deps.switch


def _about(store: Store, scope: StopScope, value: str) -> Target:
    """The target of an order. Raises ``NotFound`` when there is no such run or key."""
    keys = key_names(store) if scope == "key" else {}
    if scope == "key" and value not in keys:
        raise NotFound(f"There is no key {fmt.one_line(value, 60)}.")
    if scope == "run" and store.run(value) is None and store.watch(value) is None:
        raise NotFound(f"There is no run {fmt.one_line(value, 60)}.")
    found = attention.target(store, scope, value, keys)
    watch = store.watch(value) if scope == "run" and not found.feature else None
    return msgspec.structs.replace(found, feature=watch.feature) if watch is not None else found


async def _changed(view: View, said: str) -> Response:
    """The order met something else than the page had shown."""
    return await view.page(
        "error.html",
        409,
        section="supervisor",
        status_code=409,
        title="Nothing was changed",
        what=said,
        kept="Somebody else may have decided meanwhile; the Supervisor page shows how it stands.",
        again="/supervisor",
    )


class Blast(msgspec.Struct, frozen=True, kw_only=True):
    """What an order would touch, as far as it is known."""

    in_flight: int | None
    calls: int
    """In the last minute."""
    features: tuple[str, ...]
    """With calls in the last minute."""


def _blast(store: Store, about: Target, now: int, in_flight: int | None) -> Blast:
    where = Filter(since=now - _MINUTE, until=now)
    if about.scope == "run":
        recent = store.steps(about.value, offset=max(0, _calls(store, about) - 200), limit=200)
        calls = sum(step.started_at >= now - _MINUTE for step in recent)
        return Blast(in_flight=in_flight, calls=calls, features=())
    if about.scope == "feature":
        where = msgspec.structs.replace(where, feature=about.value)
    elif about.scope == "key":
        where = msgspec.structs.replace(where, key_id=about.value)
    found = store.spend(where, "feature", buckets=1)
    names = tuple(fmt.one_line(row.value, 40) for row in found.rows if row.value)
    return Blast(in_flight=in_flight, calls=found.total.calls, features=names)


def _calls(store: Store, about: Target) -> int:
    run = store.run(about.value)
    return run.calls if run is not None else 0


async def _confirm(
    view: View, do: Do, scope: StopScope, value: str, *, back: str, note_error: str = ""
) -> Response:
    store = view.deps.store
    about = await view.read(_about, store, scope, value)
    _switch(view)
    flying = view.deps.in_flight(scope, value)
    blast = await view.read(_blast, store, about, view.now, flying)
    findings = await view.read(store.findings, run_id=value) if scope == "run" else []
    stops = await view.read(store.stops, standing=True, scope=scope, value=value)
    stop = next((one for one in stops if one.ended_at is None), None)
    told = evidence.tell(findings, lambda e: (e.call, f"{about.href}?step={e.call}"))
    return await view.page(
        "act.html",
        400 if note_error else 200,
        section="supervisor",
        do=do,
        target=about,
        blast=blast,
        stop=stop,
        back=back,
        cancel=about.href if back == "run" else "/supervisor",
        note_error=note_error,
        told=told[:1],
        span_link=filters.build("/calls", {"range": "1h"}),
        run_href=f"/runs/{segment(value)}" if scope == "run" else "",
    )
