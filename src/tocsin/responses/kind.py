"""``Responses``: the kind of operation that a response is."""

import asyncio
from typing import Any

import msgspec

from tocsin.core.errors import CallError
from tocsin.core.operations import Closing, Ending, Kind, Operation, Work
from tocsin.core.wire.responses import Translator
from tocsin.responses.deps import Tools, off
from tocsin.responses.history import RESPONSE
from tocsin.responses.recovery import recovered
from tocsin.responses.turns import Turns
from tocsin.responses.upstream_cancel import cancel_upstream, is_due
from tocsin.responses.working import Turn, events_of, facts_of, restored

_CODES = {"cancelled": "cancelled", "deadline": "timeout"}


class Responses:
    """Works on responses, and knows how each of them stands."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._turns = Turns()
        self._working: dict[str, Translator] = {}
        """By operation, while this process is at work on it."""
        self._cancels: dict[str, str] = {}
        """By operation, until its end: what came of its cancel at the upstream."""

    def kind(self) -> Kind:
        """As the engine takes it."""
        return Kind(
            name=RESPONSE,
            summary="One answer of a model, by `/v1/responses`.",
            run=self.run,
            closing=self.closing,
            quiet=True,
            offered=False,
        )

    async def run(self, work: Work) -> Ending:
        """Work on one response to its end."""
        tools = self._tools
        turn = Turn(tools, self._working, work)
        name = turn.operation.conversation_id
        wait = tools.config().operations.busy_conversation == "queue" or work.restarted
        try:
            async with self._turns.turn(tools.store.operations, name, turn.operation.id, wait=wait):
                done = await recovered(turn) if work.restarted else None
                return done if done is not None else await turn.make()
        except CallError as error:
            return await turn.refused(error)
        except asyncio.CancelledError:
            if is_due(turn):
                said = self._cancels[turn.operation.id] = await cancel_upstream(turn)
                await work.amend(soon=True, note=f"cancel at the upstream: {said}")
            raise

    def closing(self, operation: Operation, body: bytes) -> Closing:
        """The last words of a response that was cut."""
        tools = self._tools
        translator = self._working.pop(operation.id, None)
        if translator is None:
            translator = restored(tools, operation, body, events_of(tools, operation))
        outcome = operation.outcome or "unknown"
        code = _CODES.get(operation.error_type or "", "server_error")
        message = operation.error_message or f"It ended '{outcome}'."
        facts = facts_of(operation, None)
        if (said := self._cancels.pop(operation.id, None)) is not None:
            facts["upstream_cancel"] = said
        events = translator.end(outcome, (), error=(code, message), facts=facts)
        return Closing(events=tuple(events), result=msgspec.json.encode(translator.response))

    async def standing(self, operation: Operation) -> dict[str, Any]:
        """The Response object as it stands, whether it has ended or not."""
        tools = self._tools
        book = tools.store.operations
        if operation.status == "ended":
            result = await off(book.result, operation.id)
            value = msgspec.json.decode(result) if result else None
            if isinstance(value, dict) and value.get("object") == "response":
                return value
        translator = self._working.get(operation.id)
        if translator is None or operation.status == "ended":
            body = await off(book.body, operation.id) or b""
            events = await off(events_of, tools, operation)
            translator = restored(tools, operation, body, events)
        return translator.response


__all__ = ["Responses"]
