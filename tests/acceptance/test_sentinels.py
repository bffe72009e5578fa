"""``tocsin sentinels`` on recorded traffic, with a model that changes behind its name."""

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance.tocsin_command import json_of, output_of, serving, tocsin
from tocsin.providers.playing import Step
from tocsin.providers.scripted_server import ScriptedServer, Seen

CITIES = (
    *("Berlin", "Paris", "Rome", "Madrid", "Lisbon", "Vienna", "Prague", "Warsaw", "Athens"),
    *("Dublin", "Oslo", "Helsinki", "Stockholm", "Copenhagen", "Brussels", "Budapest", "Sofia"),
    *("Bucharest", "Zagreb", "Riga", "Tallinn", "Vilnius", "Bern", "Valletta"),
)
OLD, NEW = ("model-0314", "fp_old"), ("model-0613", "fp_new")


class Model:
    """A model on loopback whose ``version`` a test sets. It wavers a little, as models do."""

    def __init__(self) -> None:
        self.version = OLD
        self.broken = False
        self.asked = 0
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server = ScriptedServer(self._answer)

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(10)
        self.url = self._server.url

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _answer(self, seen: Seen) -> Step:
        self.asked += 1
        if self.broken:
            return Step(status=400, body=b'{"error": {"message": "no", "type": "bad"}}')
        model, fingerprint = self.version
        city = json.loads(seen.body)["messages"][-1]["content"].split()[-1].rstrip("?")
        text = f"There is much to see in {city}, " + "such as the old town, " * (2 + len(city) % 5)
        text += "and the weather is fine." if self.asked % 3 else "and the food is good."
        if self.version == NEW:
            text = f"{city}: sights."
        body = {
            "id": f"chatcmpl-{self.asked}",
            "object": "chat.completion",
            "model": model,
            "system_fingerprint": fingerprint,
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": text},
                }
            ],
            "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18},
        }
        return Step(body=json.dumps(body).encode())


