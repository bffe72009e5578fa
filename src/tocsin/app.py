"""The composition root: a configuration becomes a working Tocsin. Everything is put together here.

Front doors (gateway, dashboard, SDK, CLI) take an ``App`` and hold no logic of their own.
"""

import asyncio
import importlib.metadata
import logging
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import msgspec

from tocsin.behaviour import Behaviour, evaluators_of, signals_of_all
from tocsin.config.defaults import default_upstreams
from tocsin.config.model import Config
from tocsin.config.sentinels import with_sentinels
from tocsin.config.signals import objectives_of, signals_of
from tocsin.config.supervision import supervision_of
from tocsin.core.call import Principal
from tocsin.core.clock import Clock, SystemClock
from tocsin.core.domain import Domain
from tocsin.core.errors import ConfigError, InputError
from tocsin.core.interaction import Entry, Interaction, Mode
from tocsin.core.messages import Hash
from tocsin.core.policy import Next, Policy, Provider
from tocsin.core.redact import Redactor
from tocsin.core.signals import Objective, Signal, SignalSettings
from tocsin.core.stops import Switchboard
from tocsin.core.supervision import Burn, Supervision
from tocsin.domains import DOMAINS
from tocsin.ledger import Ledger, LedgerPolicy, limits_of
from tocsin.providers import (
    HttpClient,
    OutboundGuard,
    Pricer,
    Router,
    TokenCounter,
    allowed_hosts,
    make_providers,
    start_providers,
)
from tocsin.runtime.desk import Desk
from tocsin.runtime.enrich import Enricher
from tocsin.runtime.identity import IdentityPolicy, Seen
from tocsin.runtime.recorder import Recorder
from tocsin.runtime.records import Ingested
from tocsin.runtime.runtime import Learner, Runtime
from tocsin.runtime.stops import StopsPolicy, Switch
from tocsin.store import Store, open_store
from tocsin.worker.detecting import flush_job
from tocsin.worker.export import Exporter
from tocsin.worker.jobs import Job, Worker, store_jobs

log = logging.getLogger("tocsin.app")

ENTRY_POINTS = "tocsin.domains"
"""The entry-point group by which third-party packages contribute a ``Domain``."""

PATH: tuple[str, ...] = ("identity", "stops", "ledger")
"""Order of the built-in policies, outermost first. Policies of domains come after them."""


class Parts(Protocol):
    """What of a process its services are made of."""

    @property
    def config(self) -> Config: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def switch(self) -> Switch: ...
    @property
    def desk(self) -> Desk: ...
    @property
    def behaviour(self) -> Behaviour: ...
    @property
    def pricer(self) -> Pricer: ...


class ProcessServices:
    """What domains get of the process (``core.domain.Services``)."""

    def __init__(self, app: Parts) -> None:
        self._app = app
        self._supervision: dict[str, Supervision] = {}
        self._config: Config | None = None
        self._objectives: tuple[Config, tuple[Objective, ...]] | None = None
        self._signals: tuple[Config | None, dict[str, SignalSettings]] = (None, {})
        self.clock = app.clock
        self.stops: Switchboard = app.switch
        self.alert = app.desk.alert
        self.found = app.desk.found
        self.watched = app.desk.watched

    def supervision(self, feature: str) -> Supervision:
        """A feature's settings; worked out once for each configuration."""
        config = self._app.config
        if self._config is not config or len(self._supervision) > 10_000:
            self._config, self._supervision = config, {}
        found = self._supervision.get(feature)
        if found is None:
            mode = _modes(config)(feature, "agents")
            found = self._supervision[feature] = supervision_of(config, feature, mode)
        return found

    def signals(self, feature: str) -> SignalSettings:
        """How the signals of a feature are watched; worked out once for each configuration."""
        config = self._app.config
        if self._signals[0] is not config or len(self._signals[1]) > 10_000:
            self._signals = config, {}
        known = self._signals[1]
        found = known.get(feature)
        if found is None:
            found = known[feature] = signals_of(config, feature)
        return found

    def objectives(self) -> tuple[Objective, ...]:
        """All objectives; worked out once for each configuration."""
        config, made = self._app.config, self._objectives
        if made is None or made[0] is not config:
            made = self._objectives = config, objectives_of(config)
        return made[1]

    def catalogue(self) -> Mapping[str, Signal]:
        """Every signal that there is, by name."""
        return self._app.behaviour.catalogue

    def accepted(self, feature: str, signal: str) -> int:
        """Since when a person has called the level of a signal normal."""
        return self._app.behaviour.accepted(feature, signal)

    @property
    def burn(self) -> Burn:
        """``[burn]`` as it was at the start."""
        return Burn(factor=self._app.config.burn.factor, min_usd=self._app.config.burn.min_usd)

    def price(self, interaction: Interaction) -> int | None:
        """By the price list, once it is loaded: the record itself is priced later, off the path."""
        if interaction.usage.source != "reported" or not self._app.pricer.loaded:
            return interaction.cost_nano_usd
        return self._app.pricer(
            interaction.provider or "",
            interaction.response_model or interaction.request_model,
            interaction.usage,
            interaction.started_at,
        )[0]


