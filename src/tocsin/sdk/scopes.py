"""What an effect is done once in: an operation, else the current run."""

from contextvars import ContextVar
from typing import NamedTuple, Self

from tocsin.core.errors import InputError
from tocsin.sdk.runs import current


class _Inside(NamedTuple):
    scope: str
    outer: "_Inside | None"


_INSIDE: ContextVar[_Inside | None] = ContextVar("tocsin_effects", default=None)


class Scope:
    """``with tocsin.operation(id):`` the effects inside are intents of this operation."""

    def __init__(self, scope: str) -> None:
        self.id = scope

    def __enter__(self) -> Self:
        _INSIDE.set(_Inside(self.id, _INSIDE.get()))
        return self

    def __exit__(self, *_: object) -> None:
        inside = _INSIDE.get()
        if inside is not None:
            _INSIDE.set(inside.outer)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()


def operation() -> str | None:
    """The operation that the running code is inside of."""
    inside = _INSIDE.get()
    return inside.scope if inside is not None else None


def scope_of(name: str) -> str:
    """The operation, or the run, that an effect of this name is done once in.

    Raises ``InputError`` outside of both.
    """
    run = current()
    scope = operation() or (run.id if run is not None else None)
    if scope is None:
        raise InputError(
            f"{name}: an effect is done once for each operation or run, and this is inside of "
            f"neither; put `with tocsin.run(...)` or `with tocsin.operation(...)` around it, or "
            f"call it with `.within(scope)`"
        )
    return scope
