"""Scores of interactions: kept in order, added to sums, read back with their interactions.

A row's scores and slices lie in a pack beside those of its neighbours, where names and slices that
repeat compress to next to nothing; they go with their interaction.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from tocsin.core.clock import Clock
from tocsin.core.score import Score
from tocsin.core.signals import Scored, Signal
from tocsin.store import admin, signal_sums
from tocsin.store.api import Grain, SignalPoint
from tocsin.store.database import Database, Row, Session
from tocsin.store.packs import RECORD_BYTES, Packer, Place, read_items
from tocsin.store.reading import decode
from tocsin.store.signal_sums import Tally
from tocsin.store.signal_words import Name, Words, named

KEEP_MINUTES_US = 4 * 86_400_000_000
"""How long the sums of five minutes are kept."""
MOST_LOOKED_AT = 50_000
"""Interactions among which ``scored`` looks for those of a slice."""
_FOREVER = 1 << 62
_HOUR_US = 3_600_000_000
_PAGE_ROWS = 2_000
_EXPLANATION = 300
_LABEL = 120
_SLICE = 120
_FEATURE = 400
_EXACT = float(1 << 53)
_NOTHING: dict[int, tuple[str | None, str]] = {}

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[list[Any], list[list[Any]], dict[str, str]]).decode


class Said(msgspec.Struct):
    """What is said of one interaction so far: the last word on each signal, and its slices."""

    values: dict[str, float | None]
    slices: dict[str, str]


class Signals:
    """Scores and sums of one store."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._words = Words()
        self._forgot_at: dict[int, int] = {}

    # -- writing --

    def add(
        self,
        rows: Sequence[Scored],
        catalogue: Mapping[str, Signal],
        *,
        consumer: str,
        after: int,
        upto: int,
    ) -> bool:
        """``api.Store.add_scores``."""
        rows = [_whole(row) for row in rows]
        with self._database.write() as session:
            if consumer and admin.cursor(session, consumer) != after:
                return False
            if rows:
                _Batch(session, self._words, catalogue, self._forget).write(rows)
            if consumer:
                admin.set_cursor(session, consumer, upto)
        return True

    def _forget(self, session: Session, newest: dict[int, int]) -> None:
        """Take out old five-minute sums, once an hour for each feature."""
        now = self._clock.now_us()
        due: dict[int, int] = {}
        for feature, at in newest.items():
            hour = min(at, now) // _HOUR_US
            if hour > self._forgot_at.get(feature, 0):
                self._forgot_at[feature] = hour
                due[feature] = at
        signal_sums.forget(session, due, now, KEEP_MINUTES_US)

    # -- reading --

    def after(self, number: int, limit: int) -> list[tuple[int, Scored]]:
        """``api.Store.scored_after``."""
        with self._database.read() as session:
            rows = session.all("scored_after", (number, limit))
            items = read_items(session, _places(rows, 2) + _places(rows, 5))
            found = []
            for row in rows:
                item, record = items.get(_place(row, 2)), items.get(_place(row, 5))
                if item is None or record is None:
                    continue
                one = decode(record)
                scores, slices = self._item(session, item, one.id)
                scored = Scored(
                    interaction=one, scores=tuple(scores), slices=slices, first=bool(row[1])
                )
                found.append((int(row[0]), scored))
        return found

    def newest_number(self) -> int:
        """The number of the row that was kept last."""
        with self._database.read() as session:
            row = session.one("signals_head")
        return int(row[0]) if row else 0

    def of(self, interaction_id: str) -> tuple[Score, ...]:
        """``api.Store.scores``."""
        with self._database.read() as session:
            rows = session.all("scores_of_interaction", (interaction_id,))
            items = read_items(session, _places(rows, 0))
            found: dict[tuple[str, str], Score] = {}
            for row in rows:
                item = items.get(_place(row, 0))
                if item is not None:
                    for score in self._item(session, item, interaction_id)[0]:
                        found[score.name, score.version] = score
        return tuple(found.values())

    def scored(
        self,
        feature: str,
        *,
        since: int | None,
        until: int | None,
        within: tuple[str, str] | None,
        limit: int,
    ) -> list[Scored]:
        """``api.Store.scored``."""
        found: list[Scored] = []
        with self._database.read() as session:
            word = self._words.find(session, [feature_word(feature)]).get(feature_word(feature))
            if word is None:
                return []
            for scored in self._pages(session, word, since, until, limit):
                if within is None or scored.slices.get(within[0]) == within[1]:
                    found.append(scored)
                    if len(found) >= limit:
                        break
        return found

    def _pages(
        self, session: Session, feature: int, since: int | None, until: int | None, limit: int
    ) -> Iterator[Scored]:
        """Interactions of a feature with all their scores, newest first."""
        edge = (_FOREVER if until is None else until, 0)
        start = -_FOREVER if since is None else since
        rows_at_once = max(16, min(_PAGE_ROWS, limit + limit // 8))
        looked = 0
        while looked < MOST_LOOKED_AT:
            rows = session.all("scored_page", (feature, start, *edge, rows_at_once))
            groups: dict[int, list[Row]] = {}
            for row in rows:
                groups.setdefault(row[1], []).append(row)
            if len(rows) == rows_at_once and len(groups) > 1:
                groups.popitem()  # more of its rows may be on the next page
            items = read_items(
                session,
                [_place(row, at) for own in groups.values() for row in own for at in (3, 6)],
            )
            for own in groups.values():
                merged = self._merged(session, own, items)
                if merged is not None:
                    yield merged
                edge = (own[0][0], own[0][1])
            if len(rows) < rows_at_once:
                return
            looked += len(groups)

    def _merged(
        self, session: Session, rows: list[Row], items: Mapping[Place, bytes]
    ) -> Scored | None:
        record = items.get(_place(rows[0], 6))
        if record is None:
            return None
        one = decode(record)
        scores: dict[tuple[str, str], Score] = {}
        slices: dict[str, str] = {}
        for row in sorted(rows, key=lambda row: row[2]):
            item = items.get(_place(row, 3))
            if item is not None:
                said, own = self._item(session, item, one.id)
                slices = {**own, **slices}
                for score in said:
                    scores[score.name, score.version] = score
        return Scored(interaction=one, scores=tuple(scores.values()), slices=slices)

    def _item(
        self, session: Session, item: bytes, interaction_id: str
    ) -> tuple[list[Score], dict[str, str]]:
        return unpacked(item, interaction_id, lambda words: self._words.names(session, words))

    def points(
        self,
        *,
        grain: Grain,
        since: int,
        until: int,
        feature: str | None,
        signal: str | None,
        dimension: str,
        value: str | None,
    ) -> list[SignalPoint]:
        """``api.Store.signal_points``."""
        with self._database.read() as session:
            return signal_sums.points(
                session,
                self._words,
                grain=grain,
                since=since,
                until=until,
                feature=feature,
                signal=signal,
                dimension=dimension,
                value=value,
            )

    def totals(
        self, *, since: int, until: int, feature: str | None, signal: str | None, dimension: str
    ) -> list[SignalPoint]:
        """``api.Store.signal_totals``."""
        with self._database.read() as session:
            return signal_sums.totals(
                session,
                self._words,
                since=since,
                until=until,
                feature=feature,
                signal=signal,
                dimension=dimension,
            )


class _Batch:
    """One transaction's worth of scores."""

    def __init__(
        self,
        session: Session,
        words: Words,
        catalogue: Mapping[str, Signal],
        forget: Callable[[Session, dict[int, int]], None],
    ) -> None:
        self._session = session
        self._words = words
        self._catalogue = catalogue
        self._forget = forget
        self._tally = Tally()

    def write(self, rows: Sequence[Scored]) -> None:
        """Keep what belongs to interactions that are there."""
        session = self._session
        ids = [row.interaction.id for row in rows]
        seqs = {row[0]: row[1] for row in session.listed("places_by_id", list(dict.fromkeys(ids)))}
        rows = [row for row in rows if row.interaction.id in seqs]
        if not rows:
            return
        words = self._words.add(session, _words_of(rows, self._catalogue))
        said = said_of(session, [seqs[row.interaction.id] for row in rows])
        head = session.one("head")
        numbers = session.one("signals_head")
        assert head is not None
        assert numbers is not None
        number: int = numbers[0]
        packer = Packer(head[3] + 1, RECORD_BYTES)
        flat: list[Any] = []
        newest: dict[int, int] = {}
        for row in rows:
            number += 1
            one = row.interaction
            seq, feature = seqs[one.id], words[feature_word(one.feature)]
            row = self._count(row, feature, words, said.get(seq))
            newest[feature] = max(newest.get(feature, 0), one.started_at)
            flat += (number, seq, feature, one.started_at, int(row.first))
            flat += packer.add(packed(row, words))
        last = packer.flush() - 1
        session.write_rows("add_packs", packer.rows)
        session.write_rows("add_scores", flat)
        session.run("set_head", (head[0], head[1], head[2], last))
        session.run("set_scores_head", (number,))
        self._tally.merge(session)
        self._forget(session, newest)

    def _count(
        self, row: Scored, feature: int, words: Mapping[str, int], said: Said | None
    ) -> Scored:
        """Add a row to the sums: of each signal, an interaction counts once, with its last word.

        Returns the row with all slices of its interaction.
        """
        if said is not None:
            said.slices = {**row.slices, **said.slices}
            row = msgspec.structs.replace(row, slices=said.slices)
        key = tuple(sorted(row.slices.items()))
        cells = self._tally.cells(feature, row.interaction.started_at, key)
        for score in row.scores:
            signal = self._catalogue.get(score.name)
            scale = signal.scale if signal is not None and signal.log else 0.0
            word = words[score.name]
            if said is not None:
                if score.name in said.values:
                    earlier = said.values[score.name]
                    signal_sums.count(cells, word, inner(scale, earlier), -1)
                said.values[score.name] = score.value
            signal_sums.count(cells, word, inner(scale, score.value))
        return row


def inner(scale: float, value: float | None) -> float | None:
    """A value as it is summed, as ``Signal.inner`` has it; a scale of 0 means as it is."""
    if value is None or not scale:
        return value
    return math.log1p(max(0.0, value) / scale)


def said_of(session: Session, seqs: Sequence[int], *, before: int = _FOREVER) -> dict[int, Said]:
    """What is said already of those interactions that were scored before, or are twice here.

    Only rows with numbers below ``before`` count.
    """
    rows = session.listed("scores_of", list(dict.fromkeys(seqs)))
    rows = [row for row in rows if row[1] < before]
    found = {seq: Said(values={}, slices={}) for seq, times in Counter(seqs).items() if times > 1}
    if not rows:
        return found
    items = read_items(session, [_place(row, 4) for row in rows])
    texts: dict[int, str] = {}
    decoded = [(row, items[_place(row, 4)]) for row in rows if _place(row, 4) in items]
    for _, item in decoded:
        texts.update((word, "") for word in _decode(item)[0][::2])
    texts.update(session.listed("words_by_id", list(texts)))
    for row, item in sorted(decoded, key=lambda pair: pair[0][1]):
        scores, slices = unpacked(item, "", lambda words: [named(texts[w]) for w in words])
        said = found.setdefault(row[0], Said(values={}, slices={}))
        said.slices = {**slices, **said.slices}
        said.values.update((score.name, score.value) for score in scores)
    return found


def _words_of(rows: Sequence[Scored], catalogue: Mapping[str, Signal]) -> dict[str, float]:
    """Every word of these rows, and by what the values of its signal are scaled."""
    found: dict[str, float] = {}
    for row in rows:
        found[feature_word(row.interaction.feature)] = 0.0
        for score in row.scores:
            signal = catalogue.get(score.name)
            found[score.name] = signal.scale if signal is not None and signal.log else 0.0
            found[f"{score.name}\t{score.version}"] = 0.0
    return found


# -- items --


def packed(row: Scored, words: Mapping[str, int]) -> bytes:
    """Scores and slices as they are stored."""
    flat: list[Any] = []
    more: list[list[Any]] = []
    for at, score in enumerate(row.scores):
        value = score.value
        if value is not None and -_EXACT < value < _EXACT and value == int(value):
            value = int(value)
        flat += (words[f"{score.name}\t{score.version}"], value)
        if score.label is not None or score.explanation:
            more.append([at, score.label, score.explanation])
    return _encode((flat, more, row.slices))


def unpacked(
    item: bytes, interaction_id: str, names: Callable[[tuple[int, ...]], Sequence[Name]]
) -> tuple[list[Score], dict[str, str]]:
    """What ``packed`` wrote. ``names`` gives name and version for each of some words.

    Raises ``msgspec.DecodeError`` when it is damaged.
    """
    flat, more, slices = _decode(item)
    said = {at: (label, explanation) for at, label, explanation in more} if more else _NOTHING
    scores = [
        Score(
            interaction_id=interaction_id,
            name=name,
            version=version,
            value=None if value is None else float(value),
            label=None,
            explanation="",
        )
        for (name, version), value in zip(names(tuple(flat[::2])), flat[1::2], strict=True)
    ]
    for at, (label, explanation) in said.items():
        scores[at] = msgspec.structs.replace(scores[at], label=label, explanation=explanation)
    return scores, slices


def _whole(row: Scored) -> Scored:
    """The same as any database can hold it: short words, finite numbers, no half characters."""
    slices = {_text(d, _SLICE): _text(v, _SLICE) for d, v in row.slices.items() if v}
    scores = tuple([score if _is_plain(score) else _plain(score) for score in row.scores])
    return Scored(interaction=row.interaction, scores=scores, slices=slices, first=row.first)


def _is_plain(score: Score) -> bool:
    value = score.value
    return (
        not score.explanation and score.label is None and (value is None or -1e100 < value < 1e100)
    )


def _plain(score: Score) -> Score:
    value = score.value
    return msgspec.structs.replace(
        score,
        value=value if value is not None and -1e100 < value < 1e100 else None,
        label=None if score.label is None else _text(score.label, _LABEL),
        explanation=_text(score.explanation, _EXPLANATION),
    )


def feature_word(feature: str) -> str:
    """A feature's name as any database can hold it."""
    return _text(feature, _FEATURE)


def _text(text: str, most: int) -> str:
    if len(text) > most:
        text = text[:most]
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def _place(row: Row, at: int) -> Place:
    return row[at], row[at + 1], row[at + 2]


def _places(rows: Sequence[Row], at: int) -> list[Place]:
    return [_place(row, at) for row in rows]


# -- care --


def forget(session: Session, seqs: Sequence[int]) -> list[Place]:
    """Delete scores and feedback of interactions that go; returns where the scores lay.

    Sums keep what they have counted: they are aggregates that name nobody.
    """
    rows = session.listed("delete_scores", seqs)
    session.run_listed("delete_feedback", seqs)
    return _places(rows, 0)
