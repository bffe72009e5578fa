"""Settling what dead processes left: from their journals, exactly once."""

import time
from pathlib import Path

from tocsin.ledger.diary import UNCERTAIN, Remains, living, orphaned, posting, recovering
from tocsin.store.ledger import ALIVE_US
from tocsin.store.ledger_api import LedgerBook

_WAIT_S = 5.0
_LOOKS = 3
_BETWEEN_S = 0.05

Buried = tuple[str, int]
"""A holder, and how many calls it had under way; 0 when it left no journal."""


def recover(book: LedgerBook, folder: Path, own: str, now: int, *, patient: bool) -> list[Buried]:
    """End every dead holder of this folder. What it had settled is spent, what it had reserved
    counts in full, as uncertain; the rest of its leases is free again.

    Returns those about whom something is uncertain. ``patient``: wait while another process is at
    it. Raises ``StoreError``; the journals stay for the next try then.
    """
    if not folder.is_dir():
        return []
    until = time.monotonic() + _WAIT_S
    while True:
        with recovering(folder) as mine:
            if mine:
                return _recover(book, folder, own, now)
        if not patient or time.monotonic() > until:
            return []
        time.sleep(_BETWEEN_S)


def _recover(book: LedgerBook, folder: Path, own: str, now: int) -> list[Buried]:
    files, left = orphaned(folder)
    try:
        found = [holder for remains in left for holder in _bury(book, remains)]
        found += _without_journal(book, folder, own, now, {remains.holder for remains in left})
    except BaseException:
        for file in files:
            file.leave()
        raise
    for file in files:
        file.done()
    return found


def _bury(book: LedgerBook, remains: Remains) -> list[Buried]:
    held = [posting(key, one.amounts, UNCERTAIN) for one in remains.open for key in one.keys]
    known = book.bury(remains.holder, batches=remains.batches, postings=held)
    return [(remains.holder, len(remains.open))] if known and remains.open else []


def _without_journal(
    book: LedgerBook, folder: Path, own: str, now: int, named: set[str]
) -> list[Buried]:
    """Holders of this folder whose journal somebody deleted: their leases count in full."""
    home = folder / "home"
    if not home.exists():
        return []
    lost = {
        holder
        for holder, seen_at in book.holders(home.read_text())
        if holder != own and holder not in named and seen_at < now - ALIVE_US
    }
    for _ in range(_LOOKS):
        if not lost:
            return []
        # A live process swaps its file now and then: look more than once.
        lost -= living(folder)
        time.sleep(_BETWEEN_S)
    return [(h, 0) for h in sorted(lost) if book.bury(h, leases_count=True)]
