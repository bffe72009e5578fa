"""Which run started which: what a run pays for its children needs."""

import asyncio
from collections import OrderedDict

from tocsin.core.call import Call
from tocsin.core.clock import Clock
from tocsin.core.errors import BadRequest, InputError
from tocsin.store.ledger_api import LedgerBook

MOST_ANCESTORS = 1000
FRESH_US = 2_000_000
"""How long "this run has no parent" is believed: another process may learn of one."""
_REMEMBERED = 50_000

_Known = tuple[tuple[str, ...], int]


class Runs:
    """Ancestors of runs, remembered; the store keeps them."""

    def __init__(self, book: LedgerBook, clock: Clock) -> None:
        self._book = book
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._above: set[str] = set()
        """Runs that are ancestors of one that is remembered."""

    def ancestors(self, run_id: str, parent: str | None, *, alone: bool) -> tuple[str, ...] | None:
        """Ancestors of a run, the nearest first, if they are known without asking. ``alone``: no
        other process could have learned of more."""
        known = self._known.get(run_id)
        if known is None:
            return None
        above, at = known
        if not above and parent is not None:
            return None
        return above if alone or abs(self._clock.now_us() - at) < FRESH_US else None

    async def ask(self, call: Call, run_id: str, parent: str | None) -> tuple[str, ...]:
        """Ancestors of a call's run, from the store, where a new parent is written down.

        Raises ``BadRequest`` when the parent that the call names cannot be one, ``StoreError``.
        """
        now = self._clock.now_us()
        try:
            above = await asyncio.to_thread(
                lambda: self._book.link(run_id, parent, now, most=MOST_ANCESTORS)
            )
        except InputError as error:
            message = str(error)
            raise BadRequest(
                f"tocsin-parent-run: {message}", param="tocsin-parent-run", code="bad_parent_run"
            ) from error
        if (above and run_id in self._above) or len(self._above) > _REMEMBERED:
            # It may be new that this run has a parent: what is remembered of its children is old.
            self._known.clear()
            self._above.clear()
        self._above.update(above)
        self._known[run_id] = (above, now)
        self._known.move_to_end(run_id)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return above
