"""What watches behaviour, put together: evaluators, detectors, judges, sentinels, the digest."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from tocsin.config.model import Config
from tocsin.core.clock import Clock
from tocsin.core.domain import Alert, Domain, Evaluator, Services
from tocsin.core.signals import Signal, judge_signal
from tocsin.domains.signals.digest import write
from tocsin.domains.signals.objectives import standings
from tocsin.domains.signals.sentinels import diff, words_of
from tocsin.runtime.asking import ask
from tocsin.runtime.recorder import Recorder
from tocsin.runtime.runtime import Runtime
from tocsin.store.api import Store
from tocsin.worker.apart import Apart
from tocsin.worker.detecting import Detecting
from tocsin.worker.digest import Digests, gather
from tocsin.worker.evaluating import (
    Baselines,
    Evaluating,
    Scoring,
    catalogue_of,
    evaluating_job,
    meaning,
)
from tocsin.worker.jobs import Job
from tocsin.worker.judging import ask_through, judging_job
from tocsin.worker.leaving import Leaving
from tocsin.worker.sentinels import Sentinels


def evaluators_of(domains: Sequence[Domain]) -> tuple[Evaluator, ...]:
    """New evaluators, all that the domains contribute."""
    return tuple(make() for domain in domains for make in domain.evaluators)


def signals_of_all(evaluators: Sequence[Evaluator], config: Config) -> dict[str, Signal]:
    """Every signal that there is under a configuration, by name."""
    judges = [judge_signal(name, judge.question) for name, judge in config.judges.items()]
    return catalogue_of(evaluators, judges)


class Behaviour:
    """The part of an ``App`` that scores what was recorded, and all that follows from scores."""

    def __init__(
        self, store: Store, clock: Clock, domains: Sequence[Domain], config: Callable[[], Config]
    ) -> None:
        self._store = store
        self._clock = clock
        self._domains = tuple(domains)
        self._config = config
        self.evaluators = evaluators_of(domains)
        self.catalogue = signals_of_all(self.evaluators, config())
        """Every signal that there is, by name."""
        self.accepted = Baselines(store, clock).accepted

    def jobs(self, services: Services, env: Mapping[str, str], apart: Sequence[str]) -> list[Job]:
        """Scoring, detecting, the digest. ``apart`` is the command of a process that scores and
        detects; with none, threads of this one do."""
        evaluate = self._config().signals.evaluate
        found = [
            Digests(
                self._store,
                self._clock,
                lambda: self._config().digest,
                env,
                partial(self._digest, services),
            ).job(),
        ]
        if evaluate:
            found.append(self._leaving(services).job())
        if evaluate and apart:
            settings = Apart(
                self._store, apart, lambda: self._config().model_dump_json().encode()
            ).job()
            return [*found, settings]
        found.append(self.detecting(services, scored=evaluate).job())
        if not evaluate:
            return found
        scoring = evaluating_job(
            self._store,
            self.evaluators,
            self.catalogue,
            objectives=services.objectives,
            share=lambda feature: services.signals(feature).share,
        )
        return [*found, scoring]

    def _leaving(self, services: Services) -> Leaving:
        """What tells which conversations were given up."""
        return Leaving(
            self._store,
            self._clock,
            lambda feature: services.signals(feature).abandoned_after_s,
            self.catalogue,
            meaning(self._store, self.catalogue, services.objectives),
        )

    def detecting(self, services: Services, *, scored: bool = True) -> Detecting:
        """All detectors, shown what is scored or the bare records."""
        detectors = tuple(make(services) for domain in self._domains for make in domain.detectors)
        return Detecting(self._store, detectors, self._clock, scored=scored)

    def evaluating(self, services: Services, *, batch: int) -> Evaluating:
        """All evaluators, for a process that does nothing else."""
        return Evaluating(
            self._store,
            self.evaluators,
            self.catalogue,
            batch=batch,
            objectives=services.objectives,
            share=lambda feature: services.signals(feature).share,
        )

    def asking_jobs(
        self,
        services: Services,
        runtime: Runtime,
        recorder: Recorder,
        folder: Path,
        alert: Callable[[Alert], None],
    ) -> list[Job]:
        """Judges and sentinels: they make calls of their own."""
        path = ask_through(partial(ask, runtime), recorder.flush, self._store, self._clock)
        meant = meaning(self._store, self.catalogue, services.objectives)
        return [
            judging_job(self._store, lambda: self._config().judges, path, self._clock, meant),
            self.sentinels(runtime, recorder).job(folder, alert),
        ]

    def sentinels(self, runtime: Runtime, recorder: Recorder) -> Sentinels:
        """The suites, able to run."""
        return Sentinels(
            self._store,
            self._clock,
            self._config,
            scoring=Scoring(self.evaluators, self.catalogue),
            catalogue=self.catalogue,
            compare=diff,
            words_of=words_of,
            ask=partial(ask, runtime),
            flush=recorder.flush,
        )

    def _digest(self, services: Services, now_us: int) -> tuple[str, str]:
        """Title and text of the week's digest. Blocks."""
        told = standings(self._store, services.objectives(), self.catalogue, now_us)
        return write(gather(self._store, now_us), told, self.catalogue)


__all__ = ["Behaviour", "evaluators_of", "signals_of_all"]
