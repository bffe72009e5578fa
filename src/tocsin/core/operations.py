"""``Operation``: a durable unit of work with a numbered event log that any client can rejoin.

Times are microseconds since the epoch, money is nano US dollars. An operation is in the store
before anybody hears of it, and an event is in the store before anybody is shown it.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, Protocol

import msgspec

from tocsin.core.call import Principal
from tocsin.core.messages import content_hash
from tocsin.core.outcome import Outcome

Status = Literal["queued", "running", "waiting", "ended"]
"""``waiting``: for a person's answer; nothing of it is in memory meanwhile."""


class Operation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One unit of work as it stands."""

    id: str
    kind: str
    """``response``, ``batch``, or what a domain contributes."""
    feature: str
    status: Status = "queued"
    outcome: Outcome | None = None
    """How it ended; ``None`` until then."""
    title: str = ""
    """One line for people, at most 160 characters."""
    key_id: str | None = None
    """Whose it is: nobody else's key finds it."""
    key_name: str = "anonymous"
    end_user: str | None = None
    run_id: str | None = None
    """The run that its model calls belong to."""
    parent_id: str | None = None
    """The operation that started this one."""
    previous_id: str | None = None
    """Of a response: the one whose conversation it continues."""
    conversation_id: str | None = None
    background: bool = False
    created_at: int
    started_at: int | None = None
    ended_at: int | None = None
    deadline_at: int | None = None
    """When it is cut, wherever it is; it ends ``timeout`` then."""
    expires_at: int | None = None
    """When it may be forgotten."""
    events: int = 0
    """How many events it has; the next one's number."""
    progress: float | None = None
    """0 to 1, where it can be told."""
    note: str = ""
    """What it is doing, for people."""
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano_usd: int = 0
    unpriced: int = 0
    """Calls whose price is not known: ``cost_nano_usd`` leaves them out."""
    error_type: str | None = None
    error_message: str | None = None
    cancel_at: int | None = None
    """When somebody asked that it ends."""
    cancel_by: str = ""
    waiting_for: str | None = None
    """Of a waiting one: the key of the step that a person must answer."""
    upstream: str | None = None
    upstream_ref: str | None = None
    """Where the upstream itself keeps this work: its name for it, to reconcile by."""
    callback: str | None = None
    """URL that is told of the end."""
    owner: str | None = None
    """The process that runs it; others take it over when that one is dead."""
    restarts: int = 0
    """How often another process took it over."""


class Event(msgspec.Struct, frozen=True):
    """One line of an operation's log. Numbers start at 0 and have no gaps."""

    number: int
    type: str
    at: int
    data: bytes
    """A JSON object, sent to clients byte for byte."""


StepState = Literal["begun", "done", "failed", "unknown", "asked"]
"""``asked``: a person has to answer. ``unknown``: begun by a process that is dead, and nobody can
tell whether it happened."""


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that work does at most once, under the key of what it is."""

    key: str
    """``step_key``: operation (or another scope), name and canonical arguments."""
    scope: str
    """The operation's id, or what stands in its place for tools outside of one."""
    name: str
    effect: bool = False
    """Whether it changes the world: then it is never simply done again."""
    state: StepState
    arguments: bytes = b""
    """JSON."""
    result: bytes | None = None
    """JSON, once it is done; of a failed one, what went wrong."""
    begun_at: int
    ended_at: int | None = None
    owner: str = ""
    asked: int = 1
    """How often it was asked for: a model that asks three times is answered three times."""


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How work ended. ``result`` is JSON."""

    outcome: Outcome
    result: bytes = b"null"
    error_type: str | None = None
    error_message: str | None = None


class Closing(msgspec.Struct, frozen=True, kw_only=True):
    """The last events, as (type, JSON), and the result of an operation whose work was cut."""

    events: tuple[tuple[str, bytes], ...] = ()
    """Numbered from the operation's ``events`` on."""
    result: bytes | None = None


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a model call that work made."""

    call_id: str
    status: int
    body: bytes
    outcome: Outcome
    """Of the interaction, by the answer and its checks."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano_usd: int | None = None
    """What it cost; ``None`` where no price is known."""


