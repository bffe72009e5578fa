"""The commands on how features behave, run as users run them, over a real store."""

import json
import os
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from acceptance.test_cli_offline import sessions_file
from acceptance.tocsin_command import SCRIPTED, json_of, output_of, serving, tocsin
from store_world import DAY, SECOND, entry
from tocsin.config.model import StoreSettings
from tocsin.core.clock import SystemClock
from tocsin.core.domain import Alert
from tocsin.core.score import Score
from tocsin.core.signals import AXIS_SIGNALS, FEEDBACK_SIGNALS, Scored, slices_of
from tocsin.store import open_store

CATALOGUE = {signal.name: signal for signal in (*AXIS_SIGNALS, *FEEDBACK_SIGNALS)}

SETTINGS = """
[objectives.answers]
feature = "support"
signal = "appropriate"
target = 0.95
min_events = 20
proof = "labelled_right"

[objectives.search-answers]
feature = "search"
signal = "appropriate"
target = 0.9
min_events = 20

[digest]
urls_env = "DIGEST_URLS"
"""


def fill(folder: Path) -> None:
    """Two weeks of two features; since two days ago `support` refuses, on its new release."""
    now = SystemClock().now_us()
    (folder / ".tocsin").mkdir()
    store = open_store(StoreSettings(), folder / ".tocsin", SystemClock())
    entries, rows = [], []
    for number in range(1400):
        age = (1400 - number) * 14 * DAY // 1400
        at = now - age
        feature = "search" if number % 4 == 0 else "support"
        new = feature == "support" and age < 2 * DAY
        bad = number % 50 == 0 if not new else number % 3 == 0
        made = entry(
            number,
            started_at=at,
            feature=feature,
            release="41" if new else "40",
            duration_us=SECOND,
        )
        one = made.interaction
        values = {"appropriate": float(not bad), "correct": 1.0}
        if feature == "support":
            values["objective_answers"] = values["appropriate"]
        scores = tuple(
            Score(interaction_id=one.id, name=name, version="1", value=value)
            for name, value in values.items()
        )
        entries.append(made)
        rows.append(Scored(interaction=one, scores=scores, slices=slices_of(one)))
    store.append(entries)
    store.add_scores(rows, CATALOGUE)
    store.raise_alerts(
        [
            Alert(
                fingerprint="drift:support:appropriate",
                detector="drift",
                feature="support",
                severity="critical",
                state="firing",
                at=now - 2 * DAY,
                summary="Appropriate fell <b>hard</b> | since `release 41`",
                signal="appropriate",
            )
        ]
    )
    store.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signals")
    (folder / "tocsin.toml").write_text(SETTINGS)
    fill(folder)
    return folder


# -- signals --


def test_signals_says_what_got_worse_by_how_much_and_on_how_many_calls(world: Path) -> None:
    shown = output_of("signals", "--since", "2d", folder=world)
    line = next(row for row in shown.splitlines() if "support" in row and "appropriate" in row)
    assert re.search(r"6\d %\s+\d\d–\d\d %", line)
    assert "worse" in line
    assert re.search("[▁▂▃▄▅▆▇█]", line)
    assert "against the 28 days before" in shown
    search = shown.split("search")[1].split("support")[0]
    assert "worse" not in search


def test_signals_as_json_hold_value_interval_verdict_and_series(world: Path) -> None:
    found = json_of("signals", "--since", "2d", "--feature", "support", folder=world)
    one = next(s for s in found["signals"] if s["signal"] == "appropriate")
    assert one["verdict"] == "worse"
    assert one["value"]["low"] < one["value"]["value"] < one["value"]["high"]
    assert one["difference"]["high"] < 0
    assert one["calls"] == sum(step[1] for step in one["series"]) > 100
    assert {s["feature"] for s in found["signals"]} == {"support"}


