"""Messages to webhooks as rows, and the URLs that are told nothing any more."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tocsin.store import blobs
from tocsin.store.database import Database, Row, Session
from tocsin.store.operations_api import Delivery, DeliveryState, EndpointRow


def _delivery(row: Row) -> Delivery:
    return Delivery(
        id=row[0],
        endpoint=row[1],
        url=row[2],
        type=row[3],
        payload=blobs.loaded(row[4]),
        created_at=row[5],
        operation_id=row[6],
        state=row[7],
        attempts=row[8],
        next_at=row[9],
        last_at=row[10],
        last_status=row[11],
        last_error=row[12],
        ended_at=row[13],
    )


def add(session: Session, rows: Sequence[Delivery]) -> None:
    """Keep new ones; what goes to a URL that is told nothing is ``disabled`` from the start."""
    if not rows:
        return
    last = session.one("deliveries_last")
    number = int(last[0]) if last else 0
    flat: list[Any] = []
    unique: dict[str, Delivery] = {}
    for row in rows:
        unique.setdefault(blobs.clean(row.id), row)
    stopped = _disabled(session, [row.url for row in rows])
    for at, (name, row) in enumerate(unique.items(), number + 1):
        row = _as_allowed(row, stopped)
        flat += (at, name, blobs.clean(row.endpoint), blobs.clean(row.url), blobs.clean(row.type))
        flat += (blobs.stored(row.payload), row.created_at, row.operation_id, row.state)
        flat += (row.attempts, row.next_at, row.last_at, row.last_status)
        flat += (blobs.clean(row.last_error), row.ended_at, "", 0)
    session.write_rows("deliveries_add", flat)


def _disabled(session: Session, urls: Sequence[str]) -> dict[str, int]:
    wanted = list(dict.fromkeys(blobs.clean(url) for url in urls))
    return dict(session.listed("endpoints_among", wanted))


def _as_allowed(row: Delivery, stopped: dict[str, int]) -> Delivery:
    at = stopped.get(blobs.clean(row.url))
    if at is None or row.state != "pending":
        return row
    return msgspec.structs.replace(row, state="disabled", ended_at=at)


def due(database: Database, owner: str, now: int, *, until: int, limit: int) -> list[Delivery]:
    """Pending ones whose time has come, each taken by one owner until then."""
    with database.read() as session:
        if not session.all("deliveries_due", (now, now, 1)):
            return []
    with database.write() as session:
        rows = session.all("deliveries_due", (now, now, limit))
        session.run_after_list("deliveries_take", (owner, until), [row[0] for row in rows])
    return [_delivery(row) for row in rows]


def save(session: Session, row: Delivery) -> None:
    """How it stands after an attempt; one that was deleted meanwhile stays so."""
    row = _as_allowed(row, _disabled(session, [row.url]))
    session.run(
        "delivery_save",
        (
            blobs.clean(row.endpoint),
            blobs.clean(row.url),
            blobs.clean(row.type),
            blobs.stored(row.payload),
            row.state,
            row.attempts,
            row.next_at,
            row.last_at,
            row.last_status,
            blobs.clean(row.last_error),
            row.ended_at,
            blobs.clean(row.id),
        ),
    )


def one(session: Session, delivery_id: str) -> Delivery | None:
    """A delivery by its id."""
    row = session.one("delivery", (delivery_id,))
    return None if row is None else _delivery(row)


def newest(
    session: Session, *, state: DeliveryState | None, operation_id: str | None, limit: int
) -> list[Delivery]:
    """Newest first."""
    conditions, params = ["1 = 1"], list[Any]()
    if state is not None:
        conditions.append("state = ?")
        params.append(state)
    if operation_id is not None:
        conditions.append("operation_id = ?")
        params.append(operation_id)
    rows = session.composed("deliveries", [*params, limit], where=" AND ".join(conditions))
    return [_delivery(row) for row in rows]


# -- URLs --


def disable(session: Session, row: EndpointRow) -> None:
    """No further message goes there."""
    url = blobs.clean(row.url)
    session.run("endpoint_disable", (url, row.disabled_at, blobs.clean(row.reason)))
    session.run("deliveries_disable", (row.disabled_at, url))


def enable(session: Session, url: str) -> bool:
    """Take that back; ``False`` when it was not disabled."""
    if not session.run("endpoint_enable", (url,)):
        return False
    session.run("deliveries_enable", (url,))
    return True


def disabled(session: Session) -> list[EndpointRow]:
    """In the order in which they were disabled."""
    return [
        EndpointRow(url=row[0], disabled_at=row[1], reason=row[2])
        for row in session.all("endpoints_disabled")
    ]
