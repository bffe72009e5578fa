"""Every file format is recognised by its content and read to the last record."""

import gzip
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tocsin.core.errors import InputError
from tocsin.core.ids import derived_id
from tocsin.core.interaction import Entry, Usage
from tocsin.core.messages import chain
from tocsin.importers import FORMATS, BadRecord, detect, read
from unit.otlp_spans import TRACE, span, to_json, to_protobuf

DATA = Path(__file__).parent.parent / "data" / "imports"
CHAT = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.input.messages": '[{"role":"user","content":"Hi"}]',
    "gen_ai.output.messages": '[{"role":"assistant","content":"Hello"}]',
}


def load(path: Path, fmt: str | None = None) -> tuple[list[Entry], list[BadRecord]]:
    records = list(read(path, fmt))
    return (
        [record for record in records if not isinstance(record, BadRecord)],
        [record for record in records if isinstance(record, BadRecord)],
    )


def text(entry: Entry) -> Any:
    assert entry.output is not None
    return msgspec.json.decode(entry.output.raw)["content"]


@pytest.mark.parametrize(
    ("name", "fmt"),
    [
        ("conversations.jsonl", "openai"),
        ("pairs.jsonl", "openai"),
        ("batch_output.jsonl", "openai"),
        ("taubench.json", "tau-bench"),
        ("langfuse_observations.jsonl", "langfuse"),
        ("langfuse_traces.json", "langfuse"),
        ("langsmith_runs.jsonl", "langsmith"),
    ],
)
def test_a_format_is_told_by_content_whatever_the_file_is_called(
    tmp_path: Path, name: str, fmt: str
) -> None:
    plain = (DATA / name).read_bytes()
    entries, _ = load(DATA / name)
    for number, data in enumerate(
        (plain, b"\xef\xbb\xbf" + plain, gzip.compress(plain), zstandard.compress(plain))
    ):
        path = tmp_path / f"file{number}.dat"
        path.write_bytes(data)
        assert detect(path).name == fmt
        again, _ = load(path)
        assert [e.interaction.id for e in again] == [e.interaction.id for e in entries]


def test_reading_a_file_twice_names_the_same_calls() -> None:
    for path in sorted(DATA.iterdir()):
        first, _ = load(path)
        second, _ = load(path)
        assert first == second
        assert len({entry.interaction.id for entry in first}) == len(first)


def test_every_entry_has_the_chain_of_its_own_messages() -> None:
    for path in sorted(DATA.iterdir()):
        for entry in load(path)[0]:
            whole = entry.input if entry.output is None else (*entry.input, entry.output)
            assert entry.nodes == chain(whole)
            call = entry.interaction
            assert call.input_messages == len(entry.input)
            assert 0 <= call.new_messages <= call.input_messages
            assert {blob.hash for blob in entry.blobs} == {
                h for h in (call.params, call.request_body, call.response_body) if h
            }


# -- OpenAI --


def test_a_finished_conversation_becomes_its_calls() -> None:
    entries, bad = load(DATA / "conversations.jsonl")
    first, second, third = entries
    assert first.interaction.run_id == second.interaction.run_id != third.interaction.run_id
    assert second.interaction.parent_id == first.interaction.id
    assert [message.role for message in first.input] == ["system", "user"]
    assert [message.role for message in second.input] == ["system", "user", "assistant", "tool"]
    assert (second.interaction.new_messages, second.interaction.tool_results) == (1, 1)
    assert (first.interaction.tool_calls, text(second)) == (1, "I cannot find it.")
    assert first.interaction.conversation_id == "c-1"
    assert (first.interaction.end_user, first.interaction.attributes["topic"]) == ("ann", "parcels")
    assert msgspec.json.decode(first.blobs[0].data)["temperature"] == 0.2
    assert [record.line for record in bad] == [3, 4, 5]


def test_messages_after_the_last_answer_stay_with_the_last_call() -> None:
    entries, _ = load(DATA / "conversations.jsonl")
    last = entries[1]
    assert last.interaction.attributes["trailing_messages"] == "1"
    kept = next(b for b in last.blobs if b.hash == last.interaction.response_body)
    assert msgspec.json.decode(kept.data) == [{"role": "user", "content": "Thanks anyway."}]


