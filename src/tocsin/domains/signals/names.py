"""Proper names, codes and addresses in an answer, found without a list of names.

A name is a run of capitalised words that no sentence, line or label begins with; a code mixes
letters and digits (``OS940``) or is a word of capitals; addresses are e-mails and URLs.
"""

import re
from collections.abc import Iterator
from typing import Literal

import msgspec

from tocsin.core.citations import URL
from tocsin.core.lexicon import lexicon
from tocsin.core.patterns import lazily
from tocsin.domains.signals.statements import STOP

Kind = Literal["name", "code", "address"]


class Name(msgspec.Struct, frozen=True, gc=False):
    """A name as it stands in a text."""

    kind: Kind
    text: str
    start: int
    end: int
    alone: bool = False
    """One word that a sentence begins with: a name only if it looks like nothing else."""


_EMAIL = lazily(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}\b")
_TOKEN = lazily(
    r"(?<![^\W_])(?:(?=[^\W_a-z])|(?=[a-z]{1,20}[\d_-]))[^\W_]+(?:[_’'&.\-/](?=[^\W_])[^\W_]+)*"
)
"""Words that begin with a capital, or may be codes."""
_CODE = lazily(r"(?=[^\W\d_]*\d)(?=\d*[^\W\d_])[^\W_]+(?:[_\-][^\W_]+)*$")
_NO_CODE = lazily(
    r"\d+(?:[.,]\d+)*(?:st|nd|rd|th|k|m|bn|x|d|h|s|am|pm|kg|g|km|cm|mm|ft|lb|lbs|min|hr|hrs|gb|mb|tb"
    r"|kb|ms|p|c|f|er|e|mi|mph|kwh|kw|w|v|hz|ghz|mhz|px|pt|em)?$"
    r"|\d{1,4}(?-i:[A-Z]?[a-z]{3,12})$",
    re.IGNORECASE,
)
"""Numbers with a unit or an ending, and with a word that a space is missing before."""
CONNECTS = lexicon("of the de la le du del della van von der den di da dos bin ibn al")
_JOINT = lazily(rf"[ \u00a0’'&*_]*(?: (?:{'|'.join(sorted(CONNECTS))})){{0,2}}[ \u00a0*_&]*")
"""What may stand between the words of a name."""
_BREAK = lazily(r"[.!?:;…\n|•]|[-–—]\s|\(\s*$|[\"“”„«]\s*$|。|！|？")
"""What between two words ends a run, or begins a sentence, an item or a quotation."""

_PLAIN = lexicon(
    "i i'm i'll i've i'd ok okay am pm est edt pst pdt cst cdt utc gmt cet id ids ai faq pdf "
    "url api html json csv usa us uk eu mr mrs ms dr sir madam monday tuesday wednesday "
    "thursday friday saturday sunday january february march april may june july august "
    "september october november december yes no not note tip hi hello dear thanks thank please "
    "sorry english german french spanish internet christmas easter tbd n/a na vs dob atm llm "
    "q&a etc tv dvd cd mom dad mum grandma grandpa god lol wow hey yyyy mm dd hh"
)
_TEMPLATE = lazily(r"(?:[YMDHXN]{2,4}[-/.:]?){2,4}$")
_INITIAL_WORDS = lexicon(
    "a about according additionally after afterwards again all alongside also alternatively "
    "although an and another any anyone apart are as aside at based because before besides "
    "between both but by can certainly clearly congratulations consequently considering "
    "currently despite did do does due during each either especially even eventually every "
    "everyone everything exactly finally first firstly following for from further furthermore "
    "generally given good great had has have he hence her here his how however if important in "
    "indeed initially inside instead interestingly is it its just last lastly later like "
    "likewise long many maybe meanwhile more moreover most much my neither never nevertheless "
    "next nobody none nor nothing now of often on once one only or other others otherwise our "
    "out over overall part particularly perhaps previously probably rather recently regarding "
    "regardless remember second secondly several she similarly since so some someone something "
    "sometimes soon specifically still subsequently such sure that the their them then there "
    "therefore these they third this those though three through throughout thus to today "
    "together tomorrow two ultimately under unfortunately unless unlike until upon usually very "
    "was we well were what when whenever where whereas whether which while who why will with "
    "within without yesterday yet you your"
)
_GERMAN = lexicon("der die das und ist nicht ein eine mit für den dem")
_COMMON_END = lazily(
    r"(?:ing|ly|ed|tion|tions|sion|sions|ment|ments|ness|ity|ities|ance|ence|able|ible|ful|less|ive"
    r"|ous|ism|ists?|ers|als|ies|ents?|ants?|ure|ures|age|ages|ship|hood|wise|ward)$"
)
_VERB_AFTER = lazily(
    r"(?:['’]s\b|\s+(?:is|was|has|had|will|would|and|does|did|can|could|also|who|wants?|went|says?"
    r"|said|tells?|told|asks?|asked|thinks?|feels?|felt|likes?|liked|loves?|loved|enjoys?|enjoyed"
    r"|plans?|planned|mentions?|mentioned|shares?|shared|expresses|expressed|explains?|explained"
    r"|describes?|described|talks?|talked|works?|worked|lives?|lived|moved|bought|made|makes|got"
    r"|found|started|began|became|took|gave|came|attended|visited|received|married|won|wrote|played"
    r"|founded|created|painted|joined|decided|agrees?|agreed|recommends?|suggests?|suggested"
    r"|encourages?|encouraged|praises?|praised|congratulates?|congratulated)\b)"
)


