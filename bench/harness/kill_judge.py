"""What must hold of operations however kills fell, read from the store and the bank's own book."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from operator import le
from typing import Any

import msgspec

from harness.kill_shop import ASKS, INTENTS
from tocsin.core.interaction import Interaction
from tocsin.core.operations import Operation, Step
from tocsin.store import Filter, Store
from tocsin.store.operations_api import OperationFilter

STATUS = {"complete": "completed", "cancelled": "cancelled", "truncated": "incomplete"}
"""Of a response, by its outcome; every other one is ``failed``."""


class Books:
    """What was acknowledged, what was charged, on what the bank died."""

    def __init__(self, made: Set[str], charges: Mapping[str, int], deaths: Set[str]) -> None:
        self.made = made
        self.charges = charges
        self.deaths = deaths


def operations_of(store: Store) -> list[Operation]:
    """All of them."""
    rows: list[Operation] = []
    cursor: str | None = None
    while True:
        page = store.operations.operations(OperationFilter(), limit=500, cursor=cursor)
        rows += page.rows
        if page.next is None:
            return rows
        cursor = page.next


def records_of(store: Store) -> dict[str | None, list[Interaction]]:
    """The records of calls, by the operation that they were made for."""
    found: dict[str | None, list[Interaction]] = {}
    cursor: str | None = None
    while True:
        page = store.interactions(Filter(), limit=500, cursor=cursor)
        for row in page.rows:
            found.setdefault(row.attributes.get("operation"), []).append(row)
        if page.next is None:
            return found
        cursor = page.next


def judged(store: Store, books: Books) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each kind, and everything that does not hold, in words."""
    operations = operations_of(store)
    wrong = [f"{name}: acknowledged and lost" for name in books.made - {o.id for o in operations}]
    wrong += [f"{key}: charged {n} times" for key, n in books.charges.items() if n > 1]
    known: set[str] = set()
    records = records_of(store)
    wrong += [f"{row.id}: of no operation" for row in records.get(None, ())]
    for operation in operations:
        wrong += _used(operation, records.get(operation.id, []))
        wrong += _log(store, operation)
        if operation.kind == "response":
            wrong += _response(store, operation)
            continue
        steps = [step for step in store.operations.steps(operation.id) if step.effect]
        known |= {step.key for step in steps}
        wrong += _order(operation, steps, books)
    wrong += [f"{key}: charged, and on no record" for key in set(books.charges) - known]
    kinds = sorted({operation.kind for operation in operations})
    return [_row(kind, [o for o in operations if o.kind == kind]) for kind in kinds], wrong


def _log(store: Store, operation: Operation) -> list[str]:
    """Every one has ended, and its log has no gap."""
    wrong = []
    if operation.status != "ended":
        wrong.append(f"{operation.id}: {operation.status}")
    numbers = [e.number for e in store.operations.events(operation.id, limit=5000)]
    if numbers != list(range(operation.events)):
        wrong.append(f"{operation.id}: events {numbers}, {operation.events} were counted")
    return wrong


def _used(operation: Operation, records: list[Interaction]) -> list[str]:
    """What an operation says it used is on record. The work of a killed process may have made
    calls that only the records count."""
    said = (operation.calls, operation.input_tokens, operation.output_tokens)
    counted = (
        len(records),
        sum(row.usage.input_tokens or 0 for row in records),
        sum(row.usage.output_tokens or 0 for row in records),
    )
    if said == counted or (operation.restarts and all(map(le, said, counted))):
        return []
    return [f"{operation.id} ({operation.kind}): says it used {said}, on record is {counted}"]


def _order(operation: Operation, steps: list[Step], books: Books) -> list[str]:
    """A complete order is charged once for each intent; else an effect is of unknown fate."""
    about = f"{operation.id} ({operation.kind}, {operation.outcome})"
    wrong = []
    for step in steps:
        times = books.charges.get(step.key, 0)
        if step.state == "done" and times != 1:
            wrong.append(f"{about}: {step.key} is done and was charged {times} times")
        if step.state not in ("done", "unknown"):
            wrong.append(f"{about}: {step.key} is {step.state}")
        if step.key in books.deaths and step.state != ("done" if _asks(operation) else "unknown"):
            wrong.append(f"{about}: the bank died on {step.key}, which is {step.state}")
    unknown = [step for step in steps if step.state == "unknown"]
    if operation.outcome == "complete":
        if len(steps) != len(INTENTS) or unknown:
            wrong.append(f"{about}: {len(steps)} intents, {len(unknown)} of unknown fate")
    elif operation.outcome != "unknown" or _asks(operation) or len(unknown) != 1:
        wrong.append(f"{about}: {operation.error_type}, {operation.error_message}")
    return wrong


def _asks(operation: Operation) -> bool:
    return operation.kind == ASKS


def _response(store: Store, operation: Operation) -> list[str]:
    """What clients get says how it ended; complete is whole, and only a kill makes it unknown."""
    about = f"{operation.id} ({operation.outcome}, {operation.restarts} restarts)"
    found = msgspec.json.decode(store.operations.result(operation.id) or b"null")
    if not isinstance(found, dict):
        return [f"{about}: no result"]
    wanted = STATUS.get(operation.outcome or "", "failed")
    said = (found["status"], found["tocsin"]["outcome"])
    wrong = [] if said == (wanted, operation.outcome) else [f"{about}: says {said}"]
    (last,) = store.operations.events(operation.id, after=operation.events - 2)
    if last.type != f"response.{wanted}":
        wrong.append(f"{about}: its last event is {last.type}")
    if operation.outcome == "unknown" and not operation.restarts:
        wrong.append(f"{about}: its process lived")
    if operation.outcome not in ("complete", "unknown"):
        wrong.append(f"{about}: {operation.error_type}, {operation.error_message}")
    return wrong


def _row(kind: str, operations: list[Operation]) -> dict[str, Any]:
    return {
        "kind": kind,
        "operations": len(operations),
        "outcomes": dict(Counter(str(o.outcome) for o in operations)),
        "taken_over": sum(o.restarts > 0 for o in operations),
        "most_restarts": max((o.restarts for o in operations), default=0),
    }
