"""Writing Parquet files: as much of the format as columns of whole numbers, words and flags need.

Any Parquet reader reads them. Written here because the library that reads them adds some 60 MB to
a process, and folding goes on inside the gateway. Pages are zstd; words are dictionary-encoded,
numbers are differences, and bounds let readers skip row groups.

Source of the layout: the Apache Parquet format specification, version 2.
"""

import itertools
import struct
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import zstandard

Kind = Literal["int", "text", "flag"]

MAGIC = b"PAR1"
PAGE_ROWS = 16_384
GROUP_PAGES = 4

_BOOLEAN, _INT64, _BYTE_ARRAY = 0, 2, 6
_PLAIN, _RLE, _DELTA, _RLE_DICTIONARY = 0, 3, 5, 8
_UTF8 = 0
_OPTIONAL = 1
_ZSTD = 6
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2
_TYPES: dict[Kind, int] = {"int": _INT64, "text": _BYTE_ARRAY, "flag": _BOOLEAN}
# Bit widths that are whole machine words: a little larger before zstd, and quick to write here.
_WIDTHS: tuple[tuple[int, Literal["B", "H", "I", "Q"]], ...] = (
    (8, "B"),
    (16, "H"),
    (32, "I"),
    (64, "Q"),
)
_BLOCK, _MINIBLOCKS = 512, 4
_MINIBLOCK = _BLOCK // _MINIBLOCKS
_DELTA_RANGE = 1 << 62
_LONGEST_BOUND = 64
# The one column order that the format knows, a union with an empty structure in it: without it
# readers may not trust bounds of text.
_TYPE_ORDER = b"\x1c\x00\x00"


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
    thrift.varint(value << 1 if value >= 0 else (-value << 1) - 1)
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


