"""``python -m tocsin.cli.evaluator``: the process that evaluates beside one that serves.

It reads the settings as one line of JSON from standard input and works until that ends; what
troubles it goes to standard output, a line of JSON each time.
"""

import gc
import json
import os
import signal
import sys
import threading
from typing import BinaryIO

from tocsin.app import all_domains, open_store_from, secrets_of, signals_known
from tocsin.cli.memory import keep_little
from tocsin.config.model import Config
from tocsin.config.signals import objectives_of
from tocsin.core.redact import Redactor
from tocsin.worker.apart import evaluate_until
from tocsin.worker.evaluating import LIVE_BATCH, Evaluating

_NICENESS = 19


def main() -> int:
    """Evaluate until standard input ends."""
    # Ctrl-C is for the process that serves; this one ends with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICENESS)
    keep_little()
    lines = sys.stdin.buffer
    first = lines.readline()
    if not first:
        return 0
    config = Config.model_validate_json(first)
    redactor = Redactor(secrets_of(config, os.environ))
    stopped = threading.Event()
    threading.Thread(target=_until_end, args=(lines, stopped), daemon=True).start()
    store = open_store_from(config)
    try:
        objectives = objectives_of(config)
        evaluating = Evaluating(
            store,
            tuple(make() for domain in all_domains() for make in domain.evaluators),
            signals_known(config),
            batch=LIVE_BATCH,
            objectives=lambda: objectives,
        )
        gc.freeze()
        evaluate_until(stopped, evaluating, lambda found: _tell(found, redactor))
    finally:
        store.close()
    return 0


def _until_end(lines: BinaryIO, stopped: threading.Event) -> None:
    while lines.read(4096):
        pass
    stopped.set()


def _tell(found: dict[str, str], redactor: Redactor) -> None:
    told = {name: redactor.text(said) for name, said in found.items()}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    sys.exit(main())
