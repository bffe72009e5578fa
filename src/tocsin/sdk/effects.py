"""Effects in process: ``@tocsin.once`` does what a tool does to the world at most once.

A function under ``once`` is asked through the store: the first caller acts, later ones with the
same arguments get its result, callers at the same time wait for it, in whatever process they are.
While it acts, this process beats in the store, so that others can tell when it has died.
"""

import asyncio
import contextlib
import functools
import inspect
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from tocsin.core.errors import StoreError
from tocsin.core.operations import EffectUnknown as AnyEffectUnknown
from tocsin.core.operations import NotDone, Step
from tocsin.core.redact import redact
from tocsin.operations.effects import (
    Asked,
    Settled,
    begin_effect,
    key_of,
    look_again,
    mark_lost,
    settle_effect,
)
from tocsin.operations.owners import new_owner
from tocsin.sdk.engine import Engine
from tocsin.sdk.scopes import scope_of

log = logging.getLogger("tocsin.sdk")

Result = TypeVar("Result")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5
_MESSAGE_CHARACTERS = 500
_KEY = "key"
"""The parameter by which a function gets the key of its step."""


class EffectUnknown(AnyEffectUnknown):
    """Nobody can tell whether a change to the world happened. ``key`` names it for ``settle``."""

    def __init__(self, key: str, name: str) -> None:
        super().__init__(key, name)
        self.args = (
            f"{name}: it was begun, and nobody can tell whether it happened, so it is not done "
            f"again. Look, and say it: tocsin.settle({key!r}, result), or "
            f"tocsin.settle({key!r}, happened=False).",
        )


class Once(Protocol):
    """A function under ``once``: called like the one that was given, without its ``key``."""

    find: Callable[[str], Any] | None
    """Asks the world what became of it, by the step's key: the result, or ``None`` when it
    certainly did not happen."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    def finder(self, find: Callable[[str], Any]) -> Callable[[str], Any]:
        """Decorates the function that asks the world."""
        ...

    def within(self, scope: str) -> Callable[..., Any]:
        """The same in a scope of the author's own, such as the name of an order."""
        ...


# -- what a process has under way --


class Keeper:
    """The effects that one engine has under way, and the beats that say so. Any thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.owner = new_owner()
        self._book = engine.app.store.operations
        self._clock = engine.app.clock
        self._timeout_s = engine.app.config.operations.owner_timeout_s
        self._open: set[str] = set()
        # Held while the store is asked: what is begun and what is known to be under way here must
        # never be seen apart.
        self._lock = threading.Lock()
        self._beat_at: int | None = None
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def begin(self, intent: "_Intent", can_find: bool, mine: list[Asked]) -> Asked:
        """Ask for an effect. With the turn ``act`` or ``find`` it is under way here, and put down
        in ``mine``."""
        with self._lock:
            self._beat()
            asked = begin_effect(
                self._book,
                self._clock,
                intent.scope,
                intent.name,
                intent.arguments,
                self.owner,
                can_find=can_find,
                ours=self._open,
                timeout_s=self._timeout_s,
            )
            return self._taken(asked, mine)

    def again(self, key: str, can_find: bool, mine: list[Asked]) -> Asked:
        """Look what has become of one that another caller is at."""
        with self._lock:
            self._beat()
            asked = look_again(
                self._book,
                self._clock,
                key,
                self.owner,
                can_find=can_find,
                ours=self._open,
                timeout_s=self._timeout_s,
            )
            return self._taken(asked, mine)

    def settle(self, key: str, state: Settled, result: bytes | None) -> None:
        """Say what became of one that is under way here. Raises ``StoreError``."""
        with self._lock:
            try:
                settle_effect(self._book, self._clock, key, state, result, owner=self.owner)
            finally:
                self._open.discard(key)

    def close(self) -> None:
        """This process has nothing under way any more."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._beat_at is not None:
                try:
                    self._book.retire(self.owner)
                except StoreError as error:
                    log.warning("others will learn later that this process has ended: %s", error)
        self._wake.set()

    def forget(self) -> None:
        """Its engine has come to rest, and its store is closed."""
        self._closed = True
        self._wake.set()

    def _taken(self, asked: Asked, mine: list[Asked]) -> Asked:
        if asked.turn in ("act", "find"):
            self._open.add(asked.step.key)
            mine.append(asked)
            self._wake.set()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._beats, name="tocsin-sdk-beats", daemon=True
                )
                self._thread.start()
        return asked

    def _beat(self) -> None:
        now = self._clock.now_us()
        every = self._timeout_s * 1_000_000 / 4
        if self._closed:
            raise RuntimeError("This Tocsin is closed; make another.")
        if self._beat_at is None or not 0 <= now - self._beat_at < every:
            self._book.beat(self.owner, now)
            self._beat_at = now

    def _beats(self) -> None:
        while not self._closed:
            if not self._open:
                self._wake.clear()
                if not self._open:
                    self._wake.wait()
                continue
            try:
                with self._lock:
                    if not self._closed and self._open:
                        self._beat()
            except StoreError as error:
                log.warning("this process cannot say that it is alive: %s", error)
            except Exception:
                log.exception("this process cannot say that it is alive")
            time.sleep(min(self._timeout_s / 8, 1.0))


