"""``tocsin limits``: what limits have left, a limit raised by hand, what is uncertain settled.

All of it works on the store alone, beside a running Tocsin or without one: the ledger of a running
process learns of a raised limit before it refuses the next call.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tocsin.cli import output
from tocsin.cli.context import opened, settings
from tocsin.cli.guard import OK
from tocsin.cli.stops import actor, key_id
from tocsin.core.clock import SystemClock
from tocsin.core.errors import InputError
from tocsin.core.ledger import Account, Amounts, Limit
from tocsin.dashboard import fmt
from tocsin.ledger import add, limit_named, limits_of, read_accounts, reconcile
from tocsin.store.api import Store

UNITS = Amounts.__struct_fields__
_NANO = 1_000_000_000
_ALL_OF_IT = 1 << 60
_KEYLESS = "anonymous"
"""Whose account calls without a key share."""


class Line(NamedTuple):
    """One unit of an account: a row of the table."""

    account: Account
    unit: str
    cap: int
    """The limit with what was added by hand."""
    left: int

    @property
    def share(self) -> float:
        """Of the limit: what is spent or held."""
        return 1.0 if not self.cap else (self.cap - self.left) / self.cap


# -- looking --


def listed(config: Path | None, name: str | None, *, most: int, json: bool) -> int:
    """Accounts of the limits, the fullest first; or of the one that is named."""
    found = settings(config).config
    limits = limits_of(found)
    if name is not None:
        limits = (limit_named(limits, name),)
    now = SystemClock().now_us()
    with opened(found) as store:
        accounts = read_accounts(store.ledger, limits, now, most=most)
        issued = store.keys()
    if json:
        output.print_json({"limits": [_plain(account) for account in accounts]})
    elif not limits:
        output.say("No limit is configured. Write one under [limits.NAME] in tocsin.toml.")
    else:
        lines = sorted(
            (line for account in accounts for line in _lines(account)), key=lambda li: -li.share
        )
        _print(lines[:most], {row.id: row.name for row in issued}, now)
        _say_more(limits, accounts, len(lines) - most)
    return OK


def _lines(account: Account) -> Iterator[Line]:
    for unit in UNITS:
        cap = getattr(account.limit, unit)
        if cap is not None:
            cap += getattr(account.extra, unit)
            taken = getattr(account.spent, unit) + getattr(account.held, unit)
            yield Line(account, unit, cap, cap - taken)


def _print(lines: Sequence[Line], keys: dict[str, str], now: int) -> None:
    made = output.table(
        ("limit", "*of", ">limit", ">spent", ">held", ">left", "resets", ">uncertain", ">estimated")
    )
    for line in lines:
        account, unit = line.account, line.unit
        warns = min(account.limit.warn_at, default=1.0)
        style = output.BAD if line.left <= 0 else output.LOOK if line.share >= warns else ""
        made.add_row(
            output.cell(account.limit.name),
            output.cell(_whose(account, keys)),
            _amount(unit, line.cap),
            _amount(unit, getattr(account.spent, unit)),
            _amount(unit, getattr(account.held, unit)),
            output.cell(_amount(unit, line.left), style),
            _resets(account, now),
            _if_any(unit, account.uncertain, output.LOOK),
            _if_any(unit, account.estimated, output.QUIET),
        )
    output.show(made)


def _whose(account: Account, keys: dict[str, str]) -> str:
    limit, value = account.limit, account.value
    if limit.scope == "organisation":
        owner = "everything"
    elif limit.scope == "key":
        owner = f"key {keys.get(value, value) or 'none'}"
    else:
        owner = f"{limit.scope.replace('_', ' ')} {value or 'none'}"
    if account.run_id and account.run_id != value:
        return f"{owner}, run {account.run_id}"
    return owner


def _resets(account: Account, now: int) -> str:
    if account.resets_at is not None:
        return f"in {fmt.duration(max(0, account.resets_at - now))}"
    return f"rolls over a {account.limit.per}" if account.limit.rolling else "never"


def _amount(unit: str, value: int) -> str:
    if unit == "nano_usd":
        return f"-{fmt.money(-value)}" if value < 0 else fmt.money(value)
    return f"{value:,} {unit.replace('_', ' ')}"


def _if_any(unit: str, amounts: Amounts, style: str) -> Any:
    value = getattr(amounts, unit)
    return output.cell(_amount(unit, value), style) if value else ""


def _say_more(limits: Sequence[Limit], accounts: Sequence[Account], hidden: int) -> None:
    """What the table leaves out, and what is not certain in it."""
    if hidden > 0:
        output.say(f"{fmt.plural(hidden, 'row')} more with -n.", output.QUIET)
    for limit in limits:
        bounds = [
            *((f"at most {limit.depth} ancestors of a run",) if limit.depth is not None else ()),
            *((f"no call later than {fmt.duration(limit.wall_us)} after the first",)
              if limit.wall_us is not None else ()),
        ]  # fmt: skip
        if bounds:
            output.say(f"{limit.name}: {output.listing(bounds)}.", output.QUIET)
    doubtful = [account for account in accounts if any(_units(account.uncertain))]
    if doubtful:
        output.say(
            f"{fmt.plural(len(doubtful), 'account')} with calls that nobody knows the cost of (cut "
            "or killed under way): they count in full, as uncertain. Settle them with `tocsin "
            f"limits reconcile {doubtful[0].limit.name}` when the provider's bill is there.",
            output.LOOK,
        )
    if any(any(_units(account.estimated)) for account in accounts):
        output.say(
            "Estimated: the upstream reported no usage. Ask it to, or state max_tokens.",
            output.LOOK,
        )


def _units(amounts: Amounts) -> tuple[int, ...]:
    return tuple(getattr(amounts, unit) for unit in UNITS)


def _plain(account: Account) -> dict[str, Any]:
    """An account for programs: units by name; ``left`` is null where nothing is limited."""
    limit = account.limit
    return {
        "limit": {**msgspec.structs.asdict(limit)},
        "value": account.value,
        "run_id": account.run_id,
        "window_start": account.window_start,
        "resets_at": account.resets_at,
        **{
            part: msgspec.structs.asdict(getattr(account, part))
            for part in ("spent", "held", "uncertain", "estimated", "extra")
        },
        "left": {**dict.fromkeys(UNITS), **{line.unit: line.left for line in _lines(account)}},
    }


# -- changing --


def more(
    config: Path | None,
    name: str,
    *,
    value: str,
    run: str | None,
    given: dict[str, float | None],
    json: bool,
) -> int:
    """Raise one account's limit in its present window. Raises ``NotFound`` or ``InputError``."""
    found = settings(config).config
    limit = limit_named(limits_of(found), name)
    amounts = Amounts(**{unit: _whole(unit, said) for unit, said in given.items()})
    now = SystemClock().now_us()
    with opened(found) as store:
        value, run = _place(store, limit, value, run)
        add(store.ledger, limit, value, run, amounts, actor(), now)
        account = _account(store, limit, value, run, now)
    if json:
        output.print_json(_plain(account))
        return OK
    for line in _lines(account):
        output.say(
            f"{limit.name}: {_amount(line.unit, line.left)} of {_amount(line.unit, line.cap)} left."
        )
    return OK


