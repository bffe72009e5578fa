"""Stops, alerts, findings and the watches of runs, as tables."""

import re
import time
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from tocsin.core.domain import Alert
from tocsin.core.errors import InputError, NotFound
from tocsin.core.stops import Ending, Stop, StopScope
from tocsin.core.supervision import Evidence, Finding, RunWatch
from tocsin.store.api import AlertRow
from tocsin.store.database import Database, Row, Session

_MOST = (1 << 63) - 1
_BATCH = 500
_PAUSE_S = 0.005
_STANDING = "(ended_at IS NULL OR ending = 'ended')"

S = TypeVar("S", bound=msgspec.Struct)


# -- stops --


def add_stop(session: Session, stop: Stop) -> Stop:
    """Keep a stop, unless one of this or a stronger action stands; returns the one that holds."""
    row = session.one("stop_standing_for", (stop.scope, stop.value, stop.action))
    if row is not None:
        return _stop(row)
    session.run(
        "add_stop",
        (
            stop.id,
            stop.scope,
            stop.value,
            stop.action,
            stop.reason,
            stop.by,
            stop.at,
            stop.feature,
            _json(stop.evidence),
            stop.ended_at,
            stop.ended_by,
            stop.ending,
            stop.note,
            stop.cut,
            stop.took_us,
        ),
    )
    session.run("next_stops_version")
    return stop


def end_stop(
    session: Session, stop_id: str, ending: Ending, *, by: str, at: int, note: str
) -> Stop:
    """End a stop, once. Raises ``NotFound``, or ``InputError`` when it has ended already."""
    changed = session.run("end_stop", (ending, by, at, note, stop_id))
    found = stop(session, stop_id)
    if found is None:
        raise NotFound(f"no stop {stop_id!r}; `tocsin stops` lists them")
    if not changed:
        raise InputError(
            f"the stop {stop_id} has ended already: {found.ending} by {found.ended_by}; "
            "give a new one if the calls shall be held again"
        )
    session.run("next_stops_version")
    return found


def note_cut(session: Session, stop_id: str, cut: int, took_us: int) -> None:
    """Add calls that were cut; the longest time is kept."""
    if session.run("note_cut", (cut, took_us, took_us, stop_id)):
        session.run("next_stops_version")


def stops_version(session: Session) -> int:
    """How often the stops were changed."""
    row = session.one("stops_version")
    return int(row[0]) if row else 0


def stop(session: Session, stop_id: str) -> Stop | None:
    """One stop by its id."""
    row = session.one("stop", (stop_id,))
    return None if row is None else _stop(row)


def stops(
    session: Session, *, standing: bool, scope: StopScope | None, value: str | None, limit: int
) -> list[Stop]:
    """Newest first."""
    conditions, params = ["1 = 1"], list[Any]()
    if standing:
        conditions.append(_STANDING)
    if scope is not None:
        conditions.append("scope = ?")
        params.append(scope)
    if value is not None:
        conditions.append("value = ?")
        params.append(value)
    rows = session.composed("stops", [*params, limit], where=" AND ".join(conditions))
    return [_stop(row) for row in rows]


def _stop(row: Row) -> Stop:
    return Stop(
        id=row[0],
        scope=row[1],
        value=row[2],
        action=row[3],
        reason=row[4],
        by=row[5],
        at=row[6],
        feature=row[7],
        evidence=msgspec.json.decode(row[8], type=tuple[Evidence, ...]),
        ended_at=row[9],
        ended_by=row[10],
        ending=row[11],
        note=row[12],
        cut=row[13],
        took_us=row[14],
    )


# -- alerts --


def raise_alerts(session: Session, alerts: Sequence[Alert]) -> None:
    """Take each word in turn; what says nothing new (a detector that runs again) is not counted.

    An alert that was not firing cannot be resolved: that leaves no row.
    """
    for alert in alerts:
        row = session.one("alert_state", (alert.fingerprint,))
        state, at, first_at, times = row or ("resolved", None, alert.at, 0)
        if alert.state == state and (at is None or state == "resolved" or alert.at <= at):
            continue
        if alert.state == "firing":
            first_at, times = (first_at, times + 1) if state == "firing" else (alert.at, 1)
        session.run(
            "set_alert",
            (alert.fingerprint, alert.state, alert.at, first_at, times, _json(alert)),
        )


