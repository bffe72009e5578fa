"""The outbox: a message is in the store when the tool goes on, and is sent from there."""

import asyncio
from collections.abc import Iterable
from typing import Any

from tocsin.app import App
from tocsin.core.errors import BadRequest, InputError
from tocsin.operations.webhooks import OUTBOX, message
from tocsin.sdk.scopes import operation
from tocsin.worker.deliveries import check_callback


async def put_out(app: App, to: str, kind: str, payload: Any, key: str | None) -> str:
    """Put a message into the outbox; returns its id."""
    webhook = app.config.webhooks.get(to)
    if webhook is None:
        await _may_reach(to, app.config.outbound.allow, list(app.config.webhooks))
    inside = operation()
    row = message(
        OUTBOX if webhook is None else to,
        to if webhook is None else webhook.url,
        kind,
        payload,
        app.clock.now_us(),
        key=key,
        operation_id=inside if inside and inside.startswith(("op_", "resp_")) else None,
    )
    await asyncio.to_thread(app.store.operations.add_deliveries, (row,))
    return row.id


async def _may_reach(to: str, allow: Iterable[str], names: list[str]) -> None:
    if "://" not in to:
        known = ", ".join(names) or "none"
        raise InputError(f"outbox: {to!r} is neither a URL nor a webhook of [webhooks] ({known})")
    try:
        await check_callback(to, allow)
    except BadRequest as error:
        raise InputError(f"outbox: {error.message.removeprefix('callback: ')}") from None
