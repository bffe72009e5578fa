"""Requests in the words of each upstream: the official clients' own types are the judge of them."""

import json
from collections.abc import Iterable
from typing import Any

import anthropic.types
import openai.types.chat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import response_create_params
from pydantic import TypeAdapter

from responses_wire import ids, translator
from tocsin.core.errors import BadRequest
from tocsin.core.messages import ToolCall
from tocsin.core.wire.render import Answer, json_body
from tocsin.core.wire.responses import compaction_item, parse_response, upstream_request
from tocsin.core.wire.responses.schemas import closed
from tocsin.core.wire.responses.translate import Api

Body = dict[str, Any]
_TOOL = {
    "type": "function",
    "name": "look",
    "description": "Looks.",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    "strict": True,
}
_SCHEMA = {
    "type": "object",
    "properties": {"level": {"type": "integer", "minimum": 1}},
    "required": ["level"],
}
_FORMAT = {"type": "json_schema", "name": "answer", "schema": _SCHEMA, "strict": True}


_PATHS = {
    "chat": "/v1/chat/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
}


def asked(
    api: Api, history: list[Body] | None = None, *, judge: bool = True, **request: Any
) -> Body:
    """The body for an upstream; its own client's types are the judge of it."""
    made = parse_response(json.dumps({"model": "m", **request}).encode(), ids())
    path, data = upstream_request(made, history or [], api, stream=made.stream)
    assert path == _PATHS[api]
    body: Body = json.loads(data)
    if judge:
        _read(_JUDGES[api].validate_python(body))
    return body


def _read(value: Any) -> None:
    """Look at all of it: what is iterable is validated as it is read."""
    if isinstance(value, dict):
        value = value.values()
    elif isinstance(value, str | bytes) or not isinstance(value, Iterable):
        return
    for inner in value:
        _read(inner)


_JUDGES: dict[Api, TypeAdapter[Any]] = {
    "chat": TypeAdapter(openai.types.chat.CompletionCreateParams),
    "messages": TypeAdapter(anthropic.types.MessageCreateParams),
    "responses": TypeAdapter(response_create_params.ResponseCreateParamsBase),
}


def refused(api: Api, **request: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        asked(api, **request)
    return caught.value


_CONVERSATION: list[Body] = [
    {"role": "user", "content": "What is there?"},
    {"type": "reasoning", "summary": []},
    {"role": "assistant", "content": "Let me look."},
    {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"at":"sea"}'},
    {"type": "function_call", "call_id": "c2", "name": "look", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "water"},
    {"type": "function_call_output", "call_id": "c2", "output": "sky"},
    {"role": "user", "content": "Thanks."},
]


# -- chat completions --


def test_a_conversation_as_chat() -> None:
    body = asked("chat", input=_CONVERSATION, instructions="Be brief.", tools=[_TOOL], stream=True)
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at":"sea"}'}},
        {"id": "c2", "type": "function", "function": {"name": "look", "arguments": "{}"}},
    ]
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is there?"},
        {"role": "assistant", "content": "Let me look.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "water"},
        {"role": "tool", "tool_call_id": "c2", "content": "sky"},
        {"role": "user", "content": "Thanks."},
    ]
    assert body["stream_options"] == {"include_usage": True}
    function = {name: value for name, value in _TOOL.items() if name != "type"}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert "tool_choice" not in body


