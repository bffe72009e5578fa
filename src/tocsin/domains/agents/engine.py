"""The engine of the supervisor: what is known of one run, and what it finds in it.

A ``Tracker`` is told of each call of a run and judges what came back: progress starts every count
again, motion does not. Its memory is bounded and its work per call is proportional to what the
call adds, however long the history that comes with it.
"""

import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter

from tocsin.core.messages import Hash, Message, ToolCall
from tocsin.core.supervision import Finding, RunWatch, Stage
from tocsin.domains.agents.detect import (
    DETECTORS,
    RANK,
    REPETITION,
    TRENDS,
    Record,
    Verdict,
    end_stage,
)
from tocsin.domains.agents.history import Histories, New
from tocsin.domains.agents.judging import Judge
from tocsin.domains.agents.novelty import Memory, overlap, stems
from tocsin.domains.agents.repetition import StreamWatch
from tocsin.domains.agents.similarity import exact
from tocsin.domains.agents.steps import (
    Result,
    Step,
    plain_text,
    results,
    said_step,
    step_of,
    told_action,
)
from tocsin.domains.agents.thresholds import DEFAULT, Thresholds

_MAX_PENDING = 256
_LATE = 2
"""Calls of an agent after which the result of a tool is not waited for any more."""
_LONG_ANSWER = 1200
"""Characters from which a finished answer is looked at for repetition inside."""
_DIGITS = re.compile(r"\d+")
_BY_TIME = attrgetter("call", "at")


