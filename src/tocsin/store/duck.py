"""DuckDB over segments and the tail: one engine for a process, its queries one after another."""

import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tocsin.core.errors import InputError, StoreError
from tocsin.store import facts
from tocsin.store.api import Filter
from tocsin.store.database import Database, Row
from tocsin.store.parquet import ParquetWriter
from tocsin.store.queries import Queries
from tocsin.store.segments import Manifest, Segments, purge_rows

if TYPE_CHECKING:
    import duckdb

_READ_ROWS = 4000
_FOLD_FROM = 50_000
_MOST_PARTS = 8
_TRIES = 4

T = TypeVar("T")

_CONDITIONS = {
    "since": "started_at >= ?",
    "until": "started_at < ?",
    "feature": "feature = ?",
    "model": "model = ?",
    "release": "release = ?",
    "end_user": "end_user = ?",
    "key_id": "key_id = ?",
    "upstream": "upstream = ?",
    "outcome": "outcome = ?",
    "source": "source = ?",
    "conversation_id": "conversation_id = ?",
}


def conditions(where: Filter) -> tuple[str, list[Any]]:
    """A filter as SQL over facts, without its text."""
    found, params = ["true"], list[Any]()
    for field, condition in _CONDITIONS.items():
        value = getattr(where, field)
        if value is not None:
            found.append(condition)
            params.append(value)
    return " AND ".join(found), params


class Scan:
    """One snapshot of all facts, ready to be queried while the engine's lock is held."""

    def __init__(
        self,
        connection: "duckdb.DuckDBPyConnection",
        queries: Queries,
        source: str,
        params: list[Any],
    ) -> None:
        self._connection = connection
        self._queries = queries
        self._source = source
        self._params = params

    def all(
        self, name: str, where: str, params: Sequence[Any], after: Sequence[Any] = (), **words: str
    ) -> list[Row]:
        """Rows of a named query; ``words`` fill its other tokens."""
        text = self._queries.composed(name, source=self._source, where=where, **words)
        count = text.count(self._source)
        values = [*self._params * count, *params, *after]
        rows: list[Row] = self._connection.execute(text, values).fetchall()
        return rows


class Duck:
    """Keeps the connection and the tail: rows that are in no segment yet, as files of our own."""

    def __init__(self, database: Database, segments: Segments) -> None:
        self._database = database
        self._segments = segments
        self._queries = Queries("duckdb", "?")
        self._lock = threading.Lock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._home: Path | None = None
        self._tail: list[tuple[int, Path]] = []
        self._tail_from = self._tail_to = 0
        self._epoch = -1
        self._written = 0

    def __enter__(self) -> "Duck":
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def scan(self) -> Scan:
        """All facts as they are now. Call inside ``with``."""
        manifest = self._manifest()
        if manifest.last_seq - manifest.folded_seq > _FOLD_FROM:
            self._segments.fold()
            manifest = self._manifest()
        self._follow(manifest)
        files = [self._segments.path(segment) for segment in manifest.segments]
        tail = [path for _, path in self._tail]
        gone = purge_rows(manifest.purges)
        hidden = " AND ".join(f"NOT {condition}" for condition, _ in gone)
        params = [value for _, values in gone for value in values]
        parts: list[str] = []
        if files:
            parts.append(self._part(files, hidden or "true"))
        else:
            params = []
        if tail:
            parts.append(self._part(tail, "true"))
        source = " UNION ALL ".join(parts or [_NO_ROWS])
        return Scan(self._connect(), self._queries, f"({source})", params)

    def _part(self, paths: Sequence[Path], kept: str) -> str:
        quoted = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths)
        return self._queries.composed("rows_of_files", files=quoted, kept=kept)

    def retrying(self, work: Callable[[Scan], T]) -> T:
        """``work(scan)``; once more when a fold took a file away in between."""
        import duckdb

        for left in reversed(range(_TRIES)):
            try:
                return work(self.scan())
            except duckdb.IOException as error:
                self._epoch = -1
                if not left:
                    raise StoreError(
                        f"A segment in {self._segments.folder} cannot be read ({error}). Run "
                        "`tocsin rebuild`: nothing is lost, segments are made from the records."
                    ) from error
            except duckdb.Error as error:
                if isinstance(error, duckdb.InvalidInputException | duckdb.ConversionException):
                    raise InputError(f"The filter cannot be used: {error}.") from error
                raise StoreError(f"Analytics failed: {error}.") from error
        raise AssertionError("the last try returns or raises")

    def _manifest(self) -> Manifest:
        with self._database.read() as session:
            return self._segments.manifest(session)

    def _follow(self, manifest: Manifest) -> None:
        """Bring the tail's files to (folded, last]."""
        stale = manifest.epoch != self._epoch or self._tail_from > manifest.folded_seq
        crossing = any(
            last > manifest.folded_seq and self._first_of(at) <= manifest.folded_seq
            for at, (last, _) in enumerate(self._tail)
        )
        if stale or crossing or len(self._tail) >= _MOST_PARTS:
            self._forget_tail(self._tail)
            self._epoch = manifest.epoch
            self._tail_from = self._tail_to = manifest.folded_seq
        else:
            self._forget_tail([part for part in self._tail if part[0] <= manifest.folded_seq])
            self._tail_from = manifest.folded_seq
            self._tail_to = max(self._tail_to, manifest.folded_seq)
        if self._tail_to < manifest.last_seq:
            self._read_tail(manifest.last_seq)

    def _first_of(self, at: int) -> int:
        return (self._tail[at - 1][0] if at else self._tail_from) + 1

    def _read_tail(self, last: int) -> None:
        # Never the same name twice: the engine may remember what a file held.
        self._written += 1
        path = self._temporary() / f"{self._written:012}.parquet"
        with ParquetWriter(path, facts.COLUMNS) as writer:
            at = self._tail_to
            while True:
                with self._database.read() as session:
                    rows = facts.rows_between(session, at, last, _READ_ROWS)
                if not rows:
                    break
                writer.add(rows)
                at = rows[-1][0]
        self._tail.append((last, path))
        self._tail_to = last

    def _forget_tail(self, parts: list[tuple[int, Path]]) -> None:
        for part in list(parts):
            self._tail.remove(part)
            with suppress(OSError):
                part[1].unlink()

    def _temporary(self) -> Path:
        if self._home is None:
            self._home = self._segments.tail_folder()
        self._home.mkdir(parents=True, exist_ok=True)
        return self._home

    def _connect(self) -> "duckdb.DuckDBPyConnection":
        if self._connection is None:
            import duckdb

            config: dict[str, str | bool | int | float | list[str]] = {
                "threads": 2,
                "memory_limit": "256MB",
                "temp_directory": str(self._temporary()),
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            }
            self._connection = duckdb.connect(":memory:", config=config)
        return self._connection

    def close(self) -> None:
        """Free the engine and remove the tail's files."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if self._home is not None:
                shutil.rmtree(self._home, ignore_errors=True)
                self._home = None
            self._tail = []


_DUCK_TYPES = {"int": "BIGINT", "text": "VARCHAR", "flag": "BOOLEAN"}
_NO_ROWS = (
    "SELECT "
    + ", ".join(f"NULL::{_DUCK_TYPES[kind]} AS {name}" for name, kind in facts.COLUMNS)
    + " WHERE false"
)
