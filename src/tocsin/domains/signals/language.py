"""Whether an answer is in the language and script that was asked for."""

from collections.abc import Iterable

import msgspec

from tocsin.core.interaction import Entry
from tocsin.core.language import SAMPLE, SURE, Teller, Told
from tocsin.core.lexicon import lexicon
from tocsin.domains.signals.text import system_of

_EAST_ASIAN = frozenset(("Han", "Kana"))
_NAMES = lexicon(
    """
    translat übersetz tradu vertaal english german french spanish italian portuguese dutch russian
    chinese mandarin cantonese japanese korean arabic hebrew hindi turkish polish swedish danish
    norwegian finnish greek latin ukrainian czech slovak bulgarian serbian croatian vietnamese
    thai indonesian malay bengali tamil telugu urdu persian farsi romanian hungarian catalan
    language deutsch englisch französisch spanisch italienisch anglais allemand français espagnol
    inglés alemán francés español italiano inglese tedesco francese spagnolo inglês alemão francês
    espanhol português sprache langue idioma lingua multilingual bilingual 英文 英语 英語 中文
    日本語 한국어 영어 翻译 翻訳 翻譯 번역 русск английск перев
    """
)


class Match(msgspec.Struct, frozen=True):
    """A verdict on an answer's language; ``value`` is ``None`` where neither can be told."""

    value: float | None
    label: str = ""
    explanation: str = ""


class Languages(Teller):
    """Compares the languages of requests and answers."""

    def __init__(self) -> None:
        super().__init__()
        self._named: dict[str, bool] = {}

    def of_request(self, turns: Iterable[str]) -> Told | None:
        """The language of what the user said last, with earlier turns where that is too short."""
        text = ""
        for number, turn in enumerate(turns):
            text = f"{turn[: 2 * SAMPLE]} {text}" if text else turn[: 4 * SAMPLE]
            told = self.of(text)
            if told is not None or number == 2:
                return told
        return None

    def match(self, asked: Told | None, entry: Entry, request: str, answer: str) -> Match | None:
        """Whether the answer is in the request's language; ``None``: nothing to judge.

        Where they differ and the request, or the system prompt, speaks of languages, another one
        may have been asked for.
        """
        if asked is None:
            return None
        got = self.of(answer)
        if got is None:
            return None
        verdict = _compared(asked, got)
        if verdict.value == 1.0:
            return verdict
        if self._names_one(request) or self._names_one(system_of(entry)):
            return None
        if len(request) > 4 * SAMPLE:
            # A text to work on and what to do with it may be in two languages.
            end = self.of(request[-2 * SAMPLE :])
            if end is not None and end.language != asked.language:
                return _compared(end, got)
        return verdict

    def _names_one(self, text: str) -> bool:
        """Whether a text speaks of languages."""
        if text not in self._named:
            if len(self._named) >= 64:
                self._named.clear()
            low = text.lower()
            self._named[text] = any(name in low for name in _NAMES)
        return self._named[text]


def _compared(asked: Told, got: Told) -> Match:
    if asked.script != got.script and not {asked.script, got.script} <= _EAST_ASIAN:
        return Match(0.0, got.script, f"asked in {asked.script}, answered in {got.script}")
    if not asked.language or not got.language:
        return Match(None, explanation="the language cannot be told")
    if asked.language == got.language:
        return Match(1.0, got.language)
    if min(asked.certainty, got.certainty) < SURE:
        return Match(None, explanation="the language cannot be told")
    what = f"asked in {asked.language}, answered in {got.language}"
    return Match(0.0, got.language, what)
