"""A configuration as flat settings: to show it without secrets, and to tell two apart."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel

from tocsin.config.load import dotted
from tocsin.config.model import Config


def flattened(config: Config) -> dict[str, Any]:
    """Every setting by its dotted name, as plain JSON values, a password taken out of its URL."""
    values = {dotted(path): value for path, value in _leaves((), config)}
    values["store.url"] = without_password(config.store.url)
    return values


def changed(old: Config, new: Config) -> tuple[str, ...]:
    """Names of the settings that differ, those that only one of the two has included."""
    before, after = dict(_leaves((), old)), dict(_leaves((), new))
    return tuple(dotted(p) for p in {**before, **after} if before.get(p, p) != after.get(p, p))


def without_password(url: str) -> str:
    """A database URL with ``…`` for its password."""
    try:
        password = urlsplit(url).password
    except ValueError:
        return "(not a URL)"
    return url.replace(f":{password}@", ":…@", 1) if password else url


def _leaves(path: tuple[str | int, ...], value: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Settings below ``value``; a list of plain values is one setting."""
    if isinstance(value, BaseModel):
        value = {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves((*path, name), inner)
    elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        for index, inner in enumerate(value):
            yield from _leaves((*path, index), inner)
    else:
        yield path, list(value) if isinstance(value, tuple) else value
