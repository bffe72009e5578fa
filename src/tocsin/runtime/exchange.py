"""One call from its first byte to its record."""

import asyncio
import logging
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from tocsin.core.call import Call, Draft, Identity
from tocsin.core.errors import CallError, Denied, Forbidden, PolicyFailed, UpstreamFailed
from tocsin.core.ids import derived_id
from tocsin.core.interaction import PARENT_RUN, Attempt, Interaction, Usage
from tocsin.core.meaning import Meaning
from tocsin.core.messages import Hash, Message, content_hash, link, parse_message
from tocsin.core.outcome import Outcome, outcome_of
from tocsin.core.policy import Reply
from tocsin.core.wire import OutputReader, reader_for
from tocsin.runtime.asking import fingerprint
from tocsin.runtime.interrupt import Interruption
from tocsin.runtime.policies import close_chunks

if TYPE_CHECKING:
    from tocsin.runtime.runtime import Runtime

log = logging.getLogger("tocsin.runtime")

_NO_USAGE = Usage()
_LONGEST = 2000
"""Characters of an error message that are kept."""
_GENERATED = frozenset({"chat", "text_completion", "generate_content"})


class Exchange:
    """``async with runtime.call(call) as reply``: recorded exactly once, however it ends.

    A whole body is recorded before it is handed over; of a stream, everything before its last
    piece. So whatever a caller saw completed is in the journal.

    ``stop`` ends it from outside, whatever it is doing. Through the gateway the task that enters
    does nothing else until it leaves, so that task is interrupted wherever it waits. A program
    that calls models in process (source ``sdk``) does other things between the pieces of a stream,
    and may read it in another task: only who reads at that moment is interrupted.
    """

    __slots__ = (
        "_closing",
        "_cut",
        "_done",
        "_reader",
        "_reply",
        "_runtime",
        "_started",
        "_task",
        "_untouched",
        "call",
    )

    def __init__(self, runtime: "Runtime", call: Call) -> None:
        self._runtime = runtime
        self.call = call
        self._reader: OutputReader | None = None
        self._reply: Reply | None = None
        self._done = False
        self._cut: Interruption | None = None
        self._task: asyncio.Task[object] | None = None
        """What ``stop`` may interrupt."""
        self._untouched = 0
        self._started = runtime.clock.monotonic_us()

    async def __aenter__(self) -> Reply:
        runtime, call = self._runtime, self.call
        runtime.recorder.open(call)
        self._task = runtime.watch.enter(call.id)
        if call.source != "gateway" and self._task is not None:
            self._untouched = self._task.cancelling()
        runtime.in_flight[call.id] = self
        try:
            reply = await runtime.onion(call.feature)(call)
            self._reply = reply
            if self._cut is not None:
                raise self._cut.error  # something on the way caught what interrupted it
            self._adopt(reply)
            if reply.chunks is None:
                self._read_whole(reply)
                await runtime.recorder.durable()
            else:
                reply.chunks = _Recorded(self, reply.chunks)
        except BaseException as error:
            runtime.watch.stages.pop(call.id, None)
            others = self._cut is not None and self._cut.release()
            if self._reply is not None and self._reply.chunks is not None:
                await close_chunks(self._reply)
            self._fail(error)
            if self._cut is not None:
                self._leave_stopped(error, others)
                if isinstance(error, Exception) and not isinstance(error, Denied):
                    raise self._cut.error from None
            raise
        runtime.watch.stages.pop(call.id, None)
        if call.source != "gateway":
            self._task = None
        return reply

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        cut = self._cut
        if self._done and cut is None:
            return
        others = cut is not None and cut.release()
        reply = self._reply
        if reply is not None and reply.chunks is not None:
            await close_chunks(reply)
        # The caller stopped reading before the end: it left, or the gateway gave up on it.
        self._fail(error if error is not None else asyncio.CancelledError())
        if cut is not None:
            self._leave_stopped(error, others)

    # -- stopping --

    def stop(self, error: CallError) -> "asyncio.Future[bool] | None":
        """End the call now: its caller gets ``error``, as far as it can still be told anything.

        Returns a future that is done when that has been said (see ``Interruption.over``); ``None``
        when the call has ended.
        To be called on the call's loop.
        """
        if self._done or self._cut is not None:
            return None
        cut = self._cut = Interruption(error)
        if self._task is not None:
            cut.press(self._task, self._untouched)
        else:
            # Nobody reads just now. The upstream goes; whoever reads next is told.
            self._fail(error)
            if self._reply is not None and self._reply.chunks is not None:
                self._closing = asyncio.create_task(close_chunks(self._reply))
            cut.finished(cut=True)
        return cut.over

    def check(self) -> None:
        """Raise what stopped the call, when something on the way caught what interrupted it."""
        cut = self._cut
        if cut is not None:
            self._fail(cut.error)
            raise cut.error from None

    async def read(self, source: AsyncIterator[bytes]) -> bytes:
        """The next piece, for a program that may read in any task and does other things between.

        Raises what stopped the call; otherwise what reading raises.
        """
        self.check()
        task = self._task = asyncio.current_task()
        if task is not None:
            self._untouched = task.cancelling()
        try:
            return await source.__anext__()
        except BaseException as error:
            if (cut := self._cut) is not None:
                others = cut.release()
                self._fail(cut.error)
                self._leave_stopped(error, others)
                if isinstance(error, Exception):
                    raise cut.error from None
            raise
        finally:
            self._task = None

    def _leave_stopped(self, error: BaseException | None, others: bool) -> None:
        """Raise what stopped the call in place of the cancellation that it was stopped with."""
        cut = self._cut
        assert cut is not None
        cut.finished(cut=self.call.draft.outcome == "cancelled")
        if isinstance(error, asyncio.CancelledError) and not others:
            raise cut.error from None

    def refused(self, error: CallError) -> None:
        """Record a call that was turned away at the door."""
        self._fail(error)

    def _adopt(self, reply: Reply) -> None:
        call = self.call
        encoding = reply.header(b"content-encoding")
        self._reader = reader_for(
            call.dialect,
            call.operation,
            call.stream and reply.chunks is not None,
            content_encoding=encoding,
        )
        call.draft.status = reply.status

    def _read_whole(self, reply: Reply) -> None:
        body = reply.body or b""
        call, reader = self.call, self._reader
        assert reader is not None
        call.draft.output_bytes = len(body)
        reader.feed_body(body)
        if call.draft.facts is not None:
            call.draft.facts |= fingerprint(body)
        if reply.status >= 400:
            # Providers repeat the credential that they refuse.
            self.finish(response=self._runtime.redactor.data(body))
        else:
            self.finish(response=None if call.operation in _GENERATED else body)

    def first_chunk(self) -> None:
        """Note when the first piece of a stream came."""
        self.call.draft.first_chunk_us = self._runtime.clock.monotonic_us() - self._started

    def _fail(self, error: BaseException) -> None:
        """Close the record of a call that has no whole answer."""
        if self._done:
            return
        draft, cut = self.call.draft, self._cut
        if self._reader is not None:
            self._reader.finish()
        # A policy that gives the order in the call's own name refuses it: that is no cut.
        if cut is not None and (error is cut.error or not isinstance(error, Denied)):
            draft.outcome = "cancelled"
            draft.error_type = cut.error.code
            draft.error_message = cut.error.message
            if self._reply is None:
                draft.status = cut.error.status
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            draft.outcome = "cancelled"
            draft.error_type = "client_disconnected"
            draft.error_message = "The caller left before the answer was complete."
        elif isinstance(error, CallError):
            draft.outcome = _outcome_of_error(error)
            draft.error_type = error.code
            draft.error_message = error.message
            if self._reply is None:
                draft.status = error.status
        else:
            draft.outcome = "error"
            draft.error_type = type(error).__name__
            draft.error_message = str(error)
        self.finish(response=None)

    def finish(self, *, response: bytes | None) -> None:
        """Write the record. The first call counts; nothing here raises."""
        if self._done:
            return
        self._done = True
        call = self.call
        self._runtime.in_flight.pop(call.id, None)
        try:
            interaction, output = self._interaction(response)
            call.draft.record, call.draft.output = interaction, output
        except Exception:
            log.exception("call %s could not be read; its record is what the journal has", call.id)
            if call.draft.budget is not None:
                call.draft.budget.abandon()
            return
        try:
            self._runtime.recorder.finish(call, interaction, output=output, response=response)
        except Exception:
            log.exception("call %s could not be recorded", call.id)
        self._runtime.learn(call, interaction, output)

    def _interaction(self, response: bytes | None) -> tuple[Interaction, Message | None]:
        call, reader = self.call, self._reader
        draft, identity = call.draft, call.draft.identity
        output = self._output()
        new_from = identity.new_from if identity is not None else 0
        answered = 0
        for message in call.messages[new_from:]:
            answered += len(message.answers)
        input_node = call.nodes[-1].hash if call.nodes else None
        last = self._last_attempt()
        asked = _asked(call)
        meaning = self._meaning(output, asked["params"])
        return Interaction(
            **asked,
            duration_us=self._runtime.clock.monotonic_us() - self._started,
            outcome=meaning.outcome,
            run_id=identity.run_id if identity is not None else derived_id("run", call.id),
            run_source=identity.run_source if identity is not None else "new",
            conversation_id=identity.conversation_id if identity is not None else None,
            parent_id=identity.parent_id if identity is not None else None,
            response_model=reader.response_model if reader is not None else None,
            response_id=reader.response_id if reader is not None else None,
            provider=last.provider if last is not None else None,
            upstream=last.upstream if last is not None else None,
            status=draft.status,
            finish_reason=reader.finish_reason if reader is not None else None,
            error_type=draft.error_type,
            error_message=self._clean(draft.error_message),
            usage=(reader.usage if reader is not None else None) or _NO_USAGE,
            first_chunk_us=draft.first_chunk_us,
            attempts=tuple(draft.attempts),
            decisions=tuple(draft.decisions),
            checks=meaning.checks,
            input_node=input_node,
            output_node=_output_node(input_node, output),
            new_messages=len(call.messages) - new_from,
            tool_calls=len(output.calls) if output is not None else 0,
            tool_results=answered,
            response_body=content_hash(response) if response else None,
            output_bytes=draft.output_bytes,
            attributes=_facts(identity, draft.facts),
        ), output

    def _clean(self, text: str | None) -> str | None:
        """What others said went wrong, without secrets and not too long."""
        if text is None:
            return None
        clean = self._runtime.redactor.text(text)
        return clean if len(clean) <= _LONGEST else clean[:_LONGEST] + "…"

    def _output(self) -> Message | None:
        """The answer as a message, as far as it came."""
        if self._reader is None or self.call.operation not in _GENERATED:
            return None
        raw = self._reader.output_message()
        if raw is None:
            return None
        output = parse_message(raw)
        if output.calls:
            self.call.draft.tool_ids = tuple([tool.id for tool in output.calls])
        return output

    def _last_attempt(self) -> Attempt | None:
        """The attempt that answered. A streamed one lasts as long as its stream."""
        attempts = self.call.draft.attempts
        if not attempts:
            return None
        if len(attempts) > 1 or attempts[0].error is not None:
            attempts[:] = [
                a if a.error is None else replace(a, error=self._clean(a.error)) for a in attempts
            ]
        if self.call.draft.first_chunk_us is not None:
            lasted = self._runtime.clock.now_us() - attempts[-1].started_at
            attempts[-1] = replace(attempts[-1], duration_us=lasted)
        return attempts[-1]

    def _meaning(self, output: Message | None, params: Hash | None) -> Meaning:
        """What became of the call: from the draft where somebody said it, else from the answer."""
        draft, reader, call = self.call.draft, self._reader, self.call
        if draft.outcome is not None:
            return Meaning(outcome=draft.outcome)
        if reader is None:
            return Meaning(outcome="unknown")
        outcome = self._outcome(reader)
        if call.operation not in _GENERATED or outcome in ("error", "timeout"):
            return Meaning(outcome=outcome)
        meaning = self._runtime.judge.of(
            call,
            outcome,
            reason=reader.finish_reason,
            output=output,
            params=params,
            clipped=reader.clipped,
        )
        if not any(check.detail for check in meaning.checks):
            return meaning
        # Details may show words of the answer.
        cleaned = [replace(c, detail=self._clean(c.detail) or "") for c in meaning.checks]
        return Meaning(outcome=meaning.outcome, checks=tuple(cleaned))

    def _outcome(self, reader: OutputReader) -> Outcome:
        """The outcome by the wire alone."""
        draft, call = self.call.draft, self.call
        status = draft.status or 0
        if reader.error is not None or status >= 400:
            _note_error(draft, reader, status)
            return "timeout" if status in (408, 504) else "error"
        if call.operation not in _GENERATED:
            return "complete"
        if self._reply is not None and self._reply.chunks is not None and not reader.terminal:
            draft.error_type = draft.error_type or "stream_cut"
            draft.error_message = (
                draft.error_message or "The upstream ended the stream before the answer's end."
            )
            return "error"
        return outcome_of(reader.finish_reason)


