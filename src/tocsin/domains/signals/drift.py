"""``drift``: alarms when a signal of a feature is no longer what it was.

Every signal of every feature has a ``Watch``. The false alarms of a feature are shared out among
its watches, so that all together ring as seldom as it is set. An alarm fires once, says what
changed, and resolves when the signal is back, when a person calls the new level normal, or when the
change has stood so long that it is what is normal.
"""

import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

import msgspec

from tocsin.core.domain import Alert, Services
from tocsin.core.signals import (
    UNJUDGED,
    Scored,
    Signal,
    SignalSettings,
    Sum,
    signal_named,
)
from tocsin.domains.signals.baseline import FEWEST
from tocsin.domains.signals.change import Found, change_of, severity_of, summary_of
from tocsin.domains.signals.joint import JOINED, changed_too
from tocsin.domains.signals.rows import Row, Rows
from tocsin.domains.signals.seasons import DAY_US
from tocsin.domains.signals.standing import Standing, standing_of
from tocsin.domains.signals.unjudged import Blind, Unjudged, alert_of
from tocsin.domains.signals.watch import Rang, Watch, WatchState

MOST_FEATURES = 32
"""Features that are watched at once; the longest silent go first."""
MOST_SIGNALS = 64
_LOOK_EVERY = 32
"""Calls of a feature after which settings, and what people accepted, are read again."""
_LONGEST_US = 14 * DAY_US
"""A change that has stood so long is what is normal."""
_MARGIN = (0.75, 1.5)
"""How far a signal's share of false alarms may move before its limits are made anew."""


class _Saved(msgspec.Struct):
    name: str
    count: int
    first_at: int
    last_at: int
    rows: tuple[int, list[Row], list[Row]]
    watches: dict[str, WatchState]
    alerts: dict[str, Alert]
    learned: dict[str, int]
    joined: int
    joined_at: int
    blind: Blind = msgspec.field(default_factory=Blind)


class _State(msgspec.Struct):
    version: str
    features: list[_Saved]


class Feature:
    """The watches of one feature, what it remembers of its calls, and its alarms that stand."""

    __slots__ = (
        "alerts", "count", "first_at", "joined", "joined_at", "last_at", "learned", "name",
        "rows", "settings", "unjudged", "watches",
    )  # fmt: skip

    def __init__(self, name: str, settings: SignalSettings) -> None:
        self.name = name
        self.settings = settings
        self.watches: dict[str, Watch] = {}
        self.rows = Rows()
        self.alerts: dict[str, Alert] = {}
        self.learned: dict[str, int] = {}
        """Since when what a person accepted is taken into account, by signal."""
        self.count = 0
        self.first_at = 0
        self.last_at = 0
        self.joined = 0
        """Calls that are still asked which signals changed together."""
        self.joined_at = 0
        self.unjudged = Unjudged(Blind(), self._made_blind)

    def _made(self, state: WatchState) -> Watch:
        return Watch(state, full=self.settings.baseline_calls, every=self.every)

    def _made_blind(self, name: str, state: WatchState) -> Watch:
        full = self.settings.baseline_calls
        return Watch(state, full=full, every=lambda _: self.every_blind(name))

    def blind(self, state: Blind) -> None:
        """Take over what was remembered of what could not be judged."""
        self.unjudged = Unjudged(state, self._made_blind)

    def watch(self, name: str, state: WatchState) -> Watch:
        """A watch that shares this feature's false alarms."""
        made = self.watches[name] = self._made(state)
        return made

    def false_alarm_every(self) -> float:
        """Calls between false alarms, over all signals together."""
        span = max(self.last_at - self.first_at, DAY_US)
        per_day = self.count * DAY_US / span
        return max(float(self.settings.false_alarm_calls), self.settings.false_alarm_days * per_day)

    def active(self) -> int:
        """Signals that share the false alarms."""
        every = (*self.watches.values(), *self.unjudged.watches.values())
        return max(1, sum(1 for watch in every if watch.state.judged >= FEWEST))

    def every(self, watch: Watch) -> float:
        """Judged values of a watch between its false alarms: its even share of the feature's."""
        return self._share_of(watch.state.judged)

    def every_blind(self, name: str) -> float:
        """The same for the calls that a signal should judge."""
        of = self.watches.get(name)
        if of is None or name in self.unjudged.state.always:
            return self._share_of(self.count)
        return self._share_of(of.state.judged + of.state.unjudged)

    def _share_of(self, values: int) -> float:
        share = min(1.0, values / self.count) if self.count else 1.0
        return max(100.0, self.false_alarm_every() * self.active() * share)

    def off(self, signal: str) -> bool:
        """Whether a signal never alarms."""
        return any(fnmatchcase(signal, glob) for glob in self.settings.off)


