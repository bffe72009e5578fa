"""Messages by content: canonical hashes, and the prefix chain that names a history.

Two messages are the same when a model would read the same: role, name, text, tool calls and tool
results. What clients add or drop when they send an answer back (``refusal: null``, annotations,
``cache_control``, thinking blocks) does not count. The hash is 16 bytes of BLAKE2b over that
canonical form.

A history is named by a Merkle chain: ``node(i) = H(node(i-1) + hash(i))``. A call whose messages
extend an earlier call's messages has that call's node among its own prefixes, so "which run does
this continue?" is a lookup, and a history that is sent again adds no rows.
"""

from hashlib import blake2b
from typing import Any

import msgspec

Hash = bytes
"""16 bytes of BLAKE2b."""

ROOT: Hash = bytes(16)
"""The node of the empty history."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message as it came on the wire, with its canonical hash."""

    role: str
    raw: bytes
    hash: Hash
    answers: tuple[str, ...] = ()
    """Ids of the tool calls whose results this message carries."""
    calls: tuple["ToolCall", ...] = ()
    """Tool calls that this message (an assistant's) asks for."""


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that the model asked for."""

    id: str
    name: str
    arguments: str
    """JSON text as the model wrote it; it may be invalid JSON."""


class Node(msgspec.Struct, frozen=True):
    """One link of a history: ``hash`` names the history that ends with message ``content``."""

    hash: Hash
    parent: Hash
    content: Hash


class _Function(msgspec.Struct):
    name: str = ""
    arguments: str = ""


class _Call(msgspec.Struct):
    id: str = ""
    function: _Function | None = None


class _Wire(msgspec.Struct):
    """The fields of either dialect that a model reads; the rest is skipped while decoding."""

    role: str = ""
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None


_decode_wire = msgspec.json.Decoder(_Wire).decode
_encode = msgspec.json.Encoder(order="sorted").encode

# Blocks that a client may drop or that only steer caching: not part of what the model is told.
# A tuple, not a set: a block's type may be anything, also what cannot be hashed.
_IGNORED_BLOCKS = ("thinking", "redacted_thinking")
_IGNORED_KEYS = frozenset({"cache_control", "citations", "annotations", "caller"})


def _plain(value: Any) -> Any:
    """A content block without the keys that do not change what it says."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if k not in _IGNORED_KEYS and v is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _content(content: str | list[dict[str, Any]] | None) -> Any:
    """Canonical content: bare text where there is nothing but one text block."""
    if content is None or isinstance(content, str):
        return content or ""
    blocks = [_plain(b) for b in content if b.get("type") not in _IGNORED_BLOCKS]
    if not blocks:
        return ""
    if len(blocks) == 1 and blocks[0].get("type") in ("text", "input_text", "output_text"):
        return blocks[0].get("text", "")
    return blocks


def _block_tools(content: Any) -> tuple[tuple[str, ...], tuple[ToolCall, ...]]:
    """Tool results answered and tool calls made by Anthropic content blocks."""
    if not isinstance(content, list):
        return (), ()
    answers = tuple(
        str(b.get("tool_use_id", "")) for b in content if b.get("type") == "tool_result"
    )
    calls = tuple(
        ToolCall(
            id=str(b.get("id", "")),
            name=str(b.get("name", "")),
            arguments=msgspec.json.encode(b.get("input")).decode(),
        )
        for b in content
        if b.get("type") == "tool_use"
    )
    return answers, calls


def content_hash(data: bytes) -> Hash:
    """The hash of content that is not a message (parameters, other bodies): of its bytes."""
    return blake2b(data, digest_size=16).digest()


def parse_message(raw: bytes) -> Message:
    """Read one message of either dialect; never fails on odd shapes, only on invalid JSON.

    Raises ``msgspec.DecodeError`` when ``raw`` is not JSON.
    """
    try:
        wire = _decode_wire(raw)
    except msgspec.ValidationError:
        return _odd_message(raw)
    calls = wire.tool_calls
    if calls is None and wire.tool_call_id is None and isinstance(wire.content, str):
        parts: list[Any] = (
            [wire.role, wire.content, wire.name]
            if wire.name
            else [
                wire.role,
                wire.content,
            ]
        )
        digest = blake2b(_encode(parts), digest_size=16).digest()
        return Message(role=wire.role, raw=bytes(raw), hash=digest)
    content = _content(wire.content)
    asked = tuple(
        ToolCall(id=c.id, name=c.function.name, arguments=c.function.arguments)
        for c in calls or ()
        if c.function is not None
    )
    answers, block_calls = _block_tools(content)
    if wire.tool_call_id:
        answers = (wire.tool_call_id, *answers)
    # A tool's name on its result is optional on the wire: the call id already says it.
    name = None if wire.tool_call_id else wire.name
    if not asked and not wire.tool_call_id:
        parts = [wire.role, content, name] if name else [wire.role, content]
    else:
        called = [[c.id, c.name, c.arguments] for c in asked]
        parts = [wire.role, content, name, called, wire.tool_call_id]
    return Message(
        role=wire.role,
        raw=bytes(raw),
        hash=blake2b(_encode(parts), digest_size=16).digest(),
        answers=answers,
        calls=asked + block_calls,
    )


def _odd_message(raw: bytes) -> Message:
    """A message of no shape that we know: hashed by its JSON value, whatever it is."""
    value = msgspec.json.decode(raw)
    role = value.get("role") if isinstance(value, dict) else None
    digest = blake2b(_encode(["?", value]), digest_size=16).digest()
    return Message(role=role if isinstance(role, str) else "", raw=bytes(raw), hash=digest)


def link(parent: Hash, message: Hash) -> Hash:
    """The node that a history gets when ``message`` is added to ``parent``."""
    return blake2b(parent + message, digest_size=16).digest()


def chain(messages: tuple[Message, ...], start: Hash = ROOT) -> tuple[Node, ...]:
    """The nodes of a history, one for each message, shortest prefix first."""
    nodes = []
    for message in messages:
        node = Node(link(start, message.hash), start, message.hash)
        nodes.append(node)
        start = node.hash
    return tuple(nodes)
