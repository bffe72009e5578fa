"""A signal, an alert or a comparison as text to take along: Markdown and JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tocsin.core.domain import Alert
from tocsin.core.signals import Change, Estimate, Signal
from tocsin.dashboard import fmt, measures, slices
from tocsin.dashboard.behaviour import Measured, Span
from tocsin.dashboard.examples import Example, Pair
from tocsin.dashboard.slices import Dimension
from tocsin.domains.signals.compare import Comparison


def as_json(context: Mapping[str, Any]) -> bytes:
    """A signal's page as JSON; values are outer ones, times ISO 8601."""
    found: Measured = context["m"]
    span: Span = context["span"]
    plain = {
        "feature": context["feature"],
        "signal": found.signal,
        "slice": context["slice_code"] or None,
        "since": fmt.iso(span.since),
        "until": fmt.iso(span.until),
        "baseline": None if span.before is None else [fmt.iso(at) for at in span.before],
        "value": found.value,
        "judged": found.now.n,
        "not_judged": found.now.unjudged,
        "comparison": found.comparison,
        "slices": {d.name: [_slice(s) for s in d.slices] for d in context["dimensions"]},
        "alert": context["alert"],
        "examples": [_pair(pair) for pair in context["shown"].pairs],
    }
    return msgspec.json.format(msgspec.json.encode(plain), indent=2)


def _slice(one: slices.Slice) -> dict[str, Any]:
    return {
        "value": one.value,
        "now": one.now,
        "before": one.before,
        "against_rest": one.against_rest,
        "share_of_change": one.share,
    }


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "before": None if pair.before is None else pair.before.interaction.id,
        "after": None if pair.after is None else pair.after.interaction.id,
    }


def as_markdown(context: Mapping[str, Any]) -> str:
    """A signal's page as Markdown, for a ticket or a channel."""
    found: Measured = context["m"]
    out = [f"# {found.signal.title}, {fmt.one_line(context['feature'], 80)}", ""]
    if context["slice_code"]:
        out += [f"Only {fmt.one_line(context['slice_code'], 120)}.", ""]
    out += [context["answer"], ""]
    alert: Alert | None = context["alert"]
    if alert is not None:
        out += ["## Alert", "", *_alert_lines(alert, found.signal)]
    for dimension in context["dimensions"]:
        out += _dimension(dimension, found.signal)
    out += _examples(context["shown"].pairs, found.signal)
    return "\n".join(out)


def alert_markdown(alert: Alert, signal: Signal | None, pairs: Sequence[Pair]) -> str:
    """An alert as Markdown."""
    out = [f"# {fmt.one_line(alert.summary, 200)}", ""]
    out += [f"{alert.severity}, {alert.state}, feature {fmt.one_line(alert.feature, 80)}", ""]
    out += _alert_lines(alert, signal)
    if signal is not None:
        out += _examples(pairs, signal)
    return "\n".join(out)


def _alert_lines(alert: Alert, signal: Signal | None) -> list[str]:
    out = [f"{fmt.one_line(alert.summary, 300)}", ""]
    if alert.change is None or signal is None:
        return out
    change = alert.change
    out += [f"- {name}: {text}" for name, text in change_facts(signal, change)]
    carried = [
        f"{slices.of_alert(s)} ({moved(signal, s.before, s.after)})" for s in change.slices[:4]
    ]
    if carried:
        out.append(f"- For whom: {'; '.join(carried)}")
    return [*out, ""]


def change_facts(signal: Signal, change: Change) -> list[tuple[str, str]]:
    """What changed, since when, by how much and how sure, as name and text."""
    size = measures.change(signal, change.difference.value)
    reach = measures.change_interval(signal, change.difference)
    facts = [
        ("Changed", f"{measures.inside(signal.title)}, {change.verdict}"),
        ("Since", fmt.exact(change.since)[:16] + " UTC"),
        ("From", f"{moved(signal, change.before, change.after)}"),
        ("By how much", f"{size} (95 % interval {reach})"),
    ]
    if change.false_alarm_every:
        every = fmt.count(round(change.false_alarm_every))
        facts.append(("How sure", f"by chance once in {every} calls with nothing changed"))
    if change.delay:
        facts.append(("Noticed after", fmt.plural(change.delay, "judged call")))
    return facts


