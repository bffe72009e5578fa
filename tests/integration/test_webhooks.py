"""Webhooks: real HTTP to a real receiver, on both engines; only the clock is scripted."""

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import msgspec
import openai
import pytest
import pytest_asyncio
from standardwebhooks import Webhook

from support.receiver import Receiver
from tocsin.config.model import Config
from tocsin.core.domain import Alert
from tocsin.core.errors import BadRequest, ConfigError, InputError, NotFound
from tocsin.core.operations import Operation
from tocsin.operations.sending import DELAYS_S, LEASE_S
from tocsin.operations.webhooks import Webhooks, message
from tocsin.store import Store
from tocsin.store.operations_api import Delivery, OperationsBook
from tocsin.testing import FakeClock
from tocsin.worker.deliveries import Deliveries, check_callback

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
HOUR = 3600
MIDDLE = 0.5
"""The jitter of a pause that is neither shortened nor lengthened."""


class World:
    """A store, webhooks, a sender and what it complains of."""

    def __init__(self, book: OperationsBook, clock: FakeClock, tables: dict[str, Any]) -> None:
        self.book = book
        self.clock = clock
        self.config = Config.model_validate(tables)
        self.alerts: list[Alert] = []
        self.webhooks = self.hooks()
        self.deliveries = self.process("own-1")

    def hooks(self, env: dict[str, str] | None = None) -> Webhooks:
        found = {"HOOK_SECRET": SECRET} if env is None else env
        return Webhooks(self.book, self.clock, lambda: self.config.webhooks, found, b"s" * 32)

    def process(self, owner: str) -> Deliveries:
        made = Deliveries(
            self.book,
            self.webhooks,
            self.clock,
            lambda: self.config,
            self.alerts.append,
            owner=owner,
        )
        made.sender._jitter = lambda: MIDDLE
        return made

    async def step(self) -> int:
        """Send what is due and wait for what comes of it."""
        begun = await self.deliveries.sender.step()
        await self.deliveries.sender.settled()
        return begun

    def ended(self, **changes: Any) -> tuple[Delivery, ...]:
        """End an operation; its deliveries are in the store."""
        operation = make(self.clock, **changes)
        told = self.webhooks.told(operation, b'{"status": "completed"}')
        self.book.add_deliveries(told)
        return told

    def state(self, delivery_id: str) -> Delivery:
        row = self.book.delivery(delivery_id)
        assert row is not None
        return row


def make(clock: FakeClock, **changes: Any) -> Operation:
    operation = Operation(
        id="resp_1",
        kind="response",
        feature="support",
        status="ended",
        outcome="complete",
        background=True,
        created_at=clock.now_us(),
        ended_at=clock.now_us(),
    )
    return msgspec.structs.replace(operation, **changes)


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as made:
        yield made


