"""Regular expressions that are compiled when they are first used.

To compile the patterns of all evaluators takes a tenth of the time that a process needs to start;
one that only serves, and a command that only lists, never uses them.
"""

import re
from typing import Any, cast


class _Lazy:
    """Stands for a pattern. Its methods are the pattern's own from the first use on."""

    def __init__(self, pattern: str, flags: int) -> None:
        self._asked = pattern, flags

    def __getattr__(self, name: str) -> Any:
        found = getattr(re.compile(*self._asked), name)
        setattr(self, name, found)
        return found


def lazily(pattern: str, flags: int = 0) -> re.Pattern[str]:
    """As ``re.compile``; a pattern that is none raises ``re.error`` at its first use."""
    return cast(re.Pattern[str], _Lazy(pattern, flags))


__all__ = ["lazily"]
