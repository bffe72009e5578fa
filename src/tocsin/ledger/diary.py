"""The ledger's journal: what a process has reserved and settled, so that ``kill -9`` loses nothing.

One file counts at a time. It begins with a *snapshot*: who writes it, what is settled and not yet
known to be in the store, and what is reserved. Then come reservations and settlements as they
happen. When it is full, a new file begins with a new snapshot, and the old one goes. So whoever
takes over the newest file that begins with a whole snapshot knows everything.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from struct import Struct
from uuid import uuid4

import msgspec

from tocsin.core.ledger import Amounts
from tocsin.store.journal import Journal, Orphan, Segment, orphans, read_frames
from tocsin.store.ledger_api import NOTHING, Batch, Posting

RESERVED = 1
SETTLED = 2
SNAPSHOT = 3

KEY = Struct("<16sq")
"""An account's id and a bucket's start."""
_RESERVED = Struct("<Q4q")
_SETTLED = Struct("<QQ4qB")
_SEGMENT_BYTES = 1024 * 1024

Key = tuple[bytes, int]
Manner = int
PLAIN, UNCERTAIN, ESTIMATED = 0, 1, 2


class Open(msgspec.Struct, frozen=True, array_like=True):
    """A reservation: ``amounts`` held in each of the buckets."""

    number: int
    amounts: Amounts
    keys: tuple[Key, ...]


class Snapshot(msgspec.Struct, frozen=True, array_like=True):
    """All that a holder knows and the store may not. ``settled`` counts its settlements so far;
    ``fresh`` are those that are in no batch yet."""

    holder: str
    settled: int
    batches: tuple[Batch, ...]
    fresh: tuple[Posting, ...]
    open: tuple[Open, ...]


_encode = msgspec.msgpack.Encoder().encode
_snapshot = msgspec.msgpack.Decoder(Snapshot).decode


def posting(key: Key, amounts: Amounts, manner: Manner) -> Posting:
    """What a settlement adds to one bucket."""
    return Posting(
        key[0],
        key[1],
        amounts,
        amounts if manner == UNCERTAIN else NOTHING,
        amounts if manner == ESTIMATED else NOTHING,
    )


class Diary:
    """Writes the journal of one holder. From the serving thread alone."""

    def __init__(self, folder: Path, holder: str) -> None:
        self._journal = Journal(folder, segment_bytes=_SEGMENT_BYTES)
        self.holder = holder
        self._segment: Segment | None = None

    def fits(self, keys: int) -> bool:
        """Whether one more frame about so many buckets fits; else ``begin`` first."""
        return self._journal.room >= _SETTLED.size + KEY.size * keys

    def begin(self, snapshot: Snapshot) -> None:
        """Write a snapshot, in a new file unless the current one is empty. Raises ``OSError``."""
        payload = _encode(snapshot)
        old = self._segment
        if old is not None:
            self._journal.rotate(len(payload) + 64)
        self._segment = self._journal.append(SNAPSHOT, payload)
        if old is not None:
            old.settled = old.written
            self._journal.release()

    def reserved(self, number: int, amounts: tuple[int, int, int, int], keys: bytes) -> None:
        """A reservation; ``keys`` are packed ``KEY``. Raises ``OSError``: then it is none."""
        self._journal.append(RESERVED, _RESERVED.pack(number, *amounts) + keys)

    def settled(
        self, number: int, order: int, amounts: tuple[int, int, int, int], manner: Manner
    ) -> None:
        """A settlement, the ``order``-th of this holder. Raises ``OSError``."""
        self._journal.append(SETTLED, _SETTLED.pack(number, order, *amounts, manner))

    def close(self, *, whole: bool) -> None:
        """Let go. ``whole``: everything is in the store, so the file may go."""
        if whole and self._segment is not None:
            self._segment.settled = self._segment.written
        self._journal.close()


class Remains(msgspec.Struct, frozen=True):
    """What a dead holder left: batches to be applied once, and what it had reserved."""

    holder: str
    batches: tuple[Batch, ...]
    open: tuple[Open, ...]


def read(frames: Iterator[tuple[int, bytes]]) -> Remains | None:
    """What the frames of one file say; ``None`` when it does not begin with a whole snapshot."""
    first = next(frames, None)
    if first is None or first[0] != SNAPSHOT:
        return None
    start = _snapshot(first[1])
    held = {one.number: one for one in start.open}
    batches = list(start.batches)
    if start.fresh:
        batches.append(Batch(start.settled, start.fresh))
    for kind, payload in frames:
        if kind == RESERVED:
            number, *amounts = _RESERVED.unpack_from(payload)
            keys = tuple(KEY.iter_unpack(payload[_RESERVED.size :]))
            held[number] = Open(number, Amounts(*amounts), keys)
        elif kind == SETTLED:
            number, order, *values = _SETTLED.unpack(payload)
            done = held.pop(number, None)
            if done is not None:
                # A batch for each: the store knows up to which of them it has them.
                said = [posting(key, Amounts(*values[:4]), values[4]) for key in done.keys]
                batches.append(Batch(order, tuple(said)))
    return Remains(start.holder, tuple(batches), tuple(held.values()))


@contextmanager
def recovering(folder: Path) -> Iterator[bool]:
    """One process at a time takes over journals; false when another one is at it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(folder / "recovery.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(fd)


def orphaned(folder: Path) -> tuple[list[Orphan], list[Remains]]:
    """The files of dead holders, and what each holder left: its newest whole file's word."""
    files = list(orphans(folder))
    found: dict[str, tuple[int, Remains]] = {}
    for file in files:
        remains = read(file.frames())
        if remains is None:
            continue
        began = _began(file.path)
        known = found.get(remains.holder)
        if known is None or began > known[0]:
            found[remains.holder] = (began, remains)
    return files, [remains for _, remains in found.values()]


def living(folder: Path) -> set[str]:
    """Holders whose journals are in use now."""
    found = set()
    for path in folder.glob("*.journal"):
        try:
            first = next(read_frames(path), None)
        except OSError:
            continue
        if first is not None and first[0] == SNAPSHOT:
            found.add(_snapshot(first[1]).holder)
    return found


def home_of(folder: Path) -> str:
    """A name for this folder that no other folder has; made at the first use."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "home"
    if not path.exists():
        fresh = folder / f"home.{uuid4().hex}"
        fresh.write_text(uuid4().hex)
        with suppress(FileExistsError):  # another process was faster: its name counts
            path.hardlink_to(fresh)
        fresh.unlink()
    return path.read_text()


def _began(path: Path) -> int:
    """The number of a holder's file: later ones have higher ones, whatever the clock did."""
    return int(path.stem.rpartition("-")[2])
