"""What the terminal shows. Everything that came over a wire is hostile and goes through here.

A recorded message can hold escape sequences that retitle a window, hide text or answer for the
user; ``visible`` turns them into signs, and nothing recorded is ever read as markup.
"""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from tocsin.dashboard.fmt import one_line, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PIPE_COLUMNS = 200
"""Columns of a table that nobody looks at directly: nothing is cut short in a file."""

_ACTS_IN_TERMINALS = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")

GOOD, LOOK, BAD, QUIET = "green", "yellow", "red", "dim"

OUTCOME_STYLE: Mapping[str, str] = {
    "complete": GOOD,
    "truncated": LOOK,
    "refused": LOOK,
    "unverified": LOOK,
    "cancelled": LOOK,
}


@cache
def console(*, stderr: bool = False) -> "Console":
    """The one console of each stream. Markup and emoji codes are off for good."""
    from rich.console import Console  # a third of the time of `tocsin --help`, which needs none

    file = sys.stderr if stderr else sys.stdout
    width = None if file.isatty() else _PIPE_COLUMNS
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, width=width)


def say(text: str, style: str | None = None) -> None:
    """One or more lines of our own words on standard output."""
    console().print(text, style=style, soft_wrap=True)


def complain(text: str) -> None:
    """A message on standard error."""
    console(stderr=True).print(visible(text), style=BAD, soft_wrap=True)


def outcome_style(outcome: str) -> str:
    """Colour of an outcome; the word itself always stands beside it."""
    return OUTCOME_STYLE.get(outcome, BAD)


def table(columns: Sequence[str]) -> "Table":
    """An empty table. A column named ``>x`` is right-aligned, ``*x`` takes the room that is left.

    Every other column keeps its content whole.
    """
    from rich.table import Table  # as in ``console``

    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        flexible = name.startswith("*")
        made.add_column(
            name.lstrip(">*"),
            justify="right" if name.startswith(">") else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if flexible else None,
        )
    made.expand = any(name.startswith("*") for name in columns)
    return made


def cell(text: str, style: str = "") -> Any:
    """Recorded text for a table cell: one line, nothing in it acts."""
    from rich.text import Text  # as in ``console``

    return Text(one_line(text), style=style)


def show(renderable: Any) -> None:
    """Print a table or a ``Text``."""
    console().print(renderable)


# -- JSON --


def plain(value: Any) -> Any:
    """A record as JSON values: hashes in hex, structs as objects."""
    return _plain(msgspec.to_builtins(value, builtin_types=(bytes,)))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def json_text(value: Any) -> str:
    """JSON on one line, with what would act in a terminal written as an escape."""
    return safe_json(msgspec.json.encode(plain(value)).decode())


def safe_json(text: str) -> str:
    """JSON text with characters that would act in a terminal as escapes; its value is the same."""
    return _ACTS_IN_TERMINALS.sub(lambda m: f"\\u{ord(m[0]):04x}", text)


def print_json(value: Any) -> None:
    """One JSON document and a line end on standard output."""
    sys.stdout.write(json_text(value) + "\n")
    sys.stdout.flush()


# -- words --


def clock_time(us: int) -> str:
    """An instant in the reader's zone: ``2026-03-12 14:05:09``."""
    try:
        return f"{datetime.fromtimestamp(us / 1e6).astimezone():%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return "unknown"


def listing(words: Iterable[str]) -> str:
    """``a, b and c``."""
    items = list(words)
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
