"""Tocsin's own export comes back as the same records, byte for byte."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tocsin.core.interaction import Blob, Decision, Entry, Interaction, Usage
from tocsin.core.messages import Message, Node, chain, content_hash, parse_message
from tocsin.importers import BadRecord, detect, read
from tocsin.importers.native import HEADER, export_jsonl

DATA = Path(__file__).parent.parent / "data" / "imports"


def call(number: int, history: tuple[Message, ...], output: Message | None = None) -> Entry:
    nodes = chain(history if output is None else (*history, output))
    interaction = Interaction(
        id=f"call_{number}",
        source="gateway",
        dialect="openai",
        operation="chat",
        path="/v1/chat/completions",
        started_at=number,
        duration_us=1,
        outcome="complete",
        feature="f",
        run_id="run_1",
        run_source="prefix",
        request_model="m",
        usage=Usage(input_tokens=1, source="reported"),
        decisions=(Decision(policy="p", mode="observe", action="warn", detail="d"),),
        input_node=nodes[len(history) - 1].hash if history else None,
        output_node=nodes[-1].hash if output is not None else None,
        input_messages=len(history),
        attributes={"a": "b\n"},
    )
    return Entry(interaction=interaction, input=history, nodes=nodes, output=output)


def again(path: Path, entries: list[Entry]) -> list[Entry | BadRecord]:
    path.write_bytes(b"".join(export_jsonl(entries)))
    return list(read(path))


def text(role: str, content: str) -> Message:
    return parse_message(msgspec.json.encode({"role": role, "content": content}))


@pytest.mark.parametrize("path", sorted(DATA.iterdir()), ids=lambda path: path.name)
def test_every_imported_record_survives_a_round_trip(tmp_path: Path, path: Path) -> None:
    entries = [record for record in read(path) if not isinstance(record, BadRecord)]
    copy = tmp_path / "export.jsonl"
    assert again(copy, entries) == entries
    assert detect(copy).name == "tocsin"
    assert b"".join(export_jsonl(entries)) == copy.read_bytes()


def test_a_history_that_grows_is_written_once(tmp_path: Path) -> None:
    entries: list[Entry] = []
    history: tuple[Message, ...] = (text("system", "x" * 1000),)
    for number in range(50):
        history += (text("user", f"question {number} " + "y" * 1000),)
        answer = text("assistant", f"answer {number}")
        entries.append(call(number, history, answer))
        history += (answer,)
    path = tmp_path / "export"
    assert again(path, entries) == entries
    assert path.stat().st_size < 50 * 2000 + 5000


def test_branches_retries_and_other_runs_come_back_whole(tmp_path: Path) -> None:
    start = (text("user", "a"),)
    answer = text("assistant", "b")
    longer = (*start, answer, text("user", "c"))
    entries = [
        call(1, start, answer),
        call(2, longer, text("assistant", "d")),
        call(3, longer, text("assistant", "e")),
        call(4, (*start, answer, text("user", "f"))),
        call(5, start, answer),
        call(6, ()),
    ]
    assert again(tmp_path / "export", entries) == entries


@pytest.mark.parametrize(
    "raw",
    [
        b'{\n  "role": "user",\r\n  "content": "over lines"\n}',
        b' {"role":"user","content":"spaces round it"} ',
        b'{"base64": "not what it seems", "role": "user"}',
        b'"a bare text"',
        b"[1,2]",
        b'{"role":"user","content":"\\u0000 \\ud83d\\ude00","extra":{"b":1, "a":2.50}}',
    ],
)
def test_messages_keep_their_very_bytes(tmp_path: Path, raw: bytes) -> None:
    entries = [call(1, (parse_message(raw),), parse_message(raw))]
    (found,) = again(tmp_path / "export", entries)
    assert found == entries[0]


def test_other_content_and_missing_content_come_back(tmp_path: Path) -> None:
    binary, words = b"\xff\x00\x01", "plain text, ü".encode()
    blobs = tuple(Blob(content_hash(data), data) for data in (binary, words))
    cut = Blob(content_hash(b"the whole"), b"the wh")
    bare = call(1, (text("user", "gone"),), text("assistant", "gone too"))
    entries = [
        msgspec.structs.replace(call(1, ()), blobs=(*blobs, cut)),
        # A store that keeps hashes only has the record and its nodes, but no messages.
        msgspec.structs.replace(bare, input=(), output=None),
        msgspec.structs.replace(bare, input=(), output=None, nodes=()),
        msgspec.structs.replace(bare, nodes=(Node(b"a" * 16, b"b" * 16, b"c" * 16),)),
    ]
    assert again(tmp_path / "export", entries) == entries


def test_a_line_that_was_changed_is_named(tmp_path: Path) -> None:
    path = tmp_path / "export"
    entries = [call(n, (text("user", f"u{n}"),), text("assistant", "ok")) for n in range(3)]
    again(path, entries)
    path.write_bytes(path.read_bytes().replace(b'"u1"', b'"u9"'))
    first, damaged, last = read(path)
    assert (first, last) == (entries[0], entries[2])
    assert isinstance(damaged, BadRecord)
    assert damaged.line == 3
    assert "messages are not those" in damaged.reason


def test_a_history_from_a_missing_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "export"
    start, answer = (text("user", "a"),), text("assistant", "b")
    again(path, [call(1, start, answer), call(2, (*start, answer, text("user", "c")))])
    header, _, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(header + second + b"".join(list(export_jsonl([call(3, start)]))[1:]))
    missing, found = read(path)
    assert isinstance(missing, BadRecord)
    assert "is in no line before it" in missing.reason
    assert isinstance(found, Entry)


def test_an_export_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "export"
    path.write_bytes(HEADER.replace(b"1", b"9") + b'{"interaction":{}}\n')
    records = read(path)
    bad = next(records)
    assert isinstance(bad, BadRecord)
    assert "version 9" in bad.reason


_role = st.sampled_from(["system", "user", "assistant", "tool"])
_message = st.builds(text, _role, st.text(max_size=8))


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.lists(_message, max_size=3), st.none() | _message),
        max_size=12,
    )
)
def test_any_tree_of_histories_survives_a_round_trip(
    tmp_path: Path, plan: list[tuple[int, list[Message], Message | None]]
) -> None:
    ends: list[tuple[Message, ...]] = [()]
    entries: list[Entry] = []
    for number, (from_end, more, output) in enumerate(plan):
        history = (*ends[from_end % len(ends)], *more)
        entries.append(call(number, history, output))
        ends.append(history if output is None else (*history, output))
    if entries:
        assert again(tmp_path / "export", entries) == entries
