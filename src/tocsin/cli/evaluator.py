"""``python -m tocsin.cli.evaluator``: evaluates and detects beside a process that serves.

It reads the settings as one line of JSON from standard input and works until that ends; what
troubles it goes to standard output, a line of JSON each time.
"""

import gc
import json
import logging
import os
import signal
import sys
import threading
from typing import BinaryIO

import msgspec

from tocsin.app import all_domains, open_store_from, secrets_of
from tocsin.behaviour import Behaviour
from tocsin.cli.memory import keep_little
from tocsin.config.model import Config
from tocsin.core.clock import Clock, SystemClock
from tocsin.core.redact import Redactor
from tocsin.core.threads import NICENESS
from tocsin.gateway import logs
from tocsin.providers import Pricer
from tocsin.runtime.desk import Desk
from tocsin.runtime.stops import Switch
from tocsin.services import ProcessServices
from tocsin.worker.apart import work_until
from tocsin.worker.evaluating import LIVE_BATCH


class Beside(msgspec.Struct, frozen=True, kw_only=True):
    """What of this process the services of its detectors are made of (``app.Parts``)."""

    config: Config
    clock: Clock
    switch: Switch
    desk: Desk
    behaviour: Behaviour
    pricer: Pricer


def main() -> int:
    """Evaluate and detect until standard input ends."""
    # Ctrl-C is for the process that serves; this one ends with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    keep_little()
    lines = sys.stdin.buffer
    first = lines.readline()
    if not first:
        return 0
    config = Config.model_validate_json(first)
    redactor = Redactor(secrets_of(config, os.environ))
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logs.install(redactor)
    stopped = threading.Event()
    threading.Thread(target=_until_end, args=(lines, stopped), daemon=True).start()
    _work(config, stopped, redactor)
    return 0


def _work(config: Config, stopped: threading.Event, redactor: Redactor) -> None:
    clock = SystemClock()
    store = open_store_from(config, clock=clock)
    try:
        desk = Desk(store, clock)
        behaviour = Behaviour(store, clock, all_domains(), lambda: config)
        services = ProcessServices(
            Beside(
                config=config,
                clock=clock,
                switch=Switch(store, clock),
                desk=desk,
                behaviour=behaviour,
                pricer=Pricer(config.prices),
            )
        )
        evaluating = behaviour.evaluating(services, batch=LIVE_BATCH)
        detecting = behaviour.detecting(services)
        gc.freeze()
        work_until(
            stopped,
            evaluating,
            detecting,
            desk.flush,
            lambda found: _tell(found, redactor),
            needed=lambda: bool(store.alerts(firing=True, limit=1)),
        )
    finally:
        store.close()


def _until_end(lines: BinaryIO, stopped: threading.Event) -> None:
    while lines.read(4096):
        pass
    stopped.set()


def _tell(found: dict[str, str], redactor: Redactor) -> None:
    told = {name: redactor.text(said) for name, said in found.items()}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    sys.exit(main())
