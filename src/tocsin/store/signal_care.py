"""Retention, proof and renewal of scores and their sums."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from tocsin.core.domain import Alert
from tocsin.core.errors import StoreError
from tocsin.core.score import Score
from tocsin.store import admin, packs, signal_sums
from tocsin.store.api import Problem, Progress
from tocsin.store.database import Database, Row, Session
from tocsin.store.signal_sums import DAY, HOUR, MINUTES, REMADE, Cells, Tally
from tocsin.store.signal_words import named
from tocsin.store.signals import KEEP_MINUTES_US, Said, inner, said_of, unpacked

KEEP_DAYS_US = 400 * 86_400_000_000
"""How much longer than the records themselves the sums of whole days are kept."""
_REBUILDING = "signals.rebuild"
_ROWS = 1_000
_PAUSE_S = 0.005
_DAY_US = 86_400_000_000
_FOREVER = 1 << 62


# -- retention --


def forget_old(database: Database, older_than: int) -> None:
    """Delete sums of hours that are older; those of days say how it was for 400 days more."""
    with database.write() as session:
        signal_sums.forget_before(session, older_than, older_than - KEEP_DAYS_US)


def forget_old_as_records(database: Database) -> None:
    """The same for what is older than the oldest record that is left."""
    with database.read() as session:
        row = session.one("span_of_all")
    if row is not None and row[0] is not None:
        forget_old(database, row[0])


def forget_name(session: Session, name: str) -> None:
    """Delete sums and alerts of slices that bear somebody's name."""
    session.run("delete_sums_of_value", (name,))
    for fingerprint, record in session.all("all_alerts"):
        change = msgspec.json.decode(record, type=Alert).change
        if change is not None and any(one.value == name for one in change.slices):
            session.run("delete_alert", (fingerprint,))


# -- proof --


def problems(database: Database) -> Iterator[Problem]:
    """Scores, sums and feedback that are not whole."""
    number = 0
    while True:
        with database.read() as session:
            rows = session.all("verify_scores", (number, _ROWS))
            found = _score_problems(session, rows)
        yield from found
        if len(rows) < _ROWS:
            break
        number = rows[-1][0]
    yield from _sum_problems(database)
    with database.read() as session:
        orphans = session.all("feedback_without_interaction")
    for (name,) in orphans:
        yield Problem(kind="score", id=name, message="The call that the feedback is on is missing.")


def _score_problems(session: Session, rows: Sequence[Row]) -> list[Problem]:
    places = [(row[2], row[3], row[4]) for row in rows]
    words = {row[0] for row in session.all("all_word_ids")}
    found = []
    for row, place, message in _items(session, rows, places):
        fault = message or _score_fault(row, place, words)
        if fault:
            found.append(Problem(kind="score", id=str(row[1] or row[0]), message=fault))
    return found


def _items(
    session: Session, rows: Sequence[Row], places: list[packs.Place]
) -> Iterator[tuple[Row, bytes, str]]:
    """Rows with their bytes, or with what keeps these from being read."""
    raws: dict[int, bytes] = {}
    broken: dict[int, str] = {}
    for number, codec, data in session.listed("packs", sorted({place[0] for place in places})):
        try:
            raws[number] = packs.unpack(codec, data)
        except StoreError as error:
            broken[number] = str(error)
    for row, (number, at, size) in zip(rows, places, strict=True):
        raw = raws.get(number, b"")
        whole = len(raw) >= at + size
        yield (
            row,
            raw[at : at + size],
            broken.get(number, "" if whole else "Its bytes are missing."),
        )


def _score_fault(row: Row, item: bytes, words: set[int]) -> str:
    if row[1] is None:
        return "The call that the scores are on is missing."
    if row[5] != row[6]:
        return "The scores and their call say different times."
    if row[7] is None:
        return "The feature of the scores has no name."
    try:
        _, _, unknown = _checked(item, words)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, TypeError) as error:
        return f"The scores cannot be read: {error}."
    return f"The signal with the number {unknown} has no name." if unknown else ""


def _checked(item: bytes, words: set[int]) -> tuple[int, int, int]:
    """How many scores and slices, and a signal without a name."""
    unknown: set[int] = set()

    def names(numbers: tuple[int, ...]) -> list[tuple[str, str]]:
        unknown.update(set(numbers) - words)
        return [("", "")] * len(numbers)

    scores, slices = unpacked(item, "", names)
    return len(scores), len(slices), min(unknown, default=0)


