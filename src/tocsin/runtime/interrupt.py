"""``Interruption``: an error put into what a task is doing, so that it cannot be swallowed.

``Task.cancel`` is how work is interrupted in asyncio, but a cancellation can be caught, and one
that is not taken back (``Task.uncancel``) breaks time limits that the task sets later. So whoever
stops a call says it once, here; the task is cancelled again until it heeds, and the call's own
frame (``Exchange``) takes back exactly what was asked and raises the error in its place.
"""

import asyncio

from tocsin.core.errors import CallError

AGAIN_S = 0.1
"""How long a task may take to heed before it is cancelled again."""


class Interruption:
    """One call being stopped. Used on the loop of the call alone."""

    __slots__ = ("_asked", "_released", "_task", "_timer", "_untouched", "error", "over")

    def __init__(self, error: CallError) -> None:
        self.error = error
        self.over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Done once the caller has been told, as far as this process can tell it. The result says
        whether the call was cut: one whose own policy gave the order was refused by that."""
        self._task: asyncio.Task[object] | None = None
        self._untouched = 0
        self._asked = 0
        self._timer: asyncio.Handle | None = None
        self._released = False

    def press(self, task: "asyncio.Task[object]", untouched: int) -> None:
        """Interrupt ``task``, again and again until ``release``.

        ``untouched`` is the task's ``cancelling()`` when nobody had cancelled it.
        """
        self._task, self._untouched = task, untouched
        self._ask()

    def _ask(self) -> None:
        task = self._task
        if self._released or task is None or task.done():
            return
        loop = asyncio.get_running_loop()
        if asyncio.current_task(loop) is task:
            # A policy of this very call gave the order: it must not be cancelled between here and
            # its next wait, where the cancellation could outlive the call.
            self._timer = loop.call_soon(self._ask)
            return
        self._asked += 1
        task.cancel()
        self._timer = loop.call_later(AGAIN_S, self._ask)

    def release(self) -> bool:
        """Take back what was asked. Whether anybody else has cancelled the task as well."""
        self._released = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        task, asked, self._asked = self._task, self._asked, 0
        if task is None:
            return False
        left = task.cancelling()
        for _ in range(asked):
            left = task.uncancel()
        return left > self._untouched

    def finished(self, *, cut: bool) -> None:
        """The frame of the call is left: what is written now is its last."""
        # One turn later: the error is written in the same turn in which this is said.
        asyncio.get_running_loop().call_soon(self._done, cut)

    def _done(self, cut: bool) -> None:
        if not self.over.done():
            self.over.set_result(cut)
