"""The work of one response: from what was asked to the last event."""

import asyncio
import logging
from collections.abc import Iterable, MutableMapping, Sequence
from typing import Any

import msgspec

from tocsin.core.call import Call
from tocsin.core.errors import BadRequest, CallError
from tocsin.core.interaction import Interaction
from tocsin.core.meaning import Check
from tocsin.core.operations import Ending, Event, Operation, Work
from tocsin.core.outcome import Outcome
from tocsin.core.policy import Reply
from tocsin.core.wire.responses import (
    ResponseRequest,
    Translator,
    request_from,
    skeleton,
    unfolded,
    upstream_request,
)
from tocsin.providers.ceilings import ceiling_of
from tocsin.responses.asking import (
    Made,
    call_for,
    forwarded,
    gathered,
    headers_for,
    outcome_of_error,
    said_of,
    used_by,
)
from tocsin.responses.caller import Caller, Failure
from tocsin.responses.compact import Summary, summarised
from tocsin.responses.deps import Api, Place, Tools, off
from tocsin.responses.folding import TOLD, Folding, caught_up, folding_of
from tocsin.responses.history import (
    Asked,
    History,
    Item,
    ItemIds,
    asked_of,
    body_for,
    fitted,
    history_of,
    items_of,
)
from tocsin.store.operations_api import ItemRow

log = logging.getLogger("tocsin.responses")

KEPT: frozenset[Outcome] = frozenset({"complete", "truncated", "refused", "invalid", "unverified"})
"""Outcomes of answers that a conversation goes on from."""

_CODES = {400: "invalid_prompt", 429: "rate_limit_exceeded"}
"""The API's own words for the status of an error."""
_NO_KEY = (
    "credential_gone",
    "Tocsin was stopped before it had sent this, and the key that its caller sent along is gone: "
    "nothing was asked of any upstream. Ask again, or give the upstream a key of its own "
    "(`upstreams.NAME.api_key_env`).",
)
_PAGE = 1000


