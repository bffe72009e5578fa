"""Files of records, read as they stream: compression, lines, JSON arrays, and where things stand.

Memory stays flat: at most one record and one chunk are held, whatever the file's size.
"""

import gzip
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, TypeGuard

import msgspec

from tocsin.core.errors import InputError
from tocsin.core.wire import exceeds_depth

Progress = Callable[[int, int], None]
"""Called with (bytes read, bytes of the file) while a file is read."""

Container = Literal["lines", "array", "object", "binary"]
"""One record a line; one JSON array of records; one JSON object; not text."""

MAX_RECORD = 256 * 1024 * 1024
"""Bytes of one record; a larger one is reported and skipped."""
MAX_DEPTH = 128
HEAD = 1024 * 1024
"""Bytes looked at to tell the format."""
_CHUNK = 256 * 1024
_BOM = b"\xef\xbb\xbf"
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},:]', re.DOTALL)
_TOO_LARGE = f"the record is larger than {MAX_RECORD // 1024 // 1024} MiB"
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_decode = msgspec.json.Decoder().decode


class BadRecord(msgspec.Struct, frozen=True):
    """A record that could not be read. ``line`` is 1 for the first; of binary files, the record."""

    path: str
    line: int
    reason: str


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The beginning of a file.

    ``keys`` are those of the first record, where it is an object; ``unbroken`` says that its
    first line is longer than the sample.
    """

    head: bytes
    container: Container
    keys: frozenset[str]
    unbroken: bool = False


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Source:
    """One file: what it begins with, and its records one by one."""

    def __init__(self, path: str | Path, progress: Progress | None = None) -> None:
        """Looks at the file's beginning. Raises ``InputError`` when it cannot be read."""
        self.path = str(path)
        self._progress = progress
        try:
            status = Path(path).stat()
            with _Opened(self.path) as (stream, _):
                head = stream.read(HEAD)
        except _READ_ERRORS as error:
            raise InputError(f"{self.path}: cannot be read: {_why(error)}") from None
        self._size = status.st_size
        self._clock = int(status.st_mtime * 1_000_000)
        self.sample = sample_of(head.removeprefix(_BOM))

    def tick(self) -> int:
        """A time for a record that has none: the file's own age, one millisecond on each time."""
        self._clock += 1000
        return self._clock

    def bad(self, line: int, reason: str) -> BadRecord:
        return BadRecord(self.path, line, reason)

    def records(self, arrays: tuple[str, ...] = ()) -> Iterator[tuple[int, bytes] | BadRecord]:
        """Each record's line and bytes. ``arrays`` names the fields of a wrapping object whose
        items are the records; without one, or without such a field, the object is the record."""
        with _Opened(self.path) as (stream, raw):
            counted = self._counted(stream, raw)
            try:
                sample = self.sample
                keys = sample.keys.intersection(arrays)
                if sample.container == "lines" and not (sample.unbroken and keys):
                    yield from self._lines(counted)
                else:
                    wrapped = sample.container != "array"
                    yield from _Items(self, counted, keys if wrapped else frozenset()).read()
            except _READ_ERRORS as error:
                yield self.bad(0, f"the rest of the file cannot be read: {_why(error)}")
        if self._progress is not None:
            self._progress(self._size, self._size)

    def objects(
        self, arrays: tuple[str, ...] = ()
    ) -> Iterator[tuple[int, dict[str, Any]] | BadRecord]:
        """The same, decoded: each record must be a JSON object."""
        for record in self.records(arrays):
            if isinstance(record, BadRecord):
                yield record
                continue
            line, raw = record
            if exceeds_depth(raw, MAX_DEPTH):
                yield self.bad(line, f"nests deeper than {MAX_DEPTH} levels")
                continue
            try:
                value = _decode(raw)
            except _UNREADABLE as error:
                yield self.bad(line, f"is not valid JSON: {error}")
                continue
            items = next((value[k] for k in arrays if k in value), None) if _is(value) else None
            for item in items if isinstance(items, list) else [value]:
                if _is(item):
                    yield line, item
                else:
                    yield self.bad(line, "is no JSON object")

    def chunks(self) -> Iterator[bytes]:
        """A binary file in pieces. Read errors end it with ``InputError``."""
        with _Opened(self.path) as (stream, raw):
            try:
                yield from self._counted(stream, raw)
            except _READ_ERRORS as error:
                raise InputError(f"{self.path}: cannot be read: {_why(error)}") from None
        if self._progress is not None:
            self._progress(self._size, self._size)

    def _counted(self, stream: _Readable, raw: BinaryIO) -> Iterator[bytes]:
        first = True
        while chunk := stream.read(_CHUNK):
            if first:
                chunk, first = chunk.removeprefix(_BOM), False
            if self._progress is not None:
                self._progress(min(raw.tell(), self._size), self._size)
            yield chunk

    def _lines(self, chunks: Iterator[bytes]) -> Iterator[tuple[int, bytes] | BadRecord]:
        line, rest, skipping = 1, b"", False
        for chunk in chunks:
            pieces = (rest + chunk).split(b"\n") if rest else chunk.split(b"\n")
            rest = pieces.pop()
            for piece in pieces:
                if skipping:
                    skipping = False
                elif piece.strip():
                    yield line, piece
                line += 1
            if len(rest) > MAX_RECORD:
                if not skipping:
                    yield self.bad(line, _TOO_LARGE)
                skipping, rest = True, b""
        if rest.strip() and not skipping:
            yield line, rest