@pytest_asyncio.fixture
async def world(store: Store, receiver: Receiver) -> AsyncIterator[World]:
    hook = {"url": receiver.url, "secret_env": "HOOK_SECRET"}
    clock = FakeClock(time.time_ns() // 1000)
    made = World(store.operations, clock, {"webhooks": {"app": hook}})
    yield made
    await made.deliveries.close()


def unwrapped(receiver: Receiver, secret: str) -> Any:
    came = receiver.came[-1]
    client = openai.OpenAI(api_key="none", webhook_secret=secret)
    return client.webhooks.unwrap(came.body, came.headers)


async def test_the_openai_client_unwraps_what_is_sent(world: World, receiver: Receiver) -> None:
    (told,) = world.ended()
    assert await world.step() == 1
    event = unwrapped(receiver, SECRET)
    assert type(event).__name__ == "ResponseCompletedWebhookEvent"
    assert (event.type, event.object, event.data.id) == ("response.completed", "event", "resp_1")
    assert event.id.startswith("evt_")
    assert receiver.came[0].path == "/hooks?to=me"
    assert receiver.ids == [told.id]
    row = world.state(told.id)
    assert (row.state, row.attempts, row.last_status, row.last_error) == ("delivered", 1, 204, "")
    world.clock.advance(30 * 24 * HOUR)
    assert await world.step() == 0


async def test_another_secret_does_not_verify(world: World, receiver: Receiver) -> None:
    world.ended()
    await world.step()
    other = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    with pytest.raises(openai.InvalidWebhookSignatureError):
        unwrapped(receiver, other)
    came = receiver.came[-1]
    changed = came.body.replace(b"resp_1", b"resp_2")
    with pytest.raises(openai.InvalidWebhookSignatureError):
        openai.OpenAI(api_key="none", webhook_secret=SECRET).webhooks.unwrap(changed, came.headers)


@pytest.mark.parametrize(
    ("status", "outcome", "kind"),
    [
        ("completed", "complete", "ResponseCompletedWebhookEvent"),
        ("incomplete", "truncated", "ResponseIncompleteWebhookEvent"),
        ("failed", "error", "ResponseFailedWebhookEvent"),
        ("cancelled", "cancelled", "ResponseCancelledWebhookEvent"),
        ("", "refused", "ResponseIncompleteWebhookEvent"),
        ("", "unknown", "ResponseFailedWebhookEvent"),
    ],
)
async def test_each_end_of_a_response_has_its_event(
    world: World, receiver: Receiver, status: str, outcome: str, kind: str
) -> None:
    operation = make(world.clock, outcome=outcome)
    result = msgspec.json.encode({"status": status}) if status else b"null"
    world.book.add_deliveries(world.webhooks.told(operation, result))
    await world.step()
    assert type(unwrapped(receiver, SECRET)).__name__ == kind


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"outcome": "complete"}, "operation.completed"),
        ({"outcome": "cancelled"}, "operation.cancelled"),
        ({"outcome": "unknown"}, "operation.unknown"),
        ({"outcome": "timeout"}, "operation.failed"),
        ({"status": "waiting", "outcome": None, "waiting_for": "step_9"}, "operation.waiting"),
    ],
)
def test_other_kinds_say_how_they_ended(world: World, changes: dict[str, Any], kind: str) -> None:
    operation = make(world.clock, id="op_1", kind="batch", background=False, **changes)
    (told,) = world.webhooks.told(operation, b"null")
    said = json.loads(told.payload)
    assert told.type == said["type"] == kind
    assert said["data"]["id"] == "op_1"
    assert said["data"]["outcome"] == changes["outcome"]
    assert said["data"].get("waiting_for") == changes.get("waiting_for")


def test_the_same_end_told_twice_is_one_message(world: World) -> None:
    first, second = world.ended(), world.ended()
    assert first == second
    assert len(world.book.deliveries()) == 1


def test_who_is_told_follows_the_globs(world: World) -> None:
    url = "https://example.com/"
    tables = {
        "failures": {"url": url, "secret_env": "S", "events": ["*.failed"]},
        "billing": {"url": url, "secret_env": "S", "features": ["bill*"]},
    }
    world.config = Config.model_validate({"webhooks": tables})
    told = world.webhooks.told

    def names(**changes: Any) -> list[str]:
        return [row.endpoint for row in told(make(world.clock, **changes), b"null")]

    assert names() == []
    assert names(outcome="error") == ["failures"]
    assert names(feature="billing") == ["billing"]
    assert names(feature="billing", outcome="error") == ["failures", "billing"]
    assert names(feature="billing", background=False) == []


async def test_an_hour_down_is_one_logical_delivery(world: World, receiver: Receiver) -> None:
    await receiver.down()
    (told,) = world.ended()
    start = world.clock.now_us()
    tries = 0
    back = False
    while world.state(told.id).state == "pending":
        passed = (world.clock.now_us() - start) / 1e6
        if passed >= HOUR / 2 and not back:
            await receiver.up()  # half an hour without a port, half an hour of 500s
            receiver.status, back = 500, True
        if passed >= HOUR:
            receiver.status = 204
        tries += await world.step()
        world.clock.advance(60)
        assert tries <= len(DELAYS_S) + 1
    assert world.state(told.id).state == "delivered"
    assert tries == world.state(told.id).attempts == 5
    assert set(receiver.ids) == {told.id}
    assert {came.body for came in receiver.came} == {told.payload}
    signatures = {came.headers["webhook-signature"] for came in receiver.came}
    assert len(signatures) == len(receiver.came) == 2
    for came in receiver.came:
        at = datetime.fromtimestamp(int(came.headers["webhook-timestamp"]), UTC)
        assert came.headers["webhook-signature"] == Webhook(SECRET).sign(
            came.headers["webhook-id"], at, came.body.decode()
        )
    assert [alert.state for alert in world.alerts] == ["resolved"]


