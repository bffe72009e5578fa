"""Steps of a run, and how they are read out of messages of either dialect."""

import re
from typing import Any, Literal

import msgspec

from tocsin.core.messages import Message, ToolCall
from tocsin.core.supervision import Evidence
from tocsin.core.tool_results import UNKNOWN, Kind, Outcome
from tocsin.core.wire import text_of
from tocsin.domains.agents.similarity import MAX_TEXT, Arguments, arguments
from tocsin.domains.agents.tools import kind_of

Verdict = Literal["progress", "idle", "neutral"]
"""It brought something new; it did not; or it says nothing either way (waiting, thinking)."""

MAX_RESULT = 64 * 1024
"""Characters of a result that are looked at ..."""
MAX_SHOWN = 480
"""... and kept: with spaces joined, 400 of them are shown."""


class Step(msgspec.Struct, kw_only=True):
    """One tool execution, or one plain answer, of a run."""

    call: int
    tool: str
    arguments: Arguments
    kind: Kind
    listing: bool = False
    at: int = 0
    agent: str = ""
    speaker: str = ""
    """Who said it: the agent's name, or what its system prompt tells it by."""
    interaction_id: str = ""
    outcome: Outcome = UNKNOWN
    result: str = ""
    verdict: Verdict = "neutral"
    weight: int = 0
    """Of an idle step: 2 where it repeats a call with the same class of outcome, else 1."""
    part: float = 1.0
    """Of an idle step: how much it counts for."""
    again: bool = False
    """The same call was made before, with the same class of outcome."""
    known: str = ""
    """``same`` or ``echo``: the answer was given before, as ``Answers`` tells it."""
    cluster: int = 0
    """Steps that are near-duplicates of each other, with the same outcome, share it."""
    repeat: bool = False
    new: int = 0
    """Words of the result that the run had not seen ..."""
    size: int = 0
    """... out of so many."""
    said: frozenset[str] = frozenset()
    """Content words, of plain text."""
    age: int = 0
    """Calls of the same agent since it was asked for, while the result is out."""

    def evidence(self) -> Evidence:
        """The step as it is shown."""
        return Evidence(
            call=self.call,
            tool=self.tool,
            arguments=self.arguments.text,
            result=shown(self.result),
            outcome=self.outcome.shown,
            at=self.at,
            agent=self.agent,
            interaction_id=self.interaction_id,
        )


def shown(text: str) -> str:
    """The beginning of a text in one line."""
    return " ".join(text.split())[:MAX_TEXT]


class Result(msgspec.Struct, frozen=True):
    """What came back for one tool call. ``id`` is empty where the message names none."""

    id: str
    text: str
    error: bool = False


class _Wire(msgspec.Struct):
    content: str | list[Any] | None = None
    tool_call_id: str | None = None


_decode = msgspec.json.Decoder(_Wire).decode

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_ACTION = re.compile(r"^\s*(?:\*\*)?Action(?: \d+)?(?:\*\*)?:\s*(.+?)\s*$", re.MULTILINE)
_ACTION_INPUT = re.compile(
    r"^\s*(?:\*\*)?Action Input(?: \d+)?(?:\*\*)?:\s*(.+?)\s*(?=^\s*Observation|\Z)",
    re.MULTILINE | re.DOTALL,
)
_INVOCATION = re.compile(r"([A-Za-z_][\w.-]*)\s*[\[(](.*)[\])]\s*$", re.DOTALL)


def results(message: Message) -> list[Result]:
    """The tool results that a message carries, in its order."""
    try:
        wire = _decode(message.raw)
    except _UNREADABLE:
        return []
    content = wire.content
    if not isinstance(content, list):
        return [Result(wire.tool_call_id or "", (content or "")[:MAX_RESULT])]
    found = [
        Result(str(b.get("tool_use_id", "")), _text(b.get("content")), b.get("is_error") is True)
        for b in content
        if isinstance(b, dict) and b.get("type") == "tool_result"
    ]
    return found or [Result(wire.tool_call_id or "", _text(content))]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content[:MAX_RESULT]
    if not isinstance(content, list):
        return ""
    parts = [block.get("text") for block in content if isinstance(block, dict)]
    return "\n".join(part for part in parts if isinstance(part, str))[:MAX_RESULT]


def step_of(asked: ToolCall, **facts: Any) -> Step:
    """The step that a tool call begins; ``facts`` are its other fields."""
    given = arguments(asked.arguments)
    kind, listing = kind_of(asked.name, given.first)
    return Step(tool=asked.name[:200], arguments=given, kind=kind, listing=listing, **facts)


def told_action(text: str) -> ToolCall | None:
    """The action in a plain answer that calls tools by text (ReAct): ``Action: Search[x]``, or
    ``Action: search`` with an ``Action Input:`` under it."""
    if "Action" not in text:
        return None
    found = None
    for found in _ACTION.finditer(text):  # noqa: B007 - the last one counts
        pass
    if found is None:
        return None
    invocation = _INVOCATION.match(found[1])
    if invocation is not None:
        return ToolCall(id="", name=invocation[1], arguments=invocation[2])
    given = _ACTION_INPUT.search(text, found.end())
    name = found[1].strip('`*" ')
    if given is None and " " in name:
        # A sentence about an action: the first word is the tool, the rest what it is given.
        name, _, rest = name.partition(" ")
        return ToolCall(id="", name=name, arguments=rest)
    return ToolCall(id="", name=name, arguments=given[1] if given else "")


def said_step(text: str, said: frozenset[str], **facts: Any) -> Step:
    """The step that a plain answer is."""
    line = shown(text[: 4 * MAX_TEXT])
    # The canonical form of text is its content words: order and inflection do not count.
    key = hash(said) if len(said) > 2 else hash(line.lower())
    return Step(
        tool="",
        arguments=Arguments(key, key, line, line.lower(), (), ""),
        kind="talk",
        said=said,
        **facts,
    )


def plain_text(message: Message) -> str:
    """The text of a message, without tool calls and thinking."""
    return text_of(message.raw)[:MAX_RESULT]
