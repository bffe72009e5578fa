"""What needs a person now: standing stops and firing alerts, in the words of every page."""

from collections.abc import Mapping, Sequence

import msgspec

from tocsin.core.domain import Alert
from tocsin.core.errors import InputError
from tocsin.core.signals import JUDGED_AXES
from tocsin.core.stops import Stop, StopScope
from tocsin.dashboard import filters, fmt, places
from tocsin.dashboard.filters import segment
from tocsin.dashboard.view import key_names
from tocsin.store.api import AlertRow, Store

SCOPES: tuple[StopScope, ...] = ("all", "feature", "key", "run")
_MOST = 1000
_SHOWN = 5
_SEVERITY_TONE = {"info": "ok", "warning": "look", "critical": "act"}
_RANK = {"critical": 0, "warning": 1, "info": 2}
_DONE = {"pause": "paused", "kill": "killed"}


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What a stop is about, as a form and a sentence name it."""

    scope: StopScope
    value: str
    name: str
    """As a person knows it: the run's title, the key's name."""
    href: str
    feature: str = ""
    """Of a run: its feature."""

    @property
    def code(self) -> str:
        """The target as one form field: ``feature:support-agent``."""
        return f"{self.scope}:{self.value}"

    @property
    def spoken(self) -> str:
        """The target inside of a sentence."""
        if self.scope == "all":
            return "everything"
        return f"the {self.scope} “{self.name}”" if self.scope != "run" else "this run"


class StopView(msgspec.Struct, frozen=True, kw_only=True):
    """A stop with what a page adds to it."""

    stop: Stop
    target: Target

    @property
    def state(self) -> str:
        """One word: ``paused``, ``killed``, ``ended for good``, ``resumed``, ``redirected``."""
        if self.stop.ended_at is None:
            return _DONE[self.stop.action]
        return "ended for good" if self.stop.ending == "ended" else str(self.stop.ending)

    @property
    def tone(self) -> str:
        """Red where calls are refused, nothing where it is over."""
        return "act" if self.stop.ended_at is None else "quiet"


class AlertView(msgspec.Struct, frozen=True, kw_only=True):
    """An alert with where it leads."""

    row: AlertRow
    tone: str
    href: str
    also: int = 0
    """Other alerts of the same feature that this line stands for."""

    @property
    def alert(self) -> Alert:
        """The last word on it."""
        return self.row.alert


class Attention(msgspec.Struct, frozen=True, kw_only=True):
    """The banner of the overview: the first few, and how many more there are."""

    stops: tuple[StopView, ...] = ()
    alerts: tuple[AlertView, ...] = ()
    more: int = 0


def attention(store: Store) -> Attention:
    """What needs a person; empty when all is well."""
    stops = standing(store)
    alerts = gathered(store.alerts(firing=True, limit=_MOST))
    shown = views(store, stops[:_SHOWN])
    return Attention(
        stops=tuple(shown),
        alerts=tuple(alerts[:_SHOWN]),
        more=max(0, len(stops) - _SHOWN) + max(0, len(alerts) - _SHOWN),
    )


def about(store: Store, feature: str) -> Attention:
    """What fires on one feature."""
    rows = [r for r in store.alerts(firing=True, limit=_MOST) if r.alert.feature == feature]
    return Attention(alerts=tuple(gathered(rows)[:_SHOWN]))


def gathered(rows: Sequence[AlertRow]) -> list[AlertView]:
    """Alerts, gravest first. One change shows in many signals: those of a feature are one line."""
    ordered = by_weight(rows)
    found: dict[str, list[AlertRow]] = {}
    for row in ordered:
        key = f"signal {row.alert.feature}" if row.alert.signal else row.alert.fingerprint
        found.setdefault(key, []).append(row)
    return [
        msgspec.structs.replace(alert_view(group[0]), also=len(group) - 1)
        for group in found.values()
    ]


def by_weight(rows: Sequence[AlertRow]) -> list[AlertRow]:
    """Alerts, gravest first, what says most of a feature before the rest."""
    return sorted(rows, key=lambda row: (_RANK[row.alert.severity], _told(row)))


def _told(row: AlertRow) -> tuple[bool, bool, int]:
    """An alert that says what changed before one that does not, an axis before its parts."""
    alert = row.alert
    return (alert.change is None, alert.signal not in JUDGED_AXES, -alert.at)


def standing(store: Store) -> list[Stop]:
    """Stops that somebody can still decide about, widest scope first, then newest.

    Runs that were ended for good stay refused, but wait for nobody.
    """
    found: list[Stop] = []
    for scope in SCOPES:
        stops = store.stops(standing=True, scope=scope, limit=_MOST)
        found += [stop for stop in stops if stop.ended_at is None]
    return found


def views(store: Store, stops: Sequence[Stop]) -> list[StopView]:
    """Stops with the names of what they are about."""
    keys = key_names(store) if any(stop.scope == "key" for stop in stops) else {}
    return [
        StopView(stop=stop, target=target(store, stop.scope, stop.value, keys, stop.feature))
        for stop in stops
    ]


def target(
    store: Store, scope: StopScope, value: str, keys: Mapping[str, str], feature: str = ""
) -> Target:
    """What a scope and its value mean to a person."""
    if scope == "all":
        return Target(scope=scope, value="", name="Everything", href="/calls")
    if scope == "run":
        run = store.run(value)
        name = fmt.one_line(run.title, 100) if run is not None and run.title else value
        return Target(
            scope=scope,
            value=value,
            name=fmt.one_line(name, 100),
            href=f"/runs/{segment(value)}",
            feature=run.feature if run is not None else feature,
        )
    name = keys.get(value, value) if scope == "key" else value
    field = "key_id" if scope == "key" else "feature"
    return Target(
        scope=scope,
        value=value,
        name=fmt.one_line(name, 80),
        href=filters.build("/calls", {field: value}),
    )


def read_target(code: str) -> tuple[StopScope, str]:
    """``feature:support-agent`` → scope and value. Raises ``InputError``."""
    scope, _, value = code.partition(":")
    found = next((known for known in SCOPES if known == scope), None)
    if found is None or (found == "all") == bool(value) or len(value) > 512:
        raise InputError(
            "Say what to stop: everything, a feature, a key or a run. Open the Supervisor page "
            "and choose it there."
        )
    return found, value


def holding(store: Store, run_id: str, feature: str, key_id: str | None) -> list[Stop]:
    """The standing stops that a run's next call would fall under, its own first."""
    places: list[tuple[StopScope, str]] = [("run", run_id), ("feature", feature)]
    if key_id is not None:
        places.append(("key", key_id))
    places.append(("all", ""))
    return [
        stop
        for scope, value in places
        for stop in store.stops(standing=True, scope=scope, value=value, limit=1)
    ]


def alert_view(row: AlertRow) -> AlertView:
    """An alert with its colour and the page that shows what it is about."""
    alert = row.alert
    if alert.signal:
        href = places.alert(alert)
    elif alert.evidence:
        href = f"/calls/{segment(alert.evidence[0])}"
    else:
        href = filters.build("/", {"feature": alert.feature}) if alert.feature else "/spend"
    tone = _SEVERITY_TONE[alert.severity] if alert.state == "firing" else "quiet"
    return AlertView(row=row, tone=tone, href=href)
