"""``Tocsin``: the object that an app holds."""

import asyncio
import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar

from tocsin.app import App
from tocsin.config.load import find, load
from tocsin.config.model import Config
from tocsin.core.clock import SystemClock
from tocsin.core.errors import InputError
from tocsin.core.ids import is_safe_id, new_id
from tocsin.core.operations import Step
from tocsin.core.score import FeedbackKind
from tocsin.core.stops import Ending, Stop
from tocsin.sdk import effects, feedback, outbox
from tocsin.sdk.clients import wrap
from tocsin.sdk.denials import Denial
from tocsin.sdk.engine import Engine
from tocsin.sdk.runs import Run, Spent, current
from tocsin.sdk.scopes import Scope

Client = TypeVar("Client")
Result = TypeVar("Result")

_POLL_S = 0.2
_FORK_S = 1.0
"""How long a fork waits for calls under way."""


class Tocsin:
    """Ledger, stops, supervision and recording for code that calls models directly.

    Finds ``tocsin.toml`` like the command: the file that is named, else ``TOCSIN_CONFIG``, else in
    the working folder, else the defaults. Raises ``ConfigError``. The store is opened at the first
    call (or on entering a ``with`` block), and anew in a forked process. Any thread, any loop.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        path: Path | str | None = None,
        feature: str | None = None,
    ) -> None:
        if config is not None and path is not None:
            raise ValueError("Tocsin: give a configuration or the path of a file, not both.")
        if config is None:
            named = Path(path) if path is not None else find(os.environ, Path())
            config = load(named, os.environ)
        self.config = config
        self._feature = _named("feature", feature)
        self._clock = SystemClock()
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._inherited: list[Engine] = []
        self._effects = effects.Effects(self._entered)
        self._closed = False
        at_fork = [weakref.WeakMethod(m) for m in (self._forking, self._forked, self._born)]
        os.register_at_fork(
            before=lambda: _if_alive(at_fork[0]),
            after_in_parent=lambda: _if_alive(at_fork[1]),
            after_in_child=lambda: _if_alive(at_fork[2]),
        )
        atexit.register(_if_alive, weakref.WeakMethod(self.close))

    # -- life --

    def __enter__(self) -> Self:
        self._entered().leave()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.__enter__)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def close(self) -> None:
        """End calls under way, write every record, close the store. May be called again."""
        self._effects.close()
        with self._lock:
            self._closed = True
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.stop()

    async def aclose(self) -> None:
        """``close`` without blocking the loop."""
        await asyncio.to_thread(self.close)

    def _entered(self) -> Engine:
        """The engine, started when there is none; whoever gets it must ``leave`` it."""
        with self._lock:
            if self._engine is None:
                self._engine = self._started()
            return self._engine.enter()

    def _started(self) -> Engine:
        if self._closed:
            raise RuntimeError("This Tocsin is closed; make another.")
        if self._inherited:
            raise RuntimeError(
                "This process was forked while calls of Tocsin were under way, and an open store "
                "cannot be used in two processes. Fork between calls, or start processes with "
                "`spawn`."
            )
        engine = Engine(self.config)
        engine.start()
        return engine

    # A store that is open when a process forks is of no use to the child, and what the child does
    # with the file can harm the parent's. So Tocsin rests meanwhile, and both begin anew.

    def _forking(self) -> None:
        self._lock.acquire()
        if self._engine is not None and self._engine.rest(_FORK_S):
            self._engine = None

    def _forked(self) -> None:
        self._lock.release()

    def _born(self) -> None:
        self._lock = threading.Lock()
        self._effects.born()
        if self._engine is not None:
            # Kept, untouched: freeing it would close what belongs to the parent.
            self._inherited.append(self._engine)
            self._engine = None

    # -- use --

    def wrap(self, client: Client) -> Client:
        """A client like ``client`` whose calls go through Tocsin; its key and its URL stay its own.

        Takes ``openai.OpenAI``, ``openai.AsyncOpenAI``, ``anthropic.Anthropic`` and
        ``anthropic.AsyncAnthropic``. Raises ``TypeError`` for anything else. Closing it closes the
        connections of the one that was given, too.
        """
        wrapped: Client = wrap(client, self.config, self._clock, self._entered, self._feature)
        return wrapped

    def run(
        self,
        feature: str | None = None,
        *,
        agent: str | None = None,
        end_user: str | None = None,
        parent: Run | str | None = None,
        run_id: str | None = None,
    ) -> Run:
        """A run for a ``with`` block. Inside of another run it is that run's child.

        ``feature``, ``agent`` and ``end_user`` are the outer run's where they are not given;
        ``parent`` names another parent, ``run_id`` goes on with a run that exists. Raises
        ``InputError`` for an id or a feature that is no plain name.
        """
        outer = parent if isinstance(parent, Run) else current() if parent is None else None
        parent_id = parent if isinstance(parent, str) else outer.id if outer else None
        run_id = _named("run_id", run_id) or new_id("run", self._clock.now_us())
        run = Run(
            self,
            run_id=run_id,
            feature=_named("feature", feature) or (outer.feature if outer else self._feature),
            agent=agent or (outer.agent if outer else None),
            end_user=end_user or (outer.end_user if outer else None),
            parent_id=_named("parent", parent_id) if parent_id != run_id else None,
        )
        if outer is not None and outer.id != run_id:
            outer.adopt(run)
        return run

    # -- runs and stops --

    def spent(self, *run_ids: str) -> Spent:
        """What these runs have used. Waits until every call that has ended is in the store."""
        return self._wait(lambda app: _spent(app, run_ids))

    async def aspent(self, *run_ids: str) -> Spent:
        """``spent`` without blocking the loop."""
        return await self._await(lambda app: _spent(app, run_ids))

    def stop(self, run_id: str, reason: str, *, feature: str = "") -> Stop:
        """End a run in every process of the store. In force and durable when this returns."""
        return self._wait(lambda app: _stop(app, run_id, reason, feature))

    async def astop(self, run_id: str, reason: str, *, feature: str = "") -> Stop:
        """``stop`` without blocking the loop."""
        return await self._await(lambda app: _stop(app, run_id, reason, feature))

    def feedback(
        self,
        call: str | Run,
        *,
        right: bool | None = None,
        rating: float | None = None,
        edited: float | None = None,
        escalated: bool | None = None,
        comment: str = "",
        by: str = "user",
        id: str | None = None,  # noqa: A002 - what the API calls it
    ) -> None:
        """Say how a call turned out: one by its id, or the last one of a run.

        ``rating`` and ``edited`` (the share of the answer that was changed) are from 0 to 1. What
        comes again under the same ``id`` is kept once. Raises ``InputError`` when nothing is said,
        ``NotFound`` without such a call.
        """
        said = feedback.facts(
            right=right, rating=rating, edited=edited, escalated=escalated, comment=comment
        )
        self._wait(lambda app: _feedback(app, said, call, comment, by, id))

    async def afeedback(
        self,
        call: str | Run,
        *,
        right: bool | None = None,
        rating: float | None = None,
        edited: float | None = None,
        escalated: bool | None = None,
        comment: str = "",
        by: str = "user",
        id: str | None = None,  # noqa: A002 - what the API calls it
    ) -> None:
        """``feedback`` without blocking the loop."""
        said = feedback.facts(
            right=right, rating=rating, edited=edited, escalated=escalated, comment=comment
        )
        await self._await(lambda app: _feedback(app, said, call, comment, by, id))

    def wait(self, denial: Denial, timeout: float | None = None) -> Ending:
        """Wait until somebody decides about a paused run: ``resumed``, ``redirected`` or ``ended``.

        Raises ``TimeoutError`` after ``timeout`` seconds, ``InputError`` when the denial is not
        about a stop.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (ending := self._ending(denial)) is None:
            _check(deadline, timeout)
            time.sleep(_POLL_S)
        return ending

    async def await_(self, denial: Denial, timeout: float | None = None) -> Ending:
        """``wait`` without blocking the loop."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (ending := await asyncio.to_thread(self._ending, denial)) is None:
            _check(deadline, timeout)
            await asyncio.sleep(_POLL_S)
        return ending

    def _ending(self, denial: Denial) -> Ending | None:
        if denial.stop_id is None:
            raise InputError(
                f"a denial with the code {denial.code!r} has no stop to wait for; only "
                "`run_paused` and `stopped` have"
            )
        engine = self._entered()
        try:
            stop = engine.app.store.stop(denial.stop_id)
        finally:
            engine.leave()
        if stop is None:
            raise InputError(f"the store knows no stop {denial.stop_id!r}")
        return stop.ending

    # -- what tools do to the world --

    def once(
        self, name: str | None = None, *, failed: tuple[type[Exception], ...] = ()
    ) -> Callable[[Callable[..., Any]], effects.Once]:
        """Decorates a function that changes the world: for the same arguments it is called once.

        Once in each operation or run; whoever asks again gets its result, plain JSON as the store
        keeps it. The function gets the key of its step as ``key``, if it has such a parameter.
        ``failed`` are exceptions (beside ``NotDone``) that say that it certainly did not happen, so
        that it may be tried again; any other leaves that open. Then, and after a crash, the
        function given to ``.finder`` is asked, and without one ``EffectUnknown`` is raised.
        """
        return self._effects.once(name, failed)

    def operation(self, operation_id: str) -> Scope:
        """For a ``with`` block: the effects inside belong to this operation, not to the run."""
        return Scope(_named("operation", operation_id) or "")

    def settle(self, key: str, result: Any = None, *, happened: bool = True) -> Step:
        """Say what became of an effect that is unknown: its result, or that it did not happen.

        Raises ``NotFound``, and ``InputError`` when it is known already or still under way.
        """
        with self._effects.keeper() as keeper:
            return effects.settle(keeper, key, result, happened)

    async def asettle(self, key: str, result: Any = None, *, happened: bool = True) -> Step:
        """``settle`` without blocking the loop."""
        return await asyncio.to_thread(lambda: self.settle(key, result, happened=happened))

    def unknown(self, limit: int = 100) -> list[Step]:
        """Effects that nobody can tell about, oldest first."""
        with self._effects.keeper() as keeper:
            return effects.unknown(keeper, limit)

    def outbox(
        self,
        to: str,
        type: str,  # noqa: A002 - the wire's word
        payload: Any,
        *,
        key: str | None = None,
    ) -> str:
        """Have a message sent to a configured webhook (its name) or a URL; returns its id.

        It is in the store when this returns, and is sent from there until the receiver has it,
        always with this id as its ``webhook-id``. With a ``key`` it is the same message however
        often this is called. Raises ``InputError`` for a URL that may not be reached.
        """
        return self._wait(lambda app: outbox.put_out(app, to, type, payload, key))

    async def aoutbox(
        self,
        to: str,
        type: str,  # noqa: A002 - the wire's word
        payload: Any,
        *,
        key: str | None = None,
    ) -> str:
        """``outbox`` without blocking the loop."""
        return await self._await(lambda app: outbox.put_out(app, to, type, payload, key))

    # -- on the engine's loop --

    def _wait(self, work: Callable[[App], Coroutine[Any, Any, Result]]) -> Result:
        engine = self._entered()
        try:
            return engine.submit(work(engine.app)).result()
        finally:
            engine.leave()

    async def _await(self, work: Callable[[App], Coroutine[Any, Any, Result]]) -> Result:
        engine = await asyncio.to_thread(self._entered)
        try:
            return await asyncio.wrap_future(engine.submit(work(engine.app)))
        finally:
            engine.leave()


async def _spent(app: App, run_ids: tuple[str, ...]) -> Spent:
    await app.recorder.flush()
    rows = await asyncio.to_thread(lambda: [app.store.run(run_id) for run_id in run_ids])
    found = [row for row in rows if row is not None]
    return Spent(
        nano_usd=sum(row.cost_nano_usd for row in found),
        unpriced=sum(row.unpriced for row in found),
        input_tokens=sum(row.input_tokens for row in found),
        output_tokens=sum(row.output_tokens for row in found),
        calls=sum(row.calls for row in found),
        tool_calls=sum(row.tool_calls for row in found),
    )


async def _stop(app: App, run_id: str, reason: str, feature: str) -> Stop:
    return await app.switch.give("run", run_id, "kill", reason=reason, by="sdk", feature=feature)


async def _feedback(
    app: App,
    said: list[tuple[FeedbackKind, float | None]],
    call: str | Run,
    comment: str,
    by: str,
    name: str | None,
) -> None:
    one = {"run_id": call.id} if isinstance(call, Run) else {"call_id": call}
    await feedback.give(app, said, comment=comment, by=by, name=name, **one)


def _named(what: str, text: str | None) -> str | None:
    """``text`` if it may be a run's id or a feature's name. Raises ``InputError``."""
    if text is not None and not is_safe_id(text):
        raise InputError(
            f"{what}: found {text!r}; allowed: 1 to 128 letters, digits, '.', '_', ':' or '-', "
            "beginning with a letter or digit"
        )
    return text


def _check(deadline: float | None, timeout: float | None) -> None:
    if deadline is not None and time.monotonic() >= deadline:
        raise TimeoutError(f"nobody has decided about the run within {timeout:g} s")


def _if_alive(method: "weakref.WeakMethod[Any]") -> None:
    found = method()
    if found is not None:
        found()
