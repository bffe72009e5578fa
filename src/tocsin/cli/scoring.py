"""Scoring at once what a command has put into the store, as a running Tocsin does bit by bit."""

import os
from collections.abc import Callable
from functools import cache

from tocsin.app import all_domains
from tocsin.behaviour import evaluators_of, signals_of_all
from tocsin.cli.care import progress
from tocsin.config.model import Config
from tocsin.config.signals import objectives_of, signals_of
from tocsin.store import Store
from tocsin.worker.evaluating import CONSUMER, Scoring, evaluate_all
from tocsin.worker.parallel import evaluate_on_cores

MANY = 5_000
"""Calls from which several processes are worth their start."""
_MOST = 4


def score(store: Store, config: Config, *, hidden: bool, many: int = MANY) -> int:
    """Score what is recorded and not scored yet; returns how many calls. Raises ``StoreError``."""
    evaluators, objectives = evaluators_of(all_domains()), objectives_of(config)
    known = signals_of_all(evaluators, config)
    waiting = store.stats().last_seq - store.cursor(CONSUMER)
    with progress("Scoring", hidden=hidden) as told:
        if waiting < many:
            return evaluate_all(
                store, evaluators, known, told, objectives=lambda: objectives, share=_share(config)
            )
        given, cores = config.model_dump_json().encode(), min(_MOST, os.cpu_count() or 1)
        return evaluate_on_cores(store, known, scoring, given, processes=cores, progress=told)


def scoring(settings: bytes) -> Scoring:
    """What scores in a process of its own, from the configuration as JSON."""
    config = Config.model_validate_json(settings)
    evaluators, objectives = evaluators_of(all_domains()), objectives_of(config)
    known = signals_of_all(evaluators, config)
    return Scoring(evaluators, known, lambda: objectives, _share(config))


def _share(config: Config) -> Callable[[str], float]:
    return cache(lambda feature: signals_of(config, feature).share)


__all__ = ["MANY", "score", "scoring"]
