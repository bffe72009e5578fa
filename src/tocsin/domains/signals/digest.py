"""The digest of a week as Markdown: what changed, what burns, what it cost, what needs a person.

Pure: data in, text out. Names and summaries were recorded from calls, so everything in them that
Markdown would act on is escaped.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from tocsin.core.digest import FeatureWeek, Week
from tocsin.core.signals import DIMENSIONS, JUDGED_AXES, Estimate, Signal, Sum
from tocsin.domains.signals.compare import Comparison, compare, compare_many
from tocsin.domains.signals.objectives import ObjectiveStanding

_CHANGED = ("worse", "better", "different")
_MOST_CHANGES = 8
_MOST_ALERTS = 20
_CARRIES = 0.5
_ACTS = re.compile(r"([\\`*_\[\]<>|#~!])")
_ENDS = re.compile(r"\s+")


class _Change(msgspec.Struct):
    feature: str
    signal: Signal
    found: Comparison


def write(
    week: Week, standings: Sequence[ObjectiveStanding], catalogue: Mapping[str, Signal]
) -> tuple[str, str]:
    """The digest's title and its text.

    All verdicts on axes hold jointly (5 % for any being wrong), and so do all on single signals.
    """
    axes = _compared(week, [catalogue[name] for name in JUDGED_AXES if name in catalogue])
    single = _compared(week, [s for s in catalogue.values() if s.name not in JUDGED_AXES])
    changes = sorted(
        (
            _Change(feature, catalogue[name], found)
            for (feature, name), found in (*axes.items(), *single.items())
        ),
        key=lambda one: (
            one.found.verdict != "worse",
            one.signal.name not in JUDGED_AXES,
            -abs(one.found.effect_size or 0.0),
        ),
    )
    changes = [change for change in changes if change.found.verdict in _CHANGED]
    days = max(1, round((week.until - week.since) / 86_400_000_000))
    title = f"Tocsin: {_day(week.since)} to {_day(week.until)}"
    parts = [
        f"# {title}",
        _first(changes, standings, week),
        *_needs(changes, standings, week),
        *_features(week, axes, catalogue, days),
        *_changes(week, changes),
        *_objectives(standings),
        *_alerts(week),
    ]
    return title, "\n\n".join(part for part in parts if part) + "\n"


def _compared(week: Week, signals: Sequence[Signal]) -> dict[tuple[str, str], Comparison]:
    """By feature and signal, corrected together."""
    keys: list[tuple[str, str]] = []
    pairs: list[tuple[Signal, Sum, Sum]] = []
    for feature in week.features:
        for signal in signals:
            before, after = feature.before.get(signal.name), feature.after.get(signal.name)
            if before is not None and after is not None and before.n and after.n:
                keys.append((feature.feature, signal.name))
                pairs.append((signal, before, after))
    return dict(zip(keys, compare_many(pairs), strict=True))


# -- the parts --


def _first(
    changes: Sequence[_Change],
    standings: Sequence[ObjectiveStanding],
    week: Week,
) -> str:
    """One sentence that says whether to read on."""
    worse = {change.feature for change in changes if change.found.verdict == "worse"}
    burning = sum(one.state in ("burning", "spent") for one in standings)
    calls = sum(feature.calls for feature in week.features)
    before = sum(feature.calls_before for feature in week.features)
    cost = sum(feature.cost_nano_usd for feature in week.features)
    cost_before = sum(feature.cost_before for feature in week.features)
    if not calls:
        return "No calls were recorded."
    said = f"{len(worse)} of {len(week.features)} features got worse"
    if not worse:
        said = "Nothing got worse beyond doubt"
    objectives = ""
    if standings:
        objectives = f", {burning} of {len(standings)} objectives burn or have spent their budget"
    return (
        f"{said}{objectives}. {calls:,} calls{_against(calls, before)}, "
        f"{_money(cost)} spent{_against(cost, cost_before)}."
    )


def _needs(
    changes: Sequence[_Change],
    standings: Sequence[ObjectiveStanding],
    week: Week,
) -> Iterator[str]:
    """What only a person can settle."""
    lines = []
    for one in standings:
        who = f"Objective **{_md(one.name)}** of {_md(one.feature)}"
        if one.state == "burning":
            lines.append(f"{who} burns: {_left(one)}. Find what broke it.")
        elif one.state == "spent":
            lines.append(f"{who} has no budget left ({_left(one)}). Hold risky releases back.")
        if one.proof is not None and one.proof.verdict == "contradicts":
            lines.append(
                f"{who}: {_md(one.proof.signal)} contradicts {_md(one.signal)}. Label more calls, "
                "or measure something else."
            )
        elif one.proof is not None and one.proof.verdict == "underpowered":
            lines.append(
                f"{who} is not proven: about {one.proof.needed:,} more calls graded by "
                f"{_md(one.proof.signal)} are needed."
            )
    firing = [row for row in week.alerts if row.alert.state == "firing"]
    others = [row for row in firing if not row.alert.fingerprint.startswith("objective:")]
    if others:
        lines.append(f"{_plural(len(others), 'alert')} still firing: see below.")
    worse = [change for change in changes if change.found.verdict == "worse"]
    if worse:
        names = ", ".join(f"{_md(c.feature)}: {_md(c.signal.title)}" for c in worse[:3])
        lines.append(
            f"{_plural(len(worse), 'signal')} got worse ({names}). If one is meant, say so: "
            "`tocsin signals accept FEATURE SIGNAL`."
        )
    unpriced = sum(feature.unpriced for feature in week.features)
    if unpriced:
        lines.append(f"{_plural(unpriced, 'call')} without a known price: set it under [prices].")
    yield "## Needs a person"
    yield "\n".join(f"- {line}" for line in lines) if lines else "Nothing."


def _features(
    week: Week,
    axes: Mapping[tuple[str, str], Comparison],
    catalogue: Mapping[str, Signal],
    days: int,
) -> Iterator[str]:
    if not week.features:
        return
    titles = [catalogue[name].title for name in JUDGED_AXES if name in catalogue]
    yield f"## Features, against the {_plural(days, 'day')} before"
    rows = [["Feature", "Calls", *titles, "Spent"]]
    for feature in sorted(week.features, key=lambda f: (-f.calls, f.feature)):
        cells = []
        for name in JUDGED_AXES:
            if name in catalogue:
                found = axes.get((feature.feature, name))
                now = feature.after.get(name, Sum())
                cells.append(_cell(catalogue[name], found, now))
        rows.append(
            [
                _md(feature.feature),
                f"{feature.calls:,}{_against(feature.calls, feature.calls_before)}",
                *cells,
                f"{_money(feature.cost_nano_usd)}"
                f"{_against(feature.cost_nano_usd, feature.cost_before)}",
            ]
        )
    yield _table(rows)


def _cell(signal: Signal, found: Comparison | None, now: Sum) -> str:
    if not now.n:
        return "not judged"
    if found is None:
        found = compare(signal, Sum(), now)
        return f"{_estimate(signal, found.after)}, nothing before"
    said = {"same": "no change", "underpowered": f"underpowered, {found.needed:,} more needed"}
    verdict = said.get(found.verdict) or f"{_difference(signal, found)}, **{found.verdict}**"
    return f"{_estimate(signal, found.after)}: {verdict}"


def _changes(week: Week, changes: Sequence[_Change]) -> Iterator[str]:
    if not changes:
        return
    features = {feature.feature: feature for feature in week.features}
    yield "## What changed"
    lines = []
    for change in changes[:_MOST_CHANGES]:
        found, signal = change.found, change.signal
        lines.append(
            f"- **{_md(change.feature)}: {_md(signal.title)}** {found.verdict}: "
            f"{_estimate(signal, found.before)} to {_estimate(signal, found.after)} "
            f"({_difference(signal, found, interval=True)})"
            f"{_carriers(features[change.feature], signal)}."
        )
    if len(changes) > _MOST_CHANGES:
        lines.append(f"- {len(changes) - _MOST_CHANGES} more: `tocsin signals --since 7d`.")
    yield "\n".join(lines)


def _carriers(feature: FeatureWeek, signal: Signal) -> str:
    """The slices that carry most of a change while they are not most of the calls."""
    before, after = feature.before[signal.name], feature.after[signal.name]
    moved = (after.mean or 0.0) - (before.mean or 0.0)
    if not moved:
        return ""
    found: list[tuple[float, str]] = []
    for (dimension, value, name), own in feature.slices_after.items():
        if name != signal.name or dimension == "hour" or dimension not in DIMENSIONS:
            continue
        was = feature.slices_before.get((dimension, value, name), Sum())
        base = before.mean or 0.0
        carries = (own.total - own.n * base) / after.n - (was.total - was.n * base) / before.n
        share, weight = carries / moved, own.n / after.n
        if share >= _CARRIES and share > weight + 0.15:
            found.append((share - weight, f"{dimension} {_md(value)}"))
    found.sort(key=lambda one: (-one[0], one[1]))
    return f", most of it in {' and '.join(text for _, text in found[:2])}" if found else ""


def _objectives(standings: Sequence[ObjectiveStanding]) -> Iterator[str]:
    if not standings:
        return
    yield "## Objectives"
    rows = [["Objective", "Feature", "Good", "Target", "Budget left", "State"]]
    for one in sorted(standings, key=lambda s: (s.left, s.name)):
        good = "no calls"
        if one.good is not None:
            good = (
                f"{_percent(one.good.value)} ({_percent(one.good.low)} to "
                f"{_percent(one.good.high)}) of {one.events:,}"
            )
        rows.append(
            [
                _md(one.name),
                _md(one.feature),
                good,
                f"{_percent(one.target)} in {one.window_days:g} days",
                _left(one),
                one.state,
            ]
        )
    yield _table(rows)


def _left(one: ObjectiveStanding) -> str:
    if not one.events:
        return "unknown"
    if one.left < 0:
        return f"spent {one.used:.3g} times over"
    return f"{_percent(one.left)} left"


def _alerts(week: Week) -> Iterator[str]:
    yield "## Alerts"
    if not week.alerts:
        yield "None."
        return
    rank = {"critical": 0, "warning": 1, "info": 2}
    ordered = sorted(
        week.alerts,
        key=lambda row: (row.alert.state != "firing", rank[row.alert.severity], -row.first_at),
    )
    lines = [
        f"- {row.alert.severity}, {row.alert.state}, since {_minute(row.first_at)}: "
        f"{_md(row.alert.summary)}"
        for row in ordered[:_MOST_ALERTS]
    ]
    if len(ordered) > _MOST_ALERTS:
        lines.append(f"- {len(ordered) - _MOST_ALERTS} more.")
    yield "\n".join(lines)


# -- words --


def _md(text: str) -> str:
    """Recorded text on one line, in which Markdown acts on nothing."""
    shown = "".join(c if c.isprintable() or c == " " else " " for c in _ENDS.sub(" ", text))
    shown = shown if len(shown) <= 400 else shown[:399] + "…"
    return _ACTS.sub(r"\\\1", shown)


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _estimate(signal: Signal, found: Estimate | None) -> str:
    if found is None:
        return "too few values"
    return (
        f"{_value(signal, found.value)} ({_value(signal, found.low)} to "
        f"{_value(signal, found.high)})"
    )


def _difference(signal: Signal, found: Comparison, *, interval: bool = False) -> str:
    gap = found.difference
    if gap is None:
        return "unknown"
    ends = [gap.value, gap.low, gap.high] if interval else [gap.value]
    if signal.log:
        said = [f"{value:.3g}" for value in ends]
        text, unit = f"{said[0]} times", ""
    elif signal.kind == "rate":
        said = [f"{100 * value:+.1f}" for value in ends]
        text, unit = f"{said[0]} points", ""
    else:
        said = [f"{value:+.3g}" for value in ends]
        text, unit = said[0], f" {signal.unit}".rstrip()
    return f"{text}{unit}, {said[1]} to {said[2]}" if interval else f"{text}{unit}"


def _value(signal: Signal, value: float) -> str:
    if signal.kind == "rate":
        return _percent(value)
    if signal.unit == "usd":
        return f"${value:.4g}"
    return f"{value:.3g} {signal.unit}".rstrip()


def _percent(share: float) -> str:
    return f"{round(100 * share, 1):g} %"


def _money(nano: int) -> str:
    return f"${nano / 1e9:,.2f}"


def _against(now: int, before: int) -> str:
    """How much more or less than before; empty when there was nothing."""
    percent = round(100 * (now - before) / before) if before > 0 else 0
    return f" ({percent:+d} %)" if percent else ""


def _plural(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _day(us: int) -> str:
    return f"{datetime.fromtimestamp(us / 1e6, UTC):%Y-%m-%d}"


def _minute(us: int) -> str:
    return f"{datetime.fromtimestamp(us / 1e6, UTC):%Y-%m-%d %H:%M} UTC"


__all__ = ["write"]
