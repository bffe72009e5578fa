"""The answers of a race's upstream in each dialect: head, pieces and end, streamed or whole."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Self

from harness.race_plan import WORDS

_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What the mark in a prompt says. Pauses are milliseconds."""

    call: str
    input: int
    output: int
    pieces: int
    first: int
    pause: int
    script: str

    @classmethod
    def read(cls, found: re.Match[bytes]) -> Self:
        """The mark that was found in a request's body."""
        part = {name: value.decode() for name, value in found.groupdict().items()}
        return cls(
            call=part["call"],
            script=part["script"],
            **{name: int(part[name]) for name in ("input", "output", "pieces", "first", "pause")},
        )


class Answer:
    """One answer. Of a whole one, everything is sent by ``end``; of a stream, by the pieces.

    ``reports`` tells whether it says what it used.
    """

    kind = "chat"

    def __init__(self, asked: dict[str, Any], mark: Mark) -> None:
        self.mark = mark
        self.model = asked.get("model", "")
        self.stream = bool(asked.get("stream"))
        self.choices = int(asked.get("n") or 1)
        options = asked.get("stream_options") or {}
        self.reports = not self.stream or bool(options.get("include_usage"))
        self.said: list[str] = []

    def head(self) -> bytes:
        """What goes out before the first piece."""
        return _STREAM + self.opening() if self.stream else b""

    def piece(self, index: int, pieces: int) -> bytes:
        """One piece of text: as many words as tokens are generated in it."""
        began, ended = (self.mark.output * at // pieces for at in (index, index + 1))
        text = "".join(f" {WORDS[at % len(WORDS)]}" for at in range(began, ended))
        self.said.append(text)
        return self.delta(text, index) if self.stream else b""

    def end(self) -> bytes:
        """The end of a stream, or the whole answer."""
        if self.stream:
            return self.closing() + b"0\r\n\r\n"
        data = json.dumps(self.whole("".join(self.said))).encode()
        return (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(data), data)
        )

    def usage(self) -> dict[str, int]:
        """The usage as most routes name it."""
        return {
            "prompt_tokens": self.mark.input,
            "completion_tokens": self.mark.output,
            "total_tokens": self.mark.input + self.mark.output,
        }

    def base(self, kind: str) -> dict[str, Any]:
        """The fields that every object has."""
        return {"id": f"r-{self.mark.call}", "object": kind, "created": 1, "model": self.model}

    def opening(self) -> bytes:
        return self._chunk([{"index": 0, "delta": {"role": "assistant", "content": ""}}])

    def delta(self, text: str, index: int) -> bytes:
        return self._chunk([{"index": index % self.choices, "delta": {"content": text}}])

    def closing(self) -> bytes:
        done = [
            {"index": index, "delta": {}, "finish_reason": "stop"} for index in range(self.choices)
        ]
        usage = event({**self.base("chat.completion.chunk"), "choices": [], "usage": self.usage()})
        return self._chunk(done) + (usage if self.reports else b"") + chunked(b"data: [DONE]\n\n")

    def whole(self, text: str) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
            for index in range(self.choices)
        ]
        return {**self.base("chat.completion"), "choices": choices, "usage": self.usage()}

    def _chunk(self, choices: list[dict[str, Any]]) -> bytes:
        choices = [{"finish_reason": None, **choice} for choice in choices]
        return event({**self.base("chat.completion.chunk"), "choices": choices})


class Completion(Answer):
    """``/v1/completions``."""

    kind = "completions"

    def opening(self) -> bytes:
        return b""

    def delta(self, text: str, index: int) -> bytes:
        choice = {"index": index % self.choices, "text": text, "finish_reason": None}
        return event({**self.base("text_completion"), "choices": [choice]})

    def closing(self) -> bytes:
        done = [{"index": i, "text": "", "finish_reason": "stop"} for i in range(self.choices)]
        last = event({**self.base("text_completion"), "choices": done})
        usage = event({**self.base("text_completion"), "choices": [], "usage": self.usage()})
        return last + (usage if self.reports else b"") + chunked(b"data: [DONE]\n\n")

    def whole(self, text: str) -> dict[str, Any]:
        choices = [
            {"index": index, "text": text, "finish_reason": "stop", "logprobs": None}
            for index in range(self.choices)
        ]
        return {**self.base("text_completion"), "choices": choices, "usage": self.usage()}


