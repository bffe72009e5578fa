"""Deleting interactions, and with each of them what nothing else refers to."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from tocsin.core.interaction import Interaction
from tocsin.core.messages import ROOT, Hash
from tocsin.store import packs, search, signals, supervision
from tocsin.store.api import Swept
from tocsin.store.database import Database, Row, Session
from tocsin.store.packs import Place
from tocsin.store.reading import decode
from tocsin.store.records import model_of


class Victim(msgspec.Struct, frozen=True):
    """An interaction that is to go, with its record read beforehand."""

    seq: int
    record: Interaction


def read_victims(session: Session, rows: Sequence[Row]) -> list[Victim]:
    """Victims from (seq, pack, at, size) rows."""
    items = packs.read_items(session, [(r[1], r[2], r[3]) for r in rows])
    return [Victim(r[0], decode(items[(r[1], r[2], r[3])])) for r in rows]


class Removal:
    """One transaction's deletions. Whatever was gone already is left out of the counts."""

    def __init__(self, database: Database, session: Session) -> None:
        self._database = database
        self._session = session
        self._dead: list[Place] = []
        self.survivors: list[int] = []
        """Keys of runs that lost some interactions and keep others."""

    def delete(self, victims: Sequence[Victim]) -> Swept:
        """Delete ``victims`` and all that only they refer to."""
        session = self._session
        # Every process must forget what it remembers to be stored.
        session.run("next_epoch")
        seqs = [victim.seq for victim in victims]
        gone = session.listed("delete_interactions", seqs)
        there = {row[0] for row in gone}
        session.run_listed("delete_tool_calls", seqs)
        self._dead += [(r[4], r[5], r[6]) for r in gone]
        self._dead += signals.forget(session, seqs)
        contents = self._drop_nodes(Counter(bytes(r[2]) for r in gone if r[2] is not None))
        contents.update(r[3] for r in gone if r[3] is not None)
        contents.update(self._bodies([v.record for v in victims if v.seq in there]))
        dropped = self._drop_contents(contents)
        self._clean_packs()
        runs = self._drop_runs(sorted({r[1] for r in gone}))
        return Swept(interactions=len(gone), runs=runs, contents=dropped, freed_bytes=0)

    def _drop_nodes(self, drops: Counter[Hash]) -> Counter[int]:
        """Take references off nodes, and up the chains; returns references lost by contents."""
        contents: Counter[int] = Counter()
        while drops:
            rows = self._session.write_rows("drop_node_refs", _flat(drops))
            dead = [row for row in rows if row[3] <= 0]
            self._session.run_listed("delete_nodes", [row[0] for row in dead])
            contents.update(row[2] for row in dead)
            drops = Counter(bytes(row[1]) for row in dead if bytes(row[1]) != ROOT)
        return contents

    def _bodies(self, gone: list[Interaction]) -> Counter[int]:
        uses: Counter[Hash] = Counter()
        for one in gone:
            uses.update(h for h in (one.params, one.request_body, one.response_body) if h)
        ids = {bytes(h): n for h, n in self._session.listed("ids_of_contents", list(uses))}
        return Counter({ids[h]: count for h, count in uses.items() if h in ids})

    def _drop_contents(self, drops: Counter[int]) -> int:
        session = self._session
        rows = session.write_rows("drop_content_refs", _flat(drops))
        dead = [row for row in rows if row[1] <= 0]
        kept = [(r[0], r[2], (r[3], r[4], r[5])) for r in dead if r[3] is not None]
        messages = [(number, place) for number, blob, place in kept if not blob]
        items = packs.read_items(session, [place for _, place in messages])
        found = [(number, items[place]) for number, place in messages if place in items]
        search.forget(self._database, session, found)
        self._dead += [place for _, _, place in kept]
        session.run_listed("delete_contents", [row[0] for row in dead])
        session.run_listed("delete_shared_contents", [row[0] for row in dead])
        return len(dead)

    def _clean_packs(self) -> None:
        """Remove dead items' bytes: whole packs where nothing lives, else by writing zeros."""
        session = self._session
        places: dict[int, list[Place]] = {}
        for place in self._dead:
            places.setdefault(place[0], []).append(place)
        counts = {number: len(found) for number, found in places.items()}
        rows = session.write_rows("drop_pack_items", _flat(counts))
        session.run_listed("delete_packs", [row[0] for row in rows if row[1] <= 0])
        for number, codec, data in session.listed("packs", [r[0] for r in rows if r[1] > 0]):
            raw = packs.blanked(packs.unpack(codec, data), places[number])
            session.run("set_pack", (*packs.pack(raw), number))

    def _drop_runs(self, keys: list[int]) -> int:
        """Delete runs without interactions, add the others up again."""
        session = self._session
        dead = [row[1] for row in session.listed("delete_empty_runs", keys)]
        supervision.forget_runs(session, dead)
        for row in session.listed("run_sums", keys):
            self.survivors.append(row[0])
            _refresh_run(session, row)
        return len(dead)


def run_values(row: Row) -> list[int]:
    """What the ``run_sums`` query says of a run, as the ``runs`` table keeps it, without the rank.

    Started, last, calls, tools asked for, tools executed, errors, input and output tokens, most
    input tokens, cost, calls without a price.
    """
    return [int(value) for value in row[2:13]]


def _refresh_run(session: Session, row: Row) -> None:
    key, rank = row[0], int(row[13])
    stored = session.one("set_run_sums", (*run_values(row), key))
    if stored is None or stored[0] == rank:
        return
    last = session.one("verdict", (key, rank))
    if last is None:
        return
    place = (last[1], last[2], last[3])
    record = decode(packs.read_items(session, [place])[place])
    session.run("set_verdict", (rank, last[0], model_of(record), record.upstream, key))


def _flat(counts: dict[Any, int]) -> list[Any]:
    return [value for pair in counts.items() for value in pair]
