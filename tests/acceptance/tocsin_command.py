"""The real ``tocsin`` command as tests start it: short commands, and a server that stays up."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-m", "tocsin")
START_S = 30.0


def environment(**more: str) -> dict[str, str]:
    """The environment without what would change the outcome: keys, settings, CI."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("TOCSIN_", "OPENAI_", "ANTHROPIC_"))
    }
    kept.pop("CI", None)
    return {**kept, "COLUMNS": "100", **more}


def tocsin(
    *args: str, folder: Path, timeout: float = 60, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in ``folder``."""
    return subprocess.run(
        (*COMMAND, *args),
        cwd=folder,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def output_of(*args: str, folder: Path, **env: str) -> str:
    """Standard output of a command that must succeed."""
    done = tocsin(*args, folder=folder, **env)
    assert done.returncode == 0, f"{args}: {done.stdout}\n{done.stderr}"
    return done.stdout


def json_of(*args: str, folder: Path, **env: str) -> Any:
    """What a command prints with ``--json``."""
    return json.loads(output_of(*args, "--json", folder=folder, **env))


class Server:
    """A running ``tocsin up``."""

    def __init__(self, process: subprocess.Popen[str], log: Path, folder: Path) -> None:
        self.process = process
        self.folder = folder
        self._log = log
        self.banner = ""
        self.base = ""

    def wait_until_up(self) -> None:
        """Wait for the line that names the dashboard."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            self.banner = self._log.read_text()
            found = re.search(r"OPENAI_BASE_URL=(http://\S+)/v1", self.banner)
            if found and "Upstream" in self.banner:
                self.base = found[1]
                return
            assert self.process.poll() is None, self.banner
            time.sleep(0.02)
        raise AssertionError(f"not up after {START_S} s: {self.banner}")

    @property
    def link(self) -> str:
        """The sign-in link of the banner."""
        found = re.search(r"http://\S+/login\?code=\S+", self.banner)
        assert found is not None
        return found[0]

    @property
    def said(self) -> str:
        """Everything that it has printed."""
        return self._log.read_text()

    def chat(self, text: str = "Hello.", **headers: str) -> Any:
        """One chat completion; the answer as JSON, with its headers under ``headers``."""
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]}
        return self.post("/v1/chat/completions", body, **headers)

    def post(self, path: str, body: object, **headers: str) -> Any:
        """POST JSON; header names with ``_`` for ``-``."""
        request = urllib.request.Request(
            self.base + path,
            json.dumps(body).encode(),
            {"content-type": "application/json"}
            | {name.replace("_", "-"): value for name, value in headers.items()},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return {**json.load(answer), "headers": dict(answer.headers)}

    def status(self, path: str) -> int:
        """The status of a GET."""
        try:
            with urllib.request.urlopen(self.base + path, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def wait_for_calls(self, number: int) -> None:
        """Wait until so many calls are in the store."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            rows = json_of("runs", "-n", "10000", folder=self.folder)["runs"]
            if sum(row["calls"] for row in rows) >= number:
                return
            time.sleep(0.1)
        raise AssertionError(f"fewer than {number} calls were stored")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=20)


@contextlib.contextmanager
def serving(folder: Path, *args: str, **env: str) -> Iterator[Server]:
    """``tocsin up`` on a free port in ``folder``; killed at the end if it still runs."""
    log = folder / "server.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            (*COMMAND, "up", "--port", "0", *args),
            cwd=folder,
            env=environment(**env),
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
        )
    server = Server(process, log, folder)
    try:
        server.wait_until_up()
        yield server
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


SCRIPTED = '[upstreams.script]\nkind = "scripted"\n'
