"""Puts the front doors together: an ``App`` behind the gateway, the admin API and the pages."""

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

import tocsin
from tocsin.app import App, secrets_of, signals_known
from tocsin.cli.context import Settings
from tocsin.cli.gauges import ObjectiveGauges
from tocsin.cli.keys import base_url
from tocsin.config.load import load
from tocsin.config.model import Config
from tocsin.config.supervision import supervision_of
from tocsin.config.view import changed, flattened, without_password
from tocsin.core.call import Role
from tocsin.core.errors import StoreError
from tocsin.core.interaction import Entry
from tocsin.core.redact import Redactor
from tocsin.core.signals import judge_signal
from tocsin.core.supervision import Supervision
from tocsin.dashboard import (
    ROUTES,
    DashboardDeps,
    IssuedKey,
    PolicyView,
    SettingsView,
    UpstreamView,
    login_response,
    not_found,
)
from tocsin.dashboard import routes as page_routes
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
from tocsin.gateway.auth import Keyring, key_required, load_secret
from tocsin.gateway.hosts import HostCheck
from tocsin.gateway.repeats import Repeats
from tocsin.gateway.server import Gateway
from tocsin.gateway.sessions import LoginCodes, Sessions
from tocsin.gateway.signal_metrics import SignalGauges
from tocsin.gateway.site import site
from tocsin.ledger import limits_of
from tocsin.worker.deliveries import check_callback


class FrontDoor:
    """Everything that a running Tocsin shows to the world, and what reloads it."""

    def __init__(self, app: App, settings: Settings) -> None:
        config = app.config
        secret = load_secret(app.data_dir, settings.env)
        self.app = app
        self.settings = settings
        self.base_url = base_url(config, config.server.port)
        """Where clients on this machine reach it; set again once the port is known."""
        self.keyring = Keyring(app.store, secret, app.clock, require_key=key_required(config))
        self.codes = LoginCodes(app.data_dir, app.clock)
        sessions = Sessions(self.keyring, secret, app.clock, hours=config.auth.session_hours)
        self.access = Access.of(config, self.keyring, sessions)
        self.metrics = metrics.Metrics()
        self._sessions = sessions
        self._webhooks = app.work(secret)
        app.watchers.append(self._count)
        self._gauges()
        hosts = HostCheck.of(config)
        self.gateway = Gateway(
            runtime=app.runtime,
            keyring=self.keyring,
            hosts=hosts,
            pages=self._pages(hosts),
            clock=app.clock,
            max_body_bytes=config.server.max_body_bytes,
            start=_started(app.start),
            stop=app.stop,
            managed=app.durable.door(),
            repeats=Repeats(
                config=lambda: app.config,
                clock=app.clock,
                book=app.store.operations,
                owner=app.operations.owner,
                grace_s=config.server.shutdown_grace_s,
                redactor=self.redactor,
            ),
        )

    def redactor(self) -> Redactor:
        """Takes every secret that this process was given out of what it logs."""
        return Redactor(secrets_of(self.app.config, self.settings.env))

    async def reload(self) -> admin.Reloaded:
        """Read the settings again. Raises ``ConfigError``; then nothing has changed."""
        old = self.app.config
        new = load(self.settings.path, self.settings.env, signals_known)
        # What was said on the command line stays said.
        new = new.model_copy(update={"server": _kept(old, new, self.settings)})
        waiting = await self.app.reload(new)
        names = changed(old, new)
        needs = tuple(
            name for name in names if any(name == w or name.startswith(f"{w}.") for w in waiting)
        )
        return admin.Reloaded(changed=names, needs_restart=needs)

    # -- what the pages and the API are given --

    def _pages(self, hosts: HostCheck) -> ASGIApp:
        deps = self._dashboard()

        async def missing(request: Request) -> Response:
            return await not_found(request, deps)

        return site(
            access=self.access,
            hosts=hosts,
            routes=self._routes(deps),
            table=_table(),
            not_found=missing,
        )

    def _gauges(self) -> None:
        """What a scrape reads from the recorder and the store."""
        recorder = self.app.recorder
        add = self.metrics.gauge
        add("tocsin_calls_in_flight", "Calls open now.", lambda: recorder.in_flight)
        add("tocsin_writer_queue", "Records that wait for the store.", lambda: recorder.queued)
        add(
            "tocsin_recording_trouble",
            "1 while records cannot reach the journal or the store.",
            lambda: int(recorder.trouble is not None),
        )
        ObjectiveGauges(self.app).add_to(self.metrics)
        app = self.app
        SignalGauges(app.store, lambda: app.behaviour.catalogue, app.clock).add_to(self.metrics)

    def _routes(self, deps: DashboardDeps) -> list[Any]:
        app = self.app
        return [
            *health.routes(self._trouble),
            *metrics.routes(self.metrics),
            *otlp.routes(
                otlp.OtlpDeps(
                    ingest=app.ingest,
                    behind=lambda: bool(app.recorder.behind),
                    max_body_bytes=app.config.server.max_body_bytes,
                )
            ),
            *admin.routes(
                admin.AdminDeps(
                    store=app.store,
                    keyring=self.keyring,
                    clock=app.clock,
                    upstreams=self._upstreams,
                    config_view=lambda: flattened(app.config),
                    reload=self.reload,
                    switch=app.switch,
                    ledger=app.ledger,
                    catalogue=lambda: app.behaviour.catalogue,
                    operations=app.operations,
                    webhooks=self._webhooks,
                    check_callback=self._check_callback,
                )
            ),
            *signin.routes(
                keyring=self.keyring,
                sessions=self._sessions,
                codes=self.codes,
                login_page=login_response,
            ),
            *page_routes(deps),
        ]

    async def _answer(self, operation_id: str, approved: bool, note: str, by: str) -> None:
        await self.app.operations.answer(operation_id, approved=approved, note=note, by=by)

    async def _check_callback(self, url: str) -> None:
        await check_callback(url, self.app.config.outbound.allow)

    def _dashboard(self) -> DashboardDeps:
        return DashboardDeps(
            store=self.app.store,
            clock=self.app.clock,
            settings=self._settings_view,
            principal=principal_in,
            csrf=csrf_in,
            issue_key=self._issue_key,
            revoke_key=self.keyring.revoke,
            can_sign_out=lambda scope: session_in(scope) is not None,
            switch=self.app.switch,
            limits=self.app.ledger.accounts,
            in_flight=self.app.switch.in_flight,
            catalogue=lambda: self.app.behaviour.catalogue,
            objectives=self.app.services.objectives,
            cancel_operation=self.app.operations.cancel,
            answer_operation=self._answer,
            judges=lambda: {
                judge_signal(name, judge.question).name: judge.min_labels
                for name, judge in self.app.config.judges.items()
            },
        )

    def _issue_key(
        self, name: str, role: Role, features: tuple[str, ...], expires: int | None, *, actor: str
    ) -> IssuedKey:
        made = self.keyring.issue(name, role, features=features, expires_at=expires, actor=actor)
        return IssuedKey(id=made.row.id, name=made.row.name, secret=made.secret)

    def _settings_view(self) -> SettingsView:
        app, config = self.app, self.app.config
        return SettingsView(
            version=tocsin.__version__,
            base_url=self.base_url,
            data_dir=str(app.data_dir.absolute()),
            store=without_password(config.store.url) or "SQLite in the data folder",
            config_path=None if self.settings.path is None else str(self.settings.path),
            upstreams=tuple(self._upstreams()),
            policies=tuple(self._policies()),
            supervision=tuple(_supervised(config)),
            limits=tuple(limits_of(config)),
            config=tuple((name, _shown(value)) for name, value in flattened(config).items()),
        )

    def _upstreams(self) -> list[UpstreamView]:
        config, env = self.app.config, self.settings.env
        return [
            UpstreamView(
                name=name,
                kind=upstream.kind,
                base_url=upstream.base_url,
                models=upstream.models,
                **_state(upstream.api_key_env, env, self.app.router.stats.upstreams.get(name)),
            )
            for name, upstream in config.upstreams.items()
        ]

    def _policies(self) -> list[PolicyView]:
        config = self.app.config
        return [
            PolicyView(
                name=policy.name,
                summary=(inspect.getdoc(policy) or "").partition("\n")[0],
                mode=getattr(config.policies, policy.name, "enforce"),
                failure=policy.failure,
                features=tuple(
                    (name, feature.policies[policy.name])
                    for name, feature in config.features.items()
                    if policy.name in feature.policies
                ),
            )
            for policy in self.app.policies
        ]

    def _trouble(self) -> str | None:
        """Why this process cannot take or record calls; ``None`` when it can."""
        try:
            self.app.store.ping()
        except StoreError as error:
            return self.redactor().text(str(error))
        if self.app.recorder.trouble is not None:
            return self.redactor().text(self.app.recorder.trouble)
        if self.app.recorder.behind:
            return "the store is behind: records wait in the journal"
        return None

    def _count(self, entries: list[Entry]) -> None:
        for entry in entries:
            self.metrics.observe(entry.interaction)


