"""What requests to chat and messages upstreams have in common: which items have words there."""

from collections.abc import Mapping
from typing import Any

from tocsin.core.errors import BadRequest
from tocsin.core.wire.responses.objects import compaction_summary

SUMMARY_INTRO = "Summary of the conversation so far:\n\n"
_SEALED = "tocsin-thinking-1."

_OWN_ANSWERS = frozenset(
    {
        "web_search_call",
        "file_search_call",
        "code_interpreter_call",
        "image_generation_call",
        "mcp_call",
        "mcp_list_tools",
        "reasoning",
    }
)
"""Items that another upstream made by itself and that no answer of a client belongs to."""


def is_silent(item: Mapping[str, Any]) -> bool:
    """Whether an item may be left out where there are no words for it."""
    return item.get("type") in _OWN_ANSWERS


def no_words(item: Mapping[str, Any], api: str) -> BadRequest:
    """The error for an item that an upstream of this ``api`` cannot be told."""
    kind = item.get("type")
    if kind == "item_reference":
        return BadRequest(f"input: the item {item.get('id')} is not known here.", param="input")
    return BadRequest(
        f"input: the upstream of this model speaks {api}, which has no words for an item of type "
        f"{kind}. Leave it out, or route the model to an upstream that speaks responses.",
        param="input",
        code="unsupported_item",
    )


def no_part(part: Mapping[str, Any], api: str, hint: str) -> BadRequest:
    """The error for a part of a message that an upstream of this ``api`` cannot be told."""
    return BadRequest(
        f"input: the upstream of this model speaks {api} and cannot take this "
        f"{part.get('type')}: {hint}.",
        param="input",
        code="unsupported_content",
    )


def no_tool(index: int, kind: Any, api: str) -> BadRequest:
    """The error for a tool that an upstream of this ``api`` does not have."""
    return BadRequest(
        f"tools[{index}].type: the upstream of this model speaks {api}, which has no tool of type "
        f"{kind}. Use function tools, or route the model to an upstream that speaks responses.",
        param=f"tools[{index}].type",
        code="unsupported_tool",
    )


def summary_of(item: Mapping[str, Any], api: str) -> str:
    """The words of a compaction item. Raises ``BadRequest`` for one that is sealed elsewhere."""
    summary = compaction_summary(item)
    if summary is None:
        raise no_words(item, api)
    return SUMMARY_INTRO + summary


def text_of_parts(content: Any) -> str:
    """The text of content, a string or a list of parts."""
    if isinstance(content, str):
        return content
    parts = [part.get("text") for part in content or () if isinstance(part, Mapping)]
    return "".join(part for part in parts if isinstance(part, str))


def seal(kind: str, data: str) -> str:
    """Anthropic's proof of a thought, as a reasoning item's encrypted content. ``kind``:
    ``signed`` or ``redacted``."""
    return f"{_SEALED}{kind}.{data}"


def unseal(item: Mapping[str, Any]) -> tuple[str, str] | None:
    """What ``seal`` put into an item: kind and data."""
    if not is_sealed(item):
        return None
    kind, _, data = item["encrypted_content"].removeprefix(_SEALED).partition(".")
    return kind, data


def is_sealed(item: Mapping[str, Any]) -> bool:
    """Whether a reasoning item's content was sealed by ``seal``."""
    content = item.get("encrypted_content")
    return isinstance(content, str) and content.startswith(_SEALED)
