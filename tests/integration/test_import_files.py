"""Records are cut out of files of any size without reading them whole."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tocsin.importers import files
from tocsin.importers.files import BadRecord, Source, sample_of

_short = st.text(max_size=5)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_short, inner, max_size=4),
    max_leaves=8,
)
_quiet = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def records(path: Path, arrays: tuple[str, ...] = ()) -> list[Any]:
    found = list(Source(path).records(arrays))
    assert not [record for record in found if isinstance(record, BadRecord)]
    return [json.loads(raw) for _, raw in found]


@_quiet
@given(st.lists(_json, max_size=6), st.sampled_from([None, 1]), st.integers(1, 40))
def test_the_items_of_an_array_are_cut_right_wherever_chunks_end(
    tmp_path: Path, values: list[Any], indent: int | None, chunk: int
) -> None:
    path = tmp_path / "array.json"
    path.write_text(json.dumps(values, indent=indent, ensure_ascii=False), "utf-8", "surrogatepass")
    whole, files._CHUNK = files._CHUNK, chunk
    try:
        assert records(path) == values
    finally:
        files._CHUNK = whole


@_quiet
@given(st.lists(st.dictionaries(_short, _json, max_size=3), max_size=5), _json, st.integers(1, 40))
def test_the_items_of_a_wrapped_array_are_found(
    tmp_path: Path, values: list[Any], other: Any, chunk: int
) -> None:
    path = tmp_path / "page.json"
    page = {"meta": {"data": [other]}, "note": "data", "data": values, "last": [other]}
    path.write_text("{\n" + json.dumps(page)[1:])
    whole, files._CHUNK = files._CHUNK, chunk
    try:
        assert records(path, ("data",)) == values
    finally:
        files._CHUNK = whole


def test_without_the_wrapping_field_the_object_is_the_record(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text('{\n "a": [1]\n}\n{\n "a": [2]\n}')
    assert records(path, ("data",)) == [{"a": [1]}, {"a": [2]}]


def test_lines_are_numbered_from_one_and_empty_ones_count(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b'{"a":1}\r\n\n{"a":2}\n   \n{"a":3}')
    assert [line for line, _ in Source(path).records()] == [1, 3, 5]


def test_items_of_an_array_have_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "array"
    path.write_bytes(b'[\n  {"a":1},\n\n  {"a":\n2},\n  {"a":3}]')
    assert [line for line, _ in Source(path).records()] == [2, 4, 6]


def test_a_file_that_breaks_off_is_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(b'[\n{"a":1},\n{"a":"never closed')
    first, bad = Source(path).records()
    assert first == (2, b'{"a":1}')
    assert bad == BadRecord(str(path), 3, "the file breaks off inside this record")


def test_a_record_over_the_limit_is_skipped_and_named(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(files, "MAX_RECORD", 1000)
    monkeypatch.setattr(files, "_CHUNK", 100)
    path = tmp_path / "lines"
    path.write_bytes(b'{"a":1}\n{"a":"' + b"x" * 5000 + b'"}\n{"a":3}\n')
    first, bad, last = Source(path).records()
    assert (first, last) == ((1, b'{"a":1}'), (3, b'{"a":3}'))
    assert isinstance(bad, BadRecord)
    assert (bad.line, "larger than" in bad.reason) == (2, True)


def test_memory_stays_flat_for_a_long_array(tmp_path: Path) -> None:
    path = tmp_path / "array"
    item = json.dumps({"text": "x" * 2000})
    with path.open("w") as file:
        file.write("[" + item)
        for _ in range(10_000):
            file.write("," + item)
        file.write("]")
    source = Source(path)
    tracemalloc.start()
    count = sum(1 for _ in source.records())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 10_001
    assert path.stat().st_size > 20_000_000
    assert peak < 3_000_000


def test_a_sample_tells_lines_from_arrays_and_objects() -> None:
    assert sample_of(b'{"a":1}\n{"b":2}').container == "lines"
    assert sample_of(b'{\n"a":{"x":1},"b":2}').container == "object"
    assert sample_of(b'{\n"a":{"x":1},"b":2}').keys == {"a", "b"}
    assert sample_of(b'  [ {"a":[{"x":1}],"b":2}').container == "array"
    assert sample_of(b'[{"a":[{"x":1}],"b":2},{"c":1}]').keys == {"a", "b"}
    assert sample_of(b"\x0a\x10").container == "binary"
    long = b'{"data":[' + b'{"a":1},' * files.HEAD
    assert sample_of(long[: files.HEAD]).unbroken
