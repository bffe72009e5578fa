"""``Ledger``: one per process. Accounts in memory, backed by leases from the store.

A call that its process's leases cover never waits. One that they do not cover waits for a *round*:
one transaction, in a thread, for all who wait. When the store itself has too little left, other
processes are asked to give back what they do not use, and only then is the call refused.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import msgspec

from tocsin.config.model import LedgerSettings
from tocsin.core.clock import Clock
from tocsin.core.domain import Alert
from tocsin.core.errors import NotFound, StoreError, Unavailable
from tocsin.core.ledger import Account, Amounts, Limit
from tocsin.ledger import accounts as reading
from tocsin.ledger import words
from tocsin.ledger.bounds import Bounds
from tocsin.ledger.diary import PLAIN, UNCERTAIN, Diary, Key, Manner, home_of
from tocsin.ledger.limits import Matcher, needs_runs
from tocsin.ledger.pools import NONE, Four, Need, Pool, Purse
from tocsin.ledger.recovery import recover
from tocsin.ledger.runs import Runs
from tocsin.ledger.settling import Estimator, Settled
from tocsin.ledger.till import Till
from tocsin.ledger.waiting import RECALL_S, Shortfall, Waiter
from tocsin.providers.pricing import Pricer
from tocsin.providers.tokens import TokenCounter
from tocsin.store.ledger import LOST_US
from tocsin.store.ledger_api import EVERY, LedgerBook, Turn

log = logging.getLogger("tocsin.ledger")

FLUSH_S = 0.5
"""How often what was settled goes to the store."""
POLL_S = 0.075
"""How often a process with company looks whether others want something back."""
RETRY_S = 0.04
"""How often a call that waits for others asks again."""
ENDING_S = 0.25
"""How long others wait, at most, for what calls took that have just ended here."""
BEAT_S = 1.0
"""How often a process with leases says that it is alive."""
BURY_S = 0.25
"""How often dead processes are looked for while a call waits for what they had."""
CARE_S = 5.0
"""How often dead processes are looked for, and idle leases given back."""
PRUNE_S = 6 * 3600.0
_RUNS_KEPT_US = 90 * 86_400 * 1_000_000
_WINDOWS_KEPT_US = 400 * 86_400 * 1_000_000
_STORE_WAIT_S = 5.0
_SILENT_US = LOST_US - 60_000_000
_MOST_NAMES = 50_000


T = TypeVar("T")


class Falls(msgspec.Struct, frozen=True):
    """What calls of the same names fall under."""

    purses: tuple[Purse, ...]
    timed: tuple[Purse, ...]
    """Those that may be too old for another call."""
    deep: tuple[Limit, str] | None
    """The limit (and value) that allows a run the fewest ancestors."""


class Ledger:
    """Holds calls to the limits. Use from one event loop, except where a method says otherwise."""

    def __init__(
        self,
        book: LedgerBook,
        folder: Path,
        clock: Clock,
        *,
        limits: Sequence[Limit],
        settings: LedgerSettings,
        pricer: Pricer,
        alert: Callable[[Alert], None],
    ) -> None:
        self.limits = tuple(limits)
        self.settings = settings
        self.clock = clock
        self.pricer = pricer
        self.alert = alert
        self.bounds = Bounds(settings, pricer)
        self.estimator = Estimator(TokenCounter(), pricer)
        self.runs = Runs(book, clock)
        self.trouble: str | None = None
        """What keeps the ledger from the store just now; ``None`` when all is well."""
        self._book = book
        self._folder = folder
        self._till: Till | None = None
        self._waiting: list[Waiter] = []
        self._wake = asyncio.Event()
        self._stopping = False
        self._turning = asyncio.Lock()
        self._thread: ThreadPoolExecutor | None = None
        self._counting: ThreadPoolExecutor | None = None
        self._counted: set[asyncio.Future[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last: dict[str, float] = {}
        self._heard_at = 0
        """When the store last heard of this process."""
        self._unpriced: set[tuple[str, str]] = set()
        self._take_over()

    # -- life --

    async def start(self) -> None:
        """Settle what dead processes left, then begin. Raises ``StoreError`` or ``OSError``."""
        self._thread = ThreadPoolExecutor(1, "tocsin-ledger")
        self._counting = ThreadPoolExecutor(1, "tocsin-counting")
        await self._in_thread(lambda: self._recover(patient=True))
        if self.limits:
            self._open_till()
            await self._turn({})
        self._loop = asyncio.get_running_loop()
        self._stopping = False
        self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Tell the store everything and give every lease back."""
        if self._task is not None:
            # Before Python 3.12 a wait that ends in the instant of a cancel swallows it.
            self._stopping = True
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        if self._counted:
            await asyncio.wait(self._counted)
        for waiter in self._waiting:
            if not waiter.future.done():
                waiter.future.set_exception(Unavailable("Tocsin is stopping. Try again."))
        till, self._till = self._till, None
        if till is not None:
            for number in till.open:
                till.settle(number, till.held(number), UNCERTAIN)
            whole = False
            try:
                pending = till.pending
                known = await self._in_thread(lambda: self._book.bury(till.holder, batches=pending))
                whole = known or not pending
            except StoreError:
                log.exception("the ledger could not be closed; its journal tells the next start")
            till.close(whole=whole)
        for thread in (self._thread, self._counting):
            if thread is not None:
                thread.shutdown(wait=True)

    def configure(self, limits: Sequence[Limit], settings: LedgerSettings) -> None:
        """Take over changed limits. Calls under way go on; what they hold counts under the new."""
        self.limits = tuple(limits)
        self.settings = settings
        self.bounds.configure(settings)
        self._take_over()
        if self._till is not None:
            self._till.configure(self.limits)
        elif self.limits and self._task is not None:
            self._open_till()
        self._wake.set()

    def _take_over(self) -> None:
        self.matcher = Matcher(self.limits)
        self.needs_runs = needs_runs(self.limits)
        self.money = any(limit.nano_usd is not None for limit in self.limits)
        self.resolved: dict[tuple[str | tuple[str, ...] | None, ...], Falls] = {}

    def _open_till(self) -> None:
        holder = f"holder_{uuid4().hex}"
        home = home_of(self._folder)
        self._till = Till(Diary(self._folder, holder), home)

    # -- calls --

    @property
    def till(self) -> Till:
        """The accounts in memory. Raises ``Unavailable`` before ``start`` and after ``stop``."""
        if self._till is None:
            raise Unavailable("The ledger is not running: Tocsin is starting or stopping.")
        return self._till

    def forget(self) -> None:
        """Names come from callers: let go of those that nobody uses."""
        if len(self.resolved) > _MOST_NAMES:
            self.resolved = {}
            self.till.forget()

    async def acquire(self, purses: Sequence[Purse], ask: Four) -> int | Shortfall:
        """Hold ``ask`` in every account: a reservation's number, or where there is too little.

        Raises ``Unavailable`` when the store has to be asked and does not answer.
        """
        found = self.hold(purses, ask)
        return found if isinstance(found, int) else await self.wait(purses, ask, found)

    def hold(self, purses: Sequence[Purse], ask: Four) -> int | list[Pool]:
        """``acquire`` as far as it goes without waiting: if not held, then where it falls short."""
        at = self.clock.now_us()
        try:
            if at - self._heard_at > _SILENT_US:
                # Others may have taken us for lost meanwhile (a suspended machine).
                self.till.doubt()
                self._heard_at = at
            return self.till.reserve(purses, ask, at)
        except OSError as error:
            raise self._no_journal(error) from error

    async def wait(self, purses: Sequence[Purse], ask: Four, short: list[Pool]) -> int | Shortfall:
        """The rest of ``acquire``."""
        now, ending = asyncio.get_running_loop().time(), frozenset(self._counted)
        waiter = Waiter(purses, ask, short, now, ending)
        self._waiting.append(waiter)
        self._wake.set()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            done = waiter.future
            if done.done() and not done.cancelled() and done.exception() is None:
                number = done.result()
                if isinstance(number, int):
                    self.settle(number, NONE, PLAIN)
            raise

    def force(self, purses: Sequence[Purse], ask: Four) -> int | None:
        """Hold ``ask`` whatever is left, where the ledger only observes."""
        try:
            return self.till.force(purses, ask, self.clock.now_us())
        except OSError as error:
            self._no_journal(error)
            return None

    def settle(self, number: int, used: Four, manner: Manner) -> tuple[Pool, ...]:
        """What a reservation took. Never raises."""
        if self._till is None:
            return ()
        try:
            pools = self._till.settle(number, used, manner)
        except OSError as error:
            self._no_journal(error)
            return ()
        if self._waiting:
            self._wake.set()
        return pools

    def settle_later(
        self, number: int, estimate: Callable[[], Settled], done: Callable[[tuple[Pool, ...]], None]
    ) -> None:
        """Estimate in a thread, then settle; the reservation is held until then."""
        loop = asyncio.get_running_loop()
        assert self._counting is not None
        future = loop.run_in_executor(self._counting, estimate)

        async def finish() -> None:
            try:
                settled = await future
            except Exception:
                log.exception("usage could not be estimated; the attempt counts in full")
                held = NONE if self._till is None else self._till.held(number)
                done(self.settle(number, held, UNCERTAIN))
            else:
                done(self.settle(number, settled.amounts, settled.manner))

        task = asyncio.ensure_future(finish())
        self._counted.add(task)
        task.add_done_callback(self._counted.discard)

    def note_unpriced(self, provider: str, model: str, feature: str, call_id: str) -> None:
        """Raise the alert about a model without a price, once."""
        if (provider, model) in self._unpriced or len(self._unpriced) > 1000:
            return
        self._unpriced.add((provider, model))
        self.alert(words.unpriced(provider, model, feature, call_id, self.clock.now_us()))

    async def opened(self, purses: Sequence[Purse]) -> list[Pool]:
        """The accounts' buckets, each known from the store."""
        now = self.clock.now_us()
        pools = [self.till.pool(purse, now) for purse in purses]
        if not all(pool.opened for pool in pools):
            number = await self.acquire(purses, NONE)
            if isinstance(number, int):
                self.settle(number, NONE, PLAIN)
            pools = [self.till.pool(purse, now) for purse in purses]
        return pools

    # -- rounds --

    async def _keep(self) -> None:
        while not self._stopping:
            try:
                pause = self._pause()
                if pause > 0:
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self._round()
            except StoreError as error:
                self._store_failed(error)
                await asyncio.sleep(0.2)
            except Exception:
                log.exception("the ledger's round failed; it goes on")
                await asyncio.sleep(0.5)

    def _pause(self) -> float:
        """Seconds until something is due."""
        if self._waiting:
            passed = asyncio.get_running_loop().time() - self._last.get("ask", -1e9)
            return max(0.0, RETRY_S - passed) if self._all_asked() else 0.0
        till = self._till
        if till is None:
            return CARE_S
        return POLL_S if till.company and till.leasing else FLUSH_S / 2

    def _all_asked(self) -> bool:
        """Whether every call that waits has been asked for, and others have yet to answer."""
        return all(waiter.asked for waiter in self._waiting)

    def _kept_waiting(self) -> bool:
        """Whether a call has waited longer than a live process takes to answer."""
        if not self._waiting:
            return False
        first = min(waiter.deadline for waiter in self._waiting) - RECALL_S
        return asyncio.get_running_loop().time() - first > 2 * POLL_S

    def _due(self, name: str, every: float) -> bool:
        now = asyncio.get_running_loop().time()
        if now - self._last.get(name, -1e9) < every:
            return False
        self._last[name] = now
        return True

    async def _round(self) -> None:
        till = self._till
        if self._due("care", CARE_S):
            if till is not None:
                till.tidy(self.clock.now_us())
            await self._in_thread(lambda: self._recover(patient=False))
        if self._due("prune", PRUNE_S):
            await self._in_thread(self._prune)
        if till is None:
            return
        if self._kept_waiting() and self._due("bury", BURY_S):
            # Whoever does not give back may be dead: then its journal tells what it had.
            await self._in_thread(lambda: self._recover(patient=False))
        self._serve(frozenset())
        async with self._turning:  # a turn builds on how the one before it ended
            answering = await self._wanted(till)
            asking = self._waiting and (not self._all_asked() or self._due("ask", RETRY_S))
            flush = (till.dirty and self._due("flush", FLUSH_S)) or (
                till.leasing and self._due("beat", BEAT_S)
            )
            if asking or answering or flush:
                await self._turn(answering)

    async def _wanted(self, till: Till) -> dict[Key, int]:
        """What others want back, if it is time to look. Calls that are over by then have given
        back what they did not take, when this returns."""
        if not (till.company and till.leasing and self._due("poll", POLL_S)):
            return {}
        wanted = await self._in_thread(lambda: self._book.wanted(till.holder))
        if wanted and self._counted:
            await asyncio.wait(set(self._counted), timeout=ENDING_S)
        return wanted

    async def _turn(self, answering: dict[Key, int]) -> None:
        """One transaction: say everything, ask for all who wait, and serve them."""
        till = self.till
        needs: dict[Key, Need] = {}
        for waiter in self._waiting:
            for pool in waiter.short:
                need = needs.setdefault(pool.key, Need([0] * 4, [EVERY] * 4))
                need.add(waiter.ask)
                number = waiter.recalls.get(pool.key, 0)
                need.recall = need.recall or not number
                need.recalled = max(need.recalled, number)
        turn = till.turn(
            needs,
            now=self.clock.now_us(),
            fraction=self.settings.lease_fraction,
            answering=answering,
        )
        asked = list(self._waiting)
        try:
            result = await self._in_thread(lambda: self._book.turn(turn))
        except BaseException:
            till.failed(turn)
            raise
        till.turned(turn, result)
        self._heard_at = turn.now
        self.trouble = None
        now = asyncio.get_running_loop().time()
        self._last |= {"flush": now, "beat": now, "ask": now}
        for waiter in asked:
            waiter.learn(result)
        self._serve(frozenset(asked), turn)

    def _serve(self, asked: frozenset[Waiter], turn: Turn | None = None) -> None:
        """Let those go on who can, in the order in which they came; refuse who cannot."""
        if not self._waiting:
            return
        now = self.clock.now_us()
        left = []
        keys = {(ask.account, ask.start) for ask in turn.asks} if turn is not None else set()
        for waiter in self._waiting:
            if waiter.future.done():
                continue
            try:
                found = self.till.reserve(waiter.purses, waiter.ask, now)
            except OSError as error:
                waiter.future.set_exception(self._no_journal(error))
                continue
            if isinstance(found, int):
                waiter.future.set_result(found)
                continue
            waiter.short = found
            refusal = self._refusal(waiter, keys) if waiter in asked else None
            if refusal is not None:
                waiter.future.set_result(refusal)
            else:
                left.append(waiter)
        self._waiting = left

    def _refusal(self, waiter: Waiter, asked: set[Key]) -> Shortfall | None:
        """Where there is too little for a call that has just been asked for, beyond all hope."""
        late = asyncio.get_running_loop().time() > waiter.deadline
        if not (late or waiter.ended):
            return None
        for pool in waiter.short:
            answer = pool.answer
            if pool.key not in asked or not pool.opened or answer is None or not answer.short:
                continue
            if not (late or waiter.answered(pool, answer)):
                continue
            for unit in pool.units:
                if pool.free[unit] < waiter.ask[unit]:
                    return Shortfall(pool, unit)
        return None

    def _store_failed(self, error: StoreError) -> None:
        self.trouble = str(error)
        log.error("the ledger's store does not answer: %s", error)
        now = asyncio.get_running_loop().time()
        for waiter in self._waiting:
            if not waiter.future.done() and now > waiter.deadline - RECALL_S + _STORE_WAIT_S:
                waiter.future.set_exception(
                    Unavailable(
                        "The ledger's store does not answer, so nobody knows whether this call "
                        f"is within its limits: {error} Try again."
                    )
                )
        self._waiting = [waiter for waiter in self._waiting if not waiter.future.done()]

    def _no_journal(self, error: OSError) -> Unavailable:
        self.trouble = f"the ledger's journal in {self._folder} cannot be written: {error}"
        log.error("%s", self.trouble)
        return Unavailable(f"{self.trouble}. Free disk space; until then no call is let through.")

    async def run_aside(self, work: Callable[[], T]) -> T:
        """Run what blocks in a thread of the ledger's own, not in the one that asks the store."""
        assert self._counting is not None
        return await asyncio.get_running_loop().run_in_executor(self._counting, work)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        assert self._thread is not None
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _recover(self, *, patient: bool) -> None:
        own = self._till.holder if self._till is not None else ""
        now = self.clock.now_us()
        for holder, calls in recover(self._book, self._folder, own, now, patient=patient):
            self.alert(words.uncertain(holder, calls, now))

    def _prune(self) -> None:
        now = self.clock.now_us()
        self._book.prune(accounts_before=now - _RUNS_KEPT_US, buckets_before=now - _WINDOWS_KEPT_US)

    # -- looking and changing by hand: from any thread, and they ask the store --

    def accounts(
        self,
        *,
        limit: str | None = None,
        scope: str | None = None,
        value: str | None = None,
        run_id: str | None = None,
        most: int = 500,
    ) -> list[Account]:
        """Accounts with what they have spent and hold now, this process's last call included.

        Blocks: ask from a thread. ``most`` of each limit, the last used first. Raises
        ``StoreError``.
        """
        return reading.read_accounts(
            self._book,
            self.limits,
            self.clock.now_us(),
            limit=limit,
            scope=scope,
            value=value,
            run_id=run_id,
            most=most,
            till=self._till,
        )

    def add(
        self, limit_name: str, value: str, run_id: str | None, amounts: Amounts, by: str
    ) -> Account:
        """Raise an account's limit by hand, until its window ends. Blocks.

        Raises ``NotFound`` for a limit that is not configured, ``InputError`` for a bad amount.
        """
        reading.add(
            self._book, self._limit(limit_name), value, run_id, amounts, by, self.clock.now_us()
        )
        return self._account(limit_name, value, run_id)

    def reconcile(
        self, limit_name: str, value: str, run_id: str | None, amounts: Amounts | None, by: str
    ) -> Account:
        """Settle by hand what is uncertain in an account: of it, ``amounts`` was really spent
        (``None``: all of it). Blocks. Raises ``NotFound`` or ``InputError``."""
        self._say_all()
        reading.reconcile(
            self._book, self._limit(limit_name), value, run_id, amounts, by, self.clock.now_us()
        )
        return self._account(limit_name, value, run_id)

    def _say_all(self) -> None:
        """Tell the store what it does not know yet, from any thread but the loop's own."""
        if self._loop is None or self._till is None:
            return

        async def say() -> None:
            async with self._turning:
                await self._turn({})

        asyncio.run_coroutine_threadsafe(say(), self._loop).result(_STORE_WAIT_S)

    def _limit(self, name: str) -> Limit:
        return reading.limit_named(self.limits, name)

    def _account(self, limit_name: str, value: str, run_id: str | None) -> Account:
        found = self.accounts(limit=limit_name, value=value, run_id=run_id or "", most=1)
        if not found:
            raise NotFound(f"the limit '{limit_name}' has no such account")
        return found[0]
