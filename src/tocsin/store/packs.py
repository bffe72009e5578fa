"""Packs: many small things compressed together, because small things do not compress alone.

A pack is the concatenation of records or of contents, one zstd frame with a checksum. An item is
found by pack, offset and size. What is deleted is overwritten by zeros in place, so the offsets of
its neighbours stay what they are; a pack without live items goes.
"""

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import zstandard

from tocsin.core.errors import StoreError
from tocsin.store.database import Session

RAW, ZSTD = 0, 1
RECORD_BYTES = 32 * 1024
CONTENT_BYTES = 64 * 1024
_LEVEL = 3
_PACKS_AT_ONCE = 64

Place = tuple[int, int, int]
"""Pack, offset and size of one item."""


class _Zstd(threading.local):
    """Contexts are reused, but never by two threads."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(
            level=_LEVEL, write_checksum=True, write_content_size=True
        ).compress
        self.decompress = zstandard.ZstdDecompressor().decompress


_zstd = _Zstd()


def pack(data: bytes) -> tuple[int, bytes]:
    """Codec and stored form of a pack; raw where compression does not pay."""
    packed: bytes = _zstd.compress(data)
    return (ZSTD, packed) if len(packed) < len(data) else (RAW, data)


def unpack(codec: int, data: bytes) -> bytes:
    """A pack as it was. Raises ``StoreError`` when it is damaged."""
    if codec == RAW:
        return data
    try:
        raw: bytes = _zstd.decompress(data)
    except zstandard.ZstdError as error:
        raise StoreError(
            f"A compressed pack is damaged ({error}); run `tocsin verify` to see what is lost."
        ) from error
    return raw


class Packer:
    """Collects items into packs; ``rows`` are then those of the ``packs`` table."""

    def __init__(self, first_id: int, limit: int) -> None:
        self.next_id = first_id
        self.rows: list[Any] = []
        self._limit = limit
        self._items: list[bytes] = []
        self._size = 0

    def add(self, item: bytes) -> Place:
        """Where the item will lie."""
        size = len(item)
        if self._items and self._size + size > self._limit:
            self.flush()
        place = (self.next_id, self._size, size)
        self._items.append(item)
        self._size += size
        return place

    def flush(self) -> int:
        """Close the pack under way; returns the next pack's id."""
        if self._items:
            codec, data = pack(b"".join(self._items))
            self.rows += (self.next_id, codec, len(self._items), data)
            self.next_id += 1
            self._items, self._size = [], 0
        return self.next_id


def read_items(
    session: Session, places: Sequence[Place], *, containing: bytes = b""
) -> dict[Place, bytes]:
    """Items by place; what is gone is missing from the answer.

    Packs without the bytes ``containing`` are left out, whatever lies in them.
    """
    found: dict[Place, bytes] = {}
    wanted: dict[int, list[Place]] = {}
    for place in places:
        wanted.setdefault(place[0], []).append(place)
    for rows in _packs(session, list(wanted)):
        for number, codec, data in rows:
            raw = unpack(codec, data)
            if containing not in raw:
                continue
            for place in wanted[number]:
                found[place] = raw[place[1] : place[1] + place[2]]
    return found


def _packs(session: Session, numbers: list[int]) -> Iterable[list[tuple[Any, ...]]]:
    for at in range(0, len(numbers), _PACKS_AT_ONCE):
        yield session.listed("packs", numbers[at : at + _PACKS_AT_ONCE])


def blanked(raw: bytes, places: Iterable[Place]) -> bytes:
    """A pack's content with some items overwritten by zeros."""
    data = bytearray(raw)
    for _, at, size in places:
        data[at : at + size] = bytes(size)
    return bytes(data)
