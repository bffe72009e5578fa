"""The Responses API without I/O: requests, objects, and upstreams' answers as numbered events."""

from tocsin.core.wire.responses.events import EventWriter, Written, sse
from tocsin.core.wire.responses.joining import Mismatch
from tocsin.core.wire.responses.objects import (
    compaction_item,
    compaction_object,
    compaction_summary,
    conversation_object,
    deleted,
    input_tokens_object,
    item_list,
    skeleton,
    unfolded,
    usage_object,
)
from tocsin.core.wire.responses.request import (
    NewId,
    ResponseRequest,
    conversation_id,
    id_prefix,
    items_of,
    metadata_of,
    parse_response,
    read_object,
    request_from,
)
from tocsin.core.wire.responses.translate import Api, Translator
from tocsin.core.wire.responses.upstream import MAX_TOKENS, upstream_request

__all__ = [
    "MAX_TOKENS",
    "Api",
    "EventWriter",
    "Mismatch",
    "NewId",
    "ResponseRequest",
    "Translator",
    "Written",
    "compaction_item",
    "compaction_object",
    "compaction_summary",
    "conversation_id",
    "conversation_object",
    "deleted",
    "id_prefix",
    "input_tokens_object",
    "item_list",
    "items_of",
    "metadata_of",
    "parse_response",
    "read_object",
    "request_from",
    "skeleton",
    "sse",
    "unfolded",
    "upstream_request",
    "usage_object",
]
