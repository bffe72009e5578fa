"""A request as a chat completion."""

from collections.abc import Mapping, Sequence
from typing import Any

from tocsin.core.wire.responses.request import ResponseRequest
from tocsin.core.wire.responses.upstream_items import (
    is_silent,
    no_part,
    no_tool,
    no_words,
    summary_of,
    text_of_parts,
)

Item = Mapping[str, Any]
Body = dict[str, Any]

_SAME = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "service_tier",
)
"""Fields that chat completions know under the same name."""


def chat_body(request: ResponseRequest, items: Sequence[Item], *, stream: bool) -> Body:
    """The body of ``/v1/chat/completions``. Raises ``BadRequest`` for what it has no words for."""
    raw = request.raw
    body: Body = {"model": request.model, "messages": _messages(request, items)}
    body.update({name: raw[name] for name in _SAME if raw.get(name) is not None})
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    if request.max_output_tokens is not None:
        body["max_completion_tokens"] = request.max_output_tokens
    if request.tools:
        body["tools"] = [_tool(tool, index) for index, tool in enumerate(request.tools)]
        if raw.get("tool_choice") is not None:
            body["tool_choice"] = _choice(request.tool_choice)
        if raw.get("parallel_tool_calls") is not None:
            body["parallel_tool_calls"] = raw["parallel_tool_calls"]
    _add_format(body, request)
    effort = (raw.get("reasoning") or {}).get("effort")
    if effort is not None:
        body["reasoning_effort"] = effort
    verbosity = (raw.get("text") or {}).get("verbosity")
    if verbosity is not None:
        body["verbosity"] = verbosity
    if "message.output_text.logprobs" in (raw.get("include") or ()) or raw.get("top_logprobs"):
        body["logprobs"] = True
        body["top_logprobs"] = raw.get("top_logprobs") or 0
    return body


def _add_format(body: Body, request: ResponseRequest) -> None:
    form = request.format
    if form["type"] == "json_object":
        body["response_format"] = {"type": "json_object"}
    elif form["type"] == "json_schema":
        names = ("name", "description", "schema", "strict")
        schema = {name: form[name] for name in names if form.get(name) is not None}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}


# -- messages --


class _Thread:
    """Chat messages as they grow: an assistant's text and calls are one message."""

    def __init__(self) -> None:
        self.messages: list[Body] = []
        self._turn: Body | None = None
        self._thought = ""
        self._shown: list[Body] = []
        """Pictures among tool outputs, which a tool's message cannot hold."""

    def add(self, message: Body) -> None:
        self.flush()
        self.messages.append(message)

    def tool(self, call_id: str, output: Any) -> None:
        """A tool's output: text stays there, other parts follow as the user's."""
        self._turn = None
        text = text_of_parts(output)
        if not isinstance(output, str):
            shown = [part for part in output or () if part.get("type") != "input_text"]
            self._shown += [_part(part) for part in shown]
            if shown and not text:
                text = "(see the next message)"
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": text})

    def flush(self) -> None:
        self._turn = None
        if self._shown:
            self.messages.append({"role": "user", "content": self._shown})
            self._shown = []

    def thought(self, text: str) -> None:
        self._thought = text

    def turn(self) -> Body:
        """The assistant's message that is being made."""
        if self._turn is None:
            self.flush()
            self._turn = {"role": "assistant", "content": None}
            if self._thought:
                self._turn["reasoning_content"] = self._thought
                self._thought = ""
            self.messages.append(self._turn)
        return self._turn


def _messages(request: ResponseRequest, items: Sequence[Item]) -> list[Body]:
    thread = _Thread()
    if request.instructions:
        thread.add({"role": "system", "content": request.instructions})
    now = _current_turn(items)
    for place, item in enumerate(items):
        _add(thread, item, current=place >= now)
    thread.flush()
    return thread.messages


def _current_turn(items: Sequence[Item]) -> int:
    """Where the items after the user's last message begin."""
    for place in range(len(items) - 1, -1, -1):
        if items[place].get("type") == "message" and items[place].get("role") == "user":
            return place + 1
    return 0


