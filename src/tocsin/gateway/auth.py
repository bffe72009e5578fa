"""Who calls: issued keys, the server secret, and the rule about binding to the network.

A key is ``tk-`` and 40 random base 62 characters (238 bits). It is shown once; the store keeps its
HMAC-SHA256 digest under the server secret, so a stolen database opens nothing. Whatever starts with
``tk-`` is ours: it is found or refused here and never forwarded to a provider. Any other credential
belongs to the provider and makes its sender anonymous to us.
"""

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tocsin.config.model import Config
from tocsin.core.call import Headers, Principal, Role
from tocsin.core.clock import Clock, SystemClock
from tocsin.core.credentials import CREDENTIAL_HEADERS, PREFIX, is_ours, token_in
from tocsin.core.errors import (
    BadRequest,
    ConfigError,
    Forbidden,
    StoreError,
    Unauthenticated,
    Unavailable,
)
from tocsin.core.ids import is_safe_id, new_id
from tocsin.store.api import AuditRow, KeyRow, Store

RANKS: Mapping[Role, int] = {"anonymous": 0, "caller": 1, "viewer": 2, "operator": 3, "admin": 4}
ISSUABLE: tuple[Role, ...] = ("caller", "viewer", "operator", "admin")
ANONYMOUS = Principal()
TTL_US = 2_000_000
"""How long an answer of the store is trusted: a revocation elsewhere holds after this, 2 s."""

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SHAPE = re.compile(rb"tk-[0-9A-Za-z]{40}\Z")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,100}\Z")
_ORIGINS = frozenset({b"origin", b"sec-fetch-site"})
_FORWARDED = frozenset({b"forwarded", b"x-forwarded-for", b"x-real-ip", b"cf-connecting-ip"})
_LOOKED_AT = CREDENTIAL_HEADERS | _ORIGINS | _FORWARDED
_THIS_MACHINE = ("127.", "::1", "::ffff:127.")
_OURS_ONLY = frozenset({b"tocsin-key", b"cookie"})
_MAX_FRESH = 4096
_MAX_UNKNOWN = 1024
_LOOKUPS_AT_ONCE = 8
_SECRET_BYTES = 32
_SECRET_CHARACTERS = 32


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """A new key and its secret, which nothing can show a second time."""

    row: KeyRow
    secret: str


class _Cached:
    """One store answer: who a token belongs to (``None``: nobody) and when that was learnt."""

    __slots__ = ("expires_at", "key_id", "learnt_at", "principal", "refreshing")

    def __init__(self, row: KeyRow | None, now: int) -> None:
        live = row is not None and row.revoked_at is None
        self.principal = principal_of(row) if row is not None and live else None
        self.expires_at = row.expires_at if row is not None else None
        self.key_id = row.id if row is not None else None
        self.learnt_at = now
        self.refreshing = False


def principal_of(row: KeyRow) -> Principal:
    """The principal that a key stands for."""
    return Principal(key_id=row.id, name=row.name, role=row.role, features=row.features)


def is_live(row: KeyRow, now_us: int) -> bool:
    """Whether a key may still be used: neither revoked nor expired."""
    return row.revoked_at is None and (row.expires_at is None or row.expires_at > now_us)


def forwardable(headers: Headers) -> Headers:
    """The headers that a provider may see: none with a key or a session of ours."""
    return tuple(
        (name, value)
        for name, value in headers
        if name not in _OURS_ONLY and not (name in CREDENTIAL_HEADERS and is_ours(name, value))
    )


