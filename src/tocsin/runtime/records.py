"""What the journal holds of a call, and how an entry is made from it again.

``Opened`` is written when a call opens, ``Closed`` when it ends; together they rebuild the same
``Entry`` that the writer would have stored. An ``Opened`` alone becomes an interaction whose
outcome is ``unknown``: the process died, and nobody can say what the upstream did.
"""

from collections.abc import Callable, Iterable, Iterator

import msgspec

from tocsin.core.call import Call
from tocsin.core.errors import BadRequest
from tocsin.core.ids import derived_id, is_safe_id
from tocsin.core.interaction import Blob, Dialect, Entry, Interaction, Operation, Source
from tocsin.core.messages import (
    ROOT,
    Hash,
    Message,
    Node,
    chain,
    content_hash,
    link,
    parse_message,
)
from tocsin.core.wire import parse_request
from tocsin.store.journal import CLOSE, INGEST, OPEN

MAX_BLOB = 1024 * 1024
"""Bodies that are no messages are stored up to this many bytes; larger ones by hash and size."""


class Opened(msgspec.Struct, frozen=True, array_like=True):
    """A call that was taken in. Field order is the journal's format: append only."""

    id: str
    source: Source
    dialect: Dialect
    operation: Operation
    path: str
    started_at: int
    feature: str
    key_id: str | None
    end_user: str | None
    model: str
    stream: bool
    body: bytes
    run: str = ""
    """The run that the request names."""
    facts: dict[str, str] | None = None
    """Attributes of the record to be."""


class Closed(msgspec.Struct, frozen=True, array_like=True):
    """How it ended."""

    interaction: Interaction
    output: bytes | None
    response: bytes | None


class Ingested(msgspec.Struct, frozen=True, array_like=True):
    """An OTLP request as it came, and who sent it."""

    body: bytes
    content_type: str
    encoding: str | None
    feature: str
    received_at: int
    key_id: str | None
    features: tuple[str, ...]
    """Features that the sender may write to; empty means every one."""


_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
decode_opened = msgspec.msgpack.Decoder(Opened).decode
decode_closed = msgspec.msgpack.Decoder(Closed).decode
decode_ingested = msgspec.msgpack.Decoder(Ingested).decode


def opened(call: Call) -> Opened:
    """The journal's first word on a call."""
    return Opened(
        call.id,
        call.source,
        call.dialect,
        call.operation,
        call.path,
        call.started_at,
        call.feature,
        call.principal.key_id,
        call.end_user,
        call.model,
        call.stream,
        call.body,
        _run_of(call),
        call.draft.facts,
    )


def _run_of(call: Call) -> str:
    said = (call.header(b"tocsin-run") or b"").decode("latin-1")
    return said if is_safe_id(said) else ""


def _text_blob(name: Hash | None, data: bytes) -> tuple[Blob, ...]:
    """Content worth keeping: up to ``MAX_BLOB`` bytes; anything else is known by its hash."""
    return (Blob(name, data),) if name is not None and len(data) <= MAX_BLOB else ()


def entry(
    interaction: Interaction,
    *,
    messages: tuple[Message, ...],
    nodes: tuple[Node, ...],
    params: bytes,
    body: bytes,
    output: Message | None,
    response: bytes | None,
) -> Entry:
    """The entry of a call: its record, its messages, and the bodies that are no messages."""
    if messages:
        blobs = _text_blob(interaction.params, params)
    else:
        blobs = _text_blob(interaction.request_body, body)
    if response:
        blobs += _text_blob(interaction.response_body, response)
    if output is not None:
        start = nodes[-1].hash if nodes else ROOT
        found = interaction.output_node or link(start, output.hash)
        nodes = (*nodes, Node(found, start, output.hash))
    return Entry(interaction=interaction, input=messages, nodes=nodes, output=output, blobs=blobs)


def _again(record: Opened, closed: Closed | None) -> Entry:
    """Rebuild an entry from the journal."""
    try:
        parsed = parse_request(record.dialect, record.operation, record.body)
        messages, params = parsed.messages, parsed.params
    except BadRequest:
        messages, params = (), b""
    nodes = chain(messages)
    if closed is None:
        return entry(
            _unknown(record, messages, nodes, params),
            messages=messages,
            nodes=nodes,
            params=params,
            body=record.body,
            output=None,
            response=None,
        )
    output = parse_message(closed.output) if closed.output else None
    return entry(
        closed.interaction,
        messages=messages,
        nodes=nodes,
        params=params,
        body=record.body,
        output=output,
        response=closed.response,
    )


def _unknown(
    record: Opened, messages: tuple[Message, ...], nodes: tuple[Node, ...], params: bytes
) -> Interaction:
    """The record of a call whose process died under it."""
    return Interaction(
        id=record.id,
        source=record.source,
        dialect=record.dialect,
        operation=record.operation,
        path=record.path,
        started_at=record.started_at,
        duration_us=0,
        outcome="unknown",
        feature=record.feature,
        key_id=record.key_id,
        end_user=record.end_user,
        run_id=record.run or derived_id("run", record.id),
        run_source="header" if record.run else "new",
        request_model=record.model,
        stream=record.stream,
        error_type="process_died",
        error_message="Tocsin stopped while this call was in flight; the upstream may have "
        "finished and billed it.",
        input_node=nodes[-1].hash if nodes else None,
        input_messages=len(messages),
        new_messages=len(messages),
        params=content_hash(params) if messages and params else None,
        request_body=content_hash(record.body) if record.body and not messages else None,
        input_bytes=len(record.body),
        attributes=record.facts or {},
    )


def replay(
    frames: Iterable[tuple[int, bytes]],
    ingest: Callable[[Ingested], Iterable[Entry]],
    *,
    alive: frozenset[str] = frozenset(),
) -> Iterator[Entry]:
    """Entries of a journal, in the order in which calls closed, then those that never did.

    ``alive`` are calls of this process that are still open: they will close by themselves.
    """
    waiting: dict[str, Opened] = {}
    for kind, payload in frames:
        if kind == OPEN:
            record = decode_opened(payload)
            waiting[record.id] = record
        elif kind == CLOSE:
            closed = decode_closed(payload)
            found = waiting.pop(closed.interaction.id, None)
            if found is not None:
                yield _again(found, closed)
            else:
                yield Entry(interaction=closed.interaction)
        elif kind == INGEST:
            yield from ingest(decode_ingested(payload))
    for record in waiting.values():
        if record.id not in alive:
            yield _again(record, None)
