"""``operations_api.OperationsBook`` on SQLite and PostgreSQL."""

from collections.abc import Mapping, Sequence

from tocsin.core.operations import Event, Operation, Step, StepState
from tocsin.store import conversations, deliveries, operation_rows, operation_steps
from tocsin.store.blobs import clean
from tocsin.store.database import Database, Session
from tocsin.store.operations_api import (
    ConversationRow,
    Delivery,
    DeliveryState,
    EndpointRow,
    ItemRow,
    KeyRow,
    KeyState,
    New,
    OperationFilter,
    OperationPage,
    Written,
)


class RelationalOperations:
    """Operations in a database.

    Writers take turns, so whatever is looked at and then changed in one write transaction is
    nobody else's in between. What is asked often and seldom finds anything is looked at first
    without taking a turn.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- operations --

    def create(
        self, operation: Operation, body: bytes, events: Sequence[Event] = (), *, beat_at: int = 0
    ) -> bool:
        return self.create_many([New(operation, body, events)], beat_at=beat_at)[0]

    def create_many(self, batch: Sequence[New], *, beat_at: int = 0) -> tuple[bool, ...]:
        prepared = operation_rows.prepared(batch)
        with self._database.write() as session:
            made = operation_rows.create(session, prepared)
            if beat_at:
                owners = {one.operation.owner for one, new in zip(batch, made, strict=True) if new}
                for owner in owners - {None}:
                    session.run("owner_beat", (owner, beat_at))
        return made

    def operation(self, operation_id: str) -> Operation | None:
        with self._database.read() as session:
            return operation_rows.operation(session, clean(operation_id))

    def body(self, operation_id: str) -> bytes | None:
        with self._database.read() as session:
            return operation_rows.blob(session, "operation_body", clean(operation_id))

    def result(self, operation_id: str) -> bytes | None:
        with self._database.read() as session:
            return operation_rows.blob(session, "operation_result", clean(operation_id))

    def operations(
        self, where: OperationFilter, *, limit: int = 50, cursor: str | None = None
    ) -> OperationPage:
        with self._database.read() as session:
            return operation_rows.page(session, where, limit=limit, cursor=cursor)

    def write(self, batch: Sequence[Written]) -> tuple[bool, ...]:
        if not batch:
            return ()
        with self._database.write() as session:
            return operation_rows.write(session, batch)

    def events(self, operation_id: str, *, after: int = -1, limit: int = 1000) -> list[Event]:
        with self._database.read() as session:
            return operation_rows.events(session, clean(operation_id), after=after, limit=limit)

    def pack(self, *ids: str) -> None:
        operation_rows.pack(self._database, [clean(operation_id) for operation_id in ids])

    def request_cancel(self, operation_id: str, by: str, at: int) -> Operation | None:
        with self._database.write() as session:
            return operation_rows.cancel(session, clean(operation_id), by, at)

    def delete_operation(self, operation_id: str) -> bool:
        with self._database.write() as session:
            return operation_rows.delete(session, clean(operation_id))

    def expired(self, now: int, limit: int = 100) -> list[str]:
        with self._database.read() as session:
            return [row[0] for row in session.all("operations_expired", (now, limit))]

    def due(self, now: int, limit: int = 100) -> list[Operation]:
        with self._database.read() as session:
            rows = session.all("operations_past_deadline", (now, limit))
            rows += session.all("operations_nobody_cancels", (limit,))
        unique = {row[0]: row for row in rows}
        return [operation_rows.operation_of(row) for row in unique.values()][:limit]

    # -- who works --

    def beat(self, owner: str, at: int) -> None:
        with self._database.write() as session:
            session.run("owner_beat", (owner, at))

    def retire(self, owner: str) -> None:
        with self._database.write() as session:
            session.run("owner_retire", (owner,))

    def claim(self, owner: str, at: int, *, dead_before: int, limit: int = 10) -> list[Operation]:
        if limit <= 0:
            return []
        with self._database.read() as session:
            if not session.all("operations_to_claim", (dead_before, 1)):
                return []
        with self._database.write() as session:
            taken = self._claimed(session, owner, dead_before, limit)
            if taken:
                session.run("owner_beat", (owner, at))
        return taken

    def _claimed(
        self, session: Session, owner: str, dead_before: int, limit: int
    ) -> list[Operation]:
        taken = []
        for row in session.all("operations_to_claim", (dead_before, limit)):
            found = operation_rows.operation_of(row)
            restarts = found.restarts + (found.status == "running")
            taken.append(operation_rows.changed(session, row, owner=owner, restarts=restarts))
        return taken

    def cancels(self, owner: str) -> list[str]:
        with self._database.read() as session:
            return [row[0] for row in session.all("operations_cancelled", (owner,))]

    # -- steps --

    def begin_step(self, step: Step) -> tuple[Step, bool]:
        with self._database.write() as session:
            return operation_steps.begin(session, step)

    def settle_step(
        self, key: str, state: StepState, result: bytes | None, at: int, *, owner: str | None = None
    ) -> bool:
        with self._database.write() as session:
            return operation_steps.settle(session, clean(key), state, result, at, owner=owner)

    def take_step(self, key: str, owner: str, before: StepState) -> bool:
        with self._database.write() as session:
            return operation_steps.take(session, clean(key), owner, before)

    def forget_step(self, key: str) -> None:
        with self._database.write() as session:
            session.run("step_forget", (clean(key),))

    def step(self, key: str) -> Step | None:
        with self._database.read() as session:
            return operation_steps.one(session, clean(key))

    def steps(self, scope: str) -> list[Step]:
        with self._database.read() as session:
            return operation_steps.of_scope(session, clean(scope))

    def steps_in(self, state: StepState, *, limit: int = 100) -> list[Step]:
        with self._database.read() as session:
            return operation_steps.in_state(session, state, limit)

    def lost_steps(self, dead_before: int, limit: int = 1000) -> int:
        return operation_steps.mark_lost(self._database, dead_before, limit)

    # -- idempotency keys --

    def claim_key(self, row: KeyRow, now: int) -> tuple[KeyRow, bool]:
        with self._database.read() as session:
            there = operation_steps.standing_key(session, row.principal, row.key, now)
        if there is not None:
            return there, False
        with self._database.write() as session:
            return operation_steps.claim_key(session, row, now)

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
    ) -> None:
        with self._database.write() as session:
            operation_steps.settle_key(
                session,
                principal,
                key,
                owner,
                state,
                call_id=call_id,
                status=status,
                headers=headers,
                body=body,
            )

    def release_key(self, principal: str, key: str, owner: str) -> None:
        with self._database.write() as session:
            session.run("idempotency_release", (clean(principal), clean(key), owner))

    def replayed(self, principal: str, key: str) -> None:
        with self._database.write() as session:
            session.run("idempotency_replayed", (clean(principal), clean(key)))

    def alive(self, owner: str, since: int) -> bool:
        with self._database.read() as session:
            return session.one("owner_alive", (owner, since)) is not None

    # -- conversations --

    def create_conversation(self, row: ConversationRow, items: Sequence[ItemRow]) -> bool:
        with self._database.write() as session:
            return conversations.create(session, row, items)

    def conversation(self, conversation_id: str) -> ConversationRow | None:
        with self._database.read() as session:
            return conversations.one(session, clean(conversation_id))

    def set_metadata(self, conversation_id: str, metadata: Mapping[str, str]) -> bool:
        with self._database.write() as session:
            return conversations.set_metadata(session, clean(conversation_id), metadata)

    def delete_conversation(self, conversation_id: str) -> bool:
        with self._database.write() as session:
            return conversations.delete(session, clean(conversation_id))

    def add_items(self, conversation_id: str, items: Sequence[ItemRow]) -> bool:
        with self._database.write() as session:
            return conversations.add_items(session, clean(conversation_id), items)

    def items(
        self,
        conversation_id: str,
        *,
        after: str | None = None,
        descending: bool = True,
        limit: int = 20,
    ) -> list[ItemRow]:
        edge = None if after is None else clean(after)
        with self._database.read() as session:
            return conversations.items(
                session, clean(conversation_id), after=edge, descending=descending, limit=limit
            )

    def item(self, conversation_id: str, item_id: str) -> ItemRow | None:
        with self._database.read() as session:
            return conversations.item(session, clean(conversation_id), clean(item_id))

    def delete_item(self, conversation_id: str, item_id: str) -> bool:
        with self._database.write() as session:
            return conversations.delete_item(session, clean(conversation_id), clean(item_id))

    def hold_conversation(self, conversation_id: str, operation_id: str) -> bool:
        return conversations.hold(self._database, clean(conversation_id), clean(operation_id))

    def let_go(self, conversation_id: str, operation_id: str) -> None:
        with self._database.write() as session:
            session.run("conversation_let_go", (clean(conversation_id), clean(operation_id)))

    # -- deliveries --

    def add_deliveries(self, rows: Sequence[Delivery]) -> None:
        if rows:
            with self._database.write() as session:
                deliveries.add(session, rows)

    def due_deliveries(
        self, owner: str, now: int, *, until: int, limit: int = 50
    ) -> list[Delivery]:
        return deliveries.due(self._database, owner, now, until=until, limit=limit)

    def save_delivery(self, row: Delivery) -> None:
        with self._database.write() as session:
            deliveries.save(session, row)

    def delivery(self, delivery_id: str) -> Delivery | None:
        with self._database.read() as session:
            return deliveries.one(session, clean(delivery_id))

    def deliveries(
        self,
        *,
        state: DeliveryState | None = None,
        operation_id: str | None = None,
        limit: int = 100,
    ) -> list[Delivery]:
        with self._database.read() as session:
            return deliveries.newest(session, state=state, operation_id=operation_id, limit=limit)

    def disable_endpoint(self, row: EndpointRow) -> None:
        with self._database.write() as session:
            deliveries.disable(session, row)

    def enable_endpoint(self, url: str) -> bool:
        with self._database.write() as session:
            return deliveries.enable(session, clean(url))

    def disabled_endpoints(self) -> list[EndpointRow]:
        with self._database.read() as session:
            return deliveries.disabled(session)