class Effects:
    """The effects of a ``Tocsin``, in whichever engine it has."""

    def __init__(self, entered: Callable[[], Engine]) -> None:
        self._entered = entered
        self._lock = threading.Lock()
        self._keeper: Keeper | None = None

    @contextlib.contextmanager
    def keeper(self) -> Iterator[Keeper]:
        """That of the engine, which counts as used meanwhile."""
        keeper = self._keeper_of(self._entered())
        try:
            yield keeper
        finally:
            keeper.engine.leave()

    @contextlib.asynccontextmanager
    async def akeeper(self) -> AsyncIterator[Keeper]:
        """``keeper`` without blocking the loop: opening a store takes a moment."""
        entered: list[Engine] = []
        try:
            await _stored(lambda: entered.append(self._entered()))
            yield self._keeper_of(entered[0])
        finally:
            for engine in entered:
                engine.leave()

    def _keeper_of(self, engine: Engine) -> Keeper:
        with self._lock:
            if self._keeper is None or self._keeper.engine is not engine:
                if self._keeper is not None:
                    self._keeper.forget()
                self._keeper = Keeper(engine)
            return self._keeper

    def born(self) -> None:
        """In a forked process: what is under way is the parent's."""
        self._lock = threading.Lock()
        self._keeper = None

    def close(self) -> None:
        """At an orderly end: what is under way here is nobody's any more."""
        with self._lock:
            keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.close()

    def once(
        self, name: str | None, failed: tuple[type[Exception], ...]
    ) -> Callable[[Callable[..., Any]], Once]:
        """The decorator."""

        def decorate(function: Callable[..., Any]) -> Once:
            return _wrapped(self, function, name or function.__name__, (NotDone, *failed))

        return decorate


# -- the course of an effect --


class _Store(NamedTuple):
    """Ask the store; blocks for a moment."""

    do: Callable[[], Any]


class _Pause(NamedTuple):
    seconds: float


class _Call(NamedTuple):
    """Call a function of the tool's author."""

    function: Callable[[], Any]


_Course = Generator[_Store | _Pause | _Call, Any, Any]


class _Intent(NamedTuple):
    scope: str
    name: str
    arguments: dict[str, Any]
    act: Callable[[str], Any]
    find: Callable[[str], Any] | None
    failed: tuple[type[Exception], ...]


