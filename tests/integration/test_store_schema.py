"""Opening: schemas old and new, databases that are not ours, and what damage looks like."""

import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import psycopg
import pytest

from store_world import SECOND, START, Conversation, StoppedClock, entry, message, problems
from tocsin.config.model import StoreSettings
from tocsin.core.errors import StoreError, StoreFull
from tocsin.store import Filter, Store, open_store, schema
from tocsin.store.database import Database
from tocsin.store.postgres import PostgresDatabase
from tocsin.store.sqlite import SqliteDatabase

SQLITE_SHAPE = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name <> 'migrations'"
POSTGRES_SHAPE = """
SELECT 'column', table_name, column_name, data_type || ' ' || is_nullable
FROM information_schema.columns WHERE table_schema = current_schema()
UNION ALL
SELECT 'index', tablename, indexname, regexp_replace(indexdef, 'test_[0-9a-f]+', '')
FROM pg_indexes WHERE schemaname = current_schema()
"""


def words(text: Any) -> Any:
    """SQL without its layout."""
    return " ".join(text.split()) if isinstance(text, str) else text


def shape(database: Database) -> list[tuple[Any, ...]]:
    """Every table, column and index of a schema."""
    if isinstance(database, SqliteDatabase):
        rows = sqlite3.connect(database.path).execute(SQLITE_SHAPE).fetchall()
    else:
        assert isinstance(database, PostgresDatabase)
        with psycopg.connect(database._url) as connection:
            rows = connection.execute(POSTGRES_SHAPE).fetchall()
    return sorted((tuple(words(value) for value in row) for row in rows), key=repr)


def test_a_fresh_schema_is_the_migrated_one(store_url: str, tmp_path: Path, engine: str) -> None:
    clock = StoppedClock()

    def opened(name: str) -> Database:
        if engine == "sqlite":
            return SqliteDatabase(tmp_path / name)
        return PostgresDatabase(store_url)

    fresh = opened("fresh.db")
    schema.ensure(fresh, clock)
    expected = shape(fresh)
    if engine == "postgres":
        with psycopg.connect(store_url, autocommit=True) as connection:
            (name,) = connection.execute("SELECT current_schema()").fetchone() or ("",)
            connection.execute(f"DROP SCHEMA {name} CASCADE")
            connection.execute(f"CREATE SCHEMA {name}")
    migrated = opened("migrated.db")
    with migrated.write() as session:
        first = schema.migrations()[0]
        texts = schema.statements(schema.MIGRATIONS_TABLE)
        session.script([migrated.schema_statement(text) for text in texts])
        schema.apply(migrated, session, first)
        session.run("add_migration", (schema.version_of(first), first.stem, 0))
    schema.ensure(migrated, clock)
    assert shape(migrated) == expected
    assert len(expected) > 20
    fresh.close()
    migrated.close()


def test_a_new_file_that_another_is_just_writing_is_waited_for(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "new.db", isolation_level=None)
    other.execute("PRAGMA application_id = 0x746F6373")
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor() as threads:
        opening = threads.submit(SqliteDatabase, tmp_path / "new.db")
        assert not wait([opening], timeout=0.3).done
        other.execute("ROLLBACK")
        opening.result(timeout=20).close()
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_migrations_are_numbered_without_gaps() -> None:
    versions = [schema.version_of(path) for path in schema.migrations()]
    assert versions == list(range(1, len(versions) + 1))


def test_a_store_of_a_newer_tocsin_is_refused(open_it, store: Store) -> None:
    with store._database.write() as session:
        session.run("add_migration", (999, "from_the_future", 0))
    with pytest.raises(StoreError, match=r"version 999.*Upgrade Tocsin"):
        open_it()


def test_tables_of_another_program_are_refused(store_url: str, tmp_path: Path, engine: str) -> None:
    if engine == "sqlite":
        connection = sqlite3.connect(tmp_path / "tocsin.db")
        connection.execute("CREATE TABLE customers (id INTEGER)")
        connection.commit()
    else:
        with psycopg.connect(store_url, autocommit=True) as postgres:
            postgres.execute("CREATE TABLE customers (id INTEGER)")
    with pytest.raises(StoreError, match="not Tocsin's"):
        open_store(StoreSettings(url=store_url), tmp_path, StoppedClock())


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://host/db", "sqlite:// or postgresql://"),
        ("sqlite://", "no path"),
        ("postgresql://nobody@127.0.0.1:1/none", "cannot be reached"),
        ("just words", "sqlite:// or postgresql://"),
    ],
)
def test_a_url_that_leads_nowhere_says_what_to_write(url: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=says):
        open_store(StoreSettings(url=url), tmp_path, StoppedClock())


def test_a_password_is_in_no_message(tmp_path: Path) -> None:
    url = "postgresql://user:hunter2@127.0.0.1:1/db"
    with pytest.raises(StoreError) as caught:
        open_store(StoreSettings(url=url), tmp_path, StoppedClock())
    assert "hunter2" not in str(caught.value)
    assert "user@127.0.0.1" in str(caught.value)


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "tocsin.db"
    path.write_bytes(b"This is my diary. " * 500)
    with pytest.raises(StoreError, match="not a database"):
        open_store(StoreSettings(), tmp_path, StoppedClock())
    assert path.read_bytes() == b"This is my diary. " * 500


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "tocsin.db")
    connection.execute("PRAGMA application_id = 42")
    connection.execute("CREATE TABLE t (x)")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="another program"):
        open_store(StoreSettings(), tmp_path, StoppedClock())


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        open_store(StoreSettings(), tmp_path / "file" / "data", StoppedClock())


