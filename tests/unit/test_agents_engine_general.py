"""Loops and work that are told by what they do: in any language, wrapper or order."""

import pytest

from tocsin.core.tool_results import outcome_of
from unit.agents_runs import Agent, calling, came, listing


def stage(agent: Agent) -> str | None:
    agent.ask()
    return agent.stage


@pytest.mark.parametrize(
    "counter", ["(Result {0}/9) ", "page {0} of 9: ", "[line {0}/40] ", "({0} von 9) "]
)
def test_a_counter_makes_no_known_text_new(counter: str) -> None:
    agent = Agent()
    for i in range(1, 9):
        text = counter.format(i) + "Lyon is a city in France, where two rivers meet."
        agent.step("lookup", {"keyword": f"river {'again ' * i}"}, text)
    assert stage(agent) == "pause", listing(agent.found)


def test_pages_with_other_rows_are_reading_whatever_counts_them() -> None:
    agent = Agent()
    for i in range(1, 30):
        text = f"page {i} of 30: order{i} by customer{i * 7}, order{i}b by customer{i * 11}"
        agent.step("list_orders", {"page": i}, text)
    assert stage(agent) is None, listing(agent.found)


@pytest.mark.parametrize(
    "answer",
    [
        "未找到与“{0}”相关的内容。",
        "'{0}'에 대한 결과를 찾지 못했습니다.",
        "Für „{0}“ gibt es leider gar nichts.",
    ],
)
def test_an_answer_that_only_repeats_the_question_is_none_in_any_language(answer: str) -> None:
    agent = Agent()
    queries = [
        "tram strike lyon", "tram strike in lyon", "lyon tram strike", "the lyon tram strike",
        "tram strike lyon today", "strike of the lyon tram", "lyon tram strike news",
    ]  # fmt: skip
    for query in queries:
        agent.step("xq_7", {"q": query}, answer.format(query))
    assert stage(agent) == "pause", listing(agent.found)


@pytest.mark.parametrize(
    "said", ["已保存 {0}。", "{0} 저장됨", "El archivo {0} quedó guardado sin ningún problema hoy."]
)
def test_changes_told_in_any_language_are_work(said: str) -> None:
    agent = Agent()
    for i in range(30):
        name = f"src/handlers/handler_{i:02}.py"
        agent.step("zt_modif", {"ruta": name, "texto": "x = 1"}, said.format(name))
    assert stage(agent) is None, listing(agent.found)


def test_looking_into_one_place_after_another_is_no_loop_and_looking_again_is() -> None:
    agent = Agent()
    for i in range(1, 13):
        agent.step("act", {"do": f"go to shelf {i}"}, f"On the shelf {i}, you see nothing.")
    assert stage(agent) is None, listing(agent.found)
    for i in range(1, 13):
        agent.step("act", {"do": f"go to shelf {i}"}, f"On the shelf {i}, you see nothing.")
    assert stage(agent) == "pause"


def test_going_back_once_after_having_done_something_is_no_loop() -> None:
    agent = Agent()
    for do, seen in [
        ("go to table 1", "On the table 1, you see a mug 1, and a pen 2."),
        ("take mug 1 from table 1", "You pick up the mug 1 from the table 1."),
        ("go to sink 1", "On the sink 1, you see nothing."),
        ("clean mug 1 with sink 1", "You clean the mug 1 using the sink 1."),
        ("go to table 1", "On the table 1, you see a pen 2."),
        ("put mug 1 on table 1", "You put the mug 1 on the table 1."),
    ]:
        agent.step("act", {"do": do}, seen)
    assert stage(agent) is None, listing(agent.found)


WRAPPED = "Chunk: {0:06x}\nWall time: 0.0{0} seconds\nProcess exited with code {1}\nOutput:\n{2}"


def test_failures_in_a_wrapper_are_told_apart_by_what_they_say() -> None:
    agent = Agent()
    told = [
        "fatal: not a git repository", "error: no such module", "ruff: cannot open config",
        "mypy: unrecognized arguments", "make: no rule for this target",
    ]  # fmt: skip
    agent.step("run", {"cmd": "pwd", "dir": "/repo"}, WRAPPED.format(1, 0, "/repo"))
    for i, text in enumerate(told, 2):
        agent.step("run", {"cmd": text[:5] * i, "dir": "/repo"}, WRAPPED.format(i, 1, text))
        agent.step("run", {"cmd": f"cat f{i}", "dir": "/repo"}, WRAPPED.format(i, 0, f"class C{i}"))
    assert not [f for f in agent.found if f.detector == "same_failure"], listing(agent.found)