def test_a_slice_shows_who_carries_it(world: Path) -> None:
    found = json_of(
        "signals", "--since", "7d", "--feature", "support", "--signal", "appropriate",
        "--slice", "release", folder=world,
    )["signals"]  # fmt: skip
    by_slice = {one["slice"]: one["value"]["value"] for one in found}
    assert set(by_slice) == {None, "40", "41"}
    assert by_slice["41"] < 0.75 < by_slice["40"]
    shown = output_of(
        "signals", "--since", "7d", "--feature", "support", "--slice", "release", folder=world
    )
    assert "41" in shown


def test_every_signal_is_named_with_its_meaning(world: Path) -> None:
    shown = output_of("signals", "--list", folder=world)
    assert "labelled_right" in shown
    assert "a person, or a check that knows, called right" in " ".join(shown.split())
    assert {s["name"] for s in json_of("signals", "--list", folder=world)["signals"]} >= set(
        CATALOGUE
    )


def test_a_wrong_signal_gets_the_nearest_right_one(world: Path) -> None:
    done = tocsin("signals", "--signal", "apropriate", folder=world)
    assert done.returncode == 2
    assert "did you mean `appropriate`?" in " ".join(done.stderr.split())
    done = tocsin("signals", "--slice", "colour", folder=world)
    assert "allowed: release, model" in " ".join(done.stderr.split())


def test_a_level_that_is_called_normal_begins_a_new_baseline_until_undone(world: Path) -> None:
    said = output_of(
        "signals", "accept", "support", "appropriate", "--since", "2d", "--note", "meant",
        folder=world,
    )  # fmt: skip
    assert "normal since" in said
    found = json_of("signals", "--since", "1d", "--feature", "support", folder=world)["signals"]
    one = next(s for s in found if s["signal"] == "appropriate")
    assert one["normal_since"]
    assert one["verdict"] != "worse"
    assert "own past" in output_of(
        "signals", "accept", "support", "appropriate", "--undo", folder=world
    )
    again = tocsin("signals", "accept", "support", "appropriate", "--undo", folder=world)
    assert again.returncode == 1


# -- objectives --


def test_objectives_show_budgets_and_exit_1_while_one_burns(world: Path) -> None:
    done = tocsin("objectives", folder=world)
    assert done.returncode == 1
    text = " ".join(done.stdout.split())
    assert "answers support appropriate 95 % / 30d" in text
    assert "burning: " in text
    assert "labelled_right nothing graded yet: underpowered" in text
    done = tocsin("objectives", "--feature", "search", folder=world)
    assert done.returncode == 0, done.stdout
    assert "ok" in done.stdout


def test_objectives_as_json(world: Path) -> None:
    done = tocsin("objectives", "--json", folder=world)
    found = {one["name"]: one for one in json.loads(done.stdout)["objectives"]}
    one = found["answers"]
    assert one["events"] == 1050
    assert one["good"]["low"] < one["good"]["value"] < one["good"]["high"]
    assert one["left"] == pytest.approx(1 - one["used"])
    assert list(one["burn_rates"]) == ["1h", "5m", "6h", "30m", "3d"] or "3d" in one["burn_rates"]
    assert one["proof"]["needed"] > 0
    assert found["search-answers"]["events"] == 350, "a rate's own sums stand in"


@pytest.mark.parametrize(
    ("changed", "line", "message"),
    [
        ('signal = "apropriate"', 4, "there is no signal `apropriate`; did you mean `appropriate`"),
        ('signal = "rating"', 4, "`rating` is a level: say which values are good; set at_least"),
        ('signal = "appropriate"\nproof = "nobody"', 5, "there is no signal `nobody`"),
        ('signal = "appropriate"\nproof = "rating"', 5, "does not say right or wrong"),
        ('signal = "correct"\nproof = "correct"', 5, "proves nothing about itself"),
        ('signal = "rating"\nat_least = 3\nat_most = 2', 5, "no call could be good"),
    ],
)
def test_check_names_what_is_wrong_with_an_objective(
    changed: str, line: int, message: str, tmp_path: Path
) -> None:
    (tmp_path / "tocsin.toml").write_text(
        f'[objectives.answers]\nfeature = "support"\ntarget = 0.95\n{changed}\n'
    )
    done = tocsin("check", folder=tmp_path)
    assert done.returncode == 2
    told = " ".join(done.stderr.split())
    assert f"tocsin.toml:{line}: objectives.answers." in told
    assert message in told


