"""Overview, spend and filter menus: what DuckDB adds up, in the shapes of the store's contract."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from tocsin.store.api import (
    Bucket,
    FeatureSummary,
    Filter,
    Overview,
    Spend,
    SpendBy,
    SpendRow,
)
from tocsin.store.buckets import Buckets, buckets_for
from tocsin.store.database import Database, Row
from tocsin.store.duck import Scan, conditions

_GOOD = frozenset({"complete", "truncated"})
_SPEND_BY: dict[SpendBy, str] = {
    "feature": "feature",
    "model": "model",
    "release": "release",
    "end_user": "end_user",
    "run_id": "run",
    "key_id": "key_id",
    "upstream": "upstream",
}
_OF_MANY = frozenset({"end_user", "run_id"})
_FACETS = ("feature", "model", "release", "outcome", "source", "upstream")


class Question:
    """A filter over one snapshot: its conditions, its calls and its time steps."""

    def __init__(
        self,
        scan: Scan,
        where: Filter,
        runs: Sequence[int] | None,
        about: int,
        *,
        calls_only: bool = True,
        span: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self.scan = scan
        self.where, self.params = conditions(where)
        if runs is not None:
            self.where += f" AND run IN ({', '.join(map(str, runs))})" if runs else " AND false"
        if calls_only:
            self.where += " AND is_call"
        self._asked_for = where
        self._about = about
        self._span = span

    @cached_property
    def range(self) -> tuple[int, int]:
        """Since and until; the data's own where the filter leaves them open."""
        since, until = self._asked_for.since, self._asked_for.until
        if since is None or until is None:
            low, high = self._span() if self._span is not None else self.all("span")[0]
            since = since if since is not None else (low or 0)
            until = until if until is not None else ((high or 0) + 1)
        return since, max(until, since + 1)

    @cached_property
    def buckets(self) -> Buckets:
        """The time steps of every series."""
        return buckets_for(*self.range, self._about)

    def all(self, name: str, after: Sequence[Any] = (), **words: str) -> list[Row]:
        """Rows of a named query under this filter."""
        return self.scan.all(name, self.where, self.params, after, **words)

    def stepped(self, name: str, after: Sequence[Any] = (), **words: str) -> list[Row]:
        """The same with the steps' number."""
        first, step = self.buckets.first, self.buckets.step_us
        return self.all(name, after, bucket=f"((started_at - {first}) // {step})::INTEGER", **words)

    def newest(self, limit: int, edge: tuple[int, int] | None) -> list[Row]:
        """(started_at, seq) rows, newest first, from ``edge`` on."""
        if edge is None:
            return self.all("newest", (limit,))
        older = f"{self.where} AND (started_at < ? OR (started_at = ? AND seq < ?))"
        params = [*self.params, edge[0], *edge]
        return self.scan.all("newest", older, params, (limit,))

    def matching(self) -> list[int]:
        """The numbers of all interactions that the filter finds, in order."""
        return [row[0] for row in self.all("matching")]


class _Sums:
    """Sums of one feature or of all, in one time step or in all."""

    def __init__(self) -> None:
        self.calls = self.bad = self.cost = self.priced = 0
        self.input = self.output = self.cached = self.fallbacks = self.retries = 0
        self.outcomes: dict[str, int] = defaultdict(int)

    def add(self, row: Row) -> None:
        """One row of the ``sums`` query."""
        outcome, calls = row[2], row[3]
        self.calls += calls
        self.bad += 0 if outcome in _GOOD else calls
        self.cost += row[4] or 0
        self.priced += row[5]
        self.input += row[6] or 0
        self.output += row[7] or 0
        self.cached += row[8] or 0
        self.fallbacks += row[9]
        self.retries += row[10] or 0
        self.outcomes[outcome] += calls


