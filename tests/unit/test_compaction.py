"""What a history looks like to the model that sums it up, and how long a request is held to be."""

from typing import Any

import pytest

from tocsin.core.errors import BadRequest
from tocsin.core.wire.responses import compaction_item, request_from
from tocsin.responses.compact import transcript
from tocsin.responses.tokens import estimate


def test_a_transcript_says_who_said_what_and_what_tools_returned() -> None:
    items: list[dict[str, Any]] = [
        compaction_item("cmp_1", "Ana wants a refund."),
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "This one:"},
                {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
                {"type": "input_file", "filename": "bill.pdf", "file_data": "AAAA"},
            ],
        },
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "opaque"},
        {"type": "function_call", "call_id": "c1", "name": "find", "arguments": '{"n":4711}'},
        {"type": "function_call_output", "call_id": "c1", "output": "Paid."},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "It is paid.", "annotations": []}],
        },
    ]
    assert transcript(items).split("\n\n") == [
        "summary of what came before: Ana wants a refund.",
        "user: This one: [input_image] [input_file bill.pdf]",
        'assistant calls find (c1): {"n":4711}',
        "result of c1: Paid.",
        "assistant: It is paid.",
    ]


def test_a_compaction_of_somebody_else_cannot_be_summed_up() -> None:
    with pytest.raises(BadRequest) as caught:
        transcript([{"type": "compaction", "encrypted_content": "gAAAAA=="}])
    assert caught.value.code == "unreadable_compaction"


def counted(history: list[dict[str, Any]] | None = None, **fields: Any) -> int:
    ids = iter(range(1000))
    request = request_from({"model": "m", **fields}, lambda prefix: f"{prefix}_{next(ids)}")
    return estimate(request, history or [])


def test_an_estimate_counts_everything_that_is_sent() -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 20
    plain = counted(input=text)
    assert 180 <= plain <= 220
    assert counted(input=text, instructions=text) == pytest.approx(2 * plain, rel=0.05)
    before = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    ]
    assert counted(before, input=text) == pytest.approx(2 * plain, rel=0.05)
    tool = {"type": "function", "name": "find", "description": text, "parameters": {}}
    assert counted(input=text, tools=[tool]) == pytest.approx(2 * plain, rel=0.1)


def test_an_estimate_of_an_image_does_not_count_its_bytes() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 100_000}
    text = {"type": "input_text", "text": "What is this?"}
    given = [{"role": "user", "content": [text, image]}]
    assert counted(input=given) < 50


def test_a_tool_that_only_one_api_knows_can_be_counted_all_the_same() -> None:
    plain = counted(input="What is new?", instructions="Be terse.")
    assert (
        plain
        < counted(input="What is new?", instructions="Be terse.", tools=[{"type": "web_search"}])
        < plain + 30
    )
