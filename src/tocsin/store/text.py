"""Words to search by: the text inside stored messages, and a reader's query as plain words."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import msgspec

_MOST_CHARS = 200_000
_MOST_WORDS = 16
_PREFIX_FROM = 3
_DEPTH = 8
_WORD = re.compile(r"[^\W_]+")

# Where messages of either dialect keep what people and models wrote; image data is elsewhere.
_TEXT_KEYS = frozenset(
    {
        "arguments",
        "content",
        "function",
        "input",
        "name",
        "output",
        "refusal",
        "text",
        "tool_calls",
    }
)

_decode = msgspec.json.Decoder().decode


def text_of(raw: bytes) -> str:
    """All text of a message; empty when it is no JSON object."""
    try:
        value = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    if not isinstance(value, dict):
        return ""
    return "\n".join(_strings(value, 0)).replace("\0", " ")[:_MOST_CHARS]


def _strings(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth > _DEPTH:
        return
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, depth + 1)
    elif isinstance(value, dict):
        # What a tool was given is free in form; everywhere else only text keys hold text.
        inside = depth > 0 and "type" not in value and not (_TEXT_KEYS & value.keys())
        for key, item in value.items():
            if inside or key in _TEXT_KEYS:
                yield from _strings(item, depth + 1)


def words_of(query: str) -> list[str]:
    """The words of a query, at most 16; whatever else it holds is no syntax and is left out."""
    return _WORD.findall(unicodedata.normalize("NFC", query))[:_MOST_WORDS]


def is_prefix(words: list[str]) -> bool:
    """Whether the last word may be the beginning of a longer one."""
    return len(words[-1]) >= _PREFIX_FROM
