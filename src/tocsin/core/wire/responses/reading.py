"""``UpstreamReader``: an upstream's answer, told to an ``EventWriter``."""

from typing import Any

from tocsin.core.interaction import Usage
from tocsin.core.wire.reading import UpstreamError
from tocsin.core.wire.responses.events import EventWriter

CUT = frozenset(
    {
        "length",
        "max_tokens",
        "max_output_tokens",
        "model_context_window_exceeded",
        "content_filter",
        "refusal",
    }
)
"""Finish reasons of an answer whose last item is not whole."""


class UpstreamReader:
    """What is known of one answer. Subclasses read ``event`` (the data of one server-sent event)
    and ``whole`` (a JSON body); neither raises on what an upstream may send."""

    def __init__(self, writer: EventWriter) -> None:
        self.writer = writer
        self.error: UpstreamError | None = None
        self.finish_reason: str | None = None
        self.usage: Usage | None = None
        self.model: str | None = None
        self.upstream_id: str | None = None
        """The upstream's own name for its answer."""
        self.terminal = False
        """Whether the upstream said that there is no more."""

    def event(self, payload: bytes) -> None:
        """Take in the data of one event."""
        raise NotImplementedError

    def whole(self, body: bytes) -> None:
        """Take in a whole answer."""
        raise NotImplementedError

    def _finish(self, reason: str) -> None:
        """The upstream said why it ended: what is open is whole, or was cut."""
        self.finish_reason = reason
        self.writer.close("incomplete" if reason in CUT else "completed")


def custom_tools(response: dict[str, Any]) -> frozenset[str]:
    """Names of the tools that take plain text instead of JSON."""
    tools = response.get("tools") or ()
    return frozenset(tool["name"] for tool in tools if tool.get("type") == "custom")
