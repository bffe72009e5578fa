"""Writing Parquet files: as much of the format as columns of whole numbers, words and flags need.

Any Parquet reader reads them. Written here because the library that reads them adds some 60 MB to
a process, and folding goes on inside the gateway. One zstd page a column and row group; words are
dictionary-encoded, numbers plain with minimum and maximum, so that readers can skip row groups.

Source of the layout: the Apache Parquet format specification, version 2.
"""

import struct
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import zstandard

Kind = Literal["int", "text", "flag"]

MAGIC = b"PAR1"
ROW_GROUP = 16_384

_BOOLEAN, _INT64, _BYTE_ARRAY = 0, 2, 6
_PLAIN, _RLE, _RLE_DICTIONARY = 0, 3, 8
_UTF8 = 0
_OPTIONAL = 1
_ZSTD = 6
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2
_TYPES: dict[Kind, int] = {"int": _INT64, "text": _BYTE_ARRAY, "flag": _BOOLEAN}
_WIDTHS: tuple[tuple[int, Literal["B", "H", "I"]], ...] = ((8, "B"), (16, "H"), (32, "I"))


class _Thrift:
    """The compact protocol: just enough to write the format's headers."""

    def __init__(self) -> None:
        self.out = bytearray()
        self._last = 0

    def varint(self, value: int) -> None:
        while value > 0x7F:
            self.out.append(value & 0x7F | 0x80)
            value >>= 7
        self.out.append(value)

    def _field(self, number: int, kind: int) -> None:
        self.out.append((number - self._last) << 4 | kind)
        self._last = number

    def i32(self, number: int, value: int) -> None:
        self._field(number, 5)
        self.varint(value << 1 if value >= 0 else (-value << 1) - 1)

    def i64(self, number: int, value: int) -> None:
        self._field(number, 6)
        self.varint(value << 1 if value >= 0 else (-value << 1) - 1)

    def binary(self, number: int, value: bytes) -> None:
        self._field(number, 8)
        self.varint(len(value))
        self.out += value

    def struct(self, number: int, inner: "_Thrift") -> None:
        self._field(number, 12)
        self.out += inner.closed()

    def list(self, number: int, kind: int, items: Sequence[bytes]) -> None:
        self._field(number, 9)
        if len(items) < 15:
            self.out.append(len(items) << 4 | kind)
        else:
            self.out.append(0xF0 | kind)
            self.varint(len(items))
        for item in items:
            self.out += item

    def closed(self) -> bytes:
        return bytes(self.out) + b"\0"


def _zigzag(value: int) -> bytes:
    thrift = _Thrift()
    thrift.varint(value << 1)
    return bytes(thrift.out)


def _sized(value: bytes) -> bytes:
    thrift = _Thrift()
    thrift.varint(len(value))
    return bytes(thrift.out) + value


