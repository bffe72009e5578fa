"""The two wire dialects, read without I/O: requests, answers, streams and errors."""

from tocsin.core.interaction import Dialect, Operation
from tocsin.core.wire.anthropic import AnthropicReader
from tocsin.core.wire.errors import error_body, error_event, error_json, error_type
from tocsin.core.wire.openai import OpenAIReader
from tocsin.core.wire.reading import (
    MAX_OUTPUT,
    OutputReader,
    SilentReader,
    UpstreamError,
    text_of,
)
from tocsin.core.wire.requests import (
    MAX_DEPTH,
    MAX_MESSAGES,
    ParsedRequest,
    exceeds_depth,
    parse_request,
    with_model,
)
from tocsin.core.wire.sse import SseSplitter

_ANSWERS: frozenset[Operation] = frozenset({"chat", "generate_content", "text_completion"})


def reader_for(
    dialect: Dialect,
    operation: Operation,
    stream: bool,
    *,
    content_encoding: bytes | None = None,
) -> OutputReader:
    """A reader for one reply. ``stream``: the reply is server-sent events.

    A reply that turns out to be JSON although ``stream`` is set is read as JSON.
    ``content_encoding`` is the reply's header: gzip and deflate are decoded on the side.
    """
    if operation == "models":
        return SilentReader()
    answers = operation in _ANSWERS
    if dialect == "anthropic":
        return AnthropicReader(stream=stream, content_encoding=content_encoding, answers=answers)
    return OpenAIReader(stream=stream, content_encoding=content_encoding, answers=answers)


__all__ = [
    "MAX_DEPTH",
    "MAX_MESSAGES",
    "MAX_OUTPUT",
    "AnthropicReader",
    "OpenAIReader",
    "OutputReader",
    "ParsedRequest",
    "SilentReader",
    "SseSplitter",
    "UpstreamError",
    "error_body",
    "error_event",
    "error_json",
    "error_type",
    "exceeds_depth",
    "parse_request",
    "reader_for",
    "text_of",
    "with_model",
]
