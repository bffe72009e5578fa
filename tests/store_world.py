"""Entries as the runtime would record them, for tests of the store."""

import json
from dataclasses import dataclass, field
from typing import Any

from tocsin.core.interaction import Attempt, Blob, Entry, Interaction, Usage
from tocsin.core.messages import Message, chain, content_hash, parse_message
from tocsin.store import Filter, Overview, Problem, Store

START = 1_790_000_000_000_000
SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR


class StoppedClock:
    """A clock that tests move."""

    def __init__(self, now: int = START) -> None:
        self.now = now

    def now_us(self) -> int:
        return self.now

    def monotonic_us(self) -> int:
        return self.now


def message(role: str, content: Any, **more: Any) -> Message:
    """A message as it comes on the wire."""
    return parse_message(json.dumps({"role": role, "content": content, **more}).encode())


def tool_call(call_id: str, name: str = "look_up") -> Message:
    """An answer that asks for a tool."""
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": "{}"}}
    return message("assistant", None, tool_calls=[call])


SYSTEM = message("system", "You are a careful assistant. Answer from the context only. " * 8)
PARAMS = b'{"model":"gpt-4o","temperature":0.2}'


def entry(
    number: int,
    *,
    run: str = "",
    history: tuple[Message, ...] = (),
    answer: Message | None = None,
    started_at: int | None = None,
    body: bytes | None = None,
    usage: Usage | None = None,
    **changes: Any,
) -> Entry:
    """The record of one call; ``number`` makes its id, its time and what it costs."""
    output = message("assistant", f"Answer {number}.") if answer is None else answer
    history = history or (SYSTEM, message("user", f"Question {number}?"))
    nodes = chain((*history, output))
    start = START + number * SECOND if started_at is None else started_at
    blobs = [Blob(content_hash(PARAMS), PARAMS)]
    if body is not None:
        blobs.append(Blob(content_hash(body), body))
    facts: dict[str, Any] = {
        "id": f"call_{number:024}",
        "source": "gateway",
        "dialect": "openai",
        "operation": "chat",
        "path": "/v1/chat/completions",
        "started_at": start,
        "duration_us": 250_000 + 1000 * number,
        "outcome": "complete",
        "feature": "support",
        "run_id": run or f"run_{number:024}",
        "run_source": "new",
        "request_model": "gpt-4o",
        "provider": "openai",
        "upstream": "openai",
        "status": 200,
        "usage": usage or Usage(input_tokens=100 + number, output_tokens=10, source="reported"),
        "cost_nano_usd": 1000 + number,
        "cost_source": "listed",
        "first_chunk_us": 50_000 + number,
        "attempts": (
            Attempt(
                number=1,
                upstream="openai",
                provider="openai",
                model="gpt-4o",
                started_at=start,
                duration_us=1000,
                status=200,
            ),
        ),
        "input_node": nodes[-2].hash,
        "output_node": nodes[-1].hash,
        "input_messages": len(history),
        "new_messages": len(history),
        "params": content_hash(PARAMS),
        "response_body": None if body is None else content_hash(body),
        "tool_calls": len(output.calls),
    }
    return Entry(
        interaction=Interaction(**{**facts, **changes}),
        input=history,
        nodes=nodes,
        output=output,
        blobs=tuple(blobs),
    )


@dataclass
class Conversation:
    """A run that sends its whole history with every call, as clients do."""

    run: str
    messages: tuple[Message, ...] = (SYSTEM,)
    calls: list[Entry] = field(default_factory=list)

    def call(self, number: int, text: str = "", **changes: Any) -> Entry:
        """The next call of the run."""
        asked = (*self.messages, message("user", text or f"{self.run} asks {number}"))
        answer = message("assistant", f"{self.run} hears {number}")
        fresh = len(asked) if not self.calls else 1
        made = entry(
            number, run=self.run, history=asked, answer=answer, new_messages=fresh, **changes
        )
        self.messages = (*asked, answer)
        self.calls.append(made)
        return made


def problems(store: Store) -> list[Problem]:
    """What ``verify`` finds."""
    return list(store.verify())


def ids(store: Store, where: Filter | None = None) -> list[str]:
    """The ids of all interactions that a filter finds, newest first."""
    page = store.interactions(where or Filter(), limit=10_000)
    return [one.id for one in page.rows]


def whole_overview(store: Store) -> Overview:
    """All features over all time, in few steps."""
    return store.overview(Filter(), buckets=12)
