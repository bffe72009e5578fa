"""``tocsin webhooks``: what webhooks are told, and what became of it."""

from pathlib import Path
from typing import cast

import msgspec

from tocsin.cli import output
from tocsin.cli.context import Settings, one_of, opened, settings
from tocsin.cli.guard import OK
from tocsin.core.clock import SystemClock
from tocsin.dashboard import fmt
from tocsin.gateway.auth import load_secret
from tocsin.operations.webhooks import Webhooks
from tocsin.store.api import Store
from tocsin.store.operations_api import Delivery, DeliveryState

_STYLE = {"delivered": output.GOOD, "failed": output.BAD, "disabled": output.BAD}


def listed(
    config: Path | None, *, state: str | None, operation: str | None, limit: int, json: bool
) -> int:
    """A table of messages, or JSON: ``{"deliveries": [...], "disabled": [...]}``."""
    wanted = cast(DeliveryState, one_of("--state", state, DeliveryState)) if state else None
    with opened(settings(config).config) as store:
        rows = store.operations.deliveries(state=wanted, operation_id=operation, limit=limit)
        disabled = store.operations.disabled_endpoints()
    if json:
        output.print_json({"deliveries": [_plain(row) for row in rows], "disabled": disabled})
        return OK
    if rows:
        _print(rows)
    else:
        output.say("Nothing was told to any webhook. [webhooks.NAME] in tocsin.toml names one.")
    for endpoint in disabled:
        output.say(
            f"{fmt.visible(endpoint.url)} is told nothing since "
            f"{output.clock_time(endpoint.disabled_at)}: {fmt.visible(endpoint.reason)}. "
            "`tocsin webhooks enable URL` takes that back.",
            output.LOOK,
        )
    return OK


def _print(rows: list[Delivery]) -> None:
    now = SystemClock().now_us()
    made = output.table(
        ("message", "made", "type", "state", ">tries", "next", "last", "operation", "*to")
    )
    for row in rows:
        waits = row.state == "pending" and row.next_at > now
        made.add_row(
            output.cell(row.id),
            fmt.ago(row.created_at, now),
            output.cell(row.type),
            output.cell(row.state, _STYLE.get(row.state, "")),
            fmt.count(row.attempts),
            f"in {fmt.took(row.next_at - now)}" if waits else "",
            output.cell(str(row.last_status or row.last_error or "")),
            output.cell(row.operation_id or ""),
            output.cell(row.url or row.endpoint, output.QUIET),
        )
    output.show(made)


def _plain(row: Delivery) -> dict[str, object]:
    return {**msgspec.structs.asdict(row), "payload": row.payload.decode(errors="replace")}


def replay(config: Path | None, delivery_id: str, *, json: bool) -> int:
    """Make a message pending again. Raises ``NotFound``."""
    found = settings(config)
    with opened(found.config) as store:
        row = _webhooks(found, store).replay(delivery_id)
    if json:
        output.print_json(_plain(row))
    else:
        output.say(f"{row.id} is sent again by the next running Tocsin, under the same webhook-id.")
    return OK


def enable(config: Path | None, url: str, *, json: bool) -> int:
    """Tell an endpoint again. Raises ``NotFound`` when it was not given up."""
    found = settings(config)
    with opened(found.config) as store:
        _webhooks(found, store).enable(url)
    if json:
        output.print_json({"enabled": url})
    else:
        output.say(f"{fmt.visible(url)} is told again; what waited for it is sent.")
    return OK


def _webhooks(found: Settings, store: Store) -> Webhooks:
    config = found.config
    return Webhooks(
        store.operations,
        SystemClock(),
        lambda: config.webhooks,
        found.env,
        load_secret(Path(config.server.data_dir), found.env),
    )
