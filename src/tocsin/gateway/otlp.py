"""``POST /v1/traces``: OTLP over HTTP, acknowledged when what came is durable.

Answers speak the request's encoding, as the OTLP specification asks.
"""

import re
from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tocsin.core.call import Principal
from tocsin.core.errors import CallError, InputError
from tocsin.core.ids import is_safe_id
from tocsin.gateway.access import principal_in
from tocsin.importers.otlp_wire import JSON, PROTOBUF, encode_failure, encode_reply

PATH = "/v1/traces"

_ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})
_RETRY_AFTER_S = 2

Ingest = Callable[[bytes, str, str | None, str, Principal], Awaitable[tuple[int, int, str]]]


class OtlpDeps(msgspec.Struct, frozen=True, kw_only=True):
    """What trace ingest touches."""

    ingest: Ingest
    """(body, content type, encoding, feature, who) → (accepted, rejected, reason), returning when
    it is durable. Spans may name a feature of their own: those that ``who`` may not call are
    rejected. Raises ``InputError`` (its ``status`` is the answer's) or a ``CallError``."""
    behind: Callable[[], bool]
    """Whether the store is so far behind that senders should wait."""
    max_body_bytes: int
    """Largest body, before and after decompression."""


def routes(deps: OtlpDeps) -> list[BaseRoute]:
    """The route, to be put behind ``Access.guard``."""

    async def export(request: Request) -> Response:
        return await _export(deps, request)

    return [Route(PATH, export, methods=["POST"])]


async def _export(deps: OtlpDeps, request: Request) -> Response:
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media not in (PROTOBUF, JSON):
        return _status(JSON, 415, f"content-type: {PROTOBUF} or {JSON}")
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in _ENCODINGS:
        return _status(media, 415, "content-encoding: gzip, deflate or none")
    principal = principal_in(request.scope)
    feature = feature_of(request.headers.get("tocsin-feature"), principal)
    if feature is None:
        return _status(media, 400, "tocsin-feature: 1 to 128 letters, digits, '.', '_', ':', '-'")
    if not principal.may_call(feature):
        return _status(media, 403, f"this key may not write to the feature {feature!r}")
    if deps.behind():
        return _status(media, 503, "the store is behind; send this again")
    body = await _read(request, deps.max_body_bytes)
    if body is None:
        return _status(media, 413, f"the body is larger than {deps.max_body_bytes} bytes")
    try:
        _, rejected, reason = await deps.ingest(body, media, encoding or None, feature, principal)
    except InputError as error:
        return _status(media, getattr(error, "status", 400), str(error))
    except CallError as error:
        return _status(media, error.status, error.message)
    return _done(media, rejected, reason)


def feature_of(said: str | None, principal: Principal) -> str | None:
    """The feature that traces belong to; ``None`` when the header cannot be one's name."""
    if said is not None:
        return said if is_safe_id(said) else None
    return principal.features[0] if len(principal.features) == 1 else "default"


async def _read(request: Request, most: int) -> bytes | None:
    """The whole body; ``None`` when it is larger than ``most`` bytes."""
    length = request.headers.get("content-length", "")
    if re.fullmatch("[0-9]{1,18}", length) and int(length) > most:
        return None
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > most:
                return None
            parts.append(part)
    except ClientDisconnect:
        return b""
    return b"".join(parts)


def _done(media: str, rejected: int, reason: str) -> Response:
    """``ExportTraceServiceResponse``; with ``partial_success`` when something was left out."""
    return Response(encode_reply(media, rejected=rejected, message=reason), 200, media_type=media)


def _status(media: str, status: int, message: str) -> Response:
    """``google.rpc.Status`` in the request's encoding."""
    headers = {"retry-after": str(_RETRY_AFTER_S)} if status == 503 else None
    return Response(encode_failure(media, message), status, headers=headers, media_type=media)
