"""The evaluator of agents' calls: what came of their tools, loops, and how far a run is."""

import re
from typing import Any

from tocsin.core.interaction import Entry
from tocsin.core.messages import Message
from tocsin.core.score import Score
from tocsin.core.signals import Signal
from tocsin.domains.signals.form import ANSWERING, ENDED, Scores
from tocsin.domains.signals.text import loaded

_POLICY = "agents"
_STAGES = ("deny", "pause", "modify", "warn")
"""What the policy does with a run that gets nowhere, the hardest first."""
_HEAD = 600
"""Characters of a tool's result that tell whether it failed."""
_LARGEST = 20_000
"""Characters of a result that is read as JSON."""

AGENTS_SIGNALS: tuple[Signal, ...] = (
    Signal(
        name="tool_success",
        title="Tools that worked",
        axis="correct",
        kind="rate",
        better="up",
        description="Share of the tool results among the call's new messages that are no errors; "
        "only for calls that bring results, and for tool steps of traces.",
    ),
    Signal(
        name="loop_stage",
        title="Runs in a loop",
        axis="correct",
        kind="rate",
        better="down",
        description="The supervision of agents warned, nudged, paused or stopped the run at this "
        "call; only for calls of runs that use tools.",
    ),
    Signal(
        name="steps",
        title="Steps into the run",
        axis="consistent",
        kind="level",
        unit="calls",
        log=True,
        description="The call's number in its run, told by the answers in its history; beyond the "
        "last 64 messages every second one is taken for an answer.",
    ),
)

_FAILS = re.compile(
    r"\W{0,4}(?:(?:\w{1,40} )?errors?\b(?! ?(?:rate|bars?|margin|free|handling|log))"
    r"|\w{1,60}(?:error|exception)\b ?:|failed\b|failure\b|fatal\b|traceback\b|exception\b"
    r"|unauthori[sz]ed\b|forbidden\b|permission denied|access denied|command not found"
    r"|no such file|timed? ?out\b"
    r"|bad request\b|internal server error|not found\b|unknown (?:tool|command|function)"
    r"|invalid \w{1,40}\b|could ?n[o']t \w|can ?not \w|unable to \w|fehler\b|erreur\b|errore\b"
    r"|(?:http\S{0,10} )?(?:status )?(?:code:? ?)?[45]\d\d\b(?! ?(?:results|items|rows|records)))",
    re.IGNORECASE,
)
_EXITED = re.compile(
    r"exit(?:ed)?(?: with)?(?: code| status)?[:= ]{1,3}([0-9]{1,3})|traceback \(most recent",
    re.IGNORECASE,
)
_GOOD: tuple[Any, ...] = (False, None, 0, "", "none", "null", "false", [], {})
_BAD_WORDS = frozenset({"error", "failed", "failure", "fail", "rejected", "denied", "timeout"})


class AgentsEvaluator:
    """Judges calls of agents. Owns no state."""

    name = "agents_signals"
    version = "1"
    signals = AGENTS_SIGNALS

    def evaluate(self, entry: Entry) -> list[Score]:
        """Scores of a call to a model, and of tool steps that traces report."""
        call = entry.interaction
        out = Scores(call.id, self.version)
        if call.operation == "execute_tool":
            if call.outcome in ("complete", "error", "timeout"):
                out.add("tool_success", float(call.outcome == "complete"))
            return out.found
        if call.operation not in ANSWERING:
            return out.found
        results = [good for message in _new(entry) for good in outcomes_of(message)]
        if results:
            worked = sum(results) / len(results)
            out.add("tool_success", worked, label=None if worked == 1.0 else "failed")
        stage = _stage(entry)
        if stage or _uses_tools(entry):
            out.add("loop_stage", float(bool(stage)), label=stage or None)
        if entry.input and call.outcome in ENDED:
            out.add("steps", float(step_of(entry)))
        return out.found


def _new(entry: Entry) -> tuple[Message, ...]:
    """The messages that this call adds, as far as they are at hand."""
    added = entry.interaction.new_messages
    return entry.input[-added:] if added > 0 else ()


def _stage(entry: Entry) -> str:
    done = {d.action for d in entry.interaction.decisions if d.policy == _POLICY}
    return next((stage for stage in _STAGES if stage in done), "")


def _uses_tools(entry: Entry) -> bool:
    call = entry.interaction
    if call.tool_calls or call.tool_results:
        return True
    return any(message.calls or message.answers for message in entry.input)


def step_of(entry: Entry) -> int:
    """Which call of its run this is: 1 is the first."""
    answers = sum(1 for message in entry.input if message.role == "assistant")
    unseen = max(0, entry.interaction.input_messages - len(entry.input))
    return answers + unseen // 2 + 1


def outcomes_of(message: Message) -> list[bool]:
    """For each tool result that a message carries, whether it worked."""
    if not message.answers:
        return []
    value = loaded(message.raw)
    if not isinstance(value, dict):
        return []
    content = value.get("content")
    if message.role != "user" and not _blocks(content):
        return [not failed(_text(content), value.get("is_error") is True)]
    return [
        not failed(_text(block.get("content")), block.get("is_error") is True)
        for block in _blocks(content)
    ]


def _blocks(content: Any) -> list[dict[str, Any]]:
    """Anthropic's tool results."""
    if not isinstance(content, list):
        return []
    return [b for b in content if isinstance(b, dict) and b.get("type") == "tool_result"]


def _text(content: Any) -> str:
    """The text of a result in either dialect."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [part.get("text") for part in content if isinstance(part, dict)]
    return "\n".join(part for part in parts if isinstance(part, str))


def failed(text: str, marked: bool = False) -> bool:
    """Whether a tool's result says that it failed. ``marked``: the message itself says so.

    An error's name further on in a long text, a file that was read or a page, is no failure.
    """
    if marked:
        return True
    head = text[:_HEAD].strip()
    if not head:
        return False
    if head[0] == "{" and len(text) <= _LARGEST:
        value = loaded(text)
        if isinstance(value, dict):
            return _says_failed(value)
    exited = _EXITED.search(head) or _EXITED.search(text[-_HEAD:])
    if exited is not None:
        return exited[1] is None or int(exited[1]) != 0
    return len(text) <= 4 * _HEAD and _FAILS.match(head) is not None


def _says_failed(value: dict[str, Any]) -> bool:
    if value.get("error", value.get("errors")) not in _GOOD:
        return True
    if any(value.get(key) is False for key in ("success", "ok", "succeeded")):
        return True
    if any(value.get(key) is True for key in ("isError", "is_error", "failed")):
        return True
    for key in ("status", "code", "statusCode", "status_code"):
        status = value.get(key)
        if isinstance(status, str) and status.lower() in _BAD_WORDS:
            return True
        if isinstance(status, int) and not isinstance(status, bool) and 400 <= status < 600:
            return True
    exits = (value.get(key) for key in ("exit_code", "exitCode", "returncode", "return_code"))
    return any(isinstance(code, int) and code != 0 for code in exits)
