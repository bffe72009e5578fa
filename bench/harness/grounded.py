"""Grounded answers of real data sets, and one planted mistake at a time."""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from tocsin.core.interaction import Entry, Interaction
from tocsin.core.messages import parse_message

Wire = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """An answer with the messages that it was given after."""

    data: str
    group: str
    """What is split by: a task, a question, a conversation."""
    messages: tuple[Wire, ...]
    text: str
    developed: bool
    """In the half that rules and thresholds were made on."""

    @property
    def context(self) -> str:
        """Everything but what the model said."""
        return "\n".join(str(m.get("content") or "") for m in self.messages
                         if m["role"] != "assistant")  # fmt: skip

    def entry(self, number: int = 0) -> Entry:
        """The answer as it would have been recorded."""
        messages = tuple(parse_message(json.dumps(m).encode()) for m in self.messages)
        output = parse_message(json.dumps({"role": "assistant", "content": self.text}).encode())
        call = Interaction(
            id=f"call_{number}", source="import", dialect="openai", operation="chat",
            path="/v1/chat/completions", started_at=0, duration_us=1, outcome="complete",
            feature=self.data, run_id="run_1", run_source="new", request_model="recorded",
            input_messages=len(messages),
        )  # fmt: skip
        return Entry(interaction=call, input=messages, output=output)


def half(name: str) -> bool:
    """Which half a group belongs to, from its name alone."""
    return blake2b(name.encode(), digest_size=1).digest()[0] % 2 == 0


# -- the sets --


def airline(folder: Path) -> Iterator[Answer]:
    """tau-bench: what an agent told its customer after tools had answered. Even tasks developed."""
    runs = json.loads((folder / "agents/tau-bench-airline-gpt-4o.json").read_text())
    for run in runs:
        for number, message in enumerate(run["traj"]):
            before = run["traj"][:number]
            if message["role"] != "assistant" or message.get("tool_calls"):
                continue
            if message.get("content") and any(m["role"] == "tool" for m in before):
                task = run["task_id"]
                yield Answer("tau-bench airline", str(task), tuple(before), message["content"],
                             task % 2 == 0)  # fmt: skip


def hotpot(folder: Path) -> Iterator[Answer]:
    """HotpotQA by ReAct: what was thought and answered last, in episodes that were right."""
    text = (folder / "agents/hotpotqa-react.txt").read_text()
    for episode in re.split(r"\nQuestion: ", text)[1:]:
        question = episode.split("\n", 1)[0].strip()
        if "Observation" not in episode or "Answer is CORRECT" not in episode:
            continue
        found = re.findall(r"(?m)^(Thought|Action|Observation) \d+: ?((?:.|\n(?!Thought \d|Action "
                           r"\d|Observation \d|Correct answer))*)", episode)  # fmt: skip
        seen = [body.strip() for kind, body in found if kind == "Observation"][:-1]
        thoughts = [body.strip() for kind, body in found if kind == "Thought"]
        final = re.search(r"Finish\[(.*?)\]", episode)
        if not seen or not thoughts or final is None:
            continue
        sources = "\n\n".join(f"[{n}] {text}" for n, text in enumerate(seen, 1))
        messages = ({"role": "user", "content": f"Context:\n{sources}\n\nQuestion: {question}"},)
        yield Answer("HotpotQA ReAct", question, messages, f"{thoughts[-1]} Answer: {final[1]}.",
                     half(question))  # fmt: skip


def conversations(folder: Path) -> Iterator[Answer]:
    """LoCoMo: summaries of sessions, and answers to questions whose evidence is named."""
    for index, one in enumerate(json.loads((folder / "conversations/locomo-dev.json").read_text())):
        talk = one["conversation"]
        developed = index % 2 == 0
        sessions = {
            key: f"{talk[f'{key}_date_time']}\n"
            + "\n".join(f"{turn['speaker']}: {turn['text']}" for turn in turns)
            for key, turns in talk.items()
            if key.startswith("session_") and isinstance(turns, list)
        }
        for key, said in sessions.items():
            summary = one["session_summary"].get(f"{key}_summary")
            if summary:
                yield Answer("LoCoMo summaries", str(index), _asked(said, "What happened?"),
                             summary, developed)  # fmt: skip
        for qa in one["qa"]:
            keys = {
                f"session_{e[1:].split(':')[0]}" for e in qa.get("evidence", ()) if e[:1] == "D"
            }
            if qa["category"] in (1, 2, 4) and keys and all(key in sessions for key in keys):
                said = "\n\n".join(sessions[key] for key in sorted(keys))
                yield Answer("LoCoMo answers", str(index), _asked(said, qa["question"]),
                             f"{qa['answer']}.", developed)  # fmt: skip


