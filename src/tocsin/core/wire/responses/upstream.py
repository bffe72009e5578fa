"""``upstream_request``: a request with its history, in the words that its upstream speaks."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from tocsin.core.errors import BadRequest
from tocsin.core.wire.responses.objects import compaction_summary, unfolded
from tocsin.core.wire.responses.request import ResponseRequest
from tocsin.core.wire.responses.upstream_chat import chat_body
from tocsin.core.wire.responses.upstream_items import SUMMARY_INTRO, is_sealed, text_of_parts
from tocsin.core.wire.responses.upstream_messages import messages_body

_encode = msgspec.json.Encoder().encode

MAX_TOKENS = 4096
"""Tokens of an answer where the API needs a limit and the request has none."""

_KEPT_HERE = (
    "background",
    "background_options",
    "context_management",
    "conversation",
    "previous_response_id",
    "stream_options",
)
"""What Tocsin does itself, so that the upstream is not asked for it."""

_PREFIXES = {
    "web_search_call": "ws",
    "file_search_call": "fs",
    "code_interpreter_call": "ci",
    "image_generation_call": "ig",
    "computer_call": "cu",
    "local_shell_call": "lsh",
    "mcp_call": "mcp",
    "mcp_list_tools": "mcpl",
    "mcp_approval_request": "mcpr",
}
"""Items that must have an id, and how the API wants it to begin."""


def upstream_request(
    request: ResponseRequest,
    history: Sequence[dict[str, Any]],
    api: Literal["chat", "messages", "responses"],
    *,
    stream: bool,
    max_tokens: int = MAX_TOKENS,
    background: bool = False,
) -> tuple[str, bytes]:
    """The path and body that ask an upstream of this ``api`` for an answer.

    ``history`` is the items before the request's own. ``max_tokens`` is for ``messages``, which
    needs a limit, where the request states none; with ``background`` a ``responses`` upstream keeps
    the answer and works on it by itself. Raises ``BadRequest`` for what the API has no words for.
    """
    items = unfolded((*history, *request.items))
    if api == "chat":
        return "/v1/chat/completions", _encode(chat_body(request, items, stream=stream))
    if api == "messages":
        body = messages_body(request, items, stream=stream, max_tokens=max_tokens)
        return "/v1/messages", _encode(body)
    body = _responses_body(request, items, stream=stream, background=background)
    return "/v1/responses", _encode(body)


def _responses_body(
    request: ResponseRequest, items: Sequence[Mapping[str, Any]], *, stream: bool, background: bool
) -> dict[str, Any]:
    """The request as it came, with its whole history and nothing kept at the upstream."""
    body = {name: value for name, value in request.raw.items() if name not in _KEPT_HERE}
    body["model"] = request.model
    body["input"] = [item for entry in items if (item := _sendable(entry)) is not None]
    body["stream"] = stream
    body["store"] = background
    if background:
        body["background"] = True
    elif request.raw.get("reasoning"):
        # It comes back sealed, and has to be sent along with the next request.
        include = list(request.raw.get("include") or ())
        if "reasoning.encrypted_content" not in include:
            include.append("reasoning.encrypted_content")
        body["include"] = include
    return body


def _sendable(item: Mapping[str, Any]) -> dict[str, Any] | None:
    """An item without our id, which means nothing to the upstream, unless its type needs one;
    ``None`` for an item that the upstream cannot read."""
    kind = item.get("type")
    if kind == "item_reference":
        raise BadRequest(f"input: the item {item.get('id')} is not known here.", param="input")
    if kind == "compaction":
        summary = compaction_summary(item)
        if summary is not None:
            return {"type": "message", "role": "user", "content": SUMMARY_INTRO + summary}
    if kind == "reasoning" and (not item.get("encrypted_content") or is_sealed(item)):
        return None
    sent = {name: value for name, value in item.items() if name != "id"}
    if kind == "message" and item.get("role") == "assistant":
        # Parts of an answer need an id there; plain words do not.
        parts: Sequence[Mapping[str, Any]] = item.get("content") or ()
        if all(part.get("type") == "output_text" for part in parts):
            sent.pop("status", None)
            return {**sent, "content": text_of_parts(parts)}
        return dict(item)
    prefix = _PREFIXES.get(kind) if isinstance(kind, str) else None
    if prefix is not None:
        sent["id"] = f"{prefix}_{str(item.get('id')).partition('_')[2]}"
    return sent


__all__ = ["MAX_TOKENS", "upstream_request"]
