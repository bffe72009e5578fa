"""``RemoteProvider``: an HTTP API behind a base URL; what both dialects share.

Whatever does not change from call to call is worked out once per upstream: where paths go, which
headers pass, the credential.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar

from tocsin.config.model import Upstream
from tocsin.core.call import Call, Headers
from tocsin.core.credentials import is_ours
from tocsin.core.errors import BadRequest, ConfigError
from tocsin.core.interaction import Dialect
from tocsin.core.policy import Reply
from tocsin.providers.http import HttpClient, HttpRequest, HttpResponse, Timeouts, Url
from tocsin.providers.http_errors import InvalidRequest, InvalidUrl, OutboundError
from tocsin.providers.streams import Chunks, upstream_failed

WHOLE_BODY = 4 * 1024 * 1024
"""Bytes up to which a reply that is no stream is read whole before it goes on."""

_REMEMBERED = 1024

_DROPPED = frozenset(
    {
        # Of one connection only (RFC 9110, 7.6.1), or written by the client itself.
        b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate",
        b"proxy-authorization", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect",
        b"host", b"content-length",
        # The caller's state with Tocsin and its place in the network.
        b"cookie", b"cookie2", b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host",
        b"x-forwarded-port", b"x-forwarded-proto", b"x-real-ip",
    }
)  # fmt: skip
_CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"})
_REPLY_DROPPED = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"te",
        b"trailer", b"transfer-encoding", b"upgrade", b"content-length", b"date", b"server",
        # A provider's cookies and its other addresses would be taken for Tocsin's.
        b"set-cookie", b"set-cookie2", b"alt-svc", b"strict-transport-security",
    }
)  # fmt: skip

_PASS, _DROP, _CREDENTIAL, _ENCODING, _CONNECTION, _CODING = range(6)
_SPECIAL = {
    b"accept-encoding": _ENCODING,
    b"connection": _CONNECTION,
    b"content-encoding": _CODING,
}

_HOSTS = {
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "openrouter.ai": "openrouter",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.deepseek.com": "deepseek",
    "api.together.xyz": "together",
    "api.x.ai": "x_ai",
    "api.fireworks.ai": "fireworks",
    "api.perplexity.ai": "perplexity",
    "api.cohere.com": "cohere",
    "api.cohere.ai": "cohere",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "openai.azure.com": "azure.ai.openai",
    "services.ai.azure.com": "azure.ai.openai",
    "amazonaws.com": "aws.bedrock",
}


class RemoteProvider:
    """Sends calls to an HTTP API. ``OpenAIProvider`` and ``AnthropicProvider`` fill in the rest.

    ``label`` is OpenTelemetry's ``gen_ai.provider.name`` as far as the host tells it; an API on
    any other host is ``<kind>_compatible``.
    """

    kind: str
    dialect: ClassVar[Dialect]
    default_url: ClassVar[str]

    __slots__ = (
        "_client",
        "_credential",
        "_ours",
        "_owns_client",
        "_query",
        "_reply_names",
        "_timeouts",
        "_url",
        "_verdicts",
        "dialects",
        "label",
        "name",
    )

    def __init__(
        self,
        name: str,
        upstream: Upstream,
        client: HttpClient,
        env: Mapping[str, str],
        *,
        owns_client: bool = False,
    ) -> None:
        """Raises ``ConfigError`` for a base URL or a key that cannot be used."""
        self.name = name
        self.dialects: frozenset[Dialect] = frozenset({self.dialect})
        self._client = client
        self._owns_client = owns_client
        self._url, self._query = self._base(upstream.base_url)
        self.label = label_of(self._url.host, self.kind)
        self._timeouts = Timeouts(
            connect=upstream.connect_timeout_s,
            first_byte=upstream.first_byte_timeout_s,
            idle=upstream.idle_timeout_s,
            total=upstream.total_timeout_s,
        )
        key = api_key(name, upstream.api_key_env, env)
        self._credential = self._credential_header(key) if key else None
        self._ours = self._own_headers()
        self._verdicts: dict[bytes, int] = {}
        self._reply_names: dict[bytes, tuple[bytes, bool]] = {}

    def _credential_header(self, key: bytes) -> tuple[bytes, bytes]:
        """The header that carries our key."""
        raise NotImplementedError

    def _own_headers(self) -> Headers:
        """Headers to add where the caller did not send them."""
        return ()

    async def send(self, call: Call) -> Reply:
        """One round trip.

        An HTTP error is a reply like any other. Raises ``UpstreamFailed`` when there is no answer
        and ``BadRequest`` when the call cannot be put on a wire.
        """
        request = HttpRequest(
            call.method,
            self._url,
            self._target(call),
            self._headers(call),
            call.body,
            self._timeouts,
            None if call.draft.budget is None else call.draft.budget.again,
        )
        try:
            response = await self._client.send(request)
            return await self._reply(call, response)
        except InvalidRequest as error:
            raise BadRequest(f"The request cannot be forwarded: {error}.") from error
        except OutboundError as error:
            raise upstream_failed(self.name, error) from error

    async def aclose(self) -> None:
        """Close the connections, where they are this upstream's own."""
        if self._owns_client:
            await self._client.aclose()

    # -- the request --

    def _base(self, base_url: str) -> tuple[Url, str]:
        """The URL below which paths go, and the query that every request carries."""
        text = base_url or self.default_url
        try:
            url = Url.parse(text)
        except InvalidUrl as error:
            raise ConfigError(
                f"upstreams.{self.name}.base_url: {error}. Write it like {self.default_url!r}."
            ) from None
        if self._lacks_version(url.prefix):
            head, mark, query = text.partition("?")
            url = Url.parse(head.rstrip("/") + "/v1" + mark + query)
        return url, url.tail.partition("?")[2]

    def _lacks_version(self, path: str) -> bool:
        """Whether ``/v1`` is to be added: nobody serves an API at the bare host."""
        return path in ("", "/")

    def _target(self, call: Call) -> str:
        path = call.path
        # A path that climbs would reach, with our key, what the operator did not configure.
        if ".." in path or ("%" in path and "%2e" in path.lower()):
            raise BadRequest("The path must not contain '..'.", code="invalid_path")
        target = path[3:] if path.startswith("/v1/") else path
        if not call.query and not self._query:
            return target
        try:
            query = call.query.decode("ascii")
        except UnicodeDecodeError:
            raise BadRequest("The query must be percent-encoded.", code="invalid_path") from None
        return (
            f"{target}?{query}&{self._query}"
            if query and self._query
            else (f"{target}?{query or self._query}")
        )

    def _headers(self, call: Call) -> list[tuple[bytes, bytes]]:
        verdicts = self._verdicts
        kept: list[tuple[bytes, bytes]] = []
        encoding = b"identity"
        named: bytes | None = None
        for header in call.headers:
            verdict = verdicts.get(header[0])
            if verdict is None:
                verdict = self._judge(header[0])
            if verdict == _PASS:
                kept.append(header)
            elif verdict == _ENCODING:
                encoding = accepted(header[1])
            elif verdict == _CREDENTIAL:
                if self._credential is None and not is_ours(*header):
                    kept.append(header)
            elif verdict == _CONNECTION:
                named = header[1]
            elif verdict == _CODING and not call.body.startswith((b"{", b"[")):
                # A body that was decoded on its way in is plain JSON now.
                kept.append(header)
        if named is not None and named.lower() not in (b"keep-alive", b"close"):
            private = {token.strip().lower() for token in named.split(b",")}
            kept = [header for header in kept if header[0] not in private]
        kept.append((b"accept-encoding", encoding))
        if self._credential is not None:
            kept.append(self._credential)
        for header in self._ours:
            if call.header(header[0]) is None:
                kept.append(header)
        return kept

    def _judge(self, name: bytes) -> int:
        """What becomes of the caller's header ``name``; remembered."""
        if name in _SPECIAL:
            verdict = _SPECIAL[name]
        elif name in _CREDENTIALS:
            verdict = _CREDENTIAL
        elif name in _DROPPED or name.startswith((b"tocsin-", b":")):
            verdict = _DROP
        else:
            verdict = _PASS
        if len(self._verdicts) >= _REMEMBERED:
            self._verdicts.clear()
        self._verdicts[name] = verdict
        return verdict

    # -- the reply --

    async def _reply(self, call: Call, response: HttpResponse) -> Reply:
        status = response.status
        names = self._reply_names
        headers: list[tuple[bytes, bytes]] = []
        length, content_type = -1, b""
        for name, value in response.headers:
            known = names.get(name) or self._reply_name(name)
            if known[1]:
                headers.append((known[0], value))
                if known[0] == b"content-type":
                    content_type = value.lower()
            elif known[0] == b"content-length" and value.isdigit():
                length = int(value)
        if content_type.startswith(b"text/event-stream"):
            return self._streamed(status, headers, response, b"")
        if 0 <= length <= WHOLE_BODY or call.method == "HEAD" or status in (204, 304):
            return Reply(status=status, headers=headers, body=await response.read())
        if length < 0 and (status >= 400 or b"json" in content_type):
            return await self._gathered(status, headers, response)
        return self._streamed(status, headers, response, b"")

    async def _gathered(
        self, status: int, headers: list[tuple[bytes, bytes]], response: HttpResponse
    ) -> Reply:
        """A reply of unknown length that is no stream: whole if it is small, else in chunks.

        Whole is better: an upstream that dies in mid-body can still be replaced by another.
        """
        pieces: list[bytes] = []
        size = 0
        while size <= WHOLE_BODY:
            chunk = await response.next_chunk()
            if not chunk:
                return Reply(status=status, headers=headers, body=b"".join(pieces))
            pieces.append(chunk)
            size += len(chunk)
        return self._streamed(status, headers, response, b"".join(pieces))

    def _streamed(
        self,
        status: int,
        headers: list[tuple[bytes, bytes]],
        response: HttpResponse,
        first: bytes,
    ) -> Reply:
        chunks = Chunks(response.next_chunk, response.aclose, upstream=self.name, first=first)
        return Reply(status=status, headers=headers, chunks=chunks)

    def _reply_name(self, name: bytes) -> tuple[bytes, bool]:
        """A reply header's name in lower case, and whether it goes on; remembered."""
        lower = name.lower()
        # Whether a page of another origin may read the answer is Tocsin's to say.
        dropped = lower in _REPLY_DROPPED or lower.startswith(b"access-control-")
        known = (lower, not dropped)
        if len(self._reply_names) >= _REMEMBERED:
            self._reply_names.clear()
        self._reply_names[name] = known
        return known


