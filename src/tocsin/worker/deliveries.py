"""Deliveries over HTTP: the worker's job that sends webhooks, and the check of a caller's URL.

Two clients, because two kinds of people name URLs. What stands in ``[webhooks]`` may be on this
machine; a ``callback`` comes with a request, and reaches a private address only where
``outbound.allow`` lists it.
"""

from collections.abc import Callable, Iterable

from tocsin.config.model import Config
from tocsin.core.clock import Clock
from tocsin.core.domain import Alert
from tocsin.core.errors import BadRequest
from tocsin.operations.effects import mark_lost
from tocsin.operations.sending import Message, Sender, Sent
from tocsin.operations.webhooks import Webhooks
from tocsin.providers import (
    HttpClient,
    HttpRequest,
    Limits,
    OutboundGuard,
    Timeouts,
    Url,
    loopback_authorities,
)
from tocsin.providers.http import (
    InvalidRequest,
    InvalidUrl,
    OutboundError,
    OutboundRefused,
    ResolveFailed,
)
from tocsin.store.operations_api import OperationsBook
from tocsin.worker.jobs import Job
from tocsin.worker.quiet import quietly

TRY_S = 15.0
"""A try that takes longer has failed."""
LONGEST_URL = 2048

_TIMEOUTS = Timeouts(connect=5, first_byte=TRY_S, idle=TRY_S, total=TRY_S)
_LIMITS = Limits(max_connections=32, max_idle=8, max_body=65_536)
_EVERY_S = 1.0


async def check_callback(url: str, allow: Iterable[str] = ()) -> None:
    """Whether a caller may have this URL told. ``allow`` is ``outbound.allow``.

    Raises ``BadRequest`` for what is no URL and for a private address. A name that cannot be
    resolved at this moment is let through: every try checks it again.
    """
    if len(url) > LONGEST_URL:
        raise _refused(f"longer than {LONGEST_URL} characters", "invalid_callback")
    try:
        await OutboundGuard(allow=allow).check(url)
    except InvalidUrl as error:
        raise _refused(str(error), "invalid_callback") from None
    except OutboundRefused as error:
        raise _refused(str(error), "callback_refused") from None
    except ResolveFailed:
        return


def _refused(why: str, code: str) -> BadRequest:
    return BadRequest(f"callback: {why}", param="callback", code=code)


class Post:
    """Posts messages (``sending.Send``): redirects are not followed, answers are not kept."""

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config
        self._made: Config | None = None
        self._clients: list[tuple[HttpClient, HttpClient]] = []

    async def __call__(self, message: Message) -> Sent:
        try:
            url = Url.parse(message.url)
            response = await self._client(message.given).send(
                HttpRequest(
                    method="POST",
                    url=url,
                    target=url.tail,
                    headers=[(n.encode(), v.encode()) for n, v in message.headers.items()],
                    body=message.body,
                    timeouts=_TIMEOUTS,
                )
            )
        except (OutboundRefused, InvalidRequest) as error:
            return Sent(error=str(error), hopeless=True)
        except OutboundError as error:
            return Sent(error=str(error))
        async with response:
            after = [v for n, v in response.headers if n.lower() == b"retry-after"]
            return Sent(
                status=response.status,
                retry_after=after[0].decode("latin-1") if after else "",
            )

    def _client(self, given: bool) -> HttpClient:
        config = self._config()
        if self._made is not config:
            self._made = config
            allow = config.outbound.allow
            ours = loopback_authorities(webhook.url for webhook in config.webhooks.values())
            self._clients.append(
                (
                    HttpClient(guard=OutboundGuard(allow=[*allow, *ours]), limits=_LIMITS),
                    HttpClient(guard=OutboundGuard(allow=allow), limits=_LIMITS),
                )
            )
        return self._clients[-1][given]

    async def aclose(self) -> None:
        """Close every connection."""
        for pair in self._clients:
            for client in pair:
                await client.aclose()


class Deliveries:
    """Sends what is due, on the worker's schedule."""

    def __init__(
        self,
        book: OperationsBook,
        webhooks: Webhooks,
        clock: Clock,
        config: Callable[[], Config],
        alert: Callable[[Alert], None],
        *,
        owner: str,
    ) -> None:
        self._post = Post(config)
        self.sender = Sender(book, webhooks, clock, self._post, alert, owner=owner)

    def job(self) -> Job:
        """The worker's job of sending what is due."""

        async def run() -> bool:
            begun = await self.sender.step()
            await self.sender.moved(_EVERY_S)
            return begun > 0

        return Job(name="webhooks", every_s=_EVERY_S, run=run)

    async def close(self) -> None:
        """Let tries that are under way end, for a few seconds; then close every connection."""
        await self.sender.close()
        await self._post.aclose()


def lost_effects_job(book: OperationsBook, clock: Clock, config: Callable[[], Config]) -> Job:
    """The worker's job of marking as ``unknown`` what dead processes had begun."""

    async def run() -> bool:
        timeout_s = config().operations.owner_timeout_s
        await quietly(mark_lost, book, clock, timeout_s)
        return False

    return Job(name="lost-effects", every_s=5.0, run=run)


__all__ = ["Deliveries", "Post", "check_callback", "lost_effects_job"]
