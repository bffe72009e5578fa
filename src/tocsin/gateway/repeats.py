"""The same request twice: one generation, one bill.

A layer around the whole call, policies included: the first try must stay one call, one record and
one bill while its client leaves and comes back. A policy would be cancelled together with the call
that it is a part of, and what it denied would be recorded a second time.
"""

from collections.abc import Callable

from tocsin.config.model import Config
from tocsin.core.clock import Clock
from tocsin.core.errors import BadRequest, CallError
from tocsin.core.redact import Redactor
from tocsin.gateway.audience import Room
from tocsin.gateway.repeats_asked import COUNT, KEY, Answer, Asked, Rules, retry_count, rules_of
from tocsin.gateway.repeats_joins import Joins
from tocsin.gateway.repeats_keys import Keys
from tocsin.gateway.wire import AsgiWire, DirectWire, Wire
from tocsin.runtime.intake import feature_of
from tocsin.store.operations_api import OperationsBook

ROOM = 64 * 1024 * 1024
"""Bytes that all answers kept in memory may take together."""
LONGEST_KEY = 255
ENDS = (AsgiWire, DirectWire)
"""Wires that end at a client's connection."""


class Repeats:
    """Finds the call that a request repeats. ``owner`` names this process; it is alive to others
    while it beats in the same ``book``. ``grace_s``: how long ``stop`` waits. ``redactor`` takes
    secrets out of errors that are kept. For one event loop.
    """

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        clock: Clock,
        book: OperationsBook,
        owner: str,
        grace_s: float = 5.0,
        redactor: Callable[[], Redactor] = Redactor,
    ) -> None:
        self._grace_s = grace_s
        self._config = config
        self._read: tuple[Config, Rules] | None = None
        room = Room(ROOM)
        self._joins = Joins(self.rules, room)
        self._keys = Keys(self.rules, room, clock, book, owner, redactor)

    def rules(self) -> Rules:
        """What the settings say now."""
        config = self._config()
        read = self._read
        if read is None or read[0] is not config:
            read = self._read = config, rules_of(config)
        return read[1]

    async def serve(self, asked: Asked, wire: Wire, answer: Answer) -> None:
        """Answer a POST: by ``answer``, or as the request that it repeats was answered.

        Raises ``CallError`` for a repeat that cannot be answered so.
        """
        key = count = None
        for name, value in asked.headers:
            if name == COUNT:
                count = value
            elif name == KEY:
                key = value
        rules = self.rules()
        if key is not None:
            await self._keys.serve(asked, _checked(key), wire, answer)
            return
        if rules.required and _feature(asked) in rules.required:
            raise BadRequest(
                "This feature's requests need an Idempotency-Key header: a name that you make up "
                "for this one piece of work and send again with every repeat of it.",
                code="idempotency_key_required",
            )
        if count is None or not rules.retries or not isinstance(wire, ENDS):
            await answer(*asked, wire)
        else:
            tries = 0 if count == b"0" else retry_count(count)
            await self._joins.serve(asked, tries, wire, answer)

    def left(self, wire: Wire) -> bool:
        """The client behind ``wire`` is gone. Whether its call goes on all the same."""
        return isinstance(wire, ENDS) and self._joins.left(wire)

    async def stop(self) -> None:
        """Cut what goes on for nobody; calls that have a key get ``grace_s`` to end."""
        await self._joins.stop()
        await self._keys.stop(self._grace_s)


def _feature(asked: Asked) -> str | None:
    """``None`` where a request may not be made at all: then the call itself is refused."""
    try:
        return feature_of(asked.headers, asked.query, asked.principal)
    except CallError:
        return None


def _checked(key: bytes) -> str:
    if not 0 < len(key) <= LONGEST_KEY or not all(0x20 <= byte < 0x7F for byte in key):
        raise BadRequest(
            f"Idempotency-Key: 1 to {LONGEST_KEY} printable ASCII characters.",
            code="idempotency_key_malformed",
        )
    return key.decode("ascii")


__all__ = ["Answer", "Asked", "Repeats"]
