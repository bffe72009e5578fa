"""The report as one page that needs nothing else: no script, no font, no request.

Everything from a file is escaped, and the page's own policy lets a browser load and run nothing.
"""

import base64
import hashlib
from collections.abc import Iterable
from html import escape

from tocsin.importers.report_format import (
    amount,
    clock,
    counted,
    duration,
    money,
    plural,
    share,
    size,
    spend,
    whole,
)
from tocsin.importers.report_result import Growth, GrowthStep, ReportResult, RunLine

_STYLE = """
:root{color-scheme:light dark;--ground:#fcfcfb;--panel:#fff;--ink:#1c1f23;--soft:#5c6570;
--line:#e4e6e9;--mark:#2f6fb2;--band:#d5e3f2;--bar:#b9d0e8;--look:#9a6200;--act:#b3261e}
@media(prefers-color-scheme:dark){:root{--ground:#131517;--panel:#1a1d20;--ink:#e7e9ec;
--soft:#9aa3ad;--line:#2c3136;--mark:#7db3e8;--band:#233749;--bar:#35516d;--look:#e0a94a;
--act:#f2867d}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
font:14px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1080px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:20px;line-height:1.3;margin:0 0 4px;font-weight:600}
h2{font-size:15px;margin:40px 0 8px;font-weight:600}
p{margin:0 0 8px;max-width:76ch}.soft{color:var(--soft)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));margin:24px 0 0;
border:1px solid var(--line);background:var(--panel)}
.facts div{padding:12px 16px;border-right:1px solid var(--line)}
.facts dt{color:var(--soft);font-size:12px}
.facts dd{margin:0;font-size:20px;line-height:1.35}
.facts dd small{display:block;font-size:12px;color:var(--soft)}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%}
th{font-size:12px;font-weight:500;color:var(--soft);text-align:left}
th,td{padding:5px 12px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}
.n{text-align:right;white-space:nowrap}
code{font:12px/1.5 ui-monospace,SFMono-Regular,Menlo,monospace;overflow-wrap:anywhere}
.look{color:var(--look)}.act{color:var(--act)}
svg{display:block;max-width:100%;height:auto}
svg text{font-size:11px;fill:var(--soft)}
.b{fill:var(--bar)}.g{stroke:var(--line)}.band{fill:var(--band)}
.m{fill:none;stroke:var(--mark);stroke-width:2}.d{fill:var(--mark)}
td svg{margin-top:6px}
"""
_BAR = 120
_BAD_OUTCOMES = frozenset({"error", "timeout", "invalid", "denied"})


