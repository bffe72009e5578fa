"""The pure parts of the store: packs, titles, words, time steps, query texts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.core.errors import StoreError
from tocsin.core.interaction import Interaction
from tocsin.core.messages import parse_message
from tocsin.store import packs, records
from tocsin.store.buckets import buckets_for
from tocsin.store.queries import Queries
from tocsin.store.text import is_prefix, text_of, words_of

HOUR = 3_600_000_000
DAY = 24 * HOUR


@given(st.lists(st.binary(max_size=3000), max_size=60), st.integers(1, 5000))
def test_what_is_packed_is_found_at_its_place(items: list[bytes], limit: int) -> None:
    packer = packs.Packer(7, limit)
    places = [packer.add(item) for item in items]
    packer.flush()
    raws = {
        packer.rows[at]: packs.unpack(packer.rows[at + 1], packer.rows[at + 3])
        for at in range(0, len(packer.rows), 4)
    }
    for item, (number, start, size) in zip(items, places, strict=True):
        assert raws[number][start : start + size] == item
    assert sum(packer.rows[2::4]) == len(items), "every item is counted as live"


def test_a_pack_that_does_not_shrink_is_kept_raw() -> None:
    assert packs.pack(b"ab") == (packs.RAW, b"ab")
    codec, data = packs.pack(b"ab" * 1000)
    assert codec == packs.ZSTD
    assert len(data) < 100


def test_one_changed_bit_is_noticed() -> None:
    codec, data = packs.pack(b"the same words again and again " * 50)
    for at in range(5, len(data), 3):
        spoiled = bytearray(data)
        spoiled[at] ^= 1
        with pytest.raises(StoreError, match="verify"):
            assert packs.unpack(codec, bytes(spoiled)) != b""


def test_blanking_leaves_the_neighbours_alone() -> None:
    assert packs.blanked(b"aaabbbccc", [(1, 3, 3)]) == b"aaa\0\0\0ccc"


@pytest.mark.parametrize(
    ("content", "title"),
    [
        ("  Where is\nmy   order? ", "Where is my order?"),
        ([{"type": "image_url"}, {"type": "text", "text": "What is this?"}], "What is this?"),
        ("x" * 500, "x" * 160),
        (None, ""),
        ([1, {"text": 5}], ""),
        ("a\u0000b", "ab"),
    ],
)
def test_a_title_is_one_short_line(content: object, title: str) -> None:
    raw = json.dumps({"role": "user", "content": content}).encode()
    assert records.title_of(parse_message(raw)) == title


def test_a_digest_changes_with_any_byte() -> None:
    assert len(records.digest(b"record")) == 8
    assert records.digest(b"record") != records.digest(b"recore")


def test_a_call_id_has_one_signed_number() -> None:
    numbers = {records.call_number(f"call_{n}") for n in range(100)}
    assert len(numbers) == 100
    assert all(-(2**63) <= number < 2**63 for number in numbers)


def step(number: int, operation: str, **changes: object) -> Interaction:
    facts: dict[str, object] = {
        "id": f"call_{number}",
        "source": "otlp",
        "dialect": "openai",
        "operation": operation,
        "path": "",
        "started_at": number * 100,
        "duration_us": 10,
        "outcome": "complete",
        "feature": "f",
        "run_id": "r",
        "run_source": "trace",
        "request_model": "m",
    }
    return Interaction(**{**facts, **changes})  # type: ignore[arg-type]


def test_a_run_of_steps_alone_has_the_last_steps_outcome() -> None:
    sums = records.RunSums(step(1, "invoke_agent"))
    sums.add(step(1, "invoke_agent"))
    sums.add(step(2, "execute_tool", outcome="error"))
    assert (sums.calls, sums.tools_executed, sums.outcome) == (0, 1, "error")
    sums.add(step(0, "chat", outcome="refused"))
    assert (sums.calls, sums.outcome) == (1, "refused"), "a call goes before any step"
    assert (sums.started_at, sums.last_at) == (0, 210)


def test_text_is_what_people_and_models_wrote() -> None:
    message = {
        "role": "user",
        "content": [
            {"type": "text", "text": "one"},
            {"type": "tool_use", "name": "find", "input": {"city": "Oslo", "deep": ["two"]}},
            {"type": "tool_result", "content": [{"type": "text", "text": "three"}]},
            {"type": "image", "source": {"data": "AAAA", "media_type": "image/png"}},
        ],
    }
    assert text_of(json.dumps(message).encode()).split() == ["one", "find", "Oslo", "two", "three"]


@pytest.mark.parametrize("raw", [b"", b"[]", b"nope", b"\xff", b'"text"', b"[" * 5000])
def test_text_of_what_is_no_message_is_empty(raw: bytes) -> None:
    assert text_of(raw) == ""


@given(st.text(max_size=200))
def test_words_are_letters_and_digits_only(query: str) -> None:
    words = words_of(query)
    assert len(words) <= 16
    assert all(word.isalnum() for word in words)
    if words:
        is_prefix(words)


@given(
    st.integers(0, 4 * 10**15),
    st.integers(1, 30 * 365 * DAY),
    st.integers(1, 200),
)
def test_steps_cover_the_range_and_are_aligned(since: int, length: int, about: int) -> None:
    buckets = buckets_for(since, since + length, about)
    starts = buckets.starts()
    assert starts[0] <= since < starts[0] + buckets.step_us
    assert starts[-1] < since + length <= starts[-1] + buckets.step_us
    assert starts[0] % buckets.step_us == 0
    if buckets.step_us < 364 * DAY:
        assert len(starts) <= about + 1


@pytest.mark.parametrize(
    ("length", "about", "step"),
    [(HOUR, 60, HOUR // 60), (DAY, 24, HOUR), (30 * DAY, 30, DAY), (1, 60, 1_000_000)],
)
def test_steps_are_round(length: int, about: int, step: int) -> None:
    assert buckets_for(0, length, about).step_us == step


def test_query_texts_are_filled_for_either_driver() -> None:
    sqlite, postgres = Queries("sqlite", "?"), Queries("postgres", "%s")
    text, width = sqlite.rows("add_shared", 2)
    assert (text.count("(?, ?)"), width) == (2, 2)
    assert sqlite.rows("add_shared", 2)[0] is text, "the same object, for the drivers' caches"
    assert "%s" in postgres.listed("packs", 1)
    assert "?" not in postgres.rows("add_nodes", 3)[0]
    with pytest.raises(KeyError, match="takes no rows"):
        sqlite.rows("head", 1)
