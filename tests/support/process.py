"""A real Tocsin process for a test: ``python -m tocsin up`` in a folder of its own."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tocsin.config.model import StoreSettings
from tocsin.core.clock import SystemClock
from tocsin.store import Store, open_store


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Tocsin:
    """Starts, kills and starts again the binary over one data folder."""

    def __init__(self, folder: Path, config: str, *, env: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.data = folder / "data"
        self.config = folder / "tocsin.toml"
        self.config.write_text(
            f'[server]\nport = {self.port}\ndata_dir = "{self.data}"\n'
            f"shutdown_grace_s = 5\n{config}"
        )
        self.log = folder / "tocsin.log"
        self._env = {**os.environ, **(env or {})}
        # A test starts it many times: what Python compiled once must be kept, as a user has it.
        self._env.pop("PYTHONDONTWRITEBYTECODE", None)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "Tocsin":
        """Start the process; ``ready`` waits for it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tocsin", "up", "--config", str(self.config)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
            )
        return self

    async def ready(self, timeout_s: float = 30) -> "Tocsin":
        """Wait until it answers."""
        assert self.process is not None
        for _ in range(int(timeout_s / 0.05)):
            if self.process.poll() is not None:
                raise AssertionError(f"it ended at start:\n{self.log.read_text()[-3000:]}")
            if await asyncio.to_thread(self._answers):
                return self
            await asyncio.sleep(0.05)
        raise AssertionError(f"no answer in {timeout_s} s:\n{self.log.read_text()[-3000:]}")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=1) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def admin_key(self) -> str:
        """The key that the first start printed."""
        found = re.search(r"tk-[0-9A-Za-z]{40}", self.log.read_text())
        assert found is not None
        return found[0]

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """An orderly end; the exit status."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def store(self) -> Store:
        """Its store, opened beside it or after it."""
        return open_store(StoreSettings(), self.data, SystemClock())

    def __enter__(self) -> "Tocsin":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
