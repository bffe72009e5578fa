"""How the engine of operations behaves; a reload of the configuration changes it."""

import msgspec

from tocsin.config.operations import OperationsSettings

_DAY_US = 86_400_000_000


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Times in microseconds (``_us``) or seconds (``_s``)."""

    concurrency: int = 64
    """Most background operations that run at once in this process."""
    keep_us: int | None = 30 * _DAY_US
    """How long after its end an operation may be forgotten; ``None``: never."""
    deadline_us: int | None = _DAY_US
    """How long one may run that names no deadline; ``None``: for ever."""
    linger_s: float = 30.0
    """How long a foreground one goes on when nobody waits for it any more."""
    owner_timeout_s: float = 15.0
    """After this long without a beat a process counts as dead."""
    poll_s: float = 1.0
    """How often a process looks for work, cancels and deadlines that others leave it."""


def settings_of(section: OperationsSettings) -> Settings:
    """What a configuration says, as the engine wants it."""
    return Settings(
        concurrency=section.concurrency,
        keep_us=None if section.keep_days is None else round(section.keep_days * _DAY_US),
        deadline_us=None if section.deadline_s is None else round(section.deadline_s * 1_000_000),
        linger_s=section.linger_s,
        owner_timeout_s=section.owner_timeout_s,
    )
