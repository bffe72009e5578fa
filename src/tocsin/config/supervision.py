"""Settings of supervision as the domains know them."""

import msgspec

from tocsin.config.model import Config
from tocsin.core.interaction import Mode
from tocsin.core.supervision import Supervision


def supervision_of(config: Config, feature: str, mode: Mode = "enforce") -> Supervision:
    """How the runs of a feature are supervised: its own table, else the general one.

    ``mode`` is that of the policy as a whole: where it observes, no stage does more.
    """
    own = config.features.get(feature)
    settings = own.agents if own is not None and own.agents is not None else config.agents
    values = settings.model_dump()
    if mode == "observe":
        for stage in ("nudge", "pause", "kill", "stream"):
            values[stage] = "off" if values[stage] == "off" else "observe"
    return msgspec.convert(values, Supervision)
