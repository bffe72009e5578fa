"""What every command needs first: settings, the store, the filter that the options spell."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, get_args

from tocsin.config.load import Signals, find, load
from tocsin.config.model import Config, Server
from tocsin.core.clock import SystemClock
from tocsin.core.errors import InputError, NotFound
from tocsin.core.outcome import OUTCOMES, Outcome
from tocsin.store import Filter, Store, open_store

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Settings(NamedTuple):
    """The configuration in force and where it came from; ``path`` is ``None`` for the defaults."""

    config: Config
    path: Path | None
    env: Mapping[str, str]
    overridden: tuple[str, ...] = ()
    """Settings of ``[server]`` that options of the command have set."""

    def with_server(self, **options: object) -> "Settings":
        """The same with some settings of ``[server]`` changed; ``None`` changes nothing."""
        given = {name: value for name, value in options.items() if value is not None}
        server = Server.model_validate({**self.config.server.model_dump(), **given})
        config = self.config.model_copy(update={"server": server})
        return self._replace(config=config, overridden=(*self.overridden, *given))


def settings(named: Path | None = None, signals: Signals | None = None) -> Settings:
    """Load the file that the user named, else the usual one. Raises ``ConfigError``.

    With ``signals``, objectives are held against them.
    """
    path = named or find(os.environ, Path())
    return Settings(load(path, os.environ, signals), path, os.environ)


@contextlib.contextmanager
def opened(config: Config) -> Iterator[Store]:
    """The store, open; any process may have it so. Raises ``NotFound`` before the first start."""
    folder = Path(config.server.data_dir)
    if not config.store.url and not folder.is_dir():
        raise NotFound(
            f"nothing is recorded in {folder} yet; start Tocsin with `tocsin up`, read a file with "
            "`tocsin replay FILE --keep`, or name another place with --config or TOCSIN_DATA_DIR"
        )
    with contextlib.closing(open_store(config.store, folder, SystemClock())) as store:
        yield store


# -- times and filters --


def moment(text: str | None, now_us: int, option: str) -> int | None:
    """``24h``, ``7d``, ``2026-11-01`` or ``2026-11-01T14:00`` as microseconds since the epoch.

    A date without a zone is in the machine's zone; ``all`` and ``None`` do not restrict. Raises
    ``InputError``.
    """
    if text is None or text == "all":
        return None
    span = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text)
    if span and span[2] in _UNITS:
        return now_us - int(float(span[1]) * _UNITS[span[2]] * 1_000_000)
    try:
        return int(datetime.fromisoformat(text).astimezone().timestamp() * 1_000_000)
    except (ValueError, OverflowError):
        raise InputError(
            f"{option}: found {text!r}; allowed: a span such as 30m, 24h, 7d or 2w, a date such as "
            "2026-11-01 or 2026-11-01T14:00, or all"
        ) from None


def future(text: str | None, now_us: int, option: str) -> int | None:
    """The same for a time to come: ``90d`` is in ninety days."""
    at = moment(text, now_us, option)
    if at is None or (text and re.match(r"\d{4}-", text)):
        return at
    return 2 * now_us - at


def outcome_named(text: str | None) -> Outcome | None:
    """An outcome by its name. Raises ``InputError``."""
    if text is None:
        return None
    for outcome in OUTCOMES:
        if outcome == text:
            return outcome
    raise InputError(f"--outcome: found {text!r}; allowed: {', '.join(OUTCOMES)}")


def one_of(option: str, text: str, literal: object) -> str:
    """``text`` when it is one of a ``Literal``'s words. Raises ``InputError``."""
    words = get_args(literal)
    if text not in words:
        raise InputError(f"{option}: found {text!r}; allowed: {', '.join(words)}")
    return text


def chosen(now_us: int, options: Mapping[str, str | None]) -> Filter:
    """The filter that command options spell; keys are the fields of ``Filter``."""
    return Filter(
        since=moment(options.get("since"), now_us, "--since"),
        until=moment(options.get("until"), now_us, "--until"),
        outcome=outcome_named(options.get("outcome")),
        **{
            name: value
            for name, value in options.items()
            if name not in ("since", "until", "outcome") and value is not None
        },
    )
