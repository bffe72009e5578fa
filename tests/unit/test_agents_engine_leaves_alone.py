"""What looks like a loop and is none: the engine lets it run."""

import pytest

from tocsin.domains.agents.engine import Tracker
from unit.agents_runs import Agent, calling, came, listing


def unmoved(agent: Agent) -> None:
    agent.ask()
    assert agent.found == [], listing(agent.found)


@pytest.mark.parametrize("polls", [4, 60])
def test_identical_polls_five_minutes_apart_are_polling(polls: int) -> None:
    agent = Agent(gap_s=300)
    for _ in range(polls):
        agent.step("get_build_status", {"build": 8841}, '{"build": 8841, "state": "waiting"}')
    agent.step("get_build_status", {"build": 8841}, '{"build": 8841, "state": "passed"}')
    unmoved(agent)


def test_polls_with_growing_gaps_for_something_under_way_are_polling() -> None:
    agent = Agent(gap_s=10)
    for gap in (10, 15, 20, 30, 45, 60, 90, 120):
        agent.gap_s = gap
        agent.step("check_job", {"job": "j-9"}, "Job j-9 is still running.")
    agent.step("check_job", {"job": "j-9"}, "Job j-9 finished: 1,204 rows were loaded.")
    unmoved(agent)


def test_a_batch_edit_of_thirty_files_is_work() -> None:
    agent = Agent(task="Rename `fetch` to `load` everywhere.")
    names = [f"src/handlers/handler_{i:02}.py" for i in range(30)]
    agent.step("grep", {"pattern": "fetch", "path": "src"}, "\n".join(names))
    for name in names:
        agent.step("edit_file", {"path": name, "old": "fetch(", "new": "load("}, "done")
    unmoved(agent)


def test_a_batch_edit_by_shell_commands_without_output_is_work() -> None:
    agent = Agent(task="Rename `fetch` to `load` everywhere.")
    for i in range(30):
        agent.step(
            "bash", {"command": f"sed -i 's/fetch/load/g' src/handlers/handler_{i:02}.py"}, ""
        )
    unmoved(agent)


def test_a_batch_edit_in_one_message_is_work() -> None:
    agent = Agent(task="Rename `fetch` to `load` everywhere.")
    calls = [(f"c{i}", "write_file", {"path": f"m{i}.py", "content": "x = 1\n"}) for i in range(30)]
    agent.call(calling(*calls))
    agent.history += [came(f"c{i}", "File written successfully.") for i in reversed(range(30))]
    unmoved(agent)


def test_forty_pages_of_pagination_are_reading() -> None:
    agent = Agent(task="Count the orders of each customer.")
    for page in range(1, 41):
        rows = [
            {
                "order": 9000 + page * 25 + i,
                "customer": f"c{(page * 7 + i) % 90}",
                "total": i * page,
            }
            for i in range(25)
        ]
        agent.step("list_orders", {"page": page, "per_page": 25}, str(rows).replace("'", '"'))
    unmoved(agent)


def test_retries_after_a_rate_limit_with_waits_are_patience() -> None:
    agent = Agent(gap_s=2)
    for gap in (2, 4, 8, 16, 32):
        agent.gap_s = gap
        agent.step("search_web", {"q": "tram strike"}, "Error 429: Too Many Requests, retry later")
    agent.step("search_web", {"q": "tram strike"}, "The tram strike in Lyon ended on Tuesday.")
    unmoved(agent)


def test_a_customer_service_run_that_reads_five_reservations_is_work() -> None:
    agent = Agent(task="Hi, what trips do I have? I am mia_li_3668.")
    ids = ["JG7FMM", "LQ940Q", "2FBBAH", "X7BYG1", "EQ1G6C"]
    agent.step("get_user_details", {"user_id": "mia_li_3668"}, f'{{"reservations": {ids}}}')
    for number, name in enumerate(ids):
        agent.step(
            "get_reservation_details",
            {"reservation_id": name},
            f'{{"reservation_id": "{name}", "user_id": "mia_li_3668", "origin": "SFO", '
            f'"destination": "BOS", "cabin": "economy", "flights": [{{"number": "HAT{number}21", '
            f'"date": "2024-05-{number + 10}", "price": {120 + number * 13}}}]}}',
        )
    agent.says("You have five trips, all from San Francisco to Boston.")
    unmoved(agent)


