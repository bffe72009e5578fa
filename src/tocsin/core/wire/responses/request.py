"""``parse_response``: a request to ``/v1/responses``, checked, with its input as items."""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from tocsin.core.errors import BadRequest
from tocsin.core.ids import Prefix
from tocsin.core.wire.requests import MAX_DEPTH, exceeds_depth

NewId = Callable[[Prefix], str]
"""Makes a fresh id with this prefix."""

MAX_ITEMS = 100_000
METADATA_PAIRS, METADATA_KEY, METADATA_VALUE = 16, 64, 512

_ROLES = frozenset({"user", "assistant", "system", "developer"})
_FORMAT_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class ResponseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it was made. Fields that nobody here reads stay in ``raw``."""

    raw: dict[str, Any]
    """The whole JSON object, unknown fields included."""
    model: str = ""
    """Empty when the request names none."""
    items: tuple[dict[str, Any], ...] = ()
    """``input`` as items in their full form: ``type``, ``id``, lists of content parts."""
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation_id: str | None = None
    stream: bool = False
    background: bool = False
    store: bool = True
    metadata: dict[str, str] = {}
    truncation: str = "disabled"
    """``auto`` or ``disabled``."""
    max_output_tokens: int | None = None
    format: dict[str, Any] = msgspec.field(default_factory=lambda: {"type": "text"})
    """``text.format``."""
    schema: dict[str, Any] | None = None
    """The JSON schema that the text must keep to."""
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | dict[str, Any] = "auto"
    compact_threshold: int | None = None
    """Input tokens from which ``context_management`` asks for a compaction."""


def parse_response(body: bytes, new_id: NewId) -> ResponseRequest:
    """Read a request. Raises ``BadRequest``, which names the parameter at fault.

    A missing ``model`` or ``input`` is no error here: a stored prompt or the conversation may stand
    in for it, and whoever answers can say so.
    """
    return request_from(read_object(body), new_id)


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a body. Raises ``BadRequest`` when it is none; an empty body is ``{}``."""
    if not body.strip():
        return {}
    if exceeds_depth(body):
        raise BadRequest(
            f"The request body nests arrays and objects deeper than {MAX_DEPTH} levels.",
            code="too_deep",
        )
    try:
        return _decode(body)
    except msgspec.ValidationError:
        raise BadRequest("The request body must be a JSON object.", code="invalid_json") from None
    except _UNREADABLE as error:
        raise BadRequest(
            f"The request body is not valid JSON: {error}.", code="invalid_json"
        ) from None


def request_from(raw: dict[str, Any], new_id: NewId) -> ResponseRequest:
    """``parse_response`` of an object that is decoded already."""
    previous = _optional(raw, "previous_response_id", str)
    conversation = conversation_id(raw)
    if previous and conversation:
        raise BadRequest(
            "conversation: cannot be used together with previous_response_id; send one of them.",
            param="conversation",
            code="mutually_exclusive_parameters",
        )
    background = bool(_optional(raw, "background", bool))
    store = _optional(raw, "store", bool) is not False
    if background and not store:
        raise BadRequest(
            "background: needs store to be true, so that the answer can be fetched later.",
            param="background",
        )
    _check_numbers(raw)
    text_format = _text_format(raw)
    return ResponseRequest(
        raw=raw,
        model=_optional(raw, "model", str) or "",
        items=items_of(raw.get("input"), new_id),
        instructions=_optional(raw, "instructions", str),
        previous_response_id=previous or None,
        conversation_id=conversation,
        stream=bool(_optional(raw, "stream", bool)),
        background=background,
        store=store,
        metadata=metadata_of(raw),
        truncation=_truncation(raw),
        max_output_tokens=raw.get("max_output_tokens"),
        format=text_format,
        schema=text_format["schema"] if text_format["type"] == "json_schema" else None,
        tools=_tools(raw),
        tool_choice=_tool_choice(raw),
        compact_threshold=_threshold(raw),
    )


# -- fields --


def _optional(raw: dict[str, Any], name: str, kind: type) -> Any:
    """``raw[name]`` when it is a ``kind``; ``None`` when it is absent or null."""
    value = raw.get(name)
    if value is None or type(value) is kind:
        return value
    words = {str: "a string", bool: "true or false", dict: "an object", list: "a list"}
    raise BadRequest(f"{name}: must be {words[kind]}.", param=name, code="invalid_type")


