"""Signing in: one-time codes, session cookies, and tokens against forged requests.

A session is a signed statement "made from this key, until then"; nothing is stored. It ends when it
runs out, when it is signed out, or when its key ends: to sign everybody out, revoke the key.
"""

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Literal

import msgspec

from tocsin.core.call import Headers, Principal
from tocsin.core.clock import Clock, SystemClock
from tocsin.core.errors import ConfigError
from tocsin.gateway.auth import RANKS, Keyring

CODE_LIFE_US = 10 * 60 * 1_000_000
"""How long a sign-in link works: 10 minutes."""

_MAX_COOKIE = 2048
_MAX_SIGNED_OUT = 10_000


class _Claim(msgspec.Struct, frozen=True, array_like=True):
    """What a cookie states, before its signature."""

    version: Literal[1]
    id: str
    key_id: str
    expires_at: int


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A sign-in that is valid now. ``expires_at`` in microseconds since the epoch."""

    id: str
    principal: Principal
    expires_at: int


class Sessions:
    """Makes, reads and ends sign-ins. One per process; reading runs on the event loop."""

    def __init__(
        self, keyring: Keyring, secret: bytes, clock: Clock | None = None, *, hours: float = 12.0
    ) -> None:
        self._keyring = keyring
        self._clock = clock or SystemClock()
        self._life_us = int(hours * 3_600_000_000)
        self._sign_key = hmac.digest(secret, b"tocsin session v1", "sha256")
        self._csrf_key = hmac.digest(secret, b"tocsin csrf v1", "sha256")
        # Cookies do not know ports: two Tocsins on one machine must not overwrite each other's.
        mark = hmac.digest(secret, b"tocsin cookie name v1", "sha256")[:4].hex()
        self.cookie_name = f"tocsin_{mark}"
        self._signed_out: dict[str, int] = {}

    def start(self, key_id: str) -> str:
        """The cookie value of a new session of this key."""
        claim = _Claim(1, secrets.token_hex(16), key_id, self._clock.now_us() + self._life_us)
        payload = _b64(msgspec.json.encode(claim))
        return f"{payload}.{_b64(self._mac(payload))}"

    async def start_with_key(self, secret: str) -> str:
        """The cookie value for a pasted key of role viewer or more.

        Raises ``Unauthenticated`` for a bad key, ``ValueError`` for one that may not look.
        """
        principal = await self._keyring.principal(secret.strip().encode())
        if RANKS[principal.role] < RANKS["viewer"] or principal.key_id is None:
            raise ValueError("this key may call models but not look; use a viewer or admin key")
        return self.start(principal.key_id)

    async def read(self, headers: Headers) -> Session | None:
        """The session whose cookie these headers carry; ``None`` without a valid one."""
        claim = self._claim(_cookie(headers, self.cookie_name.encode()))
        if claim is None:
            return None
        now = self._clock.now_us()
        if claim.expires_at <= now or claim.id in self._signed_out:
            return None
        principal = await self._keyring.holder(claim.key_id)
        if principal is None or RANKS[principal.role] < RANKS["viewer"]:
            return None
        return Session(id=claim.id, principal=principal, expires_at=claim.expires_at)

    def end(self, session: Session) -> None:
        """Sign out: the cookie is refused from now on, also when somebody kept a copy."""
        now = self._clock.now_us()
        if len(self._signed_out) >= _MAX_SIGNED_OUT:
            self._signed_out = {k: at for k, at in self._signed_out.items() if at > now}
        self._signed_out[session.id] = session.expires_at

    def csrf(self, session: Session) -> str:
        """The token that every changing request of this session must carry."""
        return _b64(hmac.digest(self._csrf_key, session.id.encode(), "sha256"))

    def check_csrf(self, session: Session, token: str) -> bool:
        """Whether ``token`` belongs to this session; takes the same time whatever it is."""
        return hmac.compare_digest(self.csrf(session).encode(), token.encode())

    def set_cookie(self, value: str, *, secure: bool) -> str:
        """A ``Set-Cookie`` header that begins a session; ``secure`` when the page is https."""
        return self._cookie_line(value, self._life_us // 1_000_000, secure)

    def clear_cookie(self, *, secure: bool) -> str:
        """A ``Set-Cookie`` header that makes the browser forget the session."""
        return self._cookie_line("", 0, secure)

    def _cookie_line(self, value: str, max_age: int, secure: bool) -> str:
        line = f"{self.cookie_name}={value}; Max-Age={max_age}; Path=/; HttpOnly; SameSite=Strict"
        return f"{line}; Secure" if secure else line

    def _mac(self, payload: str) -> bytes:
        return hmac.digest(self._sign_key, payload.encode(), "sha256")

    def _claim(self, cookie: bytes | None) -> _Claim | None:
        if cookie is None or len(cookie) > _MAX_COOKIE or not cookie.isascii():
            return None
        payload, _, mac = cookie.decode().partition(".")
        # Compared as text: base64 has several spellings of one value, and only ours is signed.
        if not hmac.compare_digest(_b64(self._mac(payload)), mac):
            return None
        try:
            return msgspec.json.decode(_unb64(payload), type=_Claim)
        except (ValueError, msgspec.DecodeError):
            return None


class LoginCodes:
    """One-time codes of sign-in links. A code is a file: whoever unlinks it has redeemed it.

    So a code works once across processes and restarts, and ``tocsin`` commands on the same machine
    can make a link without asking the server. Only the code's hash is written down.
    """

    def __init__(self, data_dir: str | Path, clock: Clock | None = None) -> None:
        self._folder = Path(data_dir) / "login"
        self._clock = clock or SystemClock()

    def issue(self, key_id: str) -> str:
        """A code for ``/login?code=…`` that signs in as the holder of this key, for 10 minutes.

        Raises ``ConfigError`` when the data folder cannot be written.
        """
        code = secrets.token_urlsafe(32)
        line = f"{self._clock.now_us() + CODE_LIFE_US} {key_id}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sweep()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            handle = os.open(self._path(code), flags, 0o600)
            try:
                os.write(handle, line.encode())
            finally:
                os.close(handle)
        except OSError as error:
            raise ConfigError(
                f"{self._folder}: {error.strerror}; the user that runs Tocsin must own it"
            ) from error
        return code

    def redeem(self, code: str) -> str | None:
        """The key id that a code signs in as; ``None`` when it is unknown, used or too old."""
        path = self._path(code)
        try:
            expires_at, _, key_id = path.read_text().partition(" ")
            path.unlink()
        except OSError:
            return None
        return key_id if int(expires_at) > self._clock.now_us() else None

    def _path(self, code: str) -> Path:
        return self._folder / hashlib.sha256(code.encode(errors="replace")).hexdigest()

    def _sweep(self) -> None:
        """Remove codes that nobody used in time."""
        now = self._clock.now_us()
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError, ValueError):
                if int(path.read_text().partition(" ")[0]) <= now:
                    path.unlink()


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _cookie(headers: Headers, name: bytes) -> bytes | None:
    """The first cookie of that name."""
    for header, value in headers:
        if header == b"cookie":
            for part in value.split(b";"):
                key, _, found = part.strip().partition(b"=")
                if key == name:
                    return found.strip()
    return None
