"""``ScriptedProvider``: answers from a script, for tests and for trying Tocsin without a model."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from tocsin.core.call import Call
from tocsin.core.errors import UpstreamFailed
from tocsin.core.interaction import Dialect
from tocsin.core.policy import Reply
from tocsin.core.wire.render import Answer
from tocsin.providers.playing import DEFAULT, Step, play

Script = Callable[[Call], Step | str] | Sequence[Step | str] | str


def text(words: str, **more: Any) -> Step:
    """A step that answers with text; ``more`` are fields of ``Answer``."""
    return Step(answer=Answer(text=words, **more))


def error(status: int, message: str = "scripted error", **headers: str) -> Step:
    """A step that answers with an HTTP error; headers by name, ``_`` for ``-``."""
    pairs = tuple((k.replace("_", "-").encode(), v.encode()) for k, v in headers.items())
    return Step(status=status, headers=pairs, answer=Answer(text=message))


class ScriptedProvider:
    """Plays a script: a sequence of steps, one for each call, or a function of the call.

    Text stands for an answer with that text. When a sequence is used up, its last step repeats.
    ``calls`` holds every call it got, ``left`` those whose caller left before the end.
    """

    kind = "scripted"
    label = "scripted"
    dialects: frozenset[Dialect] = frozenset({"openai", "anthropic"})

    def __init__(self, script: Script = DEFAULT, *, name: str = "scripted") -> None:
        self.name = name
        self.calls: list[Call] = []
        self.left: list[Call] = []
        self.closed = False
        self._function = script if callable(script) else None
        self._steps: list[Step | str] = []
        if isinstance(script, str):
            self._steps = [script]
        elif not callable(script):
            self._steps = list(script)
        if self._function is None and not self._steps:
            raise ValueError("script: a sequence needs at least one step")

    async def send(self, call: Call) -> Reply:
        """Play the next step. Raises ``UpstreamFailed`` where the step says so."""
        step = self._step(call)
        self.calls.append(call)
        try:
            if step.delay_s:
                await asyncio.sleep(step.delay_s)
            if step.hang:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.left.append(call)
            raise
        if step.fail:
            raise UpstreamFailed(f"Upstream {self.name!r} fails by its script.", sent=step.sent)
        return play(step, call, self.name, lambda: self.left.append(call))

    async def aclose(self) -> None:
        self.closed = True

    def _step(self, call: Call) -> Step:
        if self._function is not None:
            step = self._function(call)
        else:
            step = self._steps[min(len(self.calls), len(self._steps) - 1)]
        return text(step) if isinstance(step, str) else step


__all__ = ["Script", "ScriptedProvider", "Step", "error", "text"]
