"""What a store does, and the shapes that it answers with. SQLite and PostgreSQL both do all of it.

Every method is synchronous and may be called from any thread; the callers run them off the event
loop. Times are microseconds since the epoch, money is nano US dollars, sums of cost never count an
unknown price as zero: ``unpriced`` says how many calls a sum leaves out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from tocsin.core.call import Role
from tocsin.core.domain import Alert
from tocsin.core.interaction import Entry, Interaction
from tocsin.core.messages import Hash, Message
from tocsin.core.outcome import Outcome
from tocsin.core.score import Feedback, Score
from tocsin.core.signals import Scored, Signal, Sum
from tocsin.core.stops import Ending, Stop, StopScope
from tocsin.core.supervision import Finding, RunWatch
from tocsin.store.ledger_api import LedgerBook
from tocsin.store.operations_api import OperationsBook

Progress = Callable[[int, int], None]
"""Called with (done, total) while long work goes on."""

RunSort = Literal["last_at", "started_at", "cost", "calls", "tokens", "duration", "errors"]
SpendBy = Literal["feature", "model", "release", "end_user", "run_id", "key_id", "upstream"]


class Filter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which interactions or runs to look at; ``None`` does not restrict."""

    since: int | None = None
    until: int | None = None
    feature: str | None = None
    model: str | None = None
    release: str | None = None
    end_user: str | None = None
    key_id: str | None = None
    upstream: str | None = None
    outcome: Outcome | None = None
    source: str | None = None
    conversation_id: str | None = None
    text: str | None = None
    """Full-text search over the content of messages."""


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """One run, as kept up to date by every append."""

    id: str
    feature: str
    source: str
    title: str
    """The first user message's beginning, at most 160 characters, one line."""
    started_at: int
    last_at: int
    """When its last call ended."""
    calls: int
    tool_calls: int
    errors: int
    """Calls whose outcome is not ``complete``."""
    input_tokens: int
    output_tokens: int
    max_input_tokens: int
    cost_nano_usd: int
    unpriced: int
    outcome: Outcome
    """Of the call that ended last."""
    model: str
    end_user: str | None = None
    key_id: str | None = None
    release: str | None = None
    conversation_id: str | None = None
    agent: str | None = None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some rows and the cursor of the next ones; ``None`` at the end."""

    rows: tuple[Any, ...]
    next: str | None = None


class StepPoint(msgspec.Struct, frozen=True, array_like=True):
    """What a run's charts need of one call."""

    id: str
    started_at: int
    duration_us: int
    outcome: Outcome
    input_tokens: int | None
    output_tokens: int | None
    cost_nano_usd: int | None
    tool_calls: int


