"""The gate: which role each route needs. Deny by default.

The decision is taken on the route object that the router matched, never on a URL that is parsed a
second time. A route that stands in no table cannot be served: ``guard`` refuses it at start.
"""

from collections.abc import Iterable, MutableMapping
from typing import Any, Literal, Protocol
from urllib.parse import parse_qs, quote

import msgspec
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tocsin.config.model import Config
from tocsin.core.call import Headers, Principal, Role
from tocsin.core.credentials import PREFIX
from tocsin.core.errors import CallError, Forbidden, Unauthenticated
from tocsin.gateway.auth import ANONYMOUS, RANKS, Keyring, is_loopback, same_origin
from tocsin.gateway.problems import problem, problem_of
from tocsin.gateway.sessions import Session, Sessions

Level = Literal["public", "caller", "viewer", "operator", "admin"]
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
ALL_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
MAX_FORM = 64 * 1024


class RouteRole(msgspec.Struct, frozen=True, kw_only=True):
    """The least role that may use a route. ``public`` asks for no credential at all."""

    path: str
    methods: tuple[str, ...]
    role: Level
    page: bool = False
    """A page for people: without a session it leads to ``/login`` instead of answering 401."""


FRONT: tuple[RouteRole, ...] = (
    RouteRole(path="/healthz", methods=("GET",), role="public"),
    RouteRole(path="/readyz", methods=("GET",), role="public"),
    RouteRole(path="/metrics", methods=("GET",), role="viewer"),
    RouteRole(path="/v1/traces", methods=("POST",), role="caller"),
    RouteRole(path="/v1/{path:path}", methods=ALL_METHODS, role="caller"),
)
"""What is neither a page nor ``/api``. Calls (``/v1``) are served beside the gate, under this."""

SIGN_IN: tuple[RouteRole, ...] = (
    RouteRole(path="/login", methods=("GET", "POST"), role="public", page=True),
    RouteRole(path="/logout", methods=("POST",), role="viewer", page=True),
)
"""The two routes that begin and end a session."""


class PageLine(Protocol):
    """What the table of pages says about one of them."""

    @property
    def path(self) -> str: ...
    @property
    def methods(self) -> tuple[str, ...]: ...
    @property
    def role(self) -> Role: ...


def page_roles(lines: Iterable[PageLine]) -> tuple[RouteRole, ...]:
    """The dashboard's own table of pages in the gate's terms."""
    return tuple(
        RouteRole(
            path=line.path,
            methods=line.methods,
            role="public" if line.role == "anonymous" else line.role,
            page=True,
        )
        for line in lines
    )


def principal_in(scope: MutableMapping[str, Any]) -> Principal:
    """Who asks, as the gate found; anonymous on public routes."""
    principal = scope.get("state", {}).get("principal", ANONYMOUS)
    return principal if isinstance(principal, Principal) else ANONYMOUS


def csrf_in(scope: MutableMapping[str, Any]) -> str:
    """The token that forms of this session carry; ``none`` where there is no session."""
    return str(scope.get("state", {}).get("csrf", "none"))


def session_in(scope: MutableMapping[str, Any]) -> Session | None:
    """The session of this request; ``None`` when it came with a key."""
    session = scope.get("state", {}).get("session")
    return session if isinstance(session, Session) else None


