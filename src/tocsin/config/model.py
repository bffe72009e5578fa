"""Every setting of Tocsin, with its default and its meaning.

The descriptions here are the documentation: ``docs/configuration.md`` is made from them, and a test
holds the two together.
"""

from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator

from tocsin.config.operations import (
    ChecksSettings,
    IdempotencySettings,
    OperationsSettings,
    WebhookSettings,
)
from tocsin.config.section import Seconds, Section
from tocsin.core.interaction import Mode
from tocsin.core.ledger import Period, Scope

UpstreamKind = Literal["openai", "anthropic", "local", "replay", "scripted"]


class Server(Section):
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


class Auth(Section):
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


class StoreSettings(Section):
    """Where records live and how long."""

    url: str = Field(
        "",
        description="Empty: SQLite inside `server.data_dir`. Or `sqlite:////path/file.db`, or `postgresql://user:password@host/db` (password better in TOCSIN_STORE_URL).",
    )
    keep_days: float | None = Field(
        30.0,
        gt=0,
        description="Delete interactions older than this many days, and conversations that nobody has used for so long; `false` keeps them.",
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


class Upstream(Section):
    """One provider endpoint. The table's name is the upstream's name."""

    kind: UpstreamKind = Field(
        "openai",
        description="Wire dialect or engine: `openai` (any compatible API), `anthropic`, `local`, `replay`, `scripted`.",
    )
    base_url: str = Field(
        "", description="Base URL including `/v1`; empty means the provider's own."
    )
    api: Literal["chat", "responses"] = Field(
        "chat",
        description="What an `openai` upstream is spoken to when Tocsin itself keeps a response's state: chat completions, which all have, or the responses API, where there is one.",
    )
    background: bool = Field(
        False,
        description='Let an upstream with `api = "responses"` keep and make background responses itself (`background` and `store` are passed on): after a crash it can be asked what came of one, and a cancel is passed on to it.',
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


class Target(Section):
    """One place in a feature's upstream list."""

    upstream: str = Field(description="Name of an `[upstreams.NAME]` table.")
    weight: float = Field(
        1.0, ge=0, le=1000, description="Share of traffic among targets of the same tier."
    )
    tier: int = Field(
        0, ge=0, le=9, description="Lower tiers are tried first; a higher tier is the fallback."
    )
    model: str = Field("", description="Model name to send instead of the caller's.")


def _zone(value: str) -> str:
    """The name of a time zone that there is."""
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"no time zone {value!r}; use a name such as Europe/Berlin") from None
    return value


class LimitSettings(Section):
    """One limit on what calls may use. The table's name is the limit's name."""

    scope: Scope = Field(
        "organisation",
        description="What has an account of its own: the whole `organisation`, each `feature`, each `key`, each `end_user` or each `run`.",
    )
    match: tuple[str, ...] = Field(
        ("*",),
        description="Globs over the scope's values (feature names, key names or ids, end users, run ids); others are not limited.",
    )
    per: Period = Field(
        "ever",
        description="`run`: each run anew, its child runs included. `hour`, `day`, `month`: each window anew. `ever`: never anew.",
    )
    rolling: bool = Field(
        False,
        description="Windows are the last hour, day or 30 days, not calendar ones. In steps of a sixtieth of the window, never too lenient.",
    )
    timezone: str = Field(
        "UTC", description="Where calendar windows begin, such as `Europe/Berlin`."
    )
    usd: float | None = Field(None, ge=0, description="Most US dollars.")
    tokens: int | None = Field(None, ge=0, description="Most tokens, input and output together.")
    calls: int | None = Field(None, ge=0, description="Most attempts; retries and fallbacks count.")
    tool_calls: int | None = Field(
        None,
        ge=0,
        description="Most tool calls that models ask for; one answer may ask for several.",
    )
    depth: int | None = Field(
        None, ge=0, le=1000, description="Most ancestors of a run; 0 forbids child runs."
    )
    wall_s: float | None = Field(
        None,
        gt=0,
        description="Longest time from an account's first call: later calls are refused.",
    )
    warn_at: tuple[float, ...] = Field(
        (0.8,), description="Fractions of the limit at which to warn: a header and an alert."
    )

    _zone_exists = field_validator("timezone")(_zone)


class LedgerSettings(Section):
    """How the ledger counts what nobody reports."""

    unreported: Literal["reserved", "estimated"] = Field(
        "reserved",
        description="What an attempt counts that was cut before its usage came: all that was `reserved` (limits hold whatever the provider bills), or what came, `estimated`.",
    )
    max_output_tokens: int = Field(
        32_768,
        gt=0,
        description="Reserved for a call that names no maximum, when the model's own ceiling is not known.",
    )
    image_tokens: int = Field(
        8_000, gt=0, description="Reserved for each image or file of a request."
    )
    lease_fraction: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Most of what is left of an account that one process takes at once, to spend without asking the store.",
    )


