"""What a span's attributes mean: each dialect's names → the fields of an ``Interaction``."""

from functools import lru_cache
from typing import Any

import msgspec

from tocsin.core.ids import derived_id, is_safe_id
from tocsin.core.interaction import SPAN_OPERATIONS, Operation, Usage
from tocsin.core.messages import Message
from tocsin.core.outcome import Outcome, outcome_of
from tocsin.importers.build import MAX_ATTRIBUTE, MAX_ATTRIBUTES, clean, feature_name
from tocsin.importers.messages import as_text, decoded
from tocsin.importers.otlp_messages import Said, numbered
from tocsin.importers.otlp_wire import Value, WireSpan

_encode = msgspec.json.Encoder(order="deterministic").encode

_OPERATIONS: dict[str, Operation] = {
    "chat": "chat",
    "response": "chat",
    "responses": "chat",
    "message": "chat",
    "messages": "chat",
    "completion": "text_completion",
    "text_completion": "text_completion",
    "generate_content": "generate_content",
    "embedding": "embeddings",
    "embeddings": "embeddings",
    "execute_tool": "execute_tool",
    "invoke_agent": "invoke_agent",
    "create_agent": "create_agent",
    "invoke_workflow": "invoke_workflow",
    "retrieval": "retrieval",
    "rerank": "retrieval",
    "plan": "plan",
}
_OPENINFERENCE: dict[str, Operation] = {
    "LLM": "chat",
    "EMBEDDING": "embeddings",
    "TOOL": "execute_tool",
    "AGENT": "invoke_agent",
    "CHAIN": "invoke_workflow",
    "RETRIEVER": "retrieval",
    "RERANKER": "retrieval",
    "GUARDRAIL": "invoke_workflow",
    "EVALUATOR": "invoke_workflow",
    "PROMPT": "invoke_workflow",
}
_TRACELOOP: dict[str, Operation] = {
    "workflow": "invoke_workflow",
    "task": "invoke_workflow",
    "agent": "invoke_agent",
    "tool": "execute_tool",
}

# Attribute → field. The first name of a field that a span has counts. An empty field: the
# attribute is content that is read elsewhere, or says nothing that another does not.
_SLOTS: dict[str, str] = {
    "gen_ai.operation.name": "",
    "llm.request.type": "",
    "gen_ai.provider.name": "provider",
    "gen_ai.system": "provider",
    "llm.provider": "provider",
    "llm.system": "provider",
    "gen_ai.request.model": "request_model",
    "llm.request.model_name": "request_model",
    "llm.model_name": "request_model",
    "embedding.model_name": "request_model",
    "reranker.model_name": "request_model",
    "gen_ai.response.model": "response_model",
    "llm.response.model_name": "response_model",
    "gen_ai.response.id": "response_id",
    "gen_ai.response.finish_reasons": "finish",
    "gen_ai.response.time_to_first_chunk": "first_chunk",
    "gen_ai.request.stream": "stream",
    "llm.is_streaming": "stream",
    "gen_ai.is_streaming": "stream",
    "gen_ai.conversation.id": "conversation_id",
    "session.id": "conversation_id",
    "langfuse.session.id": "conversation_id",
    "traceloop.association.properties.session_id": "conversation_id",
    "user.id": "end_user",
    "enduser.id": "end_user",
    "langfuse.user.id": "end_user",
    "traceloop.association.properties.user_id": "end_user",
    "gen_ai.agent.name": "agent",
    "gen_ai.workflow.name": "agent",
    "agent.name": "agent",
    "error.type": "error",
    "exception.type": "error",
    "tocsin.feature": "",
    "tocsin.run": "",
    "tocsin.release": "release",
    "tocsin.user": "end_user",
    "gen_ai.usage.input_tokens": "input_tokens",
    "gen_ai.usage.prompt_tokens": "input_tokens",
    "llm.token_count.prompt": "input_tokens",
    "llm.usage.prompt_tokens": "input_tokens",
    "gen_ai.usage.output_tokens": "output_tokens",
    "gen_ai.usage.completion_tokens": "output_tokens",
    "llm.token_count.completion": "output_tokens",
    "llm.usage.completion_tokens": "output_tokens",
    "gen_ai.usage.cache_read.input_tokens": "cache_read_tokens",
    "gen_ai.usage.cache_read_input_tokens": "cache_read_tokens",
    "llm.token_count.prompt_details.cache_read": "cache_read_tokens",
    "gen_ai.usage.cache_write.input_tokens": "cache_write_tokens",
    "gen_ai.usage.cache_creation.input_tokens": "cache_write_tokens",
    "gen_ai.usage.cache_creation_input_tokens": "cache_write_tokens",
    "llm.token_count.prompt_details.cache_write": "cache_write_tokens",
    "gen_ai.usage.reasoning.output_tokens": "reasoning_tokens",
    "gen_ai.usage.reasoning_tokens": "reasoning_tokens",
    "llm.usage.reasoning_tokens": "reasoning_tokens",
    "llm.token_count.completion_details.reasoning": "reasoning_tokens",
    "llm.usage.total_tokens": "",
    "llm.token_count.total": "",
    "gen_ai.input.messages": "",
    "gen_ai.output.messages": "",
    "gen_ai.system_instructions": "",
    "gen_ai.prompt": "",
    "gen_ai.completion": "",
    "events": "",
    "all_messages_events": "",
    "input.value": "given",
    "traceloop.entity.input": "given",
    "gen_ai.tool.call.arguments": "given",
    "tool_arguments": "given",
    "gen_ai.retrieval.query.text": "given",
    "output.value": "result",
    "traceloop.entity.output": "result",
    "gen_ai.tool.call.result": "result",
    "tool_response": "result",
    "gen_ai.retrieval.documents": "result",
    "gen_ai.tool.definitions": "tools",
    "llm.invocation_parameters": "invocation",
    "embedding.invocation_parameters": "invocation",
    "llm.finish_reason": "finish",
}
_COUNTS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
_REQUEST = "gen_ai.request."
_PARAMETER = "*parameter"
_KEPT = "*kept"
_CONTENT = (
    "llm.input_messages.",
    "llm.output_messages.",
    "gen_ai.prompt.",
    "gen_ai.completion.",
    "llm.tools.",
    "llm.request.functions.",
    "retrieval.documents.",
    "embedding.embeddings.",
)
_FROM_RESOURCE = (
    "service.name",
    "service.version",
    "deployment.environment.name",
    "deployment.environment",
    "openinference.project.name",
)
_FINISH: dict[str, str] = {
    "tool_call": "tool_calls",
    "max_output_tokens": "length",
    "safety": "content_filter",
    "recitation": "content_filter",
    "blocklist": "content_filter",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    "eos": "stop",
    "complete": "stop",
    "completed": "stop",
}
_TIMEOUTS = ("timeout", "timedout", "deadline", "408", "504")
_CANCELS = ("cancel", "aborted", "499")
_MAX_COUNT = 1 << 50


