"""``tocsin operations``, ``follow`` and ``webhooks``, beside a running Tocsin and without one."""

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance.tocsin_command import (
    COMMAND,
    SCRIPTED,
    Server,
    environment,
    json_of,
    output_of,
    serving,
    tocsin,
)
from operations_world import delivery, event, operation, step
from responses_world import words
from tocsin.config.model import StoreSettings
from tocsin.core.clock import SystemClock
from tocsin.core.operations import Event
from tocsin.providers.playing import Step
from tocsin.providers.scripted_server import ScriptedServer, Seen
from tocsin.store import Store, open_store
from tocsin.store.operations_api import EndpointRow, Written

HOSTILE = "a \x1b[31mred\x1b[0m [bold]title[/bold] \u202e\x9b2J\r\n`id`"
ACTS = ("\x1b", "\u202e", "\x9b", "\r")
CONFIG = """
[upstreams.main]
base_url = "{url}"
api_key_env = "UPSTREAM_KEY"
"""


def script(seen: Seen) -> Step:
    is_slow = b"slowly" in seen.body
    return words(2000, gap_s=0.05) if is_slow else words(6)


@contextlib.contextmanager
def upstream() -> Iterator[str]:
    """The URL of an upstream in a thread of its own."""
    urls: list[str] = []
    up, over = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def play() -> None:
        async with ScriptedServer(script) as server:
            urls.append(server.url)
            up.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(play(),), daemon=True)
    thread.start()
    assert up.wait(10)
    yield urls[0]
    loop.call_soon_threadsafe(over.set)
    thread.join(10)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("up")
    with upstream() as url:
        (folder / "tocsin.toml").write_text(CONFIG.format(url=url))
        with serving(folder, UPSTREAM_KEY="sk-upstream") as running:
            yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A place where no Tocsin runs."""
    (tmp_path / "tocsin.toml").write_text(SCRIPTED)
    return tmp_path


@contextlib.contextmanager
def store_of(folder: Path) -> Iterator[Store]:
    with contextlib.closing(open_store(StoreSettings(), folder / ".tocsin", SystemClock())) as it:
        yield it


def begin(server: Server, text: str) -> str:
    """A response in the background; its id."""
    body = {"model": "m", "input": text, "background": True}
    return str(server.post("/v1/responses", body)["id"])


MANY = """
import json, sys
from tocsin.cli.commands import app
for words in json.loads(sys.argv[1]):
    code = 0
    try:
        app(words)
    except SystemExit as end:
        code = end.code
    print(f"\\0{code}", end="\\0", flush=True)
