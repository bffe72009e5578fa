"""The journal: one append-only file per process that makes a call durable in microseconds.

A call is written when it opens and when it closes, before its caller gets the last byte. The file
is reserved on the disk and mapped into memory, so that a frame costs a copy and no system call: the
kernel owns the pages and keeps them when the process is killed. The writer folds closed calls into
the store in batches and then lets the file go. A killed process leaves its file behind; the next
one to start takes it over, stores what was closed and records what was only opened.

A file is a header and frames: length (4 bytes), CRC-32 (4 bytes), kind (1 byte), payload; then
anything. A frame that is cut short or fails its CRC ends the file: nothing after it was ever
acknowledged. The payload is copied before its head, so that a head never stands before nothing.

A file whose calls are all in the store is used again, since its pages are at hand; the header holds
a number that goes into every CRC, so that frames of an earlier use are no frames any more.
"""

import fcntl
import mmap
import os
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from struct import Struct

OPEN = 1
CLOSE = 2
INGEST = 3

_MAGIC = b"TOCSINJ2"
_HEADER = Struct("<8sI")
_HEAD = Struct("<IIB")
_MAX_FRAME = 256 * 1024 * 1024
_SPARES = 1
"""Files kept to be used again."""


class Segment:
    """One journal file. ``written`` counts its frames, ``settled`` those safe in the store.

    ``written`` is touched by the thread that serves calls alone, ``settled`` by the writer alone.
    """

    __slots__ = (
        "capacity",
        "fd",
        "map",
        "nonce",
        "path",
        "settled",
        "size",
        "spilled",
        "written",
    )

    def __init__(self, path: Path, fd: int, capacity: int) -> None:
        self.path = path
        self.fd = fd
        self.capacity = capacity
        self.map = mmap.mmap(fd, capacity)
        self.begin()

    def begin(self) -> None:
        """Be empty: new, or used again."""
        self.nonce = int.from_bytes(os.urandom(4), "little")
        _HEADER.pack_into(self.map, 0, _MAGIC, self.nonce)
        self.size = _HEADER.size
        self.written = 0
        self.settled = 0
        self.spilled = False
        """Whether it holds frames that are nowhere in memory: it must be replayed, not deleted."""


