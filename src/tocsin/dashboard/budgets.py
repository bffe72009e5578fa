"""Accounts of the ledger as lines of a page: held, spent and left, nearest to its limit first.

Pure. An account has one line for each amount that its limit names.
"""

from collections.abc import Mapping, Sequence

import msgspec
from markupsafe import Markup

from tocsin.core.ledger import Account, Amounts, Limit
from tocsin.dashboard import charts, filters, fmt
from tocsin.dashboard.filters import segment

_KINDS = ("nano_usd", "tokens", "calls", "tool_calls")
_UNITS = {"tokens": "tokens", "calls": "calls", "tool_calls": "tool calls"}
_WINDOWS = {"hour": "per hour", "day": "per day", "month": "per month"}
_ROLLING = {"hour": "rolling hour", "day": "rolling day", "month": "rolling 30 days"}


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One amount of one account, in words and as a bar."""

    unit: str
    """Empty for money, which says it itself."""
    spent: str
    held: str
    left: str
    most: str
    raised: str
    """How much of ``most`` was added by hand; empty for nothing."""
    uncertain: str
    estimated: str
    share: float
    """Spent and held, as a fraction of the limit; above 1 when it is passed."""
    tone: str
    """``ok``, ``look`` from the first warning on, ``act`` when nothing is left."""
    bar: Markup


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """One account."""

    account: Account
    owner: str
    """Whose account it is: a feature, a key's name, a run's title; empty for everybody's."""
    href: str
    window: str
    also: str
    """Limits that are no amounts: depth and time."""
    lines: tuple[Line, ...]

    @property
    def uncertain(self) -> bool:
        """Whether any of it is counted without knowing."""
        return any(line.uncertain for line in self.lines)

    @property
    def estimated(self) -> bool:
        """Whether any of it is an estimate."""
        return any(line.estimated for line in self.lines)

    @property
    def share(self) -> float:
        """How near the nearest of its amounts is to the limit."""
        return max((line.share for line in self.lines), default=0.0)


def budgets(
    accounts: Sequence[Account], keys: Mapping[str, str], titles: Mapping[str, str]
) -> list[Budget]:
    """Accounts, nearest to a limit first. ``keys`` and ``titles`` name key ids and run ids."""
    found = [_budget(account, keys, titles) for account in accounts]
    return sorted(found, key=lambda b: (-b.share, b.account.limit.name, b.owner))


def _budget(account: Account, keys: Mapping[str, str], titles: Mapping[str, str]) -> Budget:
    owner, href = _owner(account, keys, titles)
    limit = account.limit
    lines = [_line(account, kind) for kind in _KINDS if getattr(limit, kind) is not None]
    return Budget(
        account=account,
        owner=fmt.one_line(owner, 80),
        href=href,
        window=window(limit),
        also=also(limit),
        lines=tuple(lines),
    )


def _owner(account: Account, keys: Mapping[str, str], titles: Mapping[str, str]) -> tuple[str, str]:
    """Whose account it is, and the page that shows what was spent from it."""
    scope, value = account.limit.scope, account.value
    if account.run_id is not None or scope == "run":
        run = account.run_id or value
        return titles.get(run) or run, f"/runs/{segment(run)}"
    if scope == "organisation":
        return "", "/calls"
    if scope == "feature":
        return value, filters.build("/", {"feature": value})
    if scope == "key":
        return keys.get(value) or value, filters.build("/calls", {"key_id": value})
    return value, filters.build("/calls", {"end_user": value})


def window(limit: Limit) -> str:
    """Over what a limit counts, in words."""
    if limit.per == "run":
        return "each run"
    if limit.per == "ever":
        return "each run" if limit.scope == "run" else "for ever"
    if limit.rolling:
        return _ROLLING[limit.per]
    zone = "" if limit.timezone == "UTC" else f", {limit.timezone}"
    return _WINDOWS[limit.per] + zone


def also(limit: Limit) -> str:
    """What a limit asks besides amounts."""
    said = []
    if limit.depth is not None:
        said.append(
            "no child runs" if limit.depth == 0 else f"child runs at most {limit.depth} deep"
        )
    if limit.wall_us is not None:
        said.append(f"at most {fmt.duration(limit.wall_us)} from the first call")
    return ", ".join(said)


def amounts(limit: Limit) -> str:
    """All that a limit allows, in words: ``$5.00, 200 calls``."""
    said = []
    for kind in _KINDS:
        most = getattr(limit, kind)
        if most is not None:
            said.append(f"{_said(kind, most)} {_UNITS.get(kind, '')}".strip())
    if also(limit):
        said.append(also(limit))
    return ", ".join(said) or "nothing"


def _line(account: Account, kind: str) -> Line:
    def of(amounts: Amounts) -> int:
        value: int = getattr(amounts, kind)
        return value

    added = of(account.extra)
    most = getattr(account.limit, kind) + added
    spent, held, unsure = of(account.spent), of(account.held), of(account.uncertain)
    used = spent + held
    share = used / most if most > 0 else (1.0 if used or most <= 0 else 0.0)
    warn = min(account.limit.warn_at, default=1.0)
    tone = "act" if used >= most else "look" if share >= warn else "ok"
    left = _said(kind, most - used) if used <= most else f"{_said(kind, used - most)} over"
    guess = of(account.estimated)
    said = f"{_said(kind, spent)} spent, {_said(kind, held)} held, {left}"
    return Line(
        unit=_UNITS.get(kind, ""),
        spent=_said(kind, spent),
        held=_said(kind, held) if held else "",
        left=left,
        most=_said(kind, most),
        raised=_said(kind, added) if added else "",
        uncertain=_said(kind, unsure) if unsure else "",
        estimated=_said(kind, guess) if guess else "",
        share=share,
        tone=tone,
        bar=charts.level_bar(
            [
                (tone if tone != "ok" else "s1", spent - min(unsure, spent)),
                ("uncertain", min(unsure, spent)),
                ("held", held),
            ],
            max(most, used, 1),
            said if used > most else f"{said} left of {_said(kind, most)}",
        ),
    )


def _said(kind: str, value: int) -> str:
    if kind == "nano_usd":
        return fmt.money(value)
    return fmt.tokens(value) if kind == "tokens" else fmt.count(value)
