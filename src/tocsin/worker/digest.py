"""The weekly digest: gathered from the store, sent once a week, whoever of several processes sends.

Sending is Apprise's business (the extra ``notify``). It makes its own connections, which do not
pass the guard that stands before Tocsin's: only whoever can set the process's environment says
where they go.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from tocsin.config.model import DigestSettings
from tocsin.core.clock import Clock
from tocsin.core.digest import AlertWeek, FeatureWeek, Week
from tocsin.core.errors import ConfigError, TocsinError
from tocsin.core.signals import DIMENSIONS, Sum
from tocsin.store.api import Filter, SignalPoint, SpendRow, Store
from tocsin.worker.jobs import Job
from tocsin.worker.quiet import quietly

log = logging.getLogger("tocsin.digest")

CONSUMER = "digest"
DAY_US = 86_400_000_000
_HOUR_US = 3_600_000_000
_EVERY_S = 60.0
_RETRY_US = 15 * 60_000_000
_MOST_ALERTS = 1000

Sums = dict[str, dict[str, Sum]]


class NotSent(TocsinError):
    """A digest did not reach every address that it was sent to."""


# -- gathering --


def gather(store: Store, now_us: int, days: float = 7.0) -> Week:
    """The last ``days`` days up to the hour, and as long before. Raises ``StoreError``."""
    until = now_us - now_us % _HOUR_US
    since = until - max(_HOUR_US, round(days * DAY_US) // _HOUR_US * _HOUR_US)
    earlier = since - (until - since)
    after = _by_feature(store.signal_totals(since=since, until=until))
    before = _by_feature(store.signal_totals(since=earlier, until=since))
    slices_after, slices_before = _slices(store, since, until), _slices(store, earlier, since)
    spent, spent_before = _spend(store, since, until), _spend(store, earlier, since)
    names = sorted({*after, *spent})
    return Week(
        since=since,
        until=until,
        features=tuple(
            FeatureWeek(
                feature=name,
                calls=spent[name].calls if name in spent else 0,
                calls_before=spent_before[name].calls if name in spent_before else 0,
                cost_nano_usd=spent[name].cost_nano_usd if name in spent else 0,
                cost_before=spent_before[name].cost_nano_usd if name in spent_before else 0,
                unpriced=spent[name].unpriced if name in spent else 0,
                after=after.get(name, {}),
                before=before.get(name, {}),
                slices_after=slices_after.get(name, {}),
                slices_before=slices_before.get(name, {}),
            )
            for name in names
        ),
        alerts=tuple(
            AlertWeek(alert=row.alert, first_at=row.first_at)
            for row in store.alerts(limit=_MOST_ALERTS)
            if row.alert.state == "firing" or row.alert.at >= since
        ),
    )


def _by_feature(points: Iterable[SignalPoint]) -> Sums:
    found: Sums = {}
    for point in points:
        own = found.setdefault(point.feature, {})
        own[point.signal] = own.get(point.signal, Sum()) + point.sum
    return found


def _slices(store: Store, since: int, until: int) -> dict[str, dict[tuple[str, str, str], Sum]]:
    found: dict[str, dict[tuple[str, str, str], Sum]] = {}
    for dimension in DIMENSIONS:
        if dimension == "hour":
            continue
        for point in store.signal_totals(since=since, until=until, dimension=dimension):
            own = found.setdefault(point.feature, {})
            key = (dimension, point.value, point.signal)
            own[key] = own.get(key, Sum()) + point.sum
    return found


def _spend(store: Store, since: int, until: int) -> dict[str, SpendRow]:
    spend = store.spend(Filter(since=since, until=until), "feature", buckets=1, top=10_000)
    return {row.value or "": row for row in spend.rows}


# -- sending --


def send(urls: str, title: str, text: str) -> None:
    """Send a digest to every Apprise URL of ``urls``, which are separated by spaces. Blocks.

    Raises ``ConfigError`` without the extra ``notify`` or for a URL that Apprise does not know, and
    ``NotSent``. What a URL holds is a secret: no message shows one.
    """
    try:
        import apprise
    except ImportError:
        raise ConfigError(
            "the digest is sent by apprise, which is not installed: pip install 'tocsin[notify]'"
        ) from None
    # No plug-ins from files, nothing kept on disk, no attachments: the text is all there is.
    asset = apprise.AppriseAsset(plugin_paths=[], storage_mode="memory", app_id="Tocsin")
    sender = apprise.Apprise(asset=asset)
    for number, url in enumerate(urls.split(), 1):
        if not sender.add(url):
            raise ConfigError(
                f"address {number} of the digest is no Apprise URL; see the list of services in "
                "Apprise's documentation"
            )
    if not len(sender):
        raise ConfigError("there is no address to send the digest to")
    if not sender.notify(body=text, title=title, body_format=apprise.NotifyFormat.MARKDOWN):
        raise NotSent(
            "the digest did not reach every address; look at the addresses and the network, and "
            "send it again with `tocsin digest --send`"
        )


def urls_of(settings: DigestSettings, env: Mapping[str, str]) -> str:
    """Where the digest goes; empty when nothing is configured or set."""
    return env.get(settings.urls_env, "").strip() if settings.urls_env else ""


def due_before(settings: DigestSettings, now_us: int) -> int:
    """The last time at or before ``now_us`` at which a digest was due, seconds since the epoch."""
    zone = ZoneInfo(settings.timezone)
    now = datetime.fromtimestamp(now_us / 1e6, zone)
    day = now.date() - timedelta(days=(now.weekday() - settings.weekday) % 7)
    due = datetime(day.year, day.month, day.day, settings.hour, tzinfo=zone)
    if due > now:
        day -= timedelta(days=7)
        due = datetime(day.year, day.month, day.day, settings.hour, tzinfo=zone)
    return int(due.timestamp())


class Digests:
    """Sends the digest when it is due.

    A cursor in the store says which week was sent; whoever moves it sends. When sending fails the
    cursor goes back, and the next turn of any process tries again. A process that is killed
    between the two leaves that week unsent: never twice, rather.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        settings: Callable[[], DigestSettings],
        env: Mapping[str, str],
        make: Callable[[int], tuple[str, str]],
        deliver: Callable[[str, str, str], None] = send,
    ) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings
        self._env = env
        self._make = make
        self._deliver = deliver
        self._not_before = 0
        self.trouble: dict[str, str] = {}
        """Why the last try failed."""

    def step(self) -> bool:
        """Send what is due; returns whether something was sent. Blocks; raises ``StoreError``."""
        settings, now = self._settings(), self._clock.now_us()
        urls = urls_of(settings, self._env)
        if not urls or now < self._not_before:
            return False
        due, sent = due_before(settings, now), self._store.cursor(CONSUMER)
        if due <= sent:
            return False
        if not sent:
            self._claim(sent, due)  # the first week begins when sending was set up
            return False
        title, text = self._make(now)
        if not self._claim(sent, due):
            return False
        try:
            self._deliver(urls, title, text)
        except TocsinError as error:
            self._claim(due, sent)
            self._not_before = now + _RETRY_US
            self.trouble = {"digest": str(error)}
            log.warning("%s; trying again in 15 minutes", error)
            return False
        self.trouble = {}
        log.info("the weekly digest was sent")
        return True

    def _claim(self, before: int, after: int) -> bool:
        """Move the cursor from one place to another; false when another process has moved it."""
        return self._store.add_scores((), {}, consumer=CONSUMER, after=before, upto=after)

    def job(self) -> Job:
        """The worker's job."""

        async def run() -> bool:
            await quietly(self.step)
            return False

        return Job(name=CONSUMER, every_s=_EVERY_S, run=run, trouble=lambda: dict(self.trouble))


__all__ = ["CONSUMER", "Digests", "NotSent", "due_before", "gather", "send", "urls_of"]
