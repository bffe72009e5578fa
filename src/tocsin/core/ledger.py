"""The ledger in nouns: limits, accounts, and what one call may still cost.

Money is nano US dollars (1e-9 USD), an integer. An amount that a limit does not name is not
limited. ``Budget`` is the ledger's handle on one call: the router asks it before every attempt.
"""

from typing import Literal, Protocol

import msgspec

from tocsin.core.call import Call

Scope = Literal["organisation", "feature", "key", "end_user", "run"]
Period = Literal["run", "hour", "day", "month", "ever"]


class Amounts(msgspec.Struct, frozen=True, array_like=True):
    """What a call takes from an account."""

    nano_usd: int = 0
    tokens: int = 0
    calls: int = 0
    tool_calls: int = 0

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(
            self.nano_usd + other.nano_usd,
            self.tokens + other.tokens,
            self.calls + other.calls,
            self.tool_calls + other.tool_calls,
        )

    def __sub__(self, other: "Amounts") -> "Amounts":
        return Amounts(
            self.nano_usd - other.nano_usd,
            self.tokens - other.tokens,
            self.calls - other.calls,
            self.tool_calls - other.tool_calls,
        )


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """One limit of the configuration. It has one account for each value of its scope (and run)."""

    name: str
    scope: Scope = "organisation"
    match: tuple[str, ...] = ("*",)
    """Globs over the scope's values: feature names, key names or ids, end users, run ids."""
    per: Period = "ever"
    rolling: bool = False
    timezone: str = "UTC"
    nano_usd: int | None = None
    tokens: int | None = None
    calls: int | None = None
    tool_calls: int | None = None
    depth: int | None = None
    """Most ancestors that a run may have; 0 forbids child runs."""
    wall_us: int | None = None
    """Longest time from the first call of the account's run or window to a call's start."""
    warn_at: tuple[float, ...] = (0.8,)


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What one limit has seen of one value, as pages and programs read it."""

    limit: Limit
    value: str
    """The feature, key id, end user or run id; empty for the organisation."""
    run_id: str | None = None
    """Set when the limit is per run."""
    window_start: int
    """Microseconds since the epoch; of a rolling window, its edge now."""
    resets_at: int | None = None
    """When a calendar window ends; ``None`` for rolling ones, runs and ``ever``."""
    spent: Amounts = Amounts()
    """Settled. ``uncertain`` and ``estimated`` are parts of it."""
    held: Amounts = Amounts()
    """Reserved by calls that are under way."""
    uncertain: Amounts = Amounts()
    """Counted in full because nobody knows what was used (a killed process, a cut stream)."""
    estimated: Amounts = Amounts()
    """Settled by an estimate, because the upstream reported no usage."""
    extra: Amounts = Amounts()
    """Added to the limit by hand."""


class Budget(Protocol):
    """The ledger's handle on one call. The router asks before it sends; recording settles."""

    async def attempt(self, call: Call, *, upstream: str, provider: str, model: str) -> None:
        """Reserve the worst case of one more attempt from every account at once, or from none.

        Raises ``BudgetExceeded`` (nothing is reserved then), except where the ledger observes.
        """
        ...

    def unsent(self) -> None:
        """The attempt that was last paid for never reached its upstream: it costs nothing."""
        ...

    async def again(self) -> None:
        """Reserve the same once more, before the attempt is sent over another connection: what was
        sent over the first may have been seen. Raises as ``attempt`` does."""
        ...

    def abandon(self) -> None:
        """The call ends without a record: what it holds counts in full."""
        ...