def _deltas(values: list[int]) -> bytes:
    """Numbers as differences: timestamps and counters become a byte or two each.

    Readers unpack this several times faster than plain numbers under zstd.
    """
    header = _Thrift()
    for value in (_BLOCK, _MINIBLOCKS, len(values)):
        header.varint(value)
    out = header.out
    out += _zigzag(values[0])
    steps = [b - a for a, b in itertools.pairwise(values)]
    for at in range(0, len(steps), _BLOCK):
        block = steps[at : at + _BLOCK]
        least = min(block)
        out += _zigzag(least)
        widths = bytearray(_MINIBLOCKS)
        data = bytearray()
        for number in range(0, len(block), _MINIBLOCK):
            part = [step - least for step in block[number : number + _MINIBLOCK]]
            most = max(part)
            if most:
                width, code = next((w, c) for w, c in _WIDTHS if most >> w == 0)
                widths[number // _MINIBLOCK] = width
                part += [0] * (_MINIBLOCK - len(part))
                data += array(code, part).tobytes()
        out += widths + data
    return bytes(out)


class _Column:
    """One column of the row group under way: its pages so far, and what the footer says of them."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._pages = bytearray()
        self._words: dict[str, int] = {}
        self._encodings = {_PLAIN, _RLE}
        self._raw_size = 0
        self._count = self._nulls = 0
        self._low: Any = None
        self._high: Any = None

    def add(self, values: Sequence[Any]) -> None:
        """One more data page."""
        kept = [value for value in values if value is not None]
        data, encoding = self._encoded(kept)
        header = _Thrift()
        header.i32(1, len(values))
        header.i32(2, encoding)
        header.i32(3, _RLE)
        header.i32(4, _RLE)
        self._pages += self._page(_DATA_PAGE, _levels(values, len(kept)) + data, 5, header)
        self._encodings.add(encoding)
        self._count += len(values)
        self._nulls += len(values) - len(kept)
        if kept:
            low, high = min(kept), max(kept)
            self._low = low if self._low is None else min(low, self._low)
            self._high = high if self._high is None else max(high, self._high)

    def _encoded(self, kept: list[Any]) -> tuple[bytes, int]:
        if self._kind == "flag":
            return _bits(kept, len(kept)), _PLAIN
        if self._kind == "text":
            return self._indices(kept), _RLE_DICTIONARY
        if kept and max(kept) - min(kept) < _DELTA_RANGE:
            return _deltas(kept), _DELTA
        return array("q", kept).tobytes(), _PLAIN

    def _indices(self, kept: list[str]) -> bytes:
        """Words as places in the row group's dictionary, which grows from page to page."""
        words = self._words
        for word in dict.fromkeys(kept):
            words.setdefault(word, len(words))
        width, code = next((w, c) for w, c in _WIDTHS if len(words) <= 1 << w)
        groups = (len(kept) + 7) // 8
        indices = array(code, [words[word] for word in kept])
        indices.extend([0] * (groups * 8 - len(kept)))
        return bytes([width]) + (_packed(indices.tobytes(), groups) if groups else b"")

    def _page(self, kind: int, data: bytes, number: int, inner: _Thrift) -> bytes:
        packed = zstandard.compress(data, 3)
        header = _Thrift()
        header.i32(1, kind)
        header.i32(2, len(data))
        header.i32(3, len(packed))
        header.struct(number, inner)
        head = header.closed()
        self._raw_size += len(head) + len(data)
        return head + packed

    def _dictionary(self) -> bytes:
        words = [word.encode("utf-8", "replace") for word in self._words]
        header = _Thrift()
        header.i32(1, len(words))
        header.i32(2, _PLAIN)
        plain = b"".join([struct.pack("<I", len(word)) + word for word in words])
        return self._page(_DICTIONARY_PAGE, plain, 7, header)

    def _statistics(self) -> _Thrift:
        statistics = _Thrift()
        statistics.i64(3, self._nulls)
        if self._low is None:
            return statistics
        if self._kind == "int":
            bounds = struct.pack("<q", self._low), struct.pack("<q", self._high)
        elif self._kind == "flag":
            bounds = bytes([self._low]), bytes([self._high])
        else:
            # Text is ordered by its bytes; that of code points is the same order.
            bounds = self._low.encode("utf-8", "replace"), self._high.encode("utf-8", "replace")
        if max(map(len, bounds)) <= _LONGEST_BOUND:
            statistics.binary(5, bounds[1])
            statistics.binary(6, bounds[0])
        return statistics

    def closed(self, name: str, offset: int) -> tuple[bytes, bytes, int]:
        """All pages, the footer's entry for them, and their size unpacked.

        ``offset`` is where in the file the pages will lie.
        """
        dictionary = self._dictionary() if self._kind == "text" else b""
        meta = _Thrift()
        meta.i32(1, _TYPES[self._kind])
        meta.list(2, 5, [_zigzag(encoding) for encoding in sorted(self._encodings)])
        meta.list(3, 8, [_sized(name.encode())])
        meta.i32(4, _ZSTD)
        meta.i64(5, self._count)
        meta.i64(6, self._raw_size)
        meta.i64(7, len(dictionary) + len(self._pages))
        meta.i64(9, offset + len(dictionary))
        if dictionary:
            meta.i64(11, offset)
        meta.struct(12, self._statistics())
        chunk = _Thrift()
        chunk.i64(2, offset)
        chunk.struct(3, meta)
        return dictionary + self._pages, chunk.closed(), self._raw_size


class ParquetWriter:
    """Writes rows into one file; every column may be null. Holds one page's rows and one packed
    row group in memory.

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
        self._open: list[_Column] = []
        self._open_rows = 0
        self._groups: list[bytes] = []

    def add(self, rows: Iterable[Sequence[Any]]) -> None:
        """Rows with one value for each column."""
        self._waiting += rows
        while len(self._waiting) >= PAGE_ROWS:
            self._add_page(self._waiting[:PAGE_ROWS])
            del self._waiting[:PAGE_ROWS]
            if self._open_rows >= PAGE_ROWS * GROUP_PAGES:
                self._close_group()

    def _add_page(self, rows: list[Sequence[Any]]) -> None:
        if not self._open:
            self._open = [_Column(kind) for _, kind in self._columns]
        for column, values in zip(self._open, zip(*rows, strict=True), strict=True):
            column.add(values)
        self._open_rows += len(rows)

    def _close_group(self) -> None:
        chunks: list[bytes] = []
        total = 0
        for (name, _), column in zip(self._columns, self._open, strict=True):
            pages, entry, raw_size = column.closed(name, self._at)
            self._file.write(pages)
            self._at += len(pages)
            chunks.append(entry)
            total += raw_size
        group = _Thrift()
        group.list(1, 12, chunks)
        group.i64(2, total)
        group.i64(3, self._open_rows)
        self._groups.append(group.closed())
        self.rows += self._open_rows
        self._open, self._open_rows = [], 0

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
            self._add_page(self._waiting)
            self._waiting = []
        if self._open:
            self._close_group()
        footer = _Thrift()
        footer.i32(1, 2)
        footer.list(2, 12, self._schema())
        footer.i64(3, self.rows)
        footer.list(4, 12, self._groups)
        footer.binary(6, b"tocsin")
        footer.list(7, 12, [_TYPE_ORDER] * len(self._columns))
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
            return
        try:
            self.close()
        except BaseException:
            self.discard()
            raise