class Facts(msgspec.Struct):
    """A span's attributes sorted: fields by name, request parameters, and what is kept as is."""

    fields: dict[str, Value]
    request: dict[str, Value]
    kept: dict[str, str]


def operation_of(attributes: dict[str, Value]) -> Operation | None:
    """What a span is about; ``None`` when it is about no model, tool or agent."""
    name = attributes.get("gen_ai.operation.name")
    if isinstance(name, str) and name:
        return _OPERATIONS.get(name.lower(), "other")
    kind = attributes.get("openinference.span.kind")
    if isinstance(kind, str) and kind.upper() in _OPENINFERENCE:
        return _OPENINFERENCE[kind.upper()]
    kind = attributes.get("traceloop.span.kind")
    if isinstance(kind, str) and kind.lower() in _TRACELOOP:
        return _TRACELOOP[kind.lower()]
    kind = attributes.get("llm.request.type")
    if isinstance(kind, str) and kind.lower() in _OPERATIONS:
        return _OPERATIONS[kind.lower()]
    if "gen_ai.request.model" in attributes or "gen_ai.response.model" in attributes:
        return "chat"
    return None


def feature(span: WireSpan) -> str | None:
    """The feature that the span or its resource names (``tocsin.feature``), if it does."""
    named = span.attributes.get("tocsin.feature") or span.resource.get("tocsin.feature")
    return feature_name(named) if isinstance(named, str) and named else None


def run_id(span: WireSpan) -> str:
    """A run is a trace, unless ``tocsin.run`` names it. The gateway derives the same id."""
    named = span.attributes.get("tocsin.run")
    if isinstance(named, str) and is_safe_id(named):
        return named
    return derived_id("run", span.trace_id)


def has_messages(span: WireSpan) -> bool:
    """Whether a step (an agent, a workflow) tells its messages as a model call does."""
    attributes = span.attributes
    return (
        "gen_ai.input.messages" in attributes
        or "gen_ai.output.messages" in attributes
        or "llm.input_messages.0.message.role" in attributes
        or "gen_ai.prompt.0.role" in attributes
        or "all_messages_events" in attributes
    )


