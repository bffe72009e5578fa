"""``tocsin check``: the settings, read and judged, without starting anything."""

import os
from collections.abc import Iterator
from pathlib import Path

from tocsin.app import checks_offered, signals_known
from tocsin.cli import output
from tocsin.cli.guard import OK, USAGE
from tocsin.config.checks import function_problems
from tocsin.config.limits import Finding
from tocsin.config.load import InvalidConfig, Problem, find, load, located, warnings
from tocsin.config.model import Config
from tocsin.core.errors import ConfigError
from tocsin.dashboard import fmt
from tocsin.gateway.auth import refuse_open_bind
from tocsin.operations.webhooks import signing_key


def _outside(config: Config) -> Iterator[Finding]:
    """What is wrong with what settings name: secrets in the environment, installed packages."""
    for name, webhook in config.webhooks.items():
        try:
            signing_key(name, webhook, os.environ)
        except ConfigError as error:
            where, _, message = str(error).partition(": ")
            own = ("secret_env",) if where.endswith(".secret_env") else ()
            yield Finding(("webhooks", name, *own), message)
    yield from function_problems(config, checks_offered())


def check(named: Path | None, *, json: bool) -> int:
    """Print every problem and warning. Problems make the exit code 2, warnings do not."""
    path = named or find(os.environ, Path())
    problems: list[Problem] = []
    notes: list[str] = []
    try:
        config = load(path, os.environ, signals_known)
        refuse_open_bind(config)
        problems = located(path, os.environ, _outside(config))
        notes = warnings(config, os.environ)
    except InvalidConfig as error:
        problems = list(error.problems)
    except ConfigError as error:
        problems = [Problem(file=str(path or ""), line=None, setting="", message=str(error))]
    if json:
        output.print_json(
            {
                "file": None if path is None else str(path),
                "ok": not problems,
                "problems": problems,
                "warnings": notes,
            }
        )
        return USAGE if problems else OK
    for problem in problems:
        output.console(stderr=True).print(fmt.visible(str(problem)), style=output.BAD)
    for note in notes:
        output.say(f"warning: {fmt.visible(note)}", output.LOOK)
    where = path or "the defaults (there is no tocsin.toml here)"
    if problems:
        count = len(problems)
        output.complain(f"{where}: {count} problem{'' if count == 1 else 's'}")
        return USAGE
    output.say(f"{where}: fine", output.GOOD)
    return OK
