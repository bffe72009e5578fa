"""What operations ask of a store: their rows, events, steps, keys, conversations and deliveries.

Every method is one transaction. Times are microseconds since the epoch. ``owner`` names a process
that works; it is alive while it ``beat``s.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from tocsin.core.operations import Event, Operation, Status, Step, StepState
from tocsin.core.outcome import Outcome


class OperationFilter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which operations to look at; ``None`` does not restrict."""

    kind: str | None = None
    feature: str | None = None
    status: Status | None = None
    outcome: Outcome | None = None
    key_id: str | None = None
    end_user: str | None = None
    run_id: str | None = None
    parent_id: str | None = None
    conversation_id: str | None = None
    since: int | None = None
    until: int | None = None


class OperationPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some operations, newest first, and the cursor of the next ones; ``None`` at the end."""

    rows: tuple[Operation, ...]
    next: str | None = None


class New(msgspec.Struct, frozen=True):
    """An operation that is to be kept, with what it was asked for and its first events."""

    operation: Operation
    body: bytes
    events: Sequence[Event] = ()


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What is written of one operation at once: all of it, or nothing.

    ``changes`` are fields of ``Operation`` (not ``id``, ``kind``, ``events``). Events are numbered
    by the writer, from ``Operation.events`` on.
    """

    operation_id: str
    events: tuple[Event, ...] = ()
    changes: Mapping[str, Any] = {}
    result: bytes | None = None
    deliveries: "tuple[Delivery, ...]" = ()
    owner: str | None = None
    """Written only while the operation is still this process's, which an ended one is not;
    ``None``: in any case."""
    expect: Status | None = None
    """Written only while the operation has this status: of two that end it, one does."""


KeyState = Literal["open", "answered", "unknown"]


class KeyRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An idempotency key of one principal, and the answer that belongs to it."""

    principal: str
    """The key id; ``anonymous`` without one."""
    key: str
    request_hash: bytes
    state: KeyState
    owner: str
    created_at: int
    expires_at: int
    call_id: str = ""
    status: int | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    replays: int = 0


class ConversationRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A conversation that Tocsin keeps."""

    id: str
    key_id: str | None = None
    feature: str = "default"
    created_at: int
    metadata: Mapping[str, str] = {}
    items: int = 0
    """Items ever added: the next one's position."""
    held_by: str | None = None
    """The operation that is at work on it."""


class ItemRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One item of a conversation."""

    id: str
    position: int
    at: int
    data: bytes
    """JSON, as clients see it."""
    operation_id: str | None = None


DeliveryState = Literal["pending", "delivered", "failed", "disabled"]


class Delivery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message to a webhook: the same ``id`` however often it is sent."""

    id: str
    endpoint: str
    """The name of a configured webhook, ``callback`` for an operation's own, ``outbox``."""
    url: str
    type: str
    payload: bytes
    created_at: int
    operation_id: str | None = None
    state: DeliveryState = "pending"
    attempts: int = 0
    next_at: int = 0
    """When it is tried (again)."""
    last_at: int | None = None
    last_status: int | None = None
    last_error: str = ""
    ended_at: int | None = None


class EndpointRow(msgspec.Struct, frozen=True, kw_only=True):
    """A URL that is told nothing any more."""

    url: str
    disabled_at: int
    reason: str