class Work(Protocol):
    """What a kind of operation is given to do its work with. Used on one event loop.

    Work may be run again from its beginning, in another process: what went through ``step``,
    ``effect``, ``approve`` and ``child`` is remembered and not done again; everything else is.
    """

    @property
    def operation(self) -> Operation:
        """As it stands now."""
        ...

    @property
    def input(self) -> bytes:
        """What it was asked for: JSON."""
        ...

    @property
    def principal(self) -> Principal:
        """Who asked for it."""
        ...

    @property
    def context(self) -> Any:
        """What the front door handed over in memory; ``None`` after a restart."""
        ...

    @property
    def restarted(self) -> bool:
        """Whether an earlier process began it."""
        ...

    async def emit(self, type: str, data: Mapping[str, Any]) -> int:  # noqa: A002 - the wire's word
        """Write one event; in the store when this returns. Returns its number."""
        ...

    async def emit_raw(self, events: list[tuple[str, bytes]]) -> None:
        """Write (type, JSON) events as they are. Returns at once: followers see them when they are
        in the store; waits only while too much is on its way there."""
        ...

    async def amend(self, *, soon: bool = False, **changes: Any) -> None:
        """Change fields of the operation itself, such as ``upstream``, ``run_id``, ``calls`` and
        what they used. In the store when this returns; with ``soon``, together with what is
        written next (an event, the end), and it returns at once."""
        ...

    async def progress(self, fraction: float | None, note: str = "") -> None:
        """Say how far it is."""
        ...

    async def step(
        self, name: str, act: Callable[[], Awaitable[Any]], arguments: Any = None
    ) -> Any:
        """Do something once and remember the result (plain JSON). May be done again when the
        process dies in the middle of it."""
        ...

    async def effect(
        self,
        name: str,
        arguments: Any,
        act: Callable[[str], Awaitable[Any]],
        *,
        find: Callable[[str], Awaitable[Any]] | None = None,
    ) -> Any:
        """Change the world at most once for these arguments; both callables get the step's key.

        ``act`` raises ``NotDone`` where it certainly changed nothing (a refused connection says the
        same); after any other error nobody knows, and it is not done again blindly.

        ``find`` asks the world what became of it when a process died in the middle: it returns the
        result, or ``None`` when it certainly did not happen (then it is done). Without ``find``,
        raises ``EffectUnknown``.
        """
        ...

    async def ask(self, path: str, body: bytes, *, step: str | None = None) -> Answered:
        """Make a model call in the operation's run, by the path of everybody's calls. With a
        ``step``'s name its answer is remembered."""
        ...

    async def approve(self, question: str, details: Any = None) -> Mapping[str, Any]:
        """A person's answer: ``{"approved": bool, "note": str, "by": str}``. Raises ``Parked``
        while there is none: let it pass, the work is run again when there is."""
        ...

    async def child(self, kind: str, input: bytes, *, name: str = "") -> Operation:  # noqa: A002
        """Start an operation inside this one (once for each ``name``) and wait for its end."""
        ...


class Parked(Exception):
    """Work lets go of everything until a person has answered."""


class NotDone(Exception):
    """What an effect raises that certainly did not happen: whoever asks again does it."""


class EffectUnknown(Exception):
    """Nobody can tell whether a change to the world happened."""

    def __init__(self, key: str, name: str) -> None:
        super().__init__(
            f"{name}: a process died in the middle of it, and nobody can tell whether it happened"
        )
        self.key = key
        self.name = name


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of operation: its name, what it takes, and how it works.

    ``run`` may raise ``core.errors`` errors, ``EffectUnknown`` (ends ``unknown``) and ``Parked``;
    any other exception ends the operation with ``error``.
    """

    name: str
    summary: str
    run: Callable[[Work], Awaitable[Ending]]
    schema: Mapping[str, Any] | None = None
    """JSON schema of its input."""
    quiet: bool = False
    """Whether the log holds only what ``run`` emits; else also ``operation.*`` events."""
    offered: bool = True
    """Whether ``POST /api/operations`` takes it."""
    closing: Callable[[Operation, bytes], Closing] | None = None
    """What to say of an end that ``run`` did not give: it raised, or was never there to be cut
    (queued, waiting, its process dead). Gets the operation as it ends and what it was asked for."""


def step_key(scope: str, name: str, arguments: Any) -> str:
    """The one name of a step: the same scope, name and arguments give the same key, whatever the
    order of the arguments' fields. 32 hexadecimal digits behind ``step_``."""
    canonical = msgspec.json.encode([scope, name, arguments], order="sorted")
    return f"step_{content_hash(canonical).hex()}"
