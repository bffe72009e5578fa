"""``/v1/conversations``: histories that Tocsin keeps for its callers, and adds responses to."""

from typing import Any

import msgspec

from tocsin.core.call import Principal
from tocsin.core.errors import BadRequest, CallError
from tocsin.core.ids import is_safe_id, new_id
from tocsin.core.wire.responses import (
    NewId,
    conversation_object,
    deleted,
    items_of,
    metadata_of,
    read_object,
)
from tocsin.responses.deps import Answer, Deps, Request, is_own, missing, off
from tocsin.responses.history import Item, resolved
from tocsin.store.operations_api import ConversationRow, ItemRow

MOST_AT_ONCE = 20
"""Most items that one request adds."""


async def create(deps: Deps, request: Request) -> Answer:
    """``POST /v1/conversations``: a new conversation, with its first items if there are any."""
    raw = read_object(request.body)
    metadata = metadata_of(raw)
    items = await items_in(deps, request, raw)
    check_ids(items)
    row = ConversationRow(
        id=new_id("conv", request.now),
        key_id=request.principal.key_id,
        feature=request.feature,
        created_at=request.now,
        metadata=metadata,
    )
    kept = await off(deps.store.operations.create_conversation, row, rows_of(items, request.now))
    if not kept:
        raise CallError(
            "The conversation's new id is taken; try again.",
            status=503,
            code="id_taken",
            retryable=True,
        )
    return Answer(body=object_of(row))


async def retrieve(deps: Deps, request: Request) -> Answer:
    """``GET /v1/conversations/{id}``."""
    return Answer(body=object_of(await own(deps, request.principal, request.parts[1])))


async def update(deps: Deps, request: Request) -> Answer:
    """``POST /v1/conversations/{id}``: other metadata in place of what it has."""
    raw = read_object(request.body)
    if "metadata" not in raw:
        raise BadRequest("metadata: is missing.", param="metadata")
    metadata = metadata_of(raw)
    row = await own(deps, request.principal, request.parts[1])
    if not await off(deps.store.operations.set_metadata, row.id, metadata):
        raise missing("Conversation", row.id)
    return Answer(body=object_of(msgspec.structs.replace(row, metadata=metadata)))


async def delete(deps: Deps, request: Request) -> Answer:
    """``DELETE /v1/conversations/{id}``: with its items. Responses that it had stay."""
    row = await own(deps, request.principal, request.parts[1])
    if not await off(deps.store.operations.delete_conversation, row.id):
        raise missing("Conversation", row.id)
    return Answer(body=deleted(row.id, "conversation"))


async def own(deps: Deps, principal: Principal, name: str) -> ConversationRow:
    """The caller's conversation of that id. Raises a 404 for nobody's and for another's alike."""
    row = await off(deps.store.operations.conversation, name)
    if row is None or not is_own(row.key_id, principal):
        raise missing("Conversation", name)
    return row


def object_of(row: ConversationRow) -> dict[str, Any]:
    """A conversation as clients see it."""
    return conversation_object(
        row.id, created_at=row.created_at // 1_000_000, metadata=row.metadata
    )


# -- items that come in --


async def items_in(deps: Deps, request: Request, raw: dict[str, Any]) -> list[Item]:
    """The ``items`` of a request in their full form, references resolved. Raises ``BadRequest``."""
    given = raw.get("items")
    if isinstance(given, str):
        raise BadRequest("items: must be a list of items.", param="items", code="invalid_type")
    if isinstance(given, list) and len(given) > MOST_AT_ONCE:
        raise BadRequest(
            f"items: has {len(given)} items; at most {MOST_AT_ONCE} can be added at a time.",
            param="items",
            code="array_above_max_length",
        )
    items = items_of(given, _ids(request.now), "items")
    return await resolved(deps, request.principal, items, ())


def _ids(now: int) -> NewId:
    return lambda prefix: new_id(prefix, now)


def check_ids(items: list[Item]) -> None:
    """Raises ``BadRequest`` for an id that cannot be one, or that comes twice."""
    seen: set[str] = set()
    for index, item in enumerate(items):
        name = item["id"]
        if not is_safe_id(name):
            raise BadRequest(
                f"items[{index}].id: must be 1 to 128 letters, digits, dots, dashes or "
                "underscores.",
                param=f"items[{index}].id",
            )
        if name in seen:
            raise twice(name, index)
        seen.add(name)


def twice(name: str, index: int) -> CallError:
    """The error for an item whose id the conversation has already."""
    return BadRequest(
        f"items[{index}].id: '{name}' is in the conversation already. Leave the id out to add the "
        "item again.",
        param=f"items[{index}].id",
        code="duplicate_item_id",
    )


def rows_of(items: list[Item], now: int) -> list[ItemRow]:
    """Items as the store keeps them; it numbers them itself."""
    return [
        ItemRow(id=item["id"], position=0, at=now, data=msgspec.json.encode(item)) for item in items
    ]


__all__ = [
    "MOST_AT_ONCE",
    "check_ids",
    "create",
    "delete",
    "items_in",
    "object_of",
    "own",
    "retrieve",
    "rows_of",
    "twice",
    "update",
]
