"""Interactions as stored bytes, and what runs add up from them."""

from hashlib import blake2b
from typing import Any

import msgspec

from tocsin.core.interaction import SPAN_OPERATIONS, Interaction
from tocsin.core.messages import Message
from tocsin.store.api import RunRow

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Interaction).decode

_TITLE = 160
SPAN_RANK = 1 << 60
"""What a step that is no call is set back by when the last one of a run is looked for."""


def digest(record: bytes) -> bytes:
    """Eight bytes that prove a stored record whole."""
    return blake2b(record, digest_size=8).digest()


def call_number(call_id: str) -> int:
    """64 bits that stand for a tool call's id."""
    raw = blake2b(call_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(raw, "big", signed=True)


def kind_of(interaction: Interaction) -> int:
    """0 for a model call, 2 for a tool's execution, 1 for another step of a run."""
    if interaction.operation not in SPAN_OPERATIONS:
        return 0
    return 2 if interaction.operation == "execute_tool" else 1


def model_of(interaction: Interaction) -> str:
    """The model that answered, else the one that was asked for."""
    return interaction.response_model or interaction.request_model


class _Title(msgspec.Struct):
    content: str | list[Any] | None = None


_decode_title = msgspec.json.Decoder(_Title).decode


def title_of(message: Message) -> str:
    """A message's text as one line of at most 160 characters."""
    try:
        content = _decode_title(message.raw).content
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    text = _first_text(content)
    return " ".join(text[: 2 * _TITLE].split())[:_TITLE].replace("\0", "")


def _first_text(content: str | list[Any] | None) -> str:
    if isinstance(content, str):
        return content
    for block in content or ():
        if isinstance(block, dict) and isinstance(block.get("text"), str):
            return str(block["text"])
    return ""


class RunSums:
    """What some interactions, in the order of their append, add to their run's row.

    Tokens, cost and errors are of model calls; steps that a trace reports beside them (tools,
    agents) only widen the run's time and count as executed tools, because their usage repeats that
    of the calls inside.
    """

    __slots__ = (
        "agent",
        "calls",
        "conversation_id",
        "cost_nano_usd",
        "end_user",
        "errors",
        "feature",
        "input_tokens",
        "key_id",
        "last_at",
        "max_input_tokens",
        "model",
        "outcome",
        "output_tokens",
        "release",
        "source",
        "started_at",
        "title",
        "tools_asked",
        "tools_executed",
        "unpriced",
        "upstream",
        "verdict_at",
    )

    def __init__(self, first: Interaction) -> None:
        self.feature = first.feature
        self.source: str = first.source
        self.title = ""
        self.started_at = first.started_at
        self.last_at = first.started_at
        self.verdict_at = -(1 << 62)
        self.calls = self.tools_asked = self.tools_executed = self.errors = 0
        self.input_tokens = self.output_tokens = self.max_input_tokens = 0
        self.cost_nano_usd = self.unpriced = 0
        self.outcome: str = first.outcome
        self.model = ""
        self.upstream: str | None = None
        self.end_user: str | None = None
        self.key_id: str | None = None
        self.release: str | None = None
        self.conversation_id: str | None = None
        self.agent: str | None = None

    def add(self, one: Interaction) -> None:
        """Count one more interaction."""
        end = one.started_at + one.duration_us
        if one.started_at < self.started_at:
            self.started_at = one.started_at
        if end > self.last_at:
            self.last_at = end
        rank = end
        if one.operation in SPAN_OPERATIONS:
            rank = end - SPAN_RANK
            if one.operation == "execute_tool":
                self.tools_executed += 1
        else:
            self._add_call(one)
        if rank >= self.verdict_at:
            self.verdict_at = rank
            self.outcome = one.outcome
            self.model = model_of(one)
            self.upstream = one.upstream
        self.end_user = self.end_user or one.end_user
        self.key_id = self.key_id or one.key_id
        self.release = self.release or one.release
        self.conversation_id = self.conversation_id or one.conversation_id
        self.agent = self.agent or one.agent

    def _add_call(self, one: Interaction) -> None:
        self.calls += 1
        self.tools_asked += one.tool_calls
        if one.outcome != "complete":
            self.errors += 1
        usage = one.usage
        if usage.input_tokens is not None:
            self.input_tokens += usage.input_tokens
            if usage.input_tokens > self.max_input_tokens:
                self.max_input_tokens = usage.input_tokens
        if usage.output_tokens is not None:
            self.output_tokens += usage.output_tokens
        if one.cost_nano_usd is None:
            self.unpriced += 1
        else:
            self.cost_nano_usd += one.cost_nano_usd

    def row(self, key: int, run_id: str) -> tuple[Any, ...]:
        """The columns of the ``runs`` table."""
        return (
            key,
            run_id,
            self.feature,
            self.source,
            self.title,
            self.started_at,
            self.last_at,
            self.verdict_at,
            self.calls,
            self.tools_asked,
            self.tools_executed,
            self.errors,
            self.input_tokens,
            self.output_tokens,
            self.max_input_tokens,
            self.cost_nano_usd,
            self.unpriced,
            self.outcome,
            self.model,
            self.upstream,
            self.end_user,
            self.key_id,
            self.release,
            self.conversation_id,
            self.agent,
        )


def run_row(row: tuple[Any, ...]) -> RunRow:
    """A ``RunRow`` from the columns that the named queries give, after the key."""
    return RunRow(
        id=row[1],
        feature=row[2],
        source=row[3],
        title=row[4],
        started_at=row[5],
        last_at=row[6],
        calls=row[7],
        # A trace may report both the model asking for a tool and the tool running.
        tool_calls=max(row[8], row[9]),
        errors=row[10],
        input_tokens=row[11],
        output_tokens=row[12],
        max_input_tokens=row[13],
        cost_nano_usd=row[14],
        unpriced=row[15],
        outcome=row[16],
        model=row[17],
        end_user=row[18],
        key_id=row[19],
        release=row[20],
        conversation_id=row[21],
        agent=row[22],
    )