def _check_numbers(raw: dict[str, Any]) -> None:
    for name, least, most, whole in (
        ("temperature", 0, 2, False),
        ("top_p", 0, 1, False),
        ("presence_penalty", -2, 2, False),
        ("frequency_penalty", -2, 2, False),
        ("top_logprobs", 0, 20, True),
        ("max_output_tokens", 1, None, True),
        ("max_tool_calls", 1, None, True),
    ):
        value = raw.get(name)
        if value is None:
            continue
        good = isinstance(value, int) if whole else isinstance(value, int | float)
        if not good or isinstance(value, bool):
            kind = "a whole number" if whole else "a number"
            raise BadRequest(f"{name}: must be {kind}.", param=name, code="invalid_type")
        if value < least or (most is not None and value > most):
            span = f"from {least} to {most}" if most is not None else f"{least} or more"
            raise BadRequest(f"{name}: must be {span}.", param=name, code="invalid_value")
    _optional(raw, "parallel_tool_calls", bool)
    _optional(raw, "reasoning", dict)


def conversation_id(raw: dict[str, Any]) -> str | None:
    """The id in ``conversation``, which is a string or an object. Raises ``BadRequest``."""
    value = raw.get("conversation")
    if isinstance(value, dict):
        value = value.get("id")
    elif value is None:
        return None
    if isinstance(value, str) and value:
        return value
    raise BadRequest(
        "conversation: must be the id of a conversation, or an object with it as id.",
        param="conversation",
    )


def metadata_of(raw: dict[str, Any]) -> dict[str, str]:
    """``metadata`` within the API's limits (16 pairs, 64 and 512 characters); raises
    ``BadRequest`` outside of them."""
    value = _optional(raw, "metadata", dict) or {}
    if len(value) > METADATA_PAIRS:
        raise BadRequest(
            f"metadata: has {len(value)} pairs; at most {METADATA_PAIRS} are kept.",
            param="metadata",
            code="metadata_too_many_properties",
        )
    for key, text in value.items():
        if len(key) > METADATA_KEY:
            raise BadRequest(
                f"metadata: a key is longer than {METADATA_KEY} characters.", param="metadata"
            )
        name = f"metadata.{key}"
        if not isinstance(text, str):
            raise BadRequest(f"{name}: must be a string.", param=name, code="invalid_type")
        if len(text) > METADATA_VALUE:
            raise BadRequest(
                f"{name}: is longer than {METADATA_VALUE} characters.",
                param=name,
                code="string_above_max_length",
            )
    return value


def _truncation(raw: dict[str, Any]) -> str:
    value = raw.get("truncation")
    if value is None:
        return "disabled"
    if value not in ("auto", "disabled"):
        raise BadRequest("truncation: must be auto or disabled.", param="truncation")
    return str(value)


def _text_format(raw: dict[str, Any]) -> dict[str, Any]:
    text = _optional(raw, "text", dict) or {}
    value = text.get("format")
    if value is None:
        return {"type": "text"}
    name = "text.format"
    kind = value.get("type") if isinstance(value, dict) else None
    if kind in ("text", "json_object"):
        return {"type": kind}
    if kind != "json_schema":
        raise BadRequest(
            f"{name}.type: must be text, json_object or json_schema.", param=f"{name}.type"
        )
    if not isinstance(value.get("schema"), dict):
        raise BadRequest(f"{name}.schema: must be a JSON schema.", param=f"{name}.schema")
    label = value.get("name")
    if not isinstance(label, str) or _FORMAT_NAME.match(label) is None:
        raise BadRequest(
            f"{name}.name: must be 1 to 64 letters, digits, dashes or underscores.",
            param=f"{name}.name",
        )
    return dict(value)


