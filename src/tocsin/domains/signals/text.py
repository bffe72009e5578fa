"""What was said in an entry: texts of its messages, bounded, whatever their shape."""

from collections.abc import Iterator
from typing import Any

from tocsin.core.interaction import Entry
from tocsin.core.messages import Message
from tocsin.core.refusals import refusal_said
from tocsin.core.schemas import loaded
from tocsin.core.wire import text_of

MAX_ANSWER = 65_536
"""Characters of an answer that are looked at: its first and last halves of that."""
MAX_REQUEST = 16_384
"""Characters of a request, or of all system messages, that are looked at."""
MAX_PARAMS = 4 * 1024 * 1024
"""Bytes of parameters that are read; larger ones say nothing."""

SYSTEM_ROLES = ("system", "developer")


def clipped(text: str, most: int) -> str:
    """``text``, or its two ends when it is longer than ``most`` characters."""
    if len(text) <= most:
        return text
    half = most // 2
    return text[:half] + "\n" + text[-half:]


def said(message: Message, most: int = MAX_REQUEST) -> str:
    """The text of a message, without tool calls, tool results and thinking."""
    return clipped(text_of(message.raw), most)


def answer_of(entry: Entry) -> str:
    """The text of the answer; empty without one."""
    return said(entry.output, MAX_ANSWER) if entry.output is not None else ""


def refusal_of(message: Message) -> str:
    """What OpenAI's ``refusal`` field or block says; empty without one."""
    return clipped(refusal_said(message.raw), MAX_REQUEST)


def asked_by(entry: Entry) -> str:
    """What the user said last."""
    return next(users_turns(entry), "")


def users_turns(entry: Entry) -> Iterator[str]:
    """What the user said, latest first; messages without text (tool results) are no turns."""
    for message in reversed(entry.input):
        if message.role == "user":
            text = said(message)
            if text and not text.isspace():
                yield text


def system_of(entry: Entry) -> str:
    """The system messages' text."""
    found = [said(m) for m in entry.input if m.role in SYSTEM_ROLES]
    return clipped("\n".join(found), MAX_REQUEST) if found else ""


def params_of(entry: Entry) -> dict[str, Any]:
    """The request without its messages; empty where it is not known."""
    wanted = entry.interaction.params
    if wanted is None:
        return {}
    for blob in entry.blobs:
        if blob.hash == wanted:
            if len(blob.data) > MAX_PARAMS:
                return {}
            value = loaded(blob.data)
            return value if isinstance(value, dict) else {}
    return {}
