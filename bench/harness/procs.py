"""Processes: start one pinned to cores, read its tree's CPU and memory, end exactly that tree."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

TICK = os.sysconf("SC_CLK_TCK")


class StartError(RuntimeError):
    """A target did not come up; the message names its log."""


def two_cores() -> tuple[int, int]:
    """The core for the target, and the core for load generator and upstream.

    On a machine with one core both are the same, and the figures measure them together.
    """
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[min(1, len(cores) - 1)]


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the command name (index 0 is the state)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None


def tree(pid: int) -> list[tuple[int, str]]:
    """The process and its descendants as (pid, start time); the pair names one process for ever."""
    children: dict[int, list[int]] = collections.defaultdict(list)
    born: dict[int, str] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))):
            children[int(fields[1])].append(int(name))
            born[int(name)] = fields[19]
    found, todo = [], [pid]
    while todo:
        here = todo.pop()
        if here in born:
            found.append((here, born[here]))
            todo += children[here]
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of the process tree so far, ended children included."""
    ticks = 0
    for member, _ in tree(pid):
        if fields := _stat(member):
            ticks += sum(int(x) for x in fields[11:15])
    return ticks / TICK


def memory_mb(pid: int) -> float:
    """Memory of the process tree in MiB, shared pages divided among their users (PSS)."""
    total = 0
    for member, _ in tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def busy_seconds() -> float:
    """Seconds all cores together were not idle since boot."""
    fields = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICK


def settle(pid: int, limit: float = 20.0, pause: float = 0.2) -> float:
    """Wait until the process tree is idle, so that work it put off is charged to this load.

    Idle means less than a tenth of a core over ``pause`` seconds, which must be longer than the
    pauses between the turns of its background work. Returns how many seconds that took.
    """
    began, before = time.monotonic(), cpu_seconds(pid)
    while time.monotonic() - began < limit:
        time.sleep(pause)
        now = cpu_seconds(pid)
        if now - before < 0.1 * pause:
            break
        before = now
    return time.monotonic() - began


def _signal(members: Iterable[tuple[int, str]], what: signal.Signals) -> None:
    """Signal those processes that still are the ones meant: a pid may have been reused."""
    for pid, born in members:
        fields = _stat(pid)
        if fields and fields[19] == born:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, what)


def pinned(cmd: Iterable[object], cores: Iterable[int]) -> list[str]:
    """The command as one that runs on those cores only; taskset becomes it, so the pid is its."""
    return ["taskset", "-c", ",".join(str(c) for c in cores), *(str(part) for part in cmd)]


class Proc:
    """One started program with its descendants; leaving the ``with`` block ends them."""

    def __init__(
        self,
        cmd: Sequence[str | Path],
        *,
        cores: Iterable[int],
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.log = log
        self.started = time.monotonic()
        with log.open("ab") as sink:
            self._popen = subprocess.Popen(
                pinned(cmd, cores),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> float:
        """Poll ``ready`` every 10 ms; returns the seconds since the start of the process."""
        while not ready():
            if self._popen.poll() is not None:
                last = self.log.read_text(errors="replace").strip().rpartition("\n")[2]
                raise StartError(f"exited with {self._popen.returncode}: {last[-160:]}")
            if time.monotonic() - self.started > seconds:
                raise StartError(f"not ready after {seconds:.0f} s; see {self.log}")
            time.sleep(0.01)
        return time.monotonic() - self.started

    def stop(self, grace: float = 15.0) -> None:
        """SIGTERM to the program, so that it can close its files; then SIGKILL to what is left."""
        members = tree(self.pid)
        if self._popen.poll() is None:
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(grace)
        _signal(members, signal.SIGKILL)
        self._popen.wait()

    def kill(self) -> None:
        """kill -9 the whole tree at once, as an OOM killer or a power cut would."""
        members = tree(self.pid)
        _signal(members, signal.SIGKILL)
        self._popen.wait()

    def __enter__(self) -> Proc:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
