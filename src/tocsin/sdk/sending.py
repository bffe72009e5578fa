"""The innermost of the SDK's onion: the client's own transport sends, with its URL and its key.

A ``Route`` is what one wrapped client needs of Tocsin: a router over the one provider that the
client is. An ``Errand`` is one of its calls; which one the router is asked about stands in a
context variable, since the ``Call`` itself carries plain data alone.
"""

import contextlib
import random
import socket
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import Any, Protocol

from tocsin.config.model import Config, Upstream
from tocsin.core.call import Call
from tocsin.core.clock import Clock
from tocsin.core.errors import UpstreamFailed
from tocsin.core.interaction import Dialect
from tocsin.core.policy import Reply
from tocsin.providers import Chunks, Router
from tocsin.providers.remote import accepted

_UNSENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError")
"""Errors of the HTTP library after which the provider has seen nothing."""


class Body(Protocol):
    """The bytes of an answer on their way, read by the client's own transport."""

    async def next(self) -> bytes:
        """The next bytes, as they came; empty at the end."""
        ...

    async def close(self) -> None:
        """Let go of the connection, also while something reads."""
        ...


class Answer:
    """What the client's transport brought: the head, its names in lower case, and the body.

    ``first`` is what has been read of a body that is no stream of events: all of it, unless it is
    very large; ``rest`` is what is still to come.
    """

    __slots__ = ("first", "headers", "rest", "status")

    def __init__(
        self, status: int, headers: list[tuple[bytes, bytes]], first: bytes, rest: Body | None
    ) -> None:
        self.status = status
        self.headers = headers
        self.first = first
        self.rest = rest


class Errand(Protocol):
    """One call of a wrapped client."""

    route: "Route"
    library: Any
    """The HTTP library of the client, ``httpx2`` or ``httpx``."""

    def send(self, request: Any) -> Awaitable[Answer]:
        """Let the client's transport send. Raises what the transport raises."""
        ...

    request: Any
    """The request as the client made it, its body read."""


ERRAND: ContextVar[Errand] = ContextVar("tocsin_errand")


async def dispatch(call: Call) -> Reply:
    """The end of the onion for every wrapped client: the router of the client whose call it is."""
    return await ERRAND.get().route.router(call)


class Route:
    """The way of one wrapped client's calls: a router with that client as its one upstream.

    It never retries: the client itself does, each time as a new call.
    """

    def __init__(self, name: str, kind: Dialect, label: str, clock: Clock) -> None:
        upstream = Upstream.model_validate({"kind": kind, "retries": 0})
        config = Config().model_copy(update={"upstreams": {name: upstream}})
        self.provider = ClientProvider(name, kind, label)
        self.router = Router(
            config,
            {name: self.provider},
            clock,
            random.Random(),  # noqa: S311 - nothing is drawn: there is one upstream
        )


class ClientProvider:
    """A wrapped client as a provider."""

    def __init__(self, name: str, kind: Dialect, label: str) -> None:
        self.name = name
        self.kind: str = kind
        self.label = label

    async def send(self, call: Call) -> Reply:
        """One round trip. Raises ``UpstreamFailed``, caused by what the client's transport said."""
        errand = ERRAND.get()
        try:
            answer = await errand.send(outgoing(errand, call))
        except Exception as error:
            raise _failed(self.name, error) from error
        rest = answer.rest
        if rest is None:
            return Reply(status=answer.status, headers=answer.headers, body=answer.first)
        chunks = Chunks(
            lambda: self._next(rest), rest.close, upstream=self.name, first=answer.first
        )
        return Reply(status=answer.status, headers=answer.headers, chunks=chunks)

    async def aclose(self) -> None:
        """Nothing to free: the connections are the client's."""

    async def _next(self, body: Body) -> bytes:
        try:
            return await body.next()
        except Exception as error:
            raise _failed(self.name, error) from error


def outgoing(errand: Errand, call: Call) -> Any:
    """The request as it leaves: the client's own, with the body that policies have left.

    What was said to Tocsin stays here, and no encoding is asked for that Tocsin cannot read.
    """
    asked = errand.request
    headers: list[tuple[bytes, bytes]] = []
    for name, value in asked.headers.raw:
        lower = name.lower()
        if lower.startswith(b"tocsin-"):
            continue
        if lower == b"accept-encoding":
            value = accepted(value)
        elif lower in (b"content-length", b"transfer-encoding"):
            continue
        headers.append((name, value))
    return errand.library.Request(
        asked.method,
        asked.url,
        headers=headers,
        content=call.body if call.body or asked.method not in ("GET", "HEAD") else None,
        extensions=asked.extensions,
    )


def is_streamed(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(
        name == b"content-type" and value.lower().startswith(b"text/event-stream")
        for name, value in headers
    )


def _failed(name: str, error: Exception) -> UpstreamFailed:
    """What the transport's error means for the call; the error itself is its cause."""
    if isinstance(error, UpstreamFailed):
        return error
    words = [kind.__name__ for kind in type(error).__mro__]
    return UpstreamFailed(
        f"Upstream {name!r} gave no answer: {type(error).__name__}: {error}",
        sent=not any(word in _UNSENT for word in words),
        timeout="TimeoutException" in words,
    )


def cut(response: Any) -> None:
    """Make a thread that reads this answer stop: a close alone would not wake it."""
    stream = response.extensions.get("network_stream")
    found = stream.get_extra_info("socket") if stream is not None else None
    if found is not None:
        with contextlib.suppress(OSError):
            found.shutdown(socket.SHUT_RDWR)