def test_check_knows_what_the_digest_needs(tmp_path: Path) -> None:
    (tmp_path / "tocsin.toml").write_text('[digest]\nurls_env = "URLS"\ntimezone = "Mars"\n')
    done = tocsin("check", folder=tmp_path)
    assert done.returncode == 2
    assert "tocsin.toml:3: digest.timezone: no time zone 'Mars'" in " ".join(done.stderr.split())
    (tmp_path / "tocsin.toml").write_text('[digest]\nurls_env = "mailto://me:secret@host"\n')
    done = tocsin("check", folder=tmp_path)
    assert "must be the NAME of an environment variable" in " ".join(done.stderr.split())
    assert "secret@" not in done.stderr
    (tmp_path / "tocsin.toml").write_text('[digest]\nurls_env = "URLS"\n')
    assert "URLS is not set, so no digest is sent" in " ".join(
        output_of("check", folder=tmp_path).split()
    )


def test_check_takes_a_slip_in_a_features_name_for_one(tmp_path: Path) -> None:
    text = '[upstreams.script]\nkind = "scripted"\n[features.support]\n[objectives.a]\n'
    objective = 'feature = "{}"\nsignal = "correct"\ntarget = {}\n'
    (tmp_path / "tocsin.toml").write_text(text + objective.format("suport", 0.9))
    done = tocsin("check", folder=tmp_path)
    assert done.returncode == 2
    assert "there is no feature `suport`; did you mean `support`?" in " ".join(done.stderr.split())
    (tmp_path / "tocsin.toml").write_text(text + objective.format("batch", 0.7))
    done = tocsin("check", folder=tmp_path)
    assert done.returncode == 0
    told = " ".join(done.stdout.split())
    assert "objectives.a.feature: `batch` has no table in [features]" in told
    assert "objectives.a.target: allows so much" in told


