"""Answers from a recording."""

import asyncio
import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest
import zstandard

from provider_calls import HELLO, make_call
from tocsin import importers
from tocsin.core.errors import UpstreamFailed
from tocsin.core.interaction import Entry
from tocsin.core.messages import content_hash
from tocsin.core.policy import Reply
from tocsin.core.wire import reader_for
from tocsin.importers.native import export_jsonl
from tocsin.providers.replay import ReplayProvider

CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at":"Oslo"}'}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "weather?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    {"role": "assistant", "content": "It is sunny."},
]


def write(path: Path, *lines: Any) -> ReplayProvider:
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    if path.suffix == ".gz":
        data = gzip.compress(data)
    if path.suffix == ".zst":
        data = zstandard.compress(data)
    path.write_bytes(data)
    return ReplayProvider("tape", str(path))


def exported(output: str, **facts: Any) -> dict[str, Any]:
    return {
        "tocsin": 1,
        "interaction": {"request_model": "gpt-4o", "duration_us": 200_000, **facts},
        "input": HELLO,
        "output": {"role": "assistant", "content": output},
        "blobs": {},
    }


async def read(reply: Reply, dialect: Any = "openai") -> Any:
    reader = reader_for(dialect, "chat", reply.chunks is not None)
    if reply.chunks is None:
        reader.feed_body(reply.body or b"")
    else:
        async for chunk in reply.chunks:
            reader.feed(chunk)
    return reader


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("stream", [False, True])
async def test_each_answer_of_a_recorded_conversation_is_found_by_its_history(
    tmp_path: Path, name: str, stream: bool
) -> None:
    tape = write(tmp_path / name, {"messages": MESSAGES, "model": "gpt-4o"})
    first = await read(await tape.send(make_call(MESSAGES[:2], stream=stream)))
    assert [call.arguments for call in first.tool_calls] == ['{"at":"Oslo"}']
    assert first.finish_reason == "tool_calls"
    last = await read(await tape.send(make_call(MESSAGES[:4], stream=stream)))
    assert (last.text, last.terminal) == ("It is sunny.", True)
    # What the client sends back continues the same recorded history.
    assert json.loads(last.output_message())["content"] == MESSAGES[4]["content"]


async def test_an_unknown_history_is_a_404_that_says_how_much_of_it_is_known(
    tmp_path: Path,
) -> None:
    tape = write(tmp_path / "a.jsonl", {"messages": MESSAGES})
    other = [*MESSAGES[:3], {"role": "tool", "tool_call_id": "c1", "content": "rain"}]
    reply = await tape.send(make_call(other))
    assert reply.status == 404
    assert (
        "4 messages; the longest beginning of it that was recorded has 3"
        in (json.loads(reply.body or b"")["error"]["message"])
    )
    anthropic = await tape.send(make_call([{"role": "user", "content": "x"}], dialect="anthropic"))
    assert json.loads(anthropic.body or b"")["error"]["type"] == "not_found_error"


async def test_an_export_replays_with_model_usage_and_reason(tmp_path: Path) -> None:
    usage = {"input_tokens": 9, "output_tokens": 3, "source": "reported"}
    line = exported("cut sho", finish_reason="length", usage=usage, response_model="gpt-4o-2024")
    tape = write(tmp_path / "a.jsonl", line)
    for dialect in ("openai", "anthropic"):
        reader = await read(await tape.send(make_call(dialect=dialect, stream=True)), dialect)
        assert reader.text == "cut sho"
        assert reader.response_model == "gpt-4o-2024"
        assert reader.finish_reason == ("length" if dialect == "openai" else "max_tokens")
        assert reader.usage is not None
        assert (reader.usage.input_tokens, reader.usage.output_tokens) == (9, 3)
    models = await tape.send(make_call(operation="models"))
    assert [m["id"] for m in json.loads(models.body or b"")["data"]] == ["gpt-4o-2024"]


async def test_several_answers_to_one_history_take_turns(tmp_path: Path) -> None:
    tape = write(tmp_path / "a.jsonl", exported("one"), exported("two"))
    said = [(await read(await tape.send(make_call()))).text for _ in range(3)]
    assert said == ["one", "two", "one"]


async def test_a_reply_without_messages_is_found_by_its_request(tmp_path: Path) -> None:
    call = make_call(operation="embeddings", input="hello")
    facts = {"request_body": content_hash(call.body).hex(), "response_body": "aa", "status": 200}
    line = {"interaction": facts, "input": [], "output": None, "blobs": {"aa": '{"data":[]}'}}
    tape = write(tmp_path / "a.jsonl", line)
    assert (await tape.send(call)).body == b'{"data":[]}'


async def test_the_recorded_pace_can_be_kept(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", exported("one two three", first_chunk_us=50_000))
    tape = ReplayProvider("tape", str(tmp_path / "a.jsonl"), speed=2.0)
    began = time.perf_counter()
    await read(await tape.send(make_call(stream=True)))
    assert 0.07 < time.perf_counter() - began < 1.0


async def test_a_line_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"messages":[]}\n{"messages":\n')
    tape = ReplayProvider("tape", str(tmp_path / "a.jsonl"))
    with pytest.raises(UpstreamFailed, match=r"'tape'.*line 2"):
        await tape.send(make_call())


async def test_calls_that_come_at_once_read_the_file_once(tmp_path: Path) -> None:
    tape = write(tmp_path / "a.jsonl", exported("one"))
    replies = await asyncio.gather(*[tape.send(make_call()) for _ in range(8)])
    assert {reply.status for reply in replies} == {200}


async def test_our_own_export_answers_every_turn_of_a_run(tmp_path: Path) -> None:
    conversation = tmp_path / "conversation.jsonl"
    conversation.write_text(json.dumps({"messages": MESSAGES, "model": "m"}) + "\n")
    entries = [entry for entry in importers.read(conversation) if isinstance(entry, Entry)]
    tape = tmp_path / "export.jsonl"
    tape.write_bytes(b"".join(export_jsonl(entries)))
    assert b'"after"' in tape.read_bytes()
    provider = ReplayProvider("tape", str(tape))
    first = await read(await provider.send(make_call(MESSAGES[:2])))
    second = await read(await provider.send(make_call(MESSAGES[:4])))
    assert [tool.name for tool in first.tool_calls] == ["look"]
    assert second.text == "It is sunny."
    assert (await provider.send(make_call(MESSAGES[:3]))).status == 404


async def test_an_export_with_a_damaged_link_is_named_by_line(tmp_path: Path) -> None:
    provider = write(tmp_path / "x.jsonl", {**exported("x"), "after": "no hex"})
    with pytest.raises(UpstreamFailed, match="line 1"):
        await provider.send(make_call(HELLO))
