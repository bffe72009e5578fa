"""Calls as entries, written as the messages that they have."""

from typing import Any

import msgspec

from tocsin.core.interaction import Blob, Entry
from tocsin.core.messages import Message, content_hash, parse_message
from tocsin.core.score import Score
from tocsin.testing import sample_entries


def message(value: Any) -> Message:
    """A message of either dialect."""
    return parse_message(msgspec.json.encode(value))


def said(role: str, text: str) -> Message:
    """A message of nothing but text."""
    return message({"role": role, "content": text})


def chat(*history: Message, answer: Any = None, params: Any = None, **fields: Any) -> Entry:
    """A call with this history. ``answer``: its text, or its whole message.

    ``params``: the request without its messages. ``fields`` go into the interaction.
    """
    blobs: tuple[Blob, ...] = ()
    if params is not None:
        data = msgspec.json.encode(params)
        blobs = (Blob(content_hash(data), data),)
        fields["params"] = blobs[0].hash
    output = None
    if answer is not None:
        output = said("assistant", answer) if isinstance(answer, str) else message(answer)
    known = {
        "outcome": "complete",
        "tool_calls": len(output.calls) if output is not None else 0,
        "input_messages": len(history),
        "new_messages": len(history),
    }
    base = sample_entries()[0].interaction
    interaction = msgspec.structs.replace(base, **{**known, **fields})
    return Entry(interaction=interaction, input=history, output=output, blobs=blobs)


def asked(request: str, answer: Any = None, **fields: Any) -> Entry:
    """A call of one user message."""
    return chat(said("user", request), answer=answer, **fields)


def values(scores: list[Score]) -> dict[str, float | None]:
    """Scores by name."""
    assert len({score.name for score in scores}) == len(scores)
    return {score.name: score.value for score in scores}
