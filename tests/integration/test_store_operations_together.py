"""Operations that are kept, and packed, many at a time."""

import pytest

from operations_world import event, events, operation
from store_world import START, problems
from tocsin.core.errors import StoreError
from tocsin.store import Store
from tocsin.store.operations_api import New, OperationFilter, Written


def test_many_are_kept_at_once_each_with_its_own(store: Store) -> None:
    book = store.operations
    book.create(operation("op_2"), b"there before")
    batch = [New(operation(f"op_{n}"), b"%d" % n, events(0, n % 3)) for n in range(600)]
    assert book.create_many(batch) == tuple(n != 2 for n in range(600))
    assert book.body("op_2") == b"there before"
    for n in (0, 1, 3, 299, 599):
        assert book.body(f"op_{n}") == b"%d" % n
        assert book.events(f"op_{n}") == list(events(0, n % 3))
        assert book.operation(f"op_{n}").events == n % 3
    assert book.create(operation("op_600"), b"after them")
    assert problems(store) == []


def test_the_same_id_twice_in_one_batch_is_kept_once(store: Store) -> None:
    book = store.operations
    batch = [New(operation(), b"first", events(0, 2)), New(operation(), b"second")]
    assert book.create_many(batch) == (True, False)
    assert book.body("op_1") == b"first"
    assert book.events("op_1") == list(events(0, 2))
    assert problems(store) == []


def test_a_batch_with_a_wrong_one_keeps_nothing(store: Store) -> None:
    book = store.operations
    with pytest.raises(StoreError):
        book.create_many([New(operation(), b""), New(operation("op_2"), b"", events(1, 2))])
    assert book.operations(OperationFilter()).rows == ()


def test_their_owners_count_as_alive(store: Store) -> None:
    book = store.operations
    made = operation("op_2", status="running", owner="alpha")
    book.create_many([New(operation(), b""), New(made, b"")], beat_at=START)
    assert book.alive("alpha", START)
    assert not book.alive("alpha", START + 1)
    book.create_many([New(made, b"")], beat_at=START + 9)
    assert not book.alive("alpha", START + 1), "nothing new was kept"


def test_many_are_packed_in_one_go(store: Store) -> None:
    book = store.operations
    ids = [f"op_{n}" for n in range(20)]
    book.create_many([New(operation(name), b"") for name in ids])
    long = [event(n, b"x" * 30_000) for n in range(40)]
    for n in range(40):
        book.write([Written(operation_id=name, events=(event(n),)) for name in ids[:-1]])
        book.write([Written(operation_id=ids[-1], events=(long[n],))])
    book.write([Written(operation_id=name, changes={"status": "ended"}) for name in ids[1:]])
    book.pack(*ids, "op_unknown")
    with store._database.read() as session:  # type: ignore[attr-defined]
        rows = session.all("operation_event_rows", (0, 1 << 62, 10_000))
    assert 40 + 18 + 2 <= len(rows) < 40 + 18 + 20, "one still runs, one is big"
    for name in ids[:-1]:
        assert book.events(name) == [event(n) for n in range(40)]
    assert book.events(ids[-1]) == long
    assert problems(store) == []


def test_one_row_is_compressed_when_it_is_packed(store: Store) -> None:
    book = store.operations
    every = tuple(event(n, b"the same words " * 9) for n in range(12))
    book.create(operation(status="running"), b"", every)
    size = _bytes(store)
    book.write([Written(operation_id="op_1", changes={"status": "ended"})])
    book.pack("op_1")
    assert _bytes(store) < size / 2
    assert book.events("op_1") == list(every)


def _bytes(store: Store) -> int:
    with store._database.read() as session:  # type: ignore[attr-defined]
        rows = session.all("operation_event_rows", (0, 1 << 62, 100))
    return sum(len(bytes(row[2])) for row in rows)
