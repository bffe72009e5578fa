"""LangSmith exports: runs, one a line or in a list, nested or flat."""

from collections.abc import Iterator
from typing import Any

import msgspec

from tocsin.core.interaction import Operation, Usage
from tocsin.importers.build import MAX_ATTRIBUTE, Histories, clean, count, usage_from
from tocsin.importers.files import BadRecord, Sample, Source
from tocsin.importers.formats.api import Format, Records
from tocsin.importers.formats.steps import Observation, entry, labels, text_of
from tocsin.importers.messages import Wire, as_text, message_of, messages_of, tool_call

_TYPES: dict[str, Operation] = {
    "llm": "chat",
    "chain": "invoke_workflow",
    "tool": "execute_tool",
    "retriever": "retrieval",
    "embedding": "embeddings",
    "prompt": "invoke_workflow",
    "parser": "invoke_workflow",
}
_ROLES = {
    "human": "user",
    "ai": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
    "humanmessage": "user",
    "aimessage": "assistant",
    "systemmessage": "system",
    "toolmessage": "tool",
    "functionmessage": "tool",
    "humanmessagechunk": "user",
    "aimessagechunk": "assistant",
}
_MAX_NESTED = 64
_encode = msgspec.json.Encoder().encode


def matches(sample: Sample) -> bool:
    """Whether the first record is a run, or a page of runs."""
    return "run_type" in sample.keys or ("runs" in sample.keys and b'"run_type"' in sample.head)


def read(source: Source) -> Records:
    """Every run, those nested in others included."""
    histories = Histories()
    pages = ("runs",) if "runs" in source.sample.keys else ()
    for record in source.objects(pages):
        if isinstance(record, BadRecord):
            yield record
            continue
        line, value = record
        yield from _runs(source, line, value, {}, histories)


def _runs(
    source: Source, line: int, run: dict[str, Any], parent: dict[str, Any], known: Histories
) -> Records:
    operation = _TYPES.get(as_text(run.get("run_type")))
    own_id = run.get("id")
    if operation is None or not isinstance(own_id, str):
        reason = "run_type is none of LangSmith's" if operation is None else "a run needs an id"
        yield source.bad(line, reason)
        return
    run.setdefault("trace_id", parent.get("trace_id"))
    run.setdefault("parent_run_id", parent.get("id"))
    if not isinstance(run.get("trace_id"), str):
        run["trace_id"] = _root(run.get("dotted_order")) or own_id
    yield entry(source, _seen(operation, run), known)
    depth = parent.get("_depth", 0) + 1
    children = run.get("child_runs")
    for child in children if isinstance(children, list) and depth < _MAX_NESTED else ():
        if isinstance(child, dict):
            here = {"id": own_id, "trace_id": run["trace_id"], "_depth": depth}
            yield from _runs(source, line, child, here, known)


def _root(order: Any) -> str | None:
    """The trace's id: the first run named in a dotted order (``<time>Z<id>.<time>Z<id>``)."""
    first = order.partition(".")[0] if isinstance(order, str) else ""
    return first.partition("Z")[2] or None


