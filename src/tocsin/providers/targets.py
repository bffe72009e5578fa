"""Which upstreams a call may go to, and in which order."""

import random
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from tocsin.config.model import Config, Upstream
from tocsin.config.model import Target as TargetSettings
from tocsin.core.call import Call
from tocsin.core.errors import BadRequest, Unavailable
from tocsin.core.interaction import Dialect
from tocsin.core.policy import Provider
from tocsin.providers.circuit import Circuit, RouterStats, UpstreamStats

_DEFAULT = Upstream.model_validate({})
_EVERY: frozenset[Dialect] = frozenset({"openai", "anthropic"})


class Target:
    """One upstream as one feature uses it. The circuit and the counts are the upstream's."""

    __slots__ = (
        "backoff_s",
        "circuit",
        "label",
        "model",
        "name",
        "provider",
        "retries",
        "stats",
        "weight",
    )

    def __init__(
        self,
        name: str,
        provider: Provider,
        settings: Upstream,
        circuit: Circuit,
        stats: UpstreamStats,
        *,
        model: str = "",
        weight: float = 1.0,
    ) -> None:
        self.name = name
        self.provider = provider
        self.circuit = circuit
        self.stats = stats
        self.label: str = getattr(provider, "label", provider.kind)
        self.retries = settings.retries
        self.backoff_s = settings.backoff_s
        self.model = model
        self.weight = weight


Tier = tuple[Target, ...]
Plan = tuple[Tier, ...]
"""Tiers of targets, first choice first; never empty."""


class Targets:
    """Finds the plan of each call. Plans are remembered by feature, dialect and model."""

    def __init__(
        self, config: Config, providers: Mapping[str, Provider], stats: RouterStats
    ) -> None:
        self._config = config
        self._providers = providers
        self._stats = stats
        self._circuits: dict[str, Circuit] = {}
        self._plans: dict[tuple[str, str, str], Plan] = {}
        # In the order of the configuration, which decides between several that match.
        known = [name for name in config.upstreams if name in providers]
        self._names = known + [name for name in providers if name not in config.upstreams]

    def plan(self, call: Call) -> Plan:
        """The tiers for ``call``. Raises ``BadRequest`` or ``Unavailable`` when there is none."""
        # Features without settings share one plan: their names come from callers.
        feature = call.feature if call.feature in self._config.features else ""
        key = (feature, call.dialect, call.model)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= 4096:
                self._plans.clear()
            plan = self._plans[key] = self._find(feature, call.dialect, call.model)
        return plan

    def _find(self, feature: str, dialect: Dialect, model: str) -> Plan:
        settings = self._config.features.get(feature)
        if settings is not None and settings.targets:
            return self._of_feature(feature, settings.targets, dialect)
        names = [name for name in self._names if dialect in self._dialects(name)]
        if not names:
            raise self._no_dialect(self._names, dialect)
        for name in names:
            globs = self._settings(name).models
            if not model or any(fnmatchcase(model, glob) for glob in globs):
                return ((self._target(name),),)
        serve = "; ".join(f"{name}: {', '.join(self._settings(name).models)}" for name in names)
        raise BadRequest(
            f"No upstream serves the model {model!r}. Configured: {serve}.",
            status=404,
            code="model_not_found",
            param="model",
        )

    def _of_feature(
        self, feature: str, targets: Sequence[TargetSettings], dialect: Dialect
    ) -> Plan:
        tiers: dict[int, list[Target]] = {}
        for target in targets:
            if target.upstream not in self._providers:
                raise Unavailable(
                    f"Feature {feature!r} names the upstream {target.upstream!r}, which is not "
                    "configured.",
                    retryable=False,
                )
            if dialect in self._dialects(target.upstream) and target.weight > 0:
                made = self._target(target.upstream, model=target.model, weight=target.weight)
                tiers.setdefault(target.tier, []).append(made)
        if not tiers:
            raise self._no_dialect([target.upstream for target in targets], dialect)
        return tuple(tuple(tiers[number]) for number in sorted(tiers))

    def _target(self, name: str, *, model: str = "", weight: float = 1.0) -> Target:
        settings = self._settings(name)
        circuit = self._circuits.get(name)
        if circuit is None:
            circuit = Circuit(settings.cooldown_failures, int(settings.cooldown_s * 1_000_000))
            self._circuits[name] = circuit
        stats = self._stats.of(name)
        provider = self._providers[name]
        return Target(name, provider, settings, circuit, stats, model=model, weight=weight)

    def _settings(self, name: str) -> Upstream:
        return self._config.upstreams.get(name, _DEFAULT)

    def _dialects(self, name: str) -> frozenset[Dialect]:
        found: frozenset[Dialect] = getattr(self._providers[name], "dialects", _EVERY)
        return found

    def _no_dialect(self, names: Sequence[str], dialect: Dialect) -> BadRequest | Unavailable:
        if not names:
            return Unavailable(
                "No upstream is configured. Add an [upstreams.NAME] table to tocsin.toml, or set "
                "OPENAI_API_KEY or ANTHROPIC_API_KEY.",
                retryable=False,
            )
        have = ", ".join(
            f"{name!r} ({' and '.join(sorted(self._dialects(name)))})" for name in names
        )
        return BadRequest(
            f"This request speaks the {dialect} dialect, which no upstream of this feature does: "
            f"{have}. Add an upstream of kind {dialect!r}, or call the other API.",
            code="dialect_mismatch",
        )


def arrange(plan: Plan, rng: random.Random) -> list[Target]:
    """The targets in the order in which to try them.

    Lower tiers first; within a tier at random by weight.
    """
    order: list[Target] = []
    for tier in plan:
        order += tier if len(tier) == 1 else _shuffled(tier, rng)
    return order


def _shuffled(tier: Tier, rng: random.Random) -> list[Target]:
    """A random order in which each target comes first as often as its weight says."""
    left = list(tier)
    order = []
    while len(left) > 1:
        mark = rng.random() * sum(target.weight for target in left)
        for index, target in enumerate(left):
            mark -= target.weight
            if mark < 0 or index == len(left) - 1:
                order.append(left.pop(index))
                break
    return order + left
