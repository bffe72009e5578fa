"""``tocsin grafana``: a dashboard for those who live there, over the metrics of ``/metrics``.

Made, not kept: a test holds every metric that it asks for against those that there are.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tocsin.cli import output
from tocsin.cli.guard import OK
from tocsin.core.errors import InputError

_SOURCE = {"type": "prometheus", "uid": "${source}"}
_WHERE = 'feature=~"$feature"'
_WIDTH = 24
_HEIGHT = 8
_RATE = "$__rate_interval"


def grafana(out: Path | None) -> int:
    """Print or write the dashboard. Raises ``InputError`` when the file cannot be written."""
    text = json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"
    if out is None:
        output.console().file.write(text)
        return OK
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out: {out} cannot be written: {error.strerror}") from None
    output.say(f"{out}: import it in Grafana (Dashboards, New, Import).")
    return OK


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana's JSON model (schema 39, Grafana 10 and newer)."""
    return {
        "title": "Tocsin",
        "uid": "tocsin",
        "tags": ["tocsin", "llm"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": "now-24h", "to": "now"},
        "refresh": "1m",
        "templating": {"list": [_source_variable(), _feature_variable()]},
        "panels": list(_placed(_rows())),
    }


def _source_variable() -> dict[str, Any]:
    return {
        "name": "source",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "hide": 0,
    }


def _feature_variable() -> dict[str, Any]:
    return {
        "name": "feature",
        "label": "Feature",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": "label_values(tocsin_calls_total, feature)", "refId": "features"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


Panel = dict[str, Any]


def _rows() -> Sequence[tuple[str, Sequence[Panel]]]:
    return (
        ("What needs a person", _attention()),
        ("Behaviour", _behaviour()),
        ("Service", _service()),
        ("Spend", _spend()),
    )


def _attention() -> Sequence[Panel]:
    budget = _panel(
        "Error budget left",
        "Share of each objective's budget that is left; below 0 it is overspent.",
        [("tocsin_objective_budget_left", "{{objective}}")],
        kind="bargauge",
        unit="percentunit",
        least=0.0,
        most=1.0,
        steps=((None, "red"), (0.1, "orange"), (0.5, "green")),
    )
    burn = _panel(
        "Burn rate",
        "1 spends exactly the budget over the objective's window. Alerts: 14.4 and 6 page, 1 is a "
        "ticket, each over a long and a short window.",
        [("tocsin_objective_burn_rate", "{{objective}} {{window}}")],
    )
    alerts = _panel(
        "Alerts firing",
        "By severity, as Tocsin raises them.",
        [("sum by (severity) (tocsin_alerts_firing)", "{{severity}}")],
        kind="stat",
        steps=((None, "green"), (1.0, "red")),
    )
    return alerts, budget, burn


def _behaviour() -> Sequence[Panel]:
    def axis(name: str, title: str, said: str) -> Panel:
        return _panel(
            title,
            said,
            [(f'tocsin_signal_mean{{{_WHERE},signal="{name}"}}', "{{feature}}")],
            unit="percentunit",
            most=1.0,
        )

    every = _panel(
        "All shares",
        "Signals that are shares, over the last hour. Levels are on Tocsin's own pages.",
        [(f"tocsin_signal_mean{{{_WHERE}}} <= 1", "{{feature}} {{signal}}")],
        unit="percentunit",
    )
    return (
        axis("correct", "Correct", "Share of judged calls with nothing wrong found."),
        axis("grounded", "Grounded", "Share whose answer is borne out by its context."),
        axis("appropriate", "Appropriate", "Share answered as asked, not refused or cut short."),
        every,
    )


def _service() -> Sequence[Panel]:
    def quantiles(name: str) -> list[tuple[str, str]]:
        bucket = f"sum by (le) (rate({name}_bucket{{{_WHERE}}}[{_RATE}]))"
        return [(f"histogram_quantile({q}, {bucket})", f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)]

    calls = f"sum by (outcome) (rate(tocsin_calls_total{{{_WHERE}}}[{_RATE}]))"
    decided = f"sum by (policy, action) (rate(tocsin_policy_decisions_total[{_RATE}]))"
    attempts = f"sum by (upstream, result) (rate(tocsin_attempts_total[{_RATE}]))"
    fallbacks = f"sum by (feature) (rate(tocsin_fallbacks_total{{{_WHERE}}}[{_RATE}]))"
    return (
        _panel("Calls by outcome", "Calls a second.", [(calls, "{{outcome}}")], unit="reqps"),
        _panel(
            "Time to first output",
            "From request to first chunk.",
            quantiles("tocsin_first_chunk_seconds"),
            unit="s",
        ),
        _panel(
            "Duration",
            "From request to last byte.",
            quantiles("tocsin_call_duration_seconds"),
            unit="s",
        ),
        _panel(
            "Attempts by upstream",
            "Round trips a second, with how they ended.",
            [(attempts, "{{upstream}} {{result}}")],
            unit="reqps",
        ),
        _panel(
            "Fallbacks",
            "Calls a second that a fallback upstream answered.",
            [(fallbacks, "{{feature}}")],
            unit="reqps",
        ),
        _panel(
            "What policies did",
            "Decisions a second.",
            [(decided, "{{policy}} {{action}}")],
            unit="reqps",
        ),
    )


def _spend() -> Sequence[Panel]:
    cost = f"sum by (feature) (rate(tocsin_cost_usd_total{{{_WHERE}}}[{_RATE}])) * 3600"
    tokens = f"sum by (type) (rate(tocsin_tokens_total{{{_WHERE}}}[{_RATE}]))"
    unpriced = f"sum by (model) (increase(tocsin_unpriced_calls_total{{{_WHERE}}}[1h]))"
    return (
        _panel("Spend an hour", "Known cost.", [(cost, "{{feature}}")], unit="currencyUSD"),
        _panel("Tokens a second", "By kind.", [(tokens, "{{type}}")]),
        _panel(
            "Calls without a price",
            "In the last hour, by model: their cost is in no sum.",
            [(unpriced, "{{model}}")],
        ),
    )


def _panel(
    title: str,
    description: str,
    queries: Iterable[tuple[str, str]],
    *,
    kind: str = "timeseries",
    unit: str = "short",
    least: float | None = None,
    most: float | None = None,
    steps: Sequence[tuple[float | None, str]] = (),
) -> Panel:
    defaults: dict[str, Any] = {"unit": unit}
    if least is not None:
        defaults["min"] = least
    if most is not None:
        defaults["max"] = most
    if steps:
        defaults["thresholds"] = {
            "mode": "absolute",
            "steps": [{"value": value, "color": colour} for value, colour in steps],
        }
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": _SOURCE,
        "targets": [
            {"refId": chr(65 + at), "datasource": _SOURCE, "expr": query, "legendFormat": legend}
            for at, (query, legend) in enumerate(queries)
        ],
        "fieldConfig": {"defaults": defaults, "overrides": []},
    }


def _placed(rows: Iterable[tuple[str, Sequence[Panel]]]) -> Iterable[Panel]:
    """Panels with ids and places: three beside each other under the heading of their row."""
    number, y = 0, 0
    for title, panels in rows:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": y, "w": _WIDTH, "h": 1},
        }
        y += 1
        for at, panel in enumerate(panels):
            number += 1
            place = {"x": at % 3 * 8, "y": y + at // 3 * _HEIGHT, "w": 8, "h": _HEIGHT}
            yield {"id": number, **panel, "gridPos": place}
        y += -(-len(panels) // 3) * _HEIGHT


__all__ = ["dashboard", "grafana"]