class _Recorded:
    """A reply's stream, read on its way: the record is closed before the last piece goes out."""

    __slots__ = ("_exchange", "_first", "_source")

    def __init__(self, exchange: Exchange, source: AsyncIterator[bytes]) -> None:
        self._exchange = exchange
        self._source = source
        self._first = True

    def __aiter__(self) -> "_Recorded":
        return self

    async def __anext__(self) -> bytes:
        exchange = self._exchange
        reader = exchange._reader
        assert reader is not None
        try:
            if exchange.call.source == "gateway":
                data = await self._source.__anext__()
            else:
                data = await exchange.read(self._source)
        except StopAsyncIteration:
            if not exchange._done:
                exchange.check()
                reader.finish()
                exchange.finish(response=None)
                await exchange._runtime.recorder.durable()
            raise
        except BaseException as error:
            exchange._fail(error)
            raise
        if exchange._cut is not None:
            exchange.check()
        if self._first:
            self._first = False
            exchange.first_chunk()
        exchange.call.draft.output_bytes += len(data)
        reader.feed(data)
        if reader.terminal and not exchange._done:
            exchange.finish(response=None)
            await exchange._runtime.recorder.durable()
        return data

    async def aclose(self) -> None:
        """Close the source, which cancels the upstream if it is not at its end."""
        close = getattr(self._source, "aclose", None)
        if close is not None:
            await close()


