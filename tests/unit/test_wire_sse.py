"""Server-sent events, cut anywhere."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.core.wire import SseSplitter

STREAM = (
    b": a comment\n\n"
    b'data: {"a":1}\n\n'
    b"event: ping\ndata: {}\n\n"
    b"id: 7\nretry: 10\ndata:no space\n\n"
    b"data: two\ndata: lines\n\n\n"
    b"event: nothing\n\n"
    b"data: [DONE]\n\n"
)
PAYLOADS = [b'{"a":1}', b"{}", b"no space", b"two\nlines", b"[DONE]"]


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    marks = [0, *sorted(cuts), len(data)]
    return [data[a:b] for a, b in pairwise(marks)]


@given(
    cuts=st.lists(st.integers(0, len(STREAM)), max_size=12),
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
)
def test_payloads_are_the_same_wherever_the_stream_is_cut(cuts: list[int], end: bytes) -> None:
    splitter = SseSplitter()
    pieces = _pieces(STREAM.replace(b"\n", end), cuts)
    assert [p for piece in pieces for p in splitter.feed(piece)] + splitter.finish() == PAYLOADS


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_stream_of_single_bytes_is_read(end: bytes) -> None:
    splitter = SseSplitter()
    data = STREAM.replace(b"\n", end)
    found = [p for i in range(len(data)) for p in splitter.feed(data[i : i + 1])]
    assert found + splitter.finish() == PAYLOADS


def test_an_event_is_given_out_with_the_bytes_that_complete_it() -> None:
    splitter = SseSplitter()
    assert splitter.feed(b"data: x\n") == []
    assert splitter.feed(b"\n") == [b"x"]


def test_the_last_event_counts_without_its_blank_line() -> None:
    splitter = SseSplitter()
    assert splitter.feed(b"data: a\n\ndata: [DONE]") == [b"a"]
    assert splitter.finish() == [b"[DONE]"]
    assert splitter.finish() == []


def test_a_byte_order_mark_is_skipped() -> None:
    assert SseSplitter().feed(b"\xef\xbb\xbfdata: a\n\n") == [b"a"]


def test_an_event_over_the_limit_is_dropped_and_the_next_one_read() -> None:
    splitter = SseSplitter(max_event=100)
    assert splitter.feed(b"data: " + b"x" * 80) == []
    assert splitter.feed(b"x" * 80) == []
    assert splitter.overflowed
    assert splitter.feed(b"x" * 80 + b"\n") == []
    assert splitter.feed(b"\ndata: after\n\n") == [b"after"]


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_any_bytes_are_taken_without_an_error(pieces: list[bytes]) -> None:
    splitter = SseSplitter(max_event=64)
    for piece in pieces:
        splitter.feed(piece)
    splitter.finish()
