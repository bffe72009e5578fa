"""Which names of an answer its context does not have, with the ways in which a name may vary."""

import re
from collections.abc import Sequence
from itertools import pairwise

from tocsin.core.citations import address_exists
from tocsin.domains.signals.evidence import Evidences
from tocsin.domains.signals.names import CONNECTS, Name, names_of
from tocsin.domains.signals.statements import STOP, stem

_WORD = re.compile(r"[^\W_]+(?:['’][^\W\d_]+)?")
_GLOSS = re.compile(r"[*_'’s]{0,4}\s*\(\**([A-Z][A-Z0-9]{1,5})\**\)|[*_]{0,2},? ([A-Z]{2,4})\b")
_MOST = 200


class Names:
    """Checks the names of one answer."""

    def __init__(self, answer: str, given: Evidences, said: Evidences) -> None:
        self._answer = answer
        self._all = Evidences([*given.texts, *said.texts])

    def unsupported(self) -> tuple[list[Name], int]:
        """Names that nobody has told of, and how many were looked at."""
        names = names_of(self._answer)[:_MOST]
        return [name for name in names if not self._known(name)], len(names)

    def _known(self, name: Name) -> bool:
        if name.kind == "address":
            return any(address_exists(name.text, text.text) for text in self._all.texts)
        written = _WORD.findall(name.text)
        if name.kind == "code":
            return all(self._has(word) for word in written)
        written = [word for word in written if word.lower() not in CONNECTS]
        missing = [word.lower() for word in written if not self._has(word)]
        words = [word.lower() for word in written]
        if missing and not self._varied(name, words, missing):
            return False
        return bool(missing) or self._one_name(words)

    def _has(self, word: str) -> bool:
        low = word.lower()
        if low in STOP:
            # "LAS" is a name, "las" is not, and neither is indexed.
            return any(word in text.text for text in self._all.texts)
        return self._all.has(stem(low)) or self._all.has(low)

    def _one_name(self, words: Sequence[str]) -> bool:
        """Whether the words of a name stand together: no first name of one with the last name of
        another."""
        if len(words) not in (2, 3) or any(word in STOP for word in words):
            return True
        stems = [stem(word) for word in words]
        if all(self._all.together(a, b) for a, b in pairwise(stems)):
            return True
        return any(self._is_common(word) for word in words)

    def _is_common(self, word: str) -> bool:
        """Whether the context has the word in small letters: then it is no name."""
        small = re.compile(rf"(?<![\w@.-]){re.escape(word)}(?![\w@-])")
        return any(small.search(text.text) for text in self._all.texts)

    def _varied(self, name: Name, words: Sequence[str], missing: Sequence[str]) -> bool:
        """Short and long forms: initials, a gloss of a code, nicknames, endings."""
        if len(words) > 1 and self._all.has("".join(word[0] for word in words)):
            return True
        gloss = _GLOSS.match(self._answer, name.end)
        if gloss and self._glosses(words, (gloss[1] or gloss[2]).lower()):
            return True
        return all(self._another_form(word) for word in missing)

    def _glosses(self, words: Sequence[str], code: str) -> bool:
        """ "Seattle (SEA)", where the context has SEA: its letters in their order, or a code that
        nobody calls by another name."""
        if not self._has(code.upper()):
            return False
        letters = iter("".join(words))
        if words[0][0] == code[0] and all(letter in letters for letter in code):
            return True
        other = re.compile(rf"([A-Z][\w'’]+)[*_]{{0,2}} ?\(\**{re.escape(code.upper())}\**\)")
        texts = (*(text.text for text in self._all.texts), self._answer)
        return all(match[1].lower() in words for text in texts for match in other.finditer(text))

    def _another_form(self, word: str) -> bool:
        if len(word) < 2:
            return True
        if self._initials(word):
            return True
        kept = max(5, len(word) - 3)
        for text in self._all.texts:
            for known in text.where():
                if known[:1] != word[:1] or known == word:
                    continue
                if len(known) >= kept and known[:kept] == word[:kept]:
                    return True
                short, long = sorted((known, word), key=len)
                if (
                    len(short) >= 3
                    and long.startswith(short)
                    and (re.search(rf"\b{re.escape(known.capitalize())}", text.text))
                ):
                    return True
        return False

    def _initials(self, word: str) -> bool:
        """Whether a run of capitalised words in the context has these initials."""
        if not 2 <= len(word) <= 5 or not word.isalpha() or word.upper() not in self._answer:
            return False
        joint = r"[^\W_]*[\s\-]+(?:(?:of|the|and|for|de|du|la)\s+)?"
        pattern = re.compile(r"\b" + joint.join(map(re.escape, word.upper())) + r"[^\W\d_]")
        return any(pattern.search(text.text) for text in self._all.texts)
