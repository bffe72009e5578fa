"""The detectors: from what a run did since it last made progress to a stage, with evidence."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache

import msgspec

from tocsin.core.supervision import Stage
from tocsin.domains.agents.steps import Step
from tocsin.domains.agents.thresholds import Stages, Thresholds

RANK: dict[Stage | None, int] = {None: 0, "nudge": 1, "pause": 2, "kill": 3}


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What one detector says."""

    detector: str
    stage: Stage
    summary: str
    steps: tuple[Step, ...] = ()


class Record:
    """What the detectors look at: a run since its last progress, in bounded memory."""

    def __init__(self, thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self.idle: deque[Step] = deque(maxlen=24)
        """The latest steps without progress, since the last one with."""
        self.idle_count = 0.0
        self.score = 0.0
        self.talk: deque[Step] = deque(maxlen=24)
        """Texts in a row that said nothing new."""
        self.talk_count = 0
        self.recent: deque[Step] = deque(maxlen=thresholds.window)
        """The latest tool steps, since anybody outside last said something."""
        self.progress: deque[bool] = deque(maxlen=thresholds.window)
        """Whether each of the latest tool steps that tell brought progress."""
        self.resent = 0
        """How often the latest request was sent again, answered or not."""
        self.tokens_since_new = 0
        self.calls = 0
        self.expected: int | None = None
        self.inputs: deque[int] = deque(maxlen=thresholds.trend_calls)
        self.first_inputs: list[int] = []
        self.costs: deque[int] = deque(maxlen=5)
        self.first_costs: list[int] = []
        self._patient = _is_patient(thresholds)
        self._fair = max(thresholds.trend_progress, 1.01 - thresholds.window_share)
        """Share of steps with progress from which neither trends nor ``no_progress`` speak."""

    def took(self, step: Step) -> bool:
        """Count a tool's step in. Returns whether it ended the count of steps without progress."""
        self.recent.append(step)
        if step.verdict == "neutral":
            return False
        if step.verdict == "progress":
            self.progress.append(True)
            self.reset()
            return True
        if self._beside(step):
            step.part = 0.0
        if step.part >= 0.5:
            self.progress.append(False)
        self.idle.append(step)
        self.idle_count += step.part
        self.score += step.weight * step.part
        return False

    def _beside(self, step: Step) -> bool:
        """Whether the same answer asked for it as for the step before, which is another call: the
        agent could not know what comes of one when it asked for the next."""
        last = self.idle[-1] if self.idle else None
        return (
            last is not None
            and last.call == step.call
            and last.speaker == step.speaker
            and last.arguments.loose != step.arguments.loose
        )

    def heard(self, step: Step) -> None:
        """Count a plain answer in."""
        if step.verdict == "idle":
            self.talk.append(step)
            self.talk_count += 1
        else:
            self.talk.clear()
            self.talk_count = 0

    def reset(self) -> None:
        """Start counting again."""
        self.idle.clear()
        self.talk.clear()
        self.idle_count = self.score = self.talk_count = 0

    def steered(self) -> None:
        """Somebody outside the run said something: what was before no longer counts."""
        self.reset()
        self.recent.clear()
        self.progress.clear()

    def share(self) -> float:
        """0..1: steps that brought progress among the latest ones; 1 while there are too few."""
        if len(self.progress) < self.thresholds.window // 2:
            return 1.0
        return sum(self.progress) / len(self.progress)

    def is_calm(self) -> bool:
        """Whether no detector can speak after one more tool step, whatever comes of it, as long as
        its call is a new one: nothing counts yet, and none speaks at the first."""
        if self.idle or self.talk_count or self.resent or not self._patient:
            return False
        near = min(self.thresholds.of_last - 1, len(self.recent))
        failed = sum([self.recent[-at].outcome.failed for at in range(1, near + 1)])
        if failed + 1 >= self.thresholds.same_failure.nudge:
            return False
        size = len(self.progress)
        if size + 1 < self.thresholds.window // 2:
            return True
        # No share that one more step can lead to is lower than this.
        return sum(self.progress) - 1 >= self._fair * size

    def has_trend(self) -> bool:
        """Whether the run is long enough for ``TRENDS`` to have anything to say."""
        if self.calls >= self.thresholds.trend_calls:
            return True
        return bool(self.expected) and self.calls > (self.expected or 0)


@lru_cache(maxsize=16)
def _is_patient(thresholds: Thresholds) -> bool:
    """Whether no stage of a repetition begins before the third step."""
    rows = (
        *(thresholds.identical, thresholds.come_back, thresholds.near_duplicate),
        *(thresholds.same_failure, thresholds.nothing_new, thresholds.alternation),
        *(thresholds.monologue, thresholds.no_progress),
    )
    counts = [count for row in rows for count in (row.nudge, row.pause, row.kill)]
    return all(count == 0 or count > 2 for count in counts)


Detector = Callable[[Record], Verdict | None]


def _stage(count: float, stages: Stages) -> Stage | None:
    if stages.kill and count >= stages.kill:
        return "kill"
    if stages.pause and count >= stages.pause:
        return "pause"
    return "nudge" if stages.nudge and count >= stages.nudge else None


def _verdict(
    detector: str, stage: Stage | None, summary: str, steps: Sequence[Step] = ()
) -> Verdict | None:
    if stage is None:
        return None
    shown = steps if len(steps) <= 6 else [*steps[:2], *list(steps)[-4:]]
    return Verdict(detector=detector, stage=stage, summary=summary, steps=tuple(shown))


def _weight(steps: Sequence[Step]) -> float:
    return sum([step.part for step in steps])


def _what(step: Step) -> str:
    given = step.arguments.text
    given = given if len(given) <= 80 else given[:77] + "..."
    return f"{step.tool}({given})"


def _came(step: Step) -> str:
    name = step.outcome.shown
    if name.startswith("error"):
        return "the same failure" + (f" (“{name[6:]}”)" if name[6:] else "")
    return {"ok": "nothing new", "empty": "no result", "unknown": "no known result"}.get(
        name, f"“{name}”"
    )


def identical(record: Record) -> Verdict | None:
    """The same call, volatile arguments aside, with the same class of outcome."""
    if record.resent:
        stage = _stage(record.resent + 1, record.thresholds.resent)
        summary = f"The same request was sent {record.resent + 1} times, though it was answered."
        return _verdict("identical", stage, summary, list(record.recent)[-1:])
    if not record.idle:
        return None
    last = record.idle[-1]
    same = [
        s
        for s in record.idle
        if s.arguments.loose == last.arguments.loose
        and s.tool == last.tool
        and s.outcome == last.outcome
    ]
    # The call that the first of them repeats brought something, so it is not among them.
    count = len(same) + same[0].again
    stage = _stage(count, record.thresholds.identical)
    if stage == "nudge" and last.outcome.failed and count >= record.thresholds.identical.pause - 1:
        stage = "pause"
    if stage is None:
        return _come_back(record, last)
    summary = f"{_what(last)} was called {count} times with {_came(last)} each time."
    return _verdict("identical", stage, summary, _with_original(record, same))


def _come_back(record: Record, last: Step) -> Verdict | None:
    """The same call with the same result, to the letter, with other steps between. After a change
    it is a look at what came of that."""
    if not last.again:
        return None
    same: list[Step] = []
    for step in reversed(record.recent):
        if step.verdict == "progress" and (step.kind == "write" or step.outcome.name == "done"):
            break
        if (
            step.arguments.strict == last.arguments.strict
            and step.tool == last.tool
            and step.result == last.result
            and step.outcome == last.outcome
        ):
            same.insert(0, step)
    stage = _stage(len(same), record.thresholds.come_back)
    summary = f"{_what(last)} came to the same result {len(same)} times, with other steps between."
    return _verdict("identical", stage, summary, same)


def _with_original(record: Record, same: list[Step]) -> list[Step]:
    if not same[0].again:
        return same
    for step in record.recent:
        if step is same[0]:
            break
        if step.arguments.loose == same[0].arguments.loose and step.tool == same[0].tool:
            return [step, *same]
    return same


def near_duplicate(record: Record) -> Verdict | None:
    """Near-duplicate calls with the same class of outcome and nothing new."""
    if not record.idle:
        return None
    last = record.idle[-1]
    near = [s for s in record.idle if s.cluster == last.cluster]
    stage = _stage(_weight(near), record.thresholds.near_duplicate)
    if stage == "nudge" and last.outcome.failed and record.score > _weight(near):
        stage = "pause"
    if last.outcome.name == "empty" and stage == "pause" and not _repeated(near):
        # An empty answer is an answer: looking in one place after another is no loop yet.
        stage = "nudge"
    summary = f"{len(near)} near-duplicate calls of {last.tool} in a row came to {_came(last)}."
    return _verdict("near_duplicate", stage, summary, near)


def _repeated(steps: Sequence[Step]) -> bool:
    return sum([s.again for s in steps]) * 2 >= len(steps)


def same_failure(record: Record) -> Verdict | None:
    """The same failure with whatever arguments."""
    if not record.idle or not record.idle[-1].outcome.failed:
        return None
    last = record.idle[-1]
    same = [s for s in record.idle if s.outcome == last.outcome]
    stage = _stage(_weight(same), record.thresholds.same_failure)
    if stage is None:
        latest = list(record.recent)[-record.thresholds.of_last :]
        among = [s for s in latest if s.outcome == last.outcome and s.tool == last.tool]
        if _weight(among) >= record.thresholds.same_failure.nudge:
            same, stage = among, "nudge"
    summary = f"{len(same)} calls failed in the same way: “{last.outcome.name[6:]}”."
    return _verdict("same_failure", stage, summary, same)


def nothing_new(record: Record) -> Verdict | None:
    """Successful calls of one tool that bring nothing the run has not seen."""
    if not record.idle:
        return None
    last = record.idle[-1]
    good = ("ok", "done", "pending")
    if last.outcome.name not in good:
        return None
    same = [s for s in record.idle if s.tool == last.tool and s.outcome.name in good]
    stage = _stage(_weight(same), record.thresholds.nothing_new)
    summary = f"{len(same)} successful calls of {last.tool} in a row brought nothing new."
    return _verdict("nothing_new", stage, summary, same)


def alternation(record: Record) -> Verdict | None:
    """A cycle of two to four steps that goes round without bringing anything new."""
    best: tuple[int, int] = (0, 0)
    steps = list(record.recent)
    for period in (2, 3, 4):
        at = len(steps) - 1
        while (
            at >= period
            and steps[at].cluster == steps[at - period].cluster
            and steps[at].verdict == "idle"
        ):
            at -= 1
        length = len(steps) - 1 - at
        distinct = {s.cluster for s in steps[-period:]}
        if length >= period and len(distinct) == period and length + period > best[0]:
            best = (length + period, period)
    count, period = best
    stage = _stage(count, record.thresholds.alternation)
    if stage is None:
        return None
    cycle = steps[-period:]
    who = {s.speaker for s in cycle}
    between = f" between {len(who)} agents" if len(who) > 1 else ""
    turns = " → ".join(_what(s) for s in cycle)
    summary = f"The same {period} steps went round {count / period:.1f} times{between}: {turns}."
    return _verdict("alternation", stage, summary, steps[-min(count, 6) :])


def monologue(record: Record) -> Verdict | None:
    """Texts in a row, no tool and nobody else between, that say much the same."""
    stage = _stage(record.talk_count, record.thresholds.monologue)
    if stage is None:
        return None
    speakers = {s.speaker for s in record.talk}
    count = record.talk_count
    if len(speakers) > 1:
        summary = f"{len(speakers)} agents passed {count} messages to and fro that say nothing new."
        return _verdict("alternation", stage, summary, list(record.talk))
    summary = f"{count} answers in a row, with no tool or user between, say nothing new."
    return _verdict("monologue", stage, summary, list(record.talk))


def no_progress(record: Record) -> Verdict | None:
    """Motion of any kind that brings nothing new."""
    limits = record.thresholds.no_progress
    count = record.idle_count
    stage = _stage(count, limits)
    if stage is None and len(record.idle) > 1 and record.score >= limits.nudge:
        stage = "nudge"
    summary = f"{len(record.idle)} steps in a row brought nothing new"
    if RANK[stage] < RANK["pause"] and len(record.progress) == record.thresholds.window:
        share = 1 - record.share()
        if share >= record.thresholds.window_share and not record.progress[-1]:
            stage = "pause"
            summary = f"{share:.0%} of the last {len(record.progress)} steps brought nothing new"
    tokens = record.tokens_since_new
    summary += f"; {tokens:,} tokens were spent since the last new thing." if tokens else "."
    return _verdict("no_progress", stage, summary, list(record.idle))


def growing_context(record: Record) -> Verdict | None:
    """A context that only grows while little comes of it."""
    settings = record.thresholds
    if len(record.inputs) < settings.trend_calls or record.inputs[-1] < settings.growth_tokens:
        return None
    if record.share() >= settings.trend_progress:
        return None
    latest, first = record.inputs[-1], sorted(record.first_inputs)[len(record.first_inputs) // 2]
    grows = all(b >= a for a, b in zip(record.inputs, list(record.inputs)[1:], strict=False))
    if not grows or latest < settings.growth * max(first, 1):
        return None
    summary = (
        f"Each call sends more than the one before: {latest:,} input tokens now, {first:,} at the "
        f"start, and {record.share():.0%} of the last steps brought something new."
    )
    return _verdict("growing_context", "nudge", summary)


def rising_cost(record: Record) -> Verdict | None:
    """Cost per call that accelerates while little comes of it."""
    settings = record.thresholds
    if record.calls < settings.trend_calls:
        return None
    if len(record.first_costs) < 5 or len(record.costs) < 5:
        return None
    first, latest = sum(record.first_costs) / 5, sum(record.costs) / 5
    if first <= 0 or latest < settings.cost_rise * first:
        return None
    if record.share() >= settings.trend_progress:
        return None
    summary = (
        f"A call now costs {latest / first:.1f} times what the first ones cost "
        f"(${latest / 1e9:.4f} against ${first / 1e9:.4f}), with little that is new."
    )
    return _verdict("rising_cost", "nudge", summary)


def end_stage(record: Record) -> Stage | None:
    """What the mere number of calls comes to, against what runs of this feature need."""
    expected = record.expected
    if not expected or record.calls <= expected:
        return None
    return _stage(record.calls // expected, record.thresholds.no_end)


def no_end(record: Record) -> Verdict | None:
    """Far more calls than runs of this feature need."""
    expected, settings = record.expected, record.thresholds
    stage = end_stage(record)
    if not expected or stage is None:
        return None
    if stage == "pause" and record.share() >= settings.trend_progress:
        stage = "nudge"
    summary = f"Call {record.calls:,} of a run that usually needs {expected:,}."
    return _verdict("no_end", stage, summary, list(record.idle)[-3:])


REPETITION: dict[str, Detector] = {
    "identical": identical,
    "near_duplicate": near_duplicate,
    "alternation": alternation,
    "same_failure": same_failure,
    "nothing_new": nothing_new,
    "monologue": monologue,
    "no_progress": no_progress,
}
"""Detectors of the same thing from different sides, the most telling first: one of them speaks."""
TRENDS: dict[str, Detector] = {
    "growing_context": growing_context,
    "rising_cost": rising_cost,
    "no_end": no_end,
}
"""Detectors that speak for themselves."""
DETECTORS: tuple[str, ...] = (*REPETITION, "stream_repeats", *TRENDS)
