"""Requests of both dialects, read once."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.core.errors import BadRequest, Denied, Unavailable
from tocsin.core.messages import chain, parse_message
from tocsin.core.wire import (
    MAX_DEPTH,
    error_body,
    error_event,
    exceeds_depth,
    parse_request,
    with_model,
)


def _body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


HELLO = [{"role": "user", "content": "hello"}]


def test_a_chat_request_is_read() -> None:
    parsed = parse_request(
        "openai",
        "chat",
        _body(
            model="gpt-4o",
            messages=[{"role": "system", "content": "be kind"}, *HELLO],
            stream=True,
            max_completion_tokens=77,
            user="u-1",
            temperature=0.2,
            metadata={"ticket": "T1", "n": 3},
        ),
    )
    assert parsed.model == "gpt-4o"
    assert parsed.stream
    assert parsed.max_output_tokens == 77
    assert parsed.end_user == "u-1"
    assert parsed.metadata == {"ticket": "T1"}
    assert [m.role for m in parsed.messages] == ["system", "user"]
    params = json.loads(parsed.params)
    assert params["temperature"] == 0.2
    assert "messages" not in params


def test_an_anthropic_request_has_its_system_prompt_first_and_its_user_from_the_metadata() -> None:
    parsed = parse_request(
        "anthropic",
        "chat",
        _body(
            model="claude",
            system=[{"type": "text", "text": "be kind", "cache_control": {"type": "ephemeral"}}],
            messages=HELLO,
            max_tokens=5,
            metadata={"user_id": "u-2"},
        ),
    )
    assert [m.role for m in parsed.messages] == ["system", "user"]
    assert parsed.messages[0].hash == parse_message(b'{"role":"system","content":"be kind"}').hash
    assert parsed.end_user == "u-2"
    assert set(json.loads(parsed.params)) == {"model", "max_tokens", "metadata"}


def test_a_responses_request_is_read_with_its_references() -> None:
    parsed = parse_request(
        "openai",
        "chat",
        _body(
            model="gpt-5",
            input="hello",
            instructions="be kind",
            previous_response_id="resp_1",
            conversation={"id": "conv_1"},
            max_output_tokens=9,
        ),
    )
    assert [m.role for m in parsed.messages] == ["system", "user"]
    assert (parsed.response_ref, parsed.conversation_ref) == ("resp_1", "conv_1")
    assert parsed.max_output_tokens == 9


def test_the_items_of_an_assistants_turn_become_the_chat_message_that_says_the_same() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "weather?"}]},
        {"type": "reasoning", "summary": []},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
    ]
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    chat = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": "I look.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    responses = parse_request("openai", "chat", _body(model="m", input=items)).messages
    same = parse_request("openai", "chat", _body(model="m", messages=chat)).messages
    assert chain(responses) == chain(same)


def test_a_completion_prompt_is_one_user_message() -> None:
    parsed = parse_request("openai", "text_completion", _body(model="m", prompt="hello"))
    assert [m.hash for m in parsed.messages] == [parse_message(json.dumps(HELLO[0]).encode()).hash]
    several = parse_request("openai", "text_completion", _body(model="m", prompt=["a", "b"]))
    assert len(several.messages) == 1


def test_embeddings_have_no_messages() -> None:
    parsed = parse_request("openai", "embeddings", _body(model="e", input=["a", "b"]))
    assert parsed.messages == ()
    assert json.loads(parsed.params)["input"] == ["a", "b"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no body"),
        (b"{", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (_body(model="m"), "messages: this field is required"),
        (_body(model=3, messages=HELLO), "model: must be text"),
        (_body(model="m", messages="hi"), "messages: must be a list"),
        (_body(model="m", messages=[*HELLO, {"content": "x"}]), "messages[1].role"),
        (_body(model="m", messages=["x"]), "messages[0].role"),
        (_body(model="m", messages=[{"role": 7}]), "messages[0].role"),
        (_body(model="m", messages=HELLO, stream="yes"), "stream: must be true or false"),
        (_body(model="m", messages=HELLO, max_tokens="5"), "max_tokens: must be a whole number"),
        (_body(model="m", input=7), "input: must be text or a list"),
        (b'{"model":"\xff","messages":[]}', "model: must be text"),
        (b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}', "messages[0]"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words_that_name_the_field(
    body: bytes, words: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_request("openai", "chat", body)
    assert words in caught.value.message
    assert caught.value.status == 400


def test_a_body_that_nests_too_deep_is_refused_and_one_at_the_limit_is_not() -> None:
    def nested(levels: int) -> bytes:
        return b'{"model":"m","messages":[],"x":' + b"[" * levels + b"]" * levels + b"}"

    parse_request("openai", "chat", nested(MAX_DEPTH - 1))
    for levels in (MAX_DEPTH, 100_000):
        with pytest.raises(BadRequest, match="deeper"):
            parse_request("openai", "chat", nested(levels))


def test_brackets_inside_text_are_no_nesting() -> None:
    text = '{"\\[[{' * 1000
    assert not exceeds_depth(json.dumps({"a": text, "b": ["\\", text]}).encode())


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_depth_is_measured_exactly(value: Any) -> None:
    def depth(node: Any) -> int:
        inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        own = isinstance(node, list | dict)
        return own + max((depth(child) for child in inner), default=0)

    data = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    have = depth(value)
    assert not exceeds_depth(data, max(have, 1))
    assert have < 2 or exceeds_depth(data, have - 1)


def test_more_messages_than_the_cap_are_refused() -> None:
    body = b'{"model":"m","messages":[' + b"{}," * 100_000 + b"{}]}"
    with pytest.raises(BadRequest, match="at most 100000"):
        parse_request("openai", "chat", body)


@given(st.binary(max_size=200))
def test_a_route_that_passes_through_never_fails_on_its_body(body: bytes) -> None:
    for data in (body, b"{" + body):
        parsed = parse_request("openai", "other", data)
        assert parsed.messages == ()
        assert isinstance(parsed.model, str)


def test_a_route_that_passes_through_is_read_when_it_is_an_object() -> None:
    parsed = parse_request("openai", "other", _body(model="dall-e", prompt="a bell", stream=True))
    assert (parsed.model, parsed.stream) == ("dall-e", True)


def test_another_model_changes_no_other_value() -> None:
    body = b'{"temperature": 1.0,"model":"a","seed":12345678901234567890123,"m":{"model":"a"}}'
    assert with_model(body, "b/c") == (
        b'{"temperature":1.0,"model":"b/c","seed":12345678901234567890123,"m":{"model":"a"}}'
    )
    assert with_model(b"not json", "b") == b"not json"


def test_errors_speak_the_callers_dialect() -> None:
    denied = Denied("Budget spent.", code="budget_exceeded")
    assert json.loads(error_body("openai", denied)) == {
        "error": {
            "message": "Budget spent.",
            "type": "rate_limit_error",
            "param": None,
            "code": "budget_exceeded",
        }
    }
    assert json.loads(error_body("anthropic", denied)) == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "Budget spent."},
    }
    assert json.loads(error_body("anthropic", Unavailable("none")))["error"]["type"] == (
        "overloaded_error"
    )


def test_an_error_in_a_stream_is_an_event_of_the_dialect() -> None:
    assert error_event("anthropic", Denied("no")).startswith(b'event: error\ndata: {"type":"error"')
    assert error_event("openai", Denied("no")).startswith(b'data: {"error":')
