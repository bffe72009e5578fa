"""Sums of signals by step of time and slice: one row holds all signals of a slice in a step.

Values are gathered in memory over a batch, then merged into the rows that are there, inside the one
transaction that writes: the sums are exact whatever number of processes add to them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from tocsin.core.ratios import read_for, with_ratios
from tocsin.core.signals import Sum
from tocsin.store.api import Grain, SignalPoint
from tocsin.store.database import Session
from tocsin.store.signal_words import Words

MINUTES, HOUR, DAY = 0, 1, 2
GRAINS: dict[Grain, tuple[int, int]] = {
    "minutes": (MINUTES, 300_000_000),
    "hour": (HOUR, 3_600_000_000),
    "day": (DAY, 86_400_000_000),
}
"""Number and length (microseconds) of each step."""
REMADE = 10
"""Added to the grain of sums that are being made again."""
OTHER = "other"
MOST_VALUES = 60
"""Values of a dimension that a feature has in a day; what comes later counts as ``other``."""
_FIVE_US, _HOUR_US, _DAY_US = (length for _, length in GRAINS.values())
_EXACT = float(1 << 53)

Key = tuple[int, int, str, int, str]
"""Feature (a word), grain, dimension, start of the step, value."""
Cells = dict[int, list[float]]
"""By signal (a word): how many values, their sum, their sum of squares, how many unjudged."""
Slices = tuple[tuple[str, str], ...]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Any]).decode


class Tally:
    """What a batch adds, by feature, five minutes and combination of slices."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, int, Slices], Cells] = {}

    def cells(self, feature: int, started_at: int, slices: Slices) -> Cells:
        """Where the values of an interaction go: ``count`` adds to it."""
        key = (feature, started_at - started_at % _FIVE_US, slices)
        found = self._cells.get(key)
        if found is None:
            found = self._cells[key] = {}
        return found

    def merge(self, session: Session, *, remade: bool = False) -> None:
        """Add everything to the stored sums."""
        shift = REMADE if remade else 0
        days = self._days(session, shift)
        added: dict[Key, Cells] = {}
        for (feature, five, slices), cells in self._cells.items():
            hour, day = five - five % _HOUR_US, five - five % _DAY_US
            _add(added, (feature, MINUTES + shift, "", five, ""), cells)
            _add(added, (feature, HOUR + shift, "", hour, ""), cells)
            _add(added, (feature, DAY + shift, "", day, ""), cells)
            for dimension, given in slices:
                value = days[feature, day, dimension, given]
                _add(added, (feature, HOUR + shift, dimension, hour, value), cells)
                _add(added, (feature, DAY + shift, dimension, day, value), cells)
        _write(session, added)

    def _days(self, session: Session, shift: int) -> dict[tuple[int, int, str, str], str]:
        """As what each value of a dimension counts on each day."""
        wanted = {
            (feature, five - five % _DAY_US, dimension, value): value
            for feature, five, slices in self._cells
            for dimension, value in slices
        }
        flat: list[Any] = []
        for feature, day, dimension, value in wanted:
            flat += (feature, DAY + shift, dimension, day, value)
        there = {(r[0], r[3], r[2], r[4]) for r in session.write_rows("sums_at", flat)}
        counts: dict[tuple[int, int, str], int] = {}
        for key in wanted:
            if key in there:
                continue
            feature, day, dimension, _ = key
            place = (feature, day, dimension)
            if place not in counts:
                row = session.one("count_values", (feature, DAY + shift, dimension, day))
                counts[place] = int(row[0]) if row else 0
            if counts[place] >= MOST_VALUES:
                wanted[key] = OTHER
            counts[place] += 1
        return wanted


def count(cells: Cells, signal: int, inner: float | None, by: int = 1) -> None:
    """Add a value to its signal, or with ``by=-1`` take one away; ``None`` is unjudged."""
    cell = cells.get(signal)
    if cell is None:
        cell = cells[signal] = [0, 0, 0, 0]
    if inner is None:
        cell[3] += by
    else:
        cell[0] += by
        cell[1] += inner * by
        cell[2] += inner * inner * by


def _add(sums: dict[Key, Cells], key: Key, cells: Cells) -> None:
    into = sums.get(key)
    if into is None:
        sums[key] = {signal: cell.copy() for signal, cell in cells.items()}
        return
    for signal, cell in cells.items():
        there = into.get(signal)
        if there is None:
            into[signal] = cell.copy()
        else:
            there[0] += cell[0]
            there[1] += cell[1]
            there[2] += cell[2]
            there[3] += cell[3]


def _write(session: Session, added: dict[Key, Cells]) -> None:
    flat: list[Any] = []
    for key in added:
        flat += key
    for *found, data in session.write_rows("sums_at", flat):
        key = (found[0], found[1], found[2], found[3], found[4])
        _add(added, key, unpacked(data))
    flat = []
    for key, cells in added.items():
        flat += (*key, packed(cells))
    session.write_rows("put_sums", flat)


def packed(cells: Cells) -> bytes:
    """Cells as they are stored: whole numbers take a byte or two."""
    flat: list[Any] = []
    for signal, (n, total, squares, unjudged) in cells.items():
        if n or unjudged:
            flat += (signal, int(n), _short(total), _short(squares), int(unjudged))
    return _encode(flat)


def _short(number: float) -> float:
    return int(number) if -_EXACT < number < _EXACT and number == int(number) else number


