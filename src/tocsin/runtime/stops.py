"""Stops in force: ``Switch`` knows which calls are stopped, ``StopsPolicy`` holds or refuses them.

Orders stand in the store; every process keeps those that stand in memory and looks for changes
every ``POLL_S``. So a call costs no I/O, and an order given anywhere (here, in another process, or
by a command that writes to the store with no server running) is obeyed everywhere within
``POLL_S`` and what reading takes.
"""

import asyncio
import functools
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from tocsin.core.call import Call, Identity
from tocsin.core.clock import Clock
from tocsin.core.errors import InputError, RunPaused, Stopped
from tocsin.core.ids import new_id
from tocsin.core.interaction import Decision
from tocsin.core.policy import FailureMode, Next, Reply
from tocsin.core.stops import Ending, Stop, StopAction, StopScope
from tocsin.core.supervision import Evidence, Supervision
from tocsin.core.wire.instruct import with_instruction
from tocsin.store.api import Store

if TYPE_CHECKING:
    from tocsin.runtime.exchange import Exchange
    from tocsin.runtime.runtime import Runtime

log = logging.getLogger("tocsin.stops")

POLL_S = 0.2
"""How often the store is asked whether the stops have changed."""
_MOST = 100_000
"""Standing stops that a process knows; the newest, should there ever be more."""
_PARENTS = 20_000
"""Child runs whose parents are remembered."""
_UNTOLD = 1000
"""Notes that wait for the next call of their run; most runs that are redirected do go on."""
_RUNS = 2000
"""Runs that are remembered to have been let go on; at the start, those stopped in ..."""
_RECENT_US = 7 * 86_400_000_000
"""... the last seven days."""
_DEEPEST = 64
"""Ancestors of a run that are looked at."""
_TELLING_S = 30.0
"""Longest that cut calls may take to end before their time is noted without them."""
_SHOWN = 3
"""Steps of the evidence that a paused caller gets."""

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Key = tuple[StopScope, str]
_ALL: _Key = ("all", "")


