"""Whatever happens in whatever order, the store stays whole and its sums right."""

import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store_world import SECOND, START, Conversation, StoppedClock, entry, problems
from tocsin.config.model import StoreSettings
from tocsin.core.interaction import Entry
from tocsin.store import Filter, Store, open_store

USERS = ("ann", "bob", None)

CALL = st.tuples(
    st.just("call"),
    st.integers(0, 4),  # which run
    st.sampled_from(USERS),
    st.sampled_from(["complete", "error"]),
    st.one_of(st.none(), st.integers(0, 10**9)),
    st.sampled_from(["same words", "other words", ""]),
)
STEP = st.one_of(
    CALL,
    CALL,
    CALL,
    st.tuples(st.just("flush")),
    st.tuples(st.just("again"), st.integers(0, 50)),
    st.tuples(st.just("tool"), st.integers(0, 4)),
    st.tuples(st.just("index")),
    st.tuples(st.just("fold")),
    st.tuples(st.just("sweep"), st.integers(0, 40)),
    st.tuples(st.just("forget"), st.sampled_from(["ann", "bob"])),
)


class Model:
    """What should be in the store, kept the simple way."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.there: dict[str, Entry] = {}
        self.ever: list[Entry] = []
        self.waiting: list[Entry] = []
        self.talks = {number: Conversation(f"run_{number}") for number in range(5)}
        self.number = 0

    def step(self, action: tuple) -> None:
        getattr(self, action[0])(*action[1:])

    def call(self, run: int, user: str | None, outcome: str, cost: int | None, text: str) -> None:
        self.number += 1
        made = self.talks[run].call(
            self.number, text, end_user=user, outcome=outcome, cost_nano_usd=cost
        )
        self.waiting.append(made)
        self.ever.append(made)

    def tool(self, run: int) -> None:
        self.number += 1
        made = entry(self.number, run=f"run_{run}", operation="execute_tool")
        self.waiting.append(made)
        self.ever.append(made)

    def flush(self) -> None:
        fresh = {
            one.interaction.id: one for one in self.waiting if one.interaction.id not in self.there
        }
        assert self.store.append(self.waiting) == len(fresh)
        self.there |= fresh
        self.waiting = []

    def again(self, which: int) -> None:
        if self.ever:
            self.waiting.append(self.ever[which % len(self.ever)])

    def index(self) -> None:
        self.store.index()

    def fold(self) -> None:
        self.store.fold()

    def sweep(self, before: int) -> None:
        limit = START + before * SECOND
        gone = [n for n, one in self.there.items() if one.interaction.started_at < limit]
        assert self.store.sweep(older_than=limit, batch=3).interactions == len(gone)
        for name in gone:
            del self.there[name]

    def forget(self, user: str) -> None:
        gone = [n for n, one in self.there.items() if one.interaction.end_user == user]
        assert self.store.delete_end_user(user).interactions == len(gone)
        for name in gone:
            del self.there[name]

    def check(self) -> None:
        assert problems(self.store) == []
        for name, made in self.there.items():
            assert self.store.entry(name) == made
        calls = [one.interaction for one in self.there.values()]
        runs = Counter(one.run_id for one in calls)
        rows = {row.id: row for row in self.store.runs(Filter(), limit=100).rows}
        assert rows.keys() == runs.keys()
        model_calls = [one for one in calls if one.operation == "chat"]
        for run, row in rows.items():
            mine = [one for one in model_calls if one.run_id == run]
            assert row.calls == len(mine)
            assert row.cost_nano_usd == sum(one.cost_nano_usd or 0 for one in mine)
            assert row.unpriced == sum(one.cost_nano_usd is None for one in mine)
            assert row.errors == sum(one.outcome != "complete" for one in mine)
        total = self.store.overview(Filter(), buckets=3).total
        assert total.calls == len(model_calls)
        assert total.cost_nano_usd == sum(one.cost_nano_usd or 0 for one in model_calls)
        assert total.runs == len({one.run_id for one in model_calls})


def play(store: Store, actions: list[tuple]) -> None:
    model = Model(store)
    for action in actions:
        model.step(action)
    model.flush()
    model.check()
    before = store.overview(Filter(), buckets=3)
    store.rebuild()
    assert store.overview(Filter(), buckets=3) == before
    store.sweep(older_than=START + 10**6 * SECOND)
    assert store.stats().contents == 0
    assert problems(store) == []


@given(st.lists(STEP, max_size=40))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_any_sequence_keeps_sqlite_whole(actions: list[tuple]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(StoreSettings(), Path(folder), StoppedClock())
        try:
            play(store, actions)
        finally:
            store.close()


@given(actions=st.lists(STEP, max_size=30))
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_sequence_keeps_postgres_whole(postgres_url: str, actions: list[tuple]) -> None:
    import secrets
    from urllib.parse import quote

    import psycopg

    schema = f"test_{secrets.token_hex(6)}"
    mark = "&" if "?" in postgres_url else "?"
    url = f"{postgres_url}{mark}options={quote(f'-c search_path={schema}')}"
    with (
        tempfile.TemporaryDirectory() as folder,
        psycopg.connect(postgres_url, autocommit=True) as connection,
    ):
        connection.execute(f"CREATE SCHEMA {schema}")
        store = open_store(StoreSettings(url=url), Path(folder), StoppedClock())
        try:
            play(store, actions)
        finally:
            store.close()
            connection.execute(f"DROP SCHEMA {schema} CASCADE")
