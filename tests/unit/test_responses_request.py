"""Requests to the Responses API: what is taken, what is refused and with which parameter, and the
objects that answer them."""

import json
from typing import Any

import pytest
from openai.pagination import SyncConversationCursorPage
from openai.types.conversations import (
    Conversation,
    ConversationDeletedResource,
    ConversationItem,
)
from openai.types.responses import CompactedResponse, Response, ResponseItem
from openai.types.responses.input_token_count_response import InputTokenCountResponse
from pydantic import TypeAdapter

from responses_wire import ids, response_for
from tocsin.core.errors import BadRequest
from tocsin.core.interaction import Usage
from tocsin.core.wire.responses import (
    ResponseRequest,
    compaction_item,
    compaction_object,
    compaction_summary,
    conversation_object,
    deleted,
    input_tokens_object,
    item_list,
    parse_response,
    skeleton,
)

ITEM: TypeAdapter[Any] = TypeAdapter(ResponseItem)
CONVERSATION_ITEM: TypeAdapter[Any] = TypeAdapter(ConversationItem)


def parse(**request: Any) -> ResponseRequest:
    return parse_response(json.dumps(request).encode(), ids())


def test_a_string_is_one_message_of_the_user() -> None:
    request = parse(model="m", input="Hello")
    assert request.items == (
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "Hello"}],
            "type": "message",
            "id": "msg_0",
            "status": "completed",
        },
    )
    assert (request.model, request.store, request.stream) == ("m", True, False)
    assert request.truncation == "disabled"


_ITEMS: list[dict[str, Any]] = [
    {"role": "user", "content": "plain"},
    {"role": "developer", "content": [{"type": "input_text", "text": "be brief"}]},
    {"role": "user", "content": [{"type": "input_image", "image_url": "https://x.test/a.png"}]},
    {"role": "assistant", "content": "said before"},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "12"},
    {
        "type": "function_call_output",
        "call_id": "c1",
        "output": [{"type": "input_text", "text": "a"}],
    },
    {"type": "reasoning", "summary": []},
    {"type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "x"},
    {"type": "custom_tool_call_output", "call_id": "c2", "output": "y"},
    {"type": "compaction", "encrypted_content": "opaque"},
]


@pytest.mark.parametrize("item", _ITEMS, ids=lambda item: item.get("type") or item["role"])
def test_items_come_back_in_the_form_that_the_client_reads(item: dict[str, Any]) -> None:
    """As ``input_items`` and as the items of a conversation."""
    (found,) = parse(input=[item]).items
    read = ITEM.validate_python(found)
    assert read.id == found["id"]
    assert read.type == found["type"]
    assert CONVERSATION_ITEM.validate_python(found).type == found["type"]


def test_ids_of_callers_are_kept_and_others_say_what_they_name() -> None:
    items = parse(
        input=[
            {"role": "user", "content": "a", "id": "msg_theirs"},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": ""},
            {"type": "item_reference", "id": "msg_old"},
            {"id": "rs_old"},
        ]
    ).items
    assert [item["id"] for item in items] == ["msg_theirs", "fc_0", "msg_old", "rs_old"]
    assert items[3]["type"] == "item_reference"


_METADATA_17 = {f"k{i}": "v" for i in range(17)}
_CHAIN = {"conversation": "conv_1", "previous_response_id": "resp_1"}
_PARTS = {"role": "user", "content": [{"type": "input_text"}]}


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({"model": 3}, "model"),
        ({"input": 3}, "input"),
        ({"input": [3]}, "input[0]"),
        ({"input": [{"role": "user", "content": "a"}, {"role": "tool"}]}, "input[1].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [_PARTS]}, "input[0].content[0].text"),
        ({"input": [{"role": "user", "content": [{}]}]}, "input[0].content[0].type"),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "input[0].name"),
        ({"input": [{"type": "function_call_output", "output": ""}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"input": [{"type": "compaction"}]}, "input[0].encrypted_content"),
        ({"input": [{}]}, "input[0].id"),
        (_CHAIN, "conversation"),
        ({"conversation": 3}, "conversation"),
        ({"conversation": {}}, "conversation"),
        ({"background": True, "store": False}, "background"),
        ({"background": "yes"}, "background"),
        ({"stream": 1}, "stream"),
        ({"metadata": []}, "metadata"),
        ({"metadata": _METADATA_17}, "metadata"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": "1"}, "top_p"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 1.5}, "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"truncation": "some"}, "truncation"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "f", "parameters": 1}]}, "tools[0].parameters"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"context_management": [{"type": "other"}]}, "context_management[0].type"),
        ({"instructions": ["a"]}, "instructions"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(request_: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(**request_)
    assert caught.value.param == param
    assert caught.value.status == 400
    assert caught.value.message.startswith(param.partition(".")[0].partition("[")[0])


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"[]", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"input":' + b"[" * 200 + b"]" * 200 + b"}", "too_deep"),
    ],
)
def test_a_body_that_is_no_object_is_refused(body: bytes, code: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_response(body, ids())
    assert caught.value.code == code


def test_the_limits_themselves_are_allowed() -> None:
    metadata = {f"{i}".rjust(64, "k"): "v" * 512 for i in range(16)}
    assert parse(metadata=metadata).metadata == metadata
    assert parse(metadata=None, text={"format": None}, conversation={"id": "c"}) is not None
    assert parse(context_management=[{"type": "compaction", "compact_threshold": 5}]) is not None


def test_a_schema_is_found_where_the_client_puts_it() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}
    assert parse(text={"format": form}).schema == schema
    assert parse(text={"format": {"type": "json_object"}}).schema is None


