"""Everything that can go wrong on an outbound request.

The tree:

    OutboundError
    ├── OutboundRefused      the guard does not let the gateway reach that address
    │   └── InvalidUrl       the guard is not willing to read the URL (also a ValueError)
    ├── InvalidRequest       a header, method or target that must not go out (also a ValueError)
    ├── ClientClosed         the client was closed before or during the request
    ├── ConnectFailed        no connection: name not found, refused, unreachable, TLS refused
    │   └── ResolveFailed    the host name has no address
    ├── OutboundTimeout      (also a TimeoutError)
    │   ├── ConnectTimeout   no connection in `Timeouts.connect`
    │   │   └── PoolTimeout  all `Limits.max_connections` stayed busy for `Timeouts.connect`
    │   ├── FirstByteTimeout the response head was not complete in `Timeouts.first_byte`
    │   ├── IdleTimeout      no body byte for `Timeouts.idle`
    │   └── TotalTimeout     the whole exchange took longer than `Timeouts.total`
    ├── UpstreamClosed       the upstream hung up before its response was complete
    ├── ProtocolViolation    the upstream sent what is not HTTP/1.1, or a head over its caps
    └── BodyTooLarge         the body is longer than `Limits.max_body` (or `Limits.max_stream`)

Every error answers three questions:

`sent`      were bytes of the request handed to the network? False means that the upstream cannot
            have seen the request.
`received`  how many bytes of the response came, head and framing included, as they stood on the
            wire (under TLS: after decryption). `body_received` counts the body bytes among them.
`retry_safe` True exactly when nothing was sent *and* another try could end differently: sending
            the request again cannot make the upstream do the work twice. After bytes were sent
            only the caller knows whether the request may be repeated.

Messages name the origin (scheme, host, port) and the setting that matters, never a path, a query,
a header or a credential.
"""

from __future__ import annotations

from typing import ClassVar


class OutboundError(Exception):
    """Base of every error of the outbound HTTP client and of the outbound guard."""

    # Whether a second try can help at all, when nothing was sent.
    transient: ClassVar[bool] = True

    def __init__(
        self, message: str, *, sent: bool = False, received: int = 0, body_received: int = 0
    ) -> None:
        super().__init__(message)
        self.sent = sent
        self.received = received
        self.body_received = body_received

    @property
    def retry_safe(self) -> bool:
        """True when the upstream cannot have seen the request and a retry can help."""
        return self.transient and not self.sent


class OutboundRefused(OutboundError):
    """The guard refused the destination. `setting` names what would allow it."""

    transient = False
    setting: ClassVar[str] = "outbound.allow"

    def __init__(self, message: str, *, host: str, reason: str) -> None:
        super().__init__(message)
        self.host = host
        self.reason = reason


class InvalidUrl(OutboundRefused, ValueError):
    """The URL cannot be read safely. `host` is empty where naming it could leak a secret."""


class InvalidRequest(OutboundError, ValueError):
    """The request cannot be written without changing its meaning (header injection, framing)."""

    transient = False


class ClientClosed(OutboundError):
    """The client is closed; no request can be sent through it any more."""

    transient = False


class ConnectFailed(OutboundError):
    """No connection could be made to any address of the host."""


class ResolveFailed(ConnectFailed):
    """The host name could not be resolved to an address."""


class OutboundTimeout(OutboundError, TimeoutError):
    """Base of the timeouts."""


class ConnectTimeout(OutboundTimeout):
    """No connection within `Timeouts.connect` seconds."""


class PoolTimeout(ConnectTimeout):
    """All `Limits.max_connections` of the origin stayed busy for `Timeouts.connect` seconds."""


class FirstByteTimeout(OutboundTimeout):
    """The response head was not complete `Timeouts.first_byte` seconds after the request."""


class IdleTimeout(OutboundTimeout):
    """No body byte came for `Timeouts.idle` seconds while the client was ready to read."""


class TotalTimeout(OutboundTimeout):
    """The exchange, waiting and connecting included, took longer than `Timeouts.total` seconds."""


class UpstreamClosed(OutboundError):
    """The upstream closed the connection before the response was complete."""


class ProtocolViolation(OutboundError):
    """The upstream's bytes are not a valid HTTP/1.1 response, or break a cap on the head."""


class BodyTooLarge(OutboundError):
    """The response body is longer than the limit allows."""
