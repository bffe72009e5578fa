"""What a run has seen, in bounded memory, and how much of a text is new to it."""

import re
from collections import deque
from collections.abc import Collection, Hashable
from functools import lru_cache
from math import ceil
from typing import Generic, TypeVar

from tocsin.core.lexicon import lexicon
from tocsin.domains.agents.similarity import without_volatile

MAX_TEXT = 8_000
"""Characters of a result that are looked at: its beginning and its end."""

_T = TypeVar("_T", bound=Hashable)

_PUNCTUATION = {
    ord(c): " " for c in "。、，；：？！「」『』（）・…“”„‟«»‹›‘’,;:\"'{}[]()<>=|`*#!?\\\t\r\n"
}
_ASCII = bytes([32 if code in _PUNCTUATION else code for code in range(256)])
_NOISE = re.compile(
    # The digit first and what is before it after that: so the search skips from digit to digit.
    r"\d(?<=\b\d)(?:[\d.,]*+ ?(?:ms|s|secs?|seconds|us|µs|ns)\b|\d?:\d\d:\d\d(?:\.\d+)?\b)"
)
_MAY_BE_NOISE = re.compile(r"\d(?: ?(?:[mnuµ]?s\b|secs?\b|seconds\b)|:\d\d:\d)")
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

    @property
    def sets(self) -> tuple[set[_T], set[_T]]:
        """The items, newer and older, until the next are added."""
        return self._new, self._old

    def __contains__(self, item: _T) -> bool:
        return item in self._new or item in self._old

    def add(self, items: Collection[_T]) -> None:
        """Remember the items."""
        self._new.update(items)
        if len(self._new) > self._size:
            self._old, self._new = self._new, set()


def words(text: str) -> set[str]:
    """The distinct words of a text, whatever separates them."""
    if text.isascii():
        # Twice as quick as with the table for any text.
        return set(text.encode().translate(_ASCII).decode().split())
    text = text.translate(_PUNCTUATION)
    pairs = _pairs(text)
    return {*_UNSPACED.sub(" ", text).split(), *pairs} if pairs else set(text.split())


_UNSPACED = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]+")
"""Scripts without spaces between words: pairs of characters stand for their words."""


def _pairs(text: str) -> list[str]:
    runs = _UNSPACED.findall(text)
    return [run[i : i + 2] for run in runs for i in range(max(1, len(run) - 1))]


