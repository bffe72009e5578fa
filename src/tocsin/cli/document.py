"""Writes ``docs/cli.md`` from the commands themselves.

``python -m tocsin.cli.document FILE`` writes the page; without FILE it prints it. A test holds the
page in the repository equal to what this makes.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from tocsin.cli.commands import app

_HEAD = """\
# Commands

<!-- Made from src/tocsin/cli/commands.py by `make docs`; change it there. -->

Every command reads the settings as `tocsin up` does (see [configuration](configuration.md)), so it
finds the same store. Commands that only look may run beside a running Tocsin, in any number.

| Exit code | Meaning |
|---|---|
| 0 | done; also when Ctrl-C or SIGTERM ended `up` or `demo` in good order |
| 1 | a finding or a failure: `verify` found damage, `doctor` found a fault, nothing has that id |
| 2 | wrong usage or settings |
| 130 | interrupted by Ctrl-C |

`--json` prints one JSON document on standard output, and `tail --json` one object a line. Times are
microseconds since the epoch, durations microseconds, money nano US dollars (1e-9 USD), and `null`
is unknown. Recorded text is printed with its control characters made visible, so that nothing which
came over a wire can act in your terminal.
"""


def document() -> str:
    """The whole page as Markdown."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("tocsin", ["--version"], resilient_parsing=True)
    parts = [_HEAD]
    for name in group.list_commands(context):
        parts.extend(_section(f"tocsin {name}", group.get_command(context, name)))
    return "\n".join(parts)


def _section(title: str, command: Any) -> Iterator[str]:
    """A heading, what the command does, its options and an example; or those of its commands."""
    if hasattr(command, "commands"):
        if command.invoke_without_command:
            yield from _own(title, command)
        for name, inner in command.commands.items():
            yield from _section(f"{title} {name}", inner)
    else:
        yield from _own(title, command)


def _own(title: str, command: Any) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = "".join(
        f" [{p.name.upper()}]" if not p.required else f" {p.name.upper()}{'...' * (p.nargs < 0)}"
        for p in arguments
    )
    yield f"## `{title}`\n"
    yield f"{_prose(command.help)}\n"
    yield f"```\n{title}{usage} [OPTIONS]\n```\n"
    rows = [_row(parameter) for parameter in command.params]
    if rows:
        yield "| Option | Default | Meaning |\n|---|---|---|"
        yield from rows
        yield ""
    examples = [line.strip() for line in (command.epilog or "").splitlines()[2:]]
    if examples:
        yield "```sh\n" + "\n".join(examples) + "\n```\n"


def _prose(text: str) -> str:
    """Help text with one paragraph a line, as Markdown wants it."""
    return "\n\n".join(" ".join(part.split()) for part in (text or "").split("\n\n"))


def _row(parameter: Any) -> str:
    """A line of the table of options."""
    if parameter.param_type_name == "argument":
        name = f"`{parameter.name.upper()}`"
    else:
        name = ", ".join(f"`{word}`" for word in parameter.opts)
    default = parameter.default
    shown = "" if default in (None, False, [], ()) or callable(default) else f"`{default}`"
    return f"| {name} | {shown} | {parameter.help or 'At most this many.'} |"


def main() -> None:
    """Write the page to the file named on the command line, or print it."""
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(document(), encoding="utf-8")
    else:
        sys.stdout.write(document())


if __name__ == "__main__":
    main()
