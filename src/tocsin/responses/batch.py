"""The kind ``batch``: many Responses requests as one operation that remembers what it has done."""

import asyncio
from typing import Any

import msgspec

from tocsin.core.errors import CallError
from tocsin.core.operations import Answered, Ending, Kind, Work
from tocsin.core.outcome import Outcome

MOST = 10_000
"""Most requests in one batch."""

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["requests"],
    "additionalProperties": False,
    "properties": {
        "requests": {
            "type": "array",
            "minItems": 1,
            "maxItems": MOST,
            "items": {
                "type": "object",
                "required": ["model", "input"],
                "properties": {
                    "model": {"type": "string"},
                    "input": {"type": ["string", "array"]},
                    "stream": {"const": False},
                    "background": {"const": False},
                    "previous_response_id": {"type": "null"},
                    "conversation": {"type": "null"},
                },
            },
        },
        "concurrency": {"type": "integer", "minimum": 1, "maximum": 64},
    },
}


class Batch(msgspec.Struct, frozen=True):
    """A batch's input."""

    requests: list[dict[str, Any]]
    """Bodies of ``POST /v1/responses``."""
    concurrency: int = 4


_decode = msgspec.json.Decoder(Batch).decode


async def run(work: Work) -> Ending:
    """Ask each request once, several at a time; an answer that is there is not asked for again."""
    batch = _decode(work.input)
    gate = asyncio.Semaphore(batch.concurrency)
    done = 0

    async def one(number: int, request: dict[str, Any]) -> dict[str, Any]:
        nonlocal done
        async with gate:
            result = await _answer(work, number, request)
        done += 1
        await work.progress(done / len(batch.requests), f"{done} of {len(batch.requests)}")
        return result

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(*pair)) for pair in enumerate(batch.requests)]
    results = [task.result() for task in tasks]
    failed = sum(result["outcome"] != "complete" for result in results)
    result = msgspec.json.encode({"object": "list", "data": results, "failed": failed})
    if not failed:
        return Ending(outcome="complete", result=result)
    return Ending(
        outcome=_outcome(results),
        result=result,
        error_type="partly_failed" if failed < len(results) else "all_failed",
        error_message=f"{failed} of {len(results)} requests did not end complete.",
    )


async def _answer(work: Work, number: int, request: dict[str, Any]) -> dict[str, Any]:
    body = msgspec.json.encode(request)
    try:
        answered = await work.ask("/v1/responses", body, step=f"request {number}")
    except CallError as error:
        said = {"code": error.code, "message": error.message}
        return {"index": number, "outcome": "error", "status": error.status, "error": said}
    return _result(number, answered)


def _result(number: int, answered: Answered) -> dict[str, Any]:
    value = msgspec.json.decode(answered.body) if answered.body else None
    what = "response" if answered.status < 400 else "error"
    if what == "error" and isinstance(value, dict):
        value = value.get("error", value)
    return {
        "index": number,
        "outcome": answered.outcome,
        "status": answered.status,
        "call_id": answered.call_id,
        what: value,
    }


def _outcome(results: list[dict[str, Any]]) -> Outcome:
    """What all have in common that did not end complete; else ``error``."""
    found = {result["outcome"] for result in results if result["outcome"] != "complete"}
    only: Outcome = found.pop() if len(found) == 1 else "error"
    return only


BATCH = Kind(
    name="batch",
    summary="Many requests of `/v1/responses`, each asked once and remembered.",
    run=run,
    schema=SCHEMA,
)

__all__ = ["BATCH", "Batch"]
