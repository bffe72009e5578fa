"""What one process has of an account's bucket, and what it says of it to the store."""

import math
from collections.abc import Sequence

import msgspec

from tocsin.core.ledger import Amounts, Limit
from tocsin.ledger.diary import KEY, UNCERTAIN, Key, Manner
from tocsin.ledger.limits import account_id, caps_of
from tocsin.ledger.windows import Window
from tocsin.store.ledger_api import AccountRow, Answer, Ask, Caps, Lease, Standing

Four = tuple[int, int, int, int]
"""Amounts in the order of ``Amounts``."""

NONE: Four = (0, 0, 0, 0)
_UNITS = range(4)

Floors = tuple[tuple[int, float], ...]
UNKNOWN: Floors = ((0, math.inf),)
"""Floors that nothing is above: they are to be worked out first."""


class Pool:
    """What this process has of one bucket."""

    __slots__ = (
        "account",
        "answer",
        "caps",
        "dirty",
        "end",
        "estimated",
        "floors",
        "free",
        "held",
        "key",
        "known",
        "opened",
        "over",
        "packed",
        "posted",
        "said",
        "spent",
        "uncertain",
        "units",
        "used_at",
        "warned",
        "window",
    )

    def __init__(self, account: "Purse", window: Window) -> None:
        self.account = account
        self.window = window
        self.key: Key = (account.id, window.start)
        self.packed = KEY.pack(account.id, window.start)
        self.free = [0, 0, 0, 0]
        self.held = [0, 0, 0, 0]
        self.spent = [0, 0, 0, 0]
        """Settled and in no batch yet; ``uncertain`` and ``estimated`` are parts of it."""
        self.uncertain = [0, 0, 0, 0]
        self.estimated = [0, 0, 0, 0]
        self.posted = [0, 0, 0, 0]
        """In a batch since ``known`` was learned."""
        self.said: Four = NONE
        """What the store was last told to be held."""
        self.end = window.end
        """When it is filled no more; 0 once ``over`` is set."""
        self.over: int | None = None
        """Set when it is filled no more, whatever the clock says: no bucket before this is."""
        self.dirty = False
        """Whether the store does not know it as it is now."""
        self.opened = False
        """Whether the store has been asked about it."""
        self.known = Standing()
        """How the account stood in the store when it was last asked."""
        self.answer: Answer | None = None
        self.used_at = 0
        self.warned = 0.0
        self.floors: Floors = UNKNOWN
        """What of each unit has to stay free, else a closer look is due (``look``)."""
        self.limit(account.limit)

    def limit(self, limit: Limit) -> None:
        """Take over the limit as it is configured now."""
        self.caps: Caps = caps_of(limit)
        self.units = tuple([unit for unit in _UNITS if self.caps[unit] is not None])
        self.floors = UNKNOWN

    def close(self, latest: int) -> None:
        """Fill it no more: no bucket before ``latest`` is."""
        self.over, self.end = latest, 0

    def look(self) -> None:
        """Work out ``floors``.

        What is free, held, spent and posted adds up to the same until the store says something
        new, so what is free tells whether a fraction at which to warn may have been passed.
        """
        if not self.opened:
            return
        first = min(self.account.limit.warn_at, default=None)
        taken, extra = four(self.known.spent + self.known.held), four(self.known.extra)
        floors = []
        for unit in self.units:
            floor = -1
            if first is not None:
                room = first * ((self.caps[unit] or 0) + extra[unit]) - taken[unit]
                here = self.free[unit] + self.held[unit] + self.spent[unit] + self.posted[unit]
                floor = max(floor, math.floor(here - room))
            floors.append((unit, floor))
        self.floors = tuple(floors)

    def short_of(self, ask: Four) -> bool:
        """Whether less is free than is asked for."""
        if not self.opened:
            return True
        return any(self.free[unit] < ask[unit] for unit in self.units)

    def quiet(self, ask: Four) -> bool:
        """Whether no fraction at which to warn is passed when ``ask`` is held, too."""
        self.look()
        return all(self.free[unit] - ask[unit] > floor for unit, floor in self.floors)

    def passed(self, units: Sequence[int]) -> bool:
        """Whether a fraction at which to warn may have been passed by more use of ``units``."""
        for unit in self.units:
            if unit in units:
                return not self.quiet(NONE)
        return False

    def mark(self, used: Four, manner: Manner) -> None:
        """Of what is spent, ``used`` is uncertain or estimated."""
        marked = self.uncertain if manner == UNCERTAIN else self.estimated
        for unit, amount in enumerate(used):
            marked[unit] += amount

    def drop_free(self) -> None:
        """Give back what nobody holds."""
        self.free = [min(free, 0) for free in self.free]
        self.floors = UNKNOWN

    @property
    def empty(self) -> bool:
        """Whether nothing would be lost without it."""
        return not (any(self.held) or any(self.spent) or any(self.free))