def settle(
    config: Path | None,
    name: str,
    *,
    value: str,
    run: str | None,
    given: dict[str, float | None],
    json: bool,
) -> int:
    """Say what was really spent of what is uncertain. Raises ``NotFound`` or ``InputError``."""
    found = settings(config).config
    limit = limit_named(limits_of(found), name)
    used = Amounts(**{u: _ALL_OF_IT if s is None else _whole(u, s) for u, s in given.items()})
    now = SystemClock().now_us()
    with opened(found) as store:
        value, run = _place(store, limit, value, run)
        back = reconcile(store.ledger, limit, value, run, used, actor(), now)
        account = _account(store, limit, value, run, now)
    if json:
        output.print_json({**_plain(account), "given_back": msgspec.structs.asdict(back)})
        return OK
    returned = [_amount(unit, getattr(back, unit)) for unit in UNITS if getattr(back, unit)]
    output.say(f"{limit.name}: settled; given back: {output.listing(returned) or 'nothing'}.")
    return OK


def _whole(unit: str, said: float | None) -> int:
    if said is None:
        return 0
    return round(said * _NANO) if unit == "nano_usd" else int(said)


def _place(store: Store, limit: Limit, value: str, run: str | None) -> tuple[str, str | None]:
    """The account's value and run. A key may be named; of a limit on runs the value is the run."""
    if limit.scope == "run":
        value = value or run or ""
        run = value if limit.per == "run" else None
    if limit.scope != "organisation" and not value:
        option = "--run" if limit.scope == "run" else "--value"
        what = limit.scope.replace("_", " ")
        raise InputError(
            f"{option}: say which {what}; `tocsin limits --name {limit.name}` lists them"
        )
    if limit.scope == "key" and value != _KEYLESS:
        value = key_id(store, value, "--value")
    return value, run


def _account(store: Store, limit: Limit, value: str, run: str | None, now: int) -> Account:
    return read_accounts(store.ledger, (limit,), now, value=value, run_id=run or "", most=1)[0]
