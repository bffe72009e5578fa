"""Every number and time on a page is written here, so that two pages never disagree.

Unknown (``None``) is the word "unknown", never 0. Money is nano US dollars (1e-9 USD), times and
durations are microseconds. Everything returns plain text, except ``when``, which returns markup.
"""

import math
from datetime import UTC, datetime

from markupsafe import Markup

UNKNOWN = "unknown"

_SECOND = 1_000_000
_MINUTE = 60 * _SECOND
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR


def money(nano: int | None) -> str:
    """Nano US dollars with the digits that matter: ``$0.0042``, ``$0.42``, ``$1,240``."""
    if nano is None:
        return UNKNOWN
    if nano == 0:
        return "$0"
    sign, usd = ("-" if nano < 0 else ""), abs(nano) / 1e9
    if usd >= 999.995:
        return f"{sign}${usd:,.0f}"
    if usd >= 0.0995:
        return f"{sign}${usd:.2f}"
    digits = 1 - math.floor(math.log10(usd))
    text = f"{usd:.{digits}f}"
    # Rounding can lift 0.00996 to 0.0100: one digit too many, never a wrong value.
    return f"{sign}${text.rstrip('0')}"


def spent(nano: int, calls: int, unpriced: int) -> str:
    """A sum of cost: ``unknown`` when no call in it had a price."""
    return UNKNOWN if calls and unpriced >= calls else money(nano)


def exact_money(nano: int | None) -> str:
    """All digits, for a hover text: ``$0.004217300``."""
    return UNKNOWN if nano is None else f"${nano / 1e9:,.9f}".rstrip("0").rstrip(".")


def count(value: int | None) -> str:
    """A count with separators, shortened from a million up: ``32,843``, ``1.23M``."""
    if value is None:
        return UNKNOWN
    return f"{value:,}" if abs(value) < 1_000_000 else _short(float(value))


def tokens(value: int | None) -> str:
    """Tokens, three digits that matter: ``870``, ``12.3k``, ``1.24M``."""
    if value is None:
        return UNKNOWN
    return str(value) if abs(value) < 1000 else _short(float(value))


def _short(value: float) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            scaled = value / size
            digits = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
            text = f"{scaled:.{digits}f}"
            return (text.rstrip("0").rstrip(".") if "." in text else text) + unit
    return f"{value:g}"


def duration(us: float | None) -> str:
    """Microseconds for a reader: ``0.4 ms``, ``340 ms``, ``1.24 s``, ``4 min 12 s``."""
    if us is None:
        return UNKNOWN
    if us < 9_950:
        return f"{us / 1000:.1f}".removesuffix(".0") + " ms"
    if us < 999_500:
        return f"{us / 1000:.0f} ms"
    if us < 59.95 * _SECOND:
        seconds = us / _SECOND
        text = f"{seconds:.2f}" if seconds < 9.995 else f"{seconds:.1f}"
        return text.rstrip("0").rstrip(".") + " s"
    whole = round(us / _SECOND)
    for big, small, names in (
        (86_400, 3600, ("d", "h")),
        (3600, 60, ("h", "min")),
        (60, 1, ("min", "s")),
    ):
        if whole >= big:
            rest = whole % big // small
            head = f"{whole // big} {names[0]}"
            return f"{head} {rest} {names[1]}" if rest else head
    return f"{whole} s"


def took(us: int | None) -> str:
    """How long a call took: 0 microseconds stand for "not known"."""
    return duration(us or None)


def clock(us: int) -> str:
    """Time since a start, as short as an axis needs: ``0``, ``450 ms``, ``12 s``, ``2:05``."""
    if us < 10 * _SECOND:
        return "0" if us <= 0 else duration(us)
    whole = round(us / _SECOND)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def percent(part: float, whole: float) -> str:
    """A share: ``3.5 %``, ``<0.1 %`` for little but something, ``unknown`` of nothing."""
    if not whole:
        return UNKNOWN
    value = 100 * part / whole
    if 0 < value < 0.1:
        return "<0.1 %"
    if 99.9 < value < 100:
        return ">99.9 %"
    return (f"{value:.0f}" if value >= 9.95 else f"{value:.1f}".removesuffix(".0")) + " %"


