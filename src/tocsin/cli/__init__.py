"""The command line: thin commands over the store, the gateway and the importers."""

import sys


def main() -> None:
    """The ``tocsin`` command; ends the process with its exit code."""
    # Imported here so that `import tocsin.cli` costs nothing.
    from tocsin.cli.commands import app

    sys.exit(app(prog_name="tocsin"))


__all__ = ["main"]
