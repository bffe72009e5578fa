"""The judge of a race: what was billed, what was overspent, which refusals were false.

See the docstring of ``bench/race.py`` for the bounds and why they are right.
"""

from __future__ import annotations

import bisect
import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.race_client import Made

REFUSED = frozenset({"limited", "broken"})
"""How attempts end that the upstream answers with an error, which nobody bills."""
_MORE = REFUSED | {"drop", "cut"}
"""How attempts end after which a gateway may make another."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """One budget of a race; ``level`` is its kind (run, user, key). Money is nano US dollars."""

    name: str
    level: str
    budget: int


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call with what it may hold of each of its accounts, and what it counts in the end."""

    made: Made
    ended: float
    """When it was over for the gateway, at the latest."""
    holds: int
    """Most that it may hold or have counted while it is under way."""
    counts: int
    """Most that it may count once it is over."""
    bills: tuple[tuple[float, int], ...]
    """(when, nano US dollars) of its billed attempts."""


@dataclass(kw_only=True)
class Verdict:
    """What one account saw."""

    account: Account
    calls: int = 0
    allowed: int = 0
    denied: int = 0
    billed: int = 0
    counted: int = 0
    """Billed, and what counts in full because it was cut or orphaned."""
    began: float = 0.0
    ended: float = 0.0
    bills: list[tuple[float, int]] = field(default_factory=list)

    @property
    def over(self) -> int:
        """Billed beyond the budget."""
        return max(0, self.billed - self.account.budget)


@dataclass(frozen=True, kw_only=True)
class FalseDenial:
    """A refusal although every account of the call had room. ``room`` is the least of them."""

    call: str
    at: float
    worst: int
    room: int
    account: str
    status: int
    said: str


@dataclass(kw_only=True)
class Judgement:
    """The whole race of one target."""

    verdicts: dict[str, Verdict]
    false: list[FalseDenial]
    outcomes: Mapping[str, int]
    attempts: int


NOTICE_S = 1.0
"""How long a gateway may hold what a call reserved after its client has left."""


def weighed(
    made: Made,
    attempts: Sequence[Mapping[str, Any]],
    kills: Sequence[float],
    settle_s: float = 0.0,
) -> Call:
    """One call with its attempts, in the order in which the upstream got them."""
    bills = tuple((float(a["ended"] or a["began"]), int(a["nano"])) for a in attempts if a["nano"])
    counts = sum(_counts(attempt, made) for attempt in attempts)
    reserved, ended = len(attempts), made.ended + settle_s
    if made.regular:
        # The books of a call without an attempt may be open while it is under way.
        reserved = reserved or made.how != "denied"
    elif made.how != "unsent":
        reserved += 1
        ended = made.ended + max(NOTICE_S, settle_s)
        killed = bisect.bisect_left(kills, made.began) < bisect.bisect_right(kills, ended)
        if killed and (not attempts or attempts[-1]["how"] in _MORE):
            # Reserved, and then killed before the upstream saw it; or settled too late.
            counts += made.worst
        if killed and attempts and attempts[-1]["how"] in REFUSED:
            counts += made.worst
    holds = max(reserved * made.worst, counts)
    return Call(made=made, ended=ended, holds=holds, counts=counts, bills=bills)


def _counts(attempt: Mapping[str, Any], made: Made) -> int:
    """Most that an attempt may count once its call is over."""
    if attempt["how"] in REFUSED and not attempt["nano"]:
        return 0
    # What the upstream said is known to a gateway for sure only if the client had it all.
    return int(attempt["nano"]) if attempt["reported"] and made.regular else made.worst


class _Ledger:
    """One account's calls, ready to be asked what may have been taken at any time."""

    def __init__(self, calls: Iterable[Call]) -> None:
        by_start = sorted(calls, key=lambda call: call.made.began)
        by_end = sorted(by_start, key=lambda call: call.ended)
        self._starts = [call.made.began for call in by_start]
        self._ends = [call.ended for call in by_end]
        total = itertools.accumulate
        self._held = [0, *total(call.holds for call in by_start)]
        self._held_ended = [0, *total(call.holds for call in by_end)]
        self._counted = [0, *total(call.counts for call in by_end)]

    def most(self, began: float, ended: float) -> int:
        """Most that may have been taken at some instant between ``began`` and ``ended``."""
        over = bisect.bisect_left(self._ends, began)
        begun = bisect.bisect_right(self._starts, ended)
        return self._counted[over] + self._held[begun] - self._held_ended[over]