def sort(span: WireSpan) -> Facts:
    """Sort a span's attributes into what they are for. One pass; nothing is lost but content."""
    fields: dict[str, Value] = {}
    request: dict[str, Value] = {}
    kept: dict[str, str] = {"trace_id": span.trace_id, "span_id": span.span_id}
    if span.parent_id:
        kept["parent_span_id"] = span.parent_id
    resource = span.resource
    for key in _FROM_RESOURCE:
        if (value := resource.get(key)) is not None:
            kept[key] = _label(value)
    room = MAX_ATTRIBUTES - 4
    for key, value in span.attributes.items():
        slot = _slot(key)
        if not slot:
            continue
        if slot == _KEPT:
            if len(kept) < room:
                kept[clean(key)] = _label(value)
        elif slot == _PARAMETER:
            request[key[len(_REQUEST) :]] = value
        elif slot not in fields and value is not None:
            fields[slot] = value
    if span.dropped:
        kept["dropped_attributes"] = str(span.dropped)
    return Facts(fields, request, kept)


@lru_cache(8192)
def _slot(key: str) -> str:
    """The field that an attribute is for; the same keys come with every span."""
    slot = _SLOTS.get(key)
    if slot is not None:
        return slot
    if key.startswith(_REQUEST):
        return _PARAMETER
    return "" if key.startswith(_CONTENT) else _KEPT


def _label(value: Value) -> str:
    """A value as the text of an attribute."""
    if isinstance(value, str):
        return clean(value, MAX_ATTRIBUTE)
    if value is True or value is False:
        return "true" if value else "false"
    return clean(as_text(value), MAX_ATTRIBUTE)


def common(span: WireSpan, operation: Operation, facts: Facts, received_at: int) -> dict[str, Any]:
    """The fields that interactions of every kind have."""
    fields, kept = facts.fields, facts.kept
    started_at = span.start_ns // 1000
    if not started_at:
        started_at = received_at
        kept["time"] = "unknown"
    model = fields.get("request_model") or fields.get("response_model") or ""
    name = span.name
    if name and name != f"{operation} {as_text(model)}":
        kept["span_name"] = clean(name, MAX_ATTRIBUTE)
    found: dict[str, Any] = {
        "id": derived_id("call", span.trace_id, span.span_id),
        "source": "otlp",
        "dialect": "openai",
        "operation": operation,
        "path": "/v1/traces",
        "started_at": started_at,
        "duration_us": max(0, span.end_ns - span.start_ns) // 1000 if span.start_ns else 0,
        "run_id": run_id(span),
        "run_source": "trace",
        "request_model": _name(model) or "",
        "attributes": kept,
    }
    for field in _NAMED:
        if field in fields:
            found[field] = _name(fields[field])
    found["release"] = _name(fields.get("release") or span.resource.get("service.version"))
    return found


_NAMED = ("provider", "response_model", "response_id", "conversation_id", "end_user", "agent")


def _name(value: Value) -> str | None:
    """An id or a name; ``None`` when there is none."""
    if isinstance(value, str):
        return clean(value) or None
    return None if value is None else clean(as_text(value))


def ended(span: WireSpan, facts: Facts, into: dict[str, Any]) -> bool:
    """Set how the span ended; whether it failed."""
    error = _name(facts.fields.get("error"))
    message = span.message
    if not span.failed and error is None:
        into["outcome"] = "complete"
        return False
    for event in span.events:
        if event.name == "exception":
            error = error or _name(event.attributes.get("exception.type"))
            message = message or as_text(event.attributes.get("exception.message"))
    into["error_type"] = error
    into["error_message"] = clean(message, MAX_ATTRIBUTE) or None
    into["outcome"] = _failure(error or "", message)
    if error is not None and len(error) == 3 and error.isdecimal():
        into["status"] = int(error)
    return True


def _failure(error: str, message: str) -> Outcome:
    words = (error or message[:200]).lower().replace("_", "")
    if any(word in words for word in _TIMEOUTS):
        return "timeout"
    return "cancelled" if any(word in words for word in _CANCELS) else "error"


