"""Send recorded agent runs through a gateway without identity headers; count runs found exactly.

usage: python bench/stitch.py --data DIR [--clients 50] [--json FILE]

DIR holds agents/tau-bench-airline-gpt-4o.json (sierra-research/tau-bench, MIT). Each assistant turn
of a run becomes one call that holds the history before it; an upstream of our own answers with the
recorded turn. A run is exact when all its calls, and no others, share one run id.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
from typing import Any

import aiohttp
from aiohttp import web

Message = dict[str, Any]


def recorded(path: pathlib.Path) -> list[list[Message]]:
    """The runs' messages."""
    return [run["traj"] for run in json.loads(path.read_text())]


async def start_upstream(answers: dict[str, Message]) -> tuple[web.AppRunner, int]:
    """An upstream that answers each call with the turn that its ``user`` field names."""

    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        message = answers[body["metadata"]["turn"]]
        reason = "tool_calls" if message.get("tool_calls") else "stop"
        choice = {"index": 0, "message": message, "finish_reason": reason}
        return web.json_response({"id": "x", "object": "chat.completion", "choices": [choice]})

    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    return runner, site._server.sockets[0].getsockname()[1]


def start_gateway(folder: pathlib.Path, upstream: int) -> tuple[subprocess.Popen[bytes], int]:
    """A Tocsin on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "tocsin.toml"
    config.write_text(
        f'[server]\nport = {port}\ndata_dir = "{folder / "data"}"\n'
        f'[upstreams.recorded]\nbase_url = "http://127.0.0.1:{upstream}/v1"\n'
    )
    command = [sys.executable, "-m", "tocsin", "up", "--config", str(config)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL), port


async def play(
    session: aiohttp.ClientSession, url: str, number: int, run: list[Message]
) -> list[str]:
    """Make the calls of one run, one after another; returns the run id that each was given."""
    found = []
    for index, message in enumerate(run):
        if message["role"] != "assistant":
            continue
        body = {
            "model": "gpt-4o",
            "messages": run[:index],
            "metadata": {"turn": f"{number}/{index}"},
        }
        async with session.post(url, json=body) as reply:
            await reply.read()
            found.append(reply.headers.get("tocsin-run-id", f"status {reply.status}"))
    return found


async def measure(runs: list[list[Message]], clients: int) -> dict[str, Any]:
    """Play all runs, ``clients`` at once, and judge what came back."""
    answers = {
        f"{number}/{index}": message
        for number, run in enumerate(runs)
        for index, message in enumerate(run)
        if message["role"] == "assistant"
    }
    runner, upstream = await start_upstream(answers)
    with tempfile.TemporaryDirectory() as folder:
        process, port = start_gateway(pathlib.Path(folder), upstream)
        try:
            async with aiohttp.ClientSession() as session:
                await ready(session, port)
                url = f"http://127.0.0.1:{port}/v1/chat/completions"
                found = await play_all(session, url, runs, clients)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            await runner.cleanup()
    return judge(runs, found)


async def ready(session: aiohttp.ClientSession, port: int) -> None:
    """Wait until the gateway answers, at most 20 s."""
    for _ in range(200):
        try:
            async with session.get(f"http://127.0.0.1:{port}/healthz") as reply:
                if reply.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.1)
    raise SystemExit("the gateway did not start")


async def play_all(
    session: aiohttp.ClientSession, url: str, runs: list[list[Message]], clients: int
) -> list[list[str]]:
    """Every run, by ``clients`` workers that each take the next run when one is done."""
    waiting = collections.deque(enumerate(runs))
    found: list[list[str]] = [[] for _ in runs]

    async def client() -> None:
        while waiting:
            number, run = waiting.popleft()
            found[number] = await play(session, url, number, run)

    await asyncio.gather(*(client() for _ in range(clients)))
    return found


def judge(runs: list[list[Message]], found: list[list[str]]) -> dict[str, Any]:
    """How many runs are exact, and how many could have been confused."""
    owners: dict[str, set[int]] = collections.defaultdict(set)
    for number, ids in enumerate(found):
        for run_id in ids:
            owners[run_id].add(number)
    exact = [len(set(ids)) == 1 and len(owners[ids[0]]) == 1 for ids in found]
    beginnings = collections.Counter(json.dumps(run[:2], sort_keys=True) for run in runs)
    answered = collections.Counter(json.dumps(run[:3], sort_keys=True) for run in runs)
    return {
        "runs": len(runs),
        "calls": sum(map(len, found)),
        "exact": sum(exact),
        "wrong": [number for number, good in enumerate(exact) if not good],
        "begin_like_another": sum(n for n in beginnings.values() if n > 1),
        "begin_and_are_answered_like_another": sum(n for n in answered.values() if n > 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    path = options.data / "agents" / "tau-bench-airline-gpt-4o.json"
    result = asyncio.run(measure(recorded(path), options.clients))
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))
    return 0 if result["exact"] == result["runs"] else 1


if __name__ == "__main__":
    sys.exit(main())
