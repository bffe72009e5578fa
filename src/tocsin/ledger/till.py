"""``Till``: the accounts of one process in memory. Arithmetic and a journal; no store, no waiting.

Of each bucket a process has a lease: what calls *hold*, and what is *free*. A reservation moves
from free to held, a settlement takes what was held and gives back what was not spent. Whatever is
said to the store goes through ``turn`` and comes back through ``turned`` or ``failed``.
"""

from collections.abc import Collection, Container, Iterable, Mapping, Sequence

import msgspec

from tocsin.core.ledger import Amounts, Limit
from tocsin.ledger.diary import ESTIMATED, KEY, UNCERTAIN, Diary, Key, Manner, Open, Snapshot
from tocsin.ledger.limits import account_id, caps_of
from tocsin.ledger.windows import Window, window_at
from tocsin.store.ledger_api import (
    AccountRow,
    Answer,
    Ask,
    Batch,
    Caps,
    Lease,
    Posting,
    Standing,
    Turn,
    Turned,
)

Four = tuple[int, int, int, int]
"""Amounts in the order of ``Amounts``."""

NONE: Four = (0, 0, 0, 0)
_UNITS = range(4)
IDLE_US = 5_000_000
"""A lease that nobody used for this long goes back."""
_FORGET_US = 60_000_000


class Pool:
    """What this process has of one bucket."""

    __slots__ = (
        "account",
        "answer",
        "caps",
        "estimated",
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
        self.over: int | None = None
        """Set when it is filled no more, whatever the clock says: no bucket before this is."""
        self.opened = False
        """Whether the store has been asked about it."""
        self.known = Standing()
        """How the account stood in the store when it was last asked."""
        self.answer: Answer | None = None
        self.used_at = 0
        self.warned = 0.0
        self.limit(account.limit)

    def limit(self, limit: Limit) -> None:
        """Take over the limit as it is configured now."""
        self.caps: Caps = caps_of(limit)
        self.units = tuple([unit for unit in _UNITS if self.caps[unit] is not None])

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
            value=self.value,
            run_id=self.run_id,
            touched_at=now,
        )


class _Reservation(msgspec.Struct, frozen=True):
    amounts: Four
    pools: tuple[Pool, ...]


