"""What an alarm says: how much, since when, for whom, with examples, in words for on-call."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from tocsin.core.domain import Severity
from tocsin.core.signals import DIMENSIONS, Change, Estimate, Signal, SliceChange, Sum
from tocsin.domains.signals.compare import compare, direction, effect_size, estimate, holm
from tocsin.domains.signals.distributions import SHAPE
from tocsin.domains.signals.intervals import normal_two_sided
from tocsin.domains.signals.rows import Row
from tocsin.domains.signals.seasons import DAY_US

_EXAMPLES = 3
_MOST_SLICES = 5
_FEWEST_BEFORE = 10
_FEWEST_AFTER = 5
_CHANCE = 0.01
"""The chance that a slice is named where none stands out."""
_LARGE = 0.8
"""A large effect (Cohen, 1988)."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a detector knows of a change before it is told."""

    signal: Signal
    feature: str
    since: int
    at: int
    before: Sum
    after: Sum
    method: str
    false_alarm_every: float


def change_of(found: Found, rows: Iterable[Row]) -> Change:
    """The change with its size, the slices that carry it, and examples."""
    signal = found.signal
    before: list[Row] = []
    after: list[Row] = []
    for row in rows:
        if signal.name in row.values:
            (after if row.at >= found.since else before).append(row)
    rise = (found.after.mean or 0.0) - (found.before.mean or 0.0)
    compared = compare(signal, found.before, found.after)
    was = compared.before or _bare(signal, found.before)
    now = compared.after or _bare(signal, found.after)
    return Change(
        signal=signal.name,
        since=found.since,
        before=was,
        after=now,
        difference=compared.difference or _gap(signal, was, now),
        verdict=direction(signal, rise) if found.method != SHAPE else "different",
        slices=tuple(standing_out(signal, before, after)),
        examples_before=_typical(signal, before, was.value),
        examples_after=_changed(signal, after, was.value, now.value),
        false_alarm_every=found.false_alarm_every,
        delay=found.after.n,
        method=found.method,
    )


def _bare(signal: Signal, values: Sum) -> Estimate:
    """A value of which no interval can be told."""
    value = signal.outer(values.mean or 0.0)
    return Estimate(value, value, value, values.n)


def _gap(signal: Signal, was: Estimate, now: Estimate) -> Estimate:
    n = min(was.n, now.n)
    if signal.log:
        low, high = now.value / (was.high or 1e-9), now.high / (was.low or 1e-9)
        return Estimate(now.value / (was.value or 1e-9), low, high, n)
    return Estimate(now.value - was.value, now.low - was.high, now.high - was.low, n)


def severity_of(signal: Signal, change: Change, before: Sum, after: Sum) -> Severity:
    """Worse is critical where the effect is large, and a warning else; better is worth knowing."""
    large = abs(effect_size(signal, before, after) or 0.0) >= _LARGE
    if change.verdict == "worse":
        return "critical" if large else "warning"
    if change.verdict == "better":
        return "info"
    return "warning" if large else "info"


# -- slices --


class _Part(msgspec.Struct):
    dimension: str
    value: str
    before: Sum
    after: Sum
    score: float
    share: float
    fresh: bool
    """There was no such slice before; ``before`` is then all that was."""


def standing_out(signal: Signal, before: Sequence[Row], after: Sequence[Row]) -> list[SliceChange]:
    """Slices that moved beyond what the rest did, by more than chance, strongest first.

    All values of all dimensions are asked at once and their chances adjusted (Holm, 1979).
    """
    whole_before, whole_after = _sums(signal, before), _sums(signal, after)
    if whole_before.mean is None or whole_after.mean is None:
        return []
    rise = whole_after.mean - whole_before.mean
    parts = [
        part
        for dimension in DIMENSIONS
        for part in _parts(signal, dimension, before, after, whole_before, whole_after)
    ]
    chances = holm([normal_two_sided(part.score) for part in parts])
    named = [
        part
        for part, chance in zip(parts, chances, strict=True)
        if chance < _CHANCE and part.share > 0.0 and part.score * rise > 0.0
    ]
    named.sort(key=lambda part: abs(part.score), reverse=True)
    found = []
    for part in named[:_MOST_SLICES]:
        was = estimate(signal, part.before) or _bare(signal, part.before)
        if part.fresh:
            was = msgspec.structs.replace(was, n=0)
        now = estimate(signal, part.after) or _bare(signal, part.after)
        found.append(
            SliceChange(
                dimension=part.dimension, value=part.value, before=was, after=now, share=part.share
            )
        )
    return found


def _parts(
    signal: Signal,
    dimension: str,
    before: Sequence[Row],
    after: Sequence[Row],
    whole_before: Sum,
    whole_after: Sum,
) -> Iterable[_Part]:
    """The slices of one dimension that can be judged."""
    names = Counter(row.slices[dimension] for row in after if dimension in row.slices)
    assert whole_before.mean is not None
    assert whole_after.mean is not None
    rise = whole_after.mean - whole_before.mean
    for value, count in names.most_common(20):
        if count < _FEWEST_AFTER:
            break
        inside = _sums(signal, (row for row in after if row.slices.get(dimension) == value))
        was = _sums(signal, (row for row in before if row.slices.get(dimension) == value))
        if inside.n >= whole_after.n:
            if was.n:
                continue  # everything is in it, before as after: it tells nothing
        elif was.n < _FEWEST_BEFORE and was.n:
            continue
        # A slice that is new is held against all that was before it.
        base = was if was.n else whole_before
        score = _score(signal, base, inside, whole_before, whole_after)
        if inside.mean is None or base.mean is None:
            continue
        moved = inside.mean - base.mean
        share = inside.n / whole_after.n * moved / rise if rise else 0.0
        yield _Part(dimension, value, base, inside, score, share, fresh=not was.n)