# -- objects --

_NEVER_NULL = (
    *("temperature", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs"),
    *("truncation", "tool_choice", "tools", "background", "service_tier", "metadata", "text"),
    *("parallel_tool_calls", "store", "output", "reasoning", "id", "object", "created_at"),
    *("status", "model"),
)
_NULL = (
    *("completed_at", "incomplete_details", "previous_response_id", "instructions", "error"),
    *("user", "usage", "max_output_tokens", "max_tool_calls", "safety_identifier"),
    "prompt_cache_key",
)
"""With those above, all that the Open Responses specification requires."""


def test_a_response_has_every_field_that_clients_ask_for() -> None:
    response = response_for()
    Response.model_validate(response)
    assert [name for name in _NEVER_NULL if response[name] is None] == []
    for name in _NULL:
        assert response[name] is None


def test_a_response_repeats_what_was_asked_for() -> None:
    tools = [{"type": "function", "name": "f"}]
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
    asked = parse(
        model="m",
        input="x",
        temperature=0,
        tools=tools,
        tool_choice={"type": "function", "name": "f"},
        text={"format": form, "verbosity": "low"},
        reasoning={"effort": "low"},
        user="u",
        service_tier="auto",
        metadata={"a": "b"},
        instructions="be kind",
    )
    response = skeleton(
        asked, response_id="resp_1", created_at=1, status="in_progress", conversation="conv_1"
    )
    read = Response.model_validate(response)
    assert read.temperature == 0
    assert read.tools[0].name == "f"  # type: ignore[union-attr]
    assert response["tools"][0]["parameters"] is None
    assert response["text"]["verbosity"] == "low"
    assert response["text"]["format"]["strict"] is None
    assert read.conversation is not None
    assert read.conversation.id == "conv_1"
    assert (response["user"], response["service_tier"]) == ("u", "default")
    assert response["reasoning"] == {"effort": "low", "summary": None}
    assert (read.instructions, read.metadata) == ("be kind", {"a": "b"})


def test_the_other_objects_are_what_the_client_reads() -> None:
    conversation = conversation_object("conv_1", created_at=3, metadata={"a": "b"})
    assert Conversation.model_validate(conversation).metadata == {"a": "b"}
    gone = ConversationDeletedResource.model_validate(deleted("conv_1", "conversation"))
    assert gone.deleted
    assert deleted("resp_1", "response")["object"] == "response"
    assert InputTokenCountResponse.model_validate(input_tokens_object(5)).input_tokens == 5
    items = parse(input="a").items
    page = SyncConversationCursorPage[Any].model_validate(item_list(items, has_more=True))
    assert page.has_more
    assert page.last_id == items[0]["id"]
    assert item_list([], has_more=False)["first_id"] == ""


def test_a_compaction_is_opaque_to_clients_and_plain_to_us() -> None:
    item = compaction_item("cmp_1", "They spoke of tides. ü")
    made = compaction_object(
        "resp_2", created_at=4, output=[*parse(input="a").items, item], usage=Usage(input_tokens=3)
    )
    # As the client reads it: its class has no user messages there, the API has.
    read = CompactedResponse.construct(**made)
    assert read.usage.total_tokens == 3
    assert read.output[-1].type == "compaction"
    assert compaction_summary(item) == "They spoke of tides. ü"
    for foreign in ("gAAAA", "tocsin-summary-1.###", "tocsin-summary-1.e30="):
        assert compaction_summary({**item, "encrypted_content": foreign}) is None