def alerts(session: Session, *, firing: bool, limit: int) -> list[AlertRow]:
    """Last changed first."""
    rows = session.all("alerts_firing" if firing else "alerts", (limit,))
    return [
        AlertRow(alert=msgspec.json.decode(r[0], type=Alert), first_at=r[1], count=r[2])
        for r in rows
    ]


# -- findings and watches --


def add_findings(session: Session, findings: Sequence[Finding]) -> None:
    """The same (run, call, detector, stage) again replaces what was there."""
    last = {(f.run_id, f.call, f.detector, f.stage): f for f in findings}
    flat: list[Any] = []
    for key, found in last.items():
        flat += (*key, _held(found.at), _json(found))
    session.write_rows("set_findings", flat)


def findings(session: Session, *, run_id: str | None, limit: int) -> list[Finding]:
    """Of one run in order; without a run, newest first."""
    if run_id is None:
        rows = session.all("newest_findings", (limit,))
    else:
        rows = session.all("findings_of_run", (run_id, limit))
    return _records(rows, Finding)


def save_watches(session: Session, runs: Sequence[RunWatch]) -> None:
    """How runs stand now; the last word on each counts."""
    flat: list[Any] = []
    for run_id, run in {run.run_id: run for run in runs}.items():
        flat += (run_id, _held(run.last_at), _held(run.tokens_since_new), _json(run))
    session.write_rows("set_watches", flat)


def watches(session: Session, *, since: int, limit: int) -> list[RunWatch]:
    """Runs with a call since then, most tokens without anything new first."""
    return _records(session.all("watches", (since, limit)), RunWatch)


def watch(session: Session, run_id: str) -> RunWatch | None:
    """How one run stands."""
    return next(iter(_records(session.all("watch", (run_id,)), RunWatch)), None)


def _records(rows: Sequence[Row], kind: type[S]) -> list[S]:
    decoder = msgspec.json.Decoder(kind)
    return [decoder.decode(row[0]) for row in rows]


def _held(number: int) -> int:
    """A number that a column can hold; upstreams may report any."""
    return min(number, _MOST)


def _json(value: Any) -> str:
    """JSON of records that quote what models and tools said: any text can be written."""
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        return msgspec.json.encode(_writable(msgspec.to_builtins(value))).decode()


def _writable(value: Any) -> Any:
    """The same without lone surrogates, which UTF-8 cannot hold."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case dict():
            return {key: _writable(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_writable(inner) for inner in value]
    return value


# -- deletion --


def forget_runs(session: Session, run_ids: Sequence[str]) -> None:
    """Delete what supervision keeps of these runs. Stops stay in force, without their evidence."""
    session.run_listed("delete_findings_of", run_ids)
    session.run_listed("delete_watches_of", run_ids)
    session.run_listed("blank_stops_of", run_ids)


def forget_keys(session: Session, keys: Sequence[int]) -> None:
    """The same for runs by their number: findings quote the calls that were deleted."""
    forget_runs(session, [row[0] for row in session.listed("watched_run_ids", keys)])


def forget_old(database: Database, older_than: int) -> None:
    """Delete, in short transactions, what is older: findings, watches, alerts and stops that ended.

    Stops that stand are kept whatever their age; a run that was ended stays so while it is known.
    """
    for name in (
        "delete_old_findings",
        "delete_old_watches",
        "delete_old_alerts",
        "delete_old_stops",
    ):
        while True:
            with database.write() as session:
                deleted = session.run(name, (older_than, _BATCH))
                if deleted and name == "delete_old_stops":
                    session.run("next_stops_version")
            if deleted < _BATCH:
                break
            time.sleep(_PAUSE_S)


def forget_name(session: Session, name: str) -> None:
    """Delete alerts that are about somebody: their fingerprint or summary says the name whole."""
    whole = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
    for fingerprint, record in session.all("all_alerts"):
        alert = msgspec.json.decode(record, type=Alert)
        if whole.search(fingerprint) or whole.search(alert.summary):
            session.run("delete_alert", (fingerprint,))
