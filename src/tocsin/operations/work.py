"""``Job``: the ``Work`` that a kind is given, on one live operation."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec

from tocsin.core.call import Principal
from tocsin.core.clock import Clock
from tocsin.core.ids import Prefix, derived_id
from tocsin.core.messages import content_hash
from tocsin.core.operations import Answered, Operation, Parked, Step, step_key
from tocsin.operations.endings import payload
from tocsin.operations.live import Live
from tocsin.operations.log import Log
from tocsin.operations.steps import Steps
from tocsin.operations.threads import Threads
from tocsin.store.operations_api import OperationsBook

Ask = Callable[[Operation, Principal, str, bytes, Any], Awaitable[Answered]]
"""Makes a model call of an operation: (operation, principal, path, body, context)."""

_ENGINES = frozenset(
    ("id", "kind", "events", "status", "outcome", "owner", "restarts", "key_id", "parent_id")
)
"""What the engine alone says of an operation."""


class Shop(Protocol):
    """What the engine lends to work."""

    book: OperationsBook
    clock: Clock
    threads: Threads
    log: Log
    owner: str
    ask: Ask

    async def sure(self, live: Live) -> None:
        """Raises ``CancelledError`` unless the operation is certainly still this process's."""
        ...

    async def child_of(self, live: Live, operation: Operation, body: bytes) -> Operation:
        """Start a child, or find it, and wait for its end."""
        ...


