"""What every part of the admin API stands on: its dependencies, its operations, who acts."""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from starlette.responses import Response

from tocsin.core.call import Principal
from tocsin.core.clock import Clock
from tocsin.core.ledger import Account, Amounts
from tocsin.core.signals import Signal
from tocsin.core.stops import Switchboard
from tocsin.gateway import admin_models as m
from tocsin.gateway.access import Level
from tocsin.gateway.auth import Keyring
from tocsin.gateway.openapi import Operation
from tocsin.operations import Operations
from tocsin.operations.webhooks import Webhooks
from tocsin.store.api import Store


class Reloaded(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload changed: settings by dotted name."""

    changed: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()


class WaitingSwitchboard(Switchboard, Protocol):
    """A switchboard that tells when a stop ends."""

    async def wait(self, stop_id: str, seconds: float) -> bool:
        """Whether a stop has ended (or is none), once it has or the time is up."""
        ...


class Limits(Protocol):
    """The ledger as the API needs it. Used from worker threads; both raise ``StoreError``."""

    def accounts(
        self,
        *,
        limit: str | None = None,
        value: str | None = None,
        run_id: str | None = None,
        most: int = 500,
    ) -> Sequence[Account]:
        """Accounts as they stand, all processes of the store together; ``most`` of each limit."""
        ...

    def add(
        self, limit_name: str, value: str, run_id: str | None, amounts: Amounts, by: str
    ) -> Account:
        """Add to one account's limit, and write down who did. Raises ``NotFound`` for a limit there
        is none of, ``InputError`` for an account that cannot be."""
        ...


class AdminDeps(msgspec.Struct, frozen=True, kw_only=True):
    """What the admin API touches. ``store``, ``keyring`` and ``ledger`` are used from worker
    threads, ``switch`` on the event loop."""

    store: Store
    keyring: Keyring
    clock: Clock
    upstreams: Callable[[], Sequence[Any]]
    """Objects with the attributes of ``UpstreamView``, as the process sees them now."""
    config_view: Callable[[], Mapping[str, Any]]
    """The running configuration as plain JSON values, secrets redacted."""
    reload: Callable[[], Awaitable[Reloaded]]
    """Reads the configuration again. Raises ``ConfigError``; then nothing has changed."""
    switch: WaitingSwitchboard
    ledger: Limits
    catalogue: Callable[[], Mapping[str, Signal]]
    """Every signal that there is, by name."""
    operations: Operations
    """On the event loop."""
    webhooks: Webhooks
    check_callback: Callable[[str], Awaitable[None]]
    """Raises ``BadRequest`` for a URL that nothing may be sent to."""


def actor_of(principal: Principal) -> str:
    """How the audit log names somebody: the key's name and its id."""
    return f"{principal.name} ({principal.key_id})" if principal.key_id else principal.name


def readable(data: bytes) -> Any:
    """Recorded bytes as JSON, verbatim; as a text when they are not clean JSON.

    Nothing is built from them: recorded content is hostile, and a megabyte of brackets or a number
    of a million digits is passed on as what it is.
    """
    try:
        data.decode()
        return msgspec.json.decode(data, type=msgspec.Raw)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return data.decode(errors="replace")


def offer(
    path: str, name: str, summary: str, args: type[m.Args], run: Any, **more: Any
) -> Operation:
    """An operation whose answer is what ``run`` is annotated to return; a viewer's ``GET`` unless
    ``more`` says otherwise. A ``Response`` is one of server-sent events."""
    result = inspect.signature(run).return_annotation
    role: Level = more.pop("role", "viewer")
    return Operation(
        method=more.pop("method", "GET"),
        path=path,
        name=name,
        summary=summary,
        role=role,
        args=args,
        result=None if issubclass(result, Response) else result,
        run=run,
        **more,
    )
