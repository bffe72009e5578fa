"""The one check for every outbound URL: upstreams, webhooks, exporters.

A URL is read strictly (`Url.parse`), its host is resolved, every address of the answer is checked,
and the caller connects to exactly those addresses, so that what was checked is what is reached.
Private, loopback, link-local, multicast, reserved and cloud-metadata addresses are refused unless
the operator lists the host (or host:port) in the setting `outbound.allow`.

Two rules keep `outbound.allow` from becoming a hole:

* it is matched against the host as written in the URL, never against the address it resolves to:
  listing 127.0.0.1 does not let a stranger's name that points to 127.0.0.1 in;
* a listed *name* opens loopback, private and reserved ranges only. Link-local, metadata,
  multicast and unspecified addresses open only when the address itself is listed.

Errors: `OutboundRefused`, `InvalidUrl` and `ResolveFailed` (see `http_errors`).
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address
from typing import Final
from urllib.parse import urljoin

import msgspec

from tocsin.providers.guard_addresses import ONLY_BY_ADDRESS, Address, refusal
from tocsin.providers.http_errors import InvalidUrl, OutboundRefused, ResolveFailed

__all__ = ["Checked", "OutboundGuard", "OutboundRefused", "Redirect", "Resolver", "Url"]

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""`await resolver(host, port)`: the host's IP addresses as text, best first; raises OSError."""

SETTING: Final = "outbound.allow"
MAX_URL: Final = 8192
MAX_ANSWERS: Final = 16
MAX_CACHED_HOSTS: Final = 1024
DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_URL = re.compile(r"(https?)://([^/?#]*)([^?#]*)(\?[^#]*)?\Z", re.IGNORECASE)
_VISIBLE = re.compile(r"[!-~]*\Z")
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(?::([1-9][0-9]{0,4}))?\Z")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_NUMERIC_LABEL = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_QUAD = re.compile(r"(?:0|[1-9][0-9]{0,2})(?:\.(?:0|[1-9][0-9]{0,2})){3}\Z")


class Url(msgspec.Struct, frozen=True):
    """An absolute http(s) URL, read once. Build it with `Url.parse`; keep it and reuse it.

    `host` is lower-case ASCII (IPv6 without brackets). `prefix` is the path without its one
    trailing slash, `tail` what was cut from it: the slash and the query. A request for the URL
    itself has the target `tail`; a request below it has a target that begins with "/".
    """

    scheme: str
    host: str
    port: int
    prefix: str
    tail: str
    origin: str
    authority: str

    @classmethod
    def parse(cls, text: str) -> Url:
        """Read `text`; raise InvalidUrl for anything a second parser could read differently.

        Refused: other schemes, user information, fragments, white space, control characters,
        backslashes, percent-encoded hosts, empty labels, IPv4 in any spelling but four decimal
        numbers, IPv6 zones, ports with signs, leading zeros or nothing after the colon.
        """
        return _parse(text)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.prefix}{self.tail}"


class Checked(msgspec.Struct, frozen=True):
    """A URL and the addresses that were checked for it; connect to these and no others."""

    url: Url
    addresses: tuple[str, ...]


class Redirect(msgspec.Struct, frozen=True):
    """Where a redirect may lead. `drop_credentials`: the next hop is another origin, so the
    request must leave `authorization`, cookies and API keys behind."""

    url: Url
    addresses: tuple[str, ...]
    drop_credentials: bool


