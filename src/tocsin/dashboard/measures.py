"""Values of signals in words: shares, levels with their units, differences, verdicts. Pure."""

import math

from tocsin.core.ratios import RATIOS, RatioSum
from tocsin.core.signals import Estimate, Signal, Sum
from tocsin.dashboard import fmt
from tocsin.domains.signals.compare import Comparison

MINUS = "\u2212"
_COUNTED = ("words", "calls", "steps", "tokens")
TONES = {
    "worse": "act",
    "better": "ok",
    "different": "look",
    "same": "quiet",
    "underpowered": "quiet",
    "accepted": "quiet",
    "": "quiet",
}
"""Verdict → tone: a shape and a colour beside the word."""
AXIS_TITLES = {
    "correct": "Correct",
    "grounded": "Grounded",
    "appropriate": "Appropriate",
    "consistent": "Consistent",
    "service": "Service",
}


def share(value: float) -> str:
    """A share with the digits that matter at either end: ``84 %``, ``99.4 %``, ``0.3 %``."""
    bounded = min(max(value, 0.0), 1.0)
    if 0.9005 < bounded < 0.9995 or 0.0005 <= bounded < 0.0995:
        return f"{100 * bounded:.1f}".removesuffix(".0") + " %"
    if 0 < bounded < 0.0005:
        return "<0.1 %"
    if 0.9995 <= bounded < 1:
        return ">99.9 %"
    return f"{100 * bounded:.0f} %"


def value(signal: Signal, outer: float | None) -> str:
    """A signal's value as a reader says it; ``unknown`` for none."""
    if outer is None:
        return fmt.UNKNOWN
    if signal.kind == "rate":
        return share(outer)
    return _level(signal.unit, outer)


def _level(unit: str, outer: float) -> str:
    sign, size = (MINUS if outer < 0 else ""), abs(outer)
    if unit == "s":
        return sign + (fmt.duration(size * 1e6) if size else "0 s")
    if unit == "usd":
        return sign + fmt.money(round(size * 1e9))
    number = digits(size)
    return f"{sign}{number} {unit[:-1] if number == '1' and unit in _COUNTED else unit}".rstrip()


def digits(size: float) -> str:
    """A bare number with three digits that matter: ``0.83``, ``41.2``, ``1,240``."""
    if not math.isfinite(size):
        return fmt.UNKNOWN
    if size >= 99.95:
        return f"{size:,.0f}"
    if size == 0:
        return "0"
    places = 1 if size >= 9.995 else 2 if size >= 0.0995 else 3
    text = f"{size:.{places}f}".rstrip("0").rstrip(".")
    return text if text != "0" else f"{size:.1g}"


def interval(signal: Signal, found: Estimate | None) -> str:
    """The 95 % interval: ``81–87 %``, ``1.2 s – 1.4 s``; empty for none."""
    if found is None:
        return ""
    low, high = value(signal, found.low), value(signal, found.high)
    if low == high:
        return low
    (number, _, unit), (_, _, other) = low.rpartition(" "), high.rpartition(" ")
    if number and unit == other and low[0].isdigit() and high[0].isdigit():
        return f"{number}–{high}"
    return f"{low} – {high}"


def change(signal: Signal, size: float) -> str:
    """A difference with its sign: ``−61 points``, ``×1.42``, ``+0.3 s``."""
    if signal.log:
        return f"×{digits(size)}"
    if signal.kind == "rate":
        points = abs(100 * size)
        text = f"{points:.0f}" if points >= 9.95 else f"{points:.1f}".removesuffix(".0")
        if text == "0" and points:
            text = "<0.1"
        unit = "point" if text == "1" else "points"
        return f"{_sign(size)}{text} {unit}"
    return _sign(size) + _level(signal.unit, abs(size))


def _sign(size: float) -> str:
    return MINUS if size < 0 else "+" if size > 0 else ""


def change_interval(signal: Signal, found: Estimate | None) -> str:
    """The interval of a difference: ``−68 to −54 points``; empty for none."""
    if found is None:
        return ""
    low, high = change(signal, found.low), change(signal, found.high)
    if signal.kind == "rate":
        low = low.rpartition(" ")[0]
    return f"{low} to {high}"


def difference(signal: Signal, found: Comparison) -> str:
    """By how much it changed; empty when that is not known."""
    return "" if found.difference is None else change(signal, found.difference.value)


def verdict(found: Comparison) -> str:
    """The verdict in words: ``worse``, ``no change seen``, ``underpowered: 120 more needed``."""
    if found.verdict == "same":
        return "no change seen"
    if found.verdict == "underpowered":
        return f"underpowered: {fmt.count(found.needed)} more needed"
    return found.verdict


def silence(values: Sum) -> str:
    """Why there is no value: nothing was judged, or no task has succeeded."""
    if isinstance(values, RatioSum) and values.tasks:
        return f"no success in {fmt.plural(values.tasks, 'task')}"
    return "not judged"


def counted(signal: Signal) -> str:
    """What a signal's value rests on, one of it: a judged call, or a task that succeeded."""
    return "successful task" if signal.name in RATIOS else "judged call"


def inside(title: str) -> str:
    """A title inside of a sentence; abbreviations keep their letters."""
    first = title.split(" ", 1)[0]
    return title if first.isupper() and len(first) > 1 else title[:1].lower() + title[1:]


def lasting(found: Comparison) -> str:
    """Whether a difference holds however often one looks: ``yes``, ``not yet`` or ``too few``."""
    if found.lasting is None:
        return "too few calls"
    return "yes" if found.lasting else "not yet"


def chance(p: float | None) -> str:
    """A p-value as a share: ``<0.01 %``, ``3.2 %``, ``100 %``."""
    if p is None:
        return fmt.UNKNOWN
    if p < 0.0001:
        return "<0.01 %"
    if p >= 0.0995:
        return f"{100 * p:.0f} %"
    return f"{100 * p:.2g} %"


def part(of_change: float) -> str:
    """A share of a change, which may pass 100 % or be negative: ``122 %``, ``−3 %``."""
    return f"{_sign(of_change) if of_change < 0 else ''}{abs(100 * of_change):.0f} %"
