"""How the benchmarks start Tocsin and ask it: the one place that knows its command and its API."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

READY = "/healthz"


def config(*, port: int, data: Path, upstream_port: int, scores: bool = True) -> str:
    """THE CONFIGURATION: the whole tocsin.toml of every benchmark; all else is at its default.

    ``scores``: whether recorded calls are scored, which a process of its own does.
    """
    more = "" if scores else "\n[signals]\nevaluate = false\n"
    return f"""\
[server]
port = {port}
data_dir = "{data}"

[upstreams.mock]
kind = "openai"
base_url = "http://127.0.0.1:{upstream_port}/v1"
{more}"""


def command(folder: Path, *, port: int, upstream_port: int, scores: bool = True) -> list[str]:
    """Write ``tocsin.toml`` into ``folder`` and return the command that serves it."""
    file = folder / "tocsin.toml"
    text = config(port=port, data=folder / "data", upstream_port=upstream_port, scores=scores)
    file.write_text(text)
    return [sys.executable, "-m", "tocsin", "up", "--config", str(file)]


class Api:
    """A running Tocsin's admin API, with a key of its own that is issued at first use."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self._key = ""

    def get(self, path: str) -> Any:
        """The JSON that a path such as ``/api/stats`` answers with."""
        if not self._key:
            self._key = issued_key(self.folder)
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}")
        request.add_header("Authorization", f"Bearer {self._key}")
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.loads(reply.read())

    def recorded(self) -> int:
        """How many interactions are recorded."""
        return int(self.get("/api/stats")["interactions"])

    def span_ids(self) -> collections.Counter[str]:
        """How often each span id (hex) of a trace is recorded."""
        found: collections.Counter[str] = collections.Counter()
        cursor = ""
        while True:
            page = self.get(f"/api/interactions?limit=200&source=otlp{cursor}")
            found.update(row["attributes"]["span_id"] for row in page["rows"])
            if not page["next"]:
                return found
            cursor = f"&cursor={urllib.parse.quote(page['next'])}"


def issued_key(folder: Path) -> str:
    """A key that may look at everything, issued as a person would do it."""
    cmd = [sys.executable, "-m", "tocsin", "keys", "issue", "bench", "--role", "viewer", "--json"]
    done = subprocess.run(
        [*cmd, "--config", str(folder / "tocsin.toml")],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    if done.returncode:
        raise RuntimeError(f"tocsin keys issue: {done.stderr.strip()[:300]}")
    return str(json.loads(done.stdout)["secret"])
