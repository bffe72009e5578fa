"""The dashboard as it is served: real routes, real SQLite store, real HTTP; the clock is ours."""

import http.client
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dashboard_world import NOW
from tocsin import dashboard
from tocsin.config.model import StoreSettings
from tocsin.core.call import Principal, Role
from tocsin.core.clock import SystemClock
from tocsin.core.errors import BadRequest
from tocsin.core.interaction import Entry
from tocsin.core.ledger import Account, Limit
from tocsin.core.operations import Answered
from tocsin.core.signals import Objective, Signal
from tocsin.core.supervision import Supervision
from tocsin.operations import Operations, Settings
from tocsin.runtime.stops import Switch
from tocsin.store import KeyRow, Store, open_store

SECRET = "tk-0123456789abcdefghijABCDEFGHIJ0123456789"


class FixedClock(SystemClock):
    """Always the same moment."""

    def now_us(self) -> int:
        return NOW


@dataclass
class Site:
    """A running dashboard."""

    port: int
    store: Store
    role: Role = "admin"
    issued: list[tuple[object, ...]] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)
    supervision: tuple[tuple[str, Supervision], ...] = ()
    in_flight: int | None = None
    catalogue: Mapping[str, Signal] = field(default_factory=dict)
    objectives: tuple[Objective, ...] = ()
    judges: Mapping[str, int] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, **headers: str) -> "Answer":
        return self._send("GET", path, None, headers)

    def post(self, path: str, form: dict[str, str], **headers: str) -> "Answer":
        headers = {"content-type": "application/x-www-form-urlencoded"} | headers
        return self._send("POST", path, urlencode(form), headers)

    def _send(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> "Answer":
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            named = {k.replace("_", "-"): v for k, v in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            found = {k.lower(): v for k, v in answer.getheaders()}
            return Answer(answer.status, found, answer.read().decode())
        finally:
            connection.close()


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    text: str


def operations(store: Store) -> Operations:
    """An engine that runs nothing: what it writes is taken up by those that do."""

    async def nothing(*_: object) -> Answered:
        raise AssertionError("nobody makes calls here")

    return Operations(store.operations, FixedClock(), settings=Settings, kinds=(), ask=nothing)


def _deps(site: Site) -> dashboard.DashboardDeps:
    def issue(
        name: str, role: Role, features: tuple[str, ...], expires: int | None, *, actor: str
    ) -> dashboard.IssuedKey:
        if name == "taken":
            raise BadRequest("name: taken already")
        site.issued.append((name, role, features, expires, actor))
        return dashboard.IssuedKey(id="key_new", name=name, secret=SECRET)

    def revoke(key_id: str, *, actor: str) -> bool:
        site.revoked.append(key_id)
        return True

    def limits() -> tuple[Limit, ...]:
        return tuple({account.limit.name: account.limit for account in site.accounts}.values())

    base = dashboard.SettingsView(
        version="0.1.0",
        base_url=f"http://127.0.0.1:{site.port}",
        data_dir="/data",
        store="SQLite",
        upstreams=(
            dashboard.UpstreamView(name="openai", kind="openai", base_url="", state="ready"),
            dashboard.UpstreamView(
                name="spare",
                kind="openai",
                base_url="http://10.0.0.9/v1",
                state="cooling down",
                detail="5 failures in a row",
                healthy=False,
            ),
        ),
        policies=(
            dashboard.PolicyView(
                name="identity", summary="Finds the run.", mode="enforce", failure="open"
            ),
            dashboard.PolicyView(
                name="stops", summary="Refuses stopped calls.", mode="enforce", failure="closed"
            ),
        ),
    )
    engine = operations(site.store)

    async def answer(operation_id: str, approved: bool, note: str, by: str) -> None:
        await engine.answer(operation_id, approved=approved, note=note, by=by)

    return dashboard.DashboardDeps(
        cancel_operation=engine.cancel,
        answer_operation=answer,
        store=site.store,
        clock=FixedClock(),
        settings=lambda: msgspec.structs.replace(
            base, supervision=site.supervision, limits=limits()
        ),
        principal=lambda _: (
            Principal()
            if site.role == "anonymous"
            else Principal(key_id="key_0", name="laptop", role=site.role)
        ),
        csrf=lambda _: "form-token",
        issue_key=issue,
        revoke_key=revoke,
        switch=Switch(site.store, FixedClock()),
        limits=lambda: site.accounts,
        in_flight=lambda _scope, _value: site.in_flight,
        catalogue=lambda: site.catalogue,
        objectives=lambda: site.objectives,
        judges=lambda: site.judges,
    )


@contextmanager
def running(data_dir: Path, entries: Sequence[Entry]) -> Iterator[Site]:
    """A dashboard over a fresh store with these entries, on a free port."""
    store = open_store(StoreSettings(), data_dir, FixedClock())
    for at in range(0, len(entries), 500):
        store.append(entries[at : at + 500])
    store.add_key(
        KeyRow(id="key_0", name="laptop", digest=b"0", role="admin", created_at=NOW, hint="a3Fz")
    )
    while store.index():
        pass
    listener = socket.create_server(("127.0.0.1", 0))
    site = Site(listener.getsockname()[1], store)
    deps = _deps(site)

    async def missing(request: Request, _: Exception) -> Response:
        return await dashboard.not_found(request, deps)

    async def login(_: Request) -> Response:
        return dashboard.login_response("This key is unknown.")

    app = Starlette(
        routes=[*dashboard.routes(deps), Route("/login", login)], exception_handlers={404: missing}
    )
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield site
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
        store.close()
