"""Langfuse exports: observations (JSON or JSON lines, from the UI, the API or blob storage), and
traces that hold their observations. Field names in camelCase or snake_case."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from tocsin.core.interaction import Entry, Operation, Usage
from tocsin.importers.build import MAX_ATTRIBUTE, Histories, clean, count
from tocsin.importers.files import BadRecord, Sample, Source
from tocsin.importers.formats.api import Format, Records
from tocsin.importers.formats.steps import Observation, entry, labels, text_of
from tocsin.importers.messages import Wire, as_text, decoded, message_of, messages_of

_ARRAYS = ("data", "observations")
_TYPES: dict[str, Operation] = {
    "GENERATION": "chat",
    "EMBEDDING": "embeddings",
    "TOOL": "execute_tool",
    "AGENT": "invoke_agent",
    "CHAIN": "invoke_workflow",
    "SPAN": "invoke_workflow",
    "EVENT": "invoke_workflow",
    "GUARDRAIL": "invoke_workflow",
    "EVALUATOR": "invoke_workflow",
    "RETRIEVER": "retrieval",
}
_MARKS = (b'"traceId"', b'"trace_id"', b'"observations"')
"""Fields of what a page of the API (``data``, ``meta``) holds."""
_HUMP = re.compile(r"(?<=[a-z])([A-Z])")
_encode = msgspec.json.Encoder().encode


def matches(sample: Sample) -> bool:
    """Whether the first record is an observation, or a trace as Langfuse has it."""
    keys = {_snake(key) for key in sample.keys}
    observation = {"trace_id", "type", "start_time"} <= keys
    trace = {"id", "timestamp"} <= keys and bool({"observations", "session_id", "html_path"} & keys)
    page = "data" in keys and any(mark in sample.head for mark in _MARKS)
    return observation or trace or page


def read(source: Source) -> Records:
    """Every observation; a trace whose observations are not in the file is one step."""
    histories = Histories()
    pages = "data" in source.sample.keys
    for record in source.objects(("data",) if pages else ()):
        if isinstance(record, BadRecord):
            yield record
            continue
        line, value = record
        fields = {_snake(key): item for key, item in value.items()}
        if "type" in fields:
            yield from _observation(source, line, fields, {}, histories)
        else:
            yield from _trace(source, line, fields, histories)


def _snake(key: str) -> str:
    return _HUMP.sub(r"_\1", key).lower()


def _trace(source: Source, line: int, trace: dict[str, Any], known: Histories) -> Records:
    if not isinstance(trace.get("id"), str):
        yield source.bad(line, "is neither an observation nor a trace: it has no id")
        return
    scores = _scores(trace.get("scores"))
    inside = [item for item in _list(trace.get("observations")) if isinstance(item, dict)]
    for item in inside:
        fields = {_snake(key): value for key, value in item.items()}
        fields.setdefault("trace_id", trace["id"])
        extra = scores if not fields.get("parent_observation_id") else {}
        yield from _observation(source, line, fields, {**trace, "_scores": extra}, known)
    if not inside:
        whole = {
            **trace,
            "type": "SPAN",
            "trace_id": trace["id"],
            "start_time": trace.get("timestamp"),
        }
        yield from _observation(source, line, whole, {**trace, "_scores": scores}, known)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _scores(value: Any) -> dict[str, str]:
    """A trace's scores; one called ``success`` or ``reward`` is how the run came out."""
    found: dict[str, str] = {}
    for score in _list(value)[:16]:
        if isinstance(score, dict) and isinstance(name := score.get("name"), str):
            said = score.get("stringValue", score.get("string_value"))
            text = clean(as_text(said if said is not None else score.get("value")), MAX_ATTRIBUTE)
            found[name if name in ("reward", "success") else clean(f"score.{name}")] = text
    return found


def _observation(
    source: Source,
    line: int,
    fields: dict[str, Any],
    trace: dict[str, Any],
    known: Histories,
) -> Iterator[Entry | BadRecord]:
    kind = as_text(fields.get("type")).upper()
    operation = _TYPES.get(kind)
    trace_id, own_id = fields.get("trace_id"), fields.get("id")
    if operation is None:
        yield source.bad(line, f"type {kind[:40]!r} is none of Langfuse's")
    elif not isinstance(trace_id, str) or not isinstance(own_id, str):
        yield source.bad(line, "an observation needs an id and a trace id, both text")
    else:
        yield entry(source, _seen(operation, kind, trace_id, own_id, fields, trace), known)