class _Items:
    """Cuts JSON text into the items of its arrays without decoding it."""

    def __init__(self, source: Source, chunks: Iterator[bytes], keys: frozenset[str]) -> None:
        self._source = source
        self._chunks = chunks
        self._keys = frozenset(key.encode() for key in keys)
        self._buffer = bytearray()
        self._line = 1
        """The line of ``_marked``."""
        self._marked = 0
        self._depth = 0
        self._start = -1
        """Where the record begins that is being read, in the buffer."""
        self._level = -1
        """The nesting at which records are the items; -1 outside any array of records."""
        self._key = b""

    def read(self) -> Iterator[tuple[int, bytes] | BadRecord]:
        at = wait = 0
        for chunk in self._chunks:
            self._buffer += chunk
            if len(self._buffer) > MAX_RECORD + _CHUNK:
                yield self._source.bad(self._line, f"{_TOO_LARGE}; the rest is not read")
                return
            if len(self._buffer) < wait:
                continue
            at = yield from self._scan(at)
            at -= self._drop(at)
            # A string that goes on is read again from its quote: twice as much of it each time.
            wait = 2 * (len(self._buffer) - at) + at
        at = yield from self._scan(at)
        if self._depth or self._buffer[at:].strip():
            start = max(self._start, 0)
            rest = self._buffer[start:]
            line = self._line_at(start + len(rest) - len(rest.lstrip()))
            yield self._source.bad(line, "the file breaks off inside this record")

    def _scan(self, at: int) -> Generator[tuple[int, bytes], None, int]:
        """Yield what is whole; returns where the next scan begins."""
        for match in _TOKEN.finditer(self._buffer, at):
            token, begin = match[0], match.start()
            if token == b'"':
                return begin  # the string goes on in the next chunk
            at = match.end()
            if token in (b"[", b"{"):
                self._open(token, begin)
            elif token in (b"]", b"}"):
                item = self._close(begin, at)
                if item is not None:
                    yield self._record(*item)
            elif token == b"," and self._depth == self._level:
                start, self._start = self._start, at
                if self._buffer[start:begin].strip():
                    yield self._record(start, begin)
            elif self._depth == 1 and self._keys:
                self._named(bytes(token))
        return at

    def _named(self, token: bytes) -> None:
        """Remember the field whose value comes next, in a wrapping object."""
        if token == b",":
            self._key = b""
        elif token != b":":
            self._key = token[1:-1]

    def _open(self, token: bytes, begin: int) -> None:
        self._depth += 1
        if self._level >= 0 or self._start >= 0:
            return
        wrapped = self._depth == 2 and self._key in self._keys
        if token == b"[" and (self._depth == 1 or wrapped):
            self._level, self._start = self._depth, begin + 1
        elif self._depth == 1 and not self._keys:
            self._start = begin

    def _close(self, begin: int, end: int) -> tuple[int, int] | None:
        """The record that a closing bracket ends, if it ends one."""
        if not self._depth:
            return None
        self._depth -= 1
        if self._level == self._depth + 1:
            start, self._start, self._level = self._start, -1, -1
            return (start, begin) if self._buffer[start:begin].strip() else None
        if self._depth == 0 and self._level < 0 and self._start >= 0:
            start, self._start = self._start, -1
            return start, end
        return None

    def _record(self, start: int, end: int) -> tuple[int, bytes]:
        raw = bytes(self._buffer[start:end])
        lead = len(raw) - len(raw.lstrip())
        return self._line_at(start + lead), raw.strip()

    def _drop(self, at: int) -> int:
        """Forget what is read; returns by how much everything moved."""
        cut = at if self._start < 0 else min(at, self._start)
        self._line_at(max(cut, self._marked))
        self._marked -= cut
        del self._buffer[:cut]
        if self._start >= 0:
            self._start -= cut
        return cut

    def _line_at(self, position: int) -> int:
        self._line += self._buffer.count(b"\n", self._marked, position)
        self._marked = max(self._marked, position)
        return self._line


