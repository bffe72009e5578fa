"""OpenAI's API and everything that speaks its dialect."""

from typing import ClassVar

from tocsin.core.interaction import Dialect
from tocsin.providers.remote import RemoteProvider


class OpenAIProvider(RemoteProvider):
    """Any OpenAI-compatible API: OpenAI, Azure, vLLM, Ollama, OpenRouter, another gateway."""

    kind: str = "openai"
    dialect: ClassVar[Dialect] = "openai"
    default_url: ClassVar[str] = "https://api.openai.com/v1"

    __slots__ = ()

    def _credential_header(self, key: bytes) -> tuple[bytes, bytes]:
        return b"authorization", b"Bearer " + key