def _seen(
    operation: Operation,
    kind: str,
    trace_id: str,
    own_id: str,
    fields: dict[str, Any],
    trace: dict[str, Any],
) -> Observation:
    history, output, finish = _said(fields)
    failed = as_text(fields.get("level")).upper() == "ERROR"
    name = as_text(fields.get("name"))
    return Observation(
        operation=operation,
        trace_id=trace_id,
        id=own_id,
        parent_id=text_of(fields.get("parent_observation_id")),
        name=name,
        start=fields.get("start_time"),
        end=fields.get("end_time"),
        first=fields.get("completion_start_time"),
        model=text_of(fields.get("provided_model_name") or fields.get("model")) or "",
        end_user=text_of(fields.get("user_id") or trace.get("user_id")),
        conversation_id=text_of(fields.get("session_id") or trace.get("session_id")),
        release=text_of(fields.get("release") or trace.get("release") or fields.get("version")),
        agent=clean(name) if kind == "AGENT" else None,
        error=as_text(fields.get("status_message")) if failed else None,
        finish=finish,
        usage=_usage(fields),
        params=_params(fields),
        history=history,
        output=output,
        given=fields.get("input"),
        result=fields.get("output"),
        attributes=_attributes(kind, fields, trace),
    )


def _attributes(kind: str, fields: dict[str, Any], trace: dict[str, Any]) -> dict[str, str]:
    found = {"langfuse.type": kind}
    cost = fields.get("total_cost", fields.get("calculated_total_cost"))
    details = decoded(fields.get("cost_details"))
    if cost is None and isinstance(details, dict):
        cost = details.get("total")
    if isinstance(cost, int | float | str) and cost not in ("", 0):
        found["reported_cost_usd"] = clean(as_text(cost))
    trace_name = fields.get("trace_name") or trace.get("name")
    for name, value in (
        ("environment", fields.get("environment") or trace.get("environment")),
        ("trace_name", trace_name),
        ("prompt_name", fields.get("prompt_name")),
        ("prompt_version", fields.get("prompt_version")),
    ):
        if value is not None and value != "":
            found[name] = clean(as_text(value), MAX_ATTRIBUTE)
    found |= labels(decoded(fields.get("metadata")), "metadata.")
    scores: dict[str, str] = trace.get("_scores", {})
    return found | scores


def _params(fields: dict[str, Any]) -> bytes:
    parameters = decoded(fields.get("model_parameters"))
    params = dict(parameters) if isinstance(parameters, dict) else {}
    asked = decoded(fields.get("input"))
    if isinstance(asked, dict) and isinstance(asked.get("tools"), list):
        params["tools"] = asked["tools"]
    return _encode(params) if params else b""


def _said(fields: dict[str, Any]) -> tuple[list[Wire], Wire | None, str | None]:
    """A generation's messages: its input, its answer, and the answer's finish reason."""
    answer = fields.get("output")
    body = decoded(answer)
    finish: str | None = None
    if isinstance(body, dict):
        choices = _list(body.get("choices"))
        if choices and isinstance(choices[0], dict):
            finish = text_of(choices[0].get("finish_reason"))
            body = choices[0].get("message")
        if isinstance(body, dict):
            finish = finish or text_of(body.get("finish_reason") or body.get("stop_reason"))
    if isinstance(body, dict) and {"role", "content", "tool_calls"} & body.keys():
        answers = message_of(body, "assistant")
    else:
        answers = messages_of(body if isinstance(body, list) else answer, "assistant")
    return messages_of(fields.get("input")), answers[-1] if answers else None, finish


def _usage(fields: dict[str, Any]) -> Usage:
    """Usage details: one number for each kind of token, which add up to ``total``."""
    details = decoded(fields.get("usage_details"))
    if not isinstance(details, dict) or not details:
        details = decoded(fields.get("usage"))
    if not isinstance(details, dict):
        return Usage()
    counts = {as_text(key).lower(): count(value) for key, value in details.items()}
    given = _some(counts, "input", "inputtokens", "prompttokens", "prompt_tokens", "input_tokens")
    told = _some(
        counts, "output", "outputtokens", "completiontokens", "completion_tokens", "output_tokens"
    )
    if given is None and told is None:
        return Usage()
    read = _sum(counts, ("cache_read", "cached"))
    written = _sum(counts, ("cache_creation", "cache_write"))
    reasoning = _sum(counts, ("reasoning",))
    total = counts.get("total")
    # The parts of the input stand beside it, unless input and output alone make the total.
    if total is None or total != (given or 0) + (told or 0):
        given = (given or 0) + (read or 0) + (written or 0)
        told = (told or 0) + (reasoning or 0)
    return Usage(
        input_tokens=given,
        output_tokens=told,
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=reasoning,
        source="reported",
    )


def _some(counts: dict[str, int | None], *names: str) -> int | None:
    return next((n for n in map(counts.get, names) if n is not None), None)


def _sum(counts: dict[str, int | None], words: tuple[str, ...]) -> int | None:
    """The sum of the counts whose names say one of the words; ``None`` when none does."""
    found = [n for key, n in counts.items() if n is not None and any(w in key for w in words)]
    return sum(found) if found else None


FORMAT = Format(name="langfuse", title="Langfuse export", matches=matches, read=read)