@pytest.fixture(scope="module")
def running() -> Iterator[Model]:
    made = Model()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def model(running: Model) -> Model:
    running.version, running.broken = OLD, False
    return running


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, running: Model) -> Path:
    """Settings, and traffic of a feature in the store."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "tocsin.toml").write_text(
        f'[upstreams.main]\nkind = "openai"\nbase_url = "{running.url}"\nretries = 0\n'
        '[upstreams.spare]\nkind = "scripted"\n'
        "[features.travel]\n"
        'targets = [{upstream = "main"}, {upstream = "spare", tier = 1}]\n'
        "[sentinels.tours]\n"
        'feature = "travel"\nupstreams = ["main"]\n'
    )
    with serving(folder) as server:
        for city in CITIES:
            body = {
                "model": "alias",
                "user": "anna@example.com",
                "messages": [
                    {"role": "system", "content": "Key sk-abcdefghijklmnop1234. Be brief."},
                    {"role": "user", "content": f"Tell me about the sights of {city}?"},
                ],
            }
            server.post("/v1/chat/completions", body, tocsin_feature="travel")
        server.wait_for_calls(len(CITIES))
        server.stop()
    return folder


@pytest.fixture
def folder(recorded: Path, tmp_path: Path) -> Path:
    """The same again for each test."""
    return Path(shutil.copytree(recorded, tmp_path / "own"))


def diff_of(folder: Path, *more: str) -> tuple[int, Any]:
    done = tocsin("sentinels", "diff", "--json", *more, folder=folder)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def test_a_model_that_changes_behind_its_name_is_found_and_can_be_accepted(
    folder: Path, model: Model
) -> None:
    made = json_of("sentinels", "record", "tours", "--count", "20", folder=folder)
    assert made["prompts"] == 20
    suite = (folder / "sentinels" / "tours.jsonl").read_text()
    assert "sk-abcdef" not in suite
    assert "anna@example.com" not in suite
    assert "read it through" in suite.splitlines()[0]

    ran = [json_of("sentinels", "run", folder=folder)["runs"][0] for _ in range(3)]
    assert [(one["asked"], one["failed"], one["models"]) for one in ran] == [
        (20, 0, ["model-0314"])
    ] * 3
    code, found = diff_of(folder)
    assert (code, found["diffs"][0]["changed"], found["diffs"][0]["model_moved"]) == (0, [], False)

    model.version = NEW
    changed = json_of("sentinels", "run", "tours", folder=folder)["runs"][0]
    code, found = diff_of(folder, "tours")
    (diff,) = found["diffs"]
    assert code == 1
    assert diff["past"] == [one["run"] for one in ran]
    assert diff["run"] == changed["run"]
    assert (diff["models_before"], diff["models_after"]) == (["model-0314"], ["model-0613"])
    assert (diff["fingerprints_before"], diff["fingerprints_after"]) == (["fp_old"], ["fp_new"])
    assert {"answer_words", "same_words"} <= set(diff["changed"])
    words = next(one for one in diff["signals"] if one["signal"] == "answer_words")
    assert words["pairs"] == words["changed"] == 20
    assert words["difference"]["high"] < 0.5
    assert words["examples"][0]["call_before"] != words["examples"][0]["call_after"]

    shown = tocsin("sentinels", "diff", folder=folder)
    assert shown.returncode == 1
    assert "the model is now model-0613, it was model-0314" in shown.stdout
    assert "There is much to see in" in shown.stdout
    assert ": sights." in shown.stdout

    code, found = diff_of(folder, "--from", ran[0]["run"], "--to", ran[1]["run"])
    assert (code, found["diffs"][0]["past"]) == (0, [ran[0]["run"]])

    assert "Accepted" in output_of("sentinels", "diff", "--accept", folder=folder)
    output_of("sentinels", "run", folder=folder)
    code, found = diff_of(folder)
    assert (code, found["diffs"][0]["past"]) == (0, [changed["run"]])
    (row,) = json_of("sentinels", "list", folder=folder)["suites"]
    assert (row["prompts"], row["upstream"], len(row["runs"])) == (20, "main", 5)


def test_what_sentinels_ask_counts_for_no_feature_of_the_product(
    folder: Path, model: Model
) -> None:
    output_of("sentinels", "record", "tours", folder=folder)
    run = json_of("sentinels", "run", folder=folder)["runs"][0]["run"]
    mine = json_of("runs", "--feature", "travel", "-n", "100", folder=folder)["runs"]
    assert sum(row["calls"] for row in mine) == len(CITIES)
    (row,) = json_of("runs", "--feature", "sentinel:tours:main", folder=folder)["runs"]
    assert (row["id"], row["calls"]) == (run, len(CITIES))
    output_of("export", "calls.jsonl", "--feature", "sentinel:tours:main", folder=folder)
    calls = [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]
    facts = [call["interaction"] for call in calls if "interaction" in call]
    assert {one["attributes"]["sentinel"] for one in facts} == {"tours"}
    assert {one["attributes"]["sentinel_run"] for one in facts} == {run}
    assert len({one["attributes"]["sentinel_id"] for one in facts}) == len(CITIES)
    assert {one["upstream"] for one in facts} == {"main"}


def test_calls_that_fail_are_said_and_no_other_upstream_answers_for_them(
    folder: Path, model: Model
) -> None:
    output_of("sentinels", "record", "tours", "--count", "5", folder=folder)
    model.broken = True
    done = tocsin("sentinels", "run", folder=folder)
    assert done.returncode == 1
    assert "5 calls got no answer" in done.stderr


def test_a_suite_that_is_missing_or_broken_is_named_with_what_to_do(
    folder: Path, model: Model
) -> None:
    done = tocsin("sentinels", "run", folder=folder)
    assert done.returncode == 2
    assert "`tocsin sentinels record` writes a suite" in done.stderr
    path = folder / "sentinels" / "tours.jsonl"
    path.parent.mkdir()
    path.write_text('{"id": "a", "path": "/v1/chat/completions", "messages": 3}\n')
    done = tocsin("sentinels", "run", folder=folder)
    assert done.returncode == 2
    assert "tours.jsonl:1:" in done.stderr
    done = tocsin("sentinels", "record", "tours", folder=folder)
    assert "--force writes it anew" in done.stderr
    assert "1 run" not in tocsin("sentinels", "diff", folder=folder).stderr
    assert tocsin("sentinels", "diff", "other", folder=folder).returncode == 1
