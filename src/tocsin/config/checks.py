"""What no single setting can tell: references between settings, and the world outside the file.

``problems`` finds what makes a configuration wrong, ``warnings`` what is merely suspicious. Both
return findings in the order of the file's sections and change nothing.
"""

import difflib
import ipaddress
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from tocsin.config.limits import Finding, limit_problems
from tocsin.config.model import Config, Policies, Upstream
from tocsin.config.operations import ChecksSettings, WebhookSettings

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}\Z")
_LANGUAGE = re.compile(r"[a-z]{2}\Z")
BUILT_IN_CHECKS = frozenset(
    {
        "checks",
        "cites",
        "finish",
        "language",
        "length",
        "pattern",
        "refusal",
        "schema",
        "tool_arguments",
    }
)
"""Names that no function may take."""
_KEYLESS = frozenset({"local", "replay", "scripted"})


def is_loopback(host: str) -> bool:
    """Whether an address to bind can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def nearest(name: str, names: Collection[str]) -> str:
    """`` did you mean ...?`` when one of ``names`` is close; empty otherwise."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean `{close[0]}`?" if close else ""


def problems(config: Config) -> list[Finding]:
    """Everything that would stop Tocsin, or make it do what nobody can have meant."""
    return [
        *_server_problems(config),
        *(f for name, up in config.upstreams.items() for f in _upstream_problems(name, up)),
        *(f for name in config.features for f in _feature_problems(config, name)),
        *(f for name in config.sentinels for f in _sentinel_problems(config, name)),
        *(f for name, limit in config.limits.items() for f in limit_problems(name, limit)),
        *(f for name, hook in config.webhooks.items() for f in _webhook_problems(name, hook)),
        *_url_problems(("otlp", "endpoint"), config.otlp.endpoint),
        *_variable_problems(("otlp", "headers_env"), config.otlp.headers_env),
        *_variable_problems(("digest", "urls_env"), config.digest.urls_env),
    ]


def warnings(config: Config, env: Mapping[str, str]) -> list[Finding]:
    """What works, and perhaps not as meant."""
    found = [
        note
        for name, upstream in config.upstreams.items()
        for note in _upstream_warnings(name, upstream, env)
    ]
    for name, feature in config.features.items():
        if feature.checks is not None and not _checks_anything(feature.checks):
            found.append(
                Finding(
                    ("features", name, "checks"),
                    "checks nothing; set one of its settings, or remove the table",
                )
            )
    variable = config.otlp.headers_env
    if variable and not env.get(variable):
        found.append(
            Finding(
                ("otlp", "headers_env"),
                f"the environment variable {variable} is not set, so traces go out without it",
            )
        )
    variable = config.digest.urls_env
    if variable and not env.get(variable):
        found.append(
            Finding(
                ("digest", "urls_env"),
                f"the environment variable {variable} is not set, so no digest is sent",
            )
        )
    return found


def _checks_anything(checks: ChecksSettings) -> bool:
    return checks.must_cite or any(
        getattr(checks, setting) not in (None, "", ())
        for setting in ChecksSettings.model_fields
        if setting not in ("must_cite", "outcome")
    )


def _server_problems(config: Config) -> Iterator[Finding]:
    if config.auth.require_key is False and not is_loopback(config.server.host):
        yield Finding(
            ("auth", "require_key"),
            f"may not be `false` while `server.host` is {config.server.host!r}, which other "
            'machines can reach; set it to `true` or "auto", or bind to 127.0.0.1',
        )
    url = config.store.url
    if url and not url.startswith(("sqlite:", "postgresql:", "postgres:")):
        yield Finding(
            ("store", "url"), "must begin with `sqlite:` or `postgresql:`, or be empty for SQLite"
        )


def _upstream_warnings(name: str, upstream: Upstream, env: Mapping[str, str]) -> Iterator[Finding]:
    path = ("upstreams", name)
    variable = upstream.api_key_env
    if variable and not env.get(variable):
        yield Finding(
            (*path, "api_key_env"),
            f"the environment variable {variable} is not set, so this upstream will refuse "
            f"calls; export {variable}=... before you start Tocsin",
        )
    if upstream.background and (upstream.kind, upstream.api) != ("openai", "responses"):
        yield Finding(
            (*path, "background"),
            'has no effect without `kind = "openai"` and `api = "responses"`; add them or '
            "remove it",
        )
    if upstream.base_url and upstream.kind in _KEYLESS:
        yield Finding(
            (*path, "base_url"),
            f"has no effect on an upstream of kind `{upstream.kind}`; remove it",
        )


def _upstream_problems(name: str, upstream: Upstream) -> Iterator[Finding]:
    path = ("upstreams", name)
    if not _NAME.match(name):
        yield Finding(path, "a name has 1 to 64 letters, digits, `_`, `-` or `.`")
    yield from _variable_problems((*path, "api_key_env"), upstream.api_key_env)
    yield from _url_problems((*path, "base_url"), upstream.base_url)
    if not upstream.models:
        yield Finding((*path, "models"), 'is empty, so nothing matches; leave it out for `["*"]`')
    if upstream.kind == "replay" and not upstream.path:
        yield Finding(
            (*path, "path"),
            "must name the file of recorded interactions that `replay` answers from",
        )
    reads_file = upstream.kind in ("replay", "local") and upstream.path
    if reads_file and not Path(upstream.path).is_file():
        yield Finding((*path, "path"), f"there is no file {upstream.path}")


