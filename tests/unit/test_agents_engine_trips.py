"""Loops as agents really run into them: the engine finds each, with evidence."""

import random
import uuid

import pytest

from tocsin.core.supervision import STAGES, Finding
from tocsin.domains.agents.engine import Tracker
from unit.agents_runs import Agent, calling, came, listing, say

LS = [
    "ls", "ls .", "ls ./", "ls -1", "ls -a", "ls -la", "ls -l", "ls -lah", "ls -R", "ls -F",
    "ls --color=never", "ls -1 .", "ls -a .", "ls -A", "ls -lt", "ls -lS", "ls -ltr", "ls -p",
    "ls $PWD", "ls -d *", "ls -1a", "ls -m", "ls -x", "ls -C", "ls -1p", "ls -1F",
]  # fmt: skip


def tripped(agent: Agent, by: int, stage: str = "pause") -> Finding:
    agent.ask()
    found = [f for f in agent.found if STAGES.index(f.stage) >= STAGES.index(stage)]  # type: ignore[arg-type]
    assert found, listing(agent.found)
    assert found[0].call <= by, listing(agent.found)
    assert found[0].evidence
    assert found[0].summary.endswith((".", "”", "times.")), found[0].summary
    return found[0]


def test_twenty_six_ls_variants_with_nothing_new_are_paused() -> None:
    agent = Agent()
    for command in LS:
        agent.step("bash", {"command": command}, "Makefile\nREADME.md\nsrc\ntests")
    tripped(agent, by=10)
    assert agent.stage == "kill"


def test_ls_variants_whose_format_differs_are_paused_too() -> None:
    agent = Agent()
    rows = [("Makefile", 812), ("README.md", 4311), ("src", 4096), ("tests", 4096)]
    for command in LS:
        long = " -l" in command
        lines = [
            f"-rw-r--r-- 1 dev dev {size} Jun  3 10:12 {name}" if long else name
            for name, size in rows
        ]
        agent.step("bash", {"command": command}, "\n".join(lines))
    tripped(agent, by=14)


def test_a_list_tool_with_other_arguments_and_the_same_listing_is_paused() -> None:
    agent = Agent()
    for i, path in enumerate([".", "./", "src/..", "/repo", "/repo/", "./src/../"] * 2):
        agent.step("list_directory", {"path": path, "depth": i}, "a.py b.py c.py")
    tripped(agent, by=10)


def test_forty_two_successful_repeats_are_killed() -> None:
    agent = Agent()
    for _ in range(42):
        agent.step("get_weather", {"city": "Lyon"}, '{"city": "Lyon", "temperature": 21}')
    found = tripped(agent, by=6)
    assert found.detector == "identical"
    assert len({step.arguments for step in found.evidence}) == 1
    assert agent.stage == "kill"


def test_forty_two_repeats_of_the_same_change_are_killed() -> None:
    agent = Agent()
    for _ in range(42):
        agent.step("write_file", {"path": "a.py", "content": "x = 1\n"}, "File written.")
    tripped(agent, by=6)
    assert agent.stage == "kill"


def test_identical_calls_with_other_ids_and_times_and_thoughts_are_identical() -> None:
    agent, dice = Agent(), random.Random(4)
    for i in range(12):
        agent.step(
            "query_metrics",
            {
                "query": "error_rate",
                "request_id": str(uuid.UUID(int=dice.getrandbits(128))),
                "timestamp": 1_750_000_000 + i * 7,
                "trace": {"traceId": f"{dice.getrandbits(128):032x}"},
            },
            f'{{"error_rate": 0.02, "at": "2025-06-15T10:{i:02}:31.52Z", "took_ms": {40 + i}}}',
            thought=f"Let me look at it once more, attempt {i}: {dice.random()}",
        )
    found = tripped(agent, by=6)
    assert found.detector == "identical"


@pytest.mark.parametrize("keep", [0, 2])
def test_a_history_compacted_each_five_calls_hides_nothing(keep: int) -> None:
    agent = Agent()
    for i in range(40):
        agent.step("query_metrics", {"query": "error_rate", "nonce": i}, '{"error_rate": 0.02}')
        if i % 5 == 4:
            summary = say(
                "user", f"Summary of the work so far: error_rate was queried {i + 1} times."
            )
            kept = agent.history[-2 * keep :] if keep else []
            agent.history = [agent.history[0], summary, *kept]
    tripped(agent, by=12)
    assert agent.stage == "kill"


def test_a_sliding_window_and_a_reminder_at_the_end_hide_nothing() -> None:
    agent = Agent()
    reminder = say("user", "Remember to be careful.")
    for _ in range(12):
        agent.step("get_weather", {"city": "Lyon"}, '{"temperature": 21}')
        agent.history = [*agent.history[:1], *[m for m in agent.history[1:] if m != reminder][-6:]]
        agent.history.append(reminder)
    tripped(agent, by=7)


def test_tool_call_ids_that_are_used_again_hide_nothing() -> None:
    agent = Agent()
    for _ in range(10):
        agent.call(calling(("call_0", "get_weather", {"city": "Lyon"})))
        agent.history.append(came("call_0", '{"temperature": 21}'))
    tripped(agent, by=6)


