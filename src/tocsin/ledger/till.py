"""``Till``: the accounts of one process in memory. Arithmetic and a journal; no store, no waiting.

Of each bucket a process has a lease: what calls *hold*, and what is *free*. A reservation moves
from free to held, a settlement takes what was held and gives back what was not spent. Whatever is
said to the store goes through ``turn`` and comes back through ``turned`` or ``failed``.
"""

from collections.abc import Container, Iterable, Mapping, Sequence

import msgspec

from tocsin.core.ledger import Amounts, Limit
from tocsin.ledger.diary import PLAIN, Diary, Key, Manner, Open, Snapshot
from tocsin.ledger.pools import (
    NONE,
    UNKNOWN,
    Four,
    Need,
    Pool,
    Purse,
    ask_for,
    four,
    lease_of,
)
from tocsin.ledger.windows import window_at
from tocsin.store.ledger_api import (
    NOTHING,
    Batch,
    Lease,
    Posting,
    Turn,
    Turned,
)

_UNITS = range(4)
IDLE_US = 5_000_000
"""A lease that nobody used for this long goes back."""
_FORGET_US = 60_000_000


class _Reservation(msgspec.Struct, frozen=True):
    amounts: Four
    pools: tuple[Pool, ...]
    noisy: bool
    """Whether it may have passed a fraction at which to warn."""


