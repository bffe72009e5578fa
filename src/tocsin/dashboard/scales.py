"""Axes: where a value stands, and which round values get a tick. Pure arithmetic."""

import math
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from tocsin.dashboard import fmt

_MINUTE = 60_000_000
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_TIME_STEPS = (
    _MINUTE,
    2 * _MINUTE,
    5 * _MINUTE,
    10 * _MINUTE,
    15 * _MINUTE,
    30 * _MINUTE,
    _HOUR,
    2 * _HOUR,
    3 * _HOUR,
    6 * _HOUR,
    12 * _HOUR,
    _DAY,
    2 * _DAY,
    7 * _DAY,
    14 * _DAY,
    28 * _DAY,
    91 * _DAY,
    364 * _DAY,
)
_MOST_TICKS = 8


class Tick(msgspec.Struct, frozen=True):
    """A labelled place on an axis. ``at`` is the value, ``pos`` its fraction of the length."""

    at: float
    pos: float
    label: str


class Axis(msgspec.Struct, frozen=True, kw_only=True):
    """The horizontal axis that all charts of a page share: ``steps`` equal steps."""

    start: int
    end: int
    step: int
    """Width of one step, in the axis's unit (microseconds, or calls of a run)."""
    ticks: tuple[Tick, ...]
    kind: str
    """``time`` (microseconds since the epoch) or ``steps`` (numbers of calls, from 1)."""
    open_end: bool = False
    """Whether the last step reaches beyond the range, so that its count is not complete."""

    @property
    def steps(self) -> int:
        """How many steps the axis has, at least one."""
        return max(1, math.ceil((self.end - self.start) / self.step))

    def so_far(self, i: int) -> str:
        """Words for a step that is not over, empty for any other."""
        return ", so far" if self.open_end and i == self.steps - 1 else ""

    def index(self, at: int) -> int:
        """The step that holds ``at``; may lie outside of the axis."""
        return (at - self.start) // self.step


def time_axis(since: int, until: int, bucket_us: int) -> Axis:
    """The axis of a time range in whole steps, round in UTC as the store's buckets are."""
    start = since - since % bucket_us
    end = start + max(1, -(-(until - start) // bucket_us)) * bucket_us
    span = end - start
    step = next((s for s in _TIME_STEPS if span / s <= _MOST_TICKS), 364 * _DAY)
    first = -(-start // step) * step
    places = range(first, end + 1, step)
    ticks = tuple(
        Tick(at, (at - start) / span, time_label(at, step)) for at in list(places)[:_MOST_TICKS]
    )
    return Axis(
        start=start, end=end, step=bucket_us, ticks=ticks, kind="time", open_end=end > until
    )


def time_label(at: int, step: int) -> str:
    """How a tick on a time axis reads, in UTC; midnight reads as the date."""
    moment = datetime.fromtimestamp(at / 1_000_000, UTC)
    if step >= 91 * _DAY:
        return f"{moment:%b %Y}"
    if step >= _DAY or at % _DAY == 0:
        return f"{moment.day} {moment:%b}"
    return f"{moment:%H:%M}"


def step_axis(total: int, most: int = 500) -> Axis:
    """The axis of a run's calls, bucketed so that at most ``most`` steps are drawn."""
    step = max(1, math.ceil(total / most))
    gap = nice_step(max(total, 1), 6)
    spots = [1, *range(int(max(gap, 1)), total + 1, int(max(gap, 1)))]
    ticks = [
        Tick(at, (at - 0.5) / max(total, 1), fmt.count(at))
        for at in dict.fromkeys(spots)
        if at == 1 or (at - 1) / max(total, 1) > 0.05
    ]
    return Axis(start=1, end=total + 1, step=step, ticks=tuple(ticks), kind="steps")


def nice_step(top: float, parts: int) -> float:
    """The smallest of 1, 2, 5 × 10ⁿ of which ``parts`` reach ``top``."""
    if top <= 0:
        return 1
    raw = top / parts
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999999)


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """The vertical axis, from ``bottom`` to ``top``. Counts and money begin at zero."""

    top: float
    ticks: tuple[Tick, ...]
    bottom: float = 0.0

    def height(self, value: float, pixels: float) -> float:
        """How many pixels above the bottom ``value`` stands."""
        bounded = min(max(value, self.bottom), self.top)
        return (bounded - self.bottom) / (self.top - self.bottom) * pixels


def counts(top: float) -> Scale:
    """A scale of whole things."""
    return _scale(top, max(1.0, nice_step(top, 3)), lambda v: fmt.tokens(round(v)))


def nanos(top: float) -> Scale:
    """A scale of money in nano US dollars."""
    return _scale(top, nice_step(top, 3), lambda v: fmt.money(round(v)))


def durations(top: float) -> Scale:
    """A scale of microseconds: decimal below a minute, then round minutes, hours, days."""
    if top < _MINUTE:
        return _scale(top, nice_step(max(top, 1.0), 3), fmt.duration)
    steps = [m * _MINUTE for m in (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 360, 720, 1440, 2880)]
    step = next((s for s in steps if top / s <= 3), nice_step(top / _DAY, 3) * _DAY)
    return _scale(top, step, fmt.duration)


def _scale(top: float, step: float, label: Callable[[float], str]) -> Scale:
    parts = max(1, math.ceil(top / step - 1e-9))
    ticks = [
        Tick(i * step, i / parts, "0" if i == 0 else label(i * step)) for i in range(parts + 1)
    ]
    return Scale(top=parts * step, ticks=tuple(ticks))


def between(
    low: float, high: float, label: Callable[[float], str], *, least: float, most: float
) -> Scale:
    """A scale around values that need not begin at zero, such as shares near 99 %.

    It never leaves ``least`` … ``most``, the values that are possible.
    """
    room = max((high - low) * 0.08, abs(high) * 0.005, 1e-9)
    low, high = max(least, low - room), min(most, high + room)
    step = nice_step(high - low, 3)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    first, last = max(first, math.ceil(least / step - 1e-9)), max(last, first + 1)
    if last * step > most + 1e-9:
        last = math.floor(most / step + 1e-9)
        first = min(first, last - 1)
    ticks = tuple(
        Tick(i * step, (i - first) / (last - first), label(i * step))
        for i in range(first, last + 1)
    )
    return Scale(top=last * step, ticks=ticks, bottom=first * step)
