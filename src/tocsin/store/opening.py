"""Opening the store that the settings name."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from tocsin.config.model import StoreSettings
from tocsin.core.clock import Clock
from tocsin.core.errors import StoreError
from tocsin.store.api import Store
from tocsin.store.database import Database
from tocsin.store.postgres import PostgresDatabase
from tocsin.store.relational import RelationalStore
from tocsin.store.sqlite import SqliteDatabase

DATABASE_FILE = "tocsin.db"


def open_store(settings: StoreSettings, data_dir: Path, clock: Clock) -> Store:
    """The store of ``settings.url``, its schema brought up to date.

    Raises ``StoreError`` when it cannot be opened, is damaged, or belongs to a newer Tocsin.
    """
    database = _database(settings.url, data_dir)
    return RelationalStore(database, data_dir, clock, keep_content=settings.content == "full")


def _database(url: str, data_dir: Path) -> Database:
    if not url:
        return SqliteDatabase(data_dir / DATABASE_FILE)
    scheme = urlsplit(url).scheme
    if scheme == "sqlite":
        path = unquote(urlsplit(url).path)[1:]
        if not path:
            raise StoreError("store.url has no path; write sqlite:////absolute/path/file.db.")
        return SqliteDatabase(Path(path))
    if scheme in ("postgresql", "postgres"):
        return PostgresDatabase(url)
    raise StoreError(
        f"store.url starts with {scheme or url[:20]!r}; use sqlite:// or postgresql://."
    )
