"""Limits as they are configured, and which of them a call falls under."""

import math
import re
from fnmatch import translate
from hashlib import blake2b

from tocsin.config.limits import limit_problems
from tocsin.config.model import Config, LimitSettings
from tocsin.core.call import Call
from tocsin.core.errors import ConfigError
from tocsin.core.ledger import Limit
from tocsin.store.ledger_api import Caps

_NANO = 1_000_000_000


def limits_of(config: Config) -> tuple[Limit, ...]:
    """The limits of a configuration. Raises ``ConfigError`` for one that cannot be meant."""
    return tuple(_limit(name, settings) for name, settings in config.limits.items())


def _limit(name: str, settings: LimitSettings) -> Limit:
    _refuse_nonsense(name, settings)
    return Limit(
        name=name,
        scope=settings.scope,
        match=settings.match,
        per=settings.per,
        rolling=settings.rolling,
        timezone=settings.timezone,
        nano_usd=None if settings.usd is None else round(settings.usd * _NANO),
        tokens=settings.tokens,
        calls=settings.calls,
        tool_calls=settings.tool_calls,
        depth=settings.depth,
        wall_us=None if settings.wall_s is None else math.ceil(settings.wall_s * 1_000_000),
        warn_at=tuple(sorted(set(settings.warn_at))),
    )


def _refuse_nonsense(name: str, settings: LimitSettings) -> None:
    """Raise ``ConfigError`` for a limit that cannot be meant."""
    for path, message in limit_problems(name, settings):
        raise ConfigError(f"{'.'.join(map(str, path))}: {message}")


def caps_of(limit: Limit) -> Caps:
    """What a limit limits, in the order of ``Amounts``."""
    return (limit.nano_usd, limit.tokens, limit.calls, limit.tool_calls)


def account_id(limit_name: str, value: str, run_id: str) -> bytes:
    """The id of an account: the same for the same three names, in every process."""
    digest = blake2b(digest_size=16)
    for part in (limit_name, value, run_id):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(4, "big"))
        digest.update(data)
    return digest.digest()


class Matcher:
    """Which limits a call falls under, and for which value of their scope."""

    __slots__ = ("_limits",)

    def __init__(self, limits: tuple[Limit, ...]) -> None:
        self._limits = [
            (limit, re.compile("|".join(translate(glob) for glob in limit.match)).match)
            for limit in limits
        ]

    def of(self, call: Call) -> list[tuple[Limit, str]]:
        """Limits of every scope but ``run``, with the value whose account is charged.

        Calls that name no end user share the account of the empty name, and calls without a key
        that of ``anonymous``: leaving a name out is no way round a limit.
        """
        found = []
        for limit, matches in self._limits:
            if limit.scope == "run":
                continue
            value, names = _value(limit, call)
            if any(matches(name) for name in names):
                found.append((limit, value))
        return found

    def of_run(self, run_id: str) -> list[Limit]:
        """Limits of the scope ``run`` that a run falls under."""
        return [
            limit for limit, matches in self._limits if limit.scope == "run" and matches(run_id)
        ]


def _value(limit: Limit, call: Call) -> tuple[str, tuple[str, ...]]:
    """The value of a limit's scope, and the names by which it may be matched."""
    if limit.scope == "feature":
        return call.feature, (call.feature,)
    if limit.scope == "key":
        principal = call.principal
        value = principal.key_id or principal.name
        return value, (value, principal.name)
    if limit.scope == "end_user":
        return call.end_user or "", (call.end_user or "",)
    return "", ("",)


def needs_runs(limits: tuple[Limit, ...]) -> bool:
    """Whether any limit has to know which run started which."""
    return any(
        limit.scope == "run" or limit.per == "run" or limit.depth is not None for limit in limits
    )
