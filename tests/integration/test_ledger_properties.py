"""No interleaving of reserve, settle, cancel, crash, expiry and lost answers breaks an account."""

import os
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from store_world import StoppedClock
from tocsin.core.ledger import Limit
from tocsin.ledger.diary import ESTIMATED, PLAIN, UNCERTAIN, Diary, home_of
from tocsin.ledger.pools import Four, Need
from tocsin.ledger.recovery import recover
from tocsin.ledger.till import Till
from tocsin.ledger.windows import window_at
from tocsin.store.ledger import RelationalBook
from tocsin.store.ledger_api import EVERY
from tocsin.store.schema import ensure
from tocsin.store.sqlite import SqliteDatabase

HOUR = 3_600_000_000
LIMITS = (
    Limit(name="ever", tokens=1000),
    Limit(name="hourly", per="hour", tokens=600, calls=12),
    Limit(name="rolling", per="hour", rolling=True, tokens=500),
)
PROCESSES = (0, 1)
LOSE = st.sampled_from(["no", "no", "request", "answer"])
STEPS = (
    *["reserve"] * 8,
    *["settle"] * 5,
    *["flush"] * 3,
    *["begin_a_new_journal_file"] * 2,
    *["tidy", "crash", "crash", "leave_in_order", "time_passes"],
)
DRAWN = {
    "reserve": {
        "which": st.sets(st.sampled_from(range(len(LIMITS))), min_size=1),
        "tokens": st.integers(0, 220),
        "run": st.sampled_from(["", "", "r1"]),
    },
    "settle": {
        "share": st.sampled_from([0.0, 0.3, 1.0, 1.0, 1.4]),
        "manner": st.sampled_from([PLAIN, PLAIN, ESTIMATED, UNCERTAIN]),
    },
    "flush": {"lose": LOSE},
    "crash": {"lose": st.sampled_from(["no", "request", "answer", "unasked", "unasked"])},
    "time_passes": {"seconds": st.sampled_from([1, 59, 61, 600, 3600, -30, -4000, 90_000])},
}


class Process:
    """A till with its journal, which can be killed."""

    def __init__(self, folder: Path, number: int) -> None:
        self.till = Till(Diary(folder, f"holder_{number}"), home_of(folder))
        self.open: dict[int, tuple[Four, list[tuple[bytes, int]]]] = {}

    def kill(self) -> None:
        """What the kernel does at kill -9: locks go, mapped pages stay."""
        journal = self.till._diary._journal
        for segment in [*journal._old, *journal._spare, journal._current]:
            segment.map.close()
            os.close(segment.fd)