def test_running_the_test_suite_again_after_each_edit_is_work() -> None:
    agent = Agent(task="Make the tests pass.")
    for i in range(12):
        agent.step("bash", {"command": "pytest -q"}, "1 failed, 41 passed in 0.31s")
        agent.step(
            "edit_file",
            {"path": "src/parse.py", "old": f"limit = {i}", "new": f"limit = {i + 1}"},
            "The file src/parse.py has been updated.",
        )
    agent.step("bash", {"command": "pytest -q"}, "42 passed in 0.30s")
    unmoved(agent)


def test_a_coding_agent_that_looks_and_edits_is_work() -> None:
    agent = Agent(task="Fix the crash in the importer.")
    agent.step("bash", {"command": "ls"}, "README.md\nsrc\ntests")
    agent.step("bash", {"command": "ls src"}, "importer.py\nmodel.py\nutil.py")
    agent.step("bash", {"command": "cat src/importer.py"}, "import csv\n\ndef rows(path):\n    ...")
    agent.step("bash", {"command": "grep -rn rows tests"}, "")
    agent.step(
        "bash", {"command": "cat src/util.py"}, "def clean(value):\n    return value.strip()"
    )
    agent.step(
        "bash", {"command": "python -m importer"}, "ModuleNotFoundError: No module named 'x'"
    )
    agent.step("bash", {"command": "pip install x"}, "Successfully installed x-1.2")
    agent.step("bash", {"command": "python -m importer"}, "ValueError: row 3 has no name")
    agent.step("edit_file", {"path": "src/importer.py", "old": "...", "new": "yield"}, "ok")
    agent.step("bash", {"command": "python -m importer"}, "14 rows")
    agent.says("The importer skipped nothing and works now.")
    unmoved(agent)


def test_a_talk_with_a_person_is_no_monologue() -> None:
    agent = Agent(task="Hello")
    for question in ("Can I bring a dog?", "And a cat?", "And two cats?", "How much is a bag?"):
        agent.says("I can help you with that. Could you please tell me your reservation number?")
        agent.hears(question)
    unmoved(agent)


def test_a_map_over_documents_with_one_run_id_is_work() -> None:
    tracker = Tracker("run_1", "classify")
    for i in range(30):
        agent = Agent(
            tracker, task=f"Is this review good? Review {chr(97 + i % 26) * 5} no {i}: fine"
        )
        agent.says("positive")
        assert agent.found == []


def test_yes_and_no_answers_about_different_things_are_news() -> None:
    agent = Agent(task="Which of these accounts are open?")
    for i in range(20):
        agent.step("is_account_open", {"account": f"AC-{i:04}"}, "true")
    unmoved(agent)


def test_searching_in_one_place_after_another_is_not_paused() -> None:
    agent = Agent(task="Where is the colour of the button set?")
    for pattern in ("btn-color", "buttonColour", "ButtonTheme", "--btn-bg", "color.button"):
        agent.step("grep", {"pattern": pattern, "path": "web"}, "No matches found")
    agent.step("grep", {"pattern": "accent", "path": "web"}, "web/theme.css:12: --accent: #1234aa;")
    agent.ask()
    assert agent.stage in (None, "nudge")


def test_a_plan_that_is_kept_up_to_date_is_work() -> None:
    agent = Agent()
    for i in range(15):
        agent.step("todo_write", {"todos": [f"step {n}: done" for n in range(i)]}, "ok")
        agent.step("read_file", {"path": f"src/part_{i}.py"}, f"class Part{i}:\n  size_{i} = {i}")
    unmoved(agent)
