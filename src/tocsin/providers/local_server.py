"""The process that holds the local model. Run as a script by ``LocalProvider``, never imported.

It is a process of its own because loading a model holds Python's lock for half a second or more,
which would stop the gateway, and because a crash of native code must not take the gateway along.

One JSON object comes on standard input, one goes to standard output when the model answers; the
process ends when standard input is closed, which also happens when its parent is killed.
"""

import json
import os
import signal
import sys


def main() -> None:
    """Serve the model until standard input ends."""
    # Ctrl-C in a terminal reaches every process; the gateway decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = json.loads(sys.stdin.readline())
    try:
        import xllamacpp  # an extra, and 100 MB of native code
    except ImportError as error:
        raise SystemExit(f"xllamacpp cannot be loaded: {error}") from error
    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.model_alias = {settings["alias"]}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [settings["key"]]
    params.n_ctx = settings["context"]
    params.n_parallel = settings["parallel"]
    params.kv_unified = True
    params.cpuparams.n_threads = settings["threads"]
    params.cpuparams_batch.n_threads = settings["threads"]
    params.n_threads_http = settings["parallel"] + 2
    params.use_jinja = True
    params.ui = False
    params.endpoint_slots = False
    params.verbosity = 1
    server = xllamacpp.Server(params)
    print(json.dumps({"url": server.listening_address}), flush=True)
    sys.stdin.read()
    # Not by the interpreter's own way out: that would wait for an answer in progress.
    os._exit(0)


if __name__ == "__main__":
    main()
