"""What the dashboard needs from the rest of the process, and nothing more."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Protocol

import msgspec

from tocsin.core.call import Principal, Role
from tocsin.core.clock import Clock
from tocsin.core.errors import NotFound
from tocsin.core.interaction import Mode
from tocsin.core.ledger import Account, Limit
from tocsin.core.signals import Objective, Signal
from tocsin.core.stops import StopScope, Switchboard
from tocsin.core.supervision import Supervision
from tocsin.store.api import Store

Scope = MutableMapping[str, Any]


class UpstreamView(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream as the process sees it now. ``state`` is a word: ready, cooling down, failed."""

    name: str
    kind: str
    base_url: str
    models: tuple[str, ...] = ()
    state: str = "unknown"
    detail: str = ""
    """Why it is in that state; empty when there is nothing to say."""
    healthy: bool = True


class PolicyView(msgspec.Struct, frozen=True, kw_only=True):
    """One policy of the request path with its mode for all features and for single ones."""

    name: str
    summary: str
    mode: Mode
    failure: str
    """``open`` or ``closed``: what happens to a call when the policy crashes."""
    features: tuple[tuple[str, Mode], ...] = ()
    """Features with a mode of their own."""


class SettingsView(msgspec.Struct, frozen=True, kw_only=True):
    """The running configuration as the settings page shows it; secrets are already redacted."""

    version: str
    base_url: str
    """Where clients reach this process, without ``/v1``: ``http://127.0.0.1:4600``."""
    data_dir: str
    store: str
    """The store's kind and place, without a password."""
    config_path: str | None = None
    """The file that was read; ``None`` when there is none and defaults rule."""
    upstreams: tuple[UpstreamView, ...] = ()
    policies: tuple[PolicyView, ...] = ()
    supervision: tuple[tuple[str, Supervision], ...] = ()
    """How runs are supervised: first for all features (named by the empty string), then for each
    feature that has settings of its own."""
    limits: tuple[Limit, ...] = ()
    """The limits of the configuration, in its order."""
    config: tuple[tuple[str, str], ...] = ()
    """Setting → value, as ``tocsin check`` prints them, secrets redacted."""


class IssuedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A fresh key. ``secret`` exists here and on the page that shows it once, nowhere else."""

    id: str
    name: str
    secret: str


class IssueKey(Protocol):
    """Makes a key. Raises ``TocsinError`` or ``ValueError`` with a message for the form."""

    def __call__(
        self,
        name: str,
        role: Role,
        features: tuple[str, ...],
        expires: int | None,
        *,
        actor: str,
    ) -> IssuedKey: ...


class RevokeKey(Protocol):
    """Revokes a key; ``False`` when there is no such key or it is revoked already."""

    def __call__(self, key_id: str, *, actor: str) -> bool: ...


async def nobody(*_: Any) -> None:
    """Where no operation runs: nothing can be ended or answered."""
    raise NotFound("No operation runs here.")


class DashboardDeps(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a page may touch.

    ``store``, ``issue_key``, ``revoke_key`` and ``limits`` are called from worker threads; all
    else on the event loop, so it must not block.
    """

    store: Store
    clock: Clock
    settings: Callable[[], SettingsView]
    principal: Callable[[Scope], Principal]
    """Who asks. An anonymous principal is sent to ``/login``."""
    csrf: Callable[[Scope], str]
    """The token that forms of this session carry; never empty."""
    issue_key: IssueKey
    revoke_key: RevokeKey
    can_sign_out: Callable[[Scope], bool] = lambda _scope: False
    """Whether the rail offers a sign-out button (a POST to ``/logout``)."""
    switch: Switchboard | None = None
    """Where stops are given and lifted; without one the pages only show them."""
    limits: Callable[[], Sequence[Account]] = tuple
    """The ledger's accounts as they stand."""
    in_flight: Callable[[StopScope, str], int | None] = lambda _scope, _value: None
    """How many calls a stop would find under way now; ``None`` when that is not known."""
    catalogue: Callable[[], Mapping[str, Signal]] = dict
    """Every signal that there is, by name."""
    judges: Callable[[], Mapping[str, int]] = dict
    """The configured judges: their signals, and how many labels each needs to be shown."""
    objectives: Callable[[], Sequence[Objective]] = tuple
    """All objectives, as they are set now."""
    cancel_operation: Callable[[str, str], Awaitable[Any]] = nobody
    """End an operation, by whom. Raises ``NotFound``."""
    answer_operation: Callable[[str, bool, str, str], Awaitable[Any]] = nobody
    """A person's answer to a waiting operation: yes or no, a note, by whom. Raises ``NotFound``
    and ``InputError``."""
