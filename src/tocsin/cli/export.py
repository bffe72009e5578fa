"""Tocsin's own export: one JSON object a line, oldest call first, each with all its content.

A line is ``{"tocsin": 1, "interaction": {...}, "input": [...], "output": {...}, "blobs": {...}}``:
the record (hashes in hex), the whole history as it was sent, the answer, and other content by hash.
Content that is no UTF-8 text stands under ``{"base64": "..."}``. ``tocsin replay`` reads it back.
"""

import base64
import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

from tocsin.cli.output import plain
from tocsin.core.interaction import Entry
from tocsin.store.api import Filter, Store

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
VERSION = 1
_PAGE = 200

_encode = msgspec.json.Encoder().encode


def write_lines(
    store: Store, where: Filter, path: Path, kind: str, done: Callable[[int], None]
) -> int:
    """Write matching calls to ``path`` as ``kind`` says; returns how many."""
    count = 0
    with _opened(path, kind) as out:
        for interaction_id in _oldest_first(store, where):
            entry = store.entry(interaction_id)
            if entry is not None:
                out.write(line(entry))
                count += 1
                done(count)
    return count


def line(entry: Entry) -> bytes:
    """One call as a line, line end included."""
    return (
        _encode(
            {
                "tocsin": VERSION,
                "interaction": plain(entry.interaction),
                "input": [_message(message.raw) for message in entry.input],
                "output": None if entry.output is None else _message(entry.output.raw),
                "blobs": {blob.hash.hex(): _text(blob.data) for blob in entry.blobs},
            }
        )
        + b"\n"
    )


def _message(raw: bytes) -> Any:
    """A message as it came; only line ends between its tokens go, which say nothing."""
    return msgspec.json.decode(raw) if b"\n" in raw else msgspec.Raw(raw)


def _text(data: bytes) -> Any:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _oldest_first(store: Store, where: Filter) -> Iterator[str]:
    """Ids of matching calls. The store lists the newest first; ids are small enough to turn."""
    found: list[str] = []
    cursor = None
    while True:
        page = store.interactions(where, limit=_PAGE, cursor=cursor)
        found += [call.id for call in page.rows]
        cursor = page.next
        if cursor is None or not page.rows:
            return iter(reversed(found))


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[IO[bytes]]:
    if kind.endswith(".gz"):
        with gzip.open(path, "wb", compresslevel=6) as packed:
            yield packed  # type: ignore[misc]  # a GzipFile writes bytes as any file does
    elif kind.endswith(".zst"):
        import zstandard  # only for this ending

        # A long window: histories repeat, and the repeats lie far apart.
        settings = zstandard.ZstdCompressionParameters.from_level(9, window_log=26, enable_ldm=True)
        with (
            path.open("wb") as file,
            zstandard.ZstdCompressor(compression_params=settings).stream_writer(file) as packed_zst,
        ):
            yield packed_zst
    else:
        with path.open("wb") as file:
            yield file