class Till:
    """The accounts of one process. Use from one thread."""

    def __init__(self, diary: Diary, home: str) -> None:
        self._diary = diary
        self._home = home
        self.holder = diary.holder
        self._purses: dict[tuple[str, str, str], Purse] = {}
        self._pools: dict[Key, Pool] = {}
        self._dirty: list[Pool] = []
        """What the store does not know as it is now."""
        self._sparing: set[Key] = set()
        """Accounts that are nearly empty: what is not needed of them goes back at once."""
        self._leased: set[Key] = set()
        """Buckets in which the store may have a lease of this process."""
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
            if now < pool.end:
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
        pools: list[Pool] = []
        short: list[Pool] = []
        noisy = False
        for purse in purses:
            pool = purse.pool
            if pool is None or now >= pool.end:
                pool = self.pool(purse, now)
            pools.append(pool)
            free = pool.free
            for unit, floor in pool.floors:
                if free[unit] - ask[unit] <= floor:
                    noisy = noisy or not pool.quiet(ask)
                    if pool.short_of(ask):
                        short.append(pool)
                    break
        return short or self._hold(tuple(pools), ask, now, noisy=noisy)

    def force(self, purses: Sequence[Purse], ask: Four, now: int) -> int:
        """Hold ``ask`` whatever is left: where the ledger only observes."""
        pools = tuple([self.pool(purse, now) for purse in purses])
        return self._hold(pools, ask, now, noisy=True)

    def _hold(self, pools: tuple[Pool, ...], ask: Four, now: int, *, noisy: bool) -> int:
        if not self._diary.fits(len(pools)):
            self._begin()
        self._number += 1
        self._diary.reserved(self._number, ask, b"".join([pool.packed for pool in pools]))
        amounts = [(unit, amount) for unit, amount in enumerate(ask) if amount]
        for pool in pools:
            free, held = pool.free, pool.held
            for unit, amount in amounts:
                free[unit] -= amount
                held[unit] += amount
            pool.used_at = now
            if not pool.dirty:
                self._touch(pool)
        self._open[self._number] = _Reservation(ask, pools, noisy)
        return self._number

    def settle(self, number: int, used: Four, manner: Manner) -> tuple[Pool, ...]:
        """What a reservation really took; the rest is free again. Once for each reservation.

        Returns the buckets if a fraction at which to warn may have been passed in one of them.
        """
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
            over = self._take(found, used, manner)
        if found.noisy or over:
            return found.pools
        return ()

    def _take(self, done: _Reservation, used: Four, manner: Manner) -> bool:
        """Move a settled reservation out of what is held. Returns whether it took more, and so
        may have passed a fraction at which to warn."""
        taken, over = [], []
        for unit in _UNITS:
            reserved, took = done.amounts[unit], used[unit]
            if reserved or took:
                taken.append((unit, reserved, reserved - took, took))
                if took > reserved:
                    over.append(unit)
        for pool in done.pools:
            held, free, spent = pool.held, pool.free, pool.spent
            for unit, reserved, back, took in taken:
                held[unit] -= reserved
                free[unit] += back
                spent[unit] += took
            if manner != PLAIN:
                pool.mark(used, manner)
            if not pool.dirty:
                self._touch(pool)
        return bool(over) and any(pool.passed(over) for pool in done.pools)

    def noisy(self, number: int) -> tuple[Pool, ...]:
        """The buckets of a reservation, if one of them may be past a fraction at which to warn."""
        found = self._open.get(number)
        return found.pools if found is not None and found.noisy else ()

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
        """Whether the store may have a lease of this process."""
        return bool(self._leased)

    def turn(
        self,
        needs: Mapping[Key, Need],
        *,
        now: int,
        fraction: float,
        answering: Mapping[Key, int],
    ) -> Turn:
        """All that there is to say and to ask. ``needs``: what waits for each bucket;
        ``answering``: buckets of which others want back what is free, and the recall's number."""
        self._cut_batch()
        accounts, asks = [], []
        leases = self._leases(needs, answering)
        for key, need in needs.items():
            pool = self._pools.get(key)
            if pool is None:  # forgotten meanwhile: who waits finds another
                continue
            accounts.append(pool.account.row(now))
            asks.append(ask_for(pool, need, fraction))
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

    def _leases(self, needs: Container[Key], answering: Mapping[Key, int]) -> list[Lease]:
        """The leases that have changed, less what others need more.

        What is needed here of a nearly empty account goes back, too, before more is asked for: two
        processes that both keep a piece would both be refused what the pieces together cover.
        """
        for key in [key for key in self._sparing if self.company] + list(answering):
            pool = self._pools.get(key)
            if pool is not None:
                self._drop_free(pool)
        self._sparing.clear()
        found = [
            Lease(account=key[0], start=key[1], answers=number)
            for key, number in answering.items()
            if key not in self._pools
        ]
        for pool in self._dirty:
            pool.dirty = False
            found.append(lease_of(pool, answering.get(pool.key, 0)))
        self._dirty = []
        for lease in found:
            key = (lease.account, lease.start)
            if lease.granted == NOTHING:
                self._leased.discard(key)
            else:
                self._leased.add(key)
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
            pool.known, pool.posted, pool.answer = answer.standing, [0, 0, 0, 0], answer
            pool.floors = UNKNOWN
            if answer.latest >= pool.window.end:
                pool.close(answer.latest)
                continue
            pool.opened = True
            if answer.short:
                self._sparing.add(pool.key)
            if answer.granted != NOTHING:
                self._leased.add(pool.key)
            for unit, amount in enumerate(four(answer.granted)):
                pool.free[unit] += amount
        if result.fenced:
            # Somebody settled our leases, taking us for dead: what we hold is all that we have.
            self.doubt()

    def doubt(self) -> None:
        """Use no lease before the store was asked about it."""
        for pool in self._pools.values():
            self._drop_free(pool)
            pool.opened = False

    def failed(self, turn: Turn) -> None:
        """The store did not answer: it may have heard all, part or nothing of it."""
        told = [(lease.account, lease.start) for lease in turn.leases]
        for key in [*told, *((ask.account, ask.start) for ask in turn.asks)]:
            self._leased.add(key)
            pool = self._pools.get(key)
            if pool is not None:
                self._touch(pool)

    def _drop_free(self, pool: Pool) -> None:
        pool.drop_free()
        self._touch(pool)

    def _touch(self, pool: Pool) -> None:
        if not pool.dirty:
            pool.dirty = True
            self._dirty.append(pool)

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
        busy = {
            *(pool.key for pool in self._dirty),
            *(key for one in self._batches for key in _keys(one)),
        }
        for key in gone:
            if key in busy:
                continue
            pool = self._pools.pop(key)
            pool.close(key[1])
            names = (pool.account.limit.name, pool.account.value, pool.account.run_id)
            self._purses.pop(names, None)

    def _cut_batch(self) -> None:
        if self._order == self._cut:
            return
        postings = tuple(self._fresh())
        if postings:
            self._batches.append(Batch(self._order, postings))
        self._cut = self._order
        for pool in self._dirty:
            if any(pool.spent):
                pool.posted = [a + b for a, b in zip(pool.posted, pool.spent, strict=True)]
                pool.spent, pool.uncertain, pool.estimated = [0] * 4, [0] * 4, [0] * 4

    def _fresh(self) -> Iterable[Posting]:
        for pool in self._dirty:
            if any(pool.spent):
                sums = (pool.spent, pool.uncertain, pool.estimated)
                yield Posting(*pool.key, *[Amounts(*amounts) for amounts in sums])

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
