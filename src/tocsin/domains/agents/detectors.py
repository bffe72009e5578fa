"""``burn_rate``: alerts on how fast money goes, for what no limit covers."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator

import msgspec

from tocsin.core.domain import Alert, Services
from tocsin.core.interaction import SPAN_OPERATIONS, Interaction
from tocsin.core.signals import Scored
from tocsin.domains.agents.burn import DAY_S, HOUR_S, BurnRules, Excess, Scope, Spend

MOST_SUBJECTS = 3000
"""Features, keys and runs that are watched at once; the longest silent go first."""
_LOOK_AGAIN_S = 60
_TICK_S = 300
_LONGEST_S = 14 * DAY_S
"""After so long, what burns is what is usual."""


class _Firing(msgspec.Struct):
    excess: Excess
    since_s: int


class BurnRate:
    """Multi-window burn rates and growth of spend, for each feature, key and run.

    Alerts fire once and resolve once. ``resolved`` needs no more calls of the one that burned: the
    event time of any call will do.
    """

    name = "burn_rate"
    version = "1"

    def __init__(self, rules: BurnRules | None = None) -> None:
        self._rules = rules or BurnRules()
        self._subjects: OrderedDict[tuple[Scope, str], Spend] = OrderedDict()
        self._firing: dict[tuple[Scope, str], _Firing] = {}
        self._looked: dict[tuple[Scope, str], tuple[int, float]] = {}
        """When a subject was last judged, and what it has spent since then."""
        self._now_s = 0
        self._ticked_s = 0

    def observe(self, scored: Scored) -> Iterable[Alert]:
        """Alerts that fire or resolve with this call. Steps that are no model calls and calls whose
        time nobody knows do not count."""
        interaction = scored.interaction
        if not scored.first or interaction.operation in SPAN_OPERATIONS:
            return ()
        if interaction.attributes.get("time"):
            return ()
        usage, cost = interaction.usage, interaction.cost_nano_usd
        tokens = (usage.input_tokens or 0) + (usage.output_tokens or 0)
        if cost is None and not tokens:
            return ()
        at_s = interaction.started_at // 1_000_000
        self._now_s = max(self._now_s, at_s)
        usd = None if cost is None else cost / 1e9
        alerts = [
            alert
            for scope, value in _subjects(interaction)
            for alert in self._spent(scope, value, interaction, at_s, usd, tokens)
        ]
        if self._firing and self._now_s - self._ticked_s >= _TICK_S:
            self._ticked_s = self._now_s
            alerts += self._over()
        return alerts

    def _spent(
        self,
        scope: Scope,
        value: str,
        interaction: Interaction,
        at_s: int,
        usd: float | None,
        tokens: int,
    ) -> Iterator[Alert]:
        key = (scope, value)
        spend = self._subjects.get(key)
        if spend is None:
            spend = self._subjects[key] = Spend(scope, value, interaction.feature, at_s)
            self._forget()
        self._subjects.move_to_end(key)
        spend.add(at_s, usd, tokens, interaction.id)
        looked, since = self._looked.get(key, (0, 0.0))
        since += usd or 0.0
        if at_s - looked < _LOOK_AGAIN_S and since < self._rules.min_usd:
            self._looked[key] = (looked, since)
            return
        self._looked[key] = (at_s, 0.0)
        if key in self._firing:
            return
        excess = spend.excess(at_s, self._rules)
        if excess is not None:
            self._firing[key] = _Firing(excess, at_s)
            yield self._alert(spend, excess, "firing", at_s)

    def _forget(self) -> None:
        while len(self._subjects) > MOST_SUBJECTS:
            key, _ = self._subjects.popitem(last=False)
            self._looked.pop(key, None)

    def _over(self) -> Iterator[Alert]:
        """What no longer burns."""
        for key, firing in list(self._firing.items()):
            spend = self._subjects.get(key)
            if spend is None:
                del self._firing[key]
                scope, value = key
                gone = Spend(scope, value, "", firing.since_s)
                yield self._alert(gone, firing.excess, "resolved", self._now_s)
            elif self._has_ended(spend, firing):
                del self._firing[key]
                yield self._alert(spend, firing.excess, "resolved", self._now_s)

    def _has_ended(self, spend: Spend, firing: _Firing) -> bool:
        if self._now_s - firing.since_s > _LONGEST_S:
            return True
        excess = firing.excess
        if excess.kind == "growth":
            # What multiplied has to fall well below what it had come to.
            hours = 6
            return spend.spent(self._now_s, hours * HOUR_S) < excess.usd / (
                2 * excess.window_s / (hours * HOUR_S)
            )
        limit = excess.usual * self._rules.factor / 2
        return spend.spent(self._now_s, excess.window_s) < limit

    def _alert(self, spend: Spend, excess: Excess, state: str, at_s: int) -> Alert:
        return Alert(
            fingerprint=f"{self.name}:{spend.scope}:{spend.value}",
            detector=self.name,
            feature=spend.feature if spend.scope != "key" else "",
            severity="critical" if excess.steep else "warning",
            state="firing" if state == "firing" else "resolved",
            at=at_s * 1_000_000,
            summary=_summary(spend, excess, state, at_s),
            evidence=tuple(spend.recent),
        )


def burn_detector(services: Services) -> BurnRate:
    """The detector with the settings of ``[burn]``, as ``Domain.detectors`` has it."""
    burn = services.burn
    return BurnRate(BurnRules(factor=burn.factor, min_usd=burn.min_usd))


def _subjects(interaction: Interaction) -> Iterator[tuple[Scope, str]]:
    yield "feature", interaction.feature
    if interaction.key_id:
        yield "key", interaction.key_id
    yield "run", interaction.run_id


def _summary(spend: Spend, excess: Excess, state: str, at_s: int) -> str:
    who = f"{spend.scope} {spend.value}"
    if state == "resolved":
        return f"Spend of {who} no longer exceeds what is usual."
    if excess.kind == "growth":
        text = (
            f"Spend of {who} keeps multiplying: ${excess.usd:,.2f} in the last "
            f"{_span(excess.window_s)}, {excess.times:.1f} times what it was three such spans "
            "before, and more in each between."
        )
    else:
        text = (
            f"Spend of {who}: ${excess.usd:,.2f} in the last {_span(excess.window_s)}, "
            f"{excess.times:.1f} times the usual ${excess.usual:,.2f}; "
            f"${excess.short_usd:,.2f} of it in the last {_span(excess.short_s)}."
        )
    calls, tokens = spend.unpriced(at_s, min(excess.window_s, 6 * HOUR_S))
    if calls:
        text += f" Not counted: {calls:,} calls without a price, {tokens:,} tokens."
    return text


def _span(seconds: int) -> str:
    for size, word in ((DAY_S, "day"), (HOUR_S, "hour"), (60, "minute")):
        if seconds >= size:
            count = seconds // size
            return word if count == 1 else f"{count} {word}s"
    return f"{seconds} seconds"


__all__ = ["MOST_SUBJECTS", "BurnRate", "burn_detector"]
