"""New operations share transactions, and one that cannot be kept spoils nobody else's."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tocsin.core.errors import StoreError
from tocsin.core.operations import Operation
from tocsin.operations.births import Births
from tocsin.operations.threads import Threads
from tocsin.store.operations_api import New


class Book:
    """Keeps batches; the first one waits until it is let ``go``."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.beats: list[int] = []
        self.bad: set[str] = set()
        self.began, self.go = threading.Event(), threading.Event()

    def create_many(self, batch: list[New], *, beat_at: int = 0) -> tuple[bool, ...]:
        ids = [new.operation.id for new in batch]
        self.batches.append(ids)
        self.beats.append(beat_at)
        self.began.set()
        assert self.go.wait(5)
        if self.bad & set(ids):
            raise StoreError("no room")
        return tuple(not one.startswith("known") for one in ids)


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    made = Threads()
    yield made
    made.close()


def named(name: str, at: int = 1) -> Operation:
    return Operation(id=name, kind="toy", feature="f", created_at=at)


async def all_of(book: Book, births: Births, names: list[str]) -> list[Any]:
    """The first is under way when the others come."""
    first = births.keep(named(names[0]), b"", ())
    assert await asyncio.to_thread(book.began.wait, 5)
    rest = [births.keep(named(name, at), b"", ()) for at, name in enumerate(names[1:], 2)]
    book.go.set()
    return await asyncio.gather(first, *rest, return_exceptions=True)


async def test_what_comes_while_one_is_written_shares_the_next_transaction(
    threads: Threads,
) -> None:
    book = Book()
    births = Births(book, threads)  # type: ignore[arg-type]
    made = await all_of(book, births, ["a", "b", "known", "c"])
    assert made == [True, True, False, True]
    assert book.batches == [["a"], ["b", "known", "c"]]
    assert book.beats == [1, 4], "the owner was alive when the newest came"


async def test_a_crowd_is_written_in_parts(threads: Threads) -> None:
    book = Book()
    births = Births(book, threads)  # type: ignore[arg-type]
    made = await all_of(book, births, [f"op_{n}" for n in range(700)])
    assert made == [True] * 700
    assert [len(batch) for batch in book.batches] == [1, 256, 256, 187]


async def test_one_that_cannot_be_kept_spoils_nobody_elses(threads: Threads) -> None:
    book = Book()
    book.bad = {"c"}
    births = Births(book, threads)  # type: ignore[arg-type]
    made = await all_of(book, births, ["a", "b", "c", "known"])
    assert isinstance(made.pop(2), StoreError)
    assert made == [True, True, False]


async def test_a_store_that_is_down_is_not_asked_for_each_of_a_crowd(threads: Threads) -> None:
    book = Book()
    book.bad = names = {f"op_{n}" for n in range(50)}
    births = Births(book, threads)  # type: ignore[arg-type]
    made = await all_of(book, births, ["a", *sorted(names)])
    assert made[0] is True
    assert all(isinstance(one, StoreError) for one in made[1:])
    assert len(book.batches) == 1 + 1 + 3
    book.bad = set()
    assert await births.keep(named("later"), b"", ())


async def test_it_is_kept_even_if_nobody_waits_any_more(threads: Threads) -> None:
    book = Book()
    births = Births(book, threads)  # type: ignore[arg-type]
    future = births.keep(named("a"), b"", ())
    await asyncio.sleep(0)
    future.cancel()
    book.go.set()
    await births.drained()
    assert book.batches == [["a"]]
    assert await births.keep(named("b"), b"", ())
