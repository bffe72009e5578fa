"""What messages say of tools: whether a result is a failure, and what a run is about."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from tocsin.core.messages import Message

TITLE = 160
_FAILS = re.compile(
    r"\s*(?:error\b|exception\b|traceback \(most recent call last\)|fatal:|failed\b|"
    r"command failed|\[?error[:\]])",
    re.IGNORECASE,
)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_decode = msgspec.json.Decoder().decode


def failed_results(message: Message) -> frozenset[str]:
    """Ids of the tool calls whose results in this message say that they failed.

    A result failed when it is marked so (``is_error``), when its text begins as errors do, or when
    it is a JSON object with an ``error``, ``success: false`` or ``status: error``. A tool that
    tells its failures in other words counts as a success.
    """
    try:
        value = _decode(message.raw)
    except _UNREADABLE:
        return frozenset()
    if not isinstance(value, dict):
        return frozenset()
    content = value.get("content")
    if isinstance(value.get("tool_call_id"), str):
        failed = value.get("is_error") is True or _says_failure(content)
        return frozenset({value["tool_call_id"]}) if failed else frozenset()
    blocks = content if isinstance(content, list) else []
    return frozenset(
        str(block.get("tool_use_id"))
        for block in blocks
        if isinstance(block, dict)
        and block.get("type") == "tool_result"
        and (block.get("is_error") is True or _says_failure(block.get("content")))
    )


def _says_failure(content: Any) -> bool:
    text = text_of(content)
    if not text:
        return False
    if _FAILS.match(text):
        return True
    if text[:1] != "{" or len(text) > 100_000:
        return False
    try:
        value = _decode(text)
    except _UNREADABLE:
        return False
    if not isinstance(value, dict):
        return False
    return (
        bool(value.get("error"))
        or value.get("success") is False
        or (value.get("status") in ("error", "failed", "failure"))
    )


def text_of(content: Any) -> str:
    """The text of a message's content: itself, or its text blocks."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [block.get("text") for block in content if isinstance(block, dict)]
    return "\n".join(part for part in parts if isinstance(part, str))


def title_of(messages: Sequence[Message]) -> str:
    """The beginning of the first user message, on one line."""
    for message in messages:
        if message.role != "user" or message.answers:
            continue
        try:
            value = _decode(message.raw)
        except _UNREADABLE:
            continue
        text = " ".join(text_of(value.get("content"))[:2000].split()) if _is(value) else ""
        if text:
            return text if len(text) <= TITLE else text[: TITLE - 1] + "…"
    return ""


def _is(value: Any) -> bool:
    return isinstance(value, dict)
