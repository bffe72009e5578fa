"""Real traces turned back into the calls that made them."""

from __future__ import annotations

import collections
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.spans import Prose
from harness.tools import Missing

TAU_BENCH = "agents/tau-bench-airline-gpt-4o.json"
MOONCAKE = "load/mooncake-conversation.jsonl"
BEGAN_S = 1_700_000_000
BLOCK_TOKENS = 512

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One model call: the whole history that was sent, and the answer."""

    run: int
    number: int
    started_s: float
    seconds: float
    model: str
    messages: tuple[Json, ...]
    answer: Json

    def request(self) -> Json:
        """The chat completions body that made this call."""
        return {"model": self.model, "messages": list(self.messages), "temperature": 0.0}

    def response(self) -> Json:
        """The chat completion that answered it; usage is four characters per token."""
        prompt = sum(len(json.dumps(m)) for m in self.messages) // 4
        completion = len(json.dumps(self.answer)) // 4
        called = bool(self.answer.get("tool_calls"))
        return {
            "id": f"chatcmpl-{self.run:06x}{self.number:06x}",
            "object": "chat.completion",
            "created": int(self.started_s),
            "model": self.model,
            "choices": [
                {
                    "index": 0,
                    "message": self.answer,
                    "finish_reason": "tool_calls" if called else "stop",
                }
            ],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            },
        }


def _file(folder: Path | None, name: str) -> Path:
    if folder is None or not (folder / name).exists():
        raise Missing(f"needs --data DIR with {name}")
    return folder / name


def tau_bench(folder: Path | None, *, limit: int | None = None) -> list[Call]:
    """Every assistant turn of every run as one call, with all turns before it as its history.

    The recorded runs hold no tool definitions, so neither do these calls; real ones are larger.
    """
    calls: list[Call] = []
    at = float(BEGAN_S)
    for run, recorded in enumerate(json.loads(_file(folder, TAU_BENCH).read_bytes())[:limit]):
        turns = recorded["traj"]
        for i, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            at += 3.0
            calls.append(
                Call(
                    run=run,
                    number=i,
                    started_s=at,
                    seconds=1.5,
                    model="gpt-4o",
                    messages=tuple(turns[:i]),
                    answer=turn,
                )
            )
    return calls


def mooncake(folder: Path | None, *, scale: int, limit: int | None = None) -> Iterator[Call]:
    """Requests with the trace's own prefix sharing and made-up text, ``scale`` times smaller.

    The trace names 512-token prefix blocks and no text. Each block gets a text of its own; a
    message ends where the trace shows that it must: after the first block (the system prompt),
    and wherever requests part or end. Answers are not linked to later requests, since the trace
    does not say which blocks they became.
    """
    lines = _file(folder, MOONCAKE).read_text().splitlines()[:limit]
    rows = [json.loads(line) for line in lines]
    ends = _message_ends([row["hash_ids"] for row in rows])
    text = " ".join(Prose(7).corpus)
    for number, row in enumerate(rows):
        messages = []
        for i, blocks in enumerate(_messages(row["hash_ids"], ends)):
            role = "system" if i == 0 else ("user", "assistant")[(i - 1) % 2]
            content = "".join(_block(text, b, BLOCK_TOKENS // scale) for b in blocks)
            messages.append({"role": role, "content": content})
        answer = _block(text, -1 - number, max(1, row["output_length"] // scale))
        yield Call(
            run=row["hash_ids"][min(1, len(row["hash_ids"]) - 1)],
            number=number,
            started_s=BEGAN_S + row["timestamp"] / 1000,
            seconds=row["output_length"] * 0.02,
            model="gpt-4o-mini",
            messages=tuple(messages),
            answer={"role": "assistant", "content": answer},
        )


def _message_ends(paths: Sequence[Sequence[int]]) -> set[int]:
    """Blocks after which a message ends. A block id names its whole prefix, so ids make a tree."""
    following: dict[int, set[int]] = collections.defaultdict(set)
    ends: set[int] = set()
    for path in paths:
        ends.update((path[0], path[-1]))
        for here, there in itertools.pairwise(path):
            following[here].add(there)
    return ends | {block for block, after in following.items() if len(after) > 1}


def _messages(path: Sequence[int], ends: set[int]) -> Iterator[list[int]]:
    blocks: list[int] = []
    for block in path:
        blocks.append(block)
        if block in ends:
            yield blocks
            blocks = []


def _block(text: str, block: int, tokens: int) -> str:
    """The same text for the same block, about four characters per token."""
    at = random.Random(block).randrange(len(text) - 4 * tokens)
    return text[at : at + 4 * tokens]


def openinference(call: Call, *, lean: bool) -> dict[str, str | int | float]:
    """The attributes that OpenInference's OpenAI instrumentation puts on the span of a call.

    It writes the history twice: as ``input.value`` (the request's JSON) and message by message.
    ``lean`` leaves the JSON of request and response out, which no instrumentation does today.
    """
    response = call.response()
    found: dict[str, str | int | float] = {
        "openinference.span.kind": "LLM",
        "llm.system": "openai",
        "llm.provider": "openai",
        "llm.model_name": call.model,
        "llm.invocation_parameters": json.dumps({"model": call.model, "temperature": 0.0}),
        "llm.token_count.prompt": response["usage"]["prompt_tokens"],
        "llm.token_count.completion": response["usage"]["completion_tokens"],
        "llm.token_count.total": response["usage"]["total_tokens"],
        "session.id": f"run-{call.run}",
    }
    if not lean:
        found |= {
            "input.value": json.dumps(call.request()),
            "input.mime_type": "application/json",
            "output.value": json.dumps(response),
            "output.mime_type": "application/json",
        }
    for i, message in enumerate(call.messages):
        found |= _message(f"llm.input_messages.{i}.message", message)
    return found | _message("llm.output_messages.0.message", call.answer)


def _message(prefix: str, message: Json) -> dict[str, str]:
    found = {f"{prefix}.role": str(message["role"])}
    for key in ("content", "name", "tool_call_id"):
        if message.get(key):
            found[f"{prefix}.{key}"] = str(message[key])
    for i, asked in enumerate(message.get("tool_calls") or ()):
        at = f"{prefix}.tool_calls.{i}.tool_call"
        found[f"{at}.id"] = asked["id"]
        found[f"{at}.function.name"] = asked["function"]["name"]
        found[f"{at}.function.arguments"] = asked["function"]["arguments"]
    return found
