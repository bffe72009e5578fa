"""Numbers as people read them."""

from datetime import UTC, datetime

from tocsin.importers.report_result import Unit


def whole(number: int) -> str:
    """``12,345``."""
    return f"{number:,}"


def plural(number: int, noun: str) -> str:
    """``1 call``, ``2 calls``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def share(part: float) -> str:
    """A share in per cent, with a digit more where it is small."""
    percent = 100 * part
    if 0 < percent < 0.05:
        return "<0.1%"
    return f"{percent:.1f}%" if percent < 10 and percent != int(percent) else f"{percent:.0f}%"


def size(number: float) -> str:
    """Bytes with a decimal prefix."""
    for limit, unit in ((1e3, "B"), (1e6, "kB"), (1e9, "MB")):
        if number < limit:
            value = number / (limit / 1e3)
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
    return f"{number / 1e9:.1f} GB"


def amount(number: float, unit: Unit) -> str:
    """Tokens as a number, bytes with their prefix."""
    return f"{number:,.0f}" if unit == "tokens" else size(number)


def money(nano: int) -> str:
    """US dollars with the digits that matter."""
    dollars = nano / 1e9
    if dollars >= 100:
        return f"${dollars:,.0f}"
    if dollars >= 1 or dollars == 0:
        return f"${dollars:.2f}"
    return f"${dollars:.4f}" if dollars >= 0.0001 else "<$0.0001"


def spend(nano: int, unpriced: int, calls: int) -> str:
    """A sum of money that says how many calls it leaves out."""
    if unpriced >= calls:
        return "unknown"
    return money(nano) + (f" + {plural(unpriced, 'call')} unknown" if unpriced else "")


def counted(number: int, uncounted: int, calls: int) -> str:
    """A sum of tokens; unknown where no call tells any."""
    return whole(number) if uncounted < calls else "unknown"


def duration(microseconds: int) -> str:
    """A duration in its two largest units."""
    seconds = microseconds / 1e6
    if seconds < 1:
        return f"{microseconds / 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def clock(microseconds: int) -> str:
    """A time in UTC, to the minute."""
    try:
        moment = datetime.fromtimestamp(microseconds / 1e6, UTC)
    except (ValueError, OverflowError, OSError):
        return "an impossible time"
    return f"{moment:%Y-%m-%d %H:%M}"
