"""Text as sentences and words: what an answer states, and whether a statement is turned round."""

import re
from collections.abc import Iterator
from functools import lru_cache

import msgspec

from tocsin.core.lexicon import lexicon
from tocsin.core.patterns import lazily

_SOLID = lazily(r"\S+")
_GAPS = {
    code: " "
    for code in (
        *range(128),
        *range(0x00A0, 0x00C0),
        *range(0x2000, 0x2070),
        *range(0x3000, 0x3004),
    )
    if not chr(code).isalnum() and chr(code) not in "'’"
}
"""What stands between words. A table is ten times as fast as a pattern."""
_WIDE = lazily("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
"""Scripts that are written without spaces, or whose words change their ends."""

_ABBREVIATION = lazily(
    r"(?:\b(?:mr|mrs|ms|dr|prof|sr|jr|st|no|nr|vs|etc|fig|inc|ltd|co|corp|approx|dept|est|e\.g|i\.e"
    r"|a\.m|p\.m|u\.s|u\.k|z\.b|d\.h|bzw|ca|bspw)|\b[a-z]|(?:^|\n)\s*\d{1,3})\.$",
    re.IGNORECASE,
)
_END = lazily(r"[.!?…]+[\"'”’)\]*_]*(?=\s|$)|[。！？]|\n+")
_MARKS = lazily(r"^[\s>#*\-•–+|]+|^\s*(?:\d{1,3}|[a-zA-Z])[.)]\s+|[*_`#|]+(?=\s|$)")
_LONGEST = 400
"""Characters of a sentence; a longer one is cut at white space."""

STOP = lexicon(
    "a about above after again all also although am an and any are aren't as at be because been "
    "before being below between both but by can can't could couldn't did didn't do does doesn't "
    "doing don't down during each either else etc even ever every few for from further get gets "
    "got had hadn't has hasn't have haven't having he her here hers him his how however i i'd "
    "i'll i'm i've if in into is isn't it it's its itself just let let's like me might more "
    "most much must my neither no nor not now of off on once only or other our out over own per "
    "please rather same shall she should so some still such than that that's the their theirs "
    "them then there there's these they they're this those though through thus to too under "
    "until up upon us very was wasn't we we'll we're were what when where whether which while "
    "who whom whose why will with within without won't would wouldn't yes yet you you'd you'll "
    "you're you've your yours s t der die das den dem des ein eine einer eines einem einen und "
    "oder aber ist sind war waren wird werden hat haben hatte nicht kein keine mit von vom zu "
    "zum zur im in auf für aus bei nach wie als auch es er sie ihr wir ich du sich noch nur "
    "dass ob wenn le la les un une des du de et ou mais est sont était été a ont avec pour par "
    "sur dans ce cette ces il elle ils elles nous vous je tu ne pas que qui se au aux en el los "
    "las una unos unas y o pero es son era fue ha han con para por del al que se lo su sus no "
    "si como más"
)
NEGATORS = lexicon(
    "not non no never none nothing nobody nowhere neither nor without cannot cant hardly lack "
    "lacks lacked lacking fail fails failed denied refused excluding except nicht kein keine "
    "keinen keiner nie niemals ohne ne pas jamais aucun aucune sans nunca ningún ninguna sin isn "
    "aren wasn weren don doesn didn won wouldn can't couldn shouldn hasn haven hadn"
)
_TURNED = lazily(r"^(?:non|un|in|im|ir|il|dis)-?(?=[^\W\d_]{4,})")

_COURTESY = lazily(
    r"^(?:(?:please|kindly|thank|thanks|sorry|hello|hi|hey|dear|sure|certainly|of course|great|ok"
    r"|okay|you['’]re welcome|you are welcome|welcome|feel free|let me|would you|do you|could you"
    r"|can you|is there anything|if you (?:have|need|would|want|wish|['’]d|prefer|are|can|could)"
    r"|if there['’]?s?|i hope|i apologi[sz]e|i['’]?m sorry|i am sorry|i understand|i appreciate"
    r"|have a|enjoy|safe travels|best regards|take care|how (?:can|may)|to (?:assist|help|proceed)"
    r"|i(?:['’]ll|['’]m| will| can| need| would| am| must| should| could)|we can|here (?:is|are)"
    r"|here['’]s|below|in summary|bitte|danke|gern|s['’]il vous|merci|por favor|gracias)\b)",
    re.IGNORECASE,
)
_ABSTAINS = lazily(
    r"\b(?:(?:do|does|did|could|can|was|were|is|are|am|have|has|would|will)(?:n['’]t| not)"
    r"(?: \w+){0,3}? (?:have|find|found|know|sure|able|see|contain\w*|mention\w*|provid\w*"
    r"|includ\w*|say|tell|cover|discuss\w*|indicat\w*|specif\w*|state\w*|available|locate\w*"
    r"|return\w*|determine\w*|answer\w*|access|any|enough"
    r"|given|present|possible|retriev\w*|match\w*|exist\w*|seem|appear)"
    r"|cannot|unable to|not (?:mentioned|found|provided|available|specified|stated|included|clear"
    r"|enough|sure|given)|no (?:\w+ ){0,3}(?:information|results?|records?|documents?|context|data"
    r"|matches|match|details|mention|sources?|answer|evidence|flights?|entries|passages?)"
    r"|there (?:is|are|was|were) no|i don['’]?t know|unfortunately|unknown|insufficient"
    r"|without (?:any |more |the |further )?(?:context|information|documents?|details)"
    r"|could not|couldn['’]t|didn['’]t|missing|empty|unanswerable|provide (?:the|more|me|some|a)"
    r"|leider|nicht (?:gefunden|enthalten|bekannt|möglich)|keine? (?:\w+ ){0,2}(?:information\w*"
    r"|angaben|ergebnisse|dokumente|treffer)|aucune? (?:\w+ ){0,2}(?:information\w*|résultat\w*)"
    r"|je ne (?:sais|trouve|peux)|no (?:se )?(?:encontr\w+|sé|tengo|hay|puedo))\b",
    re.IGNORECASE,
)


class Sentence(msgspec.Struct, frozen=True, gc=False):
    """One sentence, with where it stands in its text."""

    text: str
    start: int
    end: int


def sentences(text: str) -> list[Sentence]:
    """``text`` as sentences; lines end them. Long ones are cut."""
    return list(_sentences(text))


def _sentences(text: str) -> Iterator[Sentence]:
    start = 0
    for match in _END.finditer(text):
        end = match.end()
        if match[0][0] == "." and _ABBREVIATION.search(text, max(start, end - 10), end):
            continue
        yield from _cut(text, start, end)
        start = end
    yield from _cut(text, start, len(text))


def _cut(text: str, start: int, end: int) -> Iterator[Sentence]:
    while end - start > _LONGEST:
        gap = text.rfind(" ", start + _LONGEST // 2, start + _LONGEST)
        stop = gap if gap > 0 else start + _LONGEST
        yield Sentence(text[start:stop], start, stop)
        start = stop
    if not text[start:end].isspace() and start < end:
        yield Sentence(text[start:end], start, end)


def bare(sentence: str) -> str:
    """Without list marks, numbering and emphasis."""
    return _MARKS.sub("", _MARKS.sub("", sentence.strip())).strip()


def words(text: str) -> list[str]:
    """Words in lower case, as they stand; of scripts without spaces, pairs of signs."""
    found = lowered(text).translate(_GAPS).split()
    if text.isascii() or not _WIDE.search(text):
        return found
    return [part for word in found for part in _pairs(word)]


def tokens(text: str) -> list[str]:
    """Stems in order, with an empty one for each stop word; ``starts`` tells where they stand."""
    return [indexed(word) for word in words(text)]


def starts(text: str) -> list[int]:
    """Where each of the ``tokens`` begins."""
    spaced = lowered(text).translate(_GAPS)
    if text.isascii() or not _WIDE.search(text):
        return [match.start() for match in _SOLID.finditer(spaced)]
    return [
        match.start() + offset
        for match in _SOLID.finditer(spaced)
        for offset in range(len(_pairs(match[0])))
    ]


def lowered(text: str) -> str:
    """In lower case, sign for sign."""
    low = text.lower()
    if len(low) != len(text):
        low = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    return low


def _pairs(word: str) -> list[str]:
    if not _WIDE.search(word) or len(word) < 3:
        return [word]
    return [word[i : i + 2] for i in range(len(word) - 1)]


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """A word without its commonest endings, so that "booked", "booking" and "books" are one."""
    if len(word) > 40:
        return word[:40]
    word = word.partition("'")[0].partition("’")[0] or word
    if len(word) < 4 or word.isdigit():
        return word
    for end, put in (("ies", "y"), ("ied", "y"), ("sses", "ss"), ("xes", "x"), ("ches", "ch")):
        if word.endswith(end):
            return word[: -len(end)] + put
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for end in ("ing", "ed"):
        if word.endswith(end) and len(word) - len(end) >= 3:
            word = word[: -len(end)]
            if word[-1] == word[-2] and word[-1] not in "lsz":
                word = word[:-1]
            break
    if word.endswith("e") and len(word) > 3:
        word = word[:-1]
    return word


@lru_cache(maxsize=65_536)
def indexed(word: str) -> str:
    """The stem of a word in lower case; empty for one that carries no meaning."""
    word = word.strip("'’").replace("’", "'")
    return "" if word in STOP else stem(word)


def content(text: str) -> list[str]:
    """Stems of the words that carry meaning, in order, with repetitions; digits included."""
    return [found for word in words(text) if (found := indexed(word))]


def is_statement(sentence: str) -> bool:
    """Whether a sentence of an answer states something: no question, heading or courtesy."""
    text = bare(sentence)
    if not text or text.endswith(("?", ":", "？", "：")):
        return False
    if _COURTESY.match(text):
        return False
    return len(content(text)) >= 2


def abstains(answer: str) -> bool:
    """Whether an answer says that it lacks what it would need."""
    return _ABSTAINS.search(answer[:4000]) is not None


def negations(text: str) -> int:
    """How many words of ``text`` turn its meaning round; "un-" and the like are ``turned``."""
    count = 0
    for word in words(text):
        if word in NEGATORS or word.endswith(("n't", "n’t")):
            count += 1
    return count


@lru_cache(maxsize=16_384)
def turned(word: str) -> str:
    """``unavailable`` → stem of ``available``; empty for words without such a beginning."""
    match = _TURNED.match(word)
    return stem(word[match.end() :]) if match else ""


def polarity(text: str, other: frozenset[str] | set[str]) -> int:
    """0 or 1: whether ``text`` is turned round an odd number of times.

    ``other``: stems of the sentence that it is held against; "unavailable" counts as a negation
    only where that one has "available".
    """
    count = negations(text)
    for word in words(text):
        if (base := turned(word)) and base in other and stem(word) not in other:
            count += 1
    return count % 2
