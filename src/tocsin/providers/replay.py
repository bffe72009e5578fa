"""``ReplayProvider``: answers from recorded interactions, without asking anybody."""

import asyncio
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from tocsin.core.call import Call
from tocsin.core.errors import ConfigError, InputError, UpstreamFailed
from tocsin.core.interaction import Dialect, Usage
from tocsin.core.messages import ROOT, Hash, Message, chain, content_hash, link, parse_message
from tocsin.core.policy import Reply
from tocsin.core.wire import error_json, error_type, text_of
from tocsin.core.wire.render import Answer, words
from tocsin.providers.playing import Step, play

_encode = msgspec.json.Encoder().encode
_UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)


class _Recorded(msgspec.Struct, frozen=True):
    """One recorded answer and how long it took."""

    answer: Answer
    first_s: float = 0.0
    rest_s: float = 0.0


class _Line(msgspec.Struct):
    """One line of Tocsin's export, or of OpenAI-message JSONL (``messages``)."""

    interaction: dict[str, Any] = {}
    after: str | None = None
    """Node (hex) of the history that ``input`` continues; without it, ``input`` is all of it."""
    input: list[msgspec.Raw] | None = None
    output: msgspec.Raw = msgspec.Raw(b"null")
    blobs: dict[str, Any] = {}
    messages: list[msgspec.Raw] | None = None
    model: str | None = None


_decode_line = msgspec.json.Decoder(_Line).decode


class ReplayProvider:
    """Looks the history of a call up in a file, by content, and gives the answer recorded there.

    The file is Tocsin's own export or JSONL with one ``{"messages": [...]}`` a line; ``.gz`` and
    ``.zst`` are unpacked. Each assistant message answers the messages before it. Several answers
    to the same history take turns. A history that is not in the file gets a 404 that says how much
    of it is. ``speed`` 0 answers at once, 1 at the recorded pace, 2 twice as fast.

    The file is read in a thread at the first call and kept in memory.
    """

    kind = "replay"
    label = "replay"
    dialects: frozenset[Dialect] = frozenset({"openai", "anthropic"})

    def __init__(self, name: str, path: str, *, speed: float = 0.0) -> None:
        """Raises ``ConfigError`` when no file is named or it does not exist."""
        self.name = name
        self._path = Path(path)
        self._speed = speed
        self._recording: _Recording | None = None
        self._loading = asyncio.Lock()
        if not path or not self._path.is_file():
            raise ConfigError(
                f"upstreams.{name}.path: there is no file {path!r}. Name an export of "
                "`tocsin export`, or a JSONL file of messages."
            )

    async def send(self, call: Call) -> Reply:
        """The recorded answer, or a 404. Raises ``UpstreamFailed`` for a file it cannot read."""
        try:
            recording = await self._load()
        except InputError as error:
            failure = UpstreamFailed(f"Upstream {self.name!r}: {error}", sent=False)
            failure.retryable = False
            raise failure from error
        if call.operation == "models":
            return Reply(status=200, headers=_JSON, body=recording.models())
        body = recording.body(call.body)
        if body is not None:
            return Reply(status=body[0], headers=_JSON, body=body[1])
        nodes = tuple(node.hash for node in call.nodes or chain(call.messages))
        found = recording.answer(nodes[-1]) if nodes else None
        if found is None:
            return _missing(call, recording.known_prefix(nodes), len(nodes))
        delay, gap = self._pace(found)
        if delay:
            await asyncio.sleep(delay)
        if not call.stream and gap:
            await asyncio.sleep(found.rest_s / self._speed)
        return play(Step(answer=found.answer, gap_s=gap), call, self.name)

    async def aclose(self) -> None:
        self._recording = None

    def _pace(self, found: _Recorded) -> tuple[float, float]:
        """Seconds before the first event and between events."""
        if self._speed <= 0:
            return 0.0, 0.0
        events = len(words(found.answer.text)) + 2 * len(found.answer.tool_calls) + 2
        return found.first_s / self._speed, found.rest_s / self._speed / events

    async def _load(self) -> "_Recording":
        async with self._loading:
            if self._recording is None:
                self._recording = await asyncio.to_thread(_read, self._path)
            return self._recording


