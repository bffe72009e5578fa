"""Identifiers: sortable by time when we make them, derived from their subject when we re-read them.

A made id is ``<prefix>_`` and 28 hexadecimal digits: 48 bits of milliseconds, then 64 random bits.
A derived id hashes what it is about, so that reading the same trace twice names the same
interaction (re-running never duplicates). Ids are names, not secrets: nothing is granted to whoever
knows one.
"""

import re
from hashlib import blake2b
from random import getrandbits
from typing import Literal

Prefix = Literal[
    "call",
    "run",
    "conv",
    "key",
    "req",
    "stop",
    "op",
    "resp",
    "msg",
    "fc",
    "rs",
    "item",
    "cmp",
    "whd",
]

_SHAPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:\-]{0,127}\Z")


def new_id(prefix: Prefix, now_us: int) -> str:
    """A fresh id that sorts by ``now_us`` (microseconds since the epoch) within its prefix."""
    random_bits = getrandbits(64)
    return f"{prefix}_{(now_us // 1000) & 0xFFFFFFFFFFFF:012x}{random_bits:016x}"


def derived_id(prefix: Prefix, *about: str | bytes) -> str:
    """The id that always belongs to ``about``; the same parts give the same id."""
    digest = blake2b(digest_size=14)
    for part in about:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(4, "big"))
        digest.update(data)
    return f"{prefix}_{digest.hexdigest()}"


def is_safe_id(text: str) -> bool:
    """Whether a caller's own id (a header) may be kept as it is: 1–128 plain characters."""
    return _SHAPE.match(text) is not None