def _asked(call: Call) -> dict[str, Any]:
    """The fields of a record that are known before there is an answer."""
    messages = call.messages
    return {
        "id": call.id,
        "source": call.source,
        "dialect": call.dialect,
        "operation": call.operation,
        "path": call.path,
        "started_at": call.started_at,
        "feature": call.feature,
        "key_id": call.principal.key_id,
        "end_user": call.end_user,
        "release": call.release,
        "agent": call.agent,
        "request_model": call.model,
        "stream": call.stream,
        "input_messages": len(messages),
        "params": content_hash(call.params) if messages and call.params else None,
        "request_body": content_hash(call.body) if call.body and not messages else None,
        "input_bytes": len(call.body),
    }


def _facts(identity: Identity | None, said: dict[str, str] | None) -> dict[str, str]:
    if identity is None or identity.parent_run_id is None:
        return said or {}
    return {**(said or {}), PARENT_RUN: identity.parent_run_id}


def _outcome_of_error(error: CallError) -> Outcome:
    if isinstance(error, Denied | Forbidden | PolicyFailed):
        return "denied"
    if isinstance(error, UpstreamFailed) and error.timeout:
        return "timeout"
    return "error"


def _note_error(draft: Draft, reader: OutputReader, status: int) -> None:
    """Keep what the upstream said went wrong."""
    error = reader.error
    draft.error_type = (error.type or error.code if error else None) or f"http_{status}"
    draft.error_message = error.message if error else None


def _output_node(input_node: bytes | None, output: Message | None) -> bytes | None:
    return link(input_node or bytes(16), output.hash) if output is not None else None