class AgentSettings(Section):
    """Supervision of runs. Each stage is `off`, `observe` (recorded only) or `enforce`."""

    nudge: Mode = Field(
        "observe", description="Tell the model, in its next request, what it repeats."
    )
    pause: Mode = Field(
        "observe",
        description="Hold the run until a person or a rule resumes, redirects or ends it.",
    )
    kill: Mode = Field("observe", description="End the run and cut what is in flight.")
    stream: Mode = Field(
        "observe", description="Cut an answer that repeats itself while it streams."
    )
    role: Literal["system", "developer", "user"] = Field(
        "system",
        description="Role of the message that nudges, for the OpenAI dialect. `developer` for OpenAI's own API; other servers may know `system` alone.",
    )
    expected_calls: int | None = Field(
        None,
        gt=0,
        description="Calls that a run usually needs; by default learned from finished runs.",
    )
    wait_s: float = Field(
        0.0,
        ge=0,
        le=3600,
        description="How long a call of a paused run waits for a decision before it is answered with `run_paused`.",
    )


class BurnSettings(Section):
    """Alerts on how fast money goes, for what no limit covers."""

    factor: float = Field(
        6.0,
        gt=1,
        description="Alert when a feature, key or run spends this many times its usual rate, over a long and a short window.",
    )
    min_usd: float = Field(
        5.0, ge=0, description="... and has spent at least this much in the long window."
    )


class SignalsSettings(Section):
    """How behaviour is measured and when a change of it alarms."""

    evaluate: bool = Field(
        True, description="Score recorded calls off the path. `false`: no signals at all."
    )
    false_alarm_calls: int = Field(
        10_000,
        ge=100,
        description="Calls of a feature between two false alarms, on average, over all its signals together. Fewer: changes are seen sooner.",
    )
    false_alarm_days: float = Field(
        14.0,
        ge=0,
        le=366,
        description="... or so many days at the feature's traffic, whichever is more calls.",
    )
    baseline_calls: int = Field(
        1_000, ge=50, description="Judged calls that make up a full baseline of a signal."
    )
    off: tuple[str, ...] = Field((), description="Signals (globs) that never alarm.")
    share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the calls that are scored, whole runs at a time. Scoring takes about 1 ms of CPU a call: above some 500 calls a second, score fewer.",
    )
    abandoned_after_s: float = Field(
        1_800.0,
        gt=0,
        le=604_800,
        description="Seconds without another call after which a conversation is over. One that ends with a re-ask, a correction, an error, a refusal or a cut answer then counts as given up.",
    )


class ObjectiveSettings(Section):
    """A service level objective. The table's name is the objective's name."""

    feature: str = Field(description="The feature that it is for.")
    signal: str = Field(
        description="The signal that it is on, such as `appropriate` or `first_chunk_s`; `tocsin signals --list` names all."
    )
    target: float = Field(gt=0, lt=1, description="Share of calls that must be good, such as 0.99.")
    at_most: float | None = Field(
        None, description="For a level such as seconds: a call is good at most here."
    )
    at_least: float | None = Field(None, description="For a level: a call is good at least here.")
    window_days: float = Field(
        30.0, gt=0, le=90, description="The days over which the error budget is counted."
    )
    min_events: int = Field(
        10,
        ge=1,
        description="Fewest calls in a window before it may alarm, so that one bad call at night is no outage.",
    )
    proof: str = Field(
        "",
        description="A slow, graded signal such as `labelled_right` that shows when the fast one lies.",
    )


class JudgeSettings(Section):
    """A model that judges a sample of answers. The table's name is the judge's name."""

    features: tuple[str, ...] = Field(("*",), description="Globs over the features it judges.")
    model: str = Field(
        min_length=1, description="The model that judges, as a caller would name it."
    )
    question: str = Field(
        "Does the answer do what the user asked for, correctly?",
        description="What it is asked of each answer; it replies yes or no.",
    )
    sample: float = Field(0.01, gt=0, le=1, description="Share of calls that it sees.")
    max_per_day: int = Field(200, ge=1, description="Most calls that it judges in a day.")
    min_labels: int = Field(
        30,
        ge=1,
        description="Human labels on what it judged before its share is shown as a measure.",
    )


