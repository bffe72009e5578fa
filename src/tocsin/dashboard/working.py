"""Operations as their pages show them: how they stand, their log in few lines, their steps."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from tocsin.core.operations import Event, Operation, Step
from tocsin.dashboard import fmt

_TEXT = 300
_TONES = {"unknown": "act", "failed": "act", "asked": "look", "begun": "look", "done": "ok"}


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a log: an event, or several of one type in a row."""

    first: int
    last: int
    type: str
    at: int
    lasted_us: int
    text: str

    @property
    def count(self) -> int:
        """How many events it stands for."""
        return self.last - self.first + 1


class StepLine(msgspec.Struct, frozen=True, kw_only=True):
    """One step, its arguments and result as text."""

    step: Step
    tone: str
    arguments: str
    result: str


class _Delta(msgspec.Struct):
    delta: str = ""


def state(row: Operation) -> tuple[str, str]:
    """How an operation stands: a word and its tone; of an ended one its outcome, without a tone."""
    if row.outcome is not None:
        return row.outcome, ""
    if row.status == "waiting":
        return "waits for a person", "look"
    if row.cancel_at is not None:
        return "being cancelled", "look"
    if row.status == "running" and row.progress is not None:
        return f"running, {row.progress:.0%}", "ok"
    return row.status, "ok" if row.status == "running" else ""


def lasted(row: Operation, now: int) -> int | None:
    """Microseconds that it ran, or has been running."""
    return None if row.started_at is None else (row.ended_at or now) - row.started_at


def lines(events: Sequence[Event]) -> list[Line]:
    """A log for people: events of one type that come in a row are one line, their text joined."""
    made: list[Line] = []
    group: list[Event] = []
    for event in events:
        if group and (event.type != group[0].type or not event.type.endswith("delta")):
            made.append(_line(group))
            group = []
        group.append(event)
    if group:
        made.append(_line(group))
    return made


def _line(group: list[Event]) -> Line:
    first, last = group[0], group[-1]
    if first.type.endswith("delta"):
        text = "".join(_delta(event.data) for event in group)
    else:
        text = _says(first)
    return Line(
        first=first.number,
        last=last.number,
        type=first.type,
        at=first.at,
        lasted_us=last.at - first.at,
        text=fmt.summary(text, _TEXT),
    )


_KNOWN = ("text", "arguments", "refusal", "note", "question")
"""Fields that hold what an event says, where it has one of them."""
_FRAME = ("type", "sequence_number", "operation", "item_id", "output_index", "content_index")


def _says(event: Event) -> str:
    """What an event says beside its type and its place, in a few words."""
    said = _object(event.data)
    response, item = said.get("response"), said.get("item")
    if isinstance(response, dict):
        return answer_facts(response)
    if isinstance(item, dict):
        names = (item.get("type"), item.get("name"), item.get("status"))
        return ", ".join(str(name) for name in names if name)
    for name in _KNOWN:
        if isinstance(said.get(name), str) and said[name]:
            return str(said[name])
    rest = {name: value for name, value in said.items() if name not in _FRAME}
    return _json(rest) if rest else ""


def answer_facts(response: dict[str, Any]) -> str:
    """A Response object in a line: status, outcome, failed checks, tokens, error."""
    said = [str(response.get("status", ""))]
    tocsin, usage, error = (response.get(name) for name in ("tocsin", "usage", "error"))
    if isinstance(tocsin, dict):
        said.append(f"outcome {tocsin.get('outcome')}")
        checks = [c for c in tocsin.get("checks") or () if isinstance(c, dict)]
        said += [f"{c.get('name')} failed" for c in checks if c.get("verdict") == "fail"]
    if isinstance(usage, dict):
        said.append(f"{usage.get('input_tokens')} tokens in, {usage.get('output_tokens')} out")
    if isinstance(error, dict):
        said.append(str(error.get("message", "")))
    return ", ".join(word for word in said if word)


def answer_text(result: bytes) -> str:
    """What a result says to a reader: the text of a Response object, else the JSON itself."""
    said = _object(result)
    parts: list[str] = []
    for item in said.get("output") or () if said.get("object") == "response" else ():
        if not isinstance(item, dict):
            continue
        if item.get("type") == "function_call":
            parts.append(f"{item.get('name')}({item.get('arguments')})")
        content = item.get("content")
        for block in content if isinstance(content, list) else ():
            if isinstance(block, dict):
                parts.append(str(block.get("text") or block.get("refusal") or ""))
    return "\n\n".join(part for part in parts if part) or result.decode(errors="replace")


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _delta(data: bytes) -> str:
    try:
        return msgspec.json.decode(data, type=_Delta).delta
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


def steps(found: Iterable[Step]) -> list[StepLine]:
    """Steps in the order in which they began."""
    return [
        StepLine(
            step=step,
            tone=_TONES[step.state],
            arguments=_text(step.arguments),
            result=_text(step.result),
        )
        for step in found
    ]


def _text(data: bytes | None) -> str:
    return (
        ""
        if data in (None, b"", b"null")
        else fmt.summary((data or b"").decode(errors="replace"), _TEXT)
    )


def question(step: Step | None) -> dict[str, Any] | None:
    """What a person is asked: ``question`` and, as text, ``details``."""
    if step is None:
        return None
    try:
        said = msgspec.json.decode(step.arguments)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = step.arguments.decode(errors="replace")
    if isinstance(said, dict) and isinstance(said.get("question"), str):
        details = said.get("details")
        text = "" if details is None else fmt.summary(_json(details), 2000)
        return {"question": fmt.summary(said["question"], 2000), "details": text}
    return {"question": fmt.summary(_json(said), 2000), "details": ""}


def _json(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