def _is(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


# -- opening --

_READ_ERRORS = (OSError, EOFError, zlib.error, ValueError)


class _Opened:
    """A file without its compression, and the file itself, to tell how far it was read."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> tuple[_Readable, BinaryIO]:
        raw = open(self._path, "rb")
        self._raw = raw
        magic = raw.peek(4)[:4]
        if magic.startswith(b"\x1f\x8b"):
            return gzip.GzipFile(fileobj=raw), raw
        if magic == b"\x28\xb5\x2f\xfd":
            return _Zstd(raw), raw
        return raw, raw

    def __exit__(self, *exc: object) -> None:
        self._raw.close()


class _Zstd:
    """zstandard's reader, with its own error turned into the one that files raise."""

    def __init__(self, raw: BinaryIO) -> None:
        # Imported here because few files are compressed this way.
        import zstandard

        self._error = zstandard.ZstdError
        self._reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)

    def read(self, size: int, /) -> bytes:
        try:
            return self._reader.read(size)
        except self._error as error:
            raise OSError(str(error)) from None


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


# -- looking --


def sample_of(head: bytes) -> Sample:
    """What the beginning of a file shows of its shape."""
    text = head.lstrip()
    if text[:1] == b"[":
        return Sample(head=head, container="array", keys=_first_keys(text, 2))
    if text[:1] != b"{":
        return Sample(head=head, container="binary", keys=frozenset())
    line, newline, _ = text.partition(b"\n")
    if not newline and len(head) >= HEAD:
        keys = _first_keys(text, 1)
        return Sample(head=head, container="lines", keys=keys, unbroken=True)
    try:
        value = _decode(line)
    except _UNREADABLE:
        return Sample(head=head, container="object", keys=_first_keys(text, 1))
    return Sample(head=head, container="lines", keys=frozenset(value))


def _first_keys(text: bytes, level: int) -> frozenset[str]:
    """The keys of the first object that opens at a nesting of ``level``, as far as they show."""
    keys: set[str] = set()
    depth, last = 0, b""
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token in (b"{", b"["):
            depth += 1
            if depth == level and token == b"[":
                break
        elif token in (b"}", b"]"):
            depth -= 1
            if depth < level:
                break
        elif token == b":" and depth == level:
            keys.add(last[1:-1].decode(errors="replace"))
        last = token
    return frozenset(keys)
