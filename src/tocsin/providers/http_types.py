"""The plain data of the outbound HTTP client: what is asked, and within which limits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from tocsin.providers.guard import Url

Header = tuple[bytes, bytes]


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds, or None for no limit. All but `connect` are accurate to `Limits.tick`.

    `connect`: waiting for a free connection, name resolution, TCP and TLS together.
    `first_byte`: from writing the request until the response head is complete.
    `idle`: without a body byte, while the client was ready to read.
    `total`: from the call of `send` until the last body byte came.
    """

    connect: float | None = 10.0
    first_byte: float | None = 600.0
    idle: float | None = 300.0
    total: float | None = None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Caps of one client; sizes in bytes, times in seconds, connections per origin.

    `max_body` caps `HttpResponse.read`, `max_stream` everything that is read in chunks.
    `buffer` is how much of a body may wait for a slow consumer before the socket is paused (the
    chunk in flight comes on top: at most 256 KiB). `stale_window` is how long after the request a
    reused connection may die unanswered and still count as stale.
    """

    max_connections: int = 512
    max_idle: int = 64
    idle_expiry: float = 30.0
    max_head: int = 65_536
    max_headers: int = 200
    max_body: int = 64 * 1024 * 1024
    max_stream: int = 1024 * 1024 * 1024
    buffer: int = 262_144
    stale_window: float = 1.0
    tick: float = 0.1


DEFAULT_LIMITS: Final = Limits()
DEFAULT_TIMEOUTS: Final = Timeouts()
NO_TIMEOUTS: Final = Timeouts(connect=None, first_byte=None, idle=None, total=None)


class HttpRequest(msgspec.Struct, frozen=True):
    """One request. Its request line carries `url.prefix + target`.

    `target` begins with "/" or "?" (or is empty where the prefix is not); `Url.tail` is the target
    of the URL itself. The client writes `host` and `content-length`; headers that decide framing
    or the connection are refused. `body` is bytes that are sent as they are.
    """

    method: str
    url: Url
    target: str
    headers: Sequence[Header] = ()
    body: bytes = b""
    timeouts: Timeouts = DEFAULT_TIMEOUTS
    before_again: Callable[[], Awaitable[None]] | None = None
    """Asked before the request is sent once more, over a new connection, because a kept one was
    closed under it; what it raises ends the request."""
