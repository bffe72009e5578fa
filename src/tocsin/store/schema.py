"""Creating and migrating the schema, in order, each step with its own row in ``migrations``."""

from pathlib import Path

from tocsin.core.clock import Clock
from tocsin.core.errors import StoreError
from tocsin.store.database import Database, Session
from tocsin.store.queries import SQL, statements

MIGRATIONS_TABLE = SQL / "migrations" / "table.sql"


def migrations() -> list[Path]:
    """Migration files, oldest first; a file's number is the schema's version after it."""
    return sorted((SQL / "migrations").glob("[0-9]*.sql"))


def version_of(path: Path) -> int:
    """The version that a migration file leads to."""
    return int(path.name.split("_", 1)[0])


def ensure(database: Database, clock: Clock) -> None:
    """Bring the database to the newest schema.

    An empty one gets ``schema.sql`` at once. Raises ``StoreError`` for a schema that is newer than
    this program or that is not ours.
    """
    with database.read() as session:
        ours = database.has_migrations(session)
        current = _version(session) if ours else 0
    _refuse_foreign(database, ours, current)
    if ours and current == version_of(migrations()[-1]):
        return
    with database.write() as session:
        # Another process may have been faster; the write transaction tells.
        ours = database.has_migrations(session)
        if ours is None:
            _create(database, session, clock)
        else:
            _migrate(database, session, clock, _version(session))


def _refuse_foreign(database: Database, ours: bool | None, current: int) -> None:
    newest = version_of(migrations()[-1])
    if ours is False:
        raise StoreError(
            f"{database.where} holds tables that are not Tocsin's; point store.url at a database "
            "of its own."
        )
    if current > newest:
        raise StoreError(
            f"{database.where} has schema version {current}, but this Tocsin knows {newest}. "
            "Upgrade Tocsin, or use the store that belongs to this version."
        )


def _version(session: Session) -> int:
    row = session.one("schema_version")
    return int(row[0] or 0) if row else 0


def _create(database: Database, session: Session, clock: Clock) -> None:
    for path in (SQL / "schema.sql", SQL / database.dialect / "schema.sql"):
        session.script([database.schema_statement(text) for text in statements(path)])
    session.script([database.schema_statement(text) for text in statements(MIGRATIONS_TABLE)])
    for path in migrations():
        _record(session, path, clock)


def _migrate(database: Database, session: Session, clock: Clock, current: int) -> None:
    for path in migrations():
        if version_of(path) > current:
            apply(database, session, path)
            _record(session, path, clock)


def apply(database: Database, session: Session, path: Path) -> None:
    """Run one migration: its shared part, then what this engine adds."""
    session.script([database.schema_statement(text) for text in statements(path)])
    own = SQL / database.dialect / "migrations" / path.name
    if own.exists():
        session.script(statements(own))


def _record(session: Session, path: Path, clock: Clock) -> None:
    session.run("add_migration", (version_of(path), path.stem, clock.now_us()))
