"""Retention and deletion, on both engines: what goes, what stays, and who waits."""

import random
import threading
import time
from pathlib import Path

import msgspec
import pytest

from store_world import (
    PARAMS,
    SECOND,
    START,
    SYSTEM,
    Conversation,
    entry,
    ids,
    message,
    problems,
    tool_call,
    whole_overview,
)
from tocsin.core.messages import content_hash
from tocsin.store import Filter, Store, Swept


def noise(seed: int, size: int) -> bytes:
    """Bytes that do not compress, the same every time."""
    return random.Random(seed).randbytes(size)


def test_a_sweep_deletes_what_is_old_and_all_that_only_it_refers_to(store: Store) -> None:
    old = [entry(n, body=b"body %d" % n) for n in range(10)]
    new = [entry(n) for n in range(10, 13)]
    store.append(old + new)
    swept = store.sweep(older_than=START + 10 * SECOND)
    assert (swept.interactions, swept.runs) == (10, 10)
    assert swept.contents == 30, "a question, an answer and a body each"
    assert len(ids(store)) == 3
    gone = [old[0].input[-1].hash, old[0].nodes[-1].content, content_hash(b"body 0")]
    assert store.content(gone) == {}
    assert store.content([SYSTEM.hash, content_hash(PARAMS)]).keys() == {
        SYSTEM.hash,
        content_hash(PARAMS),
    }
    assert problems(store) == []


def test_a_run_that_is_half_swept_adds_up_what_is_left(store: Store) -> None:
    talk = Conversation("run_half")
    store.append([talk.call(n, outcome="error" if n == 5 else "complete") for n in range(6)])
    store.sweep(older_than=START + 2 * SECOND)
    row = store.run("run_half")
    assert row is not None
    assert (row.calls, row.errors, row.outcome) == (4, 1, "error")
    assert row.started_at == START + 2 * SECOND
    # The calls that are left were sent the whole history, so all of it is still there.
    assert store.history(talk.calls[-1].nodes[-1].hash) == list(talk.messages)
    assert problems(store) == []


def test_sweeping_everything_leaves_nothing(store: Store) -> None:
    talk = Conversation("run_gone")
    store.append([talk.call(1), talk.call(2), entry(3, answer=tool_call("c1"))])
    store.index()
    store.sweep(older_than=START + 100 * SECOND)
    stats = store.stats()
    assert (stats.interactions, stats.runs, stats.contents) == (0, 0, 0)
    assert store.known([talk.calls[0].nodes[-1].hash], ["c1"]) == []
    assert stats.last_seq == 3, "numbers are never given again"
    assert store.append([talk.calls[0]]) == 1
    assert store.after(3, limit=9) == [(4, talk.calls[0].interaction)]
    assert problems(store) == []


def test_what_comes_again_after_a_sweep_is_stored_again(store: Store) -> None:
    first = entry(1)
    store.append([first])
    store.sweep(older_than=START + 50 * SECOND)
    later = entry(60, history=first.input, answer=first.output)
    store.append([later])
    assert store.entry(later.interaction.id) == later
    assert problems(store) == []


def test_a_second_store_object_does_not_remember_what_was_deleted(open_it) -> None:
    writer: Store = open_it()
    sweeper: Store = open_it()
    first = entry(1)
    writer.append([first])
    sweeper.sweep(older_than=START + 50 * SECOND)
    later = entry(60, history=first.input, answer=first.output)
    writer.append([later])
    assert writer.entry(later.interaction.id) == later
    assert problems(writer) == []


def test_a_size_ceiling_deletes_the_oldest(store: Store) -> None:
    for start in range(0, 400, 100):
        batch = [entry(n, body=noise(n, 2000)) for n in range(start, start + 100)]
        store.append(batch)
    assert store.sweep(max_bytes=10**9).interactions == 0
    swept = store.sweep(max_bytes=700_000, batch=50)
    assert 0 < swept.interactions < 400
    numbers = sorted(int(name[5:]) for name in ids(store))
    assert numbers == list(range(400 - len(numbers), 400))
    assert problems(store) == []


def test_the_file_gets_smaller(open_it, tmp_path: Path, engine: str) -> None:
    if engine == "postgres":
        pytest.skip("PostgreSQL keeps freed pages for itself")
    store: Store = open_it()
    store.append([entry(n, body=noise(n, 9000)) for n in range(300)])
    before = store.stats().disk_bytes
    swept = store.sweep(older_than=START + 290 * SECOND)
    assert swept.freed_bytes > 1_000_000
    assert store.stats().disk_bytes < before // 3
    assert (tmp_path / "data" / "tocsin.db-wal").stat().st_size < 100_000