class Tracker:
    """What is known of one run, and the judgement on it. Not safe to use from two threads."""

    def __init__(
        self,
        run_id: str,
        feature: str,
        *,
        thresholds: Thresholds = DEFAULT,
        expected_calls: int | None = None,
        detectors: Collection[str] = DETECTORS,
    ) -> None:
        """``detectors`` names those that may speak (to measure one alone)."""
        self.run_id = run_id
        self.feature = feature
        self._on = frozenset(detectors)
        self._judge = Judge(thresholds)
        self._record = Record(thresholds)
        self._record.expected = expected_calls
        self._histories = Histories()
        self._pending: OrderedDict[tuple[str, str], Step] = OrderedDict()
        """Steps whose results are out, by speaker and tool call id."""
        self._told: dict[Hash, int] = {}
        """Answers that no history has brought back yet."""
        self._prompts: Memory[int] = Memory(512)
        """What users said, numbers aside: an app that says the same each time is no user."""
        self._changed = False
        self._owed: New | None = None
        """What the latest call added, while it is not looked at: see ``behind``."""
        self._asked_at = 0
        self._reached = 0
        self._trends: dict[str, int] = {}
        self._calls = self._steps = self._unnamed = 0
        self._agent = self._speaker = self._interaction = ""
        self._started_at = self._last_at = 0
        self._tokens = self._cost = 0
        self._stage: Stage | None = None
        self._worst: Verdict | None = None

    # -- what happens --

    def ask(
        self,
        messages: Sequence[Message],
        *,
        at_us: int,
        agent: str = "",
        interaction_id: str = "",
    ) -> tuple[Finding, ...]:
        """A new call of the run, with its history: whole, compacted or rewritten.

        Takes in what the run was not seen to have yet and judges. Returns what is found newly at
        this call, the strongest stage first; a stage is told once until progress is made.
        """
        self.catch_up()
        self._calls += 1
        self._record.calls = self._calls
        self._agent, self._interaction = agent, interaction_id
        self._speaker = agent or _voice(messages)
        self._clock(at_us)
        added = self._histories.new(messages)
        self._resent(added, at_us)
        if self._is_plain(added):
            self._owed = added
            return ()
        self._take_in(added)
        return self._findings()

    @property
    def behind(self) -> bool:
        """Whether ``catch_up`` has anything to do."""
        return self._owed is not None

    def catch_up(self) -> None:
        """Look at what the latest call added, which was put off: nothing could be found in it. Any
        other use of the tracker does so first; whoever has the time may do it earlier."""
        added, self._owed = self._owed, None
        if added is not None:
            self._take_in(added)
            self._changed = False

    def _is_plain(self, added: New) -> bool:
        """Whether no detector can speak at this call, whatever came back. Most calls of a run that
        gets somewhere are so: what they bring can be judged while the model is at work."""
        pending, told = self._pending, self._told
        if len(pending) > 1 or not added.messages or not self._record.is_calm():
            return False
        # At most one step comes to its end: the pending one.
        if any(self._judge.knows(step) for step in pending.values()):
            return False
        for message in added.messages:
            if message.role == "assistant":
                if message.hash not in told:
                    return False
            elif message.role == "user" and not message.answers:
                return False
        return self._trends.get("no_end", 0) >= RANK[end_stage(self._record)]

    def _take_in(self, added: New) -> None:
        for index, message in enumerate(added.messages):
            if message.role == "assistant":
                self._remembered(message, added)
            elif message.answers or message.role in ("tool", "function"):
                for result in results(message):
                    self._came(result)
            elif message.role == "user" and index >= added.inserted:
                self._heard(plain_text(message), added)
        if added.messages:
            self._late()

    def answered(
        self,
        output: Message | None,
        *,
        input_tokens: int | None,
        output_tokens: int | None,
        nano_usd: int | None,
        at_us: int,
    ) -> tuple[Finding, ...]:
        """The answer to the latest call, and what it took; ``None`` where nothing is known.

        Judges what can be told before its tools have run: what it says, and that it asks for what
        has failed or brought nothing before.
        """
        self.catch_up()
        self._clock(at_us)
        self._spent(input_tokens, output_tokens, nano_usd)
        if output is None:
            return ()
        self._histories.know(output)
        if len(self._told) > 64:
            self._told.clear()
        self._told[output.hash] = self._told.get(output.hash, 0) + 1
        begun = self._took(output)
        found = [self._intends(step) for step in begun]
        if not output.calls and len(output.raw) > _LONG_ANSWER:
            found.append(self._inside(plain_text(output)))
        return self._findings(verdict for verdict in found if verdict is not None)

    def watch(self) -> RunWatch:
        """How the run stands now."""
        self.catch_up()
        tools, texts = list(self._judge.steps), self._judge.texts
        steps = sorted([*tools[-20:], *texts], key=_BY_TIME) if texts else tools
        latest = tools[-5:]
        size = sum([step.size for step in latest])
        return RunWatch(
            run_id=self.run_id,
            feature=self.feature,
            agent=self._agent,
            started_at=self._started_at,
            last_at=self._last_at,
            calls=self._calls,
            steps=self._steps,
            repeats=sum([step.repeat for step in steps[-20:]]),
            novelty=sum([step.new for step in latest]) / size if size else 1.0,
            tokens=self._tokens,
            tokens_since_new=self._record.tokens_since_new,
            cost_nano_usd=self._cost,
            stage=self._stage,
            detector=self._worst.detector if self._worst else "",
            summary=self._worst.summary if self._worst else "",
        )

    # -- taking in --

    def _clock(self, at_us: int) -> None:
        self._started_at = self._started_at or at_us
        self._last_at = max(self._last_at, at_us)

    def _spent(self, given: int | None, told: int | None, nano_usd: int | None) -> None:
        record = self._record
        tokens = (given or 0) + (told or 0)
        self._tokens += tokens
        record.tokens_since_new += tokens
        self._cost += nano_usd or 0
        if given is not None:
            record.inputs.append(given)
            if len(record.first_inputs) < 5:
                record.first_inputs.append(given)
        if nano_usd is not None:
            record.costs.append(nano_usd)
            if len(record.first_costs) < 5:
                record.first_costs.append(nano_usd)

    def _resent(self, added: New, at_us: int) -> None:
        """The same request again: a sample or a retry, whose earlier answer the app dropped."""
        record = self._record
        if added.messages or self._calls == 1:
            record.resent, self._asked_at = 0, at_us
            return
        for key in [key for key in self._pending if key[0] == self._speaker]:
            del self._pending[key]
        gap = (at_us - self._asked_at) / 1_000_000 if self._asked_at else 0.0
        self._asked_at = at_us
        if gap < record.thresholds.poll_gap_s:
            record.resent += 1
            self._changed = True

    def _facts(self) -> dict[str, object]:
        return {
            "call": self._calls,
            "at": self._last_at,
            "agent": self._agent,
            "speaker": self._speaker,
            "interaction_id": self._interaction,
        }

    def _remembered(self, message: Message, added: New) -> None:
        """An assistant's message in a history: known where its answer was told."""
        count = self._told.pop(message.hash, 0)
        if count:
            if count > 1:
                self._told[message.hash] = count - 1
            return
        if message.calls and all((self._speaker, c.id) in self._pending for c in message.calls):
            return  # the app wrote the answer down in its own way
        if added.grown and self._told and not message.calls:
            last = self._judge.texts[-1] if self._judge.texts else None
            said = stems(plain_text(message))
            if last is not None and overlap(last.said, said) >= 0.9:
                return
        self._took(message)

    def _took(self, message: Message) -> list[Step]:
        """Begin the steps that an answer asks for; a plain one is a step of its own."""
        if message.calls:
            return [self._begin(call, call.id) for call in message.calls[:_MAX_PENDING]]
        text = plain_text(message)
        action = told_action(text)
        if action is not None:
            return [self._begin(action, _TEXT)]
        if text.strip():
            self._steps += 1
            step = said_step(text, stems(text), **self._facts())
            self._changed = True
            self._judge.spoken(step)
            if not self._record.resent:
                self._record.heard(step)
        return []

    def _begin(self, call: ToolCall, name: str) -> Step:
        step = step_of(call, **self._facts())
        if not name:
            self._unnamed += 1
            name = f"#{self._unnamed}"
        earlier = self._pending.pop((self._speaker, name), None)
        if earlier is not None:
            self._end(earlier, None)
        self._pending[self._speaker, name] = step
        if len(self._pending) > _MAX_PENDING:
            _, oldest = self._pending.popitem(last=False)
            self._end(oldest, None)
        return step

    def _came(self, result: Result) -> None:
        """A tool's result: of the call that it names, or of the oldest of this speaker."""
        key = (self._speaker, result.id)
        if not result.id or key not in self._pending:
            named = not result.id
            keys = [k for k in self._pending if k[1] == result.id or (named and k[0] == key[0])]
            if not keys:
                return
            key = keys[0]
        self._end(self._pending.pop(key), result)

    def _end(self, step: Step, result: Result | None) -> None:
        self._steps += 1
        self._changed = True
        self._judge.executed(step, result)
        if self._record.took(step):
            self._progressed()

    def _late(self) -> None:
        """Results that never came: the app has dropped them."""
        for key, step in list(self._pending.items()):
            if step.speaker == self._speaker:
                step.age += 1
                if step.age >= _LATE:
                    del self._pending[key]
                    self._end(step, None)

    def _heard(self, text: str, added: New) -> None:
        """A user's message: the result of an action told by text, another agent, or a person."""
        waiting = self._pending.pop((self._speaker, _TEXT), None)
        if waiting is not None:
            self._end(waiting, Result("", _observed(text)))
            return
        # An app that only counts its own prompts up is no user; a call that stands alone is one
        # of many over items, which may differ in a number.
        prompt = hash(text[:4000] if added.fresh else _DIGITS.sub("0", text[:4000]))
        if not text.strip() or prompt in self._prompts:
            return
        self._prompts.add((prompt,))
        said = stems(text)
        echo = self._judge.echoes(said)
        share = self._judge.new_talk(said)
        # Where tools have run, a history that is wholly new may be the app's summary of the run.
        summary = added.fresh and not added.grown and bool(self._judge.steps)
        if echo or (summary and share < _REPHRASED):
            return
        self._record.steered()
        self._progressed()

    def _progressed(self) -> None:
        self._reached = 0
        self._record.tokens_since_new = 0

    # -- judging --

    def _intends(self, step: Step) -> Verdict | None:
        """Another go at what came to the same bad end twice in a row, before it runs."""
        record = self._record
        count = record.thresholds.near_duplicate.nudge - 1
        if "near_duplicate" not in self._on or len(record.idle) < count:
            return None
        latest = list(record.idle)[-count:]
        last = latest[-1]
        if any(s.outcome != last.outcome or s.tool != step.tool for s in latest):
            return None
        if sum([s.part for s in latest]) < count:
            return None
        near = self._judge.near(step, latest)
        if not near or self._waited(step, last):
            return None
        summary = (
            f"{count} calls of {step.tool} in a row came to the same end "
            f"({last.outcome.shown}), and it is asked for much the same again."
        )
        return Verdict(
            detector="near_duplicate", stage="nudge", summary=summary, steps=(*latest, step)
        )

    def _waited(self, step: Step, last: Step) -> bool:
        gap = (step.at - last.at) / 1_000_000
        settings = self._record.thresholds
        limited = last.outcome.name == "rate_limit"
        return bool(last.at) and gap >= (settings.retry_gap_s if limited else settings.poll_gap_s)

    def _inside(self, text: str) -> Verdict | None:
        if "stream_repeats" not in self._on:
            return None
        watch = StreamWatch()
        for start in range(0, len(text), 256):
            summary = watch.feed(text[start : start + 256])
            if summary is not None:
                step = said_step(text, frozenset(), **self._facts())
                return Verdict(
                    detector="stream_repeats", stage="nudge", summary=summary, steps=(step,)
                )
        return None

    def _findings(self, more: Iterable[Verdict] = ()) -> tuple[Finding, ...]:
        verdicts = list(more)
        record = self._record
        if self._changed and (record.idle or record.talk or record.resent):
            for name, detect in REPETITION.items():
                if name in self._on and (verdict := detect(record)) is not None:
                    verdicts.append(verdict)
        self._changed = False
        told: list[Verdict] = []
        if verdicts:
            # max() keeps the first of equals: the most telling detector.
            strongest = max(verdicts, key=lambda v: RANK[v.stage])
            if RANK[strongest.stage] > self._reached:
                self._reached = RANK[strongest.stage]
                told.append(strongest)
        if record.has_trend():
            for name, detect in TRENDS.items():
                verdict = detect(record) if name in self._on else None
                if verdict is not None and RANK[verdict.stage] > self._trends.get(name, 0):
                    self._trends[name] = RANK[verdict.stage]
                    told.append(verdict)
        if not told:
            return ()
        told.sort(key=lambda v: -RANK[v.stage])
        return tuple([self._finding(verdict) for verdict in told])

    def _finding(self, verdict: Verdict) -> Finding:
        if RANK[verdict.stage] >= RANK[self._stage]:
            self._stage, self._worst = verdict.stage, verdict
        return Finding(
            run_id=self.run_id,
            feature=self.feature,
            call=self._calls,
            at=self._last_at,
            stage=verdict.stage,
            detector=verdict.detector,
            summary=verdict.summary,
            evidence=tuple([step.evidence() for step in verdict.steps]),
            interaction_id=self._interaction,
        )


_TEXT = "\0text"
"""In place of an id: the action of an answer that calls its tool by text."""
_REPHRASED = 0.5
"""In a history put together anew: share of new content words below which a user's message is the
app's own summary of the run."""


def _voice(messages: Sequence[Message]) -> str:
    """What tells one nameless agent of a run from another: its system prompt."""
    if messages and messages[0].role in ("system", "developer"):
        return messages[0].hash[:6].hex()
    return ""


def _observed(text: str) -> str:
    """A result told by text, without the word that says so."""
    head, colon, rest = text.partition(":")
    return rest.strip() if colon and head.strip().lower().startswith("observation") else text


def exact_baseline(calls: Iterable[ToolCall], times: int = 3) -> int | None:
    """The rule of most loop guards, for comparison: the same call, to the letter, ``times`` times.

    Returns the number (from 1) of the call at which it would act, or ``None``.
    """
    counts: dict[tuple[str, str], int] = {}
    for number, call in enumerate(calls, 1):
        key = (call.name, exact(call.arguments))
        counts[key] = counts.get(key, 0) + 1
        if counts[key] >= times:
            return number
    return None


__all__ = ["DEFAULT", "StreamWatch", "Thresholds", "Tracker", "exact_baseline"]
