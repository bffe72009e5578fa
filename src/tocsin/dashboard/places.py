"""Addresses of the pages about signals and alerts; names in them may hold anything."""

from typing import Any
from urllib.parse import unquote

from tocsin.core.domain import Alert
from tocsin.dashboard.filters import PRESETS, Query, build, segment


def named(name: str) -> str:
    """A name as one path segment that survives being decoded once before it is matched.

    A slash, a per cent sign and the two names that mean folders are escaped twice; ``read_name``
    takes the second escape back.
    """
    once = name.replace("%", "%25").replace("/", "%2F")
    if once.strip(".") == "" and once:
        once = once.replace(".", "%2E")
    return segment(once)


def read_name(found: str) -> str:
    """The name that ``named`` wrote, as the router hands it over."""
    return unquote(found)


def feature(query: Query, name: str) -> str:
    """The page of all signals of a feature."""
    return query.link(f"/signals/{named(name)}", feature=None)


def signal(query: Query, name: str, signal_name: str, slice_: str = "", **changes: Any) -> str:
    """The page of one signal, of one slice where ``slice_`` names it as ``dimension=value``."""
    path = f"/signals/{named(name)}/{named(signal_name)}"
    return query.link(path, feature=None, slice=slice_ or None, **changes)


def covering(query: Query, since: int | None, now: int) -> dict[str, Any]:
    """What to change in a query so that its range shows ``since``; nothing when it does already.

    The range then begins a good part before it, so that a change has a before and a since.
    """
    if (
        since is None
        or query.since is None
        or since >= query.since
        or query.until
        not in (
            None,
            now,
        )
    ):
        return {}
    wanted = (now - since) * 4 // 3
    found = next(
        (n for n, (_, span) in PRESETS.items() if span is not None and span >= wanted), "all"
    )
    return {"range": found, "since": None, "until": None}


def alert(found: Alert) -> str:
    """The page of an alert."""
    return f"/alerts/{named(found.fingerprint)}"


def alert_of(fingerprint: str) -> str:
    """The page of an alert, by its fingerprint."""
    return f"/alerts/{named(fingerprint)}"


def compare(query: Query, name: str, a: str = "", b: str = "") -> str:
    """The page that holds two periods or slices of a feature against each other."""
    return query.link("/compare", feature=name, a=a or None, b=b or None)


def signal_fixed(name: str, signal_name: str) -> str:
    """A signal's page at its own default range."""
    return build(f"/signals/{named(name)}/{named(signal_name)}", {})
