"""How jobs make calls of their own: the path of all calls, as the app gives it to them."""

from collections.abc import Mapping
from typing import Protocol


class CallPath(Protocol):
    """Makes one call through the path of all calls; returns its id (``runtime.asking.ask``)."""

    async def __call__(
        self,
        path: str,
        body: bytes,
        *,
        feature: str,
        run: str,
        name: str,
        facts: Mapping[str, str],
    ) -> str: ...


__all__ = ["CallPath"]
