"""What the ledger asks of a store: accounts, leases and holders, in transactions.

An account's *bucket* is one step of time, named by its start (microseconds since the epoch; 0 where
a limit knows no windows). A window is a bucket, or the last 61 of a rolling limit. A *holder* is a
process that spends; a *lease* is what it may spend of one bucket without asking.

At every grant: spent in the window + all leases in it <= the limit + what was added by hand.

When too little is left, other holders are asked to give back what they do not use. Such *recalls*
are numbered upwards: a holder's lease names the newest recall that it knew of when it last gave
back everything, so that whoever asks can tell whether that was before or after its own.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from tocsin.core.ledger import Amounts

Caps = tuple[int | None, int | None, int | None, int | None]
"""Limits in the order of ``Amounts``; ``None`` does not limit."""

NOTHING = Amounts()
EVERY = 1 << 62
"""``Answer.answered`` where nobody has anything that could be given back."""


class AccountRow(msgspec.Struct, frozen=True, kw_only=True):
    """One account; ``id`` is a hash of the three names."""

    id: bytes
    limit_name: str
    value: str
    run_id: str = ""
    scope: str = ""
    """The limit's: it says what ``value`` names."""
    latest: int = 0
    """The newest bucket that anybody was granted something in."""
    touched_at: int = 0


class Posting(msgspec.Struct, frozen=True, array_like=True):
    """What is added to a bucket. ``uncertain`` and ``estimated`` are parts of ``spent``."""

    account: bytes
    start: int
    spent: Amounts
    uncertain: Amounts = NOTHING
    estimated: Amounts = NOTHING


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """Postings that are applied together, and once: batches of a holder are numbered upwards."""

    number: int
    postings: tuple[Posting, ...]


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """What a holder has of a bucket now: an absolute value, never less than what calls hold."""

    account: bytes
    start: int
    granted: Amounts = NOTHING
    held: Amounts = NOTHING
    holder: str = ""
    answers: int = 0
    """The newest recall that the holder knew of when it gave back all that it did not need; 0 when
    this says nothing of the kind."""
    wanted: int = 0
    """The newest recall, as the store has it."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """``need`` more of a bucket. Of what is limited, up to ``fraction`` of what is left is given;
    a holder that asks for nothing learns how the account stands."""

    account: bytes
    start: int
    since: int
    """First bucket of the window."""
    end: int
    """When the bucket is filled no more."""
    need: Amounts
    caps: Caps
    least: Amounts = NOTHING
    """With less than this nobody is served, so nothing is given when less is left."""
    fraction: float
    recall: bool = True
    """When it falls short: begin a new recall of what other holders do not use."""
    recalled: int = 0
    """The newest recall that this holder waits for: whoever has not answered it is asked again."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How an account stands in a window."""

    spent: Amounts = NOTHING
    uncertain: Amounts = NOTHING
    estimated: Amounts = NOTHING
    extra: Amounts = NOTHING
    leased: Amounts = NOTHING
    """By all holders."""
    held: Amounts = NOTHING
    """By calls of all holders, as they last said."""
    lost: Amounts = NOTHING
    """Leases of holders that have not been heard of for long."""
    first_at: int | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an ``Ask``."""

    account: bytes
    start: int
    latest: int
    """The account's newest bucket. At or after the ``end`` that was asked with, nothing is granted:
    others have moved on, whatever this holder's clock says. Ask again, there."""
    granted: Amounts = NOTHING
    short: bool = False
    """There is less left than was needed; ``granted`` is all of it that serves anybody."""
    recalled: int = 0
    """The recall that has been begun; 0 where none was."""
    answered: int = EVERY
    """All other holders that have anything of what is short have answered this recall, and all
    before it."""
    standing: Standing


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """All that a holder has to say and to ask, in one transaction, in this order."""

    holder: str
    home: str
    now: int
    confirmed: int = 0
    """The last batch that this holder knows to be applied."""
    accounts: tuple[AccountRow, ...] = ()
    """Accounts that may be new."""
    batches: tuple[Batch, ...] = ()
    leases: tuple[Lease, ...] = ()
    asks: tuple[Ask, ...] = ()


class Turned(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a ``Turn``."""

    answers: tuple[Answer, ...]
    company: bool
    """Whether other holders are alive."""
    fenced: bool = False
    """This holder was taken for lost and its leases were settled: it has what it holds, no more."""


class LedgerBook(Protocol):
    """Accounts, leases and holders, in transactions that other processes see whole.

    Every method may be called from any thread and raises ``StoreError``.
    """

    def turn(self, turn: Turn) -> Turned:
        """Apply batches that are not applied yet, set leases, then answer what is asked."""
        ...

    def wanted(self, holder: str) -> dict[tuple[bytes, int], int]:
        """Buckets (account, start) of which this holder should give back what it does not use,
        with the number of the newest recall."""
        ...

    def holders(self, home: str) -> list[tuple[str, int]]:
        """Holders whose journals lie, or lay, in this folder, and when they were last heard of."""
        ...

    def bury(
        self,
        holder: str,
        *,
        batches: Sequence[Batch] = (),
        postings: Sequence[Posting] = (),
        leases_count: bool = False,
    ) -> bool:
        """End a holder: apply its last batches and ``postings``, give its leases back.

        ``leases_count``: nobody knows what it spent, so its leases count in full, as uncertain.
        False, and nothing changes, when there is no such holder (it was buried before).
        """
        ...

    def link(self, run_id: str, parent: str | None, now: int, *, most: int) -> tuple[str, ...]:
        """Remember which run started ``run_id``; returns its ancestors, the nearest first.

        The first parent counts. Raises ``InputError`` when that would be a circle or more than
        ``most`` ancestors.
        """
        ...

    def accounts(
        self, limit_name: str, *, value: str | None = None, run_id: str | None = None, most: int
    ) -> list[AccountRow]:
        """Accounts of a limit, the last touched first."""
        ...

    def standings(self, windows: Sequence[tuple[bytes, int]], *, now: int) -> dict[bytes, Standing]:
        """How accounts stand since the bucket given for each."""
        ...

    def add_extra(
        self, account: AccountRow, start: int, extra: Amounts, *, by: str, at: int
    ) -> None:
        """Add to a limit for a bucket's windows, and write down who did. The account may be new."""
        ...

    def reconcile(
        self, account: AccountRow, since: int, used: Amounts, *, by: str, at: int
    ) -> Amounts:
        """Settle what is uncertain in a window: of it, ``used`` was really spent.

        Leases of holders that are lost become uncertain first. Returns what was given back.
        """
        ...

    def prune(self, *, accounts_before: int, buckets_before: int) -> None:
        """Delete accounts of runs that nothing touched since, old links of runs, old windows."""
        ...
