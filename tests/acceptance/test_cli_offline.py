"""Commands that need no running server: help, errors, settings, replay, export."""

import json
import resource
import subprocess
from pathlib import Path

import pytest
import typer

from acceptance.tocsin_command import COMMAND, environment, json_of, output_of, tocsin
from tocsin.cli.commands import app

NAMES = [
    name if not hasattr(command, "commands") else f"{name} {inner}"
    for name, command in typer.main.get_command(app).commands.items()  # type: ignore[attr-defined]
    for inner in getattr(command, "commands", {"": None})
]


def cpu_of(*args: str, folder: Path) -> float:
    """Seconds of processor time that a command takes, at best: other load does not count."""
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        tocsin(*args, folder=folder)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(took)


def test_help_answers_at_once(tmp_path: Path) -> None:
    assert cpu_of("--help", folder=tmp_path) < 0.3


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_an_example(name: str, tmp_path: Path) -> None:
    shown = output_of(*name.split(), "--help", folder=tmp_path)
    assert f"tocsin {name}" in shown.split("Examples:")[1]


def test_the_version_is_printed(tmp_path: Path) -> None:
    assert output_of("--version", folder=tmp_path).startswith("tocsin 0.")


@pytest.mark.parametrize(
    "args", [("nonsense",), ("runs", "--nonsense"), ("runs", "--limit", "x"), ("show",)]
)
def test_wrong_usage_is_exit_code_2_and_no_traceback(args: tuple[str, ...], tmp_path: Path) -> None:
    done = tocsin(*args, folder=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "Error: " in done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("runs", "--since", "yesterday"), "--since: found 'yesterday'; allowed: a span such as"),
        (("runs", "--sort", "size"), "--sort: found 'size'; allowed: last_at, started_at, cost"),
        (("runs", "--outcome", "bad"), "--outcome: found 'bad'; allowed: complete, truncated"),
        (("spend", "--by", "colour"), "--by: found 'colour'; allowed: feature, model"),
        (("completion", "tcsh"), "completion: found 'tcsh'; allowed: bash, zsh, fish"),
        (("export", "calls.csv"), "calls.csv: the name must end in one of .jsonl"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    args: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    (tmp_path / ".tocsin").mkdir()
    done = tocsin(*args, folder=tmp_path)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())


def test_looking_before_the_first_start_says_how_to_start(tmp_path: Path) -> None:
    done = tocsin("runs", folder=tmp_path)
    assert done.returncode == 1
    assert "start Tocsin with `tocsin up`" in " ".join(done.stderr.split())
    assert not (tmp_path / ".tocsin").exists(), "looking makes nothing"


# -- settings --


def test_check_names_file_line_setting_and_fix_of_everything(tmp_path: Path) -> None:
    (tmp_path / "tocsin.toml").write_text("[server]\nprot = 1\n[store]\nkeep_days = -1\n")
    done = tocsin("check", folder=tmp_path)
    assert done.returncode == 2
    assert (
        "tocsin.toml:2: server.prot: there is no such setting; did you mean `port`?" in done.stderr
    )
    assert "tocsin.toml:4: store.keep_days: found `-1`; allowed: a number above 0" in done.stderr
    assert "2 problems" in done.stderr


def test_check_speaks_json(tmp_path: Path) -> None:
    (tmp_path / "tocsin.toml").write_text("[server]\nprot = 1\n")
    done = tocsin("check", "--json", folder=tmp_path)
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"]) == (2, False)
    assert found["problems"][0]["line"] == 2
    assert found["problems"][0]["setting"] == "server.prot"


def test_check_of_nothing_is_fine(tmp_path: Path) -> None:
    assert "fine" in output_of("check", folder=tmp_path)


def test_a_wrong_file_stops_every_command_in_the_same_words(tmp_path: Path) -> None:
    (tmp_path / "tocsin.toml").write_text("[server]\nprot = 1\n")
    for command in (("up",), ("runs",), ("doctor",)):
        done = tocsin(*command, folder=tmp_path)
        assert done.returncode != 0
        assert "did you mean `port`?" in done.stderr + done.stdout
        assert "Traceback" not in done.stderr


