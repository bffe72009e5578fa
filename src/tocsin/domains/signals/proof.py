"""Holding a fast signal against a slow, graded one: does the proxy lie?

An objective's fast signal sees every call and can be blind to what matters. A graded sample
(labels, a judge) sees few calls and sees them well. Where both have judged a call they can be
compared; because people look at the comparison whenever they like, it is anytime-valid.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import msgspec

from tocsin.core.domain import Alert, Services
from tocsin.core.signals import Estimate, Objective, Scored, objective_scores
from tocsin.domains.signals.burning import DAY_US, Sliding
from tocsin.domains.signals.intervals import beta_cdf, wilson

ALPHA = 0.01
"""Chance that a proof ever contradicts an objective that is met, over one window."""
_PRIOR = 0.5
_MOST_NEEDED = 1_000_000
_EXAMPLES = 10
_AHEAD_US = 600_000_000

ProofVerdict = Literal["contradicts", "agrees", "underpowered"]


class ProofStanding(msgspec.Struct, frozen=True, kw_only=True):
    """What the graded signal says of an objective that the fast one says is met, or not."""

    signal: str
    """The graded one."""
    graded: Estimate | None
    """Share that it calls good; ``None`` without graded calls."""
    proxy: Estimate | None
    """Share of those same calls that the fast signal calls good."""
    verdict: ProofVerdict
    """``contradicts``: the objective is missed although the fast signal says that it is met."""
    needed: int
    """More graded calls before it could be told, should they go on as they have; 0: it is."""


def evidence(events: int, bad: int, allowed: float) -> float:
    """How strongly so many bad calls speak against "at most ``allowed`` are bad": an e-value.

    A mixture of likelihood ratios over all larger shares (Robbins, 1970), with Jeffreys' prior.
    While the objective is met its expectation is at most 1 at any time, so it ever reaches
    ``1 / ALPHA`` with chance ``ALPHA`` at most (Ville, 1939). 0 < ``allowed`` < 1.
    """
    if events <= 0:
        return 1.0
    a, b = _PRIOR + bad, _PRIOR + events - bad
    above = beta_cdf(1.0 - allowed, b, a)
    if above <= 0.0:
        return 0.0
    prior = beta_cdf(1.0 - allowed, _PRIOR, _PRIOR)
    log = _log_beta(a, b) + math.log(above) - _log_beta(_PRIOR, _PRIOR) - math.log(prior)
    log -= bad * math.log(allowed) + (events - bad) * math.log1p(-allowed)
    return math.exp(min(700.0, log))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def prove(
    signal: str, target: float, *, holds: bool, graded: int, graded_bad: int, proxy_bad: int
) -> ProofStanding:
    """What so many graded calls say.

    ``holds``: whether the fast signal says, of all calls, that the objective is met. The proof
    agrees when it finds the same: of an objective that is met, that at most twice the allowed
    share is bad (95 %).
    """
    allowed = 1.0 - target
    verdict, needed = _verdict(allowed, holds, graded, graded_bad)
    return ProofStanding(
        signal=signal,
        graded=_good(graded, graded_bad),
        proxy=_good(graded, proxy_bad),
        verdict=verdict,
        needed=needed,
    )


def _verdict(allowed: float, holds: bool, graded: int, bad: int) -> tuple[ProofVerdict, int]:
    if evidence(graded, bad, allowed) >= 1.0 / ALPHA:
        return ("contradicts" if holds else "agrees"), 0
    if holds and _close(graded, bad, allowed):
        return "agrees", 0
    share = bad / graded if graded else 0.0
    if share > allowed:
        total = _first(lambda n: evidence(n, round(share * n), allowed) >= 1.0 / ALPHA, graded)
    else:
        total = _first(lambda n: _close(n, round(share * n), allowed), graded)
    return "underpowered", max(1, total - graded)


def _close(graded: int, bad: int, allowed: float) -> bool:
    return graded > 0 and wilson(bad, graded).high <= min(1.0, 2.0 * allowed)


def _first(enough: Callable[[int], bool], start: int) -> int:
    """About the smallest number of calls that is enough: doubled, then halved between."""
    low, high = start, max(1, start)
    while not enough(high):
        low, high = high, high * 2
        if high >= _MOST_NEEDED:
            return _MOST_NEEDED
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _good(events: int, bad: int) -> Estimate | None:
    if events <= 0:
        return None
    found = wilson(events - bad, events)
    return Estimate(found.value, found.low, found.high, events)


class _Held(msgspec.Struct):
    """What one objective's proof has seen."""

    objective: Objective
    every: Sliding
    """What the fast signal says of all calls."""
    graded: Sliding
    proxy: Sliding
    """What it says of graded calls."""
    fooled: list[str]
    """Ids of the latest calls that the fast signal calls good and the graded one bad."""
    firing: bool = False


