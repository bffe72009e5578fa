"""Arguments in canonical form, and how alike two calls are."""

import re
from functools import lru_cache
from typing import Any

import msgspec
from rapidfuzz import fuzz, utils

MAX_TEXT = 400
"""Characters of arguments that are compared and shown."""
_MAX_LEAVES = 200
_MAX_CANONICAL = 64 * 1024

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder(order="sorted").encode

_TOKEN = re.compile(r"[0-9A-Za-z][0-9A-Za-z:.+\-]{9,}")
"""What an id made at random or a time may stand in."""
_VOLATILE = re.compile(
    r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"  # a UUID
    r"|\d{4}-\d\d-\d\dT\d\d:?\d\d.*"  # a moment
    r"|(?=[0-9a-fA-F]*\d)(?=[0-9a-fA-F]*[a-fA-F])[0-9a-fA-F]{16,}"  # a hash
    r"|1[4-9]\d{8}(?:\.\d+|\d{3}|\d{6})?"  # seconds, milli- or microseconds since the epoch
)
_HAS_VOLATILE = re.compile(r"\d(?:[0-9a-fA-F]{8}|[0-9a-fA-F]{0,7}-(?:[0-9a-fA-F]{4}-|\d\dT\d))")
"""What a text with one of them has in it; it begins with a digit, which is quick to look for."""
_EXACT_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:(?!00(?:Z|[+-]|$))\d\d.*")
_KEY = re.compile(
    r"(?:request|req|trace|span|correlation|idempotency|transaction|invocation|message|msg|call)"
    r"_?(?:id|key|uuid|token)$|^(?:nonce|timestamp|ts|now|time|uuid|guid|salt|seed|request|sent_at"
    r"|requested_at|created_at|current_time|client_time|retry|attempt|retry_count|cache_?bust\w*)$"
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Arguments(msgspec.Struct, frozen=True):
    """What a call was given. ``strict`` leaves out what only names the request; ``loose`` also
    any value that looks like an id made at random or a time."""

    strict: int
    loose: int
    text: str
    """The values, readable, at most 400 characters."""
    plain: str
    """The same in lower case without punctuation: what similarity is taken of."""
    leaves: tuple[str, ...]
    """The values one by one, volatile ones left out."""
    first: str
    """The value of ``command``, ``action`` or the like, in lower case: what the tool is to do."""


_VERBS = ("command", "cmd", "action", "operation", "script", "code")


def arguments(raw: str) -> Arguments:
    """The canonical form of a call's arguments; text that is no JSON object is taken as it is."""
    value: Any = raw
    if raw[:1] in "{[" and raw and len(raw) <= _MAX_CANONICAL:
        try:
            value = _decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            value = raw
    leaves: list[str] = []
    first = ""
    if isinstance(value, dict):
        for key in _VERBS:
            if isinstance(said := value.get(key), str):
                first = said[:MAX_TEXT]
                break
        else:
            only = next(iter(value.values()), None) if len(value) == 1 else None
            first = only[:MAX_TEXT] if isinstance(only, str) else ""
    else:
        first = raw[:MAX_TEXT]
    plain = _plain(value, leaves, 0)
    strict = _text(plain)
    text = " ".join(leaves) if leaves else ""
    loose = strict
    text = text[: 2 * MAX_TEXT]
    if _HAS_VOLATILE.search(strict) is not None:
        loose = without_volatile(strict)
        text = without_volatile(text)
    text = text[:MAX_TEXT]
    plain_text = utils.default_process(text) or text
    return Arguments(hash(strict), hash(loose), text, plain_text, tuple(leaves), first)


def exact(raw: str) -> str:
    """The arguments as sorted JSON, with nothing left out: what exact comparison compares."""
    try:
        return _text(_decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return raw


def _text(value: Any) -> str:
    try:
        return _encode(value).decode()
    except (TypeError, ValueError, OverflowError, RecursionError, UnicodeError):
        return str(value)


def _plain(value: Any, leaves: list[str], depth: int) -> Any:
    if isinstance(value, dict):
        if depth > 16:
            return "..."
        return {
            key: "*" if volatile_key(key) else _plain(inner, leaves, depth + 1)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return "..." if depth > 16 else [_plain(inner, leaves, depth + 1) for inner in value]
    if isinstance(value, str):
        if len(value) > 18 and value[4] == "-" and _EXACT_MOMENT.fullmatch(value):
            return "*"
        value = value.strip()
        leaf = value
    else:
        leaf = str(value)
    if leaf and len(leaves) < _MAX_LEAVES:
        leaves.append(leaf)
    return value


@lru_cache(maxsize=4096)
def volatile_key(key: str) -> bool:
    """Whether an argument of this name tells one request from another and nothing else."""
    return _KEY.search(_CAMEL.sub("_", key[:80]).lower().replace("-", "_")) is not None


def without_volatile(text: str) -> str:
    """Text without random ids, times and hashes."""
    if _HAS_VOLATILE.search(text) is None:
        return text
    for token in _TOKEN.findall(text):
        if (len(token) > 15 or token[0] == "1") and _VOLATILE.fullmatch(token.rstrip(".:")):
            return _TOKEN.sub(_starred, text)
    return text


def _starred(token: re.Match[str]) -> str:
    return "*" if _VOLATILE.fullmatch(token[0].rstrip(".:")) else token[0]


def differing(first: Arguments, second: Arguments) -> tuple[str, str]:
    """Of either call, in plain text, what the other was not given too: a directory or a limit
    that every call is given says nothing of what it is to do."""
    if len(first.leaves) < 2 or len(second.leaves) < 2:
        return first.plain, second.plain
    shared = set(first.leaves).intersection(second.leaves)
    if not shared:
        return first.plain, second.plain
    return _others(first, shared), _others(second, shared)


def _others(given: Arguments, shared: set[str]) -> str:
    text = " ".join([leaf for leaf in given.leaves if leaf not in shared])
    text = without_volatile(text[: 2 * MAX_TEXT])[:MAX_TEXT]
    return utils.default_process(text) or text


def enumerated(first: str, second: str) -> bool:
    """Whether plain texts differ in numbers and ids alone: one thing after another of its kind."""
    one, other = set(first.split()), set(second.split())
    left, right = one - other, other - one
    return bool(left and right) and all(any(map(str.isdigit, word)) for word in left | right)


def similar(first: str, second: str, least: float) -> bool:
    """Whether plain text is at least so alike (0..100): by edits, or by the words in common.

    Words in common are taken as rapidfuzz's ``token_set_ratio``: a query that only got longer is
    the same query.
    """
    if first == second:
        return True
    if not first or not second:
        return False
    if fuzz.ratio(first, second, score_cutoff=least) >= least:
        return True
    return fuzz.token_set_ratio(first, second, score_cutoff=least) >= least
