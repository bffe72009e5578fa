"""Runs of agents as real message sequences, for the tests of the supervisor's engine."""

import json
from typing import Any

from tocsin.core.messages import Message, parse_message
from tocsin.core.supervision import STAGES, Finding, Stage
from tocsin.domains.agents.engine import Tracker

START = 1_750_000_000_000_000
"""Microseconds since the epoch."""

Wire = dict[str, Any]


def message(wire: Wire) -> Message:
    return parse_message(json.dumps(wire).encode())


def say(role: str, text: str) -> Message:
    return message({"role": role, "content": text})


def calling(*calls: tuple[str, str, Any], thought: str | None = None) -> Message:
    """An assistant's message with tool calls: (id, tool, arguments)."""
    asked = [
        {
            "id": name,
            "type": "function",
            "function": {
                "name": tool,
                "arguments": given if isinstance(given, str) else json.dumps(given),
            },
        }
        for name, tool, given in calls
    ]
    return message({"role": "assistant", "content": thought, "tool_calls": asked})


def came(name: str, text: str) -> Message:
    return message({"role": "tool", "tool_call_id": name, "content": text})


class Agent:
    """One agent of a run: it sends its whole history with each call."""

    def __init__(
        self,
        tracker: Tracker | None = None,
        *,
        system: str = "You are a helpful agent.",
        task: str = "Find out what is wrong and repair it.",
        name: str = "",
        gap_s: float = 0.0,
    ) -> None:
        """``gap_s``: seconds between calls; 0 means that times are not known."""
        self.tracker = tracker or Tracker("run_1", "feature")
        self.history: list[Message] = [say("system", system), say("user", task)]
        self.name = name
        self.gap_s = gap_s
        self.at = START if gap_s else 0
        self.found: list[Finding] = []
        self.number = 0

    def call(self, output: Message, tokens: int | None = None, nano: int | None = None) -> None:
        """One call of the model: the history goes in, ``output`` comes out."""
        self.found += self.tracker.ask(tuple(self.history), at_us=self.at, agent=self.name)
        self.found += self.tracker.answered(
            output, input_tokens=tokens, output_tokens=20, nano_usd=nano, at_us=self.at
        )
        self.history.append(output)
        self.at += int(self.gap_s * 1_000_000)

    def ask(self) -> None:
        """A last call that only brings the results in."""
        self.found += self.tracker.ask(tuple(self.history), at_us=self.at, agent=self.name)

    def step(self, tool: str, arguments: Any, result: str, thought: str | None = None) -> None:
        """A call that asks for one tool, and what came of it."""
        self.number += 1
        name = f"call_{self.name}{self.number}"
        self.call(calling((name, tool, arguments), thought=thought))
        self.history.append(came(name, result))

    def says(self, text: str) -> None:
        self.call(say("assistant", text))

    def hears(self, text: str) -> None:
        self.history.append(say("user", text))

    @property
    def stage(self) -> Stage | None:
        """The strongest stage that was found so far."""
        reached = [STAGES.index(finding.stage) for finding in self.found]
        return STAGES[max(reached)] if reached else None

    def first(self, stage: Stage) -> int | None:
        """The call at which a stage was reached first."""
        least = STAGES.index(stage)
        calls = [f.call for f in self.found if STAGES.index(f.stage) >= least]
        return min(calls) if calls else None


def listing(findings: list[Finding]) -> str:
    """Findings as text, for the message of a failed assertion."""
    return "\n".join(f"{f.call} {f.stage} {f.detector}: {f.summary}" for f in findings)
