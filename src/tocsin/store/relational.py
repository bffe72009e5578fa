"""The store on a relational database: one class, whichever engine is underneath."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from tocsin.core.clock import Clock
from tocsin.core.domain import Alert
from tocsin.core.interaction import Entry, Interaction
from tocsin.core.messages import Hash, Message
from tocsin.core.score import Feedback, Score
from tocsin.core.signals import Scored, Signal
from tocsin.core.stops import Ending, Stop, StopScope
from tocsin.core.supervision import Finding, RunWatch
from tocsin.store import (
    admin,
    analytics,
    exporting,
    feedback,
    operation_care,
    reading,
    search,
    signal_care,
    supervision,
)
from tocsin.store.analytics import Question
from tocsin.store.api import (
    AlertRow,
    AuditRow,
    BaselineRow,
    Filter,
    Grain,
    KeyRow,
    Known,
    Overview,
    Page,
    Problem,
    Progress,
    RunRow,
    RunSort,
    SignalPoint,
    Spend,
    SpendBy,
    Stats,
    StepPoint,
    Swept,
)
from tocsin.store.append import Appender
from tocsin.store.database import Database
from tocsin.store.duck import Duck, Scan
from tocsin.store.ledger import RelationalBook
from tocsin.store.ledger_api import LedgerBook
from tocsin.store.operations import RelationalOperations
from tocsin.store.operations_api import OperationsBook
from tocsin.store.recorded import Recorded
from tocsin.store.repacking import repack
from tocsin.store.retention import NOTHING, Sweeper, add
from tocsin.store.schema import ensure
from tocsin.store.segments import Segments
from tocsin.store.signals import Signals
from tocsin.store.text import words_of
from tocsin.store.verifying import Verifier

_PAUSE_S = 0.005
_INDEXED_AT_ONCE = 20_000

T = TypeVar("T")


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
        self._segments = Segments(database, data_dir / "segments", clock)
        self._duck = Duck(database, self._segments)
        self._sweeper = Sweeper(database, self._segments.bytes)
        self._appender = Appender(database, keep_content=keep_content)
        self._recorded = Recorded(database)
        self._signals = Signals(database, clock)
        self._operations = RelationalOperations(database)

    def append(self, entries: Sequence[Entry]) -> int:
        return self._appender.append(entries)

    # -- reading --

    def interaction(self, interaction_id: str) -> Interaction | None:
        with self._database.read() as session:
            return reading.interaction(session, interaction_id)

    def interactions(self, where: Filter, *, limit: int = 50, cursor: str | None = None) -> Page:
        if where == Filter(since=where.since, until=where.until):
            with self._database.read() as session:
                rows = reading.newest(session, where, limit, cursor)
                return reading.page_of(session, rows, limit)
        found = self._asked(
            where, lambda ask: ask.newest(limit + 1, reading.edge_of(cursor)), calls_only=False
        )
        with self._database.read() as session:
            rows = session.listed("places_of", [row[1] for row in found])
            rows.sort(key=lambda row: (row[0], row[1]), reverse=True)
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

    # -- analytics --

    def overview(self, where: Filter, *, buckets: int = 60) -> Overview:
        return self._asked(where, analytics.overview, buckets=buckets)

    def spend(self, where: Filter, by: SpendBy, *, buckets: int = 60, top: int = 50) -> Spend:
        def answer(ask: Question) -> Spend:
            return analytics.spend(ask, self._database, by, top)

        return self._asked(where, answer, buckets=buckets)

    def facets(self, where: Filter) -> dict[str, list[tuple[str, int]]]:
        return self._asked(where, analytics.facets)

    def _asked(
        self,
        where: Filter,
        answer: Callable[[Question], T],
        *,
        buckets: int = 1,
        calls_only: bool = True,
    ) -> T:
        """What ``answer`` makes of the interactions that a filter finds."""
        runs = None
        matching = self._matching(where)
        if matching is not None:
            with self._database.read() as session:
                runs = reading.matching_runs(session, matching)

        def work(scan: Scan) -> T:
            # The whole log's range is an index away; any other costs a scan.
            span = self._span if where == Filter() else None
            return answer(Question(scan, where, runs, buckets, calls_only=calls_only, span=span))

        with self._duck as duck:
            return duck.retrying(work)

    def _span(self) -> tuple[int, int]:
        with self._database.read() as session:
            row = session.one("span_of_all") or (0, 0)
        return row[0] or 0, row[1] or 0

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

    # -- supervision --

    def add_stop(self, stop: Stop) -> Stop:
        with self._database.write() as session:
            return supervision.add_stop(session, stop)

    def end_stop(self, stop_id: str, ending: Ending, *, by: str, at: int, note: str = "") -> Stop:
        with self._database.write() as session:
            return supervision.end_stop(session, stop_id, ending, by=by, at=at, note=note)

    def note_cut(self, stop_id: str, cut: int, took_us: int) -> None:
        with self._database.write() as session:
            supervision.note_cut(session, stop_id, cut, took_us)

    def stops_version(self) -> int:
        with self._database.read() as session:
            return supervision.stops_version(session)

    def stops(
        self,
        *,
        standing: bool = False,
        scope: StopScope | None = None,
        value: str | None = None,
        limit: int = 200,
    ) -> list[Stop]:
        with self._database.read() as session:
            return supervision.stops(
                session, standing=standing, scope=scope, value=value, limit=limit
            )

    def stop(self, stop_id: str) -> Stop | None:
        with self._database.read() as session:
            return supervision.stop(session, stop_id)

    def raise_alerts(self, alerts: Sequence[Alert]) -> None:
        if alerts:
            with self._database.write() as session:
                supervision.raise_alerts(session, alerts)

    def alerts(self, *, firing: bool = False, limit: int = 200) -> list[AlertRow]:
        with self._database.read() as session:
            return supervision.alerts(session, firing=firing, limit=limit)

    def add_findings(self, findings: Sequence[Finding]) -> None:
        if findings:
            with self._database.write() as session:
                supervision.add_findings(session, findings)

    def findings(self, *, run_id: str | None = None, limit: int = 500) -> list[Finding]:
        with self._database.read() as session:
            return supervision.findings(session, run_id=run_id, limit=limit)

    def save_watches(self, runs: Sequence[RunWatch]) -> None:
        if runs:
            with self._database.write() as session:
                supervision.save_watches(session, runs)

    def watches(self, *, since: int, limit: int = 100) -> list[RunWatch]:
        with self._database.read() as session:
            return supervision.watches(session, since=since, limit=limit)

    def watch(self, run_id: str) -> RunWatch | None:
        with self._database.read() as session:
            return supervision.watch(session, run_id)

    # -- signals --

    def recorded_after(self, seq: int, *, limit: int, last: int = 64) -> list[tuple[int, Entry]]:
        return self._recorded.after(seq, limit, last)

    def add_scores(
        self,
        rows: Sequence[Scored],
        catalogue: Mapping[str, Signal],
        *,
        consumer: str = "",
        after: int = 0,
        upto: int = 0,
    ) -> bool:
        return self._signals.add(rows, catalogue, consumer=consumer, after=after, upto=upto)

    def scored_after(self, number: int, *, limit: int) -> list[tuple[int, Scored]]:
        return self._signals.after(number, limit)

    def scored_upto(self) -> int:
        return self._signals.newest_number()

    def scored(
        self,
        feature: str,
        *,
        since: int | None = None,
        until: int | None = None,
        slice: tuple[str, str] | None = None,  # noqa: A002 - the word for it
        limit: int = 1000,
    ) -> list[Scored]:
        return self._signals.scored(feature, since=since, until=until, within=slice, limit=limit)

    def scores(self, interaction_id: str) -> tuple[Score, ...]:
        return self._signals.of(interaction_id)

    def signal_points(
        self,
        *,
        grain: Grain,
        since: int,
        until: int,
        feature: str | None = None,
        signal: str | None = None,
        dimension: str = "",
        value: str | None = None,
    ) -> list[SignalPoint]:
        return self._signals.points(
            grain=grain,
            since=since,
            until=until,
            feature=feature,
            signal=signal,
            dimension=dimension,
            value=value,
        )

    def signal_totals(
        self,
        *,
        since: int,
        until: int,
        feature: str | None = None,
        signal: str | None = None,
        dimension: str = "",
    ) -> list[SignalPoint]:
        return self._signals.totals(
            since=since, until=until, feature=feature, signal=signal, dimension=dimension
        )

    def add_feedback(self, given: Feedback) -> bool:
        with self._database.write() as session:
            return feedback.add(session, given)

    def feedback(self, interaction_id: str) -> list[Feedback]:
        with self._database.read() as session:
            return feedback.of(session, interaction_id)

    def feedback_after(self, number: int, *, limit: int) -> list[tuple[int, Feedback]]:
        with self._database.read() as session:
            return feedback.after(session, number, limit)

    def accept_baseline(self, row: BaselineRow) -> None:
        with self._database.write() as session:
            feedback.accept(session, row)

    def forget_baseline(self, feature: str, signal: str) -> bool:
        with self._database.write() as session:
            return feedback.take_back(session, feature, signal)

    def baselines(self) -> list[BaselineRow]:
        with self._database.read() as session:
            return feedback.baselines(session)

    def save_state(self, name: str, version: str, number: int, data: bytes) -> None:
        with self._database.write() as session:
            feedback.save_state(session, name, version, number, data)

    def load_state(self, name: str, version: str) -> tuple[int, bytes] | None:
        with self._database.read() as session:
            return feedback.load_state(session, name, version)

    @property
    def ledger(self) -> LedgerBook:
        return RelationalBook(self._database)

    @property
    def operations(self) -> OperationsBook:
        return self._operations

    # -- care --

    def fold(self) -> int:
        folded = self._segments.fold()
        if repack(self._database):
            self._database.trim()
        return folded

    def rebuild(self, progress: Progress | None = None) -> int:
        folded = self._segments.rebuild(progress)
        search.reset(self._database)
        while search.index(self._database, _INDEXED_AT_ONCE):
            pass
        signal_care.rebuild(self._database, self._clock.now_us(), progress)
        return folded

    def export_parquet(self, path: str, where: Filter) -> int:
        if where == Filter():
            return exporting.write(self._database, path, self._all_seqs())
        seqs = self._asked(where, Question.matching, calls_only=False)
        return exporting.write(self._database, path, seqs)

    def _all_seqs(self) -> Iterator[int]:
        seq = 0
        while True:
            with self._database.read() as session:
                rows = session.all("seqs_after", (seq, _INDEXED_AT_ONCE))
            if not rows:
                return
            yield from (row[0] for row in rows)
            seq = rows[-1][0]

    def index(self, *, limit: int = 2000) -> int:
        return search.index(self._database, limit)

    def verify(self, progress: Progress | None = None) -> Iterator[Problem]:
        yield from Verifier(self._database, progress).problems()
        yield from signal_care.problems(self._database)
        yield from operation_care.problems(self._database)
        yield from self._segments.problems()

    def sweep(
        self, *, older_than: int | None = None, max_bytes: int | None = None, batch: int = 2000
    ) -> Swept:
        swept = NOTHING
        if older_than is not None:
            swept = add(swept, self._sweeper.by_age(older_than, batch))
        if max_bytes is not None:
            swept = add(swept, self._sweeper.by_size(max_bytes, batch))
        if swept.interactions:
            self._segments.follow()
        return self._tidied(swept)

    def delete_end_user(self, end_user: str) -> Swept:
        swept = self._sweeper.end_user(end_user, 2000)
        if swept.interactions:
            self._segments.follow()
            for _ in self._database.tidy_index():
                time.sleep(_PAUSE_S)
        return self._tidied(swept)

    def _tidied(self, swept: Swept) -> Swept:
        """Give the disk back what a deletion left free."""
        if not swept.interactions and not swept.operations:
            return swept
        if swept.runs:
            self._sweeper.tidy_shared()
        freed = 0
        for size in self._database.give_back():
            freed += size
            time.sleep(_PAUSE_S)
        return add(swept, msgspec.structs.replace(NOTHING, freed_bytes=freed))

    def stats(self) -> Stats:
        with self._database.read() as session:
            row = session.one("counts") or (0, 0, 0, 0, None, None)
            manifest = self._segments.manifest(session)
        return Stats(
            interactions=row[0],
            runs=row[1],
            contents=row[2],
            disk_bytes=self._database.disk_bytes(),
            segment_bytes=sum(segment.size for segment in manifest.segments),
            segments=len(manifest.segments),
            folded_seq=manifest.folded_seq,
            last_seq=row[3],
            oldest_at=row[4],
            newest_at=row[5],
        )

    def ping(self) -> None:
        with self._database.read() as session:
            session.one("head")

    def close(self) -> None:
        self._duck.close()
        self._database.close()
