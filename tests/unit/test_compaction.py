"""What a history looks like to the model that sums it up, and how long a request is held to be."""

from typing import Any

import pytest

from tocsin.core.errors import BadRequest
from tocsin.core.wire.responses import compaction_item, request_from, unfolded
from tocsin.responses.compact import transcript
from tocsin.responses.deps import Place
from tocsin.responses.folding import Folding, folding_of
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


# -- compaction that a request asks for --

LONG = "The quick brown fox jumps over the lazy dog. " * 30


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def call(name: str) -> dict[str, Any]:
    return {"type": "function_call", "call_id": name, "name": "find", "arguments": "{}"}


def result(name: str, output: str = "found") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": name, "output": output}


def folded(*items: dict[str, Any], threshold: int = 200) -> Folding | None:
    ids = iter(range(1000))
    managed = [{"type": "compaction", "compact_threshold": threshold}]
    request = request_from(
        {"model": "m", "input": list(items), "context_management": managed},
        lambda prefix: f"{prefix}_{next(ids)}",
    )
    return folding_of(request, (), Place(api="chat"))


def kinds(items: list[dict[str, Any]]) -> list[str]:
    return [str(item.get("call_id") or item.get("role") or item["type"]) for item in items]


def test_the_newest_input_stays_with_the_calls_that_it_answers() -> None:
    reasoning = {"type": "reasoning", "summary": []}
    for items, tail in (
        ([user("a"), assistant(LONG), user("b"), user("c")], ["user", "user"]),
        ([user("a"), call("1"), result("1", LONG), call("2"), result("2")], ["2", "2"]),
        ([user("a"), assistant(LONG), user("b"), reasoning, call("1"), result("1")],
         ["reasoning", "1", "1"]),
        ([assistant(LONG), call("1"), user("wait"), assistant("ok"), result("1")],
         ["1", "user", "assistant", "1"]),
    ):  # fmt: skip
        found = folded(user("first"), assistant("yes"), *items)
        assert found is not None
        assert kinds(found.tail) == tail
        assert kinds(found.head) == kinds([user("first"), assistant("yes"), *items])[: -len(tail)]


def test_instructions_stay_and_the_newest_words_of_the_user_as_far_as_there_is_room() -> None:
    system = {"role": "developer", "content": "Be short. " + LONG}
    found = folded(user("old"), system, user(LONG), user("new"), assistant(LONG), user("now"))
    assert found is not None
    texts = [item["content"][0]["text"] for item in found.kept]
    assert texts == [system["content"], "new"]


def test_what_a_summary_would_not_make_shorter_is_left_alone() -> None:
    assert folded(user("a"), assistant("b"), user("c")) is None
    assert folded(user(LONG)) is None
    assert folded({"role": "system", "content": LONG}, user("now")) is None
    assert folded(compaction_item("cmp_1", LONG), user("a"), threshold=20) is None
    assert folded(user("a"), assistant(LONG), user("b"), threshold=100_000) is None


def test_a_compaction_with_a_window_stands_for_all_before_it() -> None:
    item = compaction_item("cmp_1", "Foxes.", window=([user("a")], [user("b")]))
    items = [user("gone"), item, {**user("c"), "type": "message"}]
    read = unfolded(items)
    assert transcript(read).split("\n\n") == [
        "user: a",
        "summary of what came before: Foxes.",
        "user: b",
        "user: c",
    ]
    assert transcript(unfolded(read)) == transcript(read)
    later = compaction_item("cmp_2", "Hens.", window=([], [user("d")]))
    assert transcript(unfolded([*items, later])) == (
        "summary of what came before: Hens.\n\nuser: d"
    )
    # One without a window stands for nothing but itself.
    plain = [user("kept"), compaction_item("cmp_3", "Cats."), user("c")]
    assert unfolded(plain) == plain


@pytest.mark.parametrize(
    "window", [([{"role": "nobody", "content": "x"}], []), ([], [7]), ([], [{"type": 1}])]
)
def test_a_window_of_somebodys_own_making_is_checked(window: Any) -> None:
    item = compaction_item("cmp_1", "s", window=window)
    with pytest.raises(BadRequest):
        unfolded([item])
