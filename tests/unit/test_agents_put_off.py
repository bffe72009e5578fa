"""What is judged after a call was sent: only calls in which nothing can be found."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.domains.agents.engine import Tracker
from tocsin.domains.agents.history import New
from unit.agents_runs import Agent, calling, came, listing
from unit.test_agents_policy import Loop

RESULTS = (
    *("Error: no such file", "Error: connection refused", "", "No results", "ok", "pending"),
    *("a.txt b.txt", "42", "429 too many requests", "a.txt b.txt c.txt notes.md"),
    *(f"Record {n}: " + " ".join(f"word{n}x{i}" for i in range(20)) for n in range(4)),
)

_steps = st.tuples(
    st.sampled_from(["read", "write_file", "search", "think"]),
    st.integers(0, 3),
    st.sampled_from([*RESULTS, "fresh"]),
)
_moves = st.one_of(
    _steps,
    _steps.map(lambda step: (step[0], step[1], "fresh")),
    st.sampled_from(["says", "hears", "again", "two", "forgets", "lost"]),
)


class AtOnce(Tracker):
    """Puts nothing off."""

    def _is_plain(self, added: New) -> bool:
        return False


def play(agent: Agent, number: int, move: Any) -> None:
    """One move of an agent."""
    tokens, nano = 100 + number * number * 50, 1_000 + number * number * 300
    new = " ".join(f"news{number}n{i}" for i in range(20))
    if move == "says":
        agent.says(f"I think about {number % 3}.")
    elif move == "hears":
        agent.hears(f"Now do {number % 4}, please.")
    elif move == "again":
        agent.ask()
    elif move == "two":
        asked = [(f"p{number}{i}", "read", {"path": str(i)}) for i in range(2)]
        agent.call(calling(*asked), tokens, nano)
        agent.history += [came(f"p{number}{i}", RESULTS[number % 5]) for i in range(2)]
    elif move == "forgets":
        del agent.history[2:-2]
    elif move == "lost":
        agent.call(calling((f"l{number}", "read", {"path": "lost"})), tokens, nano)
    else:
        tool, what, result = move
        agent.call(calling((f"c{number}", tool, {"path": f"/srv/{what}"})), tokens, nano)
        agent.history.append(came(f"c{number}", new if result == "fresh" else result))


@settings(max_examples=300, deadline=None)
@given(st.lists(_moves, max_size=40), st.sampled_from([None, 3]))
def test_what_is_put_off_changes_nothing_that_is_found(
    moves: list[Any], expected: int | None
) -> None:
    later = Agent(Tracker("run_1", "feature", expected_calls=expected), gap_s=2)
    at_once = Agent(AtOnce("run_1", "feature", expected_calls=expected), gap_s=2)
    for number, move in enumerate(moves):
        for agent in (later, at_once):
            play(agent, number, move)
        assert listing(later.found) == listing(at_once.found)
    assert later.tracker.watch() == at_once.tracker.watch()


def test_a_run_that_gets_somewhere_is_judged_after_its_calls_were_sent() -> None:
    agent, put_off = Agent(), 0
    for number in range(60):
        play(agent, number, ("read", number, "fresh"))
        agent.ask()
        put_off += agent.tracker.behind
    assert put_off > 50


@pytest.mark.asyncio
async def test_the_policy_catches_up_when_the_loop_has_a_turn() -> None:
    loop = Loop(nudge="observe")
    for number in range(4):
        await loop.turn(path=f"/srv/{number}", result=" ".join(f"n{number}n{i}" for i in range(20)))
    (run,) = loop.policy._runs.values()
    assert run.behind
    await asyncio.sleep(0)
    assert not run.behind
    assert run.watch().calls == 4
