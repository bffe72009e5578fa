"""What the pages know of signals: a range against its baseline period, by feature and signal.

Signals are compared in families, each corrected jointly: the three judged axes, the signals of one
axis, and so on (``_family``). A page that shows one member of a family reads all of it, so that two
pages never disagree on a verdict.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import msgspec

from tocsin.core.domain import Alert
from tocsin.core.signals import JUDGED_AXES, Estimate, Signal, Sum
from tocsin.dashboard import filters, fmt, measures
from tocsin.dashboard.filters import Query
from tocsin.domains.signals.compare import Comparison, compare_many, estimate
from tocsin.store.api import BaselineRow, Grain, SignalPoint, Store

HOUR = filters.HOUR
DAY = 24 * HOUR
BASELINE_DAYS = 28
_FINE = 3 * HOUR
"""Ranges up to this long are read in steps of five minutes, where those are still kept."""
_COARSE = 12 * DAY
"""From here on a series has a step for each day."""
FILTERED = ("release", "model", "upstream")
"""Filters of a page that are dimensions of signals too."""

Sums = dict[str, dict[str, Sum]]
"""Feature → signal → sum."""


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A range in time and the period before it that it is held against."""

    since: int
    until: int
    before: tuple[int, int] | None = None
    """The baseline period; ``None`` when nothing was judged before the range."""
    said: str = ""
    """The baseline period in words: ``the 28 days before``."""
    whole: bool = True
    """Whether the baseline period is covered from its beginning."""
    grain: Grain = "hour"


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One signal of one feature: now, before, and what that says."""

    signal: Signal
    now: Sum
    before: Sum
    value: Estimate | None
    comparison: Comparison | None
    """``None`` when there is nothing to compare with."""
    accepted: BaselineRow | None = None

    @property
    def verdict(self) -> str:
        """``worse`` … ``underpowered``; empty when there is nothing to compare with."""
        return self.comparison.verdict if self.comparison is not None else ""

    @property
    def changed(self) -> bool:
        """Whether it differs from its baseline beyond doubt."""
        return self.verdict in ("worse", "better", "different")

    @property
    def tone(self) -> str:
        """The colour and shape of the verdict."""
        return measures.TONES[self.verdict]

    @property
    def silence(self) -> str:
        """What stands in place of a value that is not known."""
        return "unknown" if self.now.n else measures.silence(self.now)

    @property
    def counted(self) -> str:
        """On how much the value rests: ``1,204 calls``, ``31 successful tasks``."""
        return fmt.plural(self.now.n, measures.counted(self.signal).removeprefix("judged "))

    @property
    def said(self) -> str:
        """The verdict in words."""
        if self.comparison is None:
            return "" if self.now.n else measures.silence(self.now)
        if not self.now.n:
            return measures.silence(self.now)
        return measures.verdict(self.comparison)

    @property
    def size(self) -> float:
        """How large the change is, for ordering."""
        effect = self.comparison.effect_size if self.comparison is not None else None
        return abs(effect or 0.0)


# -- time --


def span_of(query: Query, now: int, oldest: int | None) -> Span:
    """The range of a page in whole hours; ``oldest`` is when the first judged call was."""
    until = query.until if query.until is not None else now
    since = query.since if query.since is not None else (oldest or until - DAY)
    length = until - since
    grain: Grain = "minutes" if length <= _FINE else "day" if length > _COARSE else "hour"
    step = 300_000_000 if grain == "minutes" else HOUR
    return Span(since=since - since % step, until=until, grain=grain)


def with_baseline(span: Span, first: int | None, days: int) -> Span:
    """The span with the ``days`` before it as baseline, of which data begin at ``first``."""
    if first is None:
        return span
    start = _baseline_end(span) - days * DAY
    return msgspec.structs.replace(
        span,
        before=(start, _baseline_end(span)),
        said=f"the {fmt.plural(days, 'day')} before",
        whole=first < start + DAY,
    )


def _baseline_end(span: Span) -> int:
    # Sums are of whole hours: the hour that the range begins in belongs to the range alone.
    return span.since - span.since % HOUR


# -- reading --


def read(
    store: Store,
    query: Query,
    now: int,
    *,
    feature: str | None = None,
    signal: str | None = None,
    where: tuple[str, str] | None = None,
) -> tuple[Span, Sums, Sums]:
    """The span of a page, and its sums now and before; ``where`` keeps one slice alone."""
    oldest = _oldest(store, now, feature) if query.since is None else None
    span = span_of(query, now, oldest)
    after = sums(_now(store, span, feature, signal, where), where)
    found = _before(store, span, BASELINE_DAYS, feature, signal, where)
    days = BASELINE_DAYS
    length = -(-(span.until - span.since) // DAY)
    if not found and length > BASELINE_DAYS:
        days = length
        found = _before(store, span, days, feature, signal, where)
    first = min((point.at for point in found), default=None)
    return with_baseline(span, first, days), after, sums(found, where)


def _oldest(store: Store, now: int, feature: str | None) -> int | None:
    found = store.signal_totals(since=0, until=now, feature=feature)
    return min((point.at for point in found), default=None)


def _now(
    store: Store,
    span: Span,
    feature: str | None,
    signal: str | None,
    where: tuple[str, str] | None,
) -> list[SignalPoint]:
    if span.grain == "minutes" and where is None:
        found = store.signal_points(
            grain="minutes", since=span.since, until=span.until, feature=feature, signal=signal
        )
        if found:
            return found
    return store.signal_totals(
        since=span.since,
        until=span.until,
        feature=feature,
        signal=signal,
        dimension=where[0] if where else "",
    )


def _before(
    store: Store,
    span: Span,
    days: int,
    feature: str | None,
    signal: str | None,
    where: tuple[str, str] | None,
) -> list[SignalPoint]:
    end = _baseline_end(span)
    return store.signal_totals(
        since=max(0, end - days * DAY),
        until=end,
        feature=feature,
        signal=signal,
        dimension=where[0] if where else "",
    )


def sums(points: Iterable[SignalPoint], where: tuple[str, str] | None = None) -> Sums:
    """Points summed by feature and signal."""
    found: Sums = {}
    for point in points:
        if where is not None and point.value != where[1]:
            continue
        own = found.setdefault(point.feature, {})
        own[point.signal] = own.get(point.signal, Sum()) + point.sum
    return found


# -- comparing --


def accepted_rows(store: Store) -> dict[tuple[str, str], BaselineRow]:
    """What people have called normal, by feature and signal."""
    return {(row.feature, row.signal): row for row in store.baselines()}


def family(catalogue: Mapping[str, Signal], name: str) -> tuple[str, ...]:
    """The signals that are corrected together with ``name``, itself among them."""
    if name in JUDGED_AXES:
        return JUDGED_AXES
    axis = catalogue[name].axis
    return tuple(
        signal.name
        for signal in catalogue.values()
        if signal.axis == axis and signal.name not in JUDGED_AXES
    )


def measured(
    store: Store,
    span: Span,
    feature: str,
    names: Sequence[str],
    catalogue: Mapping[str, Signal],
    after: Mapping[str, Sum],
    before: Mapping[str, Sum],
    accepted: Mapping[tuple[str, str], BaselineRow],
) -> dict[str, Measured]:
    """The signals of one family, compared jointly. Those without any value are left out."""
    pairs: list[tuple[Signal, Sum, Sum]] = []
    for name in names:
        signal, now = catalogue.get(name), after.get(name, Sum())
        old = before.get(name, Sum())
        if signal is None or not (now.looked or old.looked):
            continue
        row = accepted.get((feature, name))
        if row is not None:
            old = _since_accepted(store, span, row, old)
        pairs.append((signal, old, now))
    told = _compared(tuple(pair for pair in pairs if pair[1].n and pair[2].n))
    compared = {one.signal: one for one in told}
    return {
        signal.name: _measured(
            signal, now, old, compared.get(signal.name), accepted.get((feature, signal.name))
        )
        for signal, old, now in pairs
    }


def _measured(
    signal: Signal,
    now: Sum,
    old: Sum,
    compared: Comparison | None,
    accepted: BaselineRow | None,
) -> Measured:
    value = compared.after if compared is not None else estimate(signal, now) if now.n else None
    return Measured(
        signal=signal, now=now, before=old, value=value, comparison=compared, accepted=accepted
    )


@lru_cache(maxsize=512)
def _compared(pairs: tuple[tuple[Signal, Sum, Sum], ...]) -> tuple[Comparison, ...]:
    """Between two looks at a page most sums are the same, and so are their comparisons."""
    return tuple(compare_many(pairs))


def _since_accepted(store: Store, span: Span, row: BaselineRow, old: Sum) -> Sum:
    """The baseline from when a person called the level normal; nothing when that is too late."""
    if span.before is None or row.since <= span.before[0]:
        return old
    if row.since >= span.before[1]:
        return Sum()
    found = store.signal_totals(
        since=row.since, until=span.before[1], feature=row.feature, signal=row.signal
    )
    return sum((point.sum for point in found), Sum())


# -- what needs a person --


def alerts_of(store: Store) -> dict[str, list[Alert]]:
    """Firing alerts by feature, those that were raised last first."""
    found: dict[str, list[Alert]] = {}
    for row in store.alerts(firing=True, limit=1000):
        found.setdefault(row.alert.feature, []).append(row.alert)
    return found


def slice_filter(query: Query) -> tuple[tuple[str, str] | None, bool]:
    """The slice that a page's filters name, and whether signals can answer them at all."""
    others = [name for name, _ in query.fields if name != "feature"]
    if not others:
        return None, True
    if len(others) == 1 and others[0] in FILTERED:
        return (others[0], query.get(others[0])), True
    return None, False