class Books(RuleBasedStateMachine):
    """The model: every account's sums, kept in the plainest way."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name)
        self.clock = StoppedClock()
        self.database = SqliteDatabase(path / "tocsin.db")
        ensure(self.database, self.clock)
        self.book = RelationalBook(self.database)
        self.home = path / "ledger"
        self.started = 0
        self.processes = [self.start() for _ in PROCESSES]
        self.spent: Counter[tuple[bytes, int, int]] = Counter()
        self.uncertain: Counter[tuple[bytes, int, int]] = Counter()
        self.overrun: Counter[tuple[bytes, int]] = Counter()

    def start(self) -> Process:
        self.started += 1
        process = Process(self.home, self.started)
        process.till.turned(
            turn := process.till.turn({}, now=self.clock.now, fraction=0.1, answering={}),
            self.book.turn(turn),
        )
        return process

    def teardown(self) -> None:
        if hasattr(self, "database"):
            for process in self.processes:
                process.kill()
            self.database.close()
            self.folder.cleanup()

    # -- what processes do --

    def turn(self, process, needs=None, *, lose="no"):
        """A process and the store; on the way, a request or an answer may get lost."""
        till = process.till
        answering = self.book.wanted(till.holder)
        turn = till.turn(needs or {}, now=self.clock.now, fraction=0.3, answering=answering)
        if lose != "request":
            result = self.book.turn(turn)
        if lose == "no":
            till.turned(turn, result)
        else:
            till.failed(turn)

    def acquire(self, process, purses, ask):
        """What ``Ledger.acquire`` does, without waiting: a number, or the pools that refuse."""
        recalls: dict[tuple[bytes, int], int] = {}
        for _ in range(8):
            found = process.till.reserve(purses, ask, self.clock.now)
            if isinstance(found, int):
                return found
            for other in self.processes:
                if other is not process:
                    self.turn(other)
            needs = {pool.key: self.need(ask, recalls.get(pool.key, 0)) for pool in found}
            self.turn(process, needs)
            for pool in found:
                if pool.answer.recalled:
                    recalls.setdefault(pool.key, pool.answer.recalled)
            found = process.till.reserve(purses, ask, self.clock.now)
            if isinstance(found, int):
                return found
            refused = [
                pool
                for pool in found
                if pool.key in needs
                and pool.opened
                and pool.answer.short
                and pool.answer.answered >= recalls.get(pool.key, EVERY)
            ]
            if refused:
                return refused
        raise AssertionError("neither held nor refused")

    def need(self, ask, recalled):
        need = Need([0] * 4, [EVERY] * 4, not recalled, recalled)
        need.add(ask)
        return need

    @rule(who=st.sampled_from(PROCESSES), what=st.sampled_from(STEPS), data=st.data())
    def step(self, who, what, data):
        """One rule for all: rules that are left out of a whole example would leave it empty."""
        arguments = {name: data.draw(values) for name, values in DRAWN.get(what, {}).items()}
        if what == "settle":
            arguments["data"] = data
        if what == "time_passes":
            self.time_passes(**arguments)
        else:
            getattr(self, what)(who, **arguments)

    def reserve(self, who, which, tokens, run):
        process = self.processes[who]
        ask = (0, tokens, 1, 0)
        purses = [process.till.purse(LIMITS[i], "", run) for i in sorted(which)]
        found = self.acquire(process, purses, ask)
        if isinstance(found, int):
            pools = process.till._open[found].pools
            process.open[found] = (ask, [pool.key for pool in pools])
            return
        # Nothing is refused while there is room: not in what is left, nor in unused leases.
        for pool in found:
            room = [self.room(pool, unit) >= ask[unit] for unit in pool.units]
            assert not all(room), "refused although it fits"

    def room(self, pool, unit):
        cap = pool.caps[unit]
        account = pool.key[0]
        since = pool.window.since
        taken = sum(
            amount
            for (one, start, what), amount in self.spent.items()
            if one == account and start >= since and what == unit
        )
        held = sum(
            ask[unit]
            for process in self.processes
            for ask, keys in process.open.values()
            for one, start in keys
            if one == account and start >= since
        )
        return cap - taken - held

    def settle(self, who, data, share, manner):
        process = self.processes[who]
        if not process.open:
            return
        number = data.draw(st.sampled_from(sorted(process.open)))
        ask, keys = process.open.pop(number)
        used = (0, int(ask[1] * share), 1 if share else 0, 0)
        process.till.settle(number, used, manner)
        self.count(keys, used, manner == UNCERTAIN)
        for key in keys:
            self.overrun[key] += max(0, used[1] - ask[1])

    def count(self, keys, used, uncertain):
        for account, start in keys:
            for unit in range(4):
                self.spent[account, start, unit] += used[unit]
                if uncertain:
                    self.uncertain[account, start, unit] += used[unit]

    def flush(self, who, lose):
        self.turn(self.processes[who], lose=lose)

    def begin_a_new_journal_file(self, who):
        self.processes[who].till._begin()

    def tidy(self, who):
        self.processes[who].till.tidy(self.clock.now + 100_000_000)

    def crash(self, who, lose):
        process = self.processes[who]
        if lose != "unasked":
            self.turn(process, lose=lose)
        process.kill()
        for ask, keys in process.open.values():
            self.count(keys, ask, True)
        self.recover()
        self.processes[who] = self.start()

    def recover(self):
        other = [p.till.holder for p in self.processes]
        recover(self.book, self.home, other[0], self.clock.now, patient=True)

    def leave_in_order(self, who):
        process = self.processes[who]
        till = process.till
        for number, (ask, keys) in process.open.items():
            till.settle(number, ask, UNCERTAIN)
            self.count(keys, ask, True)
        assert self.book.bury(till.holder, batches=till.pending)
        till.close(whole=True)
        self.processes[who] = self.start()

    def time_passes(self, seconds):
        self.clock.now += seconds * 1_000_000

    # -- what must hold --

    @invariant()
    def no_account_is_passed(self):
        if not hasattr(self, "database"):
            return
        for limit in LIMITS:
            for row in self.book.accounts(limit.name, most=10):
                window = window_at(limit, max(self.clock.now, row.latest))
                standing = self.book.standings([(row.id, window.since)], now=self.clock.now)[row.id]
                over = sum(
                    amount
                    for (account, start), amount in self.overrun.items()
                    if account == row.id and start >= window.since
                )
                tokens = standing.spent.tokens + standing.leased.tokens
                assert tokens <= (limit.tokens or 0) + over
                if limit.calls is not None:
                    assert standing.spent.calls + standing.leased.calls <= limit.calls

    @invariant()
    def all_that_was_spent_is_known(self):
        if not hasattr(self, "database"):
            return
        rows = self.database._writer.execute("SELECT * FROM ledger_buckets").fetchall()
        found: Counter[tuple[bytes, int, int]] = Counter()
        unsure: Counter[tuple[bytes, int, int]] = Counter()
        for row in rows:
            for unit in range(4):
                found[bytes(row[0]), row[1], unit] += row[3 + unit]
                unsure[bytes(row[0]), row[1], unit] += row[7 + unit]
        for process in self.processes:
            for key in {
                *process.till._pools,
                *((p.account, p.start) for b in process.till._batches for p in b.postings),
            }:
                unsaid, _ = process.till.unsaid(key)
                if unsaid is None:
                    continue
                said = self.applied(process)
                for unit, amount in enumerate(_four(unsaid.spent)):
                    found[(*key, unit)] += amount
                for unit, amount in enumerate(_four(unsaid.uncertain)):
                    unsure[(*key, unit)] += amount
                for batch in process.till._batches:
                    for one in batch.postings:
                        if batch.number <= said and (one.account, one.start) == key:
                            for unit, amount in enumerate(_four(one.spent)):
                                found[(*key, unit)] -= amount
                            for unit, amount in enumerate(_four(one.uncertain)):
                                unsure[(*key, unit)] -= amount
        assert +found == +self.spent
        assert +unsure == +self.uncertain

    def applied(self, process):
        with self.database.read() as session:
            row = session.one("ledger_holder", (process.till.holder,))
        return row[0] if row else 0


def _four(amounts):
    return amounts.nano_usd, amounts.tokens, amounts.calls, amounts.tool_calls


Books.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestBooks = Books.TestCase