def _course(keeper: Keeper, intent: _Intent) -> _Course:
    """What happens when an effect is asked for, whether its function is asynchronous or not."""
    key = key_of(intent.scope, intent.name, intent.arguments)
    asked: Asked = yield from _asked(keeper, intent, key)
    if asked.turn == "done":
        return _value(asked.step.result)
    if asked.turn == "unknown":
        raise EffectUnknown(key, intent.name)
    if asked.turn == "find":
        found = yield from _found(keeper, intent, key)
        if found is not None:
            return found
    try:
        result = yield _Call(lambda: intent.act(key))
    except intent.failed as error:
        why = _failure(error)
        yield _Store(lambda: keeper.settle(key, "failed", why))
        raise
    except Exception as error:
        return (yield from _broken(keeper, intent, key, error))
    except BaseException:
        yield _Store(lambda: keeper.settle(key, "unknown", None))
        raise
    return (yield from _done(keeper, key, result))


def _asked(keeper: Keeper, intent: _Intent, key: str) -> _Course:
    """Ask until it is decided whose it is. Cut in between, nothing stays begun."""
    can_find = intent.find is not None
    mine: list[Asked] = []
    try:
        asked: Asked = yield _Store(lambda: keeper.begin(intent, can_find, mine))
        pause = _FIRST_PAUSE_S
        while asked.turn == "busy":
            yield _Pause(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE_S)
            asked = yield _Store(lambda: keeper.again(key, can_find, mine))
    except BaseException:
        if mine:
            state: Settled = "failed" if mine[0].turn == "act" else "unknown"
            yield _Store(lambda: keeper.settle(key, state, None))
        raise
    return asked


def _found(keeper: Keeper, intent: _Intent, key: str) -> _Course:
    """What the world says: the result, or ``None`` when it certainly did not happen."""
    find = intent.find
    assert find is not None
    try:
        found = yield _Call(lambda: find(key))
    except BaseException as error:
        yield _Store(lambda: keeper.settle(key, "unknown", None))
        if isinstance(error, Exception):
            raise EffectUnknown(key, intent.name) from error
        raise
    if found is None:
        return None
    return (yield from _done(keeper, key, found))


def _broken(keeper: Keeper, intent: _Intent, key: str, error: Exception) -> _Course:
    """The function raised something that leaves open whether it happened."""
    if intent.find is None:
        yield _Store(lambda: keeper.settle(key, "unknown", None))
        raise EffectUnknown(key, intent.name) from error
    found = yield from _found(keeper, intent, key)
    if found is not None:
        return found
    yield _Store(lambda: keeper.settle(key, "failed", _failure(error)))
    raise error


def _done(keeper: Keeper, key: str, result: Any) -> _Course:
    kept = _json(result)
    yield _Store(lambda: keeper.settle(key, "done", kept))
    return _value(kept)


def _drive(course: _Course) -> Any:
    """Run it in this thread."""
    send, value = course.send, None
    while True:
        try:
            want = send(value)
        except StopIteration as end:
            return end.value
        try:
            if isinstance(want, _Pause):
                time.sleep(want.seconds)
                value = None
            else:
                value = want.do() if isinstance(want, _Store) else want.function()
            send = course.send
        except BaseException as error:
            send, value = course.throw, error


async def _adrive(course: _Course) -> Any:
    """Run it in this task."""
    send, value = course.send, None
    while True:
        try:
            want = send(value)
        except StopIteration as end:
            return end.value
        try:
            if isinstance(want, _Pause):
                await asyncio.sleep(want.seconds)
                value = None
            elif isinstance(want, _Store):
                value = await _stored(want.do)
            else:
                value = want.function()
                if inspect.isawaitable(value):
                    value = await value
            send = course.send
        except BaseException as error:
            send, value = course.throw, error


async def _stored(do: Callable[[], Result]) -> Result:
    """Ask the store in a thread. It is asked to the end even if the task is cancelled."""
    task = asyncio.ensure_future(asyncio.to_thread(do))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


# -- the decorated function --


