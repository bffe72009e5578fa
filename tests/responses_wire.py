"""What the tests of the Responses API's wire share: the official client as the judge of events."""

import json
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any, get_args

from openai._types import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent

from tocsin.core.ids import Prefix
from tocsin.core.operations import Event
from tocsin.core.outcome import Outcome
from tocsin.core.wire.responses import Translator, Written, parse_response, skeleton
from tocsin.core.wire.responses.translate import Api

_UNION = get_args(get_args(ResponseStreamEvent)[0])
EVENTS = {get_args(kind.model_fields["type"].annotation)[0]: kind for kind in _UNION}
"""The client's classes of events, by type."""


def ids() -> Any:
    """Ids that say what they name and count up."""
    numbers = count()

    def new_id(prefix: Prefix) -> str:
        return f"{prefix}_{next(numbers)}"

    return new_id


def response_for(**request: Any) -> dict[str, Any]:
    """A response with nothing in it yet."""
    asked = parse_response(json.dumps({"model": "m", "input": "hi", **request}).encode(), ids())
    return skeleton(asked, response_id="resp_1", created_at=7, status="queued")


def translator(api: Api, **request: Any) -> Translator:
    return Translator(api, response_for(**request), ids())


def data_of(events: Iterable[Written]) -> list[dict[str, Any]]:
    return [json.loads(data) for _, data in events]


def stored(events: Iterable[Written]) -> list[Event]:
    """The events as a store keeps them."""
    return [
        Event(number=number, type=kind, at=0, data=data)
        for number, (kind, data) in enumerate(events)
    ]


def judged(events: list[Written]) -> dict[str, Any]:
    """The final response, after everything that the official client has to say of the stream.

    Each event is validated strictly; numbers have no gaps; the client's own streaming helper takes
    them; its deltas, joined, are what the items say in the end; every item that began has ended.
    """
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    bodies = data_of(events)
    assert [body["sequence_number"] for body in bodies] == list(range(len(bodies)))
    assert bodies[0]["type"] == "response.created"
    deltas: dict[tuple[int, str, int], str] = {}
    open_items: dict[int, str] = {}
    for (kind, _), body in zip(events, bodies, strict=True):
        assert kind == body["type"]
        assert not body.get("error")
        parsed = EVENTS[kind].model_validate(body)
        state.handle_event(parsed)
        if kind.endswith(".delta"):
            part = body.get("content_index", body.get("summary_index", -1))
            key = (body["output_index"], kind.split(".")[1], part)
            deltas[key] = deltas.get(key, "") + body["delta"]
        elif kind == "response.output_item.added":
            open_items[body["output_index"]] = body["item"]["id"]
        elif kind == "response.output_item.done":
            assert open_items.pop(body["output_index"]) == body["item"]["id"]
    assert not open_items
    final = bodies[-1]["response"]
    assert bodies[-1]["type"] in ("response.completed", "response.incomplete", "response.failed")
    Response.model_validate(final)
    assert deltas == dict(_said(final["output"]))
    completed = state._completed_response
    if final["status"] == "completed":
        assert completed is not None
        assert completed.output_text == text_of(final)
    else:
        assert completed is None
    return final  # type: ignore[no-any-return]


_NAMES = {
    "output_text": ("output_text", "text"),
    "refusal": ("refusal", "refusal"),
    "reasoning_text": ("reasoning_text", "text"),
    "summary_text": ("reasoning_summary_text", "text"),
}


def _said(output: list[dict[str, Any]]) -> Iterator[tuple[tuple[int, str, int], str]]:
    """Every text of the items, by where it stands."""
    for place, item in enumerate(output):
        for name, field in (
            ("function_call_arguments", "arguments"),
            ("custom_tool_call_input", "input"),
        ):
            if item.get(field):
                yield (place, name, -1), item[field]
        for parts in (item.get("summary") or (), item.get("content") or ()):
            for index, part in enumerate(parts):
                name, field = _NAMES[part["type"]]
                yield (place, name, index), part[field]


def text_of(response: dict[str, Any]) -> str:
    parts = [p for item in response["output"] for p in item.get("content") or ()]
    return "".join(part.get("text", "") for part in parts if part["type"] == "output_text")


def without_ids(response: dict[str, Any]) -> dict[str, Any]:
    """A response to compare with another of the same answer."""
    output = [{**item, "id": ""} for item in response["output"]]
    return {**response, "output": output}


# -- what upstreams send --


def sse_of(*events: Any) -> bytes:
    """The data of these events, as an upstream sends them."""
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """One piece of a streamed chat completion."""
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def call_piece(index: int, arguments: str = "", **more: Any) -> dict[str, Any]:
    """One piece of a call in it."""
    function = {"arguments": arguments, **({"name": more.pop("name")} if "name" in more else {})}
    return {"index": index, "function": function, **more}


def run(
    api: Api, *events: Any, outcome: Outcome = "complete", **request: Any
) -> tuple[dict[str, Any], list[Written]]:
    """The final response of a stream of these events, and all of ours."""
    told = translator(api, **request)
    found = told.begin() + told.started() + told.feed(sse_of(*events)) + told.end(outcome)
    return judged(found), found


def kinds(events: list[Written]) -> list[str]:
    """The types of events, without what they have in common."""
    return [kind.removeprefix("response.") for kind, _ in events]


def block(index: int, block: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of one block of an Anthropic message."""
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def stop(reason: str) -> dict[str, Any]:
    """Why an Anthropic message ended."""
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {}}
