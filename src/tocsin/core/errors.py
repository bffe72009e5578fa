"""What can go wrong, one exception per thing that somebody can do something about.

::

    TocsinError
    ├── ConfigError          a setting: names file, line, setting and fix
    ├── StoreError           the store cannot be opened or is damaged
    │   └── StoreFull        no room, or over the configured ceiling
    ├── InputError           a file or request that cannot be read: names what and where
    ├── NotFound             no such run, interaction, key or feature
    └── CallError            a call that gets no model's answer; has a status and a code
        ├── BadRequest       400/413/415/422: the request itself
        ├── Conflict         409: another request with the same idempotency key stands in its way
        ├── Unauthenticated  401: no key, or not one of ours
        ├── Forbidden        403: the key may not do this
        ├── Denied           a policy said no (429 or 403)
        │   ├── BudgetExceeded 429: an account has not enough left
        │   ├── RunPaused    409: the run is held until somebody decides
        │   └── Stopped      403: the run, feature, key or everything was stopped
        ├── PolicyFailed     503: a policy that fails closed crashed or hung
        ├── Unavailable      503: no upstream can take the call now
        └── UpstreamFailed   502/504: the provider gave no answer

Every message says what the reader can do. ``retryable`` says whether trying again can help; the
gateway turns it into ``x-should-retry``, which the official clients obey.
"""

from collections.abc import Mapping


class TocsinError(Exception):
    """Base of everything that Tocsin raises on purpose."""


class ConfigError(TocsinError):
    """A setting is wrong. The message names file, line, setting and fix."""


class StoreError(TocsinError):
    """The store cannot be opened, read or written."""


class StoreFull(StoreError):
    """There is no room for another record."""


class InputError(TocsinError):
    """A file or an argument cannot be used; the message says which, where and why."""


class NotFound(TocsinError):
    """Nothing has this id."""


class CallError(TocsinError):
    """A call that ends without a model's answer.

    ``status`` is the HTTP status, ``code`` a stable word for programs, ``param`` the field at
    fault, ``retry_after_s`` when the caller may try again.
    """

    status = 500
    code = "internal_error"
    type = "api_error"
    retryable = False

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        """Facts for programs, sent as the error's ``tocsin`` object."""
        if status is not None:
            self.status = status
        if code is not None:
            self.code = code
        if retryable is not None:
            self.retryable = retryable
        self.param = param
        self.retry_after_s = retry_after_s


class BadRequest(CallError):
    """The request cannot be read or asks for something that does not exist."""

    status = 400
    code = "invalid_request"
    type = "invalid_request_error"


class Conflict(CallError):
    """Another request with the same idempotency key stands in the way of this one."""

    status = 409
    code = "conflict"
    type = "invalid_request_error"


class Unauthenticated(CallError):
    """No key was sent, or it is not one of ours, or it has expired or been revoked."""

    status = 401
    code = "invalid_api_key"
    type = "authentication_error"


class Forbidden(CallError):
    """The key is good but may not do this."""

    status = 403
    code = "forbidden"
    type = "permission_error"


class Denied(CallError):
    """A policy stopped the call."""

    status = 429
    code = "denied"
    type = "rate_limit_error"


class BudgetExceeded(Denied):
    """What a call may cost is more than an account has left. ``details`` says which and when."""

    code = "budget_exceeded"


class RunPaused(Denied):
    """The run is held. ``details`` has ``stop_id`` and ``wait``, the path that tells the ending."""

    status = 409
    code = "run_paused"
    type = "invalid_request_error"


class Stopped(Denied):
    """The run, feature, key or everything was stopped. ``details`` has ``stop_id``."""

    status = 403
    code = "stopped"
    type = "permission_error"


class PolicyFailed(CallError):
    """A policy that fails closed crashed or ran out of time."""

    status = 503
    code = "policy_failed"
    retryable = True


class Unavailable(CallError):
    """No upstream can take this call now."""

    status = 503
    code = "no_upstream"
    retryable = True


class UpstreamFailed(CallError):
    """The provider could not be reached or broke off before there was an answer.

    ``sent`` tells whether the provider may have seen the request (and may bill it).
    """

    status = 502
    code = "upstream_failed"
    retryable = True

    def __init__(self, message: str, *, sent: bool, timeout: bool = False) -> None:
        super().__init__(
            message,
            status=504 if timeout else 502,
            code="upstream_timeout" if timeout else "upstream_failed",
        )
        self.sent = sent
        self.timeout = timeout
