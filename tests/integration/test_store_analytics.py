"""Segments and what is read from them, on both engines."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from store_world import DAY, HOUR, SECOND, START, StoppedClock, entry, problems, whole_overview
from tocsin.core.errors import InputError, StoreError
from tocsin.core.interaction import Attempt, Usage
from tocsin.store import Filter, SpendBy, Store, segments


def attempt(number: int, upstream: str, **changes: object) -> Attempt:
    facts: dict[str, object] = {
        "number": number,
        "upstream": upstream,
        "provider": "openai",
        "model": "m",
        "started_at": START,
        "duration_us": 1,
    }
    return Attempt(**{**facts, **changes})


@pytest.fixture(params=["tail", "segment", "both"])
def placed(request: pytest.FixtureRequest) -> Callable[[Store, list], Store]:
    """Appends entries so that they lie in the log's tail, in a segment, or in both."""

    def place(store: Store, entries: list) -> Store:
        if request.param == "both":
            half = len(entries) // 2
            store.append(entries[:half])
            store.fold()
            store.append(entries[half:])
        else:
            store.append(entries)
            if request.param == "segment":
                assert store.fold() == len(entries)
        return store

    return place


def test_an_empty_store_has_an_empty_overview(store: Store) -> None:
    overview = store.overview(Filter(), buckets=10)
    assert overview.total.calls == 0
    assert overview.features == ()
    assert overview.total.duration_p50_us is None
    spend = store.spend(Filter(), "feature")
    assert (spend.total.calls, spend.rows) == (0, ())
    assert store.facets(Filter())["feature"] == []


def test_an_overview_adds_up_features_and_steps(store: Store, placed) -> None:
    unpriced = entry(7, feature="search", cost_nano_usd=None, run="run_s", outcome="refused")
    cached = Usage(input_tokens=10, cache_read_tokens=4)
    placed(
        store,
        [
            entry(1, run="run_a"),
            entry(2, run="run_a", outcome="truncated"),
            entry(3, run="run_b", outcome="error"),
            entry(5, operation="execute_tool"),
            unpriced,
            entry(8, feature="search", run="run_s", usage=cached),
        ],
    )
    overview = store.overview(Filter(), buckets=10)
    assert (overview.since, overview.until) == (START + SECOND, START + 8 * SECOND + 1)
    assert overview.bucket_us == SECOND
    assert [f.feature for f in overview.features] == ["support", "search"]
    support, search = overview.features
    assert (support.calls, support.runs) == (3, 2)
    assert support.outcomes == {"complete": 1, "truncated": 1, "error": 1}
    assert (search.calls, search.runs, search.unpriced) == (2, 1, 1)
    assert (search.cost_nano_usd, search.cache_read_tokens) == (1008, 4)
    assert (overview.total.calls, overview.total.runs) == (5, 3)
    assert overview.total.cost_nano_usd == 1001 + 1002 + 1003 + 1008
    at = {bucket.at: bucket for bucket in overview.total.series}
    assert at[START + 3 * SECOND].bad == 1
    assert at[START + 2 * SECOND].bad == 0
    assert at[START + 4 * SECOND].calls == 0
    assert at[START + 7 * SECOND].unpriced == 1
    assert sum(bucket.calls for bucket in search.series) == 2


