"""Error bodies and error words of either dialect."""

from collections.abc import Mapping
from typing import Any

import msgspec

from tocsin.core.errors import CallError
from tocsin.core.interaction import Dialect

_encode = msgspec.json.Encoder().encode

_OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_type(dialect: Dialect, status: int) -> str:
    """The dialect's word for an HTTP status; ``api_error`` when it has none."""
    words = _OPENAI_TYPES if dialect == "openai" else _ANTHROPIC_TYPES
    return words.get(status, "api_error")


def error_body(dialect: Dialect, error: CallError) -> bytes:
    """``error`` as the JSON body that clients of ``dialect`` read."""
    kind = error_type(dialect, error.status) if dialect == "anthropic" else error.type
    facts = None if error.details is None else {"code": error.code, **error.details}
    return error_json(
        dialect, error.message, kind=kind, code=error.code, param=error.param, facts=facts
    )


def error_json(
    dialect: Dialect,
    message: str,
    *,
    kind: str,
    code: str | None = None,
    param: str | None = None,
    facts: Mapping[str, object] | None = None,
) -> bytes:
    """An error body from its parts. Anthropic's has no ``code`` and no ``param``; ``facts`` become
    the ``tocsin`` object of either."""
    error: dict[str, Any] = {"type": kind, "message": message}
    if dialect != "anthropic":
        error = {"message": message, "type": kind, "param": param, "code": code}
    if facts is not None:
        error["tocsin"] = facts
    return _encode(
        {"type": "error", "error": error} if dialect == "anthropic" else {"error": error}
    )


def error_event(dialect: Dialect, error: CallError) -> bytes:
    """``error`` as a server-sent event, for a stream that has begun and cannot go on."""
    head = b"event: error\n" if dialect == "anthropic" else b""
    return head + b"data: " + error_body(dialect, error) + b"\n\n"
