"""``tocsin label``: verdicts of people, by id, one after another in a terminal, and as a file."""

import json
import os
import pty
import subprocess
import time
from pathlib import Path

import pytest

from acceptance.tocsin_command import COMMAND, environment, json_of, output_of, tocsin
from tocsin.config.model import StoreSettings
from tocsin.core.clock import SystemClock
from tocsin.core.score import Feedback
from tocsin.store import Store, open_store

QUESTIONS = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with six recorded calls, scored."""
    lines = [
        json.dumps({"messages": [
            {"role": "user", "content": f"What is {n} plus {n}?"},
            {"role": "assistant", "content": f"It is \x1b[31m{2 * n}."},
        ]})
        for n in range(QUESTIONS)
    ]  # fmt: skip
    (tmp_path / "calls.jsonl").write_text("\n".join(lines) + "\n")
    output_of("replay", "calls.jsonl", "--keep", "--feature", "sums", folder=tmp_path)
    return tmp_path


def calls_of(folder: Path, *args: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json_of("label", "--since", "all", *args, folder=folder)[
        "calls"
    ]
    return found


def opened(folder: Path) -> Store:
    return open_store(StoreSettings(), folder / ".tocsin", SystemClock())


def labels(folder: Path) -> list[Feedback]:
    store = opened(folder)
    rows = [row for _, row in store.feedback_after(0, limit=100)]
    store.close()
    return rows


def test_a_call_is_labelled_by_its_id(folder: Path) -> None:
    call = str(calls_of(folder)[0]["call"])
    output_of("label", call, "--wrong", "--comment", "off by one", folder=folder)
    (row,) = labels(folder)
    assert (row.kind, row.value, row.comment) == ("label", 0.0, "off by one")
    assert row.interaction_id == call
    assert call not in [one["call"] for one in calls_of(folder)]


def test_a_sample_is_the_same_for_the_same_seed(folder: Path) -> None:
    first = calls_of(folder, "--seed", "7", "--count", "3")
    assert len(first) == 3
    assert calls_of(folder, "--seed", "7", "--count", "3") == first
    assert "plus" in str(first[0]["request"])


def test_labels_are_exported_with_what_was_asked_and_answered(folder: Path) -> None:
    call = str(calls_of(folder)[0]["call"])
    output_of("label", call, "--right", folder=folder)
    output_of("label", "--export", "labels.jsonl", "--since", "all", folder=folder)
    (line,) = (folder / "labels.jsonl").read_text().splitlines()
    read = json.loads(line)
    assert (read["call"], read["right"], read["feature"]) == (call, True, "sums")
    assert read["messages"][0]["role"] == "user"
    assert "It is" in read["answer"]["content"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("label", "call_x", "--right", "--wrong"), "--right and --wrong contradict each other"),
        (("label", "call_x"), "say --right or --wrong"),
        (("label", "--from", "luck"), "--from: found 'luck'; allowed: random, judged"),
        (("label", "--since", "all"), "needs a terminal"),
    ],
)
def test_what_is_wrong_is_said(folder: Path, args: tuple[str, ...], said: str) -> None:
    done = tocsin(*args, folder=folder)
    assert done.returncode == 2
    assert said in done.stderr


def test_an_unknown_call_is_an_error(folder: Path) -> None:
    done = tocsin("label", "call_unknown", "--right", folder=folder)
    assert done.returncode == 1
    assert "call_unknown" in done.stderr


def test_in_a_terminal_answers_are_shown_and_verdicts_kept(folder: Path) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        (*COMMAND, "label", "--since", "all", "--count", "4"),
        cwd=folder, env=environment(TERM="dumb"), stdin=slave, stdout=slave, stderr=slave,
    )  # fmt: skip
    os.close(slave)
    shown = ""
    for keys in ("y\n", "c\ntoo short\nn\n", "s\n", "q\n"):
        shown = _until(master, shown, "[q] quit: ", shown.count("[q] quit: ") + 1)
        for key in keys.splitlines():
            os.write(master, f"{key}\n".encode())
            time.sleep(0.2)
    assert process.wait(timeout=30) == 0
    os.close(master)
    assert "It is" in shown
    assert "\x1b[31m" not in shown  # what was recorded does not act in the terminal
    rows = labels(folder)
    assert [(row.value, row.comment) for row in rows] == [(1.0, ""), (0.0, "too short")]


def _until(master: int, shown: str, wanted: str, times: int) -> str:
    deadline = time.monotonic() + 30
    while shown.count(wanted) < times and time.monotonic() < deadline:
        shown += os.read(master, 65_536).decode(errors="replace")
    assert shown.count(wanted) >= times, shown
    return shown
