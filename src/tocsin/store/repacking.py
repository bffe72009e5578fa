"""Merging small packs behind the appends.

In slow traffic a batch is one call, and its packs are too small to compress well. Once such packs
have neighbours enough, they become one. Items move; what they are does not change.
"""

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from tocsin.store import admin
from tocsin.store.database import Database, Row, Session
from tocsin.store.packs import CONTENT_BYTES, RECORD_BYTES, Packer, read_items

_ROWS = 512
_PAUSE_S = 0.002


class _Kind(msgspec.Struct, frozen=True):
    """Records, contents or scores: their queries, and how large their packs should be."""

    consumer: str
    after: str
    move: str
    limit: int


_KINDS = (
    _Kind("repack.records", "records_after", "move_records", RECORD_BYTES),
    _Kind("repack.contents", "contents_after", "move_contents", CONTENT_BYTES),
    _Kind("repack.scores", "repack_scores_after", "move_scores", RECORD_BYTES),
)


def repack(database: Database) -> int:
    """Merge what is small and complete; returns how many items moved."""
    moved = 0
    for kind in _KINDS:
        while True:
            count, more = _slice(database, kind)
            moved += count
            if not more:
                break
            time.sleep(_PAUSE_S)
    return moved


def _slice(database: Database, kind: _Kind) -> tuple[int, bool]:
    """One short transaction. Returns how many items moved, and whether to go on."""
    with database.read() as session:
        start = admin.cursor(session, kind.consumer)
        head = session.one("head")
        rows = session.all(kind.after, (start, _ROWS))
        numbers = sorted({row[1] for row in rows})
        lives = {row[0]: row[1] for row in session.listed("pack_lives", numbers)}
        groups, end = _groups(rows, lives, kind.limit)
        items = read_items(session, [(r[1], r[2], r[3]) for group in groups for r in group])
    if head is None or not rows or end <= start:
        return 0, False
    with database.write() as session:
        # A deletion, or another process's merge, may have been faster.
        now = session.one("head")
        if now is None or now[4] != head[4] or admin.cursor(session, kind.consumer) != start:
            return 0, False
        for group in groups:
            _merge(session, kind, group, items)
        admin.set_cursor(session, kind.consumer, end)
    return sum(map(len, groups)), True


def _groups(rows: Sequence[Row], lives: dict[int, int], limit: int) -> tuple[list[list[Row]], int]:
    """Rows of neighbouring packs that are to become one, and how far this look has come."""
    packs: dict[int, list[Row]] = {}
    for row in rows:
        packs.setdefault(row[1], []).append(row)
    groups: list[list[Row]] = []
    open_: list[list[Row]] = []
    size = end = 0
    if rows:
        end = rows[0][0] - 1
    for number, own in packs.items():
        bytes_ = sum(row[3] for row in own)
        if lives.get(number) != len(own) or bytes_ >= limit // 2:
            # Large enough, or only partly in view: the end of a group.
            groups += [[row for part in open_ for row in part]] if len(open_) > 1 else []
            if len(rows) == _ROWS and own[-1] is rows[-1] and own[0] is not rows[0]:
                return groups, own[0][0] - 1
            open_, size, end = [], 0, own[-1][0]
            continue
        if size + bytes_ > limit:
            groups += [[row for part in open_ for row in part]] if len(open_) > 1 else []
            end = own[0][0] - 1
            open_, size = [], 0
        open_.append(own)
        size += bytes_
    # What is left waits for more neighbours.
    return groups, end


def _merge(session: Session, kind: _Kind, group: list[Row], items: dict[Any, bytes]) -> None:
    head = session.one("head")
    assert head is not None
    packer = Packer(head[3] + 1, kind.limit)
    moves: list[Any] = []
    for row in group:
        place = packer.add(items[(row[1], row[2], row[3])])
        moves += (row[0], place[0], place[1])
    last = packer.flush() - 1
    session.write_rows("add_packs", packer.rows)
    session.write_rows(kind.move, moves)
    session.run_listed("delete_packs", sorted({row[1] for row in group}))
    session.run("set_head", (head[0], head[1], head[2], last))
