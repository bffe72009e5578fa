"""The responses API of an upstream as a response of ours: other ids and numbers, the same words."""

from typing import Any

from tocsin.core.interaction import Usage
from tocsin.core.wire.reading import decode_object, error_from
from tocsin.core.wire.responses.events import EventWriter
from tocsin.core.wire.responses.joining import Mismatch, sound_item
from tocsin.core.wire.responses.reading import UpstreamReader

_LIFECYCLE = frozenset(
    {
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
        "response.cancelled",
    }
)
_ENDED = {
    "completed": "stop",
    "incomplete": "length",
    "failed": "error",
    "cancelled": "cancelled",
}


class ResponsesReader(UpstreamReader):
    """Reads ``/v1/responses``. Its events are passed on, with our ids and numbers; those that
    hold a whole response are ours to write."""

    def __init__(self, writer: EventWriter) -> None:
        super().__init__(writer)
        lead = writer.lead
        self._places: dict[int, int] = {
            index - lead: index for index in range(lead, len(writer.output))
        }
        """Where the upstream's items stand in our output."""

    def event(self, payload: bytes) -> None:
        event = decode_object(payload)
        if event is None:
            self.terminal = self.terminal or payload.strip() == b"[DONE]"
            return
        kind = event.get("type")
        if not isinstance(kind, str):
            kind = ""
        if kind in _LIFECYCLE:
            if isinstance(event.get("response"), dict):
                self._take(event["response"])
        elif kind == "error" or event.get("error"):
            self.error = error_from(event.get("error") or event)
        elif kind.startswith("response."):
            self._pass(kind, event)

    def whole(self, body: bytes) -> None:
        found = decode_object(body)
        if found is not None:
            self._take(found)

    def _pass(self, kind: str, event: dict[str, Any]) -> None:
        place = event.get("output_index")
        if not isinstance(place, int):
            return
        index = self._places.get(place)
        if index is not None:
            self.writer.accept(index, event)
        elif kind == "response.output_item.added":
            adopted = self.writer.adopt(event)
            if adopted is not None:
                self._places[place] = adopted

    def _take(self, response: dict[str, Any]) -> None:
        """The upstream's response as it stands."""
        name, model, status = response.get("id"), response.get("model"), response.get("status")
        self.upstream_id = name if isinstance(name, str) else self.upstream_id
        self.model = model if isinstance(model, str) and model else self.model
        if isinstance(response.get("usage"), dict):
            self.usage = _usage(response["usage"])
        if response.get("error"):
            self.error = error_from(response["error"])
        reason = _ENDED.get(status) if isinstance(status, str) else None
        if reason is None:
            return
        self.terminal = True
        details = response.get("incomplete_details")
        if isinstance(details, dict) and details.get("reason") == "content_filter":
            reason = "content_filter"
        output = response.get("output")
        if isinstance(output, list):
            items = [sound_item(item) for item in output]
            self._output([item for item in items if item is not None])
        if reason in ("error", "cancelled"):
            self.finish_reason = reason
        else:
            self._finish(reason)

    def _output(self, items: list[dict[str, Any]]) -> None:
        """What the upstream says that its whole output is: write what it did not stream."""
        try:
            self.writer.fill(items)
        except Mismatch:
            # It contradicts itself; what clients have seen stands.
            return


def _usage(wire: dict[str, Any]) -> Usage:
    asked, said = wire.get("input_tokens_details"), wire.get("output_tokens_details")
    return Usage(
        input_tokens=_count(wire, "input_tokens"),
        output_tokens=_count(wire, "output_tokens"),
        cache_read_tokens=_count(asked, "cached_tokens"),
        cache_write_tokens=_count(asked, "cache_write_tokens"),
        reasoning_tokens=_count(said, "reasoning_tokens"),
        source="reported",
    )


def _count(wire: Any, name: str) -> int | None:
    value = wire.get(name) if isinstance(wire, dict) else None
    return value if isinstance(value, int) else None
