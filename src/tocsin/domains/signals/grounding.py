"""Whether an answer says what its context says: statements, numbers, names, citations, negations.

Lexical and exact: embeddings call "300 dollars" and "900 dollars" alike, which is what is looked
for here. A call without context has no such score, except for ``answered_without_context``.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from tocsin.core.citations import Citation, citations_of, dangling
from tocsin.core.contexts import Context, Source, answer_of, context_of
from tocsin.core.interaction import Entry
from tocsin.core.score import Score
from tocsin.core.signals import Signal
from tocsin.domains.signals.evidence import Evidence, Evidences, Match
from tocsin.domains.signals.naming import Names
from tocsin.domains.signals.numbers import Numbers
from tocsin.domains.signals.statements import (
    Sentence,
    abstains,
    bare,
    content,
    is_statement,
    polarity,
    sentences,
)

MAX_ANSWER = 16 * 1024
_MAX_STATEMENTS = 80
_KEPT_CHARACTERS = 512 * 1024
"""Indexed text that is kept for the next calls of the same runs."""
_BORNE_OUT_HERE, _BORNE_OUT = 0.5, 0.8
"""Weighted share of a statement's words in one place, or anywhere, that bears it out."""
_NEARLY_SAME = 0.6
_SAME_STATEMENT = 0.8
"""... and from which a sentence of the context says the same, so that polarity can be compared."""

SIGNALS: tuple[Signal, ...] = (
    Signal(
        name="supported",
        title="Supported statements",
        axis="grounded",
        kind="level",
        better="up",
        description="Share of the answer's statements whose words, numbers and names the context "
        "has; calls without context, or without statements, are not judged.",
    ),
    Signal(
        name="numbers_supported",
        title="Numbers supported",
        axis="grounded",
        kind="rate",
        better="up",
        description="Share of answers all of whose numbers, dates and amounts are in the context, "
        "or follow from numbers beside them; calls without context or numbers are not judged.",
    ),
    Signal(
        name="names_supported",
        title="Names supported",
        axis="grounded",
        kind="rate",
        better="up",
        description="Share of answers all of whose names, codes and addresses are in the context "
        "or the question; calls without context or names are not judged.",
    ),
    Signal(
        name="citations_valid",
        title="Citations valid",
        axis="grounded",
        kind="rate",
        better="up",
        description="Share of citing answers all of whose citations point to something in the "
        "context.",
    ),
    Signal(
        name="answered_without_context",
        title="Answered without context",
        axis="grounded",
        kind="rate",
        better="down",
        description="Share of calls with a place for context that were answered as if there were "
        "any although it was empty.",
    ),
    Signal(
        name="negation_kept",
        title="Negation kept",
        axis="grounded",
        kind="rate",
        better="up",
        description="Share of answers none of whose statements is the opposite of the sentence of "
        "the context that it repeats; only close repetitions are judged.",
    ),
)


class GroundingEvaluator:
    """Scores an answer against the context in its own request. Text is read to fixed limits."""

    name = "grounding"
    version = "1"
    signals = SIGNALS

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, Evidence] = OrderedDict()
        self._kept_size = 0

    def evaluate(self, entry: Entry) -> Sequence[Score]:
        """Scores for a call that was answered in words; none for others."""
        answer = answer_of(entry.output)[:MAX_ANSWER]
        if not answer.strip():
            return ()
        context = context_of(entry)
        if not context.spoken_of:
            return ()
        check = _Check(entry.interaction.id, self.version, answer, context)
        if not context.given:
            return [check.without_context()]
        return check.scores(
            Evidences([self._evidence(source) for source in context.sources]),
            Evidences([self._evidence(source) for source in context.said]),
        )

    def _evidence(self, source: Source) -> Evidence:
        """The index of a text; of the same message again, the one made before."""
        kept = self._kept.get(source.key)
        if kept is not None and kept.text == source.text:
            self._kept.move_to_end(source.key)
            return kept
        made = Evidence(source.text)
        if len(source.text) <= _KEPT_CHARACTERS // 4:
            if kept is not None:
                self._kept_size -= len(kept.text)
            self._kept[source.key] = made
            self._kept_size += len(source.text)
            while self._kept_size > _KEPT_CHARACTERS:
                _, old = self._kept.popitem(last=False)
                self._kept_size -= len(old.text)
        return made


