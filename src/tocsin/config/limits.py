"""What no single setting of a limit can tell: whether the whole can be meant."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from tocsin.config.model import LimitSettings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}\Z")
_MOST_USD = 1_000_000_000.0


class Finding(NamedTuple):
    """A setting, and in words what is wrong with it and what to do."""

    path: tuple[str | int, ...]
    message: str


def limit_problems(name: str, settings: LimitSettings) -> Iterator[Finding]:
    """Everything that makes a limit one that nobody can have meant."""
    where = ("limits", name)
    if not _NAME.match(name):
        yield Finding(
            where,
            "the name goes into headers and commands; use up to 64 letters, digits, "
            "'-', '_' and '.'.",
        )
    caps = (settings.usd, settings.tokens, settings.calls, settings.tool_calls)
    if all(cap is None for cap in (*caps, settings.depth, settings.wall_s)):
        yield Finding(
            where, "it limits nothing. Set usd, tokens, calls, tool_calls, depth or wall_s."
        )
    if settings.rolling and settings.per in ("run", "ever"):
        yield Finding(
            (*where, "rolling"),
            f"only an hour, day or month can roll, but per is '{settings.per}'. Remove rolling, "
            "or choose another period.",
        )
    if settings.rolling and settings.timezone != "UTC":
        yield Finding(
            (*where, "timezone"),
            "a rolling window has no calendar. Remove timezone or rolling.",
        )
    if settings.usd is not None and not settings.usd <= _MOST_USD:
        yield Finding((*where, "usd"), f"use at most {_MOST_USD:,.0f}.")
    for fraction in settings.warn_at:
        if not 0 < fraction < 1:
            yield Finding(
                (*where, "warn_at"),
                f"{fraction:g} is no fraction of the limit; use numbers above 0 and below 1, "
                "such as 0.8.",
            )
    if settings.scope == "organisation" and settings.match != ("*",):
        yield Finding(
            (*where, "match"),
            "there is one organisation, so there is nothing to match. Remove match, or set scope "
            "to what it names.",
        )
    if not settings.match:
        yield Finding((*where, "match"), 'it matches nothing. Write ["*"] for everything.')


__all__ = ["Finding", "limit_problems"]