class _Effect:
    """A function that is an effect, and how it is called."""

    def __init__(
        self,
        effects: Effects,
        function: Callable[..., Any],
        name: str,
        failed: tuple[type[Exception], ...],
    ) -> None:
        own = inspect.signature(function)
        self.shown = own.replace(parameters=[p for n, p in own.parameters.items() if n != _KEY])
        self.find: Callable[[], Callable[[str], Any] | None] = lambda: None
        self._takes_key = _KEY in own.parameters
        self._effects = effects
        self._function = function
        self._name = name
        self._failed = failed

    def call(self, scope: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        intent = self._intent(scope, args, kwargs)
        with self._effects.keeper() as keeper:
            return _drive(_course(keeper, intent))

    async def acall(self, scope: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        intent = self._intent(scope, args, kwargs)
        async with self._effects.akeeper() as keeper:
            return await _adrive(_course(keeper, intent))

    def _intent(self, scope: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Intent:
        bound = self.shown.bind(*args, **kwargs)
        bound.apply_defaults()

        def act(key: str) -> Any:
            more = {_KEY: key} if self._takes_key else {}
            return self._function(*bound.args, **bound.kwargs, **more)

        inside = scope or scope_of(self._name)
        arguments = dict(bound.arguments)
        return _Intent(inside, self._name, arguments, act, self.find(), self._failed)


def _wrapped(
    effects: Effects, function: Callable[..., Any], name: str, failed: tuple[type[Exception], ...]
) -> Once:
    effect = _Effect(effects, function, name, failed)
    call: Callable[..., Any]
    wrapper: Any
    if inspect.iscoroutinefunction(function):
        call = effect.acall

        @functools.wraps(function)
        async def awrapper(*args: Any, **kwargs: Any) -> Any:
            return await effect.acall(None, args, kwargs)

        wrapper = awrapper
    else:
        call = effect.call

        @functools.wraps(function)
        def swrapper(*args: Any, **kwargs: Any) -> Any:
            return effect.call(None, args, kwargs)

        wrapper = swrapper

    def finder(find: Callable[[str], Any]) -> Callable[[str], Any]:
        wrapper.find = find
        return find

    effect.find = lambda: wrapper.find
    wrapper.__signature__ = effect.shown
    wrapper.__annotations__ = {n: a for n, a in function.__annotations__.items() if n != _KEY}
    wrapper.find, wrapper.finder = None, finder
    wrapper.within = lambda scope: lambda *args, **kwargs: call(scope, args, kwargs)
    made: Once = wrapper
    return made


# -- plain JSON --


def _plain(value: Any) -> Any:
    """What JSON has no form for: a model of pydantic as its fields, the rest as its text."""
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if callable(dump) else str(value)


def _json(value: Any) -> bytes:
    """A result as it is kept. It must never be lost that an effect happened, whatever it gave."""
    try:
        return msgspec.json.encode(value, enc_hook=_plain)
    except Exception:
        return msgspec.json.encode(str(value).encode("utf-8", "replace").decode())


def _value(result: bytes | None) -> Any:
    return None if result is None else msgspec.json.decode(result)


def _failure(error: BaseException) -> bytes:
    said = redact(str(error) or type(error).__name__)[:_MESSAGE_CHARACTERS]
    return msgspec.json.encode({"message": said})


# -- what people do about it --


def settle(keeper: Keeper, key: str, result: Any, happened: bool) -> Step:
    """A person's word on an effect that is ``unknown``."""
    app = keeper.engine.app
    kept = _json(result) if happened else _failure(NotDone("somebody said that it did not happen"))
    state: Settled = "done" if happened else "failed"
    return settle_effect(app.store.operations, app.clock, key, state, kept)


def unknown(keeper: Keeper, limit: int) -> list[Step]:
    """Effects that nobody can tell about; also those of processes that have just died."""
    app = keeper.engine.app
    book = app.store.operations
    mark_lost(book, app.clock, app.config.operations.owner_timeout_s)
    return [step for step in book.steps_in("unknown", limit=limit) if step.effect]


__all__ = [
    "EffectUnknown",
    "Effects",
    "Keeper",
    "NotDone",
    "Once",
    "settle",
    "unknown",
]