def test_an_end_users_data_goes_and_nobody_elses(store: Store) -> None:
    shared = (SYSTEM, message("user", "a question that both ask"))
    anns = [entry(1, end_user="ann", history=shared), entry(2, end_user="ann", body=b"anns own")]
    bobs = entry(3, end_user="bob", history=shared)
    named = entry(4, end_user="joann", attributes={"note": "ann"})
    store.append([*anns, bobs, named])
    store.index()
    swept = store.delete_end_user("ann")
    assert (swept.interactions, swept.runs) == (2, 2)
    assert set(ids(store)) == {bobs.interaction.id, named.interaction.id}
    assert store.content([content_hash(b"anns own")]) == {}
    assert store.entry(bobs.interaction.id) == bobs
    assert store.runs(Filter(text="Answer 2")).rows == ()
    assert problems(store) == []
    assert store.delete_end_user("ann") == Swept(interactions=0, runs=0, contents=0, freed_bytes=0)


def test_a_run_of_two_users_forgets_the_deleted_one(store: Store) -> None:
    mine = entry(1, run="run_two", history=(message("user", "ann's title"),), end_user="ann")
    other = entry(2, run="run_two", history=(message("user", "bob's title"),), end_user="bob")
    store.append([mine, other])
    store.delete_end_user("ann")
    row = store.run("run_two")
    assert row is not None
    assert (row.end_user, row.title, row.calls) == ("bob", "bob's title", 1)
    assert problems(store) == []


def test_no_byte_of_a_deleted_user_stays_in_the_files(open_it, tmp_path: Path, engine: str) -> None:
    if engine == "postgres":
        pytest.skip("the server's files are not ours to read")
    store: Store = open_it()
    # Text that does not shrink is stored as it is, beside others' in the same pack.
    secret = bytes(33 + (i * i * 31 + i * 17) % 90 for i in range(4000))
    store.append([entry(1, end_user="bob"), entry(2, end_user="ann-canary", body=secret)])
    store.fold()
    store.delete_end_user("ann-canary")
    store.close()
    for path in (tmp_path / "data").rglob("*"):
        if path.is_file():
            assert b"ann-canary" not in path.read_bytes(), path
            assert secret[:64] not in path.read_bytes(), path


def test_charts_follow_a_deletion_at_once_and_after_the_segments_did(store: Store) -> None:
    store.append([entry(n, end_user=f"user-{n % 3}") for n in range(30)])
    store.fold()
    store.append([entry(n, end_user=f"user-{n % 3}") for n in range(30, 45)])
    assert whole_overview(store).total.calls == 45
    store.sweep(older_than=START + 10 * SECOND)
    assert whole_overview(store).total.calls == 35
    store.delete_end_user("user-1")
    kept = [n for n in range(10, 45) if n % 3 != 1]
    before = whole_overview(store)
    assert before.total.calls == len(kept)
    store.rebuild()
    assert whole_overview(store) == before
    assert problems(store) == []


def test_an_append_never_waits_long_for_a_sweep(open_it) -> None:
    store: Store = open_it()
    for start in range(0, 6000, 500):
        store.append([entry(n) for n in range(start, start + 500)])
    sweeping = threading.Thread(target=store.sweep, kwargs={"older_than": START + 5900 * SECOND})
    sweeping.start()
    waits, reads, number = [], [], 10_000
    while sweeping.is_alive():
        started = time.perf_counter()
        store.append([entry(number)])
        waits.append(time.perf_counter() - started)
        started = time.perf_counter()
        store.runs(Filter(), limit=5)
        reads.append(time.perf_counter() - started)
        number += 1
        time.sleep(0.002)
    sweeping.join()
    assert len(waits) > 5
    # Generous against 20 ms slices, because a test machine does other things too.
    assert sorted(waits)[len(waits) * 9 // 10] < 0.15
    assert sorted(reads)[len(reads) * 9 // 10] < 0.15
    assert problems(store) == []


def test_a_sweep_in_small_batches_does_the_same(store: Store) -> None:
    store.append([entry(n, run=f"run_{n // 3}", started_at=START) for n in range(20)])
    assert store.sweep(older_than=START + 1, batch=1).interactions == 20
    assert store.stats().runs == 0
    assert problems(store) == []


def test_unknown_records_with_hashes_only_are_swept_too(store: Store) -> None:
    made = entry(1)
    store.append([msgspec.structs.replace(made, blobs=(), input=(), output=None)])
    store.sweep(older_than=START + 10 * SECOND)
    assert store.stats().contents == 0
    assert problems(store) == []
