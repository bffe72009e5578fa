"""The store on a relational database: one class, whichever engine is underneath."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from tocsin.core.clock import Clock
from tocsin.core.interaction import Entry, Interaction
from tocsin.core.messages import Hash, Message
from tocsin.store import admin, reading, search
from tocsin.store.api import (
    AuditRow,
    Filter,
    KeyRow,
    Known,
    Page,
    Problem,
    Progress,
    RunRow,
    RunSort,
    Stats,
    StepPoint,
    Swept,
)
from tocsin.store.append import Appender
from tocsin.store.database import Database
from tocsin.store.retention import NOTHING, Sweeper, add
from tocsin.store.schema import ensure
from tocsin.store.text import words_of
from tocsin.store.verifying import Verifier

_PAUSE_S = 0.005


class RelationalStore:
    """``api.Store`` on SQLite or PostgreSQL; segments and other derived files in ``data_dir``."""

    def __init__(
        self, database: Database, data_dir: Path, clock: Clock, *, keep_content: bool
    ) -> None:
        self._database = database
        self._clock = clock
        try:
            ensure(database, clock)
        except BaseException:
            database.close()
            raise
        self._sweeper = Sweeper(database, lambda: 0)
        self._appender = Appender(database, keep_content=keep_content)

    def append(self, entries: Sequence[Entry]) -> int:
        return self._appender.append(entries)

    # -- reading --

    def interaction(self, interaction_id: str) -> Interaction | None:
        with self._database.read() as session:
            return reading.interaction(session, interaction_id)

    def interactions(self, where: Filter, *, limit: int = 50, cursor: str | None = None) -> Page:
        with self._database.read() as session:
            rows = reading.newest(session, where, limit, cursor)
            return reading.page_of(session, rows, limit)

    def runs(
        self,
        where: Filter,
        *,
        sort: RunSort = "last_at",
        descending: bool = True,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        with self._database.read() as session:
            return reading.runs(
                session,
                where,
                matching=self._matching(where),
                sort=sort,
                descending=descending,
                limit=limit,
                cursor=cursor,
            )

    def _matching(self, where: Filter) -> str | None:
        """The search query of a filter: ``None`` without one, empty when nothing can match."""
        if where.text is None or not where.text.strip():
            return None
        words = words_of(where.text)
        return self._database.search_query(words) if words else ""

    def run(self, run_id: str) -> RunRow | None:
        with self._database.read() as session:
            return reading.run(session, run_id)

    def steps(self, run_id: str, *, offset: int = 0, limit: int = 100) -> list[Interaction]:
        with self._database.read() as session:
            return reading.steps(session, run_id, offset, limit)

    def step_points(self, run_id: str) -> list[StepPoint]:
        with self._database.read() as session:
            return reading.step_points(session, run_id)

    def history(self, node: Hash, *, last: int | None = None) -> list[Message]:
        with self._database.read() as session:
            return reading.history(session, node, last)[1]

    def content(self, hashes: Sequence[Hash]) -> dict[Hash, bytes]:
        with self._database.read() as session:
            return reading.content(session, hashes)

    def known(self, nodes: Sequence[Hash], call_ids: Sequence[str]) -> list[Known]:
        with self._database.read() as session:
            return reading.known(session, nodes, call_ids)

    def after(self, seq: int, *, limit: int) -> list[tuple[int, Interaction]]:
        with self._database.read() as session:
            return reading.after(session, seq, limit)

    def entry(self, interaction_id: str) -> Entry | None:
        with self._database.read() as session:
            return reading.entry(session, interaction_id)

    # -- keys, cursors, audit --

    def add_key(self, key: KeyRow) -> None:
        with self._database.write() as session:
            admin.add_key(session, key)

    def key_by_digest(self, digest: bytes) -> KeyRow | None:
        with self._database.read() as session:
            return admin.key_by_digest(session, digest)

    def keys(self) -> list[KeyRow]:
        with self._database.read() as session:
            return admin.keys(session)

    def revoke_key(self, key_id: str, at: int) -> bool:
        with self._database.write() as session:
            return admin.revoke_key(session, key_id, at)

    def cursor(self, consumer: str) -> int:
        with self._database.read() as session:
            return admin.cursor(session, consumer)

    def set_cursor(self, consumer: str, seq: int) -> None:
        with self._database.write() as session:
            admin.set_cursor(session, consumer, seq)

    def record_audit(self, row: AuditRow) -> None:
        with self._database.write() as session:
            admin.record_audit(session, row)

    def audit(self, *, limit: int = 100) -> list[AuditRow]:
        with self._database.read() as session:
            return admin.audit(session, limit)

    # -- care --

    def index(self, *, limit: int = 2000) -> int:
        return search.index(self._database, limit)

    def verify(self, progress: Progress | None = None) -> Iterator[Problem]:
        return Verifier(self._database, progress).problems()

    def sweep(
        self, *, older_than: int | None = None, max_bytes: int | None = None, batch: int = 2000
    ) -> Swept:
        swept = NOTHING
        if older_than is not None:
            swept = add(swept, self._sweeper.by_age(older_than, batch))
        if max_bytes is not None:
            swept = add(swept, self._sweeper.by_size(max_bytes, batch))
        return self._tidied(swept)

    def delete_end_user(self, end_user: str) -> Swept:
        swept = self._sweeper.end_user(end_user, 2000)
        if swept.interactions:
            for _ in self._database.tidy_index():
                time.sleep(_PAUSE_S)
        return self._tidied(swept)

    def _tidied(self, swept: Swept) -> Swept:
        """Give the disk back what a deletion left free."""
        if not swept.interactions:
            return swept
        freed = 0
        for size in self._database.give_back():
            freed += size
            time.sleep(_PAUSE_S)
        return add(swept, msgspec.structs.replace(NOTHING, freed_bytes=freed))

    def stats(self) -> Stats:
        with self._database.read() as session:
            row = session.one("counts") or (0, 0, 0, 0, None, None)
        return Stats(
            interactions=row[0],
            runs=row[1],
            contents=row[2],
            disk_bytes=self._database.disk_bytes(),
            segment_bytes=0,
            segments=0,
            folded_seq=0,
            last_seq=row[3],
            oldest_at=row[4],
            newest_at=row[5],
        )

    def ping(self) -> None:
        with self._database.read() as session:
            session.one("head")

    def close(self) -> None:
        self._database.close()
