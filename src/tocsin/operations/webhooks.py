"""Webhooks: who is told of the end of an operation, what is said, and how it is signed.

The form is Standard Webhooks: the client of OpenAI and any of its libraries verify it. One message
to one receiver is a ``Delivery``; its ``webhook-id`` and its payload stay the same however often it
is sent, only the time and the signature are new each time.

An operation's own ``callback`` is signed with a secret that belongs to the key that asked for it,
derived from the secret of this installation: no caller can forge what another one is told.
"""

import base64
import binascii
import hmac
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

import msgspec
from standardwebhooks import Webhook

from tocsin.config.operations import WebhookSettings
from tocsin.core.clock import Clock
from tocsin.core.errors import ConfigError, InputError, NotFound
from tocsin.core.ids import derived_id, new_id
from tocsin.core.operations import Operation
from tocsin.core.outcome import Outcome
from tocsin.store.operations_api import Delivery, OperationsBook

CALLBACK = "callback"
"""Endpoint of an operation's own URL; behind a colon, the id of the key that gave it."""
OUTBOX = "outbox"
"""Endpoint of what a tool's author sends to a URL of no configured webhook."""

_PREFIX = "whsec_"
_SHORTEST, _LONGEST = 24, 64
_US = 1_000_000

_RESPONSE: Mapping[Outcome, str] = {
    "complete": "completed",
    "unverified": "completed",
    "truncated": "incomplete",
    "refused": "incomplete",
    "cancelled": "cancelled",
}
_OPERATION: Mapping[Outcome, str] = {
    "complete": "completed",
    "unverified": "completed",
    "cancelled": "cancelled",
    "unknown": "unknown",
}
_STATUSES = ("completed", "failed", "incomplete", "cancelled")


class NoSecret(Exception):
    """There is nothing to sign a delivery with: a webhook that is not configured any more."""


class _Result(msgspec.Struct):
    status: str = ""


class Webhooks:
    """The configured webhooks with their secrets, and what they are told.

    ``settings`` are the ``[webhooks]`` tables as they stand; ``env`` holds their secrets;
    ``secret`` is the installation's, which only a process that sends has. Any thread.
    """

    def __init__(
        self,
        book: OperationsBook,
        clock: Clock,
        settings: Callable[[], Mapping[str, WebhookSettings]],
        env: Mapping[str, str],
        secret: bytes | None = None,
    ) -> None:
        self._book = book
        self._clock = clock
        self._settings = settings
        self._env = env
        self.secret = secret

    def check(self) -> None:
        """Raises ``ConfigError`` for a name that is taken or a secret that cannot be used."""
        for name, webhook in self._settings().items():
            signing_key(name, webhook, self._env)

    # -- what is told --

    def told(self, operation: Operation, result: bytes) -> tuple[Delivery, ...]:
        """The messages about an operation that has ended, or waits for a person.

        To be written in the transaction that ends it. The same end gives the same messages, by
        their ids. Of responses only those in the background are told of: the others' callers have
        their answer.
        """
        if operation.kind == "response" and not operation.background:
            return ()
        kind = event_type(operation, result)
        at = operation.ended_at or self._clock.now_us()
        payload = _payload(operation, kind, at)
        made = []
        for name, webhook in self._settings().items():
            wanted = _matches(webhook.events, kind) and _matches(
                webhook.features, operation.feature
            )
            if wanted:
                made.append(_delivery(operation, name, webhook.url, kind, payload, at))
        if operation.callback:
            own = f"{CALLBACK}:{operation.key_id}" if operation.key_id else CALLBACK
            made.append(_delivery(operation, own, operation.callback, kind, payload, at))
        return tuple(made)

    # -- signatures --

    def url(self, delivery: Delivery) -> str:
        """Where it goes: a configured webhook's URL as it is now."""
        webhook = self._settings().get(delivery.endpoint)
        return webhook.url if webhook is not None else delivery.url

    def headers(self, delivery: Delivery, now_us: int) -> dict[str, str]:
        """``webhook-id``, ``webhook-timestamp`` and ``webhook-signature`` of one try.

        Raises ``NoSecret``.
        """
        seconds = now_us // _US
        signer = Webhook(self._key(delivery.endpoint))
        signature = signer.sign(
            delivery.id, datetime.fromtimestamp(seconds, UTC), delivery.payload.decode()
        )
        return {
            "content-type": "application/json",
            "user-agent": "Tocsin-Webhooks/1",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(seconds),
            "webhook-signature": signature,
        }

    def callback_secret(self, key_id: str | None) -> str:
        """What the ``callback`` messages of this key's operations are signed with: ``whsec_...``.

        To be shown to the holder of that key and nobody else. Raises ``NoSecret``.
        """
        own = f"{CALLBACK}:{key_id}" if key_id else CALLBACK
        return _PREFIX + base64.b64encode(self._derived(own)).decode()

    def outbox_secret(self) -> str:
        """What messages of the outbox to a plain URL are signed with."""
        return _PREFIX + base64.b64encode(self._derived(OUTBOX)).decode()

    def _key(self, endpoint: str) -> bytes:
        if is_own(endpoint):
            return self._derived(endpoint)
        webhook = self._settings().get(endpoint)
        if webhook is None:
            raise NoSecret(f"no webhook {endpoint!r} is configured any more")
        try:
            return signing_key(endpoint, webhook, self._env)
        except ConfigError as error:
            raise NoSecret(str(error)) from None

    def _derived(self, endpoint: str) -> bytes:
        if self.secret is None:
            raise NoSecret("this process does not have the secret of the installation")
        return hmac.digest(self.secret, b"tocsin webhook v1\0" + endpoint.encode(), "sha256")

    # -- care --

    def replay(self, delivery_id: str) -> Delivery:
        """Send a delivery again, from the first try on, under the same ``webhook-id``.

        Raises ``NotFound``, and ``InputError`` while its URL is disabled.
        """
        row = self._book.delivery(delivery_id)
        if row is None:
            raise NotFound(f"there is no delivery {delivery_id!r}; see `tocsin webhooks list`")
        url = self.url(row)
        if any(endpoint.url == url for endpoint in self._book.disabled_endpoints()):
            raise InputError(
                f"the receiver of {row.endpoint!r} has said that it is gone (410); enable it "
                "first: `tocsin webhooks enable`"
            )
        again = msgspec.structs.replace(
            row,
            url=url,
            state="pending",
            attempts=0,
            next_at=self._clock.now_us(),
            ended_at=None,
        )
        self._book.save_delivery(again)
        return again

    def enable(self, url: str) -> None:
        """Send to a URL again that had answered 410. Raises ``NotFound`` when it was not so."""
        if not self._book.enable_endpoint(url):
            raise NotFound("no message to this URL is held back")


