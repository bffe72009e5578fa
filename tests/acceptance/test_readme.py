"""Every command that the README shows is run, as it stands there."""

import os
import re
import shlex
import subprocess
import tomllib
from contextlib import closing
from pathlib import Path

import pytest

from acceptance.test_cli_offline import sessions_file
from acceptance.tocsin_command import COMMAND, SCRIPTED, environment, json_of, tocsin
from tocsin.config import load
from tocsin.core.clock import SystemClock
from tocsin.core.operations import Event, Operation
from tocsin.ledger import limits_of
from tocsin.store import open_store
from tocsin.store.operations_api import Written

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


COMMANDS = [
    line.split("  #")[0].strip()
    for block in blocks("sh")
    for line in block.splitlines()
    if line.strip()
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where somebody has read a file of traces already."""
    path = tmp_path_factory.mktemp("readme")
    sessions_file(path).rename(path / "traces.jsonl")
    (path / "tocsin.toml").write_text(SCRIPTED)
    assert tocsin("replay", "traces.jsonl", "--keep", folder=path).returncode == 0
    keep_response(path)
    return path


def keep_response(folder: Path) -> None:
    """A response under the name that the README gives it, complete after 45 events."""
    events = tuple(Event(n, "response.output_text.delta", n, b"{}") for n in range(45))
    config = load(folder / "tocsin.toml", {})
    data_dir = Path(config.server.data_dir)
    with closing(open_store(config.store, data_dir, SystemClock())) as store:
        row = Operation(id="resp_...", kind="response", feature="default", created_at=1)
        store.operations.create(row, b"{}", events)
        ended = {"status": "ended", "outcome": "complete", "ended_at": 2}
        store.operations.write([Written(operation_id=row.id, changes=ended, result=b"{}")])


@pytest.mark.parametrize("line", [c for c in COMMANDS if c.startswith("tocsin ")])
def test_a_tocsin_command_of_the_readme_runs(line: str, folder: Path) -> None:
    words = shlex.split(line)[1:]
    if words[0] == "show":
        words[1] = json_of("runs", folder=folder)["runs"][0]["id"]
    if "--feature" in words:
        at = words.index("--feature") + 1
        words[at] = json_of("runs", folder=folder)["runs"][0]["feature"]
    if words[0] == "tail":
        ended = subprocess.run(
            ("timeout", "-s", "INT", "3", *COMMAND, *words),
            cwd=folder,
            env=environment(),
            capture_output=True,
        )
        assert ended.returncode in (124, 130)
        return
    done = tocsin(*words, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("line", [c for c in COMMANDS if c.startswith("make ")])
def test_a_target_of_the_readme_can_be_made(line: str) -> None:
    done = subprocess.run(
        (*shlex.split(line), "--dry-run"), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", [c for c in COMMANDS if c.startswith("export ")])
def test_a_variable_of_the_readme_is_set_by_a_shell(line: str) -> None:
    name = line.split()[1].split("=")[0]
    shell = f"{line} && printenv {name}"
    done = subprocess.run(("sh", "-c", shell), capture_output=True, text=True)
    assert done.stdout.startswith("http://127.0.0.1:4600")


def test_every_command_of_the_readme_is_run_by_some_test() -> None:
    tested = ("tocsin ", "make ", "export ")
    installing = ("python3 -m venv", ".venv/bin/pip install")
    left = [c for c in COMMANDS if not c.startswith(tested + installing)]
    assert left == []


def test_the_installation_of_the_readme_is_the_one_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for line in COMMANDS:
        if line.startswith(".venv/bin/pip install "):
            assert line.removeprefix(".venv/bin/pip install ") in makefile


def test_the_settings_of_the_readme_are_good(tmp_path: Path) -> None:
    examples = blocks("toml")
    assert examples
    path = tmp_path / "tocsin.toml"
    for example in examples:
        path.write_text(example)
        config, said = load(path, os.environ), tomllib.loads(example)
        limits_of(config)
        assert set(config.upstreams) >= set(said.get("upstreams", ()))
        assert set(config.limits) == set(said.get("limits", ()))
