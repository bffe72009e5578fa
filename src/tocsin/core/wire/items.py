"""Items of OpenAI's responses API as chat messages, so that one history has one form.

An assistant's turn is several items there (text, one item for each function call). They become one
chat message, in requests as in answers, so that an answer that is sent back has the same hash.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode

_UNSAID = frozenset({"reasoning", "item_reference"})
"""Items that tell a model nothing that the history does not say, or that only point elsewhere."""


def to_messages(items: Iterable[Any]) -> list[bytes]:
    """Chat messages, as JSON, that say what ``items`` say; consecutive assistant items are one."""
    messages: list[dict[str, Any]] = []
    turn: dict[str, Any] | None = None
    for item in items:
        if not isinstance(item, dict) or item.get("type") in _UNSAID:
            continue
        if _is_assistants(item):
            if turn is None:
                turn = {"role": "assistant", "content": None}
                messages.append(turn)
            _add(turn, item)
            continue
        turn = None
        messages.append(_other(item))
    return [_encode(message) for message in messages]


def merge_output(items: Iterable[Any]) -> bytes | None:
    """The one assistant message that an answer's items make; ``None`` when they say nothing."""
    turn: dict[str, Any] = {"role": "assistant", "content": None}
    seen = False
    for item in items:
        if isinstance(item, dict) and item.get("type") not in _UNSAID:
            seen = True
            _add(turn, item)
    return _encode(turn) if seen else None


def _is_assistants(item: dict[str, Any]) -> bool:
    kind = item.get("type", "message")
    if kind == "message":
        return item.get("role") == "assistant"
    return isinstance(kind, str) and kind.endswith("_call")


def _add(turn: dict[str, Any], item: dict[str, Any]) -> None:
    """Add one of the assistant's items to its message."""
    kind = item.get("type", "message")
    if kind == "function_call":
        function = {"name": item.get("name", ""), "arguments": item.get("arguments", "")}
        call = {"id": item.get("call_id", ""), "type": "function", "function": function}
        turn.setdefault("tool_calls", []).append(call)
        return
    if kind == "message":
        content = item.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        added = [_text(block) for block in blocks or ()]
    else:
        added = [{k: v for k, v in item.items() if k != "status"}]
    have = turn["content"]
    blocks = [{"type": "text", "text": have}] if isinstance(have, str) else list(have or ())
    blocks += added
    alone = len(blocks) == 1 and isinstance(blocks[0], dict) and blocks[0].get("type") == "text"
    turn["content"] = blocks[0].get("text", "") if alone else blocks


def _text(block: Any) -> Any:
    """A text part as chat writes it, without annotations and log probabilities."""
    if isinstance(block, dict) and block.get("type") in ("output_text", "input_text", "text"):
        return {"type": "text", "text": block.get("text", "")}
    return block


def _other(item: dict[str, Any]) -> dict[str, Any]:
    kind = item.get("type", "message")
    if kind == "function_call_output":
        output = item.get("output")
        content = output if isinstance(output, str | list) or output is None else _encode(output)
        return {"role": "tool", "tool_call_id": item.get("call_id", ""), "content": content}
    if kind == "message":
        content = item.get("content")
        blocks = [_text(b) for b in content] if isinstance(content, list) else content
        return {"role": item.get("role", ""), "content": blocks}
    return {"role": str(item.get("role") or "tool"), "content": [item]}