def test_quantiles_are_exact(store: Store, placed) -> None:
    durations = [10, 20, 30, 40, 1000]
    entries = [
        entry(n, started_at=START, duration_us=d, first_chunk_us=d // 10 if n else None)
        for n, d in enumerate(durations)
    ]
    placed(store, entries)
    total = store.overview(Filter()).total
    assert total.duration_p50_us == 30
    assert total.duration_p95_us == pytest.approx(40 + 0.8 * 960)
    assert total.first_chunk_p50_us == pytest.approx(3.5)
    (step,) = [bucket for bucket in total.series if bucket.calls]
    assert step.duration_p99_us == pytest.approx(40 + 0.96 * 960)


def test_retries_and_fallbacks_are_counted(store: Store, placed) -> None:
    retried = (attempt(1, "a", error="x"), attempt(2, "a", reason="retry"))
    fell = (
        attempt(1, "a", error="x"),
        attempt(2, "a", error="x", reason="retry"),
        attempt(3, "b", reason="fallback"),
    )
    failed = (attempt(1, "a", error="x"), attempt(2, "b", error="x", reason="fallback"))
    placed(store, [entry(n, attempts=a) for n, a in enumerate((retried, fell, failed, ()))])
    total = store.overview(Filter()).total
    assert (total.retries, total.fallbacks) == (2, 1)


@pytest.mark.parametrize(
    ("by", "dearest"),
    [
        ("feature", "b"),
        ("model", "large"),
        ("release", "r2"),
        ("end_user", "bob"),
        ("run_id", "run_x"),
        ("key_id", "key_2"),
        ("upstream", "far"),
    ],
)
def test_spend_is_by_any_dimension_dearest_first(
    store: Store,
    placed,
    by: SpendBy,
    dearest: str,
) -> None:
    dear = entry(
        2,
        run="run_x",
        feature="b",
        response_model="large",
        release="r2",
        end_user="bob",
        key_id="key_2",
        upstream="far",
        cost_nano_usd=5000,
        usage=Usage(input_tokens=7, reasoning_tokens=3, source="estimated"),
    )
    cheap = entry(3, run="run_y", feature="a", release="r1", end_user="ann", key_id="key_1")
    placed(
        store,
        [
            dear,
            cheap,
            entry(
                4,
                run="run_y",
                feature="a",
                release="r1",
                end_user="ann",
                key_id="key_1",
                cost_nano_usd=None,
            ),
        ],
    )
    spend = store.spend(Filter(), by, buckets=10)
    first = spend.rows[0]
    assert first.value == dearest
    assert (first.calls, first.runs, first.cost_nano_usd) == (1, 1, 5000)
    assert (first.estimated, first.reasoning_tokens) == (1, 3)
    assert sum(first.series) == 5000
    assert (spend.rows[1].unpriced, spend.rows[1].runs) == (1, 1)
    assert (spend.total.calls, spend.total.cost_nano_usd) == (3, 6003)
    assert sum(spend.total.series) == 6003


def test_spend_keeps_to_the_top_and_still_totals_all(store: Store) -> None:
    store.append([entry(n, end_user=f"user-{n}") for n in range(10)] + [entry(20)])
    spend = store.spend(Filter(), "end_user", top=3)
    assert [row.value for row in spend.rows] == [None, "user-9", "user-8"]
    assert spend.total.calls == 11


def test_filters_hold_in_charts(store: Store, placed) -> None:
    placed(
        store,
        [
            entry(n, feature="ab"[n % 2], end_user="it's %s?", started_at=START + n * HOUR)
            for n in range(20)
        ],
    )
    where = Filter(feature="a", end_user="it's %s?", since=START + 4 * HOUR, until=START + DAY)
    overview = store.overview(where, buckets=24)
    assert overview.total.calls == 8
    assert overview.bucket_us == HOUR
    assert (overview.since, overview.until) == (START + 4 * HOUR, START + DAY)
    assert overview.features[0].series == overview.total.series
    assert store.facets(where)["feature"] == [("a", 8)]


def test_facets_list_values_by_frequency(store: Store, placed) -> None:
    placed(store, [entry(n, response_model="m1" if n else "m2", release=None) for n in range(4)])
    facets = store.facets(Filter())
    assert facets["model"] == [("m1", 3), ("m2", 1)]
    assert facets["release"] == []
    assert facets["outcome"] == [("complete", 4)]
    assert set(facets) == {"feature", "model", "release", "outcome", "source", "upstream"}


def test_folding_changes_no_answer(store: Store) -> None:
    answers = []
    for start in range(0, 60, 20):
        store.append([entry(n, feature=f"f{n % 4}") for n in range(start, start + 20)])
        answers.append(whole_overview(store))
        assert store.fold() == 20
        assert whole_overview(store) == answers[-1]
    assert store.fold() == 0
    assert store.stats().folded_seq == 60


def test_small_segments_are_merged_as_they_multiply(store: Store) -> None:
    for n in range(20):
        store.append([entry(n)])
        store.fold()
    assert store.stats().segments < 10
    assert whole_overview(store).total.calls == 20
    assert problems(store) == []


def test_losing_every_segment_loses_nothing(store: Store, tmp_path: Path) -> None:
    store.append([entry(n, feature=f"f{n % 3}") for n in range(50)])
    before = whole_overview(store)
    store.fold()
    for path in (tmp_path / "data" / "segments").glob("*.parquet"):
        path.unlink()
    assert [problem.kind for problem in store.verify()] == ["segment"]
    with pytest.raises(StoreError, match="tocsin rebuild"):
        store.overview(Filter())
    steps: list[tuple[int, int]] = []
    assert store.rebuild(lambda done, total: steps.append((done, total))) == 50
    assert steps[-1] == (50, 50)
    assert whole_overview(store) == before
    assert problems(store) == []


def test_a_damaged_segment_is_found(store: Store, tmp_path: Path) -> None:
    store.append([entry(n) for n in range(5)])
    store.fold()
    (path,) = (tmp_path / "data" / "segments").glob("*.parquet")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert [problem.id for problem in store.verify()] == [path.name]


def test_a_file_that_nobody_lists_does_not_count(store: Store, tmp_path: Path) -> None:
    store.append([entry(n) for n in range(5)])
    store.fold()
    (path,) = (tmp_path / "data" / "segments").glob("*.parquet")
    path.with_name("000000000099-left.parquet").write_bytes(path.read_bytes())
    assert whole_overview(store).total.calls == 5


def test_two_folders_fold_one_store_each_for_itself(open_it, store_url, tmp_path: Path) -> None:
    url = store_url or f"sqlite:///{tmp_path}/shared.db"
    one: Store = open_it("one", url=url)
    two: Store = open_it("two", url=url)
    one.append([entry(n) for n in range(10)])
    assert (one.fold(), two.fold()) == (10, 10)
    one.sweep(older_than=START + 4 * SECOND)
    assert whole_overview(two).total.calls == 6, "before its own files followed"
    assert two.fold() == 0
    assert whole_overview(two) == whole_overview(one)
    assert problems(one) == problems(two) == []


def test_only_one_folds_at_a_time(open_it, clock: StoppedClock, monkeypatch) -> None:
    first: Store = open_it()
    second: Store = open_it()
    first.append([entry(n) for n in range(10)])
    inside: list[int] = []
    real = second.fold

    write = segments.Segments._write

    def slow(self, *args, **kwargs):
        if not inside:
            inside.append(real())
        return write(self, *args, **kwargs)

    monkeypatch.setattr(segments.Segments, "_write", slow)
    assert first.fold() == 10
    assert inside == [0], "the other one was told to come later"
    assert whole_overview(first).total.calls == 10


def test_a_lease_that_a_dead_process_left_expires(
    open_it, clock: StoppedClock, monkeypatch
) -> None:
    first: Store = open_it()
    second: Store = open_it()
    first.append([entry(1)])

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(segments.Segments, "_write", die)
        patch.setattr(segments.Segments, "_let_go", lambda self: None)
        with pytest.raises(KeyboardInterrupt):
            first.fold()
    assert second.fold() == 0
    clock.now += 3600 * SECOND
    assert second.fold() == 1


def test_an_export_has_one_row_for_each_interaction(store: Store, tmp_path: Path) -> None:
    store.append(
        [
            entry(n, feature="ab"[n % 2], operation="chat" if n else "execute_tool")
            for n in range(10)
        ]
    )
    path = tmp_path / "all.parquet"
    assert store.export_parquet(str(path), Filter()) == 10
    assert store.export_parquet(str(tmp_path / "some.parquet"), Filter(feature="b")) == 5
    rows = duckdb.sql(f"SELECT id, run_id, cost_nano_usd, usage_source FROM '{path}' ORDER BY id")
    assert rows.fetchall()[3] == (f"call_{3:024}", f"run_{3:024}", 1003, "reported")
    assert duckdb.sql(f"SELECT count(*) FROM '{tmp_path}/some.parquet'").fetchall() == [(5,)]


def test_an_export_to_nowhere_says_so(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no-such-folder"):
        store.export_parquet(str(tmp_path / "no-such-folder" / "x.parquet"), Filter())


def test_slow_traffic_is_packed_together_behind_the_appends(store: Store) -> None:
    with store._database.read() as session:
        empty = store._database.used_bytes(session)
    for number in range(300):
        store.append([entry(number, body=b"body %d " % number * 20)])
    with store._database.read() as session:
        before = session.all("verify_interactions", (0, 1000))
    store.fold()
    with store._database.read() as session:
        after = session.all("verify_interactions", (0, 1000))
        size = store._database.used_bytes(session)
    assert len({row[10] for row in before}) == 300
    assert len({row[10] for row in after}) < 80, "the newest wait for neighbours"
    assert size - empty < 300 * 1600
    for number in (0, 150, 299):
        made = entry(number, body=b"body %d " % number * 20)
        assert store.entry(made.interaction.id) == made
    assert problems(store) == []
    store.sweep(older_than=START + 100 * SECOND)
    assert problems(store) == []


def test_folding_and_searching_load_no_analytics_engine(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from store_world import StoppedClock, entry
from tocsin.config.model import StoreSettings
from tocsin.store import Filter, open_store
store = open_store(StoreSettings(), Path(sys.argv[1]), StoppedClock())
store.append([entry(n) for n in range(50)])
assert store.fold() == 50
store.index()
assert store.runs(Filter(text="Question")).rows
store.sweep(older_than=0)
list(store.verify())
store.close()
heavy = {"duckdb", "psycopg", "numpy"} & sys.modules.keys()
assert not heavy, heavy
"""
    tests = str(Path(__file__).parent.parent)
    words = [sys.executable, "-c", program, str(tmp_path), tests]
    assert subprocess.run(words, timeout=60).returncode == 0


def test_what_a_dead_process_left_is_cleaned_up(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "segments"
    store.append([entry(1)])
    store.fold()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = [folder / f".tail-{gone.pid}-abc" / "1.parquet", folder / "000000000077-x.parquet"]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"left over")
        os.utime(path, (1, 1))
    store.append([entry(2)])
    assert whole_overview(store).total.calls == 2
    assert len(list(folder.glob(".tail-*"))) == 2, "the dead one's and ours"
    store.fold()
    assert not any(path.exists() for path in left)
    assert whole_overview(store).total.calls == 2


def test_a_tail_that_vanishes_is_made_again(store: Store, tmp_path: Path) -> None:
    store.append([entry(1)])
    assert whole_overview(store).total.calls == 1
    for path in (tmp_path / "data" / "segments").glob(".tail-*/*"):
        path.unlink()
    assert whole_overview(store).total.calls == 1
