"""``WatchedChunks``: looks for repetition in an answer while it streams, and can end it."""

from collections.abc import AsyncIterator, Callable
from typing import Protocol

import msgspec

from tocsin.core.errors import CallError
from tocsin.core.wire.sse import SseSplitter

SAMPLE_BYTES = 4096
"""Wire bytes that are read at once: one event costs little more than being kept."""
SAMPLE_CHARS = 300
"""Characters of text that are looked at together."""


class TextWatch(Protocol):
    """``engine.StreamWatch``."""

    def feed(self, text: str) -> str | None:
        """A summary once the text repeats beyond doubt."""
        ...


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    text: str | None = None
    thinking: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None


class _Event(msgspec.Struct):
    """An event of any stream: OpenAI's chat, completions and responses, Anthropic's messages."""

    type: str | None = None
    choices: list[_Choice] | None = None
    delta: _Delta | str | None = None


_decode = msgspec.json.Decoder(_Event).decode
_TEXTS = frozenset({"response.output_text.delta", "response.reasoning_text.delta"})


class WatchedChunks:
    """A reply's stream as it came. ``repeats`` is told a summary once; the error that it returns
    ends the stream, ``None`` lets it go on unwatched.

    Text and reasoning count; the arguments of tool calls do not, for data may well repeat.
    """

    __slots__ = ("_held", "_repeats", "_source", "_split", "_text", "_watch")

    def __init__(
        self,
        source: AsyncIterator[bytes],
        watch: TextWatch,
        repeats: Callable[[str], CallError | None],
    ) -> None:
        self._source = source
        self._watch: TextWatch | None = watch
        self._repeats = repeats
        self._split = SseSplitter()
        self._held = bytearray()
        self._text: list[str] = []

    def __aiter__(self) -> "WatchedChunks":
        return self

    async def __anext__(self) -> bytes:
        data = await self._source.__anext__()
        if self._watch is not None:
            self._held += data
            if len(self._held) >= SAMPLE_BYTES:
                error = self._look()
                if error is not None:
                    await self.aclose()
                    raise error
        return data

    async def aclose(self) -> None:
        """Close the source, which cancels the upstream if it is not at its end."""
        close = getattr(self._source, "aclose", None)
        if close is not None:
            await close()

    def _look(self) -> CallError | None:
        held = bytes(self._held)
        self._held.clear()
        for payload in self._split.feed(held):
            text = text_of_event(payload)
            if text:
                self._text.append(text)
        text = "".join(self._text)
        if len(text) < SAMPLE_CHARS:
            return None
        self._text.clear()
        assert self._watch is not None
        summary = self._watch.feed(text)
        if summary is None:
            return None
        self._watch = None
        return self._repeats(summary)


def text_of_event(payload: bytes) -> str:
    """The text that one server-sent event adds to the first answer; empty for any other event."""
    try:
        event = _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    delta = event.delta
    if isinstance(delta, str):
        return delta if event.type in _TEXTS else ""
    if delta is not None:
        return delta.text or delta.thinking or ""
    for choice in event.choices or ():
        if choice.index == 0:
            found = choice.delta
            if found is None:
                return choice.text or ""
            return found.content or found.reasoning_content or ""
    return ""
