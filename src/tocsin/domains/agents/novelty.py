"""What a run has seen, in bounded memory, and how much of a text is new to it."""

import re
from collections import deque
from collections.abc import Collection, Hashable
from typing import Generic, TypeVar

from tocsin.domains.agents.lexicon import lexicon
from tocsin.domains.agents.similarity import without_volatile

MAX_TEXT = 8_000
"""Characters of a result that are looked at: its beginning and its end."""

_T = TypeVar("_T", bound=Hashable)

_PUNCTUATION = {ord(c): " " for c in ",;:\"'{}[]()<>=|`*#!?\\\t\r\n"}
_NOISE = re.compile(
    r"\b\d[\d.,]*+ ?(?:ms|s|secs?|seconds|us|µs|ns)\b|\b\d\d?:\d\d:\d\d(?:\.\d+)?\b"
)
_NOISY_FIELD = re.compile(
    r"\"(?:took|elapsed|duration|latency|timestamp|generated_at|(?:request|trace|span)_?id)\w*\""
    r"\s*:\s*(?:\"[^\"]*\"|[\d.]+)",
    re.IGNORECASE,
)
_NOISY_NAMES = (
    '"took', '"elapsed', '"duration', '"latency', '"timestamp', '"generated_at',
    '"request', '"trace', '"span',
)  # fmt: skip
"""Durations, clock times to the second and request ids: never news."""
_NOISY = 1_000
"""Characters up to which noise is cut out first: in longer text it hardly counts."""
_WORD = re.compile(r"[^\W\d_]{3,}")
_COMMON = lexicon(
    """
    the and for are but not you all any can had her was one our out has him his how its may new
    now see two who did yes yet let put say she too use that with have this will your from they
    know want been good much some time very when come here just like long make many more only
    over such take than them well were what would there their which about could other these
    again please should into then also once after before still because while where being does
    doing each has i'll i'm we'll
    """
)


class Memory(Generic[_T]):
    """A set that forgets: it keeps between ``size`` and twice ``size`` of the latest items."""

    __slots__ = ("_new", "_old", "_size")

    def __init__(self, size: int) -> None:
        self._new: set[_T] = set()
        self._old: set[_T] = set()
        self._size = size

    def fresh(self, items: set[_T]) -> set[_T]:
        """Those of the items that are not remembered."""
        return items.difference(self._new, self._old)

    def __contains__(self, item: _T) -> bool:
        return item in self._new or item in self._old

    def add(self, items: Collection[_T]) -> None:
        """Remember the items."""
        self._new.update(items)
        if len(self._new) > self._size:
            self._old, self._new = self._new, set()


def words(text: str) -> set[str]:
    """The distinct words of a text, whatever separates them."""
    return set(text.translate(_PUNCTUATION).split())


class News:
    """Which words of the results are new to the run."""

    __slots__ = ("_seen", "_skipped", "_texts")

    def __init__(self, size: int = 8192) -> None:
        self._seen: Memory[int] = Memory(size)
        self._texts: Memory[int] = Memory(256)
        """Long results that came, whole."""
        self._skipped: deque[str] = deque(maxlen=2)
        """The middles of the latest long results whose ends told enough."""

    def take(self, text: str) -> tuple[int, int]:
        """Words of the text that are new, and all of its words that were looked at; they are known
        from then on.

        Durations, clock times, addresses and random ids are never new. Numbers are: what a
        calculation or a gauge gives may differ in nothing else.
        """
        if len(text) > _SAMPLE:
            return self._long(text)
        found = words(text)
        fresh = self._seen.fresh(set(map(hash, found)))
        if not fresh:
            return 0, len(found)
        if len(text) <= _NOISY:
            if _is_plenty(found, fresh):
                # What is left of a clock time would hide the numbers that are to be news.
                fresh -= _CLOCK
            else:
                found = words(_quiet(text))
                fresh = self._seen.fresh(set(map(hash, found)))
        self._seen.add(fresh)
        return _count(found, fresh), len(found)

    def _long(self, text: str) -> tuple[int, int]:
        """Both ends of the text; where they bring nothing new, more of it."""
        whole = hash(text)
        known = whole in self._texts
        self._texts.add((whole,))
        found = words(text[:_HEAD] + " " + text[-_TAIL:])
        if known:
            return 0, len(found)
        fresh = self._seen.fresh(set(map(hash, found)))
        self._seen.add(fresh)
        new = _count(found, fresh)
        middle = text[_HEAD : MAX_TEXT * 3 // 4] + " " + text[-MAX_TEXT // 4 : -_TAIL]
        if new >= _FEW and new * 4 >= len(found):
            self._skipped.append(middle)
            return new, len(found)
        for skipped in self._skipped:
            self._seen.add(set(map(hash, words(skipped))))
        self._skipped.clear()
        rest = words(middle)
        fresh = self._seen.fresh(set(map(hash, rest)))
        self._seen.add(fresh)
        return new + _count(rest, fresh), len(found | rest)


_FEW = 24
"""New words up to which each is looked at; with more, something is new whatever some are."""
_HEAD, _TAIL = 1600, 800
"""Characters of a long result that are looked at first: of its beginning and of its end."""
_SAMPLE = 3_000
"""Characters from which a result is a long one."""
_PLENTY = 16
_CLOCK = frozenset(hash(f"{number:02d}") for number in range(60))


def _count(found: set[str], fresh: set[int]) -> int:
    """How many words are new, addresses and random ids aside."""
    if 0 < len(fresh) <= _FEW:
        return sum(1 for word in found if hash(word) in fresh and not _volatile(word))
    return len(fresh)


def _is_plenty(found: set[str], fresh: set[int]) -> bool:
    """Whether so many words of letters are new that something is, however much is noise."""
    need = min(_PLENTY, 4 + len(found) // 8)
    if len(fresh) < need:
        return False
    for word in found:
        if word.isalpha() and hash(word) in fresh:
            need -= 1
            if not need:
                return True
    return False


def _quiet(text: str) -> str:
    text = without_volatile(text)
    if any(name in text for name in _NOISY_NAMES):
        text = _NOISY_FIELD.sub(" ", text)
    return _NOISE.sub(" ", text)


def _volatile(word: str) -> bool:
    return len(word) >= 10 and without_volatile(word) == "*"


def stems(text: str) -> frozenset[str]:
    """The content words of a text, cut to six letters, so that inflections fall together."""
    found = _WORD.findall(text[:MAX_TEXT].lower())
    return frozenset([word[:6] for word in found if word not in _COMMON])


def overlap(first: frozenset[str], second: frozenset[str]) -> float:
    """0..1: share of the content words in common (Jaccard)."""
    if not first or not second:
        return 1.0 if first == second else 0.0
    common = len(first & second)
    return common / (len(first) + len(second) - common)
