"""``Router``: takes a call to an upstream that answers: retries, fallback, balancing, cool-down.

Nothing is ever retried after bytes went to the caller. A stream is committed with its first bytes:
until they are there, another upstream can still take its place; after that, none can.
"""

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Literal

import msgspec

from tocsin.config.model import Config
from tocsin.core.call import Call
from tocsin.core.clock import Clock
from tocsin.core.errors import CallError, Unavailable, UpstreamFailed
from tocsin.core.interaction import Attempt, Operation
from tocsin.core.policy import Provider, Reply
from tocsin.core.wire import with_model
from tocsin.providers.circuit import RouterStats
from tocsin.providers.streams import LEFT, Chunks, as_chunks
from tocsin.providers.targets import Target, Targets, arrange

log = logging.getLogger("tocsin.providers")

MAX_PAUSE_S = 8.0
"""Longest pause of the backoff, and longest ``Retry-After`` that is waited for while another
upstream could take the call."""
MAX_RETRY_AFTER_S = 30.0
"""Longest ``Retry-After`` that is waited for when no other upstream is left."""

# Asking again costs money at most; any other POST may create something twice.
_REPEATABLE: frozenset[Operation] = frozenset(
    {"chat", "text_completion", "generate_content", "embeddings", "count_tokens", "models"}
)
BEGAN_WITH_ERROR = "stream_error: the stream began with an error"
_DOWN = frozenset({408, 429})
Reason = Literal["first", "retry", "fallback"]
_ERROR_EVENTS = (b'data: {"error":', b'data:{"error":', b'data: {"type":"error"', b"event: error")

Sleep = Callable[[float], Awaitable[None]]


