"""``parse_request``: what Tocsin needs to know of a request's body, decoded once."""

import re
from typing import Any

import msgspec

from tocsin.core.errors import BadRequest
from tocsin.core.interaction import Dialect, Operation
from tocsin.core.messages import Message, parse_message
from tocsin.core.wire.items import to_messages

MAX_MESSAGES = 100_000
MAX_DEPTH = 128
"""Levels of arrays and objects inside each other."""

_ANSWERING: frozenset[Operation] = frozenset({"chat", "generate_content", "text_completion"})
_READABLE: frozenset[Operation] = _ANSWERING | {"embeddings", "count_tokens"}

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_string = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode

_NOT_BRACKETS = bytes(set(range(256)) - set(b'[]{}"'))
_STRINGS = re.compile(rb'"[^"]*"')
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class ParsedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request's body, read. Fields that the body lacks have their defaults.

    ``params`` is the body's JSON object without what is in ``messages``; empty when the body is
    no JSON object. ``response_ref`` is ``previous_response_id``, ``conversation_ref`` the id of
    ``conversation``; ``metadata`` holds the caller's own labels that are text.
    """

    model: str = ""
    stream: bool = False
    max_output_tokens: int | None = None
    messages: tuple[Message, ...] = ()
    params: bytes = b""
    end_user: str | None = None
    response_ref: str | None = None
    conversation_ref: str | None = None
    metadata: dict[str, str] = {}


_NOTHING = ParsedRequest()


def parse_request(dialect: Dialect, operation: Operation, body: bytes) -> ParsedRequest:
    """Read a request's body.

    Raises ``BadRequest``, which names the field at fault, for the operations that Tocsin reads
    (chat, completions, embeddings, token counts). For any other operation a body that is no JSON
    object is simply not read.
    """
    if operation not in _READABLE:
        return _parse_other(body)
    if exceeds_depth(body):
        raise BadRequest(
            f"The request body nests arrays and objects deeper than {MAX_DEPTH} levels.",
            code="too_deep",
        )
    try:
        fields = _fields(body)
    except _UNREADABLE as error:
        raise _no_object(body, error) from None
    return _read(dialect, operation, fields)


def _read(dialect: Dialect, operation: Operation, fields: dict[str, msgspec.Raw]) -> ParsedRequest:
    model = _text(fields, "model") or ""
    messages: tuple[Message, ...] = ()
    raw = fields.pop("messages", None)
    if raw is not None:
        messages = _messages(raw)
    elif operation != "embeddings":
        messages = _other_input(operation, fields)
    if dialect == "anthropic":
        system = fields.pop("system", None)
        if system is not None:
            pseudo = b'{"role":"system","content":' + bytes(system) + b"}"
            messages = (_message(pseudo, 0, "system"), *messages)
    return ParsedRequest(
        model=model,
        stream=_flag(fields, "stream"),
        max_output_tokens=_limit(fields),
        messages=messages,
        params=_encode(fields),
        end_user=_end_user(dialect, fields),
        response_ref=_text(fields, "previous_response_id")
        if "previous_response_id" in fields
        else None,
        conversation_ref=_conversation(fields) if "conversation" in fields else None,
        metadata=_metadata(fields) if "metadata" in fields else {},
    )


def with_model(body: bytes, model: str) -> bytes:
    """``body`` (a JSON object) with another model; every other value keeps its bytes.

    Returns ``body`` unchanged when it is no JSON object.
    """
    try:
        fields: dict[str, Any] = dict(_fields(body))
    except _UNREADABLE:
        return body
    fields["model"] = model
    return _encode(fields)


def exceeds_depth(body: bytes, limit: int = MAX_DEPTH) -> bool:
    """Whether JSON text nests arrays and objects deeper than ``limit`` levels.

    Works on the bytes, so that no decoder has to survive what it is asked to refuse. Text that is
    no JSON gives some answer, never an error.
    """
    if body.count(b"{") + body.count(b"[") <= limit:
        return False
    plain = body
    if b"\\" in body:
        plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = _STRINGS.sub(b"", plain.translate(None, _NOT_BRACKETS))
    for _ in range(limit):
        if b"[]" not in brackets and b"{}" not in brackets:
            return brackets.count(b"{") + brackets.count(b"[") > limit
        brackets = brackets.replace(b"[]", b".").replace(b"{}", b".").replace(b".", b"")
    return bool(brackets)


def _messages(raw: msgspec.Raw) -> tuple[Message, ...]:
    try:
        items = _list(raw)
    except _UNREADABLE:
        raise BadRequest("messages: must be a list of messages.", param="messages") from None
    if len(items) > MAX_MESSAGES:
        raise BadRequest(
            f"messages: has {len(items)} entries; at most {MAX_MESSAGES} are taken.",
            param="messages",
            code="too_many_messages",
        )
    return tuple([_message(item, index) for index, item in enumerate(items)])


def _message(item: msgspec.Raw | bytes, index: int, field: str = "messages") -> Message:
    try:
        message = parse_message(item if isinstance(item, bytes) else bytes(item))
    except _UNREADABLE as error:
        name = f"{field}[{index}]"
        raise BadRequest(f"{name}: cannot be read: {error}.", param=name) from None
    if not message.role:
        name = f"{field}[{index}].role"
        raise BadRequest(f"{name}: every message needs a role, as text.", param=name)
    return message


def _other_input(operation: Operation, fields: dict[str, msgspec.Raw]) -> tuple[Message, ...]:
    """Messages of ``/v1/responses`` (``instructions``, ``input``) and completions (``prompt``)."""
    if operation == "text_completion":
        return _prompt(fields.pop("prompt", None))
    if "input" not in fields:
        if "prompt" in fields or "previous_response_id" in fields or "conversation" in fields:
            return ()
        raise BadRequest("messages: this field is required.", param="messages")
    try:
        value = msgspec.json.decode(fields.pop("input"))
    except _UNREADABLE as error:
        raise BadRequest(f"input: cannot be read: {error}.", param="input") from None
    if isinstance(value, str):
        wire = [_encode({"role": "user", "content": value})]
    elif isinstance(value, list):
        if len(value) > MAX_MESSAGES:
            raise BadRequest(
                f"input: has {len(value)} items; at most {MAX_MESSAGES} are taken.", param="input"
            )
        wire = to_messages(value)
    else:
        raise BadRequest("input: must be text or a list of items.", param="input")
    instructions = _optional_text(fields, "instructions")
    if instructions:
        fields.pop("instructions")
        wire.insert(0, _encode({"role": "system", "content": instructions}))
    return tuple(_message(item, index, "input") for index, item in enumerate(wire))


def _prompt(raw: msgspec.Raw | None) -> tuple[Message, ...]:
    """A completion's prompt as one user message; several prompts are content parts of it."""
    if raw is None:
        raise BadRequest("prompt: this field is required.", param="prompt")
    try:
        value = msgspec.json.decode(raw)
    except _UNREADABLE as error:
        raise BadRequest(f"prompt: cannot be read: {error}.", param="prompt") from None
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        content: Any = [{"type": "text", "text": part} for part in value]
    elif isinstance(value, str):
        content = value
    else:
        content = [{"type": "tokens", "tokens": value}]
    return (parse_message(_encode({"role": "user", "content": content})),)