class News:
    """Which words of the results are new to the run."""

    __slots__ = ("_least", "_seen", "_share", "_skipped", "_texts")

    def __init__(self, share: float = 0.1, least: int = 12, size: int = 8192) -> None:
        """``share``, ``least``: of new words, from which a text is something new anyway."""
        self._share = share
        self._least = least
        self._seen: Memory[int] = Memory(size)
        self._texts: Memory[int] = Memory(256)
        """Long results that came, whole."""
        self._skipped: deque[str] = deque(maxlen=2)
        """The middles of the latest long results whose ends told enough."""

    def take(self, text: str, given: Collection[str] = ()) -> tuple[int, int, bool]:
        """Words of the text that are new, and all of its words that were looked at; they are known
        from then on. And whether it is beyond doubt that the text is new, whatever of it is noise
        or repeats what was ``given`` to the tool.

        Durations, clock times, addresses and random ids are never new. Numbers are: what a
        calculation or a gauge gives may differ in nothing else.
        """
        if len(text) > _SAMPLE:
            return self._long(text)
        if len(text) <= _NOISY and (told := self._plainly(text, given)) is not None:
            return told
        found = quiet_words(text) if len(text) <= _NOISY else words(text)
        fresh = self._seen.fresh(set(map(hash, found)))
        if not fresh:
            return 0, len(found), False
        self._seen.add(fresh)
        return _count(found, fresh), len(found), False

    def _plainly(self, text: str, given: Collection[str]) -> tuple[int, int, bool] | None:
        """The same without taking noise out, which takes longer than all else: where so many words
        are new that are none, or so few are new at all, that it does not matter."""
        found = words(text)
        fresh = self._seen.fresh(set(map(hash, found)))
        if _TIME.search(text) is not None and not fresh.isdisjoint(_CLOCK):
            # What is left of a clock time would hide a number that is news later.
            fresh -= _CLOCK.difference(map(hash, _BARE.findall(text)))
        size = len(found)
        need = min(self._least, ceil(self._share * size))
        clear = size > 2 and self._has_news(text, found, fresh, max(need, 2), given)
        if 2 * len(fresh) >= need and not clear:
            return None
        self._seen.add(fresh)
        return len(fresh), size, clear

    def _has_news(
        self, text: str, found: set[str], fresh: set[int], need: int, given: Collection[str]
    ) -> bool:
        if len(fresh) < need:
            return False
        for name in _NAMED:
            if name in text:
                return False
        asked = " ".join(given).lower()
        for word in found:
            # Noise begins with a digit or is long; a unit of time may stand apart.
            if (
                word[0] >= "A"
                and hash(word) in fresh
                and (len(word) < 16 or "_" in word)
                and word not in _UNITS
                and word.lower() not in asked
            ):
                need -= 1
                if need <= 0:
                    return True
        return False

    def _long(self, text: str) -> tuple[int, int, bool]:
        """Both ends of the text; where they bring nothing new, more of it."""
        whole = hash(text)
        known = whole in self._texts
        self._texts.add((whole,))
        found = words(text[:_HEAD] + " " + text[-_TAIL:])
        if known:
            return 0, len(found), False
        fresh = self._seen.fresh(set(map(hash, found)))
        self._seen.add(fresh)
        new = _count(found, fresh)
        middle = text[_HEAD : MAX_TEXT * 3 // 4] + " " + text[-MAX_TEXT // 4 : -_TAIL]
        if new >= _FEW:
            self._skipped.append(middle)
            return new, len(found), True
        for skipped in self._skipped:
            self._seen.add(set(map(hash, words(skipped))))
        self._skipped.clear()
        rest = words(middle)
        fresh = self._seen.fresh(set(map(hash, rest)))
        self._seen.add(fresh)
        return new + _count(rest, fresh), len(found | rest), False


_FEW = 24
"""New words up to which each is looked at; with more, something is new whatever some are."""
_HEAD, _TAIL = 800, 400
"""Characters of a long result that are looked at first: of its beginning and of its end."""
_SAMPLE = 1_500
"""Characters from which a result is a long one."""
_NAMED = ('"request', '"trace', '"span')
_UNITS = frozenset(("ms", "s", "sec", "secs", "second", "seconds", "us", "µs", "ns"))
_CLOCK = frozenset(hash(f"{number:02d}") for number in range(60))
_TIME = re.compile(r":\d\d:\d")
_BARE = re.compile(r"\d\d(?<!\w\d\d)(?<!\d[:.]\d\d)(?!\w|[:.]\d)")
"""A number of two digits that is no part of a time."""


def _count(found: Collection[str], fresh: set[int]) -> int:
    """How many words are new, addresses and random ids aside."""
    if 0 < len(fresh) <= _FEW:
        return sum(1 for word in found if hash(word) in fresh and not _volatile(word))
    return len(fresh)


@lru_cache(maxsize=4)
def quiet_words(text: str) -> frozenset[str]:
    """The distinct words of a text that are no noise. Kept for whoever asks next."""
    return frozenset(words(quiet(text)))


def quiet(text: str) -> str:
    """Text without durations, clock times, random ids and the like: never news."""
    text = without_volatile(text)
    if any(name in text for name in _NOISY_NAMES):
        text = _NOISY_FIELD.sub(" ", text)
    return _NOISE.sub(" ", text) if _MAY_BE_NOISE.search(text) is not None else text


def _volatile(word: str) -> bool:
    return len(word) >= 10 and without_volatile(word) == "*"


def stems(text: str) -> frozenset[str]:
    """The content words of a text, cut to six letters, so that inflections fall together."""
    text = text[:MAX_TEXT].lower()
    pairs = [] if text.isascii() else _pairs(text)
    found = _WORD.findall(_UNSPACED.sub(" ", text) if pairs else text)
    return frozenset([*[word[:6] for word in found if word not in _COMMON], *pairs])


def overlap(first: frozenset[str], second: frozenset[str]) -> float:
    """0..1: share of the content words in common (Jaccard)."""
    if not first or not second:
        return 1.0 if first == second else 0.0
    common = len(first & second)
    return common / (len(first) + len(second) - common)
