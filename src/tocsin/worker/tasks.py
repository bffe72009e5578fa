"""Labelled runs: what each cost, and whether it succeeded, told of its first call.

A run is a task. Its outcome is its last label, whichever of its calls that is given to; how its
last call ended is no outcome. Slices are those of the first call: what a task was begun with.
"""

from collections.abc import Iterable, Iterator

import msgspec

from tocsin.core.interaction import SPAN_OPERATIONS, Interaction
from tocsin.core.ratios import task_scores
from tocsin.core.score import Feedback
from tocsin.core.signals import Scored, slices_of
from tocsin.store.api import Store

_PAGE = 500
_BEGINNING = 20
"""Steps among which the first call is looked for."""
_MOST_STEPS = 10_000
"""Steps that are looked at where a run's own sum is not enough; of longer runs the cost is
unknown."""
_NANO = 1e9


def with_tasks(
    store: Store, rows: Iterable[Scored], said: Iterable[tuple[Feedback, Interaction]]
) -> list[Scored]:
    """Rows of later scores, and what labels say of the runs of their calls.

    ``said`` is what people said, in the order of its arrival: of several labels of a run the last
    one counts. What is known already is left out. Blocks; raises ``StoreError``.
    """
    found = list(rows)
    places = {row.interaction.id: at for at, row in enumerate(found)}
    for task in _labelled(store, said):
        at = places.get(task.interaction.id)
        if at is None:
            found.append(task)
        else:
            scores = (*found[at].scores, *task.scores)
            found[at] = msgspec.structs.replace(found[at], scores=scores)
    return found


def _labelled(store: Store, said: Iterable[tuple[Feedback, Interaction]]) -> list[Scored]:
    last = {one.run_id: given.value for given, one in said if given.kind == "label"}
    found = (
        None if value is None else _task(store, run_id, value >= 0.5)
        for run_id, value in last.items()
    )
    return [task for task in found if task is not None]


def _task(store: Store, run_id: str, succeeded: bool) -> Scored | None:
    first = _first(store, run_id)
    if first is None:
        return None
    scores = task_scores(
        first.id,
        cost_usd=_cost_usd(store, run_id),
        succeeded=succeeded,
        known=store.scores(first.id),
    )
    if not scores:
        return None
    return Scored(interaction=first, scores=scores, slices=slices_of(first), first=False)


def _first(store: Store, run_id: str) -> Interaction | None:
    """The run's first call to a model; of a run that only has other steps, its first step."""
    steps = store.steps(run_id, limit=_BEGINNING)
    calls = (one for one in steps if one.operation not in SPAN_OPERATIONS)
    return next(calls, steps[0] if steps else None)


def _cost_usd(store: Store, run_id: str) -> float | None:
    """What all calls of a run cost together; ``None`` where one has a price that nobody knows.

    A call that no provider worked on (denied, turned away) has no price and cost nothing.
    """
    run = store.run(run_id)
    if run is None:
        return None
    if run.unpriced:
        if run.calls > _MOST_STEPS or any(map(_unpriced, _steps(store, run_id))):
            return None
        if run.unpriced == run.calls:
            return None
    return run.cost_nano_usd / _NANO


def _steps(store: Store, run_id: str) -> Iterator[Interaction]:
    for offset in range(0, 2 * _MOST_STEPS, _PAGE):
        page = store.steps(run_id, offset=offset, limit=_PAGE)
        yield from page
        if len(page) < _PAGE:
            return


def _unpriced(one: Interaction) -> bool:
    return (
        one.operation not in SPAN_OPERATIONS
        and one.cost_nano_usd is None
        and one.usage.source != "unknown"
    )


__all__ = ["with_tasks"]
