"""Policies as layers: modes, time limits, failure modes, and what each decided.

``observe`` needs nothing of a policy: it is run with the caller's own call, what it raises or
changes is written down, and the unchanged call goes on. A policy's time limit covers its own work,
not what happens inside ``next``; the ``Watch`` enforces it to within ``TICK_S``.
"""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic

from tocsin.core.call import Call, Draft
from tocsin.core.errors import CallError, PolicyFailed
from tocsin.core.interaction import Decision, Mode
from tocsin.core.policy import Next, Policy, Reply

log = logging.getLogger("tocsin.policies")

TICK_S = 0.05


class Stage:
    """Where a call is in the onion: set while a policy itself is at work."""

    __slots__ = ("deadline", "expired", "task")

    def __init__(self, task: "asyncio.Task[object] | None") -> None:
        self.task = task
        self.deadline = 0.0
        """Monotonic seconds; 0 while no policy is at work."""
        self.expired = False


class Watch:
    """Cancels policies that take longer than they may."""

    def __init__(self) -> None:
        self.stages: dict[str, Stage] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin to tick on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(TICK_S, self._tick)

    def enter(self, call_id: str) -> "asyncio.Task[object] | None":
        """A call begins, in the current task, which is returned."""
        # Naming the loop spares a system call that looks for forks.
        task = asyncio.current_task(self._loop)
        self.stages[call_id] = Stage(task)
        return task

    def stop(self) -> None:
        """Stop ticking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        now = monotonic()
        for stage in self.stages.values():
            if 0.0 < stage.deadline < now and not stage.expired and stage.task is not None:
                stage.expired = True
                stage.task.cancel()
        self.start()


def _decide(
    draft: Draft, policy: Policy, mode: Mode, action: str, detail: str, started: float
) -> None:
    draft.decisions.append(
        Decision(
            policy=policy.name,
            mode=mode,
            action=action,  # type: ignore[arg-type]  # the callers below pass the Literal's words
            detail=detail[:500],
            duration_us=int((monotonic() - started) * 1e6),
        )
    )


class _Layer:
    """One policy around the rest."""

    __slots__ = ("_inner", "_mode", "_passes", "_policy", "_watch")

    def __init__(self, policy: Policy, mode: Mode, inner: Next, watch: Watch) -> None:
        self._policy = policy
        self._mode = mode
        self._inner = inner
        self._watch = watch
        self._passes: Callable[[Call], bool] | None = getattr(policy, "passes", None)

    async def __call__(self, call: Call) -> Reply:
        if self._passes is not None and self._passes(call):
            return await self._inner(call)
        stage = self._watch.stages.get(call.id)
        outer = stage.deadline if stage is not None else 0.0
        started = monotonic()
        passage = _Passage(self, call, stage, started)
        try:
            if stage is not None:
                stage.deadline = started + self._policy.timeout_s
            return await self._policy(call, passage)
        except asyncio.CancelledError:
            if stage is None or not stage.expired or stage.task is None:
                raise
            stage.expired = False
            stage.task.uncancel()
            limit = f"took longer than {self._policy.timeout_s:g} s"
            return await self._failed(call, passage, "timed_out", limit, started)
        except CallError as error:
            if passage.error is error:
                raise
            _decide(call.draft, self._policy, self._mode, "deny", error.message, started)
            if self._mode == "enforce":
                raise
            return await self._onward(call, passage)
        except Exception as error:
            if passage.error is error:
                raise
            log.exception("policy %s crashed on call %s", self._policy.name, call.id)
            detail = f"{type(error).__name__}: {error}"
            return await self._failed(call, passage, "crashed", detail, started)
        finally:
            if stage is not None:
                stage.deadline = outer

    async def _onward(self, call: Call, passage: "_Passage") -> Reply:
        """Go on without the policy: with the reply that there is already, or with the call."""
        if passage.reply is not None:
            return passage.reply
        if passage.stage is not None:
            passage.stage.deadline = 0.0
        return await self._inner(call)

    async def _failed(
        self, call: Call, passage: "_Passage", action: str, detail: str, started: float
    ) -> Reply:
        _decide(call.draft, self._policy, self._mode, action, detail, started)
        if self._mode == "enforce" and self._policy.failure == "closed":
            if passage.reply is not None and passage.reply.chunks is not None:
                await close_chunks(passage.reply)
            raise PolicyFailed(
                f"The policy '{self._policy.name}' failed ({detail}) and fails closed, so the call "
                "was not let through. Try again, or set the policy to observe."
            )
        return await self._onward(call, passage)


class _Passage:
    """The ``next`` that a policy gets: remembers what came back through it."""

    __slots__ = ("_call", "_layer", "error", "reply", "stage", "started")

    def __init__(self, layer: _Layer, call: Call, stage: Stage | None, started: float) -> None:
        self._layer = layer
        self._call = call
        self.stage = stage
        self.started = started
        self.reply: Reply | None = None
        self.error: BaseException | None = None

    async def __call__(self, call: Call) -> Reply:
        layer, stage = self._layer, self.stage
        changed = call.body is not self._call.body
        if changed:
            _decide(call.draft, layer._policy, layer._mode, "modify", "body", self.started)
        if layer._mode == "observe" and call is not self._call:
            call = self._call
        if stage is not None:
            stage.deadline = 0.0
        try:
            self.reply = await layer._inner(call)
        except BaseException as error:
            self.error = error
            raise
        finally:
            if stage is not None:
                stage.deadline = monotonic() + layer._policy.timeout_s
        return self.reply


async def close_chunks(reply: Reply) -> None:
    """Close a reply's stream early, which cancels the upstream; never raises."""
    close: Callable[[], object] | None = getattr(reply.chunks, "aclose", None)
    if close is not None:
        try:
            await close()  # type: ignore[misc]  # an async iterator's aclose is a coroutine
        except Exception:
            log.exception("closing an upstream stream failed")


def nest(policies: tuple[tuple[Policy, Mode], ...], innermost: Next, watch: Watch) -> Next:
    """The onion: the first policy is outermost; those that are ``off`` are not there."""
    layer = innermost
    for policy, mode in reversed(policies):
        if mode != "off":
            layer = _Layer(policy, mode, layer, watch)
    return layer
