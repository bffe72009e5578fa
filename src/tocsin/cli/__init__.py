"""The command line: thin commands over the store, the gateway and the importers."""

import gc
import sys


def main() -> None:
    """The ``tocsin`` command; ends the process with its exit code."""
    # Modules make many objects and hardly any garbage: to look for it in between takes a sixth of
    # the time that loading takes. A server sets its own pace when it has started.
    gc.set_threshold(200_000, 20, 50)
    # Imported here so that `import tocsin.cli` costs nothing.
    from tocsin.cli.commands import app

    sys.exit(app(prog_name="tocsin"))


__all__ = ["main"]
