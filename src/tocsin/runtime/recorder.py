"""``Recorder``: makes each call durable as it opens and closes, and feeds the store in batches.

The serving thread writes the journal and hands entries over; one writer thread prices them and
appends them to the store. Nothing here raises into a call: what cannot be journaled is still
stored, what cannot be stored waits in the journal, and ``trouble`` says so.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from tocsin.core.call import Call
from tocsin.core.errors import StoreError
from tocsin.core.interaction import Entry, Interaction
from tocsin.core.messages import Message
from tocsin.core.threads import give_way
from tocsin.runtime import records
from tocsin.store.api import Store
from tocsin.store.journal import (
    CLOSE,
    INGEST,
    OPEN,
    Journal,
    Segment,
    orphans,
    read_frames,
)

log = logging.getLogger("tocsin.recorder")

_BATCH = 512
_LINGER_S = 0.05
"""How long the writer waits for company before it appends; a call is visible soon after."""
_MAX_QUEUED_BYTES = 24 * 1024 * 1024
_ENTRY_BYTES = 4000
"""What an entry takes in memory besides its bodies, about."""
_CROWDED = 512
_CROWDED_BYTES = 4 * 1024 * 1024
"""Entries waiting, and bytes, from which on calls give way to the writer."""

Enrich = Callable[[Entry], Entry]
Stored = Callable[[list[Entry]], None]


class _Item:
    """Entries on their way to the store, and the journal files that hold them meanwhile."""

    __slots__ = ("entries", "segments", "size")

    def __init__(self, entries: list[Entry], segments: tuple[Segment, ...], size: int) -> None:
        self.entries = entries
        self.segments = segments
        self.size = size


class Recorder:
    """Durable hand-over from calls to the store."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        *,
        enrich: Enrich = lambda entry: entry,
        ingest: Callable[[records.Ingested], Iterable[Entry]] = lambda record: (),
        stored: Stored = lambda entries: None,
        sync: bool = False,
        segment_bytes: int = 2 * 1024 * 1024,
    ) -> None:
        self._store = store
        self._folder = folder
        self._enrich = enrich
        self._ingest = ingest
        self._stored = stored
        self._sync = sync
        self._segment_bytes = segment_bytes
        self._journal: Journal | None = None
        self._open: dict[str, Segment | None] = {}
        self._queue: deque[_Item] = deque()
        self._queued_bytes = 0
        self._wake = threading.Event()
        self._turn = threading.Lock()
        """Held to say that nothing waits, and to give something: ``flush`` believes the one."""
        self._idle = threading.Event()
        self._idle.set()
        self._stop = False
        self._thread: threading.Thread | None = None
        self._syncing: asyncio.Future[None] | None = None
        self._store_trouble: str | None = None
        self._journal_trouble: str | None = None

    # -- life --

    def start(self) -> int:
        """Take over what dead processes left, then start to write. Returns entries recovered."""
        recovered = self._recover()
        self._journal = Journal(self._folder, segment_bytes=self._segment_bytes)
        self._thread = threading.Thread(target=self._run, name="tocsin-writer", daemon=True)
        self._thread.start()
        return recovered

    def _recover(self) -> int:
        """Store the entries of orphaned journals. A file that cannot be stored stays."""
        left = list(orphans(self._folder))
        if not left:
            return 0
        frames = (frame for orphan in left for frame in orphan.frames())
        count = 0
        try:
            batch: list[Entry] = []
            for entry in records.replay(frames, self._ingest):
                batch.append(self._enrich(entry))
                if len(batch) >= _BATCH:
                    count += self._store.append(batch)
                    batch = []
            count += self._store.append(batch)
        except BaseException:
            for orphan in left:
                orphan.leave()
            raise
        for orphan in left:
            orphan.done()
        return count

    def close(self) -> None:
        """Write what waits, stop the writer, leave the journal for whatever could not be stored."""
        self._stop = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=30)
            self._thread = None
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    # -- the serving thread --

    def open(self, call: Call) -> None:
        """Journal that a call was taken in."""
        self._open[call.id] = self._write(OPEN, records.opened(call))

    def finish(
        self,
        call: Call,
        interaction: Interaction,
        *,
        output: Message | None,
        response: bytes | None,
    ) -> None:
        """Journal how a call ended, and queue it for the store. Once for each opened call."""
        first = self._open.pop(call.id, None)
        raw = output.raw if output is not None else None
        second = self._write(CLOSE, records.Closed(interaction, raw, response))
        entry = records.entry(
            interaction,
            messages=call.messages,
            nodes=call.nodes,
            params=call.params,
            body=call.body,
            output=output,
            response=response,
        )
        size = len(call.body) + (len(raw) if raw else 0) + (len(response) if response else 0)
        segments = tuple([s for s in (first, second) if s is not None])
        self._push(_Item([entry], segments, size + _ENTRY_BYTES))

    def ingest(self, record: records.Ingested, entries: list[Entry]) -> None:
        """Journal a batch that came as traces, and queue its entries."""
        segment = self._write(INGEST, record)
        segments = () if segment is None else (segment,)
        self._push(_Item(entries, segments, len(record.body) + len(entries) * _ENTRY_BYTES))

    def add(self, entries: list[Entry]) -> None:
        """Queue entries that need no journal (a file being replayed can be read again)."""
        self._push(_Item(entries, (), len(entries) * _ENTRY_BYTES))

    def _write(self, kind: int, record: object) -> Segment | None:
        if self._journal is None:
            return None
        try:
            segment = self._journal.append(kind, records.encode(record))
        except OSError as error:
            self._journal_trouble = f"the journal in {self._folder} cannot be written: {error}"
            log.error("%s; calls go on, recorded in memory only", self._journal_trouble)
            return None
        self._journal_trouble = None
        return segment

    def _push(self, item: _Item) -> None:
        if self._queued_bytes > _MAX_QUEUED_BYTES and item.segments:
            # The store is far behind: what is in the journal need not be in memory too.
            for segment in item.segments:
                segment.spilled = True
            return
        self._queued_bytes += item.size
        with self._turn:
            self._queue.append(item)
            if self._idle.is_set():
                self._idle.clear()
                self._wake.set()

    def tick(self) -> None:
        """Call about once a second from the serving thread: lets spilled records be replayed."""
        journal = self._journal
        if journal is not None and journal.spilled and self._queued_bytes < _MAX_QUEUED_BYTES // 2:
            journal.seal_spilled()
            with self._turn:
                self._idle.clear()
                self._wake.set()

    async def durable(self) -> None:
        """Return when everything journaled so far is as durable as configured.

        When the writer falls behind, this also gives way to it, the longer the more is waiting: the
        interpreter runs one thread at a time, and a busy loop would starve the writer until memory
        and journals are full.
        """
        pressure = max(len(self._queue) / _CROWDED, self._queued_bytes / _CROWDED_BYTES)
        if pressure > 1:
            await asyncio.sleep(min(0.1, pressure * pressure * 0.004))
        if not self._sync or self._journal is None:
            return
        # One fsync serves all who asked before it began; who asks while it runs shares the next.
        running = self._syncing
        if running is not None:
            await asyncio.shield(running)
            if self._syncing is not running and self._syncing is not None:
                await asyncio.shield(self._syncing)
                return
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(None, self._journal.sync)
        self._syncing = future
        await asyncio.shield(future)

    @property
    def trouble(self) -> str | None:
        """What keeps records from the journal or the store just now; ``None`` when all is well."""
        return self._journal_trouble or self._store_trouble

    @property
    def queued(self) -> int:
        """Entries that wait for the store."""
        return len(self._queue)

    @property
    def behind(self) -> bool:
        """Whether the store is so far behind that new traces should be refused for a while."""
        return self._queued_bytes > _MAX_QUEUED_BYTES // 2

    @property
    def in_flight(self) -> int:
        """Calls that are open now."""
        return len(self._open)

    async def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until everything handed over is in the store. Raises ``StoreError`` on timeout."""
        until = time.monotonic() + timeout_s
        while await asyncio.to_thread(self._idle.wait, max(0.0, until - time.monotonic())):
            if self._journal is None or not self._journal.spilled:
                return
            self.tick()  # what did not fit in memory is still to be read from the journal
        raise StoreError(f"records still wait after {timeout_s:g} s: {self.trouble or 'busy'}")

    # -- the writer thread --

    def _run(self) -> None:
        give_way()  # a batch must not hold up a call that could run
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._queue:
                if not self._stop and len(self._queue) < _BATCH:
                    time.sleep(_LINGER_S)
                self._append_some()
            self._replay_spilled()
            with self._turn:
                if self._queue:
                    self._wake.set()
                    continue
                self._idle.set()
            if self._stop:
                return

    def _append_some(self) -> None:
        """Append one batch; wait and try again while the store refuses."""
        items: list[_Item] = []
        count = 0
        while self._queue and count < _BATCH:
            item = self._queue.popleft()
            items.append(item)
            count += len(item.entries)
        entries = [self._enriched(entry) for item in items for entry in item.entries]
        if not self._store_entries(entries):
            return  # stopping: the journal keeps them
        for item in items:
            self._queued_bytes -= item.size
            for segment in item.segments:
                segment.settled += 1
        journal = self._journal
        if journal is not None and journal.crowded:
            journal.release()
        try:
            self._stored(entries)
        except Exception:
            log.exception("an observer of stored records failed; the records are safe")

    def _enriched(self, entry: Entry) -> Entry:
        try:
            return self._enrich(entry)
        except Exception:
            log.exception("pricing failed for %s; recorded without", entry.interaction.id)
            return entry

    def _store_entries(self, entries: list[Entry]) -> bool:
        """Append, with patience. False only when told to stop while the store refuses."""
        pause = 0.1
        while True:
            try:
                self._store.append(entries)
            except StoreError as error:
                self._store_trouble = str(error)
                log.error("the store refuses records, they wait in the journal: %s", error)
                if self._stop:
                    return False
                time.sleep(pause)
                pause = min(pause * 2, 5.0)
            except Exception:
                log.exception("a batch cannot be stored; trying its records one by one")
                self._one_by_one(entries)
                return True
            else:
                self._store_trouble = None
                return True

    def _one_by_one(self, entries: list[Entry]) -> None:
        """Store what can be stored; name what cannot."""
        for entry in entries:
            try:
                self._store.append([entry])
            except Exception:
                log.exception("record %s cannot be stored and is lost", entry.interaction.id)

    def _replay_spilled(self) -> None:
        """Store from the journal what did not fit in memory."""
        journal = self._journal
        if journal is None:
            return
        for segment in journal.release():
            alive = frozenset(self._open)
            batch = [
                self._enriched(entry)
                for entry in records.replay(read_frames(segment.path), self._ingest, alive=alive)
            ]
            for start in range(0, len(batch), _BATCH):
                if not self._store_entries(batch[start : start + _BATCH]):
                    return
            journal.forget(segment)