def test_settings_as_chat() -> None:
    body = asked(
        "chat",
        input="x",
        max_output_tokens=9,
        temperature=0.5,
        text={"format": _FORMAT, "verbosity": "low"},
        reasoning={"effort": "low"},
        top_logprobs=2,
        parallel_tool_calls=False,
        tool_choice={"type": "function", "name": "look"},
        tools=[_TOOL],
        metadata={"a": "b"},
        made_up=1,
    )
    assert body["max_completion_tokens"] == 9
    schema = {"name": "answer", "schema": _SCHEMA, "strict": True}
    assert body["response_format"] == {"type": "json_schema", "json_schema": schema}
    assert (body["reasoning_effort"], body["verbosity"]) == ("low", "low")
    assert (body["logprobs"], body["top_logprobs"]) == (True, 2)
    assert body["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    assert body["parallel_tool_calls"] is False
    assert not {"metadata", "made_up", "stream", "store"} & set(body)
    plain = asked("chat", input="x", text={"format": {"type": "json_object"}})
    assert plain["response_format"] == {"type": "json_object"}


_IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"}
_FILE = {"type": "input_file", "file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}


def test_pictures_and_files_as_chat() -> None:
    text = {"type": "input_text", "text": "See:"}
    body = asked("chat", input=[{"role": "user", "content": [text, _IMAGE, _FILE]}])
    assert body["messages"][0]["content"] == [
        {"type": "text", "text": "See:"},
        {"type": "image_url", "image_url": {"url": _IMAGE["image_url"], "detail": "low"}},
        {"type": "file", "file": {"file_data": _FILE["file_data"], "filename": "a.pdf"}},
    ]


def test_a_picture_that_a_tool_gives_follows_its_message() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    shown = {"type": "function_call_output", "call_id": "c", "output": [_IMAGE]}
    after = {"role": "user", "content": "Well?"}
    roles = [m["role"] for m in asked("chat", input=[call, shown, after])["messages"]]
    assert roles == ["assistant", "tool", "user", "user"]


def test_thoughts_go_back_until_the_turn_is_over() -> None:
    thought = {
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Hm"}],
    }
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": "1"}
    turn = [{"role": "user", "content": "a"}, thought, call, output]
    assert asked("chat", input=turn)["messages"][1]["reasoning_content"] == "Hm"
    later = asked("chat", input=[*turn, {"role": "user", "content": "b"}])
    assert "reasoning_content" not in later["messages"][1]


def test_custom_tools_as_chat() -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: A"}
    body = asked(
        "chat",
        input=[
            {"type": "custom_tool_call", "call_id": "c", "name": "sql", "input": "select 1"},
            {"type": "custom_tool_call_output", "call_id": "c", "output": "1"},
        ],
        tools=[{"type": "custom", "name": "sql", "format": grammar}],
        tool_choice={
            "type": "allowed_tools",
            "mode": "auto",
            "tools": [{"type": "custom", "name": "sql"}],
        },
    )
    assert body["messages"][0]["tool_calls"][0]["custom"] == {"name": "sql", "input": "select 1"}
    assert body["tools"][0]["custom"]["format"]["grammar"]["syntax"] == "lark"
    assert body["tool_choice"]["allowed_tools"]["tools"] == [
        {"type": "custom", "custom": {"name": "sql"}}
    ]


# -- Anthropic's messages --


def test_a_conversation_as_messages() -> None:
    body = asked(
        "messages", input=_CONVERSATION, instructions="Be brief.", tools=[_TOOL], stream=True
    )
    assert body["system"] == "Be brief."
    assert (body["max_tokens"], body["stream"]) == (4096, True)
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "What is there?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me look."},
                {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "sea"}},
                {"type": "tool_use", "id": "c2", "name": "look", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "water"},
                {"type": "tool_result", "tool_use_id": "c2", "content": "sky"},
                {"type": "text", "text": "Thanks."},
            ],
        },
    ]
    assert body["tools"][0]["input_schema"] == _TOOL["parameters"]


def test_a_schema_as_messages_has_closed_objects() -> None:
    body = asked("messages", input="x", text={"format": _FORMAT}, max_output_tokens=7)
    form = body["output_config"]["format"]
    assert form["type"] == "json_schema"
    assert form["schema"]["additionalProperties"] is False
    assert form["schema"]["properties"]["level"] == {
        "type": "integer",
        "description": '{"minimum":1}',
    }
    assert body["max_tokens"] == 7
    plain = asked("messages", input="x", text={"format": {"type": "json_object"}})
    assert "JSON" in plain["system"]


def test_effort_as_messages_lets_the_model_think() -> None:
    body = asked("messages", input="x", reasoning={"effort": "minimal"}, temperature=1.5)
    assert body["output_config"] == {"effort": "low"}
    assert body["thinking"]["type"] == "adaptive"
    # A model that thinks takes no temperature, and one that must call a tool does not think.
    assert "temperature" not in body
    forced = asked(
        "messages",
        input="x",
        reasoning={"effort": "high"},
        tools=[_TOOL],
        tool_choice="required",
        temperature=1.5,
    )
    assert "thinking" not in forced
    assert (forced["temperature"], forced["tool_choice"]) == (1, {"type": "any"})


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        (None, None, None),
        ("auto", False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("none", False, {"type": "none"}),
        ({"type": "function", "name": "look"}, None, {"type": "tool", "name": "look"}),
    ],
)
def test_a_choice_of_tool_as_messages(choice: Any, parallel: Any, expected: Any) -> None:
    body = asked(
        "messages", input="x", tools=[_TOOL], tool_choice=choice, parallel_tool_calls=parallel
    )
    assert body.get("tool_choice") == expected


