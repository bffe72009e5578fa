"""Named queries: SQL stands in ``sql/*.sql`` under ``-- name:`` lines, and nowhere else.

A text may hold tokens that are filled before it is prepared, always with parameters or with fixed
words of ours: ``{rows:n}`` is a list of rows of n parameters, ``{list}`` a list of parameters, any
other token a fragment that the caller names.
"""

import re
from functools import cache
from pathlib import Path

SQL = Path(__file__).parent / "sql"

_ROWS = re.compile(r"\{rows:(\d+)\}")
_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*$\n?", re.MULTILINE)


@cache
def _texts(dialect: str) -> dict[str, str]:
    """Every named query: the shared files first, then the few that a dialect says otherwise."""
    texts: dict[str, str] = {}
    for path in [*sorted(SQL.glob("*.sql")), SQL / dialect / "queries.sql"]:
        parts = _NAME.split(path.read_text())
        for name, body in zip(parts[1::2], parts[2::2], strict=True):
            if name in texts and path.parent == SQL:
                raise ValueError(f"two queries are called {name}; one of them is in {path.name}")
            texts[name] = _COMMENT.sub("", body).strip().rstrip(";")
    return texts


def statements(path: Path) -> list[str]:
    """The statements of a schema or migration file."""
    text = _COMMENT.sub("", path.read_text())
    return [part.strip() for part in text.split(";") if part.strip()]


class Queries:
    """Query texts of one dialect, filled and remembered.

    The same call returns the same string object, so that drivers find their prepared statement by
    a hash that is computed once.
    """

    def __init__(self, dialect: str, placeholder: str) -> None:
        self._texts = _texts(dialect)
        self._placeholder = placeholder
        self._filled: dict[tuple[object, ...], str] = {}

    def text(self, name: str) -> str:
        """A query without tokens."""
        return self._fill((name,), self._texts[name])

    def template(self, name: str) -> str:
        """A query as it is written, to be a fragment of another."""
        return self._texts[name]

    def rows(self, name: str, count: int) -> tuple[str, int]:
        """A query for ``count`` rows, and how many parameters one row has."""
        template = self._texts[name]
        match = _ROWS.search(template)
        if match is None:
            raise KeyError(f"query {name} takes no rows")
        width = int(match[1])
        key = (name, count)
        text = self._filled.get(key)
        if text is None:
            row = "(" + ", ".join("?" * width) + ")"
            text = self._fill(key, template.replace(match[0], ", ".join([row] * count)))
        return text, width

    def listed(self, name: str, count: int) -> str:
        """A query whose ``{list}`` has ``count`` parameters."""
        key = (name, "list", count)
        text = self._filled.get(key)
        if text is None:
            text = self._fill(key, self._texts[name].replace("{list}", ", ".join("?" * count)))
        return text

    def composed(self, name: str, **fragments: str) -> str:
        """A query with its other tokens filled by fixed fragments of SQL."""
        text = self._texts[name]
        for token, fragment in fragments.items():
            text = text.replace("{" + token + "}", fragment)
        return self._in_dialect(text)

    def _fill(self, key: tuple[object, ...], text: str) -> str:
        filled = self._filled.get(key)
        if filled is None:
            filled = self._filled[key] = self._in_dialect(text)
        return filled

    def _in_dialect(self, text: str) -> str:
        return text if self._placeholder == "?" else text.replace("?", self._placeholder)
