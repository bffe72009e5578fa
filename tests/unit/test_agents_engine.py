"""The engine by its parts: what a run has seen, what a call was given, what a stream repeats."""

import gc
import json
import statistics
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.core.messages import ToolCall, parse_message
from tocsin.core.tool_results import outcome_of
from tocsin.domains.agents.engine import StreamWatch, Thresholds, Tracker, exact_baseline
from tocsin.domains.agents.similarity import arguments, similar
from tocsin.domains.agents.tools import kind_of
from unit.agents_runs import Agent, calling, came, listing, say


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("Could not find [Scat]. Similar: ['Scatman']", "read", "error:could not find similar"),
        ("Error: flight HAT030 not available on date 2024-05-13", "other",
         "error:error flight not available on"),
        ('{"error": {"message": "No such user"}}', "read", "error:no such user"),
        ('{"status": "ok", "error": null}', "write", "done"),
        ("No Results", "read", "empty"),
        ("[]", "read", "empty"),
        ("", "read", "empty"),
        ("", "other", "done"),
        ("File src/a.py was updated.", "write", "done"),
        ("HTTP 429 Too Many Requests", "read", "rate_limit"),
        ("Job 7 is still running", "read", "pending"),
        ("Nothing happens.", "other", "empty"),
        ("def load(path):\n    raise ValueError(path)" + " # more" * 200, "read", "ok"),
        ("bash: foo: command not found", "other", "error:bash foo command not found"),
        ("Lyon is a city in France.", "read", "ok"),
    ],
)  # fmt: skip
def test_a_result_has_a_class(text: str, kind: str, name: str) -> None:
    assert outcome_of(text, kind).name == name  # type: ignore[arg-type]


def test_arguments_are_the_same_whatever_their_order_ids_and_times() -> None:
    first = arguments('{"b": 1, "a": "x", "request_id": "one", "ts": 1}')
    second = arguments('{"a":"x","ts":2,"b":1,"request_id":"two"}')
    assert first.strict == second.strict
    assert arguments('{"a": "y", "b": 1}').strict != first.strict


def test_a_random_id_that_is_no_request_s_still_names_a_thing() -> None:
    one = arguments('{"file": "0b8f3a52-6f0c-4c5e-9d0a-1d2e3f4a5b6c"}')
    other = arguments('{"file": "7c9e6679-7425-40de-944b-e07fc1f90ae7"}')
    assert one.strict != other.strict
    assert one.loose == other.loose


def test_a_date_is_no_volatile_value() -> None:
    assert arguments('{"date": "2024-05-20"}').loose != arguments('{"date": "2024-05-21"}').loose


def test_near_duplicates_are_alike_and_other_targets_are_not() -> None:
    assert similar("is google making us stoopid", "is google making us stupid", 80)
    assert similar("american folklore 1964", "american folklore 1964 creature", 80)
    assert not similar("jg7fmm", "lq940q", 80)


@pytest.mark.parametrize(
    ("tool", "command", "kind"),
    [
        ("get_user_details", "", "read"),
        ("book_reservation", "", "write"),
        ("bash", "cd src && ls -la", "read"),
        ("bash", "sed -i s/a/b/ x.py", "other"),
        ("bash", "cat a > b", "other"),
        ("str_replace_editor", "view", "read"),
        ("str_replace_editor", "create", "write"),
        ("readFile", "", "read"),
        ("think", "", "talk"),
        ("frobnicate", "", "other"),
    ],
)
def test_a_tool_s_name_and_command_tell_what_it_does(tool: str, command: str, kind: str) -> None:
    assert kind_of(tool, command)[0] == kind


def test_the_baseline_acts_at_the_third_identical_call() -> None:
    calls = [
        ToolCall(id=str(i), name="s", arguments=a) for i, a in enumerate(['{"a":1}', '{"a": 1}'])
    ]
    assert exact_baseline(calls) is None
    assert exact_baseline([*calls, calls[0]]) == 3


# -- streams --


