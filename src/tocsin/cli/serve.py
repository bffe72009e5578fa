"""``tocsin up``: one process, one event loop, until a signal ends it."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
import uvloop

import tocsin
from tocsin.app import build, signals_known
from tocsin.cli import output
from tocsin.cli.context import Settings, settings
from tocsin.cli.frontdoor import FrontDoor
from tocsin.cli.guard import FAILED, OK
from tocsin.cli.keys import base_url
from tocsin.cli.memory import keep_little
from tocsin.config.load import warnings
from tocsin.config.model import Config
from tocsin.core.errors import ConfigError, InputError
from tocsin.dashboard import fmt
from tocsin.gateway import logs
from tocsin.gateway.auth import is_live, key_required, refuse_open_bind
from tocsin.gateway.protocol import protocol_for

log = logging.getLogger("tocsin.serve")

_BACKLOG = 4096
_ACCEPTS = 16
"""Connections taken at one turn of the loop. The loop itself takes one for each socket that
listens: beside a thousand streams the last of a thousand new clients would wait for seconds."""
_KEEP_ALIVE_S = 75
"""Longer than the official clients keep an idle connection: they close it, never we under them."""


class Server(uvicorn.Server):
    """uvicorn, with signals of our own: a second Ctrl-C cuts calls off, SIGHUP reloads."""

    def __init__(
        self, config: uvicorn.Config, door: FrontDoor, announce: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._door = door
        self._announce = announce
        self.ready = asyncio.Event()
        self._reloading: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals on the loop; an orderly end is no error, so none is raised again."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, say so, and set ``ready``."""
        await super().startup(sockets=sockets)
        # What is loaded by now lives as long as the process: the collector need not look at it.
        gc.collect()
        gc.freeze()
        # A call makes and frees some hundred containers, hardly ever in a cycle: look seldom.
        gc.set_threshold(50_000, 20, 50)
        # The writer thread gives the interpreter back sooner than after the usual 5 ms.
        sys.setswitchinterval(0.0005)
        # Said before the first request is looked at: whoever gets an answer can read it.
        self._announce()
        self.ready.set()

    def stop(self) -> None:
        """End once the calls under way are done; when called again, end at once."""
        self.force_exit = self.should_exit
        self.should_exit = True

    def _reload(self) -> None:
        task = asyncio.create_task(self._reload_now())
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)

    async def _reload_now(self) -> None:
        try:
            done = await self._door.reload()
        except ConfigError as error:
            log.error("settings not taken over, the old ones stay:\n%s", error)
            return
        if done.needs_restart:
            log.warning("these settings wait for a restart: %s", ", ".join(done.needs_restart))
        log.warning("settings read again: %s", ", ".join(done.changed) or "nothing changed")


def make_server(door: FrontDoor, announce: Callable[[], None] = lambda: None) -> Server:
    """The server of a front door, not yet listening; it calls ``announce`` when it does."""
    config = door.app.config
    grace = max(1, round(config.server.shutdown_grace_s))
    return Server(
        uvicorn.Config(
            door.gateway,
            loop="none",
            http=protocol_for(door.gateway),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            # The peer's address decides what it may do: nobody may claim another.
            proxy_headers=False,
            server_header=False,
            date_header=True,
            backlog=_BACKLOG,
            limit_concurrency=config.server.max_connections,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=grace,
        ),
        door,
        announce,
    )


def listen(config: Config) -> socket.socket:
    """A socket bound to the configured address. Raises ``InputError`` that says what to do."""
    host, port = config.server.host, config.server.port
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, number)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}:{port}: {error.strerror or error}. End what listens there "
            "(`tocsin doctor` looks), or choose another: --port, server.port or TOCSIN_PORT"
        ) from error
    bound.set_inheritable(False)
    return bound


def up(
    named: Path | None,
    *,
    host: str | None,
    port: int | None,
    data_dir: Path | None,
    quiet: bool,
) -> int:
    """Serve until a signal comes. Raises ``ConfigError``, ``InputError`` or ``StoreError``."""
    found = settings(named, signals_known).with_server(
        host=host, port=port, data_dir=str(data_dir) if data_dir else None
    )
    refuse_open_bind(found.config)
    start_logging()
    keep_little()
    with contextlib.closing(listen(found.config)) as bound:
        return uvloop.run(_serve(found, bound, quiet=quiet))


async def _serve(found: Settings, bound: socket.socket, *, quiet: bool) -> int:
    evaluator = (sys.executable, "-m", "tocsin.cli.evaluator")
    door = FrontDoor(build(found.config, env=found.env, evaluator=evaluator), found)
    door.base_url = base_url(found.config, bound.getsockname()[1])
    logs.install(door.redactor())
    lines = [] if quiet else welcome(door)
    server = make_server(door, lambda: _say(lines))
    listening = [bound, *(bound.dup() for _ in range(_ACCEPTS - 1))]
    try:
        await server.serve(sockets=listening)
    except SystemExit:
        # uvicorn ends so when the app cannot start; the app's own message is in the log.
        return FAILED
    if not quiet:
        output.say("Stopped; everything recorded is in the store.")
    return OK


def _say(lines: list[tuple[str, str | None]]) -> None:
    for text, style in lines:
        output.say(text, style)
    sys.stdout.flush()


def sign_in_link(door: FrontDoor) -> tuple[str, str | None]:
    """A link that signs in as the admin, and the admin's key when it has only now been made."""
    made = door.keyring.ensure_admin()
    now = door.app.clock.now_us()
    keys = door.app.store.keys()
    key_id = next(key.id for key in keys if key.role == "admin" and is_live(key, now))
    link = f"{door.base_url}/login?code={door.codes.issue(key_id)}"
    return link, None if made is None else made.secret


def welcome(door: FrontDoor) -> list[tuple[str, str | None]]:
    """What `tocsin up` says: where to point clients, how to look, where the data lives."""
    config, base = door.app.config, door.base_url
    link, secret = sign_in_link(door)
    lines: list[tuple[str, str | None]] = [
        (f"tocsin {tocsin.__version__} is up; Ctrl-C ends it.\n", "bold"),
        (f"  OpenAI clients     export OPENAI_BASE_URL={base}/v1", None),
        (f"  Anthropic clients  export ANTHROPIC_BASE_URL={base}", None),
        (f"  Dashboard          {link}", None),
        (f"{'':21}(signs you in once, within ten minutes; `tocsin login` makes more)", "dim"),
        (f"  Data               {door.app.data_dir.absolute()}", None),
        (f"  Settings           {door.settings.path or 'defaults (no tocsin.toml here)'}", None),
    ]  # fmt: skip
    for name, upstream in config.upstreams.items():
        source = {
            "openai": "forwards the key that your app sends",
            "anthropic": "forwards the key that your app sends",
        }.get(upstream.kind, "needs no key")
        if upstream.api_key_env:
            source = f"key from {upstream.api_key_env}"
        models = fmt.one_line(", ".join(upstream.models), 60)
        lines.append(
            (f"  Upstream           {name} ({upstream.kind}) for {models}: {source}", None)
        )
    if key_required(config):
        note = "  Calls need a Tocsin key: tocsin keys issue NAME"
        lines.append((note, output.LOOK))
    if secret is not None:
        lines.append((f"\n  Admin key, shown this once: {secret}", "bold"))
    notes = warnings(config, door.settings.env)
    lines += [(f"  warning: {fmt.visible(note)}", output.LOOK) for note in notes]
    return [*lines, ("", None)]


def start_logging(level: int = logging.WARNING) -> None:
    """Log lines on standard error; secrets are taken out once the settings are known."""
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