class SentinelSettings(Section):
    """A suite of prompts that is run on a schedule. The table's name is the suite's name."""

    feature: str = Field(description="The feature whose targets are probed.")
    file: str = Field(
        "",
        description="The suite, JSON lines; default `sentinels/NAME.jsonl` beside `tocsin.toml`. `tocsin sentinels record` writes it.",
    )
    every_hours: float | None = Field(
        24.0, gt=0, description="How often it runs; `false`: only by `tocsin sentinels run`."
    )
    upstreams: tuple[str, ...] = Field(
        (), description="Upstreams to probe; empty: those of the feature's targets."
    )
    model: str = Field("", description="Model to ask for; empty: as each prompt was recorded.")


class DigestSettings(Section):
    """A summary of the week, sent or printed."""

    urls_env: str = Field(
        "",
        description="Environment variable with where to send it: Apprise URLs (`mailto://`, `slack://`, ...), separated by spaces. Empty: not sent.",
    )
    weekday: int = Field(0, ge=0, le=6, description="The day it is sent, 0 for Monday.")
    hour: int = Field(8, ge=0, le=23, description="The hour it is sent.")
    timezone: str = Field("UTC", description="Where that hour is, such as `Europe/Berlin`.")

    _zone_exists = field_validator("timezone")(_zone)


class Feature(Section):
    """One LLM feature of your product. The table's name is the feature's name."""

    targets: tuple[Target, ...] = Field(
        (), description="Where its calls go. Empty: the first upstream whose `models` match."
    )
    policies: dict[str, Mode] = Field(
        default_factory=dict,
        description="Mode of single policies for this feature: `off`, `observe` or `enforce`.",
    )
    agents: AgentSettings | None = Field(
        None, description="Supervision of this feature's runs; replaces `[agents]` as a whole."
    )
    signals: SignalsSettings | None = Field(
        None, description="How its signals are watched; replaces `[signals]` as a whole."
    )
    checks: ChecksSettings | None = Field(
        None, description="What its answers are checked for, besides the request's own schemas."
    )
    require_idempotency_key: bool = Field(
        False, description="Refuse this feature's calls that come without an `Idempotency-Key`."
    )


class Price(Section):
    """Your own price for a model; wins over the public list. US dollars per million tokens."""

    input: float = Field(ge=0, description="Per million input tokens, US dollars.")
    output: float = Field(ge=0, description="Per million output tokens, US dollars.")
    cache_read: float | None = Field(
        None, ge=0, description="Per million tokens read from cache; default: `input`."
    )
    cache_write: float | None = Field(
        None, ge=0, description="Per million tokens written to cache; default: `input`."
    )


class Otlp(Section):
    """OpenTelemetry out: send every interaction to a collector as well."""

    endpoint: str = Field(
        "", description="OTLP/HTTP base URL such as `http://127.0.0.1:4318`; empty: off."
    )
    headers_env: str = Field(
        "",
        description="Environment variable with `name=value,name=value` headers for the collector.",
    )
    content: bool = Field(False, description="Include message content in exported spans.")


class Outbound(Section):
    """Which hosts Tocsin may connect to."""

    allow: tuple[str, ...] = Field(
        (),
        description="Private hosts or `host:port` that upstreams and exports may use. A configured `base_url` on loopback is allowed by itself.",
    )


class Policies(Section):
    """Policies in the request path, for all features."""

    identity: Mode = Field("enforce", description="Finds the run and conversation of each call.")
    stops: Mode = Field("enforce", description="Refuses calls that are paused or stopped.")
    ledger: Mode = Field("enforce", description="Holds calls to the limits.")
    agents: Mode = Field(
        "enforce", description="Supervises runs; what each stage does is set in `[agents]`."
    )


class Config(Section):
    """A whole `tocsin.toml`."""

    server: Server = Server()
    auth: Auth = Auth()
    store: StoreSettings = StoreSettings()
    upstreams: dict[str, Upstream] = Field(default_factory=dict)
    features: dict[str, Feature] = Field(default_factory=dict)
    prices: dict[str, Price] = Field(default_factory=dict)
    limits: dict[str, LimitSettings] = Field(default_factory=dict)
    ledger: LedgerSettings = LedgerSettings()
    agents: AgentSettings = AgentSettings()
    burn: BurnSettings = BurnSettings()
    signals: SignalsSettings = SignalsSettings()
    objectives: dict[str, ObjectiveSettings] = Field(default_factory=dict)
    judges: dict[str, JudgeSettings] = Field(default_factory=dict)
    sentinels: dict[str, SentinelSettings] = Field(default_factory=dict)
    digest: DigestSettings = DigestSettings()
    operations: OperationsSettings = OperationsSettings()
    idempotency: IdempotencySettings = IdempotencySettings()
    webhooks: dict[str, WebhookSettings] = Field(default_factory=dict)
    otlp: Otlp = Otlp()
    outbound: Outbound = Outbound()
    policies: Policies = Policies()
