"""ReAct transcripts in plain text: Question, Thought N, Action N, Observation N.

The logs that ReAct and Reflexion agents print (noahshinn/reflexion, MIT): episodes under headings
``BEGIN CORRECT AGENTS``, ``BEGIN INCORRECT AGENTS`` and ``BEGIN HALTED AGENTS``. Each Thought with
its Action is a call of the model, each Observation the result of the tool that it asked for.
"""

import re
from collections.abc import Iterator

import msgspec

from tocsin.core.interaction import Entry
from tocsin.importers.build import clean, to_message
from tocsin.importers.files import MAX_RECORD, BadRecord, Sample, Source
from tocsin.importers.formats.api import Format, Records
from tocsin.importers.formats.chat import Conversation, calls, identity
from tocsin.importers.messages import Wire

_QUESTION = "Question:"
_SECTION = re.compile(r"BEGIN (CORRECT|INCORRECT|HALTED) AGENTS")
_TRIAL = re.compile(r"BEGIN TRIAL (\d+)")
_RULE = re.compile(r"[#\-=]{8,}\s*")
_FIELD = re.compile(r"(Thought|Action|Observation) ?(\d*): ?(.*)", re.DOTALL)
_ANSWER = re.compile(r"Correct answer: ?(.*)", re.DOTALL)
_INVOCATION = re.compile(r"\s*([A-Za-z_][\w .-]{0,60}?)\s*\[(.*)\]\s*", re.DOTALL)
_LOOKS = re.compile(
    rb"^Question: .*\n(?:.*\n){0,40}?Thought ?\d*: ?.*\n(?:.*\n){0,40}?Action ?\d*: ", re.MULTILINE
)
_RESULTS = {"CORRECT": "success", "INCORRECT": "failure", "HALTED": "halted"}
_MAX_LINES = 100_000
"""Lines of one episode; a longer one is reported and skipped."""

_encode = msgspec.json.Encoder().encode


class _Episode(msgspec.Struct, kw_only=True):
    """One run as it is being read: its fields in order, and where it stands."""

    line: int
    result: str
    trial: str
    question: str
    number: int
    fields: list[tuple[str, str]] = []
    answer: str = ""
    lines: int = 0


def matches(sample: Sample) -> bool:
    """Whether the text holds an episode: a question, a thought, an action."""
    return sample.container == "binary" and _LOOKS.search(sample.head) is not None


def read(source: Source) -> Records:
    """Every call of every episode; how it came out stands on its last call."""
    for episode in _episodes(source):
        if isinstance(episode, BadRecord):
            yield episode
            continue
        fault = _fault(episode)
        if fault:
            yield source.bad(episode.line, fault)
        else:
            yield from _calls(source, episode)


def _fault(episode: _Episode) -> str:
    if episode.lines > _MAX_LINES:
        return f"the episode has more than {_MAX_LINES:,} lines"
    if not any(name == "Action" for name, _ in episode.fields):
        return "the episode has no Action, so it holds no finished call"
    return ""


def _episodes(source: Source) -> Iterator[_Episode | BadRecord]:
    result = trial = ""
    open_: _Episode | None = None
    number = 0
    for line, text in _lines(source):
        if _RULE.fullmatch(text):
            continue
        if (section := _SECTION.search(text)) or _TRIAL.search(text):
            if open_ is not None:
                yield open_
                open_ = None
            if section:
                result = _RESULTS[section[1]]
            elif named := _TRIAL.search(text):
                trial = named[1]
        elif text.startswith(_QUESTION):
            if open_ is not None:
                yield open_
            number += 1
            question = text[len(_QUESTION) :].strip()
            open_ = _Episode(
                line=line, result=result, trial=trial, question=question, number=number
            )
        elif open_ is not None:
            _take(open_, text)
    if open_ is not None:
        yield open_


def _take(episode: _Episode, text: str) -> None:
    """A line of an episode: a new field, or more of the one before."""
    episode.lines += 1
    if episode.lines > _MAX_LINES:
        return
    if answer := _ANSWER.fullmatch(text):
        episode.answer = answer[1].strip()
    elif field := _FIELD.fullmatch(text):
        episode.fields.append((field[1], field[3]))
    elif episode.answer:
        episode.answer = f"{episode.answer}\n{text}".rstrip()
    elif episode.fields:
        name, value = episode.fields[-1]
        episode.fields[-1] = (name, f"{value}\n{text}")
    elif text.strip():
        episode.question = f"{episode.question}\n{text}"


def _lines(source: Source) -> Iterator[tuple[int, str]]:
    rest, number = b"", 0
    for chunk in source.chunks():
        pieces = (rest + chunk).split(b"\n") if rest else chunk.split(b"\n")
        rest = pieces.pop()[-MAX_RECORD:]
        for piece in pieces:
            number += 1
            yield number, piece.decode(errors="replace").rstrip("\r")
    if rest:
        yield number + 1, rest.decode(errors="replace")


def _messages(episode: _Episode) -> list[Wire]:
    """The episode as OpenAI messages: a Thought with its Action is one answer of the model."""
    messages: list[Wire] = [{"role": "user", "content": episode.question}]
    thought, asked = "", ""
    for name, value in episode.fields:
        value = value.strip()
        if name == "Thought":
            thought = f"{thought}\n{value}" if thought else value
        elif name == "Action":
            asked = f"call_{episode.number}_{len(messages)}"
            messages.append(_answer(thought, value, asked))
            thought = ""
        elif asked:
            messages.append({"role": "tool", "tool_call_id": asked, "content": value})
            asked = ""
    return messages


def _answer(thought: str, action: str, name: str) -> Wire:
    told = _INVOCATION.fullmatch(action)
    if told is not None:
        tool, given = told[1], told[2]
    else:
        tool, _, given = action.partition(" ")
    arguments = _encode({"input": given}).decode()
    function = {"name": tool or "none", "arguments": arguments}
    return {
        "role": "assistant",
        "content": thought or None,
        "tool_calls": [{"id": name, "type": "function", "function": function}],
    }


def _calls(source: Source, episode: _Episode) -> Iterator[Entry]:
    messages = tuple(to_message(wire) for wire in _messages(episode))
    attributes = {"react.question": clean(episode.question, 400)}
    if episode.trial:
        attributes["react.trial"] = clean(episode.trial)
    verdict = {"result": episode.result} if episode.result else {}
    if episode.answer:
        verdict["react.answer"] = clean(episode.answer, 400)
    told = Conversation(
        messages=messages,
        about=("react", episode.trial, str(episode.number), identity(messages)),
        attributes=attributes,
        verdict=verdict,
    )
    return calls(source, told)


FORMAT = Format(name="react", title="ReAct transcripts", matches=matches, read=read)
