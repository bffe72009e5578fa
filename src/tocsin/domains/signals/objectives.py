"""Objectives: the detector of burn rates, and how each objective stands by the store's sums."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, Protocol

import msgspec

from tocsin.core.domain import Alert, Services
from tocsin.core.signals import Estimate, Objective, Scored, Signal, Sum
from tocsin.domains.signals.burning import (
    DAY_US,
    FEWEST_BAD,
    HOUR_US,
    BurnState,
    Reading,
    rules,
    span,
)
from tocsin.domains.signals.intervals import wilson
from tocsin.domains.signals.proof import ProofStanding, prove

_MINUTES_US = 300_000_000
_FINE_US = DAY_US
"""Windows up to here are read from five-minute sums, longer ones from hourly ones."""
_AHEAD_US = 600_000_000
"""How far a call's time may lie in the future: clocks of other machines differ."""
_REFRESH = 1000
"""Calls after which settings are read anew where nobody ticks."""

State = Literal["ok", "burning", "spent", "too few events"]


# -- the detector --


class _Saved(msgspec.Struct, frozen=True):
    definition: str
    windows: dict[int, tuple[int, bytes, bytes]]
    recent: list[str]
    firing: dict[str, int]


class Objectives:
    """Burn-rate alerts on every objective.

    Alerts fire once and resolve once, each by its rule. Time is that of the calls, and of
    ``tick`` where there are none.
    """

    name = "objectives"
    version = "1"

    def __init__(self, services: Services) -> None:
        self._services = services
        self._by_feature: dict[str, list[tuple[Signal, BurnState]]] = {}
        self._states: dict[str, BurnState] = {}
        self._saved: dict[str, _Saved] = {}
        self._known: tuple[Objective, ...] | None = None
        self._ended: list[Alert] = []
        self._now = 0
        self._ticked = 0
        self._until_refresh = 0

    def observe(self, scored: Scored) -> Iterable[Alert]:
        """Alerts that fire or resolve with this call. A call counts at the time when it ended; one
        whose time nobody knows does not."""
        self._until_refresh -= 1
        if self._until_refresh < 0:
            self._refresh()
        alerts, self._ended = self._ended, []
        interaction = scored.interaction
        watched = self._by_feature.get(interaction.feature)
        if not watched or interaction.attributes.get("time"):
            return alerts
        at = interaction.started_at + interaction.duration_us
        if self._ticked:
            at = min(at, self._ticked + _AHEAD_US)
        self._now = max(self._now, at)
        for signal, state in watched:
            for score in scored.scores:
                if score.name == signal.name:
                    good = state.objective.good(signal, score.value)
                    if good is not None:
                        state.add(at, not good, interaction.id)
                        for reading in state.look(self._now, bad=not good):
                            alerts.append(self._alert(state, reading))
                    break
        return alerts

    def tick(self, now_us: int) -> Iterable[Alert]:
        """What no longer burns; looks at the objectives anew."""
        self._ticked = now_us
        self._now = max(self._now, now_us)
        self._refresh()
        alerts, self._ended = self._ended, []
        for state in self._states.values():
            alerts += [self._alert(state, found) for found in state.look(self._now, bad=False)]
        return alerts

    def _refresh(self) -> None:
        """Take over objectives that came, changed or went."""
        self._until_refresh = _REFRESH
        objectives = self._services.objectives()
        if objectives == self._known:
            return
        self._known = objectives
        catalogue = self._services.catalogue()
        before, self._states, self._by_feature = self._states, {}, {}
        for objective in objectives:
            signal = catalogue.get(objective.signal)
            if signal is None:
                continue
            kept = before.get(objective.name)
            if kept is not None and _definition(kept.objective) == _definition(objective):
                del before[objective.name]
                kept.objective = objective
                state = kept
            else:
                state = self._restored(objective)
            self._states[objective.name] = state
            self._by_feature.setdefault(objective.feature, []).append((signal, state))
        self._ended += [alert for state in before.values() for alert in self._gone(state)]

    def _gone(self, state: BurnState) -> Iterable[Alert]:
        """The end of what an objective that is no longer there was firing."""
        for rule in state.rules:
            if rule.name in state.firing:
                yield Alert(
                    fingerprint=_fingerprint(state.objective, rule.name),
                    detector=self.name,
                    feature=state.objective.feature,
                    severity=rule.severity,
                    state="resolved",
                    at=self._now,
                    summary=f"Objective {state.objective.name} was removed or changed.",
                    signal=state.objective.signal,
                )

    def _alert(self, state: BurnState, reading: Reading) -> Alert:
        objective = state.objective
        return Alert(
            fingerprint=_fingerprint(objective, reading.rule.name),
            detector=self.name,
            feature=objective.feature,
            severity=reading.rule.severity,
            state="firing" if reading.firing else "resolved",
            at=reading.at,
            summary=summary(objective, reading),
            evidence=tuple(state.recent),
            signal=objective.signal,
        )

    # -- memory --

    def save(self) -> bytes:
        """Windows and what fires."""
        states = {
            name: _Saved(
                _definition(state.objective), state.dump(), list(state.recent), state.firing
            )
            for name, state in self._states.items()
        }
        # Most steps of most windows are empty.
        return zlib.compress(msgspec.msgpack.encode(states), 1)

    def load(self, data: bytes) -> None:
        """Take over what was saved, for objectives that are still the same."""
        try:
            self._saved = msgspec.msgpack.decode(zlib.decompress(data), type=dict[str, _Saved])
        except (zlib.error, msgspec.DecodeError) as error:
            raise ValueError(f"no state of {self.name}: {error}") from None
        self._states, self._by_feature, self._known = {}, {}, None

    def _restored(self, objective: Objective) -> BurnState:
        state = BurnState(objective)
        saved = self._saved.pop(objective.name, None)
        if saved is not None and saved.definition == _definition(objective):
            state.restore(saved.windows)
            state.recent.extend(saved.recent)
            state.firing.update(saved.firing)
        return state


