"""Anthropic's API and everything that speaks its dialect."""

from typing import ClassVar

from tocsin.core.call import Headers
from tocsin.core.interaction import Dialect
from tocsin.providers.remote import RemoteProvider

VERSION = b"2023-06-01"
"""The ``anthropic-version`` for callers that send none; the API refuses requests without one."""


class AnthropicProvider(RemoteProvider):
    """Anthropic's Messages API. A base URL without ``/v1`` gets it, as in Anthropic's clients."""

    kind: str = "anthropic"
    dialect: ClassVar[Dialect] = "anthropic"
    default_url: ClassVar[str] = "https://api.anthropic.com/v1"

    __slots__ = ()

    def _credential_header(self, key: bytes) -> tuple[bytes, bytes]:
        return b"x-api-key", key

    def _own_headers(self) -> Headers:
        return ((b"anthropic-version", VERSION),)

    def _lacks_version(self, path: str) -> bool:
        return not path.endswith("/v1")
