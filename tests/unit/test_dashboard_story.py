"""A run read as a story: what is new, which tools ran, where time went."""

from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from dashboard_world import HOSTILE, SECOND, entry, hostile_run, message, tool_call, tool_run
from tocsin.core.interaction import Entry
from tocsin.core.messages import Hash, Message, Node, parse_message
from tocsin.dashboard import conversation, exports, story
from tocsin.store.api import RunRow, Store


class Histories:
    """Histories by node, as the store answers; counts how often it is asked."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.asked = 0
        self._nodes: dict[Hash, Node] = {}
        self._messages: dict[Hash, Message] = {}
        for made in entries:
            for m in (*made.input, *((made.output,) if made.output else ())):
                self._messages[m.hash] = m
            self._nodes.update({node.hash: node for node in made.nodes})

    def history(self, node: Hash, *, last: int | None = None) -> list[Message]:
        self.asked += 1
        found: list[Message] = []
        while node in self._nodes and (last is None or len(found) < last):
            found.append(self._messages[self._nodes[node].content])
            node = self._nodes[node].parent
        return found[::-1]


def read(entries: Sequence[Entry], **more: Any) -> tuple[story.Story, Histories]:
    store = Histories(entries)
    steps = [made.interaction for made in entries]
    loaded = story.load(store, steps)  # type: ignore[arg-type]
    return story.tell(1, steps, loaded, **more), store


def texts(step: story.Step) -> list[str]:
    return [part.head for turn in step.turns for part in turn.parts]


def test_each_step_shows_only_what_it_adds() -> None:
    told, _ = read(tool_run(1, 0, calls=4))
    assert [len(step.turns) for step in told.steps] == [2, 1, 1, 1]
    assert [turn.role for turn in told.steps[0].turns] == ["system", "user"]
    assert told.steps[3].turns[0].role == "tool"


def test_a_run_that_grows_is_read_from_one_history() -> None:
    _, store = read(tool_run(1, 0, calls=8))
    assert store.asked == 1


def test_steps_that_do_not_continue_each_other_are_read_one_by_one() -> None:
    lone = [
        entry(f"run_{i}", i, i * SECOND, [message("user", f"ask {i}")],
              message("assistant", f"answer {i}"), new=1)
        for i in range(3)
    ]  # fmt: skip
    told, _ = read(lone)
    assert [texts(step) for step in told.steps] == [["ask 0"], ["ask 1"], ["ask 2"]]


def test_a_rewritten_history_is_not_mistaken_for_a_continuation() -> None:
    first = entry("r", 0, 0, [message("user", "a")], message("assistant", "b"), new=1)
    history = [message("user", "summary of a and b"), message("user", "c")]
    second = entry(
        "r", 1, SECOND, history, message("assistant", "d"), new=2, parent=first.interaction.id
    )
    told, _ = read([first, second])
    assert texts(told.steps[1]) == ["summary of a and b", "c"]
    assert told.steps[0].answer is not None
    assert told.steps[0].answer.parts[0].head == "b"


def test_a_tool_runs_from_its_call_to_the_call_that_brings_its_result() -> None:
    entries = tool_run(1, 0, calls=3)
    told, _ = read(entries)
    tools = [row for row in told.rows if row.kind == "tool"]
    assert len(tools) == 2
    asked, answered = entries[0].interaction, entries[1].interaction
    assert tools[0].duration_us == answered.started_at - asked.started_at - asked.duration_us
    assert tools[0].depth == 1


def test_a_tool_whose_result_stands_on_the_next_page_still_has_its_duration() -> None:
    entries = tool_run(1, 0, calls=3)
    steps = [made.interaction for made in entries]
    loaded = story.load(Histories(entries), steps)  # type: ignore[arg-type]
    cut = story.tell(1, steps[:2], loaded[:2], (steps[2], loaded[2]))
    assert [row.duration_us > 0 for row in cut.rows if row.kind == "tool"] == [True, True]
    alone = story.tell(1, steps[:2], loaded[:2])
    assert [row.css for row in alone.rows if row.kind == "tool"] == ["tool", "open"]


def test_a_repeated_call_is_marked_with_the_step_it_repeats() -> None:
    told, _ = read(tool_run(1, 0, calls=5, loop=True))
    marks = [step.repeats for step in told.steps]
    assert marks == [None, 1, 1, 1, None]
    results = [part.same_as for step in told.steps for turn in step.turns for part in turn.parts]
    assert results[-3:] == [2, 2, 2]


def test_spans_of_an_agent_hold_the_steps_inside_them() -> None:
    agent = entry("r", 0, 0, [], None, new=0, operation="invoke_agent", duration_us=9 * SECOND)
    inner = entry("r", 1, SECOND, [message("user", "x")], message("assistant", "y"), new=1,
                  parent=agent.interaction.id)  # fmt: skip
    told, _ = read([agent, inner])
    assert [row.depth for row in told.rows] == [0, 1]


def test_content_that_is_gone_is_said_to_be_gone() -> None:
    entries = tool_run(1, 0, calls=2)
    told = story.tell(
        1,
        [made.interaction for made in entries],
        story.load(Histories([]), [made.interaction for made in entries]),  # type: ignore[arg-type]
    )
    assert all(step.missing for step in told.steps)


def test_long_pauses_are_shortened_and_named() -> None:
    first = entry("r", 0, 0, [message("user", "a")], message("assistant", "b"), new=1)
    second = entry("r", 1, 3600 * SECOND, [message("user", "c")], message("assistant", "d"), new=1)
    told, _ = read([first, second])
    assert told.rows[0].end > 0.4
    assert told.rows[1].pause is not None
    assert told.rows[1].pause[1] == "59 min 58 s"
    assert dict(told.shares)["model"] == 4 * SECOND


@given(
    st.lists(
        st.tuples(st.integers(0, 10**12), st.integers(0, 10**9)).map(lambda p: (p[0], p[0] + p[1])),
        min_size=1,
        max_size=40,
    )
)
def test_time_never_runs_backwards_on_the_waterfall(spans: list[tuple[int, int]]) -> None:
    clock = story.Timeline(spans)
    places = [clock.at(us) for us in sorted({us for span in spans for us in span})]
    assert places == sorted(places)
    assert all(0 <= place <= 1 for place in places)
    assert all(0 <= x <= 1 for x, _ in clock.ticks())


def test_arguments_read_like_a_call_when_they_are_short() -> None:
    asked = message("assistant", None, tool_calls=[tool_call("c", "find", '{"id": "mia", "n": 2}')])
    part = conversation.read(asked).parts[0]
    assert (part.name, part.head) == ("find", 'id: "mia", n: 2')


def test_arguments_that_are_no_json_are_shown_as_they_came() -> None:
    asked = message("assistant", None, tool_calls=[tool_call("c", "find", '{"id": ')])
    assert conversation.read(asked).parts[0].head == '{"id": '


def test_both_dialects_are_read() -> None:
    blocks = message(
        "assistant",
        [
            {"type": "thinking", "thinking": "hm"},
            {"type": "text", "text": "Looking."},
            {"type": "tool_use", "id": "t", "name": "find", "input": {"q": 1}},
        ],
    )
    assert [p.kind for p in conversation.read(blocks).parts] == ["thinking", "text", "call"]
    result = message("user", [{"type": "tool_result", "tool_use_id": "t", "content": "[1]",
                               "is_error": True}])  # fmt: skip
    part = conversation.read(result).parts[0]
    assert part.kind == "result"
    assert part.head.startswith("error: ")


def test_images_are_told_of_and_never_loaded() -> None:
    far = message("user", [{"type": "image_url", "image_url": {"url": "http://evil/x.png"}}])
    near = message(
        "user", [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    )
    assert conversation.read(far).parts[0].head == "image at http://evil/x.png, not loaded"
    assert conversation.read(near).parts[0].head == "image, image/png, 19 B, not shown"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(
    inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["role", "content", "tool_calls", "function", "type", "text", "image_url", "source",
         "tool_call_id", "refusal", "name", "arguments", "id", "input", "thinking"]
    ), inner, max_size=5), max_leaves=25))  # fmt: skip
def test_no_shape_of_message_breaks_the_reader(value: Any) -> None:
    raw = msgspec.json.encode(value)
    turn = conversation.read(Message(role="", raw=raw, hash=b"0" * 16))
    assert turn.role


def test_text_beyond_what_a_page_carries_is_counted() -> None:
    part = conversation.read(message("user", "x" * 100_000), shown=24_000).parts[0]
    assert len(part.head) + len(part.rest) + part.omitted == 100_000
    assert part.more == f"{100_000 - len(part.head):,} more characters"


def test_a_fold_never_hides_just_a_few_words() -> None:
    assert conversation.read(message("user", "word " * 200)).parts[0].rest == ""


def _row(run_id: str) -> RunRow:
    return RunRow(
        id=run_id, feature="f", source="gateway", title=HOSTILE[0], started_at=0, last_at=1,
        calls=2, tool_calls=0, errors=0, input_tokens=1, output_tokens=1, max_input_tokens=1,
        cost_nano_usd=0, unpriced=2, outcome="complete", model="m",
    )  # fmt: skip


def test_a_run_as_markdown_fences_what_holds_fences() -> None:
    inside = "```\nrm -rf\n```"
    made = entry("r", 0, 0, [message("tool", inside, tool_call_id="t")], None, new=1)
    said = story.StepMessages(new=made.input)
    text = exports.markdown(_row("r"), 1, [made.interaction], [said])
    assert f"````\n{inside}\n````" in text


def test_a_run_as_json_holds_hashes_as_text() -> None:
    entries = hostile_run()
    steps = [made.interaction for made in entries]
    loaded = story.load(Histories(entries), steps)  # type: ignore[arg-type]
    found = msgspec.json.decode(exports.run_json(_row("r"), 1, steps, loaded))
    assert found["steps"][0]["interaction"]["input_node"] == steps[0].input_node.hex()  # type: ignore[union-attr]
    assert found["steps"][0]["new_messages"][2]["content"] == HOSTILE[2]


def _curl(made: Entry) -> str:
    return exports.curl(made, "http://127.0.0.1:4600")


def test_curl_holds_the_whole_request_and_no_secret() -> None:
    made = tool_run(1, 0, calls=2)[1]
    text = _curl(made)
    body = text.partition("<<'TOCSIN_BODY'\n")[2].partition("\nTOCSIN_BODY\n")[0]
    sent = msgspec.json.decode(body)
    assert len(sent["messages"]) == 4
    assert sent["temperature"] == 0
    assert "$OPENAI_API_KEY" in text
    assert text.startswith("curl http://127.0.0.1:4600/v1/chat/completions")


def test_curl_speaks_anthropic_with_the_system_prompt_where_it_belongs() -> None:
    made = entry("r", 0, 0, [message("system", "Be brief."), message("user", "Hi")],
                 message("assistant", "Hi."), new=2, dialect="anthropic",
                 path="/v1/messages")  # fmt: skip
    sent = msgspec.json.decode(exports.request_body(made) or b"")
    assert sent["system"] == "Be brief."
    assert [m["role"] for m in sent["messages"]] == ["user"]
    assert "$ANTHROPIC_API_KEY" in _curl(made)


def test_curl_of_hostile_content_cannot_leave_its_here_document() -> None:
    text = "x\nTOCSIN_BODY\nrm -rf /\n"
    made = entry("r", 0, 0, [message("user", text)], None, new=1, path="/v1/chat/'; rm -rf /;'")
    lines = _curl(made).splitlines()
    assert lines.count("TOCSIN_BODY") == 1
    assert lines[-1] == "TOCSIN_BODY"
    assert lines[0].count("'\"'\"'") == 2


def test_the_protocol_of_the_store_has_what_the_story_reads() -> None:
    assert hasattr(Store, "history")
    assert parse_message(b'{"role":"user"}').role == "user"


def _without_durations(entries: Sequence[Entry], **attributes: str) -> list[Entry]:
    changed = msgspec.structs.replace
    return [
        changed(e, interaction=changed(e.interaction, duration_us=0, attributes=attributes))
        for e in entries
    ]


def test_a_file_without_times_is_told_in_order_and_nothing_is_invented() -> None:
    entries = _without_durations(tool_run(1, 1_000_000_000, calls=3), time="unknown")
    told, _ = read(entries)
    assert told.untimed == "This file says no times; steps are in their order."
    assert str(told.took) == "unknown"
    assert (told.shares, told.ticks) == ((), ())
    assert [row.duration_us for row in told.rows] == [None] * len(told.rows)
    assert {row.kind for row in told.rows} == {"call", "tool"}
    starts = [row.start for row in told.rows]
    assert starts == sorted(set(starts))


def test_one_call_without_a_duration_leaves_the_others_on_the_time_axis() -> None:
    entries = tool_run(1, 1_000_000_000, calls=3)
    told, _ = read([*entries[:-1], *_without_durations(entries[-1:])])
    calls = [row for row in told.rows if row.kind == "call"]
    assert told.untimed == ""
    assert [row.duration_us is None for row in calls] == [False, False, True]
    assert str(told.took).startswith("at least ")
    assert told.shares == ()
