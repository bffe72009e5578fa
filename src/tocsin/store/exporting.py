"""Export of interactions, without message content, to one Parquet file."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tocsin.core.errors import InputError
from tocsin.core.interaction import Interaction
from tocsin.store import reading
from tocsin.store.database import Database
from tocsin.store.parquet import Kind, ParquetWriter

_SLICE = 2000
_FIELDS: tuple[tuple[str, Kind], ...] = (
    ("id", "text"),
    ("run_id", "text"),
    ("run_source", "text"),
    ("conversation_id", "text"),
    ("parent_id", "text"),
    ("source", "text"),
    ("dialect", "text"),
    ("operation", "text"),
    ("path", "text"),
    ("started_at", "int"),
    ("duration_us", "int"),
    ("first_chunk_us", "int"),
    ("outcome", "text"),
    ("status", "int"),
    ("finish_reason", "text"),
    ("error_type", "text"),
    ("error_message", "text"),
    ("feature", "text"),
    ("release", "text"),
    ("agent", "text"),
    ("key_id", "text"),
    ("end_user", "text"),
    ("request_model", "text"),
    ("response_model", "text"),
    ("response_id", "text"),
    ("provider", "text"),
    ("upstream", "text"),
    ("stream", "flag"),
    ("cost_nano_usd", "int"),
    ("cost_source", "text"),
    ("input_messages", "int"),
    ("new_messages", "int"),
    ("tool_calls", "int"),
    ("tool_results", "int"),
    ("input_bytes", "int"),
    ("output_bytes", "int"),
)
_USAGE: tuple[tuple[str, Kind], ...] = (
    ("input_tokens", "int"),
    ("output_tokens", "int"),
    ("cache_read_tokens", "int"),
    ("cache_write_tokens", "int"),
    ("reasoning_tokens", "int"),
    ("source", "text"),
)
COLUMNS: tuple[tuple[str, Kind], ...] = (
    *_FIELDS,
    *((name if name != "source" else "usage_source", kind) for name, kind in _USAGE),
    ("attempts", "int"),
)


def _row(one: Interaction) -> list[Any]:
    row = [getattr(one, name) for name, _ in _FIELDS]
    row += [getattr(one.usage, name) for name, _ in _USAGE]
    row.append(len(one.attempts))
    return row


def _in_slices(database: Database, seqs: Iterable[int]) -> Iterator[list[Interaction]]:
    waiting: list[int] = []
    for seq in seqs:
        waiting.append(seq)
        if len(waiting) == _SLICE:
            yield _read(database, waiting)
            waiting = []
    if waiting:
        yield _read(database, waiting)


def _read(database: Database, seqs: list[int]) -> list[Interaction]:
    with database.read() as session:
        rows = sorted(session.listed("places_of", seqs), key=lambda row: row[1])
        return reading.interactions_at(session, [(r[2], r[3], r[4]) for r in rows])


def write(database: Database, path: str, seqs: Iterable[int]) -> int:
    """Write these interactions to ``path``; returns how many there were.

    Raises ``InputError`` when the file cannot be written.
    """
    try:
        with ParquetWriter(Path(path), COLUMNS) as writer:
            for interactions in _in_slices(database, seqs):
                writer.add([_row(one) for one in interactions])
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error}.") from error
    return writer.rows