def _sum_problems(database: Database) -> Iterator[Problem]:
    after: tuple[Any, ...] = (-1, 0, "", 0, "")
    while True:
        with database.read() as session:
            rows = session.all("verify_sums", (*after, _ROWS))
        for *key, data in rows:
            try:
                cells = signal_sums.unpacked(data)
                whole = all(
                    len(cell) == 4 and cell[0] >= 0 and cell[3] >= 0 for cell in cells.values()
                )
            except (msgspec.DecodeError, IndexError, TypeError):
                whole = False
            if not whole:
                name = " ".join(str(part) for part in key)
                message = "The sums cannot be read; `tocsin rebuild` makes them again."
                yield Problem(kind="score", id=name, message=message)
        if len(rows) < _ROWS:
            return
        after = tuple(rows[-1][:5])


# -- renewal --


def rebuild(database: Database, now_us: int, progress: Progress | None = None) -> int:
    """Make sums again from the scores that are there; returns from how many.

    Sums of days of which retention has taken records are kept as they are. New ones grow beside the
    old ones and take their place at the end, so nobody reads half of them. Raises ``StoreError``
    when another process begins the same.
    """
    with database.write() as session:
        for grain in (MINUTES, HOUR, DAY):
            session.run("delete_grain", (grain + REMADE,))
        admin.set_cursor(session, _REBUILDING, 0)
        start = _first_whole_day(session)
    if start is None:
        return 0
    done = number = 0
    while True:
        with database.write() as session:
            if admin.cursor(session, _REBUILDING) != number:
                raise StoreError("another process began to rebuild; it goes on alone")
            rows = session.all("scores_rows_after", (number, _FOREVER, _ROWS))
            _remake(session, rows, start)
            done += len(rows)
            if len(rows) < _ROWS:
                _take_over(session, start, now_us)
                return done
            number = rows[-1][0]
            admin.set_cursor(session, _REBUILDING, number)
            head = session.one("signals_head")
        if progress is not None:
            progress(number, head[0] if head else number)
        time.sleep(_PAUSE_S)


def _first_whole_day(session: Session) -> int | None:
    """The first day all of whose records can still be there; ``None`` without scores."""
    row = session.one("oldest_score")
    if row is None or row[0] is None:
        return None
    oldest: int = row[0] - row[0] % _DAY_US
    edge = session.one("purged_before")
    purged: int = edge[0] if edge is not None and edge[0] else 0
    return max(oldest, purged + -purged % _DAY_US) if purged else oldest


def _remake(session: Session, rows: Sequence[Row], start: int) -> None:
    """Add rows (number, seq, feature, started at, place) to the sums that grow."""
    if not rows:
        return
    scales = {word: (text, scale) for word, text, scale in session.all("all_words")}
    by_text = {text: (word, scale) for word, (text, scale) in scales.items()}
    said = said_of(session, [row[1] for row in rows], before=rows[0][0])
    items = packs.read_items(session, [(row[4], row[5], row[6]) for row in rows])
    tally = Tally()
    for row in rows:
        item = items.get((row[4], row[5], row[6]))
        if item is not None and row[3] >= start:
            scores, slices = unpacked(
                item, "", lambda words: [named(scales[word][0]) for word in words]
            )
            cells = tally.cells(row[2], row[3], tuple(sorted(slices.items())))
            _count(cells, scores, said.get(row[1]), by_text)
    tally.merge(session, remade=True)


def _count(
    cells: Cells,
    scores: Sequence[Score],
    said: Said | None,
    by_text: dict[str, tuple[int, float]],
) -> None:
    for score in scores:
        word, scale = by_text[score.name]
        if said is not None:
            if score.name in said.values:
                signal_sums.count(cells, word, inner(scale, said.values[score.name]), -1)
            said.values[score.name] = score.value
        signal_sums.count(cells, word, inner(scale, score.value))


def _take_over(session: Session, start: int, now_us: int) -> None:
    for grain in (MINUTES, HOUR, DAY):
        session.run("delete_sums_from", (grain, start))
        session.run("move_grain", (grain, grain + REMADE))
    newest = {row[0]: row[1] for row in session.all("newest_sums", (MINUTES,))}
    signal_sums.forget(session, newest, now_us, KEEP_MINUTES_US)


__all__ = ["forget_name", "forget_old", "forget_old_as_records", "problems", "rebuild"]