class Journal:
    """Appends frames for one process.

    The serving thread alone appends and rotates; the writer may ``release`` and ``forget``.
    """

    def __init__(self, folder: Path, *, segment_bytes: int = 2 * 1024 * 1024) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._number = 0
        self._old: list[Segment] = []
        self._spare: list[Segment] = []
        self._lock = threading.Lock()  # guards the list of files, never an append
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._current = self._create()

    def _create(self, room: int = 0) -> Segment:
        self._number += 1
        capacity = max(self._segment_bytes, room + _HEADER.size)
        path = self._folder / f"{time.time_ns()}-{os.getpid()}-{self._number:06d}.journal"
        with self._lock:
            spare = self._spare.pop() if self._spare else None
        if spare is not None:
            if spare.capacity >= capacity:
                spare.begin()
                spare.path.rename(path)
                spare.path = path
                return spare
            self._delete(spare)
        # Locked before it gets the name that others look for: nobody takes it for an orphan.
        # The lock is held while this process lives; who can take it may take the file over.
        hidden = path.with_suffix(".new")
        fd = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A full disk must be told here, as an error: a page that has no room behind it would
            # kill the process at the copy.
            os.posix_fallocate(fd, 0, capacity)
            segment = Segment(path, fd, capacity)
        except BaseException:
            hidden.unlink()
            os.close(fd)
            raise
        hidden.rename(path)
        return segment

    def append(self, kind: int, payload: bytes) -> Segment:
        """Write one frame; when this returns, a killed process does not lose it.

        Raises ``OSError`` when there is no room on the disk; then the frame does not exist.
        """
        segment = self._current
        start = segment.size + _HEAD.size
        end = start + len(payload)
        if end > segment.capacity:
            segment = self.rotate(_HEAD.size + len(payload))
            start = segment.size + _HEAD.size
            end = start + len(payload)
        segment.map[start:end] = payload
        _HEAD.pack_into(
            segment.map, segment.size, len(payload), zlib.crc32(payload, segment.nonce ^ kind), kind
        )
        segment.size = end
        segment.written += 1
        return segment

    def rotate(self, room: int = 0) -> Segment:
        """Begin a new file, with at least ``room`` bytes for frames.

        The old ones go once their frames are in the store. Raises ``OSError``.
        """
        fresh = self._create(room)
        # Its pages stay with the kernel; they are no memory of this process any more.
        self._current.map.madvise(mmap.MADV_DONTNEED)
        with self._lock:
            self._old.append(self._current)
            self._current = fresh
        self.release()
        return fresh

    def release(self) -> list[Segment]:
        """Delete the files whose frames are all in the store; returns those to be replayed."""
        with self._lock:
            done = [s for s in self._old if not s.spilled and s.settled >= s.written]
            self._old = [s for s in self._old if s not in done]
            spilled = [s for s in self._old if s.spilled]
            keep = [s for s in done if s.capacity == self._segment_bytes]
            keep = keep[: max(0, _SPARES - len(self._spare))]
            self._spare += keep
        for segment in done:
            if segment not in keep:
                self._delete(segment)
        return spilled

    def forget(self, segment: Segment) -> None:
        """Delete a spilled file after its replay."""
        with self._lock:
            self._old.remove(segment)
        self._delete(segment)

    @property
    def room(self) -> int:
        """Bytes that the payload of one more frame may have before a new file begins."""
        return self._current.capacity - self._current.size - _HEAD.size

    @property
    def crowded(self) -> bool:
        """Whether there are files besides the current one, which ``release`` may delete."""
        return bool(self._old)

    @property
    def spilled(self) -> bool:
        """Whether any file holds frames that are nowhere in memory."""
        with self._lock:
            return self._current.spilled or any(segment.spilled for segment in self._old)

    def seal_spilled(self) -> None:
        """Begin a new file if the current one has to be replayed. Raises ``OSError``."""
        if self._current.spilled:
            self.rotate()

    @staticmethod
    def _delete(segment: Segment) -> None:
        segment.path.unlink(missing_ok=True)
        segment.map.close()
        os.close(segment.fd)

    def sync(self) -> None:
        """Force what was appended to the disk. Blocks; call it from any thread."""
        os.fdatasync(self._current.fd)

    @property
    def pending(self) -> int:
        """Frames that are not yet known to be in the store."""
        with self._lock:
            segments = [*self._old, self._current]
        return sum(s.written - s.settled for s in segments)

    def close(self) -> None:
        """Let go; files that are fully settled are deleted, the others stay for the next start."""
        self._old.append(self._current)
        for segment in self._spare:
            self._delete(segment)
        for segment in self._old:
            if segment.settled >= segment.written and not segment.spilled:
                self._delete(segment)
            else:
                segment.map.close()
                os.close(segment.fd)
        self._old = []


def read_frames(path: Path) -> Iterator[tuple[int, bytes]]:
    """The whole frames of a journal file, in order; stops at the first damaged one."""
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return
        magic, nonce = _HEADER.unpack(header)
        if magic != _MAGIC:
            return
        while True:
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                return
            length, crc, kind = _HEAD.unpack(head)
            if kind == 0 or length > _MAX_FRAME:
                return
            payload = file.read(length)
            if len(payload) < length or zlib.crc32(payload, nonce ^ kind) != crc:
                return
            yield kind, payload


class Orphan:
    """A journal file that a dead process left, taken over by this one."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Its whole frames, in order."""
        return read_frames(self.path)

    def done(self) -> None:
        """Everything in it is stored: delete it."""
        self.path.unlink(missing_ok=True)
        os.close(self._fd)

    def leave(self) -> None:
        """Give it back; the next start tries again."""
        os.close(self._fd)


def orphans(folder: Path) -> Iterator[Orphan]:
    """Take over the files of processes that are gone, oldest first; live ones hold their locks."""
    if not folder.is_dir():
        return
    for path in sorted(folder.glob("*.journal")):  # named by the time at which they began
        try:
            fd = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        if not path.exists():  # its owner finished and deleted it while we waited for the lock
            os.close(fd)
            continue
        yield Orphan(path, fd)
