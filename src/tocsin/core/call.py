"""``Call``: what the app asks of a model, parsed once. ``Draft``: its record while it happens."""

from typing import TYPE_CHECKING, Literal

import msgspec

from tocsin.core.interaction import (
    Attempt,
    Decision,
    Dialect,
    Interaction,
    Operation,
    RunSource,
    Source,
)
from tocsin.core.messages import Hash, Message, Node
from tocsin.core.outcome import Outcome

if TYPE_CHECKING:
    from tocsin.core.ledger import Budget

Role = Literal["anonymous", "caller", "viewer", "operator", "admin"]
Headers = tuple[tuple[bytes, bytes], ...]


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls: a key and what it may do. The default is a caller on loopback without a key."""

    key_id: str | None = None
    name: str = "anonymous"
    role: Role = "anonymous"
    features: tuple[str, ...] = ()
    """Features that the key may call; empty means every one."""

    def may_call(self, feature: str) -> bool:
        """Whether this key's scope covers ``feature``."""
        return not self.features or feature in self.features


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Which run and conversation a call belongs to, and how that was found."""

    run_id: str
    run_source: RunSource
    conversation_id: str | None = None
    parent_id: str | None = None
    new_from: int = 0
    """Index of the first message that the continued call did not have."""
    parent_run_id: str | None = None
    """The run that started this one (``tocsin-parent-run``): it pays for its children."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request, parsed once. ``body`` stays the bytes that came until a policy changes it."""

    id: str
    source: Source
    dialect: Dialect
    operation: Operation
    method: str
    path: str
    """Path after the gateway's own prefix, such as ``/v1/chat/completions``; no query."""
    query: bytes = b""
    headers: Headers = ()
    """The caller's headers, names in lower case, in order."""
    body: bytes = b""
    started_at: int
    feature: str
    principal: Principal
    end_user: str | None = None
    agent: str | None = None
    release: str | None = None
    model: str = ""
    stream: bool = False
    max_output_tokens: int | None = None
    messages: tuple[Message, ...] = ()
    nodes: tuple[Node, ...] = ()
    params: bytes = b""
    """The request's JSON object without its messages; empty when the body is no JSON object."""
    identity: Identity | None = None
    draft: "Draft"

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, ``name`` in lower case."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def evolve(self, **changes: object) -> "Call":
        """A copy with some fields changed; the draft stays shared."""
        return msgspec.structs.replace(self, **changes)


class Draft:
    """The record under construction. One per call, shared by all that handle it, closed once."""

    __slots__ = (
        "attempts",
        "budget",
        "conversation_ref",
        "decisions",
        "error_message",
        "error_type",
        "facts",
        "first_chunk_us",
        "identity",
        "notices",
        "outcome",
        "output",
        "output_bytes",
        "record",
        "response_ref",
        "status",
        "tool_ids",
    )

    def __init__(
        self,
        *,
        response_ref: str | None = None,
        conversation_ref: str | None = None,
        facts: dict[str, str] | None = None,
    ) -> None:
        self.attempts: list[Attempt] = []
        self.decisions: list[Decision] = []
        self.budget: Budget | None = None
        """Asked before each attempt; set by the ledger."""
        self.notices: list[tuple[bytes, bytes]] = []
        """Headers that policies add to the answer, names in lower case."""
        self.identity: Identity | None = None
        self.outcome: Outcome | None = None
        """Set by whoever knows better than the answer itself, such as a policy that denies."""
        self.status: int | None = None
        self.error_type: str | None = None
        self.error_message: str | None = None
        self.first_chunk_us: int | None = None
        self.output_bytes = 0
        self.tool_ids: tuple[str, ...] = ()
        """Ids of the tool calls in the answer."""
        self.record: Interaction | None = None
        """What was recorded, once the call has ended. Its cost is worked out later."""
        self.output: Message | None = None
        """The answer that was recorded, as far as it came."""
        self.facts = facts
        """Attributes of the record to be, such as the cohort that the caller names."""
        self.response_ref = response_ref
        """The request's ``previous_response_id``."""
        self.conversation_ref = conversation_ref
        """The conversation that the request names."""


__all__ = ["Call", "Draft", "Hash", "Headers", "Identity", "Principal", "Role"]
