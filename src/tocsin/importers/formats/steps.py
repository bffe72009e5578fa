"""What Langfuse and LangSmith have in common: trees of observations with free-form bodies."""

from typing import Any

import msgspec

from tocsin.core.ids import derived_id
from tocsin.core.interaction import SPAN_OPERATIONS, Entry, Operation, Usage
from tocsin.core.outcome import Outcome, outcome_of
from tocsin.importers.build import (
    MAX_ATTRIBUTE,
    MAX_ATTRIBUTES,
    Histories,
    call_entry,
    clean,
    microseconds,
    step_entry,
    to_message,
    to_messages,
)
from tocsin.importers.files import Source
from tocsin.importers.messages import Wire, as_text


class Observation(msgspec.Struct, kw_only=True):
    """One step of a trace, in plain values."""

    operation: Operation
    trace_id: str
    id: str
    parent_id: str | None
    name: str
    start: Any
    end: Any
    first: Any = None
    model: str = ""
    provider: str | None = None
    end_user: str | None = None
    conversation_id: str | None = None
    release: str | None = None
    agent: str | None = None
    error: str | None = None
    finish: str | None = None
    usage: Usage = Usage()
    params: bytes = b""
    history: list[Wire] = []
    output: Wire | None = None
    given: Any = None
    result: Any = None
    attributes: dict[str, str] = {}


def entry(source: Source, seen: Observation, histories: Histories) -> Entry:
    """The entry of an observation: a call of a model, or a step with its two bodies."""
    facts = _facts(source, seen)
    if seen.operation in SPAN_OPERATIONS or seen.operation == "embeddings":
        if seen.operation == "embeddings":
            facts["usage"] = seen.usage
        return step_entry(facts, as_text(seen.given), as_text(seen.result))
    facts["usage"] = seen.usage
    facts["finish_reason"] = seen.finish
    history = to_messages(seen.history)
    output = to_message(seen.output) if seen.output is not None else None
    if seen.error is None:
        facts["outcome"] = _outcome(seen.finish, answered=output is not None)
    made = call_entry(facts, history=history, output=output, params=seen.params)
    known = histories.continued(made.nodes[: len(history)])
    if output is not None:
        histories.ended(made.nodes[-1].hash, facts["run_id"])
    if not known:
        return made
    new = history[known:]
    interaction = msgspec.structs.replace(
        made.interaction,
        new_messages=len(new),
        tool_results=sum(len(message.answers) for message in new),
    )
    return msgspec.structs.replace(made, interaction=interaction)


def _outcome(finish: str | None, *, answered: bool) -> Outcome:
    if finish is not None:
        return outcome_of(finish)
    return "complete" if answered else "unknown"


def _facts(source: Source, seen: Observation) -> dict[str, Any]:
    attributes = {"trace": clean(seen.trace_id), "observation": clean(seen.id)}
    if seen.name:
        attributes["span_name"] = clean(seen.name)
    if seen.operation == "execute_tool" and seen.name:
        attributes["gen_ai.tool.name"] = clean(seen.name)
    attributes |= seen.attributes
    started_at, ended_at = microseconds(seen.start), microseconds(seen.end)
    if started_at is None:
        started_at, ended_at = source.tick(), None
        attributes["time"] = "unknown"
    first = microseconds(seen.first)
    return {
        "id": derived_id("call", seen.trace_id, seen.id),
        "source": "import",
        "dialect": "openai",
        "operation": seen.operation,
        "path": "",
        "started_at": started_at,
        "duration_us": max(0, ended_at - started_at) if ended_at is not None else 0,
        "first_chunk_us": max(0, first - started_at) if first is not None else None,
        "outcome": "complete" if seen.error is None else "error",
        "error_type": None if seen.error is None else "error",
        "error_message": None if seen.error is None else clean(seen.error, MAX_ATTRIBUTE) or None,
        "feature": "default",
        "end_user": seen.end_user,
        "release": seen.release,
        "run_id": derived_id("run", seen.trace_id),
        "run_source": "trace",
        "conversation_id": seen.conversation_id,
        "parent_id": derived_id("call", seen.trace_id, seen.parent_id) if seen.parent_id else None,
        "agent": seen.agent,
        "request_model": seen.model,
        "provider": seen.provider,
        "attributes": dict(list(attributes.items())[:MAX_ATTRIBUTES]),
    }


def text_of(value: Any) -> str | None:
    """Text that says something, cut to the length of a name; else ``None``."""
    return clean(value) or None if isinstance(value, str) else None


def labels(value: Any, prefix: str, most: int = 32) -> dict[str, str]:
    """The fields of an object as flat attributes."""
    if not isinstance(value, dict):
        return {}
    return {
        clean(prefix + as_text(key)): clean(as_text(item), MAX_ATTRIBUTE)
        for key, item in list(value.items())[:most]
        if item is not None
    }