def signing_key(name: str, webhook: WebhookSettings, env: Mapping[str, str]) -> bytes:
    """The signing key of a configured webhook. Raises ``ConfigError``."""
    where = f"webhooks.{name}.secret_env"
    if is_own(name):
        raise ConfigError(f"webhooks.{name}: {name!r} is a name of Tocsin's own; take another.")
    text = env.get(webhook.secret_env, "").strip()
    if not text:
        raise ConfigError(
            f"{where}: the environment variable {webhook.secret_env} is not set. Make a secret "
            "with `echo whsec_$(openssl rand -base64 32)` and give it to the receiver, too."
        )
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith(_PREFIX) or not _SHORTEST <= len(key) <= _LONGEST:
        raise ConfigError(
            f"{where}: {webhook.secret_env} must be `whsec_` and base64 of {_SHORTEST} to "
            f"{_LONGEST} bytes, such as `echo whsec_$(openssl rand -base64 32)` makes."
        )
    return key


def event_type(operation: Operation, result: bytes) -> str:
    """What an operation's end is called: ``response.completed``, ``operation.unknown``, ..."""
    if operation.status == "waiting":
        return "operation.waiting"
    outcome = operation.outcome or "error"
    if operation.kind != "response":
        return f"operation.{_OPERATION.get(outcome, 'failed')}"
    status = _status_of(result)
    return f"response.{status or _RESPONSE.get(outcome, 'failed')}"


def message(
    endpoint: str,
    url: str,
    type: str,  # noqa: A002 - the wire's word
    payload: Any,
    now_us: int,
    *,
    key: str | None = None,
    operation_id: str | None = None,
) -> Delivery:
    """A message of a tool's author, for the outbox. With a ``key`` it always is the same one.

    Raises ``InputError`` when the payload is no plain JSON.
    """
    about = new_id("whd", now_us) if key is None else derived_id("whd", endpoint, url, type, key)
    try:
        body = msgspec.json.encode(
            {
                "id": _event_id(about),
                "object": "event",
                "created_at": now_us // _US,
                "type": type,
                "data": payload,
            }
        )
    except TypeError as error:
        raise InputError(f"payload: must be plain JSON ({error})") from None
    return Delivery(
        id=about,
        endpoint=endpoint,
        url=url,
        type=type,
        payload=body,
        created_at=now_us,
        operation_id=operation_id,
        next_at=now_us,
    )


def _status_of(result: bytes) -> str:
    try:
        status = msgspec.json.decode(result, type=_Result).status
    except msgspec.DecodeError:
        return ""
    return status if status in _STATUSES else ""


def _payload(operation: Operation, kind: str, at: int) -> bytes:
    data: dict[str, Any] = {"id": operation.id}
    if operation.kind != "response":
        data |= {
            "kind": operation.kind,
            "outcome": operation.outcome,
            "feature": operation.feature,
        }
    if operation.waiting_for is not None:
        data["waiting_for"] = operation.waiting_for
    about = derived_id("whd", operation.id, kind, operation.waiting_for or "")
    return msgspec.json.encode(
        {
            "id": _event_id(about),
            "object": "event",
            "created_at": at // _US,
            "type": kind,
            "data": data,
        }
    )


def _delivery(
    operation: Operation, endpoint: str, url: str, kind: str, payload: bytes, at: int
) -> Delivery:
    return Delivery(
        id=derived_id("whd", operation.id, kind, operation.waiting_for or "", endpoint),
        endpoint=endpoint,
        url=url,
        type=kind,
        payload=payload,
        created_at=at,
        operation_id=operation.id,
        next_at=at,
    )


def _event_id(delivery_id: str) -> str:
    return f"evt_{delivery_id.partition('_')[2]}"


def _matches(globs: tuple[str, ...], text: str) -> bool:
    return any(fnmatchcase(text, glob) for glob in globs)


def is_own(endpoint: str) -> bool:
    """Whether an endpoint is one of Tocsin's own, and no configured webhook's name."""
    return endpoint == OUTBOX or is_callback(endpoint)


def is_callback(endpoint: str) -> bool:
    """Whether a caller gave its URL."""
    return endpoint == CALLBACK or endpoint.startswith(CALLBACK + ":")
