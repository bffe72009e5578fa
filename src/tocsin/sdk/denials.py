"""``denial``: what Tocsin said no to, read from the exception that the client raised."""

from collections.abc import Mapping
from typing import Any

import msgspec

from tocsin.runtime.intake import ERROR_HEADER

_STATUSES = frozenset({403, 409, 429})


class Denial(msgspec.Struct, frozen=True, kw_only=True):
    """A call that a policy stopped."""

    code: str
    """Such as ``budget_exceeded``, ``run_paused`` or ``stopped``."""
    message: str
    details: Mapping[str, Any] = {}
    """Facts for programs: which limit, what was spent, when it resets; the stop's id."""

    @property
    def stop_id(self) -> str | None:
        """The stop that the call fell under, if it was one."""
        found = self.details.get("stop_id")
        return found if isinstance(found, str) else None


def denial(exception: BaseException) -> Denial | None:
    """What Tocsin said in ``exception``; ``None`` when it comes from somebody else.

    Understands what the official clients raise, through a wrapped client and through the gateway.
    """
    error = _error_of(getattr(exception, "body", None))
    code = _code_of(exception)
    facts = error.get("tocsin")
    if not isinstance(facts, Mapping):
        facts = {}
        if code is None:
            return None
    code = facts.get("code") or code
    if not isinstance(code, str):
        return None
    return Denial(
        code=code,
        message=str(error.get("message") or exception),
        details={name: value for name, value in facts.items() if name != "code"},
    )


def _error_of(body: object) -> Mapping[str, Any]:
    """The error's object: one client hands over the whole body, the other what is in it."""
    if not isinstance(body, Mapping):
        return {}
    inner = body.get("error", body)
    return inner if isinstance(inner, Mapping) else {}


def _code_of(exception: BaseException) -> str | None:
    """The code in the head of a denial's answer."""
    response = getattr(exception, "response", None)
    headers = getattr(response, "headers", None)
    if headers is None or getattr(response, "status_code", None) not in _STATUSES:
        return None
    found = headers.get(ERROR_HEADER.decode())
    return found if isinstance(found, str) else None