def fed(text: str, size: int = 20) -> str | None:
    watch = StreamWatch()
    for start in range(0, len(text), size):
        summary = watch.feed(text[start : start + size])
        if summary is not None:
            return summary
    return None


def test_an_answer_that_says_one_sentence_forever_is_found() -> None:
    text = "Here is what I know so far. " + "I will now check the file again. " * 80
    summary = fed(text)
    assert summary is not None
    assert "check the file" in summary


def test_numbers_that_count_up_do_not_hide_it() -> None:
    assert fed("".join(f"Step {i}: I will look at the same file once more.\n" for i in range(60)))


@pytest.mark.parametrize(
    "text",
    [
        "".join(f'{{"id": {i}, "name": "user{i}", "active": true}},\n' for i in range(40)),
        "|" + " --- |" * 80 + "\n",
        "".join(f"{i}. Item {i * 37} costs {i * 3} euros in {chr(97 + i)}.\n" for i in range(26)),
        "0, " * 500,
        " ".join(f"Sentence number {i} here tells about {i * i} things" for i in range(9)),
        "int a[] = {" + "0x00, " * 200 + "};",
    ],
)  # fmt: skip
def test_data_tables_and_lists_are_no_repetition(text: str) -> None:
    assert fed(text) is None


# -- one run --


def test_a_tracker_tells_how_its_run_stands() -> None:
    agent = Agent(gap_s=2)
    for i in range(3):
        agent.step("read_file", {"path": f"f{i}.py"}, f"class Thing{i}: size = {i} name = thing{i}")
    for _ in range(4):
        agent.step("list_files", {"path": "."}, "class Thing1: size")
    agent.ask()
    watch = agent.tracker.watch()
    assert (watch.calls, watch.steps) == (8, 7)
    assert watch.stage == "pause"
    assert watch.repeats >= 3
    assert watch.novelty < 0.5
    assert watch.last_at > watch.started_at > 0
    assert watch.summary


def test_tokens_since_the_last_new_thing_are_counted() -> None:
    agent = Agent()
    tracker = agent.tracker
    for i in range(4):
        agent.number += 1
        agent.call(calling((f"c{i}", "search", {"q": "x"})), tokens=100)
        agent.history.append(came(f"c{i}", "The tram runs every ten minutes."))
    agent.ask()
    watch = tracker.watch()
    assert watch.tokens == 480
    assert watch.tokens_since_new == 360


def test_a_stage_is_told_once_until_progress_is_made() -> None:
    agent = Agent()
    for _ in range(4):
        agent.step("search", {"q": "x"}, "Error: backend failed")
    agent.step("search", {"q": "yards"}, "Yards are three feet, says the dictionary of measures.")
    for _ in range(4):
        agent.step("search", {"q": "x"}, "Error: backend failed")
    agent.ask()
    assert [f.stage for f in agent.found] == ["nudge", "pause"] * 2, listing(agent.found)


def test_context_that_only_grows_and_cost_that_rises_are_told_where_nothing_comes_of_it() -> None:
    agent = Agent()
    for i in range(40):
        agent.number += 1
        agent.call(
            calling((f"c{i}", "list", {"at": i % 7})), tokens=8000 + 4000 * i, nano=10_000 * (i + 1)
        )
        agent.history.append(
            came(f"c{i}", f"wholly new{i} thing{i}" if i % 4 == 3 else "a.py b.py")
        )
    agent.ask()
    assert {"growing_context", "rising_cost"} <= {f.detector for f in agent.found}


def test_the_same_growth_with_progress_is_left_alone() -> None:
    agent = Agent()
    for i in range(40):
        agent.number += 1
        agent.call(
            calling((f"c{i}", "read", {"page": i})), tokens=8000 + 4000 * i, nano=10_000 * (i + 1)
        )
        agent.history.append(came(f"c{i}", f"page{i} tells of thing{i} and matter{i}"))
    agent.ask()
    assert agent.found == []


