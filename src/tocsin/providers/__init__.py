"""Everything that answers calls, and everything that goes out over the network."""

from collections.abc import Callable, Mapping

from tocsin.config.defaults import default_upstreams
from tocsin.config.model import Config, Upstream
from tocsin.core.errors import ConfigError
from tocsin.core.policy import Provider
from tocsin.providers.anthropic import AnthropicProvider
from tocsin.providers.circuit import Circuit, RouterStats, UpstreamStats
from tocsin.providers.guard import OutboundGuard
from tocsin.providers.http import HttpClient, HttpRequest, HttpResponse, Limits, Timeouts, Url
from tocsin.providers.local import LocalProvider
from tocsin.providers.openai import OpenAIProvider
from tocsin.providers.playing import Step
from tocsin.providers.pricing import Pricer
from tocsin.providers.remote import loopback_authorities
from tocsin.providers.replay import ReplayProvider
from tocsin.providers.routing import Router
from tocsin.providers.scripted import ScriptedProvider
from tocsin.providers.streams import Chunks
from tocsin.providers.tokens import TokenCounter

_REMOTE: dict[str, type[OpenAIProvider] | type[AnthropicProvider]] = {
    "openai": OpenAIProvider,
    "anthropic": AnthropicProvider,
}


ClientFactory = Callable[[Limits], HttpClient]
"""Makes an upstream's own client; the upstream closes it."""


def make_providers(
    config: Config, http_client: HttpClient | ClientFactory, env: Mapping[str, str]
) -> dict[str, Provider]:
    """The provider of each upstream, by name; those of ``default_upstreams`` when none is set.

    One ``http_client`` is shared by all and closed by the caller. A factory makes one for each
    upstream, with the upstream's ``max_connections``. ``env`` holds the API keys. Nothing runs
    and nothing is connected before the first call (or ``start_providers``). Raises
    ``ConfigError``, which names upstream, setting and fix.
    """
    upstreams = config.upstreams or default_upstreams(env)
    return {name: _make(name, upstream, http_client, env) for name, upstream in upstreams.items()}


async def start_providers(providers: Mapping[str, Provider]) -> None:
    """Start what runs beside Tocsin (a local model), so that no request ever starts a process."""
    for provider in providers.values():
        if isinstance(provider, LocalProvider):
            await provider.start()


def allowed_hosts(config: Config) -> tuple[str, ...]:
    """What the configuration allows by naming it: base URLs and a collector on loopback.

    Webhooks are not among these: they are sent by clients of their own.
    """
    urls = [upstream.base_url for upstream in config.upstreams.values()]
    return loopback_authorities([*urls, config.otlp.endpoint])


def _make(
    name: str,
    upstream: Upstream,
    http_client: HttpClient | ClientFactory,
    env: Mapping[str, str],
) -> Provider:
    remote = _REMOTE.get(upstream.kind)
    if remote is not None:
        if isinstance(http_client, HttpClient):
            return remote(name, upstream, http_client, env)
        own = http_client(Limits(max_connections=upstream.max_connections))
        return remote(name, upstream, own, env, owns_client=True)
    if upstream.kind == "local":
        return LocalProvider(name, upstream, env)
    if upstream.kind == "replay":
        return ReplayProvider(name, upstream.path)
    if upstream.kind == "scripted":
        return ScriptedProvider(name=name)
    raise ConfigError(f"upstreams.{name}.kind: {upstream.kind!r} is not a kind of upstream.")


__all__ = [
    "AnthropicProvider",
    "Chunks",
    "Circuit",
    "ClientFactory",
    "HttpClient",
    "HttpRequest",
    "HttpResponse",
    "Limits",
    "LocalProvider",
    "OpenAIProvider",
    "OutboundGuard",
    "Pricer",
    "ReplayProvider",
    "Router",
    "RouterStats",
    "ScriptedProvider",
    "Step",
    "Timeouts",
    "TokenCounter",
    "UpstreamStats",
    "Url",
    "allowed_hosts",
    "loopback_authorities",
    "make_providers",
    "start_providers",
]
