"""``tocsin stop``, ``pause``, ``resume``, ``redirect``, ``end`` and ``stops``.

The commands write to the store itself, so they work with no server running, and whichever process
serves the calls: it reads the order there.
"""

import getpass
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tocsin.cli import output
from tocsin.cli.context import opened, settings
from tocsin.cli.guard import FAILED, OK
from tocsin.core.clock import SystemClock
from tocsin.core.errors import InputError, NotFound
from tocsin.core.ids import is_safe_id, new_id
from tocsin.core.stops import Ending, Stop, StopAction, StopScope
from tocsin.dashboard import fmt
from tocsin.store.api import AuditRow, Store

_WORDS = {"kill": "stopped", "pause": "paused"}
_POLL_S = 0.05
_LONGEST_S = 3.0
"""How long a command waits for running processes to say what they cut."""
_SILENT_S = 1.0
"""... and when none has said anything: they obey within 0.3 s."""
_QUIET_S = 0.4
"""... and after the last word: other processes may have something to add."""

Scope = tuple[StopScope, str]


# -- giving --


def give(
    config: Path | None,
    action: StopAction,
    *,
    run: str | None,
    feature: str | None,
    key: str | None,
    everything: bool,
    reason: str,
    yes: bool,
    json: bool,
) -> int:
    """Stop or pause; of a kill, say what running processes have cut."""
    found = settings(config).config
    with opened(found) as store:
        scope, value = _scope(store, action, run, feature, key, everything)
        if scope == "all" and not yes and not _confirmed(action):
            output.complain("Nothing was changed.")
            return FAILED
        wanted = _order(store, scope, value, action, reason)
        kept = store.add_stop(wanted)
        given = kept.id == wanted.id
        if given:
            _audit(store, f"stop.{action}", kept, reason)
            if action == "kill":
                kept = _reported(store, kept)
    if json:
        output.print_json({**_plain(kept), "given": given})
    else:
        _say_given(kept, given=given)
    return OK


def _scope(
    store: Store,
    command: str,
    run: str | None,
    feature: str | None,
    key: str | None,
    everything: bool,
) -> Scope:
    """What the options name. Raises ``InputError`` unless it is exactly one thing."""
    named: list[Scope] = []
    if everything:
        named.append(("all", ""))
    if run is not None:
        named.append(("run", _safe("--run", run)))
    if feature is not None:
        named.append(("feature", _safe("--feature", feature)))
    if key is not None:
        named.append(("key", key_id(store, key)))
    if len(named) != 1:
        raise InputError(f"{command}: say one of --run ID, --feature NAME, --key ID or --all")
    return named[0]


def _safe(option: str, value: str) -> str:
    if not is_safe_id(value):
        raise InputError(
            f"{option}: found {value!r}; allowed: 1 to 128 letters, digits, '.', '_', ':' or '-'"
        )
    return value


def key_id(store: Store, named: str, option: str = "--key") -> str:
    """The id of a key by its id or its name. Raises ``NotFound``; ``InputError`` for two."""
    keys = store.keys()
    found = [row.id for row in keys if row.id == named]
    found = found or [row.id for row in keys if row.name == named and row.revoked_at is None]
    if not found:
        raise NotFound(f"no key has the id or the name {named!r}; see `tocsin keys list`")
    if len(found) > 1:
        raise InputError(f"{option}: {named!r} is the name of {output.listing(found)}; say an id")
    return found[0]


def _confirmed(action: StopAction) -> bool:
    """Ask at a terminal; elsewhere, whoever said --all has meant it."""
    if not sys.stdin.isatty():
        return True
    does = (
        "refuses every call and cuts those in flight"
        if action == "kill"
        else "holds every new call"
    )
    output.say(f"This {does}, of every feature and every key, until it is lifted.")
    return input("Type yes to go on: ").strip().lower() == "yes"


def _order(store: Store, scope: StopScope, value: str, action: StopAction, reason: str) -> Stop:
    at = SystemClock().now_us()
    row = store.run(value) if scope == "run" else None
    return Stop(
        id=new_id("stop", at),
        scope=scope,
        value=value,
        action=action,
        reason=reason.strip() or f"{_WORDS[action]} by hand",
        by=actor(),
        at=at,
        feature=row.feature if row is not None else value if scope == "feature" else "",
    )


def _reported(store: Store, stop: Stop) -> Stop:
    """The stop once running processes have said what they cut, or have had time to."""
    began = changed = time.monotonic()
    while True:
        time.sleep(_POLL_S)
        row, now = store.stop(stop.id) or stop, time.monotonic()
        if row.cut != stop.cut:
            stop, changed = row, now
        patience = _QUIET_S if stop.cut else _SILENT_S
        if now - changed > patience or now - began > _LONGEST_S:
            return row


def _say_given(stop: Stop, *, given: bool) -> None:
    what, word = _what(stop), _WORDS[stop.action]
    if not given:
        since = output.clock_time(stop.at)
        output.say(
            f"{what} was {word} already, by {fmt.visible(stop.by)} at {since}: {stop.id}",
            output.LOOK,
        )
        return
    output.say(f"{what} is {word}: {stop.id}. Running Tocsins obey within 0.3 s.")
    if stop.action == "pause":
        output.say(f"Decide with `tocsin resume {stop.id}`, `tocsin redirect` or `tocsin end`.")
        return
    if stop.cut and stop.took_us is not None:
        output.say(
            f"{fmt.plural(stop.cut, 'call')} in flight cut; the last byte of the last one left "
            f"{fmt.duration(stop.took_us)} after the order."
        )
    else:
        output.say("No running Tocsin had a call in flight to cut.")
    output.say(f"`tocsin resume {stop.id}` lifts it.")


