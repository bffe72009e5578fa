"""Signals that are a quotient of two sums: what a successful task costs.

No single call has such a value: it is made of the sums of other scores, wherever sums are read.
"""

from collections.abc import Iterable, Mapping

from tocsin.core.score import Score
from tocsin.core.signals import Signal, Sum

TASK_COST = Signal(
    name="task_cost_usd",
    title="Cost of a task",
    axis="service",
    kind="level",
    better="down",
    unit="usd",
    description="What a run cost that somebody labelled right or wrong, all its calls together; "
    "told of its first call. Runs with a call of unknown price are not judged.",
)
"""The cost of every labelled run."""

COST_PER_SUCCESS = Signal(
    name="cost_per_success_usd",
    title="Cost per successful task",
    axis="service",
    kind="level",
    better="down",
    unit="usd",
    description="What all labelled runs cost together, the failed ones too, over the number of "
    "those whose last label is right; unknown below 5 of them. Runs with a call of unknown price "
    "are not judged.",
)
"""The sum of ``TASK_COST`` over the count of ``SUCCEEDED``."""

TASK_SIGNALS: tuple[Signal, ...] = (TASK_COST, COST_PER_SUCCESS)

SUCCEEDED = "task_cost_usd_succeeded"
"""The name of the scores that repeat the cost of runs that succeeded. It is no signal: only how
many there are, and their sum, count."""

RATIOS: Mapping[str, tuple[str, str]] = {COST_PER_SUCCESS.name: (TASK_COST.name, SUCCEEDED)}
"""Each ratio: the values of every task, and of those that succeeded."""


FEWEST_SUCCESSES = 5
"""Below, an interval spans so much that a value would only mislead: it is unknown."""


class RatioSum(Sum, frozen=True):
    """What a ratio's parts sum to. It adds up as any ``Sum`` does, and is as exact.

    ``n`` is the number of successes, ``total`` and ``squares`` are of the values of all tasks.
    """

    tasks: int = 0
    cross: float = 0.0
    """The sum of the values of those tasks that succeeded."""

    def __add__(self, other: Sum) -> "RatioSum":
        return self._with(other, 1)

    def __radd__(self, other: Sum) -> "RatioSum":
        return self._with(other, 1)

    def __sub__(self, other: Sum) -> "RatioSum":
        return self._with(other, -1)

    def _with(self, other: Sum, by: int) -> "RatioSum":
        if not isinstance(other, RatioSum):
            if other.looked:
                raise TypeError("sums of a ratio add up with sums of the same ratio alone")
            other = RatioSum()
        return RatioSum(
            self.n + by * other.n,
            self.total + by * other.total,
            self.squares + by * other.squares,
            self.unjudged + by * other.unjudged,
            self.tasks + by * other.tasks,
            self.cross + by * other.cross,
        )

    @property
    def looked(self) -> int:
        """Labelled tasks, priced or not."""
        return self.tasks + self.unjudged

    @property
    def variance(self) -> float | None:
        """What makes ``variance / n`` the squared standard error of the ratio, by the delta method
        (Cochran, *Sampling Techniques*, 1977, 6.4); ``None`` below ``FEWEST_SUCCESSES``."""
        if self.n < FEWEST_SUCCESSES:
            return None
        ratio = self.total / self.n
        left = self.squares - 2.0 * ratio * self.cross + ratio * ratio * self.n
        return max(0.0, left) / self.n * self.tasks / (self.tasks - 1)


def with_ratios(sums: dict[str, Sum], only: str | None = None) -> dict[str, Sum]:
    """The sums of one step or slice by name, and the ratios that they make; ``only`` that one."""
    for name, (every, good) in RATIOS.items():
        whole = sums.get(every)
        if whole is not None:
            won = sums.get(good, Sum())
            sums[name] = RatioSum(
                won.n, whole.total, whole.squares, whole.unjudged, whole.n, won.total
            )
    if only is None:
        return sums
    return {only: sums[only]} if only in sums else {}


def read_for(name: str) -> tuple[str, ...]:
    """The names of the scores whose sums tell a signal: its own, or those of a ratio's parts."""
    return RATIOS.get(name, (name,))


def task_scores(
    interaction_id: str, *, cost_usd: float | None, succeeded: bool, known: Iterable[Score] = ()
) -> tuple[Score, ...]:
    """What a label says of a task, as scores of the run's first call; ``None``: unknown price.

    What ``known``, said of that call before, says already is left out.
    """
    values = {TASK_COST.name: cost_usd, SUCCEEDED: cost_usd if succeeded else None}
    before: dict[str, float | None] = {SUCCEEDED: None}
    before.update((score.name, score.value) for score in known)
    return tuple(
        Score(interaction_id=interaction_id, name=name, version="1", value=value)
        for name, value in values.items()
        if name not in before or before[name] != value
    )


__all__ = [
    "COST_PER_SUCCESS",
    "FEWEST_SUCCESSES",
    "RATIOS",
    "SUCCEEDED",
    "TASK_COST",
    "TASK_SIGNALS",
    "RatioSum",
    "read_for",
    "task_scores",
    "with_ratios",
]