def test_an_address_that_others_reach_is_refused_without_keys(tmp_path: Path) -> None:
    (tmp_path / "tocsin.toml").write_text("[auth]\nrequire_key = false\n")
    done = tocsin("up", "--host", "0.0.0.0", "--port", "0", folder=tmp_path)
    assert done.returncode == 2
    assert "require_key" in done.stderr


def test_doctor_finds_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "tocsin.toml").write_text('[upstreams.x]\napi_key_env = "X_KEY"\n')
    done = tocsin("doctor", "--json", folder=tmp_path)
    found = {f["name"]: f for f in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1
    assert found["keys"]["state"] == "failed"
    assert found["keys"]["fix"].startswith("export X_KEY=")
    assert found["python"]["state"] == found["disk"]["state"] == "ok"
    assert tocsin("doctor", folder=tmp_path, X_KEY="1").returncode == 0


# -- replay and export --


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def sessions_file(folder: Path, number: int = 3) -> Path:
    """Recorded sessions of two turns each, as OpenAI messages."""
    path = folder / "sessions.jsonl"
    lines = [
        {
            "model": "gpt-4o-mini",
            "messages": [
                message("user", f"question {i}"),
                message("assistant", f"answer {i}"),
                message("user", "and then?"),
                message("assistant", "nothing \u001b[31mred\u001b[0m"),
            ],
        }
        for i in range(number)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_replay_reports_without_touching_the_store(tmp_path: Path) -> None:
    sessions_file(tmp_path)
    found = json_of("replay", "sessions.jsonl", folder=tmp_path)
    assert (found["runs"], found["calls"], found["bad"]) == (3, 6, 0)
    assert not (tmp_path / ".tocsin").exists()


def test_replay_prints_no_escape_sequence_that_it_has_read(tmp_path: Path) -> None:
    sessions_file(tmp_path)
    assert "\x1b" not in output_of("replay", "sessions.jsonl", folder=tmp_path)


def test_a_record_that_cannot_be_read_is_named_by_line_and_nothing_else_is_lost(
    tmp_path: Path,
) -> None:
    path = sessions_file(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], '{"messages": [{"role"', lines[1]]) + "\n")
    done = tocsin("replay", "sessions.jsonl", "--json", folder=tmp_path)
    found = json.loads(done.stdout)
    assert (done.returncode, found["runs"], found["bad"]) == (1, 2, 1)
    assert [bad["line"] for bad in found["bad_lines"]] == [2]


def test_what_is_replayed_twice_is_kept_once(tmp_path: Path) -> None:
    sessions_file(tmp_path)
    first = json_of("replay", "sessions.jsonl", "--keep", folder=tmp_path)
    again = json_of("replay", "sessions.jsonl", "--keep", folder=tmp_path)
    assert (first["kept"], again["kept"]) == (6, 0)
    assert json_of("verify", folder=tmp_path) == {"ok": True, "calls": 6, "problems": []}


def test_a_report_is_written_as_a_page_that_loads_nothing(tmp_path: Path) -> None:
    sessions_file(tmp_path)
    output_of("replay", "sessions.jsonl", "--html", "report.html", folder=tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "question 0" in page


def test_a_file_that_is_not_there_or_is_no_trace_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "poem.txt").write_text("Shall I compare thee")
    for name in ("gone.jsonl", "poem.txt"):
        done = tocsin("replay", name, folder=tmp_path)
        assert done.returncode == 2
        assert name in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_an_export_read_back_gives_the_same_export(ending: str, tmp_path: Path) -> None:
    sessions_file(tmp_path)
    output_of("replay", "sessions.jsonl", "--keep", folder=tmp_path)
    output_of("export", f"one.{ending}", folder=tmp_path)
    other = {"TOCSIN_DATA_DIR": str(tmp_path / "other")}
    output_of("replay", f"one.{ending}", "--keep", folder=tmp_path, **other)
    output_of("export", "two.jsonl", folder=tmp_path, **other)
    output_of("export", "one.jsonl", "--force", folder=tmp_path)
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert (tmp_path / "two.jsonl").read_text().count("\n") >= 6


