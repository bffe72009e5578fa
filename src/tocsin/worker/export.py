"""OpenTelemetry out: every stored interaction goes to a collector as well, in order, with retry."""

import logging
from collections.abc import Callable, Sequence

from tocsin.core.errors import StoreError
from tocsin.core.interaction import Entry
from tocsin.providers import HttpClient, HttpRequest, Timeouts, Url
from tocsin.store.api import Store
from tocsin.worker.jobs import Job
from tocsin.worker.quiet import quietly

log = logging.getLogger("tocsin.export")

CONSUMER = "otlp-export"
_BATCH = 200

Encode = Callable[[Sequence[Entry]], bytes]


class Exporter:
    """Sends appended interactions to one OTLP/HTTP collector; the cursor moves when it says yes."""

    def __init__(
        self,
        store: Store,
        client: HttpClient,
        *,
        endpoint: str,
        headers: tuple[tuple[bytes, bytes], ...],
        encode: Encode,
        content: bool,
    ) -> None:
        self._store = store
        self._client = client
        base = endpoint.rstrip("/")
        full = base if base.endswith("/v1/traces") else base + "/v1/traces"
        self._url = Url.parse(full)
        self._headers = ((b"content-type", b"application/x-protobuf"), *headers)
        self._encode = encode
        self._content = content

    def job(self) -> Job:
        """The worker's job of sending what is new."""
        return Job(name=CONSUMER, every_s=1.0, run=self.step)

    async def step(self) -> bool:
        """Send one batch. Returns whether there is more. Raises ``StoreError`` on a refusal."""
        seq, entries = await quietly(self._next)
        if not entries:
            return False
        body = await quietly(self._encode, entries)
        response = await self._client.send(
            HttpRequest(
                method="POST",
                url=self._url,
                target=self._url.tail,
                headers=self._headers,
                body=body,
                timeouts=Timeouts(connect=5, first_byte=30, idle=30, total=60),
            )
        )
        answer = await response.read()
        if response.status in (429, 502, 503, 504):
            raise StoreError(f"the collector answers {response.status}; its spans are sent later")
        if response.status >= 400:
            # It will never take these: going on is better than standing still for ever.
            log.error("the collector refuses %d spans: %r", len(entries), answer[:500])
        await quietly(self._store.set_cursor, CONSUMER, seq)
        return len(entries) >= _BATCH

    def _next(self) -> tuple[int, list[Entry]]:
        rows = self._store.after(self._store.cursor(CONSUMER), limit=_BATCH)
        entries = []
        for _, interaction in rows:
            entry = self._store.entry(interaction.id) if self._content else None
            entries.append(entry or Entry(interaction=interaction))
        return (rows[-1][0] if rows else 0), entries
