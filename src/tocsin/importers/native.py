"""Tocsin's own export: JSON lines that a re-import turns into identical records.

The first line is ``{"tocsin": 1}``. Each further line is one interaction::

    {"interaction": {...}, "after": "<node>", "input": [...], "output": {...}, "blobs": {...}}

``input`` holds only the messages that are new since the history named by ``after`` (hex), which
an earlier line ended with; without ``after`` it is the whole history. Hashes are hex. A message
stands as the JSON object that it is; bytes that are no JSON object on one line, or no text, stand
as ``{"base64": "..."}``.

Writer and reader remember the same ends of histories, the latest ones up to a size, so the file
says nothing that the reader could not know, and neither needs more memory for a longer file.
"""

import base64
import binascii
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from tocsin.core.interaction import Blob, Entry, Interaction
from tocsin.core.messages import ROOT, Hash, Message, Node, chain, content_hash, parse_message
from tocsin.importers.files import BadRecord, Sample, Source
from tocsin.importers.formats.api import Format, Records

VERSION = 1
HEADER = b'{"tocsin":1}\n'
_BUDGET = 64 * 1024 * 1024
"""Bytes of histories that writer and reader remember."""
_MOST = 20_000
"""Histories that they remember. Part of the format, as the budget is."""

_encode = msgspec.json.Encoder().encode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


_NONE = msgspec.Raw()


class _Line(msgspec.Struct, omit_defaults=True):
    interaction: dict[str, Any]
    after: str | None = None
    input: list[msgspec.Raw] = []
    output: msgspec.Raw = _NONE
    blobs: dict[str, Any] = {}
    nodes: list[tuple[str, str, str]] | None = None
    """Only where they do not follow from the messages (content that was not kept)."""


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_head = msgspec.json.Decoder(dict[str, Any]).decode


class _Ends:
    """Ends of histories, oldest use first out; the same on both sides."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hash, tuple[tuple[Message, ...], int]] = OrderedDict()
        self._size = 0

    def get(self, node: Hash) -> tuple[Message, ...] | None:
        found = self._kept.get(node)
        return None if found is None else found[0]

    def longest(self, nodes: tuple[Node, ...]) -> Hash | None:
        """The longest of a history's prefixes that is remembered."""
        for node in reversed(nodes):
            if node.hash in self._kept:
                return node.hash
        return None

    def move(self, after: Hash | None, node: Hash, messages: tuple[Message, ...]) -> None:
        """A history ends now at ``node``; ``after``, which it continues, is no end any more."""
        for key in (after, node):
            if key is not None and key in self._kept:
                self._size -= self._kept.pop(key)[1]
        size = sum([len(message.raw) for message in messages])
        if size > _BUDGET // 4:
            return
        self._kept[node] = (messages, size)
        self._size += size
        while self._size > _BUDGET or len(self._kept) > _MOST:
            self._size -= self._kept.popitem(last=False)[1][1]


# -- out --


