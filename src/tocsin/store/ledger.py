"""``ledger_api.LedgerBook`` on SQLite and PostgreSQL."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from tocsin.core.errors import InputError
from tocsin.core.ledger import Amounts
from tocsin.store.database import Database, Row, Session
from tocsin.store.ledger_api import (
    EVERY,
    NOTHING,
    AccountRow,
    Answer,
    Ask,
    Batch,
    Lease,
    Posting,
    Standing,
    Turn,
    Turned,
)

ALIVE_US = 10_000_000
"""A holder that was not heard of for this long is not waited for."""
LOST_US = 300_000_000
"""... and for this long is taken for lost: what it has leased is shown as uncertain."""

_Key = tuple[bytes, int]


class RelationalBook:
    """The accounts. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def turn(self, turn: Turn) -> Turned:
        with self._database.write() as session:
            row = session.one("ledger_holder", (turn.holder,))
            applied, fenced = (0, 0) if row is None else (row[0], row[1])
            applied = max(applied, turn.confirmed)
            fresh = [batch for batch in turn.batches if batch.number > applied]
            newest = fresh[-1].number if fresh else applied
            session.run("ledger_holder_put", (turn.holder, turn.home, newest, turn.now))
            _put_accounts(session, turn.accounts)
            _post(session, (p for batch in fresh for p in batch.postings), turn.now)
            _set_leases(session, turn.holder, turn.leases, fenced=bool(fenced))
            alive = {
                holder
                for holder, _, seen_at in session.all("ledger_holders")
                if seen_at > turn.now - ALIVE_US and holder != turn.holder
            }
            answers = _Desk(session, turn, alive).answers() if turn.asks else ()
        return Turned(answers=answers, company=bool(alive), fenced=bool(fenced))

    def wanted(self, holder: str) -> dict[tuple[bytes, int], int]:
        with self._database.read() as session:
            rows = session.all("ledger_wanted", (holder,))
        return {(bytes(row[0]), row[1]): row[2] for row in rows}

    def holders(self, home: str) -> list[tuple[str, int]]:
        with self._database.read() as session:
            rows = session.all("ledger_holders")
        return [(holder, seen_at) for holder, where, seen_at in rows if where == home]

    def bury(
        self,
        holder: str,
        *,
        batches: Sequence[Batch] = (),
        postings: Sequence[Posting] = (),
        leases_count: bool = False,
    ) -> bool:
        with self._database.write() as session:
            row = session.one("ledger_holder", (holder,))
            if row is None:
                return False
            last = [*postings]
            if leases_count:
                last += [_as_spent(r) for r in session.all("ledger_leases_of", (holder,))]
            fresh = [p for batch in batches if batch.number > row[0] for p in batch.postings]
            _post(session, [*fresh, *last], 0)
            session.run("ledger_leases_drop", (holder,))
            session.run("ledger_holder_drop", (holder,))
        return True

    def link(self, run_id: str, parent: str | None, now: int, *, most: int) -> tuple[str, ...]:
        with self._database.read() as session:
            known = session.one("ledger_parent", (run_id,))
            if parent is None or known is not None:
                return _ancestors(session, run_id, most)
        with self._database.write() as session:
            known = session.one("ledger_parent", (run_id,))
            if known is None:
                above = (parent, *_ancestors(session, parent, most))
                if run_id in above:
                    raise InputError(
                        f"the run {run_id} cannot be started by {parent}: that is itself one of "
                        f"its child runs. Name another parent, or none."
                    )
                if len(above) > most:
                    raise InputError(
                        f"the run {run_id} would have more than {most} ancestors. "
                        "Start it from a run that is not as deep."
                    )
                session.run("ledger_link", (run_id, parent, now))
            return _ancestors(session, run_id, most)

    def accounts(
        self, limit_name: str, *, value: str | None = None, run_id: str | None = None, most: int
    ) -> list[AccountRow]:
        with self._database.read() as session:
            if value is not None and run_id is not None:
                rows = session.all("ledger_accounts_of_both", (limit_name, value, run_id, most))
            elif run_id is not None:
                rows = session.all("ledger_accounts_of_run", (limit_name, run_id, most))
            elif value is not None:
                rows = session.all("ledger_accounts_of_value", (limit_name, value, most))
            else:
                rows = session.all("ledger_accounts", (limit_name, most))
            return [_account(row) for row in rows]

    def standings(self, windows: Sequence[tuple[bytes, int]], *, now: int) -> dict[bytes, Standing]:
        with self._database.read() as session:
            lost = {
                holder
                for holder, _, seen_at in session.all("ledger_holders")
                if seen_at <= now - LOST_US
            }
            return _Windows(session, windows, lost).standings()

    def add_extra(
        self, account: AccountRow, start: int, extra: Amounts, *, by: str, at: int
    ) -> None:
        with self._database.write() as session:
            _put_accounts(session, (account,))
            session.write_rows(
                "ledger_bucket_add", [account.id, start, at, *([0] * 12), *_flat(extra)]
            )
            session.run("add_audit", (at, by, "limit.raise", _target(account), _said(extra)))

    def reconcile(
        self, account: AccountRow, since: int, used: Amounts, *, by: str, at: int
    ) -> Amounts:
        with self._database.write() as session:
            _settle_lost(session, account.id, since, at)
            left = list(_flat(used))
            back = NOTHING
            rows = session.listed("ledger_buckets", [account.id], (since,))
            for row in sorted(rows, key=lambda row: int(row[1])):
                uncertain = row[7:11]
                kept = [min(have, want) for have, want in zip(uncertain, left, strict=True)]
                left = [want - took for want, took in zip(left, kept, strict=True)]
                given = [have - took for have, took in zip(uncertain, kept, strict=True)]
                session.run("ledger_settle", (*given, account.id, row[1]))
                back += Amounts(*given)
            session.run("add_audit", (at, by, "limit.reconcile", _target(account), _said(used)))
        return back

    def prune(self, *, accounts_before: int, buckets_before: int) -> None:
        with self._database.write() as session:
            session.run("ledger_prune_buckets", (accounts_before,))
            session.run("ledger_prune_accounts", (accounts_before,))
            session.run("ledger_prune_old", (buckets_before,))
            session.run("ledger_prune_runs", (accounts_before,))


