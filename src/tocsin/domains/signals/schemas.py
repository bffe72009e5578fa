"""Verdicts on answers that must be JSON, as signals: no word of the answer is in them."""

from collections.abc import Iterator

import msgspec

from tocsin.core.interaction import Entry
from tocsin.core.messages import ToolCall
from tocsin.core.schemas import LARGEST, NOTHING, Checker, Expectations, Expected, loaded
from tocsin.core.wire import text_of
from tocsin.domains.signals.text import MAX_ANSWER, params_of


class Verdict(msgspec.Struct, frozen=True):
    """What a schema says of an answer; ``value`` is ``None`` where it could not be checked."""

    signal: str
    value: float | None
    label: str | None = None
    explanation: str = ""


class Schemas:
    """Checks answers. Keeps what the latest requests expected."""

    def __init__(self) -> None:
        self._expectations = Expectations()

    def verdicts(self, entry: Entry, answer: str) -> Iterator[Verdict]:
        """What the request's schemas say of an answer; nothing where it has none."""
        calls = entry.output.calls if entry.output is not None else ()
        expected = self._of(entry)
        if expected.json and (answer.strip() or not calls):
            if len(answer) >= MAX_ANSWER and entry.output is not None:
                answer = text_of(entry.output.raw)
            yield _valid_text(expected.answer, answer)
        elif expected.forced:
            yield _forced(expected, calls)
        if calls and expected.tools:
            yield _valid_calls(expected, calls)

    def _of(self, entry: Entry) -> Expected:
        key = entry.interaction.params
        return NOTHING if key is None else self._expectations.of(key, lambda: params_of(entry))


def _valid_text(checker: Checker, answer: str) -> Verdict:
    if len(answer) > LARGEST:
        return Verdict("schema_valid", None, explanation="the answer is too large")
    value = loaded(answer)
    if value is None and answer.strip() != "null":
        return Verdict("schema_valid", 0.0, "no_json", "the answer is no JSON")
    wrong = checker.wrong(value, len(answer))
    if wrong is None:
        return Verdict("schema_valid", None, explanation=checker.why or "too large to check")
    return Verdict("schema_valid", float(not wrong), "misfit" if wrong else "fits", wrong)


def _forced(expected: Expected, calls: tuple[ToolCall, ...]) -> Verdict:
    wanted = [call for call in calls if call.name == expected.forced]
    if not wanted:
        return Verdict("schema_valid", 0.0, "no_call", f"{expected.forced} was not called"[:200])
    return _worst("schema_valid", [_wrong_call(expected, call) for call in wanted])


def _valid_calls(expected: Expected, calls: tuple[ToolCall, ...]) -> Verdict:
    return _worst("tool_arguments_valid", [_wrong_call(expected, call) for call in calls])


def _worst(signal: str, found: list[str | None]) -> Verdict:
    wrong = next((w for w in found if w), "")
    if wrong:
        return Verdict(signal, 0.0, "misfit", wrong[:200])
    if None in found:
        return Verdict(signal, None, explanation="too large to check")
    return Verdict(signal, 1.0, "fits")


def _wrong_call(expected: Expected, call: ToolCall) -> str | None:
    checker = expected.tools.get(call.name)
    if checker is None:
        return f"{call.name[:80]}: no such tool"
    if checker.validator is None and not checker.why:
        return ""
    if len(call.arguments) > LARGEST:
        return None
    value = loaded(call.arguments or "{}")
    if not isinstance(value, dict):
        return f"{call.name[:80]}: the arguments are no JSON object"
    wrong = checker.wrong(value, len(call.arguments))
    return f"{call.name[:80]}: {wrong}" if wrong else wrong


def readable(text: str) -> bool:
    """Whether a text is JSON."""
    return loaded(text) is not None


def looks_like_json(text: str) -> bool:
    """Whether a text begins as a JSON object or array does."""
    head = text[1:64].lstrip()
    return head[:1] in ('"', "{", "[", "}", "]")
