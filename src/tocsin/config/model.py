"""Every setting of Tocsin, with its default and its meaning.

The descriptions here are the documentation: ``docs/configuration.md`` is made from them, and a test
holds the two together.
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from tocsin.core.interaction import Mode

UpstreamKind = Literal["openai", "anthropic", "local", "replay", "scripted"]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _false_is_none(cls, value: Any, info: ValidationInfo) -> Any:
        """TOML has no null: where a setting may be absent, ``false`` says so."""
        if value is not False:
            return value
        annotation = cls.model_fields[info.field_name or ""].annotation
        return None if type(None) in get_args(annotation) else value


class Server(_Section):
    """Where Tocsin listens and who may reach it."""

    host: str = Field(
        "127.0.0.1",
        description="Address to bind. Anything but loopback needs `auth.require_key` and an admin token.",
    )
    port: int = Field(4600, ge=0, le=65_535, description="TCP port; 0 picks a free one.")
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="Host headers to accept besides loopback names and `host`. Guards against DNS rebinding.",
    )
    data_dir: str = Field(
        ".tocsin",
        description="The one folder that holds everything: records, journal, segments, secret. A relative path starts at the folder of `tocsin.toml`.",
    )
    max_body_bytes: int = Field(
        32 * 1024 * 1024, gt=0, description="Largest request body, after decompression."
    )
    max_connections: int = Field(4096, gt=0, description="Most client connections at once.")
    shutdown_grace_s: Seconds = Field(
        10.0, description="How long calls in flight may finish after a stop signal."
    )


class Auth(_Section):
    """Who may call and who may look."""

    require_key: bool | Literal["auto"] = Field(
        "auto",
        description="Whether model calls need a Tocsin key. `auto`: not on loopback, always elsewhere.",
    )
    open_metrics: bool = Field(
        False, description="Serve `/metrics` without a key also when not on loopback."
    )
    session_hours: float = Field(
        12.0, gt=0, le=720, description="How long a dashboard sign-in lasts."
    )


class StoreSettings(_Section):
    """Where records live and how long."""

    url: str = Field(
        "",
        description="Empty: SQLite inside `server.data_dir`. Or `sqlite:////path/file.db`, or `postgresql://user:password@host/db` (password better in TOCSIN_STORE_URL).",
    )
    keep_days: float | None = Field(
        30.0, gt=0, description="Delete interactions older than this many days; `false` keeps them."
    )
    max_gib: float | None = Field(
        20.0,
        gt=0,
        description="Delete the oldest interactions when the store grows past this many GiB; `false` for no ceiling.",
    )
    content: Literal["full", "hashes"] = Field(
        "full",
        description="`hashes` stores no message text: runs, tokens, cost and stitching still work.",
    )
    fold_rows: int = Field(
        8192, ge=1000, description="Fold the log into a Parquet segment when this many rows wait."
    )
    fold_seconds: Seconds = Field(
        60.0,
        description="... or when the oldest waiting row is this old and at least 1,000 rows wait.",
    )
    journal_sync: Literal["os", "disk"] = Field(
        "os",
        description="`os`: a completed call survives a killed process. `disk`: also a power cut, at the price of an fsync before the last byte.",
    )


class Upstream(_Section):
    """One provider endpoint. The table's name is the upstream's name."""

    kind: UpstreamKind = Field(
        "openai",
        description="Wire dialect or engine: `openai` (any compatible API), `anthropic`, `local`, `replay`, `scripted`.",
    )
    base_url: str = Field(
        "", description="Base URL including `/v1`; empty means the provider's own."
    )
    api_key_env: str = Field(
        "",
        description="Environment variable that holds the API key. Empty: the caller's own Authorization header is forwarded.",
    )
    models: tuple[str, ...] = Field(
        ("*",),
        description="Model names (globs) that this upstream serves when a feature names no upstreams.",
    )
    connect_timeout_s: Seconds = Field(5.0, description="To get a connection.")
    first_byte_timeout_s: Seconds = Field(
        600.0, description="From sending the request to the response head."
    )
    idle_timeout_s: Seconds = Field(120.0, description="Longest silence inside a response.")
    total_timeout_s: Seconds = Field(3600.0, description="Longest whole attempt.")
    retries: int = Field(
        2,
        ge=0,
        le=10,
        description="Further tries on this upstream after a connection failure, 408, 409, 429 or 5xx.",
    )
    backoff_s: float = Field(
        0.5,
        ge=0,
        le=60,
        description="First pause between tries; doubles, with full jitter, up to 8 s. `Retry-After` wins.",
    )
    max_connections: int = Field(1024, gt=0, description="Most connections to this upstream.")
    cooldown_failures: int = Field(
        5, ge=1, description="Failures in a row after which the upstream is left out for a while."
    )
    cooldown_s: Seconds = Field(30.0, description="For how long; then one call probes it.")
    path: str = Field(
        "",
        description="For `replay`: the file of recorded interactions. For `local`: a GGUF file other than the built-in one. A relative path starts at the folder of `tocsin.toml`.",
    )


class Target(_Section):
    """One place in a feature's upstream list."""

    upstream: str = Field(description="Name of an `[upstreams.NAME]` table.")
    weight: float = Field(
        1.0, ge=0, le=1000, description="Share of traffic among targets of the same tier."
    )
    tier: int = Field(
        0, ge=0, le=9, description="Lower tiers are tried first; a higher tier is the fallback."
    )
    model: str = Field("", description="Model name to send instead of the caller's.")


class Feature(_Section):
    """One LLM feature of your product. The table's name is the feature's name."""

    targets: tuple[Target, ...] = Field(
        (), description="Where its calls go. Empty: the first upstream whose `models` match."
    )
    policies: dict[str, Mode] = Field(
        default_factory=dict,
        description="Mode of single policies for this feature: `off`, `observe` or `enforce`.",
    )


class Price(_Section):
    """Your own price for a model; wins over the public list. US dollars per million tokens."""

    input: float = Field(ge=0, description="Per million input tokens, US dollars.")
    output: float = Field(ge=0, description="Per million output tokens, US dollars.")
    cache_read: float | None = Field(
        None, ge=0, description="Per million tokens read from cache; default: `input`."
    )
    cache_write: float | None = Field(
        None, ge=0, description="Per million tokens written to cache; default: `input`."
    )


class Otlp(_Section):
    """OpenTelemetry out: send every interaction to a collector as well."""

    endpoint: str = Field(
        "", description="OTLP/HTTP base URL such as `http://127.0.0.1:4318`; empty: off."
    )
    headers_env: str = Field(
        "",
        description="Environment variable with `name=value,name=value` headers for the collector.",
    )
    content: bool = Field(False, description="Include message content in exported spans.")


class Outbound(_Section):
    """Which hosts Tocsin may connect to."""

    allow: tuple[str, ...] = Field(
        (),
        description="Private hosts or `host:port` that upstreams and exports may use. A configured `base_url` on loopback is allowed by itself.",
    )


class Policies(_Section):
    """Policies in the request path, for all features."""

    identity: Mode = Field("enforce", description="Finds the run and conversation of each call.")


class Config(_Section):
    """A whole `tocsin.toml`."""

    server: Server = Server()
    auth: Auth = Auth()
    store: StoreSettings = StoreSettings()
    upstreams: dict[str, Upstream] = Field(default_factory=dict)
    features: dict[str, Feature] = Field(default_factory=dict)
    prices: dict[str, Price] = Field(default_factory=dict)
    otlp: Otlp = Otlp()
    outbound: Outbound = Outbound()
    policies: Policies = Policies()
