"""A finished conversation, turned back into the calls that made it."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from tocsin.core.ids import derived_id
from tocsin.core.interaction import Blob, Dialect, Entry, Usage
from tocsin.core.messages import Message, chain, content_hash
from tocsin.core.outcome import outcome_of
from tocsin.importers.build import call_entry, to_blob
from tocsin.importers.files import Source

_encode = msgspec.json.Encoder().encode
_RESULTS = frozenset({"success", "failure", "halted"})


class Conversation(msgspec.Struct, kw_only=True):
    """What a file says of a whole conversation. ``about`` names it, always the same way."""

    messages: tuple[Message, ...]
    about: tuple[str, ...]
    dialect: Dialect = "openai"
    model: str = ""
    run_id: str | None = None
    conversation_id: str | None = None
    end_user: str | None = None
    feature: str | None = None
    started_at: int | None = None
    params: bytes = b""
    usage: tuple[Usage | None, ...] = ()
    """Of each call, where it is known."""
    attributes: dict[str, str] = {}
    """Facts about every call."""
    verdict: dict[str, str] = {}
    """How the run came out: on its last call, which is when it was known."""


def verdict_of(value: dict[str, Any]) -> dict[str, str]:
    """How a run came out, where its record or its metadata says so.

    ``result`` is ``success``, ``failure`` or ``halted`` (it ran into a cap); ``success`` and
    ``resolved`` are true or false; a ``reward`` of 1 or more is success.
    """
    metadata = value.get("metadata")
    for told in (value, metadata if isinstance(metadata, dict) else {}):
        result, reward = told.get("result"), told.get("reward")
        if isinstance(result, str) and result.lower() in _RESULTS:
            return {"result": result.lower()}
        for solved in (told.get("success"), told.get("resolved")):
            if isinstance(solved, bool):
                return _solved(solved)
        if isinstance(reward, int | float) and not isinstance(reward, bool):
            return {"reward": f"{reward:g}", **_solved(reward >= 1)}
    return {}


def _solved(yes: bool) -> dict[str, str]:
    return {"success": "true" if yes else "false", "result": "success" if yes else "failure"}


def calls(source: Source, told: Conversation) -> Iterator[Entry]:
    """One entry for each assistant message, with the history before it.

    Messages after the last answer belong to no call: they stay with the last one, as a JSON list
    in its response body, counted in the attribute ``trailing_messages``.
    """
    messages = told.messages
    nodes = chain(messages)
    run_id = told.run_id or derived_id("run", *told.about)
    answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
    known, parent = 0, None
    for number, index in enumerate(answers):
        facts = _facts(source, told, number, run_id)
        facts["parent_id"] = parent
        usage = told.usage[number] if number < len(told.usage) else None
        if usage is not None:
            facts["usage"] = usage
        blobs: tuple[Blob, ...] = ()
        if number == len(answers) - 1:
            facts["attributes"].update(told.verdict)
            blobs = _trailing(messages[index + 1 :], facts)
        entry = call_entry(
            facts,
            history=messages[:index],
            output=messages[index],
            params=told.params,
            known=known,
            nodes=nodes[:index],
        )
        if blobs:
            entry = msgspec.structs.replace(entry, blobs=entry.blobs + blobs)
        yield entry
        known, parent = index + 1, entry.interaction.id


def _facts(source: Source, told: Conversation, number: int, run_id: str) -> dict[str, Any]:
    attributes = dict(told.attributes)
    if told.started_at is None:
        started_at = source.tick()
        attributes["time"] = "unknown"
    else:
        started_at = told.started_at + number
        attributes["time"] = "of the conversation"
    return {
        "id": derived_id("call", *told.about, str(number)),
        "source": "import",
        "dialect": told.dialect,
        "operation": "chat",
        "path": "",
        "started_at": started_at,
        "duration_us": 0,
        "outcome": "complete",
        "feature": told.feature or "default",
        "end_user": told.end_user,
        "run_id": run_id,
        "run_source": "conversation",
        "conversation_id": told.conversation_id or "conv_" + run_id.removeprefix("run_"),
        "request_model": told.model,
        "attributes": attributes,
    }


def _trailing(rest: Sequence[Message], facts: dict[str, Any]) -> tuple[Blob, ...]:
    if not rest:
        return ()
    blob = to_blob(_encode([msgspec.Raw(message.raw) for message in rest]))
    facts["attributes"]["trailing_messages"] = str(len(rest))
    if blob is None:
        return ()
    facts["response_body"] = blob.hash
    return (blob,)


def identity(messages: Sequence[Message]) -> str:
    """What tells a conversation from any other: its content, as hex."""
    return content_hash(b"".join([message.hash for message in messages])).hex()


def finished(reason: Any) -> dict[str, Any]:
    """The finish reason and the outcome that it states."""
    if not isinstance(reason, str) or not reason:
        return {}
    return {"finish_reason": reason, "outcome": outcome_of(reason)}
