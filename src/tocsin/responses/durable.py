"""``Durable``: everything of an app that outlives the process, put together."""

from collections.abc import Callable, Iterable, Mapping

from tocsin.config.model import Config
from tocsin.core.clock import Clock
from tocsin.core.domain import Alert
from tocsin.core.interaction import Entry, Interaction
from tocsin.core.operations import Kind, Operation
from tocsin.core.policy import Provider
from tocsin.operations import Operations, settings_of
from tocsin.operations.webhooks import Webhooks
from tocsin.responses.asking import asker, place_of
from tocsin.responses.batch import BATCH
from tocsin.responses.deps import Deps, Tools
from tocsin.responses.door import Door
from tocsin.responses.kind import Responses
from tocsin.runtime.runtime import Runtime
from tocsin.store import Store
from tocsin.store.operations_api import Delivery
from tocsin.worker.deliveries import Deliveries, lost_effects_job
from tocsin.worker.jobs import Job


class Durable:
    """Operations, the responses among them, and who is told of their ends.

    The callables give what a reload of the configuration changes. Only a process with a front door
    works (``work``): a command that opens an app for a moment must not take over what others left.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        config: Callable[[], Config],
        providers: Callable[[], Mapping[str, Provider]],
        runtime: Callable[[], Runtime],
        price: Callable[[Interaction], int | None],
        enrich: Callable[[Entry], Entry],
        kinds: Iterable[Kind],
        alert: Callable[[Alert], None],
        env: Mapping[str, str],
    ) -> None:
        self._store, self._clock, self._config = store, clock, config
        self._alert, self._env = alert, env
        self._webhooks: Webhooks | None = None
        self._deliveries: Deliveries | None = None
        self._tools = tools = Tools(
            store=store,
            runtime=runtime,
            clock=clock,
            config=config,
            place_of=lambda *about: place_of(config(), providers(), *about),
            price=price,
            enrich=enrich,
        )
        self._responses = Responses(tools)
        self.operations = Operations(
            store.operations,
            clock,
            settings=lambda: settings_of(config().operations),
            kinds=(self._responses.kind(), BATCH, *kinds),
            ask=asker(tools),
            told=self._told,
        )

    def work(self, secret: bytes) -> Webhooks:
        """Let this process work on operations and tell webhooks of ends, from ``start`` on.

        ``secret`` is the installation's. Raises ``ConfigError`` for a webhook that cannot work.
        """
        book, config = self._store.operations, self._config
        made = Webhooks(book, self._clock, lambda: config().webhooks, self._env, secret)
        made.check()
        self._webhooks = made
        self._deliveries = Deliveries(
            book, made, self._clock, config, self._alert, owner=self.operations.owner
        )
        return made

    def door(self) -> Door:
        """The front door of responses and conversations."""
        tools = self._tools
        deps = Deps(
            store=tools.store,
            runtime=tools.runtime,
            clock=tools.clock,
            config=tools.config,
            place_of=tools.place_of,
            price=tools.price,
            enrich=tools.enrich,
            operations=self.operations,
        )
        return Door(deps, self._responses)

    def check(self, config: Config) -> None:
        """Raises ``ConfigError`` when the webhooks of a new configuration cannot work."""
        if self._webhooks is not None:
            book = self._store.operations
            Webhooks(book, self._clock, lambda: config.webhooks, self._env, b"").check()

    def jobs(self) -> tuple[Job, ...]:
        """What is done on a schedule."""
        lost = lost_effects_job(self._store.operations, self._clock, self._config)
        return (lost,) if self._deliveries is None else (lost, self._deliveries.job())

    async def start(self) -> None:
        """Begin to work, where this process does."""
        if self._webhooks is not None:
            await self.operations.start()

    async def stop(self) -> None:
        """Let what is under way end for a while; another process goes on with the rest."""
        if self._webhooks is not None:
            await self.operations.stop(self._config().server.shutdown_grace_s)

    async def close(self) -> None:
        """Close the connections to webhooks."""
        if self._deliveries is not None:
            await self._deliveries.close()

    def _told(self, operation: Operation, result: bytes) -> tuple[Delivery, ...]:
        return () if self._webhooks is None else self._webhooks.told(operation, result)