def _bits(flags: Iterable[bool], count: int) -> bytes:
    """Flags as bits, lowest first, padded to whole bytes."""
    text = "".join(["1" if flag else "0" for flag in flags])
    return int(text[::-1] or "0", 2).to_bytes((count + 7) // 8, "little")


def _run(value: int, count: int) -> bytes:
    """One repeated-value run of the RLE hybrid, for values of up to eight bits."""
    thrift = _Thrift()
    thrift.varint(count << 1)
    return bytes(thrift.out) + bytes([value])


def _packed(data: bytes, groups: int) -> bytes:
    """One bit-packed run of the RLE hybrid: groups of eight values."""
    thrift = _Thrift()
    thrift.varint(groups << 1 | 1)
    return bytes(thrift.out) + data


def _levels(values: Sequence[Any], present: int) -> bytes:
    """Definition levels of a page: which values are there."""
    count = len(values)
    if present == count or present == 0:
        encoded = _run(int(present > 0), count)
    else:
        groups = (count + 7) // 8
        encoded = _packed(_bits([v is not None for v in values], groups * 8), groups)
    return struct.pack("<I", len(encoded)) + encoded


class _Chunk:
    """One column of one row group: its pages, and what the footer says of them."""

    def __init__(self, kind: Kind, values: Sequence[Any]) -> None:
        self.pages = bytearray()
        self.raw_size = 0
        self.dictionary_size = 0
        self.statistics = _Thrift()
        kept = [value for value in values if value is not None]
        levels = _levels(values, len(kept))
        encoding = _PLAIN
        if kind == "int":
            data = array("q", kept).tobytes()
        elif kind == "flag":
            data = _bits(kept, len(kept))
        else:
            data, encoding = self._words(kept), _RLE_DICTIONARY
        self.encodings = [_PLAIN, _RLE, encoding] if encoding else [_PLAIN, _RLE]
        header = _Thrift()
        header.i32(1, len(values))
        header.i32(2, encoding)
        header.i32(3, _RLE)
        header.i32(4, _RLE)
        self._page(_DATA_PAGE, levels + data, 5, header)
        self.statistics.i64(3, len(values) - len(kept))
        if kind == "int" and kept:
            self.statistics.binary(5, struct.pack("<q", max(kept)))
            self.statistics.binary(6, struct.pack("<q", min(kept)))

    def _words(self, kept: list[str]) -> bytes:
        """Write the dictionary page; returns the words as indices into it."""
        numbers = {word: at for at, word in enumerate(dict.fromkeys(kept))}
        words = [word.encode("utf-8", "replace") for word in numbers]
        plain = b"".join([struct.pack("<I", len(word)) + word for word in words])
        header = _Thrift()
        header.i32(1, len(words))
        header.i32(2, _PLAIN)
        self._page(_DICTIONARY_PAGE, plain, 7, header)
        self.dictionary_size = len(self.pages)
        width, code = next((w, c) for w, c in _WIDTHS if len(words) <= 1 << w)
        groups = (len(kept) + 7) // 8
        indices = array(code, [numbers[word] for word in kept])
        indices.extend([0] * (groups * 8 - len(kept)))
        return bytes([width]) + (_packed(indices.tobytes(), groups) if groups else b"")

    def _page(self, kind: int, data: bytes, number: int, inner: _Thrift) -> None:
        packed = zstandard.compress(data, 3)
        header = _Thrift()
        header.i32(1, kind)
        header.i32(2, len(data))
        header.i32(3, len(packed))
        header.struct(number, inner)
        head = header.closed()
        self.pages += head + packed
        self.raw_size += len(head) + len(data)

    def footer(self, name: str, kind: Kind, count: int, offset: int) -> bytes:
        """The chunk's entry in the file's footer; ``offset`` is where its first page lies."""
        meta = _Thrift()
        meta.i32(1, _TYPES[kind])
        meta.list(2, 5, [_zigzag(encoding) for encoding in self.encodings])
        meta.list(3, 8, [_sized(name.encode())])
        meta.i32(4, _ZSTD)
        meta.i64(5, count)
        meta.i64(6, self.raw_size)
        meta.i64(7, len(self.pages))
        meta.i64(9, offset + self.dictionary_size)
        if self.dictionary_size:
            meta.i64(11, offset)
        meta.struct(12, self.statistics)
        chunk = _Thrift()
        chunk.i64(2, offset)
        chunk.struct(3, meta)
        return chunk.closed()


class ParquetWriter:
    """Writes rows into one file, a row group at a time; every column may be null.

    The file appears under its name only when ``close`` has succeeded.
    """

    def __init__(self, path: Path, columns: Sequence[tuple[str, Kind]]) -> None:
        self.path = path
        self.rows = 0
        self._columns = columns
        self._partial = path.with_name(f".{path.name}.part")
        self._file = self._partial.open("wb")
        self._file.write(MAGIC)
        self._at = len(MAGIC)
        self._waiting: list[Sequence[Any]] = []
        self._groups: list[bytes] = []

    def add(self, rows: Iterable[Sequence[Any]]) -> None:
        """Rows with one value for each column."""
        self._waiting += rows
        while len(self._waiting) >= ROW_GROUP:
            self._write_group(self._waiting[:ROW_GROUP])
            del self._waiting[:ROW_GROUP]

    def _write_group(self, rows: list[Sequence[Any]]) -> None:
        chunks: list[bytes] = []
        raw_size = 0
        for (name, kind), values in zip(self._columns, zip(*rows, strict=True), strict=True):
            chunk = _Chunk(kind, values)
            chunks.append(chunk.footer(name, kind, len(rows), self._at))
            self._file.write(chunk.pages)
            self._at += len(chunk.pages)
            raw_size += chunk.raw_size
        group = _Thrift()
        group.list(1, 12, chunks)
        group.i64(2, raw_size)
        group.i64(3, len(rows))
        self._groups.append(group.closed())
        self.rows += len(rows)

    def _schema(self) -> list[bytes]:
        root = _Thrift()
        root.binary(4, b"tocsin")
        root.i32(5, len(self._columns))
        elements = [root.closed()]
        for name, kind in self._columns:
            element = _Thrift()
            element.i32(1, _TYPES[kind])
            element.i32(3, _OPTIONAL)
            element.binary(4, name.encode())
            if kind == "text":
                element.i32(6, _UTF8)
            elements.append(element.closed())
        return elements

    def close(self) -> int:
        """Write the footer and put the file in its place; returns how many rows it has."""
        if self._waiting:
            self._write_group(self._waiting)
            self._waiting = []
        footer = _Thrift()
        footer.i32(1, 2)
        footer.list(2, 12, self._schema())
        footer.i64(3, self.rows)
        footer.list(4, 12, self._groups)
        footer.binary(6, b"tocsin")
        data = footer.closed()
        self._file.write(data + struct.pack("<I", len(data)) + MAGIC)
        self._file.close()
        self._partial.replace(self.path)
        return self.rows

    def discard(self) -> None:
        """Leave nothing behind."""
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> "ParquetWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
        else:
            self.close()
