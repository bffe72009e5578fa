"""Alarms where evaluators stop being able to judge: each signal's share of calls without a verdict.

A call counts as not judged when the evaluator looked and gave no value, and when a signal that has
had a score of every call has none. Watches are made when a signal first lacks a verdict, with what
was judged before as their past: where all is judged there is nothing to watch, and no share of the
false alarms is taken.
"""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from tocsin.core.domain import Alert
from tocsin.core.interaction import Interaction
from tocsin.core.signals import UNJUDGED, Scored, Signal, Sum, unjudged_signal
from tocsin.domains.signals.change import Found, change_of, severity_of, summary_of
from tocsin.domains.signals.firing import Firing
from tocsin.domains.signals.rows import Row
from tocsin.domains.signals.watch import Rang, Watch, WatchState

_ALWAYS, _OFTEN = 0.99, 200
"""Share of at least so many answered calls from which a signal is said to score every call."""
_TOGETHER = 200
"""Calls after an alarm in which what was named in it has no alarm of its own."""
_NAMED = 3
_ANSWERING = frozenset({"chat", "text_completion", "generate_content"})

Make = Callable[[str, WatchState], Watch]


class Blind(msgspec.Struct):
    """What is remembered of one feature; it outlives the process."""

    answered: int = 0
    """Calls with a complete answer."""
    began: dict[str, int] = {}
    """``answered`` before a signal's first score."""
    scored: dict[str, int] = {}
    """Answered calls of which a signal has a score, judged or not."""
    always: set[str] = set()
    """Signals that have had a score of every call: a missing one counts."""
    why: dict[str, str] = {}
    """What an evaluator said last when it could not judge."""
    watches: dict[str, WatchState] = {}
    named: dict[str, str] = {}
    """Signal that stopped together with another one → the one whose alarm names it."""
    until: int = 0
    """The feature's calls up to which others that were named have no alarm of their own."""


class Unjudged:
    """The watches of one feature over what could not be judged."""

    def __init__(self, state: Blind, make: Make) -> None:
        self.state = state
        self._make = make
        self.watches = {name: make(name, watch) for name, watch in state.watches.items()}

    def of(self, scored: Scored, known: Mapping[str, Watch]) -> dict[str, float]:
        """By signal 1 where this call has no verdict, 0 where it has one; only what is watched."""
        state = self.state
        found: dict[str, float] = {}
        counts = scored.first and _answered(scored.interaction)
        for score in scored.scores:
            name = score.name
            if counts:
                state.began.setdefault(name, state.answered)
                state.scored[name] = state.scored.get(name, 0) + 1
            if name not in known:
                continue
            if score.value is None:
                found[name] = 1.0
                state.why[name] = score.explanation
            elif name in self.watches:
                found[name] = 0.0
        if not counts:
            return found
        present = {score.name for score in scored.scores}
        if len(present) < len(known):
            for name in known:
                if name not in present and self._missed(name):
                    found[name] = 1.0
                    state.why.pop(name, None)
        state.answered += 1
        return found

    def _missed(self, name: str) -> bool:
        """Whether a signal without a score on an answered call is one that always had one."""
        state = self.state
        if name in state.always:
            return True
        had = state.scored.get(name, 0)
        if had < _OFTEN or had < _ALWAYS * (state.answered - state.began.get(name, 0)):
            return False
        state.always.add(name)
        return True

    def watch(self, name: str, past: WatchState, at: int, *, full: int, timed: bool) -> Watch:
        """The watch of a signal; a new one has been shown what was judged before ``at``."""
        found = self.watches.get(name)
        if found is not None:
            return found
        state = self.state.watches[name] = WatchState(rate=True)
        found = self.watches[name] = self._make(name, state)
        count = min(past.judged, full)
        first = past.first_at or at
        for number in range(count):
            found.add(0.0, first + (at - first) * number // count, timed=timed)
        return found

    def anew(self, name: str) -> None:
        """Learn from now on what is normal: what was judged before no longer counts."""
        state = self.state.watches[name] = WatchState(rate=True)
        self.watches[name] = self._make(name, state)

    def forget(self, name: str) -> None:
        """No longer watch a signal."""
        self.watches.pop(name, None)
        self.state.watches.pop(name, None)
        self.state.named.pop(name, None)

    # -- what rang --

    def together(self, name: str, rows: Iterable[Row], since: int, count: int) -> list[str] | None:
        """Signals that stopped being judged with this one; ``None``: its own is named already."""
        state = self.state
        if count <= state.until and name in state.named:
            return None
        after = [row for row in rows if row.at >= since]
        blind = {key for row in after for key in row.values if key.startswith(UNJUDGED)}
        others = []
        for key in sorted(blind):
            other = key.removeprefix(UNJUDGED)
            lost = sum(1 for row in after if key in row.values)
            if other != name and other not in state.named and 2 * lost >= len(after):
                others.append(other)
        state.until = count + _TOGETHER
        state.named.update(dict.fromkeys(others, name))
        return others

    def freed(self, name: str) -> list[str]:
        """Signals that the alarm of this one named and that cannot be judged still."""
        mine = [other for other, by in self.state.named.items() if by == name]
        for other in mine:
            del self.state.named[other]
        return [
            other for other in mine
            if other in self.watches and self.watches[other].state.firing is not None
        ]  # fmt: skip


def rows_of(signal: Signal, rows: Iterable[Row]) -> list[Row]:
    """Rows as the share of calls that ``signal`` could not judge sees them."""
    key = f"{UNJUDGED}{signal.name}"
    return [
        Row(row.id, row.at, row.slices, {key: float(key in row.values)})
        for row in rows
        if key in row.values or signal.name in row.values
    ]


def alert_of(
    signal: Signal,
    feature: str,
    watch: Watch,
    rang: Rang,
    at: int,
    rows: Iterable[Row],
    *,
    every: float,
    why: str,
    others: list[str],
) -> Alert:
    """The alarm on the share of calls that ``signal`` could not judge."""
    firing, base = rang.firing, watch.state.baseline
    about = unjudged_signal(signal)
    found = Found(
        signal=about, feature=feature, since=firing.mark[3], at=at,
        before=base.before if base is not None else Sum(), after=watch.since(firing.mark),
        method=firing.method, false_alarm_every=every,
    )  # fmt: skip
    change = change_of(found, rows_of(signal, rows))
    severity = severity_of(about, change, found.before, found.after)
    return Alert(
        fingerprint=fingerprint(feature, signal.name, firing),
        detector="drift", feature=feature,
        # That nothing can be told is not that anything is wrong.
        severity="warning" if severity == "critical" else severity,
        state="firing", at=at, summary=summary_of(found, change) + _said(why, others),
        evidence=change.examples_after, signal=about.name, change=change,
    )  # fmt: skip


def fingerprint(feature: str, signal: str, firing: Firing) -> str:
    """What names an alarm on what could not be judged."""
    return f"drift:{feature}:{UNJUDGED}{signal}:{firing.at}"


def _said(why: str, others: list[str]) -> str:
    text = f" Its evaluator said: {why[:120]}." if why else ""
    if others:
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        text += f" Not judged since then either: {', '.join(others[:_NAMED])}{more}."
    return text


def _answered(call: Interaction) -> bool:
    return call.outcome == "complete" and call.operation in _ANSWERING


__all__ = ["Blind", "Unjudged", "alert_of", "fingerprint", "rows_of"]