async def test_ten_tries_in_three_days_then_it_fails_with_an_alert(
    world: World, receiver: Receiver
) -> None:
    receiver.status = 503
    (told,) = world.ended()
    pauses = []
    while world.state(told.id).state == "pending":
        await world.step()
        row = world.state(told.id)
        if row.state == "pending":
            assert await world.step() == 0, "not before its time"
            pauses.append((row.next_at - world.clock.now_us()) / 1e6)
            world.clock.advance(pauses[-1])
    assert pauses == list(DELAYS_S)
    assert 2 < sum(pauses) / (24 * HOUR) < 4
    row = world.state(told.id)
    assert (row.state, row.attempts, row.last_status) == ("failed", 10, 503)
    assert len(receiver.came) == 10
    (alert,) = world.alerts
    assert alert.state == "firing"
    assert told.id in alert.summary
    assert "to=me" not in alert.summary, "a URL's path and query may be secrets"

    receiver.status = 200
    world.webhooks.replay(told.id)
    await world.step()
    assert world.state(told.id).state == "delivered"
    assert set(receiver.ids) == {told.id}
    assert [alert.state for alert in world.alerts] == ["firing", "resolved"]
    assert len({alert.fingerprint for alert in world.alerts}) == 1


async def test_pauses_are_spread(world: World, receiver: Receiver) -> None:
    receiver.status = 500
    for jitter, mean in ((0.0, 0.5), (0.999, 1.499)):
        world.deliveries.sender._jitter = lambda chosen=jitter: chosen
        row = message("app", receiver.url, "x", {}, world.clock.now_us())
        world.book.add_deliveries((row,))
        await world.step()
        pause = (world.state(row.id).next_at - world.clock.now_us()) / 1e6
        assert pause == pytest.approx(DELAYS_S[0] * mean)


@pytest.mark.parametrize("form", ["seconds", "date", "nonsense"])
async def test_retry_after_is_respected(world: World, receiver: Receiver, form: str) -> None:
    now = world.clock.now_us() // 1_000_000
    date = format_datetime(datetime.fromtimestamp(now + 900, UTC), usegmt=True)
    said = {"seconds": "900", "date": date, "nonsense": "soon"}[form]
    receiver.status, receiver.extra = 429, f"Retry-After: {said}\r\n"
    (told,) = world.ended()
    await world.step()
    pause = (world.state(told.id).next_at - world.clock.now_us()) / 1e6
    assert pause == pytest.approx(5 if form == "nonsense" else 900, abs=1)


async def test_410_disables_until_somebody_enables(world: World, receiver: Receiver) -> None:
    receiver.status = 410
    (told,) = world.ended()
    (waiting,) = world.ended(id="resp_2", ended_at=world.clock.now_us() + HOUR * 1_000_000)
    await world.step()
    assert world.state(told.id).state == "disabled"
    assert world.state(waiting.id).state == "disabled"
    assert [row.url for row in world.book.disabled_endpoints()] == [receiver.url]
    assert [alert.state for alert in world.alerts] == ["firing"]
    (later,) = world.ended(id="resp_3")
    world.clock.advance(2 * HOUR)
    await world.step()
    assert world.state(later.id).state == "disabled"
    assert len(receiver.came) == 1
    with pytest.raises(InputError, match="enable"):
        world.webhooks.replay(told.id)

    receiver.status = 200
    world.webhooks.enable(receiver.url)
    assert world.book.disabled_endpoints() == []
    await world.step()
    assert sorted(receiver.ids[1:]) == sorted([told.id, waiting.id, later.id])
    with pytest.raises(NotFound):
        world.webhooks.enable(receiver.url)


