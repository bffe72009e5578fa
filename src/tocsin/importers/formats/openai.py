"""OpenAI messages, one JSON object a line.

Three kinds of line, which one file may mix: a finished conversation (``messages``), a request with
its response (``request``, ``response``), and the output of OpenAI's batch API (``custom_id``,
``response``). Anthropic's shapes are read as well.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from tocsin.core.errors import BadRequest
from tocsin.core.ids import derived_id, is_safe_id
from tocsin.core.interaction import Dialect, Entry, Operation, Usage
from tocsin.core.messages import Message, chain, parse_message
from tocsin.core.outcome import outcome_of
from tocsin.core.wire import OutputReader, ParsedRequest, parse_request, reader_for
from tocsin.importers.build import (
    MAX_ATTRIBUTE,
    Histories,
    call_entry,
    clean,
    feature_name,
    microseconds,
    to_message,
    usage_from,
)
from tocsin.importers.files import BadRecord, Sample, Source
from tocsin.importers.formats.api import Format, Records
from tocsin.importers.formats.chat import Conversation, calls, identity, verdict_of
from tocsin.importers.messages import as_text

_encode = msgspec.json.Encoder().encode
_NO_PARAMS = frozenset(
    {"messages", "metadata", "usage", "id", "user", "choices", "created", "created_at", "timestamp"}
    | {"result", "success", "resolved", "reward"}
)
_TIMES = ("created_at", "created", "timestamp", "time")
_RUNS = ("run_id", "trace_id")
_CONVERSATIONS = ("conversation_id", "session_id", "thread_id")


def matches(sample: Sample) -> bool:
    """Whether the first record is one of the three kinds."""
    keys = sample.keys
    return "messages" in keys or ("response" in keys and bool({"request", "custom_id"} & keys))


def read(source: Source) -> Records:
    """Every call of every line."""
    histories = Histories()
    for record in source.objects():
        if isinstance(record, BadRecord):
            yield record
            continue
        line, value = record
        try:
            yield from _calls(source, line, value, histories)
        except (BadRequest, _Unreadable) as error:
            yield source.bad(line, str(error))


class _Unreadable(Exception):
    """What is wrong with a record, in words."""


def _calls(source: Source, line: int, value: dict[str, Any], known: Histories) -> Iterator[Entry]:
    if isinstance(value.get("messages"), list):
        if isinstance(value.get("choices"), list) or isinstance(value.get("response"), dict):
            answer = value.get("response") or {"choices": value["choices"]}
            yield _pair(source, line, value, value, answer, known)
        else:
            yield from calls(source, _conversation(line, value))
    elif "response" in value or "error" in value:
        yield _pair(source, line, value, value.get("request"), value.get("response"), known)
    else:
        raise _Unreadable('has neither "messages" nor "response"')


# -- a finished conversation --


def _conversation(line: int, value: dict[str, Any]) -> Conversation:
    messages: list[Message] = []
    if isinstance(system := value.get("system"), str | list) and system:
        messages.append(to_message({"role": "system", "content": system}))
    usage: list[Usage | None] = []
    for number, item in enumerate(value["messages"]):
        if not isinstance(item, dict) or not isinstance(item.get("role"), str):
            raise _Unreadable(f"messages[{number}] is no message: it needs a role")
        messages.append(to_message(item))
        if item["role"] == "assistant":
            usage.append(usage_from(item.get("usage")))
    if not usage:
        raise _Unreadable("has no assistant message, so it holds no finished call")
    attributes = _labels(value)
    total = usage_from(value.get("usage"))
    if total is not None and len(usage) == 1:
        usage = [total]
    elif total is not None:
        # Of several calls together: it cannot be told apart, so no call claims it.
        attributes["usage_of_conversation"] = clean(as_text(value["usage"]), MAX_ATTRIBUTE)
    run_id = _said(value, _RUNS)
    return Conversation(
        messages=tuple(messages),
        about=("openai", str(line), identity(messages), as_text(value.get("id"))),
        dialect="anthropic" if "system" in value else "openai",
        model=_model(value),
        run_id=run_id if run_id is None or is_safe_id(run_id) else derived_id("run", run_id),
        conversation_id=_said(value, _CONVERSATIONS) or _said(value, ("id",)),
        end_user=_said(value, ("user", "end_user", "user_id")),
        feature=_feature(value),
        started_at=_time(value),
        params=_params(value),
        usage=tuple(usage),
        attributes=attributes,
        verdict=verdict_of(value),
    )


def _params(value: dict[str, Any]) -> bytes:
    """Sampling parameters and tools, where the line has them."""
    params = {key: item for key, item in value.items() if key not in _NO_PARAMS}
    return _encode(params) if params.keys() - {"model"} else b""


def _labels(value: dict[str, Any]) -> dict[str, str]:
    """The line's metadata as attributes."""
    metadata = value.get("metadata")
    if not isinstance(metadata, dict):
        return {}
    some = list(metadata.items())[:48]
    return {clean(as_text(key)): clean(as_text(item), MAX_ATTRIBUTE) for key, item in some}


def _model(value: dict[str, Any]) -> str:
    return clean(value["model"]) if isinstance(value.get("model"), str) else ""


def _feature(value: dict[str, Any]) -> str | None:
    named = value.get("feature")
    return feature_name(named) if isinstance(named, str) and named else None


def _said(value: dict[str, Any], names: tuple[str, ...]) -> str | None:
    for name in names:
        if isinstance(text := value.get(name), str) and text:
            return clean(text)
    return None


