"""Turns on a conversation: one response at a time works on it, in the order in which they came."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tocsin.core.errors import BadRequest, CallError
from tocsin.responses.deps import off
from tocsin.store.operations_api import OperationsBook

_LOOK_S = 0.1
"""How often is looked whether another process has let go of a conversation."""


class Turns:
    """Who works on which conversation. One per process; the store knows of the others."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: dict[str, int] = {}

    @asynccontextmanager
    async def turn(
        self, book: OperationsBook, conversation_id: str | None, operation_id: str, *, wait: bool
    ) -> AsyncIterator[None]:
        """Work on a conversation. Raises ``BadRequest`` (409) when it is in use and the caller
        will not ``wait``. Without a conversation nothing is waited for."""
        if conversation_id is None:
            yield
            return
        lock = self._locks.setdefault(conversation_id, asyncio.Lock())
        if not wait and lock.locked():
            raise locked(conversation_id)
        self._users[conversation_id] = self._users.get(conversation_id, 0) + 1
        try:
            # A lock wakes those who wait in the order in which they came.
            async with lock:
                while not await off(book.hold_conversation, conversation_id, operation_id):
                    if not wait:
                        raise locked(conversation_id)
                    await asyncio.sleep(_LOOK_S)
                try:
                    yield
                finally:
                    await asyncio.shield(off(book.let_go, conversation_id, operation_id))
        finally:
            self._users[conversation_id] -= 1
            if not self._users[conversation_id]:
                del self._users[conversation_id], self._locks[conversation_id]


def locked(conversation_id: str) -> CallError:
    """The error of a request on a conversation that another one works on."""
    return BadRequest(
        f"Another response is at work on the conversation '{conversation_id}'. Try again when it "
        'has ended, or set `operations.busy_conversation = "queue"`.',
        status=409,
        code="conversation_locked",
        param="conversation",
        retryable=True,
        retry_after_s=1.0,
    )