def test_a_run_far_longer_than_usual_has_no_end_in_sight() -> None:
    agent = Agent(Tracker("run_1", "feature", expected_calls=5))
    for i in range(20):
        agent.step("read", {"page": i}, f"page{i} tells of thing{i} and matter{i}")
    assert [(f.detector, f.stage, f.call) for f in agent.found] == [("no_end", "nudge", 15)]


def test_samples_of_the_same_request_are_no_loop() -> None:
    agent = Agent()
    history = list(agent.history)
    for _ in range(6):
        agent.history = list(history)
        agent.says("The answer is 42, because six times seven is forty-two.")
    assert agent.found == [], listing(agent.found)


def test_the_same_request_without_end_is_a_loop() -> None:
    agent = Agent()
    history = list(agent.history)
    for _ in range(30):
        agent.history = list(history)
        agent.says("The answer is 42, because six times seven is forty-two.")
    assert agent.stage == "pause"


def test_results_of_either_dialect_are_read() -> None:
    tracker = Tracker("run_1", "feature")
    history = [say("user", "Where is my parcel?")]
    found = []
    for i in range(5):
        found += tracker.ask(history, at_us=0)
        asked = {"type": "tool_use", "id": f"t{i}", "name": "search", "input": {"q": "parcel"}}
        block = {"type": "tool_result", "tool_use_id": f"t{i}", "is_error": True,
                 "content": [{"type": "text", "text": "backend is away"}]}  # fmt: skip
        output = parse_message(json.dumps({"role": "assistant", "content": [asked]}).encode())
        tracker.answered(output, input_tokens=1, output_tokens=1, nano_usd=None, at_us=0)
        history += [
            output,
            parse_message(json.dumps({"role": "user", "content": [block]}).encode()),
        ]
    assert found[0].evidence[0].outcome == "error:backend is away"
    assert found[-1].stage == "pause"


def test_thresholds_can_be_set() -> None:
    stages = []
    for settings_ in (Thresholds(), Thresholds(poll_gap_s=3600)):
        agent = Agent(Tracker("run_1", "feature", thresholds=settings_), gap_s=300)
        for _ in range(6):
            agent.step("get_level", {"tank": 4}, '{"level": 71}')
        agent.ask()
        stages.append(agent.stage)
    assert stages == [None, "pause"]


TEXT = st.one_of(
    st.sampled_from(["", "ok", "Error: x", "[]", "a b c", "429"]), st.text(max_size=60)
)
EVENT = st.tuples(
    st.sampled_from(["tool", "say", "user", "compact", "resend", "odd"]),
    st.sampled_from(["search", "edit_file", "bash", "think", ""]),
    TEXT,
    TEXT,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(EVENT, max_size=30))
def test_no_sequence_of_messages_breaks_a_tracker(events: list[tuple[str, str, str, str]]) -> None:
    agent = Agent(gap_s=1)
    for kind, tool, first, second in events:
        if kind == "tool":
            agent.step(tool, {"command": first}, second)
        elif kind == "say":
            agent.says(first)
        elif kind == "user":
            agent.hears(first)
        elif kind == "compact":
            agent.history = [agent.history[0], say("user", second)]
        elif kind == "odd":
            agent.history.append(came(first, second))
        else:
            agent.ask()
    agent.ask()
    watch = agent.tracker.watch()
    assert 0 <= watch.novelty <= 1
    assert watch.steps <= len(events) * 2


def test_a_call_late_in_a_long_run_costs_what_an_early_one_costs() -> None:
    agent = Agent()
    took: list[float] = []
    gc.disable()
    try:
        for i in range(6000):
            output = calling(
                (f"c{i}", "read_file", {"path": f"src/module_{i % 40}.py", "start": i})
            )
            began = time.perf_counter()
            agent.tracker.ask(agent.history, at_us=0)
            agent.tracker.answered(output, input_tokens=1, output_tokens=1, nano_usd=1, at_us=0)
            took.append(time.perf_counter() - began)
            agent.history += [output, came(f"c{i}", f"line {i} of a file with a few words in it")]
    finally:
        gc.enable()
    early, late = statistics.median(took[200:1200]), statistics.median(took[-1000:])
    assert late < 4 * early
