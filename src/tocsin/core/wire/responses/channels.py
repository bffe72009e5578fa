"""The kinds of text that arrive in pieces, and an item while it is being written."""

from collections.abc import Mapping
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode
_decode_any = msgspec.json.Decoder().decode


class Channel:
    """One kind of text that arrives in pieces. ``part`` is empty where it is a field of the item
    itself; else the parts stand in the item's ``list``."""

    __slots__ = ("added", "delta", "done", "field", "index", "lead", "list", "part", "part_done")

    def __init__(self, name: str, *, field: str = "text", part: str = "") -> None:
        self.field = field
        self.part = part
        summary = name == "reasoning_summary_text"
        self.list = "summary" if summary else "content"
        self.index = "summary_index" if summary else "content_index"
        stem = "reasoning_summary_part" if summary else "content_part"
        self.added = f"response.{stem}.added"
        self.part_done = f"response.{stem}.done"
        self.delta = f"response.{name}.delta"
        self.done = f"response.{name}.done"
        self.lead = b'{"type":"%b","sequence_number":' % self.delta.encode()


TEXT = Channel("output_text", part="output_text")
REFUSAL = Channel("refusal", field="refusal", part="refusal")
REASONING = Channel("reasoning_text", part="reasoning_text")
SUMMARY = Channel("reasoning_summary_text", part="summary_text")
ARGUMENTS = Channel("function_call_arguments", field="arguments")
INPUT = Channel("custom_tool_call_input", field="input")

_CHANNELS = (TEXT, REFUSAL, REASONING, SUMMARY, ARGUMENTS, INPUT)
BY_PART = {channel.part: channel for channel in _CHANNELS if channel.part}
BY_DELTA = {channel.delta: channel for channel in _CHANNELS}
BY_DONE = {channel.done: channel for channel in _CHANNELS}
PART_ADDED = frozenset({TEXT.added, SUMMARY.added})
PART_DONE = frozenset({TEXT.part_done, SUMMARY.part_done})
OF_CALL = {"function_call": ARGUMENTS, "custom_tool_call": INPUT}
ANNOTATED = "response.output_text.annotation.added"


class OpenItem:
    """An item that is being written."""

    __slots__ = ("channel", "done", "head", "index", "item", "logprobs", "part", "pieces")

    def __init__(self, index: int, item: dict[str, Any]) -> None:
        self.index = index
        self.item = item
        self.channel: Channel | None = None
        self.done = False
        """Whether the channel's text was said to be whole."""
        self.part = 0
        self.pieces: list[str] = []
        self.logprobs: list[Any] = []
        self.head = b""

    @property
    def target(self) -> dict[str, Any]:
        """Where the channel's text stands: a part, or the item itself."""
        channel = self.channel
        assert channel is not None
        if not channel.part:
            return self.item
        part: dict[str, Any] = self.item[channel.list][self.part]
        return part

    def enter(self, channel: Channel, part: int = 0) -> None:
        self.channel = channel
        self.part = part
        self.done = False
        text = self.target.get(channel.field)
        self.pieces = [text] if isinstance(text, str) and text else []
        self.logprobs = list(self.target.get("logprobs") or ()) if channel is TEXT else []
        place = {"item_id": self.item["id"], "output_index": self.index}
        if channel.part:
            place[channel.index] = part
        self.head = b"," + _encode(place)[1:-1] + b',"delta":'

    def sync(self) -> None:
        """Bring the item's text up to date with its pieces."""
        if self.channel is not None:
            text = "".join(self.pieces)
            self.pieces = [text] if text else []
            self.target[self.channel.field] = text
            if self.logprobs:
                self.target["logprobs"] = list(self.logprobs)


def is_whole_json(entry: OpenItem) -> bool:
    """Whether a call's arguments are JSON from beginning to end."""
    if entry.channel is not ARGUMENTS:
        return True
    try:
        _decode_any("".join(entry.pieces))
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def fits(channel: Channel, item: dict[str, Any]) -> bool:
    """Whether an item of this type has such text."""
    kind: str = item["type"]
    if channel.part:
        return kind == ("message" if channel in (TEXT, REFUSAL) else "reasoning")
    return OF_CALL.get(kind) is channel


def _enter(entry: OpenItem, channel: Channel, part: int) -> None:
    """Go on in a part that may not have been announced."""
    if channel.part:
        parts = entry.item.setdefault(channel.list, [])
        if part >= len(parts):
            parts.append({"type": channel.part, channel.field: ""})
            part = len(parts) - 1
    entry.enter(channel, part)


def apply_to(entry: OpenItem, kind: str, event: Mapping[str, Any]) -> None:
    channel = BY_DELTA.get(kind)
    if channel is not None:
        if entry.channel is not channel:
            _enter(entry, channel, event.get(channel.index, 0))
        entry.pieces.append(event["delta"])
        entry.logprobs += event.get("logprobs") or ()
        return
    channel = BY_DONE.get(kind)
    if channel is not None:
        if entry.channel is channel:
            entry.pieces = [event[channel.field]]
            entry.sync()
            entry.done = True
        return
    part = event.get("part")
    if kind in PART_ADDED and isinstance(part, dict):
        added = BY_PART[part["type"]]
        parts = entry.item.setdefault(added.list, [])
        parts.append(dict(part))
        entry.enter(added, len(parts) - 1)
    elif kind in PART_DONE and entry.channel is not None and isinstance(part, dict):
        entry.item[entry.channel.list][entry.part] = dict(part)
        entry.channel = None
    elif kind == ANNOTATED and entry.channel is TEXT:
        entry.target.setdefault("annotations", []).append(event["annotation"])
