"""Writing calls to a file of JSON lines, compressed as its name says."""

import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tocsin.core.interaction import Entry
from tocsin.importers.native import export_jsonl
from tocsin.store.api import Filter, Store

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
_PAGE = 200
_GZIP_LEVEL = 6
_ZSTD_LEVEL = 9


def write_lines(
    store: Store, where: Filter, path: Path, kind: str, done: Callable[[int], None]
) -> int:
    """Write matching calls, the oldest first, to ``path`` as ``kind`` says; returns how many."""
    count = 0

    def entries() -> Iterator[Entry]:
        nonlocal count
        for interaction_id in _oldest_first(store, where):
            entry = store.entry(interaction_id)
            if entry is not None:  # retention may have been faster
                count += 1
                done(count)
                yield entry

    with _opened(path, kind) as out:
        for line in export_jsonl(entries()):
            out.write(line)
    return count


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
    with path.open("wb") as file:
        if kind.endswith(".gz"):
            with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=_GZIP_LEVEL) as packed:
                yield packed  # type: ignore[misc]  # writes bytes as any file does
        elif kind.endswith(".zst"):
            import zstandard  # only for this ending

            with zstandard.ZstdCompressor(level=_ZSTD_LEVEL).stream_writer(file) as packed_zst:
                yield packed_zst
        else:
            yield file
