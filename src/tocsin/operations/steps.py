"""Things that are done once: steps, and effects on the world.

An effect goes ``begun`` → ``done``, or ``failed`` when it certainly did not happen, or ``unknown``
when nobody can tell. What a dead process had begun is never simply done again: the world is asked
(``find``), and where it cannot be, the effect is ``unknown``.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from tocsin.core.errors import StoreError, TocsinError
from tocsin.core.operations import EffectUnknown, Step, StepState
from tocsin.operations.endings import is_uncertain, message_of
from tocsin.operations.live import Live

if TYPE_CHECKING:
    from tocsin.operations.work import Shop

log = logging.getLogger("tocsin.operations")

BRIEFLY_S = 2.0
"""How long an effect under way may go on when its work is cut, so that its end is known."""
_RETRY_S = (0.1, 0.5, 2.0, 5.0)
_AGAIN_S = (0.1, 0.5, 2.0, 5.0)
"""Pauses, at the most, before an effect that broke off is looked for and, where ``find`` says that
it did not happen, done again. Whatever it calls may be starting just now."""

Act = Callable[[str], Awaitable[Any]]
Find = Callable[[str], Awaitable[Any]] | None


class Steps:
    """The steps of one live operation."""

    __slots__ = ("_live", "_shop")

    def __init__(self, shop: "Shop", live: Live) -> None:
        self._shop = shop
        self._live = live

    async def shared(self, step: Step, do: Callable[[], Awaitable[Any]]) -> Any:
        """Do it, or wait for whoever does it now: all get the same result, or error."""
        inflight = self._live.inflight
        while (first := inflight.get(step.key)) is not None:
            await asyncio.wait((first,))
            if not first.cancelled():
                # It is there by now: this only counts that it was asked for again.
                await self._shop.threads.write(self._shop.book.begin_step, step)
                return first.result()
        future = inflight[step.key] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda f: f.cancelled() or f.exception())
        try:
            result = await do()
        except asyncio.CancelledError:
            future.cancel()
            raise
        except BaseException as error:
            future.set_exception(error)
            raise
        else:
            future.set_result(result)
            return result
        finally:
            del inflight[step.key]

    # -- steps that may be done again --

    async def simple(self, step: Step, act: Callable[[], Awaitable[Any]]) -> Any:
        """Do what may be done again after a crash."""
        row, new = await self._shop.threads.write(self._shop.book.begin_step, step)
        if row.state == "done":
            return _value(row.result)
        if not new:
            await self._take(row)
        try:
            result = _json(await act())
        except Exception as error:
            await self._settle(step.key, "failed", _json({"message": message_of(error)}))
            raise
        await self._settle(step.key, "done", result)
        return _value(result)

    # -- effects --

    async def effect(self, step: Step, act: Act, find: Find) -> Any:
        """Do what must not be done twice."""
        await self._shop.sure(self._live)
        row, new = await self._begin(step)
        if row.state == "done":
            return _value(row.result)
        if not new:
            if row.state in ("begun", "unknown"):
                found = await self._find(row, find)
                if found is not None:
                    return found
            await self._take(row)
        return await self._act(step, act, find)

    async def _begin(self, step: Step) -> tuple[Step, bool]:
        """Begin it in the store. Cancelled meanwhile, it is not left there as begun."""
        task = asyncio.ensure_future(self._shop.threads.write(self._shop.book.begin_step, step))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            _, new = await task
            if new and not self._live.gone:
                await self._settle(step.key, "failed", _json({"message": "cancelled before it"}))
            raise

    async def _act(self, step: Step, act: Act, find: Find) -> Any:
        for pause_s in (*_AGAIN_S, None):
            await self._shop.sure(self._live)
            error, result = await self._once(step, act)
            if error is None:
                return result
            if not is_uncertain(error):
                raise error
            if find is None:
                raise EffectUnknown(step.key, step.name) from error
            if pause_s is not None:
                await asyncio.sleep(random.uniform(pause_s / 2, pause_s))  # noqa: S311 - jitter
            row = msgspec.structs.replace(step, state="unknown")
            found = await self._find(row, find)
            if found is not None:
                return found
            await self._take(row)
        await self._settle(step.key, "failed", _json({"message": "it did not happen"}))
        raise TocsinError(
            f"{step.name}: it broke off {len(_AGAIN_S) + 1} times, and each time it had not "
            "happened"
        )

    async def _once(self, step: Step, act: Act) -> tuple[BaseException | None, Any]:
        """Act, and settle what became of it; returns its error or its result."""
        task: asyncio.Future[Any] = asyncio.ensure_future(act(step.key))
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            await self._cut(step, task)
            raise
        return await self._settled(step.key, task)

    async def _cut(self, step: Step, task: "asyncio.Future[Any]") -> None:
        """The work was cut in the middle of an effect."""
        live = self._live
        if live.cut != "lost":
            await asyncio.wait((task,), timeout=BRIEFLY_S)
        if not task.done():
            task.cancel()
            await asyncio.wait((task,), timeout=BRIEFLY_S)
            if live.gone:
                return  # As if this process had died: whoever goes on finds it begun.
        if live.cut == "lost":
            return
        if task.done():
            await self._settled(step.key, task)
        else:
            await self._settle(step.key, "unknown", None)

    async def _settled(
        self, key: str, task: "asyncio.Future[Any]"
    ) -> tuple[BaseException | None, Any]:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            result = _json(task.result())
            await self._settle(key, "done", result)
            return None, _value(result)
        if is_uncertain(error):
            await self._settle(key, "unknown", None)
        else:
            await self._settle(key, "failed", _json({"message": message_of(error)}))
        return error, None

    async def _find(self, row: Step, find: Find) -> Any:
        """What the world says became of an effect: its result, or ``None`` when it did not happen.
        Raises ``EffectUnknown`` when it does not say."""
        if find is None:
            await self._unknown(row, None)
        try:
            found = await find(row.key)
        except Exception as error:
            await self._unknown(row, error)
        if found is None:
            return None
        result = _json(found)
        await self._settle(row.key, "done", result)
        return _value(result)

    async def _unknown(self, row: Step, error: Exception | None) -> NoReturn:
        if row.state == "begun":
            await self._settle(row.key, "unknown", None)
        raise EffectUnknown(row.key, row.name) from error

    # -- the store --

    async def _take(self, row: Step) -> None:
        """Make a step that was begun before this process's own. Whoever may not is no owner."""
        if row.state == "begun" and row.owner == self._shop.owner:
            return
        taken = await self._shop.threads.write(
            self._shop.book.take_step, row.key, self._shop.owner, row.state
        )
        if not taken:
            log.warning("step %s of operation %s is another process's", row.name, row.scope)
            raise asyncio.CancelledError

    async def _settle(self, key: str, state: StepState, result: bytes | None) -> None:
        """Write down what became of a step. What has happened must not be lost because the store
        is down for a moment."""
        book, now = self._shop.book, self._shop.clock.now_us()
        for wait_s in _RETRY_S:
            try:
                await self._shop.threads.write(book.settle_step, key, state, result, now)
                return
            except StoreError as error:
                log.error("step %s waits for the store (%s)", key, error)
                await asyncio.sleep(wait_s)
        await self._shop.threads.write(book.settle_step, key, state, result, now)


def _json(value: Any) -> bytes:
    """What is kept of a result. Whatever JSON has no form for is kept as its text: it must never
    be lost that an effect happened."""
    return msgspec.json.encode(value, enc_hook=str)


def _value(result: bytes | None) -> Any:
    return None if result is None else msgspec.json.decode(result)