def _time(value: dict[str, Any]) -> int | None:
    return next((t for t in (microseconds(value.get(name)) for name in _TIMES) if t), None)


# -- a request and its response --


def _pair(
    source: Source, line: int, value: dict[str, Any], request: Any, response: Any, known: Histories
) -> Entry:
    asked, url = _body(request if isinstance(request, dict) else {})
    answer, _ = _body(response if isinstance(response, dict) else {})
    status = response.get("status_code") if isinstance(response, dict) else None
    dialect, operation = _kind(asked, answer, url)
    parsed = ParsedRequest(model=_model(answer))
    if asked:
        parsed = parse_request(dialect, operation, _encode(asked))
    reader = reader_for(dialect, operation, False)
    reader.feed_body(_encode(answer))
    message = reader.output_message()
    output = parse_message(message) if message is not None else None
    error = value.get("error")
    if output is None and reader.error is None and not error and not reader.usage and not answer:
        raise _Unreadable("has no response that can be read")
    nodes = chain(parsed.messages)
    about = ("openai-pair", str(line), as_text(value.get("custom_id") or value.get("id")))
    facts = _facts(source, value, answer, parsed)
    named = _said(value, _RUNS)
    run_id = named or known.run_of(nodes)
    facts["id"] = derived_id("call", *about, identity(parsed.messages), message or b"")
    facts["run_id"] = run_id or derived_id("run", *about, identity(parsed.messages))
    facts["run_source"] = "trace" if named else "prefix" if run_id else "new"
    facts["dialect"], facts["operation"] = dialect, operation
    facts["status"] = status if isinstance(status, int) and 100 <= status < 600 else None
    _ended(facts, reader, error, answered=output is not None or operation == "embeddings")
    if not facts["conversation_id"] and nodes:
        facts["conversation_id"] = "conv_" + facts["run_id"].removeprefix("run_")
    entry = call_entry(
        facts,
        history=parsed.messages,
        output=output,
        params=parsed.params,
        known=known.continued(nodes),
        nodes=nodes,
    )
    if output is not None:
        known.ended(entry.nodes[-1].hash, facts["run_id"])
    return entry


def _body(value: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The JSON body inside a logged request or response, and the URL where it says one."""
    inner = value.get("body")
    url = value.get("url") or value.get("path")
    return (inner if isinstance(inner, dict) else value), url if isinstance(url, str) else ""


def _kind(asked: dict[str, Any], answer: dict[str, Any], url: str) -> tuple[Dialect, Operation]:
    """Dialect and operation, by the URL where there is one, else by the shapes."""
    path = url.partition("?")[0].rstrip("/")
    if path.endswith("/messages") or answer.get("type") == "message" or "stop_reason" in answer:
        return "anthropic", "chat"
    if path.endswith("/embeddings") or (answer.get("object") == "list" and "data" in answer):
        return "openai", "embeddings"
    if path.endswith("/responses") or answer.get("object") == "response":
        return "openai", "generate_content"
    if path.endswith("/chat/completions") or "messages" in asked:
        return "openai", "chat"
    return "openai", "text_completion" if "prompt" in asked else "chat"


def _facts(
    source: Source, value: dict[str, Any], answer: dict[str, Any], parsed: ParsedRequest
) -> dict[str, Any]:
    attributes = _labels(value) | {k: clean(v, MAX_ATTRIBUTE) for k, v in parsed.metadata.items()}
    if custom := _said(value, ("custom_id",)):
        attributes["custom_id"] = custom
    started_at = _time(value) or _time(answer)
    if started_at is None:
        started_at = source.tick()
        attributes["time"] = "unknown"
    latency = value.get("duration_ms", value.get("latency_ms"))
    known = latency if isinstance(latency, int | float) and 0 <= latency < 1e10 else 0
    return {
        "source": "import",
        "path": "",
        "started_at": started_at,
        "duration_us": int(known * 1000),
        "feature": _feature(value) or "default",
        "end_user": parsed.end_user or _said(value, ("user", "end_user", "user_id")),
        "conversation_id": parsed.conversation_ref or _said(value, _CONVERSATIONS),
        "request_model": parsed.model,
        "stream": parsed.stream,
        "attributes": dict(list(attributes.items())[:64]),
    }


def _ended(facts: dict[str, Any], reader: OutputReader, error: Any, *, answered: bool) -> None:
    """What the response says of itself: usage, finish reason, model, error, outcome."""
    facts["usage"] = reader.usage or Usage()
    facts["response_id"] = reader.response_id
    facts["response_model"] = reader.response_model
    facts["finish_reason"] = reader.finish_reason
    facts["outcome"] = outcome_of(reader.finish_reason)
    if reader.finish_reason is None and answered:
        facts["outcome"] = "complete"
    failed = reader.error
    if failed is not None:
        facts["outcome"] = "error"
        facts["error_type"] = failed.code or failed.type
        facts["error_message"] = clean(failed.message, MAX_ATTRIBUTE)
    elif error:
        facts["outcome"] = "error"
        known = error if isinstance(error, dict) else {"message": as_text(error)}
        facts["error_type"] = _said(known, ("code", "type"))
        facts["error_message"] = clean(as_text(known.get("message")), MAX_ATTRIBUTE)


FORMAT = Format(name="openai", title="OpenAI messages (JSON lines)", matches=matches, read=read)
