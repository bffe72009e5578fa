"""OTLP in: every dialect, both encodings, hostile bytes."""

import gzip
import zlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.core.errors import InputError
from tocsin.core.ids import derived_id
from tocsin.core.interaction import Entry, Usage
from tocsin.core.messages import chain, parse_message
from tocsin.importers import otlp
from tocsin.importers.otlp_wire import MAX_VALUE
from unit.otlp_spans import START, TRACE, span, to_json, to_protobuf

MAX = 1 << 20
Encoder = Callable[..., bytes]


@pytest.fixture(params=["protobuf", "json"])
def send(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Encodes spans in one of the two encodings and converts them."""
    encode: Encoder = to_protobuf if request.param == "protobuf" else to_json
    media = "application/x-protobuf" if request.param == "protobuf" else "application/json"

    def convert(
        spans: list[dict[str, Any]],
        resource: dict[str, Any] | None = None,
        *,
        whole: bool = False,
        **options: Any,
    ) -> Any:
        export = otlp.decode_export(encode(spans, resource), media, max_bytes=MAX)
        converter = otlp.Converter(price=options.pop("price", None))
        batch = converter.convert(export, received_at=7, **options)
        return batch if whole else batch.entries

    return convert


CHAT = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o",
}
ASKED = '[{"role":"user","parts":[{"type":"text","content":"Where is my order?"}]}]'
ANSWERED = (
    '[{"role":"assistant","parts":[{"type":"text","content":"Let me look."},{"type":"tool_call",'
    '"id":"call_1","name":"find_order","arguments":{"id":42}}],"finish_reason":"tool_call"}]'
)


def roles(entry: Entry) -> list[str]:
    return [message.role for message in entry.input]


def content(raw: bytes) -> Any:
    return msgspec.json.decode(raw)["content"]


# -- dialects --


def test_structured_messages_become_openai_messages(send: Any) -> None:
    (entry,) = send(
        [
            span(
                1,
                {
                    **CHAT,
                    "gen_ai.system_instructions": '[{"type":"text","content":"Be brief."}]',
                    "gen_ai.input.messages": ASKED,
                    "gen_ai.output.messages": ANSWERED,
                    "gen_ai.response.model": "gpt-4o-2024-08-06",
                    "gen_ai.response.id": "chatcmpl-1",
                    "gen_ai.usage.input_tokens": 120,
                    "gen_ai.usage.output_tokens": 9,
                    "gen_ai.usage.cache_creation.input_tokens": 3,
                    "gen_ai.conversation.id": "thread-9",
                    "gen_ai.request.temperature": 0.5,
                    "gen_ai.request.max_tokens": 300,
                },
                name="chat gpt-4o",
                seconds=1.25,
            )
        ],
    )
    call = entry.interaction
    assert roles(entry) == ["system", "user"]
    assert content(entry.input[0].raw) == "Be brief."
    assert entry.output is not None
    assert entry.output.calls[0].name == "find_order"
    assert msgspec.json.decode(entry.output.calls[0].arguments) == {"id": 42}
    assert call.outcome == "complete"
    assert call.finish_reason == "tool_calls"
    assert call.tool_calls == 1
    assert call.usage == Usage(
        input_tokens=120, output_tokens=9, cache_write_tokens=3, source="reported"
    )
    assert (call.provider, call.request_model) == ("openai", "gpt-4o")
    assert (call.response_model, call.response_id) == ("gpt-4o-2024-08-06", "chatcmpl-1")
    assert call.conversation_id == "thread-9"
    assert call.duration_us == 1_250_000
    assert call.started_at == (START + 10**9) // 1000
    assert msgspec.json.decode(entry.blobs[0].data) == {
        "max_tokens": 300,
        "model": "gpt-4o",
        "temperature": 0.5,
    }
    assert call.params == entry.blobs[0].hash


def test_messages_may_be_structured_attributes_or_stand_on_the_details_event(send: Any) -> None:
    parts = [{"role": "user", "parts": [{"type": "text", "content": "Hi"}]}]
    answer = [{"role": "assistant", "parts": [{"type": "text", "content": "Hello"}]}]
    details = {"gen_ai.input.messages": parts, "gen_ai.output.messages": answer}
    on_span, on_event = send(
        [
            span(1, {**CHAT, **details}),
            span(2, CHAT, events=[("gen_ai.client.inference.operation.details", details)]),
        ]
    )
    assert on_span.output is not None
    assert content(on_span.output.raw) == "Hello"
    assert on_event.input == on_span.input
    assert on_event.output == on_span.output


def test_the_0_1_0_names_are_read(send: Any) -> None:
    (entry,) = send(
        [
            span(
                1,
                {
                    **CHAT,
                    "gen_ai.usage.input_tokens": 50,
                    "gen_ai.usage.output_tokens": 5,
                    "gen_ai.usage.cache_read.input_tokens": 40,
                    "gen_ai.usage.cache_write.input_tokens": 2,
                    "gen_ai.usage.reasoning.output_tokens": 4,
                    "gen_ai.response.finish_reasons": ["length"],
                    "gen_ai.response.time_to_first_chunk": 0.25,
                    "gen_ai.request.stream": True,
                    "gen_ai.agent.name": "helper",
                },
            )
        ]
    )
    call = entry.interaction
    assert call.usage == Usage(
        input_tokens=50,
        output_tokens=5,
        cache_read_tokens=40,
        cache_write_tokens=2,
        reasoning_tokens=4,
        source="reported",
    )
    assert call.outcome == "truncated"
    assert call.first_chunk_us == 250_000
    assert call.stream
    assert call.agent == "helper"


@pytest.mark.parametrize("where", ["attributes", "gen_ai.event.content"])
def test_message_events_up_to_1_36_are_read(send: Any, where: str) -> None:
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": "It is here."},
    }
    bodies = [
        ("gen_ai.system.message", {"content": "Be brief."}),
        ("gen_ai.user.message", {"content": "Where?"}),
        ("gen_ai.assistant.message", {"tool_calls": [_nested_call("call_7", "find")]}),
        ("gen_ai.tool.message", {"id": "call_7", "content": "shelf 3"}),
        ("gen_ai.choice", choice),
    ]
    if where != "attributes":
        bodies = [(name, {where: msgspec.json.encode(body).decode()}) for name, body in bodies]
    (entry,) = send(
        [
            span(
                1,
                {"gen_ai.system": "openai", "gen_ai.request.model": "gpt-4o"},
                events=bodies,
            )
        ]
    )
    assert roles(entry) == ["system", "user", "assistant", "tool"]
    assert entry.input[2].calls[0].name == "find"
    assert entry.input[3].answers == ("call_7",)
    assert entry.output is not None
    assert content(entry.output.raw) == "It is here."
    assert entry.interaction.finish_reason == "stop"
    assert entry.interaction.provider == "openai"


def _nested_call(call_id: str, name: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": "{}"}}


def test_the_oldest_single_attributes_are_read(send: Any) -> None:
    prompt = '[{"role":"user","content":"Hi"}]'
    completion = '[{"role":"assistant","content":"Hello"}]'
    on_span, on_events = send(
        [
            span(1, {**CHAT, "gen_ai.prompt": prompt, "gen_ai.completion": completion}),
            span(
                2,
                CHAT,
                events=[
                    ("gen_ai.content.prompt", {"gen_ai.prompt": prompt}),
                    ("gen_ai.content.completion", {"gen_ai.completion": completion}),
                ],
            ),
        ]
    )
    assert content(on_span.input[0].raw) == "Hi"
    assert on_events.input == on_span.input
    assert on_events.output == on_span.output


def test_openinference_attributes_are_read(send: Any) -> None:
    (entry,) = send(
        [
            span(
                1,
                {
                    "openinference.span.kind": "LLM",
                    "llm.model_name": "claude-sonnet-4",
                    "llm.provider": "anthropic",
                    "llm.input_messages.1.message.role": "user",
                    "llm.input_messages.1.message.contents.0.message_content.type": "text",
                    "llm.input_messages.1.message.contents.0.message_content.text": "What is it?",
                    "llm.input_messages.1.message.contents.1.message_content.type": "image",
                    "llm.input_messages.1.message.contents.1.message_content.image.image.url": "x:",
                    "llm.input_messages.0.message.role": "system",
                    "llm.input_messages.0.message.content": "Be brief.",
                    "llm.input_messages.10.message.role": "tool",
                    "llm.input_messages.10.message.tool_call_id": "t1",
                    "llm.input_messages.10.message.content": "found",
                    "llm.output_messages.0.message.role": "assistant",
                    "llm.output_messages.0.message.tool_calls.0.tool_call.id": "t2",
                    "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "look",
                    "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments": "{}",
                    "llm.token_count.prompt": 10,
                    "llm.token_count.completion": 2,
                    "llm.token_count.prompt_details.cache_read": 8,
                    "llm.invocation_parameters": '{"temperature": 0.2}',
                    "llm.tools.0.tool.json_schema": '{"name":"look"}',
                    "session.id": "s-1",
                    "user.id": "u-1",
                    "input.value": "ignored, the messages say more",
                    "metadata": "kept",
                },
            )
        ]
    )
    call = entry.interaction
    assert roles(entry) == ["system", "user", "tool"]
    assert content(entry.input[1].raw)[1] == {"type": "image_url", "image_url": {"url": "x:"}}
    assert entry.input[2].answers == ("t1",)
    assert entry.output is not None
    assert entry.output.calls[0].id == "t2"
    assert call.operation == "chat"
    assert (call.conversation_id, call.end_user) == ("s-1", "u-1")
    assert (call.usage.input_tokens, call.usage.cache_read_tokens) == (10, 8)
    assert call.outcome == "complete"
    assert call.attributes["metadata"] == "kept"
    assert "input.value" not in call.attributes
    params = msgspec.json.decode(entry.blobs[0].data)
    assert params["tools"] == [{"name": "look"}]
    assert params["temperature"] == 0.2


def test_openllmetry_attributes_are_read(send: Any) -> None:
    (entry,) = send(
        [
            span(
                1,
                {
                    "llm.request.type": "chat",
                    "gen_ai.system": "OpenAI",
                    "gen_ai.request.model": "gpt-4o",
                    "gen_ai.prompt.0.role": "user",
                    "gen_ai.prompt.0.content": "Hi",
                    "gen_ai.prompt.1.role": "assistant",
                    "gen_ai.prompt.1.tool_calls.0.id": "c1",
                    "gen_ai.prompt.1.tool_calls.0.name": "look",
                    "gen_ai.prompt.1.tool_calls.0.arguments": "{}",
                    "gen_ai.prompt.2.role": "tool",
                    "gen_ai.prompt.2.content": "nothing",
                    "gen_ai.prompt.2.tool_call_id": "c1",
                    "gen_ai.completion.0.role": "assistant",
                    "gen_ai.completion.0.content": "Hello",
                    "gen_ai.completion.0.finish_reason": "stop",
                    "gen_ai.usage.prompt_tokens": 4,
                    "gen_ai.usage.completion_tokens": 1,
                },
            )
        ]
    )
    assert roles(entry) == ["user", "assistant", "tool"]
    assert entry.input[1].calls[0].name == "look"
    assert entry.input[2].answers == ("c1",)
    assert entry.output is not None
    assert content(entry.output.raw) == "Hello"
    assert entry.interaction.finish_reason == "stop"
    assert entry.interaction.usage.input_tokens == 4


def test_a_tool_result_part_becomes_a_tool_message(send: Any) -> None:
    asked = [
        {
            "role": "tool",
            "parts": [
                {"type": "tool_call_response", "id": "a", "response": "one"},
                {"type": "tool_call_response", "id": "b", "response": {"n": 2}},
            ],
        }
    ]
    (entry,) = send([span(1, {**CHAT, "gen_ai.input.messages": asked})])
    assert roles(entry) == ["tool", "tool"]
    assert [message.answers for message in entry.input] == [("a",), ("b",)]
    assert content(entry.input[1].raw) == '{"n":2}'
    assert entry.interaction.tool_results == 2


# -- structure --


def test_a_run_is_a_trace_and_links_cross_spans_of_other_kinds(send: Any) -> None:
    batch = send(
        [
            span(1, {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "helper"}),
            span(2, {"http.request.method": "POST"}, parent=1),
            span(3, {"db.system.name": "postgresql"}, parent=2),
            span(4, CHAT, parent=3),
            span(
                5,
                {
                    "gen_ai.operation.name": "execute_tool",
                    "gen_ai.tool.name": "find_order",
                    "gen_ai.tool.call.id": "call_1",
                    "gen_ai.tool.call.arguments": '{"id":42}',
                    "gen_ai.tool.call.result": "shelf 3",
                },
                parent=1,
            ),
        ],
        whole=True,
    )
    assert (batch.skipped, batch.rejected) == (2, 0)
    agent, call, tool = batch.entries
    run = derived_id("run", TRACE)
    assert {entry.interaction.run_id for entry in (agent, call, tool)} == {run}
    assert call.interaction.parent_id == agent.interaction.id == tool.interaction.parent_id
    assert agent.interaction.parent_id is None
    assert agent.interaction.id == derived_id("call", TRACE, "0000000000000001")
    assert tool.interaction.operation == "execute_tool"
    assert {blob.hash: blob.data for blob in tool.blobs} == {
        tool.interaction.request_body: b'{"id":42}',
        tool.interaction.response_body: b"shelf 3",
    }
    assert tool.interaction.attributes["gen_ai.tool.name"] == "find_order"


def test_an_agents_own_token_sum_is_no_usage(send: Any) -> None:
    (agent,) = send(
        [
            span(
                1,
                {
                    "gen_ai.operation.name": "invoke_agent",
                    "gen_ai.usage.input_tokens": 900,
                    "gen_ai.input.messages": ASKED,
                },
            )
        ],
        price=lambda *_: pytest.fail("an agent has no price"),
    )
    assert agent.interaction.usage == Usage()
    assert agent.interaction.attributes["input_tokens"] == "900"
    assert roles(agent) == ["user"]


def test_calls_with_usage_are_priced_by_the_given_function(send: Any) -> None:
    seen: list[tuple[str, str, Usage]] = []

    def price(provider: str, model: str, usage: Usage) -> tuple[int | None, Any]:
        seen.append((provider, model, usage))
        return 1234, "listed"

    priced, unknown = send(
        [span(1, {**CHAT, "gen_ai.usage.input_tokens": 5}), span(2, CHAT)], price=price
    )
    assert (priced.interaction.cost_nano_usd, priced.interaction.cost_source) == (1234, "listed")
    assert unknown.interaction.cost_nano_usd is None
    assert [(provider, model) for provider, model, _ in seen] == [("openai", "gpt-4o")]


def test_a_history_that_is_sent_again_counts_only_what_is_new(send: Any) -> None:
    first = [{"role": "user", "parts": [{"type": "text", "content": "Hi"}]}]
    answer = [{"role": "assistant", "parts": [{"type": "text", "content": "Hello"}]}]
    more = [{"role": "user", "parts": [{"type": "text", "content": "More"}]}]
    attributes = {**CHAT, "gen_ai.input.messages": first, "gen_ai.output.messages": answer}
    again = {**CHAT, "gen_ai.input.messages": [*first, *answer, *more]}
    # The second call was sent first: the order of their starts counts.
    one, two = send([span(2, again), span(1, attributes)])
    assert (one.interaction.new_messages, one.interaction.input_messages) == (1, 1)
    assert (two.interaction.new_messages, two.interaction.input_messages) == (1, 3)
    assert one.interaction.output_node == two.nodes[1].hash
    assert two.nodes == chain(two.input)


def test_the_chain_of_nodes_ends_with_the_answer(send: Any) -> None:
    (entry,) = send(
        [span(1, {**CHAT, "gen_ai.input.messages": ASKED, "gen_ai.output.messages": ANSWERED})]
    )
    assert entry.output is not None
    assert entry.nodes == chain((*entry.input, entry.output))
    assert entry.interaction.input_node == entry.nodes[-2].hash
    assert entry.interaction.output_node == entry.nodes[-1].hash
    assert parse_message(entry.output.raw) == entry.output


@pytest.mark.parametrize(
    ("attributes", "status", "message", "outcome"),
    [
        ({}, 2, "boom", "error"),
        ({"error.type": "openai.APITimeoutError"}, 2, "", "timeout"),
        ({"error.type": "asyncio.CancelledError"}, 0, "", "cancelled"),
        ({"error.type": "429"}, 2, "rate limited", "error"),
        ({"gen_ai.response.finish_reasons": ["content_filter"]}, 0, "", "refused"),
        ({"gen_ai.response.finish_reasons": '["MAX_TOKENS"]'}, 0, "", "truncated"),
        ({"gen_ai.usage.output_tokens": 7}, 0, "", "complete"),
        (
            {"gen_ai.usage.output_tokens": 7, "gen_ai.request.max_tokens": 7},
            0,
            "",
            "truncated",
        ),
        ({}, 0, "", "unknown"),
    ],
)
def test_the_outcome_says_how_the_call_ended(
    send: Any, attributes: dict[str, Any], status: int, message: str, outcome: str
) -> None:
    (entry,) = send([span(1, {**CHAT, **attributes}, status=status, message=message)])
    assert entry.interaction.outcome == outcome
    assert (entry.interaction.error_message or "") == message
    if attributes.get("error.type") == "429":
        assert entry.interaction.status == 429


def test_an_exception_event_names_the_error(send: Any) -> None:
    raised = ("exception", {"exception.type": "ValueError", "exception.message": "bad"})
    (entry,) = send([span(1, CHAT, status=2, events=[raised])])
    assert entry.interaction.error_type == "ValueError"
    assert entry.interaction.error_message == "bad"


def test_features_come_from_the_span_the_resource_or_the_default(send: Any) -> None:
    spans = [span(1, {**CHAT, "tocsin.feature": "search"}), span(2, CHAT)]
    named, default = send(spans, {"service.name": "shop"}, feature_default="support")
    assert (named.interaction.feature, default.interaction.feature) == ("search", "support")
    assert default.interaction.attributes["service.name"] == "shop"
    (resource,) = send([span(1, CHAT)], {"tocsin.feature": "billing"})
    assert resource.interaction.feature == "billing"


def test_a_feature_that_the_key_may_not_write_is_rejected(send: Any) -> None:
    spans = [span(1, {**CHAT, "tocsin.feature": "payroll"}), span(2, CHAT)]
    batch = send(spans, allow=lambda feature: feature == "default", whole=True)
    assert (len(batch.entries), batch.rejected) == (1, 1)
    assert "feature" in batch.reason


def test_spans_with_broken_ids_are_rejected_and_the_others_taken(send: Any) -> None:
    broken = [span(1, CHAT, trace="00" * 16), span(2, CHAT), span(0, CHAT)]
    batch = send(broken, whole=True)
    assert len(batch.entries) == 1
    assert batch.reasons == {"trace id is not 16 bytes": 1, "span id is not 8 bytes": 1}


def test_a_span_without_a_start_says_that_its_time_is_unknown(send: Any) -> None:
    (entry,) = send([span(1, CHAT, start=0)])
    assert entry.interaction.started_at == 7
    assert entry.interaction.duration_us == 0
    assert entry.interaction.attributes["time"] == "unknown"


def test_attributes_stay_flat_few_and_short(send: Any) -> None:
    extra = {f"app.{n}": "x" * 5000 for n in range(200)}
    nested = {"app": {"__proto__": {"a": [1, 2.5, True]}}, "nul": "a\0b"}
    (entry,) = send([span(1, {**CHAT, **nested, **extra})])
    attributes = entry.interaction.attributes
    assert len(attributes) <= 64
    assert max(map(len, attributes.values())) <= 1000
    assert attributes["app"] == '{"__proto__":{"a":[1,2.5,true]}}'
    assert attributes["nul"] == "ab"


def test_an_oversized_value_is_left_out_and_counted() -> None:
    body = to_protobuf([span(1, {**CHAT, "gen_ai.prompt": "x" * (MAX_VALUE + 1)})])
    export = otlp.decode_export(body, "application/x-protobuf", max_bytes=1 << 25)
    (entry,) = otlp.entries(export).entries
    assert entry.input == ()
    assert entry.interaction.attributes["dropped_attributes"] == "1"


# -- the wire --


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_compressed_bodies_are_read(compress: Callable[[bytes], bytes]) -> None:
    name = "gzip" if compress is gzip.compress else "deflate"
    body = compress(to_json([span(1, CHAT)]))
    export = otlp.decode_export(body, "application/json; charset=utf-8", name, max_bytes=MAX)
    assert len(otlp.entries(export).entries) == 1


@pytest.mark.parametrize(
    ("body", "media", "encoding", "status", "words"),
    [
        (
            gzip.compress(bytes(8 * MAX), mtime=0),
            "application/json",
            "gzip",
            413,
            "expands to more",
        ),
        (zlib.compress(bytes(8 * MAX)), "application/json", "deflate", 413, "expands to more"),
        (bytes(MAX + 1), "application/json", None, 413, "larger than"),
        (gzip.compress(b"{}", mtime=0)[:-6], "application/json", "gzip", 400, "breaks off"),
        (b"\x1f\x8bnonsense", "application/json", "gzip", 400, "cannot be decompressed"),
        (gzip.compress(b"", mtime=0) * 2000, "application/json", "gzip", 400, "members"),
        (b"{}", "application/json", "br", 415, "Content-Encoding"),
        (b"{}", "text/plain", None, 415, "Content-Type"),
        (b"{}", "application/json", None, 400, "resourceSpans"),
        (b"[1", "application/json", None, 400, "not valid JSON"),
        (b"[" * 9000 + b"]" * 9000, "application/json", None, 400, "nests too deep"),
        (b"\xff\xff\xff", "application/x-protobuf", None, 400, "no OTLP"),
    ],
)
def test_bodies_that_cannot_be_taken_say_why(
    body: bytes, media: str, encoding: str | None, status: int, words: str
) -> None:
    with pytest.raises(otlp.ExportError, match=words) as caught:
        otlp.decode_export(body, media, encoding, max_bytes=MAX)
    assert caught.value.status == status


def test_a_deeply_nested_attribute_is_cut_not_followed() -> None:
    value: Any = "deep"
    for _ in range(40):
        value = [value]
    body = to_protobuf([span(1, {**CHAT, "gen_ai.input.messages": value})])
    export = otlp.decode_export(body, "application/x-protobuf", max_bytes=MAX)
    assert len(otlp.entries(export).entries) == 1


def test_json_messages_nested_a_thousand_deep_are_kept_as_text() -> None:
    deep = "[" * 1000 + "]" * 1000
    body = to_protobuf([span(1, {**CHAT, "gen_ai.input.messages": deep})])
    export = otlp.decode_export(body, "application/x-protobuf", max_bytes=MAX)
    (entry,) = otlp.entries(export).entries
    assert content(entry.input[0].raw) == deep


def test_a_cycle_of_parents_ends() -> None:
    body = to_json([span(1, {}, parent=2), span(2, {}, parent=1), span(3, CHAT, parent=1)])
    export = otlp.decode_export(body, "application/json", max_bytes=MAX)
    (entry,) = otlp.entries(export).entries
    assert entry.interaction.parent_id is None


@pytest.mark.parametrize("media", ["application/json", "application/x-protobuf"])
def test_the_reply_tells_what_was_rejected(media: str) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    body = otlp.encode_reply(media, rejected=300, message="no ids")
    failure = otlp.encode_failure(media, "no")
    if media == "application/json":
        assert msgspec.json.decode(body)["partialSuccess"]["rejectedSpans"] == "300"
        assert msgspec.json.decode(otlp.encode_reply(media)) == {}
        assert msgspec.json.decode(failure) == {"message": "no"}
    else:
        reply = ExportTraceServiceResponse.FromString(body)
        assert reply.partial_success.rejected_spans == 300
        assert reply.partial_success.error_message == "no ids"
        assert otlp.encode_reply(media) == b""
        assert failure == b"\x12\x02no"


# -- anything at all --

_leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_json = st.recursive(
    _leaf,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "parts", "type", "id", "tool_calls", "function", "name"]
            )
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)
_keys = st.sampled_from(
    [
        "gen_ai.operation.name",
        "gen_ai.request.model",
        "gen_ai.input.messages",
        "gen_ai.output.messages",
        "gen_ai.system_instructions",
        "gen_ai.prompt",
        "gen_ai.prompt.0.content",
        "gen_ai.prompt.0.tool_calls.0.id",
        "gen_ai.completion.1.role",
        "gen_ai.usage.input_tokens",
        "gen_ai.response.finish_reasons",
        "gen_ai.request.max_tokens",
        "gen_ai.request.stop",
        "gen_ai.tool.definitions",
        "llm.input_messages.0.message.role",
        "llm.input_messages.0.message.contents.0.message_content.type",
        "llm.invocation_parameters",
        "openinference.span.kind",
        "input.value",
        "output.value",
        "events",
        "tocsin.run",
        "tocsin.feature",
        "session.id",
        "error.type",
    ]
)
_any_value = st.dictionaries(
    st.sampled_from(["stringValue", "intValue", "doubleValue", "boolValue", "bytesValue"]),
    _json | _json.map(lambda value: msgspec.json.encode(_finite(value)).decode()),
    max_size=2,
)
_attributes = st.lists(st.fixed_dictionaries({"key": _keys, "value": _any_value}), max_size=8)


def _finite(value: Any) -> Any:
    """JSON's numbers only: msgspec refuses integers of more than 64 bits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value % (1 << 60)
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value


_span = st.fixed_dictionaries(
    {
        "traceId": st.just(TRACE) | _json,
        "spanId": st.just("00000000000000aa") | _json,
        "attributes": _attributes | _json,
    },
    optional={
        "parentSpanId": _json,
        "name": _json,
        "startTimeUnixNano": _json,
        "endTimeUnixNano": _json,
        "status": _json,
        "events": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["gen_ai.choice", "gen_ai.user.message", "exception"])},
                optional={"attributes": _attributes | _json, "timeUnixNano": _json},
            ),
            max_size=3,
        )
        | _json,
    },
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_span | _json, max_size=4) | _json)
def test_no_json_of_any_shape_raises_anything_but_an_input_error(spans: Any) -> None:
    body = msgspec.json.encode(_finite({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}))
    try:
        export = otlp.decode_export(body, "application/json", max_bytes=MAX)
    except InputError:
        return
    batch = otlp.Converter(price=lambda *_: (1, "listed")).convert(export)
    if isinstance(spans, list):
        assert len(batch.entries) + batch.skipped + batch.rejected == len(spans)
    for entry in batch.entries:
        msgspec.json.encode(entry.interaction)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["application/json", "application/x-protobuf"]))
def test_no_bytes_raise_anything_but_an_input_error(body: bytes, media: str) -> None:
    for encoding in (None, "gzip", "deflate"):
        try:
            export = otlp.decode_export(body, media, encoding, max_bytes=MAX)
        except InputError:
            continue
        assert otlp.entries(export).rejected >= 0
