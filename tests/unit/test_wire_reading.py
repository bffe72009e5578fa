"""Answers read beside the stream."""

import gzip
import json
import zlib
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.core.interaction import Dialect, Usage
from tocsin.core.messages import parse_message
from tocsin.core.wire import OutputReader, SilentReader, reader_for, reading


def _sse(*events: Any, done: bool = False) -> bytes:
    data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    return data + b"data: [DONE]\n\n" if done else data


def _named(*events: dict[str, Any]) -> bytes:
    return b"".join(
        b"event: %s\ndata: %s\n\n" % (event["type"].encode(), json.dumps(event).encode())
        for event in events
    )


def _chunk(delta: dict[str, Any], finish: str | None = None, index: int = 0) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": None}
    return {"id": "chatcmpl-1", "model": "gpt-4o-2024", "choices": [choice], "usage": None}


def _read(dialect: Dialect, data: bytes, *, stream: bool = True) -> OutputReader:
    reader = reader_for(dialect, "chat", stream)
    reader.feed(data)
    reader.finish()
    return reader


def _hash(message: bytes | dict[str, Any] | None) -> bytes:
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    return parse_message(data).hash


CALLS = [
    {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at":"Oslo"}'}},
    {"id": "c2", "type": "function", "function": {"name": "wait", "arguments": ""}},
]
CHAT = _sse(
    _chunk({"role": "assistant", "content": ""}),
    _chunk({"content": "Let me "}),
    _chunk({"content": "look."}),
    _chunk({"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "look"}}]}),
    _chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"at":'}}]}),
    _chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"Oslo"}'}}]}),
    _chunk({"tool_calls": [{"index": 1, "id": "c2", "function": {"name": "wait"}}]}),
    _chunk({}, "tool_calls"),
    {
        "id": "chatcmpl-1",
        "choices": [],
        "usage": {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "prompt_tokens_details": {"cached_tokens": 64},
            "completion_tokens_details": {"reasoning_tokens": 8},
        },
    },
    done=True,
)


@settings(max_examples=60)
@given(st.lists(st.integers(0, len(CHAT)), max_size=8))
def test_a_chat_stream_is_read_wherever_it_is_cut(cuts: list[int]) -> None:
    reader = reader_for("openai", "chat", True)
    marks = [0, *sorted(cuts), len(CHAT)]
    for start, end in pairwise(marks):
        reader.feed(CHAT[start:end])
    assert reader.text == "Let me look."
    assert reader.finish_reason == "tool_calls"
    assert reader.terminal
    assert not reader.malformed
    assert (reader.response_id, reader.response_model) == ("chatcmpl-1", "gpt-4o-2024")
    assert reader.usage == Usage(
        input_tokens=100,
        output_tokens=20,
        cache_read_tokens=64,
        reasoning_tokens=8,
        source="reported",
    )
    resent = {"role": "assistant", "content": "Let me look.", "tool_calls": CALLS}
    assert _hash(reader.output_message()) == _hash(resent)
    assert [call.name for call in reader.tool_calls] == ["look", "wait"]


def test_a_streamed_answer_has_the_hash_of_the_same_answer_sent_whole() -> None:
    body = {
        "id": "x",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Let me look.",
                    "tool_calls": CALLS,
                    "refusal": None,
                    "annotations": [],
                },
                "finish_reason": "tool_calls",
            }
        ],
    }
    whole = reader_for("openai", "chat", False)
    whole.feed_body(json.dumps(body).encode())
    assert whole.terminal
    assert whole.text == "Let me look."
    assert _hash(whole.output_message()) == _hash(_read("openai", CHAT).output_message())


def test_a_stream_that_breaks_off_is_not_terminal_and_keeps_what_came() -> None:
    reader = _read("openai", CHAT[: CHAT.index(b"look.") + 40])
    assert not reader.terminal
    assert reader.text.startswith("Let me ")
    assert reader.usage is None