"""


def many(folder: Path, *commands: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int, str]]:
    """Several commands, one after another in one process; code and output of each."""
    done = subprocess.run(
        (sys.executable, "-c", MANY, json.dumps(commands)),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    parts = done.stdout.decode().split("\0")
    assert done.returncode == 0, parts
    assert len(parts) == 2 * len(commands) + 1
    for number, words_ in enumerate(commands):
        yield words_, int(parts[2 * number + 1]), parts[2 * number]


def lines_of(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


# -- beside a running Tocsin --


def test_a_response_is_listed_shown_and_read_again_from_any_event(server: Server) -> None:
    name = begin(server, "Count, please.")
    followed = tocsin("follow", name, "--json", folder=server.folder)
    assert followed.returncode == 0, followed.stderr
    events = lines_of(followed.stdout)
    assert [one["number"] for one in events] == list(range(len(events)))
    assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.completed")
    with urllib.request.urlopen(f"{server.base}/v1/responses/{name}?stream=true") as answer:
        sent = [line[6:] for line in answer.read().split(b"\n") if line.startswith(b"data: {")]
    assert [one["data"] for one in events] == [json.loads(data) for data in sent]
    after = tocsin("operations", "follow", name, "--after", "4", "--json", folder=server.folder)
    assert lines_of(after.stdout) == events[5:]
    beyond = output_of("follow", name, "--after", "999", folder=server.folder)
    assert beyond == "ended complete\n"

    (row,) = [
        row
        for row in json_of("operations", "list", folder=server.folder)["operations"]
        if row["id"] == name
    ]
    assert (row["kind"], row["outcome"], row["title"]) == ("response", "complete", "Count, please.")
    listed = output_of("operations", "list", "--status", "ended", folder=server.folder)
    assert name in listed
    assert "complete" in listed
    assert "Count, please." in listed

    shown = output_of("operations", "show", name, "--events", "3", folder=server.folder)
    for part in (name, "Count, please.", "response.created", "w0 w1 w2", row["run_id"]):
        assert part in shown
    assert f"… {len(events) - 3} more: tocsin follow {name}" in shown
    whole = json_of("operations", "show", name, folder=server.folder)
    assert whole["events"] == events[:40]
    assert whole["result"]["status"] == "completed"


def test_it_is_followed_live_and_cancelled_by_another_process(server: Server) -> None:
    name = begin(server, "Count slowly.")
    following = subprocess.Popen(
        (*COMMAND, "follow", name, "--json"),
        cwd=server.folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert following.stdout is not None
        seen = [json.loads(following.stdout.readline()) for _ in range(10)]
        assert seen[-1]["type"] == "response.output_text.delta"
        with store_of(server.folder) as store:
            running = store.operations.operation(name)
        assert running is not None
        assert running.status == "running"
        listed = output_of("operations", "list", "--status", "running", folder=server.folder)
        assert name in listed
        begun = time.monotonic()
        ended = tocsin("operations", "cancel", name, folder=server.folder)
        assert time.monotonic() - begun < 10
        assert (ended.returncode, ended.stdout) == (0, f"{name} is cancelled.\n")
        assert following.stderr is not None
        rest, trouble = following.stdout.read(), following.stderr.read()
        following.wait(10)
    finally:
        following.kill()
    events = seen + lines_of(rest)
    assert [one["number"] for one in events] == list(range(len(events)))
    assert (following.returncode, trouble) == (1, "")
    with store_of(server.folder) as store:
        assert len(store.operations.events(name)) == len(events)
        kept = store.operations.operation(name)
    assert kept is not None
    assert (kept.outcome, kept.cancel_by.endswith("(command line)")) == ("cancelled", True)
    with urllib.request.urlopen(f"{server.base}/v1/responses/{name}") as answer:
        assert json.load(answer)["status"] == "cancelled"
    again = tocsin("operations", "cancel", name, folder=server.folder)
    assert (again.returncode, again.stdout) == (0, f"{name} had ended already: cancelled.\n")
    shown = tocsin("follow", name, folder=server.folder)
    assert (shown.returncode, shown.stdout.splitlines()[-1]) == (1, "ended cancelled")


def test_what_waits_or_queues_is_ended_by_the_tocsin_that_runs(server: Server) -> None:
    with store_of(server.folder) as store:
        row = operation("op_waits", kind="refund", status="waiting", created_at=now())
        store.operations.create(row, b"{}")
    ended = json_of("operations", "cancel", "op_waits", folder=server.folder)
    assert (ended["operation"]["status"], ended["operation"]["outcome"]) == ("ended", "cancelled")


# -- without one --


def now() -> int:
    return SystemClock().now_us()


def seed(store: Store, name: str, **changes: Any) -> None:
    """An operation that somebody hostile has named, with events, steps and a result."""
    book = store.operations
    about: dict[str, Any] = {"kind": "refund", "title": HOSTILE, "note": HOSTILE, **changes}
    said = json.dumps({"text": HOSTILE}).encode()
    raw = b'{"raw": "' + HOSTILE.encode() + b'"}'
    events = [event(0), Event(1, HOSTILE, now(), said), Event(2, "raw", now(), raw)]
    book.create(operation(name, created_at=now(), **about), b"{}", events)


def wait_for_person(store: Store, name: str) -> None:
    """Make it wait for an answer."""
    asked = {"question": "Refund 100 cents?", "details": {"to": HOSTILE}}
    book = store.operations
    book.begin_step(
        step(
            f"step_{name}",
            scope=name,
            name="approve",
            effect=False,
            state="asked",
            arguments=json.dumps(asked).encode(),
            begun_at=now(),
        )
    )
    changes = {"status": "waiting", "waiting_for": f"step_{name}"}
    book.write([Written(operation_id=name, changes=changes)])


def test_nothing_that_is_recorded_acts_on_a_terminal(folder: Path) -> None:
    with store_of(folder) as store:
        seed(store, "op_1")
        store.operations.begin_step(
            step("step_1", scope="op_1", name=HOSTILE, arguments=json.dumps(HOSTILE).encode())
        )
        wait_for_person(store, "op_1")
        seed(store, "op_2", error_message=HOSTILE, run_id=HOSTILE)
        ended = {"status": "ended", "outcome": "error", "ended_at": now()}
        result = b'"' + HOSTILE.encode() + b'"'
        store.operations.write([Written(operation_id="op_2", changes=ended, result=result)])
        odd = delivery("whd_1", type=HOSTILE, url=HOSTILE, last_error=HOSTILE)
        store.operations.add_deliveries([odd])
        gone = EndpointRow(url="https://x/" + HOSTILE, disabled_at=now(), reason=HOSTILE)
        store.operations.disable_endpoint(gone)
    as_text = (
        ("operations", "list"),
        ("operations", "show", "op_1"),
        ("operations", "show", "op_2"),
        ("operations", "answer", "op_1"),
        ("follow", "op_2"),
        ("webhooks", "list"),
        ("operations", "show", HOSTILE),
        ("webhooks", "replay", HOSTILE),
        ("webhooks", "enable", "https://x/" + HOSTILE),
    )
    as_json = (
        ("operations", "list", "--json"),
        ("operations", "show", "op_1", "--json"),
        ("follow", "op_2", "--json"),
        ("webhooks", "list", "--json"),
    )
    for words_, _, said in many(folder, *as_text, *as_json):
        assert not any(sign in said for sign in ACTS), (words_, said)
        assert "[bold]" in said, (words_, said)
        if words_ == as_json[0]:
            rows = {row["id"]: row for row in json.loads(said)["operations"]}
            assert rows["op_1"]["title"] == HOSTILE
            assert rows["op_1"]["outcome"] is None


@pytest.mark.parametrize(("option", "approved"), [("--yes", True), ("--no", False)])
def test_a_person_reads_the_question_and_answers(folder: Path, option: str, approved: bool) -> None:
    with store_of(folder) as store:
        seed(store, "op_1", title="refund")
        wait_for_person(store, "op_1")
    answer = ("operations", "answer", "op_1")
    given = (*answer, option, "--note", "seen")
    said = many(folder, ("operations", "show", "op_1"), answer, (*answer, "--json"), given)
    shown, asked, as_json, told = (text for _, _, text in said)
    assert "tocsin operations answer op_1 --yes" in shown
    assert "Refund 100 cents?" in asked
    assert "--yes or --no" in asked
    assert json.loads(as_json)["question"]["question"] == "Refund 100 cents?"
    word = "approved" if approved else "refused"
    assert told.startswith(f"op_1 goes on: {word} by ")
    with store_of(folder) as store:
        answered = store.operations.step("step_op_1")
        row = store.operations.operation("op_1")
    assert answered is not None
    assert row is not None
    assert (answered.state, row.status) == ("done", "queued")
    kept = json.loads(answered.result or b"")
    assert (kept["approved"], kept["note"]) == (approved, "seen")
    assert kept["by"].endswith("(command line)")
    again, nobody = many(folder, given, answer)
    assert again[1] == 2
    assert "waits for nobody's answer" in again[2]
    assert nobody[1:] == (0, "op_1 waits for nobody: it is queued.\n")


def test_what_no_tocsin_runs_is_asked_to_end(folder: Path) -> None:
    with store_of(folder) as store:
        seed(store, "op_1", title="refund", status="running", owner="own_gone")
        charge = step("step_1", scope="op_1", name="charge", state="unknown")
        store.operations.begin_step(charge)
    done = tocsin("operations", "cancel", "op_1", folder=folder)
    assert done.returncode == 0
    assert "op_1 is asked to end; no running Tocsin has done so yet" in done.stdout
    assert "What it had changed, or may have:" in done.stdout
    assert "charge" in done.stdout
    assert "unknown" in done.stdout
    listed = output_of("operations", "list", folder=folder)
    assert "running, to be cancelled" in listed


def test_what_is_not_there_or_not_allowed_is_said(folder: Path) -> None:
    before = tocsin("operations", "list", folder=folder)
    assert (before.returncode, before.stdout) == (1, "")
    assert "tocsin up" in before.stderr
    with store_of(folder) as store:
        seed(store, "op_1")
    unknown = (
        ("operations", "show", "op_none"),
        ("operations", "cancel", "op_none"),
        ("operations", "answer", "op_none", "--yes"),
        ("operations", "follow", "op_none"),
        ("follow", "op_none"),
    )
    for words_, code, said in many(folder, *unknown):
        assert code == 1, words_
        assert said.startswith("no operation 'op_none'; `tocsin operations list`"), said
    wrong = {
        ("operations", "list", "--status", "done"): "queued, running, waiting, ended",
        ("operations", "list", "--outcome", "fine"): "complete",
        ("webhooks", "list", "--state", "lost"): "pending, delivered, failed, disabled",
        ("follow", "op_1", "--after", "-2"): "--after",
    }
    for words_, code, said in many(folder, *wrong):
        assert code == 2, words_
        assert wrong[words_] in said
    others = (("webhooks", "replay", "whd_none"), ("operations", "list", "--kind", "nothing"))
    missing, empty = many(folder, *others)
    assert missing[1] == 1
    assert "tocsin webhooks list" in missing[2]
    assert empty[1:] == (
        0,
        "No operation matches. POST /v1/responses makes one, background or not.\n",
    )


def test_messages_are_listed_sent_again_and_receivers_enabled(folder: Path) -> None:
    url = "https://gone.example/hook"
    with store_of(folder) as store:
        book = store.operations
        book.add_deliveries(
            [
                delivery("whd_1", endpoint="outbox", url=url, operation_id="op_1"),
                delivery("whd_2", state="failed", attempts=9, last_status=500, endpoint="outbox"),
            ]
        )
        gone = EndpointRow(url=url, disabled_at=now(), reason="410 Gone")
        book.disable_endpoint(gone)
    listed, of_one, held, enabled, twice, again = many(
        folder,
        ("webhooks", "list"),
        ("webhooks", "list", "--operation", "op_1", "--json"),
        ("webhooks", "replay", "whd_1"),
        ("webhooks", "enable", url),
        ("webhooks", "enable", url),
        ("webhooks", "replay", "whd_2", "--json"),
    )
    for part in ("whd_1", "whd_2", "disabled", "failed", "500", "410 Gone", "webhooks enable"):
        assert part in listed[2]
    rows = json.loads(of_one[2])
    assert [row["id"] for row in rows["deliveries"]] == ["whd_1"]
    assert rows["disabled"][0]["url"] == url
    assert held[1] == 2
    assert "tocsin webhooks enable" in held[2]
    assert (enabled[1], twice[1]) == (0, 1)
    assert enabled[2].startswith(f"{url} is told again")
    sent = json.loads(again[2])
    assert (sent["id"], sent["state"], sent["attempts"]) == ("whd_2", "pending", 0)
    with store_of(folder) as store:
        states = {row.id: row.state for row in store.operations.deliveries()}
    assert states == {"whd_1": "pending", "whd_2": "pending"}


def test_an_end_user_is_forgotten_with_the_work_for_them(folder: Path) -> None:
    with store_of(folder) as store:
        seed(store, "op_1", end_user="ann")
        ended = {"status": "ended", "outcome": "complete", "ended_at": now()}
        store.operations.write([Written(operation_id="op_1", changes=ended)])
        seed(store, "op_2", end_user="bob")
    said = output_of("forget", "ann", "--yes", folder=folder)
    assert "1 operation;" in said
    with store_of(folder) as store:
        assert store.operations.operation("op_1") is None
        assert store.operations.operation("op_2") is not None
        assert store.audit()[0].detail == "0 calls, 1 operations"
    assert tocsin("forget", "ann", "--yes", folder=folder).returncode == 1


# -- settings --

WEBHOOK = """
[webhooks.ours]
url = "https://hooks.example/in?for=tocsin"
secret_env = "{variable}"

