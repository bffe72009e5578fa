"""Proving what is stored: every record, content, link, count and segment."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from tocsin.core.errors import StoreError
from tocsin.core.interaction import Interaction
from tocsin.core.messages import ROOT, content_hash, link, parse_message
from tocsin.store import packs, records
from tocsin.store.api import Problem, Progress
from tocsin.store.database import Database, Row, Session
from tocsin.store.removal import run_values

_SLICE = 1000


class Verifier:
    """Reads everything once, in slices that each see one snapshot."""

    def __init__(self, database: Database, progress: Progress | None) -> None:
        self._database = database
        self._progress = progress
        self._done = 0
        self._total = 0

    def problems(self) -> Iterator[Problem]:
        """All that is not whole. A part that cannot be read at all is one problem."""
        try:
            with self._database.read() as session:
                row = session.one("totals")
                self._total = int(row[0]) if row else 0
        except StoreError as error:
            yield self._broken(error)
            return
        for part in (
            self._engine,
            self._interactions,
            self._contents,
            self._nodes,
            self._runs,
            self._counts,
        ):
            try:
                yield from part()
            except StoreError as error:
                yield self._broken(error)

    def _broken(self, error: StoreError) -> Problem:
        return Problem(kind="database", id=self._database.where, message=str(error))

    def _step(self, count: int) -> None:
        self._done = min(self._done + count, self._total)
        if self._progress is not None:
            self._progress(self._done, self._total)

    def _engine(self) -> Iterator[Problem]:
        with self._database.read() as session:
            found = self._database.damage(session)
        for message in found:
            yield Problem(kind="database", id=self._database.where, message=message)

    def _sliced(
        self, query: str, start: Any, check: Callable[[Session, list[Row]], list[Problem]]
    ) -> Iterator[Problem]:
        while True:
            with self._database.read() as session:
                rows = session.all(query, (start, _SLICE))
                problems = check(session, rows) if rows else []
            yield from problems
            self._step(len(rows))
            if len(rows) < _SLICE:
                return
            start = rows[-1][0]

    def _interactions(self) -> Iterator[Problem]:
        def check(session: Session, rows: list[Row]) -> list[Problem]:
            items, broken = _items(session, [(r[10], r[11], r[12]) for r in rows])
            problems = []
            for row in rows:
                place = (row[10], row[11], row[12])
                message = broken.get(row[10]) or _record_fault(session, row, items.get(place))
                if message:
                    problems.append(Problem(kind="record", id=row[1], message=message))
            return problems

        return self._sliced("verify_interactions", 0, check)

    def _contents(self) -> Iterator[Problem]:
        def check(session: Session, rows: list[Row]) -> list[Problem]:
            kept = [row for row in rows if row[3] is not None]
            items, broken = _items(session, [(r[3], r[4], r[5]) for r in kept])
            problems = []
            for row in kept:
                item = items.get((row[3], row[4], row[5]))
                message = broken.get(row[3]) or _content_fault(row, item)
                if message:
                    name = bytes(row[1]).hex()
                    problems.append(Problem(kind="content", id=name, message=message))
            return problems

        return self._sliced("verify_contents", 0, check)

    def _nodes(self) -> Iterator[Problem]:
        def check(_: Session, rows: list[Row]) -> list[Problem]:
            faults = ((bytes(row[0]).hex(), _node_fault(row)) for row in rows)
            return [Problem(kind="node", id=name, message=text) for name, text in faults if text]

        return self._sliced("verify_nodes", b"", check)

    def _runs(self) -> Iterator[Problem]:
        def check(session: Session, rows: list[Row]) -> list[Problem]:
            sums = {row[0]: row for row in session.listed("run_sums", [row[0] for row in rows])}
            problems = []
            for row in rows:
                found = sums.get(row[0])
                if found is None:
                    message = "The run has no interactions."
                elif [*row[2:13], row[13]] != [*run_values(found), int(found[13])]:
                    message = "The run's sums are not what its interactions add up to."
                else:
                    continue
                problems.append(Problem(kind="run", id=row[1], message=message))
            return problems

        return self._sliced("verify_runs", 0, check)

    def _counts(self) -> Iterator[Problem]:
        with self._database.read() as session:
            nodes = session.all("wrong_node_refs")
            contents = session.all("wrong_content_refs")
            unfilled = session.all("wrong_packs")
        for value, stored, counted in nodes:
            message = f"The node counts {stored} references, but {counted} refer to it."
            yield Problem(kind="node", id=bytes(value).hex(), message=message)
        for value, stored, counted in contents:
            message = f"The content counts {stored} references, but {counted} refer to it."
            yield Problem(kind="content", id=bytes(value).hex(), message=message)
        for number, stored, counted in unfilled:
            message = f"Pack {number} counts {stored} live items, but {counted} lie in it."
            yield Problem(kind="database", id=f"pack {number}", message=message)


def _items(
    session: Session, places: list[packs.Place]
) -> tuple[dict[packs.Place, bytes], dict[int, str]]:
    """Items by place, and what is wrong with packs that cannot be read, one by one."""
    items: dict[packs.Place, bytes] = {}
    broken: dict[int, str] = {}
    raws: dict[int, bytes] = {}
    for number, codec, data in session.listed("packs", sorted({place[0] for place in places})):
        try:
            raws[number] = packs.unpack(codec, data)
        except StoreError as error:
            broken[number] = str(error)
    for place in places:
        raw = raws.get(place[0])
        if raw is not None and len(raw) >= place[1] + place[2]:
            items[place] = raw[place[1] : place[1] + place[2]]
    return items, broken


def _record_fault(session: Session, row: Row, record: bytes | None) -> str:
    if record is None:
        return "The record's bytes are missing."
    if records.digest(record) != bytes(row[13]):
        return "The record is not what was written (its digest differs)."
    try:
        one = records.decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"The record cannot be read: {error}."
    usage = one.usage
    columns = (
        one.id,
        records.kind_of(one),
        one.started_at,
        one.duration_us,
        one.outcome,
        usage.input_tokens,
        usage.output_tokens,
        one.cost_nano_usd,
        one.tool_calls,
    )
    if columns != tuple(row[1:10]):
        return "The record and its row say different things."
    if row[14] != one.run_id:
        return f"Its run {one.run_id} is missing or another."
    fault = _history_fault(one, row[15:])
    if fault:
        return fault
    bodies = [h for h in (one.params, one.request_body, one.response_body) if h]
    if len(session.listed("ids_of_contents", bodies)) < len(set(bodies)):
        return "A body that it refers to is missing."
    return ""


def _history_fault(one: Interaction, row: Row) -> str:
    """What is wrong with (asked, tip, answer, asked's node, answer's hash)."""
    asked = None if row[0] is None else bytes(row[0])
    tip = None if row[1] is None else bytes(row[1])
    if tip != one.output_node or (asked is not None and asked != one.input_node):
        return "The record and its row name different histories."
    if asked is not None and row[3] is None:
        return "The history that it was asked with is missing."
    if row[2] is None:
        return ""
    if row[4] is None:
        return "Its answer is missing."
    if asked is not None and link(asked, bytes(row[4])) != tip:
        return "Its answer is another one than its history says."
    return ""


def _content_fault(row: Row, item: bytes | None) -> str:
    if item is None:
        return "The content's bytes are missing."
    try:
        found = content_hash(item) if row[2] else parse_message(item).hash
    except msgspec.DecodeError as error:
        return f"The message cannot be read: {error}."
    return "" if found == bytes(row[1]) else "The content does not match its hash."


def _node_fault(row: Row) -> str:
    if row[2] is None:
        return "The message that the link adds is missing."
    parent = bytes(row[1])
    if link(parent, bytes(row[2])) != bytes(row[0]):
        return "The link does not match its hash."
    if parent != ROOT and row[3] is None:
        return "The history before this link is missing."
    return ""
