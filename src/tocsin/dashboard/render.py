"""Templates to bytes: the one Jinja environment, the headers of every page, static files."""

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from starlette.responses import Response

from tocsin.core.outcome import Outcome
from tocsin.dashboard import (
    budgets,
    charts,
    fmt,
    measures,
    places,
    signal_texts,
    story,
    timing,
)
from tocsin.dashboard.filters import LABELS, PRESETS, segment

if TYPE_CHECKING:
    from jinja2 import Environment

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "font-src 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
PAGE_HEADERS: Mapping[str, str] = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
"""On every answer of the dashboard that is not a static file."""

STATIC_TYPES: Mapping[str, str] = {
    "tocsin.css": "text/css; charset=utf-8",
    "signals.css": "text/css; charset=utf-8",
    "tocsin.js": "text/javascript; charset=utf-8",
    "tocsin.svg": "image/svg+xml",
}

_TONES: dict[Outcome, str] = {
    "complete": "ok",
    "truncated": "look",
    "unverified": "look",
    "cancelled": "look",
    "unknown": "look",
    "refused": "act",
    "invalid": "act",
    "denied": "act",
    "timeout": "act",
    "error": "act",
}


def tone(outcome: str) -> str:
    """How an outcome is coloured: ``ok``, ``look`` (amber) or ``act`` (red)."""
    return _TONES.get(outcome, "look")  # type: ignore[call-overload, no-any-return]


def badge(outcome: str) -> Markup:
    """An outcome as its word, with a shape that says the tone without colour."""
    return Markup('<span class="outcome {}">{}</span>').format(tone(outcome), outcome)


_FILTERS: Mapping[str, Callable[..., Any]] = {
    "money": fmt.money,
    "exact_money": fmt.exact_money,
    "tokens": fmt.tokens,
    "count": fmt.count,
    "duration": fmt.duration,
    "took": fmt.took,
    "size": fmt.size,
    "exact": fmt.exact,
    "iso": fmt.iso,
    "visible": fmt.visible,
    "line": fmt.one_line,
    "summary": fmt.summary,
    "segment": segment,
    "badge": badge,
}
"""What a template writes behind a ``|``."""
_GLOBALS: Mapping[str, Any] = {
    "percent": fmt.percent,
    "spent": fmt.spent,
    "plural": fmt.plural,
    "when": fmt.when,
    "stand_in": timing.stand_in,
    "tone": tone,
    "span_bar": charts.span_bar,
    "label_of": story.step_label,
    "did": story.did,
    "checked": story.found,
    "said_by": story.said_by,
    "limit_window": budgets.window,
    "limit_amounts": budgets.amounts,
    "value": measures.value,
    "interval": measures.interval,
    "change": measures.change,
    "change_interval": measures.change_interval,
    "difference": measures.difference,
    "verdict_words": measures.verdict,
    "tones": measures.TONES,
    "chance": measures.chance,
    "lasting": measures.lasting,
    "part": measures.part,
    "exactly": fmt.exactly,
    "effect": signal_texts.effect,
    "alert_href": places.alert,
    "feature_href": places.feature,
    "compare_href": places.compare,
    "labels": LABELS,
    "presets": PRESETS,
}
"""What every template may call or name."""


@lru_cache(maxsize=1)
def environment() -> "Environment":
    """The templates, compiled once per process."""
    # Jinja is slow to import and the gateway must start fast: only a page needs it.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("tocsin.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(_FILTERS)
    made.globals.update(_GLOBALS, static=static_url)
    return made


def page(template: str, context: Mapping[str, Any], status: int = 200) -> Response:
    """One page with its headers."""
    html = environment().get_template(template).render(context)
    return respond(html, "text/html; charset=utf-8", status)


def respond(text: str | bytes, media_type: str, status: int = 200) -> Response:
    """Any answer of the dashboard: encoded so that no lone surrogate can break it."""
    body = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
    return Response(body, status, dict(PAGE_HEADERS), media_type)


@lru_cache(maxsize=8)
def static_file(name: str) -> tuple[bytes, str]:
    """A static file's bytes and the tag of its content. Raises ``KeyError`` for another name."""
    if name not in STATIC_TYPES:
        raise KeyError(name)
    data = resources.files("tocsin.dashboard").joinpath("static", name).read_bytes()
    return data, hashlib.blake2b(data, digest_size=8).hexdigest()


def static_url(name: str) -> str:
    """The address of a static file, which changes with its content."""
    return f"/static/{name}?v={static_file(name)[1]}"