def unpacked(data: bytes) -> Cells:
    """Cells as ``packed`` wrote them."""
    flat = _decode(data)
    return {flat[at]: flat[at + 1 : at + 5] for at in range(0, len(flat), 5)}


# -- reading --


def points(
    session: Session,
    words: Words,
    *,
    grain: Grain,
    since: int,
    until: int,
    feature: str | None,
    signal: str | None,
    dimension: str,
    value: str | None,
) -> list[SignalPoint]:
    """Sums of the steps that overlap a time, in order of time."""
    number, length = GRAINS[grain]
    rows = _rows(session, words, number, since - since % length, until, feature, dimension, value)
    wanted = _wanted(session, words, signal)
    found: list[SignalPoint] = []
    for word, at, slice_value, data in rows:
        feature_name = words.text(session, word)
        cells = dict(_chosen(unpacked(data), wanted))
        for name, values in _named(session, words, cells, signal).items():
            found.append(
                SignalPoint(feature=feature_name, signal=name, value=slice_value, at=at, sum=values)
            )
    return found


def totals(
    session: Session,
    words: Words,
    *,
    since: int,
    until: int,
    feature: str | None,
    signal: str | None,
    dimension: str,
) -> list[SignalPoint]:
    """Sums over the hours that overlap a time; whole days are read as such."""
    wanted = _wanted(session, words, signal)
    sums: dict[tuple[int, str], Cells] = {}
    first: dict[tuple[int, str, str], int] = {}
    for grain, start, end in _pieces(since, until):
        for word, at, value, data in _rows(
            session, words, grain, start, end, feature, dimension, None
        ):
            cells = dict(_chosen(unpacked(data), wanted))
            _add_to(sums, (word, value), cells)
            for one in cells:
                first.setdefault((word, value, words.text(session, one)), at)
    return [
        SignalPoint(
            feature=words.text(session, word),
            signal=name,
            value=value,
            at=first[word, value, read_for(name)[0]],
            sum=values,
        )
        for (word, value), cells in sums.items()
        for name, values in _named(session, words, cells, signal).items()
    ]


def _add_to(sums: dict[tuple[int, str], Cells], key: tuple[int, str], cells: Cells) -> None:
    """The same as ``_add`` for sums without their step."""
    into = sums.setdefault(key, {})
    for signal, cell in cells.items():
        there = into.setdefault(signal, [0, 0, 0, 0])
        for at, number in enumerate(cell):
            there[at] += number


def _pieces(since: int, until: int) -> Iterable[tuple[int, int, int]]:
    """(grain, start, end): hours at the edges, days between."""
    start, end = since - since % _HOUR_US, until + -until % _HOUR_US
    first_day, last_day = start + -start % _DAY_US, end - end % _DAY_US
    if first_day >= last_day:
        return ((HOUR, start, end),)
    edges = ((HOUR, start, first_day), (DAY, first_day, last_day), (HOUR, last_day, end))
    return tuple(piece for piece in edges if piece[1] < piece[2])


def _rows(
    session: Session,
    words: Words,
    grain: int,
    start: int,
    end: int,
    feature: str | None,
    dimension: str,
    value: str | None,
) -> list[tuple[Any, ...]]:
    if feature is None:
        features: Sequence[int] = [row[0] for row in session.all("summed_features")]
    else:
        features = list(words.find(session, [feature]).values())
    if not features:
        return []
    params: list[Any] = [*features, grain, dimension, start, end]
    if value is not None:
        params.append(value)
    return session.composed(
        "sums",
        params,
        features=", ".join("?" * len(features)),
        more="" if value is None else "AND value = ?",
    )


def _wanted(session: Session, words: Words, signal: str | None) -> Sequence[int] | None:
    """The words whose cells tell a signal; ``None`` for all."""
    if signal is None:
        return None
    return list(words.find(session, read_for(signal)).values())


def _chosen(cells: Cells, wanted: Sequence[int] | None) -> Iterable[tuple[int, list[float]]]:
    if wanted is None:
        return cells.items()
    return [(word, cells[word]) for word in wanted if word in cells]


def _named(session: Session, words: Words, cells: Cells, signal: str | None) -> Mapping[str, Sum]:
    """Cells as sums by name, with the ratios that are made of them."""
    sums = {words.text(session, word): _sum(cell) for word, cell in cells.items()}
    return with_ratios(sums, signal)


def _sum(cell: Sequence[float]) -> Sum:
    n, total, squares, unjudged = cell
    return Sum(n=int(n), total=float(total), squares=float(squares), unjudged=int(unjudged))


# -- care --


def forget(session: Session, newest: Mapping[int, int], now_us: int, keep_us: int) -> None:
    """Delete the five-minute sums of features from ``keep_us`` before the newest.

    What says to be from the future does not count as newest.
    """
    for feature, at in newest.items():
        until = min(at, now_us) - keep_us
        session.run("delete_sums_before", (feature, MINUTES, until - until % _HOUR_US))


def forget_before(session: Session, older_than: int, days_before: int) -> None:
    """Delete hours that ended before ``older_than`` and days that ended before ``days_before``."""
    hour, day = older_than - older_than % _HOUR_US, days_before - days_before % _DAY_US
    for (feature,) in session.all("summed_features"):
        for grain in (MINUTES, HOUR):
            session.run("delete_sums_before", (feature, grain, hour))
        session.run("delete_sums_before", (feature, DAY, day))
