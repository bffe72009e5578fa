"""A response that is cancelled here is cancelled at its upstream, where that works on by itself.

An upstream that keeps background responses goes on with one when nobody listens, and bills it. So
a cancel is passed on to it, by its own name for the response, before ours ends. That takes at most
``MOST_S`` and may fail: ours is cancelled in any case. What came of it stands in the response's
``tocsin.upstream_cancel``, in the operation's note and in the log; the request is on record as a
call of the operation.
"""

import asyncio
import logging

import msgspec

from tocsin.core.errors import CallError
from tocsin.responses.asking import said_of
from tocsin.responses.working import Turn

log = logging.getLogger("tocsin.responses")

MOST_S = 3.0
"""How long a cancel of ours waits for the upstream's."""


def is_due(turn: Turn) -> bool:
    """Whether work that was cut leaves something at work at its upstream. A process that merely
    stops, or has lost the operation to another, cancels nothing."""
    operation = turn.work.operation
    if operation.upstream_ref is None:
        return False
    deadline = operation.deadline_at
    over = deadline is not None and deadline <= turn.tools.clock.now_us()
    return over or operation.cancel_at is not None


async def cancel_upstream(turn: Turn) -> str:
    """Ask the upstream to cancel. Returns what came of it: the upstream's own status for the
    response (``cancelled``, or how it had ended), or ``failed: `` and why. Raises nothing."""
    operation = turn.work.operation
    try:
        async with asyncio.timeout(MOST_S):
            said = await _ask(turn)
    except TimeoutError:
        said = f"failed: no answer in {MOST_S:g} seconds"
    except CallError as error:
        said = f"failed: {error.code}"
    except Exception:
        log.exception("the cancel of %s could not be passed on", operation.id)
        said = "failed: internal_error"
    told = log.warning if said.startswith("failed") else log.info
    told("cancel of %s at '%s': %s", operation.id, operation.upstream, said)
    return said


async def _ask(turn: Turn) -> str:
    _, http, body = await turn.about("/cancel", method="POST")
    if http >= 400:
        return f"failed: {turn.tools.runtime().redactor.text(said_of(body, http)[0])}"
    try:
        status = msgspec.json.decode(body, type=_Said).status
    except msgspec.DecodeError:
        status = ""
    return status or "accepted"


class _Said(msgspec.Struct):
    status: str = ""


__all__ = ["MOST_S", "cancel_upstream", "is_due"]
