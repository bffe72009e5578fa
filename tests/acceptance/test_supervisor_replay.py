"""``tocsin replay --policy agents``: what the supervisor would have done to recorded runs."""

import json
from pathlib import Path
from typing import Any

from acceptance.tocsin_command import tocsin


def trajectory(task: int, reward: float, results: list[str]) -> dict[str, Any]:
    """A tau-bench run that asks for the same booking again and again."""
    said: list[dict[str, Any]] = [
        {"role": "system", "content": "You book flights."},
        {"role": "user", "content": f"Please book flight {task}."},
    ]
    for number, result in enumerate(results):
        function = {"name": "book", "arguments": json.dumps({"flight": task})}
        call = {"id": f"t{number}", "type": "function", "function": function}
        said.append({"role": "assistant", "content": None, "tool_calls": [call]})
        said.append({"role": "tool", "tool_call_id": f"t{number}", "content": result})
    said.append({"role": "assistant", "content": "That is all that I can do."})
    return {"task_id": task, "reward": reward, "info": {}, "traj": said, "trial": 0}


def written(folder: Path, *, results: bool = True) -> str:
    stuck = ["Error: payment \x1b[31mdeclined"] * 6
    runs = [trajectory(i, 0.0, stuck) for i in range(3)]
    runs += [trajectory(10 + i, 1.0, [f"booked, seat {i}A"]) for i in range(4)]
    if not results:
        runs = [{**run, "reward": None} for run in runs]
    path = folder / "runs.json"
    path.write_text(json.dumps(runs))
    return str(path)


def test_it_says_where_each_stage_acts_and_how_often_it_is_right(tmp_path: Path) -> None:
    done = tocsin("replay", written(tmp_path), "--policy", "agents", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["results"] == {"halted": 0, "failure": 3, "success": 4}
    nudge, pause, _ = found["stages"]
    assert (nudge["name"], nudge["runs"]) == ("nudge", 3)
    assert pause["recall"]["count"] == 3
    assert pause["recall"]["underpowered"]
    assert pause["flagged"]["success"]["count"] == 0
    assert pause["calls_saved"] > 0
    assert found["baseline"]["runs"] == 3
    first = found["verdicts"][0]
    assert first["pause"]["detector"]
    assert first["pause"]["call"] >= first["nudge"]["call"] > 1
    assert "\x1b" not in done.stdout


def test_people_get_tables_with_intervals_the_baseline_and_the_evidence(tmp_path: Path) -> None:
    done = tocsin("replay", written(tmp_path), "--policy", "agents", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    text = done.stdout
    for words in ("7 runs", "nudge", "pause", "kill", "3 identical", "underpowered", "Wilson"):
        assert words in text
    assert "book" in text
    assert "\x1b" not in text
    assert not (tmp_path / ".tocsin").exists()


def test_files_without_results_get_no_word_on_being_right(tmp_path: Path) -> None:
    path = written(tmp_path, results=False)
    done = tocsin("replay", path, "--policy", "agents", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Precision" not in done.stdout
    assert "do not tell success from failure" in done.stdout


def test_what_cannot_be_tried_is_named_and_bad_records_fail(tmp_path: Path) -> None:
    path = written(tmp_path)
    done = tocsin("replay", path, "--policy", "drift", folder=tmp_path)
    assert done.returncode == 2
    assert "agents" in done.stderr
    done = tocsin("replay", path, "--policy", "agents", "--keep", folder=tmp_path)
    assert done.returncode == 2
    runs = json.loads(Path(path).read_text())
    Path(path).write_text(json.dumps([*runs, {"task_id": 1, "traj": "?"}]))
    done = tocsin("replay", path, "--policy", "agents", folder=tmp_path)
    assert done.returncode == 1
    assert "traj" in done.stderr
