"""Files of other systems become interactions: what a file is, and what it holds.

``read`` yields an ``Entry`` for each call and step, and a ``BadRecord`` for each record that cannot
be read; nothing is left out without one. Times that a file does not tell are synthetic (the file's
own age and up) and marked with the attribute ``time: unknown``.
"""

from collections.abc import Iterator
from pathlib import Path

from tocsin.core.errors import InputError
from tocsin.core.interaction import Entry
from tocsin.importers import native, react
from tocsin.importers.files import BadRecord, Progress, Source
from tocsin.importers.formats import langfuse, langsmith, openai, taubench
from tocsin.importers.formats import otlp as otlp_files
from tocsin.importers.formats.api import Format

FORMATS: tuple[Format, ...] = (
    native.FORMAT,
    otlp_files.JSON,
    taubench.FORMAT,
    langsmith.FORMAT,
    langfuse.FORMAT,
    openai.FORMAT,
    react.FORMAT,
    otlp_files.PROTOBUF,
)
"""Every format that can be read, in the order in which a file is tried against them."""


def detect(path: str | Path) -> Format:
    """The format of a file, by its content; gzip and zstd are seen through.

    Raises ``InputError``, which names the formats tried, when it is none of them.
    """
    return _detect(Source(path))


def read(
    path: str | Path, fmt: Format | str | None = None, progress: Progress | None = None
) -> Iterator[Entry | BadRecord]:
    """Everything in a file, as a stream. ``fmt`` (a format or its name) skips detection.

    ``progress`` is called with (bytes read, bytes of the file). Raises ``InputError`` when the
    file cannot be opened, is in no known format, or holds no record that could be read.
    """
    source = Source(path, progress)
    chosen = _named(fmt) if isinstance(fmt, str) else fmt or _detect(source)
    return _read(source, chosen)


def _read(source: Source, chosen: Format) -> Iterator[Entry | BadRecord]:
    found, bad, first = 0, 0, ""
    for record in chosen.read(source):
        if isinstance(record, BadRecord):
            bad += 1
            first = first or f"line {record.line}: {record.reason}"
        else:
            found += 1
        yield record
    if not found:
        why = f"{bad} bad records, the first at {first}" if bad else "it holds no calls or steps"
        raise InputError(f"{source.path}: nothing could be read as {chosen.title}: {why}")


def _detect(source: Source) -> Format:
    sample = source.sample
    if not sample.head.strip():
        raise InputError(f"{source.path}: the file is empty")
    for candidate in FORMATS:
        if candidate.matches(sample):
            return candidate
    tried = ", ".join(candidate.title for candidate in FORMATS)
    seen = "it is no JSON text"
    if sample.container != "binary":
        keys = ", ".join(sorted(sample.keys)[:12]) or "none"
        seen = f"the fields of its first record are: {keys[:300]}"
    raise InputError(f"{source.path}: in no known format. Tried: {tried}. Seen: {seen}")


def _named(name: str) -> Format:
    for candidate in FORMATS:
        if candidate.name == name:
            return candidate
    known = ", ".join(candidate.name for candidate in FORMATS)
    raise InputError(f"no format is called {name!r}; there are: {known}")


__all__ = ["FORMATS", "BadRecord", "Format", "Progress", "detect", "read"]
