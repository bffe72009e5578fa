"""A run or a call as text to take along: Markdown, JSON, and curl for one call."""

import shlex
from collections.abc import Sequence
from typing import Any

import msgspec

from tocsin.core.interaction import Entry, Interaction
from tocsin.core.messages import Message
from tocsin.dashboard import conversation, fmt
from tocsin.dashboard.story import StepMessages, step_label
from tocsin.store.api import RunRow

_KEY_VARIABLES = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}


def markdown(
    run: RunRow, first: int, steps: Sequence[Interaction], messages: Sequence[StepMessages]
) -> str:
    """A page of a run as Markdown: facts, then each step with what it adds."""
    out = [
        f"# {fmt.one_line(run.title) or run.id}",
        "",
        f"Run `{run.id}`, feature `{run.feature}`: {fmt.plural(run.calls, 'call')}, "
        f"{fmt.plural(run.tool_calls, 'tool call')}, {fmt.tokens(run.input_tokens)} input and "
        f"{fmt.tokens(run.output_tokens)} output tokens, "
        f"{fmt.spent(run.cost_nano_usd, run.calls, run.unpriced)}, ended {run.outcome}.",
        "",
    ]
    for number, (step, said) in enumerate(zip(steps, messages, strict=True), first):
        out += [f"## Step {number}", "", *_markdown_step(step, said)]
    return "\n".join(out)


def call_markdown(step: Interaction, said: StepMessages) -> str:
    """One call as Markdown."""
    return "\n".join([f"# Call {step.id}", "", *_markdown_step(step, said)])


def _markdown_step(step: Interaction, said: StepMessages) -> list[str]:
    facts = [
        fmt.one_line(step_label(step)),
        fmt.iso(step.started_at),
        fmt.took(step.duration_us),
        f"{fmt.tokens(step.usage.input_tokens)} in",
        f"{fmt.tokens(step.usage.output_tokens)} out",
        fmt.money(step.cost_nano_usd),
        step.outcome,
    ]
    out = [" · ".join(facts), ""]
    if step.error_message:
        out += [f"> {fmt.one_line(step.error_message, 1000)}", ""]
    for message in (*said.new, *((said.output,) if said.output is not None else ())):
        out += _markdown_message(message)
    if said.missing:
        out += ["_Content is no longer stored._", ""]
    return out


def _markdown_message(message: Message) -> list[str]:
    turn = conversation.read(message, shown=conversation.SHOWN_WHOLE)
    out = [f"**{fmt.one_line(turn.role, 40)}**", ""]
    for part in turn.parts:
        text = part.head + ("\n" + part.rest if part.rest else "")
        if part.kind == "call":
            out += [f"Calls `{part.name}`:", ""]
        elif part.kind == "result":
            out += ["Tool result:", ""]
        if part.kind in ("call", "result") or part.code:
            fence = "```"
            while fence in text:
                fence += "`"
            out += [fence + ("json" if part.code else ""), text, fence, ""]
        else:
            out += [text, ""]
    return out


def run_json(
    run: RunRow, first: int, steps: Sequence[Interaction], messages: Sequence[StepMessages]
) -> bytes:
    """A page of a run as JSON: the run's row, then steps with their new messages."""
    found = {
        "run": run,
        "first_step": first,
        "steps": [
            {
                "interaction": _interaction(step),
                "new_messages": [_raw(m) for m in said.new],
                "output": _raw(said.output) if said.output is not None else None,
            }
            for step, said in zip(steps, messages, strict=True)
        ],
    }
    return msgspec.json.format(msgspec.json.encode(found), indent=2)


def call_json(entry: Entry) -> bytes:
    """One call with everything that was stored of it."""
    step = entry.interaction
    found = {
        "interaction": _interaction(step),
        "params": _blob(entry, step.params),
        "messages": [_raw(m) for m in entry.input],
        "output": _raw(entry.output) if entry.output is not None else None,
        "request_body": _blob(entry, step.request_body),
        "response_body": _blob(entry, step.response_body),
    }
    return msgspec.json.format(msgspec.json.encode(found), indent=2)


def _interaction(step: Interaction) -> dict[str, Any]:
    """The record with content hashes in hexadecimal."""
    plain: dict[str, Any] = msgspec.to_builtins(step, builtin_types=(bytes,))
    return {k: v.hex() if isinstance(v, bytes) else v for k, v in plain.items()}


def _raw(message: Message) -> Any:
    """The message as it came, or as text when that is no JSON."""
    return _value(message.raw)


def _blob(entry: Entry, wanted: bytes | None) -> Any:
    for blob in entry.blobs:
        if blob.hash == wanted:
            return _value(blob.data)
    return None


def _value(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return data.decode("utf-8", "replace")


def request_body(entry: Entry) -> bytes | None:
    """The call's request body put together again; ``None`` when it is not stored."""
    step = entry.interaction
    whole = _blob(entry, step.request_body)
    if whole is not None:
        return whole.encode() if isinstance(whole, str) else msgspec.json.encode(whole)
    if step.input_messages != len(entry.input):
        return None
    params = _blob(entry, step.params)
    body: dict[str, Any] = dict(params) if isinstance(params, dict) else {}
    body.setdefault("model", step.request_model)
    messages = [_raw(m) for m in entry.input]
    if step.dialect == "anthropic" and messages and _role(messages[0]) == "system":
        body["system"] = messages.pop(0).get("content")
    if step.operation == "text_completion":
        prompts = [m.get("content") if isinstance(m, dict) else m for m in messages]
        body["prompt"] = prompts[0] if len(prompts) == 1 else prompts
    elif step.path.endswith("/responses"):
        body["input"] = messages
    else:
        body["messages"] = messages
    return msgspec.json.encode(body)


def _role(message: Any) -> str:
    return str(message.get("role", "")) if isinstance(message, dict) else ""


def curl(entry: Entry, base_url: str) -> str:
    """A shell command that makes the call again, through this process.

    The key stands as an environment variable: no credential is ever stored with a call.
    """
    step = entry.interaction
    variable = _KEY_VARIABLES[step.dialect]
    lines = [f"curl {shlex.quote(base_url.rstrip('/') + step.path)} \\"]
    if step.dialect == "anthropic":
        lines.append(f'  -H "x-api-key: ${variable}" -H "anthropic-version: 2023-06-01" \\')
    else:
        lines.append(f'  -H "Authorization: Bearer ${variable}" \\')
    if step.feature != "default":
        lines.append(f"  -H {shlex.quote('tocsin-feature: ' + fmt.one_line(step.feature))} \\")
    body = request_body(entry)
    if body is None:
        return "# The request's content is no longer stored; this call cannot be made again.\n"
    # JSON never holds a raw line end inside a string, so no line of it can end the here-document.
    lines += [
        "  -H 'Content-Type: application/json' \\",
        "  --data-binary @- <<'TOCSIN_BODY'",
        _pretty(body),
        "TOCSIN_BODY",
    ]
    return "\n".join(lines) + "\n"


def _pretty(body: bytes) -> str:
    try:
        return msgspec.json.format(body, indent=2).decode("utf-8", "replace")
    except (msgspec.DecodeError, RecursionError):
        return " ".join(body.decode("utf-8", "replace").splitlines())
