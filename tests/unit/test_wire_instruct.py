"""An instruction put before the model: at the end, in each dialect, and nothing else changes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.core.interaction import Dialect, Operation
from tocsin.core.wire import parse_request
from tocsin.core.wire.instruct import with_instruction

NOTE = 'Say "less".'


def put(
    body: Any, dialect: Dialect = "openai", operation: Operation = "chat", role: str = "developer"
) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return json.loads(with_instruction(dialect, operation, raw, NOTE, role))


def test_chat_gets_a_message_of_the_role_at_its_end() -> None:
    said = {"role": "tool", "tool_call_id": "t", "content": "x"}
    found = put({"model": "m", "messages": [said], "n": 1})
    assert found["messages"] == [said, {"role": "developer", "content": NOTE}]
    assert (found["model"], found["n"]) == ("m", 1)


def test_an_empty_history_and_odd_spaces_are_no_trouble() -> None:
    assert put(b'{"messages": [ ] }')["messages"] == [{"role": "developer", "content": NOTE}]
    assert len(put(b'{"messages" : [ {"role":"user","content":"]"} \n ] }')["messages"]) == 2


def test_responses_input_gets_an_item_whether_it_is_text_or_a_list() -> None:
    item = {"type": "message", "role": "developer", "content": NOTE}
    user = {"type": "message", "role": "user", "content": 'a "b"'}
    assert put({"input": 'a "b"'})["input"] == [user, item]
    output = {"type": "function_call_output", "call_id": "c", "output": "1"}
    assert put({"input": [output]})["input"] == [output, item]


def test_anthropic_gets_a_block_behind_the_tool_results_of_the_last_user_message() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": "x"}
    body = {
        "system": "s",
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "a"}]},
            {"role": "user", "content": [result], "cache_control": None},
        ],
    }
    found = put(body, "anthropic")
    assert found["messages"][2]["content"] == [result, {"type": "text", "text": NOTE}]
    assert found["messages"][:2] == body["messages"][:2]
    assert found["system"] == "s"


@pytest.mark.parametrize(
    ("content", "blocks"),
    [
        ("hi", [{"type": "text", "text": "hi"}, {"type": "text", "text": NOTE}]),
        ("", [{"type": "text", "text": NOTE}]),
        ([], [{"type": "text", "text": NOTE}]),
    ],
)
def test_anthropic_text_becomes_blocks_and_a_prefill_stays_last(content: Any, blocks: Any) -> None:
    prefill = {"role": "assistant", "content": "{"}
    found = put({"messages": [{"role": "user", "content": content}, prefill]}, "anthropic")
    assert found["messages"] == [{"role": "user", "content": blocks}, prefill]


@pytest.mark.parametrize(
    ("dialect", "operation", "body"),
    [
        ("openai", "text_completion", b'{"prompt": "a"}'),
        ("openai", "embeddings", b'{"input": "a"}'),
        ("openai", "chat", b"{no json"),
        ("openai", "chat", b"[1]"),
        ("openai", "chat", b'{"messages": "x"}'),
        ("openai", "chat", b'{"previous_response_id": "r"}'),
        ("anthropic", "chat", b'{"messages": [{"role": "assistant", "content": "x"}]}'),
        ("anthropic", "chat", b'{"messages": [{"role": "user", "content": 7}]}'),
        ("anthropic", "chat", b'{"messages": [7]}'),
    ],
)
def test_what_has_no_place_for_it_stays_the_same_object(
    dialect: Dialect, operation: Operation, body: bytes
) -> None:
    assert with_instruction(dialect, operation, body, NOTE) is body


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_body_breaks_it(body: bytes) -> None:
    for dialect in ("openai", "anthropic"):
        assert isinstance(with_instruction(dialect, "chat", body, NOTE), bytes)


@given(
    st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "tool"]), "content": st.text()}),
        min_size=1,
    )
)
def test_the_history_before_it_keeps_its_hashes(messages: list[dict[str, str]]) -> None:
    body = json.dumps({"messages": messages}).encode()
    before = parse_request("openai", "chat", body).messages
    after = parse_request("openai", "chat", with_instruction("openai", "chat", body, NOTE)).messages
    assert [m.hash for m in after[:-1]] == [m.hash for m in before]
