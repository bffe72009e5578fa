"""``Interaction``: the immutable record of one call, and what it is made of.

Field names follow OpenTelemetry ``gen_ai.*`` where one exists. Times are microseconds (since the
epoch, or of duration); money is an integer of nano US dollars (1e-9 USD), ``None`` when the price
is unknown: unknown is never zero.
"""

from typing import Literal

import msgspec

from tocsin.core.meaning import Check
from tocsin.core.messages import Hash, Message, Node
from tocsin.core.outcome import Outcome

Dialect = Literal["openai", "anthropic"]
Operation = Literal[
    "chat",
    "text_completion",
    "embeddings",
    "generate_content",
    "count_tokens",
    "models",
    "other",
    "execute_tool",
    "invoke_agent",
    "create_agent",
    "invoke_workflow",
    "retrieval",
    "plan",
]
"""OpenTelemetry's ``gen_ai.operation.name``; ``models``, ``count_tokens``, ``other`` are routes."""

SPAN_OPERATIONS: frozenset[Operation] = frozenset(
    {"execute_tool", "invoke_agent", "create_agent", "invoke_workflow", "retrieval", "plan"}
)
"""Steps of a run that traces report and that are no model calls."""

Source = Literal["gateway", "sdk", "otlp", "import"]
UsageSource = Literal["reported", "estimated", "unknown"]
CostSource = Literal["listed", "override", "unknown"]
RunSource = Literal[
    "header", "traceparent", "response", "conversation", "prefix", "tool", "retry", "new", "trace"
]
Mode = Literal["off", "observe", "enforce"]


PARENT_RUN = "parent_run"
"""The attribute that names the run which started this one."""


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens of one call. ``None`` is unknown. Input includes what was read from a cache."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    source: UsageSource = "unknown"


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One provider round trip of a call. Each attempt that reached a provider is paid for."""

    number: int
    upstream: str
    provider: str
    model: str
    started_at: int
    duration_us: int
    first_chunk_us: int | None = None
    status: int | None = None
    error: str | None = None
    """What went wrong, as ``type: message``; ``None`` when the provider answered."""
    reason: Literal["first", "retry", "fallback"] = "first"
    request_id: str | None = None
    usage: Usage | None = None
    cost_nano_usd: int | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one policy did with a call, or would have done (mode ``observe``)."""

    policy: str
    mode: Mode
    action: Literal["modify", "deny", "pause", "warn", "crashed", "timed_out"]
    detail: str = ""
    duration_us: int = 0


class Interaction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The record of one call. Written once, never changed."""

    id: str
    source: Source
    dialect: Dialect
    operation: Operation
    path: str
    started_at: int
    """Where a source tells none, a stand-in; the attribute ``time`` is then ``unknown``."""
    duration_us: int
    """0 means that it is not known: a real call never takes 0 microseconds."""
    outcome: Outcome
    feature: str
    key_id: str | None = None
    end_user: str | None = None
    release: str | None = None
    run_id: str
    run_source: RunSource
    conversation_id: str | None = None
    parent_id: str | None = None
    """The interaction whose history this one extends, or the parent span."""
    agent: str | None = None
    request_model: str
    response_model: str | None = None
    response_id: str | None = None
    provider: str | None = None
    upstream: str | None = None
    stream: bool = False
    status: int | None = None
    """HTTP status that the caller was sent; ``None`` when it left before there was one."""
    finish_reason: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    usage: Usage = Usage()
    cost_nano_usd: int | None = None
    cost_source: CostSource = "unknown"
    first_chunk_us: int | None = None
    attempts: tuple[Attempt, ...] = ()
    decisions: tuple[Decision, ...] = ()
    checks: tuple[Check, ...] = ()
    """What the answer was checked for, and what came of it."""
    input_node: Hash | None = None
    """Node of the whole input history (``core.messages``); ``None`` without messages."""
    output_node: Hash | None = None
    """Node of the input and the answer together."""
    input_messages: int = 0
    new_messages: int = 0
    """Messages that this call adds to the call that it continues."""
    tool_calls: int = 0
    tool_results: int = 0
    """Tool results among the new messages."""
    params: Hash | None = None
    """Content hash of the request without its messages (sampling parameters, tools)."""
    request_body: Hash | None = None
    response_body: Hash | None = None
    """Content hashes of bodies that are no message lists (embeddings, other routes, errors)."""
    input_bytes: int = 0
    output_bytes: int = 0
    attributes: dict[str, str] = {}
    """Flat extra facts (trace attributes, labels); at most 64, values at most 1,000 characters."""


class Blob(msgspec.Struct, frozen=True):
    """Content that is not a message, under the hash of its bytes."""

    hash: Hash
    data: bytes


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An interaction with the content that it refers to: what the store appends at once."""

    interaction: Interaction
    input: tuple[Message, ...] = ()
    """The whole input history; the store keeps what it does not have yet."""
    nodes: tuple[Node, ...] = ()
    """The links of ``input``, then that of ``output``."""
    output: Message | None = None
    blobs: tuple[Blob, ...] = ()
