"""The dashboard's questions at a million interactions: Tocsin's API beside plain SQL."""

from __future__ import annotations

import dataclasses
import statistics
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from harness import plain_sql, tocsin, tocsin_entries
from harness.load import answers
from harness.million import WEEK_US, Fact, Facts
from harness.procs import Proc, settle, two_cores
from harness.tables import Table, ratio, shown, times
from harness.tools import free_port, fresh, size

AGAIN = 7
"""How often each question is asked; the first answer stands beside the median of the others."""

Line = tuple[str, ...]


@dataclasses.dataclass
class Watched:
    """Passes facts on and keeps one from the middle, to ask for."""

    facts: Facts
    picked: Fact | None = None

    def __iter__(self) -> Iterator[Fact]:
        for fact in self.facts:
            if fact.number >= self.facts.count // 2 and self.picked is None:
                self.picked = fact
            yield fact


def words_of(fact: Fact) -> tuple[str, str]:
    """Two of the rarer words that the fact's question says: the longest ones."""
    ordered = sorted(set(fact.history[-1].decode().split()[3:-3]), key=len)
    return ordered[-1], ordered[-2]


def plain(count: int, now_us: int) -> dict[str, Any]:
    """Write the facts as plain rows and ask in SQL."""
    folder, source = fresh("queries-sql"), Watched(Facts(count, now_us))
    spent = plain_sql.write(folder, source)
    fact = source.picked
    assert fact is not None
    one, two = words_of(fact)
    values: dict[str, object] = {
        "since": now_us - WEEK_US,
        "day": now_us - WEEK_US // 7,
        "span": WEEK_US,
        "run": fact.run,
        "id": fact.number,
        "one": f"%{one}%",
        "two": f"%{two}%",
    }
    found = {}
    for question, sql in plain_sql.QUESTIONS.items():
        used = {name: value for name, value in values.items() if f":{name}" in sql}
        found[question] = plain_sql.ask(folder, question, used, AGAIN)
    disk = size(folder)
    (folder / "calls.db").unlink()  # gigabytes that nobody needs any more
    return {"store": "plain rows in SQLite", "write_s": spent, "disk": disk, "ms": found}


def through_tocsin(count: int, now_us: int) -> dict[str, Any]:
    """Write the facts with Tocsin's store, start Tocsin on them and ask its API over HTTP."""
    folder, port, source = fresh("queries-tocsin"), free_port(), Watched(Facts(count, now_us))
    cmd = tocsin.command(folder, port=port, upstream_port=1)
    spent = written(folder, source)
    assert source.picked is not None
    with Proc(cmd, cores=two_cores(), log=folder / "server.log", cwd=folder) as proc:
        proc.wait_until(lambda: answers(port, tocsin.READY), 60)
        settle(proc.pid, limit=60, pause=1.2)
        found = asked(tocsin.Api(folder, port), source.picked, now_us)
    return {"store": "tocsin", "write_s": spent, "disk": size(folder / "data"), "ms": found}


def written(folder: Path, facts: Iterable[Fact], batch: int = 500) -> float:
    """Append all facts to the store of ``folder``; seconds spent in it, folding included."""
    spent = 0.0
    waiting: list[Any] = []
    with closing(tocsin_entries.opened_store(folder)) as store:

        def timed(work: Callable[[], object]) -> None:
            nonlocal spent
            began = time.perf_counter()
            work()
            spent += time.perf_counter() - began

        def append() -> None:
            store.append(waiting)
            waiting.clear()

        for fact in facts:
            waiting.append(tocsin_entries.entry(fact))
            if len(waiting) == batch:
                timed(append)
        timed(append)
        timed(lambda: tocsin_entries.caught_up(store))
    return spent


def asked(api: tocsin.Api, fact: Fact, now_us: int) -> dict[str, list[float]]:
    """Milliseconds of every answer, HTTP and JSON included."""
    week, day = now_us - WEEK_US, now_us - WEEK_US // 7
    text = urllib.parse.quote(" ".join(words_of(fact)))
    run, call = tocsin_entries.run_id(fact), tocsin_entries.call_id(fact)
    paths = {
        "overview, last day": f"/api/overview?since={day}&until={now_us}",
        "overview, all 7 days": f"/api/overview?since={week}&until={now_us}",
        "spend by model, 7 days": f"/api/spend?by=model&since={week}&until={now_us}",
        "50 newest calls": "/api/interactions?limit=50",
        "50 newest errors of a feature": (
            "/api/interactions?limit=50&feature=support&outcome=error"
        ),
        "50 newest runs": "/api/runs?limit=50",
        "50 dearest runs": "/api/runs?limit=50&sort=cost",
        "the calls of one run": f"/api/runs/{run}/steps",
        "one call with its text": f"/api/interactions/{call}?content=true",
        "calls that say two words": f"/api/interactions?limit=50&text={text}",
    }
    found: dict[str, list[float]] = {}
    for question, path in paths.items():
        found[question] = []
        for _ in range(AGAIN):
            began = time.perf_counter()
            api.get(path)
            found[question].append(1000 * (time.perf_counter() - began))
    return found


def table(count: int, results: list[dict[str, Any]]) -> Table:
    """One line per question: the ratio first, then both stores' usual and first answer."""
    own = next((r for r in results if r["store"] == "tocsin"), None)
    other = next((r for r in results if r["store"] != "tocsin"), None)

    def line(title: str, read: Callable[[dict[str, Any]], float], first: str, digits: int) -> Line:
        each = [read(found) if found else None for found in (own, other)]
        firsts = [shown(f["ms"][first][0], 1) if f and first else "" for f in (own, other)]
        cells = (shown(each[0], digits), firsts[0], shown(each[1], digits), firsts[1])
        return (title, times(ratio(each[1], each[0])), *cells)

    def usual(question: str) -> Callable[[dict[str, Any]], float]:
        return lambda found: statistics.median(found["ms"][question][1:])

    rows = [line(question, usual(question), question, 1) for question in results[0]["ms"]]
    rows.append(line("write, us per call", lambda found: 1e6 * found["write_s"] / count, "", 1))
    rows.append(line("disk, bytes per call", lambda found: found["disk"] / count, "", 0))
    columns = ("question", "SQL / tocsin", "tocsin ms", "first", "SQL ms", "first")
    note = "Tocsin answers over HTTP with JSON; SQL in process with rows."
    title = f"The dashboard's questions at {count:,} interactions"
    return Table(title=title, columns=columns, rows=tuple(rows), note=note)
