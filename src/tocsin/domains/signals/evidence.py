"""A text indexed for the question "does it say so?": its words with their places, its values."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

import msgspec

from tocsin.domains.signals.statements import starts, tokens
from tocsin.domains.signals.values import Day, Value, values_of

_MOST_PLACES = 64
"""Places of one word that are kept, the first ones."""
_BUCKET = 16
"""Words of a window in which a statement is looked for; windows are three buckets wide."""
_RARE, _LIKELY = 12, 3
"""Places of a word that still tells where a statement comes from; windows that are looked at."""
_BEFORE, _AFTER = 7, 5
"""How many words before and after a number can say what it is."""


_SURNAME_FIRST, _SURNAME_LAST = 3, 4
"""Words between the parts of a name: ``"first_name": "Ada", "last_name": "Lovelace"``."""


class Evidence:
    """One text, indexed as it is asked."""

    __slots__ = (
        "_places",
        "_read",
        "_starts",
        "_values",
        "_where",
        "days",
        "minutes",
        "numbers",
        "text",
    )

    def __init__(self, text: str) -> None:
        self.text = text
        self._where: dict[str, list[int]] | None = None
        self._starts: list[int] | None = None
        self._read = False
        self._values: list[Value] = []
        self._places: list[int] = []
        self.numbers: dict[float, list[int]] = {}
        """Number → which of the values have it; after ``read``."""
        self.days: set[Day] = set()
        self.minutes: set[int] = set()

    def where(self) -> Mapping[str, Sequence[int]]:
        """Stem → the numbers of the words that have it."""
        if self._where is None:
            found: dict[str, list[int]] = {}
            self._where = found
            for number, word in enumerate(tokens(self.text)):
                places = found.get(word)
                if places is None:
                    found[word] = [number]
                elif len(places) < _MOST_PLACES:
                    places.append(number)
            found.pop("", None)
        return self._where

    def _at(self) -> list[int]:
        """Where each word begins."""
        if self._starts is None:
            self._starts = starts(self.text)
        return self._starts

    def read(self) -> "Evidence":
        """Read the values, once."""
        if not self._read:
            self._read = True
            for value in values_of(self.text, self.where()):
                self.days.update(value.days)
                self.minutes.update(value.minutes)
                if value.numbers:
                    for number in value.numbers:
                        self.numbers.setdefault(number, []).append(len(self._values))
                    self._values.append(value)
        return self

    def value(self, index: int) -> Value:
        """One of the values."""
        return self._values[index]

    @property
    def values(self) -> Sequence[Value]:
        """Every value that is a number, or a date with a year; after ``read``."""
        return self._values

    def kinship(self, label: Mapping[str, float]) -> dict[int, float]:
        """How much of what ``label`` says each value of the text is near to: value → weight.

        A word counts once for a value, at its nearest place.
        """
        where = self.where()
        if not self._values:
            return {}
        if not self._places:
            begin = self._at()
            self._places = [bisect_left(begin, value.start) for value in self._values]
        at = self._places
        votes: dict[int, float] = {}
        for word, weight in label.items():
            best: dict[int, float] = {}
            for place in where.get(word, ()):
                first = bisect_left(at, place - _AFTER)
                for index in range(first, len(at)):
                    distance = at[index] - place
                    if distance > _BEFORE:
                        break
                    if distance == 0:
                        continue
                    near = weight / (1.0 + 0.35 * (abs(distance) - 1))
                    if near > best.get(index, 0.0):
                        best[index] = near
            for index, near in best.items():
                votes[index] = votes.get(index, 0.0) + near
        return votes

    def around(self, place: int) -> str:
        """The sentence that holds a word."""
        start = self._at()[place]
        text = self.text
        first = max(text.rfind(end, max(0, start - 400), start) for end in (". ", "! ", "? ", "\n"))
        ends = [text.find(end, start, start + 400) for end in (". ", "! ", "? ", "\n")]
        last = min((end for end in ends if end >= 0), default=min(len(text), start + 400))
        return text[first + 1 if first >= 0 else max(0, start - 400) : last + 1]


class Match(msgspec.Struct, frozen=True):
    """How well a statement is borne out."""

    share: float
    """Share of its content, by weight, that the context has anywhere."""
    local: float
    """... in the place that has most of it."""
    text: Evidence | None = None
    place: int = 0
    """Where that is."""

    @property
    def sentence(self) -> str:
        """The sentence there; empty where there is none."""
        return self.text.around(self.place) if self.text is not None else ""


class Evidences:
    """All texts that an answer may rest on."""

    def __init__(self, texts: Sequence[Evidence]) -> None:
        self.texts = texts

    def has(self, word: str) -> bool:
        """Whether any text has the stem."""
        return any(word in text.where() for text in self.texts)

    def together(self, first: str, second: str) -> bool:
        """Whether two stems stand together as parts of one name do, in either order."""
        for text in self.texts:
            others = text.where().get(second)
            if not others:
                continue
            for place in text.where().get(first, ()):
                near = bisect_left(others, place - _SURNAME_FIRST)
                if near < len(others) and others[near] <= place + _SURNAME_LAST:
                    return True
        return False

    def match(self, stems: Sequence[str]) -> Match:
        """How well a statement of these stems is borne out (rare words weigh more)."""
        weights: dict[str, float] = {}
        for word in dict.fromkeys(stems[:60]):
            count = sum(len(text.where().get(word, ())) for text in self.texts)
            weights[word] = 1.0 / (1.0 + math.log1p(count)) if count else 0.75
        total = sum(weights.values())
        if not total:
            return Match(0.0, 0.0)
        there = sum(weight for word, weight in weights.items() if self.has(word))
        best, found, at = 0.0, None, 0
        for text in self.texts:
            share, place = _densest(text.where(), weights)
            if share > best:
                best, found, at = share, text, place
        return Match(there / total, best / total, found, at)


def _densest(where: Mapping[str, Sequence[int]], weights: Mapping[str, float]) -> tuple[float, int]:
    """The weight of the words in the window that has most, and a word's place in it.

    Rare words say where to look, so that the effort does not grow with common ones.
    """
    found = [(where[word], weight) for word, weight in weights.items() if word in where]
    votes: dict[int, float] = {}
    places: dict[int, int] = {}
    for at, weight in found:
        if len(at) <= _RARE or len(found) <= 3:
            for place in at[:_RARE]:
                bucket = place // _BUCKET
                votes[bucket] = votes.get(bucket, 0.0) + weight
                places.setdefault(bucket, place)
    best, where_best = 0.0, 0
    likely = sorted(votes, key=lambda bucket: -votes[bucket])[:_LIKELY]
    for bucket in likely:
        first, last = (bucket - 1) * _BUCKET, (bucket + 2) * _BUCKET
        total = 0.0
        for at, weight in found:
            index = bisect_left(at, first)
            if index < len(at) and at[index] < last:
                total += weight
        if total > best:
            best, where_best = total, places[bucket]
    return best, where_best