class Turn:
    """One response at work."""

    def __init__(self, tools: Tools, working: MutableMapping[str, Translator], work: Work) -> None:
        self.tools = tools
        self.work = work
        self.operation = work.operation
        context = work.context
        self.known = isinstance(context, Caller)
        """Whether its caller's headers are still in memory."""
        self.caller = context if isinstance(context, Caller) else Caller(())
        self.translator: Translator | None = None
        self._api: Api = "chat"
        plan = None if work.restarted else self.caller.plan
        self.caller.plan = None
        if plan is not None and plan.translator.number == self.operation.events:
            self.ids, self.asked, self.request = plan.ids, plan.asked, plan.request
            self.translator, self._api = plan.translator, plan.api
        else:
            self.ids = ItemIds(self.operation.id, restarts=self.operation.restarts)
            self.asked = asked_of(work.input, self.operation.id)
            self.request = request_of(self.asked, self.ids)
        self.before: Sequence[Event] = ()
        """The events that earlier processes have written."""
        self._working = working
        self._call: Call | None = None
        self._compacting: Call | None = None
        """The call that sums up what came before, until what it used is noted."""
        self._compaction: dict[str, Any] | None = None
        """What Tocsin says of a compaction."""
        self._folded: tuple[Folding, Item, str] | None = None
        """What was compacted, the item that stands for it, and the summary."""
        self._noted = False
        """Whether the operation says what the call used."""

    @property
    def streams(self) -> bool:
        """Whether the upstream is asked for a stream: where somebody may look on."""
        return self.request.stream or self.operation.background

    # -- the work --

    async def make(self) -> Ending:
        """Ask the upstream and give its answer."""
        try:
            return await self._made()
        except CallError as error:
            return await self.refused(error)
        except asyncio.CancelledError:
            await self._spend()
            raise

    async def _made(self) -> Ending:
        operation = self.operation
        history = self.caller.history
        if history is None:
            history = await history_of(
                self.tools, self.work.principal, self.request, before=operation.id
            )
        place = self.tools.place_of(operation.feature, self.request.model)
        if not (self.known or self.asked.bare or place.own_credential):
            return await self.end("error", (), error=_NO_KEY)
        translator = self.begin(place.api)
        items, folding = await self._window(translator, place, history.items)
        sent = self._upstream_request(place, items) if folding is None else None
        if not self.before:
            first = [] if operation.events else translator.begin(queued=operation.background)
            if said := [*first, *translator.started()]:
                await self.work.emit_raw(said)
        elif not any(event.type == "response.in_progress" for event in self.before):
            await self.work.emit_raw(translator.started())
        if folding is not None:
            items = await self._compact(translator, folding, items)
        path, body = sent or self._upstream_request(place, items)
        if operation.background:
            # From here on nobody can tell any more that the upstream has not seen it.
            await self.work.amend(upstream=place.upstream)
        else:
            await self.work.amend(soon=True, upstream=place.upstream)
        return await self._asked(place, path, body)

    def _upstream_request(self, place: Place, history: Sequence[Item]) -> tuple[str, bytes]:
        """Path and body for the upstream, as far as they fit its model's context."""
        kept = place.background and self.operation.background
        path, body = upstream_request(
            self.request, history, place.api, stream=self.streams, background=kept
        )
        model = place.model or self.request.model
        ceiling = ceiling_of(model)
        if ceiling is None or len(body) <= ceiling.context:
            return path, body  # no text has more tokens than bytes
        build = body_for(place.api, stream=self.streams)
        request, before = fitted(self.request, history, model, build)
        return upstream_request(request, before, place.api, stream=self.streams, background=kept)

    # -- what came before is too long --

    async def _window(
        self, translator: Translator, place: Place, history: Sequence[Item]
    ) -> tuple[Sequence[Item], Folding | None]:
        """What the model is shown before the request's own items, and what of it is to be
        compacted first."""
        if self.request.compact_threshold is None:
            return history, None
        made = next((i for i in translator.response["output"] if i["type"] == "compaction"), None)
        if made is None:
            return history, await off(folding_of, self.request, history, place)
        # The process that died had compacted it.
        self.request = msgspec.structs.replace(self.request, items=())
        return unfolded([made]), None

    async def _compact(
        self, translator: Translator, folding: Folding, history: Sequence[Item]
    ) -> Sequence[Item]:
        """Sum up what came before; what the model is shown then. Without a summary it is shown all
        of it, as long as that fits."""
        self._compaction = {"input_tokens": folding.tokens, "call_id": None, "error": None}
        try:
            made = await self._summarised(folding)
            if isinstance(made, Made):
                code, words = said_of(made.body, made.status)
                self._not_compacted(code, words)
        except CallError as error:
            self._not_compacted(error.code, error.message)
            made = None
        await self._book_compaction()
        if made is None or isinstance(made, Made):
            return history
        item = folding.item(self.ids("cmp"), made.text)
        self._folded = folding, item, made.text
        await self.work.emit_raw(translator.compacted(item))
        self.request = msgspec.structs.replace(self.request, items=())
        return unfolded([item])

    async def _summarised(self, folding: Folding) -> Summary | Made:
        operation = self.operation
        return await summarised(
            self.tools,
            folding.head,
            name=operation.id,
            model=self.request.model,
            instructions=self.request.instructions,
            principal=self.work.principal,
            headers=self.caller.headers,
            feature=operation.feature,
            run_id=operation.run_id,
            conversation_id=operation.conversation_id,
            end_user=operation.end_user,
            told=TOLD,
            facts={"operation": operation.id},
            begun=self._compacts,
        )

    def _compacts(self, call: Call) -> None:
        self._compacting = call
        if self._compaction is not None:
            self._compaction["call_id"] = call.id

    def _not_compacted(self, code: str, words: str) -> None:
        assert self._compaction is not None
        self._compaction["error"] = code
        words = self.tools.runtime().redactor.text(words)
        log.warning("response %s goes on without a compaction: %s", self.operation.id, words)

    async def _book_compaction(self) -> None:
        """Note what it used. Not its upstream: that says that the answer was asked for."""
        call, self._compacting = self._compacting, None
        changes = await self._used(call)
        changes.pop("upstream", None)
        if changes:
            await self.work.amend(soon=True, **changes)

    # -- asking --

    def begin(self, api: Api | None = None) -> Translator:
        """The translator of the answer; another one when the upstream speaks another API."""
        found = self.translator
        if found is None or api not in (None, self._api):
            response = response_of(self.operation, self.request)
            self._api = api or "chat"
            first = 0 if self.before else self.operation.events
            found = Translator(self._api, response, self.ids, first=first)
            if self.before:
                found.restore(self.before)
            self.translator = found
        self._working[self.operation.id] = found
        return found

    def call_to(self, path: str, body: bytes = b"", *, method: str = "POST") -> Call:
        """A call of this operation, in its caller's name. Raises what refuses it."""
        operation = self.work.operation
        headers = headers_for(
            self.caller.headers,
            path=path,
            feature=operation.feature,
            run_id=operation.run_id,
            conversation_id=operation.conversation_id,
            end_user=operation.end_user,
        )
        return call_for(
            self.tools,
            path,
            body,
            headers=headers,
            principal=self.work.principal,
            facts={"operation": operation.id},
            method=method,
        )

    async def about(self, suffix: str = "", *, method: str) -> tuple[Call, int, bytes]:
        """Ask the upstream about what it keeps of this response; the call, the status and the body
        of its answer. Raises ``CallError``."""
        path = f"/v1/responses/{self.work.operation.upstream_ref}{suffix}"
        # The upstream is found by the model, which such a request does not name.
        call = self.call_to(path, method=method).evolve(model=self.request.model)
        async with self.tools.runtime().call(call) as reply:
            return call, reply.status, await gathered(reply)

    async def _asked(self, place: Place, path: str, body: bytes) -> Ending:
        """Make the call and read its answer."""
        call = self._call = self.caller.call = self.call_to(path, body)
        async with self.tools.runtime().call(call) as reply:
            if reply.status >= 400:
                answer = await gathered(reply)
                self.caller.fail(_failure(reply, answer))
                code, words = said_of(answer, reply.status)
                # Providers repeat the credential that they refuse.
                words = self.tools.runtime().redactor.text(words)
                error = _CODES.get(reply.status, code), words
            else:
                self.caller.begun.set()
                await self._read(reply, place)
                error = None
        return await self._recorded(call, error)

    async def _read(self, reply: Reply, place: Place) -> None:
        """An answer, as events."""
        translator = self.begin(place.api)
        kind = reply.header(b"content-type") or b""
        if reply.chunks is None or not kind.startswith(b"text/event-stream"):
            await self.work.emit_raw(translator.whole(await gathered(reply)))
            return
        told = not (self.operation.background and place.api == "responses")
        async for chunk in reply.chunks:
            events = translator.feed(chunk)
            if events:
                await self.work.emit_raw(events)
            if not told and translator.upstream_id:
                told = True
                await self.work.amend(soon=True, upstream_ref=translator.upstream_id)

    async def _recorded(self, call: Call, error: tuple[str, str] | None) -> Ending:
        """The end that the call's record says."""
        record = call.draft.record
        if record is None:
            return await self.end(
                "unknown", (), error=("server_error", "The call was not recorded.")
            )
        outcome = record.outcome
        if error is None and outcome in ("error", "timeout", "denied", "cancelled"):
            words = record.error_message or f"It ended '{outcome}'."
            error = record.error_type or "server_error", words
        elif error is None and outcome == "unknown":
            error = "no_finish_reason", "The upstream did not say how its answer ended."
        return await self.end(outcome, record.checks, error=error, record=record)

    async def refused(self, error: CallError) -> Ending:
        """The end of a response that has no answer."""
        record = self._call.draft.record if self._call is not None else None
        self.caller.fail(Failure(status=error.status, error=error))
        outcome = outcome_of_error(error) if record is None else record.outcome
        return await self.end(
            outcome,
            () if record is None else record.checks,
            error=(error.code, error.message),
            record=record,
        )

    # -- the end --

    async def end(
        self,
        outcome: Outcome,
        checks: Sequence[Check],
        *,
        error: tuple[str, str] | None = None,
        record: Interaction | None = None,
    ) -> Ending:
        """Say the last words and keep what is to be kept."""
        translator = self.begin()
        await self._spend()
        now = self.tools.clock.now_us()
        events = translator.end(
            outcome, checks, error=error, facts=self.facts(), completed_at=now // 1_000_000
        )
        await self.work.emit_raw(events)
        if outcome in KEPT and self.operation.conversation_id is not None:
            # The last event first: whoever goes on after a crash finds that it was the last.
            await self.work.amend(note="")
            await self.keep(translator.response)
        self._working.pop(self.operation.id, None)
        result = msgspec.json.encode(translator.response)
        self.caller.result = outcome, result
        self.caller.begun.set()
        said = None if record is None else record.error_type
        return Ending(
            outcome=outcome,
            result=result,
            error_type=said or (error[0] if error else None),
            error_message=error[1] if error else None,
        )

    async def _spend(self) -> None:
        """Note what the call used, to be written with what is written next."""
        await self._book_compaction()
        changes: dict[str, Any] = {}
        if not self.request.store:
            linger = self.tools.config().operations.linger_s
            changes["expires_at"] = self.tools.clock.now_us() + round(linger * 1_000_000)
        if not self._noted:
            changes |= await self._used(self._call)
            self._noted = bool(changes.get("calls"))
        if changes:
            await self.work.amend(soon=True, **changes)

    async def _used(self, call: Call | None) -> dict[str, Any]:
        """What changes in the operation with what a call has used."""
        record = None if call is None else call.draft.record
        if call is None or record is None:
            return {}
        spent = await used_by(self.tools, call)
        now = self.work.operation
        return {
            "calls": now.calls + 1,
            "input_tokens": now.input_tokens + spent.input_tokens,
            "output_tokens": now.output_tokens + spent.output_tokens,
            "cost_nano_usd": now.cost_nano_usd + (spent.cost_nano_usd or 0),
            "unpriced": now.unpriced + (spent.cost_nano_usd is None),
            "run_id": record.run_id,
            "upstream": record.upstream or now.upstream,
        }

    def facts(self) -> dict[str, Any]:
        """What Tocsin says of the response beside its outcome and checks."""
        now = self.work.operation
        facts = facts_of(now, None if self._call is None else self._call.id)
        return facts if self._compaction is None else {**facts, "compaction": self._compaction}

    async def keep(self, response: dict[str, Any]) -> None:
        """Add the input and the output to the conversation, each item once."""
        items: list[Item] = [*self.asked.items, *response["output"]]
        name = self.operation.conversation_id
        assert name is not None
        book = self.tools.store.operations
        now = self.tools.clock.now_us()
        folded = self._folded

        def add() -> None:
            if folded is not None:
                items[:] = caught_up(items, items_of(book, name), *folded)
            rows = [
                ItemRow(
                    id=str(item["id"]),
                    position=0,
                    at=now,
                    data=msgspec.json.encode(item),
                    operation_id=self.operation.id,
                )
                for item in items
                if book.item(name, str(item["id"])) is None
            ]
            if rows:
                book.add_items(name, rows)

        await off(add)

    async def events(self) -> list[Event]:
        """What earlier processes have written."""
        return await off(events_of, self.tools, self.operation)