def _score(signal: Signal, was: Sum, now: Sum, whole_before: Sum, whole_after: Sum) -> float:
    """Standard deviations by which a slice moved more than everything outside of it."""
    fresh = was is whole_before
    rest_after = _less(whole_after, now)
    rest_before = whole_before if fresh else _less(whole_before, was)
    if not rest_after.n:
        # A new slice that holds all calls: it is held against what was before it.
        return _deviations(signal, now, whole_before, None, None)
    return _deviations(signal, now, was, rest_after, rest_before)


def _deviations(
    signal: Signal, now: Sum, was: Sum, rest_after: Sum | None, rest_before: Sum | None
) -> float:
    moved = (now.mean or 0.0) - (was.mean or 0.0)
    spread = _error(signal, now) + _error(signal, was)
    if rest_after is not None and rest_before is not None and rest_before.n:
        moved -= (rest_after.mean or 0.0) - (rest_before.mean or 0.0)
        spread += _error(signal, rest_after) + _error(signal, rest_before)
    return moved / spread**0.5 if spread > 0.0 else 0.0


def _error(signal: Signal, values: Sum) -> float:
    """The variance of a mean; never nothing, however alike a few values are."""
    if not values.n:
        return 0.0
    if signal.kind == "rate":
        share = (values.total + 1.0) / (values.n + 2.0)
        return max(0.0, share * (1.0 - share)) / values.n
    variance = values.variance
    return (variance if variance else 1e-6) / values.n


def _less(whole: Sum, part: Sum) -> Sum:
    return Sum(
        max(0, whole.n - part.n), whole.total - part.total, max(0.0, whole.squares - part.squares)
    )


def _sums(signal: Signal, rows: Iterable[Row]) -> Sum:
    n, total, squares = 0, 0.0, 0.0
    for row in rows:
        value = signal.inner(row.values[signal.name])
        n += 1
        total += value
        squares += value * value
    return Sum(n, total, squares)


# -- examples --


def _typical(signal: Signal, rows: Sequence[Row], usual: float) -> tuple[str, ...]:
    """The latest calls whose value is nearest to what was usual."""
    centre = signal.inner(usual)
    latest_first = list(rows)[::-1]
    latest_first.sort(key=lambda row: abs(signal.inner(row.values[signal.name]) - centre))
    return tuple(row.id for row in latest_first[:_EXAMPLES])


def _changed(signal: Signal, rows: Sequence[Row], was: float, now: float) -> tuple[str, ...]:
    """The latest calls that show the change: of a rate those at its end, of a level the typical."""
    if signal.kind == "rate":
        end = 1.0 if now >= was else 0.0
        shown = [row for row in reversed(rows) if abs(row.values[signal.name] - end) < 0.5]
        return tuple(row.id for row in shown[:_EXAMPLES])
    return _typical(signal, rows, now)


# -- words --


def summary_of(found: Found, change: Change) -> str:
    """One sentence or two for on-call."""
    signal = found.signal
    what = signal.title[:1].upper() + signal.title[1:]
    was, now = _value(signal, change.before.value), _value(signal, change.after.value)
    since = when(change.since, found.at)
    text = f"{what} of `{found.feature}` {_verb(change)} from {was} to {now} since {since}"
    if change.method == SHAPE:
        text = (
            f"{what} of `{found.feature}` is spread differently since {since}: mean {now}, "
            f"before {was}"
        )
    text += f" ({_difference(signal, change.difference)})"
    if change.slices:
        first = change.slices[0]
        text += f", mostly {first.dimension}={first.value}"
        if not first.before.n:
            text += " (new)"
    return text + "."


def _verb(change: Change) -> str:
    return "rose" if change.after.value >= change.before.value else "fell"


def when(since: int, now: int) -> str:
    """A time for reading: the clock where it was within the last day, else the date, too; UTC."""
    try:
        moment = datetime.fromtimestamp(since / 1e6, UTC)
    except (ValueError, OverflowError, OSError):
        return "an unknown time"
    if 0 <= now - since < DAY_US:
        return f"{moment:%H:%M} UTC"
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _value(signal: Signal, value: float) -> str:
    if signal.kind == "rate":
        return _percent(value)
    unit = f" {signal.unit}" if signal.unit and signal.unit != "usd" else ""
    return f"{'$' if signal.unit == 'usd' else ''}{value:.3g}{unit}"


def _percent(share: float) -> str:
    points = share * 100.0
    fine = 0.0 < points < 10.0 or 90.0 < points < 100.0
    return f"{points:.1f} %" if fine else f"{points:.0f} %"


def _difference(signal: Signal, of: Estimate) -> str:
    if signal.kind == "rate":
        return (
            f"{of.value * 100:+.1f} points, 95 % interval {of.low * 100:+.1f} to "
            f"{of.high * 100:+.1f}"
        )
    if signal.log:
        return f"x{of.value:.2f}, 95 % interval x{of.low:.2f} to x{of.high:.2f}"
    return f"{of.value:+.3g}, 95 % interval {of.low:+.3g} to {of.high:+.3g}"


__all__ = ["Found", "change_of", "severity_of", "standing_out", "summary_of", "when"]
