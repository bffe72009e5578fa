"""What the official client's tests expect to find, put into a store: ids that they name.

They are written for a mock that knows every id. Here each one is made the way Tocsin makes it: a
real response, asked for once, is copied under the names that the tests use; conversations are rows
with items. ``Seeds.plant`` puts back whatever a test has deleted.
"""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import msgspec

from tocsin.config.model import StoreSettings
from tocsin.core.clock import SystemClock
from tocsin.core.operations import Event, Operation
from tocsin.store import open_store
from tocsin.store.operations_api import ConversationRow, ItemRow, Written

RESPONSES = (
    "resp_677efb5139a88190b512bc3fef8e535d",
    "response_id",
    "resp_123",
    "previous_response_id",
)
CONVERSATIONS = ("conv_123", "string")
ITEM = "msg_abc"


class Seeds:
    """The store of a running Tocsin, and the response that the seeded ones are copies of."""

    def __init__(self, data: Path, base_url: str) -> None:
        self._store = open_store(StoreSettings(), data, SystemClock())
        self._book = self._store.operations
        self._real = _answered(base_url)
        self._copied = self._copies()

    def close(self) -> None:
        """Let go of the store."""
        self._store.close()

    def plant(self) -> None:
        """Put back everything that is not there."""
        for name, (operation, body, result, events) in self._copied.items():
            if self._book.operation(name) is None:
                self._book.create(operation, body, events)
                changes: dict[str, Any] = {"status": "ended", "outcome": operation.outcome}
                changes |= {"started_at": operation.started_at, "ended_at": operation.ended_at}
                self._book.write([Written(operation_id=name, changes=changes, result=result)])
        now = time.time_ns() // 1000
        for name in CONVERSATIONS:
            if self._book.conversation(name) is None:
                row = ConversationRow(id=name, created_at=now, metadata={"seeded": "yes"})
                self._book.create_conversation(
                    row, [_item(ITEM if name == "conv_123" else "m", now)]
                )
        if self._book.item("conv_123", ITEM) is None:
            self._book.add_items("conv_123", [_item(ITEM, now)])

    def _copies(self) -> dict[str, tuple[Operation, bytes, bytes, tuple[Event, ...]]]:
        """The real response under each name that the tests use; only its id differs."""
        real = self._real
        operation = self._book.operation(real)
        body, result = self._book.body(real), self._book.result(real)
        assert operation is not None
        assert operation.status == "ended"
        assert body is not None
        assert result is not None
        events = self._book.events(real)
        found = {}
        for name in RESPONSES:
            new, old = name.encode(), real.encode()
            found[name] = (
                msgspec.structs.replace(operation, id=name, events=0),
                body.replace(old, new),
                result.replace(old, new),
                tuple(msgspec.structs.replace(e, data=e.data.replace(old, new)) for e in events),
            )
        return found


def _item(name: str, now: int) -> ItemRow:
    content = [{"type": "input_text", "text": "Hello."}]
    item = {"id": name, "type": "message", "role": "user", "status": "completed"}
    return ItemRow(
        id=name, position=0, at=now, data=json.dumps({**item, "content": content}).encode()
    )


def _answered(base_url: str) -> str:
    """The id of a response that has been asked for, and has ended."""
    asked = {"model": "gpt-4o-mini", "input": "Hello.", "stream": True}
    request = urllib.request.Request(
        f"{base_url}/responses",
        json.dumps(asked).encode(),
        {"content-type": "application/json", "authorization": "Bearer My API Key"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        events: list[Any] = [json.loads(line[6:]) for line in answer if line.startswith(b"data: {")]
    assert events[-1]["type"] == "response.completed", events[-1]
    return str(events[-1]["response"]["id"])