def objective_detector(services: Services) -> Objectives:
    """The detector, as ``Domain.detectors`` has it."""
    return Objectives(services)


def _definition(objective: Objective) -> str:
    """What must be the same for counts to go on."""
    return (
        f"{objective.feature} {objective.signal} {objective.at_most} {objective.at_least} "
        f"{objective.window_days}"
    )


def _fingerprint(objective: Objective, rule: str) -> str:
    return f"objective:{objective.name}:{rule}"


def summary(objective: Objective, reading: Reading) -> str:
    """The sentence of an alert, with its figures."""
    rule = reading.rule
    who = f"Objective {objective.name} of {objective.feature}"
    left = f"{_percent(reading.left)} of the budget is left"
    if reading.left < 0:
        spent = 1.0 - reading.left
        left = f"the budget of its last {objective.window_days:g} days is spent {spent:.3g} times"
    if not reading.firing:
        return (
            f"{who} burns at {reading.short:.3g} times the sustainable rate over "
            f"{span(rule.short_us)}: no longer at {rule.burn:g}. It began {_time(reading.since)}; "
            f"{left}."
        )
    return (
        f"{who} burns its budget {reading.long:.3g} times too fast over {span(rule.long_us)}, "
        f"{reading.short:.3g} times over {span(rule.short_us)} (alert at {rule.burn:g}): "
        f"{reading.bad:,} of {reading.events:,} calls are bad by {objective.signal}, since about "
        f"{_time(reading.since)}. {left[0].upper()}{left[1:]}."
    )


def _percent(share: float) -> str:
    return f"{round(100 * share, 1):g} %"


def _time(us: int) -> str:
    return f"{datetime.fromtimestamp(us / 1e6, UTC):%Y-%m-%d %H:%M} UTC"


# -- how they stand --


class Point(Protocol):
    """One step of a signal's sums (``store.SignalPoint``)."""

    @property
    def at(self) -> int: ...
    @property
    def sum(self) -> Sum: ...