# -- shared by all that look at a response --


def request_of(asked: Asked, ids: ItemIds) -> ResponseRequest:
    """The request of a stored response, with its items as they are stored."""
    request = request_from({**asked.request, "input": None}, ids)
    return msgspec.structs.replace(request, raw=asked.request, items=tuple(asked.items))


def response_of(operation: Operation, request: ResponseRequest) -> dict[str, Any]:
    """The Response object before there is anything in it."""
    return skeleton(
        request,
        response_id=operation.id,
        created_at=operation.created_at // 1_000_000,
        status="queued" if operation.background else "in_progress",
        conversation=operation.conversation_id,
    )


def events_of(tools: Tools, operation: Operation) -> list[Event]:
    """All events of an operation that are in the store."""
    found: list[Event] = []
    while True:
        after = found[-1].number if found else -1
        page = tools.store.operations.events(operation.id, after=after, limit=_PAGE)
        found += page
        if len(page) < _PAGE:
            return found


def restored(
    tools: Tools, operation: Operation, body: bytes, events: Iterable[Event]
) -> Translator:
    """A translator that stands where the events of an operation end."""
    ids = ItemIds(operation.id, restarts=operation.restarts)
    request = request_of(asked_of(body, operation.id), ids)
    translator = Translator("chat", response_of(operation, request), ids)
    translator.restore(events)
    return translator


def facts_of(operation: Operation, call_id: str | None) -> dict[str, Any]:
    """What Tocsin says of a response beside its outcome and checks."""
    priced = operation.calls > 0 and not operation.unpriced
    return {
        "operation": operation.id,
        "call_id": call_id,
        "run_id": operation.run_id,
        "upstream": operation.upstream,
        "cost_usd": operation.cost_nano_usd / 1e9 if priced else None,
        "restarts": operation.restarts,
    }


def _failure(reply: Reply, body: bytes) -> Failure:
    status, headers, answer = forwarded(reply.status, tuple(reply.headers), body)
    return Failure(status=status, headers=headers, body=answer)


__all__ = [
    "KEPT",
    "BadRequest",
    "History",
    "Turn",
    "events_of",
    "facts_of",
    "request_of",
    "response_of",
    "restored",
]
