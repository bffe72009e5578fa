"""The URL is the state of a page: query string ↔ time range, filter, sort, cursor, links."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import get_args
from urllib.parse import quote, urlencode

import msgspec
from starlette.datastructures import QueryParams

from tocsin.core.errors import InputError
from tocsin.core.outcome import OUTCOMES
from tocsin.dashboard import fmt
from tocsin.store.api import Filter, RunSort, SpendBy

HOUR = 3_600_000_000
PRESETS: dict[str, tuple[str, int | None]] = {
    "1h": ("1 h", HOUR),
    "24h": ("24 h", 24 * HOUR),
    "7d": ("7 d", 7 * 24 * HOUR),
    "30d": ("30 d", 30 * 24 * HOUR),
    "all": ("All", None),
}
_SPOKEN = {
    "1h": "the last hour",
    "24h": "the last 24 hours",
    "7d": "the last 7 days",
    "30d": "the last 30 days",
    "all": "all time",
}
FIELDS = (
    "feature",
    "model",
    "release",
    "outcome",
    "source",
    "upstream",
    "end_user",
    "key_id",
    "conversation_id",
    "text",
)
"""Fields of ``Filter`` that the URL carries under their own names."""

LABELS = {
    "feature": "feature",
    "model": "model",
    "release": "release",
    "outcome": "outcome",
    "source": "source",
    "upstream": "upstream",
    "end_user": "user",
    "key_id": "key",
    "conversation_id": "conversation",
    "text": "text",
}
BAD = "bad"
"""A word for the outcome filter of calls: every outcome but complete and truncated."""
BAD_OUTCOMES = tuple(o for o in OUTCOMES if o not in ("complete", "truncated"))

RUN_SORTS: tuple[RunSort, ...] = get_args(RunSort)
SPEND_BY: tuple[SpendBy, ...] = ("feature", "model", "release", "end_user", "run_id", "key_id")


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """What a page's URL asks for, checked."""

    range: str
    """A preset's name, or ``custom``."""
    since: int | None
    until: int | None
    fields: tuple[tuple[str, str], ...] = ()
    """Filter fields that are set, in the order of ``FIELDS``."""
    bad: bool = False
    sort: RunSort = "last_at"
    descending: bool = True
    by: SpendBy = "feature"
    cursor: str | None = None

    @property
    def where(self) -> Filter:
        """The store's filter; ``outcome=bad`` is left to the caller."""
        values = {k: v for k, v in self.fields if not (k == "outcome" and v == BAD)}
        return msgspec.convert({**values, "since": self.since, "until": self.until}, Filter)

    def get(self, field: str) -> str:
        """A filter field's value, empty when it is not set."""
        return dict(self.fields).get(field, "")

    @property
    def spoken(self) -> str:
        """The range in words, for sentences: ``the last 24 hours``."""
        return _SPOKEN.get(self.range, "the chosen time")

    def link(self, path: str, **changes: str | int | None) -> str:
        """A URL to ``path`` with the same range and filters, some changed; ``None`` drops one."""
        return build(path, {**self.params(), **changes})

    def params(self) -> dict[str, str | int | None]:
        """Range and filters as URL parameters; sort, dimension and cursor belong to one page."""
        found: dict[str, str | int | None] = dict(self.fields)
        if self.range == "custom":
            found["since"] = None if self.since is None else fmt.iso(self.since)
            found["until"] = None if self.until is None else fmt.iso(self.until)
        else:
            found["range"] = self.range
        return found


def build(path: str, params: Mapping[str, str | int | None]) -> str:
    """``path?query`` with empty parameters left out and a stable order."""
    pairs = [(k, str(v)) for k, v in params.items() if v is not None and v != ""]
    return f"{path}?{urlencode(pairs, quote_via=quote, safe=':,')}" if pairs else path


def feature_filter(feature: str) -> Filter:
    """All calls of one feature."""
    return Filter(feature=feature)


def segment(text: str) -> str:
    """An id as one path segment of a URL."""
    return quote(text, safe="")


def parse(params: QueryParams, now: int, *, default_range: str) -> Query:
    """Read a page's URL. Raises ``InputError`` that names the parameter and what it may be."""
    since, until = _instant(params, "since"), _instant(params, "until")
    if since is not None or until is not None:
        if since is not None and until is not None and since >= until:
            raise InputError("“since” must be earlier than “until”. Remove one of them.")
        chosen = "custom"
    else:
        chosen = _choice(params, "range", default_range, tuple(PRESETS))
        span = PRESETS[chosen][1]
        since, until = (None, None) if span is None else (now - span, now)
    fields = tuple((name, params[name]) for name in FIELDS if params.get(name))
    outcome = params.get("outcome") or "complete"
    if outcome not in (*OUTCOMES, BAD):
        raise InputError(f"“outcome” must be one of {', '.join(OUTCOMES)} or {BAD}.")
    return Query(
        range=chosen,
        since=since,
        until=until,
        fields=tuple((k, v[:512]) for k, v in fields),
        bad=outcome == BAD,
        sort=msgspec.convert(_choice(params, "sort", "last_at", RUN_SORTS), RunSort),
        descending=_choice(params, "order", "desc", ("desc", "asc")) == "desc",
        by=msgspec.convert(_choice(params, "by", "feature", SPEND_BY), SpendBy),
        cursor=params.get("cursor") or None,
    )


def _choice(params: QueryParams, name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = params.get(name) or default
    if value not in allowed:
        raise InputError(f"“{name}” must be one of {', '.join(allowed)}.")
    return value


def _instant(params: QueryParams, name: str) -> int | None:
    text = params.get(name)
    return instant(text, name) if text else None


def instant(text: str, name: str) -> int:
    """A time of an address in microseconds since the epoch. Raises ``InputError``."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"“{name}” must be a time such as 2026-03-12T14:00:00Z (ISO 8601)."
        ) from None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return int(at.timestamp() * 1_000_000)


def number(params: QueryParams, name: str, default: int, highest: int) -> int:
    """A whole number from 0 to ``highest``. Raises ``InputError``."""
    text = params.get(name)
    if not text:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise InputError(f"“{name}” must be a whole number.")
    return min(int(text), highest)