class Drift:
    """The detector. Its state is bounded, outlives the process, and is owned by one thread."""

    name = "drift"
    version = "1"

    def __init__(self, services: Services) -> None:
        self._services = services
        self._features: OrderedDict[str, Feature] = OrderedDict()

    # -- as a detector --

    def observe(self, scored: Scored) -> Iterable[Alert]:
        """Alerts that fire or resolve with this call. What was not judged does not count."""
        call = scored.interaction
        if not scored.scores:
            return ()
        alerts: list[Alert] = []
        feature = self._feature(call.feature, alerts)
        at = call.started_at + call.duration_us
        if scored.first:
            feature.count += 1
            feature.first_at = feature.first_at or at
        feature.last_at = max(feature.last_at, at)
        timed = call.attributes.get("time") != "unknown"
        if feature.count % _LOOK_EVERY == 0:
            alerts += self._look(feature)
        rang = self._took(feature, scored, at, timed=timed)
        alerts += self._blind(feature, scored, at, timed=timed)
        for signal, watch, found in rang:
            if not found.over:
                alerts += self._ended(
                    feature, signal.name, "has changed further: see its new alarm"
                )
            alerts.append(self._told(feature, signal, watch, found, at))
        began = [found.firing.mark[3] for _, _, found in rang if not found.over]
        if began:
            self._join(feature, min(began), at)
        if feature.joined:
            alerts += self._together(feature, at)
        return alerts

    def _took(
        self, feature: Feature, scored: Scored, at: int, *, timed: bool
    ) -> list[tuple[Signal, Watch, Rang]]:
        """Show each value to its watch; those that rang."""
        catalogue = self._services.catalogue()
        values: dict[str, float] = {}
        rang: list[tuple[Signal, Watch, Rang]] = []
        for score in scored.scores:
            signal = catalogue.get(score.name)
            if signal is None:
                continue
            watch = feature.watches.get(score.name)
            if watch is None:
                watch = self._begin(feature, signal)
                if watch is None:
                    continue
            if score.value is None:
                watch.state.unjudged += 1
                continue
            value = score.value
            values[score.name] = value
            found = watch.add(signal.inner(value) if signal.log else value, at, timed=timed)
            if found is not None:
                rang.append((signal, watch, found))
        feature.rows.put(scored.interaction.id, at, scored.slices, values)
        return rang

    def _blind(self, feature: Feature, scored: Scored, at: int, *, timed: bool) -> list[Alert]:
        """Look at what could not be judged of a call."""
        unjudged, catalogue = feature.unjudged, self._services.catalogue()
        found = unjudged.of(scored, feature.watches)
        lost = {f"{UNJUDGED}{name}": 1.0 for name, blind in found.items() if blind}
        if lost:
            feature.rows.put(scored.interaction.id, at, scored.slices, lost)
        alerts: list[Alert] = []
        for name, blind in found.items():
            signal, past = catalogue.get(name), feature.watches[name].state
            if signal is None:
                continue
            full = feature.settings.baseline_calls
            watch = unjudged.watch(name, past, at, full=full, timed=timed)
            rang = watch.add(blind, at, timed=timed)
            if rang is not None:
                alerts += self._blinded(feature, signal, rang, at)
        return alerts

    def _blinded(self, feature: Feature, signal: Signal, rang: Rang, at: int) -> list[Alert]:
        """What rings when a signal stops being judged, or is judged again."""
        unjudged, name = feature.unjudged, signal.name
        key = f"{UNJUDGED}{name}"
        if rang.over:
            unjudged.state.named.pop(name, None)
            alerts = self._ended(feature, key, "is back at its baseline")
            return alerts + self._left(feature, name, at)
        since = rang.firing.mark[3]
        others = unjudged.together(name, feature.rows, since, feature.count)
        if others is None:
            return []
        alerts = self._ended(feature, key, "has changed further: see its new alarm")
        alert = alert_of(
            signal, feature.name, unjudged.watches[name], rang, at, feature.rows,
            every=feature.false_alarm_every(), why=unjudged.state.why.get(name, ""), others=others,
        )  # fmt: skip
        feature.alerts[key] = alert
        return [*alerts, alert]

    def _left(self, feature: Feature, name: str, at: int) -> list[Alert]:
        """Alarms of those that only the alarm of ``name`` has told of, where they go on."""
        alerts = []
        for other in feature.unjudged.freed(name):
            signal, firing = self._services.catalogue().get(other), feature.unjudged.watches[other]
            if signal is not None and firing.state.firing is not None:
                feature.unjudged.state.until = 0
                alerts += self._blinded(feature, signal, Rang(firing.state.firing), at)
        return alerts

    def tick(self, now_us: int) -> Iterable[Alert]:
        """What people accepted takes effect also where no calls come."""
        return [alert for feature in self._features.values() if feature.alerts
                for alert in self._look(feature)]  # fmt: skip

    def save(self) -> bytes:
        """The state, after the last ``observe``."""
        features = [
            _Saved(
                feature.name, feature.count, feature.first_at, feature.last_at,
                feature.rows.save(), {n: w.state for n, w in feature.watches.items()},
                feature.alerts, feature.learned, feature.joined, feature.joined_at,
                feature.unjudged.state,
            )
            for feature in self._features.values()
        ]  # fmt: skip
        return zlib.compress(msgspec.msgpack.encode(_State(self.version, features)), 1)

    def load(self, data: bytes) -> None:
        """Take over a state saved by the same version. Raises ``ValueError`` when it cannot."""
        try:
            state = msgspec.msgpack.decode(zlib.decompress(data), type=_State)
        except zlib.error as error:
            raise ValueError(f"the state cannot be unpacked: {error}") from error
        if state.version != self.version:
            raise ValueError(f"state of version {state.version}, not {self.version}")
        self._features.clear()
        for saved in state.features:
            feature = self._feature(saved.name, [])
            feature.count = saved.count
            feature.joined, feature.joined_at = saved.joined, saved.joined_at
            feature.first_at, feature.last_at = saved.first_at, saved.last_at
            feature.rows = Rows.load(saved.rows)
            feature.alerts, feature.learned = saved.alerts, saved.learned
            for name, watch in saved.watches.items():
                feature.watch(name, watch)
            feature.blind(saved.blind)

    # -- for pages and backtests --

    def standing(self, feature: str, signal: str) -> Standing | None:
        """How a signal stands; ``None`` where nothing was seen of it."""
        known, of_name = self._features.get(feature), self._services.catalogue().get(signal)
        if known is None or of_name is None or signal not in known.watches:
            return None
        watch = known.watches[signal]
        return standing_of(of_name, watch.state, known.alerts.get(signal))

    def standings(self) -> Iterator[tuple[str, Standing]]:
        """(feature, standing) of every signal that was seen."""
        for name, feature in self._features.items():
            for signal in feature.watches:
                found = self.standing(name, signal)
                if found is not None:
                    yield name, found

    # -- within --

    def _feature(self, name: str, alerts: list[Alert]) -> Feature:
        """The feature of that name; what stands of one that has to go for it is resolved."""
        feature = self._features.get(name)
        if feature is None:
            feature = self._features[name] = Feature(name, self._services.signals(name))
            if len(self._features) > MOST_FEATURES:
                _, gone = self._features.popitem(last=False)
                for signal in list(gone.alerts):
                    alerts += self._ended(gone, signal, "is no longer watched: no calls came")
        self._features.move_to_end(name)
        return feature

    def _begin(self, feature: Feature, signal: Signal) -> Watch | None:
        if feature.off(signal.name) or len(feature.watches) >= MOST_SIGNALS:
            return None
        return feature.watch(signal.name, WatchState(rate=signal.kind == "rate"))

    def _look(self, feature: Feature) -> list[Alert]:
        """Take over settings and what people accepted; let go of what has stood too long."""
        feature.settings = self._services.signals(feature.name)
        alerts = []
        for name in list(feature.watches):
            watch = feature.watches[name]
            if feature.off(name):
                del feature.watches[name]
                feature.unjudged.forget(name)
                for key in (name, f"{UNJUDGED}{name}"):
                    alerts += self._ended(feature, key, "is no longer watched")
                continue
            accepted = self._services.accepted(feature.name, name)
            if accepted > feature.learned.get(name, 0):
                feature.learned[name] = accepted
                began = watch.state.firing.mark[3] if watch.state.firing else 0
                if accepted >= began and accepted > watch.state.first_at:
                    self._relearn(feature, name, accepted)
                    alerts += self._ended(feature, name, "is normal as it is now, a person said")
                alerts += self._accepted(feature, name, accepted)
            firing = watch.state.firing
            if firing is not None and feature.last_at - firing.at > _LONGEST_US:
                self._relearn(feature, name, firing.mark[3])
                alerts += self._ended(feature, name, "has been like this for 14 days: learned anew")
            elif watch.state.baseline is not None and firing is None:
                low, high = _MARGIN
                if not low <= feature.every(watch) / watch.state.every <= high:
                    watch.limit()
        return alerts + self._look_blind(feature)

    def _accepted(self, feature: Feature, name: str, accepted: int) -> list[Alert]:
        """Who accepts a signal's level accepts how much of it cannot be judged."""
        watch = feature.unjudged.watches.get(name)
        firing = watch.state.firing if watch is not None else None
        if firing is None or accepted < firing.mark[3]:
            return []
        feature.unjudged.anew(name)
        return self._ended(feature, f"{UNJUDGED}{name}", "is normal as it is now, a person said")

    def _look_blind(self, feature: Feature) -> list[Alert]:
        """Limits of what cannot be judged; and what has been so for long is what is normal."""
        alerts, (low, high) = [], _MARGIN
        for name, watch in list(feature.unjudged.watches.items()):
            firing, state = watch.state.firing, watch.state
            if firing is not None and feature.last_at - firing.at > _LONGEST_US:
                feature.unjudged.anew(name)
                why = "has been like this for 14 days: learned anew"
                alerts += self._ended(feature, f"{UNJUDGED}{name}", why)
                alerts += self._left(feature, name, feature.last_at)
                continue
            moved = feature.every_blind(name) / (state.every or 1.0)
            if state.baseline is not None and firing is None and not low <= moved <= high:
                watch.limit()
        return alerts

    def _relearn(self, feature: Feature, name: str, since: int) -> None:
        """A new baseline from what is remembered since then."""
        old = feature.watches[name].state
        watch = feature.watch(name, WatchState(rate=old.rate))
        signal = self._services.catalogue().get(name)
        if signal is None:
            return
        for row in feature.rows.since(since):
            if name not in row.values:
                continue
            watch.add(signal.inner(row.values[name]), row.at)
            if watch.state.firing is not None:  # it has not settled down yet: begin again
                watch = feature.watch(name, WatchState(rate=old.rate))

    def _ended(self, feature: Feature, name: str, why: str) -> list[Alert]:
        alert = feature.alerts.pop(name, None)
        if alert is None:
            return []
        signal = signal_named(self._services.catalogue(), name)
        title = signal.title if signal is not None else name
        return [_resolved(alert, feature.last_at, f"{title} of `{feature.name}` {why}.")]

    def _told(self, feature: Feature, signal: Signal, watch: Watch, rang: Rang, at: int) -> Alert:
        firing = rang.firing
        base = watch.state.baseline
        if rang.over:
            text = f"{signal.title} of `{feature.name}` is back at its baseline."
            alert = feature.alerts.pop(signal.name, None)
            return _resolved(alert or _empty(feature.name, signal.name, firing.at), at, text)
        found = Found(
            signal=signal,
            feature=feature.name,
            since=firing.mark[3],
            at=at,
            before=base.before if base is not None else Sum(),
            after=watch.since(firing.mark),
            method=firing.method,
            false_alarm_every=feature.false_alarm_every(),
        )
        change = change_of(found, feature.rows)
        alert = Alert(
            fingerprint=_fingerprint(feature.name, signal.name, firing.at),
            detector=self.name,
            feature=feature.name,
            severity=severity_of(signal, change, found.before, found.after),
            state="firing",
            at=at,
            summary=summary_of(found, change),
            evidence=change.examples_after,
            signal=signal.name,
            change=change,
        )
        feature.alerts[signal.name] = alert
        return alert

    # -- signals that change together --

    def _join(self, feature: Feature, since: int, at: int) -> None:
        """Ask all others whether they changed at the same time."""
        again = feature.joined > 0
        feature.joined = JOINED
        if again and since <= feature.joined_at:
            return  # the same moment: it is being asked already
        if not again:
            feature.joined_at = at
        asked = {
            name: watch
            for name, watch in feature.watches.items()
            if watch.state.firing is None and watch.state.baseline is not None
        }
        before = {name: (watch.state.joint, watch.evidence()) for name, watch in asked.items()}
        for watch in asked.values():
            watch.join(since)
        catalogue = self._services.catalogue()
        for row in feature.rows.since(since):
            for name, value in row.values.items():
                if name in asked and name in catalogue:
                    asked[name].rescore(catalogue[name].inner(value), row.at)
        for name, (joint, evidence) in before.items():
            asked[name].keep(joint, evidence)

    def _together(self, feature: Feature, at: int) -> list[Alert]:
        feature.joined -= 1
        firing = [
            watch
            for watch in feature.watches.values()
            if watch.state.firing is not None and watch.state.firing.at >= feature.joined_at
        ]
        if not feature.joined or not firing:
            for watch in feature.watches.values():
                watch.state.joint = None
            feature.joined = 0
            return []
        evidence = {
            name: watch.evidence()
            for name, watch in feature.watches.items()
            if watch.state.joint is not None
        }
        catalogue = self._services.catalogue()
        alerts = []
        for name in changed_too(evidence, firing=len(firing), signals=feature.active()):
            watch = feature.watches[name]
            if name in catalogue:
                found = watch.joined(at)
                alerts.append(self._told(feature, catalogue[name], watch, found, at))
        return alerts


def _fingerprint(feature: str, signal: str, at: int) -> str:
    return f"drift:{feature}:{signal}:{at}"


def _empty(feature: str, signal: str, at: int) -> Alert:
    return Alert(
        fingerprint=_fingerprint(feature, signal, at), detector=Drift.name, feature=feature,
        severity="info", state="firing", at=at, summary="", signal=signal,
    )  # fmt: skip


def _resolved(alert: Alert, at: int, text: str) -> Alert:
    return msgspec.structs.replace(alert, state="resolved", at=max(at, alert.at), summary=text)


def drift_detector(services: Services) -> Drift:
    """The detector as ``Domain.detectors`` has it."""
    return Drift(services)


__all__ = ["MOST_FEATURES", "Drift", "Feature", "drift_detector"]