def _add(thread: _Thread, item: Item, *, current: bool) -> None:
    kind = item.get("type")
    if kind == "message":
        _add_message(thread, item)
    elif kind in ("function_call", "custom_tool_call"):
        thread.turn().setdefault("tool_calls", []).append(_call(item))
    elif kind in ("function_call_output", "custom_tool_call_output"):
        thread.tool(item["call_id"], item.get("output"))
    elif kind == "reasoning":
        # Upstreams that show their thoughts want them back until the turn is over.
        if current:
            thread.thought(text_of_parts(item.get("content")))
    elif kind == "compaction":
        thread.add({"role": "user", "content": summary_of(item, "chat completions")})
    elif not is_silent(item):
        raise no_words(item, "chat completions")


def _add_message(thread: _Thread, item: Item) -> None:
    role = item.get("role")
    parts: Sequence[Mapping[str, Any]] = item.get("content") or ()
    if role == "assistant":
        turn = thread.turn()
        text = text_of_parts(parts)
        refused = [part.get("refusal") for part in parts]
        refusal = "".join(part for part in refused if isinstance(part, str))
        if text:
            turn["content"] = (turn["content"] or "") + text
        elif turn["content"] is None and not refusal:
            turn["content"] = ""
        if refusal:
            turn["refusal"] = turn.get("refusal", "") + refusal
        return
    role = "system" if role == "developer" else role
    if len(parts) == 1 and parts[0].get("type") == "input_text":
        thread.add({"role": role, "content": parts[0]["text"]})
    else:
        thread.add({"role": role, "content": [_part(part) for part in parts]})


def _part(part: Mapping[str, Any]) -> Body:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": part.get("text", "")}
    if kind == "input_image":
        if not part.get("image_url"):
            raise no_part(part, "chat completions", "send it as image_url")
        image = {"url": part["image_url"]}
        if part.get("detail") in ("low", "high", "auto"):
            image["detail"] = part["detail"]
        return {"type": "image_url", "image_url": image}
    if kind == "input_file":
        names = ("file_data", "file_id", "filename")
        file = {name: part[name] for name in names if part.get(name)}
        if not file.keys() & {"file_data", "file_id"}:
            raise no_part(part, "chat completions", "send it as file_data")
        return {"type": "file", "file": file}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": part.get("input_audio")}
    raise no_part(part, "chat completions", "it has no words for it")


# -- tools --


def _call(item: Item) -> Body:
    if item["type"] == "custom_tool_call":
        custom = {"name": item["name"], "input": item["input"]}
        return {"id": item["call_id"], "type": "custom", "custom": custom}
    function = {"name": item["name"], "arguments": item["arguments"]}
    return {"id": item["call_id"], "type": "function", "function": function}


def _tool(tool: Mapping[str, Any], index: int) -> Body:
    kind = tool["type"]
    if kind == "function":
        names = ("name", "description", "parameters", "strict")
        function = {name: tool[name] for name in names if tool.get(name) is not None}
        return {"type": "function", "function": function}
    if kind == "custom":
        custom = {name: tool[name] for name in ("name", "description") if tool.get(name)}
        form = tool.get("format")
        if isinstance(form, dict):
            custom["format"] = _custom_format(form)
        return {"type": "custom", "custom": custom}
    raise no_tool(index, kind, "chat completions")


def _custom_format(form: dict[str, Any]) -> Body:
    """A grammar stands one level deeper there."""
    if form.get("type") != "grammar":
        return form
    grammar = {name: form[name] for name in ("syntax", "definition") if name in form}
    return {"type": "grammar", "grammar": grammar}


def _choice(choice: str | dict[str, Any]) -> Any:
    if isinstance(choice, str):
        return choice
    kind = choice["type"]
    if kind in ("function", "custom"):
        return {"type": kind, kind: {"name": choice.get("name")}}
    if kind == "allowed_tools":
        tools = [_choice(tool) for tool in choice.get("tools") or ()]
        allowed = {"mode": choice.get("mode", "auto"), "tools": tools}
        return {"type": kind, "allowed_tools": allowed}
    return "auto"
