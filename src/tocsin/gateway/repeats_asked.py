"""A request as idempotency looks at it: who asks, what, and whether it says that it is a repeat."""

from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from tocsin.config.model import Config
from tocsin.core.call import Headers, Principal
from tocsin.gateway.wire import Wire

KEY = b"idempotency-key"
COUNT = b"x-stainless-retry-count"

_CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"api-key"})
_MEANT = (b"openai-", b"anthropic-", b"tocsin-")
"""Headers that change what a request means or who pays for it: repeats have the same ones."""

RETRYABLE = frozenset({408, 409, 425, 429})
UNDONE = frozenset({401, 403})
"""An upstream that does not let us in has done nothing."""


class Asked(NamedTuple):
    """A request that may be repeated."""

    method: str
    path: str
    query: bytes
    headers: Headers
    principal: Principal
    body: bytes


Answer = Callable[[str, str, bytes, Headers, Principal, bytes, Wire], Awaitable[None]]
"""Makes the answer of a request and writes it onto a wire, errors included."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What the settings say, in the units that are compared."""

    retries: bool
    window_s: float
    linger_s: float
    refuse: bool
    """Whether a key in flight is refused, not joined."""
    keep_us: int
    most: int
    owner_timeout_us: int
    required: frozenset[str]
    """Features whose requests must have a key."""


def rules_of(config: Config) -> Rules:
    """The rules of a configuration."""
    settings, operations = config.idempotency, config.operations
    return Rules(
        retries=settings.retries,
        window_s=settings.window_s,
        linger_s=operations.linger_s,
        refuse=settings.in_flight == "refuse",
        keep_us=round(settings.keep_hours * 3_600_000_000),
        most=settings.max_answer_bytes,
        owner_timeout_us=round(operations.owner_timeout_s * 1_000_000),
        required=frozenset(
            name for name, feature in config.features.items() if feature.require_idempotency_key
        ),
    )


def repeatable(status: int | None) -> bool:
    """Whether an answer with this status asks for another try."""
    return status is not None and (status >= 500 or status in RETRYABLE)


def frees(status: int | None) -> bool:
    """Whether a request with a key may be made again after an answer with this status: it asks
    for that, or says that nothing was done."""
    return repeatable(status) or status in UNDONE


def retry_count(value: bytes) -> int:
    """How many tries a client says were before this one."""
    return int(value) if value.isdigit() and len(value) < 4 else 0


def count_of(asked: Asked) -> int:
    """What a request says of the tries before it."""
    return next((retry_count(value) for name, value in asked.headers if name == COUNT), 0)


def payload_hash(asked: Asked) -> bytes:
    """What is asked: method, path, query and body."""
    return _digest(asked.method.encode(), asked.path.encode(), asked.query, asked.body)


def request_hash(asked: Asked, peer: str) -> bytes:
    """What is asked and by whom, so that only a client's own repeat has the same."""
    key_id = asked.principal.key_id
    who = b"key " + key_id.encode() if key_id is not None else b"peer " + peer.encode()
    meant = [
        name + b":" + value
        for name, value in asked.headers
        if name in _CREDENTIALS or name.startswith(_MEANT)
    ]
    return _digest(who, *sorted(meant), payload_hash(asked))


def owner_of(asked: Asked) -> str:
    """To whom an idempotency key belongs. Callers without a key of ours are told apart by the
    provider's credential that they bring."""
    if asked.principal.key_id is not None:
        return asked.principal.key_id
    for name, value in asked.headers:
        if name in _CREDENTIALS:
            return "anonymous:" + blake2b(value, digest_size=12).hexdigest()
    return "anonymous"


def _digest(*parts: bytes) -> bytes:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