class _Windows:
    """Reads how some accounts stand, each since a bucket of its own, in few queries."""

    def __init__(
        self, session: Session, windows: Iterable[tuple[bytes, int]], lost: set[str]
    ) -> None:
        self._lost = lost
        groups: dict[int, list[bytes]] = defaultdict(list)
        for account, since in windows:
            groups[since].append(account)
        self.leases: dict[bytes, list[Lease]] = defaultdict(list)
        self._buckets: dict[bytes, list[Row]] = defaultdict(list)
        self._ids = [account for found in groups.values() for account in found]
        for since, accounts in groups.items():
            distinct = list(dict.fromkeys(accounts))
            for row in _distinct(session.listed("ledger_buckets", distinct, (since,)), 2):
                self._buckets[bytes(row[0])].append(row)
            for row in _distinct(session.listed("ledger_leases", distinct, (since,)), 3):
                self.leases[bytes(row[0])].append(_lease(row))

    def standings(self) -> dict[bytes, Standing]:
        return {account: self.standing(account) for account in self._ids}

    def standing(self, account: bytes) -> Standing:
        """How one account stands now."""
        buckets, leases = self._buckets[account], self.leases[account]
        return Standing(
            spent=_sum(Amounts(*row[3:7]) for row in buckets),
            uncertain=_sum(Amounts(*row[7:11]) for row in buckets),
            estimated=_sum(Amounts(*row[11:15]) for row in buckets),
            extra=_sum(Amounts(*row[15:19]) for row in buckets),
            leased=_sum(lease.granted for lease in leases),
            held=_sum(lease.held for lease in leases if lease.holder not in self._lost),
            lost=_sum(lease.granted for lease in leases if lease.holder in self._lost),
            first_at=min((row[2] for row in buckets), default=None),
        )


