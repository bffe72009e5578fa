"""What analytics needs of an interaction: one flat row, read from the stored record."""

from typing import Any

import msgspec

from tocsin.core.errors import StoreError
from tocsin.core.interaction import SPAN_OPERATIONS
from tocsin.store.database import Session
from tocsin.store.packs import read_items
from tocsin.store.parquet import Kind

COLUMNS: tuple[tuple[str, Kind], ...] = (
    ("seq", "int"),
    ("run", "int"),
    ("started_at", "int"),
    ("duration_us", "int"),
    ("first_chunk_us", "int"),
    ("is_call", "flag"),
    ("feature", "text"),
    ("model", "text"),
    ("release", "text"),
    ("end_user", "text"),
    ("key_id", "text"),
    ("upstream", "text"),
    ("outcome", "text"),
    ("source", "text"),
    ("conversation_id", "text"),
    ("input_tokens", "int"),
    ("output_tokens", "int"),
    ("cache_read_tokens", "int"),
    ("reasoning_tokens", "int"),
    ("cost_nano_usd", "int"),
    ("estimated", "flag"),
    ("fallback", "flag"),
    ("retries", "int"),
)
"""The columns of a segment, in order."""


class _Usage(msgspec.Struct, frozen=True):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    reasoning_tokens: int | None = None
    source: str = "unknown"


class _Attempt(msgspec.Struct, frozen=True):
    upstream: str
    error: str | None = None
    reason: str = "first"


class _Facts(msgspec.Struct, frozen=True):
    """The part of a record that is read here; the rest is skipped while decoding."""

    source: str
    operation: str
    started_at: int
    duration_us: int
    outcome: str
    feature: str
    request_model: str
    key_id: str | None = None
    end_user: str | None = None
    release: str | None = None
    conversation_id: str | None = None
    response_model: str | None = None
    upstream: str | None = None
    usage: _Usage = _Usage()
    cost_nano_usd: int | None = None
    first_chunk_us: int | None = None
    attempts: tuple[_Attempt, ...] = ()


_decode = msgspec.msgpack.Decoder(_Facts).decode


def _row(seq: int, run: int, record: bytes) -> tuple[Any, ...]:
    try:
        one = _decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(
            f"The record with number {seq} is damaged ({error}); run `tocsin verify`."
        ) from error
    usage = one.usage
    tried = one.attempts
    return (
        seq,
        run,
        one.started_at,
        one.duration_us,
        one.first_chunk_us,
        one.operation not in SPAN_OPERATIONS,
        one.feature,
        one.response_model or one.request_model,
        one.release,
        one.end_user,
        one.key_id,
        one.upstream,
        one.outcome,
        one.source,
        one.conversation_id,
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.reasoning_tokens,
        one.cost_nano_usd,
        usage.source == "estimated",
        len(tried) > 1 and tried[-1].error is None and tried[-1].upstream != tried[0].upstream,
        sum(1 for attempt in tried if attempt.reason == "retry") if len(tried) > 1 else 0,
    )


def rows_between(session: Session, after: int, last: int, most: int) -> list[tuple[Any, ...]]:
    """Up to ``most`` rows with ``after < seq <= last``, in order."""
    places = session.all("places_after", (after, last, most))
    items = read_items(session, [(r[2], r[3], r[4]) for r in places])
    return [
        _row(r[0], r[1], items[(r[2], r[3], r[4])]) for r in places if (r[2], r[3], r[4]) in items
    ]
