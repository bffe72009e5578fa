"""The site as it is served: real routes, real store, real HTTP; only clock and traffic are ours."""

import base64
import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from tocsin import dashboard
from tocsin.config.model import LedgerSettings, StoreSettings
from tocsin.config.operations import WebhookSettings
from tocsin.core.call import Principal
from tocsin.core.clock import SystemClock
from tocsin.core.errors import ConfigError
from tocsin.core.interaction import Attempt, Blob, Entry, Interaction, Usage
from tocsin.core.ledger import Limit
from tocsin.core.messages import chain, content_hash, parse_message
from tocsin.core.operations import Answered, Kind
from tocsin.gateway import admin, health, metrics, otlp, signin
from tocsin.gateway.access import (
    FRONT,
    SIGN_IN,
    Access,
    RouteRole,
    csrf_in,
    page_roles,
    principal_in,
    session_in,
)
from tocsin.gateway.auth import Issued, Keyring
from tocsin.gateway.hosts import HostCheck
from tocsin.gateway.sessions import LoginCodes, Sessions
from tocsin.gateway.site import site
from tocsin.ledger.ledger import Ledger
from tocsin.operations import Operations
from tocsin.operations import Settings as WorkSettings
from tocsin.operations.webhooks import Webhooks
from tocsin.providers import Pricer
from tocsin.runtime.stops import Switch
from tocsin.store import Store, open_store
from tocsin.worker.deliveries import check_callback
from tocsin.worker.evaluating import catalogue_of

CATALOGUE = catalogue_of(())
HOOK = WebhookSettings(url="https://hooks.example/in", secret_env="HOOK_SECRET")
HOOK_ENV = {"HOOK_SECRET": "whsec_" + base64.b64encode(b"h" * 32).decode()}
SECRET = b"0123456789abcdef0123456789abcdef"
MAX_BODY = 256 * 1024


class Clock(SystemClock):
    """The machine's clock, which a test can move forward."""

    def __init__(self) -> None:
        self.ahead_us = 0

    def now_us(self) -> int:
        return super().now_us() + self.ahead_us

    def monotonic_us(self) -> int:
        return super().monotonic_us() + self.ahead_us

    def advance(self, seconds: float) -> None:
        self.ahead_us += int(seconds * 1_000_000)


