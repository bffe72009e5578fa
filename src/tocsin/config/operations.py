"""Settings of operations, idempotency, webhooks and the checks of answers."""

import re
from typing import Literal

from pydantic import Field, field_validator

from tocsin.config.section import Seconds, Section


class OperationsSettings(Section):
    """Responses, conversations and other durable work."""

    responses: Literal["managed", "forward"] = Field(
        "managed",
        description="Who keeps the state of `/v1/responses` and `/v1/conversations`: Tocsin, for every upstream alike, or, with `forward`, the upstream.",
    )
    concurrency: int = Field(
        64, ge=1, description="Most background operations that run at once in this process."
    )
    keep_days: float | None = Field(
        30.0,
        gt=0,
        description="Forget operations, and what can be resumed of them, this many days after their end; `false` keeps them.",
    )
    deadline_s: float | None = Field(
        86_400.0,
        gt=0,
        description="Cut an operation that runs longer, unless it names its own deadline. Time in which it waits for a person does not count.",
    )
    linger_s: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="How long an answer goes on being made after its caller has left without a byte of it, for a retry to find. 0: it is cut at once.",
    )
    busy_conversation: Literal["queue", "refuse"] = Field(
        "queue",
        description="What a request on a conversation in use does: wait for its turn, or get a retryable `conversation_locked`.",
    )
    on_unknown: Literal["report", "retry"] = Field(
        "report",
        description="When Tocsin died while an upstream was at work and the upstream cannot tell: end the operation `unknown`, or ask again (and maybe pay twice).",
    )
    owner_timeout_s: Seconds = Field(
        15.0,
        description="After this long without a sign of life, other processes take over a process's operations.",
    )


class IdempotencySettings(Section):
    """The same request twice: one generation, one bill."""

    retries: bool = Field(
        True,
        description="Let a client's own retry (`x-stainless-retry-count` above 0, same key, same body) join the call that its first try began.",
    )
    window_s: Seconds = Field(120.0, description="How recent that first try must be.")
    in_flight: Literal["join", "refuse"] = Field(
        "join",
        description="What a second request with the `Idempotency-Key` of one under way gets: its answer, or a 409.",
    )
    keep_hours: float = Field(
        24.0, gt=0, le=8760, description="How long an `Idempotency-Key` and its answer are kept."
    )
    max_answer_bytes: int = Field(
        4 * 1024 * 1024,
        gt=0,
        description="Largest answer that is kept for a replay; of a larger one the key is only remembered, and a repeat gets a 409.",
    )


class WebhookSettings(Section):
    """Who is told of ends, by Standard Webhooks. The table's name is the webhook's name."""

    url: str = Field(description="Where it is posted.")
    secret_env: str = Field(
        description="Environment variable with the signing secret, `whsec_` and base64."
    )
    events: tuple[str, ...] = Field(
        ("response.*", "operation.*"), description="Types (globs) that it is told of."
    )
    features: tuple[str, ...] = Field(("*",), description="Globs over features.")


class ChecksSettings(Section):
    """What a feature's answers are checked for."""

    min_chars: int | None = Field(None, ge=0, description="Fewest characters of text.")
    max_chars: int | None = Field(None, ge=1, description="Most characters of text.")
    language: str = Field(
        "", description="ISO 639-1 code, such as `de`: what it must be written in."
    )
    must_match: tuple[str, ...] = Field(
        (), description="Regular expressions, each of which must be found in it."
    )
    must_not_match: tuple[str, ...] = Field(
        (), description="Regular expressions, none of which may be found in it."
    )
    must_cite: bool = Field(
        False,
        description="It must have at least one citation, such as `[1]`, and only such as its context has.",
    )
    functions: tuple[str, ...] = Field(
        (),
        description="Names of checks that installed packages offer (entry points of the group `tocsin.checks`): `check(text, call) -> str | None`, what is wrong with it.",
    )
    outcome: Literal["invalid", "unverified"] = Field(
        "invalid", description="What an answer is that fails one of these."
    )

    @field_validator("must_match", "must_not_match")
    @classmethod
    def _compiles(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return patterns
