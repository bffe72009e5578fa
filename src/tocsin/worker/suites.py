"""A suite's file: prompts as JSON lines, made from recorded calls, and as requests again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from tocsin.config.model import SentinelSettings
from tocsin.core.errors import InputError
from tocsin.core.ids import derived_id
from tocsin.core.interaction import Entry
from tocsin.core.redact import redact
from tocsin.core.sentinels import Prompt

_PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
"""Where chat calls go, by dialect."""
_PERSONAL = ("user", "safety_identifier", "metadata", "stream", "stream_options", "store",
             "prompt_cache_key", "previous_response_id", "conversation")  # fmt: skip
"""Parameters that a suite goes without: who asked, and how the answer was to be sent."""
_LARGEST = 256 * 1024
"""Bytes of messages up to which a call is taken into a suite."""


def path_of(name: str, settings: SentinelSettings) -> Path:
    """Where a suite's file is."""
    return Path(settings.file or f"sentinels/{name}.jsonl")


def read_suite(path: Path) -> list[Prompt]:
    """The prompts of a suite's file. Raises ``InputError`` with the line that is wrong."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; `tocsin sentinels record` writes a suite"
        ) from error
    found: dict[str, Prompt] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            if "suite" in msgspec.json.decode(line, type=dict[str, Any]):
                continue  # the head, for people
            prompt = msgspec.json.decode(line, type=Prompt)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path}:{number}: {error}; a line is a JSON object with id, path, "
                             "messages and params") from None  # fmt: skip
        if prompt.id in found:
            raise InputError(f"{path}:{number}: id {prompt.id!r} stands twice; remove one")
        found[prompt.id] = prompt
    return list(found.values())


def suite_text(name: str, feature: str, prompts: Sequence[Prompt], day: str) -> bytes:
    """A suite's file: a head for people, then a prompt a line."""
    head = {
        "suite": name,
        "feature": feature,
        "recorded": day,
        "note": "From recorded traffic. Secrets of known shapes and who asked are taken out; names "
        "and what else people wrote are not: read it through before you share it.",
    }
    return b"".join(msgspec.json.encode(line) + b"\n" for line in (head, *prompts))


def prompt_of(entry: Entry) -> Prompt | None:
    """A recorded call as a prompt; ``None`` where it cannot be asked again as it was."""
    call = entry.interaction
    if call.operation != "chat" or not entry.input or call.input_messages != len(entry.input):
        return None
    if sum(len(message.raw) for message in entry.input) > _LARGEST:
        return None
    params = _params(entry)
    if params is None:
        return None
    path = call.path if call.path in _PATHS.values() else _PATHS[call.dialect]
    kept = {key: value for key, value in params.items() if key not in _PERSONAL}
    messages = [_clean(msgspec.json.decode(message.raw)) for message in entry.input]
    named = msgspec.json.encode([path, messages, kept], order="sorted")
    identifier = "p" + derived_id("req", named)[-15:]
    return Prompt(id=identifier, path=path, messages=messages, params=kept, call=call.id)


def _params(entry: Entry) -> dict[str, Any] | None:
    """What the call asked besides its messages; of a trace that tells no more, the model."""
    call = entry.interaction
    if call.params is None:
        # Anthropic's API wants a limit.
        limit = {"max_tokens": 4096} if call.dialect == "anthropic" else {}
        return {"model": call.request_model, **limit}
    for blob in entry.blobs:
        if blob.hash == call.params:
            return msgspec.json.decode(blob.data, type=dict[str, Any])
    return None


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list) else value


def body_of(prompt: Prompt, model: str) -> bytes:
    """The request that a prompt stands for; ``model`` in place of its own, unless empty."""
    body: dict[str, Any] = {**prompt.params}
    messages = prompt.messages
    if prompt.path.startswith("/v1/messages") and messages and messages[0].get("role") == "system":
        body["system"], messages = messages[0].get("content"), messages[1:]
    body["messages"] = messages
    if model:
        body["model"] = model
    return msgspec.json.encode(body)


__all__ = ["body_of", "path_of", "prompt_of", "read_suite", "suite_text"]