def _supervised(config: Config) -> Iterator[tuple[str, Supervision]]:
    """How runs are supervised: in general, then each feature with settings of its own."""
    yield "", supervision_of(config, "")
    for name, feature in config.features.items():
        if feature.agents is not None:
            yield name, supervision_of(config, name)


def _table() -> tuple[RouteRole, ...]:
    """Role of every route that is served."""
    return FRONT + SIGN_IN + admin.table() + page_roles(ROUTES)


def _started(start: Callable[[], Awaitable[int]]) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        await start()

    return run


def _kept(old: Config, new: Config, settings: Settings) -> Any:
    """The new ``[server]`` table with what options said in place of what the file says."""
    return new.server.model_copy(
        update={name: getattr(old.server, name) for name in settings.overridden}
    )


def _state(variable: str, env: Mapping[str, str], stats: Any) -> dict[str, Any]:
    """An upstream's state in the words of the pages."""
    if variable and not env.get(variable):
        return {"state": "no key", "detail": f"{variable} is not set", "healthy": False}
    if stats is None or not stats.attempts:
        return {"state": "ready", "detail": "not used since the start"}
    detail = f"{stats.attempts:,} attempts, {stats.failures:,} failed since the start"
    if stats.failures >= stats.attempts:
        return {"state": "failing", "detail": detail, "healthy": False}
    return {"state": "ready", "detail": detail}


def _shown(value: Any) -> str:
    return "false" if value is None else msgspec.json.encode(value).decode()
