"""Options that several commands have. Light: ``tocsin --help`` loads it."""

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Settings; default: $TOCSIN_CONFIG, then ./tocsin.toml."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def example(*lines: str) -> str:
    """Examples below a command's options, one a line."""
    return "\b\n" + "\n".join(("Examples:", *(f"  {line}" for line in lines)))