def test_a_running_tocsin_counts_for_objectives_and_alerts(tmp_path: Path) -> None:
    (tmp_path / "tocsin.toml").write_text(
        SCRIPTED
        + '[objectives.short]\nfeature = "default"\nsignal = "answer_words"\nat_most = 0\n'
        + "target = 0.99\nmin_events = 5\n"
    )
    with serving(tmp_path) as server:
        for _ in range(8):
            server.chat()
        deadline = time.monotonic() + 20
        firing: list[Alert] = []
        while not firing and time.monotonic() < deadline:
            time.sleep(0.2)
            store = open_store(StoreSettings(), tmp_path / ".tocsin", SystemClock())
            firing = [row.alert for row in store.alerts(firing=True)]
            store.close()
        done = tocsin("objectives", "--json", folder=tmp_path)
        with urllib.request.urlopen(f"{server.base}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    assert {alert.fingerprint for alert in firing} >= {"objective:short:page-1h"}
    assert done.returncode == 1
    (one,) = json.loads(done.stdout)["objectives"]
    assert (one["events"], one["bad"], one["state"]) == (8, 8, "burning")
    left = re.search(r'tocsin_objective_budget_left{.*objective="short".*} (\S+)', text)
    burn = re.search(r'tocsin_objective_burn_rate{.*objective="short",window="1h"} (\S+)', text)
    assert left is not None
    assert burn is not None
    assert float(left[1]) == pytest.approx(-99)
    assert float(burn[1]) == pytest.approx(100)


# -- digest --


def test_the_digest_says_what_changed_what_burns_and_what_needs_a_person(world: Path) -> None:
    text = output_of("digest", "--since", "7d", folder=world)
    assert "1 of 2 features got worse, 1 of 2 objectives burn" in text
    assert "Objective **answers** of support burns" in text
    assert "is not proven" in text
    assert re.search(r"\| support \| .*\*\*worse\*\*", text)
    assert re.search(r"## Objectives\n\n\| Objective", text)
    # What was recorded is shown, and acts on nothing.
    assert r"Appropriate fell \<b\>hard\</b\> \| since \`release 41\`" in text


def test_the_digest_is_written_to_a_file(world: Path, tmp_path: Path) -> None:
    said = output_of("digest", "--out", str(tmp_path / "week.md"), folder=world)
    assert "written to" in said
    assert (tmp_path / "week.md").read_text().startswith("# Tocsin: ")


def test_sending_without_an_address_names_the_setting(world: Path) -> None:
    done = tocsin("digest", "--send", folder=world)
    assert done.returncode == 2
    assert "the environment variable DIGEST_URLS (digest.urls_env) is not set" in " ".join(
        done.stderr.split()
    )
    done = tocsin("digest", "--send", folder=world, DIGEST_URLS="nonsense")
    assert done.returncode == 2
    assert "address 1 of the digest is no Apprise URL" in " ".join(done.stderr.split())


@pytest.fixture
def inbox() -> Iterator[tuple[str, list[Any]]]:
    """An HTTP service that takes what Apprise's `json://` sends."""
    taken: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers["content-length"])
            taken.append(json.loads(self.rfile.read(size)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"json://127.0.0.1:{server.server_port}/", taken
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_digest_is_sent_where_the_environment_says(
    world: Path, inbox: tuple[str, list[Any]]
) -> None:
    pytest.importorskip("apprise")
    url, taken = inbox
    said = output_of("digest", "--send", folder=world, DIGEST_URLS=url)
    assert "sent" in said
    assert url not in said
    assert len(taken) == 1
    assert taken[0]["title"].startswith("Tocsin: ")
    assert "Needs a person" in taken[0]["message"]
    done = tocsin("digest", "--send", folder=world, DIGEST_URLS="json://127.0.0.1:9/")
    assert done.returncode == 1
    assert "did not reach every address" in " ".join(done.stderr.split())


# -- Grafana --


def test_grafana_asks_only_for_metrics_that_there_are(tmp_path: Path) -> None:
    made = json.loads(output_of("grafana", folder=tmp_path))
    asked = {
        name
        for panel in made["panels"]
        for target in panel.get("targets", ())
        for name in re.findall(r"\btocsin_\w+", target["expr"])
    }
    ids = [panel["id"] for panel in made["panels"]]
    assert len(set(ids)) == len(ids)
    objective = '[objectives.answers]\nfeature = "default"\nsignal = "correct"\ntarget = 0.9\n'
    (tmp_path / "tocsin.toml").write_text(SCRIPTED + objective)
    with serving(tmp_path) as server:
        server.chat()
        with urllib.request.urlopen(f"{server.base}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    there = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
    told = {name.removesuffix("_bucket") for name in asked}
    assert told <= there, sorted(told - there)


def test_grafana_writes_a_file(tmp_path: Path) -> None:
    assert "import it in Grafana" in output_of("grafana", "--out", "t.json", folder=tmp_path)
    assert json.loads((tmp_path / "t.json").read_text())["uid"] == "tocsin"
    assert os.path.getsize(tmp_path / "t.json") > 5000


def test_what_is_kept_of_a_file_is_scored_at_once(tmp_path: Path) -> None:
    path = sessions_file(tmp_path)
    (tmp_path / "tocsin.toml").write_text(SCRIPTED)
    output_of("replay", path.name, "--keep", folder=tmp_path)
    shown = json_of("signals", "--since", "all", folder=tmp_path)
    named = {row["signal"]: row for row in shown["signals"]}
    assert named["answer_words"]["calls"] == 6