class Bucket(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a time series.

    Quantiles are exact. They are ``None`` when there is no sample, and in the series of one
    feature among several: those feed sparklines; ask for one feature to have them.
    """

    at: int
    calls: int
    bad: int
    """Calls whose outcome is neither ``complete`` nor ``truncated``."""
    cost_nano_usd: int
    unpriced: int
    input_tokens: int
    output_tokens: int
    first_chunk_p50_us: float | None
    first_chunk_p95_us: float | None
    duration_p50_us: float | None
    duration_p95_us: float | None
    duration_p99_us: float | None


class FeatureSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One feature over a time range, with its series for a sparkline."""

    feature: str
    calls: int
    runs: int
    outcomes: Mapping[str, int]
    cost_nano_usd: int
    unpriced: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    first_chunk_p50_us: float | None
    first_chunk_p95_us: float | None
    duration_p50_us: float | None
    duration_p95_us: float | None
    fallbacks: int
    """Calls answered by another upstream than the first one tried."""
    retries: int
    series: tuple[Bucket, ...]


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """All that the overview page shows."""

    since: int
    until: int
    bucket_us: int
    total: FeatureSummary
    """Over all features; ``feature`` is empty."""
    features: tuple[FeatureSummary, ...]


class SpendRow(msgspec.Struct, frozen=True, kw_only=True):
    """Spend of one value of the dimension asked for."""

    value: str | None
    calls: int
    runs: int
    cost_nano_usd: int
    unpriced: int
    estimated: int
    """Calls whose usage is an estimate."""
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    reasoning_tokens: int
    series: tuple[int, ...]
    """Cost per bucket, nano US dollars."""


class Spend(msgspec.Struct, frozen=True, kw_only=True):
    """Spend over a time range by one dimension, dearest first."""

    since: int
    until: int
    bucket_us: int
    by: SpendBy
    total: SpendRow
    rows: tuple[SpendRow, ...]


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """An issued key. The secret itself is nowhere: ``digest`` is its HMAC."""

    id: str
    name: str
    digest: bytes
    role: Role
    features: tuple[str, ...] = ()
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None
    hint: str = ""
    """Last four characters of the secret, to tell keys apart."""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded call that a new call's history extends."""

    node: Hash
    interaction_id: str
    run_id: str
    conversation_id: str | None
    feature: str
    key_id: str | None
    end_user: str | None
    started_at: int


class AuditRow(msgspec.Struct, frozen=True, kw_only=True):
    """Who changed what, when."""

    at: int
    actor: str
    action: str
    target: str
    detail: str = ""


class AlertRow(msgspec.Struct, frozen=True, kw_only=True):
    """An alert as it stands; the same fingerprint is one row."""

    alert: Alert
    """The last word on it."""
    first_at: int
    """When it began to fire (this time)."""
    count: int
    """How often it was raised since."""


Grain = Literal["minutes", "hour", "day"]
"""Sizes of the steps in which signals are summed: five minutes (of whole features, for a few days),
an hour, a day (UTC)."""


class SignalPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One signal of one feature over one step of time, for one slice."""

    feature: str
    signal: str
    value: str
    """The slice's value; empty for the whole feature."""
    at: int
    """When the step begins, microseconds since the epoch."""
    sum: Sum


class BaselineRow(msgspec.Struct, frozen=True, kw_only=True):
    """A person's word that a signal's level is normal since then."""

    feature: str
    signal: str
    since: int
    by: str
    at: int
    note: str = ""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that ``verify`` found damaged."""

    kind: Literal["record", "content", "node", "run", "score", "segment", "operation", "database"]
    id: str
    message: str


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """What the store holds and what it costs."""

    interactions: int
    runs: int
    contents: int
    disk_bytes: int
    segment_bytes: int
    segments: int
    folded_seq: int
    last_seq: int
    oldest_at: int | None
    newest_at: int | None


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """What a retention sweep or a deletion removed."""

    interactions: int
    runs: int
    contents: int
    freed_bytes: int
    operations: int = 0


class Store(Protocol):
    """The truth: append-only interactions, their content, runs, keys, cursors."""

    def append(self, entries: Sequence[Entry]) -> int:
        """Write entries and all they refer to in one transaction; returns how many were new.

        An entry whose interaction id is known already changes nothing.
        """
        ...

    # -- reading --
    def interaction(self, interaction_id: str) -> Interaction | None: ...
    def interactions(self, where: Filter, *, limit: int = 50, cursor: str | None = None) -> Page:
        """Newest first; rows are ``Interaction``."""
        ...

    def runs(
        self,
        where: Filter,
        *,
        sort: RunSort = "last_at",
        descending: bool = True,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Rows are ``RunRow``. ``where.text`` finds runs any of whose messages match."""
        ...

    def run(self, run_id: str) -> RunRow | None: ...
    def steps(self, run_id: str, *, offset: int = 0, limit: int = 100) -> list[Interaction]:
        """A run's calls in the order in which they started."""
        ...

    def step_points(self, run_id: str) -> list[StepPoint]:
        """Every call of a run, in order, as little as charts need."""
        ...

    def history(self, node: Hash, *, last: int | None = None) -> list[Message]:
        """The messages that a node names, oldest first; only the ``last`` ones when given."""
        ...

    def content(self, hashes: Sequence[Hash]) -> dict[Hash, bytes]:
        """Stored bytes by hash; what is gone (retention) is missing from the answer."""
        ...

    def known(self, nodes: Sequence[Hash], call_ids: Sequence[str]) -> list[Known]:
        """Recorded calls whose answer's node, or whose tool call id, is among those given."""
        ...

    def after(self, seq: int, *, limit: int) -> list[tuple[int, Interaction]]:
        """Appended interactions after ``seq`` in the order of their append: the outbox."""
        ...

    def entry(self, interaction_id: str) -> Entry | None:
        """An interaction with all its content, as an evaluator or an export needs it."""
        ...

    # -- analytics --
    def overview(self, where: Filter, *, buckets: int = 60) -> Overview: ...
    def spend(self, where: Filter, by: SpendBy, *, buckets: int = 60, top: int = 50) -> Spend: ...
    def facets(self, where: Filter) -> dict[str, list[tuple[str, int]]]:
        """For filter menus: feature, model, release, outcome, source, upstream → (value, calls)."""
        ...

    # -- keys, cursors, audit --
    def add_key(self, key: KeyRow) -> None: ...
    def key_by_digest(self, digest: bytes) -> KeyRow | None: ...
    def keys(self) -> list[KeyRow]: ...
    def revoke_key(self, key_id: str, at: int) -> bool: ...
    def cursor(self, consumer: str) -> int: ...
    def set_cursor(self, consumer: str, seq: int) -> None: ...
    def record_audit(self, row: AuditRow) -> None: ...
    def audit(self, *, limit: int = 100) -> list[AuditRow]: ...

    # -- supervision --
    def add_stop(self, stop: Stop) -> Stop:
        """Keep a stop. Returns the one that stands already for the same scope and value with this
        or a stronger action, when there is one, and keeps nothing new then."""
        ...

    def end_stop(self, stop_id: str, ending: Ending, *, by: str, at: int, note: str = "") -> Stop:
        """Raises ``NotFound``, or ``InputError`` when it has ended already."""
        ...

    def note_cut(self, stop_id: str, cut: int, took_us: int) -> None:
        """Add calls that a process has cut; the longest time of all processes is kept."""
        ...

    def stops_version(self) -> int:
        """Grows with every change to the stops. Cheap: asked several times a second."""
        ...

    def stops(
        self,
        *,
        standing: bool = False,
        scope: StopScope | None = None,
        value: str | None = None,
        limit: int = 200,
    ) -> list[Stop]:
        """Newest first; of one scope, and of one value in it, when given."""
        ...

    def stop(self, stop_id: str) -> Stop | None: ...
    def raise_alerts(self, alerts: Sequence[Alert]) -> None:
        """Take each word on an alert in turn. What is known already is not counted again, and what
        does not fire cannot be resolved."""
        ...

    def alerts(self, *, firing: bool = False, limit: int = 200) -> list[AlertRow]:
        """Last changed first."""
        ...

    def add_findings(self, findings: Sequence[Finding]) -> None:
        """The same (run, call, detector, stage) again replaces what was there."""
        ...

    def findings(self, *, run_id: str | None = None, limit: int = 500) -> list[Finding]:
        """Of one run in order; without a run, newest first."""
        ...

    def save_watches(self, runs: Sequence[RunWatch]) -> None: ...
    def watches(self, *, since: int, limit: int = 100) -> list[RunWatch]:
        """Runs with a call since then, most ``tokens_since_new`` first."""
        ...

    def watch(self, run_id: str) -> RunWatch | None: ...

    # -- signals --
    def recorded_after(self, seq: int, *, limit: int, last: int = 64) -> list[tuple[int, Entry]]:
        """Appended model calls and steps with their content, for evaluators: of the history the
        system messages and the ``last`` messages. Content that is gone is left out."""
        ...

    def add_scores(
        self,
        rows: Sequence[Scored],
        catalogue: Mapping[str, Signal],
        *,
        consumer: str = "",
        after: int = 0,
        upto: int = 0,
    ) -> bool:
        """Keep scores, add them to the sums and, with ``consumer``, move its cursor: all at once.

        ``False``, and nothing kept, when the cursor is no longer at ``after``: another process was
        faster. A row whose interaction is gone is left out.
        """
        ...

    def scored_after(self, number: int, *, limit: int) -> list[tuple[int, Scored]]:
        """What ``add_scores`` kept after that number, in order, with its own numbers."""
        ...

    def scored_upto(self) -> int:
        """The number of the newest row that ``add_scores`` kept."""
        ...

    def scored(
        self,
        feature: str,
        *,
        since: int | None = None,
        until: int | None = None,
        slice: tuple[str, str] | None = None,  # noqa: A002 - the word for it
        limit: int = 1000,
    ) -> list[Scored]:
        """The newest interactions of a feature in that time with all their scores, newest first."""
        ...

    def scores(self, interaction_id: str) -> tuple[Score, ...]:
        """All that is said of one interaction; of the same name and version the last word."""
        ...

    def signal_points(
        self,
        *,
        grain: Grain,
        since: int,
        until: int,
        feature: str | None = None,
        signal: str | None = None,
        dimension: str = "",
        value: str | None = None,
    ) -> list[SignalPoint]:
        """Sums by step, in order of time; of whole features unless a dimension is given."""
        ...

    def signal_totals(
        self,
        *,
        since: int,
        until: int,
        feature: str | None = None,
        signal: str | None = None,
        dimension: str = "",
    ) -> list[SignalPoint]:
        """The same summed over the time (whole hours that overlap it); ``at`` is the first."""
        ...

    def add_feedback(self, given: Feedback) -> bool:
        """Keep it; ``False`` when this id is known. Raises ``NotFound`` without its interaction."""
        ...

    def feedback(self, interaction_id: str) -> list[Feedback]: ...
    def feedback_after(self, number: int, *, limit: int) -> list[tuple[int, Feedback]]:
        """In the order of arrival, with its own numbers."""
        ...

    def accept_baseline(self, row: BaselineRow) -> None:
        """The last word on a feature's signal replaces the one before."""
        ...

    def forget_baseline(self, feature: str, signal: str) -> bool:
        """Take that word back; ``False`` when there was none."""
        ...

    def baselines(self) -> list[BaselineRow]: ...
    def save_state(self, name: str, version: str, number: int, data: bytes) -> None:
        """What a detector remembers, as of the scored row ``number``."""
        ...

    def load_state(self, name: str, version: str) -> tuple[int, bytes] | None: ...

    @property
    def ledger(self) -> LedgerBook:
        """The accounts, for the ledger."""
        ...

    @property
    def operations(self) -> OperationsBook:
        """Durable work: operations, their events and steps, conversations, deliveries."""
        ...

    # -- care --
    def fold(self) -> int:
        """Write appended rows that are in no Parquet segment yet into one; compact small ones.

        Returns how many rows were folded. Safe to call from any process; one at a time folds.
        """
        ...

    def rebuild(self, progress: Progress | None = None) -> int:
        """Throw every segment and the search index away and make them again from the records, and
        the sums of signals from the scores that are there."""
        ...

    def index(self, *, limit: int = 2000) -> int:
        """Add content that came since the last call to the search index; returns how much."""
        ...

    def verify(self, progress: Progress | None = None) -> Iterator[Problem]:
        """Prove every record, content, link and operation whole; yields what is not."""
        ...

    def sweep(
        self, *, older_than: int | None = None, max_bytes: int | None = None, batch: int = 2000
    ) -> Swept:
        """Delete by age (records that started before ``older_than``) and by size ceiling.

        Oldest first, in short transactions that never hold writers up; gives disk space back.
        """
        ...

    def delete_end_user(self, end_user: str) -> Swept:
        """Delete all interactions, content and operations of one end user.

        Content that others share stays, and so do conversations that others have used.
        """
        ...

    def export_parquet(self, path: str, where: Filter) -> int:
        """Write matching interactions (without message content) to one zstd Parquet file."""
        ...

    def stats(self) -> Stats: ...
    def ping(self) -> None:
        """Raises ``StoreError`` when the store cannot be used."""
        ...

    def close(self) -> None: ...
