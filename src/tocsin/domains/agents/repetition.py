"""Repetition inside one answer while it streams."""

import re

_KEEP = 8192
"""Characters of the answer's end that are looked at."""
_EVERY = 256
"""Characters between two looks."""
_NEEDLE = 24
_MAX_PERIOD = 1200
_MIN_REPEATS = 6
_MIN_PROSE = 600
"""Characters that prose must have repeated."""
_MIN_OTHER = 4000
"""The same for what may be meant: rules, tables, zeros, encoded data."""
_MIN_WORDS = 4

_DIGITS = re.compile(r"[0-9]+")
_SPACE = re.compile(r"\s\s+|\n")
_PROSE_WORD = re.compile(r"[^\W\d_]{2,}")
_MARKUP = re.compile(r"[{}<>|\\\[\]=;]|\"\s*:|\d,")


class StreamWatch:
    """Tells when an answer says the same again and again.

    The end of the text is taken apart into its smallest period: what stands there at least six
    times, one after another. Numbers that count up do not hide it in prose. Data and markup may
    repeat on purpose, so they need far more. Costs O(1) for each character.
    """

    __slots__ = ("_counted", "_pieces", "_since", "_tail", "_total")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._since = self._total = 0
        self._tail = ""
        """The end of the text, spaces joined."""
        self._counted = ""
        """The same, with every number as ``#``."""

    def feed(self, text: str) -> str | None:
        """Take the next piece; returns a sentence once the answer repeats beyond doubt."""
        self._pieces.append(text)
        self._since += len(text)
        if self._since < _EVERY:
            return None
        piece = "".join(self._pieces)[-_KEEP:]
        self._pieces.clear()
        self._total += self._since
        self._since = 0
        piece = _SPACE.sub(" ", piece)
        self._tail = (self._tail + piece)[-_KEEP:]
        self._counted = (self._counted + _DIGITS.sub("#", piece))[-_KEEP:]
        return self._look() if self._total >= _MIN_PROSE else None

    def _look(self) -> str | None:
        found = _period(self._tail)
        if found is not None:
            unit, length = found
            if length >= (_MIN_PROSE if _is_prose(unit) else _MIN_OTHER):
                return _summary(unit, length)
        found = _period(self._counted)
        if found is not None and _is_prose(found[0]) and _MARKUP.search(found[0]) is None:
            unit, length = found
            if length >= _MIN_PROSE:
                return _summary(unit, length)
        return None


def _period(text: str) -> tuple[str, int] | None:
    """A unit that the text's end repeats at least six times, and over how many characters."""
    needle = text[-_NEEDLE:]
    if len(needle) < _NEEDLE:
        return None
    end = len(text) - 1
    for _ in range(4):
        at = text.rfind(needle, 0, end)
        period = len(text) - _NEEDLE - at
        if at < 0 or period > _MAX_PERIOD:
            return None
        length = _extent(text, period)
        if length >= _MIN_REPEATS * period:
            return text[-period:], length
        end = at + _NEEDLE - 1
    return None


def _extent(text: str, period: int) -> int:
    """Over how many characters the text's end has the period."""
    low, high, size = 0, len(text) - period, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if text[size - middle :] == text[size - middle - period : size - period]:
            low = middle
        else:
            high = middle - 1
    return low + period


def _is_prose(unit: str) -> bool:
    found = _PROSE_WORD.findall(unit)
    return len(set(found)) >= _MIN_WORDS and sum(map(len, found)) >= len(unit) / 2


def _summary(unit: str, length: int) -> str:
    shown = " ".join(unit.split())[:120]
    times = length // len(unit)
    return f"The answer repeats itself {times} times over {length:,} characters: “{shown}”"
