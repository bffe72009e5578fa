"""Made-up facts as the records that Tocsin's gateway would make of them.

This is the only place that imports Tocsin; everything else starts it and talks to it.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import cast

from harness.million import Fact
from tocsin.config.model import Config
from tocsin.core.clock import SystemClock
from tocsin.core.interaction import Attempt, Blob, Entry, Interaction, Usage
from tocsin.core.messages import Message, chain, content_hash, parse_message
from tocsin.core.outcome import Outcome
from tocsin.store import Store, open_store

PARAMS = b'{"temperature":0.2,"max_tokens":256}'


def opened_store(folder: Path) -> Store:
    """The store that ``folder``'s settings name, opened in this process."""
    return open_store(Config().store, folder / "data", SystemClock())


def caught_up(store: Store) -> None:
    """Do at once what the worker does in its own time: fold and index."""
    while store.fold():
        pass
    while store.index(limit=5000):
        pass


def run_id(fact: Fact) -> str:
    """The run that a made-up fact belongs to."""
    return f"run_bench{fact.run:015d}"


def call_id(fact: Fact) -> str:
    """The interaction that a made-up fact becomes."""
    return f"call_bench{fact.number:015d}"


def entry(fact: Fact) -> Entry:
    """The interaction of one fact with its whole history."""
    history, output = tuple(map(_parsed, fact.history)), _parsed(fact.answer)
    blob = Blob(content_hash(PARAMS), PARAMS)
    nodes = chain((*history, output))
    interaction = Interaction(
        id=call_id(fact),
        source="gateway",
        dialect="openai",
        operation="chat",
        path="/v1/chat/completions",
        started_at=fact.started_at,
        duration_us=fact.duration_us,
        outcome=cast(Outcome, fact.outcome),
        feature=fact.feature,
        end_user=fact.end_user,
        release=fact.release,
        run_id=run_id(fact),
        run_source="prefix" if fact.step else "new",
        request_model=fact.model,
        response_model=fact.model,
        response_id=f"chatcmpl-{fact.number:016x}",
        provider=fact.provider,
        upstream="mock",
        status=200,
        finish_reason="stop",
        usage=_usage(fact),
        cost_nano_usd=fact.cost_nano_usd,
        cost_source="listed",
        first_chunk_us=fact.first_chunk_us,
        attempts=(_attempt(fact),),
        input_node=nodes[-2].hash,
        output_node=nodes[-1].hash,
        input_messages=len(history),
        new_messages=1 if fact.step else len(history),
        params=blob.hash,
        input_bytes=sum(map(len, fact.history)),
        output_bytes=len(fact.answer),
    )
    return Entry(interaction=interaction, input=history, nodes=nodes, output=output, blobs=(blob,))


@functools.lru_cache(maxsize=4096)
def _parsed(raw: bytes) -> Message:
    return parse_message(raw)


def _usage(fact: Fact) -> Usage:
    return Usage(
        input_tokens=fact.input_tokens, output_tokens=fact.output_tokens, source="reported"
    )


def _attempt(fact: Fact) -> Attempt:
    return Attempt(
        number=1,
        upstream="mock",
        provider=fact.provider,
        model=fact.model,
        started_at=fact.started_at,
        duration_us=fact.duration_us,
        first_chunk_us=fact.first_chunk_us,
        status=200,
        usage=_usage(fact),
        cost_nano_usd=fact.cost_nano_usd,
    )
