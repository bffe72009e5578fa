"""Bytes as a row keeps them: one byte that names the codec, then the bytes themselves."""

from typing import Any

from tocsin.core.errors import StoreError
from tocsin.store import packs

_WORTH_BYTES = 160
_RAW = bytes([packs.RAW])
_CODECS = (packs.RAW, packs.ZSTD)


def stored(data: bytes, worth: int = _WORTH_BYTES) -> bytes:
    """The bytes for a row; those with less than ``worth`` bytes are not compressed."""
    if len(data) < worth:
        return _RAW + data
    codec, packed = packs.pack(data)
    return bytes([codec]) + packed


def is_plain(data: bytes) -> bool:
    """Whether what ``stored`` gave is not compressed, and might better be."""
    return data[:1] == _RAW and len(data) > _WORTH_BYTES


def loaded(data: Any) -> bytes:
    """What was given to ``stored``. Raises ``StoreError`` when it is damaged."""
    held = bytes(data)
    if not held or held[0] not in _CODECS:
        raise StoreError("Stored bytes are damaged; run `tocsin verify` to see what is lost.")
    return packs.unpack(held[0], held[1:])


def clean(text: str) -> str:
    """The text without lone surrogates, which no database can hold."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
