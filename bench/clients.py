"""The official client's own tests, unmodified, against a Tocsin.

usage: python bench/clients.py --suite DIR [--only TEXT] [--verbose] [--json FILE]

DIR is an unpacked source distribution of the ``openai`` package (``pip download --no-deps
--no-binary openai openai==VERSION``, then unpack it): its tests come with it. This script starts a
real ``tocsin up`` before a scripted upstream, fills the store with the ids that the tests name, and
runs the tests for responses, input items, input tokens, conversations, items and chat completions
with pytest, in this Python or in ``--python`` (they need pytest, pytest-asyncio, rich and aiohttp,
which Tocsin's development environment has). It prints the counts for each file and the reason of
whatever did not pass. The exit status is 0 when every test passed, or failed in just the way in
which ``SKIPPED`` says that it must.

Stored chat completions (list, retrieve, update, delete and their messages) are the upstream's: the
scripted upstream answers them, and what is tested is that Tocsin forwards them.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import http.server
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness import tocsin
from harness.procs import Proc, two_cores
from harness.suite_seeds import Seeds
from harness.tools import free_port, fresh, version
from tocsin.core.interaction import Usage
from tocsin.core.wire.render import Answer
from tocsin.providers.playing import Step
from tocsin.providers.scripted_server import ScriptedServer, Seen

TESTS = "tests/api_resources"
FILES = (
    "test_responses.py",
    "responses/test_input_items.py",
    "responses/test_input_tokens.py",
    "test_conversations.py",
    "conversations/test_items.py",
    "chat/test_completions.py",
    "chat/completions/test_messages.py",
)


class Skip(NamedTuple):
    """Tests that must not pass here: patterns of their name and of what they get, and why."""

    pattern: str
    says: str
    reason: str


SKIPPED = (
    Skip(
        r"Responses::test_(method|raw_response|streaming_response)_create_overload_[12]\[",
        "Missing required parameter: 'input'",
        "asks for nothing at all: neither input nor model. Tocsin says what is missing (400).",
    ),
    Skip(
        r"test_(responses|input_tokens)::\w+::test_method_(create|count)_with_all_params",
        "cannot be used together with previous_response_id",
        "names a conversation and a previous response, which the API's own documentation excludes.",
    ),
    Skip(
        r"(input_items|test_items)::\w+::test_method_list_with_all_params",
        "limit: must be a whole number from 1 to 100",
        "asks for limit=0; the API's own documentation says 1 to 100.",
    ),
    Skip(
        r"test_responses::\w+::test_method_compact_with_all_params",
        "for expected schema|Did not match any variants",
        "a compacted history begins with its user messages, as the API's documentation has it; "
        "the client's types know only messages of the assistant there.",
    ),
)

PLUGIN = """
import os
import urllib.request


def pytest_runtest_setup(item):
    with urllib.request.urlopen(os.environ["TOCSIN_SEEDS"], timeout=60) as answer:
        answer.read()
"""
"""Runs inside of their pytest: before each test everything that it names is there."""


class Outcome(NamedTuple):
    """One test of theirs. ``state``: passed, failed, skipped (by itself), expected, unexpected."""

    file: str
    name: str
    state: str
    detail: str = ""


# -- the upstream --


def script(seen: Seen) -> Step:
    """What the upstream answers: a model's words, and for stored completions what is stored."""
    path = seen.path
    if path.startswith("/v1/chat/completions/") or seen.method == "GET":
        return Step(body=json.dumps(_stored(seen)).encode())
    usage = Usage(source="reported", input_tokens=12, output_tokens=4)
    return Step(answer=Answer(text="Hello, how are you?", usage=usage))


def _stored(seen: Seen) -> dict[str, Any]:
    name = "completion_id"
    if seen.method == "DELETE":
        return {"id": name, "object": "chat.completion.deleted", "deleted": True}
    message = {"role": "assistant", "content": "Hello.", "refusal": None}
    if seen.path.endswith("/messages"):
        found = [{"id": "msg_0", **message}]
        return {"object": "list", "data": found, "has_more": False, "first_id": "", "last_id": ""}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    completion = {"id": name, "object": "chat.completion", "created": 1, "model": "gpt-4o-mini"}
    completion |= {"choices": [choice]}
    if seen.path == "/v1/chat/completions":
        data = [completion]
        return {"object": "list", "data": data, "has_more": False, "first_id": "", "last_id": ""}
    return completion


class Upstream:
    """The scripted upstream, on a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._server = ScriptedServer(script)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(10)
        self.port = self._server.port

    def stop(self) -> None:
        """Close it."""
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


class Seeder:
    """An HTTP server on loopback: any GET plants the seeds."""

    def __init__(self, seeds: Seeds) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seeds.plant()
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Close it."""
        self._server.shutdown()
        self._server.server_close()


# -- their tests --


