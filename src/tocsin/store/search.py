"""The search index: built behind the appends, from content that is kept once."""

import time
from typing import Any

from tocsin.store import admin
from tocsin.store.database import Database, Session
from tocsin.store.packs import read_items
from tocsin.store.text import text_of

CONSUMER = "search"
_SLICE_ROWS = 200
_SLICE_CHARS = 300_000
_PAUSE_S = 0.002


def index(database: Database, limit: int) -> int:
    """Index up to ``limit`` contents that came since the last call; returns how many."""
    done = 0
    while done < limit:
        count, more = _index_slice(database, min(_SLICE_ROWS, limit - done))
        done += count
        if not more:
            break
        time.sleep(_PAUSE_S)
    return done


def _index_slice(database: Database, limit: int) -> tuple[int, bool]:
    """One short transaction; the text is made before it. Returns how many, and if more may wait."""
    with database.read() as session:
        start = admin.cursor(session, CONSUMER)
        newest, epoch = session.one("newest_content") or (0, 0)
        rows = session.all("unindexed", (start, limit))
        items = read_items(session, [(r[1], r[2], r[3]) for r in rows])
    if start >= newest:
        return 0, False
    end = newest if len(rows) < limit else rows[-1][0]
    flat: list[Any] = []
    chars = count = 0
    for number, *place in rows:
        text = text_of(items.get((place[0], place[1], place[2]), b""))
        if chars and chars + len(text) > _SLICE_CHARS:
            end = number - 1
            break
        chars += len(text)
        count += 1
        if text:
            flat += (number, database.search_text(text))
    with database.write() as session:
        # Another process may have indexed these, or deleted some, since they were read.
        now = session.one("newest_content") or (0, 0)
        if admin.cursor(session, CONSUMER) != start or now[1] != epoch:
            return 0, True
        session.write_rows("index_texts", flat)
        admin.set_cursor(session, CONSUMER, end)
    return count, end < newest


def forget(database: Database, session: Session, contents: list[tuple[int, bytes]]) -> None:
    """Take (id, raw message) contents out of the index."""
    indexed = admin.cursor(session, CONSUMER)
    texts = [(number, text_of(raw)) for number, raw in contents if number <= indexed]
    database.unindex(session, [(number, text) for number, text in texts if text])


def reset(database: Database) -> None:
    """Empty the index; the next ``index`` begins at the first content."""
    with database.write() as session:
        session.run("clear_index")
        admin.set_cursor(session, CONSUMER, 0)
