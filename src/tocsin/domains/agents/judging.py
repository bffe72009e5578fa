"""What one step brought: progress, nothing, or nothing that can be told."""

from collections import deque
from collections.abc import Iterable

from tocsin.domains.agents.novelty import Memory, News, overlap, stems
from tocsin.domains.agents.outcomes import Outcome, is_verdict, outcome_of
from tocsin.domains.agents.similarity import similar
from tocsin.domains.agents.steps import MAX_RESULT, Result, Step
from tocsin.domains.agents.thresholds import Thresholds

_SHOWN = 400
_LOOK_BACK = 10
"""Earlier steps of the same tool that a step's arguments are compared with."""
_SECOND = 1_000_000
_TALKED = 12
"""Earlier texts that a text is compared with."""


class Judge:
    """Knows what a run has seen and done, in bounded memory, and judges each step against it."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._set = thresholds
        self.steps: deque[Step] = deque(maxlen=64)
        """Tool steps, oldest first."""
        self.texts: deque[Step] = deque(maxlen=_TALKED)
        """Plain answers, oldest first."""
        self.news = News()
        self._keys: Memory[int] = Memory(2048)
        """Calls made, by their strict canonical form."""
        self._leaves: Memory[int] = Memory(4096)
        """Values that tools were given, with the tool."""
        self._said: Memory[str] = Memory(2048)
        self._clusters = 0
        self._limited = 0

    # -- tools --

    def executed(self, step: Step, result: Result | None) -> None:
        """Judge a tool's step by what came back; ``None`` when nobody will know."""
        if result is not None:
            text = result.text[:MAX_RESULT]
            step.result = " ".join(text[: 2 * _SHOWN].split())[:_SHOWN]
            step.outcome = outcome_of(text, step.kind, error=result.error)
            step.new, step.size = self.news.take(text)
        same = self._same(step)
        target = self._new_target(step)
        if step.kind == "talk":
            self._thought(step)
        else:
            self._weigh(step, same, target)
        self._place(step, same)
        self._limited = self._limited + 1 if step.outcome.name == "rate_limit" else 0
        self._keys.add((step.arguments.strict ^ hash(step.tool),))
        self.steps.append(step)

    def _same(self, step: Step) -> Step | None:
        """The latest step that made the same call."""
        loose = step.arguments.loose
        for earlier in reversed(self.steps):
            if earlier.arguments.loose == loose and earlier.tool == step.tool:
                return earlier
        return None

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
            if _alike(same.outcome, step.outcome):
                step.cluster = same.cluster
                return
        looked = 0 if step.verdict == "idle" else _LOOK_BACK
        for earlier in reversed(self.steps):
            if looked >= _LOOK_BACK:
                break
            if earlier.tool != step.tool:
                continue
            looked += 1
            if similar(earlier.arguments.plain, step.arguments.plain, self._set.similar):
                step.repeat = True
                if _alike(earlier.outcome, step.outcome):
                    step.cluster = earlier.cluster
                    return
        self._clusters += 1
        step.cluster = self._clusters

    def near(self, step: Step, others: Iterable[Step]) -> list[Step]:
        """Those of the steps whose calls are near-duplicates of this one, whatever came of it."""
        plain, tool = step.arguments.plain, step.tool
        return [
            other
            for other in others
            if other.tool == tool
            and (
                other.arguments.loose == step.arguments.loose
                or similar(other.arguments.plain, plain, self._set.similar)
            )
        ]

    def _weigh(self, step: Step, same: Step | None, target: bool) -> None:
        outcome = step.outcome
        if self.waits(step, same):
            step.verdict = "neutral"
            return
        again = same is not None and _alike(same.outcome, outcome)
        if outcome.name in ("ok", "pending"):
            if self._is_new(step):
                step.verdict = "progress"
                return
            if self._changes(step, target) or self._verdict(step, target):
                step.verdict = "progress" if step.kind != "read" else "neutral"
                return
        elif outcome.name == "done":
            strict = step.arguments.strict ^ hash(step.tool)
            if target and strict not in self._keys:
                step.verdict = "progress"
                return
        elif outcome.name == "unknown":
            step.verdict = "idle" if again else "neutral"
            step.weight = 1 if again else 0
            return
        step.verdict = "idle"
        step.weight = 2 if again else 1

    def _is_new(self, step: Step) -> bool:
        if not step.size:
            return False
        return step.new / step.size >= self._set.new_share or step.new >= self._set.new_words

    def _changes(self, step: Step, target: bool) -> bool:
        """Whether a success with nothing new to read may have changed something."""
        return step.kind == "write" and target

    def _verdict(self, step: Step, target: bool) -> bool:
        """Whether a short answer about something else tells something, though its words do not."""
        return target and not step.listing and is_verdict(step.result)

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


def _is_prose(text: str) -> bool:
    return sum(c.isalpha() or c == " " for c in text) > 0.9 * len(text)


def _alike(first: Outcome, second: Outcome) -> bool:
    """The same class of outcome; an unknown one is like any."""
    return first.name == second.name or "unknown" in (first.name, second.name)
