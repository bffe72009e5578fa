"""The upstreams of somebody who has named none."""

from collections.abc import Mapping

from tocsin.config.model import Upstream


def default_upstreams(env: Mapping[str, str]) -> dict[str, Upstream]:
    """OpenAI and Anthropic, each with the key from its usual environment variable.

    Where the variable is missing the caller's own credentials are forwarded, so an app that
    already holds a key needs no second place for it. The order matters: Anthropic takes models
    named ``claude*``, OpenAI all others. ``OPENAI_BASE_URL`` is not read, because it is what
    points clients at Tocsin: following it would make Tocsin call itself.
    """
    return {
        "anthropic": Upstream(
            kind="anthropic",
            api_key_env="ANTHROPIC_API_KEY" if env.get("ANTHROPIC_API_KEY") else "",
            models=("claude*",),
        ),
        "openai": Upstream(
            kind="openai", api_key_env="OPENAI_API_KEY" if env.get("OPENAI_API_KEY") else ""
        ),
    }
