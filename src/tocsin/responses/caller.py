"""What a front door knows of whoever asked for a response. In memory only, never stored."""

import asyncio

import msgspec

from tocsin.core.call import Call, Headers
from tocsin.core.errors import CallError
from tocsin.core.outcome import Outcome
from tocsin.core.wire.responses import ResponseRequest, Translator
from tocsin.responses.deps import Api
from tocsin.responses.history import Asked, History, ItemIds


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no answer, as the caller is told."""

    status: int
    headers: Headers = ()
    body: bytes = b""
    error: CallError | None = None
    """In place of the others: an error of ours."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A request that has been read, so that the work need not read it again."""

    asked: Asked
    request: ResponseRequest
    ids: ItemIds
    api: Api
    translator: Translator


class Caller:
    """Shared by a front door that waits and the work that it waits for."""

    __slots__ = ("begun", "call", "failure", "headers", "history", "plan", "result")

    def __init__(
        self, headers: Headers, history: History | None = None, plan: "Plan | None" = None
    ) -> None:
        self.headers = headers
        self.plan = plan
        """The request as it was read and begun, for whoever works on it first."""
        self.result: tuple[Outcome, bytes] | None = None
        """What was made of it, and the Response object, once the work has ended."""
        self.history = history
        """What the request goes on from, where that is known before the work begins."""
        self.call: Call | None = None
        """The model call, once there is one."""
        self.failure: Failure | None = None
        self.begun = asyncio.Event()
        """Set when the upstream answers, or when it is known that there is no answer."""

    def fail(self, failure: Failure) -> None:
        """There is no answer."""
        self.failure = failure
        self.begun.set()