def test_usage_goes_to_the_only_call_of_a_line() -> None:
    entries, _ = load(DATA / "conversations.jsonl")
    assert entries[2].interaction.usage == Usage(input_tokens=9, output_tokens=2, source="reported")
    assert entries[0].interaction.usage == Usage()


def test_times_that_the_file_does_not_tell_are_marked_and_keep_the_order() -> None:
    entries, _ = load(DATA / "conversations.jsonl")
    first, second, third = (entry.interaction for entry in entries)
    assert first.attributes["time"] == second.attributes["time"] == "unknown"
    assert first.started_at < second.started_at
    assert third.attributes["time"] == "of the conversation"
    assert third.started_at == 1_790_000_000_000_000


def test_requests_with_responses_are_stitched_by_their_messages() -> None:
    entries, bad = load(DATA / "pairs.jsonl")
    first, second, claude, limited = (entry.interaction for entry in entries)
    assert first.run_id == second.run_id
    assert (first.run_source, second.run_source) == ("new", "prefix")
    assert (second.new_messages, second.outcome) == (1, "truncated")
    assert first.usage.cache_read_tokens == 4
    assert first.duration_us == 420_000
    assert first.started_at == 1_790_000_001_000_000
    assert (claude.dialect, claude.finish_reason, claude.outcome) == (
        "anthropic",
        "end_turn",
        "complete",
    )
    assert [message.role for message in entries[2].input] == ["system", "user"]
    assert (limited.outcome, limited.status) == ("error", 429)
    assert limited.error_type == "rate_limit_exceeded"
    assert [record.line for record in bad] == [5]


def test_a_batch_output_has_answers_without_their_questions() -> None:
    done, expired = (entry.interaction for entry in load(DATA / "batch_output.jsonl")[0])
    assert (done.outcome, done.attributes["custom_id"]) == ("complete", "row-1")
    assert done.usage.input_tokens == 5
    assert (expired.outcome, expired.error_type) == ("error", "batch_expired")
    assert done.run_id != expired.run_id


# -- tau-bench --


def test_tau_bench_runs_tell_their_reward_on_the_last_call() -> None:
    entries, bad = load(DATA / "taubench.json")
    first, second, other = (entry.interaction for entry in entries)
    assert first.run_id == second.run_id != other.run_id
    assert "reward" not in first.attributes
    assert (second.attributes["reward"], second.attributes["success"]) == ("1", "true")
    assert other.attributes["success"] == "false"
    assert first.end_user == "ada_1815"
    assert [record.line for record in bad] == [17, 18]


# -- Langfuse --


def test_langfuse_observations_become_calls_tools_and_agents() -> None:
    entries, bad = load(DATA / "langfuse_observations.jsonl")
    agent, call, tool = (entry.interaction for entry in entries)
    assert [agent.operation, call.operation, tool.operation] == [
        "invoke_agent",
        "chat",
        "execute_tool",
    ]
    assert {agent.run_id, call.run_id, tool.run_id} == {derived_id("run", "t-1")}
    assert call.parent_id == tool.parent_id == agent.id
    assert [message.role for message in entries[1].input] == ["system", "user"]
    assert call.tool_calls == 1
    assert call.usage == Usage(
        input_tokens=32, output_tokens=6, cache_read_tokens=12, source="reported"
    )
    assert (call.duration_us, call.first_chunk_us) == (1_500_000, 400_000)
    assert call.cost_nano_usd is None
    assert call.attributes["reported_cost_usd"] == "0.00021"
    assert (call.conversation_id, call.end_user) == ("s-1", "ada")
    assert (tool.outcome, tool.error_message) == ("error", "NotFound")
    assert [record.line for record in bad] == [4, 5]


def test_langfuse_traces_bring_their_observations_and_scores() -> None:
    entries, _ = load(DATA / "langfuse_traces.json")
    call, bare = (entry.interaction for entry in entries)
    assert (call.conversation_id, call.end_user, call.release) == ("s-9", "bob", "r7")
    assert (call.finish_reason, text(entries[0])) == ("stop", "Hello")
    assert call.attributes["success"] == "true"
    assert call.attributes["score.tone"] == "0.5"
    assert msgspec.json.decode(entries[0].blobs[0].data) == {"tools": [{"name": "look"}]}
    assert bare.operation == "invoke_workflow"
    assert {blob.data for blob in entries[1].blobs} == {b"in", b"out"}


