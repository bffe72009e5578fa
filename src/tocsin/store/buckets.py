"""Time steps of a chart: round in UTC, and about as many as were asked for."""

import msgspec

_SECOND = 1_000_000
_MINUTE = 60 * _SECOND
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR

_STEPS = (
    _SECOND,
    5 * _SECOND,
    15 * _SECOND,
    _MINUTE,
    5 * _MINUTE,
    15 * _MINUTE,
    30 * _MINUTE,
    _HOUR,
    3 * _HOUR,
    6 * _HOUR,
    12 * _HOUR,
    _DAY,
    7 * _DAY,
    28 * _DAY,
    364 * _DAY,
)


class Buckets(msgspec.Struct, frozen=True):
    """``count`` steps of ``step_us`` from ``first``; the range asked for lies inside."""

    first: int
    step_us: int
    count: int

    def starts(self) -> list[int]:
        """When each step begins, microseconds since the epoch."""
        return [self.first + at * self.step_us for at in range(self.count)]


def buckets_for(since: int, until: int, about: int) -> Buckets:
    """Steps for ``since <= t < until``: the smallest round step that needs at most ``about``.

    A range of years may need more, because the longest step is 364 days.
    """
    length = max(1, until - since)
    step = next((s for s in _STEPS if length <= s * max(1, about)), _STEPS[-1])
    first = since - since % step
    count = max(1, -(-(until - first) // step))
    return Buckets(first, step, count)