class Router:
    """The innermost of the onion: ``await router(call)`` gives the reply of some upstream.

    Which upstreams: those of the call's feature, by tier and weight; for a feature without targets
    the first upstream whose ``models`` match. Each try is one ``Attempt`` on the call's draft. The
    attempt of a stream is brought up to date when the stream ends.

    Raises ``BadRequest`` when no upstream speaks the dialect or serves the model,
    ``UpstreamFailed`` when the only upstream gave no answer, and ``Unavailable``, which lists what
    was tried, when several did not. An error that an upstream answers with is a reply: the last
    one is passed on as it came.
    """

    def __init__(
        self,
        config: Config,
        providers: Mapping[str, Provider],
        clock: Clock,
        rng: random.Random,
        *,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.stats = RouterStats()
        self._targets = Targets(config, providers, self.stats)
        self._clock = clock
        self._rng = rng
        self._sleep = sleep

    async def __call__(self, call: Call) -> Reply:
        plan = self._targets.plan(call)
        if len(plan) == 1 and len(plan[0]) == 1:
            targets: Sequence[Target] = plan[0]
        else:
            order = arrange(plan, self._rng)
            now = self._clock.monotonic_us()
            # When all of them rest, it is better to try than to refuse.
            targets = [target for target in order if target.circuit.admits(now)] or order
        result = await self.attempt(call, targets[0], "first")
        if isinstance(result, Reply) and not is_failure(result):
            return result
        return await Recovery(self, call, targets, result).run()

    async def attempt(self, call: Call, target: Target, reason: Reason) -> Reply | UpstreamFailed:
        """One try, recorded once: a reply of any status, or why there is none.

        Raises what the ledger raises when it cannot be paid: then nothing was sent.
        """
        clock = self._clock
        if call.draft.budget is not None:
            await call.draft.budget.attempt(
                call,
                upstream=target.name,
                provider=target.label,
                model=target.model or call.model,
            )
        started_at, began = clock.now_us(), clock.monotonic_us()
        target.stats.attempts += 1
        target.circuit.begin(began)
        first_us: int | None = None
        opening = b""
        try:
            reply = await target.provider.send(_addressed(call, target))
            if reply.chunks is not None:
                chunks = reply.chunks = as_chunks(reply.chunks, target.name)
                opening = await chunks.prime()
                first_us = clock.monotonic_us() - began
        except Exception as error:
            if isinstance(error, CallError) and not isinstance(error, UpstreamFailed):
                # The call itself is at fault: that says nothing about the upstream.
                target.circuit.undecided()
                if call.draft.budget is not None:
                    call.draft.budget.unsent()
                _note(call, target, reason, started_at, clock.monotonic_us() - began, error)
                raise
            failure = _as_failure(error, target)
            if not failure.sent and call.draft.budget is not None:
                call.draft.budget.unsent()
            target.circuit.failed(clock.monotonic_us())
            target.stats.failures += 1
            _note(call, target, reason, started_at, clock.monotonic_us() - began, failure)
            return failure
        except BaseException:
            target.circuit.undecided()
            _note(call, target, reason, started_at, clock.monotonic_us() - began, None)
            raise
        self._answered(call, target, reply, opening, reason, started_at, began, first_us)
        return reply

    def _answered(
        self,
        call: Call,
        target: Target,
        reply: Reply,
        opening: bytes,
        reason: Reason,
        started_at: int,
        began: int,
        first_us: int | None,
    ) -> None:
        """Record a reply and what it says about the upstream."""
        now = self._clock.monotonic_us()
        broken = bool(opening) and opening.startswith(_ERROR_EVENTS)
        if broken or reply.status in _DOWN or reply.status >= 500:
            target.circuit.failed(now)
            target.stats.failures += 1
        else:
            target.circuit.succeeded()
        attempts = call.draft.attempts
        attempt = Attempt(
            number=len(attempts) + 1,
            upstream=target.name,
            provider=target.label,
            model=target.model or call.model,
            started_at=started_at,
            duration_us=now - began,
            first_chunk_us=first_us,
            status=reply.status,
            error=BEGAN_WITH_ERROR if broken else None,
            reason=reason,
            request_id=_request_id(reply),
        )
        reply.attempt = attempt
        attempts.append(attempt)
        if isinstance(reply.chunks, Chunks):
            self._follow(call, target, reply.chunks, len(attempts) - 1, began)

    def _follow(self, call: Call, target: Target, chunks: Chunks, index: int, began: int) -> None:
        """Bring the attempt of a stream up to date when the stream ends."""
        attempts = call.draft.attempts

        def ended(error: str | None) -> None:
            now = self._clock.monotonic_us()
            attempt = attempts[index]
            attempts[index] = msgspec.structs.replace(
                attempt, duration_us=now - began, error=error or attempt.error
            )
            if error is not None and error != LEFT:
                target.circuit.failed(now)
                target.stats.broken_streams += 1

        chunks.ended = ended

    def pause(self, target: Target, tries: int, reply: Reply | None, *, last: bool) -> float | None:
        """Seconds to wait before the next try on ``target``; ``None`` when it is not worth it."""
        asked = retry_after_s(reply, self._clock.now_us()) if reply is not None else None
        if asked is not None:
            longest = MAX_RETRY_AFTER_S if last else MAX_PAUSE_S
            return asked if asked <= longest else None
        # Full jitter: callers that failed together must not come back together.
        return float(self._rng.random() * min(MAX_PAUSE_S, target.backoff_s * 2**tries))

    async def wait(self, seconds: float) -> None:
        """Pause between two tries."""
        if seconds > 0:
            await self._sleep(seconds)

    def rests(self, target: Target) -> bool:
        """Whether the upstream is left out at this moment."""
        return not target.circuit.admits(self._clock.monotonic_us())


class Recovery:
    """What happens after a first try failed: the rest of one call's way through its targets."""

    __slots__ = ("_call", "_failures", "_last", "_repeatable", "_result", "_router", "_targets")

    def __init__(
        self,
        router: Router,
        call: Call,
        targets: Sequence[Target],
        result: Reply | UpstreamFailed,
    ) -> None:
        self._router = router
        self._call = call
        self._targets = targets
        self._result = result
        self._last: Reply | None = None
        self._failures: list[tuple[str, UpstreamFailed]] = []
        self._repeatable = call.operation in _REPEATABLE or call.method in ("GET", "HEAD")

    async def run(self) -> Reply:
        """Try what may still be tried. Returns the answer, or the last error as it came."""
        was_ready = [not self._router.rests(target) for target in self._targets]
        try:
            for position, target in enumerate(self._targets):
                if position:
                    if not self._may_fall_back():
                        break
                    if was_ready[position] and self._router.rests(target):
                        continue  # another call has found out meanwhile
                    target.stats.fallbacks += 1
                    self._result = await self._router.attempt(self._call, target, "fallback")
                if await self._settle(target, last=position + 1 == len(self._targets)):
                    assert isinstance(self._result, Reply)
                    return self._result
        except BaseException:
            await self._drop(self._last)
            raise
        return self._give_up()

    async def _settle(self, target: Target, *, last: bool) -> bool:
        """Retry on one target as long as that can help; whether there is an answer now."""
        tries = 0
        while True:
            if isinstance(self._result, Reply) and not is_failure(self._result):
                await self._drop(self._last)
                return True
            await self._keep(target)
            if tries >= target.retries or not self._may_retry():
                return False
            if not target.circuit.closed:
                return False  # it rests from now on: no call insists
            reply = self._result if isinstance(self._result, Reply) else None
            seconds = self._router.pause(target, tries, reply, last=last)
            if seconds is None:
                return False
            await self._router.wait(seconds)
            tries += 1
            target.stats.retries += 1
            self._result = await self._router.attempt(self._call, target, "retry")

    def _may_retry(self) -> bool:
        """Whether the same upstream may be asked again."""
        result = self._result
        if isinstance(result, UpstreamFailed):
            if not result.sent:
                return result.retryable
            # After a time limit the same upstream would only be slow again.
            return self._repeatable and not result.timeout
        advice = result.header(b"x-should-retry")
        if advice == b"false":
            return False
        return self._repeatable or result.status == 429

    def _may_fall_back(self) -> bool:
        """Whether another upstream may be asked: never about what one provider keeps."""
        return self._repeatable

    async def _keep(self, target: Target) -> None:
        """Remember how the last try failed; of several replies the latest is passed on."""
        if isinstance(self._result, UpstreamFailed):
            self._failures.append((target.name, self._result))
            return
        if self._last is not self._result:
            await self._drop(self._last)
        self._last = self._result

    async def _drop(self, reply: Reply | None) -> None:
        if reply is not None and isinstance(reply.chunks, Chunks):
            await reply.chunks.aclose()

    def _give_up(self) -> Reply:
        if self._last is not None:
            return self._last
        if len({name for name, _ in self._failures}) == 1:
            raise self._failures[-1][1]
        tried = "; ".join(f"{name}: {error.message}" for name, error in self._failures)
        raise Unavailable(f"No upstream gave an answer. Tried {tried}")


def is_failure(reply: Reply) -> bool:
    """Whether a reply says that the upstream cannot, now: another try may go better."""
    status = reply.status
    if status < 400:
        return reply.attempt is not None and reply.attempt.error is BEGAN_WITH_ERROR
    return status >= 500 or status in _DOWN or status == 409


def retry_after_s(reply: Reply, now_us: int) -> float | None:
    """Seconds that the upstream asks to wait, from ``retry-after-ms`` or ``retry-after``."""
    exact = reply.header(b"retry-after-ms")
    value = exact or reply.header(b"retry-after")
    if value is None:
        return None
    text = value.decode("latin-1").strip()
    try:
        seconds = float(text) / (1000 if exact else 1)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now_us / 1_000_000
        except (ValueError, TypeError, OverflowError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _addressed(call: Call, target: Target) -> Call:
    """The call as the target gets it: with the target's model, where it names one."""
    model = target.model
    if not model or model == call.model or not call.model:
        return call
    return call.evolve(model=model, body=with_model(call.body, model))


def _note(
    call: Call,
    target: Target,
    reason: Reason,
    started_at: int,
    duration_us: int,
    error: Exception | None,
) -> None:
    """Record a try that got no reply; without an error, one that was cancelled."""
    said = f"{type(error).__name__}: {error}" if error is not None else LEFT
    call.draft.attempts.append(
        Attempt(
            number=len(call.draft.attempts) + 1,
            upstream=target.name,
            provider=target.label,
            model=target.model or call.model,
            started_at=started_at,
            duration_us=duration_us,
            error=said,
            reason=reason,
        )
    )


def _as_failure(error: Exception, target: Target) -> UpstreamFailed:
    if isinstance(error, UpstreamFailed):
        return error
    log.error("the provider of upstream %r crashed", target.name, exc_info=error)
    kind = type(error).__name__
    return UpstreamFailed(f"Upstream {target.name!r} failed inside Tocsin ({kind}).", sent=True)


def _request_id(reply: Reply) -> str | None:
    """The provider's own id of the request, for its support."""
    for name, value in reply.headers:
        if name in (b"x-request-id", b"request-id"):
            return value.decode("latin-1")[:200]
    return None