def _parse_other(body: bytes) -> ParsedRequest:
    """Best effort for routes that pass through: a JSON object's usual fields, or nothing."""
    if not body[:64].lstrip().startswith(b"{") or exceeds_depth(body):
        return _NOTHING
    try:
        fields = _fields(body)
    except _UNREADABLE:
        return _NOTHING
    return ParsedRequest(
        model=_optional_text(fields, "model") or "",
        stream=bytes(fields.get("stream", b"")) == b"true",
        params=_encode(fields),
        end_user=_optional_text(fields, "user"),
    )


def _text(fields: dict[str, msgspec.Raw], name: str) -> str | None:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return _string(raw)
    except _UNREADABLE:
        if bytes(raw) == b"null":
            return None
        raise BadRequest(f"{name}: must be text.", param=name) from None


def _optional_text(fields: dict[str, msgspec.Raw], name: str) -> str | None:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return _string(raw)
    except _UNREADABLE:
        return None


def _flag(fields: dict[str, msgspec.Raw], name: str) -> bool:
    raw = fields.get(name)
    if raw is None:
        return False
    value = bytes(raw)
    if value == b"true":
        return True
    if value in (b"false", b"null"):
        return False
    raise BadRequest(f"{name}: must be true or false.", param=name)


def _limit(fields: dict[str, msgspec.Raw]) -> int | None:
    """The most tokens that the answer may have, under any of its three names."""
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        raw = fields.get(name)
        if raw is not None:
            text = bytes(raw)
            if text.isdigit():
                return int(text[:18])
            if text != b"null":
                raise BadRequest(f"{name}: must be a whole number.", param=name)
    return None


def _end_user(dialect: Dialect, fields: dict[str, msgspec.Raw]) -> str | None:
    """Whom the call serves: ``user`` or ``safety_identifier``, Anthropic's ``metadata.user_id``."""
    if dialect == "anthropic":
        found = _metadata(fields).get("user_id") if "metadata" in fields else None
    else:
        found = _optional_text(fields, "user") or _optional_text(fields, "safety_identifier")
    return found[:512] if found else None


def _conversation(fields: dict[str, msgspec.Raw]) -> str | None:
    try:
        value = msgspec.json.decode(fields["conversation"])
    except _UNREADABLE:
        return None
    if isinstance(value, dict):
        value = value.get("id")
    return value if isinstance(value, str) else None


def _metadata(fields: dict[str, msgspec.Raw]) -> dict[str, str]:
    try:
        value = msgspec.json.decode(fields["metadata"])
    except _UNREADABLE:
        return {}
    if not isinstance(value, dict):
        return {}
    return {key: text for key, text in value.items() if isinstance(text, str)}


def _no_object(body: bytes, error: Exception) -> BadRequest:
    if not body.strip():
        return BadRequest("The request has no body; send a JSON object.", code="empty_body")
    if isinstance(error, msgspec.ValidationError):
        return BadRequest("The request body must be a JSON object.", code="invalid_json")
    return BadRequest(f"The request body is not valid JSON: {error}.", code="invalid_json")
