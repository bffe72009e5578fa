"""The tries of a delivery: when it is sent again, when it is given up, who hears of that.

The store hands each due delivery to one process for a while, so two never send it at once. A
process that dies between sending and writing down that it has sent leaves it due: the receiver gets
the same ``webhook-id`` a second time, by which it knows it. That is "at least once".
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import msgspec

from tocsin.core.clock import Clock
from tocsin.core.domain import Alert
from tocsin.core.redact import redact
from tocsin.operations.webhooks import NoSecret, Webhooks, is_callback, is_own
from tocsin.store.operations_api import Delivery, DeliveryState, EndpointRow, OperationsBook

log = logging.getLogger("tocsin.webhooks")

DETECTOR = "webhooks"
DELAYS_S = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Mean pauses between tries, as Standard Webhooks recommends: ten tries in about three days."""
LEASE_S = 60
"""How long a due delivery belongs to the process that took it; longer than any try."""
AT_ONCE = 32
"""Most tries that are under way in a process, and of them to one URL:"""
AT_ONCE_EACH = 8

_US = 1_000_000
_MOST_RETRY_AFTER_S = 86_400
_HELD_BACK_S, _HELD_BACK_LONG_S = 1, 15
_ERROR_CHARACTERS = 300


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One try, ready to be sent."""

    url: str
    headers: dict[str, str]
    body: bytes
    given: bool
    """Whether a caller gave the URL, and not whoever configured Tocsin."""


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a try. ``hopeless``: no other try can end differently."""

    status: int | None = None
    retry_after: str = ""
    """The header, as it came."""
    error: str = ""
    hopeless: bool = False


Send = Callable[[Message], Awaitable[Sent]]
"""Posts a message and does not raise."""


