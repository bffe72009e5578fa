"""Calls that Tocsin makes itself: through the same path as everybody's, and recorded like them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from tocsin.core.call import Principal
from tocsin.core.errors import CallError
from tocsin.core.sentinels import FINGERPRINT
from tocsin.runtime.intake import take_in

if TYPE_CHECKING:
    from tocsin.runtime.runtime import Runtime


class _Body(msgspec.Struct):
    system_fingerprint: str | None = None


_decode = msgspec.json.Decoder(_Body).decode


def fingerprint(body: bytes) -> dict[str, str]:
    """The attribute that holds an answer's ``system_fingerprint``; nothing where it has none."""
    try:
        found = _decode(body).system_fingerprint
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return {FINGERPRINT: found[:200]} if found else {}


async def ask(
    runtime: "Runtime",
    path: str,
    body: bytes,
    *,
    feature: str,
    run: str,
    name: str,
    facts: Mapping[str, str],
) -> str:
    """Make one call, wait for its end, and return its id: what became of it is in the record.

    ``path`` is that of a model route, ``body`` its JSON; ``name`` says who asks. ``facts`` become
    attributes of the record. Policies and limits hold as for any call of that feature.
    """
    headers = [
        (b"content-type", b"application/json"),
        (b"tocsin-feature", feature.encode("latin-1")),
        (b"tocsin-run", run.encode("latin-1")),
        (b"tocsin-agent", name.encode("latin-1")),
    ]
    if path.startswith("/v1/messages"):
        headers.append((b"anthropic-version", b"2023-06-01"))
    now = runtime.clock.now_us()
    principal = Principal(name=name, role="caller", features=(feature,))
    call, refused = take_in("sdk", "POST", path, b"", tuple(headers), principal, body, now)
    call.draft.facts = dict(facts)
    if refused is not None:
        runtime.refuse(call, refused)
        return call.id
    try:
        async with runtime.call(call) as reply:
            if reply.chunks is not None:
                async for _ in reply.chunks:
                    pass
    except CallError:
        return call.id  # it is recorded, with why
    return call.id


__all__ = ["ask", "fingerprint"]
