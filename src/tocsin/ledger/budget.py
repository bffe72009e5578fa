"""``CallBudget``: the ledger's handle on one call. Each attempt is reserved, and settled, alone."""

from collections.abc import Sequence
from functools import partial

from tocsin.core.call import Call
from tocsin.core.errors import BudgetExceeded
from tocsin.core.interaction import Attempt, Decision, Interaction, Mode
from tocsin.core.messages import Message
from tocsin.ledger import settling, words
from tocsin.ledger.bounds import is_billed
from tocsin.ledger.diary import UNCERTAIN
from tocsin.ledger.ledger import Ledger
from tocsin.ledger.pools import NONE, Four, Pool, Purse, four, used
from tocsin.ledger.settling import Settled
from tocsin.ledger.waiting import Shortfall

# Answers of these are nobody's expense: nobody could say what they cost, and nobody is billed.
WARNING = b"tocsin-budget-warning"
_COSTS_NOTHING = frozenset({"local", "replay"})


class CallBudget:
    """``core.ledger.Budget``: at most one attempt of a call is open at a time."""

    __slots__ = ("_asked", "_call", "_ledger", "_mode", "_number", "_purses", "_warned")

    def __init__(self, ledger: Ledger, call: Call, purses: Sequence[Purse], mode: Mode) -> None:
        self._ledger = ledger
        self._call = call
        self._purses = purses
        self._mode: Mode = mode
        self._number: int | None = None
        self._asked: Four = NONE
        self._warned = False

    async def attempt(self, call: Call, *, upstream: str, provider: str, model: str) -> None:
        """Reserve the worst case of one more attempt. Raises ``BudgetExceeded`` or, when the store
        has to be asked and does not answer, ``Unavailable``."""
        ledger = self._ledger
        self._close_attempt()
        if not is_billed(call):
            return
        if not ledger.pricer.loaded:
            # 250 ms, once in the life of a process.
            await ledger.run_aside(ledger.pricer.warm)
        worst, priced = ledger.bounds.worst(call, provider, model)
        if not priced and ledger.money and provider not in _COSTS_NOTHING:
            ledger.note_unpriced(provider, model, call.feature, call.id)
        await self._reserve(four(worst))

    async def again(self) -> None:
        """Reserve the same once more; what was sent before may have been billed: it counts as an
        attempt that was cut. Raises as ``attempt`` does."""
        if self._number is None:
            return
        ask = self._asked
        self._settle(Settled(ask, UNCERTAIN))
        await self._reserve(ask)

    async def _reserve(self, ask: Four) -> None:
        ledger = self._ledger
        try:
            found: int | Shortfall | list[Pool] = ledger.hold(self._purses, ask)
            if isinstance(found, list):
                found = await ledger.wait(self._purses, ask, found)
            if not isinstance(found, int):
                self._warn([purse.pool for purse in self._purses], NONE)
                raise self._refused(found, ask)
        except Exception as error:
            if self._mode == "enforce":
                raise
            self._note(error)
            forced = ledger.force(self._purses, ask)
            if forced is None:
                return
            found = forced
        self._number, self._asked = found, ask
        noisy = ledger.till.noisy(found)
        if noisy:
            self._warn(noisy, ask)

    def unsent(self) -> None:
        """The attempt that is open never reached its upstream: all of it goes back."""
        self._settle(settling.NOTHING_TAKEN)

    def abandon(self) -> None:
        """The call ends without a record: what is open counts in full."""
        self._settle(Settled(self._asked, UNCERTAIN))

    def finish(self, call: Call, interaction: Interaction, output: Message | None) -> None:
        """The call is over: settle its last attempt by what is known of it."""
        number = self._number
        if number is None:
            return
        ledger, unreported = self._ledger, self._ledger.settings.unreported
        attempts = interaction.attempts
        last = attempts[-1] if attempts else None
        settled: Settled | None = None
        if last is None or last.status is None or last.status >= 400 or last.error is not None:
            settled = settling.of_failed(last, self._asked, unreported)
        if settled is None and last is not None:
            settled = settling.of_reported(interaction, last, ledger.pricer)
        if settled is None:
            settled = settling.without_usage(call, interaction, self._asked, unreported)
        if settled is not None:
            self._settle(settled)
            return
        assert last is not None
        self._number = None
        estimate = partial(ledger.estimator.estimate, call, interaction, last, output)
        ledger.settle_later(number, estimate, self._watch)

    # -- one attempt --

    def _close_attempt(self) -> None:
        """Settle the attempt before this one: it gave no answer that counts."""
        if self._number is None:
            return
        ledger, attempts = self._ledger, self._call.draft.attempts
        last: Attempt | None = attempts[-1] if attempts else None
        settled = settling.of_failed(last, self._asked, ledger.settings.unreported)
        if settled is None and last is not None and last.status is None:
            number, self._number = self._number, None
            estimate = partial(ledger.estimator.unanswered, self._call, last)
            ledger.settle_later(number, estimate, self._watch)
            return
        self._settle(settled or Settled(self._asked, UNCERTAIN))

    def _settle(self, settled: Settled) -> None:
        number, self._number = self._number, None
        if number is not None:
            self._watch(self._ledger.settle(number, settled.amounts, settled.manner))

    def _warn(self, pools: Sequence[Pool | None], ask: Four) -> None:
        """Add a header, once a call, for each account that was past a fraction at which to warn
        when it came: ``ask`` is what it holds itself."""
        if self._warned:
            return
        self._warned = True
        for pool in pools:
            share = 0.0 if pool is None else watch(self._ledger, pool, self._call.feature, ask)
            if pool is not None and share:
                self._call.draft.notices.append((WARNING, words.warning_header(pool, share)))

    def _watch(self, pools: Sequence[Pool]) -> None:
        for pool in pools:
            watch(self._ledger, pool, self._call.feature)

    # -- refusals --

    def _refused(self, short: Shortfall, ask: Four) -> BudgetExceeded:
        ledger, pool = self._ledger, short.pool
        now = ledger.clock.now_us()
        error = words.exceeded(pool, short.unit, ask[short.unit], now)
        if pool.warned < 1.0 and self._mode == "enforce":
            pool.warned = 1.0
            ledger.alert(words.refused(pool, error, self._call.id, self._call.feature, now))
        if self._mode == "enforce":
            self._note(error)
        return error

    def _note(self, error: Exception) -> None:
        self._call.draft.decisions.append(
            Decision(policy="ledger", mode=self._mode, action="deny", detail=str(error)[:500])
        )


def watch(ledger: Ledger, pool: Pool, feature: str, less: Four = NONE) -> float:
    """Raise the alerts of the fractions that an account has passed, but for what ``less`` holds;
    returns the share that is used if it is past one, else 0. Each once for an account, window and
    fraction."""
    if not pool.opened:
        return 0.0
    limit = pool.account.limit
    most, at = 0.0, 0
    for unit in pool.units:
        cap = (pool.caps[unit] or 0) + four(pool.known.extra)[unit]
        share = used(pool, unit, less) / cap if cap > 0 else 1.0
        if share > most:
            most, at = share, unit
    passed = 0.0
    for fraction in limit.warn_at:
        if fraction <= most:
            passed = fraction
    if passed > pool.warned:
        pool.warned = passed
        now = ledger.clock.now_us()
        ledger.alert(words.warned(pool, at, passed, most, feature, now))
    return most if passed else 0.0
