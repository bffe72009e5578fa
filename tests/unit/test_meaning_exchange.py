"""Where an answer's meaning is worked out: when its record closes, before its caller has it all."""

import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from tocsin.core.call import Call, Principal
from tocsin.core.interaction import Interaction
from tocsin.core.policy import Reply
from tocsin.core.redact import Redactor
from tocsin.runtime.intake import answer_headers, take_in
from tocsin.runtime.meaning import Judge
from tocsin.runtime.recorder import Recorder
from tocsin.runtime.runtime import Runtime
from tocsin.testing import FakeClock

SCHEMA = {"type": "object", "required": ["days"], "properties": {"days": {"type": "integer"}}}
SSE = ((b"content-type", b"text/event-stream"),)


class Kept:
    """Stands in for the recorder: keeps how calls ended."""

    def __init__(self) -> None:
        self.ended: list[Interaction] = []

    def open(self, call: Call) -> None:
        pass

    def finish(self, call: Call, interaction: Interaction, **_: object) -> None:
        self.ended.append(interaction)

    async def durable(self) -> None:
        pass


def runtime_of(reply: Reply, kept: Kept, judge: Judge | None = None) -> Runtime:
    async def dispatch(call: Call) -> Reply:
        return reply

    return Runtime(
        policies=(),
        modes=lambda feature, policy: "enforce",
        dispatch=dispatch,
        recorder=cast(Recorder, kept),
        clock=FakeClock(),
        redactor=Redactor(["s3cret-value"]),
        judge=judge,
    )


def taken(path: str, **body: Any) -> Call:
    said = json.dumps({"model": "m", **body}).encode()
    call, refused = take_in("gateway", "POST", path, b"", (), Principal(), said, 1)
    assert refused is None
    return call


def asked(**body: Any) -> Call:
    form = {"format": {"type": "json_schema", "name": "t", "schema": SCHEMA}}
    return taken("/v1/responses", input="How long?", text=form, **body)


def response(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"type": "message", "id": "msg", "role": "assistant", "content": [part]}
    return {"id": "resp", "object": "response", "status": "completed", "output": [item]}


async def pieces(*events: dict[str, Any]) -> AsyncIterator[bytes]:
    for event in events:
        yield b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event).encode())


@pytest.mark.parametrize(
    ("text", "outcome"), [('{"days": "3"}', "invalid"), ('{"days": 3}', "complete")]
)
async def test_a_whole_response_has_its_meaning_in_record_and_head(text: str, outcome: str) -> None:
    kept = Kept()
    body = json.dumps(response(text)).encode()
    call = asked()
    async with runtime_of(Reply(status=200, headers=(), body=body), kept).call(call) as reply:
        assert reply.body == body
        (row,) = kept.ended
        assert (row.outcome, call.draft.record) == (outcome, row)
        said = dict(answer_headers(call))
        assert said[b"tocsin-outcome"] == outcome.encode()
        assert (
            said[b"tocsin-checks"]
            == ", ".join(f"{check.name}={check.verdict}" for check in row.checks).encode()
        )


async def test_a_streams_record_is_closed_before_its_last_event_is_handed_over() -> None:
    kept = Kept()
    events = (
        {"type": "response.created", "response": {"id": "resp", "status": "in_progress"}},
        {"type": "response.output_text.delta", "delta": "three"},
        {"type": "response.completed", "response": response("three")},
    )
    call = asked(stream=True)
    reply = Reply(status=200, headers=SSE, chunks=pieces(*events))
    async with runtime_of(reply, kept).call(call) as answer:
        assert b"tocsin-outcome" not in dict(answer_headers(call))
        assert answer.chunks is not None
        closed = [bool(kept.ended) async for _ in answer.chunks]
    assert closed == [False, False, True]
    assert kept.ended[0].outcome == "invalid"
    assert kept.ended[0].checks[0].name == "schema"


async def test_secrets_in_an_answer_do_not_get_into_its_checks() -> None:
    kept = Kept()
    body = json.dumps(response('{"days": "s3cret-value"}')).encode()
    call = asked()
    async with runtime_of(Reply(status=200, headers=(), body=body), kept).call(call):
        pass
    (detail,) = [check.detail for check in kept.ended[0].checks if check.name == "schema"]
    assert detail == 'days: "[redacted]" is no integer'


async def test_other_routes_and_errors_are_not_judged() -> None:
    kept = Kept()
    call = taken("/v1/embeddings", input="x")
    reply = Reply(status=200, headers=(), body=b'{"data":[]}')
    async with runtime_of(reply, kept).call(call):
        assert b"tocsin-outcome" not in dict(answer_headers(call))
    call = asked()
    failed = Reply(status=503, headers=(), body=b'{"error":{"message":"down"}}')
    async with runtime_of(failed, kept).call(call):
        assert b"tocsin-outcome" not in dict(answer_headers(call))
    assert [(row.outcome, row.checks) for row in kept.ended] == [("complete", ()), ("error", ())]


async def test_a_stream_that_breaks_off_is_an_error_whatever_it_says() -> None:
    kept = Kept()
    events = ({"type": "response.output_text.delta", "delta": '{"days": 3}'},)
    reply = Reply(status=200, headers=SSE, chunks=pieces(*events))
    async with runtime_of(reply, kept).call(asked(stream=True)) as answer:
        assert answer.chunks is not None
        _ = [piece async for piece in answer.chunks]
    assert (kept.ended[0].outcome, kept.ended[0].checks) == ("error", ())
