"""What the ledger says: refusals, warnings and alerts, for a person who is woken by one."""

import shlex
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

from tocsin.core.domain import Alert
from tocsin.core.errors import BudgetExceeded
from tocsin.core.ledger import Limit
from tocsin.ledger.pools import Pool
from tocsin.ledger.windows import retry_after_s

DETECTOR = "ledger"
SOON_S = 60.0
UNITS = ("usd", "tokens", "calls", "tool_calls")
_SAID = ("", "tokens", "calls", "tool calls")
_NANO = 1_000_000_000


def amount(unit: int, value: int) -> str:
    """An amount in words: ``$4.87``, ``1,200 tokens``."""
    if unit:
        return f"{value:,} {_SAID[unit] if value != 1 else _SAID[unit][:-1]}"
    usd = value / _NANO
    return f"${usd:,.2f}" if usd == round(usd, 2) else f"${usd:,.6f}".rstrip("0")


def plain(unit: int, value: int) -> float | int:
    """An amount for programs: US dollars as a decimal number, anything else as it is counted."""
    return value if unit else value / _NANO


def iso(at_us: int | None) -> str | None:
    """A time as programs read it."""
    if at_us is None:
        return None
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def whose(limit: Limit, value: str, run_id: str) -> str:
    """Whose account it is."""
    owner = {
        "organisation": "the organisation",
        "feature": f"the feature {value!r}",
        "key": f"the key {value!r}",
        "end_user": f"the end user {value!r}" if value else "calls that name no end user",
        "run": f"the run {value!r}",
    }[limit.scope]
    return f"the run {run_id!r} of {owner}" if run_id else owner


def resets(pool: Pool) -> str:
    """When there will be room again, as a sentence."""
    limit = pool.account.limit
    if pool.window.resets_at is not None:
        return f"It resets at {iso(pool.window.resets_at)}."
    if limit.rolling:
        return f"Room comes back as what was spent in the last {limit.per} grows old."
    return "It never resets."


def raising(pool: Pool, unit: int, value: str) -> str:
    """The command that raises the limit for this account."""
    account = pool.account
    words = ["tocsin limits raise", account.limit.name]
    if account.value and account.limit.scope != "run":
        words.append(f"--value {_quoted(account.value)}")
    if account.run_id or account.limit.scope == "run":
        words.append(f"--run {_quoted(account.run_id or account.value)}")
    return " ".join([*words, f"--{UNITS[unit].replace('_', '-')} {value}"])


def exceeded(pool: Pool, unit: int, needs: int, now: int) -> BudgetExceeded:
    """The refusal of a call that ``pool`` has no room for."""
    account, limit = pool.account, pool.account.limit
    cap = (pool.caps[unit] or 0) + _unit(pool.known.extra, unit)
    spent = _unit(pool.known.spent, unit) + pool.posted[unit] + pool.spent[unit]
    left = max(0, min(pool.free[unit], cap - spent))
    held = max(0, cap - spent - left)
    holding = f", {amount(unit, held)} held by calls under way" if held else ""
    message = (
        f"The limit '{limit.name}' for {whose(limit, account.value, account.run_id)} does not "
        f"cover this call: {amount(unit, spent)} of {amount(unit, cap)} spent{holding}, "
        f"{amount(unit, left)} left, and the call may take up to {amount(unit, needs)}. "
        f"{resets(pool)} To raise it: {raising(pool, unit, _suggested(unit, needs))}"
    )
    return BudgetExceeded(
        message,
        retry_after_s=retry_after_s(limit, pool.window, now, soon_s=SOON_S),
        details=_details(pool, unit, spent=spent, held=held, left=left, cap=cap, needs=needs),
    )


def out_of_time(pool: Pool, first_at: int, now: int) -> BudgetExceeded:
    """The refusal of a call that comes too late."""
    account, limit = pool.account, pool.account.limit
    allowed, taken = (limit.wall_us or 0) / 1e6, (now - first_at) / 1e6
    facts = _names(pool)
    facts |= {"unit": "wall_s", "spent": taken, "limit_amount": allowed, "left": 0}
    facts |= {"held": 0, "needs": 0, "resets_at": iso(pool.window.resets_at)}
    return BudgetExceeded(
        f"The limit '{limit.name}' gives {whose(limit, account.value, account.run_id)} "
        f"{allowed:g} s from its first call, and {taken:.0f} s have passed. {resets(pool)} "
        f"To allow more, raise limits.{limit.name}.wall_s.",
        retry_after_s=retry_after_s(limit, pool.window, now, soon_s=SOON_S),
        details=facts,
    )


