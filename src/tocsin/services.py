"""What domains get of a process (``core.domain.Services``), worked out of its configuration."""

from collections.abc import Callable, Mapping
from typing import Protocol

from tocsin.behaviour import Behaviour
from tocsin.config.model import Config
from tocsin.config.signals import objectives_of, signals_of
from tocsin.config.supervision import supervision_of
from tocsin.core.clock import Clock
from tocsin.core.interaction import Interaction, Mode
from tocsin.core.signals import Objective, Signal, SignalSettings
from tocsin.core.stops import Switchboard
from tocsin.core.supervision import Burn, Supervision
from tocsin.providers import Pricer
from tocsin.runtime.desk import Desk
from tocsin.runtime.stops import Switch


class Parts(Protocol):
    """What of a process its services are made of."""

    @property
    def config(self) -> Config: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def switch(self) -> Switch: ...
    @property
    def desk(self) -> Desk: ...
    @property
    def behaviour(self) -> Behaviour: ...
    @property
    def pricer(self) -> Pricer: ...


class ProcessServices:
    """What domains get of the process (``core.domain.Services``)."""

    def __init__(self, app: Parts) -> None:
        self._app = app
        self._supervision: dict[str, Supervision] = {}
        self._config: Config | None = None
        self._objectives: tuple[Config, tuple[Objective, ...]] | None = None
        self._signals: tuple[Config | None, dict[str, SignalSettings]] = (None, {})
        self.clock = app.clock
        self.stops: Switchboard = app.switch
        self.alert = app.desk.alert
        self.found = app.desk.found
        self.watched = app.desk.watched

    def supervision(self, feature: str) -> Supervision:
        """A feature's settings; worked out once for each configuration."""
        config = self._app.config
        if self._config is not config or len(self._supervision) > 10_000:
            self._config, self._supervision = config, {}
        found = self._supervision.get(feature)
        if found is None:
            mode = modes_of(config)(feature, "agents")
            found = self._supervision[feature] = supervision_of(config, feature, mode)
        return found

    def signals(self, feature: str) -> SignalSettings:
        """How the signals of a feature are watched; worked out once for each configuration."""
        config = self._app.config
        if self._signals[0] is not config or len(self._signals[1]) > 10_000:
            self._signals = config, {}
        known = self._signals[1]
        found = known.get(feature)
        if found is None:
            found = known[feature] = signals_of(config, feature)
        return found

    def objectives(self) -> tuple[Objective, ...]:
        """All objectives; worked out once for each configuration."""
        config, made = self._app.config, self._objectives
        if made is None or made[0] is not config:
            made = self._objectives = config, objectives_of(config)
        return made[1]

    def catalogue(self) -> Mapping[str, Signal]:
        """Every signal that there is, by name."""
        return self._app.behaviour.catalogue

    def accepted(self, feature: str, signal: str) -> int:
        """Since when a person has called the level of a signal normal."""
        return self._app.behaviour.accepted(feature, signal)

    @property
    def burn(self) -> Burn:
        """``[burn]`` as it was at the start."""
        return Burn(factor=self._app.config.burn.factor, min_usd=self._app.config.burn.min_usd)

    def price(self, interaction: Interaction) -> int | None:
        """By the price list, once it is loaded: the record itself is priced later, off the path."""
        if interaction.usage.source != "reported" or not self._app.pricer.loaded:
            return interaction.cost_nano_usd
        return self._app.pricer(
            interaction.provider or "",
            interaction.response_model or interaction.request_model,
            interaction.usage,
            interaction.started_at,
        )[0]


def modes_of(config: Config) -> Callable[[str, str], Mode]:
    """Mode of a policy: the feature's own setting, else the general one, else enforce."""

    def mode(feature: str, policy: str) -> Mode:
        own = config.features.get(feature)
        if own is not None and policy in own.policies:
            return own.policies[policy]
        general: Mode | None = getattr(config.policies, policy, None)
        return general or "enforce"

    return mode
