"""PostgreSQL: any number of gateways on one database. Needs the extra ``tocsin[postgres]``."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from tocsin.core.errors import StoreError, StoreFull
from tocsin.store.database import Session
from tocsin.store.queries import Queries
from tocsin.store.text import is_prefix

if TYPE_CHECKING:
    import psycopg

_IDLE = 8
_APART = re.compile(r"[\W_]+")
_TABLES = (
    *("interactions", "packs", "contents", "nodes", "runs", "shared", "tool_calls", "search"),
    *("stops", "alerts", "findings", "run_watches"),
    *("scores", "signal_sums", "feedback"),
    *("operations", "operation_bodies", "operation_results", "operation_events"),
    *("operation_steps", "idempotency_keys", "conversations", "conversation_items", "deliveries"),
)


class PostgresDatabase:
    """One schema of a PostgreSQL server; writers take turns on an advisory lock.

    The lock is what lets a cursor over ``seq`` never miss a row that commits late.
    """

    dialect = "postgres"

    def __init__(self, url: str) -> None:
        # Imported here: only who uses PostgreSQL has the driver, and it takes 60 ms to load.
        try:
            import psycopg
        except ImportError as error:
            raise StoreError(
                "store.url names PostgreSQL, but its driver is missing: "
                "pip install 'tocsin[postgres]'."
            ) from error
        self._psycopg = psycopg
        self._url = url
        self.where = _without_password(url)
        self._queries = Queries(self.dialect, "%s")
        self._write_lock = threading.Lock()
        self._idle: list[psycopg.Connection[Any]] = []
        self._closed = False
        with self._translated():
            self._idle.append(self._connect())

    def _connect(self) -> "psycopg.Connection[Any]":
        connection = self._psycopg.connect(
            self._url, autocommit=True, connect_timeout=10, application_name="tocsin"
        )
        _allow_nul(connection)
        return connection

    @contextmanager
    def read(self) -> Iterator[Session]:
        with self._translated():
            connection = self._begun("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                yield Session(connection, self._queries)
            finally:
                self._end(connection, "ROLLBACK")

    @contextmanager
    def write(self) -> Iterator[Session]:
        # The process's own writers queue here, so that they do not hold connections meanwhile.
        with self._write_lock, self._translated():
            connection = self._begun("BEGIN")
            try:
                session = Session(connection, self._queries)
                session.one("lock")
                yield session
                connection.execute("COMMIT")
            finally:
                self._end(connection, "ROLLBACK")

    def _begun(self, begin: str) -> "psycopg.Connection[Any]":
        """A connection inside a transaction; one that was dropped meanwhile is replaced."""
        if self._closed:
            raise StoreError(f"The store {self.where} is closed.")
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            try:
                connection.execute(begin)
            except self._psycopg.OperationalError:
                connection.close()
            else:
                return connection
        connection = self._connect()
        connection.execute(begin)
        return connection

    def _end(self, connection: "psycopg.Connection[Any]", ending: str) -> None:
        idle = self._psycopg.pq.TransactionStatus.IDLE
        with suppress(self._psycopg.Error):
            if connection.info.transaction_status != idle:
                connection.execute(ending)
        if connection.closed or self._closed or len(self._idle) >= _IDLE:
            connection.close()
        else:
            self._idle.append(connection)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._psycopg.errors.DiskFull as error:
            raise StoreFull(
                f"No room for {self.where}: free disk space on the database server, or lower "
                "store.keep_days or store.max_gib."
            ) from error
        except self._psycopg.OperationalError as error:
            raise StoreError(
                f"{self.where} cannot be reached: {str(error).strip()}. Check store.url and that "
                "the server is up."
            ) from error
        except self._psycopg.Error as error:
            raise StoreError(f"The store {self.where} failed: {str(error).strip()}.") from error

    def schema_statement(self, text: str) -> str:
        text = text.replace("INTEGER", "BIGINT").replace("BLOB", "BYTEA")
        return text.replace(" WITHOUT ROWID", "")

    def has_migrations(self, session: Session) -> bool | None:
        names = {row[0] for row in session.all("table_names")}
        return "migrations" in names if names else None

    def search_text(self, text: str) -> str:
        # PostgreSQL would keep addresses and numbers with their punctuation as one word.
        return _APART.sub(" ", text)

    def search_query(self, words: list[str]) -> str:
        return " & ".join(words) + (":*" if is_prefix(words) else "")

    def unindex(self, session: Session, texts: list[tuple[int, str]]) -> None:
        session.run_listed("unindex_texts", [number for number, _ in texts])

    def tidy_index(self) -> Iterator[None]:
        """Deleted rows leave the index with the vacuum that follows."""
        return iter(())

    def used_bytes(self, session: Session) -> int:
        row = session.one("used_bytes")
        return int(row[0]) if row else 0

    def damage(self, session: Session) -> list[str]:
        """PostgreSQL checks its pages when it reads them."""
        return []

    def disk_bytes(self) -> int:
        with self.read() as session:
            row = session.one("disk_bytes")
        return int(row[0]) if row else 0

    def trim(self) -> None:
        """The server's own vacuum sees to it."""

    def give_back(self) -> Iterator[int]:
        """A plain VACUUM of each table: it blocks nobody, and the space is used again."""
        before = self.disk_bytes()
        for table in _TABLES:
            with self._translated():
                connection = self._connect()
                try:
                    connection.execute(f"VACUUM {table}")
                finally:
                    connection.close()
            after = self.disk_bytes()
            yield max(0, before - after)
            before = after

    def close(self) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().close()


def _allow_nul(connection: "psycopg.Connection[Any]") -> None:
    """Text columns of PostgreSQL take no NUL; callers' ids and names may hold one."""
    from psycopg.types.string import StrDumper

    class Dumper(StrDumper):
        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\ufffd") if "\0" in obj else obj)

    connection.adapters.register_dumper(str, Dumper)


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}@{host}"))
