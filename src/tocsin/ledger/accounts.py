"""Accounts as pages and programs read them, and what a person may change by hand.

All of it works on the store alone, so that commands can do it beside a running Tocsin.
"""

from collections.abc import Sequence

from tocsin.core.errors import InputError, NotFound
from tocsin.core.ledger import Account, Amounts, Limit
from tocsin.ledger.limits import account_id
from tocsin.ledger.till import Till
from tocsin.ledger.windows import Window, window_at
from tocsin.store.ledger_api import NOTHING, AccountRow, LedgerBook, Standing

_EVERYTHING = Amounts(1 << 60, 1 << 60, 1 << 60, 1 << 60)


def read_accounts(
    book: LedgerBook,
    limits: Sequence[Limit],
    now: int,
    *,
    limit: str | None = None,
    scope: str | None = None,
    value: str | None = None,
    run_id: str | None = None,
    most: int = 500,
    till: Till | None = None,
) -> list[Account]:
    """Accounts of the configured limits, as the store has them; those of ``till`` as it has them.

    ``most`` of each limit, the last used first. An account of the whole organisation is there
    before its first call. Raises ``StoreError``.
    """
    found = []
    for one in limits:
        if limit not in (None, one.name) or scope not in (None, one.scope):
            continue
        rows = book.accounts(one.name, value=value, run_id=run_id, most=most)
        if not rows and one.scope == "organisation" and one.per != "run" and not (value or run_id):
            rows = [_row(one, "", "", now)]
        windows = {row.id: window_at(one, max(now, row.latest)) for row in rows}
        standings = book.standings([(i, w.since) for i, w in windows.items()], now=now)
        found += [
            _account(one, row, windows[row.id], standings.get(row.id, Standing()), till)
            for row in rows
        ]
    return found


def add(
    book: LedgerBook,
    limit: Limit,
    value: str,
    run_id: str | None,
    amounts: Amounts,
    by: str,
    now: int,
) -> None:
    """Raise a limit for one account, until its window ends. Raises ``InputError``."""
    values = (amounts.nano_usd, amounts.tokens, amounts.calls, amounts.tool_calls)
    if min(values) < 0 or not any(values):
        raise InputError("say by how much to raise the limit: a positive amount")
    row, window = _place(book, limit, value, run_id, now)
    book.add_extra(row, window.start, amounts, by=by, at=now)


def reconcile(
    book: LedgerBook,
    limit: Limit,
    value: str,
    run_id: str | None,
    amounts: Amounts | None,
    by: str,
    now: int,
) -> Amounts:
    """Settle what is uncertain in an account's window: of it, ``amounts`` was really spent.

    ``None`` means all of it. Returns what was given back. Raises ``NotFound`` or ``InputError``.
    """
    used = _EVERYTHING if amounts is None else amounts
    if min(used.nano_usd, used.tokens, used.calls, used.tool_calls) < 0:
        raise InputError("what was really spent cannot be negative")
    row, window = _place(book, limit, value, run_id, now)
    if not book.accounts(limit.name, value=value, run_id=run_id or "", most=1):
        raise NotFound(f"the limit '{limit.name}' has no account of {value!r} {run_id or ''}")
    return book.reconcile(row, window.since, used, by=by, at=now)


def limit_named(limits: Sequence[Limit], name: str) -> Limit:
    """The limit of this name. Raises ``NotFound``."""
    for limit in limits:
        if limit.name == name:
            return limit
    names = ", ".join(limit.name for limit in limits) or "none"
    raise NotFound(f"there is no limit '{name}'; configured are: {names}")


def _place(
    book: LedgerBook, limit: Limit, value: str, run_id: str | None, now: int
) -> tuple[AccountRow, Window]:
    """An account and the window that it fills now. Raises ``InputError`` for a wrong name."""
    if limit.per == "run" and not run_id:
        raise InputError(f"the limit '{limit.name}' is per run; say which run")
    if limit.per != "run" and run_id:
        raise InputError(f"the limit '{limit.name}' is not per run; leave the run out")
    if limit.scope == "organisation" and value:
        raise InputError(f"the limit '{limit.name}' is the organisation's; leave the value out")
    row = _row(limit, value, run_id or "", now)
    known = book.accounts(limit.name, value=value, run_id=run_id or "", most=1)
    latest = known[0].latest if known else 0
    return row, window_at(limit, max(now, latest))


def _row(limit: Limit, value: str, run_id: str, now: int) -> AccountRow:
    return AccountRow(
        id=account_id(limit.name, value, run_id),
        limit_name=limit.name,
        scope=limit.scope,
        value=value,
        run_id=run_id,
        touched_at=now,
    )


def _account(
    limit: Limit, row: AccountRow, window: Window, standing: Standing, till: Till | None
) -> Account:
    spent, uncertain, estimated = standing.spent, standing.uncertain, standing.estimated
    held = standing.held
    if till is not None:
        unsaid, own = till.unsaid((row.id, window.start))
        if unsaid is not None:
            spent += unsaid.spent
            uncertain += unsaid.uncertain
            estimated += unsaid.estimated
        held = held - till.said_held((row.id, window.start)) + own
    return Account(
        limit=limit,
        value=row.value,
        run_id=row.run_id or None,
        window_start=window.since,
        resets_at=window.resets_at,
        spent=spent + standing.lost,
        held=held,
        uncertain=uncertain + standing.lost,
        estimated=estimated,
        extra=standing.extra if standing.extra != NOTHING else Amounts(),
    )
