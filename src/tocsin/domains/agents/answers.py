"""Whether an answer was given before: the same one, or one that only repeats the question."""

import re
from collections import deque
from collections.abc import Collection

from tocsin.domains.agents.novelty import Memory, quiet_words, words

_SHORT = 600
"""Characters up to which an answer is compared by its words, longer ones whole."""
_GIVEN = 1_000
"""Characters of what a call was given that an answer may repeat."""
_MARK = re.compile(r"\d ?(?:/|of\b|out of\b|von\b|de\b|sur\b|su\b|из\b) ?\d")
_HINTS = ("/", "of ", "von ", "de ", "sur ", "su ", "из ")
"""What a text that ``_MARK`` finds has in it: far quicker to look for."""
_ENDS = 120
"""Characters at either end of a text that a counter stands in."""
_LEARNT = 16
"""Successes of a tool after which what wraps them is known."""
_COUNTER = re.compile(
    r"[\[(][^\])\n]{0,24}?\b\d+ ?(?:/|of|out of|von|de|sur|su|из) ?\d+\b[^\])\n]{0,8}[\])]"
    r"|\b\d+ ?(?:/|of|out of|von|de|sur|su|из) ?\d+\b"
)
"""How far a text is through something: "(Result 1/3)", "page 2 of 7"."""
_NUMBER = re.compile(r"[a-f]*+\d[0-9a-f]*")


class Answers:
    """The answers of a run, in bounded memory.

    What tells an answer are its words, whatever their order, their case and the counters among
    them. An answer that is a known one but for words of the question is an echo: "nothing was
    found for x" after "nothing was found for y", in any language.
    """

    __slots__ = ("_later", "_seen")

    def __init__(self) -> None:
        self._seen: Memory[int] = Memory(1024)
        self._later: deque[tuple[str, Collection[str]]] = deque(maxlen=8)

    def later(self, text: str, given: Collection[str]) -> None:
        """An answer that is plainly a new one: known to the letter at once, by its words when they
        are asked for, if it is among the latest then."""
        self._seen.add((hash(text),))
        if len(text) <= _SHORT:
            self._later.append((text, given))

    def take(self, text: str, given: Collection[str]) -> str:
        """``same``, ``echo`` or, for an answer not seen before, nothing; it is known then."""
        if len(text) > _SHORT:
            key = hash(text)
            known = "same" if key in self._seen else ""
            self._seen.add((key,))
            return known
        while self._later:
            self._seen.add(_keys(*self._later.popleft()))
        whole, bare = _keys(text, given)
        if whole in self._seen or hash(text) in self._seen:
            known = "same"
        else:
            known = "echo" if bare in self._seen else ""
        self._seen.add((whole, bare))
        return known


def _keys(text: str, given: Collection[str]) -> tuple[int, int]:
    """What tells an answer: all of its words, and those that are not of the question."""
    found = {word.lower() for word in quiet_words(text)}
    rest = found.difference(words(" ".join(given)[:_GIVEN].lower())) if given else found
    return hash(frozenset(found)), hash(frozenset(rest))


class Frames:
    """What a tool's successes are wrapped in: lines that say nothing of a failure."""

    __slots__ = ("_learnt", "_lines")

    def __init__(self) -> None:
        self._learnt: dict[str, int] = {}
        self._lines: Memory[int] = Memory(512)

    def learn(self, tool: str, text: str) -> None:
        """Take in a result that is no failure."""
        times = self._learnt.get(tool, 0)
        if times >= _LEARNT or "\n" not in text or len(self._learnt) > 256:
            return
        self._learnt[tool] = times + 1
        self._lines.add([hash((tool, masked)) for masked, _ in _lines(text)])

    def without(self, tool: str, text: str) -> str:
        """The lines of a failure that no success of the tool has had, numbers aside."""
        lines = _lines(text)
        return "\n".join([line for key, line in lines if hash((tool, key)) not in self._lines])


def without_counters(text: str) -> str:
    """Text without what counts through it, so that a known text stays one on each page."""
    if len(text) <= 2 * _ENDS:
        return _COUNTER.sub(" ", text) if _is_marked(text) else text
    head, tail = text[:_ENDS], text[-_ENDS:]
    if not (_is_marked(head) or _is_marked(tail)):
        return text
    return _COUNTER.sub(" ", head) + text[_ENDS:-_ENDS] + _COUNTER.sub(" ", tail)


def _is_marked(text: str) -> bool:
    for hint in _HINTS:
        if hint in text:
            return _MARK.search(text) is not None
    return False


def _lines(text: str) -> list[tuple[str, str]]:
    """The first and last lines, each without numbers and as it is."""
    found = [line for line in text[:2000].splitlines() if line.strip()]
    if len(found) > 10:
        found = [*found[:8], *found[-2:]]
    return [(_NUMBER.sub("#", line[:200].lower()), line) for line in found]
