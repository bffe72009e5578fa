"""``Run``: which run the calls of a block belong to, carried by a context variable."""

from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple, Self

import msgspec

if TYPE_CHECKING:
    from tocsin.core.stops import Stop
    from tocsin.sdk.front import Tocsin


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What a run has used so far, with the child runs that this process has begun inside it."""

    nano_usd: int = 0
    """Of the calls whose price is known."""
    unpriced: int = 0
    """Calls whose price is not known."""
    input_tokens: int = 0
    output_tokens: int = 0
    calls: int = 0
    tool_calls: int = 0
    """Tool calls that models have asked for."""

    @property
    def usd(self) -> float:
        """US dollars."""
        return self.nano_usd / 1e9


class Run:
    """``with tocsin.run(...) as run:``; every wrapped client inside belongs to it.

    May be entered again, also in other threads and tasks, where context variables do not reach by
    themselves. Made by ``Tocsin.run``.
    """

    def __init__(
        self,
        tocsin: "Tocsin",
        *,
        run_id: str,
        feature: str | None,
        agent: str | None,
        end_user: str | None,
        parent_id: str | None,
    ) -> None:
        self._tocsin = tocsin
        self.id = run_id
        self.feature = feature
        self.agent = agent
        self.end_user = end_user
        self.parent_id = parent_id
        """The run that started this one; what this one spends counts there as well."""
        self._children: list[Run] = []

    def __enter__(self) -> Self:
        _INSIDE.set(_Inside(self, _INSIDE.get()))
        return self

    def __exit__(self, *_: object) -> None:
        inside = _INSIDE.get()
        if inside is not None:
            _INSIDE.set(inside.outer)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    def __repr__(self) -> str:
        return f"<Run {self.id} feature={self.feature!r} parent={self.parent_id!r}>"

    def adopt(self, child: "Run") -> None:
        """Count a child run in: called by ``Tocsin.run``."""
        self._children.append(child)

    def family(self) -> list[str]:
        """The ids of this run and of its children, theirs included."""
        return [self.id, *(run_id for child in self._children for run_id in child.family())]

    def spent(self) -> Spent:
        """What the run has used, every call that has ended included; waits for the store."""
        return self._tocsin.spent(*self.family())

    async def aspent(self) -> Spent:
        """``spent`` without blocking the loop."""
        return await self._tocsin.aspent(*self.family())

    def stop(self, reason: str) -> "Stop":
        """End the run in every process of the store: what is in flight is cut, nothing follows."""
        return self._tocsin.stop(self.id, reason, feature=self.feature or "")

    async def astop(self, reason: str) -> "Stop":
        """``stop`` without blocking the loop."""
        return await self._tocsin.astop(self.id, reason, feature=self.feature or "")


class _Inside(NamedTuple):
    run: Run
    outer: "_Inside | None"


_INSIDE: ContextVar[_Inside | None] = ContextVar("tocsin_run", default=None)


def current() -> Run | None:
    """The run that the running code is inside of."""
    inside = _INSIDE.get()
    return inside.run if inside is not None else None
