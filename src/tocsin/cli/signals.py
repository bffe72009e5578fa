"""``tocsin signals``: how features behave, and a person's word that a new level is normal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tocsin.app import signals_known
from tocsin.cli import output
from tocsin.cli.context import moment, opened, settings
from tocsin.cli.guard import FAILED, OK
from tocsin.cli.stops import actor
from tocsin.config.checks import nearest
from tocsin.core.clock import SystemClock
from tocsin.core.errors import InputError
from tocsin.core.signals import DIMENSIONS, Signal, Sum
from tocsin.dashboard import behaviour, fmt, measures
from tocsin.dashboard.behaviour import Measured, Span
from tocsin.dashboard.filters import Query
from tocsin.domains.signals.compare import compare_many, estimate
from tocsin.store.api import AuditRow, BaselineRow, Store

_BARS = "▁▂▃▄▅▆▇█"
_STEPS = 24
_STYLES = {"act": output.BAD, "look": output.LOOK, "ok": output.GOOD, "quiet": ""}


class Row(NamedTuple):
    """One line: a signal of a feature, of one slice or of all calls."""

    feature: str
    value: str
    """The slice's value; empty for all."""
    measured: Measured
    series: tuple[tuple[int, int, float | None], ...] = ()
    """Start of each step, calls, value."""


# -- names --


def listed(config: Path | None, *, json: bool) -> int:
    """Every signal that there is and what it means."""
    catalogue = signals_known(settings(config).config)
    found = sorted(catalogue.values(), key=lambda s: list(measures.AXIS_TITLES).index(s.axis))
    if json:
        output.print_json({"signals": found})
        return OK
    made = output.table(("signal", "axis", "better", "unit", "*meaning"))
    for signal in found:
        unit = signal.unit if signal.kind == "level" else "share"
        better = {"up": "more", "down": "less", "neither": ""}[signal.better]
        made.add_row(signal.name, signal.axis, better, unit, output.cell(signal.description))
    output.show(made)
    return OK


# -- looking --


def shown(
    config: Path | None,
    *,
    feature: str | None,
    signal: str | None,
    since: str,
    dimension: str | None,
    json: bool,
) -> int:
    """Signals in a time, against the 28 days before. Raises ``InputError``."""
    found = settings(config).config
    catalogue = signals_known(found)
    if signal is not None:
        named(catalogue, signal)
    if dimension is not None and dimension not in DIMENSIONS:
        raise InputError(f"--slice: found {dimension!r}; allowed: {', '.join(DIMENSIONS)}")
    now = SystemClock().now_us()
    begin = moment(since, now, "--since")
    query = Query(range="custom", since=begin, until=now)
    with opened(found) as store:
        span, after, before = behaviour.read(store, query, now, feature=feature)
        rows = _rows(store, span, after, before, catalogue, signal)
        if dimension is not None:
            rows = _with_slices(store, span, rows, dimension, feature, catalogue)
    if json:
        output.print_json(_document(span, rows))
    elif rows:
        _print(span, rows)
    else:
        output.say(
            "Nothing was judged in this time. Ask for more with --since, or send calls: signals "
            "come a few seconds after a call has ended."
        )
    return OK


def named(catalogue: Mapping[str, Signal], name: str) -> Signal:
    """A signal by name. Raises ``InputError`` with the nearest one."""
    found = catalogue.get(name)
    if found is None:
        raise InputError(
            f"there is no signal {name!r}{nearest(name, catalogue)}; "
            "`tocsin signals --list` names all"
        )
    return found


def _rows(
    store: Store,
    span: Span,
    after: behaviour.Sums,
    before: behaviour.Sums,
    catalogue: Mapping[str, Signal],
    only: str | None,
) -> list[Row]:
    accepted = behaviour.accepted_rows(store)
    rows = []
    for feature in sorted(after):
        done: set[str] = set()
        for name in catalogue:
            if name in done:
                continue
            members = behaviour.family(catalogue, name)
            done.update(members)
            found = behaviour.measured(
                store, span, feature, members, catalogue,
                after[feature], before.get(feature, {}), accepted,
            )  # fmt: skip
            rows += [
                Row(feature, "", one, _series(store, span, feature, one.signal))
                for one in found.values()
                if only in (None, one.signal.name) and one.now.looked
            ]
    return rows