class Sender:
    """Sends what is due. On one event loop; what touches the store runs in threads."""

    def __init__(
        self,
        book: OperationsBook,
        webhooks: Webhooks,
        clock: Clock,
        send: Send,
        alert: Callable[[Alert], None],
        *,
        owner: str,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._book = book
        self._webhooks = webhooks
        self._clock = clock
        self._send = send
        self._alert = alert
        self._owner = owner
        self._jitter = jitter
        self._busy: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._fine: set[str] = set()
        self._failing: set[str] = set()

    async def step(self) -> int:
        """Begin to send what is due, as far as there is room. Returns how many tries began."""
        room = AT_ONCE - len(self._tasks)
        if room <= 0:
            return 0
        due, gone = await asyncio.to_thread(self._due, room)
        begun = 0
        for row in due:
            url = self._webhooks.url(row)
            if url in gone:
                await self._save(self._ended(row, "disabled", last_error="its receiver is gone"))
            elif self._busy[url] >= AT_ONCE_EACH:
                # One receiver that is slow must not keep the others waiting.
                pause = _HELD_BACK_LONG_S if url in self._failing else _HELD_BACK_S
                held = self._clock.now_us() + pause * _US
                await self._save(msgspec.structs.replace(row, next_at=held))
            else:
                self._begin(row, url)
                begun += 1
        return begun

    async def moved(self, timeout_s: float) -> None:
        """Return when a try has ended: there may be room for more."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)

    async def settled(self) -> None:
        """Return when the tries that are under way have ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self, grace_s: float = 5.0) -> None:
        """Wait a little for what is under way, then cut it: it is due again after its lease."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _due(self, room: int) -> tuple[list[Delivery], set[str]]:
        now = self._clock.now_us()
        due = self._book.due_deliveries(self._owner, now, until=now + LEASE_S * _US, limit=room)
        return due, {row.url for row in self._book.disabled_endpoints()} if due else set()

    def _begin(self, row: Delivery, url: str) -> None:
        self._busy[url] += 1
        task = asyncio.create_task(self._try(msgspec.structs.replace(row, url=url)))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._over(done, url))

    def _over(self, task: "asyncio.Task[None]", url: str) -> None:
        self._tasks.discard(task)
        self._busy[url] -= 1
        if not self._busy[url]:
            del self._busy[url]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("what came of a delivery could not be kept, it is sent again: %s", error)

    async def _try(self, row: Delivery) -> None:
        now = self._clock.now_us()
        try:
            message = Message(
                url=row.url,
                headers=self._webhooks.headers(row, now),
                body=row.payload,
                given=is_own(row.endpoint),
            )
        except NoSecret as error:
            sent = Sent(error=str(error))
        else:
            sent = await self._send(message)
        await self._judge(row, sent)

    async def _judge(self, row: Delivery, sent: Sent) -> None:
        """Write down what came of a try."""
        now = self._clock.now_us()
        tried = msgspec.structs.replace(
            row,
            attempts=row.attempts + 1,
            last_at=now,
            last_status=sent.status,
            last_error=_said(sent),
        )
        if sent.status is not None and 200 <= sent.status < 300:
            await self._save(self._ended(tried, "delivered"))
            self._failing.discard(row.url)
            self._recovered(tried, now)
            return
        self._failing.add(row.url)
        if sent.status == 410:
            await self._gone(tried, now)
        elif sent.hopeless or tried.attempts > len(DELAYS_S):
            await self._save(self._ended(tried, "failed"))
            tries = "try" if tried.attempts == 1 else "tries"
            self._complain(
                tried, now, f"given up after {tried.attempts} {tries}: {tried.last_error}"
            )
        else:
            pause = self._pause_us(tried.attempts, sent.retry_after, now)
            await self._save(msgspec.structs.replace(tried, next_at=now + pause))

    async def _gone(self, row: Delivery, now: int) -> None:
        """The receiver wants nothing any more. A callback's URL is a caller's word: what it says is
        about this message, and shuts nobody else's webhook."""
        await self._save(self._ended(row, "disabled"))
        reason = "it answered 410 Gone"
        if is_callback(row.endpoint):
            self._complain(row, now, reason)
            return
        gone = EndpointRow(url=row.url, disabled_at=now, reason=reason)
        await asyncio.to_thread(self._book.disable_endpoint, gone)
        self._complain(row, now, f"{reason}: no further message is sent there")

    def _pause_us(self, attempts: int, retry_after: str, now: int) -> int:
        """Between half and one and a half times the mean pause; at least what was asked for."""
        mean = DELAYS_S[attempts - 1]
        pause = round(mean * (0.5 + self._jitter()) * _US)
        asked = min(retry_after_s(retry_after, now), _MOST_RETRY_AFTER_S)
        return max(pause, round(asked * _US))

    def _ended(self, row: Delivery, state: DeliveryState, **more: object) -> Delivery:
        fields = {"state": state, "ended_at": self._clock.now_us(), **more}
        return msgspec.structs.replace(row, **fields)

    async def _save(self, row: Delivery) -> None:
        await asyncio.to_thread(self._book.save_delivery, row)

    # -- who hears of it --

    def _complain(self, row: Delivery, now: int, why: str) -> None:
        fingerprint = _fingerprint(row)
        self._fine.discard(fingerprint)
        log.warning("webhook %s to %s: %s", row.endpoint, shown(row.url), why)
        self._alert(
            Alert(
                fingerprint=fingerprint,
                detector=DETECTOR,
                feature="",
                severity="warning",
                state="firing",
                at=now,
                summary=f"Webhook {row.endpoint!r} to {shown(row.url)}: {why}. "
                f"Send it again with `tocsin webhooks replay {row.id}`.",
            )
        )

    def _recovered(self, row: Delivery, now: int) -> None:
        """A message came through: an alert about this receiver, of any process, is over."""
        fingerprint = _fingerprint(row)
        if fingerprint in self._fine:
            return
        self._fine.add(fingerprint)
        self._alert(
            Alert(
                fingerprint=fingerprint,
                detector=DETECTOR,
                feature="",
                severity="warning",
                state="resolved",
                at=now,
                summary=f"Webhook {row.endpoint!r} to {shown(row.url)}: messages arrive again.",
            )
        )


def retry_after_s(text: str, now_us: int) -> float:
    """Seconds of a ``Retry-After`` header, a number or a date; 0 when it says nothing."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError):
        return 0.0
    return max(0.0, at.timestamp() - now_us / _US)


def shown(url: str) -> str:
    """A URL for people: the rest of it may be a secret, as chat services have it."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}"


def _said(sent: Sent) -> str:
    if sent.error:
        return redact(sent.error)[:_ERROR_CHARACTERS]
    if sent.status is None or 200 <= sent.status < 300:
        return ""
    if 300 <= sent.status < 400:
        return f"it answered {sent.status}, and redirects are not followed"
    return f"it answered {sent.status}"


def _fingerprint(row: Delivery) -> str:
    """One alert for each receiver; of callbacks one for each key, or a caller could make many."""
    if is_callback(row.endpoint):
        return f"{DETECTOR}:{row.endpoint}"
    return f"{DETECTOR}:{row.endpoint}:{shown(row.url)}"