class _Latencies:
    """Quantiles of a feature (by name), of a time step (by number), of all (by ``None``)."""

    def __init__(self, durations: list[Row], first_chunks: list[Row]) -> None:
        self._durations = {_key(row): row[2] for row in durations}
        self._first_chunks = {_key(row): row[2] for row in first_chunks}

    def duration(self, key: Any) -> list[float | None]:
        return self._durations.get(key) or [None, None, None]

    def first_chunk(self, key: Any) -> list[float | None]:
        return self._first_chunks.get(key) or [None, None]


def _key(row: Row) -> Any:
    return row[1] if row[0] is None else row[0]


def overview(ask: Question) -> Overview:
    """All features over a time range. Quantiles are exact."""
    by_feature: dict[str, _Sums] = defaultdict(_Sums)
    steps: dict[tuple[str, int], _Sums] = defaultdict(_Sums)
    total = _Sums()
    for row in ask.stepped("sums"):
        for sums in (total, by_feature[row[0]], steps[row[0], row[1]], steps["", row[1]]):
            sums.add(row)
    runs = {"" if row[2] else row[0]: row[1] for row in ask.all("runs_by", by="feature")}
    levels = _Latencies(ask.stepped("durations"), ask.stepped("first_chunks"))
    none = _Latencies([], [])
    whole = _series(ask.buckets, steps, "", levels)

    def summary(name: str, sums: _Sums) -> FeatureSummary:
        alone = not name or len(by_feature) == 1
        own = whole if alone else _series(ask.buckets, steps, name, none)
        return _summary(name, sums, runs.get(name, 0), levels, own)

    features = sorted(by_feature.items(), key=lambda item: (-item[1].calls, item[0]))
    return Overview(
        since=ask.range[0],
        until=ask.range[1],
        bucket_us=ask.buckets.step_us,
        total=summary("", total),
        features=tuple(summary(name, sums) for name, sums in features),
    )


def _series(
    buckets: Buckets, steps: dict[tuple[str, int], _Sums], name: str, latencies: _Latencies
) -> tuple[Bucket, ...]:
    series = []
    empty = _Sums()
    for number, at in enumerate(buckets.starts()):
        sums = steps.get((name, number), empty)
        duration, first_chunk = latencies.duration(number), latencies.first_chunk(number)
        series.append(
            Bucket(
                at=at,
                calls=sums.calls,
                bad=sums.bad,
                cost_nano_usd=sums.cost,
                unpriced=sums.calls - sums.priced,
                input_tokens=sums.input,
                output_tokens=sums.output,
                first_chunk_p50_us=first_chunk[0],
                first_chunk_p95_us=first_chunk[1],
                duration_p50_us=duration[0],
                duration_p95_us=duration[1],
                duration_p99_us=duration[2],
            )
        )
    return tuple(series)


def _summary(
    name: str, sums: _Sums, runs: int, latencies: _Latencies, series: tuple[Bucket, ...]
) -> FeatureSummary:
    key = name or None
    duration, first_chunk = latencies.duration(key), latencies.first_chunk(key)
    return FeatureSummary(
        feature=name,
        calls=sums.calls,
        runs=runs,
        outcomes=dict(sums.outcomes),
        cost_nano_usd=sums.cost,
        unpriced=sums.calls - sums.priced,
        input_tokens=sums.input,
        output_tokens=sums.output,
        cache_read_tokens=sums.cached,
        first_chunk_p50_us=first_chunk[0],
        first_chunk_p95_us=first_chunk[1],
        duration_p50_us=duration[0],
        duration_p95_us=duration[1],
        fallbacks=sums.fallbacks,
        retries=sums.retries,
        series=series,
    )