def answer(
    span: WireSpan,
    operation: Operation,
    facts: Facts,
    told: Said,
    output: Message | None,
    into: dict[str, Any],
) -> None:
    """Set what a model call has beyond ``common``: usage, finish reason, outcome, first chunk."""
    fields = facts.fields
    usage = usage_of(fields)
    if operation in SPAN_OPERATIONS:
        # An agent's span sums up the calls below it: counting both would count twice.
        for field in _COUNTS:
            if field in fields:
                facts.kept[field] = _label(fields[field])
    else:
        into["usage"] = usage
    if len(told.output) > 1:
        facts.kept["choices"] = str(len(told.output))
    into["stream"] = fields.get("stream") is True
    failed = ended(span, facts, into)
    reason = _finish(fields.get("finish"), told.finish)
    into["finish_reason"] = reason
    if not failed:
        into["outcome"] = _outcome(reason, facts, usage, output, operation)
    first = fields.get("first_chunk")
    if isinstance(first, int | float) and 0 <= first < 1e6:
        into["first_chunk_us"] = int(first * 1e6)
    else:
        _first_event(span, into)


def _first_event(span: WireSpan, into: dict[str, Any]) -> None:
    for event in span.events:
        if event.name in ("First Token Stream Event", "gen_ai.content.completion.chunk"):
            if event.at_ns >= span.start_ns > 0:
                into["first_chunk_us"] = (event.at_ns - span.start_ns) // 1000
            return


def _finish(value: Value, own: str | None) -> str | None:
    """The first finish reason that is said, in OpenAI's words where there is one."""
    plain = decoded(value) if isinstance(value, str) and value[:1] == "[" else value
    if isinstance(plain, list):
        plain = plain[0] if plain else None
    reason = plain if isinstance(plain, str) and plain else own
    if reason is None:
        return None
    reason = clean(reason)
    low = reason.lower()
    return _FINISH.get(low, low if outcome_of(low) != "unknown" else reason)


def _outcome(
    reason: str | None, facts: Facts, usage: Usage, output: Message | None, operation: Operation
) -> Outcome:
    """The outcome of a span that ended without an error.

    Without a finish reason an answer that is there counts as complete, or as truncated where it is
    as long as the request allowed; a call that tells no answer at all is unknown.
    """
    if reason is not None:
        return "error" if reason == "error" else outcome_of(reason)
    limit = facts.request.get("max_tokens")
    if limit is None and "invocation" in facts.fields:
        parameters = decoded(facts.fields["invocation"])
        if isinstance(parameters, dict):
            limit = parameters.get("max_tokens") or parameters.get("max_completion_tokens")
    if isinstance(limit, int) and usage.output_tokens is not None and usage.output_tokens >= limit:
        return "truncated"
    told = output is not None or bool(usage.output_tokens) or operation in SPAN_OPERATIONS
    return "complete" if told or operation == "embeddings" else "unknown"


def usage_of(fields: dict[str, Value]) -> Usage:
    """The tokens that were reported. Some leave cached tokens out of the input: they are added."""
    counts = {name: _count(fields[name]) for name in _COUNTS if name in fields}
    if not counts:
        return Usage()
    given = counts.get("input_tokens")
    cached = (counts.get("cache_read_tokens") or 0) + (counts.get("cache_write_tokens") or 0)
    if given is not None and cached > given:
        counts["input_tokens"] = given + cached
    return Usage(source="reported", **counts)


def _count(value: Value) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and value.isdecimal() and len(value) < 16:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and 0 <= value < _MAX_COUNT else None


def params(span: WireSpan, facts: Facts) -> bytes:
    """The request without its messages, as JSON; empty when nothing is known of it."""
    given: dict[str, Any] = dict(facts.request)
    invocation = decoded(facts.fields.get("invocation"))
    if isinstance(invocation, dict):
        invocation.pop("messages", None)
        given.update(invocation)
    tools = decoded(facts.fields.get("tools"))
    if tools is None and "llm.tools.0.tool.json_schema" in span.attributes:
        schemas = numbered(span.attributes, "llm.tools.")
        tools = [decoded(tool.get("tool.json_schema")) for tool in schemas]
    elif tools is None and "llm.request.functions.0.name" in span.attributes:
        tools = numbered(span.attributes, "llm.request.functions.")
    if tools:
        given["tools"] = tools
    if not given:
        return b""
    if model := facts.fields.get("request_model"):
        given.setdefault("model", model)
    try:
        return _encode(given)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return b""


def bodies(span: WireSpan, facts: Facts) -> tuple[str, str]:
    """What went into a step and what came out, as text; empty where it is not told."""
    given, result = facts.fields.get("given"), facts.fields.get("result")
    if given is None:
        texts = numbered(span.attributes, "embedding.embeddings.")
        given = [item.get("embedding.text") for item in texts] or None
    if result is None:
        result = numbered(span.attributes, "retrieval.documents.") or None
    return as_text(given), as_text(result)
