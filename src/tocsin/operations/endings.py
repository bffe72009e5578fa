"""How work ends: what an exception means, and all that is written with an end."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from tocsin.core.errors import CallError, Denied, TocsinError, UpstreamFailed
from tocsin.core.operations import (
    Closing,
    EffectUnknown,
    Ending,
    Event,
    Kind,
    NotDone,
    Operation,
    Step,
)
from tocsin.core.redact import redact
from tocsin.store.operations_api import Delivery, Written

log = logging.getLogger("tocsin.operations")

Told = Callable[[Operation, bytes], tuple[Delivery, ...]]
"""Who is to be told of an end: gets the operation as it ended, and its result."""

_MOST_MESSAGE = 1000


def nobody(operation: Operation, result: bytes) -> tuple[Delivery, ...]:
    """Nobody is told."""
    return ()


def payload(type: str, number: int, data: Mapping[str, Any]) -> bytes:  # noqa: A002 - the wire's word
    """An event's JSON."""
    return msgspec.json.encode({**data, "type": type, "sequence_number": number}, enc_hook=str)


def is_uncertain(error: BaseException) -> bool:
    """Whether an error leaves open that what it broke off has happened: every one does that does
    not say otherwise. A bug behind the charge looks like a bug before it."""
    if isinstance(error, UpstreamFailed):
        return error.sent
    return not isinstance(error, NotDone | ConnectionRefusedError | CallError)


def message_of(error: BaseException) -> str:
    """What an error says, for people: no secrets, no traceback."""
    return redact(str(error) or type(error).__name__)[:_MOST_MESSAGE]


def ending_of(error: BaseException) -> Ending:
    """The end that an exception out of a kind's work means."""
    message = message_of(error)
    if isinstance(error, EffectUnknown):
        return Ending(outcome="unknown", error_type="effect_unknown", error_message=message)
    if isinstance(error, Denied):
        return Ending(outcome="denied", error_type=error.code, error_message=message)
    if isinstance(error, UpstreamFailed) and error.timeout:
        return Ending(outcome="timeout", error_type=error.code, error_message=message)
    if isinstance(error, CallError):
        return Ending(outcome="error", error_type=error.code, error_message=message)
    if isinstance(error, TocsinError):
        return Ending(outcome="error", error_type="failed", error_message=message)
    said = f"{type(error).__name__}: {message}" if str(error) else message
    return Ending(outcome="error", error_type="internal_error", error_message=said)


def cut_ending(operation: Operation, *, timeout: bool) -> Ending:
    """The end of work that was cut."""
    if timeout:
        return Ending(
            outcome="timeout",
            error_type="deadline",
            error_message="It was not done when its deadline came.",
        )
    by = f" by {operation.cancel_by}" if operation.cancel_by else ""
    return Ending(
        outcome="cancelled", error_type="cancelled", error_message=f"It was cancelled{by}."
    )


def effects_of(steps: Iterable[Step]) -> list[dict[str, str]]:
    """The changes to the world among steps, for programs."""
    return [{"name": s.name, "key": s.key, "state": s.state} for s in steps if s.effect]


class End(msgspec.Struct, frozen=True, kw_only=True):
    """All that is written with an end, in one transaction."""

    operation: Operation
    changes: Mapping[str, Any]
    events: tuple[Event, ...]
    result: bytes
    deliveries: tuple[Delivery, ...]

    def written(self, **fields: Any) -> Written:
        """As the store takes it."""
        return Written(
            operation_id=self.operation.id,
            events=self.events,
            changes=self.changes,
            result=self.result,
            deliveries=self.deliveries,
            **fields,
        )


def end_of(
    operation: Operation,
    kind: Kind | None,
    body: bytes,
    ending: Ending,
    *,
    given: bool,
    effects: list[dict[str, str]],
    now: int,
    keep_us: int | None,
    told: Told,
) -> End:
    """What is to be written of an end. ``given``: by the kind's own work, so that it has said its
    last word; else its ``closing`` says it."""
    changes: dict[str, Any] = {
        "status": "ended",
        "outcome": ending.outcome,
        "ended_at": now,
        "error_type": ending.error_type,
        "error_message": ending.error_message,
        "owner": None,
        "waiting_for": None,
    }
    if operation.expires_at is None and keep_us is not None:
        changes["expires_at"] = now + keep_us
    ended = msgspec.structs.replace(operation, **changes)
    closing = Closing() if given else _closing(kind, ended, body)
    events = [
        Event(operation.events + at, type_, now, data)
        for at, (type_, data) in enumerate(closing.events)
    ]
    if kind is None or not kind.quiet:
        number = operation.events + len(events)
        events.append(Event(number, "operation.ended", now, _last(ended, number, effects)))
    result = closing.result if closing.result is not None else ending.result
    if result == b"null" and (effects or ending.outcome in ("cancelled", "timeout", "unknown")):
        result = msgspec.json.encode({"effects": effects})
    ended = msgspec.structs.replace(ended, events=operation.events + len(events))
    return End(
        operation=ended,
        changes=changes,
        events=tuple(events),
        result=result,
        deliveries=_told(told, ended, result),
    )


def _last(ended: Operation, number: int, effects: list[dict[str, str]]) -> bytes:
    """The JSON of ``operation.ended``. No field ``error``: clients take one for a broken stream."""
    return payload(
        "operation.ended",
        number,
        {
            "operation": ended.id,
            "outcome": ended.outcome,
            "error_type": ended.error_type,
            "error_message": ended.error_message,
            "effects": effects,
        },
    )


def _closing(kind: Kind | None, ended: Operation, body: bytes) -> Closing:
    if kind is None or kind.closing is None:
        return Closing()
    try:
        return kind.closing(ended, body)
    except Exception:
        log.exception("kind %s could not say how operation %s ended", kind.name, ended.id)
        return Closing()


def _told(told: Told, ended: Operation, result: bytes) -> tuple[Delivery, ...]:
    try:
        return told(ended, result)
    except Exception:
        log.exception("nobody is told of the end of operation %s", ended.id)
        return ()