class Access:
    """Decides who may use a route, and gives the handler the principal it decided on."""

    def __init__(self, keyring: Keyring, sessions: Sessions, *, open_metrics: bool = False) -> None:
        self.keyring = keyring
        self.sessions = sessions
        self._open_metrics = open_metrics

    @classmethod
    def of(cls, config: Config, keyring: Keyring, sessions: Sessions) -> "Access":
        """The gate that a configuration asks for: ``/metrics`` is open on loopback."""
        is_open = config.auth.open_metrics or is_loopback(config.server.host)
        return cls(keyring, sessions, open_metrics=is_open)

    async def authorize(self, rule: RouteRole, scope: Scope) -> tuple[Principal, Session | None]:
        """Who asks, when that is enough for this route.

        Raises ``Unauthenticated`` (nobody), ``Forbidden`` (somebody who may not).
        """
        if rule.role == "public" or (rule.path == "/metrics" and self._open_metrics):
            return ANONYMOUS, None
        headers: Headers = scope["headers"]
        session = None
        if rule.role == "caller":
            principal = await self.keyring.authenticate(headers, peer=peer_of(scope))
            return principal, None
        if _has_own_key(headers):
            principal = await self.keyring.authenticate(headers)
        else:
            session = await self.sessions.read(headers)
            if session is None:
                raise Unauthenticated(_SIGN_IN)
            principal = session.principal
        if RANKS[principal.role] < RANKS[rule.role]:
            raise Forbidden(
                f"this needs the role {rule.role}; the key {principal.name!r} is {principal.role}",
                code="role_too_low",
            )
        return principal, session

    def admit(self, scope: Scope, principal: Principal, session: Session | None) -> None:
        """Tell the handler who asks (see ``principal_in``, ``csrf_in``, ``session_in``)."""
        state = scope.setdefault("state", {})
        state["principal"] = principal
        if session is not None:
            state["session"] = session
            state["csrf"] = self.sessions.csrf(session)

    def guard(
        self, routes: Iterable[BaseRoute], table: Iterable[RouteRole]
    ) -> "list[GuardedRoute]":
        """The routes behind the gate. Raises ``ValueError`` for one that has no role."""
        roles = _by_path(table)
        guarded = []
        for route in routes:
            path, methods = shape_of(route)
            rules = roles.get(path, {})
            missing = sorted(methods - rules.keys())
            if not rules or missing:
                raise ValueError(f"route {' '.join(missing) or '*'} {path} has no role")
            guarded.append(GuardedRoute(route, path, rules, self))
        served: dict[str, set[str]] = {}
        for route in guarded:
            served.setdefault(route.path, set()).update(shape_of(route.inner)[1])
        for route in guarded:
            route.served = frozenset(served[route.path])
        return guarded

    async def check_forgery(self, session: Session, scope: Scope, receive: Receive) -> Receive:
        """Prove that a changing request of a session was meant; gives back the body read for it.

        The page must be ours (``Sec-Fetch-Site``, ``Origin``) and the session's token must come
        along, as header ``x-csrf-token`` or form field ``csrf``. Raises ``Forbidden``.
        """
        headers: Headers = scope["headers"]
        if not same_origin(headers):
            raise Forbidden("this request came from another site's page", code="foreign_origin")
        token = _first(headers, b"x-csrf-token")
        if token is None and (_first(headers, b"content-type") or b"").startswith(
            b"application/x-www-form-urlencoded"
        ):
            body, receive = await _buffered(receive)
            fields = parse_qs(body.decode("latin-1"), max_num_fields=100)
            token = fields.get("csrf", [""])[0].encode("latin-1", "replace")
        if token is None or not self.sessions.check_csrf(session, token.decode("latin-1")):
            raise Forbidden(
                "the form's token is missing or belongs to another sign-in; reload the page",
                code="csrf",
            )
        return receive