@dataclass
class Reply:
    """One HTTP answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((v for k, v in self.headers if k.lower() == name), None)

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Upstream:
    """What the admin API shows of one upstream."""

    name: str
    kind: str = "openai"
    base_url: str = "https://api.openai.com/v1"
    models: tuple[str, ...] = ("*",)
    state: str = "ready"
    detail: str = ""
    healthy: bool = True


LIMITS = (
    Limit(name="daily", per="day", nano_usd=10_000_000_000, calls=100),
    Limit(name="per-run", scope="run", per="run", tokens=1000),
)


class ShortWait(Switch):
    """The switchboard of the product; nobody waits longer than a test should."""

    longest_s = 0.1

    async def wait(self, stop_id: str, seconds: float) -> bool:
        return await super().wait(stop_id, min(seconds, self.longest_s))


@dataclass
class Site:
    """A running site and everything behind it."""

    data_dir: Path
    clock: Clock
    store: Store
    keyring: Keyring
    sessions: Sessions
    codes: LoginCodes
    operations: Operations
    webhooks: Webhooks
    metrics: metrics.Metrics
    routes: list[BaseRoute]
    table: tuple[RouteRole, ...]
    ingested: list[tuple[bytes, str, str | None, str, Principal]] = field(default_factory=list)
    behind: bool = False
    trouble: str | None = None
    broken_config: bool = False
    port: int = 0
    switch: Switch = field(init=False)
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.switch = ShortWait(self.store, self.clock)
        self.ledger = Ledger(
            self.store.ledger,
            self.data_dir / "ledger",
            self.clock,
            limits=LIMITS,
            settings=LedgerSettings(),
            pricer=Pricer({}),
            alert=lambda _alert: None,
        )

    def request(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        session: str | None = None,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        json_body: Any = None,
        host: str | None = None,
    ) -> Reply:
        """One request on a connection of its own. ``key`` as bearer, ``session`` as cookie."""
        pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        if key is not None:
            pairs.append(("authorization", f"Bearer {key}"))
        if session is not None:
            pairs.append(("cookie", f"{self.sessions.cookie_name}={session}"))
        if json_body is not None:
            body = json.dumps(json_body).encode()
            pairs.append(("content-type", "application/json"))
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            if host != "":
                connection.putheader("host", host or f"127.0.0.1:{self.port}")
            for name, value in pairs:
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("content-length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return Reply(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()

    def key(self, role: str, **more: Any) -> Issued:
        """A new key of this role."""
        return self.keyring.issue(f"a {role}", role, actor="test", **more)  # type: ignore[arg-type]

    def sign_in(self, role: str = "admin") -> str:
        """The cookie of a session of a new key."""
        return self.sessions.start(self.key(role).row.id)


def _dashboard_deps(found: Site) -> dashboard.DashboardDeps:
    def issue(name: str, role: Any, features: Any, expires: Any, *, actor: str) -> Any:
        made = found.keyring.issue(name, role, features=features, expires_at=expires, actor=actor)
        return dashboard.IssuedKey(id=made.row.id, name=name, secret=made.secret)

    return dashboard.DashboardDeps(
        store=found.store,
        clock=found.clock,
        settings=lambda: dashboard.SettingsView(
            version="1", base_url="http://127.0.0.1", data_dir="/d", store="sqlite"
        ),
        principal=principal_in,
        csrf=csrf_in,
        issue_key=issue,
        revoke_key=found.keyring.revoke,
        can_sign_out=lambda scope: session_in(scope) is not None,
    )


async def no_model(*_: Any) -> Answered:
    """For a site before which no model is."""
    raise AssertionError("no model is asked here")


def _site(data_dir: Path, *, require_key: bool, kinds: Sequence[Kind]) -> Site:
    clock = Clock()
    store = open_store(StoreSettings(), data_dir, clock)
    keyring = Keyring(store, SECRET, clock, require_key=require_key)
    webhooks = Webhooks(store.operations, clock, lambda: {"ours": HOOK}, HOOK_ENV, SECRET)
    found = Site(
        data_dir=data_dir,
        clock=clock,
        store=store,
        keyring=keyring,
        sessions=Sessions(keyring, SECRET, clock),
        codes=LoginCodes(data_dir, clock),
        operations=Operations(
            store.operations,
            clock,
            settings=lambda: WorkSettings(poll_s=0.05),
            kinds=kinds,
            ask=no_model,
            told=webhooks.told,
        ),
        webhooks=webhooks,
        metrics=metrics.Metrics(),
        routes=[],
        table=(),
    )

    async def reload() -> admin.Reloaded:
        if found.broken_config:
            raise ConfigError("tocsin.toml, line 3: server.port: 99999 is no port")
        return admin.Reloaded(changed=("prices",), needs_restart=("server",))

    async def ingest(*arguments: Any) -> tuple[int, int, str]:
        found.ingested.append(arguments)
        return 1, 0, ""

    api = admin.AdminDeps(
        store=store,
        keyring=keyring,
        clock=clock,
        upstreams=lambda: [Upstream("openai")],
        config_view=lambda: {"server": {"host": "127.0.0.1"}},
        reload=reload,
        switch=found.switch,
        ledger=found.ledger,
        catalogue=lambda: CATALOGUE,
        operations=found.operations,
        webhooks=webhooks,
        check_callback=check_callback,
    )
    traces = otlp.OtlpDeps(ingest=ingest, behind=lambda: found.behind, max_body_bytes=MAX_BODY)
    desk = signin.routes(
        keyring=keyring,
        sessions=found.sessions,
        codes=found.codes,
        login_page=dashboard.login_response,
    )
    found.routes = [
        *health.routes(lambda: found.trouble),
        *metrics.routes(found.metrics),
        *otlp.routes(traces),
        *admin.routes(api),
        *desk,
        *dashboard.routes(_dashboard_deps(found)),
    ]
    found.table = (*FRONT, *SIGN_IN, *admin.table(), *page_roles(dashboard.ROUTES))
    return found


@contextmanager
def running(
    data_dir: Path,
    *,
    require_key: bool = False,
    open_metrics: bool = False,
    kinds: Sequence[Kind] = (),
) -> Iterator[Site]:
    """A site that answers on a free port of 127.0.0.1, and works on these kinds of operations."""
    found = _site(data_dir, require_key=require_key, kinds=kinds)
    app = site(
        access=Access(found.keyring, found.sessions, open_metrics=open_metrics),
        hosts=HostCheck("127.0.0.1", ["tocsin.example:8443", "plain.example"]),
        routes=found.routes,
        table=found.table,
    )
    settings = uvicorn.Config(
        _living(app, found.operations),
        host="127.0.0.1",
        port=0,
        log_config=None,
        lifespan="on",
        loop="asyncio",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.005)
        found.port = server.servers[0].sockets[0].getsockname()[1]
        yield found
    finally:
        server.should_exit = True
        thread.join(10)
        found.store.close()


def _living(app: ASGIApp, operations: Operations) -> ASGIApp:
    """The app, whose operations live as long as its server."""

    async def living(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        await receive()
        await operations.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await operations.stop(0)
        await send({"type": "lifespan.shutdown.complete"})

    return living


def entry(number: int, *, started_at: int, text: str = "hello", **changes: Any) -> Entry:
    """One recorded call with its content; the same number is the same call."""
    asked = parse_message(json.dumps({"role": "user", "content": f"{text} {number}"}).encode())
    said = parse_message(json.dumps({"role": "assistant", "content": text}).encode())
    nodes = chain((asked, said))
    params = b'{"model":"gpt-4o-mini","temperature":0}'
    fields: dict[str, Any] = {
        "id": f"call_{number:06d}",
        "source": "gateway",
        "dialect": "openai",
        "operation": "chat",
        "path": "/v1/chat/completions",
        "started_at": started_at,
        "duration_us": 1_000,
        "outcome": "complete",
        "feature": "support",
        "run_id": f"run_{number % 3}",
        "run_source": "new",
        "request_model": "gpt-4o-mini",
        "upstream": "openai",
        "usage": Usage(input_tokens=10, output_tokens=5, source="reported"),
        "cost_nano_usd": 4_200_000,
        "cost_source": "listed",
        "attempts": (
            Attempt(
                number=1,
                upstream="openai",
                provider="openai",
                model="gpt-4o-mini",
                started_at=started_at,
                duration_us=900,
                cost_nano_usd=4_200_000,
            ),
        ),
        "input_node": nodes[0].hash,
        "output_node": nodes[1].hash,
        "input_messages": 1,
        "params": content_hash(params),
    }
    return Entry(
        interaction=Interaction(**{**fields, **changes}),
        input=(asked,),
        nodes=nodes,
        output=said,
        blobs=(Blob(content_hash(params), params),),
    )