class Purse:
    """One account as this process knows it: its names, and the bucket that it fills now."""

    __slots__ = ("floor", "id", "limit", "pool", "run_id", "value")

    def __init__(self, limit: Limit, value: str, run_id: str) -> None:
        self.id = account_id(limit.name, value, run_id)
        self.limit = limit
        self.value = value
        self.run_id = run_id
        self.pool: Pool | None = None
        self.floor = 0
        """The newest bucket that anybody is known to have filled: there is no way back."""

    def row(self, now: int) -> AccountRow:
        """The account as the store keeps it."""
        return AccountRow(
            id=self.id,
            limit_name=self.limit.name,
            scope=self.limit.scope,
            value=self.value,
            run_id=self.run_id,
            touched_at=now,
        )


class Need(msgspec.Struct):
    """What waits for one bucket."""

    total: list[int]
    least: list[int]
    """Of each unit, what the most modest call needs."""
    recall: bool = False
    """Whether a new recall has to be begun, and ``recalled``, the newest that was."""
    recalled: int = 0

    def add(self, ask: Sequence[int]) -> None:
        """One more call waits."""
        for unit, amount in enumerate(ask):
            self.total[unit] += amount
            self.least[unit] = min(self.least[unit], amount)


def used(pool: Pool, unit: int, less: Four = NONE) -> int:
    """What counts against an account, as far as this process knows: spent, or held by calls, but
    for ``less``."""
    held = max(four(pool.known.held)[unit], pool.held[unit] - less[unit])
    return four(pool.known.spent)[unit] + pool.posted[unit] + pool.spent[unit] + held


def ask_for(pool: Pool, need: Need, fraction: float) -> Ask:
    """What is asked of the store for a bucket."""
    wanting, least = [0, 0, 0, 0], [0, 0, 0, 0]
    for unit in pool.units:
        wanting[unit] = max(0, need.total[unit] - pool.free[unit])
        least[unit] = max(0, need.least[unit] - pool.free[unit])
    return Ask(
        account=pool.key[0],
        start=pool.key[1],
        since=pool.window.since,
        end=pool.window.end,
        need=Amounts(*wanting),
        least=Amounts(*least),
        caps=pool.caps,
        fraction=fraction,
        recall=need.recall,
        recalled=need.recalled,
    )


def lease_of(pool: Pool, answers: int) -> Lease:
    """A bucket's lease as it is now. What was overdrawn is in ``spent``; the lease covers what is
    held, so there is no debt to be remembered here."""
    for unit in _UNITS:
        if pool.free[unit] < 0 or unit not in pool.units:
            pool.free[unit] = 0
            pool.floors = UNKNOWN
    held = pool.held
    pool.said = (held[0], held[1], held[2], held[3])
    granted = [held + free for held, free in zip(pool.held, pool.free, strict=True)]
    return Lease(
        account=pool.key[0],
        start=pool.key[1],
        granted=Amounts(*granted),
        held=Amounts(*pool.held),
        answers=answers,
    )


def four(amounts: Amounts) -> Four:
    """Amounts as a plain tuple."""
    return amounts.nano_usd, amounts.tokens, amounts.calls, amounts.tool_calls