class _Check:
    """One answer against one context."""

    def __init__(self, interaction_id: str, version: str, answer: str, context: Context) -> None:
        self._id = interaction_id
        self._version = version
        self._answer = answer
        self._context = context
        self._statements = [
            sentence
            for sentence in sentences(answer)[: 4 * _MAX_STATEMENTS]
            if is_statement(sentence.text)
        ][:_MAX_STATEMENTS]

    def _score(self, name: str, value: float, explanation: str = "") -> Score:
        return Score(
            interaction_id=self._id,
            name=name,
            version=self._version,
            value=value,
            explanation=explanation[:200],
        )

    def _verdict(self, name: str, bad: Sequence[str], said: str) -> Score:
        """1, or 0 with what is bad; ``None`` where it may be in what cannot be seen."""
        if not bad:
            return self._score(name, 1.0)
        if not self._context.whole:
            return Score(
                interaction_id=self._id,
                name=name,
                version=self._version,
                value=None,
                explanation="part of the context cannot be read",
            )
        shown = ", ".join(_short(text) for text in bad[:3])
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        return self._score(name, 0.0, f"{said}: {shown}{more}")

    def without_context(self) -> Score:
        """Whether the answer makes statements although there is nothing to rest them on."""
        asserts = bool(self._statements) and not abstains(self._answer)
        return self._score(
            "answered_without_context",
            1.0 if asserts else 0.0,
            f"the context is empty: {_short(self._statements[0].text)}" if asserts else "",
        )

    def scores(self, given: Evidences, said: Evidences) -> list[Score]:
        """All scores that apply."""
        rest = self._context.rest
        found = [self._score("answered_without_context", 0.0)]
        numbers, looked_at = Numbers(self._answer, given, said).unsupported()
        numbers = [value for value in numbers if not _is_in(value.text, rest)]
        if looked_at:
            bad = [value.text for value in numbers]
            found.append(self._verdict("numbers_supported", bad, "not in the context"))
        names, looked_at = Names(self._answer, given, said).unsupported()
        names = [name for name in names if not _is_in(name.text, rest)]
        if looked_at:
            bad = [name.text for name in names]
            found.append(self._verdict("names_supported", bad, "not in the context"))
        citations = citations_of(self._answer)
        if citations:
            bad = self._invalid(citations, given)
            found.append(self._verdict("citations_valid", bad, "cites what is not there"))
        spans = [(value.start, value.end) for value in numbers]
        spans += [(name.start, name.end) for name in names]
        return found + self._statements_scores(given, spans)

    def _statements_scores(self, given: Evidences, bad: Sequence[tuple[int, int]]) -> list[Score]:
        if not self._statements or self._context.rest:
            return []
        borne, turned, compared = 0, [], 0
        unsupported = ""
        for statement in self._statements:
            stems = content(bare(statement.text))
            match = given.match(stems)
            good = match.local >= _BORNE_OUT_HERE or match.share >= _BORNE_OUT
            if good and not _holds(statement, bad):
                borne += 1
            elif not unsupported:
                unsupported = statement.text
            opposite = _opposite(statement, stems, match)
            compared += opposite is not None
            if opposite:
                turned.append(bare(statement.text))
        share = borne / len(self._statements)
        found = [self._level(share, unsupported)]
        if compared:
            found.append(self._verdict("negation_kept", turned, "says the opposite"))
        return found

    def _level(self, share: float, unsupported: str) -> Score:
        if share < 1.0 and not self._context.whole:
            return Score(
                interaction_id=self._id,
                name="supported",
                version=self._version,
                value=None,
                explanation="part of the context cannot be read",
            )
        said = f"not in the context: {_short(bare(unsupported))}" if unsupported else ""
        return self._score("supported", share, said)

    def _invalid(self, citations: Iterable[Citation], given: Evidences) -> list[str]:
        joined = "\n".join([*(text.text for text in given.texts), self._context.rest])
        return dangling(citations, joined, self._answer, self._context.results)


def _opposite(statement: Sentence, stems: Sequence[str], match: Match) -> bool | None:
    """Whether the context's sentence says the opposite; ``None`` where it is another statement."""
    words = set(stems)
    if len(words) < 3 or match.local < _NEARLY_SAME:
        return None
    sentence = match.sentence
    theirs = set(content(sentence))
    shared = len(words & theirs)
    if shared < _SAME_STATEMENT * len(words) or shared < 0.6 * len(theirs):
        return None
    return polarity(statement.text, theirs) != polarity(sentence, words)


def _holds(statement: Sentence, spans: Sequence[tuple[int, int]]) -> bool:
    return any(statement.start <= start < statement.end for start, _ in spans)


def _is_in(text: str, rest: str) -> bool:
    """Whether a text stands in the part of the context that is not read closely."""
    return bool(rest) and text.strip("$€£¥ ") in rest


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:59]}…"