class Switch:
    """The switchboard of one process (``core.stops.Switchboard``). Used on one event loop."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._runtime: Runtime | None = None
        self._known: dict[str, Stop] = {}
        """Stops that stand, by id."""
        self._orders: dict[_Key, Stop] = {}
        """The strongest of each scope and value."""
        self._notes: dict[str, str] = {}
        """Run id → what its next call is to tell the model."""
        self._lifted: dict[str, None] = {}
        """Runs that were let go on, the latest last."""
        self._parents: OrderedDict[str, str] = OrderedDict()
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._version: int | None = None
        self._orders_here = 0
        self._following: asyncio.Task[None] | None = None
        self._noting: set[asyncio.Task[None]] = set()
        # Threads of its own: an order must not queue behind a page that reads a year of calls.
        self._threads = ThreadPoolExecutor(2, "tocsin-stops")

    # -- life --

    async def start(self, runtime: "Runtime") -> None:
        """Read what stands and follow the store; ``runtime`` has the calls that may be cut.

        Raises ``StoreError``: a process that cannot know its stops must not serve.
        """
        self._runtime = runtime
        since = self._clock.now_us() - _RECENT_US
        for stop in reversed(await self._in_thread(self._store.stops, limit=_RUNS)):
            if stop.ended_at is not None and stop.ended_at >= since:
                self._note_lifted(stop)
        await self.refresh()
        self._following = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Stop following; what was cut is noted first."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
            self._following = None
        if self._noting:
            await asyncio.wait(self._noting, timeout=2)
        self._threads.shutdown(wait=False)

    async def _follow(self) -> None:
        trouble = ""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self.refresh()
                trouble = ""
            except Exception as error:
                # What is known stays in force; it is said once, not five times a second.
                if str(error) != trouble:
                    trouble = str(error)
                    log.exception("the stops cannot be read; those that are known stay in force")

    async def refresh(self) -> None:
        """Take over what has changed in the store. Raises ``StoreError``."""
        orders = self._orders_here
        found = await self._in_thread(self._read, self._version, frozenset(self._known))
        if found is None or orders != self._orders_here:
            return  # an order was given here meanwhile: what was read may be older; read again
        self._version, standing, ended = found
        for stop in ended:
            self._end(stop)
        for stop in standing:
            known = self._known.get(stop.id)
            if known is None:
                self._put(stop)
                self._cut(stop)
            elif known.ended_at != stop.ended_at:
                self._end(stop)

    def _read(
        self, version: int | None, known: frozenset[str]
    ) -> tuple[int, list[Stop], list[Stop]] | None:
        """The version, what stands, and what of the known has ended; ``None``: nothing changed."""
        now = self._store.stops_version()
        if now == version:
            return None
        standing = self._store.stops(standing=True, limit=_MOST)
        gone = known.difference(stop.id for stop in standing)
        ended = [self._store.stop(stop_id) or _vanished(stop_id) for stop_id in gone]
        return now, standing, ended

    def _in_thread(
        self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> "asyncio.Future[_T]":
        call = functools.partial(work, *args, **kwargs)
        return asyncio.get_running_loop().run_in_executor(self._threads, call)

    # -- asking --

    @property
    def idle(self) -> bool:
        """Whether there is nothing to hold any call for, and nothing to tell any model."""
        return not self._orders and not self._notes

    def enforces(self, feature: str) -> bool:
        """Whether stops act on a feature's calls, and are not only observed."""
        return self._runtime is None or self._runtime.enforces(feature, StopsPolicy.name)

    def standing(self, call: Call) -> Stop | None:
        """The stop that a call falls under, the strongest one: in memory, no I/O."""
        orders = self._orders
        if not orders:
            return None
        found: Stop | None = None
        for key in self._keys(call):
            stop = orders.get(key)
            if stop is not None:
                if _is_final(stop):
                    return stop
                found = found or stop
        return found

    def _keys(self, call: Call) -> Iterator[_Key]:
        """What a call can be stopped by. A run that is stopped takes its child runs with it."""
        yield _ALL
        yield "feature", call.feature
        if call.principal.key_id is not None:
            yield "key", call.principal.key_id
        identity = call.draft.identity
        if identity is None:
            return
        run: str | None = identity.run_id
        parent = identity.parent_run_id
        for _ in range(_DEEPEST):
            if run is None:
                return
            yield "run", run
            run, parent = parent or self._parents.get(run), None

    def adopt(self, identity: Identity) -> None:
        """Remember who started a run: its later calls may not say it."""
        parent = identity.parent_run_id
        if parent is not None and identity.run_id not in self._parents:
            self._parents[identity.run_id] = parent
            if len(self._parents) > _PARENTS:
                self._parents.popitem(last=False)

    def lifted(self, run_id: str) -> bool:
        """Whether a stop of this run was lifted: here since the start, or in recent days."""
        return run_id in self._lifted

    def _note_lifted(self, stop: Stop) -> None:
        if stop.standing or stop.scope != "run":
            return
        self._lifted.pop(stop.value, None)
        self._lifted[stop.value] = None
        if len(self._lifted) > _RUNS:
            del self._lifted[next(iter(self._lifted))]

    def note(self, run_id: str) -> str | None:
        """What the next call of a redirected run is to tell the model."""
        return self._notes.get(run_id)

    def redirect(self, run_id: str) -> str | None:
        """The same, once: whoever gets it puts it before the model."""
        return self._notes.pop(run_id, None)

    async def wait(self, stop_id: str, seconds: float) -> bool:
        """Whether a stop has ended (or is none), once it has or the time is up."""
        if stop_id not in self._known:
            await self.refresh()  # it may have been given elsewhere a moment ago
        stop = self._known.get(stop_id)
        if stop is None or stop.ended_at is not None:
            return True
        ended = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(stop_id, set())
        waiting.add(ended)
        try:
            async with asyncio.timeout(seconds):
                await ended
            return True
        except TimeoutError:
            return False
        finally:
            waiting.discard(ended)
            if not waiting and self._waiting.get(stop_id) is waiting:
                del self._waiting[stop_id]

    # -- orders --

    async def give(
        self,
        scope: StopScope,
        value: str,
        action: StopAction,
        *,
        reason: str,
        by: str,
        feature: str = "",
        evidence: tuple[Evidence, ...] = (),
    ) -> Stop:
        """Durable and in force when this returns; calls in flight are being cut then.

        A scope that has a standing stop of this or a stronger action keeps it, and that one is
        returned. Raises ``InputError`` when the value is missing, ``StoreError``.
        """
        if (scope == "all") is bool(value):
            raise InputError(f"a stop of scope {scope!r} cannot have the value {value!r}")
        at = self._clock.now_us()
        wanted = Stop(
            id=new_id("stop", at),
            scope=scope,
            value=value,
            action=action,
            reason=reason,
            by=by,
            at=at,
            feature=feature,
            evidence=evidence,
        )
        kept = await self._in_thread(self._store.add_stop, wanted)
        self._orders_here += 1
        self._put(kept)
        self._cut(kept)
        return kept

    async def lift(self, stop_id: str, ending: Ending, *, by: str, note: str = "") -> Stop:
        """End a stop; who waits for it goes on. Raises ``NotFound``; ``InputError`` when it has
        ended, when a note is missing, or when what it stops is no run and cannot be redirected."""
        known = self._known.get(stop_id)
        if ending == "redirected":
            if not note.strip():
                raise InputError("note: say what the model is to be told; a redirect needs it")
            if known is not None and known.scope != "run":
                raise InputError(f"{stop_id} stops no single run: resume it, or redirect its runs")
        ended = await self._in_thread(
            self._store.end_stop, stop_id, ending, by=by, at=self._clock.now_us(), note=note
        )
        self._orders_here += 1
        self._end(ended)
        return ended

    def _put(self, stop: Stop) -> None:
        self._known[stop.id] = stop
        key = (stop.scope, stop.value)
        other = self._orders.get(key)
        if other is None or other.id == stop.id or (_is_final(stop) and not _is_final(other)):
            self._orders[key] = stop

    def _end(self, stop: Stop) -> None:
        """A stop has ended: whoever waits for it is told, and a redirected run gets its note."""
        before = self._known.pop(stop.id, None) or stop
        key = (before.scope, before.value)
        if key in self._orders and self._orders[key].id == stop.id:
            del self._orders[key]
            for other in self._known.values():
                if (other.scope, other.value) == key:
                    self._put(other)
        if stop.standing:
            self._put(stop)
        self._note_lifted(stop)
        if stop.ending == "redirected" and before.scope == "run":
            self._notes[before.value] = stop.note
            if len(self._notes) > _UNTOLD:
                del self._notes[next(iter(self._notes))]
        for waiting in self._waiting.pop(stop.id, ()):
            if not waiting.done():
                waiting.set_result(None)

    # -- cutting --

    def in_flight(self, scope: StopScope, value: str) -> int:
        """How many calls a kill of this scope would find under way in this process."""
        return sum(1 for _ in self._covered((scope, value)))

    def _covered(self, key: _Key) -> "Iterator[Exchange]":
        if self._runtime is None:
            return
        for exchange in tuple(self._runtime.in_flight.values()):
            if key in self._keys(exchange.call) and self.enforces(exchange.call.feature):
                yield exchange

    def _cut(self, stop: Stop) -> None:
        """End the calls in flight that a kill covers, and note how long that took."""
        if stop.action != "kill" or not stop.standing:
            return
        told = []
        for exchange in self._covered((stop.scope, stop.value)):
            over = exchange.stop(stopped(stop, exchange.call))
            if over is not None:
                told.append(over)
        if told:
            log.warning("%s by %s ends %d calls in flight", stop.id, stop.by, len(told))
            task = asyncio.create_task(self._note_cut(stop, told))
            self._noting.add(task)
            task.add_done_callback(self._noting.discard)

    async def _note_cut(self, stop: Stop, told: Sequence[asyncio.Future[bool]]) -> None:
        done, late = await asyncio.wait(told, timeout=_TELLING_S)
        cut = sum(over.result() for over in done)
        took_us = max(0, self._clock.now_us() - stop.at)
        if late:
            log.error("%s: %d calls have not ended after %g s", stop.id, len(late), _TELLING_S)
        if not cut:
            return
        try:
            await self._in_thread(self._store.note_cut, stop.id, cut, took_us)
        except Exception:
            log.exception("%s: what was cut cannot be noted", stop.id)