def test_allowed_tools_as_messages_are_all_that_there_are() -> None:
    allowed = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "b"}],
    }
    tools = [{"type": "function", "name": name} for name in "abc"]
    body = asked("messages", input="x", tools=tools, tool_choice=allowed)
    assert [tool["name"] for tool in body["tools"]] == ["b"]
    assert body["tool_choice"] == {"type": "any"}


def test_pictures_and_files_as_messages() -> None:
    linked = {"type": "input_image", "image_url": "https://x.test/a.png"}
    body = asked("messages", input=[{"role": "user", "content": [_IMAGE, linked, _FILE]}])
    inline, url, document = body["messages"][0]["content"]
    assert inline["source"] == {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    assert url["source"] == {"type": "url", "url": "https://x.test/a.png"}
    assert document["source"]["media_type"] == "application/pdf"
    assert document["title"] == "a.pdf"


def test_system_messages_as_messages_stand_where_they_may() -> None:
    first = {"role": "developer", "content": "Rules."}
    later = {"role": "system", "content": "More rules."}
    body = asked("messages", input=[first, {"role": "user", "content": "a"}, later])
    assert body["system"] == "Rules."
    assert [block["text"] for block in body["messages"][0]["content"]] == ["a", "More rules."]


def test_thoughts_go_back_to_who_sealed_them() -> None:
    told = translator("messages")
    told.begin()
    content = [
        {"type": "thinking", "thinking": "Hm.", "signature": "SIG"},
        {"type": "redacted_thinking", "data": "DATA"},
        {"type": "tool_use", "id": "t1", "name": "look", "input": {}},
    ]
    message = {"type": "message", "content": content, "stop_reason": "tool_use"}
    told.whole(json.dumps(message).encode())
    told.end("complete")
    history = told.response["output"]
    result = {"type": "function_call_output", "call_id": "t1", "output": "1"}
    asked_before = {"role": "user", "content": "a"}
    body = asked("messages", input=[asked_before, *history, result])
    assert body["messages"][1]["content"] == content
    # To others they mean nothing.
    for api in ("chat", "responses"):
        assert "SIG" not in json.dumps(asked(api, input=[asked_before, *history, result]))


# -- responses --


def test_a_request_to_a_responses_upstream_is_whole_and_keeps_nothing_there() -> None:
    history = list(parse_response(json.dumps({"input": _CONVERSATION}).encode(), ids()).items)
    body = asked(
        "responses",
        history,
        input="And now?",
        previous_response_id="resp_1",
        background=True,
        truncation="auto",
        made_up=1,
        context_management=[{"type": "compaction", "compact_threshold": 9}],
    )
    assert body["store"] is False
    assert body["stream"] is False
    assert not {"previous_response_id", "background", "context_management"} & set(body)
    assert body["made_up"] == 1
    # Reasoning that it can not read is left out, and no item has an id that it does not know.
    assert len(body["input"]) == len(_CONVERSATION)
    assert [item for item in body["input"] if "id" in item] == []
    assert body["input"][1] == {"type": "message", "role": "assistant", "content": "Let me look."}


def test_a_responses_upstream_can_be_told_to_keep_working() -> None:
    request = parse_response(b'{"model":"m","input":"x","background":true}', ids())
    _, data = upstream_request(request, [], "responses", stream=True, background=True)
    body = json.loads(data)
    assert (body["store"], body["background"], body["stream"]) == (True, True, True)


def test_reasoning_is_asked_for_sealed_and_sent_back() -> None:
    sealed = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
    body = asked("responses", judge=False, input=[sealed], reasoning={"effort": "low"})
    assert body["include"] == ["reasoning.encrypted_content"]
    assert body["input"][0]["encrypted_content"] == "gAAA"


# -- what all have in common --


@pytest.mark.parametrize("api", ["chat", "messages", "responses"])
def test_a_summary_of_ours_is_told_in_words(api: Api) -> None:
    body = asked(
        api,
        input=[
            compaction_item("cmp_1", "They spoke of tides."),
            {"role": "user", "content": "Go on."},
        ],
    )
    assert "They spoke of tides." in json.dumps(body)
    assert "encrypted_content" not in json.dumps(body)


@pytest.mark.parametrize("api", ["chat", "messages"])
def test_what_there_are_no_words_for_is_refused_by_name(api: Api) -> None:
    tools = [_TOOL, {"type": "web_search"}]
    assert refused(api, input="x", tools=tools).param == "tools[1].type"
    sealed = {"type": "compaction", "encrypted_content": "gAAA"}
    assert refused(api, input=[sealed]).param == "input"
    assert "shell_call" in refused(api, input=[{"type": "shell_call"}]).message
    picture = {"type": "input_image"}
    assert "input_image" in refused(api, input=[{"role": "user", "content": [picture]}]).message
    unknown = {"type": "item_reference", "id": "msg_9"}
    assert "msg_9" in refused(api, input=[unknown]).message


def test_items_that_an_upstream_made_by_itself_are_left_out() -> None:
    action = {"type": "search", "query": "tides"}
    search = {"type": "web_search_call", "id": "x_1", "status": "completed", "action": action}
    said = {"role": "user", "content": "a"}
    assert len(asked("chat", input=[search, said])["messages"]) == 1
    assert len(asked("messages", input=[search, said])["messages"]) == 1
    assert asked("responses", input=[search, said])["input"][0]["id"] == "ws_1"


_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_ANY_ITEM = st.one_of(
    st.builds(
        lambda role, text: {"role": role, "content": text},
        st.sampled_from(["user", "assistant", "system", "developer"]),
        _TEXTS,
    ),
    st.builds(
        lambda name, text: {
            "type": "function_call",
            "call_id": name,
            "name": "f",
            "arguments": text,
        },
        st.sampled_from(["c.1", "c2"]),
        _TEXTS,
    ),
    st.builds(
        lambda name, text: {"type": "function_call_output", "call_id": name, "output": text},
        st.sampled_from(["c.1", "c2"]),
        _TEXTS,
    ),
)


@settings(max_examples=100, deadline=None)
@given(items=st.lists(_ANY_ITEM, max_size=8))
def test_any_history_as_messages_has_roles_that_alternate(items: list[Body]) -> None:
    body = asked("messages", input=items)
    roles = [message["role"] for message in body["messages"]]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"] * (len(roles) % 2)
    for message in body["messages"]:
        kinds = [block["type"] == "tool_result" for block in message["content"]]
        assert kinds == sorted(kinds, reverse=True)
        assert all(block.get("text", "x") for block in message["content"])


def _call(name: str) -> ToolCall:
    return ToolCall(id=name, name="f", arguments='{"a":1}')


@settings(max_examples=60, deadline=None)
@given(
    text=_TEXTS,
    calls=st.lists(
        st.builds(
            ToolCall,
            id=st.sampled_from(["a", "b"]),
            name=st.just("f"),
            arguments=st.just('{"a":1}'),
        ),
        max_size=2,
    ),
)
@pytest.mark.parametrize("api", ["chat", "messages"])
def test_an_answer_sent_back_says_what_it_said(api: Api, text: str, calls: list[ToolCall]) -> None:
    """The next request has the answer as its upstream gave it."""
    dialect = "openai" if api == "chat" else "anthropic"
    data = json_body(dialect, Answer(text=text, tool_calls=tuple(calls)), "m")  # type: ignore[arg-type]
    told = translator(api)
    told.begin()
    told.whole(data)
    told.end("complete")
    question = {"role": "user", "content": [{"type": "input_text", "text": "q"}]}
    body = asked(api, judge=False, input=[question, *told.response["output"]])
    said = json.loads(data)
    if api == "messages":
        blocks = [block for block in said["content"] if block.get("text", "x")]
        assert [m["content"] for m in body["messages"][1:]] == ([blocks] if blocks else [])
        return
    message = said["choices"][0]["message"]
    sent = body["messages"][1:]
    if not text and not calls:
        assert sent == []
        return
    assert sent[0].get("content") == (message["content"] or None)
    assert sent[0].get("tool_calls") == message.get("tool_calls")


def test_a_closed_schema_keeps_what_can_be_kept() -> None:
    schema = {
        "$defs": {"point": {"type": "object", "properties": {"x": {"type": "number"}}}},
        "type": "object",
        "properties": {
            "at": {"$ref": "#/$defs/point"},
            "kind": {"enum": ["a", "b"]},
            "when": {"type": "string", "format": "date", "maxLength": 10},
            "either": {"oneOf": [{"type": "null"}, {"type": "object"}]},
            "list": {"type": "array", "items": {"type": "object"}, "minItems": 1, "maxItems": 4},
        },
        "additionalProperties": True,
        "description": "It.",
    }
    made = closed(schema)
    found = made["properties"]
    assert made["description"] == "It."
    assert made["$defs"]["point"]["additionalProperties"] is False
    assert found["at"] == {"$ref": "#/$defs/point"}
    assert found["when"] == {"type": "string", "format": "date", "description": '{"maxLength":10}'}
    assert found["either"]["anyOf"][1] == {"type": "object", "additionalProperties": False}
    assert found["list"]["minItems"] == 1
    assert found["list"]["items"]["additionalProperties"] is False
    assert found["kind"] == {"enum": ["a", "b"]}