class Till:
    """The accounts of one process. Use from one thread."""

    def __init__(self, diary: Diary, home: str) -> None:
        self._diary = diary
        self._home = home
        self.holder = diary.holder
        self._purses: dict[tuple[str, str, str], Purse] = {}
        self._pools: dict[Key, Pool] = {}
        self._dirty: dict[Key, Pool] = {}
        """What the store does not know as it is now."""
        self._sparing: set[Key] = set()
        """Accounts that are nearly empty: what is not needed of them goes back at once."""
        self._open: dict[int, _Reservation] = {}
        self._batches: list[Batch] = []
        self._number = 0
        self._order = 0
        self._cut = 0
        self._confirmed = 0
        self.company = False
        """Whether other holders were alive when the store was last asked."""
        self._begin()

    # -- accounts --

    def purse(self, limit: Limit, value: str, run_id: str) -> Purse:
        """The account of a limit for a value (and run)."""
        key = (limit.name, value, run_id)
        found = self._purses.get(key)
        if found is None:
            found = self._purses[key] = Purse(limit, value, run_id)
        return found

    def pool(self, purse: Purse, now: int) -> Pool:
        """The bucket that an account fills now. Time never takes it back to an older one."""
        pool = purse.pool
        if pool is not None:
            if pool.over is None and now < pool.window.end:
                return pool
            purse.floor = max(purse.floor, pool.window.end if pool.over is None else pool.over)
            self._drop_free(pool)
        window = window_at(purse.limit, max(now, purse.floor))
        pool = self._pools.get((purse.id, window.start))
        if pool is None:
            pool = self._pools[purse.id, window.start] = Pool(purse, window)
        purse.pool = pool
        return pool

    def configure(self, limits: Iterable[Limit]) -> None:
        """Take over changed limits: leases that the old ones gave go back."""
        by_name = {limit.name: limit for limit in limits}
        self._purses = {}
        for pool in self._pools.values():
            limit = by_name.get(pool.account.limit.name)
            self._drop_free(pool)
            pool.opened = False
            if limit is not None:
                pool.account.limit = limit
                pool.limit(limit)

    # -- calls --

    def reserve(self, purses: Sequence[Purse], ask: Four, now: int) -> int | list[Pool]:
        """Hold ``ask`` in every account: the number of the reservation, or where it falls short.

        Raises ``OSError`` when the journal has no room; then nothing is held.
        """
        pools = []
        short = []
        for purse in purses:
            pool = purse.pool
            if pool is None or now >= pool.window.end or pool.over is not None:
                pool = self.pool(purse, now)
            pools.append(pool)
            if not pool.opened:
                short.append(pool)
                continue
            free = pool.free
            for unit in pool.units:
                if free[unit] < ask[unit]:
                    short.append(pool)
                    break
        return short or self._hold(tuple(pools), ask, now)

    def force(self, purses: Sequence[Purse], ask: Four, now: int) -> int:
        """Hold ``ask`` whatever is left: where the ledger only observes."""
        return self._hold(tuple([self.pool(purse, now) for purse in purses]), ask, now)

    def _hold(self, pools: tuple[Pool, ...], ask: Four, now: int) -> int:
        if not self._diary.fits(len(pools)):
            self._begin()
        self._number += 1
        self._diary.reserved(self._number, ask, b"".join([pool.packed for pool in pools]))
        for pool in pools:
            free, held = pool.free, pool.held
            for unit in _UNITS:
                amount = ask[unit]
                if amount:
                    free[unit] -= amount
                    held[unit] += amount
            pool.used_at = now
            self._dirty[pool.key] = pool
        self._open[self._number] = _Reservation(ask, pools)
        return self._number

    def settle(self, number: int, used: Four, manner: Manner) -> tuple[Pool, ...]:
        """What a reservation really took; the rest is free again. Once for each reservation."""
        found = self._open.get(number)
        if found is None:
            return ()
        try:
            if not self._diary.fits(0):
                self._begin()
            self._diary.settled(number, self._order + 1, used, manner)
        finally:
            # Without a journal it is still known here; after a crash it would count in full.
            self._order += 1
            del self._open[number]
            for pool in found.pools:
                _take(pool, found.amounts, used, manner)
                self._dirty[pool.key] = pool
        return found.pools

    def held(self, number: int) -> Four:
        """What a reservation holds."""
        found = self._open.get(number)
        return NONE if found is None else found.amounts

    def forget(self) -> None:
        """Let go of accounts' names; those in use come back by themselves."""
        self._purses = {}

    @property
    def pending(self) -> tuple[Batch, ...]:
        """Batches that the store does not have, everything settled so far among them."""
        self._cut_batch()
        return tuple(self._batches)

    @property
    def open(self) -> list[int]:
        """Numbers of all reservations that are not settled."""
        return list(self._open)

    # -- the store --

    @property
    def dirty(self) -> bool:
        """Whether there is anything that the store does not know."""
        return bool(self._batches or self._dirty)

    @property
    def leasing(self) -> bool:
        """Whether any lease has something that nobody holds."""
        return any(any(pool.free) for pool in self._pools.values())

    def turn(
        self,
        needs: Mapping[Key, Sequence[int]],
        *,
        now: int,
        fraction: float,
        recall: Container[Key] = (),
        answering: Collection[Key] = (),
    ) -> Turn:
        """All that there is to say and to ask. ``needs``: the sum of what waits for each bucket;
        ``answering``: buckets of which others want back what is free."""
        self._cut_batch()
        accounts, asks = [], []
        leases = self._leases(needs, answering)
        for key, need in needs.items():
            pool = self._pools.get(key)
            if pool is None:  # forgotten meanwhile: who waits finds another
                continue
            accounts.append(pool.account.row(now))
            wanting = [max(0, need[unit] - pool.free[unit]) for unit in _UNITS]
            asks.append(
                Ask(
                    account=key[0],
                    start=key[1],
                    since=pool.window.since,
                    end=pool.window.end,
                    need=Amounts(*[wanting[u] if u in pool.units else 0 for u in _UNITS]),
                    caps=pool.caps,
                    fraction=fraction,
                    recall=key in recall,
                )
            )
        known = {account.id for account in accounts}
        for batch in self._batches:
            for one in batch.postings:
                filled = self._pools.get((one.account, one.start))
                if filled is not None and one.account not in known:
                    known.add(one.account)
                    accounts.append(filled.account.row(now))
        return Turn(
            holder=self.holder,
            home=self._home,
            now=now,
            confirmed=self._confirmed,
            accounts=tuple(accounts),
            batches=tuple(self._batches),
            leases=tuple(leases),
            asks=tuple(asks),
        )

    def _leases(self, needs: Container[Key], answering: Collection[Key]) -> list[Lease]:
        """The leases that have changed, less what others need more."""
        spare = [key for key in self._sparing if self.company] + list(answering)
        for key in spare:
            pool = self._pools.get(key)
            if pool is not None and key not in needs:
                self._drop_free(pool)
            elif pool is not None:
                self._dirty[key] = pool
        self._sparing.clear()
        found = [
            Lease(account=key[0], start=key[1], answers=True)
            for key in answering
            if key not in self._pools
        ]
        found += [_lease(pool, answers=key in answering) for key, pool in self._dirty.items()]
        self._dirty = {}
        return found

    def turned(self, turn: Turn, result: Turned) -> None:
        """Take in what the store has answered."""
        if turn.batches:
            self._confirmed = turn.batches[-1].number
            self._batches = self._batches[len(turn.batches) :]
        self.company = result.company
        for answer in result.answers:
            pool = self._pools.get((answer.account, answer.start))
            if pool is None:
                continue
            pool.known, pool.posted = answer.standing, [0, 0, 0, 0]
            pool.answer = answer
            if answer.latest >= pool.window.end:
                pool.over = answer.latest
                continue
            pool.opened = True
            if answer.short:
                self._sparing.add(pool.key)
            for unit, amount in enumerate(_four(answer.granted)):
                pool.free[unit] += amount
        if result.fenced:
            # Somebody settled our leases, taking us for dead: what we hold is all that we have.
            for pool in self._pools.values():
                self._drop_free(pool)
                pool.opened = False

    def failed(self, turn: Turn) -> None:
        """The store did not answer: it may have heard all, part or nothing of it."""
        told = [(lease.account, lease.start) for lease in turn.leases]
        for key in [*told, *((ask.account, ask.start) for ask in turn.asks)]:
            pool = self._pools.get(key)
            if pool is not None:
                self._dirty[pool.key] = pool

    def _drop_free(self, pool: Pool) -> None:
        pool.free = [min(free, 0) for free in pool.free]
        self._dirty[pool.key] = pool

    def tidy(self, now: int) -> None:
        """Give back leases that nobody uses, and forget accounts that nobody asks about."""
        gone = []
        for key, pool in self._pools.items():
            idle = now - pool.used_at
            old = now >= pool.window.end
            if (idle > IDLE_US or old) and any(pool.free):
                self._drop_free(pool)
            if (idle > _FORGET_US or old or idle < -_FORGET_US) and pool.empty:
                gone.append(key)
        busy = {*self._dirty, *(key for one in self._batches for key in _keys(one))}
        for key in gone:
            if key in busy:
                continue
            pool = self._pools.pop(key)
            pool.over = key[1]
            names = (pool.account.limit.name, pool.account.value, pool.account.run_id)
            self._purses.pop(names, None)

    def _cut_batch(self) -> None:
        if self._order == self._cut:
            return
        postings = tuple(self._fresh())
        if postings:
            self._batches.append(Batch(self._order, postings))
        self._cut = self._order
        for pool in self._dirty.values():
            if any(pool.spent):
                pool.posted = [a + b for a, b in zip(pool.posted, pool.spent, strict=True)]
                pool.spent, pool.uncertain, pool.estimated = [0] * 4, [0] * 4, [0] * 4

    def _fresh(self) -> Iterable[Posting]:
        for key, pool in self._dirty.items():
            if any(pool.spent):
                sums = (pool.spent, pool.uncertain, pool.estimated)
                yield Posting(*key, *[Amounts(*amounts) for amounts in sums])

    def _begin(self) -> None:
        """A new journal file, which begins with all that the store may not know."""
        held = [
            Open(number, Amounts(*one.amounts), tuple([pool.key for pool in one.pools]))
            for number, one in self._open.items()
        ]
        snapshot = Snapshot(
            self.holder, self._order, tuple(self._batches), tuple(self._fresh()), tuple(held)
        )
        self._diary.begin(snapshot)

    def close(self, *, whole: bool) -> None:
        """Let go of the journal; ``whole`` when the store knows everything."""
        self._diary.close(whole=whole)

    # -- looking --

    def unsaid(self, key: Key) -> tuple[Posting | None, Amounts]:
        """What the store may not know of a bucket: what was spent, and what calls hold."""
        postings = [
            p for b in list(self._batches) for p in b.postings if (p.account, p.start) == key
        ]
        pool = self._pools.get(key)
        if pool is not None and any(pool.spent):
            sums = (pool.spent, pool.uncertain, pool.estimated)
            postings.append(Posting(*key, *[Amounts(*amounts) for amounts in sums]))
        total: Posting | None = None
        for one in postings:
            total = one if total is None else _added(total, one)
        return total, Amounts(*pool.held) if pool is not None else Amounts()

    def said_held(self, key: Key) -> Amounts:
        """What the store was last told that calls of this process hold."""
        pool = self._pools.get(key)
        return Amounts() if pool is None else Amounts(*pool.said)

    def pools(self) -> list[Pool]:
        """Every bucket in memory."""
        return list(self._pools.values())


