"""Exit codes, and how an expected error becomes one of them. Light: `tocsin --help` loads it."""

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

import typer

from tocsin.core.errors import BadRequest, ConfigError, InputError, TocsinError

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: fine; a finding or failure; wrong usage or settings; stopped by Ctrl-C."""

_P = ParamSpec("_P")


def guarded(command: Callable[_P, int | None]) -> Callable[_P, None]:
    """A command whose expected errors are one message and an exit code, never a traceback."""

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            code = command(*args, **kwargs)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read our output has had enough; Python must not complain on its way out.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(OK) from None
        except TocsinError as error:
            from tocsin.cli.output import complain  # as in ``opened``

            complain(str(error))
            raise typer.Exit(
                USAGE if isinstance(error, ConfigError | InputError | BadRequest) else FAILED
            ) from None
        raise typer.Exit(code or OK)

    return run