def test_further_choices_are_counted_and_left_out() -> None:
    reader = _read(
        "openai",
        _sse(_chunk({"content": "a"}), _chunk({"content": "b"}, index=1), _chunk({}, "stop", 1)),
    )
    assert (reader.text, reader.choices, reader.finish_reason) == ("a", 2, None)


def test_an_error_in_the_stream_is_reported() -> None:
    reader = _read("openai", _sse({"error": {"message": "overloaded", "code": 529}}))
    assert reader.error is not None
    assert (reader.error.message, reader.error.code) == ("overloaded", "529")


def test_an_upstream_that_deviates_in_one_field_is_read_for_the_others() -> None:
    odd = _chunk({"content": "still here"})
    odd["id"] = 7
    odd["usage"] = {"prompt_tokens": 3.0, "completion_tokens": 1}
    reader = _read("openai", _sse(odd))
    assert reader.malformed
    assert reader.text == "still here"
    assert reader.usage is not None
    assert reader.usage.input_tokens == 3


def test_a_json_reply_to_a_stream_request_is_read_as_json() -> None:
    body = {"choices": [{"message": {"content": "whole"}, "finish_reason": "stop"}]}
    reader = reader_for("openai", "chat", True)
    data = json.dumps(body).encode()
    reader.feed(data[:20])
    reader.feed(data[20:])
    reader.finish()
    assert (reader.text, reader.terminal) == ("whole", True)
    assert _hash(reader.output_message()) == _hash({"role": "assistant", "content": "whole"})


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "bare"])
def test_an_encoded_reply_is_decoded_on_the_side(encoding: str) -> None:
    bare = zlib.compressobj(wbits=-15)
    data = {
        "gzip": gzip.compress(CHAT),
        "deflate": zlib.compress(CHAT),
        "bare": bare.compress(CHAT) + bare.flush(),
    }[encoding]
    name = b"gzip" if encoding == "gzip" else b"deflate"
    reader = reader_for("openai", "chat", True, content_encoding=name)
    for start in range(0, len(data), 7):
        reader.feed(data[start : start + 7])
    assert reader.text == "Let me look."
    assert reader.terminal


def test_an_encoding_that_cannot_be_read_sets_malformed() -> None:
    for name, data in ((b"br", CHAT), (b"gzip", b"no gzip at all")):
        reader = reader_for("openai", "chat", True, content_encoding=name)
        reader.feed(data)
        assert reader.malformed
        assert reader.output_message() is None


def test_a_decompression_bomb_stops_at_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_OUTPUT", 10_000)
    reader = reader_for("openai", "chat", False, content_encoding=b"gzip")
    reader.feed(gzip.compress(b"[" * 5_000_000))
    reader.finish()
    assert reader.clipped


def test_an_endless_answer_is_kept_up_to_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_OUTPUT", 100)
    reader = reader_for("openai", "chat", True)
    for _ in range(100):
        reader.feed(_sse(_chunk({"content": "0123456789"})))
    assert reader.clipped
    assert len(reader.text) == 100


def assert_readable(reader: OutputReader) -> None:
    """Whatever came, what is known of it has the shape that a record needs."""
    assert isinstance(reader.text, str)
    assert all(isinstance(call.name, str) for call in reader.tool_calls)
    message = reader.output_message()
    assert message is None or parse_message(message).role == "assistant"


@given(
    st.lists(st.binary(max_size=60), max_size=10),
    st.sampled_from(["openai", "anthropic"]),
    st.sampled_from([b"data: ", b"", b'data: {"type":"content_block_delta","delta":']),
)
def test_no_bytes_make_a_reader_fail(pieces: list[bytes], dialect: Dialect, prefix: bytes) -> None:
    for stream in (True, False):
        reader = reader_for(dialect, "chat", stream)
        for piece in pieces:
            reader.feed(prefix + piece + b"\n\n")
        reader.finish()
        assert_readable(reader)
        other = reader_for(dialect, "chat", stream)
        other.feed_body(b"".join(pieces))
        assert_readable(other)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "message",
                    "content",
                    "usage",
                    "type",
                    "error",
                    "output",
                    "index",
                    "content_block",
                    "tool_calls",
                    "function",
                    "arguments",
                    "response",
                    "item",
                    "id",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
)
EVENT_TYPES = st.sampled_from(
    [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "message_delta",
        "error",
        "response.completed",
        "response.output_item.done",
        "response.output_text.delta",
    ]
)


