"""The evaluator of an answer's form: what was asked for, and what came."""

from collections.abc import Mapping
from hashlib import blake2b

from tocsin.core.interaction import Entry, Interaction, Operation
from tocsin.core.language import Told
from tocsin.core.patterns import lazily
from tocsin.core.refusals import refused
from tocsin.core.score import Score
from tocsin.core.signals import Signal
from tocsin.domains.signals import schemas
from tocsin.domains.signals.boilerplate import boilerplate_share
from tocsin.domains.signals.choices import Choices, choices_in, pick_of
from tocsin.domains.signals.language import Languages
from tocsin.domains.signals.text import (
    SYSTEM_ROLES,
    answer_of,
    asked_by,
    refusal_of,
    system_of,
    users_turns,
)

ANSWERING: frozenset[Operation] = frozenset({"chat", "text_completion", "generate_content"})
ENDED = frozenset({"complete", "truncated", "refused", "invalid", "unverified"})
"""Outcomes after which there is an answer to judge."""

_RUN = 6
"""Words of a run that stood before. Rae et al. (2021), "Scaling Language Models" (Gopher), A.1.1,
filter documents by their share of duplicate runs of 5 to 10 words."""
_FEWEST = 20
"""Words from which repetition and language are judged."""

FORM_SIGNALS: tuple[Signal, ...] = (
    Signal(
        name="schema_valid",
        title="Valid JSON",
        axis="correct",
        kind="rate",
        better="up",
        description="The answer is JSON that fits its schema; only where the request asks for JSON "
        "or forces a tool.",
    ),
    Signal(
        name="tool_arguments_valid",
        title="Valid tool arguments",
        axis="correct",
        kind="rate",
        better="up",
        description="The tools that the answer calls exist and their arguments fit the schemas; "
        "only for answers with tool calls, where the request's tools are known.",
    ),
    Signal(
        name="choice_followed",
        title="Option given as asked",
        axis="correct",
        kind="rate",
        better="up",
        description="The answer gives exactly one of the options that the request lists, in the "
        "form that it shows; only for requests that ask to pick one.",
    ),
    Signal(
        name="first_choice",
        title="First option given",
        axis="consistent",
        kind="rate",
        description="The option given is the one listed first; only for answers that give one.",
    ),
    Signal(
        name="truncated",
        title="Cut short",
        axis="appropriate",
        kind="rate",
        better="down",
        description="The answer ended at a token limit, inside a code block or inside JSON, or, "
        "where no finish reason is known, in the middle of an expression.",
    ),
    Signal(
        name="refused",
        title="Refused",
        axis="appropriate",
        kind="rate",
        better="down",
        description="The answer declines, or says nothing but that it has no answer; by finish "
        "reason or in words.",
    ),
    Signal(
        name="empty",
        title="Empty",
        axis="appropriate",
        kind="rate",
        better="down",
        description="The answer has neither text nor a tool call.",
    ),
    Signal(
        name="boilerplate",
        title="Boilerplate",
        axis="appropriate",
        kind="rate",
        better="down",
        description="Share of the answer's words in sentences of disclaimers and courtesies.",
    ),
    Signal(
        name="language_match",
        title="Language of the request",
        axis="appropriate",
        kind="rate",
        better="up",
        description="The answer is in the request's language and script; not judged for short or "
        "code-heavy texts, nor where the request names a language.",
    ),
    Signal(
        name="repetition",
        title="Repetition",
        axis="appropriate",
        kind="level",
        better="down",
        description="Share of the answer's runs of six words that stood in it before; judged from "
        "20 words.",
    ),
    Signal(
        name="answer_words",
        title="Answer length",
        axis="consistent",
        kind="level",
        unit="words",
        log=True,
        description="Words in the answer; for scripts without spaces two characters count as one.",
    ),
    Signal(
        name="verbosity",
        title="Answer per request word",
        axis="consistent",
        kind="level",
        log=True,
        scale=0.1,
        description="Words in the answer for each word of the user's last message.",
    ),
    Signal(
        name="has_list",
        title="List",
        axis="consistent",
        kind="rate",
        description="The answer has a bulleted or numbered list.",
    ),
    Signal(
        name="has_code",
        title="Code block",
        axis="consistent",
        kind="rate",
        description="The answer has a fenced code block.",
    ),
    Signal(
        name="has_json",
        title="JSON",
        axis="consistent",
        kind="rate",
        description="The answer is a JSON object or array, or has a code block that is one.",
    ),
    Signal(
        name="has_table",
        title="Table",
        axis="consistent",
        kind="rate",
        description="The answer has a Markdown or HTML table.",
    ),
)