def _seen(operation: Operation, run: dict[str, Any]) -> Observation:
    inputs, outputs = _object(run.get("inputs")), _object(run.get("outputs"))
    extra = _object(run.get("extra"))
    metadata = _object(extra.get("metadata"))
    invocation = _object(extra.get("invocation_params"))
    answer, finish, usage = _answer(run, outputs)
    history = _history(inputs)
    if "prompts" in inputs and operation == "chat":
        operation = "text_completion"
    error = run.get("error")
    return Observation(
        operation=operation,
        trace_id=run["trace_id"],
        id=run["id"],
        parent_id=text_of(run.get("parent_run_id")),
        name=as_text(run.get("name")),
        start=run.get("start_time"),
        end=run.get("end_time"),
        first=run.get("first_token_time"),
        model=_model(invocation, metadata, outputs),
        provider=text_of(metadata.get("ls_provider")),
        end_user=text_of(metadata.get("user_id")),
        conversation_id=text_of(
            metadata.get("thread_id")
            or metadata.get("session_id")
            or metadata.get("conversation_id")
        ),
        release=text_of(metadata.get("revision_id")),
        error=None if not error else as_text(error),
        finish=finish,
        usage=usage,
        params=_encode(invocation) if invocation else b"",
        history=history,
        output=answer,
        given=run.get("inputs"),
        result=run.get("outputs"),
        attributes=_attributes(run, metadata),
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _model(invocation: dict[str, Any], metadata: dict[str, Any], outputs: dict[str, Any]) -> str:
    told = _object(outputs.get("llm_output"))
    for value in (
        invocation.get("model"),
        invocation.get("model_name"),
        metadata.get("ls_model_name"),
        told.get("model_name"),
        outputs.get("model"),
    ):
        if isinstance(value, str) and value:
            return clean(value)
    return ""


def _attributes(run: dict[str, Any], metadata: dict[str, Any]) -> dict[str, str]:
    found = {"langsmith.run_type": as_text(run.get("run_type"))}
    cost = run.get("total_cost")
    if isinstance(cost, int | float | str) and cost not in ("", 0):
        found["reported_cost_usd"] = clean(as_text(cost))
    tags = run.get("tags")
    if isinstance(tags, list) and tags:
        found["tags"] = clean(", ".join(as_text(tag) for tag in tags[:32]), MAX_ATTRIBUTE)
    kept = {k: v for k, v in metadata.items() if not as_text(k).startswith("ls_")}
    found |= labels(kept, "metadata.", 24)
    if not run.get("parent_run_id"):
        found |= _verdict(run)
    return found


def _verdict(run: dict[str, Any]) -> dict[str, str]:
    """How the whole run came out: its error, and the feedback on it."""
    found = {"success": "false"} if run.get("error") else {}
    averages: list[float] = []
    for name, told in list(_object(run.get("feedback_stats")).items())[:16]:
        average = _object(told).get("avg")
        if isinstance(average, int | float):
            averages.append(average)
            found[clean(f"feedback.{name}")] = f"{average:g}"
    if len(averages) == 1:
        found["reward"] = f"{averages[0]:g}"
    return found


# -- messages --


def _history(inputs: dict[str, Any]) -> list[Wire]:
    messages = inputs.get("messages")
    if isinstance(messages, list):
        return list(_messages(messages))
    prompts = inputs.get("prompts")
    if isinstance(prompts, list):
        return [{"role": "user", "content": as_text(prompt)} for prompt in prompts]
    for name in ("input", "prompt", "question", "text"):
        if name in inputs:
            return messages_of(inputs[name])
    return messages_of(inputs) if inputs else []


def _messages(items: list[Any]) -> Iterator[Wire]:
    """Messages in any form that LangChain writes; one list of them for each prompt of a batch."""
    for item in items:
        if isinstance(item, list) and not _is_pair(item):
            for inner in item:
                yield from _message(inner)
        else:
            yield from _message(item)


def _is_pair(item: list[Any]) -> bool:
    return len(item) == 2 and all(isinstance(part, str) for part in item)


def _message(item: Any, role: str = "user") -> list[Wire]:
    """One message: a constructor (``id``, ``kwargs``), ``type`` and ``data``, or a plain one."""
    if isinstance(item, list) and _is_pair(item):
        return [{"role": _ROLES.get(item[0], item[0]), "content": item[1]}]
    if not isinstance(item, dict):
        return [{"role": role, "content": as_text(item)}]
    path = item.get("id")
    if isinstance(item.get("kwargs"), dict):
        kind = path[-1] if isinstance(path, list) and path else item["kwargs"].get("type")
        return [_langchain(item["kwargs"], kind, role)]
    if isinstance(item.get("data"), dict):
        return [_langchain(item["data"], item.get("type"), role)]
    if "role" not in item and isinstance(item.get("type"), str):
        return [_langchain(item, item["type"], role)]
    return message_of(item, role)


def _langchain(fields: dict[str, Any], kind: Any, role: str) -> Wire:
    said = as_text(kind).lower()
    role = _ROLES.get(said, as_text(fields.get("role")) or role)
    content = fields.get("content")
    message: Wire = {"role": role, "content": content if content != "" else None}
    if role == "tool" and isinstance(fields.get("tool_call_id"), str):
        message["tool_call_id"] = fields["tool_call_id"]
    if isinstance(name := fields.get("name"), str) and name and role != "tool":
        message["name"] = name
    more = _object(fields.get("additional_kwargs"))
    asked = more.get("tool_calls") or fields.get("tool_calls")
    if isinstance(asked, list) and asked:
        message["tool_calls"] = [tool_call(call) for call in asked if isinstance(call, dict)]
    if message["content"] is None and "tool_calls" not in message:
        message["content"] = ""
    return message


def _answer(run: dict[str, Any], outputs: dict[str, Any]) -> tuple[Wire | None, str | None, Usage]:
    """The answer's message, finish reason and usage."""
    first = _first_generation(outputs)
    told = first.get("message") if first else None
    choices = outputs.get("choices")
    finish: Any = _object(first.get("generation_info")).get("finish_reason") if first else None
    if told is None and isinstance(choices, list) and choices:
        told, finish = _object(choices[0]).get("message"), _object(choices[0]).get("finish_reason")
    if told is None and first:
        told = {"role": "assistant", "content": as_text(first.get("text"))}
    if told is None:
        told = outputs.get("message") or outputs.get("output") or _last(outputs.get("messages"))
    if told is None and {"role", "content"} <= outputs.keys():
        told = outputs
    messages = _message(told, "assistant") if told is not None else []
    inner = _object(told)
    fields = _object(inner.get("kwargs")) or _object(inner.get("data")) or inner
    response = _object(fields.get("response_metadata"))
    finish = finish or response.get("finish_reason") or response.get("stop_reason")
    usage = _usage(run, outputs, fields, response)
    return (messages[-1] if messages else None), text_of(finish), usage


def _first_generation(outputs: dict[str, Any]) -> dict[str, Any]:
    found = outputs.get("generations")
    while isinstance(found, list):
        found = found[0] if found else None
    return _object(found)


def _last(messages: Any) -> Any:
    return messages[-1] if isinstance(messages, list) and messages else None


def _usage(
    run: dict[str, Any],
    outputs: dict[str, Any],
    message: dict[str, Any],
    response: dict[str, Any],
) -> Usage:
    """Usage from wherever this export has it; the most detailed first."""
    for value in (outputs.get("usage_metadata"), message.get("usage_metadata")):
        found = usage_from(value)
        if found is not None and isinstance(value, dict):
            inside = _object(value.get("input_token_details"))
            more = _object(value.get("output_token_details"))
            return msgspec.structs.replace(
                found,
                cache_read_tokens=count(inside.get("cache_read")),
                cache_write_tokens=count(inside.get("cache_creation")),
                reasoning_tokens=count(more.get("reasoning")),
            )
    told = _object(outputs.get("llm_output"))
    for value in (outputs.get("usage"), told.get("token_usage"), response.get("token_usage"), run):
        found = usage_from(value)
        if found is not None:
            return found
    return Usage()


FORMAT = Format(name="langsmith", title="LangSmith export", matches=matches, read=read)
