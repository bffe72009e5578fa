"""What becomes of a response whose process died: nobody asks twice who cannot know better.

The events that were written say how far it had come, and ``upstream`` on the operation whether the
request may have been sent. Certainly not sent: it is done again. Sent to an upstream that keeps
background responses: that upstream is asked what came of it. Else nobody can tell, and the
operation ends ``unknown``, or is tried again where the configuration wants that and no word of an
answer has been given out.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from tocsin.core.errors import CallError
from tocsin.core.interaction import Interaction, Usage
from tocsin.core.operations import Ending, Event
from tocsin.core.outcome import Outcome
from tocsin.core.wire.responses import Mismatch
from tocsin.responses.asking import used
from tocsin.responses.deps import Place, off
from tocsin.responses.working import KEPT, Turn

TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})
_SILENT = frozenset({"response.created", "response.queued", "response.in_progress"})
"""Events with no word of an answer in them."""
_ITEMS = frozenset({"response.output_item.added", "response.output_item.done"})

_FIRST_LOOK_S = 0.5
_MOST_LOOK_S = 5.0
_LAST = 100
"""Calls of a run that are looked through for those of the response."""
_MOST_FAILURES = 20
"""How often in a row an upstream may fail to tell, before nobody can tell."""

_OUTCOMES: dict[str, Outcome] = {
    "completed": "complete",
    "incomplete": "truncated",
    "failed": "error",
    "cancelled": "cancelled",
}


async def recovered(turn: Turn) -> Ending | None:
    """The end of a response that another process began; ``None``: it is to be done again."""
    turn.before = events = await turn.events()
    if events and events[-1].type in TERMINAL:
        return await _closed(turn, events[-1])
    place = turn.tools.place_of(turn.operation.feature, turn.request.model)
    able = turn.asked.bare or place.own_credential
    if not turn.operation.background:
        return await _unknown(turn)
    if turn.operation.upstream is None:
        return None  # ``Turn`` sees whether it can be asked at all
    if place.api == "responses" and turn.operation.upstream_ref and able:
        found = await _asked(turn, place)
        if found is not None:
            return found
    quiet = all(_is_silent(event) for event in events)
    if turn.tools.config().operations.on_unknown == "retry" and quiet and able:
        return None
    return await _unknown(turn)


def _is_silent(event: Event) -> bool:
    """Whether there is no word of an answer in it; a compaction of what came before is none."""
    if event.type not in _ITEMS:
        return event.type in _SILENT
    return bool(msgspec.json.decode(event.data)["item"]["type"] == "compaction")


async def _closed(turn: Turn, last: Event) -> Ending:
    """The last event was written: only the end itself is missing."""
    response: dict[str, Any] = msgspec.json.decode(last.data)["response"]
    outcome: Outcome = (response.get("tocsin") or {}).get("outcome") or "unknown"
    if outcome in KEPT and turn.operation.conversation_id is not None:
        await turn.keep(response)
    error = response.get("error") or {}
    return Ending(
        outcome=outcome,
        result=msgspec.json.encode(response),
        error_type=error.get("code"),
        error_message=error.get("message"),
    )


async def _unknown(turn: Turn) -> Ending:
    upstream = turn.operation.upstream
    at = f" at '{upstream}'" if upstream else ""
    message = (
        f"Tocsin was stopped while this was under way{at}, and nobody can tell what came of it: "
        "it may have been answered and billed. What had arrived is in `output`. Asking again is "
        "a new request."
    )
    await _recount(turn)
    return await turn.end("unknown", (), error=("process_died", message))


async def _recount(turn: Turn) -> None:
    """Count the calls that are on record, which the dead process had no time to count."""
    now, store = turn.work.operation, turn.tools.store

    def recorded() -> list[Interaction]:
        run = store.run(now.run_id) if now.run_id is not None else None
        if run is None:
            return []
        rows = store.steps(run.id, offset=max(0, run.calls - _LAST), limit=_LAST)
        return [row for row in rows if row.attributes.get("operation") == now.id]

    rows = await off(recorded)
    if len(rows) > now.calls:
        await turn.work.amend(
            soon=True,
            calls=len(rows),
            input_tokens=sum(row.usage.input_tokens or 0 for row in rows),
            output_tokens=sum(row.usage.output_tokens or 0 for row in rows),
            cost_nano_usd=sum(row.cost_nano_usd or 0 for row in rows),
            unpriced=sum(row.cost_nano_usd is None for row in rows),
        )


# -- asking the upstream --


async def _asked(turn: Turn, place: Place) -> Ending | None:
    """What the upstream says came of it, once it has ended; ``None``: it cannot tell."""
    wait, failures = _FIRST_LOOK_S, 0
    while failures < _MOST_FAILURES:
        found, record = await _look(turn)
        if found is None:
            failures += 1
        elif found == {}:
            return None
        else:
            failures = 0
            if found.get("status") in _OUTCOMES:
                return await _settled(turn, found, record)
        await asyncio.sleep(wait)
        wait = min(wait * 1.5, _MOST_LOOK_S)
    return None


async def _look(turn: Turn) -> tuple[dict[str, Any] | None, Interaction | None]:
    """The upstream's response as it stands; ``{}`` where there is none; ``None``: ask again."""
    try:
        call, status, body = await turn.about(method="GET")
    except CallError:
        return None, None
    if status in (400, 404, 410):
        return {}, None
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None, None
    if status >= 400 or not isinstance(value, dict):
        return None, None
    return value, call.draft.record


async def _settled(turn: Turn, found: dict[str, Any], record: Interaction | None) -> Ending:
    """Give what is missing of an answer that ended while nobody looked."""
    translator = turn.begin("responses")
    try:
        events: Sequence[tuple[str, bytes]] = translator.whole(msgspec.json.encode(found))
    except Mismatch as mismatch:
        message = f"The upstream's answer is another one than what was given out: {mismatch}."
        return await turn.end("unknown", (), error=("other_answer", message))
    await turn.work.emit_raw(list(events))
    await _count(turn, found, record)
    status = str(found["status"])
    outcome = _OUTCOMES[status]
    reason = (found.get("incomplete_details") or {}).get("reason")
    if status == "incomplete" and reason == "content_filter":
        outcome = "refused"
    said = found.get("error") or {}
    error = None
    if outcome in ("error", "cancelled"):
        words = said.get("message") or f"The upstream says that it is {status}."
        error = (str(said.get("code") or "server_error"), str(words))
    return await turn.end(outcome, (), error=error)


async def _count(turn: Turn, found: dict[str, Any], record: Interaction | None) -> None:
    """What the answer used, which the record of the dead process does not have."""
    said = found.get("usage")
    if not isinstance(said, dict) or record is None:
        return
    usage = Usage(
        input_tokens=said.get("input_tokens") or 0,
        output_tokens=said.get("output_tokens") or 0,
        cache_read_tokens=(said.get("input_tokens_details") or {}).get("cached_tokens"),
        source="reported",
    )
    priced = msgspec.structs.replace(
        record,
        usage=usage,
        request_model=turn.request.model,
        response_model=found.get("model"),
        cost_nano_usd=None,
    )
    spent = used(turn.tools, priced)
    now = turn.work.operation
    await turn.work.amend(
        soon=True,
        calls=now.calls + 1,
        input_tokens=now.input_tokens + spent.input_tokens,
        output_tokens=now.output_tokens + spent.output_tokens,
        cost_nano_usd=now.cost_nano_usd + (spent.cost_nano_usd or 0),
        unpriced=now.unpriced + (spent.cost_nano_usd is None),
    )


__all__ = ["TERMINAL", "recovered"]