class StopsPolicy:
    """Refuses calls that are stopped, and holds those of paused runs until somebody decides."""

    name = "stops"
    failure: FailureMode = "closed"
    """A kill switch that lets calls through when it is broken is none. It looks into memory only,
    so a store that is away does not break it."""
    timeout_s = 3660.0
    """Above the longest ``wait_s``: the wait for a decision is this policy's own work."""

    def __init__(self, switch: Switch, supervision: Callable[[str], Supervision]) -> None:
        self._switch = switch
        self._supervision = supervision

    def passes(self, call: Call) -> bool:
        """Whether nothing is stopped and nothing is to be remembered of the call."""
        identity = call.draft.identity
        return self._switch.idle and (identity is None or identity.parent_run_id is None)

    async def __call__(self, call: Call, next: Next) -> Reply:
        identity, switch = call.draft.identity, self._switch
        if identity is not None and identity.parent_run_id is not None:
            switch.adopt(identity)
        if switch.idle:
            return await next(call)
        stop = switch.standing(call)
        if stop is not None:
            await self._held(call, stop)
        if identity is not None and (note := switch.note(identity.run_id)) is not None:
            call = self._instructed(call, identity.run_id, note)
        return await next(call)

    async def _held(self, call: Call, stop: Stop) -> None:
        """Return once nothing stops the call. Raises ``Stopped`` or ``RunPaused``."""
        now = asyncio.get_running_loop().time
        acts = self._switch.enforces(call.feature)
        began = now()
        deadline = began + (self._supervision(call.feature).wait_s if acts else 0.0)
        held: Stop | None = stop
        while held is not None:
            stop = held
            if _is_final(stop):
                raise stopped(stop, call)
            left = deadline - now()
            if left <= 0 or not await self._switch.wait(stop.id, left):
                raise paused(stop, call)
            held = self._switch.standing(call)
        waited = now() - began
        call.draft.decisions.append(
            Decision(
                policy=self.name,
                mode="enforce",
                action="pause",
                detail=f"held {waited:.1f} s by {stop.id}, then let go on",
                duration_us=round(waited * 1e6),
            )
        )

    def _instructed(self, call: Call, run_id: str, note: str) -> Call:
        """The call with the note before the model; a call that has no place for it leaves it."""
        if not self._switch.enforces(call.feature):
            return call
        role = self._supervision(call.feature).role
        body = with_instruction(call.dialect, call.operation, call.body, note, role)
        if body is call.body:
            return call
        self._switch.redirect(run_id)
        return call.evolve(body=body)