def as_html(result: ReportResult) -> str:
    """The report as a whole HTML document."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>Replay of {_text(_sources(result))}</title>"
        f"<style>{_STYLE}</style></head>\n<body><main>"
        + "\n".join(part for part in _parts(result) if part)
        + "</main></body></html>\n"
    )


def _parts(result: ReportResult) -> Iterable[str]:
    yield _head(result)
    yield _facts(result)
    yield _content(result)
    yield _outcomes(result)
    yield _growth(result.growth)
    yield _tools(result)
    yield _repeated(result)
    yield _models(result)
    if result.longest and result.longest[0].calls > 1:
        yield _runs("Longest runs", result, result.longest)
    if result.cost_nano_usd:
        yield _runs("Dearest runs", result, result.dearest)
    yield _runs("Runs whose input grew most", result, result.growth.biggest)
    yield _bad(result)


def _text(value: str) -> str:
    """Text from a file, harmless in a page; control characters become spaces."""
    return escape("".join(c if c.isprintable() else " " for c in value))


def _sources(result: ReportResult) -> str:
    return ", ".join(result.sources) or "recorded calls"


def _head(result: ReportResult) -> str:
    when = "The file does not tell when."
    if result.duration_us is not None and result.started_at is not None:
        when = f"{duration(result.duration_us)} from {clock(result.started_at)} UTC."
    return (
        f"<h1>{plural(result.runs, 'run')} of {_text(_sources(result))}</h1>"
        f'<p class="soft">{when}</p>'
    )


def _facts(result: ReportResult) -> str:
    known = result.calls - result.uncounted
    tokens = whole(result.input_tokens + result.output_tokens) if known else "unknown"
    told = f"{whole(result.input_tokens)} in, {whole(result.output_tokens)} out" if known else ""
    if result.estimated:
        told += f"; estimated for {plural(result.estimated, 'call')}"
    if known and result.uncounted:
        told += f"; unknown for {plural(result.uncounted, 'call')}"
    priced = result.unpriced < result.calls
    unpriced = f"{plural(result.unpriced, 'call')} without a price" if result.unpriced else ""
    facts = [
        ("Model calls", whole(result.calls), f"in {plural(result.runs, 'run')}"),
        ("Tool calls", whole(result.tool_calls), f"{plural(len(result.tools), 'tool')}"),
        ("Spend", money(result.cost_nano_usd) if priced else "unknown", unpriced),
        ("Tokens", tokens, told),
    ]
    if result.judged:
        rate = share(result.succeeded / result.judged)
        judged = f"{whole(result.succeeded)} of {plural(result.judged, 'judged run')}"
        facts.append(("Succeeded", rate, judged))
    cells = [
        f"<div><dt>{name}</dt><dd>{value}<small>{more or '&nbsp;'}</small></dd></div>"
        for name, value, more in facts
    ]
    return f'<dl class="facts">{"".join(cells)}</dl>'


def _content(result: ReportResult) -> str:
    content = result.content
    if content.share is None:
        return ""
    least = "At least " if content.at_least else ""
    return (
        "<h2>Content sent again</h2>"
        f"<p>{least}{share(content.share)} of what models were sent had been sent or answered "
        f"before: {size(content.again)} of {size(content.sent)}. "
        f"{size(content.distinct)} is new.</p>" + _bar(content.share, 480, 10)
    )


def _bar(part: float, width: int = _BAR, height: int = 8) -> str:
    """A bar of ``part`` (0 to 1) on its track."""
    long = max(0.0, min(1.0, part)) * width
    return (
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" aria-hidden="true">'
        f'<rect class="band" width="{width}" height="{height}" rx="2"/>'
        f'<rect class="d" width="{long:.1f}" height="{height}" rx="2"/></svg>'
    )


def _table(title: str, heads: list[str], rows: list[list[str]], note: str = "") -> str:
    """A table; a head that begins with ``#`` is of numbers."""
    if not rows:
        return ""
    numbers = [head.startswith("#") for head in heads]
    top = "".join(
        f'<th scope="col"{" class=n" if number else ""}>{head.lstrip("#")}</th>'
        for head, number in zip(heads, numbers, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=n' if number else ''}>{cell}</td>"
            for cell, number in zip(row, numbers, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    told = f'<p class="soft">{note}</p>' if note else ""
    return (
        f'<h2>{title}</h2>{told}<div class="wide"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _outcomes(result: ReportResult) -> str:
    rows = []
    for name, count in result.outcomes:
        part = count / result.calls
        word = f'<span class="act">{name}</span>' if name in _BAD_OUTCOMES else name
        rows.append([word, whole(count), share(part), _bar(part)])
    return _table("Outcomes of model calls", ["outcome", "#calls", "#share", ""], rows)


def _tools(result: ReportResult) -> str:
    most = max((tool.calls for tool in result.tools), default=1)
    rows = []
    for tool in result.tools[:50]:
        failed = tool.failure_share
        told = "unknown" if failed is None else f"{whole(tool.failed)} ({share(failed)})"
        if failed is not None and failed >= 0.1:
            told = f'<span class="look">{told}</span>'
        name = f"<code>{_text(tool.name)}</code>"
        rows.append([name, whole(tool.calls), whole(tool.runs), told, _bar(tool.calls / most)])
    note = "Failed: results that say so, by a mark, an error text or an error field."
    return _table("Tools", ["tool", "#calls", "#runs", "#failed", ""], rows, note)


def _repeated(result: ReportResult) -> str:
    rows = [
        [
            whole(call.count),
            f"<code>{_text(call.tool)}</code>",
            f"<code>{_text(call.arguments)}</code>",
            f"<code>{_text(call.run_id)}</code>",
        ]
        for call in result.repeated_calls
    ]
    words = plural(result.repeats, "tool call") + " were identical to an earlier one of their run"
    return _table("Repeated tool calls", ["#times", "tool", "arguments", "run"], rows, words + ".")


def _models(result: ReportResult) -> str:
    if len(result.models) == 1 and not result.models[0].name:
        return ""
    rows = [
        [
            f"<code>{_text(model.name)}</code>" if model.name else "unknown",
            whole(model.calls),
            counted(model.input_tokens, model.uncounted, model.calls),
            counted(model.output_tokens, model.uncounted, model.calls),
            spend(model.cost_nano_usd, model.unpriced, model.calls),
        ]
        for model in result.models[:50]
    ]
    return _table("Models", ["model", "#calls", "#tokens in", "#tokens out", "#spend"], rows)


def _runs(title: str, result: ReportResult, runs: tuple[RunLine, ...]) -> str:
    """A list of runs; a column that nothing in the file can fill is left out."""
    priced, timed = result.unpriced < result.calls, result.duration_us is not None
    heads = ["run", "#calls", "#tools", "#input, first to largest"]
    heads += ["#spend"] if priced else []
    heads += ["#took"] if timed else []
    rows = []
    for run in runs:
        sizes = (amount(n, result.growth.unit) for n in (run.first_input, run.largest_input))
        about = f"<code>{_text(run.id)}</code><br>{_text(run.title)}"
        row = [about, whole(run.calls), whole(run.tools), " → ".join(sizes)]
        if priced:
            row.append(money(run.cost_nano_usd) if run.unpriced < run.calls else "unknown")
        if timed:
            row.append("unknown" if run.duration_us is None else duration(run.duration_us))
        rows.append([*row, _ending(run)])
    return _table(title, [*heads, "ended"], rows)


def _ending(run: RunLine) -> str:
    """The file's verdict on the run where there is one, else how its last call ended."""
    if run.success is None:
        return _text(run.outcome) or "unknown"
    return "succeeded" if run.success else '<span class="look">did not succeed</span>'


# -- the chart of growth --

_WIDE, _HIGH, _LEFT, _BOTTOM, _TOP = 1032, 240, 64, 36, 12


def _growth(growth: Growth) -> str:
    if len(growth.steps) < 2:
        return ""
    top = max(step.p95 for step in growth.steps) or 1
    count = len(growth.steps)

    def x(index: int) -> float:
        return _LEFT + index * (_WIDE - _LEFT - 16) / (count - 1)

    def y(value: float) -> float:
        return _TOP + (_HIGH - _TOP - _BOTTOM) * (1 - value / top)

    median = " ".join(f"{x(i):.1f},{y(s.median):.1f}" for i, s in enumerate(growth.steps))
    upper = " ".join(f"{x(i):.1f},{y(s.p95):.1f}" for i, s in enumerate(growth.steps))
    floor = f"{x(count - 1):.1f},{y(0):.1f} {x(0):.1f},{y(0):.1f}"
    lines = "".join(_gridline(y(v), amount(v, growth.unit)) for v in (0, top / 2, top))
    return (
        f"<h2>Input size along a run, in {growth.unit}</h2>"
        '<p class="soft">Line: the median run. Area: up to the 95th percentile. '
        "Under each step: how many runs got so far.</p>"
        f'<svg role="img" viewBox="0 0 {_WIDE} {_HIGH}" width="{_WIDE}" height="{_HIGH}">'
        f"<title>{_growth_words(growth)}</title>{lines}"
        f'<polygon class="band" points="{upper} {floor}"/>'
        f'<polyline class="m" points="{median}"/>'
        + "".join(_tick(x(i), step) for i, step in enumerate(growth.steps))
        + "</svg>"
    )


def _gridline(at: float, label: str) -> str:
    return (
        f'<line class="g" x1="{_LEFT}" x2="{_WIDE - 16}" y1="{at:.1f}" y2="{at:.1f}"/>'
        f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{label}</text>'
    )


def _tick(at: float, step: GrowthStep) -> str:
    return (
        f'<text x="{at:.1f}" y="{_HIGH - 20}" text-anchor="middle">{step.step}</text>'
        f'<text x="{at:.1f}" y="{_HIGH - 6}" text-anchor="middle">({step.runs})</text>'
    )


def _growth_words(growth: Growth) -> str:
    first, last = growth.steps[0], growth.steps[-1]
    return (
        f"Median input: {amount(first.median, growth.unit)} at call {first.step}, "
        f"{amount(last.median, growth.unit)} at call {last.step}"
    )


def _bad(result: ReportResult) -> str:
    rows = [[_text(line.path), whole(line.line), _text(line.reason)] for line in result.bad_lines]
    note = f"{plural(result.bad, 'record')} could not be read."
    if result.bad > len(rows):
        note += f" The first {len(rows)}:"
    return _table("Bad records", ["file", "#line", "reason"], rows, note)
