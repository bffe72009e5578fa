"""``tocsin up`` as an engineer meets it: started, called, looked at, reloaded, stopped, killed."""

import json
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("up")
    (folder / "tocsin.toml").write_text(SCRIPTED)
    with serving(folder) as running:
        yield running


def test_it_says_what_to_paste_and_where_to_look(server: Server) -> None:
    assert f"OPENAI_BASE_URL={server.base}/v1" in server.banner
    assert f"ANTHROPIC_BASE_URL={server.base}\n" in server.banner
    assert str(server.folder / ".tocsin") in server.banner
    assert re.search(r"Admin key, shown this once: tk-\w{40}", server.banner)


def test_it_is_healthy_and_ready(server: Server) -> None:
    assert (server.status("/healthz"), server.status("/readyz")) == (200, 200)


def test_the_link_signs_in_once(server: Server) -> None:
    link = output_of("login", folder=server.folder).strip()
    path = link[link.index("/login") :]
    with urllib.request.urlopen(server.base + path) as first:
        assert first.headers["set-cookie"]
    with pytest.raises(urllib.error.HTTPError) as again:
        urllib.request.urlopen(server.base + path)
    assert again.value.code == 401


def test_a_call_is_seen_by_every_command(server: Server) -> None:
    answer = server.chat("Tell me of \x1b[31mred\x1b[0m things.", tocsin_feature="colours")
    assert answer["choices"][0]["message"]["content"]
    call_id = answer["headers"]["tocsin-call-id"]
    run_id = answer["headers"]["tocsin-run-id"]
    server.wait_for_calls(1)
    runs = json_of("runs", "--feature", "colours", folder=server.folder)["runs"]
    assert [run["id"] for run in runs] == [run_id]
    assert call_id in output_of("show", call_id, folder=server.folder)
    for command in (("runs",), ("show", run_id), ("spend",)):
        assert "\x1b" not in output_of(*command, folder=server.folder)
    assert json_of("spend", "--by", "feature", folder=server.folder)["total"]["calls"] >= 1


def test_tail_prints_each_call_as_it_ends(server: Server) -> None:
    following = subprocess.Popen(
        (*COMMAND, "tail", "-n", "0", "--json", "--feature", "tailed"),
        cwd=server.folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    assert following.stdout is not None
    assert following.stderr is not None
    assert "waiting for calls" in following.stderr.readline()
    server.chat("not this one", tocsin_feature="other")
    call_id = server.chat("this one", tocsin_feature="tailed")["headers"]["tocsin-call-id"]
    line = following.stdout.readline()
    following.send_signal(signal.SIGINT)
    assert json.loads(line)["id"] == call_id
    assert following.wait(timeout=10) == 130
    following.communicate()


def test_a_key_is_issued_used_and_revoked_while_it_runs(server: Server) -> None:
    made = json_of("keys", "issue", "bot", "--feature", "bots", folder=server.folder)
    bearer = {"authorization": f"Bearer {made['secret']}"}
    server.chat("with a key", **bearer)
    listed = output_of("keys", "list", folder=server.folder)
    assert made["id"] in listed
    assert made["secret"] not in listed
    output_of("keys", "revoke", made["id"], folder=server.folder)
    time.sleep(2.5)  # what a running server knows of a key holds for two seconds
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.chat("with a key", **bearer)
    assert refused.value.code == 401


def test_everything_is_whole_beside_a_running_server(server: Server) -> None:
    server.chat("once more")
    assert json_of("verify", folder=server.folder)["ok"]


def test_doctor_looks_beside_a_running_server(server: Server) -> None:
    found = tocsin("doctor", "--json", folder=server.folder)
    assert found.returncode == 0
    names = {finding["name"] for finding in json.loads(found.stdout)["findings"]}
    assert {"python", "settings", "store", "clock", "disk", "port", "open files"} <= names


def test_a_second_one_on_the_same_port_says_what_to_do(server: Server) -> None:
    port = server.base.rsplit(":", 1)[1]
    done = tocsin("up", "--port", port, folder=server.folder)
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


# -- life --


def test_new_settings_are_taken_over_without_a_restart(tmp_path: Path) -> None:
    settings = tmp_path / "tocsin.toml"
    settings.write_text(SCRIPTED)
    with serving(tmp_path) as server:
        server.chat("before")
        settings.write_text(SCRIPTED.replace("script]", 'renamed]\nmodels = ["gpt-*"]'))
        server.process.send_signal(signal.SIGHUP)
        wait_for(server, "settings read again: ")
        server.chat("after")
        server.wait_for_calls(2)
        found = {call["upstream"] for call in map(json.loads, output_of_tail(server, 2))}
        assert found == {"script", "renamed"}
        settings.write_text("[upstreams.x]\nkind = 'nonsense'\n")
        server.process.send_signal(signal.SIGHUP)
        wait_for(server, "settings not taken over, the old ones stay")
        assert server.chat("still there")["choices"]


def wait_for(server: Server, words: str) -> None:
    deadline = time.monotonic() + 10
    while words not in server.said:
        assert time.monotonic() < deadline, server.said
        time.sleep(0.05)


def heed_interrupts() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so does all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def output_of_tail(server: Server, lines: int) -> list[str]:
    """The last calls, as lines of JSON."""
    following = subprocess.Popen(
        (*COMMAND, "tail", "-n", str(lines), "--json"),
        cwd=server.folder,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    assert following.stdout is not None
    found = [following.stdout.readline() for _ in range(lines)]
    following.send_signal(signal.SIGINT)
    following.wait(timeout=10)
    following.stdout.close()
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_good_order_and_nothing_is_lost(number: int, tmp_path: Path) -> None:
    (tmp_path / "tocsin.toml").write_text(SCRIPTED)
    with serving(tmp_path) as server:
        ids = {server.chat(f"call {i}")["headers"]["tocsin-call-id"] for i in range(20)}
        assert server.stop(number) == 0
        assert "Stopped" in server.said
    stored = json_of("verify", folder=tmp_path)
    assert (stored["ok"], stored["calls"]) == (True, len(ids))


def test_what_a_client_saw_completed_is_there_after_a_kill(tmp_path: Path) -> None:
    (tmp_path / "tocsin.toml").write_text(SCRIPTED)
    with serving(tmp_path) as server:
        ids = {server.chat(f"call {i}")["headers"]["tocsin-call-id"] for i in range(20)}
        server.stop(signal.SIGKILL)
    with serving(tmp_path) as server:
        server.wait_for_calls(len(ids))
    assert json_of("verify", folder=tmp_path)["calls"] == len(ids)


def test_it_works_without_settings_and_without_keys(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert "forwards the key that your app sends" in server.banner
        assert server.status("/healthz") == 200


def test_it_holds_the_usual_key_when_the_environment_has_it(tmp_path: Path) -> None:
    with serving(tmp_path, OPENAI_API_KEY="sk-canary-canary-canary") as server:
        assert "openai (openai) for *: key from OPENAI_API_KEY" in server.banner
        assert "canary" not in server.said


def test_it_is_up_in_a_second_and_a_half(tmp_path: Path) -> None:
    (tmp_path / "tocsin.toml").write_text(SCRIPTED)
    took = []
    for _ in range(2):
        began = time.monotonic()
        with serving(tmp_path) as server:
            server.chat()
            took.append(time.monotonic() - began)
            server.stop()
    # The first start makes the store and the keys; a busy machine gets twice the time.
    assert min(took) < 3.0, took