class Responses(Answer):
    """``/v1/responses``. Its streams always report."""

    kind = "responses"

    def __init__(self, asked: dict[str, Any], mark: Mark) -> None:
        super().__init__(asked, mark)
        self.reports = True
        self.item = f"msg-{mark.call}"

    def opening(self) -> bytes:
        item = {"id": self.item, "type": "message", "role": "assistant", "content": []}
        started = self._response("in_progress", [])
        return self._event("response.created", response=started) + self._event(
            "response.output_item.added", output_index=0, item={**item, "status": "in_progress"}
        )

    def delta(self, text: str, index: int) -> bytes:
        return self._event(
            "response.output_text.delta",
            item_id=self.item,
            output_index=0,
            content_index=0,
            delta=text,
        )

    def closing(self) -> bytes:
        item = self._item("".join(self.said))
        return self._event("response.output_item.done", output_index=0, item=item) + self._event(
            "response.completed", response=self._response("completed", [item], done=True)
        )

    def whole(self, text: str) -> dict[str, Any]:
        return self._response("completed", [self._item(text)], done=True)

    def _item(self, text: str) -> dict[str, Any]:
        content = [{"type": "output_text", "text": text, "annotations": []}]
        return {
            "id": self.item,
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": content,
        }

    def _response(
        self, status: str, output: list[dict[str, Any]], *, done: bool = False
    ) -> dict[str, Any]:
        usage = {
            "input_tokens": self.mark.input,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": self.mark.output,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.mark.input + self.mark.output,
        }
        return {
            "id": f"resp-{self.mark.call}",
            "object": "response",
            "created_at": 1,
            "status": status,
            "model": self.model,
            "output": output,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": usage if done else None,
        }

    def _event(self, kind: str, **fields: Any) -> bytes:
        return event({"type": kind, "sequence_number": 0, **fields}, name=kind)


class Messages(Answer):
    """Anthropic's ``/v1/messages``: the first event already says the input and one output token."""

    kind = "messages"

    def __init__(self, asked: dict[str, Any], mark: Mark) -> None:
        super().__init__(asked, mark)
        self.reports = True

    def opening(self) -> bytes:
        usage = {"input_tokens": self.mark.input, "output_tokens": 1}
        message = {**self.whole(""), "content": [], "stop_reason": None, "usage": usage}
        block = {"type": "text", "text": ""}
        return self._event("message_start", message=message) + self._event(
            "content_block_start", index=0, content_block=block
        )

    def delta(self, text: str, index: int) -> bytes:
        delta = {"type": "text_delta", "text": text}
        return self._event("content_block_delta", index=0, delta=delta)

    def closing(self) -> bytes:
        delta = {"stop_reason": "end_turn", "stop_sequence": None}
        usage = {"output_tokens": self.mark.output}
        return (
            self._event("content_block_stop", index=0)
            + self._event("message_delta", delta=delta, usage=usage)
            + self._event("message_stop")
        )

    def whole(self, text: str) -> dict[str, Any]:
        return {
            "id": f"msg-{self.mark.call}",
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": self.mark.input, "output_tokens": self.mark.output},
        }

    def _event(self, kind: str, **fields: Any) -> bytes:
        return event({"type": kind, **fields}, name=kind)


class Embeddings(Answer):
    """``/v1/embeddings``."""

    kind = "embeddings"

    def whole(self, text: str) -> dict[str, Any]:
        data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
        usage = {"prompt_tokens": self.mark.input, "total_tokens": self.mark.input}
        return {"object": "list", "model": self.model, "data": data, "usage": usage}


class Other(Answer):
    """A path that no gateway knows. It reports its usage, streamed or not."""

    kind = "other"

    def __init__(self, asked: dict[str, Any], mark: Mark) -> None:
        super().__init__(asked, mark)
        self.reports = True

    def opening(self) -> bytes:
        return b""

    def delta(self, text: str, index: int) -> bytes:
        return event({"text": text})

    def closing(self) -> bytes:
        return event({"done": True, "usage": self.usage()}) + chunked(b"data: [DONE]\n\n")

    def whole(self, text: str) -> dict[str, Any]:
        return {"model": self.model, "text": text, "usage": self.usage()}


_KINDS: tuple[tuple[str, type[Answer]], ...] = (
    ("/chat/completions", Answer),
    ("/completions", Completion),
    ("/responses", Responses),
    ("/messages", Messages),
    ("/embeddings", Embeddings),
)


def answer_for(path: str, asked: dict[str, Any], mark: Mark) -> Answer:
    """The answer to a request on ``path``, whatever prefix stands before it."""
    bare = path.partition("?")[0]
    for ending, kind in _KINDS:
        if bare.endswith(ending):
            return kind(asked, mark)
    return Other(asked, mark)


def chunked(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(payload: dict[str, Any], name: str = "") -> bytes:
    """A server-sent event as a chunk."""
    head = f"event: {name}\n" if name else ""
    return chunked(f"{head}data: {json.dumps(payload)}\n\n".encode())
