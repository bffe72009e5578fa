"""What the store needs of a database, and nothing more: sessions inside transactions.

``Session`` runs named queries. ``Database`` opens sessions: any number that read a snapshot, one at
a time that writes. The two engines differ in ``sqlite.py`` and ``postgres.py`` only.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from tocsin.store.queries import Queries

Row = tuple[Any, ...]

_MOST_ROWS = 256
_MOST_LISTED = 512


class Connection(Protocol):
    """The part of a driver's connection that both drivers share."""

    def execute(self, query: Any, params: Any = ..., /) -> Any: ...


class Session:
    """Named queries on one connection, inside one transaction."""

    __slots__ = ("_execute", "_queries")

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self._execute = connection.execute
        self._queries = queries

    def all(self, name: str, params: Sequence[Any] = ()) -> list[Row]:
        """Every row of a query."""
        rows: list[Row] = self._execute(self._queries.text(name), params).fetchall()
        return rows

    def one(self, name: str, params: Sequence[Any] = ()) -> Row | None:
        """The first row, if there is one."""
        row: Row | None = self._execute(self._queries.text(name), params).fetchone()
        return row

    def run(self, name: str, params: Sequence[Any] = ()) -> int:
        """Execute; returns how many rows it changed."""
        count: int = self._execute(self._queries.text(name), params).rowcount
        return count

    def fragment(self, name: str, **others: str) -> str:
        """A named query to be part of another, its tokens filled by the ``others`` named."""
        text = self._queries.template(name)
        for token, other in others.items():
            text = text.replace("{" + token + "}", self._queries.template(other))
        return text

    def composed(self, name: str, params: Sequence[Any], **fragments: str) -> list[Row]:
        """Every row of a query that is filled with fixed fragments."""
        text = self._queries.composed(name, **fragments)
        rows: list[Row] = self._execute(text, params).fetchall()
        return rows

    def write_rows(self, name: str, flat: list[Any]) -> list[Row]:
        """Execute a ``{rows:n}`` query for all rows of ``flat`` in few statements.

        SQLite lets go of the interpreter lock at every step, and getting it back beside a busy
        event loop can take milliseconds: a statement for each row would be ruinous. Counts are
        powers of two so that few texts are ever prepared. Gives what the query returns, if it does.
        """
        returned: list[Row] = []
        if not flat:
            return returned
        _, width = self._queries.rows(name, 1)
        left, at = len(flat) // width, 0
        while left:
            count = min(_MOST_ROWS, 1 << (left.bit_length() - 1))
            text, _ = self._queries.rows(name, count)
            done = self._execute(text, flat[at : at + count * width])
            if done.description is not None:
                returned += done.fetchall()
            left -= count
            at += count * width
        return returned

    def listed(self, name: str, values: Sequence[Any], after: Sequence[Any] = ()) -> list[Row]:
        """Rows of a ``{list}`` query for any number of ``values``; ``after`` follows the list."""
        found: list[Row] = []
        for at in range(0, len(values), _MOST_LISTED):
            part = list(values[at : at + _MOST_LISTED])
            room = 1 << (len(part) - 1).bit_length()
            part += part[-1:] * (room - len(part))
            text = self._queries.listed(name, room)
            found += self._execute(text, [*part, *after]).fetchall()
        return found

    def run_listed(self, name: str, values: Sequence[Any]) -> int:
        """Execute a ``{list}`` query for any number of values; returns how many rows changed."""
        changed = 0
        for at in range(0, len(values), _MOST_LISTED):
            part = list(values[at : at + _MOST_LISTED])
            room = 1 << (len(part) - 1).bit_length()
            part += part[-1:] * (room - len(part))
            changed += self._execute(self._queries.listed(name, room), part).rowcount
        return changed

    def run_after_list(self, name: str, before: Sequence[Any], values: Sequence[Any]) -> None:
        """Execute a ``{list}`` query whose other parameters come before the list."""
        if values:
            self._execute(self._queries.listed(name, len(values)), [*before, *values])

    def script(self, texts: Sequence[str]) -> None:
        """Execute the statements of a schema file."""
        for text in texts:
            self._execute(text)


class Database(Protocol):
    """An engine. Errors of its driver come out as ``StoreError`` or ``StoreFull``."""

    dialect: str
    where: str
    """What to call it in messages: a file's path or a URL without its password."""

    def read(self) -> AbstractContextManager[Session]:
        """A session that sees one snapshot."""
        ...

    def write(self) -> AbstractContextManager[Session]:
        """The one session that may write; commits at the end, or rolls all of it back."""
        ...

    def schema_statement(self, text: str) -> str:
        """A statement of the shared schema in this engine's words."""
        ...

    def has_migrations(self, session: Session) -> bool | None:
        """Whether the schema is ours; ``None`` when the database is empty."""
        ...

    def disk_bytes(self) -> int:
        """What the database takes on disk, logs included."""
        ...

    def search_text(self, text: str) -> str:
        """A message's text as this engine's index takes it."""
        ...

    def search_query(self, words: list[str]) -> str:
        """A query for all of ``words``, none of which is taken for syntax."""
        ...

    def unindex(self, session: Session, texts: list[tuple[int, str]]) -> None:
        """Take (content id, text) pairs out of the search index."""
        ...

    def tidy_index(self) -> Iterator[None]:
        """Work deleted words out of the search index, in short steps."""
        ...

    def used_bytes(self, session: Session) -> int:
        """What its live rows take, free space inside not counted."""
        ...

    def damage(self, session: Session) -> list[str]:
        """What the engine itself finds wrong with its files."""
        ...

    def trim(self) -> None:
        """Return free space if there is much of it; otherwise it is used again."""
        ...

    def give_back(self) -> Iterator[int]:
        """Return free space to the disk, a slice for each step; yields what each one freed."""
        ...

    def close(self) -> None: ...
