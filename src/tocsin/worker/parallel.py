"""Scoring on several cores: processes score batches, and the answers come back in order."""

import functools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Self

import msgspec

from tocsin.core.interaction import Entry
from tocsin.core.signals import Scored, Signal
from tocsin.store.api import Progress, Store
from tocsin.worker.evaluating import BEGUN, CONSUMER, HISTORY, Scoring

Begin = Callable[[bytes], Scoring]
"""Makes the scoring of a process out of its settings. A function of a module: its name is sent."""

_AHEAD = 2
_BATCH = 250

_encode_entries = msgspec.msgpack.Encoder().encode
_decode_entries = msgspec.msgpack.Decoder(list[Entry]).decode
_decode_rows = msgspec.msgpack.Decoder(list[Scored]).decode


class Scorers:
    """Batches in, scored batches out, in the order in which they were given."""

    def __init__(self, begin: Begin, settings: bytes, processes: int) -> None:
        self._begin = begin
        self._settings = settings
        self._most = processes * _AHEAD
        # Not forked: a copy of a process with threads and open stores is none to trust.
        self._pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
        self._waiting: deque[tuple[int, int, Future[bytes]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def room(self) -> bool:
        """Whether another batch can be given without piling up."""
        return len(self._waiting) < self._most

    def give(self, after: int, upto: int, entries: Sequence[Entry]) -> None:
        """Begin to score the entries between two places of the log."""
        data = _encode_entries(entries)
        future = self._pool.submit(_score, self._begin, self._settings, data)
        self._waiting.append((after, upto, future))

    def take(self) -> tuple[int, int, list[Scored]] | None:
        """The oldest batch, scored; ``None`` when none was given. Blocks."""
        if not self._waiting:
            return None
        after, upto, future = self._waiting.popleft()
        return after, upto, _decode_rows(future.result())

    def drop(self) -> None:
        """Forget the batches that were given."""
        for _, _, future in self._waiting:
            future.cancel()
        self._waiting.clear()


def evaluate_on_cores(
    store: Store,
    catalogue: Mapping[str, Signal],
    begin: Begin,
    settings: bytes = b"",
    *,
    processes: int = 2,
    progress: Progress | None = None,
) -> int:
    """Score everything that is recorded and not scored yet; returns how many calls.

    As ``evaluate_all``, on several cores and without feedback. This process reads, keeps and adds
    up, the ``processes`` score; memory stays flat. Safe beside others that evaluate. Raises
    ``StoreError``.
    """
    first = at = store.cursor(CONSUMER)
    store.set_cursor(BEGUN, 1)
    newest = store.stats().last_seq
    done = 0
    with Scorers(begin, settings, processes) as scorers:
        while True:
            while scorers.room:
                rows = store.recorded_after(at, limit=_BATCH, last=HISTORY)
                if not rows:
                    break
                scorers.give(at, rows[-1][0], [entry for _, entry in rows])
                at = rows[-1][0]
            found = scorers.take()
            if found is None:
                return done
            after, upto, scored = found
            if store.add_scores(scored, catalogue, consumer=CONSUMER, after=after, upto=upto):
                done += len(scored)
            else:
                # Another process was faster: go on behind it.
                scorers.drop()
                at = store.cursor(CONSUMER)
            if progress is not None:
                newest = newest if upto <= newest else store.stats().last_seq
                progress(upto - first, newest - first)


@functools.cache
def _made(begin: Begin, settings: bytes) -> Scoring:
    return begin(settings)


def _score(begin: Begin, settings: bytes, data: bytes) -> bytes:
    scoring = _made(begin, settings)
    return _encode_entries([scoring.score(entry) for entry in _decode_entries(data)])