def _tools(raw: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    found = _optional(raw, "tools", list) or []
    for index, tool in enumerate(found):
        name = f"tools[{index}]"
        if not isinstance(tool, dict) or not isinstance(tool.get("type"), str):
            raise BadRequest(f"{name}.type: is missing.", param=f"{name}.type")
        if tool["type"] not in ("function", "custom"):
            continue
        if not isinstance(tool.get("name"), str) or not tool["name"]:
            raise BadRequest(f"{name}.name: is missing.", param=f"{name}.name")
        if not isinstance(tool.get("parameters"), dict | None):
            raise BadRequest(
                f"{name}.parameters: must be a JSON schema.", param=f"{name}.parameters"
            )
    return tuple(found)


def _tool_choice(raw: dict[str, Any]) -> str | dict[str, Any]:
    value = raw.get("tool_choice")
    if value is None:
        return "auto"
    if value in ("none", "auto", "required"):
        return str(value)
    if isinstance(value, dict) and isinstance(value.get("type"), str):
        return value
    raise BadRequest(
        "tool_choice: must be none, auto, required, or an object with a type.", param="tool_choice"
    )


def _threshold(raw: dict[str, Any]) -> int | None:
    for index, entry in enumerate(_optional(raw, "context_management", list) or []):
        name = f"context_management[{index}]"
        if not isinstance(entry, dict) or entry.get("type") != "compaction":
            raise BadRequest(f"{name}.type: must be compaction.", param=f"{name}.type")
        value = entry.get("compact_threshold")
        if value is None:
            continue
        if type(value) is not int or value < 1:
            raise BadRequest(
                f"{name}.compact_threshold: must be a number of tokens.",
                param=f"{name}.compact_threshold",
            )
        return value
    return None


# -- items --


def items_of(value: Any, new_id: NewId, field: str = "input") -> tuple[dict[str, Any], ...]:
    """``input`` as items in their full form. Raises ``BadRequest``, which names the item."""
    if value is None:
        return ()
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise BadRequest(f"{field}: must be a string or a list of items.", param=field)
    if len(value) > MAX_ITEMS:
        raise BadRequest(
            f"{field}: has {len(value)} items; at most {MAX_ITEMS} are taken.", param=field
        )
    return tuple(_item(entry, f"{field}[{index}]", new_id) for index, entry in enumerate(value))


def id_prefix(item_type: str) -> Prefix:
    """The prefix of the ids of items of this type."""
    if item_type == "message":
        return "msg"
    if item_type == "reasoning":
        return "rs"
    if item_type == "compaction":
        return "cmp"
    return "fc" if item_type.startswith("function_call") else "item"


def _item(entry: Any, name: str, new_id: NewId) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise BadRequest(f"{name}: must be an object.", param=name)
    kind = entry.get("type")
    if kind is None:
        kind = "message" if "role" in entry else "item_reference"
    if not isinstance(kind, str):
        raise BadRequest(f"{name}.type: must be a string.", param=f"{name}.type")
    item = {**entry, "type": kind}
    known = entry.get("id")
    if kind == "item_reference":
        if not isinstance(known, str) or not known:
            raise BadRequest(f"{name}.id: is missing.", param=f"{name}.id")
        return item
    if not isinstance(known, str) or not known:
        item["id"] = new_id(id_prefix(kind))
    if kind == "message":
        _message(item, name)
    elif kind in ("function_call", "custom_tool_call"):
        _need(item, name, "call_id", "name", "arguments" if kind == "function_call" else "input")
        _finished(item)
    elif kind in ("function_call_output", "custom_tool_call_output"):
        _need(item, name, "call_id")
        item["output"] = _output(item.get("output"), f"{name}.output")
        _finished(item)
    elif kind == "compaction":
        _need(item, name, "encrypted_content")
    elif kind == "reasoning" and not isinstance(item.get("summary"), list):
        item["summary"] = []
    return item


def _finished(item: dict[str, Any]) -> None:
    if item.get("status") not in ("in_progress", "completed", "incomplete"):
        item["status"] = "completed"


def _need(item: dict[str, Any], name: str, *fields: str) -> None:
    for field in fields:
        if not isinstance(item.get(field), str):
            raise BadRequest(f"{name}.{field}: must be a string.", param=f"{name}.{field}")


def _message(item: dict[str, Any], name: str) -> None:
    role = item.get("role")
    if role not in _ROLES:
        raise BadRequest(
            f"{name}.role: must be user, assistant, system or developer.", param=f"{name}.role"
        )
    plain = "output_text" if role == "assistant" else "input_text"
    item["content"] = _parts(item.get("content"), f"{name}.content", plain)
    _finished(item)


def _output(value: Any, name: str) -> str | list[dict[str, Any]]:
    return value if isinstance(value, str) else _parts(value, name, "input_text")


def _parts(value: Any, name: str, plain: str) -> list[dict[str, Any]]:
    """Content as a list of parts; text on its own becomes one part of type ``plain``."""
    if isinstance(value, str):
        value = [{"type": plain, "text": value}]
    if not isinstance(value, list):
        raise BadRequest(f"{name}: must be a string or a list of parts.", param=name)
    return [_part(part, f"{name}[{index}]", plain) for index, part in enumerate(value)]


def _part(part: Any, name: str, plain: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise BadRequest(f"{name}.type: is missing.", param=f"{name}.type")
    if kind in ("input_text", "output_text", "text"):
        if not isinstance(part.get("text"), str):
            raise BadRequest(f"{name}.text: must be a string.", param=f"{name}.text")
        kind = plain if plain == "output_text" or kind == "text" else kind
        lists: dict[str, Any] = {"annotations": [], "logprobs": []}
        return {**(lists if kind == "output_text" else {}), **part, "type": kind}
    if kind == "input_image":
        return {"detail": "auto", **part}
    return dict(part)
