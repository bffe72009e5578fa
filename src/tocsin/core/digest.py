"""``Week``: what a digest is made of. Plain data; times are microseconds since the epoch."""

import msgspec

from tocsin.core.domain import Alert
from tocsin.core.signals import Sum


class FeatureWeek(msgspec.Struct, frozen=True, kw_only=True):
    """One feature in the time told of (``after``) and in as long a time before it."""

    feature: str
    calls: int
    calls_before: int
    cost_nano_usd: int
    cost_before: int
    unpriced: int
    """Calls of this time without a known price."""
    after: dict[str, Sum]
    """Signal → its sum."""
    before: dict[str, Sum]
    slices_after: dict[tuple[str, str, str], Sum]
    """(dimension, value, signal) → its sum."""
    slices_before: dict[tuple[str, str, str], Sum]


class AlertWeek(msgspec.Struct, frozen=True, kw_only=True):
    """An alert that fired, or went on firing, in the time told of."""

    alert: Alert
    first_at: int


class Week(msgspec.Struct, frozen=True, kw_only=True):
    """What happened."""

    since: int
    until: int
    features: tuple[FeatureWeek, ...]
    alerts: tuple[AlertWeek, ...]


__all__ = ["AlertWeek", "FeatureWeek", "Week"]
