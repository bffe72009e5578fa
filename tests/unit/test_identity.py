"""A call finds its run without any help from the app."""

from typing import Any

import pytest

from tocsin.core.call import Call, Identity
from tocsin.core.clock import SystemClock
from tocsin.core.ids import derived_id
from tocsin.core.policy import Reply
from tocsin.runtime.identity import IdentityPolicy, Seen
from unit.calls import answered, call, message

SYSTEM = message("system", "You help.")
HELLO = message("user", "Hello")
HI = message("assistant", "Hi. What can I do?")
RETRY = ((b"x-stainless-retry-count", b"1"),)


class Chat:
    """Drives the policy as the runtime does: ask, then learn the answer."""

    def __init__(self, recalled: list[Seen] | None = None) -> None:
        self.lookups = 0

        def lookup(nodes: Any, tool_ids: Any) -> list[Seen]:
            self.lookups += 1
            return [s for s in recalled or [] if s.node in nodes]

        self.policy = IdentityPolicy(lookup, SystemClock())

    async def ask(self, asked: Call) -> Identity:
        async def onward(_: Call) -> Reply:
            return Reply(status=200, headers=[])

        await self.policy(asked, onward)
        assert asked.draft.identity is not None
        return asked.draft.identity

    async def turn(self, asked: Call, answer: dict[str, Any] | None, **more: Any) -> Identity:
        identity = await self.ask(asked)
        self.policy.learn(asked, answered(asked, answer, **more))
        return identity


async def test_a_call_that_extends_an_answered_one_continues_its_run() -> None:
    chat = Chat()
    first = await chat.turn(call([SYSTEM, HELLO]), HI)
    second = await chat.turn(call([SYSTEM, HELLO, HI, message("user", "More")]), HI)
    assert first.run_source == "new"
    assert (second.run_id, second.run_source, second.new_from) == (first.run_id, "prefix", 3)
    assert second.conversation_id == first.conversation_id


async def test_two_runs_that_begin_alike_and_are_answered_differently_stay_apart() -> None:
    chat = Chat()
    one = await chat.turn(call([SYSTEM, HELLO]), HI)
    other_answer = message("assistant", "Yes?")
    two = await chat.turn(call([SYSTEM, HELLO]), other_answer)
    assert one.run_id != two.run_id
    next_one = await chat.turn(call([SYSTEM, HELLO, HI, message("user", "a")]), HI)
    next_two = await chat.turn(call([SYSTEM, HELLO, other_answer, message("user", "a")]), HI)
    assert (next_one.run_id, next_two.run_id) == (one.run_id, two.run_id)


async def test_runs_that_are_alike_so_far_are_continued_one_call_each() -> None:
    chat = Chat()
    runs = {(await chat.turn(call([SYSTEM, HELLO]), HI)).run_id for _ in range(3)}
    followed = [
        (await chat.turn(call([SYSTEM, HELLO, HI, message("user", f"q{i}")]), HI)).run_id
        for i in range(3)
    ]
    assert len(runs) == 3
    assert sorted(followed) == sorted(runs)


async def test_among_runs_alike_so_far_the_same_end_user_comes_first() -> None:
    chat = Chat()
    await chat.turn(call([SYSTEM, HELLO], end_user="ann"), HI)
    bob = await chat.turn(call([SYSTEM, HELLO], end_user="bob"), HI)
    more = [SYSTEM, HELLO, HI, message("user", "More")]
    assert (await chat.ask(call(more, end_user="bob"))).run_id == bob.run_id


async def test_the_same_messages_again_are_a_retry_inside_the_run() -> None:
    chat = Chat()
    first = await chat.turn(call([SYSTEM, HELLO]), HI)
    more = [SYSTEM, HELLO, HI, message("user", "More")]
    failed = await chat.turn(call(more), None)
    again = await chat.turn(call(more), HI)
    assert failed.run_id == again.run_id == first.run_id
    assert again.new_from == len(more)


async def test_a_second_branch_from_the_same_answer_is_a_fork_of_the_run() -> None:
    chat = Chat()
    first = await chat.turn(call([SYSTEM, HELLO]), HI)
    left = await chat.turn(call([SYSTEM, HELLO, HI, message("user", "left")]), HI)
    right = await chat.turn(call([SYSTEM, HELLO, HI, message("user", "right")]), HI)
    assert left.run_id == right.run_id == first.run_id