class _Recording:
    """Answers by the node of the history that they answer, and other replies by request body."""

    def __init__(self) -> None:
        self._answers: dict[Hash, list[_Recorded]] = {}
        self._turns: dict[Hash, int] = {}
        self._prefixes: set[Hash] = set()
        self._bodies: dict[str, tuple[int, bytes]] = {}
        self._models: dict[str, None] = {}

    def answer(self, node: Hash) -> _Recorded | None:
        answers = self._answers.get(node)
        if answers is None:
            return None
        turn = self._turns.get(node, 0)
        self._turns[node] = turn + 1
        return answers[turn % len(answers)]

    def body(self, request: bytes) -> tuple[int, bytes] | None:
        """Status and body recorded for exactly this request, of a route without messages."""
        return self._bodies.get(content_hash(request).hex()) if self._bodies else None

    def known_prefix(self, nodes: tuple[Hash, ...]) -> int:
        """How many of a history's first messages some recorded history begins with."""
        for length in range(len(nodes), 0, -1):
            if nodes[length - 1] in self._prefixes:
                return length
        return 0

    def models(self) -> bytes:
        data = [{"id": name, "object": "model", "owned_by": "replay"} for name in self._models]
        return _encode({"object": "list", "data": data})

    def add(self, line: _Line) -> None:
        """Take in one line. Raises ``msgspec.DecodeError`` when a message is no JSON."""
        if line.messages is not None:
            self._add_conversation(line.messages, line.model or "")
        elif line.input is not None:
            self._add_interaction(line, line.input)

    def _add_conversation(self, raws: list[msgspec.Raw], model: str) -> None:
        node = ROOT
        if model:
            self._models[model] = None
        for raw in raws:
            message = parse_message(bytes(raw))
            if message.role == "assistant":
                self._remember(node, _Recorded(_answer(message, model=model)))
            node = link(node, message.hash)
            self._prefixes.add(node)

    def _add_interaction(self, line: _Line, raws: list[msgspec.Raw]) -> None:
        facts = line.interaction
        model = str(facts.get("response_model") or facts.get("request_model") or "")
        if model:
            self._models[model] = None
        response = line.blobs.get(str(facts.get("response_body")))
        if not raws and isinstance(response, str) and facts.get("request_body"):
            status = facts.get("status")
            code = status if isinstance(status, int) else 200
            self._bodies[str(facts["request_body"])] = code, response.encode()
        start = bytes.fromhex(line.after) if line.after else ROOT
        nodes = chain(tuple(parse_message(bytes(raw)) for raw in raws), start)
        self._prefixes.update(node.hash for node in nodes)
        asked = nodes[-1].hash if nodes else start
        if bytes(line.output) == b"null" or asked == ROOT:
            return
        total, first = facts.get("duration_us") or 0, facts.get("first_chunk_us") or 0
        answer = _answer(
            parse_message(bytes(line.output)),
            model=model,
            finish_reason=str(facts.get("finish_reason") or ""),
            usage=_usage(facts.get("usage")),
        )
        first_s = (first or total) / 1_000_000
        rest_s = (total - first) / 1_000_000 if first else 0.0
        self._remember(asked, _Recorded(answer, first_s, rest_s))

    def _remember(self, node: Hash, recorded: _Recorded) -> None:
        self._answers.setdefault(node, []).append(recorded)


_JSON = ((b"content-type", b"application/json"),)


def _answer(
    message: Message, *, model: str, finish_reason: str = "", usage: Usage | None = None
) -> Answer:
    return Answer(
        text=text_of(message.raw),
        tool_calls=message.calls,
        finish_reason=finish_reason,
        usage=usage,
        id=f"replay-{message.hash.hex()[:16]}",
        model=model,
    )


def _usage(value: Any) -> Usage | None:
    try:
        usage = msgspec.convert(value, Usage)
    except msgspec.ValidationError:
        return None
    return None if usage.input_tokens is None and usage.output_tokens is None else usage


def _missing(call: Call, known: int, length: int) -> Reply:
    if not length:
        message = "The recording holds no reply to this request."
    else:
        message = (
            f"The recording holds no answer to this history of {length} messages; the longest "
            f"beginning of it that was recorded has {known}."
        )
    body = error_json(
        call.dialect, message, kind=error_type(call.dialect, 404), code="not_recorded"
    )
    headers = (*_JSON, (b"x-should-retry", b"false"))
    return Reply(status=404, headers=headers, body=body)


def _read(path: Path) -> _Recording:
    """The whole file, indexed. Raises ``InputError``, which names the line, when it is no JSON."""
    recording = _Recording()
    try:
        for number, line in enumerate(_lines(path), 1):
            if not line.strip():
                continue
            try:
                recording.add(_decode_line(line))
            except _UNREADABLE as error:
                raise InputError(f"{path}, line {number}: cannot be read: {error}") from None
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    return recording


def _lines(path: Path) -> Iterator[bytes]:
    if path.suffix == ".gz":
        with gzip.open(path, "rb") as packed:
            yield from packed
    elif path.suffix == ".zst":
        import zstandard  # only for this ending

        with path.open("rb") as raw:
            reader: IO[bytes] = zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(raw)
            rest = b""
            while piece := reader.read(1 << 20):
                *lines, rest = (rest + piece).split(b"\n")
                yield from lines
            yield rest
    else:
        with path.open("rb") as plain:
            yield from plain
