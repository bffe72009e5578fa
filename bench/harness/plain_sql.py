"""The plain store to compare with: one indexed row per call in SQLite, asked in plain SQL."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from harness.million import Fact

SCHEMA = """
CREATE TABLE calls (
  id INTEGER PRIMARY KEY, run INTEGER, started_at INTEGER, duration_us INTEGER,
  first_chunk_us INTEGER, outcome TEXT, feature TEXT, model TEXT, release TEXT, end_user TEXT,
  input_tokens INTEGER, output_tokens INTEGER, cost_nano_usd INTEGER, request TEXT, response TEXT
);
CREATE INDEX calls_started ON calls (started_at);
CREATE INDEX calls_run ON calls (run, started_at);
CREATE INDEX calls_outcome ON calls (feature, outcome, started_at);
"""

OVERVIEW = """
WITH ranked AS (
  SELECT feature, cost_nano_usd, input_tokens, output_tokens, outcome, duration_us,
    row_number() OVER (PARTITION BY feature ORDER BY duration_us) AS place,
    count(*) OVER (PARTITION BY feature) AS calls
  FROM calls WHERE started_at >= :since
)
SELECT feature, max(calls), sum(cost_nano_usd), sum(input_tokens + output_tokens),
  sum(outcome <> 'complete'), min(CASE WHEN place >= 0.5 * calls THEN duration_us END),
  min(CASE WHEN place >= 0.95 * calls THEN duration_us END)
FROM ranked GROUP BY feature
"""
SPEND = """
SELECT model, (started_at - :since) * 60 / :span, count(*), sum(cost_nano_usd),
  sum(input_tokens), sum(output_tokens)
FROM calls WHERE started_at >= :since GROUP BY 1, 2
"""
RUNS = """
SELECT run, min(started_at), max(started_at + duration_us), count(*), sum(cost_nano_usd)
FROM calls GROUP BY run ORDER BY {order} DESC LIMIT 50
"""
COLUMNS = "id, run, started_at, duration_us, outcome, model, cost_nano_usd"
QUESTIONS: dict[str, str] = {
    "overview, last day": OVERVIEW.replace(":since", ":day"),
    "overview, all 7 days": OVERVIEW,
    "spend by model, 7 days": SPEND,
    "50 newest calls": f"SELECT {COLUMNS} FROM calls ORDER BY started_at DESC LIMIT 50",
    "50 newest errors of a feature": (
        f"SELECT {COLUMNS} FROM calls WHERE feature = 'support' AND outcome = 'error' "
        "ORDER BY started_at DESC LIMIT 50"
    ),
    "50 newest runs": RUNS.format(order="3"),
    "50 dearest runs": RUNS.format(order="5"),
    "the calls of one run": f"SELECT {COLUMNS} FROM calls WHERE run = :run ORDER BY started_at",
    "one call with its text": "SELECT * FROM calls WHERE id = :id",
    "calls that say two words": (
        f"SELECT {COLUMNS} FROM calls WHERE request LIKE :one AND request LIKE :two "
        "ORDER BY started_at DESC LIMIT 50"
    ),
}
"""Question → SQL. The names are those that Tocsin's API is asked under."""


def write(folder: Path, facts: Iterable[Fact], batch: int = 1000) -> float:
    """Fill ``folder/calls.db``; seconds spent in the database."""
    spent = 0.0
    rows: list[tuple[object, ...]] = []
    with closing(sqlite3.connect(folder / "calls.db")) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.executescript(SCHEMA)

        def commit() -> float:
            began = time.perf_counter()
            with db:
                db.executemany(f"INSERT INTO calls VALUES ({','.join('?' * 15)})", rows)
            rows.clear()
            return time.perf_counter() - began

        for f in facts:
            facts_of = (f.number, f.run, f.started_at, f.duration_us, f.first_chunk_us, f.outcome)
            names = (f.feature, f.model, f.release, f.end_user)
            sums = (f.input_tokens, f.output_tokens, f.cost_nano_usd)
            rows.append((*facts_of, *names, *sums, f.request(), f.answer.decode()))
            if len(rows) == batch:
                spent += commit()
        spent += commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("ANALYZE")
    return spent


def ask(folder: Path, question: str, values: dict[str, object], times: int) -> list[float]:
    """Milliseconds of each of ``times`` answers on a fresh connection, all rows read."""
    found = []
    with closing(sqlite3.connect(folder / "calls.db")) as db:
        db.execute("PRAGMA cache_size=-65536")
        for _ in range(times):
            began = time.perf_counter()
            db.execute(QUESTIONS[question], values).fetchall()
            found.append(1000 * (time.perf_counter() - began))
    return found