async def test_a_clients_own_retry_of_a_first_call_joins_the_run_it_began() -> None:
    chat = Chat()
    now = SystemClock().now_us()
    first = await chat.turn(call([SYSTEM, HELLO], at=now), None)
    retry = await chat.turn(call([SYSTEM, HELLO], at=now + 1, headers=RETRY), HI)
    fresh = await chat.turn(call([SYSTEM, HELLO], at=now + 2), HI)
    assert (retry.run_id, retry.run_source) == (first.run_id, "retry")
    assert fresh.run_id != first.run_id


async def test_a_tool_call_id_finds_the_run_after_the_history_was_cut() -> None:
    chat = Chat()
    asking = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_abc", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        ],
    }
    first = await chat.turn(call([SYSTEM, HELLO]), asking)
    cut = [
        message("user", "summary of before"),
        asking,
        {"role": "tool", "tool_call_id": "call_abc", "content": "42"},
    ]
    found = await chat.turn(call(cut), HI)
    assert (found.run_id, found.run_source, found.new_from) == (first.run_id, "tool", 2)


async def test_fields_that_clients_drop_do_not_break_the_history() -> None:
    chat = Chat()
    answer = {**HI, "refusal": None, "annotations": []}
    first = await chat.turn(call([SYSTEM, HELLO]), answer)
    second = await chat.ask(call([SYSTEM, HELLO, {"content": HI["content"], "role": "assistant"}]))
    assert second.run_id == first.run_id


async def test_a_header_names_the_run_and_messages_only_say_what_is_new() -> None:
    chat = Chat()
    headers = ((b"tocsin-run", b"ticket-4711"), (b"tocsin-conversation", b"c1"))
    await chat.turn(call([SYSTEM, HELLO], headers=headers), HI)
    second = await chat.turn(
        call([SYSTEM, HELLO, HI, message("user", "More")], headers=headers), HI
    )
    assert (second.run_id, second.run_source, second.new_from) == ("ticket-4711", "header", 3)
    assert second.conversation_id == "c1"


@pytest.mark.parametrize("bad", [b"", b"../../etc", b"a b", b"x" * 129, b"\xff\xfe"])
async def test_a_run_header_that_is_no_name_is_ignored(bad: bytes) -> None:
    identity = await Chat().ask(call([HELLO], headers=((b"tocsin-run", bad),)))
    assert identity.run_source == "new"


async def test_calls_of_one_trace_are_one_run() -> None:
    chat = Chat()
    trace = b"4bf92f3577b34da6a3ce929d0e0e4736"
    headers = ((b"traceparent", b"00-" + trace + b"-00f067aa0ba902b7-01"),)
    one = await chat.turn(call([HELLO], headers=headers), HI)
    two = await chat.turn(call([message("user", "other")], headers=headers), HI)
    assert one.run_id == two.run_id == derived_id("run", trace)
    assert one.run_source == "traceparent"


async def test_a_previous_response_id_continues_that_responses_run() -> None:
    chat = Chat()
    first = await chat.turn(call([HELLO]), HI, response_id="resp_1")
    second = await chat.turn(call([message("user", "More")], response_ref="resp_1"), HI)
    assert (second.run_id, second.run_source) == (first.run_id, "response")


async def test_what_memory_has_lost_is_recalled_from_the_store() -> None:
    asked = call([SYSTEM, HELLO, HI, message("user", "More")])
    seen = Seen(
        node=asked.nodes[2].hash,
        interaction_id="call_old",
        run_id="run_old",
        conversation_id=None,
        feature="default",
        key_id=None,
        end_user=None,
        started_at=1,
    )
    chat = Chat([seen])
    identity = await chat.ask(asked)
    assert (identity.run_id, identity.parent_id) == ("run_old", "call_old")


async def test_a_first_call_never_asks_the_store() -> None:
    chat = Chat()
    await chat.turn(call([SYSTEM, HELLO]), HI)
    assert chat.lookups == 0