def _is_final(stop: Stop) -> bool:
    """Whether a stop refuses at once: a kill, or a pause that was ended for good."""
    return stop.action == "kill" or stop.ending == "ended"


def _vanished(stop_id: str) -> Stop:
    """A stop that was deleted in the store: as one that was lifted."""
    return Stop(
        id=stop_id,
        scope="all",
        action="pause",
        reason="",
        by="",
        at=0,
        ended_at=0,
        ending="resumed",
    )


# -- what callers are told --


def stopped(stop: Stop, call: Call) -> Stopped:
    """The error of a call that falls under a kill or an ended pause."""
    word = "ended" if stop.action != "kill" else "stopped"
    lift = f" `tocsin resume {stop.id}` lifts it." if stop.action == "kill" else ""
    return Stopped(
        f"{_subject(stop, call)} {word}: {_sentence(stop.reason)}"
        f" Trying again does not help until an operator decides otherwise.{lift}",
        details=_facts(stop, call),
    )


def paused(stop: Stop, call: Call) -> RunPaused:
    """The error of a call whose run is held: it says where the decision can be waited for."""
    wait = f"/api/stops/{stop.id}?wait=30"
    facts = {**_facts(stop, call), "wait": wait}
    if stop.scope == "run":
        facts["evidence"] = [_shown(step) for step in stop.evidence[:_SHOWN]]
    return RunPaused(
        f"{_subject(stop, call)} paused: {_sentence(stop.reason)}"
        f" GET {wait} answers once somebody has decided; then send the call again.",
        details=facts,
    )


def _subject(stop: Stop, call: Call) -> str:
    """What is stopped, as the beginning of a sentence."""
    if stop.scope == "run":
        identity = call.draft.identity
        if identity is not None and identity.run_id != stop.value:
            return f"The run {stop.value}, which started this one, is"
        return f"The run {stop.value} is"
    if stop.scope == "feature":
        return f"The feature '{stop.value}' is"
    return "This key is" if stop.scope == "key" else "Every call is"


def _sentence(reason: str) -> str:
    text = reason.strip() or "no reason was given"
    return text if text[-1] in ".!?" else f"{text}."


def _facts(stop: Stop, call: Call) -> dict[str, object]:
    identity = call.draft.identity
    return {
        "stop_id": stop.id,
        "scope": stop.scope,
        "value": stop.value,
        "run_id": identity.run_id if identity is not None else None,
        "reason": stop.reason,
        "at": stop.at,
    }


def _shown(step: Evidence) -> dict[str, object]:
    return {
        "call": step.call,
        "tool": step.tool,
        "arguments": step.arguments[:200],
        "outcome": step.outcome,
    }
