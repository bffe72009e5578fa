"""The one sink for secrets: what may be logged, shown or stored of a text that could hold one.

Known shapes are replaced wherever they stand: our keys, providers' keys, ``Authorization`` values,
cloud and forge tokens, JSON web tokens, credentials in URLs, values whose name says "secret", and
private keys. What has no shape (a provider's odd key) is told to a ``Redactor`` by its value. The
kind of a secret stays readable, so that a log line still says which credential was at fault.
"""

import re
from collections.abc import Iterable
from urllib.parse import quote

from tocsin.core.call import Headers

MARK = "[redacted]"

SECRET_HEADERS = frozenset(
    {
        b"api-key",
        b"authorization",
        b"cookie",
        b"proxy-authorization",
        b"set-cookie",
        b"tocsin-key",
        b"x-amz-security-token",
        b"x-api-key",
        b"x-auth-token",
        b"x-csrf-token",
        b"x-goog-api-key",
    }
)
"""Headers whose values are never shown, whatever they look like."""

_SHORTEST_VALUE = 6
"""A told secret that is shorter would take ordinary words out of texts."""

_SHAPES = (
    "tk-",
    "sk-",
    "pk-",
    "gsk_",
    "xai-",
    "hf_",
    "nvapi-",
    "AIza",
    "ghp_",
    "gho_",
    "ghs_",
    "ghu_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xoxa-",
    "xoxb-",
    "xoxp-",
    "xoxr-",
    "xoxs-",
    "sk_live_",
    "rk_live_",
    "whsec_",
    "pypi-",
    "npm_",
    "AKIA",
    "ASIA",
    "eyJ",
)
_NAMES = (
    "api_key",
    "api-key",
    "apikey",
    "access_key",
    "accesskey",
    "secret",
    "passwd",
    "password",
    "passphrase",
    "authorization",
    "credential",
    "private_key",
    "signature",
    "token",
    "cookie",
)
_SCHEMES = ("bearer", "basic", "digest")


def _any_of(words: Iterable[str]) -> str:
    return "|".join(re.escape(word) for word in words)


_PEM = re.compile(
    r"(-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----).*?"
    r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
_URL = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.\-]{1,20}://)[^\s/?#\"'<>]{1,500}@")
_QUERY = re.compile(r"([?&](?:key|code|sig|auth|state)=)(?!\[redacted\])[^\s&\"'#<>]+", re.I)
_SCHEME = re.compile(
    rf"(\b(?:{_any_of(_SCHEMES)})\s{{1,8}})"
    # not prose: "bearer tokens", "basic authentication"
    r"(?!(?-i:[a-z]{1,15})(?![A-Za-z0-9._~+/=\-]))[A-Za-z0-9._~+/=\-]{6,}",
    re.I,
)
_NAMED = re.compile(
    rf"((?:{_any_of(_NAMES)})"
    # name=value, "name": "value", (b'name', b'value'), and the same inside a quoted string
    r"(?:\\?[\"'])?\s{0,8}(?:[=:]|,(?=\s{0,8}b?[\"']))\s{0,8}"
    rf"(?:(?:{_any_of(_SCHEMES)})\s{{1,8}}(?!\[))?)"
    rf"(?!(?:none|null|true|false)\b|(?:{_any_of(_SCHEMES)})\s)"
    r"(?:(b?\")(?!\[redacted\]\")[^\"\n]+|(b?')(?!\[redacted\]')[^'\n]+"
    r"|(\\[\"'])(?!\[redacted\])[^\\\"'\n]+|(?!b[\"'])[^\s\"'&;,<>(){}\[\]\\]+)",
    re.I,
)
_SHAPED = re.compile(rf"(?<![A-Za-z0-9])({_any_of(_SHAPES)})[A-Za-z0-9_.\-]{{12,}}")


def _named(match: re.Match[str]) -> str:
    opening = match[2] or match[3] or match[4] or ""
    return f"{match[1]}{opening}{MARK}"


class Redactor:
    """Takes secrets out of texts: known shapes, and the values that it was told."""

    __slots__ = ("_values",)

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        values = {value for value in secrets if len(value) >= _SHORTEST_VALUE}
        values |= {quote(value, safe="") for value in values}
        # The longest first: one told value may begin with another.
        self._values = tuple(sorted(values, key=len, reverse=True))

    def text(self, text: str) -> str:
        """``text`` with ``[redacted]`` for each secret; the same object when there is none.

        Takes time in proportion to the length of the text.
        """
        for value in self._values:
            if value in text:
                text = text.replace(value, MARK)
        if len(text) < _SHORTEST_VALUE:
            return text
        # Looking for fixed words first: most texts hold none, and then no pattern runs at all.
        if "PRIVATE KEY-----" in text:
            text = _PEM.sub(rf"\1{MARK}", text)
        if "://" in text and "@" in text:
            text = _URL.sub(rf"\1{MARK}@", text)
        lower = text.lower()
        for word in _SCHEMES:
            if word in lower:
                text = _SCHEME.sub(rf"\1{MARK}", text)
                break
        for word in _SHAPES:
            if word in text:
                text = _SHAPED.sub(rf"\1{MARK}", text)
                break
        for word in _NAMES:
            if word in lower:
                text = _NAMED.sub(_named, text)
                break
        if "=" in text and ("?" in text or "&" in text):
            text = _QUERY.sub(rf"\1{MARK}", text)
        return text

    def data(self, data: bytes) -> bytes:
        """The same for bytes of whatever encoding (an upstream's error, before it is kept)."""
        text = data.decode("latin-1")
        clean = self.text(text)
        return data if clean is text else clean.encode("latin-1")

    def headers(self, headers: Headers) -> Headers:
        """The same headers, secret ones without their values, the others redacted as texts."""
        return tuple(
            (name, MARK.encode())
            if name.lower() in SECRET_HEADERS
            else (name, self.text(value.decode("latin-1")).encode("latin-1"))
            for name, value in headers
        )


_default = Redactor()


def redact(text: str) -> str:
    """``text`` without secrets of known shapes."""
    return _default.text(text)


def redact_headers(headers: Headers) -> Headers:
    """``headers`` without secrets of known names and shapes."""
    return _default.headers(headers)