def api_key(name: str, variable: str, env: Mapping[str, str]) -> bytes | None:
    """The key that the environment holds; ``None`` when the upstream names no variable.

    Raises ``ConfigError`` when the variable is missing or holds no key.
    """
    if not variable:
        return None
    key = env.get(variable, "").strip()
    if not key:
        raise ConfigError(
            f"upstreams.{name}.api_key_env: the environment variable {variable} is not set. "
            "Export it, or remove the setting to forward each caller's own key."
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"upstreams.{name}.api_key_env: {variable} holds characters that no API key has. "
            "Check for line breaks and quotes."
        )
    return key.encode("ascii")


def label_of(host: str, kind: str) -> str:
    """OpenTelemetry's name of the provider at ``host``; ``<kind>_compatible`` for any other."""
    for suffix, label in _HOSTS.items():
        if host == suffix or host.endswith("." + suffix):
            return label
    return f"{kind}_compatible"


def accepted(value: bytes) -> bytes:
    """The caller's encodings as far as Tocsin can read them beside the stream."""
    names = [part.partition(b";")[0].strip().lower() for part in value.split(b",")]
    return b", ".join([name for name in names if name in (b"gzip", b"deflate")]) or b"identity"


def loopback_authorities(urls: Iterable[str]) -> tuple[str, ...]:
    """``host:port`` of every URL on loopback: naming one in the configuration is allowing it."""
    found = []
    for text in urls:
        try:
            url = Url.parse(text)
        except InvalidUrl:
            continue
        if url.host in ("localhost", "::1") or url.host.startswith("127."):
            host = f"[{url.host}]" if ":" in url.host else url.host
            found.append(f"{host}:{url.port}")
    return tuple(dict.fromkeys(found))