def moved(signal: Signal, before: Estimate, after: Estimate) -> str:
    """``98 % → 23 %``."""
    return f"{measures.value(signal, before.value)} → {measures.value(signal, after.value)}"


def _dimension(dimension: Dimension, signal: Signal) -> list[str]:
    out = [f"## By {measures.inside(dimension.title)}", "", "| | Now | Before | Judged | Share |"]
    out.append("|---|---|---|---|---|")
    for one in dimension.slices:
        now = measures.value(signal, one.now.value) if one.now is not None else "not judged"
        before = measures.value(signal, one.before.value) if one.before is not None else ""
        part = "" if one.share is None else measures.part(one.share)
        name = fmt.one_line(one.value, 60).replace("|", "\\|")
        out.append(f"| {name} | {now} | {before} | {fmt.count(one.n)} | {part} |")
    return [*out, ""]


def _examples(pairs: Sequence[Pair], signal: Signal) -> list[str]:
    out: list[str] = []
    for number, pair in enumerate(pairs, 1):
        out += [f"## Example {number}", ""]
        for side, one in (("Before", pair.before), ("After", pair.after)):
            if one is not None:
                out += _example(side, one, signal)
    return out


def _example(side: str, one: Example, signal: Signal) -> list[str]:
    said = f" · {measures.inside(signal.title)}: {one.value}" if one.value else ""
    out = [f"**{side}** `{one.interaction.id}` {fmt.iso(one.interaction.started_at)}{said}", ""]
    for pieces in (one.asked, one.answered):
        text = "".join(piece.text for piece in pieces)
        if text:
            out += [*(f"> {line}" for line in text.splitlines()), ""]
    return out


def comparison_json(context: Mapping[str, Any]) -> bytes:
    """A comparison of two periods or slices as JSON."""
    plain = {
        "feature": context["feature"],
        "a": _side(context["a"]),
        "b": _side(context["b"]),
        "signals": [row.comparison for row in context["rows"]],
    }
    return msgspec.json.format(msgspec.json.encode(plain), indent=2)


def _side(side: Any) -> dict[str, Any]:
    return {
        "asked": side.code,
        "said": side.said,
        "since": fmt.iso(side.since),
        "until": fmt.iso(side.until),
        "slice": None if side.where is None else f"{side.where[0]}={side.where[1]}",
    }


def comparison_markdown(context: Mapping[str, Any]) -> str:
    """A comparison as Markdown."""
    out = [
        f"# {fmt.one_line(context['feature'], 80)}: {context['a'].said} against "
        f"{context['b'].said}",
        "",
        context["answer"],
        "",
        "| Signal | A | B | Difference | Effect | Verdict | However often looked |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in context["rows"]:
        told: Comparison = row.comparison
        out.append(
            f"| {row.signal.title} | {_value(row.signal, told.before)} | "
            f"{_value(row.signal, told.after)} | {measures.difference(row.signal, told)} | "
            f"{effect(told)} | {measures.verdict(told)} | {measures.lasting(told)} |"
        )
    return "\n".join([*out, ""])


def _value(signal: Signal, found: Estimate | None) -> str:
    if found is None:
        return "not judged"
    return f"{measures.value(signal, found.value)} ({measures.interval(signal, found)})"


def effect(found: Comparison) -> str:
    """An effect size as it is read: ``0.42 medium``."""
    if found.effect_size is None:
        return ""
    size = abs(found.effect_size)
    word = "large" if size >= 0.8 else "medium" if size >= 0.5 else "small" if size >= 0.2 else ""
    sign = measures.MINUS if found.effect_size < 0 else ""
    return f"{sign}{size:.2f} {word or 'tiny'}"