class _State(msgspec.Struct):
    definition: tuple[str, str, str, float]
    windows: list[tuple[int, bytes, bytes]]
    fooled: list[str]
    firing: bool


class Proofs:
    """Alerts when graded calls contradict an objective that the fast signal says is met."""

    name = "objective_proof"
    version = "1"

    def __init__(self, services: Services) -> None:
        self._services = services
        self._held: dict[str, _Held] = {}
        self._saved: dict[str, _State] = {}
        self._known: tuple[Objective, ...] | None = None
        self._ended: list[Alert] = []
        self._ticked = 0
        self._now = 0
        self._until_look = 0

    def observe(self, scored: Scored) -> Iterable[Alert]:
        """Alerts that fire or resolve with this call, or with a late grade of it."""
        self._until_look -= 1
        if self._until_look < 0:
            self._refresh()
        alerts, self._ended = self._ended, []
        interaction = scored.interaction
        if not self._held or interaction.attributes.get("time"):
            return alerts
        at = interaction.started_at + interaction.duration_us
        if self._ticked:
            at = min(at, self._ticked + _AHEAD_US)
        self._now = max(self._now, at)
        for held in self._held.values():
            if held.objective.feature == interaction.feature and self._take(held, scored, at):
                alerts += self._judge(held)
        return alerts

    def _take(self, held: _Held, scored: Scored, at: int) -> bool:
        """Count a call; whether it says something about the proof."""
        objective = held.objective
        values = {score.name: score.value for score in scored.scores}
        fast = values.get(objective.score_name())
        graded = values.get(objective.score_name("proof"))
        proxy = values.get(objective.score_name("proxy"))
        if fast is None and graded is None:
            made = objective_scores(
                scored.interaction, scored.scores, (objective,), self._services.catalogue()
            )
            values = {score.name: score.value for score in made}
            fast = values.get(objective.score_name())
            graded = values.get(objective.score_name("proof"))
            proxy = values.get(objective.score_name("proxy"))
        if fast is not None:
            held.every.add(at, fast < 0.5)
        if graded is None or proxy is None:
            return False
        held.graded.add(at, graded < 0.5)
        held.proxy.add(at, proxy < 0.5)
        if graded < 0.5 <= proxy:
            held.fooled = [*held.fooled[1 - _EXAMPLES :], scored.interaction.id]
        return True

    def _judge(self, held: _Held) -> list[Alert]:
        standing, holds = self._standing(held)
        contradicts = standing.verdict == "contradicts"
        if contradicts == held.firing:
            return []
        if held.firing and holds and not _over(held, standing):
            return []
        held.firing = contradicts
        return [self._alert(held, standing)]

    def _standing(self, held: _Held) -> tuple[ProofStanding, bool]:
        objective = held.objective
        events, bad = held.every.counts(self._now)
        graded, graded_bad = held.graded.surely(self._now)
        _, proxy_bad = held.proxy.surely(self._now)
        holds = not events or bad / events <= 1.0 - objective.target + 1e-12
        return prove(
            objective.proof,
            objective.target,
            holds=holds,
            graded=graded,
            graded_bad=graded_bad,
            proxy_bad=proxy_bad,
        ), holds

    def _alert(self, held: _Held, standing: ProofStanding) -> Alert:
        objective = held.objective
        events, bad = held.every.counts(self._now)
        return Alert(
            fingerprint=f"objective:{objective.name}:proof",
            detector=self.name,
            feature=objective.feature,
            severity="warning",
            state="firing" if held.firing else "resolved",
            at=self._now,
            summary=summary(objective, standing, round(events), round(bad), firing=held.firing),
            evidence=tuple(held.fooled),
            signal=objective.signal,
        )

    # -- objectives come and go --

    def tick(self, now_us: int) -> Iterable[Alert]:
        """What has ended by itself; looks at the objectives anew."""
        self._ticked = now_us
        self._now = max(self._now, now_us)
        self._refresh()
        alerts, self._ended = self._ended, []
        for held in self._held.values():
            if held.firing:
                alerts += self._judge(held)
        return alerts

    def _refresh(self) -> None:
        self._until_look = 1000
        objectives = self._services.objectives()
        if objectives == self._known:
            return
        self._known = objectives
        wanted = {objective.name: objective for objective in objectives if objective.proof}
        for name, held in list(self._held.items()):
            kept = wanted.get(name)
            if kept is not None and _definition(kept) == _definition(held.objective):
                held.objective = kept
                continue
            del self._held[name]
            if held.firing:
                held.firing = False
                self._ended.append(self._alert(held, self._standing(held)[0]))
        for name, objective in wanted.items():
            if name not in self._held:
                self._held[name] = self._begin(objective)

    def _begin(self, objective: Objective) -> _Held:
        window = round(objective.window_days * DAY_US)
        held = _Held(objective, Sliding(window), Sliding(window), Sliding(window), [])
        saved = self._saved.pop(objective.name, None)
        if saved is not None and saved.definition == _definition(objective):
            for sliding, state in zip(_windows(held), saved.windows, strict=True):
                sliding.restore(state)
            held.fooled, held.firing = saved.fooled, saved.firing
        return held

    # -- memory --

    def save(self) -> bytes:
        """What was counted."""
        return msgspec.msgpack.encode(
            {
                name: _State(
                    _definition(held.objective),
                    [sliding.dump() for sliding in _windows(held)],
                    held.fooled,
                    held.firing,
                )
                for name, held in self._held.items()
            }
        )

    def load(self, data: bytes) -> None:
        """Take over what was counted, for objectives that are still the same."""
        try:
            self._saved = msgspec.msgpack.decode(data, type=dict[str, _State])
        except msgspec.DecodeError as error:
            raise ValueError(f"no state of {self.name}: {error}") from None
        self._held, self._known = {}, None


