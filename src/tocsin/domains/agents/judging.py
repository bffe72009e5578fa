"""What one step brought: progress, nothing, or nothing that can be told."""

from collections import deque
from collections.abc import Iterable

from tocsin.core.tool_results import EMPTY, Outcome, failure_of, is_verdict, outcome_of
from tocsin.domains.agents.answers import Answers, Frames, without_counters
from tocsin.domains.agents.novelty import Memory, News, overlap, stems
from tocsin.domains.agents.similarity import differing, enumerated, similar
from tocsin.domains.agents.steps import MAX_RESULT, MAX_SHOWN, Result, Step, shown
from tocsin.domains.agents.thresholds import Thresholds

_LOOK_BACK = 10
"""Earlier steps of the same tool that a step's arguments are compared with."""
_SECOND = 1_000_000
_BRIEF = 20
"""Words up to which an answer that repeats the question may be one about something else."""
_TALKED = 12
"""Earlier texts that a text is compared with."""


class Judge:
    """Knows what a run has seen and done, in bounded memory, and judges each step against it."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._set = thresholds
        self.steps: deque[Step] = deque(maxlen=64)
        """Tool steps, oldest first."""
        self._latest: dict[tuple[str, int], Step] = {}
        """The last one of each call, by tool and loose canonical form."""
        self.texts: deque[Step] = deque(maxlen=_TALKED)
        """Plain answers, oldest first."""
        self.news = News(thresholds.new_share, thresholds.new_words)
        self._keys: Memory[int] = Memory(2048)
        """Calls made, by their strict canonical form."""
        self._worked: Memory[int] = Memory(2048)
        """Those of them that have succeeded."""
        self._leaves: Memory[int] = Memory(4096)
        """Values that tools were given, with the tool."""
        self._said: Memory[str] = Memory(2048)
        self._answers = Answers()
        self._frames = Frames()
        self._clusters = 0
        self._limited = 0

    # -- tools --

    def knows(self, step: Step) -> bool:
        """Whether the same call, volatile arguments aside, is among the latest ones."""
        return _key(step) in self._latest

    def executed(self, step: Step, result: Result | None) -> None:
        """Judge a tool's step by what came back; ``None`` when nobody will know."""
        if result is not None:
            text = result.text[:MAX_RESULT]
            step.result = text[:MAX_SHOWN]
            step.outcome = self._outcome(text, step, error=result.error)
            text = without_counters(text)
            given = step.arguments.leaves
            step.new, step.size, clear = self.news.take(text, given)
            if clear:
                self._answers.later(text, given)
            else:
                step.known = self._answers.take(text, given)
        same = self._latest.get(_key(step))
        target = self._new_target(step)
        if step.kind == "talk":
            self._thought(step)
        else:
            self._weigh(step, same, target)
        self._place(step, same)
        self._limited = self._limited + 1 if step.outcome.name == "rate_limit" else 0
        self._keys.add((step.arguments.strict ^ hash(step.tool),))
        if len(self.steps) == self.steps.maxlen:
            oldest = self.steps[0]
            if self._latest.get(_key(oldest)) is oldest:
                del self._latest[_key(oldest)]
        self.steps.append(step)
        self._latest[_key(step)] = step

    def _outcome(self, text: str, step: Step, *, error: bool) -> Outcome:
        """What came of a step. A failure is told by the lines that no success has, too."""
        outcome = outcome_of(text, step.kind, error=error)
        if not outcome.failed:
            self._frames.learn(step.tool, text)
            return outcome
        if "\n" not in text:
            return outcome
        telling = self._frames.without(step.tool, text)
        return failure_of(telling) if telling else EMPTY

    def _new_target(self, step: Step) -> bool:
        """Whether the call is given anything that its tool was not given before.

        Short values (a path, an id, a page) are new or they are not; long prose is new by its
        content words.
        """
        prose: list[str] = []
        keys: set[int] = set()
        for leaf in step.arguments.leaves:
            if leaf.count(" ") >= 6 and _is_prose(leaf[:200]):
                prose.append(leaf)
            else:
                keys.add(hash((step.tool, leaf)))
        fresh = self._leaves.fresh(keys)
        self._leaves.add(fresh)
        if prose:
            said = stems(" ".join(prose))
            step.said = said
            if self.new_talk(said) >= self._set.new_talk:
                return True
        return bool(fresh)

    def new_talk(self, said: frozenset[str]) -> float:
        """Share of content words that were not said before; they are from then on."""
        fresh = self._said.fresh(set(said))
        self._said.add(fresh)
        return len(fresh) / len(said) if said else 0.0

    def _place(self, step: Step, same: Step | None) -> None:
        """Find the near-duplicates of a step with the same outcome."""
        if same is not None:
            step.repeat = True
            if _same_end(same.outcome, step.outcome):
                step.cluster = same.cluster
                return
        looked = 0 if step.verdict == "idle" else _LOOK_BACK
        for earlier in reversed(self.steps):
            if looked >= _LOOK_BACK:
                break
            if earlier.tool != step.tool:
                continue
            looked += 1
            if self._alike(earlier, step):
                step.repeat = True
                if _same_end(earlier.outcome, step.outcome):
                    step.cluster = earlier.cluster
                    return
        self._clusters += 1
        step.cluster = self._clusters

    def _alike(self, first: Step, second: Step, *, numbered: bool = True) -> bool:
        """Whether two calls ask for much the same: what they do not share tells. ``numbered``:
        also where they differ in numbers and ids alone."""
        if first.arguments.loose == second.arguments.loose:
            return True
        one, other = differing(first.arguments, second.arguments)
        if not similar(one, other, self._set.similar):
            return False
        return numbered or not enumerated(one, other)

    def near(self, step: Step, others: Iterable[Step]) -> list[Step]:
        """Those of the steps whose calls are near-duplicates of this one. To take one number after
        the other is a way to look for something, but none to get past a failure."""
        return [
            other
            for other in others
            if other.tool == step.tool and self._alike(other, step, numbered=other.outcome.failed)
        ]

    def _reworded(self, step: Step) -> bool:
        """Whether one of the latest steps asked for much the same in other words."""
        looked = 0
        for earlier in reversed(self.steps):
            if earlier.tool == step.tool:
                if self._alike(earlier, step, numbered=False):
                    return True
                looked += 1
                if looked >= _LOOK_BACK:
                    break
        return False

    def _weigh(self, step: Step, same: Step | None, target: bool) -> None:
        outcome = step.outcome
        if self.waits(step, same):
            step.verdict = "neutral"
            return
        again = same is not None and _same_end(same.outcome, outcome)
        if outcome.name in ("ok", "done") and self._works_now(step, same):
            step.verdict = "progress"
            return
        if outcome.name in ("ok", "pending"):
            if self._is_new(step) and not (step.known == "echo" and self._asked(step, same)):
                step.verdict = "progress"
                return
            if self._changes(step, target) or self._verdict(step, target):
                step.verdict = "progress" if step.kind != "read" else "neutral"
                return
            step.part = self._part(step, same, target)
            again = again and bool(step.known or not step.size)
        elif outcome.name == "done":
            strict = step.arguments.strict ^ hash(step.tool)
            if target and strict not in self._keys:
                step.verdict = "progress"
                return
        elif outcome.name == "unknown":
            step.verdict = "idle" if again else "neutral"
            step.weight = 1 if again else 0
            return
        elif outcome.name == "empty":
            step.part = self._empty(step, same, target)
        step.again = again
        step.verdict = "idle" if step.part else "neutral"
        # To read again what was read, or to ask again for what was refused, brings nothing; to do
        # again may be how a thing is done, and once more where it may pass is mere patience.
        hopeless = not outcome.transient if outcome.failed else step.kind == "read"
        step.weight = 2 if again and hopeless else 1

    def _works_now(self, step: Step, same: Step | None) -> bool:
        """Whether a call that failed has come to an end for the first time."""
        key = step.arguments.strict ^ hash(step.tool)
        if key in self._worked:
            return False
        self._worked.add((key,))
        return same is not None and same.outcome.failed

    def _asked(self, step: Step, same: Step | None) -> bool:
        """Whether much the same was asked for before."""
        return same is not None or self._reworded(step)

    def _empty(self, step: Step, same: Step | None, target: bool) -> float:
        if step.kind != "read" and target and not self._asked(step, same):
            return self._set.empty_elsewhere
        return 1.0

    def _part(self, step: Step, same: Step | None, target: bool) -> float:
        """How much a success without news counts as a step that brought nothing."""
        if step.known == "same" or not step.size:
            return 1.0
        asked = self._asked(step, same)
        if step.known:
            if asked or not target or step.size > _BRIEF:
                return 1.0
            return self._set.echo_elsewhere if step.kind == "read" else 0.0
        if asked:
            return self._set.unseen_again
        return self._set.unseen

    def _is_new(self, step: Step) -> bool:
        if not step.size:
            return False
        return step.new / step.size >= self._set.new_share or step.new >= self._set.new_words

    def _changes(self, step: Step, target: bool) -> bool:
        """Whether a success with nothing new to read may have changed something."""
        return step.kind == "write" and target

    def _verdict(self, step: Step, target: bool) -> bool:
        """Whether a short answer about something else tells something, though its words do not."""
        return target and not step.listing and is_verdict(shown(step.result))

    def waits(self, step: Step, same: Step | None) -> bool:
        """Whether the step is a poll, or a retry after a wait: only real gaps tell."""
        limited = step.outcome.name == "rate_limit"
        if same is None or not same.at or step.at <= same.at:
            return limited and self._limited < 3
        gap = (step.at - same.at) / _SECOND
        if gap >= self._set.poll_gap_s:
            return True
        if step.outcome.name == "pending" and gap >= self._set.pending_gap_s:
            return True
        return limited and gap >= self._set.retry_gap_s and self._limited < self._set.retries

    # -- texts --

    def _thought(self, step: Step) -> None:
        """A notepad brings nothing, and takes nothing away, unless it says the same again."""
        said = step.said or stems(step.arguments.text)
        step.said = said
        alike = [t for t in self.steps if t.kind == "talk" and overlap(t.said, said) >= 0.9]
        step.verdict = "idle" if alike else "neutral"
        step.weight = 1

    def spoken(self, step: Step) -> None:
        """Judge a plain answer: whether it says anything that was not said before."""
        said = step.said
        share = self.new_talk(said)
        alike = [
            text
            for text in self.texts
            if text.arguments.loose == step.arguments.loose
            or (len(said) > 2 and overlap(text.said, said) >= self._set.same_talk)
        ]
        step.new, step.size = round(share * len(said)), len(said)
        stale = len(said) > 2 and len(self.texts) > 1 and share < self._set.new_talk
        step.repeat = bool(alike)
        step.verdict = "idle" if alike or stale else "neutral"
        step.weight = 1
        same = [text for text in alike if text.speaker == step.speaker]
        if same:
            step.cluster = same[-1].cluster
        else:
            self._clusters += 1
            step.cluster = self._clusters
        self.texts.append(step)

    def echoes(self, said: frozenset[str]) -> bool:
        """Whether a message from outside is what the run itself said: one agent to another."""
        for text in self.texts:
            common = len(text.said & said)
            if common and common >= 0.6 * len(text.said) and common >= 0.4 * len(said):
                return True
        for step in list(self.steps)[-8:]:
            common = len(step.said & said)
            if common > 2 and common >= 0.6 * len(step.said) and common >= 0.4 * len(said):
                return True
        return False


def _key(step: Step) -> tuple[str, int]:
    return step.tool, step.arguments.loose


def _is_prose(text: str) -> bool:
    return sum(map(str.isalpha, text)) + text.count(" ") > 0.9 * len(text)


def _same_end(first: Outcome, second: Outcome) -> bool:
    """The same class of outcome; an unknown one is like any."""
    return first.name == second.name or "unknown" in (first.name, second.name)
