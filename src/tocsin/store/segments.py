"""Segments: the log as zstd Parquet files, written behind it, for DuckDB to read.

What counts stands in the ``segments`` table: a file that is not there is garbage, whatever it
holds. All of it is made from the records, so losing every file loses nothing.
"""

import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from tocsin.core.clock import Clock
from tocsin.core.errors import StoreError, StoreFull
from tocsin.store import facts
from tocsin.store.api import Problem, Progress
from tocsin.store.database import Database, Row, Session
from tocsin.store.parquet import ParquetWriter

TARGET_ROWS = 262_144
_MERGE_COUNT = 8
_READ_ROWS = 2000
_LEASE_US = 60_000_000
_GARBAGE_S = 120.0
_PAUSE_S = 0.001
_CHUNK = 1 << 20
_TAIL = ".tail-"


class Segment(msgspec.Struct, frozen=True):
    """One file that counts. ``first_seq`` and ``last_seq`` are the range that it stands for."""

    file: str
    first_seq: int
    last_seq: int
    rows: int
    size: int
    digest: bytes


class Purge(msgspec.Struct, frozen=True):
    """A deletion that segments have to follow."""

    id: int
    max_seq: int
    before_at: int
    before_seq: int
    seqs: tuple[int, ...]

    def touches(self, segment: Segment) -> bool:
        """Whether it may have deleted rows of this segment."""
        if self.seqs:
            return any(segment.first_seq <= seq <= segment.last_seq for seq in self.seqs)
        return segment.first_seq <= self.max_seq


class Manifest(msgspec.Struct, frozen=True):
    """What a reader needs: the segments, up to where they go, and what was deleted since."""

    segments: tuple[Segment, ...]
    folded_seq: int
    last_seq: int
    epoch: int
    purges: tuple[Purge, ...]


