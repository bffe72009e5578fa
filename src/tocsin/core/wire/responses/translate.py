"""``Translator``: an upstream's answer, in whatever dialect it comes, as a response with events."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from tocsin.core.interaction import Usage
from tocsin.core.meaning import Check
from tocsin.core.operations import Event
from tocsin.core.outcome import Outcome
from tocsin.core.wire.reading import MAX_OUTPUT, UpstreamError
from tocsin.core.wire.responses.events import EventWriter, Written
from tocsin.core.wire.responses.joining import Mismatch
from tocsin.core.wire.responses.objects import usage_object
from tocsin.core.wire.responses.read_chat import ChatReader
from tocsin.core.wire.responses.read_messages import MessagesReader
from tocsin.core.wire.responses.read_responses import ResponsesReader
from tocsin.core.wire.responses.reading import UpstreamReader
from tocsin.core.wire.responses.request import NewId
from tocsin.core.wire.sse import SseSplitter

Api = Literal["chat", "messages", "responses"]
"""What an upstream speaks."""

_READERS: dict[Api, type[UpstreamReader]] = {
    "chat": ChatReader,
    "messages": MessagesReader,
    "responses": ResponsesReader,
}
_FILTERED = frozenset({"content_filter", "refusal"})
_LENGTH = frozenset({"length", "max_tokens", "model_context_window_exceeded"})

_ERROR_CODES = frozenset(
    {
        "server_error",
        "rate_limit_exceeded",
        "invalid_prompt",
        "data_residency_mismatch",
        "bio_policy",
        "misalignment_policy_violation",
        "vector_store_timeout",
        "invalid_image",
        "invalid_image_format",
        "invalid_base64_image",
        "invalid_image_url",
        "image_too_large",
        "image_too_small",
        "image_parse_error",
        "image_content_policy_violation",
        "invalid_image_mode",
        "image_file_too_large",
        "unsupported_image_media_type",
        "empty_image_file",
        "failed_to_download_image",
        "image_file_not_found",
    }
)
"""The codes that the API knows; its clients take no others."""
_LIKE = {
    "budget_exceeded": "rate_limit_exceeded",
    "denied": "rate_limit_exceeded",
    "rate_limit_error": "rate_limit_exceeded",
    "rate_limited": "rate_limit_exceeded",
    "insufficient_quota": "rate_limit_exceeded",
    "overloaded_error": "server_error",
    "invalid_request": "invalid_prompt",
    "invalid_request_error": "invalid_prompt",
    "context_length_exceeded": "invalid_prompt",
}
_MESSAGES = {
    "denied": "A policy stopped the call.",
    "timeout": "The deadline passed before there was an answer.",
    "unknown": "Nobody can tell what became of the call: its process ended in the middle of it.",
    "error": "The upstream gave no whole answer.",
}


class Translator:
    """One response on its way, in this order: ``begin``, ``started``, then ``feed`` as bytes come
    or ``whole``, then ``end``. Each gives the events that it adds, as type and JSON.

    ``api`` is what the upstream speaks, ``response`` a ``skeleton``, which is filled from here on,
    ``first`` the number of the next event.
    """

    def __init__(
        self, api: Api, response: dict[str, Any], new_id: NewId, *, first: int = 0
    ) -> None:
        self._api: Api = api
        self._new_id = new_id
        self._writer = EventWriter(response, new_id, first=first)
        self._reader = _READERS[api](self._writer)
        self._split = SseSplitter()
        self._body: bytearray | None = None
        self._sniff = True
        self._restored = False
        self._usage: Usage | None = None

    # -- what is known --

    @property
    def response(self) -> dict[str, Any]:
        """The response as it stands, with the text so far."""
        return self._writer.response

    @property
    def number(self) -> int:
        """The number of the next event."""
        return self._writer.number

    @property
    def ended(self) -> bool:
        """Whether its last event was given."""
        return self._writer.ended

    @property
    def finish_reason(self) -> str | None:
        """Why the upstream stopped, in its own word."""
        return self._reader.finish_reason

    @property
    def error(self) -> UpstreamError | None:
        """What the upstream reported in place of an answer, or in the middle of one."""
        return self._reader.error

    @property
    def terminal(self) -> bool:
        """Whether the upstream said that there is no more to come."""
        return self._reader.terminal

    @property
    def upstream_id(self) -> str | None:
        """The upstream's name for its answer."""
        return self._reader.upstream_id

    @property
    def usage(self) -> Usage | None:
        """Tokens as the upstream reported them, or as they were set here."""
        return self._usage or self._reader.usage

    @usage.setter
    def usage(self, usage: Usage | None) -> None:
        self._usage = usage

    # -- events --

    def begin(self, *, queued: bool = False) -> list[Written]:
        """The first event: the response is there. Nothing when it was given before."""
        writer = self._writer
        if not writer.begun:
            writer.response["status"] = "queued" if queued else "in_progress"
            writer.state("response.created")
            if queued:
                writer.state("response.queued")
        return writer.take()

    def started(self) -> list[Written]:
        """It is being worked on. Nothing when that was said before."""
        writer = self._writer
        if not writer.started:
            writer.response["status"] = "in_progress"
            writer.state("response.in_progress")
        return writer.take()

    def compacted(self, item: dict[str, Any]) -> list[Written]:
        """What came before was compacted: this item stands for it. Before the answer's first."""
        self._writer.put(item)
        return self._writer.take()

    def feed(self, chunk: bytes) -> list[Written]:
        """Take in bytes of the upstream's stream, cut anywhere. An upstream that answers with one
        JSON body all the same is read at ``finish``.

        After ``restore`` only where nothing of the answer was given, or where the upstream itself
        goes on (a responses stream that starts after what it has sent).
        """
        if self._sniff:
            start = chunk.lstrip()[:1]
            if start:
                self._sniff = False
                if start == b"{":
                    self._body = bytearray()
        if self._body is not None:
            if len(self._body) + len(chunk) <= MAX_OUTPUT:
                self._body += chunk
            else:
                self._too_large()
            return []
        event = self._reader.event
        for payload in self._split.feed(chunk):
            event(payload)
        return self._writer.take()

    def finish(self) -> list[Written]:
        """No more bytes come. ``end`` does this too."""
        body, self._body = self._body, None
        if body is not None:
            return [] if self.error else self.whole(bytes(body))
        for payload in self._split.finish():
            self._reader.event(payload)
        if self._split.overflowed:
            self._too_large()
        return self._writer.take()

    def _too_large(self) -> None:
        self._reader.error = UpstreamError(
            message=f"The upstream's answer has a piece of more than {MAX_OUTPUT} bytes.",
            code="too_large",
        )

    def whole(self, body: bytes) -> list[Written]:
        """Take in a whole JSON answer. After ``restore`` it gives what is missing; raises
        ``Mismatch`` when what was given is no beginning of it."""
        if not self._restored:
            self._reader.whole(body)
            return self._writer.take()
        aside = EventWriter({**self._writer.response, "output": []}, self._new_id)
        reader = _READERS[self._api](aside)
        reader.whole(body)
        if reader.terminal:
            self._writer.fill(aside.output)
        reader.writer = self._writer
        self._reader = reader
        return self._writer.take()

    def restore(self, events: Iterable[Event]) -> None:
        """Go on after all events that a process which is dead gave, from the first one on."""
        self._writer.restore(events)
        self._restored = True
        self._reader = _READERS[self._api](self._writer)

    def end(
        self,
        outcome: Outcome,
        checks: Sequence[Check] = (),
        *,
        error: tuple[str, str] | None = None,
        facts: Mapping[str, Any] | None = None,
        completed_at: int | None = None,
    ) -> list[Written]:
        """Close what is open, and the response. Nothing when it has ended before.

        ``error`` is a code and a message, ``facts`` go to the response's ``tocsin`` object, whose
        ``outcome`` says what the answer means. ``completed_at`` is in seconds. The API's own
        status can say less, and says:

        - ``completed``: complete, unverified, or refused in words
        - ``incomplete``: truncated (``max_output_tokens``), refused by a filter
          (``content_filter``), and invalid, without a reason: the closed list of reasons has none
          that is true. So no client takes the answer for a good one, its text stays readable, and
          the official client raises nothing: ``failed`` would need an error that nobody had.
        - ``cancelled``: cancelled. The API has no event for it, so it comes as
          ``response.incomplete`` with this status.
        - ``failed``: error, timeout, unknown, denied. A code that the API does not know becomes
          the nearest one that it knows; ``tocsin.error_code`` keeps it.
        """
        out = [] if self._writer.ended else self.finish()
        writer = self._writer
        if writer.ended:
            return out
        out += self.begin()
        whole = outcome in ("complete", "unverified", "refused")
        writer.close("completed" if whole else "incomplete")
        meaning: dict[str, Any] = {
            "outcome": outcome,
            "checks": msgspec.to_builtins(list(checks)),
            **(facts or {}),
        }
        status, kind, fields = self._ending(outcome, error)
        if "error" in fields and self._code(error) != fields["error"]["code"]:
            meaning["error_code"] = self._code(error)
        response = writer.response
        response.update(fields, status=status, tocsin=meaning)
        if self._reader.model:
            response["model"] = self._reader.model
        if status == "completed":
            response["completed_at"] = completed_at
        if self.usage is not None:
            response["usage"] = usage_object(self.usage)
        writer.state(kind)
        return out + writer.take()

    def _ending(
        self, outcome: Outcome, error: tuple[str, str] | None
    ) -> tuple[str, str, dict[str, Any]]:
        """Status, event and the fields that say why."""
        filtered = self.finish_reason in _FILTERED
        if outcome == "truncated" or (outcome == "invalid" and self.finish_reason in _LENGTH):
            details: dict[str, Any] | None = {"reason": "max_output_tokens"}
        elif outcome == "refused" and filtered:
            details = {"reason": "content_filter"}
        elif outcome in ("complete", "unverified", "refused"):
            return "completed", "response.completed", {}
        elif outcome in ("invalid", "cancelled"):
            details = None
        else:
            code = self._code(error)
            known = code if code in _ERROR_CODES else _LIKE.get(code, "server_error")
            return (
                "failed",
                "response.failed",
                {"error": {"code": known, "message": self._message(outcome, error)}},
            )
        status = "cancelled" if outcome == "cancelled" else "incomplete"
        return status, "response.incomplete", {"incomplete_details": details}

    def _code(self, error: tuple[str, str] | None) -> str:
        if error is not None:
            return error[0]
        said = self.error
        return (said and (said.code or said.type)) or "server_error"

    def _message(self, outcome: Outcome, error: tuple[str, str] | None) -> str:
        if error is not None:
            return error[1]
        said = self.error
        return said.message if said is not None else _MESSAGES[outcome]


__all__ = ["Api", "Mismatch", "Translator"]