def _asked(context: str, question: str) -> tuple[Wire, ...]:
    request = f"Context:\n{context}\n\nQuestion: {question}"
    return ({"role": "system", "content": "Answer from the context."},
            {"role": "user", "content": request})  # fmt: skip


# -- planting --

NUMBER = re.compile(r"(?<![\w.,:$€£/-])[$€£]?\d+(?:,\d{3})*(?:\.\d+)?(?![\w/-]|[.,:]\d)")
"""A number that is no part of a code, a date in digits, or a time of day."""
_CLOCK = re.compile(r"(?<![\w:])\d{1,2}:\d\d(?![\d])")
_DAY = re.compile(r"(?<![\w-])\d{4}-\d\d-\d\d(?![\w-])")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}(?: [A-Z][a-z]+){0,2}\b")
_CODE = re.compile(r"(?<!\w)(?=\w*\d)(?=\w*[A-Z])[A-Z0-9]{5,8}(?!\w)")
_PERSON = re.compile(r'"first_name": "(\w+)", "last_name": "(\w+)"')
_AUXILIARY = re.compile(
    r"\b(is|are|was|were|has been|have been|will be|will|can|could|does|did|has|have|had)\b(?! not)"
)
_NEGATED = re.compile(r"\b(is|are|was|were|will|can|could|does|did|has|have|had|do|would) not\b")
_CALENDAR = (
    "January February March April May June July August September October November December "
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
)


def _listed(text: str, match: re.Match[str]) -> bool:
    line = text.rfind("\n", 0, match.start()) + 1
    head = re.match(r"[\s>*#-]*(?:\d+\.\s)?\**(?:[A-Za-z]+ ){0,3}$", text[line : match.start()])
    return bool(head and re.match(r"[.)]|\**:|\*\*", text[match.end() :]))


def numbers_in(text: str) -> list[re.Match[str]]:
    """Numbers, times and days that state something; no numbering of lists."""
    plain = [m for m in NUMBER.finditer(text) if not _listed(text, m)]
    return [*plain, *_CLOCK.finditer(text), *_DAY.finditer(text)]


def names_in(answer: Answer) -> list[re.Match[str]]:
    """Names and codes of the answer that its context has: grounded ones."""
    known = answer.context.lower()
    people = [re.escape(f"{a} {b}") for a, b in _PERSON.findall(answer.context)]
    found = [*_NAME.finditer(answer.text), *_CODE.finditer(answer.text)]
    if people:
        found += re.finditer("|".join(sorted(set(people))), answer.text)
    return [m for m in found if all(word in known for word in m[0].lower().split())]