def test_parallel_duplicates_are_found_whatever_the_order_of_results() -> None:
    agent = Agent()
    for turn in range(4):
        names = [f"c{turn}_{i}" for i in range(3)]
        agent.call(calling(*[(name, "search", {"q": "lost parcel"}) for name in names]))
        agent.history += [came(name, "Parcel 77 is in Lyon.") for name in reversed(names)]
    tripped(agent, by=3)


def test_the_same_failure_with_other_arguments_is_paused() -> None:
    agent = Agent()
    for place in ("/etc/app", "/opt/app", "/srv/app", "/var/app", "/home/app", "/app", "/usr/app"):
        agent.step("read_file", {"path": f"{place}/settings.toml"}, f"Error: no such file {place}")
    found = tripped(agent, by=6)
    assert found.detector in ("same_failure", "near_duplicate")
    assert {step.outcome for step in found.evidence} == {"error:error no such file"}


def test_two_steps_in_turn_are_an_alternation() -> None:
    agent = Agent()
    for _ in range(6):
        agent.step("open_page", {"url": "https://a.example/one"}, "Page one. Go to page two.")
        agent.step(
            "open_page", {"url": "https://a.example/other-thing"}, "Page two. Go to page one."
        )
    tripped(agent, by=8)
    assert any(f.detector in ("alternation", "nothing_new", "no_progress") for f in agent.found)


def test_an_edit_made_and_unmade_is_a_loop() -> None:
    agent = Agent()
    for i in range(14):
        old, new = ("a", "b") if i % 2 else ("b", "a")
        agent.step("edit_file", {"path": "x.py", "old": old, "new": new}, "The file was updated.")
    tripped(agent, by=9)


ASK = [
    "Please verify the quarterly totals in the analysis and confirm that the figures are right.",
    "Could you verify the totals of the quarterly analysis again and confirm the figures?",
    "Verify the analysis once more, please: are the quarterly totals and the figures confirmed?",
    "I need the figures of the quarterly analysis verified again; please confirm all the totals.",
    "Kindly confirm again that the totals in our quarterly analysis are verified figures.",
]
REPLY = [
    "The totals look plausible but need another analysis before I can confirm these figures.",
    "Before confirming the figures I need another analysis; the totals do look plausible.",
    "The figures are plausible, yet another analysis of the totals is needed to confirm them.",
    "Another analysis is needed: the totals look plausible, but I cannot confirm the figures.",
    "I cannot confirm yet, the figures and totals look plausible, another analysis is needed.",
]


@pytest.mark.parametrize("named", [True, False])
def test_two_agents_that_pass_reworded_messages_to_and_fro_are_paused(named: bool) -> None:
    tracker = Tracker("run_1", "report")
    analyzer = Agent(tracker, system="You analyze.", task="Analyze the quarter.")
    verifier = Agent(tracker, system="You verify.", task="Verify what you are told.")
    if named:
        analyzer.name, verifier.name = "analyzer", "verifier"
    verifier.found = analyzer.found
    for turn in range(15):
        ask, reply = ASK[turn % 5], REPLY[turn % 5]
        analyzer.says(ask)
        verifier.hears(ask)
        verifier.says(reply)
        analyzer.hears(f"The verifier says: {reply}")
    found = tripped(analyzer, by=14)
    assert found.detector == "alternation"
    assert analyzer.stage == "kill"


def test_two_agents_that_hand_over_by_tool_with_reworded_messages_are_paused() -> None:
    tracker = Tracker("run_1", "report")
    analyzer = Agent(tracker, system="You analyze.", name="analyzer")
    verifier = Agent(tracker, system="You verify.", name="verifier")
    verifier.found = analyzer.found
    for turn in range(15):
        analyzer.step(
            "transfer_to_verifier", {"message": ASK[turn % 5]}, "Transferred to verifier."
        )
        verifier.step(
            "transfer_to_analyzer", {"message": REPLY[turn % 5]}, "Transferred to analyzer."
        )
    tripped(analyzer, by=24)


def test_an_agent_that_talks_to_itself_is_paused() -> None:
    agent = Agent()
    for text in ASK * 3:
        agent.says(text)
    found = tripped(agent, by=10)
    assert found.detector == "monologue"


def test_actions_told_in_plain_text_are_steps() -> None:
    agent = Agent()
    for i in range(7):
        agent.says(f"Thought {i}: I must search again.\nAction {i}: Search[Scatman John]")
        agent.hears(f"Observation {i}: Could not find [Scatman John]. Similar: ['Scat']")
    found = tripped(agent, by=5)
    assert found.evidence[0].tool == "Search"


def test_hammering_a_rate_limit_is_no_patience() -> None:
    agent = Agent(gap_s=0.2)
    for _ in range(15):
        agent.step("search_web", {"q": "tram"}, "Error 429: rate limit exceeded")
    tripped(agent, by=9)


def test_polls_without_known_times_are_repeats() -> None:
    agent = Agent()
    for _ in range(8):
        agent.step("get_build_status", {"build": 8841}, '{"state": "waiting"}')
    tripped(agent, by=6)


def test_something_new_now_and_then_does_not_hide_twenty_idle_steps() -> None:
    agent = Agent()
    for i in range(60):
        if i % 8 == 7:
            agent.step("read_file", {"path": f"n{i}.txt"}, f"wholly fresh words number{i} about{i}")
        else:
            agent.step("list_directory", {"path": "/" * (i % 5 + 1)}, "a.py b.py c.py")
    tripped(agent, by=40)