class Job:
    """``core.operations.Work``."""

    __slots__ = ("_live", "_shop", "_steps")

    def __init__(self, shop: Shop, live: Live) -> None:
        self._shop = shop
        self._live = live
        self._steps = Steps(shop, live)

    @property
    def operation(self) -> Operation:
        """As it stands now."""
        return self._live.operation

    @property
    def input(self) -> bytes:
        """What it was asked for: JSON."""
        return self._live.body

    @property
    def principal(self) -> Principal:
        """Who asked for it."""
        return self._live.principal

    @property
    def context(self) -> Any:
        """What the front door handed over; ``None`` after a restart."""
        return self._live.context

    @property
    def restarted(self) -> bool:
        """Whether it is run again from its beginning."""
        return self._live.restarted

    # -- events --

    async def emit(self, type: str, data: Mapping[str, Any]) -> int:  # noqa: A002 - the wire's word
        """Write one event; in the store when this returns. Returns its number."""
        number = self._say(type, data)
        await self._shop.log.flushed(self._live)
        return number

    async def emit_raw(self, events: list[tuple[str, bytes]]) -> None:
        """Write (type, JSON) events as they are; waits only while too much is on its way."""
        live = self._held()
        live.say(events, self._shop.clock.now_us())
        await self._shop.log.eased(live)

    async def amend(self, *, soon: bool = False, **changes: Any) -> None:
        """Change fields of the operation; in the store when this returns, or, with ``soon``,
        together with what is written next. Raises ``ValueError`` for what the engine itself says:
        whose it is and how it stands."""
        wrong = sorted(changes.keys() & _ENGINES)
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: not for work to change.")
        live = self._held()
        live.change(changes)
        if not soon:
            await self._shop.log.flushed(live)

    async def progress(self, fraction: float | None, note: str = "") -> None:
        """Say how far it is, from 0 to 1, and what it does."""
        live = self._held()
        if fraction is not None:
            fraction = min(1.0, max(0.0, fraction))
        live.change({"progress": fraction, "note": note})
        if not live.kind.quiet:
            self._say("operation.progress", {"progress": fraction, "note": note})
        await self._shop.log.eased(live)

    def _say(self, type: str, data: Mapping[str, Any]) -> int:  # noqa: A002 - the wire's word
        live = self._held()
        number = live.operation.events
        return live.add(type, payload(type, number, data), self._shop.clock.now_us())

    def _held(self) -> Live:
        """The operation, which must still be this process's."""
        if self._live.gone:
            raise asyncio.CancelledError
        return self._live

    # -- steps --

    async def step(
        self, name: str, act: Callable[[], Awaitable[Any]], arguments: Any = None
    ) -> Any:
        """Do something once and remember the result; a process that dies in the middle of it may
        do it again. Returns what JSON makes of the result, the first time too."""
        step = self._step(name, arguments)
        return await self._steps.shared(step, lambda: self._steps.simple(step, act))

    async def effect(
        self,
        name: str,
        arguments: Any,
        act: Callable[[str], Awaitable[Any]],
        *,
        find: Callable[[str], Awaitable[Any]] | None = None,
    ) -> Any:
        """Change the world at most once for these arguments; both callables get the step's key.

        ``NotDone`` from ``act`` means that it did not happen: it may be tried again. After most
        other errors (``is_uncertain``) ``find`` is asked, and without one this raises
        ``EffectUnknown``, as after a process that died in the middle.
        """
        step = self._step(name, arguments, effect=True)
        self._live.effects = True
        return await self._steps.shared(step, lambda: self._steps.effect(step, act, find))

    def _step(self, name: str, arguments: Any, *, effect: bool = False) -> Step:
        live = self._held()
        return Step(
            key=step_key(live.operation.id, name, arguments),
            scope=live.operation.id,
            name=name,
            effect=effect,
            state="begun",
            arguments=msgspec.json.encode(arguments),
            begun_at=self._shop.clock.now_us(),
            owner=self._shop.owner,
        )

    # -- model calls --

    async def ask(self, path: str, body: bytes, *, step: str | None = None) -> Answered:
        """Make a model call in the operation's run. With a ``step``'s name the answer to this body
        is remembered."""
        if step is None:
            return await self._ask(path, body)

        async def act() -> dict[str, Any]:
            fields: dict[str, Any] = msgspec.to_builtins(await self._ask(path, body))
            return fields

        found = await self.step(step, act, {"path": path, "body": content_hash(body).hex()})
        return msgspec.convert(found, Answered)

    async def _ask(self, path: str, body: bytes) -> Answered:
        live = self._held()
        answered = await self._shop.ask(live.operation, live.principal, path, body, live.context)
        now = live.operation
        cost = answered.cost_nano_usd
        live.change(
            {
                "calls": now.calls + 1,
                "input_tokens": now.input_tokens + answered.input_tokens,
                "output_tokens": now.output_tokens + answered.output_tokens,
                "cost_nano_usd": now.cost_nano_usd + (cost or 0),
                "unpriced": now.unpriced + (cost is None),
            }
        )
        self._shop.log.write(live, urgent=False)
        return answered

    # -- people and children --

    async def approve(self, question: str, details: Any = None) -> Mapping[str, Any]:
        """A person's answer: ``{"approved": bool, "note": str, "by": str}``. Raises ``Parked``
        while there is none."""
        asked = self._step("approve", {"question": question, "details": details})
        asked = msgspec.structs.replace(asked, state="asked")
        row, _ = await self._shop.threads.write(self._shop.book.begin_step, asked)
        if row.state == "done":
            answer: dict[str, Any] = msgspec.json.decode(row.result or b"{}")
            return answer
        live = self._held()
        live.waiting_for, live.question = row.key, question
        raise Parked

    async def child(self, kind: str, input: bytes, *, name: str = "") -> Operation:  # noqa: A002
        """Start an operation inside this one and wait for its end: once for each ``name``, and
        those without one by their order."""
        live = self._held()
        if not name:
            number = live.unnamed.get(kind, 0)
            live.unnamed[kind] = number + 1
            name = str(number)
        parent = live.operation
        prefix: Prefix = "resp" if kind == "response" else "op"
        operation = Operation(
            id=derived_id(prefix, parent.id, kind, name),
            kind=kind,
            feature=parent.feature,
            title=name,
            key_id=parent.key_id,
            key_name=parent.key_name,
            end_user=parent.end_user,
            run_id=parent.run_id,
            parent_id=parent.id,
            background=True,
            created_at=self._shop.clock.now_us(),
            deadline_at=parent.deadline_at,
        )
        return await self._shop.child_of(live, operation, input)