def run_suite(given: argparse.Namespace, folder: Path, base_url: str, seeds_url: str) -> Path:
    """Run their tests; returns the report that pytest wrote."""
    plugins, report = folder / "plugins", folder / "report.xml"
    plugins.mkdir()
    (plugins / "tocsin_seeds.py").write_text(PLUGIN)
    files = [f"{TESTS}/{name}" for name in FILES]
    command = [given.python, "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider"]
    command += ["-p", "tocsin_seeds", "--tb=short", f"--junitxml={report}", *files]
    command += ["-k", given.only] if given.only else []
    env = {
        **os.environ,
        "TEST_API_BASE_URL": base_url,
        "TOCSIN_SEEDS": seeds_url,
        "PYTHONPATH": str(plugins),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        command, cwd=given.suite, env=env, capture_output=True, text=True, check=False
    )
    if given.verbose or not report.exists():
        print(done.stdout[-20_000:], done.stderr[-5_000:], sep="\n")
    if not report.exists():
        raise SystemExit("pytest did not run; see above")
    return report


def outcomes(report: Path) -> list[Outcome]:
    """What became of each test."""
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        where = case.get("classname", "").removeprefix(TESTS.replace("/", ".") + ".")
        file, _, group = where.rpartition(".")
        name = f"{group}::{case.get('name', '')}"
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        left = case.find("skipped")
        if bad is not None:
            detail = "\n".join(filter(None, [bad.get("message"), bad.text]))
            found.append(_judged(file, name, detail))
        elif left is not None:
            found.append(Outcome(file, name, "skipped", left.get("message") or ""))
        else:
            listed = _listed(file, name)
            state = "passed" if listed is None else "unexpected"
            found.append(Outcome(file, name, state, listed.reason if listed else ""))
    return found


def _listed(file: str, name: str) -> Skip | None:
    return next((skip for skip in SKIPPED if re.search(skip.pattern, f"{file}::{name}")), None)


def _judged(file: str, name: str, detail: str) -> Outcome:
    listed = _listed(file, name)
    if listed is not None and re.search(listed.says, detail):
        return Outcome(file, name, "expected", listed.reason)
    return Outcome(file, name, "failed", detail)


# -- what is said of it --


def told(found: Sequence[Outcome], seconds: float) -> None:
    """Print counts for each file and a reason for whatever did not pass."""
    states = ("passed", "expected", "skipped", "failed", "unexpected")
    print(f"{'':34}" + "".join(f"{state:>11}" for state in states))
    files = list(dict.fromkeys(one.file for one in found))
    for file in [*files, "all"]:
        counts = collections.Counter(one.state for one in found if file in (one.file, "all"))
        print(f"{file:34}" + "".join(f"{counts[state]:>11}" for state in states))
    print(f"{len(found)} tests in {seconds:.0f} s; stored chat completions are the upstream's, ")
    print("which is scripted: those tests show that Tocsin forwards them.")
    for state, words in (
        ("expected", "not passed, and why that is right"),
        ("skipped", "skipped by the suite itself"),
        ("unexpected", "passed although this script lists them: take them off the list"),
        ("failed", "failed"),
    ):
        _reasons([one for one in found if one.state == state], words)


def _reasons(found: Sequence[Outcome], words: str) -> None:
    if not found:
        return
    print(f"\n{words}:")
    by_reason: dict[str, list[Outcome]] = collections.defaultdict(list)
    for one in found:
        lines = one.detail.strip().splitlines() or ["(no reason)"]
        marked = [line for line in lines if line.startswith("E  ")]
        by_reason[(marked[-1] if marked else lines[0])[:300]].append(one)
    for reason, ones in by_reason.items():
        print(f"  {len(ones)} x {reason}")
        for one in ones:
            print(f"      {one.file} {one.name}")


def main() -> int:
    """Run everything; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", type=Path, required=True, metavar="DIR")
    parser.add_argument("--python", default=sys.executable, help="whose pytest and client run")
    parser.add_argument("--only", default="", metavar="TEXT", help="as pytest's -k")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write one row for each test")
    parser.add_argument("--verbose", action="store_true", help="show pytest's own output")
    given = parser.parse_args()
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # their clients leave in mid-stream
    folder, port = fresh("clients"), free_port()
    upstream = Upstream()
    command = tocsin.command(folder, port=port, upstream_port=upstream.port)
    base_url = f"http://127.0.0.1:{port}/v1"
    with Proc(command, cores=two_cores(), log=folder / "server.log") as process:
        process.wait_until(lambda: _answers(port), 60)
        seeds = Seeds(folder / "data", base_url)
        seeder = Seeder(seeds)
        began = time.monotonic()
        report = run_suite(given, folder, base_url, seeder.url)
        took = time.monotonic() - began
        seeder.stop()
        seeds.close()
    upstream.stop()
    found = outcomes(report)
    client = version(Path(given.python), "openai")
    print(f"openai {client}, suite {given.suite.name}")
    told(found, took)
    if given.json:
        given.json.write_text(json.dumps([one._asdict() for one in found], indent=1))
    return 0 if all(one.state in ("passed", "expected", "skipped") for one in found) else 1


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{tocsin.READY}", timeout=1) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
