"""Stored messages → what a person reads: text, tool calls, results, images as words. Pure.

Content comes from models and from the web: nothing here trusts it. Text is cut to what a page can
carry, and what is left out is counted. Nothing is ever loaded from an address in a message.
"""

import re
from typing import Any, Literal

import msgspec

from tocsin.core.messages import Message
from tocsin.dashboard import fmt

Kind = Literal["text", "call", "result", "thinking", "image", "refusal", "other"]

PREVIEW_LINES = 14
PREVIEW = 1_200
"""Characters and lines that are shown before the fold; instructions fold after a fifth of it."""
SHOWN = 24_000
"""Characters of one part that a run's page carries; one call's page carries ``SHOWN_WHOLE``."""
SHOWN_WHOLE = 400_000
_SPARE_LINES, _SPARE = 4, 200
"""So much more is shown rather than folded."""
_INLINE = 88
"""A tool call up to this long stands on one line, as ``name(key: value)``."""
_BLANK = re.compile(r"\n[ \t]*(?:\n[ \t]*){2,}")


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of a message. ``head`` is shown, ``rest`` folded, ``omitted`` left out."""

    kind: Kind
    head: str
    rest: str = ""
    omitted: int = 0
    """Characters beyond what the page carries."""
    name: str = ""
    """A tool's name, or what an ``other`` part calls itself."""
    call_id: str = ""
    code: bool = False
    """Whether it is JSON or code, set in a fixed-width face."""
    key: str = ""
    """What it says, for finding repeats; empty for what is not worth marking."""
    same_as: int | None = None
    """The number of the step that said the same before."""

    @property
    def more(self) -> str:
        """The fold's words: how much is behind it."""
        return f"{len(self.rest) + self.omitted:,} more characters"


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One message as it is read."""

    role: str
    parts: tuple[Part, ...]


def read(message: Message, *, shown: int = SHOWN) -> Turn:
    """A stored message as parts. Never fails: what has no known shape is shown as its JSON."""
    try:
        wire = msgspec.json.decode(message.raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = message.raw.decode("utf-8", "replace")
        return Turn(role=message.role or "unknown", parts=(_part("other", text, shown),))
    if not isinstance(wire, dict):
        return Turn(role=message.role or "unknown", parts=(_json("other", wire, shown),))
    parts = _parts(wire, shown)
    role = wire.get("role")
    role = role if isinstance(role, str) and role else "unknown"
    if role in ("system", "developer"):
        parts = [_shorter(part) for part in parts]
    return Turn(role=role, parts=tuple(parts))


def _parts(wire: dict[str, Any], shown: int) -> list[Part]:
    parts: list[Part] = []
    answered = wire.get("tool_call_id")
    content = wire.get("content")
    if answered is not None:
        name = wire.get("name")
        named = name if isinstance(name, str) else ""
        parts.append(_result(_flat(content), str(answered), shown, named))
    elif isinstance(content, str):
        if content:
            parts.append(_part("text", content, shown))
    elif isinstance(content, list):
        parts += [_block(block, shown) for block in content]
    elif content is not None:
        parts.append(_json("other", content, shown))
    refusal = wire.get("refusal")
    if isinstance(refusal, str) and refusal:
        parts.append(_part("refusal", refusal, shown))
    for asked in wire.get("tool_calls") or () if isinstance(wire.get("tool_calls"), list) else ():
        parts.append(_tool_call(asked, shown))
    return parts


def _shorter(part: Part) -> Part:
    """Instructions are long and the same in every run: their beginning is enough at first."""
    head, rest = fold(part.head, PREVIEW_LINES // 4, PREVIEW // 5)
    if not rest:
        return part
    return msgspec.structs.replace(part, head=head, rest=f"{rest}\n{part.rest}".rstrip("\n"))


def _block(block: Any, shown: int) -> Part:
    """One content block of either dialect."""
    if not isinstance(block, dict):
        return _json("other", block, shown)
    kind = block.get("type")
    text = block.get("text")
    if kind in ("text", "input_text", "output_text") and isinstance(text, str):
        return _part("text", text, shown)
    if kind == "tool_use":
        name, call_id = str(block.get("name", "")), str(block.get("id", ""))
        return _call(name, block.get("input"), call_id, shown)
    if kind == "tool_result":
        failed = "error: " if block.get("is_error") else ""
        return _result(
            failed + _flat(block.get("content")), str(block.get("tool_use_id", "")), shown, ""
        )
    if kind in ("image", "image_url", "input_image"):
        return Part(kind="image", head=_image(block))
    if kind in ("thinking", "reasoning") and isinstance(block.get("thinking"), str):
        return _part("thinking", block["thinking"], shown)
    if kind == "refusal" and isinstance(block.get("refusal"), str):
        return _part("refusal", block["refusal"], shown)
    return _json("other", block, shown, name=fmt.one_line(str(kind or ""), 40))


def _image(block: dict[str, Any]) -> str:
    """What is known of an image without fetching it."""
    source = block.get("image_url") or block.get("source") or {}
    address = source.get("url") or source.get("data") if isinstance(source, dict) else source
    if not isinstance(address, str):
        return "image"
    media = source.get("media_type", "") if isinstance(source, dict) else ""
    if address.startswith("data:") or media:
        kind = media or address[5:].partition(";")[0]
        return f"image, {fmt.one_line(str(kind), 40)}, {fmt.size(len(address) * 3 // 4)}, not shown"
    return f"image at {fmt.one_line(address, 200)}, not loaded"


def _flat(content: Any) -> str:
    """A tool result's content as text."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if isinstance(content, list):
        texts = [
            b["text"] if isinstance(b, dict) and isinstance(b.get("text"), str) else _dump(b)
            for b in content
        ]
        return "\n".join(texts)
    return _dump(content)