def judge(
    accounts: Mapping[str, Account],
    calls: Sequence[Made],
    attempts: Sequence[Mapping[str, Any]],
    kills: Sequence[float],
    *,
    tolerance: int = 0,
    settle_s: float = 0.0,
) -> Judgement:
    """Judge a race from what the clients and the upstream wrote down.

    ``tolerance`` (nano US dollars) is allowed to be missing from every account; ``settle_s`` is how
    long after its last byte a call may still hold what it reserved.
    """
    seen: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for attempt in attempts:
        seen[attempt["call"]].append(attempt)
    whole = [weighed(made, seen.get(made.id, ()), kills, settle_s) for made in calls]
    by_account: dict[str, list[Call]] = defaultdict(list)
    for call in whole:
        for name in call.made.accounts:
            by_account[name].append(call)
    verdicts = {name: _verdict(accounts[name], found) for name, found in by_account.items()}
    ledgers = {name: _Ledger(found) for name, found in by_account.items()}
    outcomes: dict[str, int] = defaultdict(int)
    false: list[FalseDenial] = []
    for call in whole:
        outcomes[call.made.how] += 1
        if call.made.how == "denied":
            found = _false(call.made, accounts, ledgers, tolerance)
            if found is not None:
                false.append(found)
    return Judgement(
        verdicts=verdicts, false=false, outcomes=dict(outcomes), attempts=len(attempts)
    )


def _false(
    made: Made,
    accounts: Mapping[str, Account],
    ledgers: Mapping[str, _Ledger],
    tolerance: int,
) -> FalseDenial | None:
    """A refusal is right as soon as one account may have been short of the call's worst case."""
    least: tuple[int, str] | None = None
    for name in made.accounts:
        taken = ledgers[name].most(made.began, made.ended)
        room = accounts[name].budget - tolerance - taken
        if room < made.worst:
            return None
        if least is None or room < least[0]:
            least = (room, name)
    if least is None:
        return None
    return FalseDenial(
        call=made.id,
        at=made.ended,
        worst=made.worst,
        room=least[0],
        account=least[1],
        status=made.status,
        said=made.said,
    )


def _verdict(account: Account, calls: Sequence[Call]) -> Verdict:
    verdict = Verdict(account=account)
    verdict.began = min(call.made.began for call in calls)
    verdict.ended = max(call.made.ended for call in calls)
    for call in calls:
        verdict.calls += 1
        verdict.denied += call.made.how == "denied"
        verdict.allowed += bool(call.bills)
        verdict.counted += call.counts
        verdict.billed += sum(nano for _, nano in call.bills)
        verdict.bills += call.bills
    verdict.bills.sort()
    return verdict


def intervals(judgement: Judgement, kills: Sequence[float]) -> list[dict[str, Any]]:
    """What went wrong between each kill and the next: new overspend, and false denials."""
    rows = [{"kill": n, "overspent_nano": 0, "false_denials": 0} for n in range(len(kills) + 1)]
    for verdict in judgement.verdicts.values():
        total = 0
        for at, nano in verdict.bills:
            before = max(0, total - verdict.account.budget)
            total += nano
            rows[bisect.bisect_right(kills, at)]["overspent_nano"] += (
                max(0, total - verdict.account.budget) - before
            )
    for denial in judgement.false:
        rows[bisect.bisect_right(kills, denial.at)]["false_denials"] += 1
    return rows


def survived(verdict: Verdict, kills: Sequence[float]) -> int:
    """How many kills fell between the first and the last call of an account."""
    return bisect.bisect_left(kills, verdict.ended) - bisect.bisect_left(kills, verdict.began)


def used_up(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The accounts that refused something: of them it can be asked how full they were."""
    return [verdict for verdict in verdicts if verdict.denied]


def middle(values: Iterable[float]) -> float | None:
    """The median, or None without values."""
    known = list(values)
    return statistics.median(known) if known else None
