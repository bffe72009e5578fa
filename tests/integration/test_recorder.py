"""What the recorder promises when the store cannot keep up, refuses, or the process dies."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tocsin.config.model import StoreSettings
from tocsin.core.call import Call, Identity
from tocsin.core.clock import SystemClock
from tocsin.core.messages import Message, parse_message
from tocsin.runtime.recorder import Recorder
from tocsin.store import Filter, Store, open_store
from unit.calls import answered, call, message

ANSWER = {"role": "assistant", "content": "Fine."}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(StoreSettings(), tmp_path, SystemClock())
    yield opened
    opened.close()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Another program holds the database's write lock, as a backup tool might."""
    (path,) = folder.glob("*.db")
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def make(number: int, size: int = 10) -> tuple[Call, Message]:
    asked = call([message("user", f"{number} " + "x" * size)], end_user=f"u{number}")
    asked.draft.identity = Identity(run_id=f"run_{number}", run_source="new")
    return asked, parse_message(b'{"role":"assistant","content":"Fine."}')


def finish(recorder: Recorder, number: int, size: int = 10) -> None:
    asked, output = make(number, size)
    recorder.open(asked)
    recorder.finish(asked, answered(asked, ANSWER), output=output, response=None)


def users(store: Store) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        page = store.interactions(Filter(), limit=500, cursor=cursor)
        found += [row.end_user for row in page.rows]
        cursor = page.next
        if cursor is None:
            return sorted(found)


async def test_calls_go_on_while_the_store_is_locked_and_are_stored_after(
    tmp_path: Path, store: Store
) -> None:
    recorder = Recorder(store, tmp_path / "journal")
    recorder.start()
    with locked(tmp_path):
        for number in range(50):
            finish(recorder, number)
        await asyncio.sleep(0.3)
        assert users(store) == []
        assert recorder.queued > 0 or not recorder._idle.is_set()
    await recorder.flush()
    assert users(store) == sorted(f"u{n}" for n in range(50))
    recorder.close()


async def test_what_does_not_fit_in_memory_waits_in_the_journal(
    tmp_path: Path, store: Store
) -> None:
    recorder = Recorder(store, tmp_path / "journal")
    recorder.start()
    with locked(tmp_path):
        for number in range(400):
            finish(recorder, number, size=100_000)
        assert recorder._queued_bytes < 30_000_000, "40 MB came, not all of it may be in memory"
    await recorder.flush()
    assert users(store) == sorted(f"u{n}" for n in range(400))
    assert list(store.verify()) == []
    recorder.close()
    assert list((tmp_path / "journal").glob("*.journal")) == []


async def test_a_journal_left_behind_is_stored_once_by_the_next_process(
    tmp_path: Path, store: Store
) -> None:
    first = Recorder(store, tmp_path / "journal")
    first.start()
    finish(first, 1)
    await first.flush()
    finish(first, 2)
    asked, _ = make(3)
    first.open(asked)  # and then the process is gone
    journal = first._journal
    assert journal is not None
    journal._current.map.flush()
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in (tmp_path / "journal").glob("*.journal"):
        (copy / path.name).write_bytes(path.read_bytes())
    await first.flush()
    second = Recorder(store, copy)
    second.start()
    await second.flush()
    assert users(store) == ["u1", "u2", "u3"]
    unknown = [r for r in store.interactions(Filter()).rows if r.outcome == "unknown"]
    assert [row.end_user for row in unknown] == ["u3"]
    assert unknown[0].error_type == "process_died"
    assert list(copy.glob("*")) == [p for p in copy.glob("*") if p.suffix == ".journal"]
    second.close()
    first.close()


async def test_a_journal_that_cannot_be_written_does_not_break_a_call(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(store, tmp_path / "journal", segment_bytes=4096)
    recorder.start()
    finish(recorder, 1)
    # The next file would need a folder that is no longer there.
    for path in (tmp_path / "journal").iterdir():
        path.rename(tmp_path / path.name)
    (tmp_path / "journal").rmdir()
    finish(recorder, 2, size=10_000)
    assert f"the journal in {tmp_path / 'journal'} cannot be written" in caplog.text
    await recorder.flush()
    assert users(store) == ["u1", "u2"]
    recorder.close()


async def test_forced_to_the_disk_all_who_wait_share_one_sync(tmp_path: Path, store: Store) -> None:
    recorder = Recorder(store, tmp_path / "journal", sync=True)
    recorder.start()
    for number in range(20):
        finish(recorder, number)
    await asyncio.gather(*(recorder.durable() for _ in range(20)))
    await recorder.flush()
    assert len(users(store)) == 20
    recorder.close()