class Segments:
    """The segment files of one data folder."""

    def __init__(self, database: Database, folder: Path, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._owner = secrets.token_hex(8)
        self._name = ""
        self.folder = folder

    # -- reading --

    def manifest(self, session: Session) -> Manifest:
        """As one snapshot has it."""
        head = session.one("last_seq") or (0, 0)
        name = self._folder_name()
        state = session.one("fold_state", (name,)) if name else None
        if state is None:
            return Manifest((), 0, head[0], head[1], ())
        return Manifest(
            segments=tuple(_segment(row) for row in session.all("segments", (name,))),
            folded_seq=state[0],
            last_seq=head[0],
            epoch=head[1],
            purges=tuple(_purge(row) for row in session.all("purges_after", (state[1],))),
        )

    def bytes(self) -> int:
        """What the files that count take on disk."""
        with self._database.read() as session:
            return sum(segment.size for segment in self.manifest(session).segments)

    def path(self, segment: Segment) -> Path:
        """Where a segment's file lies."""
        return self.folder / segment.file

    def tail_folder(self) -> Path:
        """Where this process may keep what is in no segment yet, until it ends."""
        return self.folder / f"{_TAIL}{os.getpid()}-{self._owner}"

    def problems(self, progress: Progress | None = None) -> Iterator[Problem]:
        """Segments whose file is missing or is not what was written."""
        with self._database.read() as session:
            segments = self.manifest(session).segments
        for number, segment in enumerate(segments, 1):
            message = ""
            try:
                if _digest(self.path(segment)) != segment.digest:
                    message = "The segment is not what was written; run `tocsin rebuild`."
            except FileNotFoundError:
                message = "The segment's file is missing; run `tocsin rebuild`."
            except OSError as error:
                message = f"The segment's file cannot be read: {error}."
            if message:
                yield Problem(kind="segment", id=segment.file, message=message)
            if progress is not None:
                progress(number, len(segments))

    # -- folding --

    def fold(self) -> int:
        """Fold what waits, follow deletions, merge what is small; returns the rows folded."""
        with self._lease() as held:
            if not held:
                return 0
            self._follow_purges()
            folded = self._fold_waiting(None)
            self._merge_small()
            self._collect_garbage()
            return folded

    def follow(self) -> None:
        """Take deleted rows out of the files now; another process's fold may be doing it."""
        with self._lease() as held:
            if held:
                self._follow_purges()
                self._collect_garbage()

    def rebuild(self, progress: Progress | None) -> int:
        """Make every file again. Raises ``StoreError`` while another process folds."""
        with self._lease() as held:
            if not held:
                raise StoreError(
                    f"Another process is folding into {self.folder}; stop it or try again later."
                )
            with self._database.write() as session:
                old = self.manifest(session).segments
                session.run("drop_all_segments", (self._name,))
                session.run("restart_fold", (self._lease_end(), self._name, self._owner))
            for segment in old:
                self.path(segment).unlink(missing_ok=True)
            folded = self._fold_waiting(progress)
            self._collect_garbage()
            return folded

    def _fold_waiting(self, progress: Progress | None) -> int:
        with self._database.read() as session:
            manifest = self.manifest(session)
        first, total = manifest.folded_seq, 0
        while first < manifest.last_seq:
            segment = self._write(first, manifest.last_seq, TARGET_ROWS, progress)
            with self._database.write() as session:
                self._keep_lease(session, "advance_fold", segment.last_seq)
                if segment.rows:
                    self._add(session, segment)
            first = segment.last_seq
            total += segment.rows
        return total

    def _write(self, after: int, last: int, most: int, progress: Progress | None = None) -> Segment:
        """Write the rows after one number up to another, or the first ``most`` of them."""
        name = f"{after + 1:012}-{secrets.token_hex(4)}.parquet"
        path = self.folder / name
        rows = 0
        at = after
        with _explained(self.folder), ParquetWriter(path, facts.COLUMNS) as writer:
            while rows < most:
                with self._database.read() as session:
                    found = facts.rows_between(session, at, last, min(_READ_ROWS, most - rows))
                if not found:
                    at = last
                    break
                writer.add(found)
                rows += len(found)
                at = found[-1][0]
                if progress is not None:
                    progress(at, last)
                # Let the event loop beside us breathe.
                time.sleep(_PAUSE_S)
        if not rows:
            path.unlink()
            return Segment(name, after + 1, at, 0, 0, b"")
        return Segment(name, after + 1, at, rows, path.stat().st_size, _digest(path))

    def _add(self, session: Session, segment: Segment) -> None:
        session.run("add_segment", (self._name, *msgspec.structs.astuple(segment)))

    def _replace(self, old: Sequence[Segment], new: Segment) -> None:
        with self._database.write() as session:
            self._check_lease(session)
            session.run_after_list("drop_segments", (self._name,), [s.file for s in old])
            if new.rows:
                self._add(session, new)
        # A reader that still wants them looks again; what was deleted must not stay.
        for segment in old:
            self.path(segment).unlink(missing_ok=True)

    def _follow_purges(self) -> None:
        """Write again every segment that lost rows."""
        with self._database.read() as session:
            manifest = self.manifest(session)
        if not manifest.purges:
            return
        for segment in manifest.segments:
            touching = [purge for purge in manifest.purges if purge.touches(segment)]
            if touching and self._lost_rows(segment):
                new = self._write(segment.first_seq - 1, segment.last_seq, segment.rows + 1)
                self._replace([segment], msgspec.structs.replace(new, last_seq=segment.last_seq))
        with self._database.write() as session:
            self._keep_lease(session, "set_purged", manifest.purges[-1].id)
            session.run("drop_applied_purges")

    def _lost_rows(self, segment: Segment) -> bool:
        with self._database.read() as session:
            row = session.one("count_between", (segment.first_seq, segment.last_seq))
        return row is not None and row[0] != segment.rows

    def _merge_small(self) -> None:
        """Merge neighbours until they are large; each merge reads the records again."""
        while True:
            with self._database.read() as session:
                segments = self.manifest(session).segments
            group = _small_neighbours(segments)
            if not group:
                return
            rows = sum(segment.rows for segment in group)
            first, last = group[0].first_seq, group[-1].last_seq
            new = self._write(first - 1, last, rows + 1)
            self._replace(group, msgspec.structs.replace(new, last_seq=last))

    def _collect_garbage(self) -> None:
        """Remove files that do not count, once no reader can still want them."""
        with self._database.read() as session:
            wanted = {segment.file for segment in self.manifest(session).segments}
        oldest = time.time() - _GARBAGE_S
        for path in self.folder.iterdir():
            if path.name.endswith((".parquet", ".part")) and path.name not in wanted:
                with suppress(OSError):
                    if path.stat().st_mtime < oldest:
                        path.unlink()
            elif path.name.startswith(_TAIL) and not _runs(path.name):
                shutil.rmtree(path, ignore_errors=True)

    # -- whose turn it is --

    @contextmanager
    def _lease(self) -> Iterator[bool]:
        name = self._folder_name(create=True)
        now = self._clock.now_us()
        lease = (self._owner, now + _LEASE_US, name, now, self._owner)
        with self._database.write() as session:
            session.run("add_fold", (name,))
            held = session.run("take_lease", lease) == 1
        try:
            yield held
        finally:
            if held:
                self._let_go()

    def _let_go(self) -> None:
        with self._database.write() as session:
            session.run("release_lease", (self._name, self._owner))

    def _lease_end(self) -> int:
        return self._clock.now_us() + _LEASE_US

    def _keep_lease(self, session: Session, query: str, value: int) -> None:
        """Advance and renew in one statement. Raises ``StoreError`` when the turn was lost."""
        if session.run(query, (value, self._lease_end(), self._name, self._owner)) != 1:
            raise StoreError("Folding took so long that another process took over.")

    def _check_lease(self, session: Session) -> None:
        now = self._clock.now_us()
        lease = (self._owner, self._lease_end(), self._name, now, self._owner)
        if session.run("take_lease", lease) != 1:
            raise StoreError("Folding took so long that another process took over.")

    def _folder_name(self, *, create: bool = False) -> str:
        """What this folder is called in the database; empty while there is none."""
        if self._name:
            return self._name
        path = self.folder / "folder-id"
        try:
            if create and not path.exists():
                self.folder.mkdir(parents=True, exist_ok=True)
                # Two processes may race: the first name that is there stays.
                mine = self.folder / f".{self._owner}"
                mine.write_text(secrets.token_hex(8))
                with suppress(FileExistsError):
                    os.link(mine, path)
                mine.unlink()
            self._name = path.read_text().strip()
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise StoreError(f"The folder {self.folder} cannot be used: {error}.") from error
        return self._name


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """File errors as errors that say what to do."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StoreFull(
                f"No room for segments in {folder}: free disk space, or lower store.keep_days or "
                "store.max_gib."
            ) from error
        raise StoreError(f"Segments cannot be written to {folder}: {error}.") from error


def _small_neighbours(segments: Sequence[Segment]) -> list[Segment]:
    """The first group of neighbouring segments that is worth a merge."""
    group: list[Segment] = []
    rows = 0
    for segment in segments:
        if segment.rows >= TARGET_ROWS // 2 or rows + segment.rows > TARGET_ROWS:
            if len(group) > 1 and rows >= TARGET_ROWS // 2:
                return group
            group, rows = [], 0
        if segment.rows < TARGET_ROWS // 2:
            group.append(segment)
            rows += segment.rows
    return group if len(group) >= _MERGE_COUNT else []


def _runs(tail: str) -> bool:
    """Whether the process that a tail's folder belongs to is still there."""
    try:
        os.kill(int(tail.removeprefix(_TAIL).split("-")[0]), 0)
    except (ProcessLookupError, ValueError):
        return False
    except OSError:
        return True
    return True


def _segment(row: Row) -> Segment:
    return Segment(row[0], row[1], row[2], row[3], row[4], bytes(row[5]))


def _purge(row: Row) -> Purge:
    return Purge(row[0], row[1], row[2], row[3], tuple(msgspec.json.decode(row[4])))


def _digest(path: Path) -> bytes:
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
    return digest.digest()


def purge_rows(purges: Sequence[Purge]) -> list[tuple[str, list[Any]]]:
    """Conditions, with their parameters, that rows which were deleted meet."""
    found: list[tuple[str, list[Any]]] = []
    for purge in purges:
        if purge.seqs:
            found.append((f"seq IN ({', '.join('?' * len(purge.seqs))})", list(purge.seqs)))
        else:
            condition = "(seq <= ? AND (started_at < ? OR (started_at = ? AND seq < ?)))"
            edge = [purge.max_seq, purge.before_at, purge.before_at, purge.before_seq]
            found.append((condition, edge))
    return found