def test_a_full_disk_loses_nothing_and_heals(tmp_path: Path) -> None:
    store = open_store(StoreSettings(), tmp_path, StoppedClock())
    store.append([entry(1)])
    writer = store._database._writer  # type: ignore[attr-defined]
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {pages}")
    big = [entry(n, body=os.urandom(20_000)) for n in range(2, 40)]
    with pytest.raises(StoreFull, match="keep_days"):
        store.append(big)
    assert store.stats().interactions == 1
    assert problems(store) == []
    writer.execute("PRAGMA max_page_count = 1000000")
    assert store.append(big) == 38
    assert problems(store) == []
    store.close()


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    for use in (store.ping, store.stats, lambda: store.append([entry(1)])):
        with pytest.raises(StoreError, match="closed"):
            use()


def test_a_dropped_connection_is_replaced(store_url: str, store: Store, engine: str) -> None:
    if engine == "sqlite":
        pytest.skip("a file has no connection to drop")
    store.append([entry(1)])
    with psycopg.connect(store_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'tocsin'"
        )
    assert store.append([entry(2)]) == 1
    assert store.stats().interactions == 2


DAMAGE = [
    ("record", "UPDATE interactions SET outcome = 'error' WHERE seq = 1", "different things"),
    ("record", "UPDATE interactions SET at = at + 1 WHERE seq = 1", "digest"),
    ("record", "UPDATE interactions SET size = 9999999 WHERE seq = 1", "missing"),
    ("record", "UPDATE interactions SET asked = NULL, tip = NULL WHERE seq = 1", "histories"),
    ("record", "UPDATE interactions SET run = 77 WHERE seq = 1", "run"),
    ("content", "UPDATE contents SET size = size - 1 WHERE id = 1", ""),
    ("content", "UPDATE contents SET refs = refs + 1 WHERE id = 1", "references"),
    ("record", "DELETE FROM contents WHERE blob = 1", "body"),
    ("node", "DELETE FROM contents WHERE id = 1", "missing"),
    ("node", "UPDATE nodes SET refs = 9", "references"),
    ("node", "UPDATE nodes SET content = 2 WHERE content = 1", "hash"),
    ("node", "DELETE FROM nodes WHERE content = 1", "before this link"),
    ("record", "DELETE FROM nodes", "history"),
    ("run", "UPDATE runs SET calls = calls + 1", "add up"),
    ("run", "UPDATE runs SET cost_nano_usd = 0", "add up"),
    ("database", "UPDATE packs SET live = live + 1", "live items"),
]


@pytest.mark.parametrize(("kind", "damage", "says"), DAMAGE)
def test_verify_finds_damage(store: Store, kind: str, damage: str, says: str) -> None:
    talk = Conversation("run_d")
    store.append([talk.call(1), talk.call(2), entry(3)])
    assert problems(store) == []
    with store._database.write() as session:
        session.script([damage])
    found = [problem for problem in problems(store) if problem.kind == kind]
    assert found, problems(store)
    assert any(says in problem.message for problem in found)


def test_a_damaged_pack_is_found_and_the_rest_is_still_read(store: Store) -> None:
    store.append([entry(1)])
    store.append([entry(2)])
    with store._database.write() as session:
        rows = session.all("verify_interactions", (0, 10))
        codec, data = session.listed("packs", [rows[0][10]])[0][1:]
        spoiled = bytearray(data)
        spoiled[len(spoiled) // 2] ^= 0x55
        session.run("set_pack", (codec, bytes(spoiled), rows[0][10]))
    assert [(p.kind, p.id) for p in problems(store)] == [("record", rows[0][1])]
    assert store.interaction(entry(2).interaction.id) is not None
    with pytest.raises(StoreError, match="tocsin verify"):
        store.interaction(entry(1).interaction.id)


def test_a_database_with_broken_pages_is_reported_not_raised(tmp_path: Path) -> None:
    store = open_store(StoreSettings(), tmp_path, StoppedClock())
    for n in range(0, 1200, 100):
        store.append([entry(i) for i in range(n, n + 100)])
    store.close()
    path = tmp_path / "tocsin.db"
    data = bytearray(path.read_bytes())
    for page in range(len(data) // 8192, len(data) // 4096, 3):
        data[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(data)
    again = open_store(StoreSettings(), tmp_path, StoppedClock())
    kinds = {problem.kind for problem in problems(again)}
    assert "database" in kinds
    again.close()


def test_verify_reports_its_progress(store: Store) -> None:
    store.append([entry(n) for n in range(5)])
    steps: list[tuple[int, int]] = []
    assert list(store.verify(lambda done, total: steps.append((done, total)))) == []
    done, total = steps[-1]
    assert done == total > 5


def test_the_store_is_used_from_many_threads(store: Store) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def work(number: int) -> int:
        store.append([entry(number)])
        return len(store.runs(Filter(since=START - SECOND), limit=3).rows)

    with ThreadPoolExecutor(8) as pool:
        assert min(pool.map(work, range(60))) >= 1
    assert store.stats().interactions == 60
    assert problems(store) == []


def test_a_message_role_that_is_odd_does_not_matter(store: Store) -> None:
    made = entry(1, history=(message("", ""), message("developer", "x")))
    store.append([made])
    assert store.entry(made.interaction.id) == made
