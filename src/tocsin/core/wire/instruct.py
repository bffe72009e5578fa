"""``with_instruction``: a message from Tocsin put before the model, in either dialect.

The message stands at the end of the history, so that what a provider has cached of it still
counts. What is not changed keeps its bytes.
"""

import msgspec

from tocsin.core.interaction import Dialect, Operation

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_SPACE = b" \t\r\n"


class _Role(msgspec.Struct):
    role: str = ""


_role = msgspec.json.Decoder(_Role).decode


def with_instruction(
    dialect: Dialect, operation: Operation, body: bytes, text: str, role: str = "system"
) -> bytes:
    """``body`` with ``text`` as the last thing that the model reads.

    OpenAI: a message (chat) or item (responses) of ``role`` at the end. Anthropic, which knows no
    such roles inside a history: a text block at the end of the last user message, behind its tool
    results, which have to come first. Any other operation, and a body that cannot be read or has
    no place for it, comes back as it is: the very same object.
    """
    if operation not in ("chat", "generate_content"):
        return body
    try:
        fields = _fields(body)
        if "messages" in fields:
            messages = bytes(fields["messages"])
            changed = (
                _to_last_user(messages, text)
                if dialect == "anthropic"
                else _appended(messages, _encode({"role": role, "content": text}))
            )
            return body if changed is None else _replaced(fields, "messages", changed)
        if dialect == "openai" and "input" in fields:
            changed = _to_input(bytes(fields["input"]), text, role)
            return body if changed is None else _replaced(fields, "input", changed)
    except _UNREADABLE:
        return body
    return body


def _replaced(fields: dict[str, msgspec.Raw], name: str, value: bytes) -> bytes:
    fields[name] = msgspec.Raw(value)
    return _encode(fields)


def _appended(items: bytes, item: bytes) -> bytes | None:
    """A JSON array's text with one more item; its own items are not looked at."""
    items = items.strip(_SPACE)
    if items[:1] != b"[":
        return None
    inside = items[:-1].rstrip(_SPACE)
    return inside + (b"" if inside == b"[" else b",") + item + b"]"


def _to_input(value: bytes, text: str, role: str) -> bytes | None:
    """``input`` of the responses API: a list of items, or the user's words alone."""
    item = _encode({"type": "message", "role": role, "content": text})
    value = value.strip(_SPACE)
    if value[:1] == b'"':
        return b'[{"type":"message","role":"user","content":' + value + b"}," + item + b"]"
    return _appended(value, item)


def _to_last_user(value: bytes, text: str) -> bytes | None:
    messages = _list(value)
    for index in range(len(messages) - 1, -1, -1):
        if _role(messages[index]).role == "user":
            message = _with_block(bytes(messages[index]), text)
            if message is None:
                return None
            messages[index] = msgspec.Raw(message)
            return _encode(messages)
    return None


def _with_block(raw: bytes, text: str) -> bytes | None:
    """A user message with one more text block; ``None`` when its content has no known shape."""
    fields = _fields(raw)
    content = bytes(fields.get("content", b"null")).strip(_SPACE)
    block = _encode({"type": "text", "text": text})
    if content == b'""':
        changed: bytes | None = b"[" + block + b"]"  # the API refuses an empty text block
    elif content[:1] == b'"':
        changed = b'[{"type":"text","text":' + content + b"}," + block + b"]"
    else:
        changed = _appended(content, block)
    return None if changed is None else _replaced(fields, "content", changed)
