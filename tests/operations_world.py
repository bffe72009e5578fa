"""Operations, events and steps for tests of the store."""

from typing import Any

from store_world import HOUR, SECOND, START
from tocsin.core.operations import Event, Operation, Step
from tocsin.store.operations_api import Delivery, ItemRow, KeyRow


def operation(name: str = "op_1", **changes: Any) -> Operation:
    """An operation that waits for its turn."""
    facts: dict[str, Any] = {
        "id": name,
        "kind": "response",
        "feature": "support",
        "created_at": START,
    }
    return Operation(**facts | changes)


def event(
    number: int, data: bytes | None = None, kind: str = "response.output_text.delta"
) -> Event:
    """An event whose data says which one it is."""
    said = b'{"type":"%s","sequence_number":%d,"delta":"word "}' % (kind.encode(), number)
    return Event(number, kind, START + number, said if data is None else data)


def events(first: int, count: int) -> tuple[Event, ...]:
    """Consecutive events."""
    return tuple(event(number) for number in range(first, first + count))


def step(key: str = "step_1", **changes: Any) -> Step:
    """A step that has begun."""
    facts: dict[str, Any] = {
        "key": key,
        "scope": "op_1",
        "name": "charge",
        "effect": True,
        "state": "begun",
        "arguments": b'{"cents":100}',
        "begun_at": START,
        "owner": "alpha",
    }
    return Step(**facts | changes)


def key_row(key: str = "k1", **changes: Any) -> KeyRow:
    """A key whose request is under way."""
    facts: dict[str, Any] = {
        "principal": "key_a",
        "key": key,
        "request_hash": b"h" * 16,
        "state": "open",
        "owner": "alpha",
        "created_at": START,
        "expires_at": START + HOUR,
    }
    return KeyRow(**facts | changes)


def item(name: str, **changes: Any) -> ItemRow:
    """An item that says its own name."""
    facts: dict[str, Any] = {"id": name, "position": 0, "at": START, "data": name.encode()}
    return ItemRow(**facts | changes)


def delivery(name: str = "whd_1", **changes: Any) -> Delivery:
    """A message that is due."""
    facts: dict[str, Any] = {
        "id": name,
        "endpoint": "ours",
        "url": "https://example.com/hook",
        "type": "response.completed",
        "payload": b'{"type":"response.completed"}',
        "created_at": START,
        "next_at": START,
    }
    return Delivery(**facts | changes)


__all__ = ["SECOND", "delivery", "event", "events", "item", "key_row", "operation", "step"]