class OperationsBook(Protocol):
    """Operations in a store. Synchronous, any thread."""

    # -- operations --
    def create(
        self, operation: Operation, body: bytes, events: Sequence[Event] = (), *, beat_at: int = 0
    ) -> bool:
        """Keep a new one with what it was asked for; ``False`` when its id is known. With
        ``beat_at`` its owner counts as alive since then."""
        ...

    def create_many(self, batch: Sequence[New], *, beat_at: int = 0) -> tuple[bool, ...]:
        """The same for many at once: all are written, or nothing is and this raises."""
        ...

    def operation(self, operation_id: str) -> Operation | None: ...
    def body(self, operation_id: str) -> bytes | None: ...
    def result(self, operation_id: str) -> bytes | None: ...
    def operations(
        self, where: OperationFilter, *, limit: int = 50, cursor: str | None = None
    ) -> OperationPage: ...
    def write(self, batch: Sequence[Written]) -> tuple[bool, ...]:
        """Group commit. For each: whether it was written (still the owner's, and there). Raises
        ``StoreError``, with nothing written, when events do not continue a log."""
        ...

    def events(self, operation_id: str, *, after: int = -1, limit: int = 1000) -> list[Event]:
        """In order. Works the same after the events were packed."""
        ...

    def pack(self, *ids: str) -> None:
        """Store the events of ended operations in few compressed rows."""
        ...

    def request_cancel(self, operation_id: str, by: str, at: int) -> Operation | None:
        """Ask that it ends; the operation as it stands then. ``None``: there is none."""
        ...

    def delete_operation(self, operation_id: str) -> bool:
        """With its events, steps, body and result."""
        ...

    def expired(self, now: int, limit: int = 100) -> list[str]: ...
    def due(self, now: int, limit: int = 100) -> list[Operation]:
        """Queued or running and past their deadline (it does not run while they wait); or not
        ended, asked to cancel, and waiting or owned by nobody (a dead owner's is claimed first)."""
        ...

    # -- who works --
    def beat(self, owner: str, at: int) -> None: ...
    def retire(self, owner: str) -> None:
        """This process works no more: what it owned is anybody's at once."""
        ...

    def claim(self, owner: str, at: int, *, dead_before: int, limit: int = 10) -> list[Operation]:
        """Take over operations that are queued or running and owned by nobody, or by a process
        without a beat since ``dead_before``, oldest first. Each goes to one process only; running
        ones come with ``restarts`` one higher. Their status stays. Whoever takes one has beaten."""
        ...

    def cancels(self, owner: str) -> list[str]:
        """Ids of running operations of this process that somebody asked to end."""
        ...

    # -- steps --
    def begin_step(self, step: Step) -> tuple[Step, bool]:
        """Keep it; or the one that is there under its key (``asked`` one higher). The flag says
        whether this one is new, and so this caller's to do."""
        ...

    def settle_step(
        self, key: str, state: StepState, result: bytes | None, at: int, *, owner: str | None = None
    ) -> bool:
        """End a step that is ``begun``, ``asked`` or ``unknown``; ``False`` when it is not."""
        ...

    def take_step(self, key: str, owner: str, before: StepState) -> bool:
        """Make a step of a dead process this one's (state ``begun``); one caller wins. One that is
        ``begun`` goes to the owner of its operation only; outside of operations, to anybody when
        its owner has retired."""
        ...

    def forget_step(self, key: str) -> None: ...
    def step(self, key: str) -> Step | None: ...
    def steps(self, scope: str) -> list[Step]:
        """In the order in which they began."""
        ...

    def steps_in(self, state: StepState, *, limit: int = 100) -> list[Step]:
        """Of every operation, oldest first: what waits for people, what is unknown."""
        ...

    def lost_steps(self, dead_before: int, limit: int = 1000) -> int:
        """Mark effects that a dead process had begun, outside of operations, as ``unknown``."""
        ...

    # -- idempotency keys --
    def claim_key(self, row: KeyRow, now: int) -> tuple[KeyRow, bool]:
        """Keep it, unless one that has not expired is there; the flag says whether it is new."""
        ...

    def settle_key(
        self,
        principal: str,
        key: str,
        owner: str,
        state: KeyState,
        *,
        call_id: str = "",
        status: int | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
        body: bytes = b"",
    ) -> None: ...
    def release_key(self, principal: str, key: str, owner: str) -> None:
        """Nothing happened under it: the next request with it is the first."""
        ...

    def replayed(self, principal: str, key: str) -> None: ...
    def alive(self, owner: str, since: int) -> bool:
        """Whether that process has beaten since then."""
        ...

    # -- conversations --
    def create_conversation(self, row: ConversationRow, items: Sequence[ItemRow]) -> bool: ...
    def conversation(self, conversation_id: str) -> ConversationRow | None: ...
    def set_metadata(self, conversation_id: str, metadata: Mapping[str, str]) -> bool: ...
    def delete_conversation(self, conversation_id: str) -> bool: ...
    def add_items(self, conversation_id: str, items: Sequence[ItemRow]) -> bool:
        """At the end; their positions are given here. One whose id the conversation has is not
        added again. ``False``: no such conversation."""
        ...

    def items(
        self,
        conversation_id: str,
        *,
        after: str | None = None,
        descending: bool = True,
        limit: int = 20,
    ) -> list[ItemRow]:
        """``after`` is an item's id. Raises ``NotFound`` when the conversation has none such."""
        ...

    def item(self, conversation_id: str, item_id: str) -> ItemRow | None: ...
    def delete_item(self, conversation_id: str, item_id: str) -> bool: ...
    def hold_conversation(self, conversation_id: str, operation_id: str) -> bool:
        """Whether it is this operation's to work on: nobody's until now, or of one that ended or
        is not in the store (so create it before it holds anything)."""
        ...

    def let_go(self, conversation_id: str, operation_id: str) -> None: ...

    # -- deliveries --
    def add_deliveries(self, rows: Sequence[Delivery]) -> None:
        """One whose id is known changes nothing."""
        ...

    def due_deliveries(
        self, owner: str, now: int, *, until: int, limit: int = 50
    ) -> list[Delivery]:
        """Pending ones whose time has come, taken by this process: nobody else gets them before
        ``until``."""
        ...

    def save_delivery(self, row: Delivery) -> None:
        """How it stands after an attempt; it is nobody's then. One that is gone stays so."""
        ...

    def delivery(self, delivery_id: str) -> Delivery | None: ...
    def deliveries(
        self,
        *,
        state: DeliveryState | None = None,
        operation_id: str | None = None,
        limit: int = 100,
    ) -> list[Delivery]:
        """Newest first."""
        ...

    def disable_endpoint(self, row: EndpointRow) -> None:
        """No further message goes there; what is pending for it becomes ``disabled``."""
        ...

    def enable_endpoint(self, url: str) -> bool:
        """Take that back; its ``disabled`` deliveries are pending again."""
        ...

    def disabled_endpoints(self) -> list[EndpointRow]: ...