def export_jsonl(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Lines of an export, the header first, each with its line end."""
    yield HEADER
    ends = _Ends()
    for entry in entries:
        yield _encode(_line(entry, ends)) + b"\n"


def _line(entry: Entry, ends: _Ends) -> _Line:
    expected = chain(entry.input if entry.output is None else (*entry.input, entry.output))
    after = ends.longest(expected[: len(entry.input)])
    known = 0
    if after is not None:
        before = ends.get(after) or ()
        known = len(before)
        if before != entry.input[:known]:
            # The same history to a model, but sent in other bytes: it is written in full.
            after, known = None, 0
    if expected:
        whole = entry.input if entry.output is None else (*entry.input, entry.output)
        ends.move(after, expected[-1].hash, whole)
    return _Line(
        interaction=_hexed(msgspec.to_builtins(entry.interaction, builtin_types=(bytes,))),
        after=None if after is None else after.hex(),
        input=[_raw(message.raw) for message in entry.input[known:]],
        output=_NONE if entry.output is None else _raw(entry.output.raw),
        blobs={blob.hash.hex(): _content(blob) for blob in entry.blobs},
        nodes=None
        if entry.nodes == expected
        else [(node.hash.hex(), node.parent.hex(), node.content.hex()) for node in entry.nodes],
    )


def _hexed(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item.hex() if isinstance(item, bytes) else item for key, item in value.items()}


def _raw(data: bytes) -> msgspec.Raw:
    """A message as it came where a line of JSON can hold it, else in base64."""
    plain = data.startswith(b"{") and data.endswith(b"}") and not data.startswith(b'{"base64"')
    if plain and b"\n" not in data and b"\r" not in data and _is_text(data):
        return msgspec.Raw(data)
    return msgspec.Raw(_encode({"base64": base64.b64encode(data).decode()}))


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _content(blob: Blob) -> Any:
    if content_hash(blob.data) != blob.hash:
        # Cut content keeps the hash of the whole.
        return {"base64": base64.b64encode(blob.data).decode()}
    try:
        return blob.data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(blob.data).decode()}


# -- in --


def matches(sample: Sample) -> bool:
    """Whether the first line is our header (or, of an old export, a whole record)."""
    return "tocsin" in sample.keys


def read(source: Source) -> Records:
    """Every interaction as it was."""
    ends = _Ends()
    for record in source.records():
        if isinstance(record, BadRecord):
            yield record
            continue
        line, raw = record
        if line == 1 and b'"interaction"' not in raw[:4096]:
            version = _version(raw)
            if version != VERSION:
                yield source.bad(line, f"this export has version {version}; known: {VERSION}")
                return
            continue
        try:
            yield _entry(_decode_line(raw), ends)
        except (*_UNREADABLE, _Damaged, ValueError) as error:
            yield source.bad(line, f"is no record of an export: {error}")


def _version(raw: bytes) -> Any:
    try:
        return _decode_head(raw).get("tocsin")
    except _UNREADABLE:
        return None


class _Damaged(Exception):
    """What does not fit together, in words."""


def _entry(line: _Line, ends: _Ends) -> Entry:
    interaction = msgspec.convert(_unhexed(line.interaction), Interaction)
    history: tuple[Message, ...] = ()
    after = None if line.after is None else bytes.fromhex(line.after)
    if after is not None:
        before = ends.get(after)
        if before is None:
            raise _Damaged(f"the history {line.after} is in no line before it")
        history = before
    history += tuple([parse_message(_bytes(raw)) for raw in line.input])
    told = bytes(line.output)
    output = None if told in (b"", b"null") else parse_message(_bytes(line.output))
    whole = history if output is None else (*history, output)
    nodes = chain(whole)
    if nodes:
        ends.move(after, nodes[-1].hash, whole)
    if line.nodes is not None:
        nodes = tuple([Node(*(bytes.fromhex(part) for part in node)) for node in line.nodes])
    elif whole:
        _verify(interaction, nodes, len(history))
    blobs = tuple([Blob(bytes.fromhex(key), _blob(value)) for key, value in line.blobs.items()])
    return Entry(interaction=interaction, input=history, nodes=nodes, output=output, blobs=blobs)


def _verify(interaction: Interaction, nodes: tuple[Node, ...], count: int) -> None:
    """Content must be what the record says that it is."""
    asked = nodes[count - 1].hash if count else ROOT
    if interaction.input_node not in (None, asked):
        raise _Damaged("its messages are not those that the record names")
    if len(nodes) > count and interaction.output_node not in (None, nodes[-1].hash):
        raise _Damaged("its answer is not the one that the record names")


_HASHES = ("input_node", "output_node", "params", "request_body", "response_body")


def _unhexed(value: dict[str, Any]) -> dict[str, Any]:
    found = dict(value)
    for key in _HASHES:
        if isinstance(text := found.get(key), str):
            found[key] = bytes.fromhex(text)
    return found


def _bytes(raw: msgspec.Raw) -> bytes:
    data = bytes(raw)
    if data.startswith(b'{"base64"'):
        return _from_base64(msgspec.json.decode(data))
    return data


def _blob(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    return _from_base64(value)


def _from_base64(value: Any) -> bytes:
    try:
        return base64.b64decode(value["base64"], validate=True)
    except (KeyError, TypeError, binascii.Error) as error:
        raise _Damaged(f"its content is no base64: {error}") from None


FORMAT = Format(name="tocsin", title="Tocsin export", matches=matches, read=read)
