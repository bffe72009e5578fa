"""Windows: which step of time a call falls into, and since when a limit counts.

Calendar windows begin where the clock on the wall of the limit's time zone says so, days of 23 and
25 hours included. Rolling ones move on by a sixtieth of their length; what was spent counts until
its whole step is older than the window, so that a limit is never too lenient.
"""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec

from tocsin.core.ledger import Limit, Period

_US = 1_000_000
_LENGTHS: dict[Period, int] = {
    "hour": 3600 * _US,
    "day": 86_400 * _US,
    "month": 30 * 86_400 * _US,
}
STEPS = 60
_FOREVER = 1 << 62


class Window(msgspec.Struct, frozen=True):
    """One bucket as it is filled: ``start`` names it, ``since`` is the first bucket that counts.

    The bucket is filled until ``end`` (exclusive). Microseconds since the epoch.
    """

    start: int
    since: int
    end: int
    resets_at: int | None = None


EVER = Window(0, 0, _FOREVER)


def window_at(limit: Limit, now_us: int) -> Window:
    """The window of ``limit`` that ``now_us`` falls into."""
    if limit.per in ("run", "ever"):
        return EVER
    if limit.rolling:
        step = _LENGTHS[limit.per] // STEPS
        start = now_us // step * step
        return Window(start, start - STEPS * step, start + step)
    if limit.per == "hour":
        start = _hour(limit.timezone, now_us)
        return Window(start, start, start + _LENGTHS["hour"], start + _LENGTHS["hour"])
    start, end = _days(limit, now_us)
    return Window(start, start, end, end)


def retry_after_s(limit: Limit, window: Window, now_us: int, *, soon_s: float) -> float | None:
    """Seconds until there is surely room again, if that is soon."""
    if window.resets_at is None:
        return None
    seconds = (window.resets_at - now_us) / _US
    return seconds if 0 < seconds <= soon_s else None


def _hour(zone: str, now_us: int) -> int:
    """When the hour on the wall began: not always a whole hour of UTC."""
    local = datetime.fromtimestamp(now_us // _US, ZoneInfo(zone))
    return (now_us // _US - local.minute * 60 - local.second) * _US


def _days(limit: Limit, now_us: int) -> tuple[int, int]:
    """First and last instant of the day or month on the wall."""
    zone = ZoneInfo(limit.timezone)
    local = datetime.fromtimestamp(now_us // _US, zone)
    first = datetime(local.year, local.month, local.day if limit.per == "day" else 1)
    if limit.per == "day":
        after = first + timedelta(days=1)
    else:
        after = (first + timedelta(days=32)).replace(day=1)
    return _instant(first, zone), _instant(after, zone)


def _instant(midnight: datetime, zone: ZoneInfo) -> int:
    """The first instant of a date; where midnight is skipped, that of the change."""
    return round(midnight.replace(tzinfo=zone).astimezone(UTC).timestamp()) * _US
