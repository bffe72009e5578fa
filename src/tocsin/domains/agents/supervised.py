"""``Supervised``: one run as the policy knows it, its ``Tracker`` and what was done about it."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from tocsin.core.call import Call
from tocsin.core.interaction import Interaction
from tocsin.core.messages import Hash, Message
from tocsin.core.supervision import Evidence, Finding, RunWatch
from tocsin.domains.agents.engine import Tracker
from tocsin.domains.agents.lengths import Length

NUDGE_AGAIN = 3
"""Calls for which the same finding does not nudge again."""
_MOST_ANSWERS = 16
"""Answers of a run that wait to be taken in: more calls than that are under way at once."""
_STALE = 0.1
"""Share of what came back that was new, below which a run whose tokens nobody counts goes on as
before."""


class Answer(NamedTuple):
    """What is known of an answer besides its text; little, for thousands are kept."""

    input_tokens: int | None
    output_tokens: int | None
    nano_usd: int | None
    at_us: int

    @classmethod
    def of(cls, interaction: Interaction, nano_usd: int | None) -> "Answer":
        """How a call ended, and what it cost."""
        usage, ended = interaction.usage, interaction.started_at + interaction.duration_us
        return cls(usage.input_tokens, usage.output_tokens, nano_usd, ended)


class First(NamedTuple):
    """The first call of a run, of which there may never be another."""

    id: str
    agent: str
    started_at: int
    answer: Answer
    unpriced: Interaction | None
    """The call itself while its price is not known: the price list may not be loaded yet."""
    size: int
    """Of its messages ..."""
    last: Hash
    """... and the last one."""
    plain: bool
    """Its answer asked for nothing."""


class Supervised:
    """Bounded as its tracker is."""

    __slots__ = (
        "_answers",
        "_base",
        "_expected",
        "_last_nudge",
        "_nudged",
        "_skip",
        "_tracker",
        "feature",
        "held",
        "length",
        "parent_run_id",
        "pending",
        "room",
        "run_id",
    )

    def __init__(
        self, run_id: str, feature: str, parent_run_id: str | None, expected_calls: int | None
    ) -> None:
        self.run_id = run_id
        self.feature = feature
        self.parent_run_id = parent_run_id
        self.length = Length(feature)
        self.pending: list[Finding] = []
        """Found in an answer, or not acted upon yet: for the next call."""
        self.held = False
        """It was paused by us; a call that comes after that was let through by somebody."""
        self.room = 0
        """Memory that it takes, in calls."""
        self._expected = expected_calls
        self._tracker = self._new()
        self._base: RunWatch | None = None
        """How the run stood when evidence began to count anew."""
        self._skip: tuple[int, Hash] | None = None
        self._answers: list[tuple[Answer, Message | None]] = []
        """Answers that are not taken in yet."""
        self._nudged: dict[tuple[str, str], int] = {}
        self._last_nudge: tuple[Finding, int] | None = None
        """What was nudged last, and the tokens since anything new at that time."""

    def _new(self) -> Tracker:
        return Tracker(self.run_id, self.feature, expected_calls=self._expected)

    def recall(self, first: First, messages: Sequence[Message]) -> None:
        """Take in the first call of the run, as far as the second one's messages show it."""
        size = first.size
        kept = len(messages) >= size and (not size or messages[size - 1].hash == first.last)
        found = self._tracker.ask(
            messages[:size] if kept else (),
            at_us=first.started_at,
            agent=first.agent,
            interaction_id=first.id,
        )
        answer = messages[size] if kept and len(messages) > size else None
        if answer is not None and answer.role != "assistant":
            answer = None
        self.pending = list(found)
        self.answered(first.answer, answer)

    def ask(self, call: Call) -> tuple[Finding, ...]:
        """What is found at a new call, strongest stage first; with what was pending."""
        if self._answers:
            self.catch_up()
        found = self._tracker.ask(
            self._since(call.messages),
            at_us=call.started_at,
            agent=call.agent or "",
            interaction_id=call.id,
        )
        findings = tuple(map(self._shifted, found))
        if self._last_nudge is not None and not findings:
            findings = self._going_on(call)
        if self.pending:
            findings = (*self.pending, *findings)
            self.pending = []
        return findings

    def answered(self, answer: Answer, output: Message | None) -> None:
        """Take in the answer to the last call."""
        self.length.calls += 1
        found = self._tracker.answered(
            output,
            input_tokens=answer.input_tokens,
            output_tokens=answer.output_tokens,
            nano_usd=answer.nano_usd,
            at_us=answer.at_us,
        )
        if found:
            self.pending = [*self.pending, *map(self._shifted, found)][-8:]

    def answered_later(self, answer: Answer, output: Message | None) -> None:
        """Take in an answer when there is time, at the latest at the run's next call: what is
        found in it is for that."""
        self._answers.append((answer, output))
        if len(self._answers) > _MOST_ANSWERS:
            self.catch_up()

    @property
    def behind(self) -> bool:
        """Whether ``catch_up`` has anything to do."""
        return bool(self._answers) or self._tracker.behind

    def catch_up(self) -> None:
        """Do what was put off."""
        answers, self._answers = self._answers, []
        for answer, output in answers:
            self.answered(answer, output)
        self._tracker.catch_up()

    def watch(self) -> RunWatch:
        """How the run stands, all of it."""
        self.catch_up()
        now, base = self._tracker.watch(), self._base
        if base is None:
            if now.parent_run_id == self.parent_run_id:
                return now
            return msgspec.structs.replace(now, parent_run_id=self.parent_run_id)
        return msgspec.structs.replace(
            now,
            parent_run_id=self.parent_run_id,
            started_at=base.started_at,
            calls=base.calls + now.calls,
            steps=base.steps + now.steps,
            tokens=base.tokens + now.tokens,
            cost_nano_usd=base.cost_nano_usd + now.cost_nano_usd,
        )

    # -- evidence that counts anew --

    def anew(self, messages: Sequence[Message]) -> None:
        """Somebody let the run go on, knowing all this: only what comes now is evidence."""
        self.catch_up()
        self.held = False
        self.pending = []
        self._nudged = {}
        self._last_nudge = None
        self._base = self.watch()
        self._tracker = self._new()
        self._skip = (len(messages), messages[-1].hash) if messages else None

    def _since(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages that came since then; after a history was rewritten, as well as it goes."""
        if self._skip is None:
            return messages
        count, last = self._skip
        if len(messages) < count or messages[count - 1].hash != last:
            count = next(
                (i for i in range(len(messages), 0, -1) if messages[i - 1].hash == last), 0
            )
            if not count:
                # Nothing in it is known: what a summary keeps is no new evidence either.
                count = len(messages)
            self._skip = (count, messages[count - 1].hash) if count else None
        return messages[count:]

    def _shifted(self, finding: Finding) -> Finding:
        if self._base is None:
            return finding
        before = self._base.calls
        return msgspec.structs.replace(
            finding,
            call=finding.call + before,
            evidence=tuple(_moved(step, before) for step in finding.evidence),
        )

    # -- nudging --

    def may_nudge(self, finding: Finding) -> bool:
        """Whether the model has not just been told the same."""
        tool = finding.evidence[-1].tool if finding.evidence else ""
        key = (finding.detector, tool)
        last = self._nudged.get(key)
        if last is not None and finding.call - last < NUDGE_AGAIN:
            return False
        if len(self._nudged) > 32:
            self._nudged = {}
        self._nudged[key] = finding.call
        self._last_nudge = finding, self._tracker.watch().tokens_since_new
        return True

    def _going_on(self, call: Call) -> tuple[Finding, ...]:
        """The last nudge's finding again, when some calls later nothing has changed. The engine
        tells a stage once, until there is progress."""
        assert self._last_nudge is not None
        finding, tokens = self._last_nudge
        number = self.length.calls + 1
        if number - finding.call < NUDGE_AGAIN:
            return ()
        now = self._tracker.watch()
        if (now.tokens_since_new <= tokens) if now.tokens else (now.novelty >= _STALE):
            self._last_nudge = None
            return ()
        again = msgspec.structs.replace(
            finding, call=number, at=call.started_at, stage="nudge", interaction_id=call.id
        )
        return (again,)


def _moved(step: Evidence, by: int) -> Evidence:
    return msgspec.structs.replace(step, call=step.call + by)