class Keyring:
    """Issues keys, finds them, revokes them. Owns a small cache over the store.

    One per process; ``authenticate`` runs on one event loop, everything else on any thread.
    """

    def __init__(
        self,
        store: Store,
        secret: bytes,
        clock: Clock | None = None,
        *,
        require_key: bool = False,
    ) -> None:
        self.require_key = require_key
        self._store = store
        self._clock = clock or SystemClock()
        self._pepper = hmac.digest(secret, b"tocsin key digest v1", "sha256")
        self._fresh: dict[bytes, _Cached] = {}
        self._unknown: dict[bytes, _Cached] = {}
        self._by_id: dict[str, _Cached] = {}
        self._revocations = 0
        self._lookups: dict[bytes, asyncio.Task[_Cached]] = {}
        self._gate: asyncio.Semaphore | None = None

    # -- the request path --

    async def authenticate(self, headers: Headers, *, peer: str = "") -> Principal:
        """Who sent these headers (names in lower case); the hot path, without I/O when cached.

        Raises ``Unauthenticated`` for a key of ours that is unknown, expired or revoked, and where
        no key came but one is needed: where keys are required, and through a proxy. ``Forbidden``
        for a web page of another origin that calls without a key; ``Unavailable`` when the store
        cannot say. ``peer`` is the caller's address: one that is not this machine's is never
        anonymous, whatever the settings.
        """
        token: bytes | None = None
        foreign = forwarded = False
        for name, value in headers:
            if name in _LOOKED_AT:
                if name in CREDENTIAL_HEADERS:
                    found = token_in(name, value)
                    if found.startswith(PREFIX) or name == b"tocsin-key":
                        if token is not None and token != found:
                            raise Unauthenticated(_TWO_KEYS)
                        token = found
                elif name in _FORWARDED:
                    forwarded = True
                elif name == b"origin" or value not in (b"same-origin", b"none"):
                    foreign = True
        if token is not None:
            return await self.principal(token)
        if self.require_key or (peer and not peer.startswith(_THIS_MACHINE)):
            raise Unauthenticated(_NO_KEY)
        if forwarded:
            # From a proxy on this machine the whole world comes as loopback.
            raise Unauthenticated(_PROXIED)
        if foreign and not same_origin(headers):
            raise Forbidden(_FOREIGN_PAGE, code="foreign_origin")
        return ANONYMOUS

    async def principal(self, token: bytes) -> Principal:
        """Whom a key belongs to. Raises ``Unauthenticated`` or ``Unavailable``."""
        # The cache is keyed by the token's SHA-256: how long the look-up takes says nothing about
        # how much of a guess is right.
        name = hashlib.sha256(token).digest()
        cached = self._fresh.get(name) or self._unknown.get(name)
        age = self._clock.monotonic_us() - cached.learnt_at if cached is not None else TTL_US
        if cached is None or age >= TTL_US:
            if _SHAPE.match(token) is None:
                raise Unauthenticated(_BAD_KEY)
            cached = await self._look_up(name, token)
        elif age > TTL_US // 2 and not cached.refreshing:
            # Learn it again before it runs out, so that steady traffic never waits for the store.
            cached.refreshing = True
            self._start_look_up(name, token)
        principal = cached.principal
        if principal is None:
            raise Unauthenticated(_BAD_KEY)
        if cached.expires_at is not None and cached.expires_at <= self._clock.now_us():
            raise Unauthenticated(_BAD_KEY)
        return principal

    async def _look_up(self, name: bytes, token: bytes) -> _Cached:
        """Ask the store; callers with the same token share one question."""
        task = self._lookups.get(name) or self._start_look_up(name, token)
        try:
            return await asyncio.shield(task)
        except StoreError as error:
            raise Unavailable(
                "the store cannot be read, so no key can be checked; see /readyz",
                code="store_unavailable",
                retry_after_s=1.0,
            ) from error

    def _start_look_up(self, name: bytes, token: bytes) -> "asyncio.Task[_Cached]":
        task = asyncio.get_running_loop().create_task(self._ask(name, token))
        self._lookups[name] = task
        task.add_done_callback(lambda done: self._looked_up(name, done))
        return task

    def _looked_up(self, name: bytes, task: "asyncio.Task[_Cached]") -> None:
        if self._lookups.get(name) is task:
            del self._lookups[name]
        if not task.cancelled():
            task.exception()  # a refresh that nobody awaits has no one else to read its error

    async def _ask(self, name: bytes, token: bytes) -> _Cached:
        # A flood of unknown keys must not take every thread: few questions run at once.
        if self._gate is None:
            self._gate = asyncio.Semaphore(_LOOKUPS_AT_ONCE)
        digest = self.digest(token)
        async with self._gate:
            # The answer is as old as the question: a revocation may follow it at once.
            asked_at, revocations = self._clock.monotonic_us(), self._revocations
            row = await asyncio.to_thread(self._store.key_by_digest, digest)
        cached = _Cached(row, asked_at)
        self._remember(name, cached)
        if revocations != self._revocations:
            # ``revoke`` counts up before it clears the cache: one of the two takes this out again.
            self._fresh.pop(name, None)
        return cached

    async def holder(self, key_id: str) -> Principal | None:
        """Whom a key id (of a session) belongs to; ``None`` when the key has ended."""
        now = self._clock.monotonic_us()
        cached = self._by_id.get(key_id)
        if cached is None or now - cached.learnt_at >= TTL_US:
            revocations = self._revocations
            row = await asyncio.to_thread(self.live_key, key_id)
            cached = self._by_id[key_id] = _Cached(row, now)
            if revocations != self._revocations:
                self._by_id.pop(key_id, None)
        if cached.expires_at is not None and cached.expires_at <= self._clock.now_us():
            return None
        return cached.principal

    def _remember(self, name: bytes, cached: _Cached) -> None:
        known = cached.principal is not None
        room, limit = (self._fresh, _MAX_FRESH) if known else (self._unknown, _MAX_UNKNOWN)
        (self._unknown if known else self._fresh).pop(name, None)
        if name not in room and len(room) >= limit:
            room.pop(next(iter(room)))
        room[name] = cached

    # -- care --

    def digest(self, token: bytes) -> bytes:
        """The HMAC-SHA256 under which a key is stored."""
        return hmac.digest(self._pepper, token, "sha256")

    def issue(
        self,
        name: str,
        role: Role = "caller",
        *,
        features: Sequence[str] = (),
        expires_at: int | None = None,
        actor: str,
    ) -> Issued:
        """Make a key. ``expires_at`` in microseconds since the epoch. Raises ``BadRequest``."""
        now = self._clock.now_us()
        _check_issue(name, role, features, expires_at, now)
        secret = "tk-" + "".join(secrets.choice(_ALPHABET) for _ in range(40))
        row = KeyRow(
            id=new_id("key", now),
            name=name,
            digest=self.digest(secret.encode()),
            role=role,
            features=tuple(dict.fromkeys(features)),
            created_at=now,
            expires_at=expires_at,
            hint=secret[-4:],
        )
        self._store.add_key(row)
        self.audit(actor, "key.issue", row.id, f"{name} role={role} features={list(features)}")
        return Issued(row=row, secret=secret)

    def revoke(self, key_id: str, *, actor: str) -> bool:
        """End a key, here at once and in other processes within two seconds.

        False when there is no such key or it has ended already.
        """
        ended = self._store.revoke_key(key_id, self._clock.now_us())
        self._revocations += 1
        self._by_id.pop(key_id, None)
        for name, cached in list(self._fresh.items()):
            if cached.key_id == key_id:
                self._fresh.pop(name, None)
        if ended:
            self.audit(actor, "key.revoke", key_id)
        return ended

    def keys(self) -> list[KeyRow]:
        """Every key that was ever issued, the ended ones too."""
        return self._store.keys()

    def live_key(self, key_id: str) -> KeyRow | None:
        """A key by its id, when it may still be used."""
        now = self._clock.now_us()
        return next((k for k in self.keys() if k.id == key_id and is_live(k, now)), None)

    def ensure_admin(self) -> Issued | None:
        """Make the first admin key. ``None`` when there is a live one already."""
        now = self._clock.now_us()
        if any(row.role == "admin" and is_live(row, now) for row in self.keys()):
            return None
        return self.issue("first run", "admin", actor="tocsin up")

    def audit(self, actor: str, action: str, target: str, detail: str = "") -> None:
        """Write down who changed what."""
        at = self._clock.now_us()
        row = AuditRow(at=at, actor=actor, action=action, target=target, detail=detail)
        self._store.record_audit(row)


