"""``LedgerPolicy``: which accounts a call falls under. What is reserved, the budget sees to."""

from collections.abc import Callable

from tocsin.core.call import Call
from tocsin.core.interaction import Interaction, Mode
from tocsin.core.ledger import Limit
from tocsin.core.messages import Message
from tocsin.core.policy import FailureMode, Next, Reply
from tocsin.ledger import words
from tocsin.ledger.bounds import is_billed
from tocsin.ledger.budget import CallBudget
from tocsin.ledger.ledger import Falls, Ledger
from tocsin.ledger.limits import caps_of
from tocsin.ledger.pools import Purse


class LedgerPolicy:
    """Holds calls to the limits. ``mode`` is that of a feature: whether a refusal is only noted."""

    name = "ledger"
    failure: FailureMode = "closed"
    timeout_s = 10.0

    def __init__(self, ledger: Ledger, mode: Callable[[str], Mode]) -> None:
        self._ledger = ledger
        self._mode = mode

    def passes(self, call: Call) -> bool:
        """Whether there are no limits at all."""
        return not self._ledger.limits

    async def __call__(self, call: Call, next: Next) -> Reply:
        ledger = self._ledger
        if not ledger.limits or not is_billed(call):
            return await next(call)
        above = self._above(call) if ledger.needs_runs else ()
        if above is None:
            above = await ledger.runs.ask(call, *_names(call))
        falls = self._falls(call, above)
        depth = len(above)
        mode = self._mode(call.feature)
        if falls.purses:
            call.draft.budget = CallBudget(ledger, call, falls.purses, mode)
        if falls.deep is not None and depth > (falls.deep[0].depth or 0):
            raise words.too_deep(*falls.deep, _names(call)[0], depth)
        if falls.timed:
            await self._check_time(falls.timed)
        return await next(call)

    def learn(self, call: Call, interaction: Interaction, output: Message | None) -> None:
        """Settle what the call has reserved."""
        budget = call.draft.budget
        if isinstance(budget, CallBudget):
            self._ledger.bounds.learn(call, interaction)
            budget.finish(call, interaction, output)

    # -- accounts --

    def _above(self, call: Call) -> tuple[str, ...] | None:
        """The ancestors of a call's run, if they are known without asking the store."""
        runs, alone = self._ledger.runs, not self._ledger.till.company
        return runs.ancestors(*_names(call), alone=alone)

    def _falls(self, call: Call, above: tuple[str, ...]) -> Falls:
        """What a call falls under."""
        ledger, principal = self._ledger, call.principal
        run_id = _names(call)[0] if ledger.needs_runs else ""
        names = (call.feature, principal.key_id, principal.name, call.end_user, run_id, above)
        found = ledger.resolved.get(names)
        if found is None:
            ledger.forget()
            found = ledger.resolved[names] = self._resolve(call, run_id, above)
        return found

    def _resolve(self, call: Call, run_id: str, above: tuple[str, ...]) -> Falls:
        ledger = self._ledger
        named: list[tuple[Limit, str, str]] = []
        deep: list[tuple[Limit, str]] = []
        for limit, value in ledger.matcher.of(call):
            deep.append((limit, value))
            runs = (run_id, *above) if limit.per == "run" else ("",)
            named += [(limit, value, run) for run in runs]
        for run in (run_id, *above) if run_id else ():
            for limit in ledger.matcher.of_run(run):
                if run == run_id:
                    deep.append((limit, run))
                # Of the scope `run` the value is the run; per run it is named as such, too.
                named.append((limit, run, run if limit.per == "run" else ""))
        strictest = [one for one in deep if one[0].depth is not None]
        purses = [ledger.till.purse(*one) for one in named if _counts(one[0])]
        return Falls(
            purses=tuple(purses),
            timed=tuple([purse for purse in purses if purse.limit.wall_us is not None]),
            deep=min(strictest, key=lambda one: one[0].depth or 0, default=None),
        )

    async def _check_time(self, timed: tuple[Purse, ...]) -> None:
        """Raise ``BudgetExceeded`` for a call that comes too long after its account's first."""
        for pool in await self._ledger.opened(timed):
            first_at, now = pool.known.first_at, self._ledger.clock.now_us()
            wall_us = pool.account.limit.wall_us
            if first_at is not None and wall_us is not None and now - first_at > wall_us:
                raise words.out_of_time(pool, first_at, now)


def _names(call: Call) -> tuple[str, str | None]:
    """The call's run, and its parent if that is named. A call without an identity is its own."""
    identity = call.draft.identity
    return (identity.run_id, identity.parent_run_id) if identity is not None else (call.id, None)


def _counts(limit: Limit) -> bool:
    """Whether anything of a limit has to be added up."""
    return limit.wall_us is not None or any(cap is not None for cap in caps_of(limit))
