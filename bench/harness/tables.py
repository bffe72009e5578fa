"""Results as aligned text, as Markdown and as JSON, with the machine they were taken on."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Table:
    """One printed table; ``note`` stands below it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def text(self) -> str:
        """The table for a terminal: first column left, the others right."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        out = [f"\n{self.title}"]
        for line in lines:
            cells = [
                x.rjust(w) if i else x.ljust(w)
                for i, (x, w) in enumerate(zip(line, widths, strict=True))
            ]
            out.append("  " + "  ".join(cells).rstrip())
        return "\n".join([*out, *([f"  {self.note}"] if self.note else [])])

    def markdown(self) -> str:
        """The table for a document."""
        rule = "|" + "---|" + "---:|" * (len(self.columns) - 1)
        body = ["| " + " | ".join(line) + " |" for line in (self.columns, *self.rows)]
        lines = [f"### {self.title}", "", body[0], rule, *body[1:]]
        return "\n".join([*lines, *(["", self.note] if self.note else [])])


@dataclass(kw_only=True)
class Report:
    """What one run of one script found: settings, versions, raw rows and tables."""

    bench: str
    settings: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    began: float = field(default_factory=time.time)

    def show(self, table: Table) -> None:
        """Keep a table and print it now, so that a long run can be followed."""
        self.tables.append(table)
        print(table.text(), flush=True)

    def save(self, json_file: Path | None, markdown_file: Path | None) -> None:
        """Write what was asked for; a folder that does not exist is made."""
        for file, text in ((json_file, self._json), (markdown_file, self._markdown)):
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text() + "\n")

    def _json(self) -> str:
        document = {
            "bench": self.bench,
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.began)),
            "seconds": round(time.time() - self.began, 1),
            "machine": machine(),
            "settings": self.settings,
            "versions": self.versions,
            "rows": self.rows,
        }
        return json.dumps(document, indent=1, default=str)

    def _markdown(self) -> str:
        versions = ", ".join(f"{name} {v}" for name, v in sorted(self.versions.items()))
        about = ", ".join(str(v) for v in machine().values())
        head = f"Machine: {about}. Versions: {versions or 'none'}."
        return "\n\n".join([head, *(table.markdown() for table in self.tables)])


def machine() -> dict[str, str]:
    """The processor, the number of cores, the kernel and the Python: no names, no addresses."""
    cpu = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    return {
        "cpu": cpu,
        "cores": f"{os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"Python {platform.python_version()}",
    }


def median(values: Iterable[float | None]) -> float | None:
    """The median of the values there are, or None."""
    known = [v for v in values if v is not None]
    return statistics.median(known) if known else None


def shown(value: float | None, digits: int = 2, suffix: str = "") -> str:
    """A number for a cell; a missing one is a dash, never a zero."""
    return "-" if value is None else f"{value:,.{digits}f}{suffix}"


def times(value: float | None) -> str:
    """A ratio for a cell, with two significant decimals below ten."""
    if value is None:
        return "-"
    return f"{value:.3f}x" if value < 0.1 else f"{value:.2f}x" if value < 10 else f"{value:,.1f}x"


def ratio(a: float | None, b: float | None) -> float | None:
    """a / b where both are known and b is not zero."""
    return a / b if a is not None and b else None
