"""SQLite: one file in WAL mode, one writer at a time, readers that nobody blocks."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tocsin.core.errors import StoreError, StoreFull
from tocsin.store.database import Session
from tocsin.store.queries import Queries
from tocsin.store.text import is_prefix

_APPLICATION_ID = 0x746F6373
_BUSY_MS = 30_000
_IDLE_READERS = 8
_FREE_PAGES = 1000
_MERGE_PAGES = 100
_MUCH_FREE = 512 * 1024
_PAUSE_S = 0.002


class SqliteDatabase:
    """The default engine. Several processes may share the file."""

    dialect = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.where = str(path)
        self._queries = Queries(self.dialect, "?")
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        with self._translated():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._connect(cache_kib=4_096)
            try:
                self._prepare(self._writer)
            except BaseException:
                self._writer.close()
                raise

    def _connect(self, *, cache_kib: int) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path,
            timeout=_BUSY_MS / 1000,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=512,
        )
        connection.execute(f"PRAGMA cache_size = -{cache_kib}")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA temp_store = MEMORY")
        # Deleted rows are overwritten where that costs no extra page; packs are blanked by us.
        connection.execute("PRAGMA secure_delete = FAST")
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Check that the file is ours or new, and set what the file itself remembers."""
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (owner,) = connection.execute("PRAGMA application_id").fetchone()
        if pages and owner not in (0, _APPLICATION_ID):
            raise StoreError(
                f"{self.where} is an SQLite database of another program; point store.url or "
                "server.data_dir somewhere else."
            )
        if not pages:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        self._begin_wal(connection)
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
        connection.execute("PRAGMA journal_size_limit = 33554432")

    def _begin_wal(self, connection: sqlite3.Connection) -> None:
        """WAL for the file, once and for all.

        Of several that open a new file at the same time one may be told "locked" at once: for
        this change SQLite does not wait its busy time, since two that wait for each other while
        both read would never end. So we let go and ask again.
        """
        until = time.monotonic() + _BUSY_MS / 1000
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > until:
                    raise
                time.sleep(_PAUSE_S)
            else:
                return

    @contextmanager
    def read(self) -> Iterator[Session]:
        with self._translated():
            connection = self._reader()
            try:
                connection.execute("BEGIN")
                yield Session(connection, self._queries)
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                self._release(connection)

    @contextmanager
    def write(self) -> Iterator[Session]:
        with self._lock, self._translated():
            self._check_open()
            connection = self._writer
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield Session(connection, self._queries)
                connection.execute("COMMIT")
            except BaseException:
                # SQLite rolls back by itself when the disk is full.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _reader(self) -> sqlite3.Connection:
        self._check_open()
        with suppress(IndexError):
            return self._idle.pop()
        connection = self._connect(cache_kib=1024)
        connection.execute("PRAGMA query_only = ON")
        return connection

    def _release(self, connection: sqlite3.Connection) -> None:
        if self._closed or len(self._idle) >= _IDLE_READERS:
            connection.close()
        else:
            self._idle.append(connection)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"The store {self.where} is closed.")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Driver errors as errors of ours that say what to do."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._explained(error) from error
        except OSError as error:
            raise StoreError(f"The store {self.where} cannot be used: {error}.") from error

    def _explained(self, error: sqlite3.Error) -> StoreError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return StoreFull(
                f"No room for {self.where}: free disk space, or lower store.keep_days or "
                "store.max_gib."
            )
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return StoreError(
                f"{self.where} is damaged or not a database ({error}). Run `tocsin verify`; "
                "restore a copy, or move the file away to start an empty store."
            )
        if code == sqlite3.SQLITE_BUSY:
            return StoreError(
                f"{self.where} was locked by another process for {_BUSY_MS // 1000} s."
            )
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY):
            return StoreError(
                f"{self.where} cannot be opened for writing ({error}). Check that the folder "
                "exists and belongs to the user that runs Tocsin."
            )
        return StoreError(f"The store {self.where} failed: {error}.")

    def schema_statement(self, text: str) -> str:
        return text

    def has_migrations(self, session: Session) -> bool | None:
        names = {row[0] for row in session.all("table_names")}
        return "migrations" in names if names else None

    def disk_bytes(self) -> int:
        total = 0
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                total += Path(self.where + suffix).stat().st_size
        return total

    def search_text(self, text: str) -> str:
        return text

    def search_query(self, words: list[str]) -> str:
        quoted = [f'"{word}"' for word in words]
        return " ".join(quoted) + ("*" if is_prefix(words) else "")

    def unindex(self, session: Session, texts: list[tuple[int, str]]) -> None:
        flat = [value for number, text in texts for value in ("delete", number, text)]
        session.write_rows("unindex_texts", flat)

    def tidy_index(self) -> Iterator[None]:
        """Merge deleted words out of the index, a few pages at a time."""
        pages = -_MERGE_PAGES
        while True:
            with self.write() as session:
                before = session.one("changes") or (0,)
                session.run("merge_index", (pages,))
                after = session.one("changes") or (0,)
            if after[0] - before[0] < 2:
                return
            pages = _MERGE_PAGES
            yield

    def used_bytes(self, session: Session) -> int:
        row = session.one("used_bytes")
        return int(row[0]) if row else 0

    def damage(self, session: Session) -> list[str]:
        return [str(row[0]) for row in session.all("check_database") if row[0] != "ok"]

    def trim(self) -> None:
        with self._lock, self._translated():
            self._check_open()
            free = self._free_bytes()
        with self.read() as session:
            used = self.used_bytes(session)
        if free > max(_MUCH_FREE, used // 4):
            for _ in self.give_back():
                time.sleep(_PAUSE_S)

    def give_back(self) -> Iterator[int]:
        """Free pages go back in slices, each its own transaction; at last the WAL is cut."""
        while True:
            with self._lock, self._translated():
                self._check_open()
                free = self._free_bytes()
                # Not `execute`: the driver would stop after the first page.
                self._writer.executescript(f"PRAGMA incremental_vacuum({_FREE_PAGES})")
                left = self._free_bytes()
            if left >= free:
                break
            yield free - left
        with self._translated():
            connection = self._connect(cache_kib=2048)
            try:
                connection.execute("PRAGMA busy_timeout = 100")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                connection.close()

    def _free_bytes(self) -> int:
        row = self._writer.execute(
            "SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size"
        ).fetchone()
        return int(row[0])

    def close(self) -> None:
        with self._lock:
            self._closed = True
            while self._idle:
                self._idle.pop().close()
            self._writer.close()