def _over(held: _Held, standing: ProofStanding) -> bool:
    """Whether a contradiction is over, and not merely no longer as strong."""
    return standing.graded is None or standing.graded.high >= held.objective.target


def _windows(held: _Held) -> Sequence[Sliding]:
    return held.every, held.graded, held.proxy


def _definition(objective: Objective) -> tuple[str, str, str, float]:
    """What must be the same for counts to go on; the limits of a level count as well."""
    limits = f"{objective.signal}:{objective.at_most}:{objective.at_least}"
    return objective.feature, limits, objective.proof, objective.window_days


def summary(
    objective: Objective, proof: ProofStanding, events: int, bad: int, *, firing: bool
) -> str:
    """The sentence of a proof's alert. ``events`` and ``bad`` are the fast signal's, of all."""
    who = f"Objective {objective.name} of {objective.feature}"
    graded = proof.graded
    if not firing or graded is None:
        return f"{who}: {proof.signal} no longer contradicts {objective.signal}."
    said = "nothing yet"
    if events:
        said = f"{_percent((events - bad) / events)} of {events:,} calls good"
    same = "" if proof.proxy is None else f", where it says {_percent(proof.proxy.value)}"
    return (
        f"{who}: the proxy lies. {objective.signal} says {said}; {proof.signal} says "
        f"{_percent(graded.value)} of {graded.n:,} graded calls ({_percent(graded.low)} to "
        f"{_percent(graded.high)}){same}. The target is {_percent(objective.target)}."
    )


def _percent(share: float) -> str:
    return f"{round(100 * share, 2):g} %"


def proof_detector(services: Services) -> Proofs:
    """The detector, as ``Domain.detectors`` has it."""
    return Proofs(services)


__all__ = ["ALPHA", "ProofStanding", "Proofs", "evidence", "proof_detector", "prove"]
