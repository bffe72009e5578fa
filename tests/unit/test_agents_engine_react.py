"""ReAct transcripts become runs, and every run says how it came out."""

import json
from pathlib import Path

import pytest

from tocsin.core.errors import InputError
from tocsin.core.interaction import Entry
from tocsin.importers import BadRecord, detect, read

TRANSCRIPT = """
########################################
BEGIN TRIAL 1
Trial summary: Correct: 1, Incorrect: 1, Halted: 1
#######################################
------------- BEGIN CORRECT AGENTS -------------

Question: Which river runs through Lyon?
Thought 1: I need to search Lyon.
Action 1: Search[Lyon]
Observation 1: Lyon is a city in France.
It lies where two rivers meet.
Thought 2: Look for the river.
Action 2: Lookup[river]
Observation 2: (Result 1/2) The Rhône [and] the Saône.
Thought 3: The answer is the Rhône.
Action 3: Finish[Rhône]
Observation 3: Answer is CORRECT
Correct answer: Rhône

------------- BEGIN INCORRECT AGENTS -----------

Question: Who was it?
Thought 1: I do not know.
Action 1: Finish[nobody]
Observation 1: Answer is INCORRECT
Correct answer: somebody

Question: A question without any action
Thought 1: Hm.

------------- BEGIN HALTED AGENTS --------------

Question: Where?
Thought 1: Search.
Action 1: Search[where]
Observation 1: Could not find [where]. Similar: []
Correct answer: there
"""


@pytest.fixture
def transcript(tmp_path: Path) -> Path:
    path = tmp_path / "react.txt"
    path.write_text(TRANSCRIPT)
    return path


def test_a_transcript_is_recognised_by_its_content(transcript: Path) -> None:
    assert detect(transcript).name == "react"


def test_each_thought_with_its_action_is_a_call_with_the_history_before_it(
    transcript: Path,
) -> None:
    entries = [e for e in read(transcript) if isinstance(e, Entry)]
    assert [len(e.input) for e in entries] == [1, 3, 5, 1, 1]
    third = entries[2]
    assert [m.role for m in third.input] == ["user", "assistant", "tool", "assistant", "tool"]
    assert json.loads(third.input[2].raw)["content"].endswith("It lies where two rivers meet.")
    assert json.loads(third.input[4].raw)["content"].endswith("The Rhône [and] the Saône.")
    assert third.output is not None
    call = third.output.calls[0]
    assert (call.name, json.loads(call.arguments)) == ("Finish", {"input": "Rhône"})
    assert json.loads(third.output.raw)["content"] == "The answer is the Rhône."


def test_how_a_run_came_out_stands_on_its_last_call(transcript: Path) -> None:
    entries = [e for e in read(transcript) if isinstance(e, Entry)]
    told = [e.interaction.attributes.get("result") for e in entries]
    assert told == [None, None, "success", "failure", "halted"]
    assert len({e.interaction.run_id for e in entries}) == 3
    assert entries[2].interaction.attributes["react.answer"] == "Rhône"
    assert entries[0].interaction.attributes["time"] == "unknown"


def test_an_episode_without_an_action_is_reported(transcript: Path) -> None:
    bad = [e for e in read(transcript) if isinstance(e, BadRecord)]
    assert [b.reason for b in bad] == ["the episode has no Action, so it holds no finished call"]
    assert TRANSCRIPT.splitlines()[bad[0].line - 1] == "Question: A question without any action"


def test_the_same_transcript_gives_the_same_runs(transcript: Path) -> None:
    first, second = (
        [e.interaction.id for e in read(transcript) if isinstance(e, Entry)] for _ in range(2)
    )
    assert first == second


def test_text_that_is_no_transcript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Question: why?\nBecause.\n")
    with pytest.raises(InputError, match="ReAct transcripts"):
        detect(path)


def test_a_tau_bench_run_says_how_it_came_out(tmp_path: Path) -> None:
    traj = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    path = tmp_path / "tau.json"
    path.write_text(
        json.dumps(
            [{"task_id": i, "reward": i, "info": {}, "traj": traj, "trial": 0} for i in (0, 1)]
        )
    )
    told = [e.interaction.attributes["result"] for e in read(path) if isinstance(e, Entry)]
    assert told == ["failure", "success"]