async def test_redirects_are_not_followed(world: World, receiver: Receiver) -> None:
    async with Receiver() as other:
        receiver.status, receiver.extra = 302, f"location: {other.url}\r\n"
        (told,) = world.ended()
        await world.step()
        assert other.came == []
    row = world.state(told.id)
    assert (row.state, row.last_status) == ("pending", 302)
    assert "redirect" in row.last_error


async def test_two_processes_never_send_one_at_once(world: World, receiver: Receiver) -> None:
    other = world.process("own-2")
    for number in range(30):
        world.ended(id=f"resp_{number}")
    for _ in range(20):
        senders = (world.deliveries.sender, other.sender)
        await asyncio.gather(*(sender.step() for sender in senders))
        for sender in senders:
            await sender.settled()
        world.clock.advance(1)
    await other.close()
    assert len(receiver.ids) == 30
    assert set(receiver.ids) == {row.id for row in world.book.deliveries(state="delivered")}


async def test_a_lease_of_a_dead_process_runs_out(world: World, receiver: Receiver) -> None:
    (told,) = world.ended()
    now = world.clock.now_us()
    assert world.book.due_deliveries("dead", now, until=now + LEASE_S * 1_000_000)
    assert await world.step() == 0
    world.clock.advance(LEASE_S + 1)
    assert await world.step() == 1
    assert receiver.ids == [told.id]


async def test_a_slow_receiver_does_not_hold_up_another(world: World, receiver: Receiver) -> None:
    async with Receiver() as slow:
        slow.hang = True
        hooks = {"slow": slow, "quick": receiver}
        tables = {n: {"url": r.url, "secret_env": "HOOK_SECRET"} for n, r in hooks.items()}
        world.config = Config.model_validate({"webhooks": tables})
        now = world.clock.now_us()
        many = [message("slow", slow.url, "x", n, now) for n in range(40)]
        world.book.add_deliveries([*many, message("quick", receiver.url, "x", 0, now)])
        for _ in range(50):
            await world.deliveries.sender.step()
            if receiver.came:
                break
            world.clock.advance(1)
        assert len(receiver.came) == 1
        assert len(slow.came) <= 8
        await world.deliveries.sender.close(grace_s=0)


# -- what may be reached --


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/",
        "http://127.0.0.1:11434/api/delete",
        "http://[::1]/",
        "http://0x7f000001/",
        "ftp://example.com/",
        "http://user:pass@example.com/",
        "https://example.com/" + "a" * 3000,
        "",
    ],
)
async def test_a_callback_to_a_private_place_is_refused(url: str) -> None:
    with pytest.raises(BadRequest) as refused:
        await check_callback(url)
    assert refused.value.param == "callback"
    assert refused.value.status == 400
    assert "pass@" not in refused.value.message


async def test_a_refused_callback_names_the_setting() -> None:
    with pytest.raises(BadRequest, match=r"10\.0\.0\.1.*outbound\.allow"):
        await check_callback("http://10.0.0.1/hook")
    await check_callback("http://10.0.0.1/hook", ["10.0.0.1"])
    await check_callback("https://93.184.215.14/hook")


async def test_a_callback_may_not_go_where_only_webhooks_may(
    world: World, receiver: Receiver
) -> None:
    """The receiver is a configured webhook on loopback; as a caller's URL it stays shut."""
    rows = world.ended(callback=receiver.url)
    own = next(row for row in rows if row.endpoint == "callback")
    await world.step()
    assert len(receiver.came) == 1, "the configured one"
    row = world.state(own.id)
    assert (row.state, row.attempts, row.last_status) == ("failed", 1, None)
    assert "outbound.allow" in row.last_error
    assert [alert.state for alert in world.alerts].count("firing") == 1