@settings(max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "choices",
                "delta",
                "message",
                "usage",
                "error",
                "output",
                "content",
                "content_block",
                "response",
                "item",
            ]
        ),
        JSON,
    ),
    EVENT_TYPES,
    st.sampled_from(["openai", "anthropic"]),
)
def test_no_json_makes_a_reader_fail(value: dict[str, Any], kind: str, dialect: Dialect) -> None:
    for event in (value, {**value, "type": kind}):
        reader = reader_for(dialect, "chat", True)
        reader.feed(_sse(event, event))
        reader.finish()
        assert_readable(reader)
        whole = reader_for(dialect, "chat", False)
        whole.feed_body(json.dumps(event).encode())
        assert_readable(whole)


@pytest.mark.parametrize("message", [None, 5, "text", [], [{"role": "assistant"}]])
def test_what_is_no_message_is_an_empty_one(message: Any) -> None:
    reader = reader_for("openai", "chat", False)
    reader.feed_body(json.dumps({"choices": [{"message": message}]}).encode())
    assert reader.text == ""
    assert reader.output_message() == b'{"role":"assistant","content":""}'


def test_completions_and_embeddings_are_read() -> None:
    text = reader_for("openai", "text_completion", True)
    text.feed(_sse({"choices": [{"text": "once "}]}, {"choices": [{"text": "more"}]}, done=True))
    assert text.text == "once more"
    vectors = reader_for("openai", "embeddings", False)
    vectors.feed_body(b'{"data":[{"embedding":[0.1,0.2]}],"model":"e","usage":{"prompt_tokens":5}}')
    assert vectors.usage == Usage(input_tokens=5, source="reported")
    assert vectors.output_message() is None
    assert isinstance(reader_for("openai", "models", False), SilentReader)


def test_another_routes_reply_may_be_anything() -> None:
    reader = reader_for("openai", "other", False)
    reader.feed_body(b"\x00\x01 audio")
    assert not reader.malformed


RESPONSE = {
    "id": "resp_1",
    "model": "gpt-5",
    "status": "completed",
    "error": None,
    "output": [
        {"type": "reasoning", "id": "rs", "summary": []},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
    ],
    "usage": {
        "input_tokens": 10,
        "output_tokens": 4,
        "input_tokens_details": {"cached_tokens": 2},
        "output_tokens_details": {"reasoning_tokens": 1},
    },
}


def test_a_response_is_read_whole_and_streamed_to_the_same_message() -> None:
    whole = reader_for("openai", "chat", False)
    whole.feed_body(json.dumps(RESPONSE).encode())
    begun = {**RESPONSE, "status": "in_progress", "output": [], "usage": None}
    streamed = _read(
        "openai",
        _named(
            {"type": "response.created", "response": begun},
            {"type": "response.output_text.delta", "delta": "I "},
            {"type": "response.output_text.delta", "delta": "look."},
            {"type": "response.completed", "response": RESPONSE},
        ),
    )
    for reader in (whole, streamed):
        assert reader.text == "I look."
        assert reader.terminal
        assert reader.finish_reason == "stop"
        assert reader.response_id == "resp_1"
        assert [call.id for call in reader.tool_calls] == ["c1"]
        assert reader.usage == Usage(
            input_tokens=10,
            output_tokens=4,
            cache_read_tokens=2,
            reasoning_tokens=1,
            source="reported",
        )
    assert whole.output_message() == streamed.output_message()


def test_a_response_that_breaks_off_keeps_its_text() -> None:
    reader = _read(
        "openai",
        _named(
            {"type": "response.created", "response": {"id": "resp_1"}},
            {"type": "response.output_text.delta", "delta": "I l"},
        ),
    )
    assert (reader.text, reader.terminal) == ("I l", False)
    assert _hash(reader.output_message()) == _hash({"role": "assistant", "content": "I l"})


