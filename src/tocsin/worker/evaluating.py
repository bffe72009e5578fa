"""Evaluators off the path: recorded calls become scores, scores become sums."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from zlib import crc32

import msgspec

from tocsin.core.clock import Clock
from tocsin.core.domain import Evaluator, Score, Slicer
from tocsin.core.interaction import Entry, Interaction, Operation
from tocsin.core.ratios import TASK_SIGNALS
from tocsin.core.score import Feedback
from tocsin.core.signals import (
    ABANDONED,
    AXIS_SIGNALS,
    FEEDBACK_SIGNALS,
    Objective,
    Scored,
    Signal,
    axis_scores,
    feedback_score,
    objective_scores,
    slices_of,
    unscored,
)
from tocsin.core.threads import give_way
from tocsin.store.api import Progress, Store
from tocsin.worker.jobs import Job
from tocsin.worker.tasks import with_tasks

log = logging.getLogger("tocsin.evaluating")

CONSUMER = "evaluators"
FEEDBACK = "evaluators.feedback"
BEGUN = "evaluators.begun"
"""1 once anybody has evaluated: from then on nothing is passed over."""
HISTORY = 64
"""Messages of a history that evaluators see."""
_BATCH = 500
LIVE_BATCH = 64
"""Small beside calls: writing it must not hold up the recorder for long."""
REST_S = 5.0
"""How long one of two processes that evaluate the same store leaves it to the other."""
_EVERY_S = 1.0
_PAUSE_S = 0.001
_NO_ANSWERS: frozenset[Operation] = frozenset({"models", "count_tokens"})
"""Routes that no model answers: kept for detectors, judged by nobody."""
_FRESH_US = 5_000_000


def catalogue_of(
    evaluators: Sequence[Evaluator], others: Sequence[Signal] = ()
) -> dict[str, Signal]:
    """Every signal by name: the axes, those of evaluators, of later facts, and ``others``."""
    own = (s for e in evaluators for s in e.signals)
    every = (*AXIS_SIGNALS, *own, ABANDONED, *FEEDBACK_SIGNALS, *TASK_SIGNALS, *others)
    return {signal.name: signal for signal in every}


def no_objectives() -> tuple[Objective, ...]:
    """None."""
    return ()


def everything(feature: str) -> float:
    """All calls of a feature."""
    return 1.0


def chosen(run_id: str, share: float) -> bool:
    """Whether a run is in the share that is scored: the same for all its calls, everywhere."""
    return share >= 1.0 or crc32(run_id.encode()) < share * 2**32


def meaning(
    store: Store, catalogue: Mapping[str, Signal], objectives: Callable[[], Sequence[Objective]]
) -> Callable[[Scored], Scored]:
    """What adds to later scores what they mean for objectives, given what was said before.

    It reads the store: blocks, and raises ``StoreError``.
    """

    def meant(scored: Scored) -> Scored:
        own = [o for o in objectives() if o.feature == scored.interaction.feature]
        if not own:
            return scored
        known = store.scores(scored.interaction.id)
        found = objective_scores(scored.interaction, scored.scores, own, catalogue, known=known)
        return msgspec.structs.replace(scored, scores=(*scored.scores, *found))

    return meant


class Scoring:
    """Entries to scored interactions: all evaluators, their slices, the axes and objectives."""

    def __init__(
        self,
        evaluators: Sequence[Evaluator],
        catalogue: Mapping[str, Signal],
        objectives: Callable[[], Sequence[Objective]] = no_objectives,
        share: Callable[[str], float] = everything,
    ) -> None:
        """``share`` of a feature's calls are scored, by run; the others only count as calls."""
        self._share = share
        self._evaluators = tuple(evaluators)
        self._slicers = tuple(e for e in evaluators if isinstance(e, Slicer))
        self._catalogue = catalogue
        self._objectives = objectives
        self.trouble: dict[str, str] = {}
        """Last error by evaluator, until it judges again."""

    def score(self, entry: Entry) -> Scored:
        """Never fails: an evaluator that does gives ``None`` for each of its signals."""
        call = entry.interaction
        if call.operation in _NO_ANSWERS or not chosen(call.run_id, self._share(call.feature)):
            return unscored(call)
        scores: list[Score] = []
        slices = slices_of(entry.interaction)
        for evaluator in self._evaluators:
            scores += self._of(evaluator, entry)
        for slicer in self._slicers:
            try:
                slices.update(slicer.slices(entry))
            except Exception as error:
                self._failed(type(slicer).__name__, entry, error)
        scores += axis_scores(entry.interaction.id, scores, self._catalogue)
        scores += objective_scores(entry.interaction, scores, self._objectives(), self._catalogue)
        return Scored(interaction=entry.interaction, scores=tuple(scores), slices=slices)

    def _of(self, evaluator: Evaluator, entry: Entry) -> Sequence[Score]:
        try:
            found = evaluator.evaluate(entry)
            self.trouble.pop(evaluator.name, None)
            return found
        except Exception as error:
            self._failed(evaluator.name, entry, error)
            return [
                Score(
                    interaction_id=entry.interaction.id,
                    name=signal.name,
                    version=evaluator.version,
                    value=None,
                    explanation=type(error).__name__,
                )
                for signal in evaluator.signals
            ]

    def _failed(self, name: str, entry: Entry, error: Exception) -> None:
        if name not in self.trouble:
            log.exception("evaluator %s failed on %s", name, entry.interaction.id)
        self.trouble[name] = f"{type(error).__name__}: {error}"