async def test_a_callback_is_signed_with_its_own_keys_secret(
    world: World, receiver: Receiver
) -> None:
    world.config = Config.model_validate({"outbound": {"allow": [f"127.0.0.1:{receiver.port}"]}})
    world.ended(callback=receiver.url, key_id="key_1")
    await world.step()
    own, others = world.webhooks.callback_secret("key_1"), world.webhooks.callback_secret("key_2")
    assert unwrapped(receiver, own).data.id == "resp_1"
    with pytest.raises(openai.InvalidWebhookSignatureError):
        unwrapped(receiver, others)
    assert len({own, others, world.webhooks.callback_secret(None)}) == 3


async def test_a_callback_that_is_gone_shuts_no_webhook(world: World, receiver: Receiver) -> None:
    allow = {"allow": [f"127.0.0.1:{receiver.port}"]}
    hook = {"url": receiver.url, "secret_env": "HOOK_SECRET"}
    world.config = Config.model_validate({"outbound": allow})
    receiver.status = 410
    (own,) = world.ended(callback=receiver.url, key_id="key_1")
    await world.step()
    assert world.state(own.id).state == "disabled"
    assert world.book.disabled_endpoints() == []
    world.config = Config.model_validate({"outbound": allow, "webhooks": {"app": hook}})
    receiver.status = 204
    (told,) = world.ended(id="resp_2")
    await world.step()
    assert world.state(told.id).state == "delivered"
    world.webhooks.replay(own.id)
    await world.step()
    assert world.state(own.id).state == "delivered"


async def test_callbacks_of_a_key_raise_one_alert(world: World) -> None:
    for number in range(3):
        url = f"http://10.0.0.{number}/"
        world.ended(id=f"resp_{number}", callback=url, key_id="key_1", feature="none")
    world.config = Config()
    await world.step()
    firing = [alert for alert in world.alerts if alert.state == "firing"]
    assert {alert.fingerprint for alert in firing} == {"webhooks:callback:key_1"}


# -- secrets and settings --


@pytest.mark.parametrize(
    "secret", ["", "plain", "whsec_", "whsec_!!!", "whsec_" + base64.b64encode(b"short").decode()]
)
def test_a_secret_that_cannot_be_used_is_named(world: World, secret: str) -> None:
    with pytest.raises(ConfigError, match="HOOK_SECRET") as wrong:
        world.hooks({"HOOK_SECRET": secret}).check()
    assert "webhooks.app" in str(wrong.value)
    assert secret in ("", "plain", "whsec_") or secret not in str(wrong.value)


@pytest.mark.parametrize("name", ["callback", "outbox", "callback:key_1"])
def test_a_webhook_cannot_take_a_name_of_ours(world: World, name: str) -> None:
    hook = {"url": "https://example.com", "secret_env": "HOOK_SECRET"}
    world.config = Config.model_validate({"webhooks": {name: hook}})
    with pytest.raises(ConfigError, match="another"):
        world.webhooks.check()


async def test_a_webhook_that_is_gone_from_the_settings_waits(
    world: World, receiver: Receiver
) -> None:
    kept = world.config
    (told,) = world.ended()
    world.config = Config()
    await world.step()
    row = world.state(told.id)
    assert (row.state, row.attempts) == ("pending", 1)
    assert "configured" in row.last_error
    world.config = kept
    world.clock.advance(10)
    await world.step()
    assert receiver.ids == [told.id]


async def test_a_message_goes_where_its_webhook_points_now(
    world: World, receiver: Receiver
) -> None:
    (told,) = world.ended()
    async with Receiver() as moved:
        hook = {"url": moved.url, "secret_env": "HOOK_SECRET"}
        world.config = Config.model_validate({"webhooks": {"app": hook}})
        await world.step()
        assert moved.ids == [told.id]
        assert world.state(told.id).url == moved.url
    assert receiver.came == []


async def test_no_secret_is_kept_or_told(world: World, receiver: Receiver) -> None:
    receiver.status = 500
    (told,) = world.ended()
    await world.step()
    kept = msgspec.json.encode([world.state(told.id), world.alerts])
    assert SECRET.removeprefix("whsec_").encode() not in kept
    assert receiver.came[0].headers["webhook-signature"].encode() not in kept