def test_the_same_failure_in_a_wrapper_is_found() -> None:
    agent = Agent()
    agent.step("run", {"cmd": "pwd"}, WRAPPED.format(1, 0, "/repo"))
    for i in range(2, 9):
        agent.step(
            "run", {"cmd": f"git push remote{i}"}, WRAPPED.format(i, 1, "error: failed to push")
        )
    assert stage(agent) == "pause", listing(agent.found)


def test_calls_of_one_directory_are_not_alike_for_it() -> None:
    agent = Agent()
    where = "/home/someone/projects/a-rather-long-name/of-a-directory"
    agent.step("run", {"cmd": "cat all.txt", "dir": where}, "one two three four five six seven")
    said = {"git add a.py": "one two", "uptime": "three four", "jq . b": "five six"}
    for cmd, seen in said.items():
        agent.step("run", {"cmd": cmd, "dir": where, "limit": 1000}, seen)
    assert stage(agent) is None, listing(agent.found)


def test_several_calls_of_one_answer_count_as_one_step() -> None:
    agent = Agent()
    names = ["alpha", "bravo", "carol", "delta", "echo9"]
    agent.call(calling(*[(n, "read_file", {"path": f"{n}/settings.toml"}) for n in names]))
    agent.history += [came(n, f"Error: no such file {n}/settings.toml") for n in names]
    assert stage(agent) is None, listing(agent.found)


def test_one_retry_of_what_may_pass_is_patience() -> None:
    agent = Agent()
    for _ in range(2):
        agent.step("search", {"q": "tram"}, '{"error": "Request timeout"}')
    agent.step("timetable", {"line": "T1"}, "The tram runs every ten minutes in Lyon.")
    assert stage(agent) is None, listing(agent.found)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"statusCode": 404, "body": ""}', "error"),
        ('{"exit_code": 2, "stdout": "", "stderr": "kaputt"}', "error"),
        ('{"exit_code": 0, "stdout": "error handling is fine", "stderr": ""}', "ok"),
        ('{"isError": true, "content": "nein"}', "error"),
        ("Process exited with code 0\nOutput:\nwarning: file not found in cache, made anew", "ok"),
        ("kaputt\n    at Foo.bar (foo.js:12:3)\n    at baz (foo.js:40:1)", "error"),
        ("<tool_use_error>File has not been read yet.</tool_use_error>", "error"),
    ],
)  # fmt: skip
def test_a_failure_is_told_by_its_form(text: str, name: str) -> None:
    assert outcome_of(text, "other").name.split(":")[0] == name


def test_a_call_that_failed_and_now_works_is_progress() -> None:
    agent = Agent()
    for name in ("a", "b", "c"):
        agent.step("edit", {"path": f"{name}.py", "new": "x"}, "Error: the file was not read yet")
        agent.step("read", {"path": f"{name}.py"}, f"class {name}Thing: size = 3")
        agent.step("edit", {"path": f"{name}.py", "new": "x"}, f"{name}.py is up to date with it")
    assert stage(agent) is None, listing(agent.found)


def test_coming_back_to_the_same_call_is_found_though_new_things_come_between() -> None:
    agent = Agent()
    for i in range(4):
        agent.step("act", {"do": "put mug 1 on shelf 9"}, "Nothing happens.")
        agent.step("act", {"do": f"go to room {i}"}, f"You see thing{i} beside matter{i}.")
    assert stage(agent) == "nudge", listing(agent.found)
    assert agent.found[0].detector == "identical"
    assert agent.found[0].call <= 6


def test_the_same_look_after_each_change_is_a_check() -> None:
    agent = Agent()
    for i in range(6):
        agent.step("edit_file", {"path": f"m{i}.py", "new": f"x = {i}"}, "The file was updated.")
        agent.step("run_tests", {"suite": "all"}, "1 failed: test_total expects 4 and gets 5")
    assert not [f for f in agent.found if f.detector == "identical"], listing(agent.found)
