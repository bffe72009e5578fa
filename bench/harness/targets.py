"""What the gateway benchmark measures: Tocsin, its floors and its peers, one function each."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness import tocsin
from harness.bodies import body
from harness.load import Address, post
from harness.procs import Proc, memory_mb
from harness.tools import BENCH, free_port, fresh, program, venv, version

NGINX = """\
# A plain reverse proxy without logs: what a proxy costs at the least on this machine.
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 10000000;
  upstream llm {{
    server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 10000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://llm; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; client_body_buffer_size 64k;
    }}
  }}
}}
"""

LITELLM_KEY = "sk-bench-master-key"
LITELLM = """\
model_list:
  - model_name: gpt-4o-mini
    litellm_params:
      model: openai/gpt-4o-mini
      api_base: http://127.0.0.1:{upstream}/v1
      api_key: sk-upstream
litellm_settings:
  num_retries: 0
  request_timeout: 60
  telemetry: false
general_settings:
  master_key: {key}
"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to start a target: its command and environment, its version, its key.

    ``slow`` says that its latency under load comes near the length of a cell; ``pause`` is the
    longest pause between two turns of its background work, in seconds.
    """

    cmd: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    version: str = ""
    key: str = "sk-bench"
    patience: float = 60.0
    slow: bool = False
    pause: float = 0.2


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a target is started with; ``install`` allows pip to make a missing environment."""

    folder: Path
    port: int
    upstream: int
    install: bool


def _direct(at: Setting) -> Plan:
    return Plan()


def _nginx(at: Setting) -> Plan:
    file = at.folder / "nginx.conf"
    file.write_text(NGINX.format(folder=at.folder, port=at.port, upstream=at.upstream))
    return Plan(cmd=(program("nginx"), "-c", str(file), "-p", str(at.folder)))


def _relay(at: Setting) -> Plan:
    python = venv("relay", install=True) / "python"
    script = BENCH / "floors" / "relay_uvloop.py"
    cmd = (str(python), str(script), "--port", str(at.port), "--upstream", str(at.upstream))
    return Plan(cmd=cmd, version="uvloop " + version(python, "uvloop"))


def _relay_work(at: Setting) -> Plan:
    plain = _relay(at)
    return Plan(cmd=(*plain.cmd, "--work"), version=plain.version)


def _litellm(at: Setting) -> Plan:
    home = venv("litellm", install=at.install)
    file = at.folder / "litellm.yaml"
    file.write_text(LITELLM.format(upstream=at.upstream, key=LITELLM_KEY))
    # The local cost map keeps it from looking for a newer one on the network at start.
    env = (("LITELLM_LOCAL_MODEL_COST_MAP", "True"), ("LITELLM_LOG", "ERROR"))
    cmd = [home / "litellm", "--config", file, "--host", "127.0.0.1", "--port", at.port]
    return Plan(
        cmd=tuple(str(x) for x in cmd),
        env=env,
        version=version(home / "python", "litellm"),
        key=LITELLM_KEY,
        patience=180.0,
        slow=True,
    )


def _tocsin(at: Setting, *, scores: bool = True) -> Plan:
    cmd = tocsin.command(at.folder, port=at.port, upstream_port=at.upstream, scores=scores)
    # Its search index takes a turn every second.
    return Plan(cmd=tuple(cmd), version=version(Path(sys.executable), "tocsin"), pause=1.2)


TARGETS: dict[str, Callable[[Setting], Plan]] = {
    "tocsin": _tocsin,
    "tocsin-unscored": functools.partial(_tocsin, scores=False),
    "direct": _direct,
    "nginx": _nginx,
    "relay": _relay,
    "relay-work": _relay_work,
    "litellm": _litellm,
}
PEERS = ("litellm",)
"""Targets that are heavy to install: only measured, and installed, when named in --peers."""


class Running:
    """One started target; ``address`` is where its load goes."""

    def __init__(self, name: str, *, upstream: int, core: int, install: bool) -> None:
        self.name, self.folder = name, fresh(f"gateway-{name}")
        port = free_port()
        at = Setting(folder=self.folder, port=port, upstream=upstream, install=install)
        plan = TARGETS[name](at)
        self.version, self.slow = plan.version, plan.slow
        self.sent = 0
        self.headers = {"Authorization": f"Bearer {plan.key}"}
        self.proc: Proc | None = None
        self.first_200_s: float | None = None
        if plan.cmd:
            log = self.folder / "server.log"
            self.proc = Proc(plan.cmd, cores={core}, log=log, env=dict(plan.env), cwd=self.folder)
            try:
                self.first_200_s = self._ready(port, plan.patience)
            except BaseException:
                self.proc.stop()
                raise
        self.address = Address(
            port=port if plan.cmd else upstream,
            headers=tuple(f"{k}: {v}" for k, v in self.headers.items()),
            pid=self.proc.pid if self.proc else None,
            pause=plan.pause,
        )

    def _ready(self, port: int, patience: float) -> float:
        """Seconds from the start of the process to its first proxied 200."""
        assert self.proc is not None
        request = body(stream=False)

        def served() -> bool:
            with contextlib.suppress(OSError):
                post(port, "/v1/chat/completions", request, self.headers, timeout=5)
                return True
            return False

        return self.proc.wait_until(served, patience)

    def memory(self) -> float | None:
        """Memory of the target in MiB, after a moment of rest."""
        if self.proc is None:
            return None
        time.sleep(0.5)
        return memory_mb(self.proc.pid)

    def stop(self) -> None:
        if self.proc is not None:
            self.proc.stop()
