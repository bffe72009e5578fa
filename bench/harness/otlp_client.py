"""Threads that post OTLP batches and remember which were acknowledged."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Sequence

from harness.servers import Server

Batch = tuple[list[str], bytes]
"""Span ids (hex) of one request, and its bytes."""


class Client:
    """Posts every batch once, from several threads; starts at once."""

    def __init__(
        self, to: Server, load: Sequence[Batch], *, threads: int, per_second: float = 0
    ) -> None:
        """``per_second`` batches are sent by all threads together; 0: as fast as they are taken."""
        self.to = to
        self._every = 1 / per_second if per_second else 0.0
        self._due = time.monotonic()
        self.acked: list[list[str]] = []
        self.seconds: list[float] = []
        self.retries = 0
        self.errors: dict[str, int] = {}
        self._left = iter(load)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send nothing new; what is under way ends by itself."""
        self._stop.set()

    def join(self, seconds: float = 120) -> None:
        """Wait until all threads are done, at most that long."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def running(self) -> bool:
        """True while batches are left to send."""
        return any(thread.is_alive() for thread in self._threads)

    def percentile(self, part: float) -> float | None:
        """That quantile of the time to an acknowledgement, in milliseconds."""
        ordered = sorted(self.seconds)
        return 1000 * ordered[int(part * (len(ordered) - 1))] if ordered else None

    def _work(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.to.port, timeout=60)
        while not self._stop.is_set():
            with self._lock:
                batch = next(self._left, None)
                self._due += self._every
                pause = self._due - time.monotonic()
            if self._every and pause > 0:
                time.sleep(pause)
            if batch is None:
                break
            connection = self._deliver(connection, batch)
        connection.close()

    def _deliver(
        self, connection: http.client.HTTPConnection, batch: Batch
    ) -> http.client.HTTPConnection:
        """Send one batch until it is taken or refused for good."""
        while True:
            began = time.perf_counter()
            try:
                connection.request("POST", "/v1/traces", body=batch[1], headers=self.to.headers)
                reply = connection.getresponse()
                reply.read()
                result = str(reply.status)
            except (OSError, http.client.HTTPException) as error:
                result = type(error).__name__
                connection.close()
                connection = http.client.HTTPConnection("127.0.0.1", self.to.port, timeout=60)
            with self._lock:
                if result == "200":
                    self.acked.append(batch[0])
                    self.seconds.append(time.perf_counter() - began)
                    return connection
                busy = result in ("429", "503") and not self._stop.is_set()
                if not busy:
                    self.errors[result] = self.errors.get(result, 0) + 1
                    return connection
                self.retries += 1
            time.sleep(0.05)


def visible_after(one: Server, count: int, *, seconds: float, every: float = 0.01) -> bool:
    """Poll the server's API until it shows at least ``count`` spans; False when time runs out."""
    end = time.monotonic() + seconds
    while one.visible() < count:
        if time.monotonic() > end:
            return False
        time.sleep(every)
    return True