class Sums(Protocol):
    """What a store can tell (``store.Store``)."""

    def signal_points(
        self,
        *,
        grain: Literal["minutes", "hour", "day"],
        since: int,
        until: int,
        feature: str | None = None,
        signal: str | None = None,
        dimension: str = "",
        value: str | None = None,
    ) -> Sequence[Point]:
        """Sums by step."""
        ...


class RuleStanding(msgspec.Struct, frozen=True, kw_only=True):
    """One alert rule of an objective, as it is now. Windows as names: ``1h``."""

    name: str
    severity: Literal["critical", "warning"]
    threshold: float
    """Burn rate at which it alerts."""
    long_window: str
    long: float | None
    """Burn rate; ``None`` without calls."""
    short_window: str
    short: float | None
    events: int
    """Calls in the long window."""
    burning: bool


class ObjectiveStanding(msgspec.Struct, frozen=True, kw_only=True):
    """How an objective stands."""

    name: str
    feature: str
    signal: str
    target: float
    at_most: float | None = None
    at_least: float | None = None
    window_days: float
    good: Estimate | None
    """Share of good calls over the window; ``None`` without calls."""
    events: int
    bad: int
    budget: float
    """Calls that may be bad, of those in the window: need not be whole."""
    used: float
    """Share of the budget that is spent; above 1 when the objective is missed. 0 without calls."""
    left: float
    """1 - ``used``."""
    burn_rates: dict[str, float]
    """Window (``5m``, ``1h``, ...) → burn rate, of windows that have calls."""
    rules: tuple[RuleStanding, ...]
    state: State
    """``burning``: a rule's windows both burn. ``spent``: no budget is left. ``too few events``:
    so few calls that a single bad one would spend the whole budget."""
    proof: ProofStanding | None = None


def standings(
    store: Sums, objectives: Sequence[Objective], catalogue: Mapping[str, Signal], now_us: int
) -> list[ObjectiveStanding]:
    """How every objective stands by the sums of a store. Raises what the store raises.

    Windows shorter than five minutes are told over five minutes; the detector, which sees every
    call, is finer.
    """
    return [_standing(store, objective, catalogue, now_us) for objective in objectives]


def _standing(
    store: Sums, objective: Objective, catalogue: Mapping[str, Signal], now: int
) -> ObjectiveStanding:
    read = _Reader(store, objective, catalogue.get(objective.signal), now)
    window = round(objective.window_days * DAY_US)
    events, good = read.counts(window)
    bad, allowed = events - good, 1.0 - objective.target
    found = tuple(_rule_standings(read, objective, allowed))
    used = bad / (allowed * events) if events else 0.0
    rates = {
        name: rate
        for rule in found
        for name, rate in ((rule.long_window, rule.long), (rule.short_window, rule.short))
        if rate is not None
    }
    return ObjectiveStanding(
        name=objective.name,
        feature=objective.feature,
        signal=objective.signal,
        target=objective.target,
        at_most=objective.at_most,
        at_least=objective.at_least,
        window_days=objective.window_days,
        good=_estimate(events, good),
        events=events,
        bad=bad,
        budget=allowed * events,
        used=used,
        left=1.0 - used,
        burn_rates=rates,
        rules=found,
        state=_state(found, events, used, objective, allowed),
        proof=_proof(read, objective, holds=bad <= allowed * events + 1e-9),
    )


def _state(
    found: Iterable[RuleStanding], events: int, used: float, objective: Objective, allowed: float
) -> State:
    if any(rule.burning for rule in found):
        return "burning"
    if events < objective.min_events or events * allowed < 1.0:
        return "too few events"
    return "spent" if used >= 1.0 - 1e-9 else "ok"


def _rule_standings(
    read: "_Reader", objective: Objective, allowed: float
) -> Iterable[RuleStanding]:
    for rule in rules(objective.window_days):
        events, bad, long = _rate(read, rule.long_us, allowed)
        _, _, short = _rate(read, rule.short_us, allowed)
        yield RuleStanding(
            name=rule.name,
            severity=rule.severity,
            threshold=rule.burn,
            long_window=span(rule.long_us),
            long=long,
            short_window=span(rule.short_us),
            short=short,
            events=events,
            burning=events >= objective.min_events
            and bad >= FEWEST_BAD
            and min(long or 0.0, short or 0.0) >= rule.burn * (1.0 - 1e-9),
        )