class Planter:
    """Puts one mistake into an answer. What it draws from are other groups of the same set."""

    def __init__(self, answers: Iterable[Answer]) -> None:
        self._numbers: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        self._names: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        answers = list(answers)
        self._plain = _plain_words(answers)
        for answer in answers:
            for match in numbers_in(answer.text):
                self._numbers[answer.data, _shape(match[0])].append((answer.group, match[0]))
            for match in self._names_in(answer):
                self._names[answer.data, _kind(answer, match)].append((answer.group, match[0]))

    def _names_in(self, answer: Answer) -> list[re.Match[str]]:
        return [m for m in names_in(answer)
                if not any(word in self._plain for word in m[0].split())]  # fmt: skip

    def changed_number(self, answer: Answer, rng: random.Random) -> Answer | None:
        """One number becomes another of its shape and size: one digit is another digit."""
        found = numbers_in(answer.text)
        if not found:
            return None
        match = rng.choice(found)
        places = [i for i, sign in enumerate(match[0]) if sign.isdigit()]
        for _ in range(50):
            place = rng.choice(places)
            digits = "123456789" if place == places[0] and len(places) > 1 else "0123456789"
            new = match[0][:place] + rng.choice(digits) + match[0][place + 1 :]
            if new != match[0] and _plausible(new):
                return _put(answer, match, new)
        return None

    def other_number(self, answer: Answer, rng: random.Random) -> Answer | None:
        """One number becomes one of its shape that another group's answer has."""
        found = numbers_in(answer.text)
        if not found:
            return None
        match = rng.choice(found)
        pool = self._numbers[answer.data, _shape(match[0])]
        others = sorted({new for group, new in pool if group != answer.group and new != match[0]})
        return _put(answer, match, rng.choice(others)) if others else None

    def moved_number(self, answer: Answer, rng: random.Random) -> Answer | None:
        """One number becomes one that the context says of something else."""
        found = numbers_in(answer.text)
        if not found:
            return None
        match = rng.choice(found)
        shape = _shape(match[0])
        others = sorted({m[0] for m in numbers_in(answer.context)
                         if _shape(m[0]) == shape and m[0] != match[0]})  # fmt: skip
        return _put(answer, match, rng.choice(others)) if others else None

    def other_name(self, answer: Answer, rng: random.Random) -> Answer | None:
        """One name or code becomes one of its kind that another group's answer has."""
        found = self._names_in(answer)
        if not found:
            return None
        match = rng.choice(found)
        pool = self._names[answer.data, _kind(answer, match)]
        mine = set(match[0].lower().split())
        others = sorted(
            {new for group, new in pool
             if group != answer.group and not mine & set(new.lower().split())}
        )  # fmt: skip
        return _put(answer, match, rng.choice(others)) if others else None

    def negation(self, answer: Answer, rng: random.Random) -> Answer | None:
        """One "not" is put in after an auxiliary, or taken out."""
        found = [*_AUXILIARY.finditer(answer.text), *_NEGATED.finditer(answer.text)]
        if not found:
            return None
        match = rng.choice(found)
        new = match[0].removesuffix(" not") if match[0].endswith(" not") else f"{match[0]} not"
        return _put(answer, match, new)


def _plain_words(answers: Iterable[Answer]) -> set[str]:
    """Capitalised forms of words that any context also writes small, and names of months and days:
    no names."""
    contexts = dict.fromkeys(answer.context for answer in answers)
    plain = {word.capitalize() for text in contexts for word in re.findall(r"\b[a-z]{2,}\b", text)}
    return plain | set(_CALENDAR.split())


def _put(answer: Answer, match: re.Match[str], new: str) -> Answer:
    return replace(answer, text=answer.text[: match.start()] + new + answer.text[match.end() :])


def absent(answer: Answer, wrong: Answer) -> bool:
    """Whether what was planted stands nowhere in the context, as it is written."""
    first = next(i for i, (a, b) in enumerate(zip(answer.text, f"{wrong.text}\0", strict=False))
                 if a != b)  # fmt: skip
    same = 0
    while same < len(answer.text) - first and answer.text[-1 - same] == wrong.text[-1 - same]:
        same += 1
    start = max((m.end() for m in re.finditer(r"[\s(*\"$]", wrong.text[:first])), default=0)
    end = re.search(r"[\s),.;:*\"]*(?:\s|$)", wrong.text[len(wrong.text) - same :])
    stop = len(wrong.text) - same + (end.start() if end else 0)
    new = wrong.text[start:stop].strip("$€£,.;:()*\"'")
    return re.search(rf"(?<![\w]){re.escape(new)}(?![\w])", answer.context) is None


def _shape(number: str) -> str:
    return re.sub(r"\d", "0", number)


def _plausible(number: str) -> bool:
    if ":" in number:
        hour, minute = number.split(":")
        return int(hour) < 24 and int(minute) < 60
    if number.count("-") == 2:
        _, month, day = number.split("-")
        return 1 <= int(month) <= 12 and 1 <= int(day) <= 31
    return True


def _kind(answer: Answer, match: re.Match[str]) -> str:
    """What a name is, by how it is written and where it stands."""
    name = match[0]
    if re.match(r" \([A-Z]{3}\)", answer.text[match.end() :]):
        return "place with its code"
    if any(c.isdigit() for c in name):
        # Flight numbers end in digits, booking codes mix them.
        return "number code" if re.fullmatch(r"[A-Z]+\d+", name) else f"code of {len(name)}"
    if tuple(name.split()) in _PERSON.findall(answer.context):
        return "person"
    return f"{len(name.split())} words"