# -- lifting --


def resume(
    config: Path | None,
    stop_id: str | None,
    *,
    run: str | None,
    feature: str | None,
    key: str | None,
    everything: bool,
    json: bool,
) -> int:
    """Lift one stop by its id, or what stops a run, a feature, a key or everything."""
    with opened(settings(config).config) as store:
        if stop_id is not None:
            if run or feature or key or everything:
                raise InputError("resume: say a stop's id or what is stopped, not both")
            lifted = [_end(store, stop_id, "resumed")]
        else:
            scope = _scope(store, "resume", run, feature, key, everything)
            lifted = [_end(store, stop.id, "resumed") for stop in _holding(store, scope)]
    return _say_lifted(lifted, "goes on", json=json)


def redirect(config: Path | None, run: str, note: str, *, json: bool) -> int:
    """Let a held run go on with a note. Raises ``NotFound`` when nothing holds it."""
    if not note.strip():
        raise InputError("--note: say what the model is to be told")
    with opened(settings(config).config) as store:
        held = _holding(store, ("run", _safe("--run", run)))
        lifted = [_end(store, stop.id, "redirected", note) for stop in held]
    return _say_lifted(lifted, "goes on, its next request with the note", json=json)


def end(config: Path | None, run: str, *, reason: str, json: bool) -> int:
    """Refuse a run for good. One that nothing holds is held first: an end is the end of a pause."""
    with opened(settings(config).config) as store:
        standing = _standing(store, ("run", _safe("--run", run)))
        if not standing:
            wanted = _order(store, "run", run, "pause", reason or "ended by hand")
            standing = [store.add_stop(wanted)]
            _audit(store, "stop.pause", standing[0], reason)
        lifted = [
            _end(store, stop.id, "ended", why=reason) for stop in standing if stop.ended_at is None
        ]
    if not lifted:
        raise InputError(f"the run {run} was ended before: {standing[0].id}")
    return _say_lifted(lifted, "has ended: its calls stay refused", json=json)


def _standing(store: Store, scope: Scope) -> list[Stop]:
    return store.stops(standing=True, scope=scope[0], value=scope[1])


def _holding(store: Store, scope: Scope) -> list[Stop]:
    """Stops of a scope that can be lifted. Raises ``NotFound`` when there is none."""
    standing = _standing(store, scope)
    open_ones = [stop for stop in standing if stop.ended_at is None]
    if open_ones:
        return open_ones
    if standing:
        raise InputError(
            f"{_what(standing[0])} was ended for good by {fmt.visible(standing[0].ended_by or '')}"
            f" ({standing[0].id}); start a new run"
        )
    what = " ".join(part for part in scope if part)
    raise NotFound(f"nothing stops {what} itself; `tocsin stops` lists what stands")


def _end(store: Store, stop_id: str, ending: Ending, note: str = "", *, why: str = "") -> Stop:
    stop = store.end_stop(stop_id, ending, by=actor(), at=SystemClock().now_us(), note=note)
    _audit(store, f"stop.{ending}", stop, note or why)
    return stop


def _say_lifted(lifted: Sequence[Stop], how: str, *, json: bool) -> int:
    if json:
        output.print_json({"stops": [_plain(stop) for stop in lifted]})
    else:
        for stop in lifted:
            output.say(f"{_what(stop)} {how}. ({stop.id}, {stop.action})")
    return OK


# -- looking --


def listed(config: Path | None, *, lifted: bool, limit: int, json: bool) -> int:
    """Stops as a table, newest first; standing ones alone unless ``lifted``."""
    with opened(settings(config).config) as store:
        rows = store.stops(standing=not lifted, limit=limit)
    if json:
        output.print_json({"stops": [_plain(stop) for stop in rows]})
        return OK
    if not rows:
        output.say("Nothing is stopped." if not lifted else "Nothing was ever stopped.")
        return OK
    now = SystemClock().now_us()
    made = output.table(
        ("id", "what", "action", "since", "by", ">cut", ">time to stop", "state", "*why")
    )
    for stop in rows:
        made.add_row(
            stop.id,
            output.cell(" ".join(part for part in (stop.scope, stop.value) if part)),
            output.cell(stop.action, output.BAD if stop.action == "kill" else output.LOOK),
            fmt.ago(stop.at, now),
            output.cell(stop.by),
            fmt.count(stop.cut) if stop.action == "kill" else "",
            fmt.duration(stop.took_us) if stop.took_us is not None else "",
            _state(stop),
            output.cell(stop.reason, output.QUIET),
        )
    output.show(made)
    return OK


def _state(stop: Stop) -> Any:
    if stop.ended_at is None:
        return output.cell("in force", output.BAD)
    return output.cell(
        f"{stop.ending} by {stop.ended_by}", output.BAD if stop.standing else output.QUIET
    )


# -- words --


def _what(stop: Stop) -> str:
    """What a stop is about, as the beginning of a sentence."""
    if stop.scope == "all":
        return "Every call"
    return f"The {stop.scope} {fmt.visible(stop.value)}"


def _plain(stop: Stop) -> dict[str, object]:
    found: dict[str, object] = output.plain(stop)
    return found


def actor() -> str:
    """Who gives the order: the account that runs the command."""
    try:
        return f"cli ({getpass.getuser()})"
    except (OSError, KeyError):
        return "cli"


def _audit(store: Store, action: str, stop: Stop, detail: str) -> None:
    about = " ".join(part for part in (stop.scope, stop.value) if part)
    store.record_audit(
        AuditRow(
            at=SystemClock().now_us(),
            actor=actor(),
            action=action,
            target=stop.id,
            detail=f"{about}: {detail}",
        )
    )
