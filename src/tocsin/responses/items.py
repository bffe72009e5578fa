"""``/v1/conversations/{id}/items``: what stands in a conversation, one item at a time.

``include`` is taken and adds nothing: items are shown whole, as they were kept.
"""

import msgspec

from tocsin.core.errors import BadRequest, NotFound
from tocsin.core.wire.responses import item_list, read_object
from tocsin.responses.conversations import check_ids, items_in, object_of, own, rows_of, twice
from tocsin.responses.deps import Answer, Deps, Request, missing, off, window_of


async def add(deps: Deps, request: Request) -> Answer:
    """``POST …/items``: up to 20 more items, at the end. Answers with those that were added."""
    row = await own(deps, request.principal, request.parts[1])
    raw = read_object(request.body)
    items = await items_in(deps, request, raw)
    if not items:
        raise BadRequest("items: is missing.", param="items")
    check_ids(items)
    book = deps.store.operations
    for index, (given, item) in enumerate(zip(raw["items"], items, strict=True)):
        if given.get("id") and await off(book.item, row.id, item["id"]) is not None:
            raise twice(item["id"], index)
    if not await off(book.add_items, row.id, rows_of(items, request.now)):
        raise missing("Conversation", row.id)
    return Answer(body=item_list(items, has_more=False))


async def listed(deps: Deps, request: Request) -> Answer:
    """``GET …/items``: a page of them, the newest first unless ``order`` says otherwise."""
    row = await own(deps, request.principal, request.parts[1])
    window = window_of(request)
    try:
        rows = await off(
            deps.store.operations.items,
            row.id,
            after=window.after,
            descending=window.descending,
            limit=window.limit + 1,
        )
    except NotFound:
        raise missing("Item", window.after or "", param="after") from None
    page = [msgspec.json.decode(found.data) for found in rows[: window.limit]]
    return Answer(body=item_list(page, has_more=len(rows) > window.limit))


async def retrieve(deps: Deps, request: Request) -> Answer:
    """``GET …/items/{item}``."""
    row = await own(deps, request.principal, request.parts[1])
    found = await off(deps.store.operations.item, row.id, request.parts[3])
    if found is None:
        raise missing("Item", request.parts[3])
    return Answer(body=found.data)


async def delete(deps: Deps, request: Request) -> Answer:
    """``DELETE …/items/{item}``. Answers with the conversation."""
    row = await own(deps, request.principal, request.parts[1])
    if not await off(deps.store.operations.delete_item, row.id, request.parts[3]):
        raise missing("Item", request.parts[3])
    return Answer(body=object_of(row))


__all__ = ["add", "delete", "listed", "retrieve"]
