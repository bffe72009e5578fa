"""``FeatureChecks``: what ``[features.X.checks]`` asks of a feature's answers.

They run between the answer and its caller, on the event loop; patterns and functions look at
no more than ``LONGEST`` characters.
"""

import inspect
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tocsin.config.operations import ChecksSettings
from tocsin.core.call import Call
from tocsin.core.citations import citations_of, dangling
from tocsin.core.contexts import context_in
from tocsin.core.language import SURE, Teller
from tocsin.core.meaning import Check, Verdict
from tocsin.core.messages import Message
from tocsin.core.outcome import Outcome

log = logging.getLogger("tocsin.runtime")

CheckFunction = Callable[[str, Call], str | None]
"""``check(text, call)``: what is wrong with an answer, in words; ``None`` where nothing is."""

LONGEST = 200_000
"""Characters of an answer that patterns and functions see."""
_SLOW_S = 0.05
"""From here on a function is complained of: every other call waits for it."""
_NAMED = 5
"""Citations that are named."""


class FeatureChecks:
    """The checks of one feature, made ready."""

    def __init__(
        self,
        settings: ChecksSettings,
        functions: Mapping[str, CheckFunction],
        teller: Teller,
        *,
        quote: bool = True,
    ) -> None:
        self.outcome: Outcome = settings.outcome
        """What an answer is that fails one of them."""
        self._settings = settings
        self._must = tuple(re.compile(pattern) for pattern in settings.must_match)
        self._must_not = tuple(re.compile(pattern) for pattern in settings.must_not_match)
        self._functions = tuple((name, functions.get(name)) for name in settings.functions)
        self._teller = teller
        self._quote = quote
        self._slow: set[str] = set()

    @property
    def tells_language(self) -> bool:
        """Whether the language model is needed."""
        return bool(self._settings.language)

    def of(self, text: str, call: Call, output: Message | None) -> Iterator[Check]:
        """The verdict of each check on an answer's text."""
        settings = self._settings
        if settings.min_chars is not None or settings.max_chars is not None:
            yield self._length(len(text))
        if settings.language:
            yield self._language(text)
        if self._must or self._must_not:
            yield self._pattern(text)
        if settings.must_cite:
            yield self._cites(text[:LONGEST], call, output)
        for name, function in self._functions:
            yield self._custom(name, function, text[:LONGEST], call)

    def _length(self, size: int) -> Check:
        least, most = self._settings.min_chars, self._settings.max_chars
        if least is not None and size < least:
            return _fails("length", f"{size} characters, at least {least} are asked for")
        if most is not None and size > most:
            return _fails("length", f"{size} characters, at most {most} are allowed")
        return Check(name="length", verdict="pass")

    def _language(self, text: str) -> Check:
        wanted = self._settings.language.lower()
        told = self._teller.of(text)
        if told is None:
            return _guess("unsure", "too little text to tell its language")
        if told.language == wanted:
            return _guess("pass", "")
        if not told.language or told.certainty < SURE:
            return _guess("unsure", "the language cannot be told")
        return _guess("fail", f"written in {told.language}, asked for {wanted}")

    def _pattern(self, text: str) -> Check:
        seen = text[:LONGEST]
        for pattern in self._must_not:
            found = pattern.search(seen)
            if found is not None:
                said = f": {found[0][:80]!r}" if self._quote else ""
                return _fails("pattern", f"{pattern.pattern!r} is found at {found.start()}{said}")
        for pattern in self._must:
            if pattern.search(seen) is None:
                if len(text) > LONGEST:
                    return _unsure("pattern", f"{pattern.pattern!r} is not in what was looked at")
                return _fails("pattern", f"{pattern.pattern!r} is not found")
        if self._must_not and len(text) > LONGEST:
            return _unsure("pattern", f"only the first {LONGEST:,} characters were looked at")
        return Check(name="pattern", verdict="pass")

    def _cites(self, text: str, call: Call, output: Message | None) -> Check:
        citations = citations_of(text)
        if not citations:
            return _fails("cites", "there is no citation")
        context = context_in(call.messages, output, whole=call.draft.response_ref is None)
        joined = "\n".join([*(source.text for source in context.sources), context.rest])
        bad = dangling(citations, joined, text, context.results)
        if not bad:
            return Check(name="cites", verdict="pass")
        named = ", ".join(bad[:_NAMED]) if self._quote else f"{len(bad)} citations"
        if not context.whole:
            return _unsure("cites", f"{named}: part of the context cannot be read")
        return _fails("cites", f"{named}: not in the context")

    def _custom(self, name: str, function: CheckFunction | None, text: str, call: Call) -> Check:
        if function is None:
            return _unsure(name, "no installed package offers this check")
        began = time.perf_counter()
        try:
            said: Any = function(text, call)
        except Exception as error:
            log.exception("the check '%s' crashed", name)
            return _unsure(name, f"crashed: {type(error).__name__}")
        took = time.perf_counter() - began
        if took > _SLOW_S and name not in self._slow:
            self._slow.add(name)
            log.warning("the check '%s' took %.0f ms; every call waits for it", name, took * 1e3)
        if said is None or said == "":
            return Check(name=name, verdict="pass")
        if isinstance(said, str):
            return _fails(name, said if self._quote else "")
        if inspect.iscoroutine(said):
            said.close()
        return _unsure(name, f"returned {type(said).__name__}, not text or None")


def _fails(name: str, detail: str) -> Check:
    return Check(name=name, verdict="fail", detail=detail)


def _unsure(name: str, detail: str) -> Check:
    return Check(name=name, verdict="unsure", detail=detail)


def _guess(verdict: Verdict, detail: str) -> Check:
    return Check(name="language", verdict=verdict, said="heuristic", detail=detail)
