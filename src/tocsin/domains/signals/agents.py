"""The evaluator of agents' calls: what came of their tools, loops, and how far a run is."""

from typing import Any

from tocsin.core.interaction import Entry
from tocsin.core.messages import Message
from tocsin.core.schemas import loaded
from tocsin.core.score import Score
from tocsin.core.signals import Signal
from tocsin.core.tool_results import outcome_of
from tocsin.domains.signals.form import ANSWERING, ENDED, Scores

_POLICY = "agents"
_STAGES = ("deny", "pause", "modify", "warn")
"""What the policy does with a run that gets nowhere, the hardest first."""
_LARGEST = 20_000
"""Characters of a result that are looked at."""

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
    """Whether a tool's result says that it failed. ``marked``: the message itself says so."""
    outcome = outcome_of(text[:_LARGEST], "other", error=marked)
    return marked or outcome.failed or outcome.name == "rate_limit"