async def system_resolver(host: str, port: int) -> Sequence[str]:
    """The operating system's answer, in its order of preference, without repeats."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


class OutboundGuard:
    """Decides which hosts may be reached, and pins the addresses they are reached at.

    `allow` lists hosts or host:port pairs (IPv6 in brackets when a port follows). `ttl` is how
    many seconds a resolution is reused; the addresses are checked again at every use all the same.
    Raises ValueError when an entry of `allow` is neither.
    """

    __slots__ = ("_allow", "_answers", "_clock", "_resolver", "_running", "_ttl")

    def __init__(
        self,
        *,
        allow: Iterable[str] = (),
        resolver: Resolver = system_resolver,
        ttl: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._allow = frozenset(_allow_entry(entry) for entry in allow)
        self._resolver = resolver
        self._ttl = ttl
        self._clock = clock
        self._answers: dict[str, tuple[float, tuple[str, ...]]] = {}
        self._running: dict[str, asyncio.Task[tuple[str, ...]]] = {}

    def allows(self, host: str, port: int) -> bool:
        """Whether the operator listed this host, or this host with this port."""
        return (host, None) in self._allow or (host, port) in self._allow

    async def check(self, url: str | Url) -> Checked:
        """Parse, resolve and check `url`.

        Raises InvalidUrl, OutboundRefused (names host, reason and setting) or ResolveFailed.
        """
        parsed = url if isinstance(url, Url) else Url.parse(url)
        return Checked(parsed, await self.resolve(parsed))

    async def resolve(self, url: Url) -> tuple[str, ...]:
        """The checked addresses of `url`, best first. To be called for every new connection.

        Raises OutboundRefused when any address of the answer is refused (an answer that mixes
        public and private addresses is how rebinding looks), or ResolveFailed.
        """
        literal = _literal(url.host)
        if literal is not None:
            self._require(url, literal)
            return (str(literal),)
        answers = await self._lookup(url.host, url.port)
        for answer in answers:
            self._require(url, _answer_address(url, answer))
        return answers

    def forget(self, host: str) -> None:
        """Drop the cached resolution of `host`, as after a connection that nobody answered."""
        self._answers.pop(host, None)

    async def check_redirect(self, from_url: str | Url, location: str) -> Redirect:
        """Check a `Location` that the response of `from_url` gave.

        Raises what `check` raises, and OutboundRefused for a hop from https to http. The caller
        counts its hops and obeys `drop_credentials`.
        """
        origin = from_url if isinstance(from_url, Url) else Url.parse(from_url)
        if len(location) > MAX_URL or not _VISIBLE.match(location) or "\\" in location:
            raise _invalid(location, "the redirect's Location has characters no URL may have")
        target = Url.parse(urljoin(str(origin), location.partition("#")[0]))
        if origin.scheme == "https" and target.scheme == "http":
            reason = "the redirect leaves https for http"
            message = f"{target.host}: {reason}, which would show the request to the network"
            raise OutboundRefused(message, host=target.host, reason=reason)
        addresses = await self.resolve(target)
        return Redirect(target, addresses, drop_credentials=target.origin != origin.origin)

    def _require(self, url: Url, address: Address) -> None:
        reason = refusal(address)
        if reason is None:
            return
        literal = _literal(url.host) is not None
        if self.allows(url.host, url.port) and (literal or reason not in ONLY_BY_ADDRESS):
            return
        entry = url.authority if literal or reason not in ONLY_BY_ADDRESS else str(address)
        message = (
            f"{url.origin}: {address} is not a public address ({reason}); if the gateway is meant "
            f"to reach it, add {entry!r} to the setting {SETTING}"
        )
        raise OutboundRefused(message, host=url.host, reason=reason)

    async def _lookup(self, host: str, port: int) -> tuple[str, ...]:
        cached = self._answers.get(host)
        if cached is not None and self._clock() < cached[0]:
            return cached[1]
        task = self._running.get(host)
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            task = asyncio.ensure_future(self._ask(host, port))
            self._running[host] = task
            task.add_done_callback(lambda done: self._answered(host, done))
        # Shielded: callers share the question, and one of them leaving must not end it.
        try:
            return await asyncio.shield(task)
        except ResolveFailed as error:
            raise ResolveFailed(str(error)) from error  # each caller its own, to mark as it likes

    def _answered(self, host: str, task: asyncio.Task[tuple[str, ...]]) -> None:
        if self._running.get(host) is task:
            del self._running[host]
        if not task.cancelled():
            task.exception()  # marks it as seen, for when every caller has left

    async def _ask(self, host: str, port: int) -> tuple[str, ...]:
        try:
            found = tuple(await self._resolver(host, port))[:MAX_ANSWERS]
        except OSError as error:
            raise ResolveFailed(f"{host}: the name cannot be resolved ({error})") from error
        if not found:
            raise ResolveFailed(f"{host}: the name has no address")
        if len(self._answers) >= MAX_CACHED_HOSTS:
            self._answers.clear()
        self._answers[host] = (self._clock() + self._ttl, found)
        return found


def _answer_address(url: Url, answer: str) -> Address:
    try:
        return ip_address(answer)
    except ValueError:
        message = f"{url.host}: the resolver answered with something that is not an address"
        raise ResolveFailed(message) from None


def _parse(text: str) -> Url:
    if len(text) > MAX_URL:
        raise _invalid(text[:MAX_URL], f"it is longer than {MAX_URL} characters")
    match = _URL.match(text)
    if match is None:
        raise _invalid(text, "it is not an absolute http or https URL without a fragment")
    scheme, authority, path, query = match.groups(default="")
    scheme = scheme.lower()
    if "@" in authority:
        raise _invalid(text, "it carries user information; give credentials in their own setting")
    if "\\" in text or not _VISIBLE.match(path) or not _VISIBLE.match(query):
        raise _invalid(text, "it has a character that must be percent-encoded")
    parts = _AUTHORITY.match(authority)
    if parts is None:
        raise _invalid(text, "its host and port cannot be read")
    host = _host(text, parts[1])
    port = int(parts[2] or DEFAULT_PORTS[scheme])
    if port > 65535:
        raise _invalid(text, "its port is not between 1 and 65535")
    prefix, slash = (path[:-1], "/") if path.endswith("/") else (path, "")
    tail = slash + query if path else "/" + query
    shown = f"[{host}]" if ":" in host else host
    authority = shown if port == DEFAULT_PORTS[scheme] else f"{shown}:{port}"
    return Url(scheme, host, port, prefix, tail, f"{scheme}://{shown}:{port}", authority)


def _host(text: str, raw: str) -> str:
    if raw.startswith("["):
        try:
            return str(IPv6Address(raw[1:-1]))
        except AddressValueError:
            raise _invalid(text, "its IPv6 address cannot be read") from None
    host = raw.lower() if raw.isascii() else _punycode(text, raw)
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.match(label) for label in labels):
        raise _invalid(text, "its host is not a name of letters, digits and hyphens")
    if _NUMERIC_LABEL.match(labels[-1]):
        return _quad(text, host)
    return host


def _quad(text: str, host: str) -> str:
    if _QUAD.match(host):
        try:
            return str(IPv4Address(host))
        except AddressValueError:
            pass
    raise _invalid(text, "its host is a number; write an IPv4 address as four decimal numbers")


def _punycode(text: str, raw: str) -> str:
    """IDNA, for names that all its versions agree on.

    The standard library knows IDNA 2003; where 2008 differs (ß, ς, joiners) or letters would be
    folded into others (full-width digits), the encoded name does not decode to the same text, and
    the operator is asked to write the punycode that is meant.
    """
    try:
        encoded = raw.encode("idna").decode("ascii")
        same = encoded.encode("ascii").decode("idna") == raw.lower()
    except UnicodeError:
        same = False
    if not same:
        raise _invalid(text, "its host name is ambiguous; write it in punycode (xn--…)")
    return encoded.lower()


def _literal(host: str) -> Address | None:
    if ":" in host:
        return IPv6Address(host)
    return IPv4Address(host) if host[-1:].isdigit() and _QUAD.match(host) else None


def _allow_entry(entry: str) -> tuple[str, int | None]:
    try:
        text = f"[{entry}]" if entry.count(":") > 1 and "[" not in entry else entry
        url = _parse(f"http://{text}")
    except InvalidUrl as error:
        message = f"{SETTING}: an entry is neither a host nor host:port ({error.reason})"
        raise ValueError(message) from None
    if url.prefix or url.tail != "/":
        raise ValueError(f"{SETTING}: {url.host} is followed by a path; write host or host:port")
    ported = bool(re.search(r":[0-9]+\Z", text)) and not text.endswith("]")
    return url.host, url.port if ported else None


def _invalid(text: str, why: str) -> InvalidUrl:
    host = _nameable(text)
    shown = f"URL of host {host}" if host else "URL (host withheld: it cannot be told from secrets)"
    return InvalidUrl(f"{shown} refused: {why}", host=host, reason=why)


def _nameable(text: str) -> str:
    """The host of a URL that failed to parse, or "" where it could be part of a password."""
    match = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#\\]*)(.*)", text, re.DOTALL)
    if match is None:
        return ""
    authority, rest = match.groups()
    if "@" in rest.partition("?")[0]:
        return ""
    name = re.sub(r":[0-9]*\Z", "", authority.rpartition("@")[2])
    readable = re.fullmatch(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]", name)
    return name if readable else ""