class App:
    """A running Tocsin without a front door. Built by ``build``; one per process."""

    def __init__(
        self,
        config: Config,
        *,
        env: Mapping[str, str],
        clock: Clock,
        store: Store,
        providers: Mapping[str, Provider] | None,
        domains: tuple[Domain, ...],
        dispatch: Next | None = None,
        evaluator: Sequence[str] = (),
    ) -> None:
        self.config = config = with_sentinels(config)
        self.clock = clock
        self.store = store
        self.domains = domains
        self.data_dir = Path(config.server.data_dir)
        self._env = env
        self._given, self._dispatch, self._evaluator = providers, dispatch, tuple(evaluator)
        self.client = _client(config)
        self.providers: dict[str, Provider] = {}
        self.pricer = Pricer(config.prices)
        self.identity = IdentityPolicy(_lookup(store), clock)
        self.providers = self._make_providers(config)
        self.router = Router(config, self.providers, clock, _balancer())
        self._retiring: set[asyncio.Task[None]] = set()
        self._histories: Any = None
        self._reader = ThreadPoolExecutor(1, "tocsin-traces")
        self.watchers: list[Callable[[list[Entry]], None]] = []
        """Called in the writer thread with the entries that have just been stored."""
        self.recorder = self._recorder()
        self.desk = Desk(store, clock)
        """Where alerts, findings and the state of runs wait for the store."""
        self.switch = Switch(store, clock)
        self.ledger = Ledger(
            store.ledger,
            self.data_dir / "ledger",
            clock,
            limits=limits_of(config),
            settings=config.ledger,
            pricer=self.pricer,
            alert=self.desk.alert,
        )
        self.behaviour = Behaviour(store, clock, domains, lambda: self.config)
        self.services = ProcessServices(self)
        self.policies = self._policies()
        """The request path, outermost first."""
        self.runtime = self._runtime(config)
        self.worker = Worker(self._jobs())
        self._ticker: asyncio.TimerHandle | None = None
        self._warming: asyncio.Future[None] | None = None

    # -- life --

    async def start(self) -> int:
        """Recover what a dead process left and begin to work. Returns recovered interactions."""
        recovered = await asyncio.to_thread(self.recorder.start)
        if recovered:
            log.warning("recovered %d calls that an earlier process left unfinished", recovered)
        self.runtime.watch.start()
        await self.ledger.start()
        await self.switch.start(self.runtime)
        self.worker.start()
        await start_providers(self.providers)
        self._tick()
        self._warming = asyncio.get_running_loop().run_in_executor(None, self.pricer.warm)
        return recovered

    async def stop(self) -> None:
        """Finish what is under way and let go of everything."""
        if self._ticker is not None:
            self._ticker.cancel()
        self.runtime.watch.stop()
        await self.worker.stop()
        await self.switch.stop()
        await self.ledger.stop()
        if self._warming is not None:
            await asyncio.wait([self._warming])
        self._reader.shutdown(wait=True)
        await asyncio.to_thread(self.recorder.close)
        await asyncio.to_thread(self.desk.close)
        for task in self._retiring:
            task.cancel()
        for provider in self.providers.values():
            await provider.aclose()
        await self.client.aclose()
        await asyncio.to_thread(self.store.close)

    def _tick(self) -> None:
        self.recorder.tick()
        self._ticker = asyncio.get_running_loop().call_later(1.0, self._tick)

    # -- configuration --

    async def reload(self, config: Config) -> list[str]:
        """Take over a new configuration without dropping a call.

        Returns the settings that changed but need a restart. Raises ``ConfigError`` and changes
        nothing when the new one cannot work.
        """
        config = with_sentinels(config)
        needs_restart = [
            name
            for name, old, new in (
                ("server", self.config.server, config.server),
                ("auth", self.config.auth, config.auth),
                ("store", self.config.store, config.store),
                ("otlp", self.config.otlp, config.otlp),
            )
            if old != new
        ]
        old = self.providers
        limits = limits_of(config)
        providers = self._make_providers(config)
        needs_restart += [
            f"upstreams.{name}"
            for name, upstream in config.upstreams.items()
            if upstream.kind == "local" and providers[name] is not old.get(name)
        ]
        self.router = Router(config, providers, self.clock, _balancer())
        self.providers = providers
        self.pricer.configure(config.prices)
        self.ledger.configure(limits, config.ledger)
        self.runtime.configure(
            modes=_modes(config),
            dispatch=self._dispatch or self.router,
            redactor=Redactor(secrets_of(config, self._env)),
        )
        self.config = config
        self._retiring.add(asyncio.create_task(_retire(old, providers)))
        return needs_restart

    def _make_providers(self, config: Config) -> dict[str, Provider]:
        """The providers of a configuration.

        A local model that is unchanged goes on as it is; one that is new waits for a restart: it
        is a process, and a reload may come over HTTP.
        """
        if self._given is not None:
            return dict(self._given)
        guard = OutboundGuard(allow=[*config.outbound.allow, *allowed_hosts(config)])
        made = make_providers(
            config, lambda limits: HttpClient(guard=guard, limits=limits), self._env
        )
        for name, upstream in config.upstreams.items():
            if upstream.kind == "local" and self.config.upstreams.get(name) == upstream:
                made[name] = self.providers.get(name, made[name])
        return made

    def _recorder(self) -> Recorder:
        return Recorder(
            self.store,
            self.data_dir / "journal",
            enrich=Enricher(self.pricer, TokenCounter()),
            ingest=self._read_journaled,
            stored=self._stored,
            sync=self.config.store.journal_sync == "disk",
        )

    def _runtime(self, config: Config) -> Runtime:
        return Runtime(
            policies=self.policies,
            modes=_modes(config),
            dispatch=self._dispatch or self.router,
            recorder=self.recorder,
            clock=self.clock,
            learners=tuple(policy for policy in self.policies if isinstance(policy, Learner)),
            redactor=Redactor(secrets_of(config, self._env)),
        )

    def _policies(self) -> tuple[Policy, ...]:
        """The request path, outermost first."""

        def mode(feature: str) -> Mode:
            return _modes(self.config)(feature, "ledger")

        services = self.services
        built_in: dict[str, Policy] = {
            "identity": self.identity,
            "stops": StopsPolicy(self.switch, services.supervision),
            "ledger": LedgerPolicy(self.ledger, mode),
        }
        own = tuple(built_in[name] for name in PATH)
        return own + tuple(make(services) for domain in self.domains for make in domain.policies)

    def _jobs(self) -> tuple[Job, ...]:
        jobs = store_jobs(self.store, self.config.store, self.clock)
        otlp = self.config.otlp
        if otlp.endpoint:
            jobs += (self._exporter().job(),)
        jobs += (
            flush_job(self.desk.flush),
            *self.behaviour.jobs(self.services, self._env, self._evaluator),
        )
        if self._dispatch is not None:
            return jobs  # inside of an app there is nobody to ask but the app
        return (
            *jobs,
            *self.behaviour.asking_jobs(
                self.services, self.runtime, self.recorder, self.data_dir, self.desk.alert
            ),
        )

    def _exporter(self) -> Exporter:
        otlp = self.config.otlp
        content = otlp.content

        def encode(entries: Sequence[Entry]) -> bytes:
            from tocsin.importers.otlp_export import encode as encode_otlp

            return encode_otlp(entries, content=content)

        return Exporter(
            self.store,
            self.client,
            endpoint=otlp.endpoint,
            headers=_header_list(self._env.get(otlp.headers_env, "") if otlp.headers_env else ""),
            encode=encode,
            content=content,
        )

    # -- traces in --

    async def ingest(
        self,
        body: bytes,
        content_type: str,
        encoding: str | None,
        feature: str,
        principal: Principal,
    ) -> tuple[int, int, str]:
        """Take in an OTLP request: durable when this returns.

        Returns (accepted, rejected, reason). Raises ``InputError`` when it cannot be read.
        """
        record = Ingested(
            body,
            content_type,
            encoding,
            feature,
            self.clock.now_us(),
            principal.key_id,
            principal.features,
        )
        entries, rejected, reason = await asyncio.get_running_loop().run_in_executor(
            self._reader, self._read_traces, record
        )
        self.recorder.ingest(record, entries)
        await self.recorder.durable()
        return len(entries), rejected, reason

    def _read_traces(self, record: Ingested) -> tuple[list[Entry], int, str]:
        """Spans → entries, in the one thread that knows the histories of late."""
        # Protobuf takes 60 ms and 15 MB to load: only once there are traces.
        from tocsin.importers.build import Histories
        from tocsin.importers.otlp import Converter, decode_export

        if self._histories is None:
            self._histories = Histories()
        export = decode_export(
            record.body,
            record.content_type,
            record.encoding,
            max_bytes=self.config.server.max_body_bytes,
        )
        sender = Principal(key_id=record.key_id, features=record.features)
        batch = Converter(histories=self._histories).convert(
            export,
            feature_default=record.feature,
            key_id=record.key_id,
            allow=sender.may_call,
            received_at=record.received_at,
        )
        return batch.entries, batch.rejected, batch.reason

    def _read_journaled(self, record: Ingested) -> Iterable[Entry]:
        """The same, for the journal's recovery."""
        try:
            return self._read_traces(record)[0]
        except InputError:
            log.exception("a journaled trace request cannot be read any more")
            return ()

    def _stored(self, entries: list[Entry]) -> None:
        for watcher in self.watchers:
            watcher(entries)