def used(pool: Pool, unit: int) -> int:
    """What counts against an account, as far as this process knows: spent, or held by calls."""
    held = max(_four(pool.known.held)[unit], pool.held[unit])
    return _four(pool.known.spent)[unit] + pool.posted[unit] + pool.spent[unit] + held


def _take(pool: Pool, held: Four, used: Four, manner: Manner) -> None:
    """Move a settled reservation out of what is held."""
    for unit in _UNITS:
        pool.held[unit] -= held[unit]
        pool.free[unit] += held[unit] - used[unit]
        pool.spent[unit] += used[unit]
    if manner == UNCERTAIN:
        pool.uncertain = [a + b for a, b in zip(pool.uncertain, used, strict=True)]
    elif manner == ESTIMATED:
        pool.estimated = [a + b for a, b in zip(pool.estimated, used, strict=True)]


def _lease(pool: Pool, *, answers: bool) -> Lease:
    """A bucket's lease as it is now. What was overdrawn is in ``spent``; the lease covers what is
    held, so there is no debt to be remembered here."""
    for unit in _UNITS:
        if pool.free[unit] < 0 or unit not in pool.units:
            pool.free[unit] = 0
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


def _four(amounts: Amounts) -> Four:
    return amounts.nano_usd, amounts.tokens, amounts.calls, amounts.tool_calls


def _added(one: Posting, other: Posting) -> Posting:
    return Posting(
        one.account,
        one.start,
        one.spent + other.spent,
        one.uncertain + other.uncertain,
        one.estimated + other.estimated,
    )


def _keys(batch: Batch) -> list[Key]:
    return [(one.account, one.start) for one in batch.postings]