class _Desk:
    """Answers what one holder asks for."""

    def __init__(self, session: Session, turn: Turn, alive: set[str]) -> None:
        self._session = session
        self._turn = turn
        self._alive = alive
        ids = list(dict.fromkeys(ask.account for ask in turn.asks))
        self._latest = {bytes(r[0]): int(r[1]) for r in session.listed("ledger_latest", ids)}
        opened: list[Any] = []
        for ask in self._current():
            opened += [ask.account, ask.start, turn.now, *([0] * 16)]
        session.write_rows("ledger_bucket_open", opened)
        windows = [(ask.account, ask.since) for ask in turn.asks]
        self._windows = _Windows(session, windows, set())

    def _current(self) -> list[Ask]:
        return [ask for ask in self._turn.asks if ask.end > self._latest.get(ask.account, 0)]

    def answers(self) -> tuple[Answer, ...]:
        return tuple([self._answer(ask) for ask in self._turn.asks])

    def _answer(self, ask: Ask) -> Answer:
        latest = self._latest.get(ask.account, 0)
        standing = self._windows.standing(ask.account)
        if ask.end <= latest:
            return Answer(account=ask.account, start=ask.start, latest=latest, standing=standing)
        if ask.start > latest:
            self._session.run("ledger_account_advance", (ask.start, ask.account, ask.start))
        grant, short = _grant(ask, standing)
        if any(grant):
            # What was answered before is no longer all that this holder could give back.
            key = (ask.account, ask.start, self._turn.holder)
            if not self._session.run("ledger_lease_grant", (*grant, *key)):
                self._session.write_rows("ledger_lease_put", [*key, *grant, 0, 0, 0, 0, 0, 0])
        recalled, answered = self._recall(ask, short)
        return Answer(
            account=ask.account,
            start=ask.start,
            latest=max(ask.start, latest),
            granted=Amounts(*grant),
            short=bool(short),
            recalled=recalled,
            answered=answered,
            standing=standing,
        )

    def _recall(self, ask: Ask, short: list[int]) -> tuple[int, int]:
        """Call back what others have of the units that fall short. Returns the recall that this
        began, or 0, and the one that all of them have answered."""
        others = [
            lease
            for lease in (self._windows.leases[ask.account] if short else ())
            if lease.holder in self._alive and any(_flat(lease.granted)[u] for u in short)
        ]
        if not others:
            return 0, EVERY
        number = ask.recalled
        if ask.recall:
            # Above all that any of them may be about to answer, with what it knew before.
            number = max(number, *[max(lease.wanted, lease.answers) for lease in others]) + 1
        for lease in others:
            if max(lease.wanted, lease.answers) < number:
                key = (lease.account, lease.start, lease.holder)
                self._session.run("ledger_lease_want", (number, *key))
        return number if ask.recall else 0, min(lease.answers for lease in others)


def _grant(ask: Ask, standing: Standing) -> tuple[list[int], list[int]]:
    """What is given, and the units of which there is less than needed.

    What would serve nobody stays here, where everybody finds it: pieces that several holders have
    could together be enough for a call.
    """
    free, short = [0, 0, 0, 0], []
    need = _flat(ask.need)
    spent, leased, extra = _flat(standing.spent), _flat(standing.leased), _flat(standing.extra)
    for unit, cap in enumerate(ask.caps):
        if cap is None:
            continue
        free[unit] = max(0, cap + extra[unit] - spent[unit] - leased[unit])
        if free[unit] < need[unit]:
            short.append(unit)
    if short:
        least = _flat(ask.least)
        if any(free[unit] < least[unit] for unit in short):
            return [0, 0, 0, 0], short
        # All that is left of what is short: the calls that wait may fit one by one.
        return [min(f, n) for f, n in zip(free, need, strict=True)], short
    if not any(need):
        return [0, 0, 0, 0], []
    return [
        min(f, max(n, int(f * ask.fraction))) if ask.caps[u] is not None else 0
        for u, (f, n) in enumerate(zip(free, need, strict=True))
    ], []


def forget_end_user(session: Session, name: str) -> None:
    """Delete the accounts of one end user, and the name from who raised or reconciled them.

    What the user's calls have spent still counts in every other account.
    """
    said = session.all("ledger_audit")
    accounts = [_account(row) for row in session.all("ledger_accounts_of_user", (name,))]
    targets = {_target(account): account.limit_name for account in accounts}
    for number, target in said:
        if target in targets:
            session.run("ledger_forget_audit", (f"{targets[target]}/(forgotten)", number))
    for what in ("leases", "buckets", "accounts"):
        session.run(f"ledger_forget_{what}", (name,))


