"""``EventWriter``: what a model says, as numbered events of the Responses API.

It keeps the response as it stands, so that it can also go on from events that are written already.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from tocsin.core.operations import Event
from tocsin.core.wire.responses.channels import (
    ANNOTATED,
    ARGUMENTS,
    BY_DELTA,
    BY_DONE,
    BY_PART,
    OF_CALL,
    PART_ADDED,
    PART_DONE,
    REASONING,
    REFUSAL,
    SUMMARY,
    TEXT,
    Channel,
    OpenItem,
    apply_to,
    fits,
    is_whole_json,
)
from tocsin.core.wire.responses.joining import (
    Mismatch,
    check_beginning,
    is_sound,
    sound_item,
    sound_part,
)
from tocsin.core.wire.responses.objects import compaction_summary
from tocsin.core.wire.responses.request import NewId, id_prefix

Written = tuple[str, bytes]
"""An event's type and its JSON."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode

TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})


class EventWriter:
    """Writes events and keeps the response that they describe. Take them with ``take``.

    Message text, refusals and reasoning are written one after the other; calls stay open until
    their arguments are whole JSON and something else begins, because a few upstreams interleave
    them.
    """

    def __init__(self, response: dict[str, Any], new_id: NewId, *, first: int = 0) -> None:
        self._response = response
        self._new_id = new_id
        self.number = first
        self._out: list[Written] = []
        self._open: dict[int, OpenItem] = {}
        self._current: OpenItem | None = None
        """The open item that is no call."""
        self._calls: dict[Any, OpenItem] = {}
        self.begun = first > 0
        self.started = self.ended = False

    # -- the response --

    @property
    def response(self) -> dict[str, Any]:
        """The response as it stands, with the text so far."""
        for entry in self._open.values():
            entry.sync()
        return self._response

    @property
    def output(self) -> list[dict[str, Any]]:
        """Its items."""
        items: list[dict[str, Any]] = self._response["output"]
        return items

    @property
    def lead(self) -> int:
        """How many items at the beginning are of our own making: compactions of what came before.
        What the upstream says stands behind them."""
        ours = (compaction_summary(item) is not None for item in self.output)
        return next((at for at, our in enumerate(ours) if not our), len(self.output))

    def take(self) -> list[Written]:
        """The events since the last time."""
        found = self._out
        self._out = []
        return found

    def state(self, kind: str) -> None:
        """Write an event that holds the whole response, of type ``kind``."""
        self.write({"type": kind, "sequence_number": self.number, "response": self.response})
        self.begun = True
        self.started = self.started or kind == "response.in_progress"
        self.ended = self.ended or kind in TERMINAL

    def write(self, event: dict[str, Any]) -> None:
        """Write an event as it is; it must have this ``number``."""
        self._out.append((event["type"], _encode(event)))
        self.number += 1

    def _say(self, kind: str, **fields: Any) -> None:
        self.write({"type": kind, "sequence_number": self.number, **fields})

    def put(self, item: dict[str, Any]) -> None:
        """Write an item of ours, whole."""
        index = len(self.output)
        self.output.append(item)
        for kind in ("response.output_item.added", "response.output_item.done"):
            self._say(kind, output_index=index, item=item)

    # -- what a model says --

    def text(self, piece: str, logprobs: list[Any] | None = None) -> None:
        """Text of the answer."""
        entry = self._current
        if entry is None or entry.channel is not TEXT:
            entry = self._enter("message", TEXT)
        if logprobs:
            self._text_with(entry, piece, logprobs)
        else:
            self._delta(entry, TEXT, piece)

    def refusal(self, piece: str) -> None:
        """Text in which the model refuses."""
        entry = self._current
        if entry is None or entry.channel is not REFUSAL:
            entry = self._enter("message", REFUSAL)
        self._delta(entry, REFUSAL, piece)

    def reasoning(self, piece: str, *, summary: bool = False) -> None:
        """What the model thinks: its words, or a summary of them."""
        channel = SUMMARY if summary else REASONING
        entry = self._current
        if entry is None or entry.channel is not channel:
            entry = self._enter("reasoning", channel)
        self._delta(entry, channel, piece)

    def sealed(self, content: str) -> None:
        """Reasoning that only its own model can read: it goes with the open reasoning item, or
        makes one, and ends it."""
        entry = self._current
        if entry is None or entry.item["type"] != "reasoning":
            self._rest(self._current)
            entry = self._current = self._begin({"type": "reasoning", "summary": []})
        entry.item["encrypted_content"] = content
        self.close_current()

    def call(
        self, key: Any, call_id: str, name: str, kind: str = "function_call", **more: Any
    ) -> None:
        """A tool call begins; ``key`` names it in ``arguments``. ``kind``: ``function_call`` or
        ``custom_tool_call``."""
        self._rest(self._current)
        for other, entry in list(self._calls.items()):
            if is_whole_json(entry):
                self.close_call(other)
        channel = OF_CALL[kind]
        item = {"type": kind, "call_id": call_id, "name": name, channel.field: "", **more}
        entry = self._begin(item)
        entry.enter(channel)
        self._calls[key] = entry

    def arguments(self, key: Any, piece: str) -> None:
        """More of a call's arguments."""
        entry = self._calls.get(key)
        if entry is not None and piece:
            assert entry.channel is not None
            self._delta(entry, entry.channel, piece)

    def has_call(self, key: Any) -> bool:
        """Whether a call of this name is open."""
        return key in self._calls

    def call_id(self, key: Any) -> str:
        """The id by which an open call is answered."""
        found: str = self._calls[key].item["call_id"]
        return found

    def name(self, kind: str) -> str:
        """A fresh id for an item of this type."""
        return self._new_id(id_prefix(kind))

    def fresh_call_id(self) -> str:
        """For a call that its upstream gave none."""
        return self._new_id("call")

    def annotation(self, annotation: Mapping[str, Any]) -> None:
        """A citation in the text that is being written."""
        entry = self._current
        if entry is None or entry.channel is not TEXT:
            return
        found = entry.target.setdefault("annotations", [])
        self._say(
            ANNOTATED,
            item_id=entry.item["id"],
            output_index=entry.index,
            content_index=entry.part,
            annotation_index=len(found),
            annotation=annotation,
        )
        found.append(annotation)

    def close_part(self) -> None:
        """The part that is being written is whole; what comes next begins another."""
        if self._current is not None:
            self._leave(self._current)

    def close_current(self) -> None:
        """The item that is being written (no call) is whole."""
        self._rest(self._current)

    def close_call(self, key: Any, *, status: str = "completed") -> None:
        """A call's arguments are whole. Without any, they are ``{}``."""
        entry = self._calls.pop(key, None)
        if entry is None:
            return
        if status == "completed" and entry.channel is ARGUMENTS and not entry.pieces:
            self._delta(entry, ARGUMENTS, "{}")
        self._end(entry, status)

    def close(self, status: str = "completed") -> None:
        """End every open item with ``status`` (``completed`` or ``incomplete``)."""
        for index in sorted(self._open):
            entry = self._open.get(index)
            if entry is None:
                continue
            key = next((key for key, call in self._calls.items() if call is entry), None)
            if key is not None:
                self.close_call(key, status=status)
            else:
                self._end(entry, status)
        self._current = None

    # -- items --

    def _enter(self, kind: str, channel: Channel) -> OpenItem:
        """The open item of this kind with a fresh part for ``channel``."""
        entry = self._current
        if entry is None or entry.item["type"] != kind:
            self._rest(entry)
            if kind == "message":
                item: dict[str, Any] = {"type": kind, "role": "assistant", "content": []}
            else:
                item = {"type": kind, "summary": []}
            entry = self._current = self._begin(item)
        else:
            self._leave(entry)
        self._add_part(entry, channel)
        return entry

    def _rest(self, entry: OpenItem | None) -> None:
        if entry is not None:
            self._end(entry, "completed")
            self._current = None

    def _begin(self, item: dict[str, Any]) -> OpenItem:
        """Open an item: it stands in the output from now on."""
        item = {"id": self.name(item["type"]), **item, "status": "in_progress"}
        entry = OpenItem(len(self.output), item)
        self.output.append(item)
        self._open[entry.index] = entry
        self._say("response.output_item.added", output_index=entry.index, item=item)
        return entry

    def _add_part(self, entry: OpenItem, channel: Channel) -> None:
        part: dict[str, Any] = {"type": channel.part, channel.field: ""}
        if channel is TEXT:
            part.update(annotations=[], logprobs=[])
        parts = entry.item.setdefault(channel.list, [])
        parts.append(part)
        entry.enter(channel, len(parts) - 1)
        self._say(channel.added, **self._place(entry), part=part)

    def _place(self, entry: OpenItem) -> dict[str, Any]:
        channel = entry.channel
        assert channel is not None
        place = {"item_id": entry.item["id"], "output_index": entry.index}
        if channel.part:
            place[channel.index] = entry.part
        return place

    def _delta(self, entry: OpenItem, channel: Channel, piece: str) -> None:
        entry.pieces.append(piece)
        data = b"%b%d%b%b%b" % (
            channel.lead,
            self.number,
            entry.head,
            _encode(piece),
            b',"logprobs":[]}' if channel is TEXT else b"}",
        )
        self._out.append((channel.delta, data))
        self.number += 1

    def _text_with(self, entry: OpenItem, piece: str, logprobs: list[Any]) -> None:
        entry.pieces.append(piece)
        entry.logprobs += logprobs
        self._say(TEXT.delta, **self._place(entry), delta=piece, logprobs=logprobs)

    def _leave(self, entry: OpenItem) -> None:
        """End the part that is being written."""
        channel = entry.channel
        if channel is None:
            return
        entry.sync()
        text = entry.target[channel.field]
        fields = {channel.field: text}
        if channel is TEXT:
            fields["logprobs"] = entry.target.get("logprobs") or []
        if channel is ARGUMENTS:
            fields["name"] = entry.item["name"]
        if not entry.done:
            self._say(channel.done, **self._place(entry), **fields)
        if channel.part:
            self._say(channel.part_done, **self._place(entry), part=entry.target)
        entry.channel = None

    def _end(self, entry: OpenItem, status: str) -> None:
        self._leave(entry)
        entry.item["status"] = status
        self._say("response.output_item.done", output_index=entry.index, item=entry.item)
        del self._open[entry.index]

    # -- events of others --

    def adopt(self, event: dict[str, Any]) -> int | None:
        """Write an upstream's ``response.output_item.added`` as the next item; its place in the
        output, or ``None`` when it holds no item."""
        item = sound_item(event.get("item"), "in_progress")
        if item is None:
            return None
        item["id"] = self.name(item["type"])
        if "call_id" in item and not item["call_id"]:
            item["call_id"] = self.fresh_call_id()
        index = len(self.output)
        self._put({**event, "output_index": index, "item": item})
        return index

    def accept(self, index: int, event: dict[str, Any]) -> None:
        """Write an upstream's event about the item at ``index``, with our ids and number.

        What its type does not allow is left out; a part that was not announced is.
        """
        entry = self._open.get(index)
        if entry is None or not is_sound(event):
            return
        kind = event["type"]
        event["output_index"] = index
        if "item_id" in event:
            event["item_id"] = entry.item["id"]
        if kind == "response.output_item.done":
            item = sound_item(event.get("item"))
            if item is None or item["type"] != entry.item["type"]:
                return
            item["id"] = entry.item["id"]
            if "call_id" in entry.item:
                item["call_id"] = entry.item["call_id"]
            event["item"] = item
        elif not self._follow(entry, kind, event):
            return
        self._put(event)

    def _follow(self, entry: OpenItem, kind: str, event: dict[str, Any]) -> bool:
        """Whether a text event fits what is open; begins the part that it needs."""
        channel = BY_DELTA.get(kind) or BY_DONE.get(kind)
        if kind in PART_ADDED or kind in PART_DONE:
            event["part"] = sound_part(event["part"])
        if kind in PART_ADDED:
            self._leave(entry)
            return fits(BY_PART[event["part"]["type"]], entry.item)
        if kind in PART_DONE:
            return entry.channel is BY_PART[event["part"]["type"]]
        if kind == ANNOTATED:
            return entry.channel is TEXT
        if channel is None:
            return True
        if not fits(channel, entry.item):
            return False
        if channel.part:
            if entry.channel is not channel:
                self._leave(entry)
                self._add_part(entry, channel)
            event[channel.index] = entry.part
        if channel is TEXT:
            event.setdefault("logprobs", [])
        return True

    def _put(self, event: dict[str, Any]) -> None:
        event["sequence_number"] = self.number
        self.write(event)
        self.apply(event)

    # -- going on from events --

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take in an event of ours that was written before."""
        kind = event["type"]
        if kind == "response.output_item.added":
            entry = OpenItem(len(self.output), dict(event["item"]))
            channel = OF_CALL.get(entry.item["type"])
            if channel is not None:
                entry.enter(channel)
            self.output.append(entry.item)
            self._open[entry.index] = entry
            return
        entry_or_none = self._open.get(event.get("output_index", -1))
        if entry_or_none is not None:
            apply_to(entry_or_none, kind, event)
            if kind == "response.output_item.done":
                self.output[entry_or_none.index] = dict(event["item"])
                del self._open[entry_or_none.index]
        elif isinstance(event.get("response"), dict):
            self._response.update(event["response"])
            self.begun = True
            self.started = self.started or kind == "response.in_progress"
            self.ended = self.ended or kind in TERMINAL

    def restore(self, events: Iterable[Event]) -> None:
        """Take in all events that were written before, in order."""
        for event in events:
            self.apply(_decode(event.data))
            self.number = event.number + 1

    def fill(self, items: list[dict[str, Any]]) -> None:
        """Write what is missing to make the output, behind what we have put there, ``items``, which
        are whole.

        Raises ``Mismatch``, and writes nothing, when what stands there is no beginning of them.
        """
        lead = self.lead
        have = self.response["output"][lead:]
        if len(have) > len(items):
            raise Mismatch("more items were given than there are")
        for index, item in enumerate(have):
            check_beginning(item, items[index], self._open.get(lead + index))
        for index, item in enumerate(items):
            entry = self._open.get(lead + index)
            if entry is not None:
                self._complete(entry, item)
            elif index >= len(have):
                self._whole_item(item)
        self._current = None
        self._calls.clear()

    def _whole_item(self, item: dict[str, Any]) -> None:
        kind = item["type"]
        bare = {name: value for name, value in item.items() if name not in ("id", "status")}
        channel = OF_CALL.get(kind)
        if channel is not None:
            bare[channel.field] = ""
        elif kind == "message":
            bare["content"] = []
        elif kind == "reasoning":
            bare.pop("content", None)
            bare.pop("encrypted_content", None)
            bare["summary"] = []
        self._complete(self._begin(bare), item)

    def _complete(self, entry: OpenItem, want: dict[str, Any]) -> None:
        """Write the rest of an open item, which is a beginning of ``want``."""
        channel = OF_CALL.get(want["type"])
        if channel is not None:
            if entry.channel is None:
                entry.enter(channel)
            self._remainder(entry, channel, want[channel.field])
        elif want["type"] in ("message", "reasoning"):
            for name in ("summary", "content"):
                for index, part in enumerate(want.get(name) or ()):
                    self._complete_part(entry, name, index, part)
        entry.item.update({**want, "id": entry.item["id"]})
        self._end(entry, want.get("status") or "completed")

    def _complete_part(self, entry: OpenItem, name: str, index: int, part: dict[str, Any]) -> None:
        channel = BY_PART.get(part.get("type", ""))
        if channel is None:
            return
        parts = entry.item.get(name) or []
        live = entry.channel is channel and entry.part == index
        if index < len(parts) and not live:
            return
        if not live:
            self._leave(entry)
            self._add_part(entry, channel)
        self._remainder(entry, channel, part[channel.field])
        entry.target.update(part)
        self._leave(entry)

    def _remainder(self, entry: OpenItem, channel: Channel, text: str) -> None:
        entry.sync()
        rest = text[len(entry.target[channel.field]) :]
        if rest:
            self._delta(entry, channel, rest)


def sse(event: Event) -> bytes:
    """The event as it goes to a client: its number is the id that ``Last-Event-ID`` names."""
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.number, event.type.encode(), event.data)
