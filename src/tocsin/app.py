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
from typing import Any

import msgspec

from tocsin.behaviour import Behaviour, evaluators_of, signals_of_all
from tocsin.config.checks import function_problems
from tocsin.config.defaults import default_upstreams
from tocsin.config.model import Config
from tocsin.config.sentinels import with_sentinels
from tocsin.core.call import Principal
from tocsin.core.clock import Clock, SystemClock
from tocsin.core.domain import Domain
from tocsin.core.errors import ConfigError, InputError
from tocsin.core.interaction import Entry, Mode
from tocsin.core.messages import Hash
from tocsin.core.policy import Next, Policy, Provider
from tocsin.core.redact import Redactor
from tocsin.core.signals import Signal
from tocsin.domains import DOMAINS
from tocsin.ledger import Ledger, LedgerPolicy, limits_of
from tocsin.operations import Operations
from tocsin.operations.webhooks import Webhooks
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
from tocsin.responses import Durable
from tocsin.runtime.checks import CheckFunction
from tocsin.runtime.desk import Desk
from tocsin.runtime.enrich import Enricher
from tocsin.runtime.identity import IdentityPolicy, Seen
from tocsin.runtime.meaning import Judge
from tocsin.runtime.recorder import Recorder
from tocsin.runtime.records import Ingested
from tocsin.runtime.runtime import Learner, Runtime
from tocsin.runtime.stops import StopsPolicy, Switch
from tocsin.services import ProcessServices, modes_of
from tocsin.store import Store, open_store
from tocsin.worker.detecting import flush_job
from tocsin.worker.export import Exporter
from tocsin.worker.jobs import Job, Worker, store_jobs

log = logging.getLogger("tocsin.app")

ENTRY_POINTS = "tocsin.domains"
"""The entry-point group by which third-party packages contribute a ``Domain``."""
CHECKS = "tocsin.checks"
"""The entry-point group by which packages offer checks of answers."""

PATH: tuple[str, ...] = ("identity", "stops", "ledger")
"""Order of the built-in policies, outermost first. Policies of domains come after them."""


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
        self._enrich = Enricher(self.pricer, TokenCounter())
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
        self.judge = Judge(config, _check_functions(config))
        """Says what answers mean."""
        self.runtime = self._runtime(config)
        self.durable = self._durable()
        """Operations and who is told of their ends."""
        self.worker = Worker(self._jobs())
        self._ticker: asyncio.TimerHandle | None = None
        self._warming: asyncio.Future[None] | None = None

    @property
    def operations(self) -> Operations:
        """Durable work. It runs where a front door lets it (``work``)."""
        return self.durable.operations

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
        await self.durable.start()
        self._tick()
        self._warming = asyncio.get_running_loop().run_in_executor(None, self._warm)
        return recovered

    async def stop(self) -> None:
        """Finish what is under way and let go of everything."""
        if self._ticker is not None:
            self._ticker.cancel()
        await self.durable.stop()
        self.runtime.watch.stop()
        await self.worker.stop()
        await self.durable.close()
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

    def _warm(self) -> None:
        """Load what the first calls would wait for."""
        self.pricer.warm()
        self.judge.warm()

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
        self.durable.check(config)
        functions = _check_functions(config)
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
        self.judge.configure(config, functions)
        self.runtime.configure(
            modes=modes_of(config),
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
            enrich=self._enrich,
            ingest=self._read_journaled,
            stored=self._stored,
            sync=self.config.store.journal_sync == "disk",
        )

    def _runtime(self, config: Config) -> Runtime:
        return Runtime(
            policies=self.policies,
            modes=modes_of(config),
            dispatch=self._dispatch or self.router,
            recorder=self.recorder,
            clock=self.clock,
            learners=tuple(policy for policy in self.policies if isinstance(policy, Learner)),
            redactor=Redactor(secrets_of(config, self._env)),
            judge=self.judge,
        )

    def _durable(self) -> Durable:
        return Durable(
            self.store,
            self.clock,
            config=lambda: self.config,
            providers=lambda: self.providers,
            runtime=lambda: self.runtime,
            price=self.services.price,
            enrich=self._enrich,
            kinds=[kind for domain in self.domains for kind in domain.kinds],
            alert=self.desk.alert,
            env=self._env,
        )

    def work(self, secret: bytes) -> Webhooks:
        """Let this process work on operations, once it is started (``Durable.work``)."""
        webhooks = self.durable.work(secret)
        self.worker = Worker(self._jobs())
        return webhooks

    def _policies(self) -> tuple[Policy, ...]:
        """The request path, outermost first."""

        def mode(feature: str) -> Mode:
            return modes_of(self.config)(feature, "ledger")

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
            *self.durable.jobs(),
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


def _loaded(point: importlib.metadata.EntryPoint) -> Any:
    """What an installed package offers. Raises ``ConfigError``."""
    try:
        return point.load()
    except Exception as error:
        kind = "domain" if point.group == ENTRY_POINTS else "check"
        raise ConfigError(
            f"the {kind} '{point.name}' of {point.value} cannot be loaded: {error}; "
            "fix or uninstall that package"
        ) from error


def _installed_domains() -> tuple[Domain, ...]:
    """Domains of third-party packages, by entry point; one that cannot be loaded is named."""
    found: list[Domain] = []
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        domain = _loaded(point)
        if not isinstance(domain, Domain):
            raise ConfigError(f"{point.value} is no tocsin Domain; fix or uninstall that package")
        found.append(domain)
    return tuple(found)


def checks_offered() -> tuple[str, ...]:
    """Names of the checks that installed packages offer."""
    return tuple(sorted(point.name for point in importlib.metadata.entry_points(group=CHECKS)))


def _check_functions(config: Config) -> dict[str, CheckFunction]:
    """The functions that the settings name. Raises ``ConfigError`` for one that nobody offers, or
    that cannot be loaded."""
    for problem in function_problems(config, checks_offered()):
        raise ConfigError(f"{'.'.join(str(part) for part in problem.path)}: {problem.message}")
    wanted = {
        name
        for feature in config.features.values()
        if feature.checks is not None
        for name in feature.checks.functions
    }
    points = importlib.metadata.entry_points(group=CHECKS) if wanted else ()
    return {point.name: _loaded(point) for point in points if point.name in wanted}


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
    found += [env[hook.secret_env] for hook in config.webhooks.values() if env.get(hook.secret_env)]
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
