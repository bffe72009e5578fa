"""What every page endpoint gets: the request, who asks, and one way to answer."""

import hmac
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar
from urllib.parse import parse_qsl

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tocsin.core.call import Principal, Role
from tocsin.core.errors import Forbidden, InputError
from tocsin.dashboard import render
from tocsin.dashboard.deps import DashboardDeps
from tocsin.store.api import Store

P = ParamSpec("P")
T = TypeVar("T")

MAX_FORM = 64 * 1024
"""Bytes of a form that are read; no form of ours comes near."""

RANKS: dict[Role, int] = {"anonymous": 0, "caller": 1, "viewer": 2, "operator": 3, "admin": 4}


class View:
    """One request to one page."""

    __slots__ = ("deps", "now", "principal", "request")

    def __init__(self, request: Request, deps: DashboardDeps, principal: Principal) -> None:
        self.request = request
        self.deps = deps
        self.principal = principal
        self.now = deps.clock.now_us()

    def may(self, role: Role) -> bool:
        """Whether the asker's role reaches ``role``."""
        return RANKS[self.principal.role] >= RANKS[role]

    async def read(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run blocking work (the store, a page's own computing) off the event loop."""
        return await anyio.to_thread.run_sync(partial(work, *args, **kwargs))

    async def page(self, template: str, status: int = 200, **context: Any) -> Response:
        """Render a template off the event loop: a large page must not hold up calls."""
        return await self.read(render.page, template, {**self.common(), **context}, status)

    def common(self) -> dict[str, Any]:
        """What the frame of every page shows."""
        return {
            "now": self.now,
            "path": self.request.scope["path"],
            "principal": self.principal,
            "may_view": self.may("viewer"),
            "may_operate": self.may("operator"),
            "may_admin": self.may("admin"),
            "csrf": self.deps.csrf(self.request.scope),
            "can_sign_out": self.deps.can_sign_out(self.request.scope),
            "version": self.deps.settings().version,
            "base_url": self.deps.settings().base_url,
        }

    async def form(self) -> dict[str, str]:
        """The fields of a form that our own page posted.

        Raises ``Forbidden`` when the form comes from elsewhere, ``InputError`` when it is too big.
        """
        self._same_origin()
        body = bytearray()
        async for chunk in self.request.stream():
            body += chunk
            if len(body) > MAX_FORM:
                raise InputError("The form is too large. Shorten its fields.")
        fields = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        sent, expected = fields.get("csrf", ""), self.deps.csrf(self.request.scope)
        if not expected or not hmac.compare_digest(sent.encode(), expected.encode()):
            raise Forbidden("This form has expired. Go back, reload the page and send it again.")
        return fields

    def _same_origin(self) -> None:
        """Browsers say where a form comes from; one that says nothing is no browser of ours."""
        headers = self.request.headers
        site = headers.get("sec-fetch-site")
        if site is not None:
            allowed = site == "same-origin"
        else:
            origin = headers.get("origin", "")
            allowed = origin.partition("://")[2] == headers.get("host", "\0")
        if not allowed:
            raise Forbidden(
                "This form was sent from another site. Open the settings page and use its form."
            )


def key_names(store: Store) -> dict[str, str]:
    """Key id → the name that it was issued under."""
    return {row.id: row.name for row in store.keys()}  # noqa: SIM118 - a store is no dict


Endpoint = Callable[[View], Awaitable[Response]]


class PageRoute(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table of pages."""

    path: str
    methods: tuple[str, ...] = ("GET",)
    role: Role
    """The least that may use it."""
    endpoint: Endpoint
    name: str