_BAD_KEY = (
    "this Tocsin key is unknown, expired or revoked; ask an admin for a new one "
    "(`tocsin keys issue NAME`)"
)
_NO_KEY = (
    "a Tocsin key is needed: send it as `Authorization: Bearer tk-…`, `x-api-key` or `tocsin-key` "
    "(make one with `tocsin keys issue NAME`)"
)
_PROXIED = (
    "this call came through a proxy, so it may come from anywhere: it needs a Tocsin key "
    "(make one with `tocsin keys issue NAME`)"
)
_TWO_KEYS = "two different Tocsin keys came with one request; send one"
_FOREIGN_PAGE = (
    "a web page of another origin may not call without a key; send a Tocsin key as `tocsin-key`"
)


def _check_issue(
    name: str, role: str, features: Sequence[str], expires_at: int | None, now: int
) -> None:
    """Raises ``BadRequest`` that names the argument at fault."""
    if _NAME.match(name) is None or name != name.strip():
        raise BadRequest("name: 1 to 100 printable characters", param="name")
    if role not in ISSUABLE:
        raise BadRequest(f"role: one of {', '.join(ISSUABLE)}", param="role")
    if len(features) > 100 or not all(is_safe_id(feature) for feature in features):
        raise BadRequest(
            "features: at most 100 names of letters, digits, '.', '_', ':' or '-'",
            param="features",
        )
    if expires_at is not None and expires_at <= now:
        raise BadRequest("expires_at: must lie in the future", param="expires_at")