def test_a_failed_response_is_an_error() -> None:
    failed = {**RESPONSE, "status": "failed", "error": {"code": "server_error", "message": "no"}}
    reader = _read("openai", _named({"type": "response.failed", "response": failed}))
    assert reader.error is not None
    assert (reader.error.code, reader.finish_reason) == ("server_error", "error")


MESSAGE = [
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "model": "claude-x",
            "usage": {
                "input_tokens": 10,
                "cache_read_input_tokens": 100,
                "cache_creation_input_tokens": 5,
                "output_tokens": 1,
            },
        },
    },
    {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "thinking", "thinking": "", "signature": ""},
    },
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "thinking_delta", "thinking": "hm"},
    },
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "signature_delta", "signature": "sig"},
    },
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "I "}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "look."}},
    {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "id": "t1", "name": "look", "input": {}},
    },
    {
        "type": "content_block_delta",
        "index": 2,
        "delta": {"type": "input_json_delta", "partial_json": '{"at": "Os'},
    },
    {
        "type": "content_block_delta",
        "index": 2,
        "delta": {"type": "input_json_delta", "partial_json": 'lo"}'},
    },
    {"type": "content_block_stop", "index": 2},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 30}},
    {"type": "message_stop"},
]
BLOCKS = [
    {"type": "thinking", "thinking": "hm", "signature": "sig"},
    {"type": "text", "text": "I look."},
    {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "Oslo"}},
]


def test_an_anthropic_stream_is_read_block_by_block() -> None:
    reader = _read("anthropic", _named(*MESSAGE))
    assert reader.text == "I look."
    assert reader.finish_reason == "tool_use"
    assert reader.terminal
    assert not reader.malformed
    assert (reader.response_id, reader.response_model) == ("msg_1", "claude-x")
    assert reader.usage == Usage(
        input_tokens=115,
        output_tokens=30,
        cache_read_tokens=100,
        cache_write_tokens=5,
        source="reported",
    )
    message = reader.output_message()
    assert message is not None
    assert json.loads(message) == {"role": "assistant", "content": BLOCKS}
    assert [(c.id, json.loads(c.arguments)) for c in reader.tool_calls] == [("t1", {"at": "Oslo"})]


def test_an_anthropic_answer_sent_whole_has_the_same_hash_and_counts() -> None:
    body = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": BLOCKS,
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 10, "cache_read_input_tokens": 100, "output_tokens": 30},
    }
    reader = reader_for("anthropic", "chat", False)
    reader.feed_body(json.dumps(body).encode())
    streamed = _read("anthropic", _named(*MESSAGE))
    assert _hash(reader.output_message()) == _hash(streamed.output_message())
    assert reader.usage is not None
    assert reader.usage.input_tokens == 110
    assert reader.text == "I look."


def test_a_lone_text_block_has_the_hash_of_the_bare_text() -> None:
    reader = _read("anthropic", _named(*[e for e in MESSAGE if e.get("index") in (None, 1)]))
    assert _hash(reader.output_message()) == _hash({"role": "assistant", "content": "I look."})


def test_a_tool_call_that_was_cut_keeps_its_text() -> None:
    cut = [e for e in MESSAGE[:10] if e["type"] != "ping"]
    message = _read("anthropic", _named(*cut)).output_message()
    assert message is not None
    assert json.loads(message)["content"][2]["input"] == '{"at": "Os'


def test_an_anthropic_error_is_read_in_a_stream_and_in_a_body() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
    body = reader_for("anthropic", "chat", False)
    body.feed_body(json.dumps(error).encode())
    for reader in (_read("anthropic", _named(error)), body):
        assert reader.error is not None
        assert (reader.error.type, reader.error.message) == ("overloaded_error", "busy")
        assert not reader.terminal


def test_counting_tokens_is_not_usage() -> None:
    reader = reader_for("anthropic", "count_tokens", False)
    reader.feed_body(b'{"input_tokens": 2095}')
    assert reader.usage is None
