"""Words that rows refer to by number. They are only ever added, so what is known stays true."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tocsin.store.database import Session

Name = tuple[str, str]
"""Name and version of a signal."""

_REMEMBERED = 512


def named(word: str) -> Name:
    """A word such as ``refused<TAB>1`` taken apart."""
    name, _, version = word.partition("\t")
    return name, version


class Words:
    """Numbers of words, remembered by this process. Used by one thread at a time or by many."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._texts: dict[int, str] = {}
        self._names: dict[tuple[int, ...], Sequence[Name]] = {}

    def find(self, session: Session, texts: Iterable[str]) -> dict[str, int]:
        """The numbers of those words that are stored."""
        wanted = list(dict.fromkeys(texts))
        unknown = [text for text in wanted if text not in self._numbers]
        if unknown:
            for word, number in session.listed("words_by_text", unknown):
                self._learn(number, word)
        return {text: self._numbers[text] for text in wanted if text in self._numbers}

    def add(self, session: Session, scales: Mapping[str, float]) -> dict[str, int]:
        """The numbers of words; new ones are stored with their scale.

        Needs the session that writes.
        """
        found = self.find(session, scales)
        missing = [text for text in scales if text not in found]
        if missing:
            row = session.one("last_word")
            last = int(row[0]) if row else 0
            # Not remembered before they are committed: the transaction may still fail.
            new = {text: last + at for at, text in enumerate(missing, 1)}
            flat: list[Any] = []
            for text, number in new.items():
                flat += (number, text, scales[text])
            session.write_rows("add_words", flat)
            found.update(new)
        return found

    def text(self, session: Session, number: int) -> str:
        """The word of a number; empty when there is none."""
        known = self._texts.get(number)
        if known is None:
            for found, word in session.listed("words_by_id", [number]):
                self._learn(found, word)
            known = self._texts.get(number, "")
        return known

    def names(self, session: Session, numbers: tuple[int, ...]) -> Sequence[Name]:
        """Names and versions of signals; calls that were judged alike share one answer."""
        found = self._names.get(numbers)
        if found is None:
            found = [named(self.text(session, number)) for number in numbers]
            if len(self._names) >= _REMEMBERED:
                self._names.clear()
            self._names[numbers] = found
        return found

    def _learn(self, number: int, word: str) -> None:
        self._numbers[word] = number
        self._texts[number] = word
