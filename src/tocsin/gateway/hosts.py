"""Which ``Host`` a request may name: the defence against DNS rebinding."""

import ipaddress
import re
from collections.abc import Sequence

from tocsin.config.model import Config
from tocsin.core.call import Headers
from tocsin.core.errors import BadRequest

_MISDIRECTED = (
    "this server does not answer for that Host header; add the name to `server.allowed_hosts`"
)


class HostCheck:
    """Refuses requests that name a host which is not ours: the defence against DNS rebinding.

    Accepted are loopback names, the configured address, ``allowed`` (``name``, or ``name:port`` for
    that port alone), and the IP address on which the connection came in. Names match exactly.
    """

    def __init__(self, host: str, allowed: Sequence[str] = ()) -> None:
        names = {"localhost", "127.0.0.1", "[::1]"}
        if host and not _is_wildcard(host):
            names.add(_bracketed(host.lower()))
        self._names = names | {name.lower() for name in allowed}
        self._good: set[bytes] = set()

    @classmethod
    def of(cls, config: Config) -> "HostCheck":
        """The check that a configuration asks for."""
        return cls(config.server.host, config.server.allowed_hosts)

    def check(self, headers: Headers, server: tuple[str, int | None] | None = None) -> None:
        """Raises ``BadRequest`` (421) unless there is exactly one ``Host``, and one that is ours.

        ``server`` is the local address of the connection (``scope["server"]``).
        """
        if not self.allows(headers, server):
            raise BadRequest(_MISDIRECTED, status=421, code="misdirected_request")

    def allows(self, headers: Headers, server: tuple[str, int | None] | None = None) -> bool:
        """Whether these headers name us."""
        host: bytes | None = None
        for name, value in headers:
            if name == b"host":
                if host is not None:
                    return False
                host = value
        if host is None:
            return False
        return host in self._good or self._judge(host, server)

    def _judge(self, host: bytes, server: tuple[str, int | None] | None) -> bool:
        match = _HOST.match(host)
        if match is None:
            return False
        name = match["name"].decode().lower()
        port = match["port"]
        if port is not None and not 0 < int(port) < 65_536:
            return False
        known = name in self._names or (port and f"{name}:{int(port)}" in self._names)
        if known and len(self._good) < 256:
            self._good.add(host)
        return bool(known) or (server is not None and name == _bracketed(server[0]))


# A name, or an IPv6 address in brackets, and at most one port: nothing that a parser could read
# in two ways.
_HOST = re.compile(
    rb"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])"
    rb"(?::(?P<port>[0-9]{1,5}))?\Z"
)


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
