"""``tocsin replay --detectors``: what would have rung over recorded calls, and when."""

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from tocsin.app import all_domains
from tocsin.cli import output
from tocsin.config.model import Config
from tocsin.config.signals import objectives_of, signals_of
from tocsin.core.clock import SystemClock
from tocsin.core.domain import Severity
from tocsin.core.interaction import SPAN_OPERATIONS, Entry
from tocsin.core.score import Score
from tocsin.core.signals import Change, Scored
from tocsin.dashboard import fmt
from tocsin.domains.signals.backtest import Backtest, Rang, SignalsReport, Silent
from tocsin.domains.signals.standing import Standing
from tocsin.importers import BadRecord
from tocsin.worker.evaluating import Scoring, catalogue_of

_SHOWN = 40
"""Alarms in the table; --json has them all."""
_NAMED = 5
_COLUMNS = 60
_MARKS = {"info": "i", "warning": "w", "critical": "C"}
_STYLES: dict[Severity, str] = {"info": "", "warning": output.LOOK, "critical": output.BAD}


def detect(
    records: Iterable[Entry | BadRecord], config: Config
) -> tuple[SignalsReport, list[BadRecord]]:
    """Score recorded calls and show them to every detector, in the order in which they ended.

    Everything is scored before the first is shown: files are rarely in order. Only scores are kept
    meanwhile, not messages.
    """
    domains = all_domains()
    evaluators = [make() for domain in domains for make in domain.evaluators]
    catalogue = catalogue_of(evaluators)
    scoring = Scoring(evaluators, catalogue)
    bad: list[BadRecord] = []
    scored: list[Scored] = []
    for record in records:
        if isinstance(record, BadRecord):
            bad.append(record)
        elif record.interaction.operation not in SPAN_OPERATIONS:
            scored.append(_labelled(scoring.score(record)))
    scored.sort(key=_ended)
    services = Silent(
        clock=SystemClock(),
        catalogue=catalogue,
        settings={name: signals_of(config, name) for name in config.features},
        default=signals_of(config, ""),
        objectives=objectives_of(config),
    )
    tried = Backtest([make(services) for domain in domains for make in domain.detectors])
    for one in scored:
        tried.add(one)
    return tried.report(), bad


def _ended(scored: Scored) -> int:
    return scored.interaction.started_at + scored.interaction.duration_us


def _labelled(scored: Scored) -> Scored:
    """With the file's own verdict on the run, where it has one, as a label of its last call."""
    result = scored.interaction.attributes.get("result")
    if result not in ("success", "failure", "halted"):
        return scored
    label = Score(
        interaction_id=scored.interaction.id,
        name="labelled_right",
        version="1",
        value=float(result == "success"),
        explanation=f"the file says {result}",
    )
    return msgspec.structs.replace(scored, scores=(*scored.scores, label))


# -- output --


def show(report: SignalsReport, bad: Sequence[BadRecord], *, json: bool) -> None:
    """Print what would have rung: JSON for programs, or a timeline, a table and what is missing."""
    if json:
        faults = [{"path": b.path, "line": b.line, "reason": b.reason} for b in bad]
        output.print_json({**output.plain(report), "bad": faults})
        return
    output.say(
        f"{fmt.plural(report.calls, 'call')} of {fmt.plural(len(report.features), 'feature')}, "
        f"{fmt.plural(len(_fired(report)), 'alarm')}"
    )
    if report.untimed:
        output.say(
            f"{fmt.plural(report.untimed, 'call')} without a time: taken in the order of the file; "
            "times shown for them mean nothing.",
            output.QUIET,
        )
    _timeline(report)
    _alarms(report)
    _standings(report)
    for one in bad[:_NAMED]:
        output.complain(f"{one.path}, line {one.line}: {one.reason}")
    if len(bad) > _NAMED:
        output.complain(f"... and {len(bad) - _NAMED} more records that cannot be read")


def _fired(report: SignalsReport) -> list[Rang]:
    return [rang for rang in report.rang if rang.state == "firing"]


def _timeline(report: SignalsReport) -> None:
    """One line for each feature: when alarms would have fired, the strongest in each column."""
    fired = _fired(report)
    if not fired:
        return
    since = min(span.since for span in report.features)
    until = max(span.until for span in report.features)
    width = max(1, until - since)
    output.say("")
    table = output.table(["Feature", "Timeline", ">Alarms"])
    for span in report.features:
        line = ["."] * _COLUMNS
        own = [rang for rang in fired if rang.feature == span.feature]
        for rang in own:
            column = min(_COLUMNS - 1, max(0, (rang.at - since) * _COLUMNS // width))
            line[column] = max(line[column], _MARKS[rang.severity], key=".iwC".index)
        table.add_row(
            output.cell(span.feature), output.cell("".join(line)), output.cell(str(len(own)))
        )
    output.show(table)
    output.say(
        f"From {output.clock_time(since)} to {output.clock_time(until)}. "
        "C critical, w warning, i worth knowing.",
        output.QUIET,
    )


def _alarms(report: SignalsReport) -> None:
    fired = _fired(report)
    output.say("")
    if not fired:
        output.say("Nothing would have rung.")
        return
    ended = {rang.fingerprint: rang.at for rang in report.rang if rang.state == "resolved"}
    table = output.table(["When", "Feature", "Signal", "Severity", "Since", ">Delay", "Until"])
    for rang in fired[:_SHOWN]:
        change = rang.change
        over = ended.get(rang.fingerprint)
        table.add_row(
            output.cell(output.clock_time(rang.at)),
            output.cell(rang.feature),
            output.cell(rang.signal or rang.detector),
            output.cell(rang.severity, _STYLES[rang.severity]),
            output.cell(output.clock_time(change.since) if change else "-"),
            output.cell(_delay(change)),
            output.cell(output.clock_time(over) if over is not None else "-"),
        )
    output.show(table)
    if len(fired) > _SHOWN:
        output.say(f"... and {len(fired) - _SHOWN} more alarms; --json has them all.", output.QUIET)
    output.say("Delay: judged calls from the change to its alarm.\n", output.QUIET)
    for rang in fired[:_SHOWN]:
        output.say(fmt.visible(f"{output.clock_time(rang.at)}  {rang.summary}"))


def _delay(change: Change | None) -> str:
    return fmt.plural(change.delay, "call") if change is not None else "-"


def _standings(report: SignalsReport) -> None:
    """What could not have rung, for want of calls."""
    short = [(feature, found) for feature, found in report.standings if found.state == "learning"]
    if not short:
        return
    by_feature = Counter(feature for feature, _ in short)
    output.say("")
    for feature, count in by_feature.items():
        own = [found for name, found in short if name == feature]
        output.say(
            f"{feature}: {fmt.plural(count, 'signal')} underpowered ({_needed(own)})", output.QUIET
        )


def _needed(own: Sequence[Standing]) -> str:
    shown = [f"{found.signal}: {found.needed} more needed" for found in own[:_NAMED]]
    rest = f", and {len(own) - _NAMED} more" if len(own) > _NAMED else ""
    return ", ".join(shown) + rest


__all__ = ["detect", "show"]
