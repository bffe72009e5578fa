"""The commands that stop and limit calls, on a real store with no server beside it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tocsin.cli import stops as stops_command
from tocsin.cli.commands import app
from tocsin.config.model import StoreSettings
from tocsin.core.clock import SystemClock
from tocsin.store import Store, open_store

CONFIG = """
[server]
data_dir = "{data}"

[limits.daily]
per = "day"
usd = 5

[limits.keys]
scope = "key"
per = "hour"
rolling = true
calls = 3

[limits.runs]
scope = "run"
per = "run"
tokens = 1000
depth = 2
"""

Run = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with settings and an empty store; commands wait for no server."""
    (tmp_path / "data").mkdir()
    (tmp_path / "tocsin.toml").write_text(CONFIG.format(data=tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stops_command, "_SILENT_S", 0.05)
    monkeypatch.delenv("TOCSIN_CONFIG", raising=False)
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Run:
    """Run a command; its JSON, or its exit code when one is expected."""

    def command(*words: str, code: int = 0) -> Any:
        done = CliRunner().invoke(app, [*words, *(() if code else ("--json",))])
        assert done.exit_code == code, (words, done.output)
        return json.loads(done.stdout) if not code else done.output

    return command


def store_of(folder: Path) -> Store:
    return open_store(StoreSettings(), folder / "data", SystemClock())


def test_a_stop_is_in_the_store_with_who_and_why(run: Run, folder: Path) -> None:
    said = run("stop", "--feature", "support", "--reason", "it loops")
    assert said["given"] is True
    store = store_of(folder)
    found = store.stop(said["id"])
    (audited,) = store.audit(limit=1)
    store.close()
    assert found is not None
    assert (found.scope, found.value, found.action, found.reason) == (
        "feature", "support", "kill", "it loops",
    )  # fmt: skip
    assert found.by.startswith("cli")
    assert (audited.action, audited.target) == ("stop.kill", said["id"])


def test_what_stands_already_is_kept_and_said(run: Run) -> None:
    first = run("stop", "--run", "run-1")
    again = run("pause", "--run", "run-1")
    assert (again["id"], again["given"]) == (first["id"], False)


@pytest.mark.parametrize(
    "words", [(), ("--run", "r", "--all"), ("--run", "no spaces please"), ("--feature", "")]
)
def test_it_must_be_clear_what_to_stop(run: Run, words: tuple[str, ...]) -> None:
    assert "say one of" in (said := run("stop", *words, code=2)) or "allowed" in said


def test_a_key_is_stopped_by_its_name_or_its_id(run: Run) -> None:
    issued = run("keys", "issue", "bot")
    assert run("pause", "--key", "bot")["value"] == issued["id"]
    assert run("resume", "--key", issued["id"])["stops"][0]["ending"] == "resumed"
    assert "no key has" in run("stop", "--key", "nobody", code=1)


def test_resuming_what_nothing_stops_is_an_error(run: Run) -> None:
    run("stop", "--all", "--yes")
    assert "nothing stops run run-1 itself" in run("resume", "--run", "run-1", code=1)
    run("resume", "--all")
    assert "no stop 'stop_unknown'" in run("resume", "stop_unknown", code=1)


def test_a_redirect_needs_a_note_and_a_held_run(run: Run) -> None:
    assert "--note" in run("redirect", "--run", "run-1", "--note", " ", code=2)
    assert "nothing stops" in run("redirect", "--run", "run-1", "--note", "x", code=1)
    run("pause", "--run", "run-1")
    (stop,) = run("redirect", "--run", "run-1", "--note", "Use the index.")["stops"]
    assert (stop["ending"], stop["note"]) == ("redirected", "Use the index.")


def test_an_end_is_for_good_whether_the_run_was_paused_or_not(run: Run) -> None:
    run("pause", "--run", "run-1")
    for name in ("run-1", "run-2"):
        (stop,) = run("end", "--run", name)["stops"]
        assert (stop["value"], stop["action"], stop["ending"]) == (name, "pause", "ended")
        assert "ended for good" in run("resume", "--run", name, code=2)
        assert "ended before" in run("end", "--run", name, code=2)
    assert len(run("stops")["stops"]) == 2


def test_the_list_shows_what_stands_and_on_request_what_was_lifted(run: Run, folder: Path) -> None:
    given = run("stop", "--run", "run-1", "--reason", "it\x1b[2J loops")
    store = store_of(folder)
    store.note_cut(given["id"], 3, 214_000)
    store.close()
    table = CliRunner().invoke(app, ["stops"]).stdout
    assert "in force" in table
    assert "214 ms" in table
    assert "\x1b[2J" not in table
    run("resume", given["id"])
    assert run("stops")["stops"] == []
    assert [stop["ending"] for stop in run("stops", "--all")["stops"]] == ["resumed"]


# -- limits --


def account(said: Any, name: str) -> Any:
    (found,) = [row for row in said["limits"] if row["limit"]["name"] == name]
    return found


def test_limits_show_what_is_left_before_any_call(run: Run) -> None:
    daily = account(run("limits"), "daily")
    assert daily["left"] == {
        "nano_usd": 5_000_000_000, "tokens": None, "calls": None, "tool_calls": None,
    }  # fmt: skip
    assert daily["resets_at"] > SystemClock().now_us()
    table = CliRunner().invoke(app, ["limits"]).stdout
    assert "$5.00" in table
    assert "runs: at most 2 ancestors of a run." in table


def test_a_limit_is_raised_for_one_account(run: Run) -> None:
    issued = run("keys", "issue", "bot")
    assert run("limits", "raise", "daily", "--usd", "2.5")["left"]["nano_usd"] == 7_500_000_000
    raised = run("limits", "raise", "keys", "--value", "bot", "--calls", "7")
    assert (raised["value"], raised["left"]["calls"]) == (issued["id"], 10)
    raised = run("limits", "raise", "runs", "--run", "run-1", "--tokens", "500")
    assert (raised["run_id"], raised["left"]["tokens"]) == ("run-1", 1500)
    assert account(run("limits", "--name", "keys"), "keys")["extra"]["calls"] == 7
    assert run("limits", "raise", "keys", "--value", "anonymous", "--calls", "1")["value"]


def test_a_raise_that_says_too_little_is_refused_in_words(run: Run) -> None:
    assert "there is no limit 'weekly'" in run("limits", "raise", "weekly", "--usd", "1", code=1)
    assert "by how much" in run("limits", "raise", "daily", code=2)
    assert "--value: say which key" in run("limits", "raise", "keys", "--calls", "1", code=2)
    assert "--run: say which run" in run("limits", "raise", "runs", "--tokens", "1", code=2)


def test_nothing_uncertain_gives_nothing_back(run: Run) -> None:
    assert "has no account" in run("limits", "reconcile", "daily", code=1)
    run("limits", "raise", "daily", "--usd", "1")
    said = run("limits", "reconcile", "daily", "--usd", "0")
    assert set(said["given_back"].values()) == {0}