def names_of(text: str) -> list[Name]:
    """Names, codes and addresses in ``text``, in order; each spelling once."""
    found: dict[str, Name] = {}
    masked = text
    for pattern in (URL, _EMAIL):
        for match in pattern.finditer(text):
            address = match[0].rstrip(".,;:!?*_")
            found.setdefault(address, Name("address", address, match.start(), match.end()))
            masked = masked[: match.start()] + " " * len(match[0]) + masked[match.end() :]
    for name in _runs(masked):
        found.setdefault(name.text, name)
    return list(found.values())


def _runs(text: str) -> Iterator[Name]:
    shouting, nouns = _manner(text)
    run: list[re.Match[str]] = []
    initial = True
    end = 0
    for token in _TOKEN.finditer(text):
        word = token[0]
        between = text[end : token.start()]
        breaks = _breaks(between, first=not end)
        if run and (breaks or not _JOINT.fullmatch(between)):
            yield from _finished(text, run, initial, nouns)
            run = []
        if not word.isalpha() and len(word) >= 3 and _CODE.match(word) and not _NO_CODE.match(word):
            yield from _finished(text, run, initial, nouns)
            run = []
            yield Name("code", word, token.start(), token.end())
        elif word[0].isupper() and not shouting:
            if not run:
                initial = breaks
            run.append(token)
        end = token.end()
    yield from _finished(text, run, initial, nouns)


def _breaks(between: str, *, first: bool) -> bool:
    """Whether a sentence, an item or a quotation begins after ``between``."""
    at = len(between)
    while at and not between[at - 1].isalnum():
        at -= 1
    if not at and first:
        return True
    gap = between[at:]
    return gap != " " and _BREAK.search(gap) is not None


def _finished(text: str, run: list[re.Match[str]], initial: bool, nouns: bool) -> Iterator[Name]:
    """A run as a name, if it is one."""
    while run and _is_plain(run[0][0]):
        run, initial = run[1:], False
    while run and _is_plain(run[-1][0]):
        run = run[:-1]
    if run and initial and (len(run) > 1) and _begins(run[0][0]):
        run, initial = run[1:], False
    if not run or (nouns and len(run) < 2):
        return
    start, end = run[0].start(), run[-1].end()
    if _is_label(text, start, end):
        return
    word = run[0][0]
    alone = initial and len(run) == 1
    if alone and not _looks_named(text, word, end):
        return
    if len(word) < 2 and len(run) == 1:
        return
    yield Name("name", text[start:end], start, end, alone)


def _begins(word: str) -> bool:
    """Whether a word is one that sentences begin with."""
    return word.lower() in _INITIAL_WORDS or word.lower() in STOP


def _is_plain(word: str) -> bool:
    return word.lower() in _PLAIN or _TEMPLATE.match(word) is not None


def _looks_named(text: str, word: str, end: int) -> bool:
    """Whether a word at the beginning of a sentence is a name rather than any other word."""
    low = word.lower()
    if low in _INITIAL_WORDS or low in STOP:
        return False
    if word.isupper() and len(word) > 2:
        return True
    if _COMMON_END.search(low):
        return False
    return _VERB_AFTER.match(text, end) is not None


def _is_label(text: str, start: int, end: int) -> bool:
    """Whether the run stands in a label, a heading or a column's head: ``Total Price: ...``."""
    line_start = text.rfind("\n", 0, start) + 1
    line_end = text.find("\n", end)
    line_end = len(text) if line_end < 0 else line_end
    after = text[end : min(line_end, end + 40)]
    if re.match(r"[*_\s]{0,4}(?:\([^)\n]{0,30}\)[*_\s]{0,4})?[:：]", after):
        return text[line_start:start].count(" ") <= 6
    line = text[line_start:line_end].strip()
    return line.startswith("#") or (line.startswith("**") and line.endswith("**"))


def _manner(text: str) -> tuple[bool, bool]:
    """Whether a text is written in capitals, and whether its nouns are, as in German."""
    words = [word for word in text[:2000].split()[1:] if len(word) > 2 and word[0].isalpha()]
    if len(words) < 8:
        return False, False
    shouting = sum(word.isupper() for word in words) > 0.6 * len(words)
    german = sum(word in _GERMAN for word in words) * 12 > len(words)
    return shouting, german and sum(w[0].isupper() for w in words) > 0.2 * len(words)
