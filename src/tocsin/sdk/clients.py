"""``wrap``: the official clients, of which only the transport is changed."""

import re
import sys
from typing import Any, NamedTuple

from tocsin.config.model import Config
from tocsin.core.call import Call, Headers, Principal
from tocsin.core.clock import Clock
from tocsin.core.errors import CallError
from tocsin.core.interaction import Dialect
from tocsin.core.redact import SECRET_HEADERS
from tocsin.providers.remote import label_of
from tocsin.runtime.intake import ROUTES, take_in
from tocsin.sdk.engine import Engine
from tocsin.sdk.runs import Run, current
from tocsin.sdk.sending import Route
from tocsin.sdk.transport import AsyncTransport, Running, SyncTransport

_LIBRARIES = ("httpx2", "httpx")
_HOSTS: dict[str, str] = {"openai": "api.openai.com", "anthropic": "api.anthropic.com"}
_CLIENTS = (
    ("openai", "OpenAI", False),
    ("openai", "AsyncOpenAI", True),
    ("anthropic", "Anthropic", False),
    ("anthropic", "AsyncAnthropic", True),
)
_DEPLOYMENT = re.compile(r"/deployments/[^/]+(?=/)")
"""How Azure's URLs name the model; the body names it as well."""


class Kind(NamedTuple):
    """What is known of a client: whose it is, and whether it is asynchronous."""

    dialect: Dialect
    is_async: bool


def kind_of(client: object) -> Kind:
    """Which client this is. Raises ``TypeError`` when it is none that can be wrapped."""
    for package, name, is_async in _CLIENTS:
        module = sys.modules.get(package)
        found = getattr(module, name, None)
        if found is not None and isinstance(client, found):
            return Kind("anthropic" if package == "anthropic" else "openai", is_async)
    loaded = [package for package in ("openai", "anthropic") if package in sys.modules]
    hint = "" if loaded else " Neither package is loaded: pip install openai, or anthropic."
    given = f"{type(client).__module__}.{type(client).__qualname__}"
    raise TypeError(
        "Tocsin.wrap takes an openai.OpenAI, openai.AsyncOpenAI, anthropic.Anthropic or "
        f"anthropic.AsyncAnthropic, not {given}.{hint}"
    )


def library_of(http: object) -> Any:
    """The HTTP library of a client: whichever it has loaded. Raises ``TypeError``."""
    for name in _LIBRARIES:
        module = sys.modules.get(name)
        if module is not None and isinstance(http, module.Client | module.AsyncClient):
            return module
    raise TypeError(
        f"The client sends through {type(http).__module__}.{type(http).__qualname__}, which is no "
        "client of httpx or httpx2; Tocsin cannot stand between."
    )


def wrap(client: Any, config: Config, clock: Clock, engine: Running, feature: str | None) -> Any:
    """The same client, sending through the runtime. ``feature``: of calls outside of any run."""
    kind = kind_of(client)
    http = client._client
    if isinstance(http._transport, SyncTransport | AsyncTransport):
        return client
    library = library_of(http)
    base = library.URL(str(client.base_url))
    route = Route(
        _upstream_name(config, base, kind.dialect),
        kind.dialect,
        label_of(base.host, kind.dialect),
        clock,
    )
    intake = _Intake(kind.dialect, base.path.rstrip("/"), feature)
    made = AsyncTransport if kind.is_async else SyncTransport
    transport = made(http, library, route, intake, engine)
    return client.with_options(http_client=_like(http, library, transport, kind))


def _like(http: Any, library: Any, transport: object, kind: Kind) -> Any:
    """An HTTP client with the settings of the app's own."""
    make = library.AsyncClient if kind.is_async else library.Client
    return make(
        transport=transport,
        auth=http.auth,
        params=http.params,
        headers=http.headers,
        cookies=http.cookies,
        timeout=http.timeout,
        follow_redirects=http.follow_redirects,
        max_redirects=http.max_redirects,
        event_hooks=http.event_hooks,
        base_url=http.base_url,
        trust_env=http.trust_env,
    )


def _upstream_name(config: Config, base: Any, dialect: Dialect) -> str:
    """The name of the configured upstream that is the same place, else the host."""
    authority = (base.host, base.port)
    for name, upstream in config.upstreams.items():
        if upstream.kind == dialect:
            url = type(base)(upstream.base_url or f"https://{_HOSTS[dialect]}")
            if (url.host, url.port) == authority:
                return name
    return base.host if base.port is None else f"{base.host}:{base.port}"


class _Intake:
    """Makes the calls of one wrapped client."""

    def __init__(self, dialect: Dialect, base: str, feature: str | None) -> None:
        self._dialect = dialect
        self._base = base
        self._feature = feature
        self._tails = [path for path, (owner, _) in ROUTES.items() if owner == dialect]

    def __call__(self, engine: Engine, request: Any, body: bytes) -> tuple[Call, CallError | None]:
        """The call of a request, inside the current run. Keys stay out of it."""
        run = current()
        raw: Headers = tuple((name.lower(), value) for name, value in request.headers.raw)
        engine.keep_secret(raw)
        headers = tuple(header for header in raw if header[0] not in SECRET_HEADERS)
        said = {name for name, _ in headers}
        headers += tuple(header for header in self._added(run) if header[0] not in said)
        call, refused = take_in(
            "sdk",
            request.method,
            self._path(request.url.path),
            request.url.query,
            headers,
            _PRINCIPAL,
            body,
            engine.app.clock.now_us(),
        )
        if run is None:
            return call, refused
        # Not as headers: names of people need not fit into one.
        changes: dict[str, object] = {}
        if run.end_user is not None and b"tocsin-user" not in said:
            changes["end_user"] = run.end_user
        if run.agent is not None and b"tocsin-agent" not in said:
            changes["agent"] = run.agent
        return (call.evolve(**changes) if changes else call), refused

    def _added(self, run: Run | None) -> list[tuple[bytes, bytes]]:
        """What the run says, as the headers that a client of the gateway would send."""
        feature = run.feature if run is not None else None
        added = []
        if feature or self._feature:
            added.append((b"tocsin-feature", (feature or self._feature or "").encode()))
        if run is not None:
            added.append((b"tocsin-run", run.id.encode()))
            if run.parent_id is not None:
                added.append((b"tocsin-parent-run", run.parent_id.encode()))
        return added

    def _path(self, path: str) -> str:
        """The path as the gateway would see it: below ``/v1``, whatever the base URL is."""
        rest = path
        if self._base and path.startswith(self._base + "/"):
            rest = path[len(self._base) :]
        rest = _DEPLOYMENT.sub("", rest)
        return rest if rest.startswith("/v1/") else "/v1" + rest


_PRINCIPAL = Principal()