[features.support.checks]
functions = ["{check}"]
"""
SECRET = "whsec_" + "c2VjcmV0" * 6


def check(folder: Path, **env: str) -> Any:
    done = tocsin("check", "--json", folder=folder, **env)
    found = json.loads(done.stdout)
    assert done.returncode == (0 if found["ok"] else 2), done.stderr
    return {problem["setting"]: problem for problem in found["problems"]}


def test_settings_of_webhooks_and_checks_are_held_against_what_there_is(folder: Path) -> None:
    config = folder / "tocsin.toml"
    config.write_text(SCRIPTED + WEBHOOK.format(variable="HOOK_SECRET", check="polite"))
    found = check(folder)
    assert set(found) == {"webhooks.ours.secret_env", "features.support.checks.functions[0]"}
    missing = found["webhooks.ours.secret_env"]
    assert missing["line"] == 6
    assert "HOOK_SECRET is not set" in missing["message"]
    assert (
        "no installed package offers the check `polite`"
        in (found["features.support.checks.functions[0]"]["message"])
    )
    wrong = check(folder, HOOK_SECRET="a-plain-password")["webhooks.ours.secret_env"]
    assert "must be `whsec_`" in wrong["message"]
    assert "a-plain-password" not in json.dumps(wrong)
    assert "webhooks.ours.secret_env" not in check(folder, HOOK_SECRET=SECRET)
    # The secret itself in place of its variable's name is not shown.
    config.write_text(SCRIPTED + WEBHOOK.format(variable=SECRET, check="polite"))
    misplaced = tocsin("check", folder=folder)
    assert misplaced.returncode == 2
    assert "must be the NAME of an environment variable" in misplaced.stderr
    assert SECRET not in misplaced.stdout + misplaced.stderr