def size(value: int | None) -> str:
    """Bytes in binary units: ``512 B``, ``1.4 MiB``."""
    if value is None:
        return UNKNOWN
    number = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1023.5:
            digits = 0 if unit == "B" or number >= 99.5 else 1
            return f"{number:.{digits}f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def iso(us: int) -> str:
    """An instant as ISO 8601 in UTC, to the second: ``2026-03-12T14:05:09Z``."""
    return _at(us).strftime("%Y-%m-%dT%H:%M:%SZ")


def exact(us: int) -> str:
    """An instant for a hover text: ``2026-03-12 14:05:09.123 UTC``."""
    at = _at(us)
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d} UTC"


def _at(us: int) -> datetime:
    # Beyond datetime's years a wrong clock wrote the record; the page must still open.
    bounded = min(max(us, -62_000_000_000 * _SECOND), 253_000_000_000 * _SECOND)
    return datetime.fromtimestamp(bounded / _SECOND, UTC)


def ago(us: int, now: int) -> str:
    """An instant as seen from ``now``: ``12 s ago``, ``3 h ago``, ``12 Mar 2026``."""
    past = now - us
    if past < -_MINUTE:
        return f"in {_coarse(-past)}"
    if past < 5 * _SECOND:
        return "just now"
    if past < 30 * _DAY:
        return f"{_coarse(past)} ago"
    at = _at(us)
    return f"{at.day} {at:%b %Y}"


def _coarse(us: int) -> str:
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if us >= unit:
            return f"{us // unit} {name}"
    return f"{us // _SECOND} s"


def when(us: int | None, now: int, stand_in: str = "") -> Markup:
    """A ``<time>`` with the relative time; the script rewrites it in the reader's zone.

    ``stand_in`` says whose time it is when it is not the call's own: ``file saved``.
    """
    if us is None:
        return Markup('<span class="unknown">unknown</span>')
    if stand_in:
        return Markup('<span title="When it ran is not known.">{} {}</span>').format(
            stand_in, when(us, now)
        )
    return Markup('<time datetime="{}" data-us="{}" title="{}">{}</time>').format(
        iso(us), us, exact(us), ago(us, now)
    )


def exactly(us: int) -> Markup:
    """A ``<time>`` with the date and the minute; the script rewrites it in the reader's zone."""
    return Markup('<time datetime="{}" data-us="{}" data-exact title="{}">{}</time>').format(
        iso(us), us, exact(us), exact(us)[:16]
    )


_BIDI = {
    code: f"⟦U+{code:04X}⟧"
    for code in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
_CONTROLS = {code: chr(0x2400 + code) for code in range(32) if code not in (9, 10)}
_HARMLESS = bytes([9, 10, *range(32, 127)])
_VISIBLE = {**_BIDI, **_CONTROLS, 0x7F: "␡", 0xFEFF: "⟦U+FEFF⟧"} | {
    code: f"⟦U+{code:04X}⟧" for code in range(0x80, 0xA0)
}


def visible(text: str) -> str:
    """Text from outside, with what would act instead of being read made visible.

    Control characters and direction overrides become signs; lone surrogates, which no page can
    carry, become U+FFFD. ``\\r\\n`` counts as a line end.
    """
    # Most text is plain ASCII, and deleting what is harmless from bytes is far quicker than
    # looking every character up.
    if text.isascii() and not text.encode().translate(None, _HARMLESS):
        return text
    clean = text.replace("\r\n", "\n").translate(_VISIBLE)
    try:
        clean.encode()
    except UnicodeEncodeError:
        return clean.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return clean


def one_line(text: str, limit: int = 160) -> str:
    """Hostile text as one line of at most ``limit`` characters."""
    line = " ".join(visible(text).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def summary(text: str, limit: int = 240) -> str:
    """An alert's sentence on a page: the marks around names are for terminals and Markdown."""
    return one_line(text.replace("`", ""), limit)


def plural(number: int, one: str, many: str | None = None) -> str:
    """``1 call``, ``1,204 calls``."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"
