"""OTLP out: what leaves, under which names, and that it can be read back."""

from typing import Any

from tocsin.core.interaction import Entry, Interaction, Usage
from tocsin.core.messages import chain, parse_message
from tocsin.importers import otlp
from tocsin.importers.otlp_export import encode
from unit.otlp_spans import TRACE, span, to_protobuf

HISTORY = (
    parse_message(b'{"role":"system","content":"Be brief."}'),
    parse_message(
        b'{"role":"user","content":[{"type":"text","text":"Where is it?"},'
        b'{"type":"image_url","image_url":{"url":"https://x.test/a.png"}}]}'
    ),
)
ANSWER = parse_message(
    b'{"role":"assistant","content":"Looking.","tool_calls":[{"id":"call_1","type":"function",'
    b'"function":{"name":"find","arguments":"{\\"id\\":42}"}}]}'
)


def recorded(**changes: Any) -> Entry:
    nodes = chain((*HISTORY, ANSWER))
    fields: dict[str, Any] = {
        "id": "call_a",
        "source": "gateway",
        "dialect": "openai",
        "operation": "chat",
        "path": "/v1/chat/completions",
        "started_at": 1_790_000_000_000_000,
        "duration_us": 1_500_000,
        "outcome": "complete",
        "feature": "support",
        "run_id": "run_a",
        "run_source": "new",
        "parent_id": "call_0",
        "request_model": "gpt-4o",
        "provider": "openai",
        "finish_reason": "tool_calls",
        "usage": Usage(input_tokens=12, output_tokens=3, cache_write_tokens=1, source="reported"),
        "cost_nano_usd": 2_500_000,
        "first_chunk_us": 250_000,
        "input_node": nodes[-2].hash,
        "output_node": nodes[-1].hash,
        "attributes": {"tier": "gold"},
    }
    interaction = Interaction(**{**fields, **changes})
    return Entry(interaction=interaction, input=HISTORY, nodes=nodes, output=ANSWER)


def sent(body: bytes) -> list[Any]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest.FromString(body)
    return [span for g in request.resource_spans for s in g.scope_spans for span in s.spans]


def attributes(made: Any) -> dict[str, Any]:
    found = {}
    for pair in made.attributes:
        kind = pair.value.WhichOneof("value")
        found[pair.key] = getattr(pair.value, kind)
    return found


def test_a_call_leaves_as_a_client_span_with_the_current_names() -> None:
    (made,) = sent(encode([recorded()], resource={"service.name": "shop"}))
    facts = attributes(made)
    assert made.name == "chat gpt-4o"
    assert made.kind == 3
    assert made.end_time_unix_nano - made.start_time_unix_nano == 1_500_000_000
    assert (len(made.trace_id), len(made.span_id), len(made.parent_span_id)) == (16, 8, 8)
    assert facts["gen_ai.provider.name"] == "openai"
    assert facts["gen_ai.usage.cache_write.input_tokens"] == 1
    assert facts["gen_ai.response.time_to_first_chunk"] == 0.25
    assert facts["tocsin.cost.usd"] == 0.0025
    assert facts["tier"] == "gold"
    assert made.status.code == 0


def test_no_content_leaves_unless_it_is_asked_for() -> None:
    body = encode([recorded()])
    assert b"Where is it?" not in body
    assert b"42" not in body
    assert b"Where is it?" in encode([recorded()], content=True)


def test_calls_of_one_run_share_a_trace_and_parents_are_found() -> None:
    parent, child = sent(encode([recorded(id="call_0", parent_id=None), recorded()]))
    assert parent.trace_id == child.trace_id
    assert child.parent_span_id == parent.span_id
    assert parent.parent_span_id == b""
    assert sent(encode([recorded(run_id="run_b")]))[0].trace_id != parent.trace_id


def test_a_failure_is_an_error_status_with_its_type() -> None:
    (made,) = sent(encode([recorded(outcome="timeout", error_message="too slow")]))
    assert (made.status.code, made.status.message) == (2, "too slow")
    assert attributes(made)["error.type"] == "timeout"


def test_what_leaves_can_be_read_back() -> None:
    export = otlp.decode_export(
        encode([recorded()], content=True), "application/x-protobuf", max_bytes=1 << 20
    )
    (entry,) = otlp.entries(export).entries
    before = recorded().interaction
    after = entry.interaction
    assert [message.hash for message in entry.input] == [message.hash for message in HISTORY]
    assert entry.output is not None
    assert entry.output.hash == ANSWER.hash
    assert after.output_node == before.output_node
    for field in ("run_id", "feature", "usage", "request_model", "finish_reason", "outcome"):
        assert getattr(after, field) == getattr(before, field)


def test_a_span_goes_out_under_the_ids_that_it_came_with() -> None:
    body = to_protobuf(
        [span(5, {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}, parent=4)]
    )
    export = otlp.decode_export(body, "application/x-protobuf", max_bytes=1 << 20)
    (made,) = sent(encode(otlp.entries(export).entries))
    assert made.trace_id.hex() == TRACE
    assert made.span_id == (5).to_bytes(8, "big")
    assert made.parent_span_id == (4).to_bytes(8, "big")


def test_a_tool_span_carries_its_arguments_and_result() -> None:
    tool = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "find",
        "gen_ai.tool.call.arguments": '{"id":42}',
        "gen_ai.tool.call.result": "shelf 3",
    }
    export = otlp.decode_export(
        to_protobuf([span(1, tool)]), "application/x-protobuf", max_bytes=1 << 20
    )
    (made,) = sent(encode(otlp.entries(export).entries, content=True))
    facts = attributes(made)
    assert made.name == "execute_tool find"
    assert made.kind == 1
    assert facts["gen_ai.tool.call.arguments"] == '{"id":42}'
    assert facts["gen_ai.tool.call.result"] == "shelf 3"