def _rate(read: "_Reader", window_us: int, allowed: float) -> tuple[int, int, float | None]:
    """Calls, bad calls, burn rate."""
    events, good = read.counts(window_us)
    bad = events - good
    return events, bad, bad / events / allowed if events else None


def _proof(read: "_Reader", objective: Objective, *, holds: bool) -> ProofStanding | None:
    if not objective.proof:
        return None
    window = round(objective.window_days * DAY_US)
    graded, graded_good = read.counts(window, "proof")
    same, proxy_good = read.counts(window, "proxy")
    return prove(
        objective.proof,
        objective.target,
        holds=holds,
        graded=graded,
        graded_bad=graded - graded_good,
        proxy_bad=same - proxy_good,
    )


def _estimate(events: int, good: int) -> Estimate | None:
    if events <= 0:
        return None
    found = wilson(good, events)
    return Estimate(found.value, found.low, found.high, events)


class _Reader:
    """One objective's sums, each series read once."""

    def __init__(self, store: Sums, objective: Objective, signal: Signal | None, now: int) -> None:
        self._store = store
        self._objective = objective
        self._signal = signal
        self._now = now
        self._read: dict[tuple[str, bool], list[tuple[int, int, int]]] = {}

    def counts(
        self, window_us: int, part: Literal["objective", "proof", "proxy"] = "objective"
    ) -> tuple[int, int]:
        """Calls and good calls of the window that ends now, to a call.

        Of the step that lies half outside, the share of its time that is inside.
        """
        fine = window_us <= _FINE_US and part == "objective"
        step = _MINUTES_US if fine else HOUR_US
        since = self._now - max(window_us, _MINUTES_US)
        events = good = 0.0
        for at, n, kept in self._steps(part, fine):
            inside = min(1.0, (at + step - since) / step)
            if inside > 0.0:
                events += inside * n
                good += inside * kept
        return round(events), min(round(events), round(good))

    def _steps(
        self, part: Literal["objective", "proof", "proxy"], fine: bool
    ) -> list[tuple[int, int, int]]:
        """Steps with their calls and good calls."""
        found = self._read.get((part, fine))
        if found is None:
            sums = self._sums(self._objective.score_name(part), fine)
            found = [(at, values.n, round(values.total)) for at, values in sums.items()]
            if part == "objective":
                found = self._with_earlier(sums, fine)
            self._read[part, fine] = found
        return found

    def _with_earlier(self, own: Mapping[int, Sum], fine: bool) -> list[tuple[int, int, int]]:
        """Before there was the objective, its rate's own sums stand in."""
        signal, objective = self._signal, self._objective
        steps = {at: (values.n, round(values.total)) for at, values in own.items()}
        limited = objective.at_most is not None or objective.at_least is not None
        if signal is not None and not limited and signal.kind == "rate":
            for at, values in self._sums(signal.name, fine).items():
                good = values.total if signal.better == "up" else values.n - values.total
                if values.n > steps.get(at, (0, 0))[0] and signal.better != "neither":
                    steps[at] = values.n, round(good)
        return [(at, n, good) for at, (n, good) in sorted(steps.items())]

    def _sums(self, name: str, fine: bool) -> dict[int, Sum]:
        window = _FINE_US if fine else round(self._objective.window_days * DAY_US)
        step = _MINUTES_US if fine else HOUR_US
        points = self._store.signal_points(
            grain="minutes" if fine else "hour",
            since=(self._now - window) // step * step,
            until=self._now + 1,
            feature=self._objective.feature,
            signal=name,
        )
        return {point.at: point.sum for point in points}


__all__ = [
    "ObjectiveStanding",
    "Objectives",
    "RuleStanding",
    "State",
    "objective_detector",
    "standings",
]