class GuardedRoute(BaseRoute):
    """A route that nobody passes without the role it needs."""

    def __init__(
        self, inner: BaseRoute, path: str, rules: dict[str, RouteRole], access: Access
    ) -> None:
        self.inner = inner
        self.path = path
        self.rules = rules
        self.served: frozenset[str] = frozenset(rules)
        self._access = access

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return self.inner.matches(scope)

    def url_path_for(self, name: str, /, **path_params: Any) -> Any:
        return self.inner.url_path_for(name, **path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        # A method that nobody serves needs the role of some other method here: what a path allows
        # is told only to those who may use it.
        rule = self.rules.get(method) or next(iter(self.rules.values()))
        try:
            principal, session = await self._access.authorize(rule, scope)
            if session is not None and method not in SAFE_METHODS and method in self.served:
                receive = await self._access.check_forgery(session, scope, receive)
        except CallError as error:
            await self._refuse(error, rule, scope, receive, send)
            return
        if method not in self.served:
            await self._method_not_allowed(method)(scope, receive, send)
            return
        self._access.admit(scope, principal, session)
        await self.inner.handle(scope, receive, send)

    def _method_not_allowed(self, method: str) -> Response:
        served = set(self.served)
        if "GET" in served:
            served.add("HEAD")
        allow = ", ".join(sorted(served))
        detail = f"{self.path} does not take {method[:20]}; it takes {allow}"
        return problem(405, "method_not_allowed", detail, headers={"allow": allow})

    async def _refuse(
        self, error: CallError, rule: RouteRole, scope: Scope, receive: Receive, send: Send
    ) -> None:
        response: Response = problem_of(error)
        if rule.page and error.status == 401 and scope["method"] in ("GET", "HEAD"):
            target = quote(scope["path"], safe="/")
            query = scope.get("query_string", b"").decode("latin-1")
            target = quote(f"{target}?{query}" if query else target, safe="/")
            where = "/login" if target == "/" else f"/login?next={target}"
            response = RedirectResponse(where, 303, headers={"cache-control": "no-store"})
        await response(scope, receive, send)


def _by_path(table: Iterable[RouteRole]) -> dict[str, dict[str, RouteRole]]:
    """Path → method → rule. Raises ``ValueError`` for a method that has two."""
    roles: dict[str, dict[str, RouteRole]] = {}
    for rule in table:
        methods = roles.setdefault(rule.path, {})
        for method in rule.methods:
            if method in methods:
                raise ValueError(f"{method} {rule.path} has two roles")
            methods[method] = rule
    return roles


def shape_of(route: BaseRoute) -> tuple[str, set[str]]:
    """A route's path pattern and the methods it serves, ``HEAD`` aside.

    Raises ``ValueError`` for a kind of route that the gate cannot judge.
    """
    if isinstance(route, Mount):
        return f"{route.path}/{{path:path}}", {"GET"}
    if isinstance(route, Route):
        if route.methods is None:
            raise ValueError(f"route {route.path} must say which methods it serves")
        return route.path, set(route.methods) - {"HEAD"}
    raise ValueError(f"{type(route).__name__} is no route that the gate can judge")


def peer_of(scope: Scope) -> str:
    """The caller's address; empty on a Unix socket."""
    client = scope.get("client")
    return client[0] if client else ""


def _has_own_key(headers: Headers) -> bool:
    """Whether any credential header holds a key of ours (or tries to)."""
    for name, value in headers:
        if name == b"tocsin-key":
            return True
        if name in (b"authorization", b"x-api-key") and PREFIX in value:
            return True
    return False


def _first(headers: Headers, wanted: bytes) -> bytes | None:
    return next((value for name, value in headers if name == wanted), None)


async def _buffered(receive: Receive) -> tuple[bytes, Receive]:
    """A small body, and a ``receive`` that gives it once more. Raises ``Forbidden`` past 64 KiB."""
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_FORM:
            raise Forbidden("a form of this page is never that large", status=413, code="too_large")
        more = message.get("more_body", False)
    body = b"".join(parts)
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return body, again


SECURITY_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""Added to every answer that does not set them itself (pages set a policy of their own)."""


def with_security_headers(app: ASGIApp) -> ASGIApp:
    """The same app, each of whose answers carries ``SECURITY_HEADERS``."""

    async def secured(scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                present = {name.lower() for name, _ in headers}
                headers += [pair for pair in SECURITY_HEADERS if pair[0] not in present]
                message = {**message, "headers": headers}
            await send(message)

        await app(scope, receive, sending if scope["type"] == "http" else send)

    return secured


_SIGN_IN = (
    "sign in with the link that `tocsin up` prints, or send a viewer or admin key as "
    "`Authorization: Bearer tk-…`"
)
