"""Settings of signals and objectives as the domains know them."""

import msgspec

from tocsin.config.model import Config
from tocsin.core.signals import OWN_FEATURES, Objective, SignalSettings


def signals_of(config: Config, feature: str) -> SignalSettings:
    """How the signals of a feature are watched: its own table, else the general one.

    Those of Tocsin's own calls never alarm: sentinels are compared with their own past, judges with
    people.
    """
    if feature.startswith(OWN_FEATURES):
        return SignalSettings(off=("*",))
    own = config.features.get(feature)
    settings = own.signals if own is not None and own.signals is not None else config.signals
    return msgspec.convert(settings.model_dump(exclude={"evaluate"}), SignalSettings)


def objectives_of(config: Config) -> tuple[Objective, ...]:
    """All objectives of a configuration, in its order."""
    return tuple(
        msgspec.convert({"name": name, **settings.model_dump()}, Objective)
        for name, settings in config.objectives.items()
    )