class _Spending:
    """Sums of one value, or of all: calls, cost, priced, estimated, four kinds of tokens."""

    def __init__(self, buckets: int) -> None:
        self.sums = [0] * 8
        self.series = [0] * buckets

    def add(self, bucket: int, sums: Sequence[int | None]) -> None:
        """One time step's row."""
        self.sums = [one + (other or 0) for one, other in zip(self.sums, sums, strict=True)]
        self.series[bucket] += sums[1] or 0

    def row(self, value: str | None, runs: int) -> SpendRow:
        calls, cost, priced, estimated, *tokens = self.sums
        return SpendRow(
            value=value,
            calls=calls,
            runs=runs,
            cost_nano_usd=cost,
            unpriced=calls - priced,
            estimated=estimated,
            input_tokens=tokens[0],
            output_tokens=tokens[1],
            cache_read_tokens=tokens[2],
            reasoning_tokens=tokens[3],
            series=tuple(self.series),
        )


def spend(ask: Question, database: Database, by: SpendBy, top: int) -> Spend:
    """The dearest values of one dimension, each with its series, and all together."""
    column = _SPEND_BY[by]
    of_many = by in _OF_MANY
    total, rows = (_spend_of_many if of_many else _spend_of_few)(ask, column, top)
    names: dict[Any, str] = {}
    if by == "run_id":
        names = _run_names(database, [value for value, _, _ in rows])
    return Spend(
        since=ask.range[0],
        until=ask.range[1],
        bucket_us=ask.buckets.step_us,
        by=by,
        total=total,
        rows=tuple(spent.row(names.get(value, value), runs) for value, spent, runs in rows),
    )


_Ranked = list[tuple[Any, _Spending, int]]


def _spend_of_few(ask: Question, column: str, top: int) -> tuple[SpendRow, _Ranked]:
    """All values in one pass: right where there are hundreds of them at most."""
    found: dict[Any, _Spending] = {}
    total = _Spending(ask.buckets.count)
    for value, bucket, *sums in ask.stepped("spend_by_bucket", by=column):
        total.add(bucket, sums)
        if value not in found:
            found[value] = _Spending(ask.buckets.count)
        found[value].add(bucket, sums)
    runs = {(row[0], row[2]): row[1] for row in ask.all("runs_by", by=column)}
    ranked = sorted(
        found.items(), key=lambda item: (-item[1].sums[1], -item[1].sums[0], item[0] or "")
    )
    rows = [(value, spent, runs[value, False]) for value, spent in ranked[:top]]
    return total.row(None, runs[None, True]), rows


def _spend_of_many(ask: Question, column: str, top: int) -> tuple[SpendRow, _Ranked]:
    """The dearest values first, then the rest about them alone."""
    steps = ask.buckets.count
    none: Any = -1 if column == "run" else "\x01"
    words = {"by": column, "none": "-1" if column == "run" else "'\x01'"}
    rows = ask.all("spend", (top,), by=column)
    wanted = [none if row[0] is None else row[0] for row in rows]
    runs = {row[0]: row[1] for row in ask.all("spend_runs", (wanted,), **words)}
    found: dict[Any, _Spending] = defaultdict(lambda: _Spending(steps))
    for value, bucket, cost in ask.stepped("spend_series", (wanted,), **words):
        found[value].series[bucket] = cost or 0
    for row in rows:
        found[row[0]].sums = [value or 0 for value in row[1:]]
    total = _Spending(steps)
    for _, bucket, *sums in ask.stepped("spend_by_bucket", by="NULL"):
        total.add(bucket, sums)
    ranked = [(row[0], found[row[0]], runs.get(row[0], 0)) for row in rows]
    return total.row(None, ask.all("run_count")[0][0]), ranked


def _run_names(database: Database, keys: list[int]) -> dict[Any, str]:
    with database.read() as session:
        found = {row[0]: row[1] for row in session.listed("run_ids", keys)}
    return {key: found.get(key, f"deleted-{key}") for key in keys}


def facets(ask: Question) -> dict[str, list[tuple[str, int]]]:
    """The values of each filter under the other conditions, most frequent first."""
    return {name: [(row[0], row[1]) for row in ask.all("facet", by=name)] for name in _FACETS}
