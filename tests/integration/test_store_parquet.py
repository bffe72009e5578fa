"""The Parquet files that Tocsin writes, read by another program's reader."""

from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tocsin.store.parquet import GROUP_PAGES, PAGE_ROWS, Kind, ParquetWriter

COLUMNS: tuple[tuple[str, Kind], ...] = (("number", "int"), ("word", "text"), ("flag", "flag"))
WHOLE = st.integers(-(2**63), 2**63 - 1)
ROW = st.tuples(
    st.one_of(st.none(), WHOLE, st.integers(-300, 300)),
    st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=80)),
    st.one_of(st.none(), st.booleans()),
)


def written(path: Path, rows: list[Any]) -> list[Any]:
    with ParquetWriter(path, COLUMNS) as writer:
        writer.add(rows)
    return duckdb.sql(f"SELECT * FROM read_parquet('{path}')").fetchall()


@given(st.lists(ROW, max_size=300))
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_value_comes_back(tmp_path: Path, rows: list[Any]) -> None:
    assert written(tmp_path / "some.parquet", rows) == rows


@pytest.mark.parametrize(
    "count", [0, 1, 8, 9, 127, 129, 513, PAGE_ROWS - 1, PAGE_ROWS, PAGE_ROWS * GROUP_PAGES + 7]
)
def test_pages_and_row_groups_of_any_length_come_back(tmp_path: Path, count: int) -> None:
    rows = [(n * n if n % 5 else None, f"word {n % 700}", n % 3 == 0) for n in range(count)]
    assert written(tmp_path / "many.parquet", rows) == rows


def test_more_words_than_two_bytes_can_number_come_back(tmp_path: Path) -> None:
    rows = [(n, f"word {n}", None) for n in range(PAGE_ROWS * GROUP_PAGES + 1)]
    assert written(tmp_path / "words.parquet", rows) == rows


def test_bounds_let_a_reader_skip(tmp_path: Path) -> None:
    path = tmp_path / "bounds.parquet"
    written(path, [(n, "ab"[n % 2], True) for n in range(100, 200)])
    bounds = duckdb.sql(
        "SELECT path_in_schema, stats_min_value, stats_max_value, compression "
        f"FROM parquet_metadata('{path}') ORDER BY column_id"
    ).fetchall()
    assert bounds == [
        ("number", "100", "199", "ZSTD"),
        ("word", "a", "b", "ZSTD"),
        ("flag", "true", "true", "ZSTD"),
    ]


def test_a_writer_that_fails_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "half.parquet"
    with pytest.raises(AttributeError), ParquetWriter(path, COLUMNS) as writer:
        writer.add([(1, b"not text", True)] * PAGE_ROWS)
    assert list(tmp_path.iterdir()) == []