_LIST = lazily(r"\n[ \t]{0,8}(?:[-*+•]|\d{1,3}[.)])[ \t]{1,8}\S")
_TABLE = lazily(r"\n[ \t]{0,8}\|?[ \t]{0,8}:?-{2,80}:?[ \t]{0,8}\|[-:| \t]*(?:\n|\Z)")
_UNSPACED = lazily(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_MID = ",;:([{=+*/÷×<–—-\\"
"""Characters that no answer ends with unless it was cut."""


class FormEvaluator:
    """Judges an answer by itself and by what its request asks for. Owns caches, no state."""

    name = "form"
    version = "1"
    signals = FORM_SIGNALS

    def __init__(self) -> None:
        self._languages = Languages()
        self._schemas = schemas.Schemas()
        self._system_choices: dict[str, Choices | None] = {}
        self._told: tuple[Entry | None, Told | None] = (None, None)

    def evaluate(self, entry: Entry) -> list[Score]:
        """Scores of a call that was answered; calls without an answer have none."""
        call = entry.interaction
        if call.operation not in ANSWERING or call.outcome not in ENDED:
            return []
        out = Scores(call.id, self.version)
        answer = answer_of(entry)
        blank = not answer or answer.isspace()
        calls = entry.output.calls if entry.output is not None else ()
        declined = refusal_of(entry.output) if entry.output is not None else ""
        by_reason = bool(declined) or (call.outcome == "refused" and not _guessed(call))
        if not by_reason:
            out.add("empty", float(blank and not calls and not _other_content(entry)))
        out.add("truncated", float(_truncated(entry, answer)))
        if not by_reason:
            for verdict in self._schemas.verdicts(entry, answer):
                out.add(verdict.signal, verdict.value, verdict.label, verdict.explanation)
        request = asked_by(entry)
        if blank:
            if by_reason:
                out.add("refused", 1.0, label="finish_reason")
            return out.found
        pick = self._choice(out, entry, request, answer)
        if by_reason:
            out.add("refused", 1.0, label="finish_reason")
        else:
            out.add("refused", float(not pick and refused(answer)))
        self._text(out, entry, request, answer)
        return out.found

    def slices(self, entry: Entry) -> Mapping[str, str]:
        """The request's language, its system prompt and the tool that it is about."""
        found: dict[str, str] = {}
        told = self._language_of(entry)
        if told is not None and told.language:
            found["language"] = told.language
        if "prompt" not in entry.interaction.attributes:
            prompt = _prompt_of(entry)
            if prompt:
                found["prompt"] = prompt
        tool = tool_of(entry)
        if tool:
            found["tool"] = tool
        return found

    def _language_of(self, entry: Entry) -> Told | None:
        """The request's language; told once for an entry, by whichever method asks first."""
        if self._told[0] is not entry:
            self._told = (entry, self._languages.of_request(users_turns(entry)))
        return self._told[1]

    def _choice(self, out: "Scores", entry: Entry, request: str, answer: str) -> bool:
        """Scores of the option given; whether one was."""
        choices = choices_in(request) if request else None
        if choices is None:
            choices = self._choices_of_system(entry)
        if choices is None:
            return False
        pick = pick_of(choices, answer)
        followed = pick is not None and pick.exact
        out.add(
            "choice_followed",
            float(followed),
            label="given" if followed else "other_form" if pick is not None else "none",
            explanation="" if followed else f"asked for one of {', '.join(choices.names)}"[:200],
        )
        if pick is not None:
            out.add("first_choice", float(pick.index == 0), label=choices.names[pick.index])
        return pick is not None

    def _choices_of_system(self, entry: Entry) -> Choices | None:
        """Options that the system messages list. Prompts repeat, so they are read once."""
        text = system_of(entry)
        if not text:
            return None
        if text not in self._system_choices:
            if len(self._system_choices) >= 64:
                self._system_choices.clear()
            self._system_choices[text] = choices_in(text)
        return self._system_choices[text]

    def _text(self, out: "Scores", entry: Entry, request: str, answer: str) -> None:
        words = answer.split()
        count = word_count(answer, words)
        out.add("answer_words", float(count))
        asked = word_count(request, request.split()) if request else 0
        if asked:
            out.add("verbosity", count / asked)
        out.add("boilerplate", boilerplate_share(answer, count))
        if count >= _FEWEST:
            out.add("repetition", repeated_share(answer, words))
        out.add("has_list", float(_LIST.search("\n" + answer) is not None))
        out.add("has_code", float("```" in answer or "~~~" in answer))
        out.add("has_json", float(_has_json(answer)))
        out.add("has_table", float(_has_table(answer)))
        match = self._languages.match(self._language_of(entry), entry, request, answer)
        if match is not None:
            out.add("language_match", match.value, match.label, match.explanation)


class Scores:
    """Scores of one interaction, as they are found."""

    def __init__(self, interaction_id: str, version: str) -> None:
        self.found: list[Score] = []
        self._id = interaction_id
        self._version = version

    def add(
        self, name: str, value: float | None, label: str | None = None, explanation: str = ""
    ) -> None:
        self.found.append(
            Score(
                interaction_id=self._id,
                name=name,
                version=self._version,
                value=value,
                label=label,
                explanation=explanation,
            )
        )


def word_count(text: str, words: list[str]) -> int:
    """Words of a text; where words are not spaced, two characters make about one."""
    if text.isascii():
        return len(words)
    unspaced = len(_UNSPACED.findall(text))
    return len(words) + unspaced // 2 if unspaced else len(words)


def repeated_share(text: str, words: list[str]) -> float:
    """The share of a text's runs of six words that stood in it before.

    Texts without spaces are taken in pairs of characters. Time is linear in the text.
    """
    if len(text) > 20 * len(words):
        words = [text[i : i + 2] for i in range(0, len(text), 2)]
    if len(words) < _RUN:
        return 0.0
    runs = len(words) - _RUN + 1
    seen = set(zip(words, words[1:], words[2:], words[3:], words[4:], words[5:], strict=False))
    return 1.0 - len(seen) / runs


def tool_of(entry: Entry) -> str:
    """The tool whose result came in last, else the one that the answer calls."""
    names = {call.id: call.name for message in entry.input for call in message.calls}
    last = entry.input[-1] if entry.input else None
    if last is not None:
        for answered in reversed(last.answers):
            if names.get(answered):
                return names[answered][:120]
    calls = entry.output.calls if entry.output is not None else ()
    return calls[-1].name[:120] if calls else ""


def _prompt_of(entry: Entry) -> str:
    digest = blake2b(digest_size=4)
    any_ = False
    for message in entry.input:
        if message.role in SYSTEM_ROLES:
            digest.update(message.hash)
            any_ = True
    return digest.hexdigest() if any_ else ""


def _guessed(call: Interaction) -> bool:
    """Whether nothing but the answer's wording made it a refusal."""
    return any(check.name == "refusal" and check.said == "heuristic" for check in call.checks)


def _other_content(entry: Entry) -> bool:
    """Whether an answer without text has content of another kind: a picture, a sound."""
    raw = entry.output.raw if entry.output is not None else b""
    return b'"audio"' in raw or b'"image' in raw or b'_call"' in raw or b'"server_tool' in raw


def _truncated(entry: Entry, answer: str) -> bool:
    call = entry.interaction
    if call.outcome == "truncated" or call.finish_reason in ("length", "max_tokens"):
        return True
    text = answer.rstrip()
    if not text:
        return False
    if text.count("```") % 2 == 1:
        return True
    if text[0] in "{[" and text[-1] not in "}]" and schemas.looks_like_json(text):
        return True
    # Weak, so only where nobody says how the answer ended.
    return call.finish_reason is None and len(text) >= 200 and text[-1] in _MID


def _has_json(answer: str) -> bool:
    text = answer.strip()
    if text[:1] in ("{", "[") and text[-1:] in ("}", "]"):
        return schemas.readable(text)
    at = answer.find("```json")
    if at < 0:
        return False
    end = answer.find("```", at + 7)
    return schemas.readable(answer[at + 7 : end if end > 0 else len(answer)].strip())


def _has_table(answer: str) -> bool:
    if "|" in answer and "--" in answer and _TABLE.search(answer) is not None:
        return True
    return "<table" in answer