def same_origin(headers: Headers) -> bool:
    """Whether a browser says that the page which sends this was served by this very host.

    ``Sec-Fetch-Site`` decides where it is sent (every current browser); else ``Origin`` must name
    the ``Host``. Neither: False, so a caller that is no browser must not depend on this.
    """
    site = origin = host = None
    for name, value in headers:
        if name == b"sec-fetch-site":
            site = value
        elif name == b"origin":
            origin = value
        elif name == b"host":
            host = value
    if site is not None:
        return site in (b"same-origin", b"none")
    if origin is None or host is None:
        return False
    scheme, separator, rest = origin.partition(b"://")
    return bool(separator) and scheme in (b"http", b"https") and rest.lower() == host.lower()


# -- the server secret --


def load_secret(data_dir: str | Path, environ: Mapping[str, str] | None = None) -> bytes:
    """The server secret: from ``TOCSIN_SECRET``, else from ``data_dir/secret``, made when missing.

    Two processes that start at once agree on one. Raises ``ConfigError`` when it is too short,
    damaged, or a file that others can read and that cannot be closed to them.
    """
    given = (os.environ if environ is None else environ).get("TOCSIN_SECRET")
    if given is not None:
        if len(given.strip()) < _SECRET_CHARACTERS:
            raise ConfigError(
                f"TOCSIN_SECRET: needs at least {_SECRET_CHARACTERS} characters; "
                "make one with `openssl rand -hex 32`"
            )
        return given.strip().encode()
    folder = Path(data_dir)
    path = folder / "secret"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _make_secret(path)
        return _read_secret(path)
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; give the user that runs Tocsin its own `server.data_dir`"
        ) from error


def _make_secret(path: Path) -> None:
    """Write 32 random bytes under ``path`` unless another process has been faster."""
    draft = path.with_name(f".secret-{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, secrets.token_bytes(_SECRET_BYTES))
        os.fsync(handle)
    finally:
        os.close(handle)
    try:
        # A hard link fails where the name is taken, so nobody ever sees half a secret.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink()


def _read_secret(path: Path) -> bytes:
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        path.chmod(0o600)
    data = path.read_bytes()
    if len(data) != _SECRET_BYTES:
        raise ConfigError(
            f"{path}: holds {len(data)} bytes instead of {_SECRET_BYTES}; restore it from a "
            "backup, or delete it and issue new keys (every old key ends)"
        )
    return data


# -- where we may listen --


def is_loopback(host: str) -> bool:
    """Whether an address to bind is reachable from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def key_required(config: Config) -> bool:
    """Whether model calls need a key: as set, or (``auto``) everywhere but on loopback."""
    if config.auth.require_key == "auto":
        return not is_loopback(config.server.host)
    return config.auth.require_key


def refuse_open_bind(config: Config) -> None:
    """Raises ``ConfigError`` when the network could call models without a key."""
    if not is_loopback(config.server.host) and not key_required(config):
        raise ConfigError(
            f'server.host is "{config.server.host}", which others can reach, and '
            "auth.require_key is false: anybody could call models at your expense. "
            'Set auth.require_key = "auto" (or true), or server.host = "127.0.0.1"'
        )