# -- LangSmith --


def test_langsmith_runs_with_serialised_messages_are_read() -> None:
    entries, bad = load(DATA / "langsmith_runs.jsonl")
    root, call, tool, second = (entry.interaction for entry in entries)
    assert (root.operation, root.attributes["reward"]) == ("invoke_workflow", "1")
    assert root.conversation_id == "th-1"
    assert [message.role for message in entries[1].input] == ["system", "user"]
    assert entries[1].output is not None
    assert entries[1].output.calls[0].name == "renew"
    assert msgspec.json.decode(entries[1].output.calls[0].arguments) == {"book": 12}
    assert call.usage == Usage(
        input_tokens=30, output_tokens=5, cache_read_tokens=10, source="reported"
    )
    assert (call.provider, call.request_model, call.finish_reason) == (
        "openai",
        "gpt-4o",
        "tool_calls",
    )
    assert call.parent_id == tool.parent_id == second.parent_id == root.id
    assert (tool.outcome, tool.duration_us) == ("error", 500_000)
    assert [message.role for message in entries[3].input] == ["user", "assistant", "user"]
    assert text(entries[3]) == "Renewed"
    assert [record.line for record in bad] == [5]


def test_nested_langsmith_runs_are_read_with_their_parents(tmp_path: Path) -> None:
    child = {"id": "b", "run_type": "tool", "name": "look", "child_runs": [{"id": "x"}]}
    path = tmp_path / "runs.json"
    path.write_bytes(msgspec.json.encode([{"id": "a", "run_type": "chain", "child_runs": [child]}]))
    entries, bad = load(path)
    root, tool = (entry.interaction for entry in entries)
    assert tool.parent_id == root.id
    assert tool.run_id == root.run_id
    assert len(bad) == 1


# -- OTLP in files --


def _requests() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return [span(1, CHAT), span(2, {"http.route": "/"})], [span(3, CHAT)]


def test_otlp_json_is_read_as_lines_and_as_one_document(tmp_path: Path) -> None:
    one, two = _requests()
    lines = tmp_path / "lines"
    lines.write_bytes(to_json(one) + b"\n" + to_json(two) + b"\n{broken\n")
    whole = tmp_path / "whole"
    whole.write_bytes(msgspec.json.format(to_json([*one, *two]), indent=2))
    assert detect(lines).name == detect(whole).name == "otlp-json"
    entries, bad = load(lines)
    assert len(entries) == 2
    assert [record.line for record in bad] == [3]
    ids = [entry.interaction.id for entry in entries]
    assert [entry.interaction.id for entry in load(whole)[0]] == ids
    assert entries[0].interaction.run_id == derived_id("run", TRACE)


@pytest.mark.parametrize("framing", ["single", "varint", "big-endian"])
def test_otlp_protobuf_is_read_in_every_framing(tmp_path: Path, framing: str) -> None:
    bodies = [to_protobuf(spans) for spans in _requests()]
    path = tmp_path / "spans"
    match framing:
        case "single":
            # Two requests in a row are one request that has the spans of both.
            path.write_bytes(b"".join(bodies))
        case "varint":
            path.write_bytes(b"".join(_varint(len(body)) + body for body in bodies))
        case "big-endian":
            path.write_bytes(b"".join(len(body).to_bytes(4, "big") + body for body in bodies))
    assert detect(path).name == "otlp-protobuf"
    entries, bad = load(path)
    assert len(entries) == 2
    assert bad == []
    path.write_bytes(path.read_bytes()[:-3])
    entries, bad = load(path)
    assert len(entries) == 1
    assert "breaks off" in bad[0].reason


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def test_spans_that_cannot_be_taken_are_counted_by_reason(tmp_path: Path) -> None:
    path = tmp_path / "spans"
    path.write_bytes(to_json([span(1, CHAT), span(2, CHAT, trace="00" * 16)]))
    entries, bad = load(path)
    assert len(entries) == 1
    assert bad[0].reason == "1 spans: trace id is not 16 bytes"