class Baselines:
    """What people have called normal, from memory."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at: int | None = None
        self._since: dict[tuple[str, str], int] = {}

    def accepted(self, feature: str, signal: str) -> int:
        """Since when; 0: nobody has. Reads the store every few seconds: blocks."""
        now = self._clock.monotonic_us()
        with self._lock:
            if self._read_at is None or now - self._read_at > _FRESH_US:
                self._since = {
                    (row.feature, row.signal): row.since for row in self._store.baselines()
                }
                self._read_at = now
            return self._since.get((feature, signal), 0)


def begin(store: Store, *, catch_up: bool = False) -> None:
    """Say that from now on nothing is passed over, unless that was said before.

    What is recorded by then is not evaluated, unless with ``catch_up``. Raises ``StoreError``.
    """
    if store.cursor(BEGUN):
        return
    newest = 0 if catch_up else store.stats().last_seq
    if newest:
        store.add_scores((), {}, consumer=CONSUMER, upto=newest)
    store.set_cursor(BEGUN, 1)


class Evaluating:
    """Scores what is appended, and what people say of it, in order and exactly once.

    The cursors move in the transaction that keeps the scores: a process that dies between reading
    and keeping does it again, one that was slower than another keeps nothing. A store that was
    never evaluated is not gone through from its beginning, unless with ``catch_up``.
    """

    def __init__(
        self,
        store: Store,
        evaluators: Sequence[Evaluator],
        catalogue: Mapping[str, Signal],
        *,
        catch_up: bool = False,
        batch: int = _BATCH,
        pause_s: float = 0.0,
        objectives: Callable[[], Sequence[Objective]] = no_objectives,
        share: Callable[[str], float] = everything,
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._scoring = Scoring(evaluators, catalogue, objectives, share)
        self._meant = meaning(store, catalogue, objectives)
        self._catch_up = catch_up
        self._batch = batch
        self._pause_s = pause_s
        self._begun = False
        self._rest_until = 0.0

    @property
    def trouble(self) -> dict[str, str]:
        """Last error by evaluator, until it judges again."""
        return self._scoring.trouble

    def step(self) -> int:
        """Score one batch; returns how many calls and words of people it took. Blocks.

        Raises ``StoreError``.
        """
        if time.monotonic() < self._rest_until:
            return 0
        done = self._recorded(self._cursor())
        return done if done >= self._batch else done + self._said()

    def _cursor(self) -> int:
        if not self._begun:
            begin(self._store, catch_up=self._catch_up)
            self._begun = True
        return self._store.cursor(CONSUMER)

    def _recorded(self, seq: int) -> int:
        rows = self._store.recorded_after(seq, limit=self._batch, last=HISTORY)
        if not rows:
            return 0
        scored = [self._scored(entry) for _, entry in rows]
        kept = self._store.add_scores(
            scored, self._catalogue, consumer=CONSUMER, after=seq, upto=rows[-1][0]
        )
        if not kept and not self._catch_up:
            # Another process does the same work: one of them is enough, until it falls behind.
            self._rest_until = time.monotonic() + REST_S
            return 0
        return len(rows)

    def _scored(self, entry: Entry) -> Scored:
        if self._pause_s:
            # The interpreter runs one thread at a time; calls get their turn between two entries.
            time.sleep(self._pause_s)
        return self._scoring.score(entry)

    def _said(self) -> int:
        """Feedback becomes scores, once the call itself has been looked at."""
        number = self._store.cursor(FEEDBACK)
        rows = self._store.feedback_after(number, limit=self._batch)
        scored: list[Scored] = []
        known: list[tuple[Feedback, Interaction]] = []
        for _, feedback in rows:
            score = feedback_score(feedback)
            one = None if score is None else self._store.interaction(feedback.interaction_id)
            if score is not None and one is not None:
                known.append((feedback, one))
                row = Scored(interaction=one, scores=(score,), slices=slices_of(one), first=False)
                scored.append(row)
        scored = [self._meant(row) for row in with_tasks(self._store, scored, known)]
        if rows:
            self._store.add_scores(
                scored, self._catalogue, consumer=FEEDBACK, after=number, upto=rows[-1][0]
            )
        return len(rows)


def evaluating_job(
    store: Store,
    evaluators: Sequence[Evaluator],
    catalogue: Mapping[str, Signal],
    *,
    catch_up: bool = False,
    objectives: Callable[[], Sequence[Objective]] = no_objectives,
    share: Callable[[str], float] = everything,
) -> Job:
    """A job that scores what is appended, and feedback, in a thread of its own."""
    evaluating = Evaluating(
        store,
        evaluators,
        catalogue,
        catch_up=catch_up,
        batch=LIVE_BATCH,
        pause_s=_PAUSE_S,
        objectives=objectives,
        share=share,
    )
    pool = ThreadPoolExecutor(1, thread_name_prefix="tocsin-evaluate", initializer=give_way)

    async def run() -> bool:
        done = await asyncio.get_running_loop().run_in_executor(pool, evaluating.step)
        return done > 0

    return Job(
        name=CONSUMER,
        every_s=_EVERY_S,
        run=run,
        trouble=lambda: dict(evaluating.trouble),
        stop=lambda: pool.shutdown(wait=False),
    )


def evaluate_all(
    store: Store,
    evaluators: Sequence[Evaluator],
    catalogue: Mapping[str, Signal],
    progress: Progress | None = None,
    *,
    objectives: Callable[[], Sequence[Objective]] = no_objectives,
    share: Callable[[str], float] = everything,
) -> int:
    """Score everything that is recorded and not scored yet; returns how many calls.

    Safe beside a process that evaluates: each call is scored once. Raises ``StoreError``.
    """
    evaluating = Evaluating(
        store, evaluators, catalogue, catch_up=True, objectives=objectives, share=share
    )
    first, newest = store.cursor(CONSUMER), store.stats().last_seq
    done = 0
    while True:
        took = evaluating.step()
        if not took:
            return done
        done += took
        if progress is not None:
            at = store.cursor(CONSUMER)
            newest = newest if at <= newest else store.stats().last_seq
            progress(at - first, newest - first)


__all__ = [
    "CONSUMER",
    "Baselines",
    "Evaluating",
    "Scoring",
    "begin",
    "catalogue_of",
    "evaluate_all",
    "evaluating_job",
    "meaning",
]
