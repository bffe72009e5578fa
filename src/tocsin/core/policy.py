"""The request path in types: policies around a provider, answering with a ``Reply``."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal, Protocol

from tocsin.core.call import Call, Headers
from tocsin.core.interaction import Attempt

FailureMode = Literal["open", "closed"]


class Reply:
    """An answer on its way to the caller: a head, and a whole body or chunks of one.

    ``chunks`` yields wire bytes as they came; closing it early (``aclose``) cancels the upstream.
    A policy that needs to change the stream replaces ``chunks`` by a wrapper.
    """

    __slots__ = ("attempt", "body", "chunks", "headers", "status")

    def __init__(
        self,
        *,
        status: int,
        headers: Headers | list[tuple[bytes, bytes]],
        body: bytes | None = None,
        chunks: AsyncIterator[bytes] | None = None,
        attempt: Attempt | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.chunks = chunks
        self.attempt = attempt
        """The attempt that gave this reply, while its body is still arriving."""

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, ``name`` in lower case."""
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return None


Next = Callable[[Call], Awaitable[Reply]]
"""The rest of the onion."""


class Policy(Protocol):
    """One layer of the request path.

    Do work, then ``return await next(call)``; raise ``errors.Denied`` to stop the call. The runtime
    applies ``timeout_s`` to the policy's own work (not to ``next``) and, when it crashes or hangs,
    goes on without it (``open``) or refuses the call (``closed``).

    A policy may have a method ``passes(call) -> bool``, in memory and without errors: a call that
    it has nothing to do with goes past it at no cost.
    """

    name: str
    failure: FailureMode
    timeout_s: float

    async def __call__(self, call: Call, next: Next) -> Reply: ...


class Provider(Protocol):
    """Something that answers calls: an HTTP API, a model in process, a recording, a script."""

    kind: str
    """``openai``, ``anthropic``, ``local``, ``replay`` or ``scripted``."""

    async def send(self, call: Call) -> Reply:
        """One round trip. Raises ``errors.UpstreamFailed`` when there is no answer to forward."""
        ...

    async def aclose(self) -> None:
        """Free connections and processes."""
        ...