# -- rows --


def _put_accounts(session: Session, accounts: Sequence[AccountRow]) -> None:
    flat: list[Any] = []
    for one in {account.id: account for account in accounts}.values():
        flat += [one.id, one.limit_name, one.scope, one.value, one.run_id]
        flat += [one.latest, one.touched_at]
    session.write_rows("ledger_account_put", flat)


def _post(session: Session, postings: Iterable[Posting], now: int) -> None:
    sums: dict[_Key, list[Amounts]] = {}
    for one in postings:
        total = sums.setdefault((one.account, one.start), [NOTHING, NOTHING, NOTHING])
        total[0] += one.spent
        total[1] += one.uncertain
        total[2] += one.estimated
    flat: list[Any] = []
    for (account, start), total in sums.items():
        flat += [account, start, now or start]
        flat += [value for amounts in total for value in _flat(amounts)]
        flat += [0, 0, 0, 0]
    session.write_rows("ledger_bucket_add", flat)


def _set_leases(session: Session, holder: str, leases: Sequence[Lease], *, fenced: bool) -> None:
    flat: list[Any] = []
    for lease in leases:
        granted = lease.held if fenced else lease.granted
        if not any(_flat(granted)) and not any(_flat(lease.held)):
            session.run("ledger_lease_drop", (lease.account, lease.start, holder))
            continue
        flat += [lease.account, lease.start, holder, *_flat(granted), *_flat(lease.held)]
        flat += [lease.answers, lease.answers]
    session.write_rows("ledger_lease_put", flat)


def _settle_lost(session: Session, account: bytes, since: int, now: int) -> None:
    """Leases of holders that are lost become spent, as uncertain; such a holder is fenced."""
    lost = {h for h, _, seen_at in session.all("ledger_holders") if seen_at <= now - LOST_US}
    for row in _distinct(session.listed("ledger_leases", [account], (since,)), 3):
        if row[2] in lost:
            _post(session, [_as_spent(row)], now)
            session.run("ledger_lease_drop", (row[0], row[1], row[2]))
            session.run("ledger_holder_fence", (row[2],))


def _ancestors(session: Session, run_id: str, most: int) -> tuple[str, ...]:
    found: list[str] = []
    while len(found) <= most:
        row = session.one("ledger_parent", (run_id,))
        if row is None or row[0] in found:
            break
        run_id = row[0]
        found.append(run_id)
    return tuple(found)


def _account(row: Row) -> AccountRow:
    return AccountRow(
        id=bytes(row[0]),
        limit_name=row[1],
        scope=row[2],
        value=row[3],
        run_id=row[4],
        latest=row[5],
        touched_at=row[6],
    )


def _lease(row: Row) -> Lease:
    """A lease as it is stored."""
    return Lease(
        account=bytes(row[0]),
        start=row[1],
        holder=row[2],
        granted=Amounts(*row[3:7]),
        held=Amounts(*row[7:11]),
        wanted=row[11],
        answers=row[12],
    )


def _target(account: AccountRow) -> str:
    """An account's name in the audit log."""
    return "/".join(filter(None, (account.limit_name, account.value, account.run_id)))


def _as_spent(row: Row) -> Posting:
    amounts = Amounts(*row[3:7])
    return Posting(bytes(row[0]), row[1], amounts, amounts)


def _flat(amounts: Amounts) -> tuple[int, int, int, int]:
    return amounts.nano_usd, amounts.tokens, amounts.calls, amounts.tool_calls


def _sum(amounts: Iterable[Amounts]) -> Amounts:
    total = NOTHING
    for one in amounts:
        total += one
    return total


def _distinct(rows: list[Row], width: int) -> list[Row]:
    """Rows by their first columns: a padded list may name an account twice, never twice a row."""
    return list({row[:width]: row for row in rows}.values())


def _said(amounts: Amounts) -> str:
    names = ("nano_usd", "tokens", "calls", "tool_calls")
    pairs = zip(names, _flat(amounts), strict=True)
    return ", ".join(f"{name} {value}" for name, value in pairs if value)