def _series(
    store: Store, span: Span, feature: str, signal: Signal
) -> tuple[tuple[int, int, float | None], ...]:
    points = store.signal_points(
        grain=span.grain, since=span.since, until=span.until, feature=feature, signal=signal.name
    )
    length = max(1, -(-(span.until - span.since) // _STEPS))
    sums: dict[int, Sum] = {}
    for point in points:
        at = max(0, (point.at - span.since) // length)
        sums[at] = sums.get(at, Sum()) + point.sum
    return tuple(
        (span.since + at * length, values.n, None if mean is None else signal.outer(mean))
        for at in range(_STEPS)
        for values in (sums.get(at, Sum()),)
        for mean in (values.mean,)
    )


def _with_slices(
    store: Store,
    span: Span,
    rows: Sequence[Row],
    dimension: str,
    feature: str | None,
    catalogue: Mapping[str, Signal],
) -> list[Row]:
    """Each row with those of its slices under it; verdicts hold jointly over all slices."""

    def sums(since: int, until: int) -> dict[tuple[str, str, str], Sum]:
        found: dict[tuple[str, str, str], Sum] = {}
        for point in store.signal_totals(
            since=since, until=until, feature=feature, dimension=dimension
        ):
            key = (point.feature, point.signal, point.value)
            found[key] = found.get(key, Sum()) + point.sum
        return found

    after = sums(span.since, span.until)
    before = sums(*span.before) if span.before is not None else {}
    wanted = {(row.feature, row.measured.signal.name) for row in rows}
    keys = [key for key in after if key[:2] in wanted]
    told = [key for key in keys if after[key].n and before.get(key, Sum()).n]
    compared = dict(
        zip(
            told,
            compare_many([(catalogue[key[1]], before[key], after[key]) for key in told]),
            strict=True,
        )
    )
    found: list[Row] = []
    for row in rows:
        found.append(row)
        for key in sorted(keys, key=lambda k: (-after[k].n, k[2])):
            if key[:2] == (row.feature, row.measured.signal.name):
                found.append(
                    Row(
                        row.feature,
                        key[2],
                        Measured(
                            signal=row.measured.signal,
                            now=after[key],
                            before=before.get(key, Sum()),
                            value=estimate(row.measured.signal, after[key]),
                            comparison=compared.get(key),
                        ),
                    )
                )
    return found


def _print(span: Span, rows: Sequence[Row]) -> None:
    sliced = any(row.value for row in rows)
    made = output.table(
        ("feature", "signal", *(("slice",) if sliced else ()), ">value", "95 % interval",
         ">calls", "trend", ">change", "*verdict")
    )  # fmt: skip
    for row in rows:
        one = row.measured
        change = measures.difference(one.signal, one.comparison) if one.comparison else ""
        made.add_row(
            output.cell(row.feature if not row.value else ""),
            one.signal.name if not row.value else "",
            *((output.cell(row.value),) if sliced else ()),
            measures.value(one.signal, one.value.value if one.value else None),
            measures.interval(one.signal, one.value),
            fmt.count(one.now.n),
            sparkline([value for _, _, value in row.series]),
            change if one.changed else "",
            output.cell(_said(one, row), _STYLES[one.tone]),
        )
    output.show(made)
    if span.before is None:
        output.say("Nothing was judged before this time: there is no baseline yet.", output.QUIET)
    else:
        output.say(
            f"Since {output.clock_time(span.since)}, against {span.said}"
            f"{'' if span.whole else ', of which there is only a part'}. Verdicts on one axis of a "
            "feature hold jointly, at 5 %.",
            output.QUIET,
        )


def _said(one: Measured, row: Row) -> str:
    text = one.said or ("nothing before" if one.now.n else "")
    if one.accepted is not None and not row.value:
        text += f"; normal since {output.clock_time(one.accepted.since)[:16]}"
    if one.now.unjudged:
        text += f"; {fmt.count(one.now.unjudged)} not judged"
    return text.removeprefix("; ")


def sparkline(values: Sequence[float | None]) -> str:
    """A series in block characters between its own ends; a step without a value is a space."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    if high - low <= 1e-9 * max(1.0, abs(high)):
        return "".join(" " if value is None else _BARS[3] for value in values)
    scale = (len(_BARS) - 1) / (high - low)
    return "".join(
        " " if value is None else _BARS[round((value - low) * scale)] for value in values
    )


def _document(span: Span, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "since": span.since,
        "until": span.until,
        "baseline": None if span.before is None else list(span.before),
        "signals": [
            {
                "feature": row.feature,
                "slice": row.value or None,
                "signal": one.signal.name,
                "axis": one.signal.axis,
                "kind": one.signal.kind,
                "unit": one.signal.unit,
                "value": one.value,
                "calls": one.now.n,
                "unjudged": one.now.unjudged,
                "before": one.comparison.before if one.comparison else None,
                "difference": one.comparison.difference if one.comparison else None,
                "p_value": one.comparison.p_value if one.comparison else None,
                "verdict": one.verdict or None,
                "needed": one.comparison.needed if one.comparison else None,
                "normal_since": one.accepted.since if one.accepted else None,
                "series": row.series,
            }
            for row in rows
            for one in (row.measured,)
        ],
    }


# -- a person's word --


def accept(
    config: Path | None, feature: str, signal: str, *, since: str, note: str, json: bool
) -> int:
    """Call a level normal from some time on. Raises ``InputError``."""
    found = settings(config).config
    named(signals_known(found), signal)
    if len(note) > 500:
        raise InputError("--note: at most 500 characters")
    now = SystemClock().now_us()
    begin = moment(since, now, "--since")
    if begin is None or begin > now:
        raise InputError("--since: name a time that has been, such as 2h or 2026-11-01T14:00")
    row = BaselineRow(feature=feature, signal=signal, since=begin, by=actor(), at=now, note=note)
    with opened(found) as store:
        known = bool(store.signal_totals(since=0, until=now + 1, feature=feature, signal=signal))
        store.accept_baseline(row)
        _audit(store, "signals.accept", row)
    if json:
        output.print_json(row)
        return OK
    output.say(
        f"{fmt.visible(feature)} {signal}: normal since {output.clock_time(begin)}. Take it back "
        "with --undo."
    )
    if not known:
        output.say(f"Nothing has been judged of it yet: is {feature!r} the feature's name?",
                   output.LOOK)  # fmt: skip
    return OK


def forget(config: Path | None, feature: str, signal: str, *, json: bool) -> int:
    """Take a word back; exit code 1 when there was none."""
    found = settings(config).config
    with opened(found) as store:
        there = store.forget_baseline(feature, signal)
        if there:
            now = SystemClock().now_us()
            row = BaselineRow(feature=feature, signal=signal, since=0, by=actor(), at=now)
            _audit(store, "signals.forget", row)
    if json:
        output.print_json({"feature": feature, "signal": signal, "forgotten": there})
    elif there:
        output.say(f"{fmt.visible(feature)} {signal}: its own past is its baseline again.")
    else:
        output.complain(f"nobody has called {signal} of {feature} normal")
    return OK if there else FAILED


def _audit(store: Store, action: str, row: BaselineRow) -> None:
    store.record_audit(
        AuditRow(
            at=row.at,
            actor=row.by,
            action=action,
            target=f"{row.feature}/{row.signal}",
            detail=row.note,
        )
    )


__all__ = ["accept", "forget", "listed", "shown", "sparkline"]