def build(
    config: Config,
    *,
    env: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    providers: Mapping[str, Provider] | None = None,
    dispatch: Next | None = None,
    evaluator: Sequence[str] = (),
) -> App:
    """Open the store and put an ``App`` together. Nothing runs before ``App.start``.

    ``providers`` replaces those of the configuration (tests, SDK); ``dispatch`` takes the place of
    the router (SDK); ``evaluator`` is the command of a process that evaluates (``tocsin up``),
    without it a thread does. Raises ``ConfigError`` or ``StoreError``.
    """
    clock = clock or SystemClock()
    data_dir = Path(config.server.data_dir)
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    store = open_store(config.store, data_dir, clock)
    try:
        return App(
            config,
            env=os.environ if env is None else env,
            clock=clock,
            store=store,
            providers=providers,
            domains=all_domains(),
            dispatch=dispatch,
            evaluator=evaluator,
        )
    except BaseException:
        store.close()
        raise


def open_store_from(config: Config, *, clock: Clock | None = None) -> Store:
    """The store of a configuration, for commands that need nothing else."""
    return open_store(config.store, Path(config.server.data_dir), clock or SystemClock())


def signals_known(config: Config) -> dict[str, Signal]:
    """Every signal that there is under a configuration, by name. Raises ``ConfigError``."""
    return signals_of_all(evaluators_of(all_domains()), config)