def _tool_call(asked: Any, shown: int) -> Part:
    if not isinstance(asked, dict):
        return _json("other", asked, shown)
    function = asked.get("function")
    inner = function if isinstance(function, dict) else asked.get("custom") or {}
    if not isinstance(inner, dict):
        return _json("other", asked, shown)
    arguments = inner.get("arguments", inner.get("input"))
    return _call(str(inner.get("name", "")), arguments, str(asked.get("id", "")), shown)


def _call(name: str, arguments: Any, call_id: str, shown: int) -> Part:
    value = _loads(arguments) if isinstance(arguments, str) else arguments
    key = f"call:{name}:{_dump(value)}"
    name = fmt.one_line(name, 80)
    if isinstance(value, dict):
        inside = ", ".join(f"{k}: {_dump(v)}" for k, v in value.items())
        if len(inside) + len(name) <= _INLINE:
            line = fmt.visible(inside)
            return Part(kind="call", name=name, head=line, call_id=call_id, code=True, key=key)
    text = value if isinstance(value, str) else _pretty(value)
    part = _part("call", text, shown)
    return msgspec.structs.replace(part, name=name, call_id=call_id, code=True, key=key)


def _result(text: str, call_id: str, shown: int, name: str) -> Part:
    value = _loads(text)
    structured = not isinstance(value, str)
    part = _part("result", _pretty(value) if structured else text, shown)
    key = f"result:{text}" if len(text) >= 24 else ""
    label = fmt.one_line(name, 80)
    return msgspec.structs.replace(part, name=label, call_id=call_id, code=structured, key=key)


def _json(kind: Kind, value: Any, shown: int, name: str = "") -> Part:
    part = _part(kind, _pretty(value), shown)
    return msgspec.structs.replace(part, code=True, name=name)


def _part(kind: Kind, text: str, shown: int) -> Part:
    """Text cut into what is shown, what is folded and what is left out."""
    kept = _BLANK.sub("\n\n", fmt.visible(text[:shown])).strip("\n")
    head, rest = fold(kept)
    key = f"{kind}:{text}" if len(text) >= 24 and kind == "text" else ""
    return Part(kind=kind, head=head, rest=rest, omitted=max(0, len(text) - shown), key=key)


def fold(text: str, most_lines: int = PREVIEW_LINES, most: int = PREVIEW) -> tuple[str, str]:
    """Text as a preview and the rest, cut at a line's end where one is near."""
    lines = text.split("\n", most_lines + _SPARE_LINES)
    by_lines = sum(len(line) + 1 for line in lines[:most_lines])
    limit = min(most, by_lines)
    # A fold that hides only a few words is in the way.
    if len(text) <= limit + _SPARE and len(lines) <= most_lines + _SPARE_LINES:
        return text, ""
    cut = text.rfind("\n", limit // 2, limit)
    if cut < 0:
        cut = text.rfind(" ", limit // 2, limit)
    cut = cut if cut > 0 else limit
    return text[:cut], text[cut:].lstrip("\n")


def _loads(text: str) -> Any:
    """The JSON object or list in ``text``; the text itself when there is none."""
    if text[:1] not in "{[":
        return text
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return text


def _dump(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (UnicodeEncodeError, RecursionError, TypeError):
        return repr(value)


def _pretty(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    text = _dump(value)
    try:
        return msgspec.json.format(text, indent=2)
    except (msgspec.DecodeError, RecursionError):
        return text