def _variable_problems(path: tuple[str, ...], variable: str) -> Iterator[Finding]:
    # The value is not shown: what stands here by mistake is usually the secret itself.
    if variable and not _VARIABLE.match(variable):
        yield Finding(
            path,
            "must be the NAME of an environment variable (letters, digits, `_`), not the secret; "
            "put the secret in the environment and its variable's name here",
        )


def _url_problems(path: tuple[str, ...], url: str) -> Iterator[Finding]:
    if not url:
        return
    try:
        parts = urlsplit(url)
        port_is_good = parts.port is None or parts.port > 0
    except ValueError:
        parts, port_is_good = urlsplit(""), False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_good:
        yield Finding(path, "must be a URL such as `https://api.example.com/v1`")
    elif parts.username or parts.password:
        yield Finding(path, "must not hold a user or password; use an environment variable")
    elif parts.query or parts.fragment:
        yield Finding(path, "must not hold a query (`?...`) or fragment (`#...`)")


def _webhook_problems(name: str, webhook: WebhookSettings) -> Iterator[Finding]:
    path = ("webhooks", name)
    if not _NAME.match(name):
        yield Finding(path, "a name has 1 to 64 letters, digits, `_`, `-` or `.`")
    if not webhook.secret_env:
        yield Finding((*path, "secret_env"), "must name the variable that holds the secret")
    said = webhook.secret_env
    is_secret = said.startswith("whsec_")  # of some, every character may stand in a name
    yield from _variable_problems((*path, "secret_env"), "-" if is_secret else said)
    # Receivers may want a query; it is no secret to Tocsin and stands on its pages.
    url = webhook.url.partition("#")[0].partition("?")[0]
    yield from _url_problems((*path, "url"), url or "nothing")


def _unknown_upstream(
    config: Config, where: tuple[str | int, ...], upstream: str
) -> Iterator[Finding]:
    if upstream not in config.upstreams:
        known = ", ".join(f"`{known}`" for known in config.upstreams) or "none"
        yield Finding(
            where,
            f"there is no upstream `{upstream}`"
            f"{nearest(upstream, config.upstreams)} (configured: {known})",
        )


def _sentinel_problems(config: Config, name: str) -> Iterator[Finding]:
    # Without a table of upstreams there are those of OpenAI and Anthropic.
    if config.upstreams:
        for index, upstream in enumerate(config.sentinels[name].upstreams):
            yield from _unknown_upstream(config, ("sentinels", name, "upstreams", index), upstream)


def _checks_problems(path: tuple[str, ...], checks: ChecksSettings) -> Iterator[Finding]:
    least, most = checks.min_chars, checks.max_chars
    if least is not None and most is not None and least > most:
        yield Finding(
            (*path, "min_chars"), f"is {least}, above `max_chars` ({most}): every answer would fail"
        )
    if checks.language and not _LANGUAGE.match(checks.language):
        yield Finding((*path, "language"), "must be an ISO 639-1 code of two letters, such as `de`")
    for pattern in checks.must_not_match:
        if pattern in checks.must_match:
            yield Finding(
                (*path, "must_not_match"),
                f"{pattern!r} is in `must_match` too: every answer would fail",
            )
    for index, name in enumerate(checks.functions):
        if name in BUILT_IN_CHECKS:
            yield Finding(
                (*path, "functions", index),
                f"`{name}` is a check of Tocsin's own; your function needs another name",
            )


def function_problems(config: Config, offered: Collection[str]) -> list[Finding]:
    """Checks by function that no installed package offers."""
    return [
        Finding(
            ("features", name, "checks", "functions", index),
            f"no installed package offers the check `{wanted}`{nearest(wanted, offered)} "
            "(entry points of the group `tocsin.checks`)",
        )
        for name, feature in config.features.items()
        if feature.checks is not None
        for index, wanted in enumerate(feature.checks.functions)
        if wanted not in offered
    ]


def _feature_problems(config: Config, name: str) -> Iterator[Finding]:
    feature, path = config.features[name], ("features", name)
    if not _NAME.match(name):
        yield Finding(path, "a name has 1 to 64 letters, digits, `_`, `-` or `.`")
    seen: set[tuple[str, int, str]] = set()
    weights: dict[int, float] = {}
    for index, target in enumerate(feature.targets):
        where = (*path, "targets", index)
        yield from _unknown_upstream(config, (*where, "upstream"), target.upstream)
        same = (target.upstream, target.tier, target.model)
        if same in seen:
            yield Finding(where, f"repeats `{target.upstream}` in tier {target.tier}; remove one")
        seen.add(same)
        weights[target.tier] = weights.get(target.tier, 0.0) + target.weight
    for tier, weight in weights.items():
        if not weight:
            yield Finding((*path, "targets"), f"tier {tier} has no target with a `weight` above 0")
    if feature.checks is not None:
        yield from _checks_problems((*path, "checks"), feature.checks)
    for policy in feature.policies:
        if policy not in Policies.model_fields:
            known = ", ".join(f"`{known}`" for known in Policies.model_fields)
            yield Finding(
                (*path, "policies", policy),
                f"there is no such policy{nearest(policy, Policies.model_fields)} (known: {known})",
            )
