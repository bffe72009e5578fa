"""Events and items that somebody else wrote: are they sound, and do they go on from ours?"""

from collections.abc import Mapping
from typing import Any

from tocsin.core.wire.responses.channels import (
    ANNOTATED,
    BY_DELTA,
    BY_DONE,
    BY_PART,
    OF_CALL,
    PART_ADDED,
    PART_DONE,
    TEXT,
    OpenItem,
)


class Mismatch(Exception):
    """What was given out already is no beginning of the answer."""


def sound_item(item: Any, status: str = "completed") -> dict[str, Any] | None:
    """An item as ``EventWriter`` takes it, whoever wrote it; ``None`` for what is no item.
    ``status`` is for one that should have one and has none."""
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        return None
    kind, found = item["type"], dict(item)
    channel = OF_CALL.get(kind)
    if channel is not None:
        for name in ("call_id", "name", channel.field):
            if not isinstance(found.get(name), str):
                found[name] = ""
    elif kind == "message":
        found["role"] = "assistant"
        found["content"] = _parts(found.get("content"))
    elif kind == "reasoning":
        found["summary"] = _parts(found.get("summary"))
        if "content" in found:
            found["content"] = _parts(found["content"])
    else:
        return found
    if found.get("status") not in ("completed", "incomplete", "in_progress"):
        found["status"] = status
    return found


def _parts(parts: Any) -> list[dict[str, Any]]:
    found = [sound_part(part) for part in parts] if isinstance(parts, list) else []
    return [part for part in found if part is not None]


def sound_part(part: Any) -> dict[str, Any] | None:
    """A part of a message or of reasoning; ``None`` for what is none."""
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        return None
    channel = BY_PART.get(part["type"])
    if channel is None or not isinstance(part.get(channel.field), str):
        return None
    if channel is not TEXT:
        return part
    lists = {name: part.get(name) for name in ("annotations", "logprobs")}
    return {**part, **{n: v if isinstance(v, list) else [] for n, v in lists.items()}}


def is_sound(event: Mapping[str, Any]) -> bool:
    """Whether an event that somebody else wrote has what its type says, as far as it is read."""
    kind = event.get("type")
    channel = BY_DELTA.get(kind) if isinstance(kind, str) else None
    if channel is not None:
        good = isinstance(event.get("delta"), str)
    elif (channel := BY_DONE.get(str(kind))) is not None:
        good = isinstance(event.get(channel.field), str)
    elif kind in PART_ADDED or kind in PART_DONE:
        good = sound_part(event.get("part")) is not None
    else:
        return kind != ANNOTATED or isinstance(event.get("annotation"), dict)
    return good and isinstance(event.get("logprobs"), list | None)


def check_beginning(have: dict[str, Any], want: dict[str, Any], entry: OpenItem | None) -> None:
    """Whether ``have`` is a beginning of ``want``; the same, unless it is still open."""
    for name in ("type", "name", "call_id"):
        if have.get(name) != want.get(name):
            raise Mismatch(f"another {name} was given: {have.get(name)}")
    live = entry is not None and not entry.done
    for field in ("arguments", "input"):
        _check_text(have.get(field) or "", want.get(field) or "", live)
    for name in ("summary", "content"):
        parts, wanted = have.get(name) or [], want.get(name) or []
        if len(parts) > len(wanted) or (entry is None and len(parts) != len(wanted)):
            raise Mismatch("another number of parts was given")
        for index, part in enumerate(parts):
            other = wanted[index]
            if part.get("type") != other.get("type"):
                raise Mismatch(f"another type of part was given: {part.get('type')}")
            writing = entry.channel if live and entry is not None else None
            open_end = (
                writing is not None
                and entry is not None
                and writing.list == name
                and entry.part == index
            )
            for field in ("text", "refusal"):
                _check_text(part.get(field) or "", other.get(field) or "", open_end)


def _check_text(have: str, want: str, live: bool) -> None:
    if not (want.startswith(have) if live else have == want):
        raise Mismatch("other text was given")
