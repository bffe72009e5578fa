"""How many calls a run of a feature usually needs, learned from runs that look finished."""

from collections import OrderedDict, deque

IDLE_US = 30 * 60 * 1_000_000
"""A run whose last answer asked for nothing and that nobody continued for so long is over."""
LEAST = 20
"""Finished runs of a feature before anything is said of it."""
_MINUTE_US = 60 * 1_000_000
_KEPT = 200
_FEATURES = 1000
_WAITING = 10_000


class Length:
    """How far one run has come."""

    __slots__ = ("calls", "feature", "last_at", "troubled")

    def __init__(self, feature: str) -> None:
        self.feature = feature
        self.calls = 0
        self.last_at = 0
        self.troubled = False
        """It was to be paused or killed: no example of a usual run."""


class Lengths:
    """Bounded: the last 200 runs of each of the last 1,000 features."""

    def __init__(self) -> None:
        self._ended: OrderedDict[str, deque[int]] = OrderedDict()
        self._usual: dict[str, int] = {}
        self._waiting: deque[tuple[int, Length]] = deque(maxlen=_WAITING)
        self._singles: deque[tuple[int, dict[str, int]]] = deque()
        """Minute → feature → runs that have had one answer in it."""

    def answered(self, run: Length, at_us: int, *, asks_more: bool) -> None:
        """A run has got an answer. Those that have been silent since their last word are over."""
        run.last_at = at_us
        if not asks_more:
            self._waiting.append((at_us, run))
        while self._waiting and self._waiting[0][0] < at_us - IDLE_US:
            then, old = self._waiting.popleft()
            if old.last_at == then and not old.troubled:
                self._over(old.feature, old.calls)

    def single(self, feature: str, at_us: int) -> None:
        """A run has got its first answer, which asks for nothing: most such runs are over. They
        are counted by the minute, for there may be many."""
        minute = at_us // _MINUTE_US
        if not self._singles or self._singles[-1][0] != minute:
            self._singles.append((minute, {}))
            while self._singles and self._singles[0][0] < (at_us - IDLE_US) // _MINUTE_US:
                for name, count in self._singles.popleft()[1].items():
                    for _ in range(min(count, _KEPT)):
                        self._over(name, 1)
        counts = self._singles[-1][1]
        if feature in counts or len(counts) < _FEATURES:
            counts[feature] = counts.get(feature, 0) + 1

    def went_on(self, feature: str) -> None:
        """One of those runs was none: it has had a second call."""
        for _, counts in reversed(self._singles):
            if counts.get(feature, 0):
                counts[feature] -= 1
                return

    def _over(self, feature: str, calls: int) -> None:
        kept = self._ended.get(feature)
        if kept is None:
            kept = self._ended[feature] = deque(maxlen=_KEPT)
            if len(self._ended) > _FEATURES:
                old, _ = self._ended.popitem(last=False)
                self._usual.pop(old, None)
        self._ended.move_to_end(feature)
        kept.append(calls)
        self._usual.pop(feature, None)

    def usual(self, feature: str) -> int | None:
        """The 90th percentile: what nine of ten runs manage with. ``None`` below 20 runs."""
        known = self._usual.get(feature)
        if known is None:
            kept = self._ended.get(feature)
            if kept is None or len(kept) < LEAST:
                return None
            known = self._usual[feature] = sorted(kept)[int(0.9 * (len(kept) - 1))]
        return known