def all_domains() -> tuple[Domain, ...]:
    """Our own domains and those of installed packages. Raises ``ConfigError`` for a broken one."""
    return DOMAINS + _installed_domains()


def _installed_domains() -> tuple[Domain, ...]:
    """Domains of third-party packages, by entry point; one that cannot be loaded is named."""
    found: list[Domain] = []
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            domain = point.load()
        except Exception as error:
            raise ConfigError(
                f"the domain '{point.name}' of {point.value} cannot be loaded: {error}; "
                "fix or uninstall that package"
            ) from error
        if not isinstance(domain, Domain):
            raise ConfigError(f"{point.value} is no tocsin Domain; fix or uninstall that package")
        found.append(domain)
    return tuple(found)


def _modes(config: Config) -> Callable[[str, str], Mode]:
    """Mode of a policy: the feature's own setting, else the general one, else enforce."""

    def mode(feature: str, policy: str) -> Mode:
        own = config.features.get(feature)
        if own is not None and policy in own.policies:
            return own.policies[policy]
        general: Mode | None = getattr(config.policies, policy, None)
        return general or "enforce"

    return mode


def _client(config: Config) -> HttpClient:
    """The client for what Tocsin itself sends; upstreams have their own."""
    return HttpClient(guard=OutboundGuard(allow=[*config.outbound.allow, *allowed_hosts(config)]))


def _balancer() -> random.Random:
    return random.Random()  # noqa: S311 - it spreads load and jitters pauses, nothing more


def secrets_of(config: Config, env: Mapping[str, str]) -> list[str]:
    """The values that must appear in no record and no log: keys, headers, a password."""
    names = {"TOCSIN_SECRET", "TOCSIN_STORE_URL", config.otlp.headers_env}
    names |= {upstream.api_key_env for upstream in config.upstreams.values()}
    names |= {upstream.api_key_env for upstream in default_upstreams(env).values()}
    found = [env[name] for name in names if env.get(name)]
    found += env.get(config.digest.urls_env, "").split() if config.digest.urls_env else []
    return [*found, config.store.url] if "@" in config.store.url else found


def _lookup(store: Store) -> Callable[[Sequence[Hash], Sequence[str]], list[Seen]]:
    def lookup(nodes: Sequence[Hash], call_ids: Sequence[str]) -> list[Seen]:
        return [Seen(**msgspec.structs.asdict(known)) for known in store.known(nodes, call_ids)]

    return lookup


def _header_list(text: str) -> tuple[tuple[bytes, bytes], ...]:
    """``name=value,name=value`` as OpenTelemetry writes headers in the environment."""
    pairs = (part.partition("=") for part in text.split(",") if "=" in part)
    return tuple((n.strip().lower().encode(), v.strip().encode()) for n, _, v in pairs)


async def _retire(old: Mapping[str, Provider], new: Mapping[str, Provider]) -> None:
    """Close what a reload replaced, once the calls that use it have had time to end."""
    await asyncio.sleep(600)
    for name, provider in old.items():
        if new.get(name) is not provider:
            await provider.aclose()