def too_deep(limit: Limit, value: str, run_id: str, depth: int) -> BudgetExceeded:
    """The refusal of a run that has too many ancestors."""
    return BudgetExceeded(
        f"The limit '{limit.name}' allows a run {limit.depth} ancestors, and {run_id!r} has "
        f"{depth}. Let a run nearer the top make this call, or raise limits.{limit.name}.depth.",
        details={
            "limit": limit.name,
            "scope": limit.scope,
            "value": value,
            "run_id": run_id,
            "unit": "depth",
            "spent": depth,
            "held": 0,
            "left": 0,
            "limit_amount": limit.depth,
            "needs": depth,
            "resets_at": None,
        },
    )


def warning_header(pool: Pool, share: float) -> bytes:
    """The value of ``tocsin-budget-warning``."""
    reset = iso(pool.window.resets_at)
    text = f"{pool.account.limit.name} {share:.0%}"
    return (f"{text}; resets {reset}" if reset else text).encode("ascii", "replace")


def warned(pool: Pool, unit: int, fraction: float, share: float, feature: str, now: int) -> Alert:
    """An account has passed one of the fractions at which to warn."""
    limit, account = pool.account.limit, pool.account
    cap = (pool.caps[unit] or 0) + _unit(pool.known.extra, unit)
    return Alert(
        fingerprint=_fingerprint("warn", pool, f"{fraction:g}"),
        detector=DETECTOR,
        feature=feature,
        severity="warning",
        state="firing",
        at=now,
        summary=(
            f"{whose(limit, account.value, account.run_id)} has used {share:.0%} of the limit "
            f"'{limit.name}' ({amount(unit, cap)}). {resets(pool)}"
        ),
    )


def refused(pool: Pool, error: BudgetExceeded, call_id: str, feature: str, now: int) -> Alert:
    """An account has refused a call for the first time in its window."""
    return Alert(
        fingerprint=_fingerprint("refused", pool, ""),
        detector=DETECTOR,
        feature=feature,
        severity="critical",
        state="firing",
        at=now,
        summary=error.message,
        evidence=(call_id,),
    )


def unpriced(provider: str, model: str, feature: str, call_id: str, now: int) -> Alert:
    """A call under a limit of money has no known price."""
    return Alert(
        fingerprint=f"{DETECTOR}:unpriced:{provider}/{model}"[:200],
        detector=DETECTOR,
        feature=feature,
        severity="warning",
        state="firing",
        at=now,
        summary=(
            f"unpriced: nobody knows what {model or 'this call'!r} of {provider} costs, so limits "
            f'of money do not hold it, only those of tokens and calls. Set [prices."{model}"].'
        ),
        evidence=(call_id,),
    )


def uncertain(holder: str, calls: int, now: int) -> Alert:
    """A process died with calls under way, or without a trace of what it spent."""
    what = f"with {calls} calls under way" if calls else "and its journal is gone"
    return Alert(
        fingerprint=f"{DETECTOR}:uncertain:{holder}",
        detector=DETECTOR,
        feature="",
        severity="warning",
        state="firing",
        at=now,
        summary=(
            f"A process ended {what}: nobody knows what they cost, so they count in full, as "
            "uncertain. See `tocsin limits`, and reconcile them when the provider's bill is there."
        ),
    )


def _details(
    pool: Pool, unit: int, *, spent: int, held: int, left: int, cap: int, needs: int
) -> dict[str, Any]:
    return {
        **_names(pool),
        "unit": UNITS[unit],
        "spent": plain(unit, spent),
        "held": plain(unit, held),
        "left": plain(unit, left),
        "limit_amount": plain(unit, cap),
        "needs": plain(unit, needs),
        "resets_at": iso(pool.window.resets_at),
    }


def _names(pool: Pool) -> dict[str, Any]:
    account = pool.account
    return {
        "limit": account.limit.name,
        "scope": account.limit.scope,
        "value": account.value,
        "run_id": account.run_id or None,
    }


def _quoted(value: str) -> str:
    """A caller's name as a word of a command."""
    return shlex.quote("".join(letter if letter.isprintable() else "?" for letter in value))


def _suggested(unit: int, needs: int) -> str:
    """A round amount that covers the call."""
    if unit:
        return str(needs)
    return f"{max(1, -(-needs // _NANO))}"


def _unit(amounts: Any, unit: int) -> int:
    value: int = (amounts.nano_usd, amounts.tokens, amounts.calls, amounts.tool_calls)[unit]
    return value


def _fingerprint(kind: str, pool: Pool, more: str) -> str:
    account = pool.account
    digest = blake2b(account.id, digest_size=8).hexdigest()
    return ":".join(filter(None, (DETECTOR, kind, account.limit.name, digest, more)))
