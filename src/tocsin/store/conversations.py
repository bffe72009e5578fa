"""Conversations and their items as rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tocsin.core.errors import NotFound, StoreError
from tocsin.store import blobs
from tocsin.store.database import Database, Row, Session
from tocsin.store.operations_api import ConversationRow, ItemRow

MOST_ITEMS = 1 << 24
"""Ever added to one conversation."""

_decode_metadata = msgspec.json.Decoder(dict[str, str]).decode


def _conversation(row: Row) -> ConversationRow:
    return ConversationRow(
        id=row[1],
        key_id=row[2],
        feature=row[3],
        created_at=row[4],
        metadata=_decode_metadata(row[5]),
        items=row[6],
        held_by=row[7],
    )


def _metadata(metadata: Mapping[str, str]) -> str:
    cleaned = {blobs.clean(key): blobs.clean(value) for key, value in metadata.items()}
    return msgspec.json.encode(cleaned).decode()


def create(session: Session, row: ConversationRow, items: Sequence[ItemRow]) -> bool:
    """Keep a new one with its first items; ``False`` when its id is known."""
    made = session.one(
        "conversation_add",
        (
            blobs.clean(row.id),
            row.key_id,
            blobs.clean(row.feature),
            row.created_at,
            _metadata(row.metadata),
            0,
            row.held_by,
        ),
    )
    if made is None:
        return False
    _add(session, made[0], 0, items)
    return True


def one(session: Session, conversation_id: str) -> ConversationRow | None:
    """A conversation by its id."""
    row = session.one("conversation", (conversation_id,))
    return None if row is None else _conversation(row)


def set_metadata(session: Session, conversation_id: str, metadata: Mapping[str, str]) -> bool:
    """Replace all of it; ``False`` when there is no such conversation."""
    return session.run("conversation_set_metadata", (_metadata(metadata), conversation_id)) == 1


def delete(session: Session, conversation_id: str) -> bool:
    """With its items."""
    row = session.one("conversation", (conversation_id,))
    if row is None:
        return False
    session.run("conversation_delete_items", (row[0] * MOST_ITEMS, (row[0] + 1) * MOST_ITEMS))
    session.run("conversation_delete", (row[0],))
    return True


# -- retention --

_FOREVER = (1 << 63) - 1


def idle(session: Session, before: int, *, after: int = 0, limit: int) -> list[int]:
    """Numbers behind ``after`` of conversations to which nothing was added since ``before``, and
    of which no response is kept."""
    rows = session.all("conversations_idle", (after + 1, _FOREVER, before, before, limit))
    return [row[0] for row in rows]


def delete_idle(session: Session, numbers: Sequence[int], before: int, room: int) -> int:
    """Delete those of them that still are idle, with at most ``room`` items in all; how many of
    ``numbers`` are done with. One with more items is gone for its owner at once, and taken up
    again by the next call."""
    for done, number in enumerate(numbers):
        if not session.all("conversations_idle", (number, number, before, before, 1)):
            continue
        places = number * MOST_ITEMS, (number + 1) * MOST_ITEMS
        room -= session.run("conversation_delete_some", (*places, room))
        if room <= 0:
            # Half a history must not be found.
            session.run("conversation_bury", (f"deleted {number}", number))
            return done
        session.run("conversation_delete", (number,))
    return len(numbers)


# -- items --


def add_items(session: Session, conversation_id: str, items: Sequence[ItemRow]) -> bool:
    """At the end; one whose id the conversation has is not added again."""
    row = session.one("conversation", (conversation_id,))
    if row is None:
        return False
    _add(session, row[0], row[6], items)
    return True


def _add(session: Session, number: int, first: int, items: Sequence[ItemRow]) -> None:
    unique: dict[str, ItemRow] = {}
    for item in items:
        unique.setdefault(blobs.clean(item.id), item)
    known = {row[0] for row in session.listed("items_known", list(unique), (number,))}
    fresh = [(name, item) for name, item in unique.items() if name not in known]
    if not fresh:
        return
    if first + len(fresh) > MOST_ITEMS:
        raise StoreError(f"A conversation has at most {MOST_ITEMS} items.")
    flat: list[Any] = []
    for position, (name, item) in enumerate(fresh, first):
        flat += (number * MOST_ITEMS + position, number, name, item.at, item.operation_id)
        flat.append(blobs.stored(item.data))
    session.write_rows("items_add", flat)
    session.run("conversation_set_items", (first + len(fresh), number))


def _item(row: Row) -> ItemRow:
    return ItemRow(
        id=row[1],
        position=row[0] % MOST_ITEMS,
        at=row[2],
        operation_id=row[3],
        data=blobs.loaded(row[4]),
    )


def items(
    session: Session, conversation_id: str, *, after: str | None, descending: bool, limit: int
) -> list[ItemRow]:
    """A page; none of a conversation that is not there, unless ``after`` asks for an item."""
    row = session.one("conversation", (conversation_id,))
    start, end = -1, -1
    if row is not None:
        start, end = row[0] * MOST_ITEMS - 1, (row[0] + 1) * MOST_ITEMS
    if after is not None:
        found = None if row is None else session.one("item", (row[0], after))
        if found is None:
            raise NotFound(f"the conversation {conversation_id!r} has no item {after!r}")
        if descending:
            end = found[0]
        else:
            start = found[0]
    rows = session.all("items_down" if descending else "items_up", (start, end, limit))
    return [_item(one) for one in rows]


def item(session: Session, conversation_id: str, item_id: str) -> ItemRow | None:
    """One item by its id."""
    row = session.one("conversation", (conversation_id,))
    found = None if row is None else session.one("item", (row[0], item_id))
    return None if found is None else _item(found)


def delete_item(session: Session, conversation_id: str, item_id: str) -> bool:
    """``False`` when there is none."""
    row = session.one("conversation", (conversation_id,))
    return row is not None and session.run("item_delete", (row[0], item_id)) == 1


# -- whose turn it is --


def hold(database: Database, conversation_id: str, operation_id: str) -> bool:
    """Whether it is this operation's to work on. One that ended, or is not there, holds nothing."""
    with database.read() as session:
        if not _is_free(session, conversation_id, operation_id):
            return False
    with database.write() as session:
        if not _is_free(session, conversation_id, operation_id):
            return False
        return session.run("conversation_hold", (operation_id, conversation_id)) == 1


def _is_free(session: Session, conversation_id: str, operation_id: str) -> bool:
    row = session.one("conversation_holder", (conversation_id,))
    return row is not None and (row[0] is None or row[0] == operation_id or not row[1])