def test_an_export_never_replaces_a_file_unless_told_to(tmp_path: Path) -> None:
    sessions_file(tmp_path)
    output_of("replay", "sessions.jsonl", "--keep", folder=tmp_path)
    (tmp_path / "calls.jsonl").write_text("precious")
    done = tocsin("export", "calls.jsonl", folder=tmp_path)
    assert (done.returncode, (tmp_path / "calls.jsonl").read_text()) == (2, "precious")


def test_the_figures_are_written_as_parquet(tmp_path: Path) -> None:
    sessions_file(tmp_path)
    output_of("replay", "sessions.jsonl", "--keep", folder=tmp_path)
    found = json_of("export", "calls.parquet", folder=tmp_path)
    assert found["calls"] == 6
    assert (tmp_path / "calls.parquet").read_bytes()[:4] == b"PAR1"


# -- looking --


def test_runs_are_found_by_what_was_said(tmp_path: Path) -> None:
    sessions_file(tmp_path)
    output_of("replay", "sessions.jsonl", "--keep", "--feature", "chat", folder=tmp_path)
    found = json_of("runs", "-q", "question 1", folder=tmp_path)["runs"]
    assert [run["title"] for run in found] == ["question 1"]
    assert [run["feature"] for run in found] == ["chat"]


def test_a_run_is_told_in_the_order_in_which_it_happened(tmp_path: Path) -> None:
    sessions_file(tmp_path, 1)
    output_of("replay", "sessions.jsonl", "--keep", folder=tmp_path)
    (run,) = json_of("runs", folder=tmp_path)["runs"]
    told = output_of("show", run["id"][:20], folder=tmp_path)
    places = [told.index(word) for word in ("question 0", "answer 0", "and then?", "nothing")]
    assert places == sorted(places)
    assert "\x1b" not in told
    assert "␛[31mred" in told, "what would have acted is shown instead"


def test_an_id_that_nothing_has_is_exit_code_1(tmp_path: Path) -> None:
    sessions_file(tmp_path, 1)
    output_of("replay", "sessions.jsonl", "--keep", folder=tmp_path)
    done = tocsin("show", "run_nothing", folder=tmp_path)
    assert done.returncode == 1
    assert "there is no run or call 'run_nothing'" in done.stderr


def test_a_reader_that_has_had_enough_ends_the_command_quietly(tmp_path: Path) -> None:
    sessions_file(tmp_path, 200)
    output_of("replay", "sessions.jsonl", "--keep", folder=tmp_path)
    command = subprocess.Popen(
        (*COMMAND, "runs", "-n", "200", "--json"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert command.stdout is not None
    assert command.stderr is not None
    command.stdout.read(10)
    command.stdout.close()
    said = command.stderr.read()
    command.stderr.close()
    command.wait(timeout=20)
    assert b"Traceback" not in said
    assert b"Exception" not in said


def test_one_end_user_can_be_forgotten(tmp_path: Path) -> None:
    sessions_file(tmp_path, 1)
    output_of("replay", "sessions.jsonl", "--keep", folder=tmp_path)
    done = tocsin("forget", "nobody", "--yes", folder=tmp_path)
    assert (done.returncode, "nothing is recorded of" in done.stderr) == (1, True)


def test_the_completion_script_knows_the_command(tmp_path: Path) -> None:
    assert "tocsin" in output_of("completion", "bash", folder=tmp_path)


def test_segments_and_search_can_be_made_again(tmp_path: Path) -> None:
    sessions_file(tmp_path)
    output_of("replay", "sessions.jsonl", "--keep", folder=tmp_path)
    output_of("rebuild", folder=tmp_path)
    assert len(json_of("runs", "-q", "question", folder=tmp_path)["runs"]) == 3