# -- what is no such file --


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"  \n ", "empty"),
        (b"name,age\nann,3\n", "no JSON text"),
        (b'{"rows": 3}', "the fields of its first record are: rows"),
        (b"\x00\x01\x02\x03\x04\x05\x06\x07", "no JSON text"),
        (b"PK\x03\x04 a zip file", "Tried: Tocsin export"),
        (b'{"messages": 5}\n{"messages": []}', "nothing could be read"),
        (b"[]", "in no known format"),
    ],
)
def test_a_file_that_holds_nothing_says_what_was_tried(
    tmp_path: Path, data: bytes, words: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(InputError, match=words) as caught:
        list(read(path))
    assert str(path) in str(caught.value)


def test_a_missing_file_and_an_unknown_format_say_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read(tmp_path / "none")
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path)
    with pytest.raises(InputError, match="there are: tocsin, otlp-json"):
        read(DATA / "pairs.jsonl", "csv")


def test_damaged_compression_is_a_bad_record_not_a_crash(tmp_path: Path) -> None:
    lines = b"".join(
        msgspec.json.encode(
            {"messages": [{"role": "user", "content": str(n) * 99}, {"role": "assistant"}]}
        )
        + b"\n"
        for n in range(4_000)
    )
    for number, data in enumerate((gzip.compress(lines), zstandard.compress(lines))):
        path = tmp_path / str(number)
        path.write_bytes(data[: len(data) * 2 // 3])
        entries, bad = load(path)
        assert entries
        assert bad


def test_a_line_nested_a_thousand_deep_is_a_bad_record(tmp_path: Path) -> None:
    path = tmp_path / "deep"
    deep = b'{"messages":' + b"[" * 1000 + b"]" * 1000 + b"}\n"
    path.write_bytes((DATA / "pairs.jsonl").read_bytes() + deep)
    entries, bad = load(path)
    assert len(entries) == 4
    assert "nests deeper" in bad[-1].reason


def test_progress_ends_at_the_size_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress((DATA / "pairs.jsonl").read_bytes()))
    seen: list[tuple[int, int]] = []
    list(read(path, progress=lambda done, total: seen.append((done, total))))
    size = path.stat().st_size
    assert seen[-1] == (size, size)
    assert all(done <= total == size for done, total in seen)


# -- anything at all --

_leaf = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=12)
_words = st.sampled_from(
    [
        "messages", "request", "response", "role", "content", "tool_calls", "function", "id",
        "traj", "task_id", "reward", "type", "traceId", "trace_id", "startTime", "input",
        "output", "usage", "run_type", "inputs", "outputs", "generations", "message", "kwargs",
        "extra", "metadata", "observations", "resourceSpans", "scopeSpans", "spans",
        "interaction", "after", "blobs", "nodes", "choices", "body", "error", "custom_id",
    ]
)  # fmt: skip
_said = st.sampled_from(["assistant", "user", "GENERATION", "TOOL", "llm", "chain", "tool", "a"])
_json = st.recursive(
    _leaf | _said,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(_words | st.text(max_size=3), inner)
    ),
    max_leaves=25,
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from([fmt.name for fmt in FORMATS]),
    st.lists(_json, min_size=1, max_size=4),
    st.sampled_from(["lines", "array", "bytes"]),
)
def test_no_content_raises_anything_but_an_input_error(
    tmp_path: Path, fmt: str, values: list[Any], shape: str
) -> None:
    path = tmp_path / "fuzz"
    match shape:
        case "lines":
            path.write_bytes(b"\n".join(msgspec.json.encode(value) for value in values))
        case "array":
            path.write_bytes(msgspec.json.format(msgspec.json.encode(values), indent=1))
        case "bytes":
            path.write_bytes(msgspec.json.encode(values)[1:-2])
    try:
        records = list(read(path, fmt))
    except InputError:
        return
    for record in records:
        if not isinstance(record, BadRecord):
            msgspec.json.encode(record.interaction)
